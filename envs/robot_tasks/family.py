"""The robots of `tasks/<id>` as a family on the host: options, specs, and pools of gymnasium's worker processes.

`tasks.part` leads here. See `splits` for the tasks and `worlds` for their rewards.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from purerl.envs.gym import family as gym
from purerl.envs.pool_guard import INT32_MAX, whole
from purerl.envs.robot_tasks import splits, worlds
from purerl.errors import PurerlError
from purerl.types import EnvSpec

# Whether `make_pool` has a `draws`, and its pools have `pictures`.
DRAWS = True
# Fixes a broken installation.
FIX = 'pip install "gymnasium[mujoco]"'


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the robots' families of tasks."""

    split: Literal["train", "test"] = "train"
    """Which tasks are played: those for training, or those held out."""

    num_tasks: int = 0
    """Only the first tasks of the split; 0 for all."""

    max_steps: int = 0
    """Time limit of an episode in steps; 0 for 200."""

    num_workers: int = 0
    """Processes that step the environments; 0 takes one for each usable core."""


def names() -> list[str]:
    """All ids."""
    return list(splits.SPLITS)


def tasks(name: str, options: Options | None = None) -> dict[str, np.ndarray]:
    """The tasks of a split, arrays [K, ...]. Raises PurerlError for options that do not fit."""
    first, number = _rows(name, options or Options())
    return {field: values[first : first + number] for field, values in splits.every(name).items()}


def episode_length(name: str, options: Options | None = None) -> int:
    """Steps of an episode, at most."""
    return (options or Options()).max_steps or worlds.STEPS


def spec(name: str, options: Options | None = None) -> EnvSpec:
    """An environment's EnvSpec. Raises PurerlError for options that do not fit, and where MuJoCo is missing."""
    _rows(name, options or Options())
    return _seen(name)[0]


def make_pool(
    name: str, options: Options, seeds: Sequence[int], num_envs: int, num_groups: int = 1, draws: bool = False
) -> Any:
    """S x N games with these seeds, each episode in a task that is drawn from the split; see `gym.pool.GymPool`."""
    first, number = _rows(name, options)
    wrapper = functools.partial(worlds.wrap, name=name, first=first, number=number)
    recipe = _recipe(name, options)._replace(wrapper=wrapper)
    return _pool(name, options, recipe, seeds, num_envs, num_groups, draws=draws)


def make_task_pool(name: str, options: Options, seeds: Sequence[int], num_envs: int) -> Any:
    """K x N games, those of the k-th seed in the k-th task of the split; K is at most the number of tasks."""
    first, number = _rows(name, options)
    if len(seeds) > number:
        raise PurerlError(f"{len(seeds)} seeds, but {number} tasks: give one seed for each task")
    of_seed = functools.partial(worlds.wrap_one, name=name, first=first)
    return _pool(name, options, _recipe(name, options)._replace(of_seed=of_seed), seeds, num_envs, 1)


def _rows(name: str, options: Options) -> tuple[int, int]:
    """(first, number) of a split's tasks. Raises PurerlError for options that do not fit."""
    whole("--env.max-steps", options.max_steps, 0, INT32_MAX)
    whole("--env.num-workers", options.num_workers, 0, 4096)
    return splits.rows(name, options.split, options.num_tasks)


def _recipe(name: str, options: Options) -> Any:
    """How gymnasium's robot is made, without its tasks."""
    world = worlds.WORLDS[name]
    return gym.recipe_of(f"tasks/{name}", world.robot, world.kwargs, episode_length(name, options))


@functools.cache
def _seen(name: str) -> tuple[EnvSpec, bool]:
    """(EnvSpec, whether it can be drawn) of an id: the same for all options."""
    wrapper = functools.partial(worlds.wrap, name=name, first=0, number=1)
    return gym.look_at(_recipe(name, Options())._replace(wrapper=wrapper))


def _pool(
    name: str, options: Options, recipe: Any, seeds: Sequence[int], num_envs: int, num_groups: int, draws: bool = False
) -> Any:
    found, can_draw = _seen(name)
    from purerl.envs.gym import pool

    identity = {"id": name, "one task for each seed": recipe.of_seed is not None, **dataclasses.asdict(options)}
    del identity["num_workers"]
    return pool.GymPool(
        recipe, found, identity, seeds, num_envs, num_groups, num_workers=options.num_workers, draws=draws and can_draw
    )
