"""FaviComp: the oracles of its card."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from lemmata.methods.samplers import favicomp

INF = jnp.inf


def logits(seed=0, shape=(3, 12), scale=3.0):
    return tuple(scale * jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(seed)))


def kl(p_log, q_log):
    p_log, q_log = np.asarray(p_log, np.float64), np.asarray(q_log, np.float64)
    return np.sum(np.exp(p_log) * (p_log - q_log), axis=-1)


@jax.jit
def value_and_gradients(compressor, target, alpha):
    """The mixture, and the slope of one of its entries with respect to each argument."""

    def entry(*arguments):
        mixture = favicomp.ensemble_log_probs(*arguments[:2], alpha=arguments[2])
        return mixture[0, 1], mixture

    gradients, mixture = jax.grad(entry, argnums=(0, 1, 2), has_aux=True)(compressor, target, alpha)
    return mixture, *gradients


mix = jax.jit(favicomp.ensemble_log_probs)

# --- the mixture


@given(
    st.lists(st.tuples(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32)), min_size=6, max_size=6),
    st.floats(0, 1),
)
def test_value_is_that_of_the_equation(pairs, alpha):
    compressor, target = np.asarray(pairs, np.float32).T
    score = (1 - alpha) * special.log_softmax(compressor.astype(float)) + alpha * special.log_softmax(
        target.astype(float)
    )
    got = mix(compressor, target, alpha=alpha)
    np.testing.assert_allclose(got, score - special.logsumexp(score), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_at_an_end_one_model_speaks_alone_whatever_the_other_excludes(alpha):
    speaks, silent = logits()
    some = np.where(np.arange(12) % 2, silent, -INF)
    for other in (silent, some, np.full_like(silent, -INF)):
        pair = (speaks, other) if alpha == 0 else (other, speaks)
        got, *gradients = value_and_gradients(*pair, alpha)
        np.testing.assert_allclose(got, special.log_softmax(speaks, axis=-1), rtol=1e-5, atol=1e-5)
        assert all(np.isfinite(gradient).all() for gradient in gradients[:2])


def test_what_one_model_excludes_is_excluded():
    compressor, target = logits()
    compressor, target = compressor.at[:, 3].set(-INF), target.at[:, 5].set(-INF)
    got, _, _, slope = value_and_gradients(compressor, target, 0.3)
    np.testing.assert_array_equal(np.isneginf(got), np.isin(np.arange(12), [3, 5])[None] & np.ones((3, 1), bool))
    np.testing.assert_allclose(jnp.exp(got).sum(-1), 1.0, rtol=1e-6)
    assert np.isfinite(slope)


def test_nothing_left_is_nan():
    compressor, target = jnp.array([0.0, -INF]), jnp.array([-INF, 0.0])
    assert np.isnan(favicomp.ensemble_log_probs(compressor, target)).all()
    assert np.isnan(favicomp.ensemble_log_probs(jnp.full(3, -INF), jnp.full(3, -INF))).all()


def test_identical_models_and_constant_shifts_change_nothing():
    compressor, target = logits()
    for alpha in (0.0, 0.2, 1.0):
        same = mix(target, target, alpha=alpha)
        np.testing.assert_allclose(same, special.log_softmax(target, axis=-1), rtol=1e-5, atol=1e-5)
        plain = mix(compressor, target, alpha=alpha)
        moved = mix(compressor + 70.0, target - 900.0, alpha=alpha)
        np.testing.assert_allclose(moved, plain, rtol=1e-4, atol=5e-4)


def test_divergence_from_the_compressor_grows_with_alpha_and_from_the_target_falls():
    compressor, target = logits()
    path = favicomp.ensemble_log_probs(compressor, target, alpha=jnp.linspace(0, 1, 11)[:, None])
    assert np.all(np.diff(kl(path, jax.nn.log_softmax(compressor)), axis=0) > 0)
    assert np.all(np.diff(kl(path, jax.nn.log_softmax(target)), axis=0) < 0)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_mixture_minimises_the_weighted_divergence(alpha):
    compressor, target = (np.asarray(jax.nn.log_softmax(x[0]), np.float64) for x in logits())

    def cost(r_log):
        return (1 - alpha) * kl(r_log, compressor) + alpha * kl(r_log, target)

    best = favicomp.ensemble_log_probs(jnp.asarray(compressor), jnp.asarray(target), alpha=alpha)
    score = (1 - alpha) * compressor + alpha * target
    np.testing.assert_allclose(cost(best), -special.logsumexp(score), rtol=1e-4)
    others = np.random.default_rng(0).dirichlet(np.ones(12), size=200)
    near = np.log(0.95 * np.exp(np.asarray(best, np.float64)) + 0.05 * others)
    assert np.all(cost(np.log(others)) > cost(best))
    assert np.all(cost(near) > cost(best))


# --- perplexity and compression rate


def test_perplexity_of_uniform_logits_is_the_vocabulary_and_of_nothing_one():
    where = jnp.array([[True, True, True], [True, False, False], [False, False, False]])
    tokens = jnp.array([[0, 4, 6], [2, -1, 99], [0, 0, 0]])
    np.testing.assert_allclose(favicomp.perplexity(jnp.zeros((3, 3, 7)), tokens, where), [7, 7, 1], rtol=1e-5)


def test_perplexity_reads_only_what_counts():
    values = jax.random.normal(jax.random.key(0), (4, 5))
    tokens, where = jnp.array([1, 0, 3, 2]), jnp.array([True, False, True, True])
    perplexity = jax.jit(favicomp.perplexity)
    expected = np.exp(-np.mean(special.log_softmax(np.asarray(values, float), axis=-1)[[0, 2, 3], [1, 3, 2]]))
    for junk in (0.0, jnp.nan, -INF):
        got = perplexity(values.at[1].set(junk), tokens, where)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert perplexity(values.at[0, 1].set(-INF), tokens, where) == INF


def test_compression_rate_is_the_ratio_of_lengths():
    documents = jnp.arange(40) < jnp.array([40, 10, 0, 3])[:, None]
    summary = jnp.arange(8) < jnp.array([8, 4, 2, 0])[:, None]
    np.testing.assert_allclose(favicomp.compression_rate(documents, summary), [5, 2.5, 0, INF])


# --- decoding


def test_decoding_follows_the_argmax_and_stops_at_the_end_token():
    """Against a Python loop; of the four end tokens met here the rows need different times."""
    compressor, target = logits(1, (11, 11))
    for alpha in (0.0, 0.3, 1.0):
        mixed = np.argmax((1 - alpha) * jax.nn.log_softmax(compressor) + alpha * jax.nn.log_softmax(target), axis=-1)
        expected = np.zeros((11, 9), int)
        for row in range(11):
            token, ended = row, False
            for step in range(9):
                token = 2 if ended else mixed[token]
                ended = ended or token == 2
                expected[row, step] = token
        got = favicomp.decode_bigram(compressor, target, jnp.arange(11), alpha=alpha, num_steps=9, eos_id=2)
        assert got.dtype == jnp.int32
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("several", [[9, 0], (9, 0), np.array([9, 0]), jnp.array([0, 9])])
def test_any_of_several_end_tokens_ends_a_row_and_is_repeated(several):
    """Against a Python loop, with as many rows as end tokens too: none belongs to a row."""
    compressor, target = logits(1, (11, 11))
    mixed = np.argmax(jax.nn.log_softmax(compressor) + jax.nn.log_softmax(target), axis=-1)
    expected = np.zeros((11, 9), int)
    for row in range(11):
        token, ended = row, False
        for step in range(9):
            token = token if ended else mixed[token]
            ended = ended or token in (9, 0)
            expected[row, step] = token
    assert {9, 0} <= set(expected[:, -1])
    for first in (jnp.arange(11), jnp.arange(2)):
        got = favicomp.decode_bigram(compressor, target, first, num_steps=9, eos_id=several)
        np.testing.assert_array_equal(got, expected[: len(first)])


def test_a_row_without_scores_is_marked_and_never_a_guess():
    table = jnp.roll(jnp.eye(4), 1, axis=1).at[2].set(jnp.nan)
    got = favicomp.decode_bigram(table, table, jnp.array([0, 2, 3]), num_steps=4, eos_id=3)
    np.testing.assert_array_equal(got, [[1, 2, -1, -1], [-1] * 4, [0, 1, 2, -1]])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_perplexity_and_mixture_of_narrow_logits_are_float32(dtype):
    values = (30 * jax.random.normal(jax.random.key(0), (2, 600, 8))).astype(dtype)
    tokens, where = jnp.argmin(values, axis=-1), jnp.ones((2, 600), bool)  # so unlikely that float16 would overflow
    logps = special.log_softmax(np.asarray(values, np.float64), axis=-1)
    nats = -np.take_along_axis(logps, np.asarray(tokens)[..., None], -1).mean((1, 2))
    got = favicomp.perplexity(values, tokens, where)
    assert got.dtype == jnp.float32
    assert nats.min() > np.log(65_504)
    np.testing.assert_allclose(np.log(np.asarray(got, np.float64)), nats, rtol=1e-5)
    mixed = favicomp.ensemble_log_probs(values[0], values[1])
    score = (logps[0] + logps[1]) / 2
    np.testing.assert_allclose(mixed, special.log_softmax(score, axis=-1), rtol=1e-5, atol=1e-4)
    assert mixed.dtype == jnp.float32


def test_an_end_token_as_the_first_ends_nothing():
    table = jnp.roll(jnp.eye(4), 1, axis=1)
    got = favicomp.decode_bigram(table, table, jnp.array([3]), num_steps=5, eos_id=3)
    np.testing.assert_array_equal(got, [[0, 1, 2, 3, 3]])


def test_excluded_tokens_are_never_written():
    compressor, target = logits(2, (6, 6))
    compressor, target = compressor.at[:, 4].set(-INF), target.at[:, 1].set(-INF)
    written = {a: favicomp.decode_bigram(compressor, target, jnp.arange(6), alpha=a, num_steps=30, eos_id=-1) for a in
               (0.0, 0.01, 0.99, 1.0)}  # fmt: skip
    for tokens in written.values():
        assert np.all((tokens >= 0) & (tokens < 6))
    for alpha in (0.01, 0.99):
        assert not np.isin(written[alpha], [1, 4]).any()


def test_each_model_sees_its_own_state_and_both_the_chosen_token():
    """Models that count in pytrees of their own; the target's favourite is what it has read so far, summed."""

    def compressor(state, token):
        state = {"read": state["read"] + 1, "last": token}
        return state, jax.nn.one_hot(state["read"] % 7, 7)

    def target(state, token):
        total = (state[0] + token) % 7
        return (total, None), 10 * jax.nn.one_hot(total, 7)

    start = {"read": jnp.zeros(2, int), "last": jnp.zeros(2, jnp.int32)}, (jnp.zeros(2, jnp.int32), None)
    first = jnp.array([1, 3])
    options = {"num_steps": 4, "eos_id": -1}
    np.testing.assert_array_equal(
        favicomp.decode(compressor, target, *start, first, alpha=0.05, **options), [[1, 2, 3, 4]] * 2
    )
    np.testing.assert_array_equal(
        favicomp.decode(compressor, target, *start, first, alpha=1.0, **options), [[1, 2, 4, 1], [3, 6, 5, 3]]
    )
    rows = favicomp.decode(compressor, target, *start, first, alpha=jnp.array([0.05, 1.0]), **options)
    np.testing.assert_array_equal(rows, [[1, 2, 3, 4], [3, 6, 5, 3]])


def test_functions_that_close_over_traced_arrays_can_be_decoded():
    compressor, target = logits(3, (5, 5))

    @jax.jit
    @jax.vmap
    def decode(compressor, target):
        steps = [lambda state, token, table=table: (state, table[token]) for table in (compressor, target)]
        return favicomp.decode(*steps, (), (), jnp.arange(5), num_steps=6, eos_id=0)

    got = decode(jnp.stack([compressor, target]), jnp.stack([target, target]))
    for row, pair in zip(got, [(compressor, target), (target, target)], strict=True):
        np.testing.assert_array_equal(row, favicomp.decode_bigram(*pair, jnp.arange(5), num_steps=6, eos_id=0))


def test_no_token_is_traced_again_and_memory_does_not_grow_with_them():
    traces = collections.Counter()

    def step(name, state, token):
        traces[name] += 1
        return state, state[token]

    steps = [functools.partial(step, name) for name in ("compressor", "target")]
    tables = logits(4, (50, 50))

    def decode(num_steps):
        return favicomp.decode(*steps, *tables, jnp.arange(20), num_steps=num_steps, eos_id=0)

    decode(8)
    few = dict(traces)
    assert max(few.values()) <= 2  # a scan may trace its body a second time to settle the carry's types
    decode(8)
    assert traces == few  # compiled once
    decode(300)
    assert all(traces[name] == 2 * count for name, count in few.items())  # one more program, 300 tokens or 8
    spent = [
        jax.jit(functools.partial(decode, num_steps)).lower().compile().memory_analysis().temp_size_in_bytes
        for num_steps in (8, 300)
    ]
    assert spent[1] <= spent[0] + 2 * 20 * 4 * 300  # the tokens, before and after they are transposed


# --- the card's study: one model reads a document, the other knows the language


LETTERS = "\n abcdefghijklmnopqrstuvwxyz.,:()_"
CONTEXT = 3


def encode(text):
    return np.array([LETTERS.find(letter) for letter in text.lower() if letter in LETTERS])


def ngram_logits(codes):
    """`[letters ** 3, letters]` log-probabilities of the next letter, by backing off to ever shorter contexts."""
    size = len(LETTERS)
    estimate = np.full((1, size), 1 / size)
    for order in range(CONTEXT + 1):
        index = np.zeros(len(codes) - CONTEXT, int)
        for back in range(order, -1, -1):
            index = index * size + codes[CONTEXT - back : len(codes) - back]
        counts = np.bincount(index, minlength=size ** (order + 1)).reshape(-1, size)
        # row i of a longer context backs off to the row of its last letters, i mod the number of shorter contexts
        prior = np.tile(estimate, (len(counts) // len(estimate), 1))
        estimate = (counts + 2.0 * prior) / (counts.sum(-1, keepdims=True) + 2.0)
    return jnp.asarray(np.log(estimate), jnp.float32)


def ngram_step(state, token):
    table, context = state
    context = (context * len(LETTERS) + token) % len(table)
    return (table, context), table[context]


@pytest.fixture(scope="module")
def written():
    """Summaries `[alphas, prompts, 80]` of one source file's text, with their perplexity and coverage."""
    import inspect
    import json
    from pydoc_data.topics import topics

    document = encode("\n".join(inspect.getdoc(x) or "" for x in (json, json.dump, json.load, json.loads, json.dumps)))
    language = encode("\n".join(text for name, text in sorted(topics.items())[::2]))
    compressor, target = ngram_logits(document), ngram_logits(language)
    starts = np.random.default_rng(0).integers(0, len(document) - CONTEXT, 50)
    prompts = np.stack([document[starts + i] for i in range(CONTEXT)])
    context, first = prompts[0] * len(LETTERS) + prompts[1], jnp.asarray(prompts[2])
    start = (compressor, jnp.asarray(context)), (target, jnp.asarray(context))
    fivegrams = {tuple(document[i : i + 5]) for i in range(len(document) - 4)}
    rows = {}
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        tokens = favicomp.decode(ngram_step, ngram_step, *start, first, alpha=alpha, num_steps=80, eos_id=-1)
        read = np.concatenate([prompts.T, tokens], axis=1)
        contexts = sum(read[:, i : i + 80] * len(LETTERS) ** (CONTEXT - 1 - i) for i in range(CONTEXT))
        perplexity = favicomp.perplexity(target[contexts], tokens, jnp.ones(tokens.shape, bool)).mean()
        told = {tuple(row[i : i + 5]) for row in np.asarray(tokens) for i in range(76)}
        rows[alpha] = float(perplexity), len(told & fivegrams) / len(told)
    return rows


def test_familiarity_grows_with_alpha_and_the_document_is_still_told(written):
    perplexity, coverage = (dict(zip(written, column, strict=True)) for column in zip(*written.values(), strict=True))
    falls = list(perplexity.values())
    assert falls == sorted(falls, reverse=True)
    assert perplexity[0.5] < 0.8 * perplexity[0.0]
    assert coverage[0.5] > 1.5 * coverage[1.0]


V = jnp.zeros((2, 4))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: favicomp.ensemble_log_probs(V, V, alpha=1.5), r"alpha must be in \[0, 1\], got 1.5"),
        (lambda: favicomp.ensemble_log_probs(V, V, alpha=-0.1), "alpha"),
        (
            lambda: favicomp.ensemble_log_probs(V, jnp.zeros((2, 5))),
            r"target_logits must have shape \[2, 4\].*\[2, 5\]",
        ),
        (lambda: favicomp.ensemble_log_probs(V[:, :0], V[:, :0]), "compressor_logits"),
        (lambda: favicomp.perplexity(V, jnp.zeros(3, int), jnp.ones(3, bool)), "tokens"),
        (lambda: favicomp.perplexity(V[0], jnp.int32(0), jnp.bool_(True)), "logits"),
        (lambda: decode_square(eos_id=[]), "eos_id"),
        (lambda: decode_square(eos_id=[0.5]), "eos_id"),
        (lambda: decode_square(eos_id=jnp.zeros((1, 1), int)), "eos_id"),
        (lambda: decode_square(first=jnp.array([4])), "first_token must be integers from 0 to 3"),
        (lambda: favicomp.decode_bigram(V, V, jnp.zeros(1, int), num_steps=2, eos_id=0), "compressor_table"),
        (lambda: decode_square(target=jnp.zeros((5, 5))), "target_table"),
        (
            lambda: favicomp.decode_bigram(V[:0, :0], V[:0, :0], jnp.zeros(1, int), num_steps=2, eos_id=0),
            "compressor_table must have a token",
        ),
        (lambda: decode_square(num_steps=0), "num_steps"),
        (lambda: decode_square(alpha=2.0), "alpha"),
        (lambda: decode_square(first=jnp.zeros(1)), "first_token"),
        (lambda: decode_square(first=jnp.int32(0)), "first_token"),
        (
            lambda: favicomp.decode(step_of(4), step_of(5), 0, 0, jnp.zeros(2, int), eos_id=0),
            r"target_logits.*\[2, 5\]",
        ),
        (lambda: favicomp.compression_rate(jnp.bool_(True), jnp.ones(3, bool)), "document_where"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def decode_square(target=None, first=None, num_steps=2, eos_id=0, **options):
    table, first = jnp.zeros((4, 4)), jnp.zeros(1, int) if first is None else first
    target = table if target is None else target
    return favicomp.decode_bigram(table, target, first, num_steps=num_steps, eos_id=eos_id, **options)


def step_of(size):
    return lambda state, token: (state, jnp.zeros((len(token), size)))
