"""Segmentation of what text prompts ask for, by a query-based decoder on scenes of coloured shapes.

The scenes and prompts are those of `lemmata.train.data.scenes`, fresh in every batch. A small convolutional encoder, of
half the image's resolution, feeds `model.num_layers` decoder layers of `lemmata.methods.layers.prompt_guided_masks`
with `model.num_queries` learned queries. Each query gives a mask and a score for every prompt of the scene and for "no
object"; before the first layer and after each, the queries are matched to the asked masks at the least total cost, and
the loss is class_weight * cross-entropy + mask_weight * (binary cross-entropy + dice) of the pairs.

`method.prompt` says whether the queries attend to the prompts. Either way the prompts' own embeddings choose among the
masks in the end: a prompt takes the mask of the query with the highest score for it.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from .....core import masked
from .....core.networks.batch import split_batch
from .....core.networks.convnet import convolve_patches
from .....methods.layers import prompt_guided_masks as pmp
from ....engine.sources import Sampler
from ....engine.task import Metric, Objective, Task, TwoPass
from ....engine.types import ConfigDict
from ... import report
from ...report import ArmResult
from . import scenes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "miou": Metric("mean IoU of the asked masks"),
    "best_miou": Metric("mean IoU of the best proposals"),
}

NULL_WEIGHT = 0.1  # of a query without a target in the cross-entropy, as in DETR and Mask2Former


SMALL = {"model.num_layers": 1, "train.eval_batches": 1}


def defaults() -> ConfigDict:
    """Every key of `data`, `model` and `method`."""
    return ConfigDict(dict(
        data=dict(
            size=24,  # side of an image, pixels; even
            cell=8,  # each object has a square cell of this side to itself
            objects=(3, 5),  # fewest and most in a scene
            shapes=4,  # how many of scenes.SHAPES there are
            colors=4,  # and of scenes.COLORS
            noise=0.1,  # standard deviation, of an intensity from 0 to 1
            prompts=3,  # most prompts for a scene
            stray=0.0,  # share of the prompts that name a random shape and color, and so may fit nothing
        ),
        model=dict(
            num_queries=3,
            num_layers=2,
            dim=32,
            num_heads=4,
            hidden=64,  # of the feed-forward
            features=(16, 32),  # channels of the encoder's 3x3 convolutions
            text_dim=32,  # of the prompts' fixed random codes
            temperature=0.07,  # of the prompt scores
        ),
        method=dict(
            prompt=True,  # whether the queries attend to the prompts
            class_weight=2.0,
            mask_weight=5.0,
        ),
    ))  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- model


class Predictions(NamedTuple):
    """Of `depth` decoder stages: before the first layer, after it, ..."""

    class_logits: jax.Array  # [depth, b, q, p + 1], of the scene's prompts and of "no object"; -inf where not asked
    masks: jax.Array  # [depth, b, q, h, w] logits


class Segmenter(nn.Module):
    """Encoder, decoder and their predictions; see the module's docstring."""

    num_queries: int
    num_layers: int
    dim: int
    num_heads: int
    hidden: int
    features: tuple[int, ...]
    temperature: float
    prompt: bool

    @nn.compact
    def __call__(self, image: jax.Array, codes: jax.Array, where: jax.Array) -> Predictions:
        """Predictions for images `[b, h, w, 3]` and prompts `[b, p, text_dim]` of which `where` `[b, p]` are asked."""
        batch, height, width, _ = image.shape
        text = nn.Dense(self.dim, name="text")(codes)
        features = self._encode(image)
        places = features.reshape(batch, -1, self.dim)
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        corners = nn.Dense(4 * self.dim, kernel_init=small, name="corners")

        normal = nn.initializers.normal(1.0)
        queries = self.param("queries", normal, (self.num_queries, self.dim)).astype(text.dtype)
        null = self.param("no_object", normal, (1, self.dim)).astype(text.dtype)
        queries = jnp.broadcast_to(queries, (batch, *queries.shape))
        classes = jnp.concatenate([text, jnp.broadcast_to(null, (batch, *null.shape))], axis=1)
        asked = jnp.pad(where, ((0, 0), (0, 1)), constant_values=True)

        def predict(queries):
            one = jax.vmap(lambda q, t: pmp.prompt_scores(q[None], t, temperature=self.temperature)[0])
            scores = jnp.where(asked[:, None], one(queries, classes), -jnp.inf)
            # A place is four pixels, for each of which a query has an embedding.
            embedded = split_batch(corners(queries)).reshape(batch, -1, self.dim)
            masks = pmp.mask_logits(embedded, features).reshape(batch, -1, 2, 2, height // 2, width // 2)
            return scores, masks.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, height, width)

        stages = [predict(queries)]
        for index in range(self.num_layers):
            masks = stages[-1][1].reshape(batch, -1, height // 2, 2, width // 2, 2).mean((3, 5))
            layer = pmp.PromptGuidedDecoderLayer(
                self.dim, self.num_heads, self.hidden, prompt=self.prompt, name=f"layer_{index}"
            )
            seen = masks.reshape(batch, self.num_queries, -1) >= 0
            queries = layer(queries, places, text, image_mask=seen, where=where)
            stages.append(predict(queries))
        class_logits, masks = (jnp.stack(parts) for parts in zip(*stages, strict=True))
        return Predictions(class_logits, masks)

    def _encode(self, image):
        """Features `[b, h / 2, w / 2, dim]`: pixels in fours, convolutions, and where they are."""
        batch, height, width, channels = image.shape
        x = image.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
        x = x.reshape(batch, height // 2, width // 2, 4 * channels) - scenes.BACKGROUND
        for index, size in enumerate(self.features):
            x = nn.Conv(
                size,
                (3, 3),
                conv_general_dilated=convolve_patches,
                kernel_init=_flat_lecun_normal,
                name=f"conv_{index}",
            )(x)
            # Over all places: alone, a place of the background would have its noise scaled up to the size of a signal.
            norm = nn.GroupNorm(math.gcd(size, 8), use_fast_variance=False, name=f"norm_{index}")
            x = split_batch(nn.relu(norm(x)))
        place = self.param("place", nn.initializers.normal(0.1), (x.shape[1] * x.shape[2], self.dim))
        return nn.Dense(self.dim, name="features")(x) + place.reshape(*x.shape[1:3], self.dim).astype(x.dtype)


def _flat_lecun_normal(key, shape, dtype=jnp.float32):
    rows = shape[0] * shape[1] * shape[2]  # drawn as a matrix: random numbers of rank 4 compile slowly on a CPU
    return nn.initializers.lecun_normal()(key, (rows, shape[-1]), dtype).reshape(shape)


# ----------------------------------------------------------------------------------------------------------- training


def match(cost: jax.Array, where: jax.Array) -> jax.Array:
    """Queries paired with targets at the least total cost, each at most once.

    Args:
        cost: `[q, t]` float, at least 0; a value that is not finite counts as very large.
        where: `[t]` bool, the targets that there are.

    Returns:
        `[q, t]` bool, min(q, number of targets) pairs.
    """
    cost = jnp.nan_to_num(cost, nan=1e6, posinf=1e6)
    beyond = 1.0 + cost.shape[1] * jnp.max(jnp.where(where, cost, 0.0))  # no gain is worth a pair with no target
    rows, columns = optax.assignment.hungarian_algorithm(jnp.where(where, cost, beyond))
    return jnp.zeros(cost.shape, bool).at[rows, columns].set(True) & where


def pair_costs(predictions: Predictions, targets: jax.Array, *, class_weight: float, mask_weight: float) -> jax.Array:
    """What it would cost to pair each query with each target `[b, t, h, w]`: `[depth, b, q, t]`, at least 0."""
    masks = predictions.masks.reshape(*predictions.masks.shape[:-2], -1)
    targets = targets.reshape(*targets.shape[:-2], -1).astype(masks.dtype)
    probs = jax.nn.sigmoid(masks)

    def product(x):
        return jnp.einsum("lbqx,btx->lbqt", x, targets)

    cross_entropy = (jnp.sum(jax.nn.softplus(masks), axis=-1)[..., None] - product(masks)) / masks.shape[-1]
    total = jnp.sum(probs, axis=-1)[..., None] + jnp.sum(targets, axis=-1)[:, None]
    dice = 1 - (2 * product(probs) + 1) / (total + 1)
    unlikely = 1 - jax.nn.softmax(predictions.class_logits, axis=-1)[..., :-1]
    return class_weight * unlikely + mask_weight * (cross_entropy + dice)


def set_loss(predictions: Predictions, batch: Any, *, class_weight: float, mask_weight: float) -> jax.Array:
    """The loss of the matched pairs, summed over the decoder's stages. Its means are over all pairs of the batch."""
    targets, where = batch["target"], batch["where"]
    costs = pair_costs(predictions, targets, class_weight=class_weight, mask_weight=mask_weight)
    paired = jax.vmap(jax.vmap(match), in_axes=(0, None))(jax.lax.stop_gradient(costs), where)  # [l, b, q, t]
    depth, examples, _, prompts = paired.shape

    none = ~jnp.any(paired, axis=-1)
    label = jnp.where(none, prompts, jnp.argmax(paired, axis=-1))
    nats = optax.softmax_cross_entropy_with_integer_labels(predictions.class_logits, label)
    weight = jnp.where(none, NULL_WEIGHT, 1.0)
    class_loss = jnp.sum(weight * nats, axis=(1, 2)) / jnp.sum(weight, axis=(1, 2))

    query = jnp.argmax(paired, axis=2)  # [l, b, t]
    masks = jnp.take_along_axis(predictions.masks, query[..., None, None], axis=2)
    shape = (depth * examples, prompts, *masks.shape[3:])
    masks = masks.reshape(shape)
    targets = jnp.broadcast_to(targets, (depth, *targets.shape)).reshape(shape).astype(masks.dtype)
    cross_entropy = jnp.mean(optax.sigmoid_binary_cross_entropy(masks, targets), axis=(-1, -2))
    per_pair = (cross_entropy + pmp.dice_loss(masks, targets)).reshape(query.shape)
    mask_loss = masked.mean(per_pair, jnp.any(paired, axis=2), axis=(1, 2))
    return jnp.sum(class_weight * class_loss + mask_weight * mask_loss)


def intersection_over_union(masks: jax.Array, targets: jax.Array) -> jax.Array:
    """Of boolean masks `[..., h, w]`; two empty ones agree: 1."""
    both, either = (jnp.sum(x, axis=(-1, -2)) for x in (masks & targets, masks | targets))
    return jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)


def choose(class_logits: jax.Array, masks: jax.Array) -> jax.Array:
    """The mask that each prompt gets: of `[b, q, p + 1]` and `[b, q, h, w]` logits, `[b, p, h, w]` bool."""
    query = jnp.argmax(jax.nn.softmax(class_logits, axis=-1)[..., :-1], axis=1)
    return jnp.take_along_axis(masks, query[..., None, None], axis=1) >= 0


def make_objective(config: ConfigDict) -> Objective:
    """Fits a `Segmenter` to batches as `build` samples them; the prompts' codes are fixed, each seed's its own."""
    model, method = config.model, config.method
    if config.data.size % 2:
        raise ValueError(f"data.size must be even, got {config.data.size}.")
    for key in ("num_queries", "num_layers", "dim", "num_heads", "hidden", "text_dim"):
        if model[key] < 1:
            raise ValueError(f"model.{key} must be at least 1, got {model[key]}.")
    if not model.features or min(model.features) < 1:
        raise ValueError(f"model.features must hold numbers of at least 1, got {model.features}.")
    network = Segmenter(
        model.num_queries,
        model.num_layers,
        model.dim,
        model.num_heads,
        model.hidden,
        tuple(model.features),
        model.temperature,
        method.prompt,
    )
    weights = dict(class_weight=method.class_weight, mask_weight=method.mask_weight)

    def apply(params, variables, batch) -> Predictions:
        codes = variables["codes"][batch["shape"], batch["color"]]
        return cast(Predictions, network.apply(params, batch["image"], codes, batch["where"]))

    def init(key, batch):
        params_key, codes_key = jax.random.split(key)
        codes = scenes.phrase_codes(codes_key, model.text_dim)
        one = jax.tree.map(lambda x: x[:1], batch)
        params = network.init(params_key, one["image"], codes[one["shape"], one["color"]], one["where"])
        return params, {"codes": codes}

    def forward(params, variables, batch, key):
        return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), apply(params, variables, batch))  # examples first

    def combine(predictions, params, variables, batch, key):
        stages = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), predictions)
        return set_loss(stages, batch, **weights), (variables, {})

    def evaluate(params, variables, batch, key):
        class_logits, masks = (stages[-1] for stages in apply(params, variables, batch))
        chosen = intersection_over_union(choose(class_logits, masks), batch["target"])
        proposals = intersection_over_union((masks >= 0)[:, :, None], batch["target"][:, None])
        return {
            "miou": masked.mean(chosen, batch["where"], axis=-1),
            "best_miou": masked.mean(jnp.max(proposals, axis=1), batch["where"], axis=-1),
        }

    return Objective(init, TwoPass(forward, combine), evaluate)


def sample_batch(key: jax.Array, n: int, data: ConfigDict) -> dict[str, jax.Array]:
    """Scenes and prompts: {"image", "shape", "color", "where", "target"}, all but the first of the prompts."""
    scene_key, prompt_key = jax.random.split(key)
    kinds = dict(shapes=data.shapes, colors=data.colors)
    drawn = scenes.draw_scenes(
        scene_key, n, size=data.size, cell=data.cell, objects=tuple(data.objects), noise=data.noise, **kinds
    )
    prompts = scenes.draw_prompts(prompt_key, drawn, most=data.prompts, stray=data.stray, **kinds)
    return {"image": drawn.image, "target": scenes.asked_masks(drawn, prompts), **prompts._asdict()}


def build(config: ConfigDict) -> Task:
    """The segmenter on fresh scenes."""
    source = Sampler(lambda key, n: sample_batch(key, n, config.data))
    return Task(make_objective(config), train=source, test=source)


# ------------------------------------------------------------------------------------------------------------- report


def figure(config: ConfigDict, results: Mapping[str, ArmResult]) -> "Figure":
    """The standard plot, and beside it some held-out scenes with the first prompt and the mask that it asks for."""
    drawing = report.comparison_figure(config, results, METRICS, {})
    count = 3
    batch = jax.jit(lambda key: sample_batch(key, count, config.data))(jax.random.key(1))
    drawing.set_size_inches(11.0, 4.4)
    grid = drawing.add_gridspec(2, count + 1, width_ratios=[4.0] + count * [1.0])
    drawing.axes[0].set_subplotspec(grid[:, 0])
    for index in range(count):
        above, below = (drawing.add_subplot(grid[row, index + 1]) for row in range(2))
        above.imshow(batch["image"][index])
        above.set_title(f"scene {index + 1}", fontsize=9)
        below.imshow(batch["target"][index, 0], cmap="gray")
        words = scenes.phrase(int(batch["shape"][index, 0]), int(batch["color"][index, 0]))
        below.set_title(f"asked: {words}", fontsize=9)
        for ax in (above, below):
            ax.set_xticks([])
            ax.set_yticks([])
    return drawing
