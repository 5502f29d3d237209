"""Random augmentations of images: crop, translate, rectangles, flip, colours, random convolution, and their mixture.

An augmentation is a pure function (key, images [B, H, W, C]) -> images of the same shape and dtype. A config names one
of `AUGMENTATIONS`. Each image has its own random numbers. Images are uint8 0 .. 255 or floats 0 .. 1. One function
draws and one applies what was drawn, so both can be used alone.

Stacked frames are channels: C = 3 K, the oldest frame first. All frames of an image get the same draw.

The defaults are those of the two winners of the NeurIPS 2020 Procgen challenge where they used the augmentation:
"crop" and "cutout-color" from the winner of the generalization track (the repository Dipamc77/procgen-competition),
"translate" from that of the sample efficiency track (wulfebw/neurips2020-procgen). "cutout" has the rectangles of
"cutout-color". The other defaults are those of "Reinforcement Learning with Augmented Data" by Laskin et al. 2020 (RAD,
https://arxiv.org/abs/2004.14990) in its code for Procgen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from purerl import rng
from purerl.errors import PurerlError, nearest
from purerl.types import Array

Augmentation = Callable[[Array, Array], Array]
AugmentationName = Literal[
    "none",
    "crop",
    "translate",
    "cutout",
    "cutout-color",
    "flip",
    "color-jitter",
    "grayscale",
    "random-convolution",
    "mixture",
]
BorderName = Literal["zeros", "edge"]
BoxPositionName = Literal["tied", "uniform"]

# Luma of ITU-R BT.601 in thousandths: integers, so that uint8 images become gray exactly.
_LUMA = np.array([299, 587, 114], np.int32)


def none(key: Array, images: Array) -> Array:
    """The images unchanged."""
    return images


# --- Moving the image ------------------------------------------------------------------------------------------------


def _windows(images: Array, padding: int, corner: Array, border: BorderName) -> Array:
    """A window of the images' size from each image [B, H, W, C] with a border of `padding` pixels.

    `corner`, int32 [B, 2], is the window's first row and column. It must lie within 0 .. 2 padding.
    """
    chex.assert_rank([images, corner], [4, 2])
    mode = {"zeros": "constant", "edge": "edge"}[border]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
    # One batched gather of whole windows; shifting by selects takes 50 times as long on a CPU.
    return jax.vmap(lambda x, at: lax.dynamic_slice(x, (at[0], at[1], 0), images.shape[1:]))(padded, corner)


def draw_offsets(key: Array, num_images: int, padding: int = 10) -> Array:
    """Random corners of crops, int32 [B, 2]: row and column, each uniform on 0 .. 2 padding - 1, as the winner's."""
    return rng.below(rng.words(key, (num_images, 2)), 2 * padding)


def crop_at(images: Array, offset: Array, padding: int = 10, border: BorderName = "zeros") -> Array:
    """Images with a border of `padding` pixels, cropped to their former size at a corner.

    Args:
      images: [B, H, W, C].
      offset: int32 [B, 2], row and column of the corner, 0 .. 2 padding; `padding` gives the image itself.
      padding: pixels on each side, at least 1.
      border: "zeros", or "edge" for the nearest pixel of the image (DrQ, https://arxiv.org/abs/2004.13649).

    Returns:
      [B, H, W, C].
    """
    return _windows(images, padding, offset, border)


def crop(key: Array, images: Array, padding: int = 10, border: BorderName = "zeros") -> Array:
    """Pads the images and crops each at a random corner, see `draw_offsets` and `crop_at`."""
    return crop_at(images, draw_offsets(key, images.shape[0], padding), padding, border)


def draw_shifts(key: Array, num_images: int, largest: int = 5) -> Array:
    """Random shifts, int32 [B, 2], down and to the right.

    A magnitude is uniform on 0 .. largest and its sign random, as the winner's. So 0 is as likely as 1 and -1 together.
    """
    words = rng.words(key, (num_images, 2, 2))
    magnitude, negative = rng.below(words[..., 0], largest + 1), rng.below(words[..., 1], 2)
    return jnp.where(negative == 1, -magnitude, magnitude)


def shifted(images: Array, shift: Array, largest: int = 5, border: BorderName = "zeros") -> Array:
    """Images [B, H, W, C] moved down and to the right by int32 [B, 2] pixels, each within +-largest."""
    return _windows(images, largest, largest - shift, border)


def translate(key: Array, images: Array, largest: int = 5, border: BorderName = "zeros") -> Array:
    """Moves each image by random numbers of pixels, see `draw_shifts`; zeros come in from outside."""
    return shifted(images, draw_shifts(key, images.shape[0], largest), largest, border)


def draw_choices(key: Array, num_images: int, probability: float = 0.5) -> Array:
    """bool [B], each true with a probability."""
    return rng.unit(rng.words(key, (num_images,))) < jnp.float32(probability)


def _where(chosen: Array, images: Array, others: Array) -> Array:
    """Images [B, H, W, C] where chosen [B], otherwise others."""
    return jnp.where(chosen[:, None, None, None], images, others)


def flipped(images: Array, chosen: Array) -> Array:
    """Images [B, H, W, C] with left and right exchanged where chosen, bool [B]."""
    return _where(chosen, images[:, :, ::-1], images)


def flip(key: Array, images: Array, probability: float = 0.5) -> Array:
    """Exchanges left and right in some of the images.

    An agent whose actions are directions must not do the same in an image and in its mirror image: this suits values
    and features, not a policy.
    """
    return flipped(images, draw_choices(key, images.shape[0], probability))


# --- Rectangles ------------------------------------------------------------------------------------------------------


@struct.dataclass
class Boxes:
    """Rectangles, one an image: first row and column, height and width, int32 [B] each."""

    top: Array
    left: Array
    height: Array
    width: Array


def draw_boxes(
    key: Array,
    num_images: int,
    image_size: tuple[int, int] = (64, 64),
    smallest: int = 10,
    largest: int = 29,
    position: BoxPositionName = "tied",
) -> Boxes:
    """Random rectangles with height and width uniform on smallest .. largest.

    Args:
      key: typed key [].
      num_images: B.
      image_size: H and W.
      smallest, largest: of a side.
      position: "tied" begins at row `height` and column `width`, as the winner's and RAD's code: a large rectangle is
        then never near the upper left corner. "uniform" is any place where the rectangle fits.
    """
    words = rng.words(key, (4, num_images))
    height, width = (smallest + rng.below(w, largest - smallest + 1) for w in words[:2])
    if position == "tied":
        return Boxes(height, width, height, width)
    if largest > min(image_size):
        raise PurerlError(f"a rectangle of {largest} pixels does not fit into images of {image_size}")
    top = rng.below(words[2], image_size[0] + 1 - height)
    return Boxes(top, rng.below(words[3], image_size[1] + 1 - width), height, width)


def draw_colors(key: Array, num_images: int, channels: int, each_frame: bool = False) -> Array:
    """Random colours, int32 [B, C] in 0 .. 255: one for all frames of an image, or one for each frame.

    The winner's code draws one for each frame, and never 255.
    """
    drawn = channels if each_frame else 3
    words = rng.words(key, (num_images, drawn))
    return jnp.tile(rng.below(words, 256), (1, channels // drawn))


def filled(images: Array, boxes: Boxes, color: Array) -> Array:
    """Images [B, H, W, C] with a rectangle filled with a colour, int32 [B, C] in 0 .. 255. Pixels outside are left."""
    chex.assert_rank([images, color], [4, 2])

    def inside(size: int, first: Array, length: Array) -> Array:
        place = jnp.arange(size, dtype=jnp.int32)[None]
        return (place >= first[:, None]) & (place < (first + length)[:, None])

    rows = inside(images.shape[1], boxes.top, boxes.height)
    columns = inside(images.shape[2], boxes.left, boxes.width)
    if images.dtype == jnp.uint8:
        color = color.astype(jnp.uint8)
    else:
        color = (color.astype(jnp.float32) / 255).astype(images.dtype)
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], color[:, None, None, :], images)


def cutout(
    key: Array, images: Array, smallest: int = 10, largest: int = 29, position: BoxPositionName = "tied"
) -> Array:
    """Blackens a random rectangle in each image, see `draw_boxes`."""
    batch, height, width, channels = images.shape
    boxes = draw_boxes(key, batch, (height, width), smallest, largest, position)
    return filled(images, boxes, jnp.zeros((batch, channels), jnp.int32))


def cutout_color(
    key: Array,
    images: Array,
    smallest: int = 10,
    largest: int = 29,
    position: BoxPositionName = "tied",
    each_frame: bool = False,
) -> Array:
    """Fills a random rectangle in each image with a random colour, see `draw_boxes` and `draw_colors`."""
    batch, height, width, channels = images.shape
    _frames(channels)
    boxes = draw_boxes(rng.stream(key, "box"), batch, (height, width), smallest, largest, position)
    return filled(images, boxes, draw_colors(rng.stream(key, "color"), batch, channels, each_frame))


# --- Colours ---------------------------------------------------------------------------------------------------------


def _frames(channels: int) -> int:
    """K, the number of frames. Raises PurerlError if the channels are not those of colour images."""
    if channels % 3:
        raise PurerlError(
            f"this augmentation is for colour images, whose channels are a multiple of 3, not {channels}; "
            "use crop, translate, cutout or flip"
        )
    return channels // 3


def _colors(images: Array) -> Array:
    """Images [B, H, W, C] as colours [B, H, W, K, 3]."""
    return images.reshape(*images.shape[:3], _frames(images.shape[3]), 3)


def _planes(images: Array) -> Array:
    """Images [B, H, W, 3 K] as planes of colour [B, K, 3, H, W], float32 0 .. 1.

    Arithmetic runs along rows of pixels there. Along the three colours of a pixel it takes 100 times as long on a CPU.
    The barriers here and in `_from_planes` keep XLA from doing it in the images' order all the same.
    """
    x = lax.optimization_barrier(jnp.transpose(_colors(images), (0, 3, 4, 1, 2)))
    return x.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else x.astype(jnp.float32)


def _from_planes(x: Array, images: Array) -> Array:
    """Planes [B, K, 3, H, W] as images of the shape and dtype of `images`, clipped to 0 .. 1 before and rounded."""
    x = jnp.clip(x, 0.0, 1.0)
    x = jnp.round(x * 255).astype(jnp.uint8) if images.dtype == jnp.uint8 else x.astype(images.dtype)
    return jnp.transpose(lax.optimization_barrier(x), (0, 3, 4, 1, 2)).reshape(images.shape)


def grayed(images: Array, chosen: Array) -> Array:
    """Images [B, H, W, 3 K] without colour where chosen, bool [B].

    The gray is (299 r + 587 g + 114 b) / 1000, for uint8 rounded half up.
    """
    x = _colors(images)
    if images.dtype == jnp.uint8:
        luma = (sum(w * x[..., c].astype(jnp.int32) for c, w in enumerate(_LUMA.tolist())) + 500) // 1000
    else:
        luma = sum(w / 1000 * x[..., c] for c, w in enumerate(_LUMA.tolist()))
    gray = jnp.broadcast_to(luma.astype(images.dtype)[..., None], x.shape).reshape(images.shape)
    return _where(chosen, gray, images)


def grayscale(key: Array, images: Array, probability: float = 0.5) -> Array:
    """Takes the colour from some of the images."""
    return grayed(images, draw_choices(key, images.shape[0], probability))


@struct.dataclass
class Jitter:
    """Changes of colour, float32 [B] each: factors of brightness, contrast and saturation, and the hue's turn.

    The hue's turn is in parts of a whole turn. Factors of 1 and a turn of 0 change nothing.
    """

    brightness: Array
    contrast: Array
    saturation: Array
    hue: Array


def draw_jitter(
    key: Array,
    num_images: int,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.5,
) -> Jitter:
    """Random changes of colour: factors uniform on 1 +- the given range, a turn uniform on +-hue."""
    spread = 2 * rng.unit(rng.words(key, (4, num_images))) - 1
    return Jitter(1 + brightness * spread[0], 1 + contrast * spread[1], 1 + saturation * spread[2], hue * spread[3])


def _chroma() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices [3, 3] that take a colour to its gray, to its difference from it, and to that turned by 90 degrees."""
    luma = _LUMA / 1000
    to_yiq = np.array([luma, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    quarter_turn = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]])
    gray = np.ones((3, 1)) * luma
    turned = np.linalg.inv(to_yiq) @ quarter_turn @ to_yiq
    return gray, np.eye(3) - gray, turned


def jittered(images: Array, jitter: Jitter) -> Array:
    """Images [B, H, W, 3 K] with changed colours.

    Everything is one linear map of colours and one offset for each image, clipped once at the end: brightness scales
    all, contrast the distance from the image's mean luma (over all of its frames), saturation the distance from gray,
    and the hue turns the plane of colour differences (I and Q of YIQ). RAD's code turns the hue in HSV instead.
    """
    x = _planes(images)
    gray, chroma, turned = (jnp.asarray(m, jnp.float32)[None] for m in _chroma())
    angle, saturation = 2 * math.pi * jitter.hue, jitter.saturation[:, None, None]
    cosine, sine = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    matrix = gray + saturation * (cosine * chroma + sine * turned)
    matrix = (jitter.brightness * jitter.contrast)[:, None, None] * matrix
    luma = jnp.asarray(_LUMA / 1000, jnp.float32)
    mean = jnp.sum(jnp.mean(x, axis=(1, 3, 4)) * luma[None], axis=-1)
    offset = (1 - jitter.contrast) * jitter.brightness * mean
    # Products of elements: no device rounds them as it may round matrix products.
    weights = matrix[:, None, :, :, None, None]
    mixed = sum(weights[:, :, :, c] * x[:, :, c, None] for c in range(3))
    return _from_planes(mixed + offset[:, None, None, None, None], images)


def color_jitter(
    key: Array,
    images: Array,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.5,
) -> Array:
    """Changes brightness, contrast, saturation and hue of each image, see `draw_jitter` and `jittered`."""
    return jittered(images, draw_jitter(key, images.shape[0], brightness, contrast, saturation, hue))


def draw_kernels(key: Array, num_images: int) -> Array:
    """Random 3x3 kernels from colours to colours, float32 [B, 3, 3, 3, 3] (row, column, in, out), Glorot normal."""
    return math.sqrt(2 / (27 + 27)) * jax.random.normal(key, (num_images, 3, 3, 3, 3), jnp.float32)


def convolved(images: Array, kernels: Array) -> Array:
    """Images [B, H, W, 3 K], each frame convolved with the image's kernel [B, 3, 3, 3, 3], zeros around it.

    A logistic function brings the result back to 0 .. 1.
    """
    x = lax.optimization_barrier(jnp.pad(_planes(images), ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1))))
    height, width = images.shape[1:3]

    def tap(i: int, j: int) -> Array:
        """What the pixels at one place of the windows add, [B, 3, K, H, W]."""
        moved = x[:, :, :, i : i + height, j : j + width]
        return lax.dot_general(kernels[:, i, j], moved, (((1,), (2,)), ((0,), (0,))), precision="highest")

    total = sum(tap(i, j) for i, j in np.ndindex(3, 3))
    return _from_planes(jnp.swapaxes(jax.nn.sigmoid(total), 1, 2), images)


def random_convolution(key: Array, images: Array) -> Array:
    """Convolves each image with a random kernel, which changes colours and textures but no shapes.

    "Network Randomization" by Lee et al. 2020 (https://arxiv.org/abs/1910.05396), as an augmentation (RAD).
    """
    return convolved(images, draw_kernels(key, images.shape[0]))


# --- Choosing --------------------------------------------------------------------------------------------------------

# The mixture of the generalization track's winner, in equal shares.
PROCGEN_MIXTURE: tuple[AugmentationName, ...] = ("crop", "cutout-color", "none")


def mixture(key: Array, images: Array) -> Array:
    """One of `PROCGEN_MIXTURE` for each image, in equal shares; `make_augmentation` makes other mixtures."""
    return make_augmentation(PROCGEN_MIXTURE)(key, images)


AUGMENTATIONS: Mapping[AugmentationName, Augmentation] = {
    "none": none,
    "crop": crop,
    "translate": translate,
    "cutout": cutout,
    "cutout-color": cutout_color,
    "flip": flip,
    "color-jitter": color_jitter,
    "grayscale": grayscale,
    "random-convolution": random_convolution,
    "mixture": mixture,
}


def draw_classes(key: Array, num_images: int, shares: tuple[float, ...]) -> Array:
    """int32 [B], class i with probability shares[i]; the shares sum to 1."""
    bounds = jnp.asarray(np.cumsum(shares)[:-1], jnp.float32)
    return jnp.sum(rng.unit(rng.words(key, (num_images,)))[:, None] >= bounds[None], axis=-1, dtype=jnp.int32)


def make_augmentation(
    names: AugmentationName | tuple[AugmentationName, ...], shares: tuple[float, ...] = ()
) -> Augmentation:
    """An augmentation by its name, or the mixture of several: each image gets one of them.

    Args:
      names: one or several, with their default settings.
      shares: the probability of each; () for equal ones.

    Returns:
      a function (key, images [..., H, W, C]) -> images of the same shape and dtype. Every image along the leading axes
      has random numbers of its own.

    Raises:
      PurerlError: no names or unknown ones, or shares that do not fit.
    """
    known, names = get_args(AugmentationName), (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in known:
            raise PurerlError(f"unknown augmentation '{name}'.{nearest(str(name), known)} Known: {', '.join(known)}")
    shares = tuple(shares) or (1 / max(1, len(names)),) * len(names)
    if not names or len(shares) != len(names) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise PurerlError(f"augmentations {names} need one share each, and the shares must sum to 1, not {shares}")

    def augment(key: Array, images: Array) -> Array:
        flat = images.reshape(-1, *images.shape[-3:])
        if len(names) == 1:
            return AUGMENTATIONS[names[0]](key, flat).reshape(images.shape)
        chosen, out = draw_classes(rng.stream(key, "class"), flat.shape[0], shares), flat
        for i, name in enumerate(names):
            if name != "none":
                out = _where(chosen == i, AUGMENTATIONS[name](rng.stream(key, name), flat), out)
        return out.reshape(images.shape)

    return augment
