"""The LSTM: its equations step by step, masks, both directions, the state between windows, and torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.special import expit

from lemmata.core.networks import lstm

BATCH, LENGTH, DIM, UNITS = 4, 6, 3, 5
LENGTHS = jnp.array([6, 1, 0, 4])
WHERE = jnp.arange(LENGTH) < LENGTHS[:, None]
X = jax.random.normal(jax.random.key(0), (BATCH, LENGTH, DIM))


def make(key):
    params = lstm.init_lstm(key=jax.random.key(key), input_dim=DIM, hidden_dim=UNITS)
    return params | {"b": jax.random.normal(jax.random.key(key + 1), (4 * UNITS,))}


PARAMS = {"forward": make(1), "backward": make(3)}


def by_hand(params, row):
    """The equations in float64 over one row `[T, d]`, a step at a time."""
    w_x, w_h, b = (np.asarray(params[name], np.float64) for name in ("w_x", "w_h", "b"))
    h, c, outputs = np.zeros(UNITS), np.zeros(UNITS), []
    for x in np.asarray(row, np.float64):
        i, f, g, o = np.split(x @ w_x + h @ w_h + b, 4)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), {"h": h, "c": c}


def test_one_direction_follows_the_equations():
    hidden, carry = lstm.lstm(PARAMS["forward"], X)
    for row in range(BATCH):
        expected, state = by_hand(PARAMS["forward"], X[row])
        np.testing.assert_allclose(hidden[row], expected, rtol=1e-5, atol=1e-6)
        for name in ("h", "c"):
            np.testing.assert_allclose(carry[name][row], state[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_masked_steps_give_zero_and_keep_the_state(reverse):
    holes = WHERE.at[0, 2].set(False)  # anywhere, not at the end alone
    hidden, carry = lstm.lstm(PARAMS["forward"], X, where=holes, reverse=reverse)
    assert not np.asarray(hidden)[~np.asarray(holes)].any()
    for row in (0, 1, 3):
        kept = X[row][np.asarray(holes[row])]
        expected, state = by_hand(PARAMS["forward"], kept[::-1] if reverse else kept)
        got = hidden[row][np.asarray(holes[row])]
        np.testing.assert_allclose(got, expected[::-1] if reverse else expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(carry["c"][row], state["c"], rtol=1e-5, atol=1e-6)
    assert not np.asarray(carry["h"][2]).any()  # the row without a step


def test_a_state_handed_on_joins_two_windows():
    whole, end = lstm.lstm(PARAMS["forward"], X, where=WHERE)
    first, carry = lstm.lstm(PARAMS["forward"], X[:, :4], where=WHERE[:, :4])
    second, last = lstm.lstm(PARAMS["forward"], X[:, 4:], carry, where=WHERE[:, 4:])
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), last, end)
    zeros = {name: jnp.zeros((BATCH, UNITS)) for name in ("h", "c")}
    np.testing.assert_array_equal(lstm.lstm(PARAMS["forward"], X, zeros)[0], lstm.lstm(PARAMS["forward"], X)[0])


def test_both_directions_are_two_single_ones():
    forward, _ = lstm.lstm(PARAMS["forward"], X, where=WHERE)
    backward, _ = lstm.lstm(PARAMS["backward"], X, where=WHERE, reverse=True)
    both = lstm.bilstm(PARAMS, X, where=WHERE)
    np.testing.assert_allclose(both, jnp.concatenate([forward, backward], axis=-1), atol=1e-6)


def test_what_is_masked_reaches_no_gradient():
    def loss(params, x):
        return jnp.sum(jnp.sin(lstm.bilstm(params, x, where=WHERE)))

    clean = jax.grad(loss, argnums=(0, 1))(PARAMS, jnp.where(WHERE[..., None], X, 0.0))
    dirty = jax.grad(loss, argnums=(0, 1))(PARAMS, jnp.where(WHERE[..., None], X, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert np.asarray(clean[1])[np.asarray(WHERE)].any(axis=-1).all()


def test_fresh_parameters_are_as_stated():
    params = lstm.init_lstm(key=jax.random.key(0), input_dim=50, hidden_dim=30)
    np.testing.assert_allclose(params["w_h"] @ params["w_h"].T, np.eye(30), atol=1e-5)
    limit = np.sqrt(6 / (50 + 120))
    assert np.abs(params["w_x"]).max() <= limit
    np.testing.assert_allclose(np.std(params["w_x"]), limit / np.sqrt(3), rtol=0.03)
    np.testing.assert_array_equal(params["b"], np.repeat([0.0, 1.0, 0.0, 0.0], 30))


def test_narrow_dtypes_are_computed_wide():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (PARAMS, X))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    result = lstm.bilstm(*half)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(result.astype(jnp.float32), lstm.bilstm(*wide), rtol=2.0**-8, atol=1e-6)


def test_sharded_batch_gives_the_value_of_one_device():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    x, where = (jax.device_put(array, NamedSharding(mesh, P("data"))) for array in (X, WHERE))
    with jax.set_mesh(mesh):
        result = lstm.bilstm(PARAMS, x, where=where)
    assert result.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 3)
    np.testing.assert_allclose(result, lstm.bilstm(PARAMS, X, where=WHERE), atol=1e-6)


def torch_network(params):
    torch = pytest.importorskip("torch")
    network = torch.nn.LSTM(DIM, UNITS, batch_first=True, bidirectional=True)
    for side, suffix in (("forward", "l0"), ("backward", "l0_reverse")):
        values = {"weight_ih": params[side]["w_x"].T, "weight_hh": params[side]["w_h"].T, "bias_ih": params[side]["b"]}
        for name, value in values.items():  # torch's rows are in the same order: i, f, g, o
            getattr(network, f"{name}_{suffix}").data = torch.tensor(np.asarray(value))
        getattr(network, f"bias_hh_{suffix}").data.zero_()
    return torch, network


def test_torch_gives_the_same_values_and_gradients():
    torch, network = torch_network(PARAMS)
    rows = np.array([0, 1, 3])  # torch packs no empty row
    x = torch.tensor(np.asarray(X[rows]), requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor(np.asarray(LENGTHS[rows])), batch_first=True, enforce_sorted=False
    )
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], batch_first=True)
    output.sin().sum().backward()

    def loss(params, x):
        hidden = lstm.bilstm(params, x, where=WHERE[rows])
        return jnp.sum(jnp.sin(hidden)), hidden

    (_, hidden), (to_params, to_x) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(PARAMS, X[rows])
    np.testing.assert_allclose(hidden, output.detach(), atol=1e-6)
    np.testing.assert_allclose(to_x, x.grad, rtol=1e-4, atol=1e-6)
    for side, suffix in (("forward", "l0"), ("backward", "l0_reverse")):
        theirs = {"w_x": f"weight_ih_{suffix}", "w_h": f"weight_hh_{suffix}", "b": f"bias_ih_{suffix}"}
        for name, other in theirs.items():
            expected = getattr(network, other).grad.numpy().T
            np.testing.assert_allclose(to_params[side][name], expected, rtol=1e-4, atol=1e-5)


NARROW = {"w_x": jnp.zeros((DIM, 8)), "w_h": jnp.zeros((2, 8)), "b": jnp.zeros(8)}  # two units


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: lstm.lstm(PARAMS["forward"], X[0]), r"x must have shape \[B, T, d\]"),
        (lambda: lstm.lstm(PARAMS["forward"], X[:, :, :2]), r"w_x.*d = 2 as in x"),
        (lambda: lstm.lstm(PARAMS["forward"], X[:, :0]), "x must have at least one step"),
        (lambda: lstm.lstm(PARAMS["forward"] | {"w_h": jnp.zeros((4, 20))}, X), "w_h"),
        (lambda: lstm.lstm(PARAMS["forward"] | {"b": jnp.zeros(5)}, X), '"b"'),
        (lambda: lstm.lstm(PARAMS["forward"], X, {"h": jnp.zeros((4, 5)), "c": jnp.zeros((3, 5))}), "carry.*c"),
        (lambda: lstm.lstm(PARAMS["forward"], X, where=WHERE[:, :3]), r"where.*T = 6"),
        (lambda: lstm.lstm(PARAMS["forward"], X, where=WHERE.astype(jnp.int32)), "where must be boolean.*int32"),
        (lambda: lstm.bilstm(PARAMS | {"backward": NARROW}, X), "backward"),
        (lambda: lstm.init_lstm(key=jax.random.key(0), input_dim=0, hidden_dim=2), "input_dim"),
        (lambda: lstm.init_lstm(key=jax.random.key(0), input_dim=1, hidden_dim=0), "hidden_dim"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()
