"""Craftax in the graph (Matthews et al. 2024, arXiv 2402.16801): `craftax/<id>`, its two games as symbols.

| id                          | observation   | actions | achievements | highest return | steps of an episode |
| Craftax-Classic-Symbolic-v1 | float32 [1345] | 17      | 22           | 22             | 10,000              |
| Craftax-Symbolic-v1         | float32 [8268] | 43      | 67           | 226            | 100,000             |

The rules are those of the craftax package (MIT), step by step. What is done here: the reset at an episode's end, which
makes new worlds only for the environments that ended; the time limit as a truncation; the achievements as metrics.
Making a world costs as much as dozens of steps, so `num_levels` and `optimistic_resets` can pay.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from purerl.configs import flag
from purerl.envs import levels, resets
from purerl.envs.pool_guard import INT32_MAX
from purerl.errors import PurerlError
from purerl.types import Array, Environment, EnvSpec, TimeStep

# Without its dependencies: pygame is for people who play, and all that the games import but imageio is there.
FIX = 'pip install imageio && pip install --no-deps "craftax>=1.6.1"'


class Game(NamedTuple):
    """Where the package has a game, and what it is worth.

    Attributes:
      module, name: of its class without automatic resets.
      constants: the module with its achievements.
      most_reward: that of all achievements together; health is worth a little more or less on the way.
    """

    module: str
    name: str
    constants: str
    most_reward: int


GAMES: dict[str, Game] = {
    "Craftax-Classic-Symbolic-v1": Game(
        "craftax.craftax_classic.envs.craftax_symbolic_env",
        "CraftaxClassicSymbolicEnvNoAutoReset",
        "craftax.craftax_classic.constants",
        most_reward=22,
    ),
    "Craftax-Symbolic-v1": Game(
        "craftax.craftax.envs.craftax_symbolic_env",
        "CraftaxSymbolicEnvNoAutoReset",
        "craftax.craftax.constants",
        most_reward=226,
    ),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of Craftax."""

    max_steps: int = flag(0, "time limit of an episode in steps; 0 keeps Craftax's own")
    num_levels: int = flag(0, "how many worlds are played; 0: every episode is a new one")
    start_level: int = flag(0, "the first of these worlds; other worlds are for tests")
    optimistic_resets: int = flag(
        0,
        "k: in a step in which episodes end, one new world is made for every k environments, and where more have ended "
        "some share one (Craftax's own baselines have 16); 0: every episode has a world of its own",
    )


def names() -> list[str]:
    """The games. Works without the craftax package."""
    return list(GAMES)


def example() -> str:
    """The id that `purerl doctor` tries."""
    return "Craftax-Classic-Symbolic-v1"


def score(id: str, options: Options, returns: Any) -> tuple[str, Any]:
    """("% of the maximum reward", scores) of raw returns, as on Craftax's scoreboard."""
    return f"% of the maximum reward ({GAMES[id].most_reward})", 100 * returns / GAMES[id].most_reward


def make(id: str, options: Options | None = None) -> Environment:
    """The game `id`, with automatic resets and final observations.

    Raises:
      PurerlError: the craftax package is not installed, or an option does not fit.
    """
    return _made(id, options or Options())


@functools.lru_cache(maxsize=4)  # tracing a world takes seconds, and its levels are computed once
def _made(id: str, options: Options) -> Environment:
    levels.check(options.num_levels, options.start_level)
    for name in ("max_steps", "optimistic_resets"):
        value = getattr(options, name)
        if type(value) is not int or not 0 <= value <= INT32_MAX:
            raise PurerlError(f"--env.{name.replace('_', '-')} = {value!r} must be an integer from 0 to {INT32_MAX}")
    env = package_environment(id)
    params = env.default_params
    if options.max_steps:
        params = params.replace(max_timesteps=options.max_steps)
    endless = params.replace(max_timesteps=INT32_MAX)
    state_types = jax.eval_shape(lambda key: env.reset(jax.random.key_data(key), params)[1], jax.random.key(0))

    def settle(state: Any) -> Any:
        # Craftax has Python numbers in its states: fix every dtype, so that a loop carries constant types.
        return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, state_types)

    # Craftax gets keys as words: its state holds one, and a checkpoint, a scatter and a comparison take plain arrays.
    def world(key: Array) -> tuple[Any, Array]:
        observation, state = env.reset_env(jax.random.key_data(key), params)
        return settle(state), observation

    def reset(key: Array) -> tuple[Any, Array]:
        # jaxlib 0.10.2 makes wrong landscapes on CPUs under vmap, in the second half of 16 worlds: its new fusions sum
        # over short axes wrongly in large batches (https://github.com/jax-ml/jax/issues/39103).
        return (sequential_vmap(world) if jax.default_backend() == "cpu" else world)(key)

    def advance(key: Array, state: Any, action: Array) -> tuple[Any, TimeStep]:
        observation, state, reward, done, _ = env.step_env(
            jax.random.key_data(key), state, jnp.asarray(action, jnp.int32), params
        )
        terminated = jnp.asarray(env.is_terminal(state, endless), jnp.bool_)
        return settle(state), TimeStep(
            observation=observation,
            reward=jnp.asarray(reward, jnp.float32),
            terminated=terminated,
            truncated=jnp.asarray(done, jnp.bool_) & ~terminated,
            episode_metrics=jnp.append(state.achievements, jnp.sum(state.achievements)).astype(jnp.float32),
        )

    spec = EnvSpec(
        name=f"craftax/{id}",
        observation_shape=tuple(int(n) for n in env.observation_space(params).shape),
        observation_dtype="float32",
        num_actions=int(env.action_space(params).n),
        episode_metrics=(*(f"achievement_{name}" for name in _achievements(id)), "achievements"),
    )
    if options.num_levels:
        reset = levels.reset_to_levels(reset, options.num_levels, options.start_level)
    return resets.automatic(spec, reset, advance, options.optimistic_resets)


def package_environment(id: str) -> Any:
    """The package's own environment, without automatic resets. Raises PurerlError if it is not installed."""
    return getattr(_module(GAMES[id].module), GAMES[id].name)()


def _achievements(id: str) -> list[str]:
    """The names of the achievements, in the order of the state's."""
    found = sorted(_module(GAMES[id].constants).Achievement, key=lambda one: one.value)
    return [one.name.lower() for one in found]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise PurerlError(f"craftax/* needs the {error.name} package: {FIX}") from error
