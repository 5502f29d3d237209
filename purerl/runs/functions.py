"""Training and acting as functions of your own program: `purerl.make_train` and `purerl.load_policy`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from purerl import arguments, registry
from purerl.errors import PurerlError
from purerl.loops import collect
from purerl.loops.play import end_of_training
from purerl.loops.train import Train
from purerl.loops.train import make_train as make_pure_train
from purerl.runs.plan import make_plan
from purerl.runs.policy import open_run
from purerl.types import Agent, Array, EnvSpec, Inputs, PyTree


@arguments.checked
def make_train(
    agent: str,
    env: str,
    *,
    steps: int | None = None,
    preset: str | None = None,
    env_options: dict[str, Any] | None = None,
    **config: Any,
) -> Train:
    """A whole training run as a pure function, to be put into a jit, vmap, scan or grad of your own.

        train = purerl.make_train("ppo", "gymnax/Breakout-MinAtar", steps=1_000_000, num_envs=64)
        state, curves = jax.jit(jax.vmap(train))(keys)

    Args:
      agent, env, preset: names, as in `purerl.train`.
      steps: environment steps, rounded up to whole iterations; None takes the preset's.
      env_options: environment options over the preset's.
      **config: config fields over the preset's: static ones are fixed here, traced ones are the defaults in
        `train.config` and can be given anew with each call.

    Returns:
      `train(key, config=train.config) -> (RunState, {metric: float32 [iterations]})`, see `loops.train.Train`.

    Raises:
      PurerlError: as `purerl.make_plan`, and for environments on the host, which no pure function can step.
    """
    plan = make_plan(agent, env, preset=preset, steps=steps, config=config, env_options=env_options)
    family, env_id = registry.environment(plan.env)
    if registry.is_host(family):
        raise PurerlError(
            f"{plan.env} lives on the host, and a pure function cannot step it: use purerl.train, or an environment "
            "written in JAX"
        )
    return make_pure_train(registry.agent(plan.agent), family.make(env_id, plan.options), plan.config, plan.iterations)


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A trained policy: `policy(observation, key) -> action`, to be jitted and vmapped.

    An agent with memory takes and gives it: `action, memory = policy(observation, key, memory)`, from
    `policy.first_memory`; say where episodes begin with `is_first`.

    Attributes:
      agent, spec, config: who acts in what.
      state: the agent's State of one seed, as far as acting reads it.
      explore: whether actions are sampled as in training.
      first_memory: at an episode's start; () for agents without memory.
    """

    agent: Agent
    spec: EnvSpec
    config: Any
    state: PyTree
    explore: bool
    first_memory: PyTree

    def __call__(
        self,
        observation: Array,
        key: Array,
        memory: PyTree | None = None,
        *,
        is_first: Array | bool = False,
        last_action: Array | int = 0,
        last_reward: Array | float = 0.0,
    ) -> Any:
        """The action for one observation.

        Args:
          observation: [*shape], of the environment that the policy was trained in.
          key: typed key [], for sampling.
          memory: of an agent with memory: `first_memory`, then what the step before gave.
          is_first: whether the observation begins an episode: the memory is then the first one again.
          last_action, last_reward: what an agent with memory also looks at; 0 at an episode's start.

        Returns:
          the action, int32 [] or float32 [A]; with `memory` also the memory for the next step: (action, memory).
        """
        inputs = Inputs(
            jnp.asarray(observation, self.spec.observation_dtype),
            jnp.asarray(is_first, jnp.bool_),
            jnp.broadcast_to(jnp.asarray(last_action, self.spec.action_dtype), self.spec.action_shape),
            jnp.asarray(last_reward, jnp.float32),
        )
        if memory is None and self.first_memory != ():
            raise PurerlError(
                f"{self.agent.name} acts with memory: action, memory = policy(observation, key, memory), beginning "
                "with policy.first_memory"
            )
        given = () if memory is None else memory
        given, inputs, keys = jax.tree.map(lambda x: x[None], (given, inputs, key))
        action, after, _ = collect.act(
            self.agent, self.spec, self.config, self.state, given, inputs, keys, end_of_training(), self.explore
        )
        action, after = jax.tree.map(lambda x: x[0], (action, after))
        return action if memory is None else (action, after)


@arguments.checked
def load_policy(folder: str | Path, seed: int | None = None, *, greedy: bool = False, best: bool = False) -> Policy:
    """The policy of a run folder's newest checkpoint, or its best one, for a loop of your own.

        policy = purerl.load_policy("runs/ppo-gymnax-CartPole-v1-classic-seed0")
        action = jax.jit(policy)(observation, key)

    Args:
      folder: of the run.
      seed: which of the run's seeds; None for the first.
      greedy: the most likely action instead of a sampled one.
      best: the best parameters of the seed by its training return, of a run with `keep_best`, instead of the newest.

    Raises:
      PurerlError: no run, checkpoint or best parameters there, or a seed that the run does not have.
    """
    seeds = open_run(folder)[0].seeds
    if seed is not None and seed not in seeds:
        raise PurerlError(f"{folder} has no seed {seed}: it has {', '.join(map(str, seeds))}")
    lane = 0 if seed is None else seeds.index(seed)
    _, agent, spec, config, load = open_run(folder, best, slice(lane, lane + 1))
    config = jax.tree.map(lambda x: x[lane] if jnp.ndim(x) else x, config)
    state = jax.tree.map(lambda x: x[lane], load())
    explore = not (greedy or agent.plays_greedily)
    return Policy(agent, spec, config, state, explore, agent.init_memory(config, spec))
