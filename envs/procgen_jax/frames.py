"""The library's frames without its drawing code: tables of sprites, taken from the library, and their blending in JAX.

A sprite drawn over a pixel d gives s + d * (k / 255), rounded as Qt rounds it. Its colour s and the share k of what is
behind it are the same for every d. So they are found by drawing each sprite in each cell, over black and over pictures.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs import procgen
from purerl.envs.procgen_jax.states import LibraryState, parse
from purerl.errors import PurerlError
from purerl.types import Array

SIZE = 64  # pixels in a row or column of a frame
NUM_BACKGROUNDS = 8  # enough different pictures that every pixel's k is found
_FAR = -9.0  # cells: where an entity is out of sight
# Cells of this distance can be drawn in one frame and told apart.
_STRIDE = 3


class Sprite(NamedTuple):
    """How one sprite looks in each place, [..., h, w] windows of a frame.

    Attributes:
      colour: uint8 [..., h, w, 3], s.
      behind: uint8 [..., h, w, 1], k: 255 where the sprite is not.
      corner: int32 [..., 2], the row and column of the window's first pixel.
    """

    colour: np.ndarray
    behind: np.ndarray
    corner: np.ndarray


class Layers(NamedTuple):
    """How kinds of cells look in a whole frame, L layers over each other: in each, a pixel is of one cell at most.

    Attributes:
      colour: uint8 [L, kinds, 64, 64, 3], s.
      behind: uint8 [L, kinds, 64, 64, 1], k.
      cell: int32 [L, 64, 64], the number y * W + x of the pixel's cell.
    """

    colour: np.ndarray
    behind: np.ndarray
    cell: np.ndarray


class Painter:
    """Draws states with the library.

    Args:
      id: of the game.
      options: of procgen, with which its states are made.
      num_games: how many states are drawn together.

    Attributes:
      games: the library's games.
      buffers: what they show, and their actions.
    """

    def __init__(self, id: str, options: procgen.Options, num_games: int):
        self.buffers = procgen.Buffers.empty((num_games,))
        self.games = procgen.Games(id, options, 0, 1, self.buffers)
        self.games.observe()

    def draw(self, states: list[LibraryState]) -> np.ndarray:
        """The frames of `num_games` states, uint8 [num_games, 64, 64, 3]."""
        self.games.load([state.to_bytes() for state in states])
        return self.buffers.observation.copy()

    def at_levels(self, levels: list[int]) -> list[LibraryState]:
        """States at the start of `num_games` levels, as the library builds them."""
        states = [parse(data) for data in self.games.states()]
        for state, level in zip(states, levels, strict=True):
            state.numbers["level_seed_low"], state.numbers["level_seed_high"] = level, level + 1
        self.draw(states)
        self.buffers.action[:] = -1  # ends the episode, and the level of the range above begins
        self.games.act()
        self.games.observe()
        return [parse(data) for data in self.games.states()]

    def close(self) -> None:
        """Ends the games."""
        self.games.close()


def emptied(state: LibraryState, space: int, background: int | None) -> LibraryState:
    """A state in which only the background is to be seen, picture number `background`, or black for None."""
    state = copy.deepcopy(state)
    state.grid[:] = space
    for entity in range(len(state.entities)):
        state.place(entity, _FAR, _FAR)
    state.numbers["use_backgrounds"] = int(background is not None)
    state.numbers["background_index"] = background or 0
    return state


class Camera:
    """Photographs sprites in front of black and of `NUM_BACKGROUNDS` pictures.

    Args:
      painter: with 1 + NUM_BACKGROUNDS games.
      state: any of the game.
      space: the cell in which nothing is.
      levels: the arrays of a bank's levels, for tables that depend on them.

    Attributes:
      state, levels: as given.
    """

    def __init__(self, painter: Painter, state: LibraryState, space: int, levels: dict[str, np.ndarray]):
        self._painter, self._space, self.state, self.levels = painter, space, state, levels
        self.height, self.width = state.grid.shape

    @functools.cached_property
    def _scenes(self) -> list[LibraryState]:
        """Empty ones, over black and over each of the pictures."""
        return [emptied(self.state, self._space, background) for background in (None, *range(NUM_BACKGROUNDS))]

    @functools.cached_property
    def _pictures(self) -> np.ndarray:
        return self._painter.draw(self._scenes)

    def draw(self, states: list[LibraryState]) -> np.ndarray:
        """The frames of any number of states, uint8 [K, 64, 64, 3]."""
        batch = 1 + NUM_BACKGROUNDS
        found = []
        for start in range(0, len(states), batch):
            some = states[start : start + batch]
            found.append(self._painter.draw([*some, *[some[-1]] * (batch - len(some))])[: len(some)])
        return np.concatenate(found)

    def photograph(self, change: Callable[[LibraryState], None]) -> np.ndarray:
        """Frames uint8 [1 + NUM_BACKGROUNDS, 64, 64, 3] of the empty scene after a change to it."""
        scenes = [copy.deepcopy(scene) for scene in self._scenes]
        for scene in scenes:
            change(scene)
        return self._painter.draw(scenes)

    def of_entity(self, change: Callable[[LibraryState, float, float], None]) -> Sprite:
        """The Sprite [H, W] of an entity; change(state, x, y) puts it there."""
        found = {}
        for y, x in np.ndindex(self.height, self.width):
            frames = self.photograph(lambda state: change(state, x + 0.5, y + 0.5))  # noqa: B023
            found[y, x] = self._solved(frames, (0, 0), SIZE)
        return _table(found, (self.height, self.width))

    def of_scene(self, change: Callable[[LibraryState], None]) -> Sprite:
        """The Sprite [] of what a change puts into the empty scene."""
        return _table({(): self._solved(self.photograph(change), (0, 0), SIZE)}, ())

    def of_cell(self, kind: int) -> Sprite:
        """The Sprite [H, W] of a kind of cell; many are photographed together."""
        found = {}
        for first_y, first_x in np.ndindex(_STRIDE, _STRIDE):

            def fill(state: LibraryState) -> None:
                state.grid[first_y::_STRIDE, first_x::_STRIDE] = kind  # noqa: B023

            frames = self.photograph(fill)
            for y in range(first_y, self.height, _STRIDE):
                for x in range(first_x, self.width, _STRIDE):
                    found[y, x] = self._solved(frames, *self._around(y, x))
        return _table(found, (self.height, self.width))

    def _around(self, y: int, x: int) -> tuple[tuple[int, int], int]:
        """(first row and column, size) of the pixels that are nearer to a cell than to the next one of the stride."""
        unit = SIZE / max(self.height, self.width)
        corner = [max(0, round((at - 1) * unit)) for at in (self.height - 1 - y, x)]
        return (corner[0], corner[1]), round(_STRIDE * unit)

    def _solved(self, frames: np.ndarray, corner: tuple[int, int], size: int) -> tuple[np.ndarray, ...]:
        """(corner, s [h, w, 3], k [h, w, 1]) of the smallest window in a square that holds the sprite there."""
        rows, columns = slice(corner[0], corner[0] + size), slice(corner[1], corner[1] + size)
        frames, pictures = frames[:, rows, columns], self._pictures[:, rows, columns]
        changed = (frames != pictures).any(axis=(0, 3))
        if not changed.any():
            return np.array(corner), np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0, 1), np.uint8)
        first = np.array([np.flatnonzero(changed.any(axis=1 - axis))[0] for axis in range(2)])
        last = np.array([np.flatnonzero(changed.any(axis=1 - axis))[-1] for axis in range(2)]) + 1
        window = slice(first[0], last[0]), slice(first[1], last[1])
        colour, behind = frames[0][window], _shares(frames[1:][:, *window], pictures[1:][:, *window], frames[0][window])
        return first + corner, colour, behind


@functools.cache
def blends() -> np.ndarray:
    """uint8 [256, 256]: what a share k of a pixel d gives."""
    k, d = np.ogrid[:256, :256]
    return (((d * k) + ((d * k) >> 8) + 128) >> 8).astype(np.uint8)


def _shares(frames: np.ndarray, pictures: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The share k, uint8 [h, w, 1], of which frames [B, h, w, 3] over pictures [B, h, w, 3] are made.

    Raises PurerlError if a pixel has no such k, or several.
    """
    fits = (blends()[:, pictures] + colour == frames).all(axis=(1, 4))  # [256, h, w]
    if not (fits.sum(axis=0) == 1).all():
        raise PurerlError(
            "the installed procgen draws sprites in another way than version 0.10.7: use --env.observation symbolic"
        )
    return fits.argmax(axis=0).astype(np.uint8)[..., None]


def _table(found: dict[tuple[int, ...], tuple[np.ndarray, ...]], shape: tuple[int, ...]) -> Sprite:
    """Windows {place: (corner, s, k)} of different sizes as one Sprite [*shape]."""
    height, width = np.max([colour.shape[:2] for _, colour, _ in found.values()], axis=0)
    sprite = Sprite(
        np.zeros((*shape, height, width, 3), np.uint8),
        np.full((*shape, height, width, 1), 255, np.uint8),
        np.zeros((*shape, 2), np.int32),
    )
    for place, (corner, colour, behind) in found.items():
        start = np.minimum(corner, SIZE - np.array([height, width]))
        rows, columns = (slice(a, a + n) for a, n in zip(corner - start, colour.shape, strict=False))
        sprite.corner[place] = start
        sprite.colour[place][rows, columns] = colour
        sprite.behind[place][rows, columns] = behind
    return sprite


def stacked(sprites: Iterable[Sprite]) -> Sprite:
    """Several sprites as one, with a new first axis."""
    found = {}
    for i, sprite in enumerate(sprites):
        shape = sprite.corner.shape[:-1]
        found |= {(i, *p): (sprite.corner[p], sprite.colour[p], sprite.behind[p]) for p in np.ndindex(shape)}
    return _table(found, (i + 1, *shape))


def layered(sprite: Sprite) -> Layers:
    """The Sprite [kinds, H, W] of cells as layers, in the library's order: from left to right, within that upwards."""
    kinds, height, width = sprite.corner.shape[:3]
    depth = np.zeros((SIZE, SIZE), int)
    most = 4  # cells that share a pixel
    layers = Layers(
        np.zeros((most, kinds, SIZE, SIZE, 3), np.uint8),
        np.full((most, kinds, SIZE, SIZE, 1), 255, np.uint8),
        np.zeros((most, SIZE, SIZE), np.int32),
    )
    for x, y in np.ndindex(width, height):
        whole = [_whole(sprite, (kind, y, x)) for kind in range(kinds)]
        touched = np.any([(colour != 0).any(-1) | (behind[..., 0] != 255) for colour, behind in whole], axis=0)
        rows, columns = np.nonzero(touched)
        layer = depth[rows, columns]
        for kind, (colour, behind) in enumerate(whole):
            layers.colour[layer, kind, rows, columns] = colour[rows, columns]
            layers.behind[layer, kind, rows, columns] = behind[rows, columns]
        layers.cell[layer, rows, columns] = y * width + x
        depth[rows, columns] += 1
    return Layers(*(array[: depth.max()] for array in layers))


def _whole(sprite: Sprite, place: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(s [64, 64, 3], k [64, 64, 1]) of a sprite in a place."""
    colour, behind = np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE, 1), 255, np.uint8)
    window = tuple(slice(a, a + n) for a, n in zip(sprite.corner[place], sprite.colour.shape[-3:-1], strict=True))
    colour[window], behind[window] = sprite.colour[place], sprite.behind[place]
    return colour, behind


# --- in the graph ----------------------------------------------------------------------------------------------------


def blend(behind: Array, colour: Array, share: Array) -> Array:
    """A sprite's pixels over those behind it, as Qt rounds them: uint8."""
    product = behind.astype(jnp.uint16) * share.astype(jnp.uint16)  # at most 65,025, and 65,407 with what is added
    return colour + ((product + (product >> 8) + 128) >> 8).astype(jnp.uint8)


def draw(frame: Array, sprite: Sprite, place: tuple[Array, ...]) -> Array:
    """A frame uint8 [64, 64, 3] with a sprite drawn in a place, of which the sprite has one index each."""
    colour, share, corner = (jnp.asarray(table).at[place].get(mode="promise_in_bounds") for table in sprite)
    start = corner[0], corner[1], jnp.int32(0)
    pixels = blend(jax.lax.dynamic_slice(frame, start, colour.shape), colour, share)
    return jax.lax.dynamic_update_slice(frame, pixels, start)


def draw_cells(frame: Array, layers: Layers, grid: Array, kinds: tuple[int, ...]) -> Array:
    """A frame uint8 [64, 64, 3] with the cells of a grid [H, W] drawn; cells of no kind in `kinds` are not.

    Most pixels are of one cell; a few rows and columns are of two, whose pictures overlap by a pixel. The few rows are
    drawn one by one, with all of their cells; then the whole frame with the cell of each other row and the first cell
    of each column, and once more with the second one.

    Kinds of cells are spread over the pixels of a row before anything is drawn, and without a gather: XLA would move
    that into the loops over pixels, which then cannot use vector instructions. Barriers keep it from moving the rest.
    """
    barrier, channels = jax.lax.optimization_barrier, frame.shape[-1]
    passes = _passes(layers, grid.shape[1])
    spread = [barrier(_spread(grid, np.repeat(by_row[0].columns, channels))) for by_row in passes]

    def over(pixels: Array, here: Array, cells: _Pass, which: np.ndarray) -> Array:
        """Pixels [R, 192] of the frame's rows `which` with the cells of a pass, of kinds `here` [R, 192], over them."""
        colour, share = jnp.uint8(0), jnp.uint8(255)
        for kind, of_colour, of_share in zip(kinds, cells.colour[:, which], cells.behind[:, which], strict=True):
            colour = jnp.where(here == kind, jnp.asarray(of_colour), colour)
            share = jnp.where(here == kind, jnp.asarray(of_share), share)
        return blend(pixels, colour, share)

    drawn = barrier(frame.reshape(SIZE, SIZE * channels))
    shared = passes[0][1].rows >= 0 if len(passes[0]) > 1 else np.zeros(SIZE, bool)
    for row in np.flatnonzero(shared):
        pixels = drawn[row][None]
        for by_row, kind_of in zip(passes, spread, strict=True):
            for cells in by_row:
                pixels = over(pixels, kind_of[cells.rows[row]][None], cells, np.array([row]))
        drawn = drawn.at[row].set(pixels[0])
    for (cells, *_), kind_of in zip(passes, spread, strict=True):
        here = barrier(jnp.where(shared[:, None], jnp.asarray(-1, grid.dtype), kind_of[np.maximum(cells.rows, 0)]))
        drawn = over(drawn, here, cells, np.arange(SIZE))
    return drawn.reshape(frame.shape)


class _Pass(NamedTuple):
    """Cells of which none overlap: int [64] rows, of cells, one for each row of pixels, -1 for none, and so columns;
    uint8 [kinds, 64, 192], what they look like.
    """

    rows: np.ndarray
    columns: np.ndarray
    colour: np.ndarray
    behind: np.ndarray


def _passes(layers: Layers, width: int) -> list[list[_Pass]]:
    """Layers as passes, in the order of drawing: by columns of cells from the left, and within them by rows upwards."""
    drawn = ((layers.behind[..., 0] != 255) | layers.colour.any(axis=-1)).any(axis=1)  # [L, 64, 64]
    rows = _lines(layers.cell // width, drawn)
    columns = _lines((layers.cell % width).transpose(0, 2, 1), drawn.transpose(0, 2, 1))
    found: list[list[_Pass]] = []
    for column in columns:
        found.append([])
        for row in rows:
            is_cell = (row >= 0)[:, None] & (column >= 0) & (layers.cell == row[:, None] * width + column) & drawn
            layer = is_cell.argmax(axis=0)[None, None, ..., None]
            colour, behind = (np.take_along_axis(table, layer, axis=0)[0] for table in (layers.colour, layers.behind))
            of_pixel = is_cell.any(axis=0)[..., None]
            colour, behind = np.where(of_pixel, colour, np.uint8(0)), np.where(of_pixel, behind, np.uint8(255))
            behind = np.repeat(behind, colour.shape[-1], axis=-1)
            found[-1].append(_Pass(row, column, *(table.reshape(len(table), SIZE, -1) for table in (colour, behind))))
    return found


def _lines(numbers: np.ndarray, drawn: np.ndarray) -> list[np.ndarray]:
    """The numbers [L, 64, 64] in each line of pixels, where drawn: int [64] of the lowest, then of the second lowest if
    any line has two, and so on; -1 for none.
    """
    sets = [sorted({*numbers[:, i][drawn[:, i]].tolist()}) for i in range(SIZE)]
    most = max(map(len, sets))
    return [np.array([found[i] if i < len(found) else -1 for found in sets]) for i in range(most)]


def _spread(grid: Array, columns: np.ndarray) -> Array:
    """[H, C] of a grid [H, W]: its column columns[c] in place c, -1 where that is negative."""
    found = jnp.full((grid.shape[0], len(columns)), -1, grid.dtype)
    for column in range(grid.shape[1]):
        if (columns == column).any():
            found = jnp.where(columns == column, grid[:, column, None], found)
    return found
