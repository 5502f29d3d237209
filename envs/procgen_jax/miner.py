"""Miner: dig for the diamonds, dodge the boulders, then reach the exit. A diamond is worth 1, the exit 10.

Objects (boulders and diamonds) that have nothing below them fall, and roll off each other. The library moves them in
one sweep over the cells, in place, lowest row first and from left to right: a later cell sees what earlier ones did.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import frames
from purerl.envs.procgen_jax.moves import direction, inside, is_cell, of_level
from purerl.envs.procgen_jax.states import REFLECTED, TYPE, LibraryState
from purerl.types import Array

SPACE, BOULDER, DIAMOND, FALLING_BOULDER, FALLING_DIAMOND, EXIT, DIRT, OUTSIDE = 100, 1, 2, 3, 4, 6, 9, 10
EXACT = "exact: rules, levels and frames"
TIMEOUT = 1000
SIZES = {"easy": (10, 10), "hard": (20, 20)}  # width and height in cells
PLANES = ("dirt", "boulder", "diamond", "falling boulder", "falling diamond", "exit", "agent")
SYMBOLIC = "bool"
MOST_LEVELS = 100_000
CENTRED = False  # frames show the whole level
SHAPED_BY: tuple[str, ...] = ()  # options that the sizes of things depend on
_KINDS = (BOULDER, DIAMOND, DIRT)  # pictures of cells; a falling object looks as one at rest


@struct.dataclass
class State:
    """int8 [H, W] grid, row 0 the lowest; int32 [] x and y, of the agent's cell; int32 [] diamonds, as the last sweep
    counted them: the library keeps the number even when a new level begins; bool [] reflected, the agent's picture.
    """

    grid: Array
    x: Array
    y: Array
    diamonds: Array
    reflected: Array


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept: int8 grid [H, W], and the cells [2] (x, y) of agent and exit."""
    cells = {"start": state.position(0), "exit": state.position(_exit(state))}
    return {"grid": state.grid.astype(np.int8)} | {name: np.floor(at).astype(np.int8) for name, at in cells.items()}


def still(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is all of the level that never changes, the exit too."""
    state.grid[:] = SPACE
    state.place(0, -9.0, -9.0)


STILLS = {"still": still}


def sprites(camera: frames.Camera) -> dict[str, Any]:
    """The tables of what changes: cells, and the agent [2, H, W], as it is and mirrored."""

    def agent(reflected: int) -> frames.Sprite:
        def put(state: LibraryState, x: float, y: float) -> None:
            state.place(0, x, y)
            state.entities[0, REFLECTED] = reflected

        return camera.of_entity(put)

    cells = frames.layered(frames.stacked([camera.of_cell(kind) for kind in _KINDS]))
    return {"agent": frames.stacked([agent(0), agent(1)]), "cells": cells}


def _exit(state: LibraryState) -> int:
    """Which entity is the exit."""
    return int(np.flatnonzero(state.entities[:, TYPE] == EXIT)[0])


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank. The number of diamonds is that of `before`."""
    start = of_level(bank, "start", level).astype(jnp.int32)
    grid = of_level(bank, "grid", level)
    diamonds = jnp.zeros((), jnp.int32) if before is None else before.diamonds
    return State(grid, start[0], start[1], diamonds, jnp.zeros((), jnp.bool_))


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    grid, (dx, dy) = state.grid, direction(action)
    height, width = grid.shape

    # 1. The move.
    x, y = state.x + dx, state.y + dy
    target = grid.at[y, x].get(mode="clip")
    blocked = ~inside(x, y, width, height) | (target == BOULDER) | (target == FALLING_BOULDER)
    moved_x, moved_y = jnp.where(blocked, state.x, x), jnp.where(blocked, state.y, y)

    # 2. The exit is open if the sweep before this one counted no diamonds.
    exit = of_level(bank, "exit", level)
    won = (moved_x == exit[0]) & (moved_y == exit[1]) & (state.diamonds == 0)

    # 3. A push moves a boulder at rest, and the agent after it.
    beyond = jnp.clip(x + dx, 0, width - 1)
    room = jnp.where(dx > 0, state.x < width - 2, state.x > 1)
    pushes = (dx != 0) & room & (target == BOULDER)
    pushes = pushes & (grid.at[y, beyond].get(mode="clip") == SPACE)
    grid = _put(grid, y, beyond, jnp.int8(BOULDER), pushes)
    x, y = jnp.where(pushes, x, moved_x), moved_y

    # 4. What the agent stands on: dug, or collected. A boulder that was there has just been pushed away.
    here = grid.at[y, x].get(mode="promise_in_bounds")
    collects = here == DIAMOND
    grid = _put(grid, y, x, jnp.int8(SPACE), pushes | collects | (here == DIRT))

    # 5. and 6. Everything falls.
    grid, diamonds, crushed = sweep(grid, x, y)
    reward = jnp.where(won, jnp.float32(10), jnp.float32(0)) + jnp.where(collects, jnp.float32(1), jnp.float32(0))
    reflected = jnp.where(dx == 0, state.reflected, dx < 0)
    return State(grid, x, y, diamonds, reflected), reward, won | crushed, won


def _put(grid: Array, y: Array, x: Array, value: Array, where: Array) -> Array:
    """The grid with a value in a cell, where `where`. Compared cell by cell, which is faster than a scatter."""
    height, width = grid.shape
    return jnp.where(is_cell(x, y, width, height) & where, value, grid)


class _Row(NamedTuple):
    """What a sweep carries along a row: the cells left of and at x, the one below left; diamonds and deaths so far."""

    left: Array
    here: Array
    below_left: Array
    diamonds: Array
    crushed: Array


def sweep(grid: Array, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Moves all objects of a grid [H, W] once, the agent in cell (x, y).

    A cell changes at most its two neighbours and the cell below. So the sweep reads every cell once, in order, and
    hands on what may still change: two nested scans, whose steps work on all games at once under vmap.

    Returns (grid, diamonds counted int32 [], whether an object fell on the agent bool []).
    """
    height, width = grid.shape
    outside = jnp.int8(OUTSIDE)
    columns = jnp.arange(width, dtype=jnp.int32)

    def row(carry: tuple[Array, Array, Array], cells: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        (below, diamonds, crushed), (here, row_y) = carry, cells
        agent_here, agent_below = y == row_y, y == row_y - 1

        def cell(carry: _Row, xs: tuple[Array, ...]) -> tuple[_Row, tuple[Array, Array]]:
            column, right, b, b_right = xs
            return _cell(carry, column, right, b, b_right, width, (x, agent_here, agent_below))

        start = _Row(outside, here[0], outside, diamonds, crushed)
        xs = columns, jnp.append(here[1:], outside), below, jnp.append(below[1:], outside)
        end, (left, below) = jax.lax.scan(cell, start, xs)
        # Each step is done with the cell to its left, and the last one also with its own.
        return (jnp.append(left[1:], end.left), end.diamonds, end.crushed), below

    first = jnp.full(width, outside), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_)
    (top, diamonds, crushed), done = jax.lax.scan(row, first, (grid, jnp.arange(height, dtype=jnp.int32)))
    return jnp.concatenate([done[1:], top[None]]), diamonds, crushed


def _cell(
    carry: _Row, column: Array, right: Array, below: Array, below_right: Array, width: int, agent: tuple[Array, ...]
) -> tuple[_Row, tuple[Array, Array]]:
    """One cell of a sweep: (carry of the next cell, (the cell to its left, the cell below) as they stay)."""
    agent_x, agent_here, agent_below = agent
    o = carry.here
    is_object = (o >= BOULDER) & (o <= FALLING_DIAMOND)
    is_diamond = (o == DIAMOND) | (o == FALLING_DIAMOND)
    is_falling = (o == FALLING_BOULDER) | (o == FALLING_DIAMOND)
    resting = jnp.where(is_diamond, jnp.int8(DIAMOND), jnp.int8(BOULDER))

    def free(value: Array, at: Array, agent_in_row: Array) -> Array:
        return (value == SPACE) & ~(agent_in_row & (at == agent_x))

    over_agent = agent_below & (column == agent_x)
    falls = is_object & (below == SPACE) & ~over_agent
    crushes = is_object & ~falls & over_agent & is_falling
    on_object = is_object & ~falls & ~crushes & (below >= BOULDER) & (below <= FALLING_DIAMOND)
    goes_left = on_object & (column > 0)
    goes_left &= free(carry.left, column - 1, agent_here) & free(carry.below_left, column - 1, agent_below)
    goes_right = on_object & ~goes_left & (column < width - 1)
    goes_right &= free(right, column + 1, agent_here) & free(below_right, column + 1, agent_below)

    space = jnp.int8(SPACE)
    stays = jnp.where(is_object & ~crushes, resting, o)
    here = jnp.where(falls | goes_left | goes_right, space, stays)
    left = jnp.where(goes_left, resting, carry.left)
    fallen = jnp.where(is_diamond, jnp.int8(FALLING_DIAMOND), jnp.int8(FALLING_BOULDER))
    below = jnp.where(falls, fallen, below)
    following = _Row(
        left=here,
        here=jnp.where(goes_right, resting, right),
        below_left=below,
        diamonds=carry.diamonds + is_diamond.astype(jnp.int32),
        crushed=carry.crushed | crushes,
    )
    return following, (left, below)


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: the level's still, the cells, the agent."""
    still = of_level(bank, "still", level)
    resting = jnp.where(state.grid == FALLING_BOULDER, jnp.int8(BOULDER), state.grid)
    resting = jnp.where(state.grid == FALLING_DIAMOND, jnp.int8(DIAMOND), resting)
    shown = frames.draw_cells(still, bank["cells"], resting, _KINDS)
    return frames.draw(shown, bank["agent"], (state.reflected.astype(jnp.int32), state.y, state.x))


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """What stands in each cell, bool [H, W, planes], row 0 the lowest."""
    height, width = state.grid.shape
    exit = of_level(bank, "exit", level)
    kinds = [state.grid == kind for kind in (DIRT, BOULDER, DIAMOND, FALLING_BOULDER, FALLING_DIAMOND)]
    places = [is_cell(x, y, width, height) for x, y in ((exit[0], exit[1]), (state.x, state.y))]
    return jnp.stack([*kinds, *places], axis=-1)
