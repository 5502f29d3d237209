"""Cells drawn in the graph against the same drawn one after the other in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.envs.procgen_jax import frames

KINDS = (1, 2, 9)
# Windows of 7 pixels at these places overlap by one pixel, or touch.
STARTS = {10: (0, 6, 13, 19, 26, 32, 38, 45, 51, 57), 8: tuple(range(0, 57, 8))}


def sprites(cells: int, random: np.random.RandomState) -> frames.Sprite:
    """A Sprite [3, cells, cells] of random 7 x 7 windows: opaque, clear and half clear pixels."""
    starts = np.array(STARTS[cells])
    corner = np.stack(np.broadcast_arrays(starts[::-1, None], starts[None]), axis=-1)
    behind = random.choice([0, 255, 100, 31], (3, cells, cells, 7, 7, 1)).astype(np.uint8)
    colour = (random.rand(3, cells, cells, 7, 7, 3) * (256 - behind.astype(int))).astype(np.uint8)
    return frames.Sprite(colour, behind, np.broadcast_to(corner, (3, cells, cells, 2)).astype(np.int32))


def in_numpy(still: np.ndarray, sprite: frames.Sprite, grid: np.ndarray) -> np.ndarray:
    """A still with the cells of a grid drawn over it, in the library's order."""
    frame = still.astype(int)
    for x, y in np.ndindex(*grid.shape[::-1]):
        if grid[y, x] in KINDS:
            place = KINDS.index(grid[y, x]), y, x
            top, left = sprite.corner[place]
            window = frame[top : top + 7, left : left + 7]
            product = window * sprite.behind[place]
            window[:] = sprite.colour[place] + ((product + (product >> 8) + 128) >> 8)
    return frame


@pytest.mark.parametrize(("cells", "num_layers"), [(8, 1), (10, 4)])
def test_cells_are_drawn_in_order(cells, num_layers):
    random = np.random.RandomState(cells)
    sprite = sprites(cells, random)
    stills = random.randint(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    grids = random.choice([0, 100, *KINDS], (6, cells, cells)).astype(np.int8)
    layers = frames.layered(sprite)
    assert len(layers.cell) == num_layers
    drawn = jax.jit(jax.vmap(lambda still, grid: frames.draw_cells(still, layers, grid, KINDS)))(
        jnp.asarray(stills), jnp.asarray(grids)
    )
    expected = np.stack([in_numpy(still, sprite, grid) for still, grid in zip(stills, grids, strict=True)])
    np.testing.assert_array_equal(drawn, expected)
