"""What the games share: where an action leads."""

from __future__ import annotations

import jax.numpy as jnp

from purerl.types import Array


def direction(action: Array) -> tuple[Array, Array]:
    """(dx, dy) of an action, int32 in -1..1, y upwards: no diagonals, and the special actions stand still."""
    move = jnp.where(action < 9, action, 4).astype(jnp.int32)
    dx = move // 3 - 1
    return dx, jnp.where(dx == 0, move % 3 - 1, 0)


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
