"""Sprites that are turned: which pixels Qt 5 covers with a rotated picture, and what each shows.

Qt maps the picture's corners onto the frame, cuts the quadrangle into up to three trapezoids between horizontal lines,
and walks over their rows in fixed point with 16 binary digits. All that depends on the angle alone is found here with
numpy; what depends on the place is computed in the graph, in float64.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs.procgen_jax import sampling
from purerl.envs.procgen_jax.bodies import rounded
from purerl.envs.procgen_jax.frames import SIZE
from purerl.types import Array

_ONE = 1 << 16


class Turn(NamedTuple):
    """A picture at an angle; several as one have a first axis more.

    Attributes:
      corners: float64 [4, 2], (x, y) of its corners from its centre, in pixels: the topmost one, then counterclockwise.
      source: float64 [4, 2], the column and row in the picture of each.
    """

    corners: np.ndarray
    source: np.ndarray


def turned(degrees: Any, width: float, height: float, size: Any, xp: Any = np) -> Turn:
    """The Turn of a picture with `size` (rows, columns), drawn `width` x `height` pixels large at an angle.

    With jax.numpy as xp the angle float64 [] and the size may be values of the graph; 64-bit numbers must be enabled.
    """
    guarded = (lambda product: product) if xp is np else rounded
    radians = xp.asarray(degrees) * np.radians(1.0)
    cos = xp.where(xp.abs(degrees) == 90, 0.0, xp.cos(radians))
    sin = xp.where(xp.abs(degrees) == 90, xp.sign(degrees), xp.sin(radians))
    right, down = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])  # clockwise from the picture's upper left corner
    x, y = (right - 0.5) * width, (down - 0.5) * height
    corners = xp.stack([guarded(cos * x) - guarded(sin * y), guarded(sin * x) + guarded(cos * y)], axis=-1)
    source = xp.stack([right * xp.asarray(size[1], np.float64), down * xp.asarray(size[0], np.float64)], axis=-1)
    top = np.int32(0)
    for corner in range(1, 4):  # not argmin: JAX lowers that without the 64 bits
        top = xp.where(corners[corner, 1] < corners[top, 1], np.int32(corner), top)
    order = (top + np.arange(4, dtype=np.int32)) % np.int32(4)
    a, b = corners[order[1]] - corners[order[0]], corners[order[3]] - corners[order[0]]
    is_clockwise = a[0] * b[1] - b[0] * a[1] > 0
    order = xp.where(is_clockwise, order[np.array([0, 3, 2, 1])], order)  # the second one is on the left
    return Turn(corners[order], source[order])


def stacked(turns: list[Turn]) -> Turn:
    """Several as one, with a new first axis."""
    return Turn(*(np.stack(arrays) for arrays in zip(*turns, strict=True)))


def covered(turn: Turn, centre: tuple[Array, Array], size: np.ndarray, window: int, outside: int) -> tuple[Array, ...]:
    """What a turned picture covers around a centre (x, y) float64; 64-bit numbers must be enabled.

    Returns (first row int32 [], first column int32 [], index int32 [window, window, 2] of each pixel into the picture's
    rows and columns, `outside` where there is nothing).
    """
    first_row, first_column = (
        jnp.clip(jnp.floor(at - window / 2 + 0.5), 0, SIZE - window).astype(jnp.int32) for at in reversed(centre)
    )
    row = first_row + jnp.arange(window, dtype=jnp.int32)
    column = first_column + jnp.arange(window, dtype=jnp.int32)
    # All that follows begins with the corners on the frame, as in Qt: the last digit of a sum can decide about a pixel.
    corners = jnp.asarray(turn.corners) + jnp.stack(centre)[None]
    inside = _inside(corners, row, column)
    found = []
    for axis, last in ((1, size[0] - 1), (0, size[1] - 1)):
        source = jnp.asarray(turn.source)[:, axis]
        right, down = _slopes(corners, source)
        start = source[0] - rounded(right * corners[0, 0]) - rounded(down * corners[0, 1])
        base = jnp.ceil((0.5 * right + 0.5 * down + start) * _ONE).astype(jnp.int32) - 1
        steps = [jnp.trunc(slope * _ONE).astype(jnp.int32) for slope in (right, down)]
        index = (base + steps[0] * column[None] + steps[1] * row[:, None]) >> 16
        found.append(jnp.where(inside, jnp.clip(index, 0, last), outside))
    return first_row, first_column, jnp.stack(found, axis=-1)


def _slopes(corners: Array, source: Array) -> tuple[Array, Array]:
    """How much a coordinate in the picture, `source` [4] at the corners [4, 2], changes per pixel to the right and per
    pixel down: two sides of the quadrangle say it.
    """
    (ax, ay), (bx, by) = corners[1] - corners[0], corners[2] - corners[0]
    a, b = source[1] - source[0], source[2] - source[0]
    inverse = 1.0 / (rounded(ax * by) - rounded(ay * bx))
    return (rounded(a * by) - rounded(ay * b)) * inverse, (rounded(ax * b) - rounded(a * bx)) * inverse


def _inside(corners: Array, row: Array, column: Array) -> Array:
    """bool [R, C], which pixels of some rows and columns are inside of corners [4, 2]: three trapezoids."""
    top, left, bottom, right = corners

    def edge(upper: Array, lower: Array) -> tuple[Array, Array, Array]:
        """(x, y, x per row); an edge that is level has no rows."""
        height = lower[1] - upper[1]
        return *upper, jnp.where(height != 0, (lower[0] - upper[0]) / jnp.where(height != 0, height, 1.0), 0.0)

    upper_edges, lower_edges = (edge(top, left), edge(top, right)), (edge(left, bottom), edge(right, bottom))
    is_left = left[1] < right[1]  # whether the left corner comes first, from above
    middle = tuple(
        jax.tree.map(lambda x, y: jnp.where(use_lower, y, x), upper, lower)  # noqa: B023
        for use_lower, upper, lower in zip((is_left, ~is_left), upper_edges, lower_edges, strict=True)
    )
    lines = top[1], jnp.minimum(left[1], right[1]), jnp.maximum(left[1], right[1]), bottom[1]
    low, high = jnp.zeros((2, len(row)), jnp.int32)
    for (begins, ends), edges in zip(itertools.pairwise(lines), (upper_edges, middle, lower_edges), strict=True):
        begins = jnp.maximum(jnp.floor(begins + 0.5), 0)
        here = (row >= begins.astype(jnp.int32)) & (row < jnp.floor(ends + 0.5).astype(jnp.int32))
        sides = []
        for x, y, slope in edges:
            at = x + rounded((0.5 + begins - y) * slope) + 0.5
            per_row = jnp.trunc(slope * _ONE).astype(jnp.int32)
            sides.append((jnp.trunc(at * _ONE).astype(jnp.int32) + (row - begins.astype(jnp.int32)) * per_row) >> 16)
        low, high = jnp.where(here, sides[0], low), jnp.where(here, sides[1], high)
    return (column[None] >= jnp.maximum(low, 0)[:, None]) & (column[None] < high[:, None])


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
    never_turns = sizes.max() == 1  # monochrome
    window = int(np.ceil(max(width, height) if never_turns else np.hypot(width, height) + 1)) + 1
    radius = jnp.float32(sprite.radius)
    with jax.enable_x64(True):
        (upper, _), (left, _) = sampling.edges(view, jnp.stack([*place, radius, radius])[None])
        upper, left = upper[0].astype(jnp.float64) - sprite.above * width, left[0].astype(jnp.float64)
        is_back, size = jnp.asarray(np.abs(sprite.angles) == 180)[angle], jnp.asarray(sizes)[picture]
        rows = sampling.spans(jnp, upper, height, size[0], window, outside, is_back, half_turn=True)
        columns = sampling.spans(jnp, left, width, size[1], window, outside, is_back, half_turn=True)
        found = [(rows[0], columns[0], sampling.crossed(rows[1], columns[1]))]
        if not never_turns:
            turns = [stacked([turned(degrees, width, height, one) for degrees in sprite.angles]) for one in sizes]
            turn = Turn(*(jnp.asarray(array)[picture, angle] for array in stacked(turns)))
            found.append(covered(turn, (left + width / 2, upper + height / 2), size, window, outside))
        row, column, index = (jnp.stack(arrays) for arrays in zip(*found, strict=True))
    is_straight = never_turns | jnp.asarray(sprite.angles % 180 == 0)[angle]
    pixel = sampling.places(table, picture, index[..., 0], index[..., 1])
    there = jnp.stack([is_straight, ~is_straight][: len(found)])
    return sampling.painted(frame, sampling.words(table), (row, column), pixel, there)
