"""Augmentations: what is drawn by its distribution, what is applied exactly, against a few lines of numpy."""

import functools
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.errors import PurerlError
from purerl.ops import augmentations
from purerl.ops.augmentations import AUGMENTATIONS, Boxes, Jitter, make_augmentation

pytestmark = pytest.mark.usefixtures("strict_dtypes")
KEY = jax.random.key(0)
MANY = 12_000
CHANGING = tuple(name for name in AUGMENTATIONS if name != "none")
every_dtype = pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])


def images(batch=6, size=64, channels=6, dtype="uint8", seed=0):
    """Random images; no pixel is 0, so that zeros from outside show."""
    pixels = np.random.default_rng(seed).integers(1, 256, (batch, size, size, channels), np.uint8)
    return jnp.asarray(pixels) if dtype == "uint8" else jnp.asarray(pixels / 255, dtype)


@functools.cache
def jitted(name):
    return jax.jit(AUGMENTATIONS[name])


def assert_shares(drawn, expected):
    """The values of `drawn` are those of `expected`, {value: probability}, and as often, within five deviations."""
    values, counts = np.unique(np.asarray(drawn), return_counts=True)
    assert set(values.tolist()) == set(expected)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        p, n = expected[value], drawn.size
        assert abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p)), (value, count / n, p)


def assert_unrelated(*drawn):
    """Any two of the numbers [B] of an image have no correlation."""
    correlation = np.corrcoef(np.stack([np.asarray(x, np.float64) for x in drawn])) - np.eye(len(drawn))
    assert abs(correlation).max() < 5 / np.sqrt(drawn[0].shape[0])


# --- Moving the image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["zeros", "edge"])
@every_dtype
def test_crop_equals_pad_and_slice(border, dtype):
    x = images(dtype=dtype)
    offsets = np.array([[0, 20], [20, 0], [10, 10], [3, 17], [19, 1], [11, 9]], np.int32)
    found = augmentations.crop_at(x, jnp.asarray(offsets), 10, border)
    padded = np.pad(np.asarray(x), ((0, 0), (10, 10), (10, 10), (0, 0)), "constant" if border == "zeros" else "edge")
    expected = [image[i : i + 64, j : j + 64] for image, (i, j) in zip(padded, offsets, strict=True)]
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, np.stack(expected))


def test_crop_at_the_padding_is_the_identity():
    np.testing.assert_array_equal(augmentations.crop_at(images(), jnp.full((6, 2), 10, jnp.int32)), images())


def test_crop_offsets_are_0_to_19_each_as_often():
    offsets = augmentations.draw_offsets(KEY, MANY)
    for axis in (0, 1):
        assert_shares(offsets[:, axis], dict.fromkeys(range(20), 1 / 20))
    assert_unrelated(*offsets.T)


@every_dtype
def test_translation_equals_assignments_to_slices(dtype):
    x = images(dtype=dtype)
    shifts = np.array([[0, 0], [5, -5], [-5, 5], [1, 0], [0, -2], [-3, -4]], np.int32)
    expected = np.zeros_like(np.asarray(x))
    for moved, image, shift in zip(expected, np.asarray(x), shifts.tolist(), strict=True):
        to = tuple(slice(max(s, 0), 64 + min(s, 0)) for s in shift)
        moved[to] = image[tuple(slice(max(-s, 0), 64 - max(s, 0)) for s in shift)]
    found = augmentations.shifted(x, jnp.asarray(shifts))
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found[0], x[0])


def test_shifts_are_magnitudes_with_signs():
    shifts = augmentations.draw_shifts(KEY, MANY)
    for axis in (0, 1):
        assert_shares(shifts[:, axis], {d: 1 / 6 if d == 0 else 1 / 12 for d in range(-5, 6)})
    assert_unrelated(*shifts.T)


def test_flip_exchanges_left_and_right():
    x, chosen = images(), jnp.array([True, False, True, True, False, False])
    expected = [image[:, ::-1] if yes else image for image, yes in zip(np.asarray(x), chosen.tolist(), strict=True)]
    np.testing.assert_array_equal(augmentations.flipped(x, chosen), np.stack(expected))


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_choices(probability):
    drawn = augmentations.draw_choices(KEY, MANY, probability)
    assert drawn.dtype == jnp.bool_
    assert_shares(drawn, {True: probability, False: 1 - probability})


# --- Rectangles ------------------------------------------------------------------------------------------------------


@every_dtype
def test_rectangles_equal_assignments_to_slices(dtype):
    x = images(4, dtype=dtype)
    boxes = np.array([[0, 0, 1, 1], [29, 10, 29, 10], [60, 50, 10, 29], [5, 6, 7, 0]], np.int32)
    color = np.random.default_rng(1).integers(0, 256, (4, 6), np.int32)
    expected = np.array(x)
    for image, (top, left, height, width), filling in zip(expected, boxes, color, strict=True):
        image[top : top + height, left : left + width] = filling if dtype == "uint8" else np.float32(filling) / 255
    found = augmentations.filled(x, Boxes(*map(jnp.asarray, boxes.T)), jnp.asarray(color))
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(np.float32), rtol=1e-6)


def test_boxes_of_the_winner_begin_where_they_are_long():
    boxes = augmentations.draw_boxes(KEY, MANY)
    for side in (boxes.height, boxes.width):
        assert_shares(side, dict.fromkeys(range(10, 30), 1 / 20))
    np.testing.assert_array_equal(boxes.top, boxes.height)
    np.testing.assert_array_equal(boxes.left, boxes.width)
    assert_unrelated(boxes.height, boxes.width)


def test_boxes_anywhere_fit():
    boxes = augmentations.draw_boxes(KEY, MANY, (32, 48), 4, 6, "uniform")
    for first, side, size in ((boxes.top, boxes.height, 32), (boxes.left, boxes.width, 48)):
        for length in (4, 5, 6):
            places = size - length + 1
            assert_shares(np.asarray(first)[np.asarray(side) == length], dict.fromkeys(range(places), 1 / places))
    assert_unrelated(boxes.height, boxes.width)  # each side has fewer places, the longer it is
    square = augmentations.draw_boxes(KEY, MANY, (24, 24), 4, 4, "uniform")
    assert_unrelated(square.top, square.left)
    with pytest.raises(PurerlError, match=r"33 pixels does not fit into images of \(32, 48\)"):
        augmentations.draw_boxes(KEY, 1, (32, 48), 4, 33, "uniform")


def test_colors():
    one, each = (augmentations.draw_colors(KEY, MANY, 6, each_frame=each) for each in (False, True))
    for column in (*one.T[:3], *each.T):
        assert column.min() == 0 and column.max() == 255 and abs(float(column.mean()) - 127.5) < 4
    np.testing.assert_array_equal(one[:, :3], one[:, 3:])
    assert_unrelated(*one.T[:3])
    assert_unrelated(*each.T)


def test_cutout_is_black_and_cutout_color_is_not():
    x = images(32, channels=3)
    black, colored = (np.asarray(jitted(name)(KEY, x)) for name in ("cutout", "cutout-color"))
    changed = (black != np.asarray(x)).any(-1)
    assert (black[changed] == 0).all() and (changed.sum((1, 2)) >= 100).all() and (changed.sum((1, 2)) <= 29 * 29).all()
    for image, before in zip(colored, np.asarray(x), strict=True):
        new = image[(image != before).all(-1)]
        assert len(new) > 50 and (new == new[0]).all() and new[0].any()


# --- Colours ---------------------------------------------------------------------------------------------------------


def test_gray_is_exact():
    x, chosen = images(), jnp.array([True, False, True, True, False, True])
    pixels = np.asarray(x).reshape(6, 64, 64, 2, 3).astype(np.int64)
    gray = np.floor((pixels @ np.array([299, 587, 114]) + 500) / 1000)
    gray = np.repeat(gray[..., None], 3, -1).reshape(x.shape)
    expected = np.where(np.asarray(chosen)[:, None, None, None], gray, np.asarray(x))
    np.testing.assert_array_equal(augmentations.grayed(x, chosen), expected.astype(np.uint8))
    floats = augmentations.grayed(x.astype(jnp.float32) / 255, chosen)
    np.testing.assert_allclose(floats, expected / 255, atol=0.51 / 255)


def slow_jitter(x, brightness, contrast, saturation, hue):
    """One image [H, W, K, 3] of 0 .. 1, step by step in float64."""
    luma = np.array([0.299, 0.587, 0.114])
    x = brightness * x
    x = contrast * x + (1 - contrast) * (x @ luma).mean()
    x = saturation * x + (1 - saturation) * (x @ luma)[..., None]
    to_yiq = np.array([luma, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    y, i, q = np.moveaxis(x @ to_yiq.T, -1, 0)
    turned = (i + 1j * q) * np.exp(2j * np.pi * hue)
    return np.clip(np.stack([y, turned.real, turned.imag], -1) @ np.linalg.inv(to_yiq).T, 0, 1)


def test_jitter_equals_its_steps():
    x = images(5, 16)
    changes = np.array([[1, 1, 1, 0], [1.4, 1, 1, 0], [1, 0.6, 1, 0], [0.8, 1, 0.7, 0.31], [0.9, 1.2, 1.3, -0.5]])
    found = jax.jit(augmentations.jittered)(x, Jitter(*jnp.asarray(changes.T, jnp.float32)))
    colors = np.asarray(x).reshape(5, 16, 16, 2, 3) / 255
    expected = np.stack([slow_jitter(image, *change) for image, change in zip(colors, changes, strict=True)])
    error = abs(np.asarray(found, np.float64) - 255 * expected.reshape(x.shape))
    assert error.max() <= 0.501
    np.testing.assert_array_equal(found[0], x[0])


def test_a_whole_turn_of_the_hue_changes_nothing():
    x, ones = images(5, 16), jnp.ones(5)  # the shapes of the test above
    np.testing.assert_array_equal(jax.jit(augmentations.jittered)(x, Jitter(ones, ones, ones, ones)), x)


def test_jitter_ranges():
    jitter = jax.jit(lambda key: augmentations.draw_jitter(key, MANY, 0.1, 0.2, 0.3, 0.5))(KEY)
    for values, middle, spread in zip(jax.tree.leaves(jitter), (1, 1, 1, 0), (0.1, 0.2, 0.3, 0.5), strict=True):
        assert abs(float(values.min()) - (middle - spread)) < 0.01 * spread
        assert abs(float(values.max()) - (middle + spread)) < 0.01 * spread
        np.testing.assert_allclose(values.std(), spread / np.sqrt(3), rtol=0.03)
    assert_unrelated(*jax.tree.leaves(jitter))


def test_convolution_equals_its_definition():
    x = images(2, 5)
    kernels = augmentations.draw_kernels(KEY, 2)
    colors = np.asarray(x).reshape(2, 5, 5, 2, 3) / 255
    padded = np.pad(colors, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)))
    expected = np.zeros(colors.shape)
    for n, i, j, frame in np.ndindex(2, 5, 5, 2):
        window = padded[n, i : i + 3, j : j + 3, frame]
        expected[n, i, j, frame] = np.einsum("ijc,ijcd->d", window, np.asarray(kernels[n], np.float64))
    found = jax.jit(augmentations.convolved)(x, kernels)
    assert abs(np.asarray(found) - 255 / (1 + np.exp(-expected)).reshape(x.shape)).max() <= 0.501
    np.testing.assert_allclose(augmentations.draw_kernels(KEY, 2000).std(), np.sqrt(2 / 54), rtol=0.01)


@pytest.mark.parametrize("name", ["cutout-color", "color-jitter", "grayscale", "random-convolution"])
def test_colors_need_three_channels_a_frame(name):
    with pytest.raises(PurerlError, match="multiple of 3, not 4; use crop"):
        AUGMENTATIONS[name](KEY, images(1, 8, 4))


# --- All of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_all_frames_get_the_same_draw(name):
    frame = images(4, channels=3)
    found = np.asarray(jitted(name)(KEY, jnp.concatenate([frame, frame, frame], axis=-1)))
    np.testing.assert_array_equal(found[..., :3], found[..., 3:6])
    np.testing.assert_array_equal(found[..., :3], found[..., 6:])


@pytest.mark.parametrize("name", CHANGING)
def test_each_image_has_its_own_draw(name):
    same = jnp.broadcast_to(images(1, channels=3), (16, 64, 64, 3))
    found = np.asarray(jitted(name)(KEY, same))
    different = len(np.unique(found.reshape(16, -1), axis=0))
    least, most = {"flip": (2, 2), "grayscale": (2, 2), "mixture": (6, 15)}.get(name, (15, 16))
    assert least <= different <= most
    np.testing.assert_array_equal(found, jitted(name)(KEY, same))
    assert (found != np.asarray(jitted(name)(jax.random.key(1), same))).any()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shapes_dtypes_and_seeds(name):
    """bfloat16 stays bfloat16, floats stay within 0 .. 1, and a lane of vmap equals the call alone."""
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    x = images(2 * 4, 32, 3, "bfloat16").reshape(2, 4, 32, 32, 3)
    together = jax.jit(jax.vmap(AUGMENTATIONS[name]))(keys, x)
    assert together.shape == x.shape and together.dtype == jnp.bfloat16
    assert float(together.min()) >= 0 and float(together.max()) <= 1
    np.testing.assert_array_equal(together[1], jitted(name)(keys[1], x[1]))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_programs_are_small_and_have_no_loops(name):
    x = jax.ShapeDtypeStruct((256, 64, 64, 6), jnp.uint8)
    jaxpr = str(jax.make_jaxpr(AUGMENTATIONS[name])(KEY, x))
    # Without the hash of random words, which is 130 lines for each shape, and a kernel or a part of one.
    rest = [part for part in re.split("^let ", jaxpr, flags=re.MULTILINE) if not part.startswith("_hash")]
    assert len("".join(rest).splitlines()) < 250
    for loop in ("while[", "scan[", "scatter", "dynamic_update_slice"):
        assert loop not in jaxpr


# --- Mixtures --------------------------------------------------------------------------------------------------------


def test_the_winners_mixture_is_a_third_of_each():
    assert augmentations.PROCGEN_MIXTURE == ("crop", "cutout-color", "none")
    assert_shares(augmentations.draw_classes(KEY, MANY, (1 / 3,) * 3), dict.fromkeys(range(3), 1 / 3))
    assert_shares(augmentations.draw_classes(KEY, MANY, (0.2, 0.0, 0.5, 0.3)), {0: 0.2, 2: 0.5, 3: 0.3})


def test_each_image_of_a_mixture_has_one_class():
    x = images(600, 32, 3)
    found = np.asarray(jitted("mixture")(KEY, x))
    same = (found == np.asarray(x)).all((1, 2, 3))
    # What is not the image is a crop, with black borders (random pixels are never 0), or a rectangle of one colour.
    black = (found == 0).all(-1)
    border = black[:, 0].all(-1) | black[:, -1].all(-1) | black[:, :, 0].all(-1) | black[:, :, -1].all(-1)
    inside = (found == np.asarray(x)).mean((1, 2, 3)) > 0.1
    kinds = np.stack([same, border & ~same, inside & ~border & ~same])
    np.testing.assert_array_equal(kinds.sum(0), 1)
    # Of 400 offset pairs one is (10, 10): such a crop is counted as no augmentation.
    np.testing.assert_allclose(kinds.mean(1), 1 / 3, atol=5 * np.sqrt(2 / 9 / 600))


def test_one_name_or_equal_shares_and_any_leading_axes():
    x = images(6, 32, 3).reshape(2, 3, 32, 32, 3)
    crop = jitted("crop")
    alone = make_augmentation("crop")(KEY, x)
    assert alone.shape == x.shape and alone.dtype == x.dtype
    np.testing.assert_array_equal(alone.reshape(6, 32, 32, 3), crop(KEY, x.reshape(6, 32, 32, 3)))
    np.testing.assert_array_equal(make_augmentation(("crop",))(KEY, x), alone)
    assert set(AUGMENTATIONS) == set(get_args(augmentations.AugmentationName))
    np.testing.assert_array_equal(make_augmentation("none")(KEY, x), x)
    certain = make_augmentation(("flip", "none"), (0.0, 1.0))
    np.testing.assert_array_equal(certain(KEY, x), x)


@pytest.mark.parametrize(
    ("names", "shares", "message"),
    [
        ("cutout-colour", (), "unknown augmentation 'cutout-colour'. Did you mean 'cutout-color'?"),
        ((), (), "need one share each"),
        (("crop", "none"), (1.0,), "need one share each"),
        (("crop", "none"), (0.6, 0.6), r"must sum to 1, not \(0.6, 0.6\)"),
        (("crop", "none"), (1.5, -0.5), "must sum to 1"),
    ],
)
def test_impossible_mixtures_are_refused(names, shares, message):
    with pytest.raises(PurerlError, match=message.replace("?", r"\?")):
        make_augmentation(names, shares)
