"""What the games share: where an action leads, what a bank says of a level, cells and walls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from purerl.types import Array

# The first and the last cell of a box along one axis, int32 [].
Span = tuple[Array, Array]


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


def is_even(bank: dict[str, Any], level: Array, time: Array) -> Array:
    """Whether the first random number of a level's step is even, bool []: a bit of its `even`, uint8 [steps / 8]."""
    eight = of_level(bank, "even", level).at[time // 8].get(mode="clip").astype(jnp.int32)
    return (jnp.right_shift(eight, time % 8) & 1) == 1


def bordered(walls: Array) -> Array:
    """Rows of bits int32 [H] of a square world's walls, with a border of walls around it, int32 [H + 2]."""
    size = len(walls)
    return jnp.full(size + 2, -1, jnp.int32).at[1:-1].set((walls << 1) | 1 | (1 << (size + 1)))


def cell_of(place: Array) -> Array:
    """The cells in which coordinates are, int32."""
    return jnp.floor(place).astype(jnp.int32)


def corners_in(blocked: Array, cell: Array) -> Callable[[Span, Span], Array]:
    """Looks at the walls around a cell once; the result tells whether a corner of a box is in one of them.

    Args:
      blocked: the result of `bordered`.
      cell: (x, y), int32 [2].

    Returns:
      a function of a box's (first, last) column and (first, last) row, at most one cell away, to bool [].
    """
    # A border's count is 1 more than the world's, so these rows and bits begin one below the cell.
    near = [jnp.right_shift(blocked.at[cell[1] + row].get(mode="promise_in_bounds"), cell[0]) & 7 for row in range(3)]

    def touches(columns: Span, rows: Span) -> Array:
        lower, upper = (at - cell[1] + 1 for at in rows)
        left, right = (at - cell[0] + 1 for at in columns)
        bits = jnp.int32(0)
        for row, of_row in enumerate(near):
            bits = bits | jnp.where((lower == row) | (upper == row), of_row, 0)
        return ((jnp.right_shift(bits, left) | jnp.right_shift(bits, right)) & 1) != 0

    return touches
