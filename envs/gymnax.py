"""gymnax environments, stepped inside the compiled program: `gymnax/<id>` for every id that gymnax registers."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
import types
import urllib.error
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl import rng
from purerl.envs import gymnax_pictures, levels
from purerl.envs.pool_guard import INT32_MAX
from purerl.errors import PurerlError
from purerl.types import Array, Environment, EnvSpec, TimeStep


@contextlib.contextmanager
def _imported_at_first_use(*names: str) -> Iterator[None]:
    """Modules that are imported within are imported for real only when an attribute of theirs is used."""
    stand_ins = {name: types.ModuleType(name) for name in names if name not in sys.modules}
    for name, module in stand_ins.items():
        module.__getattr__ = lambda attribute, name=name: getattr(importlib.import_module(name), attribute)
    sys.modules |= stand_ins
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


# gymnax imports them to draw some of its games, and they are most of the time that its own import takes.
with _imported_at_first_use("seaborn", "matplotlib.pyplot"):
    import gymnax
    from gymnax.environments import spaces

# A plain installation has it: `purerl doctor` calls purerl broken without it.
CORE = True


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a gymnax environment."""

    max_steps: int = 0
    """Time limit of an episode in steps; 0 keeps gymnax's own."""

    repeat_action_probability: float = 0.0
    """Probability that a step repeats the previous action (sticky actions), for discrete actions; 0.1 in MinAtar."""

    show_every: int = 1
    """Only every k-th observation of an episode is shown and the others are zero, to test memory (1 shows all)."""

    num_levels: int = 0
    """How many levels are played, where the reset is random; 0: every episode is a new one."""

    start_level: int = 0
    """The first of these levels; other levels are for tests."""


@struct.dataclass
class HidingState:
    """An environment's state, and the steps since the episode's start, int32 []."""

    environment: Any
    step: Array


@struct.dataclass
class StickyState:
    """An environment's state, and the action of its last step: int32 [], 0 at an episode's start."""

    environment: Any
    last_action: Array


def example() -> str:
    """The id that `purerl doctor` tries."""
    return "CartPole-v1"


def names() -> list[str]:
    """All ids that gymnax registers, including those added with `gymnax.register`."""
    return list(gymnax.registered_envs)


def make(name: str, options: Options | None = None) -> Environment:
    """The environment `name`, unbatched, with automatic resets and final observations.

    MinAtar's binary planes are stored as bool (exact, a quarter of the bytes); a discrete observation becomes a one-hot
    vector; other observations are float32.

    Raises:
      PurerlError: the environment cannot be built here, or no agent supports its spaces.
    """
    options = options or Options()
    try:
        env, params = gymnax.make(name)
    except urllib.error.URLError as error:
        raise PurerlError(
            f"gymnax/{name} downloads its data when it is made, and that failed: {error.reason}"
        ) from error
    if type(options.max_steps) is not int or not 0 <= options.max_steps <= INT32_MAX:
        raise PurerlError(
            f"--env.max-steps = {options.max_steps!r} must be an integer from 0 (gymnax's own limit) to {INT32_MAX}"
        )
    if options.max_steps:
        kind = type(params.max_steps_in_episode)  # BernoulliBandit counts in floats, and cannot be made with an int
        params = params.replace(max_steps_in_episode=kind(options.max_steps))
    encode, shape, dtype = _observation_encoding(name, env.observation_space(params))
    spec = EnvSpec(
        name=f"gymnax/{name}", observation_shape=shape, observation_dtype=dtype, **_actions(name, env, params)
    )
    state_types = jax.eval_shape(lambda key: env.reset(key, params)[1], jax.random.key(0))

    def settle(state: Any) -> Any:
        # gymnax has Python numbers in its states: fix every dtype, so that a loop carries constant types.
        return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, state_types)

    def reset(key: Array) -> tuple[Any, Array]:
        observation, state = env.reset(key, params)
        return settle(state), encode(observation)

    action_space = env.action_space(params)

    def step(key: Array, state: Any, action: Array) -> tuple[Any, TimeStep]:
        if not spec.num_actions:
            action = jnp.clip(action, action_space.low, action_space.high)
        observation, state, reward, terminated, truncated, info = env.step(key, state, action, params)
        terminated = jnp.asarray(terminated, jnp.bool_)
        return settle(state), TimeStep(
            observation=encode(observation),
            reward=jnp.asarray(reward, jnp.float32).reshape(()),
            terminated=terminated,
            truncated=jnp.asarray(truncated, jnp.bool_) & ~terminated,
            final_observation=encode(info["final_observation"]),
        )

    environment = levels.with_levels(Environment(spec, reset, step), options.num_levels, options.start_level)
    probability = options.repeat_action_probability
    if type(probability) not in (int, float) or not 0 <= probability < 1:
        raise PurerlError(f"--env.repeat-action-probability = {probability!r} must be in [0, 1)")
    if probability and not spec.num_actions:
        raise PurerlError(
            f"--env.repeat-action-probability = {probability} is for discrete actions, and those of gymnax/{name} are "
            "continuous: leave it at 0"
        )
    if probability:
        environment = _sticky(environment, probability)
    if type(options.show_every) is not int or not 1 <= options.show_every <= INT32_MAX:
        raise PurerlError(f"--env.show-every = {options.show_every!r} must be at least 1, and at most {INT32_MAX}")
    return _hiding(environment, options.show_every) if options.show_every > 1 else environment


def renderer(name: str, options: Options) -> gymnax_pictures.Render | None:
    """What a video shows of a game with vectors as observations, also of steps that `show_every` hides; None for bars.

    Observations that are planes of cells (MinAtar, Catch) are their own pictures.
    """
    env, params = gymnax.make(name)
    if len(env.observation_space(params).shape) != 1:
        return None
    render = gymnax_pictures.renderer(name, env, params)
    if render is None:
        return None

    def of_game(state: Any) -> np.ndarray:
        while isinstance(state, HidingState | StickyState):
            state = state.environment
        return render(state)

    return of_game


def _hiding(environment: Environment, show_every: int) -> Environment:
    """The environment with all observations set to zero except every k-th of an episode, starting with the first.

    As the flickering games of Hausknecht and Stone 2015 (https://arxiv.org/abs/1507.06527), but with a fixed period.
    """

    def shown(observation: Array, step: Array) -> Array:
        return jnp.where(step % show_every == 0, observation, jnp.zeros_like(observation))

    def reset(key: Array) -> tuple[HidingState, Array]:
        state, observation = environment.reset(key)
        return HidingState(state, jnp.zeros((), jnp.int32)), observation

    def step(key: Array, state: HidingState, action: Array) -> tuple[HidingState, TimeStep]:
        following, timestep = environment.step(key, state.environment, action)
        now = state.step + 1
        after = jnp.where(timestep.terminated | timestep.truncated, 0, now)
        final = shown(timestep.final_observation, now)
        timestep = timestep.replace(observation=shown(timestep.observation, after), final_observation=final)
        return HidingState(following, after), timestep

    return Environment(environment.spec, reset, step)


def _sticky(environment: Environment, probability: float) -> Environment:
    """The environment with sticky actions: with this probability a step repeats the action of the previous step.

    As in MinAtar (Young and Tian 2019, https://arxiv.org/abs/1903.03176), with one difference: the first step of every
    episode repeats action 0 here, but only that of the very first episode there. So no action crosses an episode's end.
    """

    def reset(key: Array) -> tuple[StickyState, Array]:
        state, observation = environment.reset(key)
        return StickyState(state, jnp.zeros((), jnp.int32)), observation

    def step(key: Array, state: StickyState, action: Array) -> tuple[StickyState, TimeStep]:
        repeats = rng.unit(rng.words(rng.stream(key, "repeat"), ())) < probability
        action = jnp.where(repeats, state.last_action, jnp.asarray(action, jnp.int32))
        following, timestep = environment.step(key, state.environment, action)
        ended = timestep.terminated | timestep.truncated
        return StickyState(following, jnp.where(ended, 0, action)), timestep

    return Environment(environment.spec, reset, step)


def _observation_encoding(name: str, space: Any):
    if isinstance(space, spaces.Discrete):
        return (lambda x: jax.nn.one_hot(x, space.n, dtype=jnp.float32)), (int(space.n),), "float32"
    if not isinstance(space, spaces.Box):
        raise PurerlError(f"gymnax/{name} has {type(space).__name__} observations; only Box and Discrete are supported")
    shape = tuple(int(n) for n in space.shape)
    if name.endswith("-MinAtar"):
        return (lambda x: x != 0), shape, "bool"
    return (lambda x: jnp.asarray(x, jnp.float32).reshape(shape)), shape, "float32"


def _actions(name: str, env: Any, params: Any) -> dict[str, Any]:
    space = env.action_space(params)
    if isinstance(space, spaces.Discrete):
        return {"num_actions": int(space.n)}
    if isinstance(space, spaces.Box):
        shape = tuple(map(int, space.shape))
        low, high = (tuple(np.broadcast_to(bound, shape).reshape(-1).tolist()) for bound in (space.low, space.high))
        return {"num_actions": 0, "action_shape": shape, "action_low": low, "action_high": high}
    raise PurerlError(f"gymnax/{name} has {type(space).__name__} actions; only Discrete and Box are supported")
