"""Leaper: hop over roads between cars and over water from log to log, to the finish line. It is worth 10.

When something comes along a lane is decided by random numbers that depend on the level and the step alone: each level
has a table of them. It does not come where it would overlap what is there, the agent included.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bodies, frames, sampling, turning
from purerl.envs.procgen_jax.moves import of_level, push
from purerl.envs.procgen_jax.states import THEME, LibraryState, X, Y
from purerl.types import Array

SPACE, LOG, ROAD, WATER, CAR, FINISH = 100, 1, 2, 3, 4, 5
EXACT = "exact: rules, levels and frames"
TIMEOUT = 500
SIZES = {"easy": (9, 9), "hard": (15, 15)}  # width and height in cells
PLANES = ("water", "log", "car to the left", "car to the right", "finish", "agent")
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 20_000  # 2 KB each
CENTRED = False  # frames show the whole level
SHAPED_BY: tuple[str, ...] = ()  # options that the sizes of things depend on

_LANES = {9: 3, 15: 5}  # roads, and as many of water, at most, by the width of the world
_RADIUS = np.float32(0.4)
_CORNER = _RADIUS * bodies.CORNER
_LOG = np.float32(0.45)
_ON_LOG = (_RADIUS + _LOG) - _RADIUS  # the reach of both, less the agent's, in float32
_CAR = np.array([0.5, 0.25], np.float32)  # the radii of a car
_CAR_STARTS = np.float32(0.25)  # cells beyond the edge
_HOP, _BRAKE = np.float32(0.5), np.float32(0.1)
_THEMES = 5  # of cars
_FROGS, _LOGS, _CARS = 5, 5, 6  # how many pictures of the agent there are, and where those of others begin
# Degrees, clockwise, of the directions 3 * (x + 1) + (y + 1).
_ANGLES = np.array([-90.0, -90.0, -90.0, 180.0, 0.0, 0.0, 90.0, 90.0, 90.0])
_STANDS = 4
_PICTURES = {
    **{(0, theme): f"misc_assets/frog{number}.png" for theme, number in enumerate((1, 2, 4, 6, 7))},  # during a hop
    (LOG, 0): "misc_assets/elementWood044.png",
    (CAR, 0): "misc_assets/car_yellow_5.png",
    (CAR, 1): "misc_assets/car_black_1.png",
    (CAR, 2): "misc_assets/car_blue_2.png",
    (CAR, 3): "misc_assets/car_green_3.png",
    (CAR, 4): "misc_assets/car_red_4.png",
}


@struct.dataclass
class State:
    """One game. Positions are in cells, y upwards; L lanes, roads and then water, with S places each.

    Attributes:
      time: int32 [], steps of the episode.
      position, velocity: float32 [2], the agent's (x, y).
      direction: int32 [], where the agent looks: 3 * (x + 1) + (y + 1).
      leap: int32 [], the agent's picture: 0, or in the first four steps of a hop 1 to 4.
      x: float32 [L, S], what is in each lane, the newest first.
      theme: int32 [L, S], which picture a car has; -1 for an empty place.
    """

    time: Array
    position: Array
    velocity: Array
    direction: Array
    leap: Array
    x: Array
    theme: Array


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    start: float32 []. finish: int8 [], the row of the finish line. row: int8 [L], of each lane, -1 for none; speed:
    float32 [L]. x: float32 [L, S] and theme: int8 [L, S], what is in each lane, the newest first. comes: uint16 [500],
    a bit for each lane in which something comes in a step; themes: uint16 [500], three bits for each road.
    """
    width = state.grid.shape[1]
    lanes = _LANES[width]
    row, speed = np.full(2 * lanes, -1, np.int8), np.zeros(2 * lanes, np.float32)
    for first, (bottom, speeds) in ((0, ("bottom_road_y", "road_speeds")), (lanes, ("bottom_water_y", "water_speeds"))):
        found = state.vectors[speeds].view(np.float32)
        row[first : first + len(found)] = state.numbers[bottom] + np.arange(len(found))
        speed[first : first + len(found)] = found
    places = int(width / 0.9) + 2
    x, theme = np.zeros((2 * lanes, places), np.float32), np.full((2 * lanes, places), -1, np.int8)
    at, counts = state.floats(X, Y), np.zeros(2 * lanes, int)
    for kind, radius in ((CAR, _CAR[0]), (LOG, _LOG)):
        for entity in state.of_type(kind)[::-1]:  # those that have left the world go in the first step
            lane = np.flatnonzero(row == int(at[entity, 1]))[0]
            if at[entity, 0] + radius >= 0 and at[entity, 0] - radius <= width:
                x[lane, counts[lane]], theme[lane, counts[lane]] = at[entity, 0], state.entities[entity, THEME]
                counts[lane] += 1
    comes, themes = _schedule(state, lanes, row, speed)
    return {
        "start": at[0, 0],
        "finish": np.int8(state.numbers["goal_y"] - 1),
        "row": row,
        "speed": speed,
        "x": x,
        "theme": theme,
        "comes": comes,
        "themes": themes,
    }


def _schedule(state: LibraryState, lanes: int, row: np.ndarray, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The random numbers of all steps: `comes` and `themes` of `level`."""
    used = np.flatnonzero(row >= 0)
    draws = state.draws(TIMEOUT * (1 + len(used) + lanes))
    chance = np.abs(speed) / np.where(np.arange(len(speed)) < lanes, np.float32(6), np.float32(2))
    comes, themes, at = np.zeros(TIMEOUT, np.uint16), np.zeros(TIMEOUT, np.uint16), 0
    for time in range(TIMEOUT):
        at += 1
        for lane in used:
            at += 1
            if np.float32(draws[at - 1] / 2**32) < chance[lane]:
                comes[time] |= 1 << lane
                if lane < lanes:
                    themes[time] |= int(draws[at] % _THEMES) << (3 * lane)
                    at += 1
    return comes, themes


def still(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is all of the level that never changes."""
    for entity in np.append(state.of_type(LOG), state.of_type(CAR)):
        state.place(int(entity), -9.0, -9.0)
    state.place(0, -9.0, -9.0)


STILLS = {"still": still}


def sprites(camera: frames.Camera) -> dict[str, Any]:
    """The pictures of the agent, a log, and cars of each theme, and how a frame shows the world."""
    numbers = camera.state.numbers
    pictures, sizes = sampling.of_kinds(_PICTURES, camera.state)
    return {
        "pictures": pictures,
        "sizes": sizes,
        "picture_of": np.array([_CARS] * _THEMES if numbers["restrict_themes"] else range(_CARS, _CARS + _THEMES)),
        "view": np.array(sampling.View.of(camera.state), np.float32),
    }


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""
    return State(
        time=jnp.zeros((), jnp.int32),
        position=jnp.stack([of_level(bank, "start", level), jnp.float32(_RADIUS)]),
        velocity=jnp.zeros(2, jnp.float32),
        direction=jnp.full((), _STANDS, jnp.int32),
        leap=jnp.zeros((), jnp.int32),
        x=of_level(bank, "x", level),
        theme=of_level(bank, "theme", level).astype(jnp.int32),
    )


class _Lanes:
    """What of a level's lanes does not change, all [L].

    Attributes:
      size: cells in a row of the world.
      y, speed: float32.
      is_road, is_water: bool.
      rx, ry: float32, the radii of what is in it.
      starts: float32, where that comes into the world.
    """

    def __init__(self, bank: dict[str, Any], level: Array):
        lanes = bank["row"].shape[1] // 2
        self.size = {most: width for width, most in _LANES.items()}[lanes]
        self.y = of_level(bank, "row", level).astype(jnp.float32) + jnp.float32(0.5)
        self.speed = of_level(bank, "speed", level)
        self.is_road = np.arange(2 * lanes) < lanes
        self.is_water = ~self.is_road & (self.y > 0)
        self.rx, self.ry = (np.where(self.is_road, radius, _LOG).astype(np.float32) for radius in _CAR)
        beyond = np.where(self.is_road, _CAR_STARTS, _LOG).astype(np.float32)
        self.starts = jnp.where(self.speed > 0, -beyond, np.float32(self.size) + beyond)


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    lanes, pushes = _Lanes(bank, level), jnp.stack(push(action))
    time = state.time + 1
    hops = (state.velocity == 0).all()
    along_x = jnp.where(hops & (pushes[0] != 0), pushes[0], 0)
    along_y = jnp.where(hops & (pushes[0] == 0), pushes[1], 0)
    begun = jnp.stack([along_x, along_y])
    velocity = state.velocity + _HOP * begun.astype(jnp.float32)
    velocity = jnp.maximum(jnp.abs(velocity) - _BRAKE, 0) * jnp.sign(velocity)
    leap = jnp.where((begun != 0).any(), 1, jnp.where(state.leap > 0, (state.leap + 1) % _FROGS, 0))
    never = jnp.zeros((), jnp.bool_)
    position, velocity = bodies.moved_within(lanes.size, state.position, velocity, pushes, never, _RADIUS, _CORNER)
    x = state.x + jnp.where(state.theme >= 0, lanes.speed[:, None], 0)
    stands = (velocity == 0).all()

    # What touches the agent.
    reach = (lanes.rx + _RADIUS)[:, None], (lanes.ry + _RADIUS)[:, None]
    touched = bodies.overlap(position[0], position[1], (x, lanes.y[:, None]), reach) & (state.theme >= 0)
    is_hit = (touched & lanes.is_road[:, None]).any()
    half, line = np.float32(lanes.size / 2), of_level(bank, "finish", level).astype(jnp.float32) + jnp.float32(0.5)
    at_line = bodies.overlap(position[0], position[1], (half, line), (half + _RADIUS, np.float32(0.5) + _RADIUS))
    won = at_line & stands
    theme = jnp.where((x + lanes.rx[:, None] >= 0) & (x - lanes.rx[:, None] <= lanes.size), state.theme, -1)
    is_out = bodies.is_outside(lanes.size, position, _RADIUS)

    x, theme = _with_new(bank, level, lanes, state.time, position, x, theme)
    position, drowns = _on_water(lanes, position, stands, x, theme)
    is_out = is_out | bodies.is_outside(lanes.size, position, _RADIUS)
    direction = jnp.where((begun != 0).any(), 3 * begun[0] + begun[1] + _STANDS, state.direction)
    reward = jnp.where(won, jnp.float32(10), jnp.float32(0))
    after = State(time, position, velocity, direction, leap, x, theme)
    return after, reward, is_hit | won | drowns | is_out, won


def _with_new(
    bank: dict[str, Any], level: Array, lanes: _Lanes, step: Array, position: Array, x: Array, theme: Array
) -> tuple[Array, Array]:
    """(x, theme) with what comes in a step, unless it would overlap the agent or what was there."""
    bits, themes = (jnp.asarray(bank[name]).at[level, step].get(mode="clip") for name in ("comes", "themes"))
    number = np.arange(len(lanes.rx))
    comes = (jnp.right_shift(bits.astype(jnp.int32), number) & 1) != 0
    road = np.where(lanes.is_road, 3 * number, 0)
    new_theme = jnp.where(lanes.is_road, jnp.right_shift(themes.astype(jnp.int32), road) & 7, 0)
    beside = ((jnp.abs(x - lanes.starts[:, None]) < 2 * lanes.rx[:, None]) & (theme >= 0)).any(axis=1)
    reach = lanes.rx + _RADIUS, lanes.ry + _RADIUS
    comes = comes & ~beside & ~bodies.overlap(position[0], position[1], (lanes.starts, lanes.y), reach)
    empty = theme < 0
    return bodies.put_first(comes, empty, lanes.starts, x), bodies.put_first(comes, empty, new_theme, theme)


def _on_water(lanes: _Lanes, position: Array, stands: Array, x: Array, theme: Array) -> tuple[Array, Array]:
    """(the agent's position [2] after its log has moved it, whether it has drowned bool [])."""
    at_log = bodies.overlap(position[0], position[1], (x, lanes.y[:, None]), (_ON_LOG, _ON_LOG))
    logs = at_log & (theme >= 0) & ~lanes.is_road[:, None]
    is_water = (lanes.is_water & (jnp.floor(lanes.y) == jnp.floor(position[1]))).any() & (position[0] < lanes.size)
    carried = jnp.where(logs, lanes.speed[:, None], 0).sum()
    after = position + jnp.where(jnp.arange(2) == 0, carried, 0)
    return after, is_water & ~logs.any() & stands


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: the level, what is in each lane, the agent."""
    lanes, view = _Lanes(bank, level), sampling.View(*bank["view"])
    looks = bank["pictures"], bank["sizes"]
    of_lane = [jnp.broadcast_to(array[:, None], state.x.shape) for array in (lanes.y, lanes.rx, lanes.ry)]
    boxes = jnp.stack([state.x, *of_lane], axis=-1)[:, ::-1].reshape(-1, 4)  # the newest of a lane is the last
    kinds = jnp.asarray(bank["picture_of"]).at[state.theme].get(mode="clip").astype(jnp.int32)
    kinds = jnp.where(lanes.is_road[:, None], kinds, _LOGS)[:, ::-1].reshape(-1)
    there = ((state.theme >= 0) & (lanes.y >= 0)[:, None])[:, ::-1].reshape(-1)
    is_back = jnp.broadcast_to(((lanes.speed < 0) & lanes.is_road)[:, None], state.x.shape).reshape(-1)
    shown = of_level(bank, "still", level)
    shown = sampling.draw_boxes(shown, looks, view, boxes, kinds, there, float(2 * _CAR[0]), is_back, half_turn=True)
    agent = turning.Sprite(_RADIUS, _ANGLES, _FROGS, above=0.275, tall=1.55)
    return turning.draw(shown, looks, agent, view, state.position, state.direction, state.leap)


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], row 0 the lowest."""
    lanes = _Lanes(bank, level)
    size = lanes.size
    line = of_level(bank, "finish", level)
    row, all_columns = jnp.arange(size), jnp.ones((1, size), jnp.uint8)
    is_water = ((jnp.floor(lanes.y)[None] == row[:, None]) & lanes.is_water[None]).any(axis=1)

    y = jnp.broadcast_to(lanes.y[:, None], state.x.shape).reshape(-1)
    rx, ry = (jnp.broadcast_to(r[:, None], state.x.shape).reshape(-1) for r in (lanes.rx, lanes.ry))
    to_left, to_right = lanes.is_road & (lanes.speed < 0), lanes.is_road & (lanes.speed > 0)
    shown = jnp.stack([jnp.asarray(~lanes.is_road), to_left, to_right])[..., None] & (state.theme >= 0)[None]
    x = state.x.reshape(-1)
    things = sampling.covered((x - rx, x + rx), (y - ry, y + ry), shown.reshape(3, -1), size, size)
    x, y = ((state.position[None, axis] - _RADIUS, state.position[None, axis] + _RADIUS) for axis in range(2))
    agent = sampling.covered(x, y, jnp.ones((1, 1), jnp.bool_), size, size)
    water, finish = (255 * rows.astype(jnp.uint8)[:, None] * all_columns for rows in (is_water, row == line))
    return jnp.concatenate([water[..., None], things, finish[..., None], agent], axis=-1)
