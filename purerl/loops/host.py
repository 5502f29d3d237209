"""The training loop for environments that live on the host: a pool of S x N environments feeds the same update.

Per step and group of the pool, one jitted and donated call writes the observations into the device's rollout buffer
and returns the actions; the pool's own threads step the other groups meanwhile. Observations cross to
the device once. Rewards and flags are small, are gathered on the host, and cross once an iteration.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl import data_parallel, rng
from purerl.loops import collect, episodes, sharding, sums
from purerl.loops import lanes as lane_ways
from purerl.loops.lanes import Lanes
from purerl.loops.train import learn
from purerl.types import Agent, Array, Clock, EnvSpec, Inputs, Metric, Pool, PyTree, Rollout, RunState, TimeStep


class Walk:
    """Steps a pool group by group, and says what the agent may look at next in each.

    Attributes:
      columns: of each group, which of the N environments it holds.
    """

    def __init__(self, pool: Pool):
        self.pool = pool
        size = pool.num_envs // pool.num_groups
        self.columns = [slice(group * size, (group + 1) * size) for group in range(pool.num_groups)]
        self._sent: list[np.ndarray | None] = [None] * pool.num_groups

    def first_inputs(self, group: int) -> Inputs:
        """The Inputs [S, N / G, ...] of a group that has not been stepped yet, as numpy arrays."""
        observation, spec = self.pool.reset(group), self.pool.spec
        shape, dtype = observation.shape[:2], spec.action_dtype
        return Inputs(
            observation,
            np.ones(shape, bool),
            np.zeros((*shape, *spec.action_shape), dtype),
            np.zeros(shape, np.float32),
        )

    def send(self, group: int, action: np.ndarray) -> None:
        """Starts stepping a group with actions [S, N / G, ...]."""
        self._sent[group] = action
        self.pool.send(group, action)

    def receive(self, group: int) -> tuple[TimeStep, Inputs]:
        """Waits for a group's step: its TimeStep and the next Inputs, numpy arrays [S, N / G, ...]."""
        timestep, action = self.pool.recv(group), self._sent[group]
        done = np.asarray(timestep.terminated) | timestep.truncated
        action_done = done.reshape(*done.shape, *[1] * (action.ndim - 2))
        reward = np.where(done, np.float32(0), np.asarray(timestep.reward, np.float32))
        return timestep, Inputs(timestep.observation, done, np.where(action_done, action.dtype.type(0), action), reward)


def make_act(agent: Agent, spec: EnvSpec, explore: bool) -> Callable[..., tuple[Array, PyTree, PyTree]]:
    """Acting for a group of one seed's environments: (config, agent state, key, memory [N, ...], inputs [n, ...],
    iteration, t, first, clock) -> (action [n, ...], memory [N, ...], extras [n, ...]), its columns beginning at
    `first`.
    """

    def act(config, agent_state, key, memory, inputs, iteration, t, first, clock):
        size = inputs.is_first.shape[0]
        part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), memory)
        keys = rng.action_keys(key, iteration, t, size, first)
        action, part, extras = collect.act(agent, spec, config, agent_state, part, inputs, keys, clock, explore)
        memory = jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, first, 0), memory, part)
        return action, memory, extras

    return act


@struct.dataclass
class Buffer:
    """The device side of a rollout in the making, [S, T, N, ...]."""

    observation: Array
    action: Array
    extras: PyTree


@dataclasses.dataclass
class Part:
    """Lanes that are computed together: all of a run's (`vmap`), or a single one, as its solo run would be (`map`).

    Attributes:
      lanes: which of the run's.
      config, run_state: theirs.
      acting, memory: the state and the memory with which a rollout is collected, on the devices that act.
    """

    lanes: slice
    config: Any
    run_state: RunState
    acting: RunState | None = None
    memory: PyTree = None


def split(config: Any, tree: PyTree, num_lanes: int, lanes: Lanes) -> list[tuple[slice, Any, PyTree]]:
    """(lanes, their config, their part of `tree` [S, ...]) of each part. One part is not copied."""
    if lanes == "vmap" or num_lanes == 1:
        return [(slice(0, num_lanes), config, tree)]
    slices = [slice(lane, lane + 1) for lane in range(num_lanes)]

    def part(x: Any, lanes: slice) -> Any:
        # Indexing would be a gather, which arrays in the host's memory do not have.
        return jax.lax.slice_in_dim(x, lanes.start, lanes.stop) if jnp.ndim(x) else x

    return [(s, *(jax.tree.map(lambda x: part(x, s), y) for y in (config, tree))) for s in slices]  # noqa: B023


def join(parts: list[PyTree]) -> PyTree:
    """The parts' trees as one of all lanes [S, ...]."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


class Feedback:
    """What the host gathers of a rollout, [S, T, N]: rewards, flags and final observations."""

    def __init__(self, pool: Pool, length: int):
        shape = (pool.num_seeds, length, pool.num_envs)
        self.arrays: dict[str, np.ndarray | None] = {
            "reward": np.zeros(shape, np.float32),
            "terminated": np.zeros(shape, bool),
            "truncated": np.zeros(shape, bool),
            "final_observation": None,
            "life_lost": None,
        }

    def put(self, t: int, columns: slice, timestep: TimeStep) -> None:
        """Stores a group's step."""
        for name, whole in self.arrays.items():
            value = getattr(timestep, name)
            if value is None:
                continue
            if whole is None:
                shape = self.arrays["reward"].shape
                whole = self.arrays[name] = np.zeros((*shape, *value.shape[2:]), value.dtype)
            whole[:, t, columns] = value


def beside(run_state: RunState, tree: PyTree) -> PyTree:
    """A tree on the device of a run, committed to it as the run is (see `HostLoop.placed`)."""
    return jax.device_put(tree, run_state.key.sharding)


class HostLoop:
    """Advances a run on a pool. Holds the pool, the rollout buffers and the compiled functions; no learning state.

    Args:
      lanes: "vmap" learns for all seeds in one batch; "map" for one after the other, each by the program of a solo run.
      devices_per_seed: how many devices a seed learns on, see `data_parallel`. The first of them acts.

    Attributes:
      seconds: where the wall time of `advance` went, so far: "environment" (waiting for games), "device" (waiting for
        actions and updates), and the rest, "host" (Python, dispatch, bookkeeping).
    """

    def __init__(self, agent: Agent, pool: Pool, lanes: Lanes = "auto", devices_per_seed: int = 1):
        self.agent, self.pool, self.spec, self.lanes = agent, pool, pool.spec, lane_ways.resolve(lanes)
        # All devices share each seed; or each has its own seeds, if they are one batch; or one has all.
        self._shares_seeds = devices_per_seed > 1
        in_one_batch = self.lanes == "vmap" and not self._shares_seeds
        self._mesh = sharding.seed_mesh(pool.num_seeds if in_one_batch else 1, devices_per_seed)
        self._spreads_seeds = self._mesh.shape[sharding.AXIS] > 1
        self.seconds = {"environment": 0.0, "device": 0.0, "host": 0.0}
        self._walk = Walk(pool)
        self._buffers: dict[int, Buffer] = {}
        self._make = lane_ways.in_turn(self._init_run_state)
        self._act = jax.jit(self._act_and_store, donate_argnums=4)
        self._learn = jax.jit(self._learn_from, donate_argnums=1)
        self._add = jax.jit(sums.add, donate_argnums=0)
        size = pool.num_envs // pool.num_groups
        self._slice = jax.jit(
            lambda tree, first: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size, axis=1), tree)
        )

    def num_lanes(self, num_seeds: int) -> int:
        """Lanes for so many seeds."""
        return num_seeds

    def placed(self, run_state: RunState) -> RunState:
        """A RunState [S, ...] spread over the devices."""
        return jax.device_put(run_state, sharding.placements(run_state, self._mesh, self.agent.environment_axes))

    def init(self, config: Any, keys: Array) -> RunState:
        """RunState [S, ...] of a fresh run; resets the pool."""
        return self._with_inputs(self.placed(self._make(config, keys)), self._first_inputs())

    def _with_inputs(self, run_state: RunState, inputs: Inputs) -> RunState:
        """The state with other inputs, where its own are."""
        places = jax.tree.map(lambda x: x.sharding, run_state.inputs)
        return run_state.replace(inputs=jax.device_put(inputs, places))

    def _init_run_state(self, config: Any, key: Array) -> RunState:
        """The state of one seed before its first iteration; its inputs are placeholders until the pool is reset."""
        num_envs = config.num_envs
        observation = jnp.zeros((num_envs, *self.spec.observation_shape), self.spec.observation_dtype)
        return RunState(
            agent=self.agent.init(config, self.spec, rng.init_key(key)),
            memory=collect.first_memory(self.agent, config, self.spec, num_envs),
            environment=None,
            inputs=Inputs.at_start(self.spec, observation),
            episodes=episodes.init_tracker(num_envs),
            key=key,
        )

    def restarted(self, config: Any, run_state: RunState, iteration: int) -> RunState:
        """A run that goes on with new episodes, because its pool could not be restored in their midst: the episodes
        under way are dropped, and the agent is told of the break (`Agent.on_env_restart`).
        """
        state, num_envs = run_state.agent, self.pool.num_envs
        if self.agent.on_env_restart is not None:
            state = jax.vmap(lambda s: self.agent.on_env_restart(config, s, jnp.int32(iteration)))(state)
        tracker = jax.tree.map(lambda x: jnp.stack([x] * self.pool.num_seeds), episodes.init_tracker(num_envs))
        run_state = run_state.replace(agent=state, episodes=beside(run_state, tracker))
        return self.placed(self._with_inputs(run_state, self._first_inputs()))

    def _first_inputs(self) -> Inputs:
        first = [jax.tree.map(np.copy, self._walk.first_inputs(group)) for group in range(self.pool.num_groups)]
        return jax.tree.map(lambda *x: jnp.asarray(np.concatenate(x, axis=1)), *first)

    def advance_on(
        self,
        config: Any,
        run_state: RunState,
        found: sums.Sums | dict[str, Array] | None,
        iteration: int,
        total_iterations: int,
        num_iterations: int,
    ) -> tuple[RunState, sums.Sums]:
        """As `InGraphLoop.advance_on`."""
        total = jnp.int32(total_iterations)
        parts = [Part(*part) for part in split(config, run_state, self.pool.num_seeds, self.lanes)]
        if found is not None and len(parts) == 1:  # as a checkpoint holds them, they are on one device
            found = sharding.place(jax.tree.map(jnp.asarray, found), self._mesh)
        of_parts: list[Any] = [jax.tree.map(lambda x, p=part: x[p.lanes], found) for part in parts]
        for i in range(iteration, iteration + num_iterations):
            metrics = self._iterate(parts, jnp.int32(i), total)
            if self._shares_seeds:
                self._wait_for(metrics)  # a call on several CPU devices would wait for them, too
            of_parts = [self._added(*pair) for pair in zip(parts, of_parts, metrics, strict=True)]
        self._wait_for(of_parts)
        return join([part.run_state for part in parts]), join(of_parts)

    def _wait_for(self, tree: PyTree) -> None:
        started = time.perf_counter()
        jax.block_until_ready(tree)
        self.seconds["device"] += time.perf_counter() - started

    def _added(self, part: Part, found: Any, metrics: dict[str, Metric]) -> sums.Sums:
        """A part's sums after one more iteration; `found` as in `advance_on`."""
        if not isinstance(found, sums.Sums):
            found = beside(part.run_state, sums.zeros(metrics).replace(**(found or {})))
        return self._add(found, metrics)

    def advance(
        self, config: Any, run_state: RunState, iteration: int, total_iterations: int, num_iterations: int
    ) -> tuple[RunState, dict[str, Metric]]:
        """The run after num_iterations more, and metrics {name: Metric [S]} summed over them: numpy, float64 and int64.
        Donates run_state, and waits for the end.
        """
        run_state, found = self.advance_on(config, run_state, None, iteration, total_iterations, num_iterations)
        return run_state, sums.read(found)

    def _iterate(self, parts: list[Part], iteration: Array, total: Array) -> list[dict[str, Metric]]:
        walk, length, began = self._walk, parts[0].config.rollout_length, time.perf_counter()
        groups = range(self.pool.num_groups)
        feedback = Feedback(self.pool, length)
        clock = Clock(iteration, total)
        waited = {"environment": 0.0, "device": 0.0}
        inputs: list[Any] = [None for _ in groups]

        def receive(group: int, t: int) -> None:
            started = time.perf_counter()
            timestep, inputs[group] = walk.receive(group)
            waited["environment"] += time.perf_counter() - started
            feedback.put(t, walk.columns[group], timestep)

        for part in parts:
            part.acting, part.memory = self._acting(part.run_state)
        for t in range(length):
            for group in groups:
                if t:
                    receive(group, t - 1)
                actions = [self._act_for(part, inputs[group], group, t, clock) for part in parts]
                started = time.perf_counter()
                actions = [np.asarray(action) for action in actions]
                waited["device"] += time.perf_counter() - started
                walk.send(group, actions[0] if len(actions) == 1 else np.concatenate(actions))
        for group in groups:
            receive(group, length - 1)
        metrics = []
        for part in parts:
            part.acting = None
            buffer, part.memory = self._to_learn_from(self._buffers[part.lanes.start], part.memory)
            last, of_rollout = self._cross(part, (inputs, feedback.arrays))
            part.run_state, found = self._learn(
                part.config, part.run_state, buffer, of_rollout, last, part.memory, clock
            )
            metrics.append(found)
        for what, seconds in waited.items():
            self.seconds[what] += seconds
        self.seconds["host"] += time.perf_counter() - began - sum(waited.values())
        return metrics

    def _acting(self, run_state: RunState) -> tuple[RunState, PyTree]:
        """(state, memory) on the device that acts: the very ones, or of several devices the first, without a copy of
        what is not split, and without what acting does not read.
        """
        if not self._shares_seeds:
            return run_state, run_state.memory
        state = run_state.replace(agent=collect.acting_part(self.agent, run_state.agent), episodes=None)
        state = sharding.on_one_device(state)
        return state, state.memory

    def _cross(self, part: Part, tree: PyTree) -> PyTree:
        """Numpy arrays [S, ...]: a part's lanes of them, each on its way to its own device."""
        own = jax.tree.map(lambda x: x[part.lanes], tree)
        return jax.device_put(own, sharding.of_seeds(self._mesh)) if self._spreads_seeds else own

    def _to_learn_from(self, buffer: Buffer, memory: PyTree) -> tuple[Buffer, PyTree]:
        """(buffer, memory) of a finished rollout where the devices learn from them."""
        if not self._shares_seeds:
            return buffer, memory

        def spread(x: Array, axis: int) -> Array:
            even = x.shape[axis] % self._mesh.size == 0
            axes = [None] * (axis - 1) + [data_parallel.AXIS] if even else []
            return jax.device_put(x, sharding.of_seeds(self._mesh, *axes))

        return jax.tree.map(lambda x: spread(x, 2), buffer), jax.tree.map(lambda x: spread(x, 1), memory)

    def _act_for(self, part: Part, inputs: Inputs | None, group: int, t: int, clock: Clock) -> Array:
        """Actions [s, N / G, ...] of a part's lanes, on their way; what they saw and did goes into their buffer."""
        first, state, place = np.int32(self._walk.columns[group].start), part.acting, part.lanes.start
        # The rollout's first row is on the device already: it crossed as the last one of the rollout before.
        on_device = inputs is None
        inputs = self._slice(state.inputs, first) if on_device else self._cross(part, inputs)
        if place not in self._buffers:
            self._buffers[place] = self._empty_buffer(part.config, state, part.memory, inputs)
        self._buffers[place], part.memory, action = self._act(
            part.config,
            state.agent,
            state.key,
            part.memory,
            self._buffers[place],
            inputs,
            np.int32(t),
            first,
            clock,
        )
        return action

    def _act_on(self, config, agent_state, key, memory, inputs, t, first, clock):
        """(action, memory, extras) of all seeds that the arguments hold."""
        act = make_act(self.agent, self.spec, explore=True)
        axes = (lane_ways.config_axes(config), 0, 0, 0, 0, None, None, None, None)
        return jax.vmap(act, in_axes=axes)(config, agent_state, key, memory, inputs, clock.iteration, t, first, clock)

    def _empty_buffer(self, config: Any, state: RunState, memory: PyTree, inputs: Inputs) -> Buffer:
        """Zeros of the shapes that acting gives, [S, T, N, ...]."""
        zero, clock = np.int32(0), Clock(jnp.int32(0), jnp.int32(1))
        action, _, extras = jax.eval_shape(
            self._act_on, config, state.agent, state.key, memory, inputs, zero, zero, clock
        )
        sizes = (config.rollout_length, self.pool.num_envs)
        row = Buffer(inputs.observation, action, extras)
        return beside(state, jax.tree.map(lambda x: jnp.zeros((x.shape[0], *sizes, *x.shape[2:]), x.dtype), row))

    def _act_and_store(self, config, agent_state, key, memory, buffer, inputs, t, first, clock):
        """Acts for one group [S, n] at step t and writes what it saw and did into the buffer's columns from `first`."""

        def seeds(config, agent_state, key, memory, buffer, inputs, t, first, clock):
            action, memory, extras = self._act_on(config, agent_state, key, memory, inputs, t, first, clock)
            zero = jnp.int32(0)

            def write(whole, part):
                corner = (zero, t, first, *[zero] * (part.ndim - 2))
                return jax.lax.dynamic_update_slice(whole, part[:, None], corner)

            return jax.tree.map(write, buffer, Buffer(inputs.observation, action, extras)), memory, action

        if not self._shares_seeds:
            seeds = sharding.shard_seeds(seeds, self._mesh, config, num_seed_trees=5)
        return seeds(config, agent_state, key, memory, buffer, inputs, t, first, clock)

    def _learn_from(self, config, run_state, buffer, feedback, last, last_memory, clock):
        last = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *last)

        def one(config, state, buffer, feedback, last, last_memory, clock):
            rollout = Rollout(
                observation=buffer.observation,
                action=buffer.action,
                extras=buffer.extras,
                first=state.inputs,
                last=last,
                memory=state.memory,
                last_memory=last_memory,
                **feedback,
            )
            state = state.replace(inputs=last, memory=last_memory)
            return learn(self.agent, self.spec, config, state, rollout, clock)

        def seeds(config, *args):
            in_axes = (lane_ways.config_axes(config), 0, 0, 0, 0, 0, None)
            return jax.vmap(one, in_axes=in_axes)(config, *args)

        seeds = sharding.shard_seeds(seeds, self._mesh, config, num_seed_trees=5)
        run_state, metrics = seeds(config, run_state, buffer, feedback, last, last_memory, clock)
        # As it came, so that the next call finds the same program.
        places = sharding.placements(run_state, self._mesh, self.agent.environment_axes)
        return jax.lax.with_sharding_constraint(run_state, places), metrics
