"""What the games of continuous positions share: velocities, and boxes that overlap. All rounded as the library rounds.

The library adds and multiplies float32 numbers one by one. XLA may join a product and a sum into one operation, which
rounds once instead of twice. So here every product that is summed is exact, or is guarded by `rounded`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from purerl.types import Array

SUB_STEPS = 4  # moves of a step, in each axis in turns, at the speeds of these games
CORNER = np.float32(0.98)  # of a radius: where the corners are that walls stop


def rounded(product: Array) -> Array:
    """A product as it is, which XLA then does not join with a sum."""
    return jnp.where(product == product, product, 0)


def accelerated(velocity: Array, push: Array) -> Array:
    """A velocity of the next step: half of the old one and a push, float32; then 0.9 of it, a product in float64."""
    with jax.enable_x64(True):
        product = np.float64(0.9) * (np.float32(0.5) * velocity + push).astype(jnp.float64)
        return product.astype(jnp.float32)


def overlap(x: Array, y: Array, boxes: tuple[Array, Array], reach: tuple[Array, Array]) -> Array:
    """Whether a box at (x, y) overlaps others at `boxes` (x, y): nearer than the sums `reach` of their radii, bool."""
    return (jnp.abs(x - boxes[0]) < reach[0]) & (jnp.abs(y - boxes[1]) < reach[1])


def put_first(comes: Array, empty: Array, new: Array, old: Array) -> Array:
    """Lists of things, the newest first, with a new one: it pushes the others on as far as to the first empty place.

    Args:
      comes: bool [...], whether one comes to a list.
      empty: bool [..., S], places of the lists in which nothing is.
      new: [...]; old: [..., S], numbers of what is in the lists, whose first axes may be more.
    """
    first = jnp.where(empty.any(axis=-1), jnp.argmax(empty, axis=-1), empty.shape[-1])
    moves = comes[..., None] & (jax.lax.broadcasted_iota(jnp.int32, empty.shape, empty.ndim - 1) <= first[..., None])
    pushed = jnp.concatenate([new[..., None], old[..., :-1]], axis=-1)
    return jnp.where(jnp.broadcast_to(moves, old.shape), pushed, old)


def is_outside(size: int, position: Array, radius: Array) -> Array:
    """Whether a box has left a square world, bool []."""
    return ((position + radius < 0) | (position - radius > size)).any()


def moved_within(
    size: int, position: Array, velocity: Array, pushes: Array, even: Array, radius: Array, corner: Array
) -> tuple[Array, Array]:
    """(position [2], velocity [2]) of an agent after a step in a square world without walls: four moves in each axis.

    If a corner is beyond the edge of the world already, each move puts the agent against a border of a cell: along
    x if it moves along x at all, else along y and upwards.

    Args:
      size: of the world in cells.
      position, velocity: float32 [2].
      pushes: int32 [2], of the action: the axis that it pushes in is first, y rather than x.
      even: bool [], whether x is first if both speeds are the same.
      radius: float32 []; corner: its product with CORNER.
    """
    speed = jnp.abs(velocity)
    faster = (speed[0] > speed[1]) | ((speed[0] == speed[1]) & even)
    first = jnp.where(jnp.where(pushes[1] != 0, False, (pushes[0] != 0) | faster), 0, 1)

    def along(axis: Array, place: Array) -> tuple[Array, Array]:
        """(place [2], whether an edge stops it) of one move."""
        distance = jnp.where(jnp.arange(2) == axis, velocity, 0) * jnp.float32(1 / SUB_STEPS)
        to = place + distance
        stops = ((to - corner < 0) | (to + corner >= size)).any()
        snaps = jnp.arange(2) == jnp.where(distance[0] != 0, 0, 1)
        against = jnp.where(distance > 0, jnp.floor(to + radius) - radius, jnp.ceil(to - radius) + radius)
        return jnp.where(stops & snaps, against, to), stops

    def round_of_moves(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        place, counts, moves = carry
        after, stops = along(first, place)
        after, stops_too = along(1 - first, after)
        free = jnp.where(jnp.arange(2) == first, ~stops, ~stops_too) & moves
        return jnp.where(moves, after, place), counts + free.astype(jnp.float32), moves & ~(stops & stops_too)

    start = position, jnp.zeros(2, jnp.float32), jnp.ones((), jnp.bool_)
    place, counts, _ = jax.lax.fori_loop(0, SUB_STEPS, round_of_moves, start)
    return place, rounded(velocity * (counts * jnp.float32(1 / SUB_STEPS)))
