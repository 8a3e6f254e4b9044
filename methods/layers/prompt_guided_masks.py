r"""Prompt-guided mask proposal: the mask queries of a segmenter see the text prompts, so that a mask exists for each.

Li et al. "Prompt-Guided Mask Proposal for Two-Stage Open-Vocabulary Segmentation." 2024, arXiv:2412.10292.

A two-stage open-vocabulary segmenter first proposes masks and then matches them to the prompts. Proposals that do not
know what is asked may miss it, above all where there are fewer queries than things to see. Here every layer of the
query-based decoder (Mask2Former) takes, for queries q, image features x, text tokens t and d channels,

    q <- LayerNorm( q + MHA(q, x) )    masked: where the mask that q gave so far has probability >= 1/2; if nowhere, all
    q <- LayerNorm( q + MHA(q, t) )    what this method adds
    q <- LayerNorm( q + MHA(q, q) )
    q <- LayerNorm( q + FFN(q) )

with MHA(q, t) = concat_h softmax( (q W_q)_h (t W_k)_h^T / sqrt(d/h) ) (t W_v)_h W_o, each product with its bias. Masks
are <q, E_xy> for a pixel embedding E, and the score of query q for the prompt e is cos(q, e) / temperature. A semantic
map is sum_q softmax(class logits)_c sigmoid(mask)_xy. Training matches queries to targets and adds up, at every layer,
a classification loss, binary cross-entropy and, for p = sigmoid(mask) and a target t,

    dice = 1 - (2 sum p t + 1) / (sum p + sum t + 1).

No program was released. The place of the second line between the others and the temperature, 0.07, are chosen here.
`prompt_cross_attention` takes a dictionary of parameters; `PromptCrossAttention` is a Flax module that declares that
very dictionary, and `PromptGuidedDecoderLayer` is the four lines above, or with prompt=False the baseline.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from ...core import checks, distances, numerics
from ...core.networks.batch import split_batch


def prompt_cross_attention(
    params: dict[str, dict[str, jax.Array]],
    queries: jax.Array,
    text: jax.Array,
    *,
    num_heads: int = 8,
    epsilon: float = 1e-5,
    where: jax.Array | None = None,
) -> jax.Array:
    """Queries after they have attended to the text: LayerNorm( q + MHA(query = q, key = value = t) ).

    Args:
        params: {"query", "key", "value", "out": {"kernel": `[d, d]` (input, output), "bias": `[d]`}, "norm": {"scale":
            `[d]`, "bias": `[d]`}}, floats.
        queries: `[b, q, d]` float.
        text: `[b, t, d]` float, the tokens of the prompts.
        num_heads: h, static, divides d.
        epsilon: added to the variance in the norm, at least 0.
        where: `[b, t]` bool, True: the token counts. None: all do. What it leaves out may be infinite or NaN. Where no
            token counts, the attention term is 0, the output bias with it, and LayerNorm(q) is left.

    Returns:
        `[b, q, d]`, of the dtype of the inputs' promotion, the parameters among them.

    Raises:
        ValueError: num_heads does not divide d, text of another width, or shapes other than these.

    Example:
        >>> linear = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
        >>> params = dict(query=linear, key=linear, value=linear, out=linear)
        >>> params["norm"] = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
        >>> q, t = jnp.array([[[0.0, 0.0]]]), jnp.array([[[3.0, 1.0]]])   # one token: q + t is normalised
        >>> prompt_cross_attention(params, q, t, num_heads=1).round(3)
        Array([[[ 1., -1.]]], dtype=float32)
    """
    sizes = checks.shapes(("queries", queries, "b q d"), ("text", text, "b t d"))
    _check_heads(num_heads, sizes["d"])
    checks.in_interval("epsilon", epsilon, 0.0, jnp.inf, closed="left")
    for name in ("query", "key", "value", "out"):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        square, vector = (f'params["{name}"]["kernel"]', kernel, "d d"), (f'params["{name}"]["bias"]', bias, "d")
        checks.shapes(("queries", queries, "b q d"), square, vector)
    if where is not None:
        checks.shapes(("text", text, "b t d"), ("where", where, "b t"))
        where = where[:, None, :]
    return _attention_layer(params, queries, text, num_heads, epsilon, where)


def mask_logits(queries: jax.Array, pixels: jax.Array) -> jax.Array:
    """The mask of each query: its product with the embedding of every pixel.

    Args:
        queries: `[b, q, d]` float.
        pixels: `[b, h, w, d]` float.

    Returns:
        `[b, q, h, w]` logits, in at least float32.

    Raises:
        ValueError: another b or d in pixels, or shapes other than these.

    Example:
        >>> mask_logits(jnp.array([[[1.0, -1.0]]]), jnp.array([[[[3.0, 1.0], [0.0, 2.0]]]]))
        Array([[[[ 2., -2.]]]], dtype=float32)
    """
    checks.shapes(("queries", queries, "b q d"), ("pixels", pixels, "b h w d"))
    _, wide = numerics.float_dtypes(queries, pixels)
    return jnp.einsum("bqd,bhwd->bqhw", queries.astype(wide), pixels.astype(wide))


def prompt_scores(queries: jax.Array, text: jax.Array, *, temperature: ArrayLike = 0.07) -> jax.Array:
    """How well each query fits each prompt: cos(q, e) / temperature.

    Args:
        queries: `[b, q, d]` float.
        text: `[c, d]` float, one embedding a prompt or class name. Where each example has its own, vmap over both.
        temperature: positive scalar; may be traced.

    Returns:
        `[b, q, c]` logits, in at least float32; the score of a zero vector is 0.

    Raises:
        ValueError: a temperature that is not positive, text of another width, or shapes other than these.

    Example:
        >>> prompt_scores(jnp.array([[[3.0, 4.0]]]), jnp.array([[1.0, 0.0], [0.0, 2.0]]), temperature=0.1)
        Array([[[6., 8.]]], dtype=float32)
    """
    checks.shapes(("queries", queries, "b q d"), ("text", text, "c d"), ("temperature", temperature, ""))
    checks.in_interval("temperature", temperature, 0.0, jnp.inf, closed="neither")
    _, wide = numerics.float_dtypes(queries, text)
    queries, text = (distances.l2_normalize(x.astype(wide)) for x in (queries, text))
    return jnp.einsum("bqd,cd->bqc", queries, text) / jnp.asarray(temperature, wide)


def semantic_map(class_logits: jax.Array, masks: jax.Array, *, null_class: bool = True) -> jax.Array:
    """How strongly each pixel belongs to each class: sum_q softmax(class_logits_q)_c sigmoid(masks_q)_xy.

    Args:
        class_logits: `[b, q, c]` float, or `[b, q, c + 1]` if null_class.
        masks: `[b, q, h, w]` float, logits.
        null_class: the last column is "no object": it takes its share of the softmax and is dropped.

    Returns:
        `[b, h, w, c]`, at least 0, in at least float32. Not a distribution: over the classes it sums to at most the sum
        of the mask probabilities.

    Raises:
        ValueError: null_class with no other class, another b or q in masks, or shapes other than these.

    Example:
        >>> semantic_map(jnp.zeros((1, 1, 2)), jnp.array([[[[0.0, 100.0]]]]))   # one class, half the softmax
        Array([[[[0.25],
                 [0.5 ]]]], dtype=float32)
    """
    columns = checks.shapes(("class_logits", class_logits, "b q c"), ("masks", masks, "b q h w"))["c"]
    if null_class and columns < 2:
        raise ValueError(f"class_logits must have a class beside the null class, got shape {list(class_logits.shape)}.")
    _, wide = numerics.float_dtypes(class_logits, masks)
    probs = jax.nn.softmax(class_logits.astype(wide), axis=-1)
    probs = probs[..., :-1] if null_class else probs
    return jnp.einsum("bqc,bqhw->bhwc", probs, jax.nn.sigmoid(masks.astype(wide)))


def dice_loss(masks: jax.Array, targets: jax.Array) -> jax.Array:
    """How far each mask is from overlapping its target: 1 - (2 sum p t + 1) / (sum p + sum t + 1), p = sigmoid(mask).

    Args:
        masks: `[b, q, h, w]` float, logits.
        targets: `[b, q, h, w]`, 0 or 1, or anything between; any dtype.

    Returns:
        `[b, q]` in [0, 1), in at least float32; 0 where mask and target are both empty.

    Raises:
        ValueError: shapes other than these.

    Example:
        >>> dice_loss(jnp.zeros((1, 1, 1, 2)), jnp.array([[[[1.0, 0.0]]]]))   # 1 - (1 + 1) / (1 + 1 + 1)
        Array([[0.3333...]], dtype=float32)
    """
    checks.shapes(("masks", masks, "b q h w"), ("targets", targets, "b q h w"))
    _, wide = numerics.float_dtypes(masks, targets)
    p, t = jax.nn.sigmoid(masks.astype(wide)), targets.astype(wide)
    overlap, total = (jnp.sum(x, axis=(-1, -2)) for x in (p * t, p + t))
    return 1 - (2 * overlap + 1) / (total + 1)


class PromptCrossAttention(nn.Module):
    """`prompt_cross_attention` with parameters of its own, named as there.

    Attributes:
        dim: d, the width of queries and text.
        num_heads: divides `dim`.
        epsilon: of the norm.

    Args:
        queries: `[b, q, d]` float.
        text: `[b, t, d]` float.
        where: `[b, t]` bool, True: the token counts.

    Returns:
        `[b, q, d]`.

    Raises:
        ValueError: as `prompt_cross_attention`.

    Example:
        >>> queries, text = jnp.ones((1, 3, 8)), jnp.ones((1, 2, 8))
        >>> layer = PromptCrossAttention(dim=8, num_heads=2)
        >>> variables = layer.init(jax.random.key(0), queries, text)
        >>> out = prompt_cross_attention(variables["params"], queries, text, num_heads=2)
        >>> bool(jnp.all(layer.apply(variables, queries, text) == out))
        True
    """

    dim: int
    num_heads: int = 8
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, queries: jax.Array, text: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
        """Queries `[b, q, d]` after the text."""
        params = _declare_attention(self, self.dim)
        return prompt_cross_attention(
            params, queries, text, num_heads=self.num_heads, epsilon=self.epsilon, where=where
        )


class PromptGuidedDecoderLayer(nn.Module):
    """One layer of the mask decoder: image attention, prompt attention, self-attention, feed-forward.

    Each adds to its input and is followed by a LayerNorm. The parameters of `image_attention`, `prompt_attention` and
    `self_attention` are those of `prompt_cross_attention`.

    Attributes:
        dim: d, the width of queries, image and text.
        num_heads: of each attention, divides `dim`.
        hidden: width of the feed-forward's hidden layer.
        prompt: False leaves the prompt attention out, which is the baseline: every other parameter is the same, and
            starts from the same values under the same key.

    Args:
        queries: `[b, q, d]` float.
        image: `[b, n, d]` float, features of n places.
        text: `[b, t, d]` float, the tokens of the prompts; not looked at without `prompt`.
        image_mask: `[b, q, n]` bool, the places that each query attends to, such as those where its mask has a logit
            of at least 0. A query with none attends to all. None: all do.
        where: `[b, t]` bool, True: the token counts.

    Returns:
        `[b, q, d]`, of the dtype of the inputs' promotion, the parameters among them; rounded to it once, at the end.

    Raises:
        ValueError: num_heads does not divide dim, or shapes other than these.

    Example:
        >>> layer = PromptGuidedDecoderLayer(dim=8, num_heads=2, hidden=16)
        >>> queries, image, text = jnp.ones((1, 3, 8)), jnp.ones((1, 9, 8)), jnp.ones((1, 2, 8))
        >>> out, variables = layer.init_with_output(jax.random.key(0), queries, image, text)
        >>> out.shape, sorted(variables["params"])
        ((1, 3, 8), ['feed_forward', 'image_attention', 'prompt_attention', 'self_attention'])
    """

    dim: int
    num_heads: int
    hidden: int
    prompt: bool = True

    @nn.compact
    def __call__(
        self,
        queries: jax.Array,
        image: jax.Array,
        text: jax.Array,
        *,
        image_mask: jax.Array | None = None,
        where: jax.Array | None = None,
    ) -> jax.Array:
        """Queries `[b, q, d]` after the layer."""
        checks.in_interval("hidden", self.hidden, 1, jnp.inf)
        sizes = checks.shapes(("queries", queries, "b q d"), ("image", image, "b n d"))
        if sizes["d"] != self.dim:
            raise ValueError(f"queries must have shape [b, q, {self.dim}], got shape {list(queries.shape)}.")
        if image_mask is not None:
            checks.shapes(("queries", queries, "b q d"), ("image", image, "b n d"), ("image_mask", image_mask, "b q n"))
            image_mask = image_mask | ~jnp.any(image_mask, axis=-1, keepdims=True)
        inputs = (queries, image, text) if self.prompt else (queries, image)
        _, wide = numerics.float_dtypes(*inputs)
        queries, image = queries.astype(wide), image.astype(wide)
        queries = _Attention(self.dim, self.num_heads, name="image_attention")(queries, image, image_mask)
        if self.prompt:
            attention = PromptCrossAttention(self.dim, self.num_heads, name="prompt_attention")
            queries = attention(queries, text, where=where)
        queries = _Attention(self.dim, self.num_heads, name="self_attention")(split_batch(queries), queries, None)
        queries = _FeedForward(self.dim, self.hidden, name="feed_forward")(queries)
        result, _ = numerics.float_dtypes(*inputs, *jax.tree.leaves(self.variables["params"]))
        return split_batch(queries).astype(result)


class _Attention(nn.Module):
    """The same layer over any keys `[b, n, d]`, with a mask `[b, q, n]` for each query."""

    dim: int
    num_heads: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, queries, keys, where):
        _check_heads(self.num_heads, self.dim)
        params = _declare_attention(self, self.dim)
        return _attention_layer(params, queries, keys, self.num_heads, self.epsilon, where)


class _FeedForward(nn.Module):
    """LayerNorm( q + W_2 relu(W_1 q) ), each product with its bias."""

    dim: int
    hidden: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        params = {"in": _declare_linear(self, "in", self.dim, self.hidden)}
        params["out"] = _declare_linear(self, "out", self.hidden, self.dim)
        params["norm"] = _declare_norm(self, self.dim)
        result, wide = numerics.float_dtypes(x, *jax.tree.leaves(params))
        params, x = jax.tree.map(lambda leaf: leaf.astype(wide), (params, x))
        x = x + _linear(params["out"], jax.nn.relu(_linear(params["in"], x)))
        return _layer_norm(params["norm"], x, self.epsilon).astype(result)


def _attention_layer(params, queries, keys, num_heads, epsilon, where):
    """LayerNorm( q + MHA(q, k) ); `where` is `[b, 1 or q, n]` or None."""
    result, wide = numerics.float_dtypes(queries, keys, *jax.tree.leaves(params))
    params, queries, keys = jax.tree.map(lambda leaf: leaf.astype(wide), (params, queries, keys))
    if where is None:
        where = jnp.ones((1, 1, keys.shape[1]), bool)
    keys = jnp.where(jnp.any(where, axis=1)[..., None], keys, 0)  # what nobody sees may hold anything

    def heads(name, x):
        return _linear(params[name], x).reshape(*x.shape[:2], num_heads, x.shape[2] // num_heads)

    query, key, value = heads("query", queries), heads("key", keys), heads("value", keys)
    scores = jnp.einsum("bqhd,bnhd->bhqn", query, key) / math.sqrt(query.shape[-1])
    log_weights = numerics.log_normalize(jnp.where(where[:, None], scores, -jnp.inf))
    mixed = jnp.einsum("bhqn,bnhd->bqhd", jnp.exp(log_weights), value)
    attended = _linear(params["out"], mixed.reshape(queries.shape))
    attended = jnp.where(jnp.any(where, axis=-1)[..., None], attended, 0)
    return _layer_norm(params["norm"], queries + attended, epsilon).astype(result)


def _linear(params, x):
    return x @ params["kernel"] + params["bias"]


def _layer_norm(params, x, epsilon):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon) * params["scale"] + params["bias"]


def _declare_attention(module, dim):
    params = {name: _declare_linear(module, name, dim, dim) for name in ("query", "key", "value", "out")}
    return params | {"norm": _declare_norm(module, dim)}


def _declare_linear(module, name, inputs, outputs):
    def init(key):
        kernel = nn.initializers.xavier_uniform()(key, (inputs, outputs))
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    return module.param(name, init)


def _declare_norm(module, dim):
    return module.param("norm", lambda key: {"scale": jnp.ones(dim), "bias": jnp.zeros(dim)})


def _check_heads(num_heads, dim):
    checks.in_interval("num_heads", num_heads, 1, jnp.inf)
    if dim % num_heads:
        raise ValueError(f"num_heads must divide d = {dim}, got {num_heads}.")
