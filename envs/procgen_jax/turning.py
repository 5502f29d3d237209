"""Sprites that are turned: which pixels Qt 5 covers with a rotated picture, and what each shows.

Qt maps the picture's corners onto the frame, cuts the quadrangle into up to three trapezoids between horizontal lines,
and walks over their rows in fixed point with 16 binary digits. All that depends on the angle alone is found here with
numpy; what depends on the place is computed in the graph, in float64.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs.procgen_jax import sampling
from purerl.envs.procgen_jax.frames import SIZE
from purerl.types import Array

_ONE = 1 << 16


class Turn(NamedTuple):
    """A picture at an angle; several as one have a first axis more. Offsets are from the centre, in pixels.

    Attributes:
      corner: float64 [2], offset (x, y) of the topmost corner; source: float64 [2], its column and row in the picture.
      slopes: float64 [2, 2], of the picture's column, then row: per pixel to the right, per pixel down.
      edges: float64 [3, 2, 3], of each trapezoid the left and right edge: (x, y) of a point, and x per row.
      rows: float64 [3, 2], where each trapezoid begins and ends.
    """

    corner: np.ndarray
    source: np.ndarray
    slopes: np.ndarray
    edges: np.ndarray
    rows: np.ndarray


def turned(degrees: float, width: float, height: float, size: tuple[int, int]) -> Turn:
    """The Turn of a picture with `size` (rows, columns), drawn `width` x `height` pixels large at an angle."""
    exact = {90.0: (0.0, 1.0), -90.0: (0.0, -1.0)}
    cos, sin = exact.get(degrees, (math.cos(math.radians(degrees)), math.sin(math.radians(degrees))))
    points = []  # clockwise from the picture's upper left corner: x, y, column, row
    for right, down in ((0, 0), (1, 0), (1, 1), (0, 1)):
        x, y = (right - 0.5) * width, (down - 0.5) * height
        points.append(np.array([cos * x - sin * y, sin * x + cos * y, right * size[1], down * size[0]]))
    top = int(np.argmin([point[1] for point in points]))
    points = points[top:] + points[:top]
    first, second, third, fourth = points
    a, b = second - first, fourth - first
    if a[0] * b[1] - b[0] * a[1] > 0:
        second, fourth = fourth, second  # the second one is on the left
    # The picture's coordinates per pixel, from two sides of the quadrangle.
    a, b = second - first, third - first
    inverse = 1.0 / (a[0] * b[1] - a[1] * b[0])
    slopes = [[(a[n] * b[1] - a[1] * b[n]) * inverse, (a[0] * b[n] - a[n] * b[0]) * inverse] for n in (2, 3)]
    left, right = [(first, second), (second, third)], [(first, fourth), (fourth, third)]
    middle = (left[1], right[0]) if second[1] < fourth[1] else (left[0], right[1])
    lines = sorted([first[1], second[1], fourth[1], third[1]])
    edges = [[_edge(*edge) for edge in pair] for pair in ((left[0], right[0]), middle, (left[1], right[1]))]
    rows = list(itertools.pairwise(lines))
    return Turn(first[:2], first[2:], np.array(slopes), np.array(edges), np.array(rows))


def _edge(upper: np.ndarray, lower: np.ndarray) -> tuple[float, float, float]:
    """(x, y, x per row) of an edge; an edge that is level has no rows."""
    height = lower[1] - upper[1]
    return upper[0], upper[1], (lower[0] - upper[0]) / height if height else 0.0


def stacked(turns: list[Turn]) -> Turn:
    """Several as one, with a new first axis."""
    return Turn(*(np.stack(arrays) for arrays in zip(*turns, strict=True)))


def covered(turn: Turn, centre: tuple[Array, Array], size: np.ndarray, window: int, outside: int) -> tuple[Array, ...]:
    """What a turned picture covers around a centre (x, y) float64; 64-bit numbers must be enabled.

    Returns (first row int32 [], first column int32 [], index int32 [window, window, 2] of each pixel into the picture's
    rows and columns, `outside` where there is nothing).
    """
    x, y = centre
    first_row, first_column = (
        jnp.clip(jnp.floor(at - window / 2 + 0.5), 0, SIZE - window).astype(jnp.int32) for at in (y, x)
    )
    row = first_row + jnp.arange(window, dtype=jnp.int32)
    column = first_column + jnp.arange(window, dtype=jnp.int32)
    low, high = jnp.zeros((2, window), jnp.int32)
    for trapezoid in range(3):
        begins = jnp.maximum(jnp.floor(turn.rows[trapezoid, 0] + y + 0.5), 0)
        ends = jnp.floor(turn.rows[trapezoid, 1] + y + 0.5).astype(jnp.int32)
        inside = (row >= begins.astype(jnp.int32)) & (row < ends)
        sides = []
        for side in range(2):
            edge_x, edge_y, slope = turn.edges[trapezoid, side]
            at = (edge_x + x) + (0.5 + begins - (edge_y + y)) * slope + 0.5
            per_row = jnp.trunc(slope * _ONE).astype(jnp.int32)
            sides.append((jnp.trunc(at * _ONE).astype(jnp.int32) + (row - begins.astype(jnp.int32)) * per_row) >> 16)
        low, high = jnp.where(inside, sides[0], low), jnp.where(inside, sides[1], high)
    inside = (column[None] >= jnp.maximum(low, 0)[:, None]) & (column[None] < high[:, None])
    found = []
    for axis, last in ((1, size[0] - 1), (0, size[1] - 1)):
        right, down = turn.slopes[axis, 0], turn.slopes[axis, 1]
        start = turn.source[axis] - right * (turn.corner[0] + x) - down * (turn.corner[1] + y)
        base = jnp.ceil((0.5 * right + 0.5 * down + start) * _ONE).astype(jnp.int32) - 1
        steps = [jnp.trunc(slope * _ONE).astype(jnp.int32) for slope in (right, down)]
        index = (base + steps[0] * column[None] + steps[1] * row[:, None]) >> 16
        found.append(jnp.where(inside, jnp.clip(index, 0, last), outside))
    return first_row, first_column, jnp.stack(found, axis=-1)


class Sprite(NamedTuple):
    """What `draw` must know of a sprite that may be turned; its width and height in cells are the same.

    Attributes:
      radius: half of its width.
      angles: in degrees, clockwise.
      pictures: how many pictures it may have, the first ones of those that `draw` is given.
      above, tall: how much higher its picture begins, and how tall it is, in heights.
    """

    radius: np.float32
    angles: np.ndarray
    pictures: int = 1
    above: float = 0.0
    tall: float = 1.0


def draw(
    frame: Array,
    pictures: tuple[np.ndarray, np.ndarray],
    sprite: Sprite,
    view: sampling.View,
    place: Array,
    angle: Array,
    picture: Array | int = 0,
) -> Array:
    """A frame with a sprite drawn at one of several angles.

    Args:
      frame: uint8 [64, 64, 3].
      pictures: the two results of `sampling.read`.
      sprite: what is drawn.
      view: where the world is.
      place: float32 [2], the centre (x, y) in cells.
      angle, picture: int32 [], which of the sprite's angles and pictures.
    """
    table, sizes = pictures[0], pictures[1][: sprite.pictures]
    angle, picture = jnp.asarray(angle), jnp.asarray(picture, jnp.int32)
    width = float(2 * sprite.radius * view.unit)
    height, outside = width * sprite.tall, table.shape[1] - 1
    window = int(np.ceil(max(width, height))) + 1
    radius = jnp.float32(sprite.radius)
    with jax.enable_x64(True):
        (upper, _), (left, _) = sampling.edges(view, jnp.stack([*place, radius, radius])[None])
        upper, left = upper[0].astype(jnp.float64) - sprite.above * width, left[0].astype(jnp.float64)
        is_back, size = jnp.asarray(np.abs(sprite.angles) == 180)[angle], jnp.asarray(sizes)[picture]
        rows = sampling.spans(jnp, upper, height, size[0], window, outside, is_back, half_turn=True)
        columns = sampling.spans(jnp, left, width, size[1], window, outside, is_back, half_turn=True)
        index = sampling.crossed(rows[1], columns[1])
        straight = sampling.draw(frame, table, picture, (rows[0], columns[0]), index)
        if sizes.max() == 1:  # monochrome: never turned
            return straight
        turns = [stacked([turned(degrees, width, height, one) for degrees in sprite.angles]) for one in sizes]
        turn = Turn(*(jnp.asarray(array)[picture, angle] for array in stacked(turns)))
        window = int(np.ceil(np.hypot(width, height))) + 2
        first_row, first_column, index = covered(turn, (left + width / 2, upper + height / 2), size, window, outside)
        askew = sampling.draw(frame, table, picture, (first_row, first_column), index)
    return jnp.where(jnp.asarray(sprite.angles % 180 == 0)[angle], straight, askew)
