"""Prioritized replay: draws items in proportion to their priorities, after "Prioritized Experience Replay" by Schaul et
al. 2016 (https://arxiv.org/abs/1511.05952), section 3.3.

Priorities lie in three levels of about equal width, each entry of a level being the sum of a row of the next. A change
recomputes the sums that it touches from their parts, so that float32 never drifts as it does where differences are
added up. Drawing and changing an item cost O(capacity^(1/3)).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from purerl import replay
from purerl.types import Array, EnvSpec


@struct.dataclass
class Priorities:
    """Priorities of K = W^3 items or fewer; those never set are 0 and never drawn.

    Attributes:
      items: [W, W, W] float32; item k is entry k in row-major order.
      rows: [W, W] float32, sums of `items` over the last axis.
      blocks: [W] float32, sums of `rows` over the last axis.
      largest: float32 [], the largest priority ever set, 1 at the start: that of new items.
    """

    items: Array
    rows: Array
    blocks: Array
    largest: Array


def init(capacity: int) -> Priorities:
    """No priorities, for `capacity` items."""
    width = 1
    while width**3 < capacity:
        width += 1
    return Priorities(
        items=jnp.zeros((width, width, width), jnp.float32),
        rows=jnp.zeros((width, width), jnp.float32),
        blocks=jnp.zeros((width,), jnp.float32),
        largest=jnp.ones((), jnp.float32),
    )


def _place(priorities: Priorities, items: Array) -> tuple[Array, Array, Array]:
    width = priorities.items.shape[0]
    rest, entry = jnp.divmod(items, width)
    block, row = jnp.divmod(rest, width)
    return block, row, entry


def _set(priorities: Priorities, items: Array, values: Array) -> Priorities:
    block, row, entry = _place(priorities, items)
    new = priorities.items.at[block, row, entry].set(values)
    rows = priorities.rows.at[block, row].set(jnp.sum(new[block, row], axis=-1))
    blocks = priorities.blocks.at[block].set(jnp.sum(rows[block], axis=-1))
    return priorities.replace(items=new, rows=rows, blocks=blocks)


def update(priorities: Priorities, items: Array, values: Array) -> Priorities:
    """Sets the priorities of items [B] to values [B], float32, not negative. Of an item that comes twice one stays.

    `values` are what is drawn in proportion to: raised to their exponent (alpha) already.
    """
    chex.assert_equal_shape([items, values])
    priorities = _set(priorities, items, values)
    return priorities.replace(largest=jnp.maximum(priorities.largest, jnp.max(values)))


def admit(
    priorities: Priorities, ring: replay.Ring, *, iteration: Array, rollout_length: int, num_steps: int, spec: EnvSpec
) -> Priorities:
    """Behind `replay.add` of the same iteration: gives rows that can be drawn now the largest priority so far, and 0 to
    those that cannot. O(T N).

    With it, an item's priority is positive if and only if `replay.uniform` might draw it and its weight is 1. Item
    n L + t is row t of environment n.

    Args:
      priorities: of N L items.
      ring: [N, L], the rollout already in it.
      iteration: int32 [], of the rollout.
      rollout_length: T.
      num_steps: n of the n-step returns.
      spec: the environment.
    """
    num_envs, length = ring.reward.shape
    before = replay.span(iteration, rollout_length, length)
    # From the first row whose window is complete now, through the rollout, to the oldest rows, whose frames are gone.
    offset = jnp.arange(-num_steps, rollout_length + spec.stacked_frames - 1)
    row = (before.cursor + offset) % length
    complete = (offset < rollout_length - num_steps) & (before.filled + offset >= 0)
    env = jnp.arange(num_envs)[:, None]
    ready = complete[None] & replay.learnable(ring, env, row[None])
    items = env * length + row[None]
    values = jnp.where(ready, priorities.largest, 0.0)
    # While the ring fills, its oldest rows lack nothing: there never was a frame before them.
    full = replay.span(iteration + 1, rollout_length, length).filled == length
    kept = (offset >= rollout_length) & ~full
    values = jnp.where(kept[None], priorities.items[_place(priorities, items)], values)
    return _set(priorities, items.reshape(-1), values.reshape(-1))


def _pick(weights: Array, mass: Array) -> tuple[Array, Array]:
    """(entry [], what of the mass remains in it) of weights [W], going `mass` along them. Entries of 0 are never picked
    while there is another.
    """
    reached = jnp.cumsum(weights)
    positive = weights > 0
    beyond = (reached > mass) & positive
    last = weights.shape[0] - 1 - jnp.argmax(positive[::-1])
    entry = jnp.where(jnp.any(beyond), jnp.argmax(beyond), last)
    return entry, jnp.maximum(mass - (reached[entry] - weights[entry]), 0.0)


def sample(priorities: Priorities, key: Array, batch_size: int) -> tuple[Array, Array]:
    """Draws items in proportion to their priorities, one from each of B equal shares of the mass (section 3.3).

    Returns:
      (items int32 [B], their probabilities float32 [B]).
    """
    share = (jnp.arange(batch_size, dtype=jnp.float32) + jax.random.uniform(key, (batch_size,))) / batch_size

    def one(mass: Array) -> Array:
        block, mass = _pick(priorities.blocks, mass)
        row, mass = _pick(priorities.rows[block], mass)
        entry, _ = _pick(priorities.items[block, row], mass)
        width = priorities.items.shape[0]
        return (block * width + row) * width + entry

    items = jax.vmap(one)(share * jnp.sum(priorities.blocks))
    return items, probability(priorities, items)


def probability(priorities: Priorities, items: Array) -> Array:
    """P(i) = p_i / sum_k p_k of items [B] (eq. 1)."""
    return priorities.items[_place(priorities, items)] / jnp.sum(priorities.blocks)


def importance_weights(probability: Array, exponent: Array | float) -> Array:
    """(1 / P(i))^beta over the largest of the batch, [B] (section 3.4; the number of items cancels)."""
    weights = jnp.power(probability, -exponent)
    return weights / jnp.max(weights)
