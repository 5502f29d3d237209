"""Heist: find the keys, open the doors of their colours, reach the gem. The gem is worth 10 and ends the level."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bodies, frames, sampling, turning
from purerl.envs.procgen_jax.moves import bordered, cell_of, corners_in, is_even, of_level, push
from purerl.envs.procgen_jax.states import (
    IMAGE_TYPE,
    RENDER_Z,
    ROTATION,
    RX,
    RY,
    SMART,
    THEME,
    TYPE,
    USE_ABSOLUTE,
    LibraryState,
    X,
    Y,
)
from purerl.types import Array

SPACE, DOOR, KEY, EXIT, RING_KEY, WALL = 100, 1, 2, 9, 11, 51
EXACT = "exact: rules, levels and frames"
TIMEOUT = 1000
SIZES = {"easy": (9, 9), "hard": (13, 13)}  # width and height in cells
COLOURS = ("blue", "green", "red")
PLANES = (
    "wall",
    "exit",
    *(f"{colour} {what}" for what in ("key", "door", "key in hand") for colour in COLOURS),
    "agent",
)
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 100_000
CENTRED = False  # frames show the whole level
SHAPED_BY: tuple[str, ...] = ()  # options that the sizes of things depend on

_NUMBER = len(COLOURS)
_FAR = -9.0  # cells: where what a level lacks is
_PUSH = np.float32(0.375)  # half of the highest speed
_RADIUS = np.float32(0.375)
_CORNER = _RADIUS * np.float32(0.98)
_DOOR_REACH = _RADIUS + np.float32(0.5)
_DOOR_BLOCKS = _DOOR_REACH + np.float32(-0.001)
_STANDS = 4
# Degrees, clockwise, of the directions 3 * (x + 1) + (y + 1).
_ANGLES = np.array([135.0, 180.0, -135.0, 90.0, 0.0, -90.0, 45.0, 0.0, -45.0])
_AGENT = "misc_assets/spaceAstronauts_008.png"
_RING_RADIUS = np.float32(0.03)


@struct.dataclass
class State:
    """One game. Positions are in cells, y upwards.

    Attributes:
      time: int32 [], steps of the episode.
      position, velocity: float32 [2], the agent's (x, y).
      direction: int32 [], where the agent looks: 3 * (x + 1) + (y + 1).
      keys: bool [3], whether the agent has the key of a colour.
      doors: bool [3], whether the door of a colour is still there.
    """

    time: Array
    position: Array
    velocity: Array
    direction: Array
    keys: Array
    doors: Array


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    walls: uint16 [H], a bit for each cell. start: float32 [2]. exit [4], keys [3, 4]: float32, position and how far
    from it the agent touches. doors: float32 [3, 2]. door_order: int8 [3], the colours of the doors from the library's
    last one to its first. key_first: bool [3], whether a key is looked at before its door. even: uint8 [125], a bit for
    each step.
    """
    place = state.floats(X, Y)
    boxes = np.concatenate([place, state.floats(RX, RY) + _RADIUS], axis=1)
    keys, doors = np.full((_NUMBER, 4), _FAR, np.float32), np.full((_NUMBER, 2), _FAR, np.float32)
    number_of_key, number_of_door = np.zeros(_NUMBER, int), np.zeros(_NUMBER, int)
    for entity in state.of_type(KEY):
        colour = state.entities[entity, THEME]
        keys[colour], number_of_key[colour] = boxes[entity], entity
    for entity in state.of_type(DOOR):
        colour = state.entities[entity, THEME]
        doors[colour], number_of_door[colour] = place[entity], entity
    even = state.draws(TIMEOUT) % 1_000_000 % 2 == 0
    return {
        "walls": ((state.grid == WALL) @ (1 << np.arange(state.grid.shape[1]))).astype(np.uint16),
        "start": place[0],
        "exit": boxes[state.of_type(EXIT)[0]],
        "keys": keys,
        "doors": doors,
        "door_order": np.argsort(-number_of_door, kind="stable").astype(np.int8),
        "key_first": number_of_key > number_of_door,
        "even": np.packbits(even, bitorder="little"),
    }


def full(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is all but the agent and the keys in hand."""
    state.place(0, _FAR, _FAR)


def still(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is all of the level that never changes."""
    full(state)
    for kind in (KEY, DOOR):
        for entity in state.of_type(kind):
            state.place(int(entity), _FAR, _FAR)


STILLS = {"still": still, "full": full}


def sprites(camera: frames.Camera) -> dict[str, Any]:
    """The agent's picture, how a frame shows the world, and the keys in hand [3]."""
    state = camera.state
    aspect = sampling.read(["misc_assets/keyBlue.png"])[1][0]
    ring_radius = _RING_RADIUS / np.float32(aspect[1] / aspect[0])

    def ring(colour: int) -> frames.Sprite:
        floats = {X: 1 - float(_RING_RADIUS) * (2 * colour + 1.25), Y: float(_RING_RADIUS) * 0.75}
        floats |= {RX: _RING_RADIUS, RY: ring_radius, ROTATION: np.pi / 2}
        whole = {TYPE: RING_KEY, IMAGE_TYPE: KEY, THEME: colour, RENDER_Z: 1, USE_ABSOLUTE: 1, SMART: 0}

        def put(state: LibraryState) -> None:
            key = state.entities[0].copy()
            for word, value in floats.items():
                key[word] = np.float32(value).view(np.uint32)
            for word, value in whole.items():
                key[word] = value
            state.entities = np.stack([state.entities[0], key])
            state.vectors["has_keys"] = np.ones(_NUMBER, np.int32)
            state.numbers["num_keys"] = _NUMBER

        return camera.of_scene(put)

    pictures, sizes = sampling.of_kinds({(0, 0): _AGENT}, state)
    found = {"picture": pictures, "sizes": sizes, "view": np.array(sampling.View.of(state), np.float32)}
    return found | {"ring": frames.stacked([ring(colour) for colour in range(_NUMBER)])}


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""
    return State(
        time=jnp.zeros((), jnp.int32),
        position=of_level(bank, "start", level),
        velocity=jnp.zeros(2, jnp.float32),
        direction=jnp.full((), _STANDS, jnp.int32),
        keys=jnp.zeros(_NUMBER, jnp.bool_),
        doors=of_level(bank, "doors", level)[:, 0] >= 0,
    )


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    pushes = jnp.stack(push(action))
    even = is_even(bank, level, state.time)
    velocity = bodies.accelerated(state.velocity, _PUSH * pushes.astype(jnp.float32))
    doors, order = of_level(bank, "doors", level), of_level(bank, "door_order", level).astype(jnp.int32)
    closed = (state.doors & ~state.keys).at[order].get(mode="promise_in_bounds")
    doors_in_order = doors.at[order].get(mode="promise_in_bounds")
    walls = of_level(bank, "walls", level).astype(jnp.int32)
    position, velocity = _moved(walls, doors_in_order, closed, state.position, velocity, pushes, even)

    # What touches the agent, from the last entity to the first: a key opens its door at once if it is looked at first.
    keys, exit = of_level(bank, "keys", level), of_level(bank, "exit", level)
    x, y = position[0], position[1]
    touched = bodies.overlap(x, y, (keys[:, 0], keys[:, 1]), (keys[:, 2], keys[:, 3])) & ~state.keys
    at_door = bodies.overlap(x, y, (doors[:, 0], doors[:, 1]), (_DOOR_REACH, _DOOR_REACH))
    opens = at_door & (state.keys | (touched & of_level(bank, "key_first", level)))
    won = bodies.overlap(x, y, (exit[0], exit[1]), (exit[2], exit[3]))
    reward = jnp.where(won, jnp.float32(10), jnp.float32(0))
    direction = jnp.where((pushes != 0).any(), 3 * pushes[0] + pushes[1] + _STANDS, state.direction)
    after = State(state.time + 1, position, velocity, direction, state.keys | touched, state.doors & ~opens)
    return after, reward, won, won


def _moved(
    walls: Array, doors: Array, closed: Array, position: Array, velocity: Array, pushes: Array, even: Array
) -> tuple[Array, Array]:
    """(position [2], velocity [2]) after a step: four moves in each axis, in turns.

    doors: float32 [3, 2] in the order in which they are looked at, of which those with `closed` block.
    """
    touches = corners_in(bordered(walls), cell_of(position))
    speed = jnp.abs(velocity)
    faster = (speed[0] > speed[1]) | ((speed[0] == speed[1]) & even)
    x_first = jnp.where(pushes[1] != 0, False, (pushes[0] != 0) | faster)
    first = jnp.where(x_first, 0, 1)

    def walled(x: Array, y: Array) -> Array:
        """Whether a corner of the agent at (x, y) is in a wall."""
        columns, rows = (tuple(cell_of(at + by) for by in (-_CORNER, _CORNER)) for at in (x, y))
        return touches(columns, rows)

    def slide(place: Array, is_axis: Array, distance: Array) -> tuple[Array, Array]:
        """(place [2], whether a wall stops it) after a move of a distance along an axis."""
        to = place + jnp.where(is_axis, distance, 0)
        stops = (distance != 0) & walled(to[0], to[1])
        against = jnp.where(distance > 0, jnp.floor(to + _RADIUS) - _RADIUS, jnp.ceil(to - _RADIUS) + _RADIUS)
        return jnp.where(stops & is_axis, against, to), stops

    def along(axis: Array, place: Array, velocity: Array, moves: Array) -> tuple[Array, Array, Array]:
        """(place, velocity, whether something blocks) of one move."""
        is_axis = jnp.arange(2) == axis
        distance = jnp.where(is_axis, velocity, 0).sum() * jnp.float32(1 / bodies.SUB_STEPS)
        after, stops = slide(place, is_axis, distance)
        for door in range(_NUMBER):
            reach = (_DOOR_BLOCKS, _DOOR_BLOCKS)
            hit = closed[door] & moves & (distance != 0) & bodies.overlap(*after, tuple(doors[door]), reach)
            back = doors[door] + jnp.sign(after - doors[door]) * _DOOR_REACH - after
            pushed, _ = slide(after, is_axis, jnp.where(is_axis, back, 0).sum())
            after = jnp.where(hit, pushed, after)
            velocity = jnp.where(hit & is_axis, 0, velocity)
            stops = stops | hit
        return jnp.where(moves, after, place), velocity, stops

    def round_of_moves(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        place, velocity, counts, moves = carry
        place, velocity, stops = along(first, place, velocity, moves)
        place, velocity, stops_too = along(1 - first, place, velocity, moves)
        free = jnp.where(jnp.arange(2) == first, ~stops, ~stops_too) & moves
        return place, velocity, counts + free.astype(jnp.float32), moves & ~(stops & stops_too)

    start = position, velocity, jnp.zeros(2, jnp.float32), jnp.ones((), jnp.bool_)
    place, velocity, counts, _ = jax.lax.fori_loop(0, bodies.SUB_STEPS, round_of_moves, start)
    return place, bodies.rounded(velocity * (counts * jnp.float32(1 / bodies.SUB_STEPS)))


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: the level with or without what is in each cell, the agent, the keys in hand."""
    empty, full = of_level(bank, "still", level), of_level(bank, "full", level)
    size = bank["walls"].shape[1]
    things = jnp.concatenate([of_level(bank, "keys", level)[:, :2], of_level(bank, "doors", level)])
    there = jnp.concatenate([~state.keys, state.doors])
    cells = cell_of(things)
    bits = jnp.where(there & (cells[:, 0] >= 0), jnp.left_shift(1, jnp.maximum(cells[:, 0], 0)), 0)
    rows = jnp.where(jnp.arange(size)[:, None] == cells[None, :, 1], bits[None], 0).sum(axis=1, dtype=jnp.int32)
    cell = (np.arange(frames.SIZE) + 0.5) * size // frames.SIZE
    row, column = (size - 1 - cell).astype(np.int32), cell.astype(np.int32)
    is_there = (jnp.right_shift(rows[row][:, None], column[None]) & 1) != 0
    shown = jnp.where(is_there[..., None], full, empty)
    agent, view = turning.Sprite(_RADIUS, _ANGLES), sampling.View(*bank["view"])
    shown = turning.draw(shown, (bank["picture"], bank["sizes"]), agent, view, state.position, state.direction)
    for colour in range(_NUMBER):
        shown = jnp.where(state.keys[colour], frames.draw(shown, bank["ring"], (jnp.int32(colour),)), shown)
    return shown


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], row 0 the lowest."""
    walls, exit = of_level(bank, "walls", level).astype(jnp.int32), of_level(bank, "exit", level)
    size = len(walls)
    keys, doors = of_level(bank, "keys", level), of_level(bank, "doors", level)

    def boxes(place: Array, radius: Array, shown: Array | bool = True) -> Array:
        x, y = ((place[None, axis] - radius[axis], place[None, axis] + radius[axis]) for axis in range(2))
        return sampling.covered(x, y, jnp.asarray(shown)[None], size, size)

    half = jnp.full(2, 0.5, jnp.float32)
    found = [sampling.cells_of(walls, size), boxes(exit[:2], exit[2:] - _RADIUS)]
    found += [boxes(keys[c, :2], keys[c, 2:] - _RADIUS, ~state.keys[c]) for c in range(_NUMBER)]
    found += [boxes(doors[c], half, state.doors[c]) for c in range(_NUMBER)]
    found += [jnp.where(state.keys[c], jnp.full((size, size), 255, jnp.uint8), jnp.uint8(0)) for c in range(_NUMBER)]
    return jnp.stack([*found, boxes(state.position, jnp.full(2, _RADIUS))], axis=-1)
