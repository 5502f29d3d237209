"""Sprites of any size and angle, one over the other: each is drawn as tiles of one size, so that one loop draws all.

A loop over sprites would have to draw each as large as the largest. Here a large one is several turns of the loop.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs.procgen_jax import frames, sampling, turning
from purerl.envs.procgen_jax.bodies import rounded
from purerl.types import Array

SIDE = 9  # pixels in a row and in a column of a tile
TURNED = 1.25  # cells: the largest sprite that may be turned, by 4 pixels a cell: it fits into a tile at any angle
_NOTHING = -1


class Sprites(NamedTuple):
    """K sprites.

    Attributes:
      boxes: float32 [K, 4], x, y and the two radii of each, in cells.
      pictures: int32 [K].
      rotations: float32 [K], clockwise, in radians; the sprites that are turned are squares.
      order: int32 [K], which is drawn after which; the smallest first.
      there: bool [K], which of them are drawn.
    """

    boxes: Array
    pictures: Array
    rotations: Array
    order: Array
    there: Array


def joined(*parts: Sprites) -> Sprites:
    """Several lists of sprites as one."""
    return Sprites(*(jnp.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def first(sprites: Sprites, number: int) -> Sprites:
    """The first sprites of those that are drawn: there must be no more of them than the number."""
    rank = jnp.cumsum(sprites.there, dtype=jnp.int32)
    is_next = sprites.there[None] & (rank[None] == jnp.arange(1, number + 1, dtype=jnp.int32)[:, None])
    which = jnp.argmax(is_next, axis=1)
    return Sprites(*(array[which] for array in sprites[:-1]), is_next.any(axis=1))


def number(width: float, height: float) -> int:
    """How many tiles a sprite of so many pixels needs at most."""
    across, down = (-(-min(frames.SIZE, int(np.ceil(length)) + 1) // SIDE) for length in (width, height))
    return across * down


def draw(
    frame: Array, pictures: tuple[np.ndarray, np.ndarray], view: sampling.View, sprites: Sprites, tiles: int
) -> Array:
    """A frame with sprites drawn.

    Args:
      frame: uint8 [64, 64, 3].
      pictures: the two results of `sampling.read`.
      view: where the world is.
      sprites: what is drawn.
      tiles: how many tiles all of them need together at most.
    """
    pixels, offsets = _flat(*pictures)
    order = jnp.argsort(jnp.where(sprites.there, sprites.order, np.iinfo(np.int32).max))
    sprites = Sprites(*(array[order] for array in sprites))
    with jax.enable_x64(True):
        first, place, used = _places(pictures[1], offsets, view, sprites, tiles)
    return sampling.painted(frame, pixels, first, place, used)


def _flat(pictures: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(uint32 [P], the pixels of all pictures, one after the other, and a transparent one; int32 [K + 1], where each
    picture begins).
    """
    cut = [picture[:height, :width].reshape(-1, 4) for picture, (height, width) in zip(pictures, sizes, strict=True)]
    flat = np.concatenate([*cut, np.array([[0, 0, 0, 255]], np.uint8)])
    starts = np.cumsum([0, *(len(picture) for picture in cut)]).astype(np.int32)
    return sampling.words(flat), starts


def _places(
    sizes: np.ndarray, offsets: np.ndarray, view: sampling.View, sprites: Sprites, tiles: int
) -> tuple[tuple[Array, Array], Array, Array]:
    """((first row, first column) int32 [T] of each tile, which of the flat pixels it shows int32 [T, SIDE, SIDE],
    which tiles are used bool [T]).
    """
    extents = sampling.edges(view, sprites.boxes)
    degrees = in_degrees(sprites.rotations)
    is_turned = (degrees != 0) & (sizes.max() > 1)  # plain colours are never turned
    begins, counts = zip(*(_tiled(*extent, sprites.there, is_turned) for extent in extents), strict=True)
    ends = jnp.cumsum(counts[0] * counts[1], dtype=jnp.int32)
    tile = jnp.arange(tiles, dtype=jnp.int32)
    of = jnp.minimum((ends[None] <= tile[:, None]).sum(axis=1, dtype=jnp.int32), len(ends) - 1)  # [T], whose tile it is
    which = tile - (ends - counts[0] * counts[1])[of]
    steps = which // jnp.maximum(counts[1][of], 1), which % jnp.maximum(counts[1][of], 1)
    at = [begin[of] + SIDE * step for begin, step in zip(begins, steps, strict=True)]
    rows, columns = ((start[of].astype(jnp.float64), length[of].astype(jnp.float64)) for start, length in extents)
    size = jnp.asarray(sizes)[sprites.pictures[of]]
    first_row, row = _along(*rows, size[:, 0], at[0])
    first_column, column = _along(*columns, size[:, 1], at[1])
    straight = jnp.stack(jnp.broadcast_arrays(row[:, :, None], column[:, None]), axis=-1)
    askew_row, askew_column, askew = jax.vmap(_turned)(rows, columns, size, degrees[of].astype(jnp.float64))
    turns = is_turned[of]
    index = jnp.where(turns[:, None, None, None], askew, straight)
    shown = (index > _NOTHING).all(axis=-1) & (tile < ends[-1])[:, None, None]
    pixel = jnp.asarray(offsets)[sprites.pictures[of]][:, None, None] + index[..., 0] * size[:, 1, None, None]
    place = jnp.where(shown, pixel + index[..., 1], int(offsets[-1]))
    first = jnp.where(turns, askew_row, first_row), jnp.where(turns, askew_column, first_column)
    return first, place.astype(jnp.int32), tile < ends[-1]


def in_degrees(radians: Array) -> Array:
    """The library's degrees, float32: radians * 180 / pi, one float32 operation after the other.

    XLA would multiply by the reciprocal of pi, and one in seven of such float32 numbers has another last digit; so the
    quotient is of float64 numbers, rounded at the end.
    """
    with jax.enable_x64(True):
        product = rounded(radians * np.float32(180)).astype(jnp.float64)
        return (product / np.float64(np.float32(np.pi))).astype(jnp.float32)


def _tiled(start: Array, length: Array, there: Array, is_turned: Array) -> tuple[Array, Array]:
    """(first pixel int32 [K], number of tiles int32 [K]) along an axis; of what is turned a tile is enough."""
    start, length = start.astype(jnp.float64), length.astype(jnp.float64)
    first = jnp.maximum(jnp.floor(start + 0.5), 0).astype(jnp.int32)
    end = jnp.minimum(jnp.floor(start + length + 0.5), frames.SIZE).astype(jnp.int32)
    count = jnp.where(is_turned, 1, jnp.maximum(-((first - end) // SIDE), 0))
    return first, jnp.where(there, count, 0)


def _along(start: Array, length: Array, source: Array, at: Array) -> tuple[Array, Array]:
    """(first pixel int32 [T], index int32 [T, SIDE]) of tiles along an axis that begin at a pixel."""
    length = jnp.where(length > 0, length, 1.0)
    first, index = sampling.spans(jnp, start, length, source, SIDE, _NOTHING, at=at)
    # Near the edge of the frame a tile is moved inwards, onto pixels of the tile before.
    is_own = first[:, None] + jnp.arange(SIDE, dtype=jnp.int32)[None] >= at[:, None]
    return first, jnp.where(is_own, index, _NOTHING)


def _turned(
    rows: tuple[Array, Array], columns: tuple[Array, Array], size: Array, degrees: Array
) -> tuple[Array, Array, Array]:
    """`turning.covered` of one sprite."""
    turn = turning.turned(degrees, columns[1], rows[1], size, jnp)
    centre = columns[0] + columns[1] / 2, rows[0] + rows[1] / 2
    return turning.covered(turn, centre, size, SIDE, _NOTHING)
