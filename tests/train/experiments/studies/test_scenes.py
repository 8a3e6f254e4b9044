"""Scenes of shapes: what is drawn, what is asked, and what the masks of the answers are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lemmata.train.experiments.studies.prompted_scenes import scenes

N, SETTINGS = 256, dict(shapes=8, colors=8, noise=0.0)


@functools.cache
def drawn(stray=0.0):
    """Many scenes and their prompts, as NumPy arrays."""

    @jax.jit
    def draw(key):
        scene_key, prompt_key = jax.random.split(key)
        found = scenes.draw_scenes(scene_key, N, **SETTINGS)
        prompts = scenes.draw_prompts(prompt_key, found, stray=stray, shapes=8, colors=8)
        return found, prompts, scenes.asked_masks(found, prompts)

    return jax.tree.map(np.asarray, draw(jax.random.key(0)))


def test_number_of_objects_and_their_kinds_are_uniform():
    found, _, _ = drawn()
    count = found.where.sum(-1)
    assert set(count) == {3, 4, 5}
    assert np.all(np.bincount(count)[3:] > N / 5)
    for kinds in (found.shape, found.color):
        assert np.all(np.bincount(kinds[found.where], minlength=8) > 0.6 * found.where.sum() / 8)


def test_objects_are_whole_and_apart():
    found, _, _ = drawn()
    assert found.masks.sum(1).max() == 1
    area = found.masks.sum((-1, -2))
    assert not area[~found.where].any()
    assert area[found.where].min() >= 9
    borders = [np.arange(24) // 8 == cell for cell in range(3)]
    cells = [found.masks[..., rows, :][..., columns].any((-1, -2)) for rows in borders for columns in borders]
    assert np.all(np.sum(cells, axis=0)[found.where] == 1)  # none reaches out of its cell


def test_pixels_have_the_color_of_their_object():
    found, _, _ = drawn()
    table = np.array(list(scenes.COLORS.values()))
    for scene, index in zip(*np.nonzero(found.where), strict=True):
        pixels = found.image[scene][found.masks[scene, index]]
        assert np.abs(pixels - table[found.color[scene, index]]).max() < 1e-6
    assert np.abs(found.image[~found.masks.any(1)] - scenes.BACKGROUND).max() < 1e-6


def test_shapes_differ():
    """Drawn in the same place, no two shapes share more than 85 % of their pixels, and fewer where they are large."""
    outlines = np.asarray(scenes._outlines(jnp.array([4.0]), jnp.array([4.0]), jnp.array([3.5]), 8))[:, 0]
    both = (outlines[:, None] & outlines).sum((-1, -2))
    either = (outlines[:, None] | outlines).sum((-1, -2))
    assert np.all((both / either)[~np.eye(8, dtype=bool)] < 0.85)


@pytest.mark.parametrize("stray", [0.0, 1.0])
def test_prompts_are_distinct_and_the_first_is_asked(stray):
    _, prompts, _ = drawn(stray)
    assert prompts.where[:, 0].all()
    assert set(prompts.where.sum(-1)) == {1, 2, 3}
    for shape, color, where in zip(*prompts, strict=True):
        asked = list(zip(shape[where], color[where], strict=True))
        assert len(set(asked)) == len(asked)
        assert (scenes.ANY, scenes.ANY) not in asked


@pytest.mark.parametrize("stray", [0.0, 1.0])
def test_asked_mask_is_the_union_of_the_objects_that_fit(stray):
    found, prompts, masks = drawn(stray)
    for i in range(40):
        for j in range(3):
            expected = np.zeros((24, 24), bool)
            for k in range(5):
                fits = prompts.shape[i, j] in (scenes.ANY, found.shape[i, k])
                fits &= prompts.color[i, j] in (scenes.ANY, found.color[i, k])
                if found.where[i, k] and prompts.where[i, j] and fits:
                    expected |= found.masks[i, k]
            np.testing.assert_array_equal(masks[i, j], expected)
    empty = ~masks.any((-1, -2)) & prompts.where
    assert empty.any() == (stray > 0)  # a stray prompt may fit nothing, the others always fit something


def test_code_of_a_phrase_lies_between_those_of_its_words():
    codes = scenes.phrase_codes(jax.random.key(0), 64) / 8
    square, red = codes[0, scenes.ANY], codes[scenes.ANY, 0]
    lengths = np.linalg.norm(codes, axis=-1)
    assert lengths[-1, -1] == 0
    np.testing.assert_allclose(np.delete(lengths.ravel(), -1), 1.0, rtol=1e-5)
    assert min(codes[0, 0] @ square, codes[0, 0] @ red) > 0.5 > abs(square @ red)


def test_words_of_a_prompt():
    assert [scenes.phrase(0, 0), scenes.phrase(1, scenes.ANY), scenes.phrase(scenes.ANY, 2)] == [
        "red square",
        "bar",
        "blue",
    ]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(cell=5), "data.cell"),
        (dict(cell=32), "data.cell"),
        (dict(objects=(0, 3)), r"data.objects\[0\]"),
        (dict(objects=(3, 10)), r"data.objects\[1\]"),
        (dict(objects=(4, 3)), r"data.objects\[1\]"),
        (dict(shapes=9), "data.shapes"),
        (dict(colors=0), "data.colors"),
        (dict(colors=2.5), "data.colors"),
        (dict(cell=7.5), "data.cell"),
        (dict(objects=(1, 2, 3)), "data.objects"),
        (dict(objects=(1, 2.5)), r"data.objects\[1\]"),
        (dict(noise=-1.0), "data.noise"),
        (dict(noise=float("nan")), "data.noise"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(lambda key: scenes.draw_scenes(key, 2, **settings), jax.random.key(0))


def test_scenes_without_objects_give_no_prompts():
    found, _, _ = drawn()
    for place, row in ((0, [False] * 5), (3, [True, False, True, False, False])):  # none, and not first
        where = found.where.copy()
        where[place] = row
        with pytest.raises(ValueError, match=f"scenes.where must be True .*in scene {place}"):
            scenes.draw_prompts(jax.random.key(0), found._replace(where=where))


@pytest.mark.parametrize(("shape", "color"), [(-2, 0), (8, 0), (0, 8), (0, -2), (0.0, 0)])
def test_what_is_no_shape_or_color_has_no_words(shape, color):
    with pytest.raises(ValueError, match="must be an integer from -1 to 7"):
        scenes.phrase(shape, color)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(most=0), "data.prompts"),
        (dict(most=2.5), "data.prompts"),
        (dict(stray=1.5), "data.stray"),
        (dict(shapes=9), "data.shapes"),
        (dict(colors=0), "data.colors"),
    ],
)
def test_bad_prompt_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        scenes.draw_prompts(jax.random.key(0), drawn()[0], **settings)
