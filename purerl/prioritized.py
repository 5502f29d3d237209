"""Prioritized replay: draws items in proportion to their priorities, after "Prioritized Experience Replay" by Schaul et
al. 2016 (https://arxiv.org/abs/1511.05952), section 3.3.

Priorities are the lowest level of a tree of sums in which every node has 16 children. A change recomputes the sums that
it touches from their parts, so that float32 never drifts as it does where differences are added up. Drawing and
changing an item cost O(log capacity); 16 children are few enough to be scanned at once, and leave a tree of 5 levels
for a million items.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from purerl import replay
from purerl.types import Array, EnvSpec

_WIDTH = 16


@struct.dataclass
class Priorities:
    """Priorities of items; those never set are 0 and never drawn.

    Attributes:
      levels: float32 [rows, entries], from the root, one row, to the items. Entry j of row i of a level is the sum of
        row 16 i + j of the next.
      largest: float32 [], the largest priority ever set, 1 at the start: that of new items.
    """

    levels: tuple[Array, ...]
    largest: Array

    @property
    def items(self) -> Array:
        """The priorities themselves, [capacity or a little more]."""
        return self.levels[-1].reshape(-1)

    @property
    def total(self) -> Array:
        """The sum of all priorities, []."""
        return jnp.sum(self.levels[0])


def init(capacity: int) -> Priorities:
    """No priorities, for `capacity` items."""
    rows = [-(-capacity // _WIDTH)]
    while rows[0] > 1:
        rows.insert(0, -(-rows[0] // _WIDTH))
    return Priorities(
        levels=tuple(jnp.zeros((count, _WIDTH), jnp.float32) for count in rows), largest=jnp.ones((), jnp.float32)
    )


def _set(priorities: Priorities, items: Array, values: Array) -> Priorities:
    levels = []
    for level in reversed(priorities.levels):
        items, entry = jnp.divmod(items, _WIDTH)
        changed = level.at[items, entry].set(values)
        values = jnp.sum(changed[items], axis=-1)
        levels.insert(0, changed)
    return priorities.replace(levels=tuple(levels))


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
    values = jnp.where(kept[None], priorities.items[items], values)
    return _set(priorities, items.reshape(-1), values.reshape(-1))


def _pick(weights: Array, mass: Array) -> tuple[Array, Array]:
    """(entry [], what of the mass remains in it) of weights [W], going `mass` along them. Entries of 0 are never picked
    while there is another.
    """
    reached = jnp.cumsum(weights)
    positive = weights > 0
    beyond = (reached > mass) & positive
    last = weights.shape[0] - 1 - jnp.argmax(positive[::-1])
    entry = jnp.where(jnp.any(beyond), jnp.argmax(beyond), last).astype(jnp.int32)
    return entry, jnp.maximum(mass - (reached[entry] - weights[entry]), 0.0)


def sample(priorities: Priorities, key: Array, batch_size: int) -> tuple[Array, Array]:
    """Draws items in proportion to their priorities, one from each of B equal shares of the mass (section 3.3).

    Returns:
      (items int32 [B], their probabilities float32 [B]).
    """
    share = (jnp.arange(batch_size, dtype=jnp.float32) + jax.random.uniform(key, (batch_size,))) / batch_size

    def one(mass: Array) -> Array:
        node = jnp.int32(0)
        for level in priorities.levels:
            entry, mass = _pick(level[node], mass)
            node = node * _WIDTH + entry
        return node

    items = jax.vmap(one)(share * priorities.total)
    return items, probability(priorities, items)


def probability(priorities: Priorities, items: Array) -> Array:
    """P(i) = p_i / sum_k p_k of items [B] (eq. 1)."""
    return priorities.items[items] / priorities.total


def importance_weights(probability: Array, exponent: Array | float) -> Array:
    """(1 / P(i))^beta over the largest of the batch, [B] (section 3.4; the number of items cancels)."""
    weights = jnp.power(probability, -exponent)
    return weights / jnp.max(weights)
