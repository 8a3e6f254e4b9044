"""Prompt-guided mask proposal: the oracles of its card."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.methods.layers import prompt_guided_masks as pmp

B, Q, T, D, HEADS = 2, 3, 5, 8, 2


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention_params(seed=0, dim=D):
    random = np.random.default_rng(seed)
    params = {
        name: {"kernel": random.normal(size=(dim, dim)), "bias": random.normal(size=dim)}
        for name in ("query", "key", "value", "out")
    }
    params["norm"] = {"scale": random.normal(size=dim), "bias": random.normal(size=dim)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def layer_norm(params, x, epsilon=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * params["scale"] + params["bias"]


@functools.cache
def attend(num_heads=HEADS):
    """The compiled function, for `where` as an array."""
    return jax.jit(
        lambda params, q, t, where: pmp.prompt_cross_attention(params, q, t, num_heads=num_heads, where=where)
    )


PARAMS, QUERIES, TEXT, ALL = attention_params(), normal(1, B, Q, D), normal(2, B, T, D), np.ones((B, T), bool)


# --- prompt cross-attention


def test_without_values_only_the_norm_is_left():
    params = attention_params()
    params["value"]["kernel"], params["value"]["bias"] = jnp.zeros((D, D)), jnp.zeros(D)
    params["out"]["bias"] = jnp.zeros(D)
    np.testing.assert_allclose(attend()(params, QUERIES, TEXT, ALL), layer_norm(params["norm"], QUERIES), atol=1e-5)


def test_one_head_is_the_closed_form():
    def linear(name, x):
        return x @ np.asarray(PARAMS[name]["kernel"], np.float64) + np.asarray(PARAMS[name]["bias"], np.float64)

    scores = linear("query", QUERIES) @ linear("key", TEXT).swapaxes(1, 2) / np.sqrt(D)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = layer_norm(PARAMS["norm"], QUERIES + linear("out", weights @ linear("value", TEXT)))
    np.testing.assert_allclose(attend(1)(PARAMS, QUERIES, TEXT, ALL), expected, rtol=1e-4, atol=1e-5)


def test_queries_do_not_see_each_other():
    order = np.array([2, 0, 1])
    plain = attend()(PARAMS, QUERIES, TEXT, ALL)
    np.testing.assert_allclose(attend()(PARAMS, QUERIES[:, order], TEXT, ALL), plain[:, order], atol=1e-6)


def test_tokens_have_no_order():
    order, where = np.array([3, 1, 4, 0, 2]), np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
    np.testing.assert_allclose(
        attend()(PARAMS, QUERIES, TEXT[:, order], where[:, order]), attend()(PARAMS, QUERIES, TEXT, where), atol=1e-5
    )


@pytest.mark.parametrize("padding", [0.0, 1e30, np.inf, np.nan])
def test_padding_changes_nothing(padding):
    where = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
    text = np.where(where[..., None], TEXT, np.float32(padding))

    def total(params, q, t):
        return jnp.sum(jnp.sin(attend()(params, q, t, where)))

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(PARAMS, QUERIES, text)
    short = attend()(PARAMS, QUERIES[:1], TEXT[:1, [0, 1, 3]], np.ones((1, 3), bool))
    np.testing.assert_allclose(attend()(PARAMS, QUERIES, text, where)[:1], short, atol=1e-5)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.asarray(gradients[2])[~where].any()


@pytest.mark.parametrize("tokens", [0, T])
def test_no_token_leaves_the_norm_alone(tokens):
    text, where = TEXT[:, :tokens], np.zeros((B, tokens), bool)
    expected = layer_norm(PARAMS["norm"], QUERIES)  # the output bias is part of what is dropped
    np.testing.assert_allclose(attend()(PARAMS, QUERIES, text, where), expected, atol=1e-5)
    gradients = jax.grad(lambda p: jnp.sum(jnp.sin(attend()(p, QUERIES, text, where))))(PARAMS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.asarray(gradients["out"]["bias"]).any()


def test_one_token_adds_the_same_vector_to_every_query():
    params = attention_params()
    params["norm"] = {"scale": jnp.ones(D), "bias": jnp.zeros(D)}
    params["out"] = {"kernel": jnp.zeros((D, D)), "bias": jnp.arange(float(D))}  # whatever is attended to
    added = layer_norm(params["norm"], QUERIES + np.arange(float(D)))
    np.testing.assert_allclose(attend()(params, QUERIES, TEXT[:, :1], ALL[:, :1]), added, atol=1e-5)
    value = TEXT[:, :1] @ PARAMS["value"]["kernel"] + PARAMS["value"]["bias"]
    vector = value @ PARAMS["out"]["kernel"] + PARAMS["out"]["bias"]  # no query in it
    expected = layer_norm(PARAMS["norm"], QUERIES + vector)
    np.testing.assert_allclose(attend()(PARAMS, QUERIES, TEXT[:, :1], ALL[:, :1]), expected, rtol=1e-4, atol=1e-5)


# --- heads of the decoder


def test_mask_is_the_product_with_every_pixel():
    pixels = normal(3, B, 4, 6, D)
    masks = pmp.mask_logits(QUERIES, pixels)
    assert masks.shape == (B, Q, 4, 6)
    np.testing.assert_allclose(masks[1, 2, 3, 5], QUERIES[1, 2] @ pixels[1, 3, 5], rtol=1e-5)


def test_prompt_score_is_a_cosine():
    text = normal(4, 4, D)
    scores = pmp.prompt_scores(QUERIES, text, temperature=0.1)
    assert np.abs(scores).max() <= 10 + 1e-4
    np.testing.assert_allclose(
        pmp.prompt_scores(3 * QUERIES, 0.2 * text, temperature=0.1), scores, rtol=1e-4, atol=1e-5
    )
    own = pmp.prompt_scores(text[None], text)
    np.testing.assert_allclose(jnp.diagonal(own[0]), 1 / 0.07, rtol=1e-5)
    assert np.array_equal(jnp.argmax(own[0], -1), np.arange(4))


def test_zero_query_scores_zero_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda q: pmp.prompt_scores(q, TEXT[0]).sum())(jnp.zeros((1, 1, D)))
    assert value == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("null_class", [True, False])
def test_semantic_map_is_at_most_the_sum_of_the_masks(null_class):
    logits, masks = 3 * normal(5, B, Q, 4), 3 * normal(6, B, Q, 5, 7)
    maps = pmp.semantic_map(logits, masks, null_class=null_class)
    assert maps.shape == (B, 5, 7, 4 - null_class)
    assert np.all(np.asarray(maps) >= 0)
    total = np.asarray(jax.nn.sigmoid(masks).sum(1))
    if null_class:
        assert np.all(np.asarray(maps.sum(-1)) <= total + 1e-5)
    else:
        np.testing.assert_allclose(maps.sum(-1), total, rtol=1e-5)


def test_semantic_map_forgets_what_is_no_object():
    logits = jnp.array([[[0.0, 0.0, 60.0], [60.0, 0.0, 0.0]]])
    maps = pmp.semantic_map(logits, jnp.full((1, 2, 1, 1), 40.0))
    np.testing.assert_allclose(maps[0, 0, 0], [1.0, 0.0], atol=1e-6)


def test_dice_of_a_perfect_mask_tends_to_zero():
    targets = normal(7, B, Q, 6, 6) > 0
    losses = [pmp.dice_loss(scale * (2.0 * targets - 1), targets) for scale in (0.0, 2.0, 5.0, 40.0)]
    assert all(np.all(after < before) for before, after in itertools.pairwise(losses))
    np.testing.assert_allclose(losses[-1], 0.0, atol=1e-6)


def test_dice_where_mask_or_target_is_empty():
    nothing, everything = jnp.full((1, 1, 4, 4), -60.0), jnp.full((1, 1, 4, 4), 60.0)
    no, whole = jnp.zeros((1, 1, 4, 4)), jnp.ones((1, 1, 4, 4))
    np.testing.assert_allclose(pmp.dice_loss(nothing, no), 0.0, atol=1e-6)
    for masks, targets in ((everything, no), (nothing, whole)):
        np.testing.assert_allclose(pmp.dice_loss(masks, targets), 1 - 1 / 17, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda m: pmp.dice_loss(m, no).sum())(nothing)).all()


# --- the modules


IMAGE, SEEN = normal(8, B, 9, D), normal(9, B, Q, 9) > 0


@functools.cache
def decoder(prompt):
    """The layer as one compiled function `(q, image, text, image_mask, where)`, and its parameters."""
    layer = pmp.PromptGuidedDecoderLayer(D, HEADS, 16, prompt=prompt)
    variables = jax.jit(layer.init)(jax.random.key(0), QUERIES, IMAGE, TEXT)
    compiled = jax.jit(lambda v, q, x, t, mask, where: layer.apply(v, q, x, t, image_mask=mask, where=where))

    def apply(q=QUERIES, image=IMAGE, text=TEXT, image_mask=SEEN, where=ALL):
        return compiled(variables, q, image, text, image_mask, where)

    return apply, variables["params"]


def test_module_declares_the_dictionary_of_the_function():
    layer = pmp.PromptCrossAttention(D, HEADS)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), QUERIES, TEXT)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, PARAMS)
    out = jax.jit(layer.apply)({"params": PARAMS}, QUERIES, TEXT, where=ALL)
    np.testing.assert_allclose(out, attend()(PARAMS, QUERIES, TEXT, ALL), atol=1e-6)


def test_baseline_has_the_same_other_parameters():
    with_prompt, without = (dict(decoder(prompt)[1]) for prompt in (True, False))
    assert set(with_prompt) - set(without) == {"prompt_attention"}
    del with_prompt["prompt_attention"]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, with_prompt, without))


@pytest.mark.parametrize("prompt", [True, False])
def test_only_the_guided_layer_sees_the_text(prompt):
    apply, _ = decoder(prompt)
    assert apply().shape == QUERIES.shape
    assert np.allclose(apply(), apply(text=TEXT[::-1])) == (not prompt)


def test_guided_layer_without_tokens_has_a_value():
    assert np.isfinite(decoder(True)[0](where=~ALL)).all()


def test_query_sees_its_mask_alone_and_everything_where_that_is_empty():
    apply, _ = decoder(False)
    mask = SEEN.copy()
    mask[0] = False
    mask[1, :, 4] = False
    out = apply(image_mask=mask)
    np.testing.assert_allclose(out[0], apply(image_mask=np.ones_like(mask))[0], atol=1e-5)
    image = IMAGE.copy()
    image[1, 4] = np.nan  # a place that no query sees may hold anything
    np.testing.assert_allclose(apply(image=image, image_mask=mask)[1], out[1], atol=1e-5)
    assert not np.allclose(out[1], apply(image_mask=np.ones_like(mask))[1], atol=1e-3)


def test_layer_is_equivariant_in_queries():
    apply, _ = decoder(True)
    order = np.array([1, 2, 0])
    np.testing.assert_allclose(apply(q=QUERIES[:, order], image_mask=SEEN[:, order]), apply()[:, order], atol=1e-5)


def test_bfloat16_layer_stays_bfloat16_and_close():
    layer, inputs = pmp.PromptGuidedDecoderLayer(D, HEADS, 16), ({"params": decoder(True)[1]}, QUERIES, IMAGE, TEXT)
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), inputs)
    out = jax.jit(layer.apply)(*narrow)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        out.astype(jnp.float32), decoder(True)[0](image_mask=np.ones_like(SEEN)), rtol=0.1, atol=0.1
    )


# --- bad input


def cross(**changes):
    arguments = dict(params=PARAMS, queries=QUERIES, text=TEXT, num_heads=HEADS) | changes
    return pmp.prompt_cross_attention(**arguments)


def layer_on(image=IMAGE, queries=QUERIES, text=TEXT, num_heads=HEADS, image_mask=None):
    layer = pmp.PromptGuidedDecoderLayer(D, num_heads, 16)
    return layer.init(jax.random.key(0), queries, image, text, image_mask=image_mask)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: cross(num_heads=3), "num_heads must divide d = 8"),
        (lambda: cross(num_heads=0), "num_heads"),
        (lambda: cross(text=TEXT[..., :4]), r"text must have shape \[b, t, d\] with d = 8"),
        (lambda: cross(text=TEXT[:1]), "text"),
        (lambda: cross(params=attention_params(dim=4)), r'params\["query"\]\["kernel"\]'),
        (lambda: cross(where=ALL[:, :2]), "where"),
        (lambda: cross(epsilon=-1.0), "epsilon"),
        (lambda: pmp.mask_logits(QUERIES, normal(0, B, 2, 2, 4)), "pixels"),
        (lambda: pmp.prompt_scores(QUERIES, TEXT), "text"),
        (lambda: pmp.prompt_scores(QUERIES, TEXT[0, :, :4]), "text"),
        (lambda: pmp.prompt_scores(QUERIES, TEXT[0], temperature=0.0), "temperature must be in"),
        (lambda: pmp.prompt_scores(QUERIES, TEXT[0], temperature=-1.0), "temperature must be in"),
        (lambda: pmp.semantic_map(jnp.zeros((B, Q, 1)), jnp.zeros((B, Q, 2, 2))), "class_logits"),
        (lambda: pmp.semantic_map(jnp.zeros((B, Q, 2)), jnp.zeros((B, 2, 2, 2))), "masks"),
        (lambda: pmp.dice_loss(jnp.zeros((B, Q, 2, 2)), jnp.zeros((B, Q, 2, 3))), "targets"),
        (lambda: layer_on(num_heads=3), "num_heads"),
        (lambda: layer_on(image=IMAGE[..., :4]), "image"),
        (lambda: layer_on(text=TEXT[..., :4]), "text"),
        (lambda: layer_on(queries=QUERIES[..., :4], image=IMAGE[..., :4]), "queries"),
        (lambda: layer_on(image_mask=np.ones((B, Q, 4), bool)), "image_mask"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(call)
