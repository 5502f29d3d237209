"""What the games share: where an action leads, what a bank says of a level, cells and walls."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from purerl.types import Array


def direction(action: Array) -> tuple[Array, Array]:
    """(dx, dy) of an action, int32 in -1..1, y upwards: no diagonals, and the special actions stand still."""
    dx, dy = push(action)
    return dx, jnp.where(dx == 0, dy, 0)


def push(action: Array) -> tuple[Array, Array]:
    """(x, y) of an action's push, int32 in -1..1, y upwards: diagonals too, and the special actions push nowhere."""
    move = jnp.where(action < 9, action, 4).astype(jnp.int32)
    return move // 3 - 1, move % 3 - 1


def inside(x: Array, y: Array, width: int, height: int) -> Array:
    """Whether a cell is one of the world's, bool []."""
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def is_cell(x: Array, y: Array, width: int, height: int) -> Array:
    """bool [H, W], True in cell (x, y) alone."""
    return (jnp.arange(height)[:, None] == y) & (jnp.arange(width)[None] == x)


def of_level(bank: dict[str, Any], name: str, level: Array) -> Array:
    """What one of a bank's arrays holds for a level, the index of a row."""
    return jnp.asarray(bank[name]).at[level].get(mode="promise_in_bounds")


def bordered(walls: Array) -> Array:
    """Rows of bits int32 [H] of a square world's walls, with a border of walls around it, int32 [H + 2]."""
    size = len(walls)
    return jnp.full(size + 2, -1, jnp.int32).at[1:-1].set((walls << 1) | 1 | (1 << (size + 1)))
