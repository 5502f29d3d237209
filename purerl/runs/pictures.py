"""Draws observations as pictures: images, stacks of planes, and bar charts of vectors."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from purerl.errors import PurerlError

# Okabe and Ito's colours, which colour-blind readers can distinguish; further channels get evenly spaced hues.
CHANNEL_COLOURS = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)),
    *((86, 180, 233), (240, 228, 66), (204, 121, 167), (255, 255, 255)),
)
BAR_COLOURS = {"positive": (86, 180, 233), "negative": (230, 159, 0), "not finite": (213, 0, 0)}
# Of a bar chart, in pixels: the height of the plot above and below its middle line, and the margins around it.
BAR_MOST, LEFT, RIGHT, TOP, BOTTOM = 96, 36, 10, 18, 34
_PLOT_WIDTH, _LEAST_PITCH = 256, 2
_TICKS = (-10, -3, -1, -0.3, 0, 0.3, 1, 3, 10)
_LABEL_PITCH = 20  # of the numbers below the bars, at the least
_GRID, _AXIS, _TEXT = (60, 60, 60), (150, 150, 150), (215, 215, 215)


def of_observation(observation: np.ndarray) -> np.ndarray:
    """Shows one observation as a picture, with a fixed scale that does not depend on its values.

      * uint8 [H, W, 3]: itself. uint8 [H, W], [H, W, 1]: grey.
      * uint8 [H, W, C] otherwise is a stack of frames: the last colour frame if C is a multiple of 3, else the last
        grey one.
      * bool or number [H, W, C] (MinAtar) or [H, W]: one colour per channel on black, as bright as the value, which is
        clipped to [0, 1]; the first channel with a value covers the later ones (MinAtar's first is the player).
      * any other flat vector [D] or number: a bar chart with labelled axes, one bar per entry, up and blue for
        positive, down and orange for negative, of height x / (1 + |x|), so that every finite value fits; NaN and
        infinity are red over the whole height.

    Args:
      observation: of one environment at one step.

    Returns:
      uint8 [H', W', 3].

    Raises:
      PurerlError: an observation of another shape.
    """
    observation = np.asarray(observation)
    is_image = observation.dtype == np.uint8 and observation.ndim in (2, 3)
    if is_image:
        return _image_frame(observation if observation.ndim == 3 else observation[..., None])
    if observation.ndim in (2, 3):
        return _channels_frame(observation if observation.ndim == 3 else observation[..., None])
    if observation.ndim < 2 and observation.size > 0:
        return _bars_frame(observation.reshape(-1).astype(np.float64))
    raise PurerlError(f"cannot draw observations of shape {list(observation.shape)}; only images and flat vectors")


def _image_frame(image: np.ndarray) -> np.ndarray:
    channels = image.shape[-1]
    if channels % 3 == 0:
        return image[..., channels - 3 :]
    return np.repeat(image[..., channels - 1 :], 3, axis=-1)


def _channels_frame(stack: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(stack.astype(np.float64)).clip(0, 1)
    frame = np.zeros((*stack.shape[:2], 3))
    for channel, colour in reversed(list(enumerate(channel_colours(stack.shape[-1])))):
        value = values[..., channel, None]
        frame = np.where(value > 0, value * np.array(colour), frame)
    return np.round(frame).astype(np.uint8)


def channel_colours(count: int) -> list[tuple[int, int, int]]:
    """`count` different colours, all far from black."""
    if count <= len(CHANNEL_COLOURS):
        return list(CHANNEL_COLOURS[:count])
    # Alternating brightness distinguishes neighbouring hues.
    spaced = [colorsys.hsv_to_rgb(i / count, 0.75, 1.0 if i % 2 == 0 else 0.65) for i in range(count)]
    return [tuple(round(255 * part) for part in colour) for colour in spaced]


def bar_columns(count: int) -> list[slice]:
    """The columns of each of `count` bars in the picture of a vector."""
    pitch = max(_LEAST_PITCH, _PLOT_WIDTH // count)
    gap = max(1, pitch // 8)
    return [slice(LEFT + i * pitch + gap // 2, LEFT + (i + 1) * pitch - (gap + 1) // 2) for i in range(count)]


def _bars_frame(vector: np.ndarray) -> np.ndarray:
    frame, middle = _axes(len(vector)).copy(), TOP + BAR_MOST
    for columns, value in zip(bar_columns(len(vector)), vector, strict=True):
        if not np.isfinite(value):
            frame[TOP : middle + BAR_MOST + 1, columns] = BAR_COLOURS["not finite"]
            continue
        height = _height(value)
        if value > 0:
            frame[middle - height : middle, columns] = BAR_COLOURS["positive"]
        else:
            frame[middle + 1 : middle + 1 + height, columns] = BAR_COLOURS["negative"]
    return frame


def _height(value: float) -> int:
    return round(BAR_MOST * abs(value) / (1 + abs(value)))


@functools.lru_cache(8)
def _axes(count: int) -> np.ndarray:
    """The empty chart of `count` bars, uint8 [H, W, 3]: the scale of values at the left, the entries' numbers below."""
    columns = bar_columns(count)
    middle, right = TOP + BAR_MOST, max(columns[-1].stop, LEFT + _PLOT_WIDTH)
    image = Image.new("RGB", (right + RIGHT, middle + BAR_MOST + 1 + BOTTOM))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for tick in _TICKS:
        y = middle - int(np.sign(tick)) * _height(tick)
        draw.line((LEFT - 3, y, right, y), fill=_AXIS if tick == 0 else _GRID)
        text = f"{tick:g}"
        draw.text((LEFT - 6 - draw.textlength(text, font), y - 6), text, _TEXT, font)
    draw.line((LEFT - 3, TOP, LEFT - 3, middle + BAR_MOST), fill=_AXIS)
    pitch = (columns[-1].stop - columns[0].start) / count
    every = next(step for step in _round_numbers() if step * pitch >= _LABEL_PITCH or step > count)
    for i in range(0, count, every):
        text, x = str(i), (columns[i].start + columns[i].stop) / 2
        draw.text((x - draw.textlength(text, font) / 2, middle + BAR_MOST + 4), text, _TEXT, font)
    draw.text((4, 2), "value", _TEXT, font)
    draw.text((LEFT, middle + BAR_MOST + 18), "entry of the observation", _TEXT, font)
    return np.array(image)


def _round_numbers() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10
