"""Shuffled minibatch epochs as one scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from purerl import data_parallel, rng
from purerl.errors import PurerlError
from purerl.types import Array

ShuffleName = Literal["environments", "transitions"]


def shuffled(shuffle: ShuffleName, num_envs: int, rollout_length: int) -> tuple[int, str]:
    """How many items of a rollout are shuffled, and their name in errors."""
    if shuffle == "environments":
        return num_envs, "num_envs"
    return num_envs * rollout_length, "num_envs x rollout_length"


def check_division(what: str, items: int, parts_name: str, parts: int) -> None:
    """Raises PurerlError with the nearest valid sizes, unless `items` splits into `parts` equal parts."""
    if parts < 1 or items % parts:
        divisors = [d for d in range(1, items + 1) if items % d == 0]
        fitting = sorted(sorted(divisors, key=lambda d: abs(d - parts))[:3])
        raise PurerlError(
            f"{parts_name} = {parts} does not divide {what} = {items}; "
            f"use {parts_name} = {' or '.join(map(str, fitting))}, or change {what}"
        )


def permutation(key: Array, num_items: int) -> Array:
    """A random permutation of 0 .. num_items - 1, int32 [num_items].

    It sorts random words that hold their item in the lowest bits. This takes a sixth of the time of
    `jax.random.permutation`, which sorts several times. Two random words are equal with probability 2^-17, so two items
    keep their order with probability at most 1/2 + 2^-18. If fewer than 17 random bits are left, the items are sorted
    together with whole words instead.
    """
    words, items = rng.words(key, (num_items,)), jnp.arange(num_items, dtype=jnp.uint32)
    item_bits = 2 ** (num_items - 1).bit_length() - 1
    if item_bits < 2**15:
        item_bits = jnp.uint32(item_bits)
        return (jax.lax.sort(words & ~item_bits | items, is_stable=False) & item_bits).astype(jnp.int32)
    return jax.lax.sort((words, items.astype(jnp.int32)), num_keys=1)[1]


def shuffled_epochs(
    step: Callable[[Any, Array], tuple[Any, Any]],
    carry: Any,
    key: Array,
    *,
    num_items: int,
    num_minibatches: int,
    num_epochs: int,
) -> tuple[Any, Any]:
    """Runs `carry, out = step(carry, indices)` over every minibatch of every epoch; each epoch has a new permutation.

    Args:
      step: takes the carry and the int32 indices [num_items / num_minibatches] of one minibatch.
      carry: what the steps change.
      key: typed key [].
      num_items: how many items are shuffled; each is used exactly once per epoch.
      num_minibatches: minibatches per epoch.
      num_epochs: passes over the items.

    Returns:
      the last carry, and the outputs stacked over [num_epochs * num_minibatches].
    """
    permutations = jax.vmap(lambda k: permutation(k, num_items))(jax.random.split(key, num_epochs))
    indices = permutations.reshape(num_epochs * num_minibatches, num_items // num_minibatches)
    return jax.lax.scan(step, carry, indices)


def take(batch: Any, indices: Array, axis: int = 0) -> Any:
    """The minibatch `indices` [B] of a pytree along an axis, spread over the devices of the seed if it has several. The
    indices must be in range (they are not checked).
    """
    taken = jax.tree.map(lambda x: jnp.take(x, indices, axis=axis, mode="clip"), batch)
    return data_parallel.spread(taken, axis)
