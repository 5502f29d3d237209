"""Levels of 64 x 64 cells as bits: each row is four words of 32 columns that overlap by half.

So the columns around any cell are bits of a single word, and a step reads a few words instead of a whole level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from purerl.envs.procgen_jax.moves import Span
from purerl.types import Array

SIZE = 64  # cells in a row and in a column of a level
BEFORE = 8  # columns before the first of a word's 16, and after the last one; also the bit of the cell in `around`
_STRIDE = 16  # columns from one word to the next
_BORDER = 8  # rows below and above a level's that its words hold, too


def words(cells: np.ndarray, outside: bool) -> np.ndarray:
    """uint32 [80, 4], bits of cells bool [64, 64] and of a border: bit b of word k is column 16 k - 8 + b."""
    padded = np.pad(cells, ((_BORDER, _BORDER), (BEFORE, BEFORE)), constant_values=outside)
    bit = 1 << np.arange(32)
    return np.stack([padded[:, at : at + 32] @ bit for at in range(0, SIZE, _STRIDE)], axis=1).astype(np.uint32)


def cells(found: np.ndarray) -> np.ndarray:
    """bool [..., 64, 64], the cells of words [..., 80, 4]."""
    rows = found[..., _BORDER : _BORDER + SIZE, :, None]
    bits = (rows >> np.arange(BEFORE, BEFORE + _STRIDE, dtype=np.uint32)) & 1
    return bits.reshape(*found.shape[:-2], SIZE, SIZE) != 0


def around(bank: dict[str, Any], name: str, level: Array, cell: Array, reach: int) -> Array:
    """uint32 [2 * reach + 1], the rows around a cell (x, y) of a level, from the lowest: bit 8 is its column.

    `bank[name]` has the words of each level; reach is at most 8.
    """
    rows = cell[1] + np.arange(-reach, reach + 1) + _BORDER
    found = jnp.asarray(bank[name]).at[level, rows, cell[0] // _STRIDE].get(mode="clip")
    return jnp.right_shift(found, (cell[0] % _STRIDE).astype(jnp.uint32))


def square(rows: Array) -> Array:
    """bool [2 * reach + 1, 2 * reach + 1], the cells of a result of `around`, row 0 the lowest."""
    reach = len(rows) // 2
    columns = (np.arange(-reach, reach + 1) + BEFORE).astype(np.uint32)
    return (jnp.right_shift(rows[:, None], columns[None]) & 1) != 0


def corners_in(rows: Array, cell: Array) -> Callable[[Span, Span], Array]:
    """A function of a box's (first, last) column and (first, last) row: whether a corner is in one of the cells of a
    result of `around`, bool [].
    """
    reach = len(rows) // 2

    def touches(columns: Span, of_rows: Span) -> Array:
        lower, upper = (at - cell[1] + reach for at in of_rows)
        left, right = ((at - cell[0] + BEFORE).astype(jnp.uint32) for at in columns)
        bits = jnp.uint32(0)
        for row in range(len(rows)):
            bits = bits | jnp.where((lower == row) | (upper == row), rows[row], jnp.uint32(0))
        return ((jnp.right_shift(bits, left) | jnp.right_shift(bits, right)) & 1) != 0

    return touches
