"""Scenes of coloured shapes, drawn on the device: images, the mask of every object, and prompts that ask for some.

An image is cut into square cells; objects of random shape, color, size and place stand in distinct cells, so that none
hides another. A prompt names a color, a shape or both ("red", "square", "red square") and asks for all objects that it
fits. Everything is a pure function of a key, under jit, vmap and a sharded batch.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .....core import checks
from ....engine.settings import check_whole

SHAPES = ("square", "bar", "pillar", "ring", "disc", "triangle", "plus", "diamond")
COLORS = {
    "red": (0.9, 0.2, 0.2),
    "green": (0.2, 0.8, 0.2),
    "blue": (0.2, 0.3, 0.9),
    "yellow": (0.9, 0.9, 0.2),
    "magenta": (0.8, 0.2, 0.8),
    "cyan": (0.2, 0.8, 0.8),
    "white": (0.95, 0.95, 0.95),
    "black": (0.05, 0.05, 0.05),
}
BACKGROUND = 0.5
SMALLEST = 2.5  # radius of an object in pixels; below it shapes cannot be told apart
ANY = -1  # a prompt's shape or color that may be any


class Scenes(NamedTuple):
    """A batch of n images `[n, size, size, 3]`, 0 to 1, with at most m objects each."""

    image: jax.Array
    masks: jax.Array  # [n, m, size, size] bool, disjoint; empty where there is no object
    shape: jax.Array  # [n, m] int32, into SHAPES
    color: jax.Array  # [n, m] int32, into COLORS
    where: jax.Array  # [n, m] bool, True: there is an object


class Prompts(NamedTuple):
    """What is asked of each of n scenes, at most p things; `[n, p]` each."""

    shape: jax.Array  # int32, into SHAPES or ANY
    color: jax.Array  # int32, into COLORS or ANY; not both ANY
    where: jax.Array  # bool, True: it is asked; the first always is


def draw_scenes(
    key: jax.Array,
    n: int,
    *,
    size: int = 24,
    cell: int = 8,
    objects: tuple[int, int] = (3, 5),
    shapes: int = 4,
    colors: int = 4,
    noise: float = 0.1,
) -> Scenes:
    """Scenes with between `objects[0]` and `objects[1]` objects, each number as likely.

    Args:
        key: PRNG key.
        n: number of scenes.
        size: side of an image in pixels.
        cell: side of the square that an object stands in, at least 6 pixels.
        objects: fewest and most objects; there are (size // cell)^2 cells for them.
        shapes: objects take one of the first so many `SHAPES`, and likewise
        colors: of `COLORS`, independently and uniformly.
        noise: standard deviation of the Gaussian noise on every channel, in units of the intensity.

    Raises:
        ValueError: a number outside its range; those of a config's section `data` have its names.

    Example:
        >>> scenes = draw_scenes(jax.random.key(0), 2)
        >>> scenes.image.shape, scenes.masks.shape
        ((2, 24, 24, 3), (2, 5, 24, 24))
    """
    check_whole("n", n, 0)
    check_whole("data.size", size, 1)
    check_whole("data.cell", cell, math.ceil(2 * SMALLEST + 1), size)
    if len(objects) != 2:
        raise ValueError(f"data.objects must be two numbers, the fewest and the most, got {objects}.")
    side = size // cell
    check_whole("data.objects[0]", objects[0], 1, side**2)
    check_whole("data.objects[1]", objects[1], objects[0], side**2)
    _check_kinds(shapes, colors)
    checks.in_interval("data.noise", noise, 0.0, jnp.inf)
    most = objects[1]
    uniform_key, noise_key = jax.random.split(key)
    parts = [1, side**2] + 5 * [most]
    uniform = jax.random.uniform(uniform_key, (n, sum(parts)))  # all at once: each random call is slow to compile
    count, cells, *uniform = jnp.split(uniform, np.cumsum(parts)[:-1], axis=-1)
    spread, right, down, shape, color = uniform
    where = jnp.arange(most) < _pick(count, most + 1, low=objects[0])
    shape, color = _pick(shape, shapes), _pick(color, colors)

    cells = jnp.argsort(cells, axis=-1)[:, :most]
    radius = SMALLEST + spread * ((cell - 1) / 2 - SMALLEST)
    free = cell - 2 * radius
    x, y = cell * (cells % side) + radius + right * free, cell * (cells // side) + radius + down * free

    masks = _outlines(x, y, radius, size)[:shapes]  # [shapes, n, most, size, size]
    chosen = shape == jnp.arange(shapes)[:, None, None]
    masks = jnp.any(masks & (chosen & where)[..., None, None], axis=0)
    table = jnp.array(list(COLORS.values()))
    image = BACKGROUND + jnp.einsum("nmyx,nmc->nyxc", masks.astype(jnp.float32), table[color] - BACKGROUND)
    grain = jax.random.normal(noise_key, (n, size * size * 3)).reshape(image.shape)  # rank 4 would compile slowly
    return Scenes(jnp.clip(image + noise * grain, 0.0, 1.0), masks, shape, color, where)


def _check_kinds(shapes: int, colors: int) -> None:
    check_whole("data.shapes", shapes, 1, len(SHAPES))
    check_whole("data.colors", colors, 1, len(COLORS))


def _outlines(x: jax.Array, y: jax.Array, radius: jax.Array, size: int) -> jax.Array:
    """The pixels of an object at (x, y), were it each of `SHAPES`: `[shapes, ..., size, size]` bool."""
    pixel = jnp.arange(size) + 0.5
    x, y, radius = (value[..., None, None] for value in (x, y, radius))
    x, y = (pixel - x) / radius, (pixel[:, None] - y) / radius
    far, near = jnp.maximum(abs(x), abs(y)), jnp.minimum(abs(x), abs(y))
    reach = x**2 + y**2
    outlines = {
        "square": far <= 1.0,
        "disc": reach <= 1.0,
        "triangle": (abs(y) <= 0.9) & (abs(x) <= (y + 1.1) / 2),
        "plus": (near <= 0.35) & (far <= 1.0),
        "ring": (reach <= 1.0) & (reach >= 0.3),
        "diamond": abs(x) + abs(y) <= 1.0,
        "bar": (abs(x) <= 1.0) & (abs(y) <= 0.4),
        "pillar": (abs(x) <= 0.4) & (abs(y) <= 1.0),
    }
    return jnp.stack([jnp.broadcast_to(outlines[name], reach.shape) for name in SHAPES])


def draw_prompts(
    key: jax.Array, scenes: Scenes, *, most: int = 3, stray: float = 0.0, shapes: int = 4, colors: int = 4
) -> Prompts:
    """Between one and `most` prompts for each scene, each number as likely, none twice.

    A prompt is taken from a random object: its color, its shape or both, each as likely. Of equal ones the first stays,
    so a scene may end up with fewer.

    Args:
        key: PRNG key.
        scenes: what is asked about.
        most: largest number of prompts.
        stray: share of the prompts that name a random shape and color instead, and so may fit no object.
        shapes: as in `draw_scenes`, for the stray prompts, and likewise
        colors: the number of colors.

    Raises:
        ValueError: most below 1, stray outside [0, 1], shapes or colors outside their range, or a scene without an
            object, or whose objects do not come first.
    """
    check_whole("data.prompts", most, 1)
    checks.in_interval("data.stray", stray, 0.0, 1.0)
    _check_kinds(shapes, colors)
    if checks.is_known(scenes.where):
        where = np.asarray(scenes.where)
        wrong = np.flatnonzero(~where[:, 0] | np.any(where[:, 1:] & ~where[:, :-1], axis=1))
        if len(wrong):
            raise ValueError(
                "scenes.where must be True for the objects of a scene, which come first, one at least; not so in "
                f"scene {wrong[0]}."
            )
    n = scenes.where.shape[0]
    uniform = jax.random.uniform(key, (n, 1 + 5 * most))
    count, (index, kind, random, any_shape, any_color) = uniform[:, :1], jnp.split(uniform[:, 1:], 5, axis=-1)
    asked = jnp.arange(most) < _pick(count, most + 1, low=1)
    index = _pick(index, jnp.sum(scenes.where, axis=-1, keepdims=True))  # objects come first in a row
    shape, color = (jnp.take_along_axis(values, index, axis=-1) for values in (scenes.shape, scenes.color))
    shape = jnp.where(random < stray, _pick(any_shape, shapes), shape)
    color = jnp.where(random < stray, _pick(any_color, colors), color)
    kind = _pick(kind, 3)
    shape, color = jnp.where(kind == 0, ANY, shape), jnp.where(kind == 1, ANY, color)

    same = (shape[:, :, None] == shape[:, None]) & (color[:, :, None] == color[:, None])
    repeated = jnp.any(same & jnp.tri(most, k=-1, dtype=bool), axis=-1)
    return Prompts(shape, color, asked & ~repeated)


def _pick(uniform: jax.Array, high: int | jax.Array, *, low: int = 0) -> jax.Array:
    """Integers from `low` to `high` - 1 out of numbers uniform in [0, 1)."""
    return jnp.minimum(low + jnp.floor(uniform * (high - low)), high - 1).astype(jnp.int32)


def asked_masks(scenes: Scenes, prompts: Prompts) -> jax.Array:
    """The pixels of all objects that each prompt fits: `[n, p, size, size]` bool, empty where it fits none."""

    def fits(wanted, found):
        return (wanted[:, :, None] == ANY) | (wanted[:, :, None] == found[:, None])

    fit = fits(prompts.shape, scenes.shape) & fits(prompts.color, scenes.color)
    fit = fit & scenes.where[:, None] & prompts.where[..., None]
    return jnp.einsum("npm,nmyx->npyx", fit.astype(jnp.float32), scenes.masks.astype(jnp.float32)) > 0


def phrase_codes(key: jax.Array, dim: int) -> jax.Array:
    """A fixed random text encoder: `[len(SHAPES) + 1, len(COLORS) + 1, dim]`, indexed by shape and color.

    Codes have length sqrt(dim), so that their entries are of order 1. That of "red square" lies between those of "red"
    and of "square". The last row and the last column are ANY, which is index -1; their common entry, which nobody asks
    for, is 0.

    Raises:
        ValueError: dim below 1.
    """
    check_whole("dim", dim, 1)
    words = jax.random.normal(key, (len(SHAPES) + len(COLORS), dim))
    shapes, colors = (jnp.pad(part, ((0, 1), (0, 0))) for part in (words[: len(SHAPES)], words[len(SHAPES) :]))
    codes = shapes[:, None] + colors
    return codes * dim**0.5 / jnp.maximum(jnp.linalg.norm(codes, axis=-1, keepdims=True), 1e-6)


def phrase(shape: int, color: int) -> str:
    """The words of a prompt.

    Raises:
        ValueError: a shape or a color that there is not.

    Example:
        >>> phrase(0, 2), phrase(ANY, 0)
        ('blue square', 'red')
    """
    check_whole("shape", shape, ANY, len(SHAPES) - 1)
    check_whole("color", color, ANY, len(COLORS) - 1)
    words = [] if color == ANY else [list(COLORS)[color]]
    return " ".join(words if shape == ANY else [*words, SHAPES[shape]])
