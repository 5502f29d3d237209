"""Frames of fruitbot, which scroll: boxes at any height, walls and a background of tiles, an agent that is turned.

What depends on the time alone, as the agent's height does, is a table. Everything is placed as the library places it,
in float32, and sampled as Qt samples it, in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from purerl.envs import procgen
from purerl.envs.procgen_jax import frames, sampling, turning
from purerl.envs.procgen_jax.moves import of_level
from purerl.types import Array

_BACKGROUNDS = ("floortiles", *(f"backgrounddetailed{number}" for number in range(1, 9)))  # in the library's order
_TOP = 1000.0  # cells: things above are none


class Look(NamedTuple):
    """What a game says of its looks.

    Attributes:
      pictures: {(kind, theme): file}, of all but the agent.
      agent: the agent's file, radius, and angle in degrees.
      bullet, border: kinds of the bullets, and of the cells around the world.
      tiles: {kind: width of a tile, in heights of the box}, of kinds that are drawn as rows of tiles.
      height: of a level in cells.
    """

    pictures: dict[tuple[int, int], str]
    agent: tuple[str, np.float32, float]
    bullet: int
    border: int
    tiles: dict[int, float]
    height: int


# --- from the library ------------------------------------------------------------------------------------------------


def tables(camera: frames.Camera, look: Look, heights: np.ndarray) -> dict[str, Any]:
    """Pictures, where the world is on the frame at each time, rows of the background, and columns of rows of tiles."""
    state, levels = camera.state, camera.levels
    is_monochrome = bool(state.numbers["use_monochrome_assets"])
    files = look.pictures | {(0, 0): look.agent[0]}
    kinds = list(files)
    pictures, sizes = sampling.of_kinds(files, state)
    width = np.float32(state.grid.shape[1])
    unit = np.float32(64) / width
    size = np.float32(64.0 / float(unit))
    centre = (heights.astype(np.float64) + float(width) / 2 - float(2 * look.agent[1])).astype(np.float32)
    half = size / np.float32(2)
    top, left = unit * (centre - half), unit * (width / np.float32(2) - half)
    of_kind = np.zeros((max(kind for kind, _ in kinds) + 1, 1 + max(theme for _, theme in kinds)), np.int8)
    for number, key in enumerate(kinds):
        of_kind[key] = number
    restricted = bool(state.numbers["restrict_themes"])
    found = {
        "pictures": pictures,
        "sizes": sizes,
        "picture_of": of_kind[:, :1].repeat(of_kind.shape[1], 1) if restricted else of_kind,
        "view": np.array([unit, size, left], np.float32),
        "top": top,
    }
    border = of_kind[look.border, 0]
    border = pictures[border], sizes[border]
    view = sampling.View(unit, size, left, top)
    found |= _background(state.numbers["use_backgrounds"], view, width, look.height, border)
    return found | _bands(levels, look, view, found, is_monochrome)


def _background(
    is_used: int, view: sampling.View, width: np.float32, height: int, border: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """backgrounds: uint8 [B, S, 64, 3], rows as wide as a frame; background_rows: int16 [B, T, 64], which of them each
    row of a frame shows. Some are rows of the cells around the world, whose picture and size `border` is.
    """
    pictures = [np.zeros((0, 1, 3), np.uint8)]
    if is_used:
        folder = Path(procgen._library()[2]) / "topdown_backgrounds"
        pictures = [np.asarray(Image.open(folder / f"{name}.png").convert("RGBA"))[..., :3] for name in _BACKGROUNDS]
    cells = [*range(-2, 0), *range(height, height + int(width))]
    across = [_cell_span(view.cell_columns(cell), border[1][1])[0] for cell in range(-1, int(width) + 1)]
    down = np.stack([_cell_span(view.cell_rows(cell), border[1][0]) for cell in cells])
    found, indices = [], []
    for picture in pictures:
        rows = np.zeros((len(picture) + 1, frames.SIZE, 3), np.uint8)  # the last one is black
        index = np.full(down.shape[1:], len(picture))
        if len(picture):
            start, length = view.columns(width / np.float32(2), width / np.float32(2))
            _, shown = sampling.spans(np, np.array([start]), np.array([length]), picture.shape[1], frames.SIZE, 0)
            rows[:-1] = picture[:, shown[0]]
            index = _tile_rows(view, np.float32(height), length, len(picture))
        more: dict[tuple[int, ...], int] = {}
        drawn: list[np.ndarray] = []
        for at in zip(*np.nonzero((down >= 0).any(axis=0)), strict=True):
            of_cells = [int(row) for row in down[(slice(None), *at)] if row >= 0]
            key = int(index[at]), *of_cells
            if key not in more:
                more[key] = len(rows) + len(drawn)
                drawn.append(_bordered(rows[index[at]], border[0], of_cells, across))
            index[at] = more[key]
        found.append(np.concatenate([rows, np.array(drawn, np.uint8).reshape(-1, frames.SIZE, 3)]))
        indices.append(index)
    most = max(map(len, found))
    padded = [np.pad(rows, ((0, most - len(rows)), (0, 0), (0, 0))) for rows in found]
    return {"backgrounds": np.stack(padded), "background_rows": np.stack(indices).astype(np.int16)}


def _tile_rows(view: sampling.View, height: np.float32, width: np.float64, source: int) -> np.ndarray:
    """int [T, 64], which row of the background's picture each row of a frame shows, `source` for none: square tiles."""
    upper, tall = view.rows(height / np.float32(2), height / np.float32(2))
    number = int(tall / width)
    tile = np.float32(tall / number)
    found = np.full((len(upper), frames.SIZE), source)
    for n in range(number):
        begins = upper + np.float64(tile * np.float32(n))
        _, shown = sampling.spans(np, begins, np.float64(tile), source, frames.SIZE, source)
        found = np.where(shown < source, shown, found)
    return found


def _cell_span(edges: tuple[np.ndarray, np.ndarray], source: int) -> np.ndarray:
    """int [T, 64], which row or column of a cell's picture a frame shows, -1 for none; edges as of View.cell_rows."""
    start, length = (np.atleast_1d(edge) for edge in edges)
    return sampling.spans(np, start, length, source, frames.SIZE, -1)[1]


def _bordered(row: np.ndarray, picture: np.ndarray, of_cells: list[int], across: list[np.ndarray]) -> np.ndarray:
    """A row of a frame uint8 [64, 3] with rows of cells' picture drawn over it, from left to right, then upwards."""
    for columns in across:
        pixels = np.flatnonzero(columns >= 0)
        for cell_row in of_cells:
            colour, share = np.split(picture[cell_row, columns[pixels]], [3], axis=-1)
            row = row.copy()
            row[pixels] = frames.blends()[share, row[pixels]] + colour
    return row


def _bands(levels: dict[str, np.ndarray], look: Look, view: sampling.View, found: dict, plain: bool) -> dict[str, Any]:
    """The rows of tiles of each level, those of one kind at one height together, and the other things.

    band: int8 [L, B], the number of a thing of each, by height; band_columns: uint8 [L, B, 64], the column of the
    picture in each pixel. single: int8 [L, E], the other things, by height.
    """
    outside = found["pictures"].shape[1] - 1
    bands, singles = [], []
    for boxes, kind in zip(levels["boxes"], levels["kind"], strict=True):
        one_level: dict[tuple[int, float], tuple[int, np.ndarray]] = {}
        for thing in np.flatnonzero(np.isin(kind, list(look.tiles))):
            key = int(kind[thing]), float(boxes[thing, 1])
            picture = found["picture_of"][kind[thing], 0]
            columns = _tiled(boxes[thing], look.tiles[kind[thing]], view, found["sizes"][picture, 1], outside, plain)
            if key in one_level:
                first, before = one_level[key]
                columns, thing = np.where(columns == outside, before, columns), first
            one_level[key] = thing, columns
        bands.append(list(one_level.values()))
        singles.append(np.flatnonzero((kind > 0) & ~np.isin(kind, list(look.tiles))))
    none = levels["kind"].shape[1] - 1
    most = max(map(len, bands))
    band = np.full((len(bands), most), none, np.int8)
    columns = np.full((len(bands), most, frames.SIZE), outside, np.uint8)
    single = np.full((len(bands), max(map(len, singles))), none, np.int8)
    for row, (some, others) in enumerate(zip(bands, singles, strict=True)):
        for n, (thing, shown) in enumerate(some):
            band[row, n], columns[row, n] = thing, shown
        single[row, : len(others)] = others
    return {"band": band, "band_columns": columns, "single": single}


def _tiled(box: np.ndarray, ratio: float, view: sampling.View, source: int, outside: int, plain: bool) -> np.ndarray:
    """int [64], the column of the picture in each pixel of a box that is a row of tiles."""
    start, length = view.columns(box[0], box[2])
    height = float(2 * box[3] * view.unit)
    number = 1 if plain else max(1, int(length / (height * np.float64(np.float32(ratio)))))
    tile = np.float32(length / number)
    found = np.full(frames.SIZE, outside)
    for n in range(number):
        begins = start + np.float64(tile * np.float32(n))
        wide = length if plain else np.float64(tile)
        _, shown = sampling.spans(np, np.array([begins]), np.array([wide]), source, frames.SIZE, outside)
        found = np.where(shown[0] == outside, found, shown[0])
    return found


# --- in the graph ----------------------------------------------------------------------------------------------------


def frame(
    bank: dict[str, Any], look: Look, level: Array, time: Array, there: Array, bullets: tuple[Array, Array], x: Array
) -> Array:
    """The frame, uint8 [64, 64, 3].

    Args:
      bank: the arrays of the levels, of `tables`, and heights.
      look: of the game.
      level, time: int32 [].
      there: bool [E], which things are there.
      bullets: float32 [B, 2] and bool [B], places and whether they fly, the newest first.
      x: float32 [], of the agent.
    """

    def row(name: str) -> Array:
        return of_level(bank, name, level)

    unit, size, left = bank["view"]
    top = jnp.asarray(bank["top"]).at[time].get(mode="clip")
    view = sampling.View(unit, size, left, top)
    number = row("background") if len(bank["backgrounds"]) > 1 else jnp.int32(0)
    rows = jnp.asarray(bank["background_rows"]).at[number, time].get(mode="clip")
    shown = jnp.asarray(bank["backgrounds"]).at[number].get(mode="promise_in_bounds")[rows]

    boxes, kind, theme = row("boxes"), row("kind"), row("theme")
    pictures = jnp.asarray(bank["picture_of"])[kind, theme].astype(jnp.int32)
    y = jnp.asarray(bank["heights"]).at[time].get(mode="clip")
    bands, singles = row("band").astype(jnp.int32), row("single").astype(jnp.int32)
    band_first, band_count = _visible(bank, "band", boxes[bands, 1], y, view)
    bands = jax.lax.dynamic_slice(bands, (band_first,), (band_count,))
    columns = jax.lax.dynamic_slice(row("band_columns"), (band_first, 0), (band_count, frames.SIZE))
    shown = _with_bands(bank, shown, view, boxes[bands], pictures[bands], columns.astype(jnp.int32), there[bands])
    first, count = _visible(bank, "single", boxes[singles, 1], y, view)
    singles = jax.lax.dynamic_slice(singles, (first,), (count,))
    shown = _with_boxes(bank, shown, view, boxes[singles], pictures[singles], there[singles])

    places, fly = bullets
    shape = jnp.full_like(places, 0.25)
    key = jnp.full(len(places), bank["picture_of"][look.bullet, 0], jnp.int32)
    shown = _with_boxes(bank, shown, view, jnp.concatenate([places, shape], axis=1)[::-1], key, fly[::-1])
    return _with_agent(bank, look, shown, view, x, y)


def _visible(bank: dict[str, Any], name: str, heights: Array, y: Array, view: sampling.View) -> tuple[Array, int]:
    """(first, how many) of a list by heights that can be seen, the same number for all levels."""
    below = 1.5  # cells: nothing seen has its centre so far below the agent, or so far above the view
    all_heights = np.take_along_axis(bank["boxes"][..., 1], bank[name].astype(int), axis=1)
    most, reach = 0, float(view.size) + 2 * below
    for one_level in all_heights:
        real = np.sort(one_level[one_level < _TOP])
        most = max(most, int((np.searchsorted(real, real + reach) - np.arange(len(real))).max(initial=0)))
    count = min(most, all_heights.shape[1])
    first = (heights < y - below).sum(dtype=jnp.int32)
    return jnp.clip(first, 0, all_heights.shape[1] - count), count


def _with_bands(
    bank: dict[str, Any], frame: Array, view: sampling.View, boxes: Array, pictures: Array, columns: Array, there: Array
) -> Array:
    """A frame with rows of tiles drawn: columns int32 [K, 64]."""
    outside = bank["pictures"].shape[1] - 1
    window = int(np.ceil(0.6 * float(bank["view"][0]))) + 1
    with jax.enable_x64(True):
        heights, _ = sampling.edges(view, boxes)
        first, rows = sampling.spans_of(heights, jnp.asarray(bank["sizes"])[pictures, 0], window, outside)
    first_columns = jnp.zeros(len(pictures), jnp.int32)
    return sampling.draw_all(frame, bank["pictures"], pictures, (first, rows), (first_columns, columns), there)


def _with_boxes(
    bank: dict[str, Any], frame: Array, view: sampling.View, boxes: Array, kinds: Array, there: Array
) -> Array:
    """A frame with sprites drawn in boxes [K, 4], none larger than a cell."""
    return sampling.draw_boxes(frame, (bank["pictures"], bank["sizes"]), view, boxes, kinds, there, 1.0)


def _with_agent(bank: dict[str, Any], look: Look, frame: Array, view: sampling.View, x: Array, y: Array) -> Array:
    _, radius, angle = look.agent
    number, outside = len(bank["pictures"]) - 1, bank["pictures"].shape[1] - 1
    size = bank["sizes"][number]
    box = jnp.stack([x, y, jnp.float32(radius), jnp.float32(radius)])[None]
    if size.max() == 1:  # monochrome: never turned
        return _with_boxes(bank, frame, view, box, jnp.full(1, number, jnp.int32), jnp.ones(1, jnp.bool_))
    length = float(np.float32(2) * radius * bank["view"][0])
    with jax.enable_x64(True):
        (upper, _), (left, _) = sampling.edges(view, box)
        turn = turning.turned(angle, length, length, size)
        centre = left[0].astype(jnp.float64) + length / 2, upper[0].astype(jnp.float64) + length / 2
        window = int(np.ceil(length)) + 2
        first_row, first_column, index = turning.covered(turn, centre, size, window, outside)
    place = sampling.places(bank["pictures"], number, index[..., 0], index[..., 1])
    first = first_row[None], first_column[None]
    return sampling.painted(frame, sampling.words(bank["pictures"]), first, place[None], jnp.ones(1, jnp.bool_))
