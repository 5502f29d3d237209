"""Maze: walk to the goal. Reward 10 at the goal, which ends the level; nothing else counts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import frames
from purerl.envs.procgen_jax.moves import direction, inside, is_cell, of_level
from purerl.envs.procgen_jax.states import REFLECTED, LibraryState
from purerl.types import Array

SPACE, WALL, GOAL = 100, 51, 2
EXACT = "exact: rules, levels and frames"
TIMEOUT = 500
SIZES = {"easy": (15, 15), "hard": (25, 25)}  # width and height in cells
PLANES = ("wall", "goal", "agent")
SYMBOLIC = "bool"
MOST_LEVELS = 100_000
CENTRED = False  # frames show the whole level
SHAPED_BY: tuple[str, ...] = ()  # options that the sizes of things depend on


@struct.dataclass
class State:
    """int32 [] x and y, of the agent's cell; bool [] whether its picture is mirrored."""

    x: Array
    y: Array
    reflected: Array


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept: int8 grid [H, W] and the agent's cell [2] (x, y)."""
    return {"grid": state.grid.astype(np.int8), "start": np.floor(state.position(0)).astype(np.int8)}


def still(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is all of the level that never changes."""
    state.place(0, -9.0, -9.0)


STILLS = {"still": still}


def sprites(camera: frames.Camera) -> dict[str, frames.Sprite]:
    """The tables of what moves: the agent [2, H, W], as it is and mirrored."""

    def agent(reflected: int) -> frames.Sprite:
        def put(state: LibraryState, x: float, y: float) -> None:
            state.place(0, x, y)
            state.entities[0, REFLECTED] = reflected

        return camera.of_entity(put)

    return {"agent": frames.stacked([agent(0), agent(1)])}


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""
    start = of_level(bank, "start", level).astype(jnp.int32)
    return State(start[0], start[1], jnp.zeros((), jnp.bool_))


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    grid = jnp.asarray(bank["grid"])
    height, width = grid.shape[1:]
    dx, dy = direction(action)
    x, y = state.x + dx, state.y + dy
    target = grid.at[level, y, x].get(mode="clip")
    free = inside(x, y, width, height) & (target != WALL)
    x, y = jnp.where(free, x, state.x), jnp.where(free, y, state.y)
    won = grid.at[level, y, x].get(mode="promise_in_bounds") == GOAL
    reflected = jnp.where(dx == 0, state.reflected, dx > 0)
    return State(x, y, reflected), jnp.where(won, jnp.float32(10), jnp.float32(0)), won, won


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: all but the agent is the level's still."""
    still = of_level(bank, "still", level)
    return frames.draw(still, bank["agent"], (state.reflected.astype(jnp.int32), state.y, state.x))


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """What stands in each cell, bool [H, W, planes], row 0 the lowest."""
    grid = of_level(bank, "grid", level)
    height, width = grid.shape
    agent = is_cell(state.x, state.y, width, height)
    return jnp.stack([grid == WALL, grid == GOAL, agent], axis=-1)
