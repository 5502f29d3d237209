"""Named random streams: every random number is a function of (seed, stream name, iteration, step, environment).

No key is ever carried and split, so nothing a run does in one stream (evaluation, say) can move another, a resumed run
needs no RNG state beside its counters, and lane i of a vmapped run draws exactly what a solo run of seed i draws.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp


def seed_keys(first_seed: int, num_seeds: int) -> jax.Array:
    """Typed base keys of seeds first_seed .. first_seed + num_seeds - 1, shape [S]."""
    return jax.vmap(jax.random.key)(jnp.arange(first_seed, first_seed + num_seeds, dtype=jnp.uint32))


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of the stream `name` (a short, stable word) under a seed's base key, shape []."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def at(key: jax.Array, index: jax.Array | int) -> jax.Array:
    """The key of iteration, step or row `index` of a stream, shape []."""
    return jax.random.fold_in(key, index)


def per_environment(key: jax.Array, num_envs: int, first: int = 0) -> jax.Array:
    """One key for each environment first .. first + num_envs - 1, shape [N].

    Environment n has the same key whether it is stepped in a batch of all environments or in half of them.
    """
    return jax.vmap(lambda n: jax.random.fold_in(key, n))(first + jnp.arange(num_envs, dtype=jnp.uint32))
