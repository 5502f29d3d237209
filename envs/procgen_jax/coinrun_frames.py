"""Frames of coinrun: a view that follows the agent over a large picture, cells, things of the level, the agent.

Everything is placed as the library places it, in float32, and sampled as Qt samples it, in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from purerl.envs import procgen
from purerl.envs.procgen_jax import bitmaps, frames, sampling
from purerl.envs.procgen_jax.bodies import rounded
from purerl.envs.procgen_jax.moves import cell_of, is_cell, of_level
from purerl.envs.procgen_jax.states import LibraryState
from purerl.types import Array

COIN, SAW, SAW_TURNED, WALKER, WALKER_MOVED, CRATE, TRAIL = 1, 2, 3, 6, 7, 20, 59
WALL, WALL_TOP, LAVA, LAVA_TOP = 15, 16, 17, 18
AGES = 9  # of the parts of a trail
STANDS, WALKS, WALKS_ON = 0, 12, 13  # pictures of the agent
_GROUNDS = ("Dirt", "Grass", "Planet", "Sand", "Snow", "Stone")
_ENEMIES = (
    "slimeBlock", "slimePurple", "slimeBlue", "slimeGreen", "mouse", "snail", "ladybug", "wormGreen", "wormPink",
)  # fmt: skip
_COLOURS = ("Beige", "Blue", "Green", "Pink", "Yellow")
_POSES = {STANDS: "stand", WALKS: "walk1", WALKS_ON: "walk2"}
_CRATES = ("", "_double", "_single", "_warning")
_PICTURES = {
    (COIN, 0): "kenney/Items/coinGold.png",
    **{(WALL, n): f"kenney/Ground/{name}/{name.lower()}Center.png" for n, name in enumerate(_GROUNDS)},
    **{(WALL_TOP, n): f"kenney/Ground/{name}/{name.lower()}Mid.png" for n, name in enumerate(_GROUNDS)},
    (LAVA, 0): "kenney/Tiles/lava.png",
    (LAVA_TOP, 0): "kenney/Tiles/lavaTop_low.png",
    **{(CRATE, n): f"kenney/Tiles/boxCrate{name}.png" for n, name in enumerate(_CRATES)},
    (SAW, 0): "kenney/Enemies/sawHalf.png",
    (SAW_TURNED, 0): "kenney/Enemies/sawHalf_move.png",
    **{(WALKER, n): f"kenney/Enemies/{name}.png" for n, name in enumerate(_ENEMIES)},
    **{(WALKER_MOVED, n): f"kenney/Enemies/{name}_move.png" for n, name in enumerate(_ENEMIES)},
    **{(TRAIL, age): "misc_assets/iconCircle_white.png" for age in range(AGES)},
}
_AGENTS = {
    (pose, n): f"kenney/Players/128x256/{name}/alien{name}_{of_pose}.png"
    for pose, of_pose in _POSES.items()
    for n, name in enumerate(_COLOURS)
}
_SPACE = """deep_space_01 spacegen_01 milky_way_01 ez_space_lite_01 meyespace_v1_01 eye_nebula_01 deep_sky_01
space_nebula_01 Background-1 Background-2 Background-3 Background-4 parallax-space-backgound"""
_PLATFORMS = """alien_bg another_world_bg back_cave caverns cyberpunk_bg parallax_forest scifi_bg scifi2_bg
living_tissue_bg airadventurelevel1 airadventurelevel2 airadventurelevel3 airadventurelevel4 cave_background blue_desert
blue_grass blue_land blue_shroom colored_desert colored_grass colored_land colored_shroom landscape1 landscape2
landscape3 landscape4 battleback1 battleback2 battleback3 battleback4 battleback5 battleback6 battleback7 battleback8
battleback9 battleback10 sunrise"""
_MORE = "beach1 beach2 beach3 beach4 fantasy1 fantasy2 fantasy3 fantasy4 candy1 candy2 candy3 candy4"
BACKGROUNDS = [
    f"{folder}/{name}.png"
    for folder, names in (
        ("platform_backgrounds", _PLATFORMS),
        ("platform_backgrounds_2", _MORE),
        ("space_backgrounds", _SPACE),
    )
    for name in names.split()
]  # in the library's order
_WORLD = np.float32(64)  # cells in a row and in a column of a level
CELLS = 7  # cells to each side of the agent's that can be seen
_JUMP, _CELLS_SHOWN = 8.0, 13  # cells, at least as high as a jump, and in a row of the frame
_ABOVE, _TALL = 0.7415, 1.7415  # heights of the agent: how much higher its picture begins, and how tall it is
_LARGEST = 1.2  # cells: of things
_IN_VIEW = 8.5  # cells: what is farther from the agent is not on the frame
_TRAIL_RISES = np.float32(0.01)


# --- from the library ------------------------------------------------------------------------------------------------


def tables(
    state: LibraryState, levels: dict[str, np.ndarray], spans: np.ndarray, there: np.ndarray
) -> dict[str, np.ndarray]:
    """Pictures of cells and things, of the agent, and of the backgrounds that the levels have; visible: int [2], how
    many things, and creatures, are on one frame at most.

    Things are in columns between `spans`, [2, L, K], if they are `there`, bool [L, K]; creatures are the last ones.
    """
    numbers = state.numbers
    found: dict[str, np.ndarray] = {"view": np.array([numbers["unit"], numbers["view_dim"]], np.float32)}
    restricted = bool(numbers["restrict_themes"])
    for name, files in (("", _PICTURES), ("agent_", _AGENTS)):
        found[f"{name}pictures"], found[f"{name}sizes"] = sampling.of_kinds(files, state)
        table = np.zeros((1 + max(kind for kind, _ in files), len(_ENEMIES)), np.int8)
        for number, (kind, theme) in enumerate(files):
            table[kind, theme] = number
            if kind == TRAIL and numbers["use_monochrome_assets"]:  # of one colour, which does not fade
                found["pictures"][number] = found["pictures"][table[TRAIL, 0]]
            elif kind == TRAIL:
                found["pictures"][number] = _faded(found["pictures"][number], _trails()[1][theme])
        found[f"{name}picture_of"] = table[:, :1].repeat(len(_ENEMIES), 1) if restricted else table
    found["visible"] = _most_visible(spans, there, levels["enemies"].shape[1])
    return found | (_backgrounds(levels) if numbers["use_backgrounds"] else {})


def _trails() -> tuple[np.ndarray, np.ndarray]:
    """(float32 [9, 2], float32 [9]): the radii of a trail's parts by their age, and their opacity."""
    radii, opacity = [np.array([0.3, 0.2], np.float32)], [np.float32(0.5)]
    for _ in range(AGES - 1):
        radii.append(radii[-1] * np.float32(1.05))
        opacity.append(opacity[-1] * np.float32(0.8))
    return np.array(radii), np.array(opacity)


def _faded(picture: np.ndarray, opacity: np.float32) -> np.ndarray:
    """A picture [S, S, 4] of `sampling.read` at less than its opacity, rounded as Qt rounds."""
    of_all = int(float(opacity) * 256) * 255 >> 8
    colour, share = frames.blends()[of_all, picture[..., :3]], 255 - frames.blends()[of_all, 255 - picture[..., 3:]]
    return np.concatenate([colour, share], axis=-1)


def _backgrounds(levels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """backgrounds: uint32 [...], the pixels of all pictures that the levels have, one after the other, without the
    rows above what can be seen; background_at: int32 [62, 4], of each picture where it would begin with those rows, the
    first row that is kept, and how many rows and columns it has.
    """
    folder, share = Path(procgen._library()[2]), max(0.0, 1 - _highest(levels) / float(_WORLD))
    at, pixels, length = np.zeros((len(BACKGROUNDS), 4), np.int32), [], 0
    for number in np.unique(levels["looks"][:, 2]):
        with Image.open(folder / BACKGROUNDS[number]) as image:
            picture = sampling._premultiplied(np.asarray(image.convert("RGBA")))
        height, width = picture.shape[:2]
        first = int(share * height)
        at[number] = length - first * width, first, height, width
        pixels.append(np.ascontiguousarray(picture[first:]).view("<u4").astype(np.uint32).reshape(-1))
        length += pixels[-1].size
    return {"backgrounds": np.concatenate(pixels), "background_at": at}


def _highest(levels: dict[str, np.ndarray]) -> float:
    """A height in cells above which no frame shows anything: of the highest floor or crate, a jump, half a frame."""
    walls = bitmaps.cells(levels["walls"])
    floors = np.flatnonzero((walls[:, :-1] & ~walls[:, 1:]).any(axis=(0, 2)))
    return max(floors.max(initial=0) + 1, float(levels["crates"][..., 1].max()) + 0.5) + _JUMP + _CELLS_SHOWN / 2


def _most_visible(spans: np.ndarray, there: np.ndarray, creatures: int) -> np.ndarray:
    most = np.zeros(2, int)
    for low, high, seen in zip(*spans, there, strict=True):
        for begins in high[seen]:  # a view whose left edge is just beyond something holds the most
            together = seen & (high >= begins) & (low <= begins + 2 * _IN_VIEW)
            most = np.maximum(most, [together[:-creatures].sum(), together[-creatures:].sum()])
    return most


# --- in the graph ----------------------------------------------------------------------------------------------------


def view_of(bank: dict[str, Any], position: Array) -> sampling.View:
    """Where the world is on a frame that follows the agent."""
    unit, size = bank["view"]
    left, top = rounded(unit * (position - size / np.float32(2)))
    return sampling.View(unit, size, left, top)


def _channels(pixels: Array) -> Array:
    """uint8 [..., 4] of packed pixels."""
    shift = jnp.arange(0, 32, 8, dtype=jnp.uint32).reshape(*[1] * pixels.ndim, 4)
    return ((pixels[..., None] >> shift) & 255).astype(jnp.uint8)


def background(bank: dict[str, Any], level: Array, view: sampling.View) -> Array:
    """The part of a level's picture that a frame shows, uint8 [64, 64, 3]. As tall as the level, it may be wider."""
    if "backgrounds" not in bank:
        return jnp.zeros((frames.SIZE, frames.SIZE, 3), jnp.uint8)
    number = of_level(bank, "looks", level)[2].astype(jnp.int32)
    begins, first, height, width = jnp.asarray(bank["background_at"]).at[number].get(mode="promise_in_bounds")
    ratio = width.astype(jnp.float32) / height.astype(jnp.float32)
    shift = -rounded(of_level(bank, "shift", level) * (ratio - 1))
    upper = rounded((view.size - _WORLD) * view.unit) + view.top
    side = np.float64(_WORLD * view.unit)
    with jax.enable_x64(True):
        left = (-view.left).astype(jnp.float64) + rounded(side * shift.astype(jnp.float64))
        wide = rounded(side * ratio.astype(jnp.float64))
        _, rows = sampling.spans(jnp, upper.astype(jnp.float64), side, height, frames.SIZE, -1)
        _, columns = sampling.spans(jnp, left, wide, width, frames.SIZE, -1)
    inside = (rows[:, None] >= first) & (columns[None] >= 0)
    place = jnp.where(inside, begins + rows[:, None] * width + columns[None], 0)
    pixels = jnp.asarray(bank["backgrounds"]).at[place].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], _channels(pixels)[..., :3], 0)


def with_cells(bank: dict[str, Any], frame: Array, view: sampling.View, level: Array, position: Array) -> Array:
    """A frame with the cells around the agent's drawn, from left to right, and in each column upwards. Neighbours
    overlap by up to a pixel.
    """
    kinds, pictures = _cell_pictures(bank, level, cell_of(position)), bank["pictures"]
    side = pictures.shape[1]
    packed = jnp.asarray(np.ascontiguousarray(pictures).view("<u4").reshape(-1).astype(np.uint32))
    number = np.arange(-CELLS, CELLS + 1, dtype=np.float32)
    margin = sampling._MARGIN
    # Not from integers: XLA knows that those are never NaN, drops the guards of `rounded`, and rounds once.
    x, y = (rounded(jnp.floor(at) + cells) for at, cells in zip(position, (number, number + 1), strict=True))
    left = rounded((x - margin) * view.unit) - view.left
    upper = rounded((rounded(view.size - y) - margin) * view.unit) + view.top
    source = np.full(len(number), bank["sizes"][0, 0])  # of all pictures of cells
    with jax.enable_x64(True):
        long = jnp.full(len(number), np.float64((np.float32(1) + 2 * margin) * view.unit))
        _, rows = sampling.spans(jnp, upper.astype(jnp.float64), long, source, frames.SIZE, -1)
        _, columns = sampling.spans(jnp, left.astype(jnp.float64), long, source, frames.SIZE, -1)
    of_rows, of_columns = two_cells(rows), two_cells(columns)
    for column, x_index in of_columns:
        for row, y_index in of_rows:
            kind = kinds[row][:, column]
            inside = (kind >= 0) & (y_index[:, None] >= 0) & (x_index[None] >= 0)
            place = jnp.where(inside, (kind * side + y_index[:, None]) * side + x_index[None], 0)
            pixel = _channels(packed.at[place].get(mode="promise_in_bounds"))
            drawn = frames.blend(frame, pixel[..., :3], pixel[..., 3:])
            frame = jnp.where(inside[..., None], drawn, frame)
    return frame


def two_cells(index: Array) -> list[tuple[Array, Array]]:
    """((cell [64], index [64]) of the first cell that each pixel shows, and of the second one): of index [cells, 64]
    into their pictures, -1 for none.
    """
    shows = index >= 0
    first, last = jnp.argmax(shows, axis=0), len(index) - 1 - jnp.argmax(shows[::-1], axis=0)
    pixel = jnp.arange(index.shape[1])
    return [(first, index[first, pixel]), (last, jnp.where(last > first, index[last, pixel], -1))]


def _cell_pictures(bank: dict[str, Any], level: Array, cell: Array) -> Array:
    """int32 [15, 15], the pictures of the cells around the agent's, -1 for none."""
    walls, lava, tops = (
        bitmaps.square(bitmaps.around(bank, name, level, cell, CELLS)) for name in ("walls", "lava", "tops")
    )
    coin = of_level(bank, "coin", level).astype(jnp.int32) - cell + CELLS
    ground = of_level(bank, "looks", level)[0].astype(jnp.int32)
    picture = jnp.asarray(bank["picture_of"]).astype(jnp.int32)
    found = jnp.where(is_cell(coin[0], coin[1], len(walls), len(walls)), picture[COIN, 0], -1)
    found = jnp.where(lava, jnp.where(tops, picture[LAVA_TOP, 0], picture[LAVA, 0]), found)
    return jnp.where(walls, jnp.where(tops, picture[WALL_TOP, ground], picture[WALL, ground]), found)


def _seen(position: Array, boxes: Array, there: Array, most: int) -> tuple[Array, Array]:
    """(int32 [most], bool [most]): the first of those boxes [K, 4] that may be on the frame, in their order."""
    seen = there & (jnp.abs(boxes[:, :2] - position[None]) < _IN_VIEW).all(axis=1)
    which = jnp.sort(jnp.where(seen, jnp.arange(len(boxes)), len(boxes)))[:most]
    return jnp.minimum(which, len(boxes) - 1), which < len(boxes)


def with_things(
    bank: dict[str, Any], frame: Array, view: sampling.View, level: Array, position: Array, boxes: Array, kinds: Array
) -> Array:
    """A frame with saws and crates drawn, boxes [K, 4] of kinds [K], one after the other."""
    themes, order = (of_level(bank, name, level).astype(jnp.int32) for name in ("themes", "order"))
    pictures = jnp.asarray(bank["picture_of"])[kinds, themes[: len(kinds)]].astype(jnp.int32)
    which, there = _seen(position, boxes[order], order >= 0, int(bank["visible"][0]))
    which = order[which]
    return sampling.draw_boxes(
        frame, (bank["pictures"], bank["sizes"]), view, boxes[which], pictures[which], there, _LARGEST
    )


def with_creatures(
    bank: dict[str, Any],
    frame: Array,
    view: sampling.View,
    level: Array,
    position: Array,
    boxes: Array,
    kind: Array,
    looks_right: Array,
) -> Array:
    """A frame with creatures drawn, boxes [E, 4] of one kind, mirrored where they look to the right."""
    themes = of_level(bank, "themes", level).astype(jnp.int32)[-len(boxes) :]
    pictures = jnp.asarray(bank["picture_of"])[kind, themes].astype(jnp.int32)
    which, there = _seen(position, boxes, boxes[:, 0] > 0, int(bank["visible"][1]))
    table = bank["pictures"], bank["sizes"]
    return sampling.draw_boxes(frame, table, view, boxes[which], pictures[which], there, _LARGEST, looks_right[which])


def with_trails(
    bank: dict[str, Any],
    frame: Array,
    view: sampling.View,
    position: Array,
    creatures: Array,
    trail: Array,
    time: Array,
) -> Array:
    """A frame with the trails of creatures [E, 4], of which `trail` [9, E] has the x of now, of a step before, and so
    on: the oldest parts first, and the last creature's before the first one's.
    """
    which, there = _seen(position, creatures[::-1], creatures[::-1, 0] > 0, int(bank["visible"][1]))
    which = len(creatures) - 1 - which
    radii, _ = _trails()
    heights = [creatures[which, 1] - creatures[which, 3] * jnp.float32(0.5)]
    for _ in range(AGES - 1):
        heights.append(rounded(heights[-1] + _TRAIL_RISES))  # XLA would add up the constants first
    x, y = trail[::-1, which], jnp.stack(heights)[::-1]
    sizes = (jnp.broadcast_to(jnp.asarray(radii)[::-1, None, axis], x.shape) for axis in range(2))
    boxes = jnp.stack([x, y, *sizes], axis=-1).reshape(-1, 4)
    age = np.arange(AGES)[::-1, None]
    there = (there[None] & (age < time)).reshape(-1)
    first = int(bank["picture_of"][TRAIL, 0])
    pictures = jnp.broadcast_to(jnp.asarray(first + age, jnp.int32), x.shape).reshape(-1)
    return sampling.draw_boxes(frame, (bank["pictures"], bank["sizes"]), view, boxes, pictures, there, _LARGEST)


def with_agent(
    bank: dict[str, Any], frame: Array, view: sampling.View, level: Array, box: Array, pose: Array, looks_left: Array
) -> Array:
    """A frame with the agent in a pose, whose picture is taller than its box [4]."""
    table, size = bank["agent_pictures"], bank["agent_sizes"][0]
    picture = jnp.asarray(bank["agent_picture_of"])[pose, of_level(bank, "looks", level)[1]].astype(jnp.int32)
    outside, window = table.shape[1] - 1, int(np.ceil(2.1 * float(view.unit))) + 1
    with jax.enable_x64(True):
        ((upper,), (height,)), ((left,), (width,)) = sampling.edges(view, box[None])
        upper, height, left, width = (edge.astype(jnp.float64) for edge in (upper, height, left, width))
        if size.max() > 1:  # plain colours fill the box
            upper, height = upper - rounded(height * _ABOVE), rounded(height * _TALL)
        first_row, rows = sampling.spans(jnp, upper, height, size[0], window, outside)
        first_column, columns = sampling.spans(jnp, left, width, size[1], window, outside, looks_left)
    place = sampling.places(table, picture, rows[:, None], columns[None])
    first = first_row[None], first_column[None]
    return sampling.painted(frame, sampling.words(table), first, place[None], jnp.ones(1, jnp.bool_))
