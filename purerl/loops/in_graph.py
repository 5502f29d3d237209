"""The training loop for environments written in JAX: acting, stepping and learning are one compiled program.

Python makes one call per chunk of iterations (the log period). The chunk's length is an argument, not a shape, so a
run compiles exactly one program whatever its length, and metrics come back as sums over the chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from purerl import rng
from purerl.loops import episodes, sharding
from purerl.types import Agent, Array, Clock, Environment, Metric, PyTree, Rollout, RunState


def init_run_state(agent: Agent, environment: Environment, config: Any, key: Array) -> RunState:
    """The state of one seed before its first iteration. `key` is the seed's typed base key []."""
    reset_keys = rng.per_environment(rng.at(rng.stream(key, "reset"), 0), config.num_envs)
    environment_state, observation = jax.vmap(environment.reset)(reset_keys)
    return RunState(
        agent=agent.init(config, environment.spec, rng.stream(key, "init")),
        environment=environment_state,
        observation=observation,
        episodes=episodes.init_tracker(config.num_envs),
        key=key,
    )


def action_keys(key: Array, iteration: Array, t: Array, num_envs: int, first: int = 0) -> Array:
    """Keys [N] with which environments first .. first + N - 1 act at step t of an iteration."""
    return rng.per_environment(rng.at(rng.at(rng.stream(key, "act"), iteration), t), num_envs, first)


def update_key(key: Array, iteration: Array) -> Array:
    """Key [] of an iteration's update."""
    return rng.at(rng.stream(key, "update"), iteration)


def collect(
    agent: Agent, environment: Environment, config: Any, run_state: RunState, clock: Clock
) -> tuple[RunState, Rollout]:
    """Acts T steps in N environments of one seed. Returns the state behind them and the rollout [T, N]."""
    num_envs, length = config.num_envs, config.rollout_length
    steps = jnp.arange(length, dtype=jnp.int32)
    # All keys of the rollout in one batch: cheaper than hashing a few at a time inside the loop.
    keys_act = jax.vmap(lambda t: action_keys(run_state.key, clock.iteration, t, num_envs))(steps)
    environment_key = rng.stream(run_state.key, "environment")
    keys_step = jax.vmap(
        lambda t: rng.per_environment(rng.at(environment_key, clock.iteration * length + t), num_envs)
    )(steps)

    def step(carry, keys):
        environment_state, observation = carry
        key_act, key_step = keys
        action, extras = agent.act(config, environment.spec, run_state.agent, observation, key_act, clock, True)
        environment_state, timestep = jax.vmap(environment.step)(key_step, environment_state, action)
        return (environment_state, timestep.observation), (observation, action, extras, timestep)

    carry = run_state.environment, run_state.observation
    (environment_state, last), (observation, action, extras, timestep) = jax.lax.scan(
        step, carry, (keys_act, keys_step)
    )
    rollout = Rollout(
        observation=observation,
        action=action,
        reward=timestep.reward,
        terminated=timestep.terminated,
        truncated=timestep.truncated,
        final_observation=timestep.final_observation,
        valid=timestep.valid,
        extras=extras,
        last_observation=last,
        life_lost=timestep.life_lost,
    )
    return run_state.replace(environment=environment_state, observation=last), rollout


def learn(
    agent: Agent, spec: Any, config: Any, run_state: RunState, rollout: Rollout, clock: Clock
) -> tuple[RunState, dict[str, Metric]]:
    """Updates the agent of one seed on a rollout and follows its episodes. Both loops end an iteration with this."""
    tracker, episode_metrics = episodes.track(
        run_state.episodes, rollout.reward, rollout.terminated | rollout.truncated, rollout.valid
    )
    agent_state, metrics = agent.update(
        config, spec, run_state.agent, rollout, update_key(run_state.key, clock.iteration), clock
    )
    return run_state.replace(agent=agent_state, episodes=tracker), metrics | episode_metrics


def iterate(
    agent: Agent, environment: Environment, config: Any, run_state: RunState, clock: Clock
) -> tuple[RunState, dict[str, Metric]]:
    """One iteration of one seed: collect a rollout, learn from it."""
    run_state, rollout = collect(agent, environment, config, run_state, clock)
    return learn(agent, environment.spec, config, run_state, rollout, clock)


def config_axes(config: Any) -> Any:
    """vmap axes of a config: 0 for traced fields that hold one value per seed [S], None for plain numbers []."""
    return jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, config)


def over_seeds(function: Callable[[Any, Array], PyTree]) -> Callable[[Any, Array], PyTree]:
    """Jitted (config, keys [S]) -> [S, ...] of function(config, key), one seed after the other.

    For initial states. A vmap would batch the QR decompositions of orthogonal weights, which deadlocks the thread pool
    of jaxlib 0.10.2 on CPUs (two of them wait in it for each other); and this way a lane starts as the very bits of its
    solo run.
    """

    def each(config: Any, keys: Array) -> PyTree:
        leaves, treedef = jax.tree.flatten(config)
        batched = [leaf for leaf in leaves if jnp.ndim(leaf)]

        def one(lane):
            key, values = lane
            values = iter(values)
            return function(treedef.unflatten([next(values) if jnp.ndim(leaf) else leaf for leaf in leaves]), key)

        return jax.lax.map(one, (keys, batched))

    return jax.jit(each)


def make_init(agent: Agent, environment: Environment) -> Callable[[Any, Array], RunState]:
    """Jitted (config, keys [S]) -> RunState [S, ...]."""
    return over_seeds(lambda config, key: init_run_state(agent, environment, config, key))


def make_chunk(
    agent: Agent, environment: Environment
) -> Callable[[Any, RunState, Array, Array, Array], tuple[RunState, dict[str, Metric]]]:
    """Jitted, donated (config, run_state [S, ...], iteration, total_iterations, num_iterations) -> the same run after
    num_iterations more, and its metrics {name: Metric [S]} summed over them. The three counters are int32 [].
    """

    def local_chunk(config: Any, run_state: RunState, iteration: Array, total: Array, num_iterations: Array):
        axes = config_axes(config)

        def one_iteration(i: Array, carry: PyTree) -> PyTree:
            states, sums = carry
            states, metrics = advance(config, states, Clock(iteration + i, total))
            return states, jax.tree.map(jnp.add, sums, metrics)

        def advance(config, states, clock):
            one = lambda c, s: iterate(agent, environment, c, s, clock)  # noqa: E731
            return jax.vmap(one, in_axes=(axes, 0))(config, states)

        shapes = jax.eval_shape(lambda c, s: advance(c, s, Clock(iteration, total))[1], config, run_state)
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, num_iterations, one_iteration, (run_state, sums))

    def chunk(config: Any, run_state: RunState, iteration: Array, total: Array, num_iterations: Array):
        mesh = sharding.seed_mesh(run_state.key.shape[0])
        sharded = sharding.shard_seeds(local_chunk, mesh, config, num_seed_trees=1)
        return sharded(config, run_state, iteration, total, num_iterations)

    return jax.jit(chunk, donate_argnums=1)


class InGraphLoop:
    """Advances a run on environments in the graph: the interface that `host.HostLoop` has too."""

    def __init__(self, agent: Agent, environment: Environment):
        self.agent, self.spec = agent, environment.spec
        self._init, self._chunk = make_init(agent, environment), make_chunk(agent, environment)

    def init(self, config: Any, keys: Array) -> RunState:
        """RunState [S, ...] of a fresh run, its seeds spread over the devices."""
        return sharding.place(self._init(config, keys), sharding.seed_mesh(keys.shape[0]))

    def program_bytes(self, config: Any, keys: Array) -> int:
        """Memory that training takes on all devices together: state, rollouts and temporaries of the compiled program.

        Compiles it; the persistent cache then has it for `advance`.
        """
        mesh = sharding.seed_mesh(keys.shape[0])
        spread = NamedSharding(mesh, PartitionSpec(sharding.AXIS))
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread), jax.eval_shape(self._init, config, keys)
        )
        counter = jnp.int32(0)
        found = self._chunk.lower(config, state, counter, counter, counter).compile().memory_analysis()
        own = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return mesh.size * (own + found.temp_size_in_bytes)

    def advance(
        self, config: Any, run_state: RunState, iteration: int, total_iterations: int, num_iterations: int
    ) -> tuple[RunState, dict[str, Metric]]:
        """The run after num_iterations more, and metrics {name: Metric [S]} summed over them. Donates run_state."""
        return self._chunk(
            config, run_state, jnp.int32(iteration), jnp.int32(total_iterations), jnp.int32(num_iterations)
        )
