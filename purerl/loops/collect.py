"""One walk through environments: acting, stepping, and which random numbers and memories both see.

Everything that acts goes through `act`, in the graph and on the host, in training and in evaluation. So what an agent
sees does not depend on who steps it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from purerl import data_parallel, rng
from purerl.types import Agent, Array, Clock, Environment, EnvSpec, Inputs, PyTree, Rollout, RunState


def products(config: Any) -> contextlib.AbstractContextManager[Any]:
    """Within it, float32 products are traced with the precision that the config's `matmul_precision` asks for.

    Everything of an agent that multiplies is traced within it. "default", and a config without the field, leave it to
    JAX's own default, which is TF32 on Nvidia's GPUs since Ampere.
    """
    precision = getattr(config, "matmul_precision", "default")
    return contextlib.nullcontext() if precision == "default" else jax.default_matmul_precision(precision)


def acting_part(agent: Agent, state: PyTree) -> PyTree:
    """The fields of an agent's State that acting reads, the others None: no replay is copied to play a game."""
    if not dataclasses.is_dataclass(state):
        return state
    return state.replace(**{f.name: None for f in dataclasses.fields(state) if f.name not in agent.acting})


def first_memory(agent: Agent, config: Any, spec: EnvSpec, num_envs: int) -> PyTree:
    """The agent's Memory [N, ...] at the start of episodes."""
    memory = agent.init_memory(config, spec)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *jnp.shape(x))), memory)


def act(
    agent: Agent,
    spec: EnvSpec,
    config: Any,
    agent_state: PyTree,
    memory: PyTree,
    inputs: Inputs,
    keys: Array,
    clock: Clock,
    explore: bool,
) -> tuple[Array, PyTree, PyTree]:
    """(action, memory, extras) [N, ...] of N environments of one seed; an episode begins with the first memory."""
    begun = agent.init_memory(config, spec)

    def reset(x: Array, first: Array) -> Array:
        return jnp.where(inputs.is_first.reshape(-1, *[1] * (x.ndim - 1)), first, x)

    memory = jax.tree.map(reset, memory, begun)
    with products(config):
        return agent.act(config, spec, agent_state, memory, inputs, keys, clock, explore)


def begin(
    agent: Agent,
    environment: Environment,
    config: Any,
    agent_state: PyTree,
    key: Array,
    num_envs: int,
    seed: Array | None = None,
) -> RunState:
    """A RunState of N environments at the start of their first episodes, its `episodes` still to be filled in.

    Args:
      key: the seed's typed base key [], of training or of an evaluation.
      seed: of the environments' own random numbers, uint32 [], for those with a `begin`; None for that of the key.
    """
    if environment.begin is None:
        environment_state, observation = jax.vmap(environment.reset)(rng.reset_keys(key, num_envs))
    else:
        environment_state, observation = environment.begin(rng.seed_of(key) if seed is None else seed, num_envs)
    return RunState(
        agent=agent_state,
        memory=first_memory(agent, config, environment.spec, num_envs),
        environment=environment_state,
        inputs=Inputs.at_start(environment.spec, observation),
        episodes=None,
        key=key,
    )


def collect(
    agent: Agent,
    environment: Environment,
    config: Any,
    run_state: RunState,
    clock: Clock,
    *,
    length: int,
    iteration: Array | int,
    first_t: Array | int = 0,
    explore: bool = True,
    states: bool = False,
) -> tuple[RunState, Rollout]:
    """Acts and steps T times in the N environments of one seed.

    Args:
      run_state: where the environments stand, and what acts in them.
      clock: what the agent is told.
      length: T.
      iteration, first_t: of the random numbers. The environments have taken iteration * T + first_t steps before.
      explore: as in `Agent.act`.
      states: whether the rollout holds the environments' states.

    Returns:
      the state after the steps (its agent is the same), and the rollout [T, N].
    """
    spec, num_envs, key = environment.spec, run_state.inputs.is_first.shape[0], run_state.key
    steps = first_t + jnp.arange(length, dtype=jnp.int32)
    # All keys of the rollout in one batch: cheaper than hashing a few at a time inside the loop.
    keys_act = jax.vmap(lambda t: rng.action_keys(key, iteration, t, num_envs))(steps)
    keys_step = jax.vmap(lambda t: rng.step_keys(key, iteration * length + t, num_envs))(steps)

    def step(carry, keys):
        environment_state, memory, inputs = data_parallel.spread(carry)
        acted_in = environment_state if states else None
        key_act, key_step = keys
        action, memory, extras = act(agent, spec, config, run_state.agent, memory, inputs, key_act, clock, explore)
        environment_state, timestep = environment.step_all(key_step, environment_state, action)
        following = Inputs.after(
            timestep.observation, action, timestep.reward, timestep.terminated | timestep.truncated
        )
        return (environment_state, memory, following), (inputs.observation, action, extras, timestep, acted_in)

    carry = run_state.environment, run_state.memory, run_state.inputs
    carry, (observation, action, extras, timestep, acted_in) = jax.lax.scan(step, carry, (keys_act, keys_step))
    environment_state, memory, inputs = carry
    rollout = Rollout(
        observation=observation,
        action=action,
        reward=timestep.reward,
        terminated=timestep.terminated,
        truncated=timestep.truncated,
        final_observation=timestep.final_observation,
        extras=extras,
        first=run_state.inputs,
        last=inputs,
        memory=run_state.memory,
        last_memory=memory,
        life_lost=timestep.life_lost,
        states=acted_in,
        episode_metrics=timestep.episode_metrics,
    )
    return run_state.replace(environment=environment_state, memory=memory, inputs=inputs), rollout
