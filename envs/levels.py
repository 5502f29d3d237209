"""A fixed set of levels for any environment in the graph whose level is decided by the key of its reset."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rng
from purerl.envs.pool_guard import INT32_MAX
from purerl.errors import PurerlError
from purerl.types import Array, Environment, PyTree, TimeStep

Reset = Callable[[Array], tuple[PyTree, Array]]
# Level i is the same in every run and for every seed, as it is in Procgen.
_LEVEL_SEED = 0
# Initial states and observations up to this size are computed once and kept in the program: 2,500 levels of
# Craftax-Classic. More would make programs slow to compile.
MOST_BYTES = 64 * 2**20
_AT_ONCE = 16  # levels that are computed side by side


def check(num_levels: int, start_level: int) -> None:
    """Raises PurerlError for numbers that name no levels."""
    for name, value in (("num-levels", num_levels), ("start-level", start_level)):
        if type(value) is not int or not 0 <= value <= INT32_MAX:
            raise PurerlError(f"--env.{name} = {value!r} must be an integer from 0 to {INT32_MAX}")
    if start_level and not num_levels:
        raise PurerlError(
            f"--env.start-level = {start_level} needs --env.num-levels: without it every episode is a new level"
        )
    if start_level + num_levels > INT32_MAX:
        raise PurerlError(f"--env.start-level + --env.num-levels = {start_level + num_levels} is more than {INT32_MAX}")


def with_levels(environment: Environment, num_levels: int, start_level: int = 0) -> Environment:
    """The environment with levels `start_level` to `start_level` + `num_levels` - 1, or as it is if `num_levels` is 0.

    Every episode draws one of them uniformly. Level i is the reset with key fold_in(level key, i). What happens after a
    reset, where it is random, stays random. An end of an episode is reset twice, by the environment and here.
    """
    check(num_levels, start_level)
    if not num_levels:
        return environment
    reset = reset_to_levels(environment.reset, num_levels, start_level)

    def step(key: Array, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        following, timestep = environment.step(key, state, action)
        fresh = reset(key)
        done = timestep.terminated | timestep.truncated
        following, observation = jax.tree.map(
            lambda new, old: jnp.where(done, new, old), fresh, (following, timestep.observation)
        )
        return following, timestep.replace(observation=observation)

    return Environment(environment.spec, reset, step)


def reset_to_levels(reset: Reset, num_levels: int, start_level: int, most_bytes: int = MOST_BYTES) -> Reset:
    """The reset to one of the levels, drawn uniformly by its key.

    Args:
      reset: key -> (state, observation), which makes level i of key fold_in(level key, i).
      num_levels, start_level: as in `with_levels`, at least one level.
      most_bytes: the results of all levels are computed once, and then looked up, if they take no more than this.
    """
    check(num_levels, start_level)

    def at_level(drawn: Array) -> tuple[PyTree, Array]:
        return reset(rng.at(rng.seed_keys(_LEVEL_SEED, 1)[0], start_level + drawn))

    begin = kept(at_level, num_levels) if bytes_of(reset) * num_levels <= most_bytes else at_level

    def drawn_reset(key: Array) -> tuple[PyTree, Array]:
        return begin(rng.below(rng.words(rng.stream(key, "level"), ()), num_levels))

    return drawn_reset


def bytes_of(reset: Reset) -> int:
    """Memory of the state and the observation that a reset makes."""
    made = jax.eval_shape(reset, jax.random.key(0))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))


def kept(function: Callable[[Array], PyTree], number: int) -> Callable[[Array], PyTree]:
    """A function of an int32 [] below `number` that looks its results up. They are computed at the first use, before
    the program that uses it, and are constants of that program: narrow ones, and only one where all are the same.
    """

    @functools.cache
    def table() -> tuple[list[tuple[np.ndarray, Any]], Any]:
        with jax.ensure_compile_time_eval():
            every = jax.jit(lambda: jax.lax.map(function, jnp.arange(number, dtype=jnp.int32), batch_size=_AT_ONCE))()
            leaves, structure = jax.tree.flatten(every)
        return [_packed(np.asarray(leaf)) for leaf in leaves], structure

    def look_up(index: Array) -> PyTree:
        columns, structure = table()
        rows = [jnp.asarray(x)[index if len(x) > 1 else 0].astype(dtype) for x, dtype in columns]
        return jax.tree.unflatten(structure, rows)

    return look_up


def _packed(x: np.ndarray) -> tuple[np.ndarray, np.dtype]:
    """([n, ...] as few and small numbers as give the same bits, their own dtype); n is 1 where all rows are equal."""
    rows = x[:1] if all(row.tobytes() == x[0].tobytes() for row in x) else x
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        if np.dtype(dtype).itemsize < x.dtype.itemsize:
            with np.errstate(invalid="ignore"):  # NaN, which no integer is
                small = rows.astype(dtype)
            if small.astype(x.dtype).tobytes() == rows.tobytes():
                return small, x.dtype
    return rows, x.dtype
