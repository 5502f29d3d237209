"""Named random streams: every random number is a function of (seed, stream name, iteration, step, environment).

No key is ever carried and split. So one stream (for example evaluation) cannot change another, a resumed run needs no
RNG state except its counters, and lane i of a vmapped run draws the same numbers as a run with only seed i.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from purerl import arguments


@arguments.checked
def seed_keys(first_seed: int, num_seeds: int) -> jax.Array:
    """Typed base keys of seeds first_seed .. first_seed + num_seeds - 1, shape [S].

    Raises PurerlError for impossible seeds.
    """
    arguments.in_range("first_seed", first_seed, 0, 2**31 - 1)
    arguments.in_range("num_seeds", num_seeds, 1, 2**20)
    return keys_of(range(first_seed, first_seed + num_seeds))


def keys_of(seeds: Sequence[int]) -> jax.Array:
    """Typed base keys of any seeds, shape [S]."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


def seed_of(key: jax.Array) -> jax.Array:
    """The seed of a base key of `seed_keys`, uint32 []; some number for any other key."""
    return jax.random.key_data(key)[-1]


def as_words(x: jax.Array) -> jax.Array:
    """An array that numpy can hold too: the words of typed keys, uint32 [..., W], or the array itself."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of the stream `name` (a short, stable word) of a seed's base key, shape []."""
    return _fold_in(key, zlib.crc32(name.encode()))


def at(key: jax.Array, index: jax.Array | int) -> jax.Array:
    """The key of iteration, step or row `index` of a stream, shape []."""
    return _fold_in(key, index)


def per_environment(key: jax.Array, num_envs: int, first: jax.Array | int = 0) -> jax.Array:
    """One key for each environment first .. first + num_envs - 1, shape [N].

    Environment n has the same key in a batch of all environments and in a batch of half of them.
    """
    return jax.vmap(lambda n: _fold_in(key, n))(first + jnp.arange(num_envs, dtype=jnp.uint32))


# --- the streams of the loops ----------------------------------------------------------------------------------------
# All loops draw here. So a lane equals the run of its seed alone, and a host environment equals the in-graph one.


def init_key(key: jax.Array) -> jax.Array:
    """Key [] of the agent's first state."""
    return stream(key, "init")


def reset_keys(key: jax.Array, num_envs: int, first: jax.Array | int = 0) -> jax.Array:
    """Keys [N] with which environments first .. first + N - 1 are reset at the start."""
    return per_environment(at(stream(key, "reset"), 0), num_envs, first)


def step_keys(key: jax.Array, step: jax.Array | int, num_envs: int, first: jax.Array | int = 0) -> jax.Array:
    """Keys [N] of environments first .. first + N - 1 at their `step`-th step, counted over the whole run."""
    return per_environment(at(stream(key, "environment"), step), num_envs, first)


def action_keys(
    key: jax.Array, iteration: jax.Array | int, t: jax.Array | int, num_envs: int, first: jax.Array | int = 0
) -> jax.Array:
    """Keys [N] with which environments first .. first + N - 1 act at step t of an iteration."""
    return per_environment(at(at(stream(key, "act"), iteration), t), num_envs, first)


def update_key(key: jax.Array, iteration: jax.Array | int) -> jax.Array:
    """Key [] of an iteration's update."""
    return at(stream(key, "update"), iteration)


def evaluation_key(key: jax.Array, number: jax.Array | int) -> jax.Array:
    """Base key [] of an evaluation, independent of all random numbers of training."""
    return at(stream(key, "evaluation"), number)


# --- the hash --------------------------------------------------------------------------------------------------------
# The bits are those of `jax.random` with its default keys. But for CPUs JAX compiles each hash to a loop of five turns,
# which takes 5 us however little there is to hash, and a step of a small agent hashes a dozen times. Unrolled, a hash
# is one kernel or a part of one. Keys of other kinds go to `jax.random`.

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


@jax.jit
def _hash(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both words of Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Args:
      key: uint32 [2].
      high, low: the words of the counters, uint32 [...].
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = high + schedule[0], low + schedule[1]
    for turn in range(5):
        for rotation in _ROTATIONS[turn % 2]:
            x = x + y
            y = x ^ (y << jnp.uint32(rotation) | y >> jnp.uint32(32 - rotation))
        x = x + schedule[(turn + 1) % 3]
        y = y + (schedule[(turn + 2) % 3] + jnp.uint32(turn + 1))
    return x, y


def _is_threefry(key: jax.Array) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"


def _fold_in(key: jax.Array, data: jax.Array | int) -> jax.Array:
    """`jax.random.fold_in`: typed key [] and an integer []."""
    if not _is_threefry(key):
        return jax.random.fold_in(key, data)
    words = _hash(jax.random.key_data(key), jnp.uint32(0), jnp.asarray(data, jnp.uint32))
    return jax.random.wrap_key_data(jnp.stack(words), impl="threefry2x32")


# --- numbers ---------------------------------------------------------------------------------------------------------


def words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random words, uint32 [*shape]: draw once, and compute all the random numbers of a step from them. They are those
    of `jax.random.bits`.
    """
    size = math.prod(shape)
    partitionable = getattr(jax.config, "jax_threefry_partitionable")  # noqa: B009 (JAX's types do not know the name)
    if not _is_threefry(key) or not partitionable or size >= 2**32:
        return jax.random.bits(key, shape, jnp.uint32)
    counters = jax.lax.iota(jnp.uint32, size).reshape(shape)
    x, y = _hash(jax.random.key_data(key), jnp.zeros_like(counters), counters)
    return x ^ y


def unit(words: jax.Array) -> jax.Array:
    """Converts words to float32 in [0, 1), multiples of 2**-24."""
    return (words >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def below(words: jax.Array, bound: jax.Array | int) -> jax.Array:
    """Converts words to int32 in [0, bound), uniform up to a relative error of bound / 2**32."""
    return (words % jnp.asarray(bound).astype(jnp.uint32)).astype(jnp.int32)
