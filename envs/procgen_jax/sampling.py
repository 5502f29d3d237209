"""Sprites at any place: the library's pictures, read from its folder and sampled as Qt samples them.

Without smoothing Qt 5 copies pixels: each pixel of a rectangle takes the picture's pixel at its centre, found in fixed
point with 16 binary digits. So rows and columns are independent: a sprite is its picture, indexed by a row of indices
and a column of indices. Where positions are few these are tables; else they are computed in the graph, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from purerl.envs import procgen
from purerl.envs.procgen_jax import bodies, frames
from purerl.envs.procgen_jax.states import LibraryState
from purerl.types import Array

_MARGIN = np.float32(0.02)
_ONE = 1 << 16  # of Qt's fixed point


class View(NamedTuple):
    """Where the world is on the frame, float32 as in the library: pixels per cell, cells in view, offsets in pixels."""

    unit: np.float32
    size: np.float32
    left: np.float32
    top: np.float32

    @classmethod
    def of(cls, state: LibraryState) -> View:
        """The view of a state that has been drawn."""
        return cls(*(np.float32(state.numbers[name]) for name in ("unit", "view_dim", "x_off", "y_off")))

    def columns(self, x: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(left edge, width) in pixels of boxes with centres x, float64 of float32 numbers."""
        return self._along(x - radius, -self.left, 2 * radius)

    def rows(self, y: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(upper edge, height) in pixels of boxes with centres y, float64 of float32 numbers."""
        return self._along(self.size - (y + radius), self.top, 2 * radius)

    def cell_columns(self, cell: int) -> tuple[np.ndarray, np.ndarray]:
        """(left edge, width) in pixels of a cell, which is drawn a fiftieth larger on each side."""
        return self._along(np.float32(cell) - _MARGIN, -self.left, np.float32(1) + 2 * _MARGIN)

    def cell_rows(self, cell: int) -> tuple[np.ndarray, np.ndarray]:
        """(upper edge, height) in pixels of a cell, likewise."""
        return self._along(self.size - np.float32(cell + 1) - _MARGIN, self.top, np.float32(1) + 2 * _MARGIN)

    def _along(self, start: np.ndarray, offset: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        edge = start * self.unit + offset
        return edge.astype(np.float64), (length * self.unit).astype(np.float64)


# --- pictures --------------------------------------------------------------------------------------------------------


def read(files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [K, S, S, 4], sizes int32 [K, 2] (height, width)) of pictures in the library's folder.

    The four numbers of a pixel are its colour, multiplied by its opacity, and 255 minus the opacity. The last row and
    the last column are transparent in all of them.
    """
    folder = Path(procgen._library()[2])
    found = []
    for file in files:
        with Image.open(folder / file) as image:
            found.append(np.asarray(image.convert("RGBA")))
    return _padded([_premultiplied(picture) for picture in found])


def of_colours(kinds: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """As `read`, for use_monochrome_assets: pictures of one pixel for pairs of type and theme."""
    found = []
    for kind, theme in kinds:
        value = (29 * (kind + 1) % 64 + 19 * theme) % 64
        colour = [64 * (digit + 1) - 1 for digit in (value // 16, value // 4 % 4, value % 4)]
        found.append(np.array([[[*colour, 0]]], np.uint8))
    return _padded(found)


def of_kinds(files: dict[tuple[int, int], str], state: LibraryState) -> tuple[np.ndarray, np.ndarray]:
    """As `read`, of the files of pairs of type and theme; plain colours for a state with use_monochrome_assets."""
    return of_colours(list(files)) if state.numbers["use_monochrome_assets"] else read(list(files.values()))


def _premultiplied(picture: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 4] of a picture with plain colours and opacities, rounded as Qt rounds."""
    product = picture[..., :3].astype(np.int32) * picture[..., 3:]
    colour = (product + (product >> 8) + 128) >> 8
    return np.concatenate([colour, 255 - picture[..., 3:]], axis=-1).astype(np.uint8)


def _padded(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    side = int(sizes.max()) + 1
    found = np.zeros((len(pictures), side, side, 4), np.uint8)
    found[..., 3] = 255
    for into, picture in zip(found, pictures, strict=True):
        into[: picture.shape[0], : picture.shape[1]] = picture
    return found, sizes


def words(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [..., 4] as uint32 [P], a number for each pixel: red is the lowest byte."""
    return np.ascontiguousarray(pictures).view("<u4").reshape(-1).astype(np.uint32)


def places(pictures: np.ndarray, picture: Any, row: Array, column: Array) -> Array:
    """Which of the `words` of pictures are in a row and a column of one of them, int32."""
    side = pictures.shape[1]
    return (picture * side + row) * side + column


# --- which pixels ----------------------------------------------------------------------------------------------------


def spans(
    xp: Any,
    start: Any,
    length: Any,
    source: Any,
    width: int,
    outside: int,
    backwards: Any = False,
    half_turn: bool = False,
    at: Any = None,
) -> tuple[Any, Any]:
    """The pixels along one axis of a frame that sprites cover, and what each shows.

    Args:
      xp: numpy, or jax.numpy with 64-bit numbers enabled.
      start, length: float64 [...], of the sprites' boxes, in pixels.
      source: the number of the picture's pixels along the axis, [...].
      width: of the windows that are returned.
      outside: the index of a transparent row or column.
      backwards: whether the picture is shown from its end to its start, bool [...] or of all.
      half_turn: whether that is because it is turned by 180 degrees; otherwise it is mirrored, which is another
        transformation in Qt and rounded the other way.
      at: the first pixel of each window, int32 [...]; by default the first that the sprite covers.

    Returns:
      (first pixel of each window int32 [...], index into the picture for each pixel of it int32 [..., width]).
    """
    step = xp.asarray(_ONE / (length / source)).astype(xp.int32)  # cut off, and so is where the first pixel is
    first = xp.maximum(xp.floor(start + 0.5), 0)
    end = xp.floor(start + length + 0.5).astype(xp.int32)
    base = xp.ceil((first + 0.5 - start) * step).astype(xp.int32)
    if backwards is False:
        base = base - 1
    else:
        # Qt begins a pixel later, and ends one earlier, if the first index would be the one after the picture's end.
        from_end = xp.asarray(source * _ONE).astype(xp.int32) - (base - 1 if half_turn else base)
        late = from_end >> 16 >= source
        end = xp.where(backwards & late, end - 1, end)
        base = xp.where(backwards, xp.where(late, from_end - step, from_end), base - 1)
        step = xp.where(backwards, -step, step)
    first = first.astype(xp.int32)
    window = xp.clip(first if at is None else at, 0, frames.SIZE - width)
    pixel = window[..., None] + xp.arange(width, dtype=xp.int32).reshape(*[1] * window.ndim, width)
    index = (base[..., None] + step[..., None] * (pixel - first[..., None])) >> 16
    inside = (pixel >= first[..., None]) & (pixel < end[..., None])
    inside &= (index >= 0) & (index < xp.asarray(source)[..., None])
    return window, xp.where(inside, index, outside)


def edges(view: View, boxes: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """((upper edges, heights), (left edges, widths)) in pixels, float32 [K], of boxes [K, 4], x, y and the two radii:
    products that are guarded, then sums.
    """
    x, y, rx, ry = boxes.T
    upper = bodies.rounded((view.size - (y + ry)) * view.unit) + view.top
    left = bodies.rounded((x - rx) * view.unit) - view.left
    return (upper, bodies.rounded(2 * ry * view.unit)), (left, bodies.rounded(2 * rx * view.unit))


def spans_of(
    edges: tuple[Array, Array],
    source: Array,
    window: int,
    outside: int,
    backwards: Array | bool = False,
    half_turn: bool = False,
) -> tuple[Array, Array]:
    """`spans` of float32 (starts, lengths); nothing is drawn of what has no length. 64-bit numbers must be enabled."""
    start, length = (edge.astype(jnp.float64) for edge in edges)
    return spans(jnp, start, jnp.where(length > 0, length, 1.0), source, window, outside, backwards, half_turn)


def crossed(rows: Array, columns: Array) -> Array:
    """int32 [h, w, 2]: the picture's row and column for each pixel of a window, of indices along each axis."""
    return jnp.stack(jnp.broadcast_arrays(rows[:, None], columns[None]), axis=-1)


def blended(frame: Array, pixels: Array, first: tuple[Array, Array]) -> Array:
    """A frame uint8 [64, 64, 3] with pixels uint32 [h, w] over it, from a first row and column on: four bytes each, as
    `read` gives them.
    """
    channels = ((pixels[..., None] >> jnp.arange(0, 32, 8, dtype=jnp.uint32)[None, None]) & 255).astype(jnp.uint8)
    start = *first, jnp.int32(0)
    behind = jax.lax.dynamic_slice(frame, start, (*pixels.shape, 3))
    return jax.lax.dynamic_update_slice(frame, frames.blend(behind, channels[..., :3], channels[..., 3:]), start)


def draw_all(
    frame: Array,
    pictures: np.ndarray,
    kinds: Array,
    rows: tuple[Array, Array],
    columns: tuple[Array, Array],
    there: Array,
) -> Array:
    """A frame with K sprites drawn, one after the other: kinds int32 [K], and as of `spans` where they are; those with
    `there`, bool [K].
    """
    place = places(pictures, kinds[:, None, None], rows[1][:, :, None], columns[1][:, None])
    return painted(frame, words(pictures), (rows[0], columns[0]), place, there)


def painted(frame: Array, pixels: np.ndarray, first: tuple[Array, Array], place: Array, there: Array) -> Array:
    """A frame with K windows of pixels drawn over it, one after the other.

    Args:
      frame: uint8 [64, 64, 3].
      pixels: uint32 [P], four bytes each as `read` gives them.
      first: (row, column) int32 [K] of each window.
      place: int32 [K, h, w], which of the pixels are in it.
      there: bool [K], which windows are drawn.
    """
    if not len(there):  # no such things in any level of the bank
        return frame
    place = jnp.where(there[:, None, None], place.astype(jnp.int32), _transparent(pixels))
    over = jnp.asarray(pixels).at[place].get(mode="promise_in_bounds")
    if jax.default_backend() != "cpu":
        frame, _ = jax.lax.scan(lambda frame, xs: (blended(frame, xs[0], xs[1:]), None), frame, (over, *first))
        return frame
    # On a CPU one frame after the other is drawn, with four bytes a pixel: a batch of windows in different places is
    # copied one by one anyway, and so only windows that are there cost time.

    @jax.custom_batching.sequential_vmap
    def paint(canvas: Array, row: Array, column: Array, over: Array, order: Array, number: Array) -> Array:
        def one(i: Array, canvas: Array) -> Array:
            at = row[order[i]], column[order[i]]
            behind = jax.lax.dynamic_slice(canvas, at, over.shape[1:])
            return jax.lax.dynamic_update_slice(canvas, _blended_words(behind, over[order[i]]), at)

        return jax.lax.fori_loop(0, number, one, canvas)

    order = jnp.argsort(~there, stable=True).astype(jnp.int32)
    canvas = paint(_words(frame), *first, over, order, there.sum(dtype=jnp.int32))
    return ((canvas[..., None] >> jnp.arange(0, 24, 8, dtype=jnp.uint32)[None, None]) & 255).astype(jnp.uint8)


def _transparent(pixels: np.ndarray) -> int:
    """The number of a pixel that changes nothing: `read` and `tiles` end with one."""
    assert pixels[-1] == 255 << 24
    return len(pixels) - 1


def _words(frame: Array) -> Array:
    """uint32 [64, 64] of a frame: red is the lowest byte."""
    red, green, blue = (frame[..., channel].astype(jnp.uint32) for channel in range(3))
    return red | (green << 8) | (blue << 16)


def _blended_words(behind: Array, over: Array) -> Array:
    """`frames.blend` of all three bytes: red and blue in one product, each with room for it."""
    share, two = over >> 24, jnp.uint32(0xFF00FF)
    outer, inner = (behind & two) * share, ((behind >> 8) & 255) * share
    outer = ((outer + ((outer >> 8) & two) + jnp.uint32(0x800080)) >> 8) & two
    return (over & 0xFFFFFF) + outer + (((inner + (inner >> 8) + 128) >> 8) << 8)


def draw_boxes(
    frame: Array,
    pictures: tuple[np.ndarray, np.ndarray],
    view: View,
    boxes: Array,
    kinds: Array,
    there: Array,
    largest: float,
    backwards: Array | bool = False,
    half_turn: bool = False,
) -> Array:
    """A frame with K sprites drawn at any place, one after the other.

    Args:
      frame: uint8 [64, 64, 3].
      pictures: the two results of `read`.
      view: where the world is.
      boxes: float32 [K, 4], x, y and the two radii of each, in cells.
      kinds: int32 [K], the picture of each.
      there: bool [K], which of them are drawn.
      largest: the greatest width or height of a box, in cells.
      backwards: bool [K], whose picture is mirrored, or turned by 180 degrees with `half_turn`.
    """
    table, all_sizes = pictures
    outside, window = table.shape[1] - 1, int(np.ceil(largest * float(view.unit))) + 1
    with jax.enable_x64(True):
        heights, widths = edges(view, boxes)
        sizes = jnp.asarray(all_sizes)[kinds]
        rows = spans_of(heights, sizes[:, 0], window, outside, backwards if half_turn else False, half_turn)
        columns = spans_of(widths, sizes[:, 1], window, outside, backwards, half_turn)
    return draw_all(frame, table, kinds, rows, columns, there)


# --- shares of cells -------------------------------------------------------------------------------------------------


def shares(low: Array, high: Array, cells: int) -> Array:
    """How much of each cell along an axis intervals [...] cover, float32 [..., cells] in 0..1."""
    cell = jnp.arange(cells, dtype=jnp.float32).reshape(*[1] * low.ndim, cells)
    return jnp.clip(jnp.minimum(high[..., None], cell + 1) - jnp.maximum(low[..., None], cell), 0, 1)


def cells_of(rows: Array, width: int) -> Array:
    """uint8 [H, W], 255 where rows of bits int32 [H] have one."""
    return (jnp.right_shift(rows[:, None], jnp.arange(width)[None]) & 1).astype(jnp.uint8) * 255


def covered(x: tuple[Array, Array], y: tuple[Array, Array], shown: Array, width: int, height: int) -> Array:
    """255 times the share of each cell that boxes [E] cover, at most 255 together.

    shown is bool [E], which of the boxes count, for uint8 [H, W]; or bool [P, E] for P planes, uint8 [H, W, P].
    """
    columns, rows = shares(*x, width), shares(*y, height)
    planes = jnp.atleast_2d(shown)
    if len(rows) == 1:
        share = rows.T[..., None] * columns.T[None] * planes.T[None]
    else:  # one product of matrices for all planes
        of_planes = (rows.T[:, None] * planes[None]).reshape(-1, len(rows))
        share = jnp.matmul(of_planes, columns, precision="highest").reshape(height, len(planes), width).swapaxes(1, 2)
    found = (jnp.minimum(share, 1) * 255 + 0.5).astype(jnp.uint8)
    return found if shown.ndim == 2 else found[..., 0]
