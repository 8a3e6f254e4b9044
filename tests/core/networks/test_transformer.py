"""The Transformer: who sees whom, positions, rematerialisation, precision, depth, sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lemmata.core.networks.transformer import (
    Cache,
    Transformer,
    attention_mask,
    count_positions,
    extend_layer,
    rotate,
)

VOCAB, LENGTH = 50, 12
TOKENS = jax.random.randint(jax.random.key(0), (4, LENGTH), 0, VOCAB)
SMALL = dict(vocab_size=VOCAB, num_layers=2, num_heads=2, model_dim=16, mlp_dim=32, max_length=LENGTH)


def make(*, attention="causal", remat="none", **overrides):
    network = Transformer(**{**SMALL, **overrides}, attention=attention, remat=remat)
    return network, params_of(network.clone(attention="causal", remat="none"))  # neither touches the parameters


@functools.cache
def params_of(network):
    return jax.jit(network.init)(jax.random.key(1), TOKENS)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(network, params, tokens, **inputs):
    return network.apply(params, tokens, **inputs)


@functools.partial(jax.jit, static_argnums=0)
def gradient_of(network, params, **inputs):
    return jax.grad(lambda p: jnp.mean(network.apply(p, TOKENS, **inputs) ** 2))(params)


@functools.partial(jax.jit, static_argnames=("network", "method"))
def cached(network, params, cache, tokens, method="extend", **inputs):
    return network.apply(params, cache, tokens, method=method, **inputs)


def positions_that_move(network, params, changed, **inputs):
    """Positions of the first sequence whose logits depend on the token at `changed`."""
    other = TOKENS.at[0, changed].set((TOKENS[0, changed] + 1) % VOCAB)
    before, after = (logits_of(network, params, t, **inputs)[0] for t in (TOKENS, other))
    return np.flatnonzero(np.any(np.asarray(before != after), axis=-1)).tolist()


def test_mask_by_hand():
    mask = attention_mask(
        "prefix", 3, prefix=jnp.array([0, 2]), where=jnp.array([[True, True, True], [True, True, False]])
    )
    assert mask.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(mask[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(mask[1, 0], [[1, 1, 0], [1, 1, 0], [1, 1, 0]])


def test_empty_and_whole_prefix_are_causal_and_full():
    ends = attention_mask("prefix", 5, prefix=jnp.array([0, 5]))
    np.testing.assert_array_equal(ends[:1], attention_mask("causal", 5))
    np.testing.assert_array_equal(ends[1:], attention_mask("full", 5))


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_causal_sees_no_future(positions):
    network, params = make(positions=positions)
    assert positions_that_move(network, params, changed=7) == list(range(7, LENGTH))


def test_prefix_sees_itself_whole_and_no_future_beyond():
    network, params = make(attention="prefix")
    lengths = {"prefix": jnp.array([5, 0, 12, 1])}
    assert positions_that_move(network, params, changed=4, **lengths) == list(range(LENGTH))
    assert positions_that_move(network, params, changed=5, **lengths) == list(range(5, LENGTH))


def test_full_sees_everything():
    network, params = make(attention="full")
    assert positions_that_move(network, params, changed=LENGTH - 1) == list(range(LENGTH))


def test_padding_is_seen_by_nobody_and_stays_finite():
    network, params = make(attention="full")
    where = jnp.arange(LENGTH) < jnp.array([9, 12, 0, 1])[:, None]
    assert set(positions_that_move(network, params, changed=10, where=where)) <= {10}  # its own residual stream alone
    padded, cut = logits_of(network, params, TOKENS, where=where), logits_of(network, params, TOKENS[:1, :9])
    np.testing.assert_allclose(padded[0, :9], cut[0], rtol=1e-4, atol=1e-5)
    grads = gradient_of(network, params, where=where)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def pattern_of(kind, lengths, width):
    """Which of `width` places hold the `lengths[row]` tokens of each row: the last, the first, or any."""
    rng = np.random.default_rng(3)
    where = np.arange(width) < np.asarray(lengths)[:, None]
    if kind == "left":
        where = where[:, ::-1]
    if kind == "interior":
        where = rng.permuted(where, axis=1)
    return jnp.asarray(where)


def scattered(tokens, where, padding):
    """The tokens of each row in the places that count, `padding` elsewhere."""
    tokens = jnp.take_along_axis(tokens, count_positions(where), axis=1)
    return jnp.where(where, tokens, padding)


PATTERNS = pytest.mark.parametrize("pattern", ["left", "right", "interior"])


@PATTERNS
@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("attention", ["causal", "prefix", "full"])
def test_a_padded_row_gives_what_it_gives_alone(attention, positions, pattern):
    """Wherever the padding lies and whatever it holds."""
    network, params = make(attention=attention, positions=positions)
    lengths = [8, 1, 8, 0]
    where = pattern_of(pattern, lengths, LENGTH)
    prefix = {"prefix": jnp.array([2, 1, 7, 0])} if attention == "prefix" else {}
    padded = [logits_of(network, params, scattered(TOKENS, where, junk), where=where, **prefix) for junk in (0, -100)]
    np.testing.assert_array_equal(*padded)
    for row, length in enumerate(lengths[:3]):
        own = {name: value[row : row + 1] for name, value in prefix.items()}
        alone = logits_of(network, params, TOKENS[row : row + 1, :length], **own)[0]
        np.testing.assert_allclose(padded[0][row][where[row]], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_next_tokens_of_left_padded_prompts_are_those_of_the_prompts(positions):
    """Fifty prompts, at initialisation scaled up so that the next token is not a tie of rounding."""
    network, params = make(positions=positions)
    params = jax.tree.map(lambda p: 3 * p, params)
    rng = np.random.default_rng(4)
    tokens, lengths = jnp.asarray(rng.integers(VOCAB, size=(50, LENGTH))), rng.integers(1, LENGTH, size=50)
    where = pattern_of("left", lengths, LENGTH)
    padded = logits_of(network, params, scattered(tokens, where, 0), where=where)[:, -1]
    right = logits_of(network, params, tokens)[np.arange(50), lengths - 1]  # causal: what comes later plays no part
    np.testing.assert_allclose(padded, right, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(jnp.argmax(padded, -1), jnp.argmax(right, -1))


@PATTERNS
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_cache_takes_padding_anywhere_and_in_pieces(positions, pattern):
    """Three pieces of unequal rows, then token by token: every token that counts has the logits of the whole text."""
    network, params = make(positions=positions)
    expected = logits_of(network, params, TOKENS)
    cache, read = network.init_cache(4, LENGTH), np.zeros(4, int)
    for lengths in ([3, 1, 0, 5], [0, 4, 2, 1], [5, 5, 5, 5]):
        where = pattern_of(pattern, lengths, 5)
        rest = jnp.stack([jnp.roll(TOKENS[row], -read[row]) for row in range(4)])
        cache, logits = cached(network, params, cache, scattered(rest, where, -100), where=where)
        for row, length in enumerate(lengths):
            own = expected[row, read[row] : read[row] + length]
            np.testing.assert_allclose(logits[row][where[row]], own, rtol=1e-4, atol=1e-5)
        read += lengths
        np.testing.assert_array_equal(cache.length, read)
    cache, logits = cached(network, params, cache, TOKENS[jnp.arange(4), read], method="decode_step")
    np.testing.assert_allclose(logits, expected[jnp.arange(4), read], rtol=1e-4, atol=1e-5)


def test_a_row_that_outgrows_its_cache_is_refused_or_nan_and_never_wrong():
    network, params = make()
    expected = logits_of(network, params, TOKENS)
    lengths = jnp.array([4, 5, 3, 0])
    begun, _ = cached(network, params, network.init_cache(4, 6), TOKENS[:, :5], where=jnp.arange(5) < lengths[:, None])
    pieces = jnp.stack([TOKENS[row, n : n + 2] for row, n in enumerate(lengths)])
    with pytest.raises(ValueError, match="cache must have room for every token: row 1 has 7, its size is 6"):
        network.apply(params, begun, pieces, method="extend")

    cache, logits = cached(network, params, begun, pieces)
    fits = np.asarray(lengths)[:, None] + np.arange(2) < 6
    own = np.stack([expected[row, n : n + 2] for row, n in enumerate(lengths)])
    np.testing.assert_allclose(logits, np.where(fits[..., None], own, np.nan), rtol=1e-4, atol=1e-5)
    assert not fits.all()
    for _ in range(2):  # and stays so, while the other rows go on
        old, (cache, logits) = cache, cached(network, params, cache, TOKENS[:, 0], method="decode_step")
        np.testing.assert_array_equal(np.isnan(logits).all(-1), old.length >= 6)
        np.testing.assert_array_equal(np.isnan(logits).any(-1), old.length >= 6)


def test_a_full_row_that_reads_padding_alone_is_no_overflow():
    network, params = make()
    cache, _ = cached(network, params, network.init_cache(4, 5), TOKENS[:, :5])
    where = jnp.zeros((4, 2), bool)
    after, _ = network.apply(params, cache, TOKENS[:, :2], method="extend", where=where)
    np.testing.assert_array_equal(after.length, 5)
    np.testing.assert_array_equal(after.key, cache.key)


def test_no_rows_give_no_logits():
    network, params = make()
    assert logits_of(network, params, TOKENS[:0]).shape == (0, LENGTH, VOCAB)
    assert logits_of(network, params, TOKENS[:, :0]).shape == (4, 0, VOCAB)
    cache, logits = cached(network, params, network.init_cache(0, LENGTH), TOKENS[:0, :5])
    assert logits.shape == (0, 5, VOCAB)
    assert cache.length.shape == (0,)


def test_a_token_outside_the_vocabulary_is_refused_or_nan_and_only_where_it_counts():
    network, params = make()
    for outside in (-1, VOCAB):
        tokens = TOKENS.at[0, 3].set(outside)
        with pytest.raises(ValueError, match=f"tokens must be integers from 0 to 49, got {outside} at"):
            network.apply(params, tokens)
        logits = logits_of(network, params, tokens)
        assert np.isnan(logits[0, 3:]).all()
        assert np.isfinite(logits[1:]).all()
        where = jnp.ones((4, LENGTH), bool).at[0, 3].set(False)
        np.testing.assert_array_equal(
            network.apply(params, tokens, where=where), network.apply(params, TOKENS, where=where)
        )


def test_rotary_products_depend_on_distance_alone():
    query, key = jax.random.normal(jax.random.key(2), (2, 8))
    rotated = [rotate(jnp.broadcast_to(v, (1, 20, 1, 8)))[0, :, 0] for v in (query, key)]
    products = rotated[0] @ rotated[1].T
    np.testing.assert_allclose(products[3:, 3:], products[:-3, :-3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(products[0, 0], query @ key, rtol=1e-5)
    assert np.ptp(products[0]) > 1.0  # and do depend on it


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_order_matters(positions):
    network, params = make(attention="full", positions=positions)
    swapped = TOKENS[:, ::-1]
    there, back = (logits_of(network, params, tokens) for tokens in (TOKENS, swapped))
    assert not np.allclose(there[:, ::-1], back, atol=1e-4)


@pytest.mark.parametrize("overrides", [{}, {"positions": "learned", "tie_embeddings": True, "remat": "full"}])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_text(overrides):
    """Position by position: a prompt at once, then one token after the other, in a cache with room to spare."""
    network, params = make(max_length=LENGTH + 3, **overrides)
    expected = logits_of(network, params, TOKENS)
    cache = network.init_cache(4, LENGTH + 3)
    cache, logits = cached(network, params, cache, TOKENS[:, :5])
    np.testing.assert_allclose(logits, expected[:, :5], rtol=1e-4, atol=1e-5)
    for i in range(5, LENGTH):
        cache, logits = cached(network, params, cache, TOKENS[:, i], method="decode_step")
        np.testing.assert_allclose(logits, expected[:, i], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(cache.length, LENGTH)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_rows_of_a_cache_keep_their_own_pace(positions):
    """Prompts of unequal length, padded on the right: each row goes on where its own prompt ended."""
    network, params = make(positions=positions)
    expected = logits_of(network, params, TOKENS)
    lengths = jnp.array([5, 1, 0, 4])
    prompt = jnp.where(jnp.arange(5) < lengths[:, None], TOKENS[:, :5], 49)
    cache, logits = cached(
        network, params, network.init_cache(4, LENGTH), prompt, where=jnp.arange(5) < lengths[:, None]
    )
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row, :length], expected[row, :length], rtol=1e-4, atol=1e-5)
    for step in range(3):
        tokens = TOKENS[jnp.arange(4), lengths + step]
        cache, logits = cached(network, params, cache, tokens, method="decode_step")
        np.testing.assert_allclose(logits, expected[jnp.arange(4), lengths + step], rtol=1e-4, atol=1e-5)


def test_cache_of_another_dtype_stays_close():
    network, params = make()
    half = network.init_cache(4, LENGTH, dtype=jnp.bfloat16)
    after, logits = cached(network, params, half, TOKENS)
    assert after.key.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    expected = logits_of(network, params, TOKENS)
    assert float(jnp.max(jnp.abs(logits - expected))) < 0.05 * float(jnp.max(jnp.abs(expected)))


def test_a_layer_of_a_cache_is_extended_in_the_places_given_and_what_lies_beyond_is_dropped():
    cache = Cache(jnp.zeros((3, 2, 1, 4, 1)), jnp.zeros((3, 2, 1, 4, 1)), jnp.array([0, 2, 3]))
    new = jnp.array([[1.0, 2], [3, 4], [5, 6]])[..., None, None]
    after = extend_layer(cache, new, -new, jnp.array(1), jnp.array([[0, 1], [2, 3], [3, 4]]))
    expected = np.array([[1.0, 2, 0, 0], [0, 0, 3, 4], [0, 0, 0, 5]])
    np.testing.assert_array_equal(after.key[:, 1, 0, :, 0], expected)
    np.testing.assert_array_equal(after.value[:, 1, 0, :, 0], -expected)
    assert not np.any(after.key[:, 0])
    np.testing.assert_array_equal(after.length, cache.length)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_recomputes_and_changes_no_value(remat):
    plain, params = make()
    frugal, _ = make(remat=remat)
    abstract = jax.eval_shape(frugal.init, jax.random.key(1), TOKENS)
    assert jax.tree.structure(abstract) == jax.tree.structure(params)

    np.testing.assert_allclose(
        logits_of(plain, params, TOKENS), logits_of(frugal, params, TOKENS), rtol=1e-5, atol=1e-6
    )
    grads = [gradient_of(network, params) for network in (plain, frugal)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    used = [str(jax.make_jaxpr(gradient_of, static_argnums=0)(n, params)).count("exp ") for n in (plain, frugal)]
    assert used[1] > used[0]  # the softmax is computed again


def test_bfloat16_parameters_stay_close_with_float32_logits():
    network, params = make(num_layers=4)
    half = logits_of(network, jax.tree.map(lambda p: p.astype(jnp.bfloat16), params), TOKENS)
    full = logits_of(network, params, TOKENS)
    assert half.dtype == full.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(half - full))) < 0.05 * float(jnp.max(jnp.abs(full)))


def test_tied_output_layer_is_the_embedding():
    network, params = make(tie_embeddings=True)
    assert "head" not in params["params"]
    hidden = jax.jit(functools.partial(network.apply, method="hidden"))(params, TOKENS)
    np.testing.assert_allclose(
        logits_of(network, params, TOKENS), hidden @ params["params"]["embedding"]["embedding"].T, rtol=1e-5, atol=1e-5
    )


def test_loss_starts_at_the_uniform_one():
    network, params = make(num_layers=8)
    log_probs = jax.nn.log_softmax(logits_of(network, params, TOKENS))
    np.testing.assert_allclose(-log_probs.mean(), np.log(VOCAB), rtol=0.02)


def test_program_does_not_grow_with_depth():
    def size(num_layers):
        return len(str(jax.make_jaxpr(gradient_of, static_argnums=0)(*make(num_layers=num_layers))))

    assert size(12) < 1.02 * size(2)  # shapes are written with more digits, nothing else


def test_sharded_over_data_and_model_gives_the_same_values():
    network, params = make()
    expected = logits_of(network, params, TOKENS)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def place(path, p):
        head_axis = {"query": 2, "key": 2, "value": 2, "attention_out": 1}
        spec = [None] * p.ndim
        for name in (str(key.key) for key in path):
            if name in head_axis:
                spec[head_axis[name]] = "model"
        return jax.device_put(p, NamedSharding(mesh, PartitionSpec(*spec)))

    params = jax.tree_util.tree_map_with_path(place, params)
    tokens = jax.device_put(TOKENS, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(logits_of(network, params, tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 5])
def test_a_cache_split_over_rows_stays_where_it_is(length):
    """Reading tokens into a cache whose rows lie on several devices exchanges nothing between them."""
    network, params = make()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    everywhere, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    cache = jax.device_put(network.init_cache(4, LENGTH), rows)
    arguments = jax.device_put(params, everywhere), cache, jax.device_put(TOKENS[:, :length], rows)
    compiled = jax.jit(functools.partial(network.apply, method="extend")).lower(*arguments).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    after, logits = compiled(*arguments)
    expected = logits_of(network, params, TOKENS)[:, :length]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert after.key.sharding.is_equivalent_to(rows, after.key.ndim)


@pytest.mark.parametrize(
    "bad",
    [
        {"num_heads": 3},
        {"num_heads": 16},  # leaves one channel a head, which rotary positions cannot pair
        {"num_layers": 0},
        {"positions": "sinusoidal"},
        {"attention": "sliding"},
        {"remat": "some"},
    ],
)
def test_bad_attribute_is_named(bad):
    network = Transformer(**{**SMALL, **bad})
    with pytest.raises(ValueError, match=next(iter(bad))):
        network.init(jax.random.key(0), TOKENS)


@pytest.mark.parametrize(
    "tokens", [jnp.zeros((2, LENGTH + 1), jnp.int32), jnp.zeros(LENGTH, jnp.int32), jnp.zeros((2, LENGTH))]
)
def test_bad_tokens_are_named(tokens):
    network, params = make()
    with pytest.raises(ValueError, match=r"tokens must be integers \[batch, length <= 12\]"):
        network.apply(params, tokens)


def test_bad_cache_is_named():
    network, params = make()
    with pytest.raises(ValueError, match=r"length must be in \[1, 12\]"):
        network.init_cache(2, LENGTH + 1)
    cache = network.init_cache(4, 5)
    with pytest.raises(ValueError, match=r"tokens must be integers \[batch, length <= 5\]"):
        network.apply(params, cache, TOKENS, method="extend")
    with pytest.raises(ValueError, match="tokens must have the 4 rows"):
        network.apply(params, cache, TOKENS[:2, :5], method="extend")
    for where in (jnp.ones((4, 4), bool), jnp.ones((4, 5), jnp.int32)):
        with pytest.raises(ValueError, match=r"where must be booleans \[4, 5\]"):
            network.apply(params, cache, TOKENS[:, :5], method="extend", where=where)
    with pytest.raises(ValueError, match="attention must be"):
        network.clone(attention="full").apply(params, cache, TOKENS[:, 0], method="decode_step")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("kind", {"kind": "sliding"}),
        ("prefix", {"kind": "prefix"}),
        ("prefix", {"kind": "causal", "prefix": jnp.ones(2, jnp.int32)}),
        ("prefix", {"kind": "prefix", "prefix": jnp.int32(1)}),
        ("prefix", {"kind": "prefix", "prefix": jnp.ones(2)}),
        ("prefix", {"kind": "prefix", "prefix": jnp.array([2, 6])}),
        ("prefix", {"kind": "prefix", "prefix": jnp.array([-1, 2])}),
        ("where", {"kind": "full", "where": jnp.ones((2, 4), bool)}),
        ("where", {"kind": "full", "where": jnp.ones((2, 5), jnp.int32)}),
        ("where", {"kind": "prefix", "prefix": jnp.array([2]), "where": jnp.ones((2, 5), bool)}),
    ],
)
def test_bad_mask_argument_is_named(name, arguments):
    with pytest.raises(ValueError, match=f"{name} must be"):
        attention_mask(**arguments, length=5)
