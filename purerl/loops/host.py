"""The training loop for games that live on the host: a pool of S x N games feeds the very same update.

Per step and group of the pool, one jitted and donated call writes the observations into the device's rollout buffer
and returns the actions; the other groups' games are stepped by the pool's own threads meanwhile. Observations cross to
the device once. Rewards and flags are small, are gathered on the host, and cross once an iteration.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl import rng
from purerl.loops import episodes
from purerl.loops.in_graph import action_keys, config_axes, learn, over_seeds
from purerl.types import Agent, Array, Clock, EnvSpec, Metric, Pool, PyTree, Rollout, RunState


@struct.dataclass
class Buffer:
    """The device side of a rollout in the making, [S, T, N, ...]."""

    observation: Array
    action: Array
    extras: PyTree


def init_run_state(agent: Agent, spec: EnvSpec, config: Any, key: Array) -> RunState:
    """The state of one seed before its first iteration; its observation is a placeholder until the pool is reset."""
    return RunState(
        agent=agent.init(config, spec, rng.stream(key, "init")),
        environment=None,
        observation=jnp.zeros((config.num_envs, *spec.observation_shape), spec.observation_dtype),
        episodes=episodes.init_tracker(config.num_envs),
        key=key,
    )


class HostLoop:
    """Advances a run on host games. Holds the pool, the rollout buffer and the compiled functions; no learning state.

    Attributes:
      seconds: where the wall time of `advance` went, so far: "environment" (waiting for games), "device" (waiting for
        actions and updates), and the rest, "host" (Python, dispatch, bookkeeping).
    """

    def __init__(self, agent: Agent, pool: Pool):
        self.agent, self.pool, self.spec = agent, pool, pool.spec
        self.seconds = {"environment": 0.0, "device": 0.0, "host": 0.0}
        self._buffer: Buffer | None = None
        self._act = jax.jit(self._act_and_store, donate_argnums=2)
        self._learn = jax.jit(self._learn_from, donate_argnums=1)
        self._slice = jax.jit(
            lambda x, first: jax.lax.dynamic_slice_in_dim(x, first, pool.num_envs // pool.num_groups, axis=1)
        )

    def init(self, config: Any, keys: Array) -> RunState:
        """RunState [S, ...] of a fresh run; resets the pool."""
        run_state = over_seeds(lambda c, key: init_run_state(self.agent, self.spec, c, key))(config, keys)
        return run_state.replace(observation=self._first_observations())

    def restarted(self, config: Any, run_state: RunState, iteration: int) -> RunState:
        """A run that goes on with new episodes, because its pool could not be restored in their midst: the episodes
        under way are dropped, and the agent is told of the break (`Agent.interrupt`).
        """
        state, num_envs = run_state.agent, self.pool.num_envs
        if self.agent.interrupt is not None:
            state = jax.vmap(lambda s: self.agent.interrupt(config, s, jnp.int32(iteration)))(state)
        tracker = jax.tree.map(lambda x: jnp.stack([x] * self.pool.num_seeds), episodes.init_tracker(num_envs))
        return run_state.replace(agent=state, observation=self._first_observations(), episodes=tracker)

    def _first_observations(self) -> Array:
        first = [self.pool.reset(group).copy() for group in range(self.pool.num_groups)]
        return jnp.asarray(np.concatenate(first, axis=1))

    def advance(
        self, config: Any, run_state: RunState, iteration: int, total_iterations: int, num_iterations: int
    ) -> tuple[RunState, dict[str, Metric]]:
        """The run after num_iterations more, and metrics {name: Metric [S]} summed over them. Donates run_state."""
        sums = None
        total = jnp.int32(total_iterations)
        for i in range(iteration, iteration + num_iterations):
            run_state, metrics = self._iterate(config, run_state, jnp.int32(i), total)
            sums = metrics if sums is None else jax.tree.map(jnp.add, sums, metrics)
        started = time.perf_counter()
        jax.block_until_ready(sums)
        self.seconds["device"] += time.perf_counter() - started
        return run_state, sums

    def _iterate(self, config: Any, run_state: RunState, iteration: Array, total: Array):
        pool, length, began = self.pool, config.rollout_length, time.perf_counter()
        if self._buffer is None:
            self._buffer = self._empty_buffer(config, run_state)
        shape = (pool.num_seeds, length, pool.num_envs)
        reward, terminated, truncated = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
        valid = life_lost = final_observation = None
        waited = {"environment": 0.0, "device": 0.0}
        group_size = pool.num_envs // pool.num_groups
        columns = [slice(g * group_size, (g + 1) * group_size) for g in range(pool.num_groups)]
        last: list[np.ndarray] = []

        def receive(group: int, t: int) -> np.ndarray:
            nonlocal valid, life_lost, final_observation
            started = time.perf_counter()
            timestep = pool.recv(group)
            waited["environment"] += time.perf_counter() - started
            at = (slice(None), t, columns[group])
            reward[at], terminated[at], truncated[at] = timestep.reward, timestep.terminated, timestep.truncated
            if timestep.valid is not None:
                valid = np.ones(shape, bool) if valid is None else valid
                valid[at] = timestep.valid
            if timestep.life_lost is not None:
                life_lost = np.zeros(shape, bool) if life_lost is None else life_lost
                life_lost[at] = timestep.life_lost
            if timestep.final_observation is not None:
                if final_observation is None:
                    final = timestep.final_observation
                    final_observation = np.zeros((*shape, *final.shape[2:]), final.dtype)
                final_observation[at] = timestep.final_observation
            return timestep.observation

        for t in range(length):
            for group in range(pool.num_groups):
                first = columns[group].start
                observation = receive(group, t - 1) if t else self._slice(run_state.observation, first)
                self._buffer, action = self._act(
                    config, run_state, self._buffer, observation, iteration, total, np.int32(t), np.int32(first)
                )
                started = time.perf_counter()
                action = np.asarray(action)
                waited["device"] += time.perf_counter() - started
                pool.send(group, action)
        for group in range(pool.num_groups):
            last.append(receive(group, length - 1))
        feedback = (reward, terminated, truncated, final_observation, valid, life_lost)
        run_state, metrics = self._learn(
            config, run_state, self._buffer, feedback, np.concatenate(last, axis=1), iteration, total
        )
        for what, seconds in waited.items():
            self.seconds[what] += seconds
        self.seconds["host"] += time.perf_counter() - began - sum(waited.values())
        return run_state, metrics

    def _empty_buffer(self, config: Any, run_state: RunState) -> Buffer:
        """Zeros of the shapes that acting gives, [S, T, N, ...]."""
        clock = Clock(jnp.int32(0), jnp.int32(1))

        def one(config, state):
            keys = action_keys(state.key, clock.iteration, 0, config.num_envs)
            action, extras = self.agent.act(config, self.spec, state.agent, state.observation, keys, clock, True)
            return Buffer(state.observation, action, extras)

        shapes = jax.eval_shape(jax.vmap(one, in_axes=(config_axes(config), 0)), config, run_state)
        length = config.rollout_length
        return jax.tree.map(lambda x: jnp.zeros((x.shape[0], length, *x.shape[1:]), x.dtype), shapes)

    def _act_and_store(self, config, run_state, buffer, observation, iteration, total, t, first):
        """Acts for one group [S, n] at step t and writes what it saw and did into the buffer's columns from `first`."""
        clock = Clock(iteration, total)

        def one(config, state, key, observation):
            keys = action_keys(key, iteration, t, observation.shape[0], first)
            action, extras = self.agent.act(config, self.spec, state, observation, keys, clock, True)
            return Buffer(observation, action, extras)

        row = jax.vmap(one, in_axes=(config_axes(config), 0, 0, 0))(config, run_state.agent, run_state.key, observation)
        zero = jnp.int32(0)

        def write(whole, part):
            corner = (zero, t, first, *[zero] * (part.ndim - 2))
            return jax.lax.dynamic_update_slice(whole, part[:, None], corner)

        return jax.tree.map(write, buffer, row), row.action

    def _learn_from(self, config, run_state, buffer, feedback, last_observation, iteration, total):
        clock = Clock(iteration, total)

        def one(config, state, buffer, feedback, last):
            reward, terminated, truncated, final_observation, valid, life_lost = feedback
            rollout = Rollout(
                observation=buffer.observation,
                action=buffer.action,
                reward=reward,
                terminated=terminated,
                truncated=truncated,
                final_observation=final_observation,
                valid=valid,
                extras=buffer.extras,
                last_observation=last,
                life_lost=life_lost,
            )
            state = state.replace(observation=last)
            return learn(self.agent, self.spec, config, state, rollout, clock)

        in_axes = (config_axes(config), 0, 0, 0, 0)
        return jax.vmap(one, in_axes=in_axes)(config, run_state, buffer, feedback, last_observation)
