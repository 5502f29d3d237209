"""Gymnasium's environments as a family: `gym/<id>` for every id in its registry, and for those of the user's own file.

An episode that ends is reset in the same step, and its last observation is shown. A time limit truncates an episode,
unless the environment ended it in that very step.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import Any

from purerl.envs.pool_guard import INT32_MAX, whole
from purerl.errors import PurerlError, nearest, shown
from purerl.types import EnvSpec

# Fixes a broken installation.
FIX = 'pip install "gymnasium>=1.1"'
# Whether `make_pool` has a `draws`, and its pools have `pictures`.
DRAWS = True


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of gymnasium's environments.

    Attributes:
      kwargs: keyword arguments of the environment, as a JSON object such as '{"healthy_reward": 0.5}'.
      max_episode_steps: time limit of an episode, in steps; 0 takes the registered one.
      wrapper: module:function, which is called with each environment and returns it wrapped; the module may be a file
        of your own, given to --import (as wrap:wrap for wrap.py), or an installed one.
      num_workers: processes that step the environments; 0 takes one for each usable core.
    """

    kwargs: str = ""
    max_episode_steps: int = 0
    wrapper: str = ""
    num_workers: int = 0


def names() -> list[str]:
    """The ids in gymnasium's registry, without those that only say that they have moved; [] without gymnasium."""
    if importlib.util.find_spec("gymnasium") is None:
        return []
    gymnasium = _library()
    moved = [
        id
        for id, found in gymnasium.registry.items()
        if getattr(found.entry_point, "__name__", "").startswith("_raise_") or found.entry_point is None
    ]
    return sorted(set(gymnasium.registry) - set(moved))


def canonical(id: str) -> str:
    """The id itself. Raises PurerlError if gymnasium is missing."""
    _library()
    return id


def example() -> str:
    """The id that `purerl doctor` tries."""
    return "CartPole-v1"


def spec(id: str, options: Options) -> EnvSpec:
    """An environment's EnvSpec, which an instance of it tells.

    Raises PurerlError for an unknown id, bad options, an environment that cannot be made, and spaces that an agent
    cannot use.
    """
    return _looked_at(_recipe(id, options), options)[0]


# {(id, its options): (gymnasium's EnvSpec, what was found)}: a notebook may register an id again.
_known: dict[tuple[str, Options], tuple[Any, tuple[EnvSpec, bool]]] = {}


def _looked_at(recipe: Any, options: Options) -> tuple[EnvSpec, bool]:
    """`look_at(recipe)`, or what was found before."""
    known = _known.get((recipe.name, options))
    if known is not None and known[0] is recipe.spec and recipe.wrapper is None:
        return known[1]
    found = look_at(recipe)
    _known[recipe.name, options] = recipe.spec, found
    return found


def look_at(recipe: Any) -> tuple[EnvSpec, bool]:
    """(an environment's EnvSpec, whether it can be drawn), by a look at one that is made for it.

    Raises PurerlError for an environment that cannot be made, and spaces that an agent cannot use.
    """
    from purerl.envs.gym import games, spaces

    try:
        env = games.make(recipe)
    except Exception as error:
        raise PurerlError(f"{recipe.name} cannot be made: {games.told(error)}") from error
    try:
        observations = spaces.observations(recipe.name, env.observation_space)
        actions = spaces.actions(recipe.name, env.action_space)
        can_draw = "rgb_array" in env.metadata.get("render_modes", ())
    finally:
        env.close()
    bounds = {} if actions.num_actions else {"action_low": actions.low, "action_high": actions.high}
    found = EnvSpec(
        name=recipe.name,
        observation_shape=observations.shape,
        observation_dtype=observations.dtype,
        num_actions=actions.num_actions,
        action_shape=() if actions.num_actions else (len(actions.low),),
        **bounds,
    )
    return found, can_draw


def recipe_of(name: str, id: str, kwargs: dict[str, Any], max_episode_steps: int | None) -> Any:
    """How `name` is made: gymnasium's environment `id`, unwrapped. Raises PurerlError if gymnasium does not have it."""
    registry = _library().registry
    if id not in registry:
        raise PurerlError(f"{name} needs gymnasium's {id}, which the installed version does not have: {FIX}")
    from purerl.envs.gym import games

    return games.Recipe(name, registry[id], kwargs, max_episode_steps, None)


def make_pool(
    id: str, options: Options, seeds: Sequence[int], num_envs: int, num_groups: int = 1, draws: bool = False
) -> Any:
    """S x N games with these seeds; see `pool.GymPool`.

    Raises PurerlError as `spec` does, and for sizes that do not fit.
    """
    recipe = _recipe(id, options)
    found, can_draw = _looked_at(recipe, options)
    from purerl.envs.gym import pool

    identity = {"id": id, **dataclasses.asdict(options)}
    del identity["num_workers"]
    return pool.GymPool(
        recipe,
        found,
        identity,
        seeds,
        num_envs,
        num_groups,
        num_workers=options.num_workers,
        modules=_modules(recipe),
        draws=draws and can_draw,
    )


def _library() -> Any:
    """The module gymnasium. Raises PurerlError if it is missing."""
    if importlib.util.find_spec("gymnasium") is None:
        raise PurerlError(f"gym/* needs gymnasium: {FIX}")
    import gymnasium

    return gymnasium


def _recipe(id: str, options: Options) -> Any:
    """How to make the environment. Raises PurerlError for an unknown id or bad options."""
    registry = _library().registry
    if id not in registry:
        raise PurerlError(
            f"unknown gymnasium environment '{id}'.{nearest(id, registry)} (purerl list envs gym; registered in your "
            "own file? add --import my_file.py)"
        )
    from purerl.envs.gym import games

    whole("num_workers", options.num_workers, 0, 4096)
    limit = whole("max_episode_steps", options.max_episode_steps, 0, INT32_MAX) or None
    return games.Recipe(f"gym/{id}", registry[id], _kwargs(options.kwargs), limit, _wrapper(options.wrapper))


def _kwargs(text: str) -> dict[str, Any]:
    """The keyword arguments of `Options.kwargs`. Raises PurerlError for anything but a JSON object."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise PurerlError(f"--env.kwargs = {shown(text)} is not JSON ({error}): write '{{\"name\": 0.5}}'") from None
    if not isinstance(found, dict):
        raise PurerlError(f"--env.kwargs = {shown(text)} must be a JSON object: write '{{\"name\": 0.5}}'")
    return found


def _wrapper(text: str) -> Any:
    """The function of `Options.wrapper`; None for "". Raises PurerlError if there is no such function."""
    if not text:
        return None
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise PurerlError(f"--env.wrapper = {shown(text)} must be module:function, such as my_file:wrap")
    if module not in sys.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise PurerlError(f"--env.wrapper {text}: {error}; is it a file of your own? add --import FILE") from error
    found = getattr(sys.modules[module], name, None)
    if not callable(found):
        known = [one for one, value in vars(sys.modules[module]).items() if callable(value)]
        raise PurerlError(f"--env.wrapper {text}: {module} has no function '{name}'.{nearest(name, known)}")
    return found


def _modules(recipe: Any) -> Any:
    """The modules that define the environment and its wrapper, for workers that could not import them by name."""
    from purerl.envs.gym import worker

    entry = recipe.spec.entry_point
    modules = [entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", None)]
    modules.append(getattr(recipe.wrapper, "__module__", None))
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules if name != "__main__"}
    return worker.Modules(tuple((name, file) for name, file in files.items() if file and file.endswith(".py")))
