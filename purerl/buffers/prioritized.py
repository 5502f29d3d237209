"""Prioritized replay: draws items in proportion to their priorities.

See "Prioritized Experience Replay" by Schaul et al. 2016 (https://arxiv.org/abs/1511.05952), section 3.3.

Priorities are the lowest level of a sum tree in which every node has 16 children. An update recomputes the changed sums
from their parts. So float32 rounding errors do not accumulate, as they do if differences are added. Drawing and
updating an item cost O(log capacity). 16 children can be scanned at once, and give a tree of 5 levels for a million
items.

Both walk the tree in a loop over its levels. This keeps the program small, and it also avoids a copy: with unrolled
levels, XLA may compute a draw again where its items are used. It then copies all old priorities at every gradient step.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from purerl import rng
from purerl.buffers import replay
from purerl.types import Array, EnvSpec

_WIDTH = 16


@struct.dataclass
class Priorities:
    """Priorities of items. Items that were never set have priority 0 and are never drawn.

    Attributes:
      sums: float32 [R, 16], the rows of all levels; the first level holds the items, the last is the root. Entry j of
        row i of a level is the sum of row 16 i + j of the level below.
      largest: float32 [], the largest priority ever set, 1 at the start. New items get it.
      capacity: number of items.
    """

    sums: Array
    largest: Array
    capacity: int = struct.field(pytree_node=False)

    @property
    def items(self) -> Array:
        """The priorities themselves, [capacity]."""
        return self.sums.reshape(-1)[: self.capacity]

    @property
    def total(self) -> Array:
        """The sum of all priorities, []."""
        return jnp.sum(self.sums[-1])


def _level_rows(capacity: int) -> list[int]:
    """How many rows each level has, from the items to the root."""
    rows = [-(-capacity // _WIDTH)]
    while rows[-1] > 1:
        rows.append(-(-rows[-1] // _WIDTH))
    return rows


def _first_rows(capacity: int) -> Array:
    """The number of each level's first row, int32 [levels]."""
    return jnp.cumsum(jnp.array([0, *_level_rows(capacity)[:-1]], jnp.int32))


def init(capacity: int) -> Priorities:
    """Priorities of `capacity` items, all 0."""
    rows = sum(_level_rows(capacity))
    return Priorities(jnp.zeros((rows, _WIDTH), jnp.float32), jnp.ones((), jnp.float32), capacity)


def _set(priorities: Priorities, items: Array, values: Array) -> Priorities:
    first_rows = _first_rows(priorities.capacity)

    def one_level(level: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        sums, node, values = carry
        parent, entry = jnp.divmod(node, _WIDTH)
        row = first_rows[level] + parent
        sums = sums.at[row, entry].set(values)
        return sums, parent, jnp.sum(sums[row], axis=-1)

    carry = priorities.sums, items.astype(jnp.int32), values
    sums, _, _ = jax.lax.fori_loop(0, first_rows.size, one_level, carry)
    return priorities.replace(sums=sums)


def update(priorities: Priorities, items: Array, values: Array) -> Priorities:
    """Sets the priorities of items [B] to values [B], float32, not negative. For a repeated item, one value is kept.

    Items are drawn in proportion to `values`, so the exponent (alpha) must already be applied.
    """
    chex.assert_equal_shape([items, values])
    priorities = _set(priorities, items, values)
    return priorities.replace(largest=jnp.maximum(priorities.largest, jnp.max(values)))


def admit(
    priorities: Priorities, ring: replay.Ring, *, iteration: Array, rollout_length: int, num_steps: int, spec: EnvSpec
) -> Priorities:
    """Sets the priorities of new rows, after `replay.add` of the same iteration. O(T N).

    Rows that can be drawn now get the largest priority so far; rows that cannot be drawn get 0. So an item's priority
    is positive if and only if `replay.uniform` can draw it and its weight is 1. Item n L + t is row t of environment n.

    Args:
      priorities: of N L items.
      ring: [N, L], with the rollout already in it.
      iteration: int32 [], iteration of the rollout.
      rollout_length: T.
      num_steps: n of the n-step returns.
      spec: the environment.
    """
    num_envs, length = ring.reward.shape
    before = replay.span(iteration, rollout_length, length)
    # From the first row whose window is now complete, through the rollout, to the oldest rows, whose frames are lost.
    offset = jnp.arange(-num_steps, rollout_length + spec.stacked_frames - 1)
    row = (before.cursor + offset) % length
    complete = (offset < rollout_length - num_steps) & (before.filled + offset >= 0)
    env = jnp.arange(num_envs)[:, None]
    ready = complete[None] & replay.learnable(ring, env, row[None])
    items = env * length + row[None]
    values = jnp.where(ready, priorities.largest, 0.0)
    # While the ring fills, its oldest rows are complete: there was no frame before them.
    full = replay.span(iteration + 1, rollout_length, length).filled == length
    kept = (offset >= rollout_length) & ~full
    values = jnp.where(kept[None], priorities.sums[items // _WIDTH, items % _WIDTH], values)
    return _set(priorities, items.reshape(-1), values.reshape(-1))


def _pick(weights: Array, mass: Array) -> tuple[Array, Array, Array]:
    """Finds the entry of weights [B, W] in which the cumulative sum passes the mass [B].

    Entries of 0 are never picked if there is another.

    Returns:
      (entry int32 [B], its weight [B], the remaining mass in it [B]).
    """
    reached = before = weight = jnp.zeros_like(mass)
    entry, arrived = jnp.zeros(mass.shape, jnp.int32), jnp.zeros(mass.shape, jnp.bool_)
    # Entry by entry for the whole batch: on CPUs several times as fast as a cumsum and a search.
    for i in range(weights.shape[1]):
        here = (weights[:, i] > 0) & ~arrived
        entry, weight = jnp.where(here, i, entry), jnp.where(here, weights[:, i], weight)
        before, reached = jnp.where(here, reached, before), reached + weights[:, i]
        arrived |= here & (reached > mass)
    return entry, weight, jnp.maximum(mass - before, 0.0)


def sample(priorities: Priorities, words: Array, instead: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """Draws items in proportion to their priorities, one from each of B equal shares of the mass (section 3.3).

    Args:
      priorities: of the items. If all are 0, as while every stored row ends in a time-out, the items are arbitrary.
      words: uint32 [B], from `rng.words`.
      instead: (bool [B], items int32 [B]): where true, this item replaces the drawn one.

    Returns:
      (items int32 [B], their probabilities P(i) = p_i / sum_k p_k (eq. 1), float32 [B]; all 0 if all priorities are).
    """
    (batch_size,) = words.shape
    share = (jnp.arange(batch_size, dtype=jnp.float32) + rng.unit(words)) / batch_size
    first_rows, total = _first_rows(priorities.capacity), priorities.total
    levels = first_rows.size

    def one_level(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        node, mass, _ = carry
        level = levels - 1 - i
        weights = priorities.sums[first_rows[level] + node]
        entry, weight, rest = _pick(weights, mass)
        if instead is not None:
            taken, item = instead
            entry = jnp.where(taken, item // _WIDTH**level % _WIDTH, entry)
            weight = jnp.take_along_axis(weights, entry[:, None], axis=1)[:, 0]
        return node * _WIDTH + entry, rest, weight

    carry = jnp.zeros(batch_size, jnp.int32), share * total, jnp.zeros(batch_size, jnp.float32)
    items, _, priority = jax.lax.fori_loop(0, levels, one_level, carry)
    return items, priority / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)


def importance_weights(probability: Array, exponent: Array | float, weight: Array) -> Array:
    """(1 / P(i))^beta over the largest of the rows that count (section 3.4; the number of items cancels).

    Args:
      probability: [B], with which each row was drawn; positive where its weight is.
      exponent: beta, [].
      weight: [B], 0 for rows that do not count: they get 0, and do not scale the others down.

    Returns:
      float32 [B], at most 1.
    """
    counts = weight > 0
    weights = jnp.where(counts, jnp.power(jnp.where(counts, probability, 1.0), -exponent), 0.0)
    return weights / jnp.maximum(jnp.max(weights), jnp.finfo(jnp.float32).tiny)
