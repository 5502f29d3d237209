"""Colours and dashes of runs: no two runs of a figure look the same, however many there are."""

from __future__ import annotations

import math

# Okabe and Ito's colours, which colour-blind readers can distinguish, without the yellow that is invisible on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
# Lightness of neighbours on the circle of hues, on white and on a dark ground: they alternate.
ON_WHITE, ON_DARK = (0.63, 0.47), (0.76, 0.64)
CHROMA = 0.135


def palette(count: int, lightness: tuple[float, float] = ON_WHITE) -> list[str]:
    """Different colours for `count` runs, as "#rrggbb".

    Up to seven are Okabe and Ito's. More go once around the circle of hues (OKLCH, Ottosson 2020), with two lightnesses
    in turn: runs beside each other in a sweep have related colours.

    Args:
      count: how many.
      lightness: the two lightnesses, from 0 to 1.
    """
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [_colour(lightness[place % 2], 2 * math.pi * (0.07 + place / count)) for place in range(count)]


def dashes(place: int, count: int) -> str | tuple:
    """matplotlib's line style of a run; only many runs need dashes as well."""
    return DASHES[place % len(DASHES)] if count > len(COLOURS) else DASHES[0]


def _colour(lightness: float, hue: float) -> str:
    """ "#rrggbb" of a lightness and a hue in radians, with less chroma where sRGB has no such colour."""
    chroma, rgb = CHROMA, _linear_rgb(lightness, CHROMA, hue)
    while not all(0 <= part <= 1 for part in rgb) and chroma > 0.01:
        chroma *= 0.95
        rgb = _linear_rgb(lightness, chroma, hue)
    levels = [min(max(part, 0.0), 1.0) for part in rgb]
    levels = [12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055 for x in levels]
    return "#" + "".join(f"{round(255 * level):02x}" for level in levels)


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """Linear sRGB of a colour in OKLCH, with the matrices of bottosson.github.io/posts/oklab."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
