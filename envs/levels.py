"""A fixed set of levels for any environment in the graph whose level is decided by the key of its reset."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purerl import rng
from purerl.envs.pool_guard import INT32_MAX
from purerl.errors import PurerlError
from purerl.types import Array, Environment, PyTree, TimeStep

# Level i is the same in every run and for every seed, as it is in Procgen.
_LEVEL_SEED = 0


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

    def reset(key: Array) -> tuple[PyTree, Array]:
        drawn = rng.below(rng.words(rng.stream(key, "level"), ()), num_levels)
        return environment.reset(rng.at(rng.seed_keys(_LEVEL_SEED, 1)[0], start_level + drawn))

    def step(key: Array, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        following, timestep = environment.step(key, state, action)
        fresh = reset(key)
        done = timestep.terminated | timestep.truncated
        following, observation = jax.tree.map(
            lambda new, old: jnp.where(done, new, old), fresh, (following, timestep.observation)
        )
        return following, timestep.replace(observation=observation)

    return Environment(environment.spec, reset, step)
