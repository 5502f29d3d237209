"""Chaser: eat all green orbs, dodge the enemies; a large orb makes them edible for a while. An orb is worth 0.04.

Everything is at a multiple of an eighth of a cell, so positions are integers here: eighths. Enemies hatch from eggs.
What they choose at a junction is decided by the library's random numbers, which depend on the level and the step alone:
each level has a table of them.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import frames, sampling
from purerl.envs.procgen_jax.moves import bordered, corners_in, of_level, push
from purerl.envs.procgen_jax.states import TYPE, LibraryState
from purerl.types import Array

SPACE, LARGE_ORB, WEAK, EGG, WALL, ENEMY, ORB = 100, 2, 3, 4, 5, 6, 1002
EXACT = "exact: rules, levels and frames"
TIMEOUT = 1000
SIZES = {"easy": (11, 11), "hard": (13, 13)}  # width and height in cells
PLANES = ("wall", "orb", "large orb", "egg", "enemy", "edible enemy", "agent")
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 20_000  # 2 KB each
CENTRED = False  # frames show the whole level
SHAPED_BY: tuple[str, ...] = ()  # options that the sizes of things depend on

_EIGHTHS = 8
_SPEED = 4  # eighths a step
_EDIBLE_STEPS, _EGG_STEPS = 75, 50
_NONE, _HATCHED = -1, 0  # what `egg` says of a creature that is none, or an enemy
_LATE = 1 << 20  # an order after all others
_NEIGHBOURS = np.array([(-1, 0), (0, -1), (0, 1), (1, 0)], np.int32)  # (dx, dy), in the library's order
_MULTIPLE = 12  # of 1 to 4, the numbers of choices
_PICTURES = (
    (0, "enemyFloating_1b"), (ENEMY, "enemyFlying_1"), (7, "enemyFlying_2"), (8, "enemyFlying_3"),
    (WEAK, "enemyWalking_1b"), (EGG, "enemySpikey_1b"),
)  # fmt: skip
_AGENT_PICTURE, _ENEMY_PICTURE, _WEAK_PICTURE, _EGG_PICTURE = 0, 1, 4, 5


@struct.dataclass
class State:
    """One game; C creatures are eggs and enemies, positions are in eighths of a cell, y upwards.

    Attributes:
      time: int32 [], steps of the episode.
      agent, heading: int32 [2], the agent's position, and its direction in each axis, -1, 0 or 1.
      orbs: int32 [H], a bit for each small orb, row 0 the lowest and bit 0 the leftmost.
      left: int32 [], small orbs.
      large_orbs: bool [L].
      ate: int32 [], when the last large orb was eaten.
      creature, velocity: int32 [C, 2]; a velocity is in eighths a step.
      egg: int32 [C], steps until an egg hatches, 0 for an enemy, -1 for none.
      order, egg_order: int32 [C], when a creature and its egg came, for what is drawn over what.
    """

    time: Array
    agent: Array
    heading: Array
    orbs: Array
    left: Array
    large_orbs: Array
    ate: Array
    creature: Array
    velocity: Array
    egg: Array
    order: Array
    egg_order: Array


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    walls, orbs: uint16 [H], a bit for each cell. start [2], large [L, 2], eggs [C, 2]: int8 cells (x, y). choice and
    nest, uint8 [1000]: of each step's random number the rest that choices need, and the cell of a new egg.
    """
    bit = 1 << np.arange(state.grid.shape[1])
    cells = {name: _cells(state, kind) for name, kind in (("large", LARGE_ORB), ("eggs", EGG))}
    number = state.draws(TIMEOUT) % 1_000_000
    free = state.vectors["free_cells"]
    return {
        "walls": ((state.grid == WALL) @ bit).astype(np.uint16),
        "orbs": ((state.grid == ORB) @ bit).astype(np.uint16),
        "start": _cells(state, 0)[0],
        "choice": (number % _MULTIPLE).astype(np.uint8),
        "nest": free[number % len(free)].astype(np.uint8),
    } | cells


def _cells(state: LibraryState, kind: int) -> np.ndarray:
    return np.array([np.floor(state.position(i)) for i in state.of_type(kind)]).astype(np.int8)


def full(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is the level with all its orbs."""
    for entity in np.flatnonzero(state.entities[:, TYPE] != LARGE_ORB):
        state.place(int(entity), -9.0, -9.0)


def still(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is all of the level that never changes."""
    full(state)
    for entity in range(len(state.entities)):
        state.place(entity, -9.0, -9.0)
    state.grid[state.grid == ORB] = SPACE


STILLS = {"still": still, "full": full}


def sprites(camera: frames.Camera) -> dict[str, np.ndarray]:
    """The pictures, and for each and each eighth of a cell where its rows and columns are; at 0 there is nothing."""
    state = camera.state
    pictures, sizes = sampling.of_kinds({(kind, 0): f"misc_assets/{name}.png" for kind, name in _PICTURES}, state)
    view, radius = sampling.View.of(state), np.float32(0.5)
    place = np.arange(_EIGHTHS * state.grid.shape[0] + 1, dtype=np.float32) / np.float32(_EIGHTHS)
    found = {"pictures": pictures}
    for axis, name in enumerate(("rows", "columns")):
        start, length = getattr(view, name)(place, np.full_like(place, radius))
        window = int(np.ceil(length[0])) + 1
        tables = [sampling.spans(np, start, length, size[axis], window, pictures.shape[1] - 1) for size in sizes]
        found[f"{name}_first"] = tables[0][0].astype(np.int8)
        found[name] = np.stack([index for _, index in tables]).astype(np.uint8)
        found[name][:, 0] = pictures.shape[1] - 1
    return found


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""

    def row(name: str) -> Array:
        return of_level(bank, name, level).astype(jnp.int32)

    orbs, eggs = row("orbs"), row("eggs")
    creatures, large = len(eggs), bank["large"].shape[1]
    bits = (orbs[:, None] >> jnp.arange(len(orbs))[None]) & 1
    zero, none = jnp.zeros((), jnp.int32), jnp.zeros((creatures, 2), jnp.int32)
    return State(
        time=zero,
        agent=_centre(row("start")),
        heading=none[0],
        orbs=orbs,
        left=bits.sum(dtype=jnp.int32),
        large_orbs=jnp.ones(large, jnp.bool_),
        ate=zero - _EDIBLE_STEPS,
        creature=_centre(eggs),
        velocity=none,
        egg=jnp.full(creatures, _EGG_STEPS, jnp.int32),
        order=jnp.arange(creatures, dtype=jnp.int32),
        egg_order=jnp.arange(creatures, dtype=jnp.int32),
    )


def _centre(cell: Array) -> Array:
    return _EIGHTHS * cell + _EIGHTHS // 2


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    walls = of_level(bank, "walls", level).astype(jnp.int32)
    size = len(walls)
    blocked = bordered(walls)
    time = state.time + 1
    choice, nest = (
        jnp.asarray(bank[name]).at[level, time - 1].get(mode="clip").astype(jnp.int32) for name in ("choice", "nest")
    )

    # 1. Everything moves; enemies never meet a wall.
    agent, heading = _moved(blocked, state.agent, state.heading, push(action), choice)
    creature = state.creature + state.velocity

    # 2. What touches the agent. The library looks at enemies before it looks at large orbs.
    edible = time - state.ate < _EDIBLE_STEPS
    touched = (jnp.abs(creature - agent[None]) < _EIGHTHS).all(axis=-1) & (state.egg == _HATCHED)
    caught = (touched & ~edible).any()
    egg = jnp.where(touched & edible, _NONE, state.egg)
    large = of_level(bank, "large", level).astype(jnp.int32)
    eaten = (jnp.abs(_centre(large) - agent[None]) < _EIGHTHS).all(axis=-1) & state.large_orbs
    ate = jnp.where(eaten.any(), time, state.ate)
    reward = jnp.float32(0)
    for orb in range(len(large)):
        reward = reward + jnp.where(eaten[orb], jnp.float32(0.04), jnp.float32(0))

    # 3. Eggs hatch, and enemies choose a way. Whatever was counted then is fewer than it should be: one more egg.
    edible = time - ate < _EDIBLE_STEPS
    living = egg != _NONE
    velocity = _ways(blocked, creature, state.velocity, agent, edible, choice)
    velocity = jnp.where((egg == _HATCHED)[:, None], velocity, 0)
    hatches = egg == 1
    later = (hatches[None] & (state.order[None] > state.order[:, None])).sum(axis=-1, dtype=jnp.int32)
    order, egg_order = jnp.where(hatches, 8 * time + later, state.order), state.order
    egg = jnp.where(egg > 0, egg - 1, egg)
    lays = jnp.cumsum(~living, dtype=jnp.int32) == 1
    lays = lays & ~living
    place = _centre(jnp.stack([nest % size, nest // size]))
    creature = jnp.where(lays[:, None], place[None], creature)
    velocity = jnp.where(lays[:, None], 0, velocity)
    egg = jnp.where(lays, _EGG_STEPS, egg)
    order = jnp.where(lays, 8 * time + 7, order)

    # 4. The small orb in the agent's cell.
    x, y = agent[0] // _EIGHTHS, agent[1] // _EIGHTHS
    here = jnp.where(jnp.arange(size) == y, jnp.left_shift(1, x), 0)
    collects = ((state.orbs & here) != 0).any()
    left = state.left - collects
    reward = reward + jnp.where(collects, jnp.float32(0.04), jnp.float32(0))
    won = left == 0
    reward = reward + jnp.where(won, jnp.float32(10), jnp.float32(0))
    after = State(
        time, agent, heading, state.orbs & ~here, left, state.large_orbs & ~eaten, ate, creature, velocity, egg, order,
        egg_order,
    )  # fmt: skip
    return after, reward, caught | won, won


def _moved(
    blocked: Array, agent: Array, heading: Array, pushes: tuple[Array, Array], choice: Array
) -> tuple[Array, ...]:
    """(the agent's new position [2], heading [2]): four moves of an eighth in each axis, in turns.

    `blocked` has a bit for each cell of the world and of a border around it. The agent's corners reach half a cell,
    less one hundredth, so a corner at an eighth is in the cell of the eighth before it.
    """
    ax, ay = pushes
    dx, dy = jnp.where(ax != 0, ax, heading[0]), jnp.where(ay != 0, ay, heading[1])
    half = _EIGHTHS // 2
    touches = corners_in(blocked, agent // _EIGHTHS)

    def walled(x: Array, y: Array) -> Array:
        """Whether a corner of the agent is in a wall, for positions within half a cell of the first one."""
        columns, rows = (((at - half) // _EIGHTHS, (at + half - 1) // _EIGHTHS) for at in (x, y))
        return touches(columns, rows)

    def snapped(at: Array, direction: Array) -> Array:
        upwards = (at + half) // _EIGHTHS * _EIGHTHS - half
        downwards = -(-(at - half) // _EIGHTHS) * _EIGHTHS + half
        return jnp.where(direction > 0, upwards, downwards)

    def along_x(x: Array, y: Array) -> tuple[Array, Array]:
        stops = (dx != 0) & walled(x + dx, y)
        return jnp.where(stops, snapped(x + dx, dx), x + dx), ~stops

    def along_y(x: Array, y: Array) -> tuple[Array, Array]:
        stops = (dy != 0) & walled(x, y + dy)
        return jnp.where(stops, snapped(y + dy, dy), y + dy), ~stops

    x_first = jnp.where(ay != 0, False, (ax != 0) | ((dx != 0) & (dy == 0)))
    x_first = x_first | ((ax == 0) & (ay == 0) & ((dx != 0) == (dy != 0)) & (choice % 2 == 0))
    x, y = agent[0], agent[1]
    moves_x = moves_y = jnp.zeros((), jnp.bool_)
    for _ in range(4):
        early_x, early_free = along_x(x, y)
        x = jnp.where(x_first, early_x, x)
        y, free_y = along_y(x, y)
        late_x, late_free = along_x(x, y)
        x = jnp.where(x_first, x, late_x)
        moves_x, moves_y = moves_x | jnp.where(x_first, early_free, late_free), moves_y | free_y
    heading = jnp.stack([jnp.where(moves_x, dx, 0), jnp.where(moves_y, dy, 0)])
    return jnp.stack([x, y]), heading


def _ways(blocked: Array, creature: Array, velocity: Array, agent: Array, edible: Array, choice: Array) -> Array:
    """The velocities [C, 2] of enemies after this step: a new one in the middle of a cell, else the same."""
    corner = creature - _EIGHTHS // 2
    at_junction = (corner % _EIGHTHS == 0).all(axis=-1) | (velocity == 0).all(axis=-1)
    cell = corner // _EIGHTHS
    following = cell[:, None] + _NEIGHBOURS[None]  # [C, 4, 2]
    rows = blocked.at[following[..., 1] + 1].get(mode="clip")
    is_open = (jnp.right_shift(rows, following[..., 0] + 1) & 1) == 0
    is_open = is_open & (-jnp.sign(velocity)[:, None] != _NEIGHBOURS[None]).any(axis=-1)
    distance = jnp.abs(following - (agent // _EIGHTHS)[None, None]).sum(axis=-1) * jnp.where(edible, -1, 1)
    nearest = jnp.where(is_open, distance, _LATE).min(axis=-1, keepdims=True)
    kept = is_open & ((distance == nearest) | (choice % 2 != 0))
    number = jnp.maximum(kept.sum(axis=-1, dtype=jnp.int32), 1)
    chosen = kept & (jnp.cumsum(kept, axis=-1, dtype=jnp.int32) == (choice % number)[:, None] + 1)
    way = (chosen[..., None] * _NEIGHBOURS[None]).sum(axis=1, dtype=jnp.int32)
    speed = jnp.where(edible, _SPEED // 2, _SPEED)
    return jnp.where(at_junction[:, None], way * speed, velocity)


def _orb_rows(bank: dict[str, Any], level: Array, state: State) -> Array:
    """int32 [H], a bit for each orb, small or large."""
    large = of_level(bank, "large", level).astype(jnp.int32)
    rows = state.orbs
    for orb in range(len(large)):
        here = (jnp.arange(len(rows)) == large[orb, 1]) & state.large_orbs[orb]
        rows = rows | jnp.where(here, jnp.left_shift(1, large[orb, 0]), 0)
    return rows


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: the level with or without its orbs in each cell, then the creatures, the agent."""
    empty, full = (of_level(bank, name, level) for name in ("still", "full"))
    rows = _orb_rows(bank, level, state)
    size = len(rows)
    cell = (np.arange(frames.SIZE) + 0.5) * size // frames.SIZE
    row, column = (size - 1 - cell).astype(np.int32), cell.astype(np.int32)
    has_orb = (jnp.right_shift(rows[row][:, None], column[None]) & 1) != 0
    shown = jnp.where(has_orb[..., None], full, empty)

    kinds, places = _in_order(state)
    kinds = jnp.append(kinds, _AGENT_PICTURE)
    places = jnp.concatenate([places, state.agent[None]])
    found = []
    for name, at in (("rows", places[:, 1]), ("columns", places[:, 0])):
        first = jnp.asarray(bank[f"{name}_first"]).at[at].get(mode="promise_in_bounds").astype(jnp.int32)
        index = jnp.asarray(bank[name]).at[kinds, at].get(mode="promise_in_bounds").astype(jnp.int32)
        found.append((first, index))
    return sampling.draw_all(shown, bank["pictures"], kinds, *found, jnp.ones(kinds.shape, jnp.bool_))


def _in_order(state: State) -> tuple[Array, Array]:
    """(pictures int32 [K], places int32 [K, 2]) of creatures as they are drawn, one after the other; what is none is at
    (0, 0), out of sight.
    """
    is_egg, is_enemy = state.egg > 0, state.egg == _HATCHED
    # The egg of an enemy that has just hatched, and does not move yet, is still there.
    is_shell = is_enemy & (state.velocity == 0).all(axis=-1)
    wing = jnp.array([0, 1, 2, 1], jnp.int32)[state.time // 2 % 4]
    enemy = jnp.where(state.time - state.ate < _EDIBLE_STEPS, _WEAK_PICTURE, _ENEMY_PICTURE + wing)
    orders = jnp.concatenate([jnp.where(is_egg, state.order, state.egg_order), state.order])
    seen = jnp.concatenate([is_egg | is_shell, is_enemy])
    places = jnp.concatenate([state.creature, state.creature])
    kinds = jnp.concatenate([jnp.full_like(state.egg, _EGG_PICTURE), jnp.broadcast_to(enemy, state.egg.shape)])
    number = len(orders)
    orders = jnp.where(seen, orders, _LATE + jnp.arange(number))
    rank = (orders[None] < orders[:, None]).sum(axis=-1)
    mine = rank[None] == jnp.arange(number)[:, None]  # [turn, creature]
    places = jnp.where((mine & seen[None])[..., None], places[None], 0).sum(axis=1, dtype=jnp.int32)
    return jnp.where(mine, kinds[None], 0).sum(axis=1, dtype=jnp.int32), places


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], row 0 the lowest."""
    walls = of_level(bank, "walls", level).astype(jnp.int32)
    size = len(walls)
    small, large = state.orbs, _orb_rows(bank, level, state) & ~state.orbs
    bits = [sampling.cells_of(rows, size) for rows in (walls, small, large)]
    edible = state.time - state.ate < _EDIBLE_STEPS

    def boxes(places: Array, shown: Array) -> Array:
        centre, half = places.astype(jnp.float32) / _EIGHTHS, jnp.float32(0.5)
        x, y = ((centre[:, axis] - half, centre[:, axis] + half) for axis in range(2))
        return sampling.covered(x, y, shown, size, size)

    is_enemy = state.egg == _HATCHED
    creatures = boxes(state.creature, jnp.stack([state.egg > 0, is_enemy & ~edible, is_enemy & edible]))
    agent = boxes(state.agent[None], jnp.ones((1, 1), jnp.bool_))
    return jnp.concatenate([jnp.stack(bits, axis=-1), creatures, agent], axis=-1)
