"""The run-keeping loop for environments written in JAX: acting, stepping and learning are one compiled program.

Python makes one call per chunk of iterations (the log period). The chunk's length is an argument, not a shape, so a
run compiles exactly one program whatever its length, and metrics come back as sums over the chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from purerl.loops import lanes as lane_ways
from purerl.loops import sharding, sums
from purerl.loops.lanes import Lanes
from purerl.loops.train import init_run_state, iterate
from purerl.types import Agent, Array, Clock, Environment, Metric, PyTree, RunState


def make_init(agent: Agent, environment: Environment) -> Callable[[Any, Array], RunState]:
    """Jitted (config, keys [S]) -> RunState [S, ...]."""
    return lane_ways.in_turn(lambda config, key: init_run_state(agent, environment, config, key))


def make_chunk(
    agent: Agent, environment: Environment, lanes: Lanes = "auto", devices_per_seed: int = 1
) -> Callable[..., tuple[RunState, sums.Sums]]:
    """(config, run_state [S, ...], found, iteration, total_iterations, num_iterations) -> the same run after
    num_iterations more, and the Sums [S, ...] `found`, with those of its metrics added. The counters are int32 []. With
    None for `found` the sums begin at zero.
    """

    # Traced once, although the loops below call it for its shapes as well; inline, so the program is the same without.
    one_lane = jax.jit(functools.partial(iterate, agent, environment), inline=True)

    def several(advance: Callable, carried: PyTree, iteration: Array, total: Array, num_iterations: Array):
        """num_iterations of advance(state, clock) -> (state, metrics), from carried = (state, sums so far)."""

        def one_iteration(i: Array, carry: PyTree) -> PyTree:
            state, found = carry
            state, metrics = advance(state, Clock(iteration + i, total))
            return state, sums.add(found, metrics)

        state, found = carried
        if found is None:
            found = sums.zeros(jax.eval_shape(lambda s: advance(s, Clock(iteration, total))[1], state))
        return jax.lax.fori_loop(0, num_iterations, one_iteration, (state, found))

    def side_by_side(config: Any, carried: PyTree, *counters: Array):
        batched = jax.vmap(one_lane, in_axes=(lane_ways.config_axes(config), 0, None))
        return several(lambda states, clock: batched(config, states, clock), carried, *counters)

    def one_by_one(config: Any, carried: PyTree, *counters: Array):
        def whole_chunk(config: Any, carried: PyTree):
            return several(lambda s, clock: one_lane(config, s, clock), carried, *counters), ()

        if carried[1] is None:  # for the shapes alone

            def from_zero(config: Any, state: RunState):
                return several(lambda s, clock: one_lane(config, s, clock), (state, None), *counters)

            return lane_ways.one_by_one(from_zero, config, carried[0])
        return lane_ways.one_by_one(whole_chunk, config, carried)[0]

    local_chunk = {"vmap": side_by_side, "map": one_by_one}[lane_ways.resolve(lanes)]

    def chunk(config: Any, run_state: RunState, found: sums.Sums | None, *counters: Array):
        mesh = sharding.seed_mesh(run_state.key.shape[0], devices_per_seed)
        sharded = sharding.shard_seeds(local_chunk, mesh, config, num_seed_trees=1)
        run_state, found = sharded(config, (run_state, found), *counters)
        if devices_per_seed > 1:  # as they came, so that the next call finds the same program
            places = sharding.placements(run_state, mesh, agent.environment_axes)
            run_state = jax.lax.with_sharding_constraint(run_state, places)
            found = jax.lax.with_sharding_constraint(found, sharding.of_seeds(mesh))
        return run_state, found

    return chunk


def _program_of(config: Any, run_state: RunState) -> tuple[int, Any]:
    """What decides a program's shapes: the number of lanes, and the config's structure with its static fields."""
    return run_state.key.shape[0], jax.tree.structure(config)


class InGraphLoop:
    """Advances a run on environments in the graph: the interface that `host.HostLoop` has too.

    Args:
      lanes: how lanes run on their device, see `lanes`.
      devices_per_seed: how many devices each seed is spread over, see `data_parallel`.
    """

    def __init__(self, agent: Agent, environment: Environment, lanes: Lanes = "auto", devices_per_seed: int = 1):
        self.agent, self.spec, self.lanes = agent, environment.spec, lane_ways.resolve(lanes)
        self.devices_per_seed = devices_per_seed
        self._init = make_init(agent, environment)
        self._from_zero = make_chunk(agent, environment, lanes, devices_per_seed)
        self._chunk = jax.jit(self._from_zero, donate_argnums=(1, 2))
        self._sums: dict[tuple[int, Any], sums.Sums] = {}
        self._zeros: dict[tuple[int, Any], Callable[[], sums.Sums]] = {}

    def num_lanes(self, num_seeds: int) -> int:
        """Lanes for so many seeds: a few more where they can then be spread over all devices evenly."""
        return sharding.spread_evenly(num_seeds, self.devices_per_seed)

    def _mesh(self, num_lanes: int) -> Mesh:
        return sharding.seed_mesh(num_lanes, self.devices_per_seed)

    def _spread(self, num_lanes: int) -> NamedSharding:
        return sharding.of_seeds(self._mesh(num_lanes))

    def init(self, config: Any, keys: Array) -> RunState:
        """RunState [S, ...] of a fresh run, its seeds spread over the devices."""
        return self.placed(self._init(config, keys))

    def placed(self, run_state: RunState) -> RunState:
        """A RunState [S, ...] with its seeds spread over the devices."""
        mesh = self._mesh(run_state.key.shape[0])
        return jax.device_put(run_state, sharding.placements(run_state, mesh, self.agent.environment_axes))

    def program_bytes(self, config: Any, keys: Array) -> int:
        """Memory that training takes on all devices together: state, rollouts and temporaries of the compiled program.

        Compiles it; the persistent cache then has it for `advance`.
        """
        mesh, spread = self._mesh(keys.shape[0]), self._spread(keys.shape[0])
        state = jax.eval_shape(self._init, config, keys)
        state = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            state,
            sharding.placements(state, mesh, self.agent.environment_axes),
        )
        counter = jnp.int32(0)
        nothing = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread), self._shapes_of_sums(config, state)
        )
        found = self._chunk.lower(config, state, nothing, counter, counter, counter).compile().memory_analysis()
        own = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return mesh.size * (own + found.temp_size_in_bytes)

    def _shapes_of_sums(self, config: Any, run_state: RunState) -> sums.Sums:
        key = _program_of(config, run_state)
        if key not in self._sums:
            counter = jnp.int32(0)
            _, found = jax.eval_shape(self._from_zero, config, run_state, None, counter, counter, counter)
            self._sums[key] = found
        return self._sums[key]

    def _sums_of_nothing(self, config: Any, run_state: RunState) -> sums.Sums:
        """Zeros, spread over the devices as the seeds are. Each row of metrics begins with them: one small program."""
        key = _program_of(config, run_state)
        if key not in self._zeros:
            shapes, spread = self._shapes_of_sums(config, run_state), self._spread(run_state.key.shape[0])
            zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            self._zeros[key] = jax.jit(zeros, out_shardings=spread)
        return self._zeros[key]()

    def advance_on(
        self,
        config: Any,
        run_state: RunState,
        found: sums.Sums | dict[str, Array] | None,
        iteration: int,
        total_iterations: int,
        num_iterations: int,
    ) -> tuple[RunState, sums.Sums]:
        """The run after num_iterations more, and the Sums [S, ...] `found` with its metrics added. Several calls give
        the bits of a single one. Donates run_state and found, and waits for the end.

        Args:
          found: of the calls before this one, or their arrays from a checkpoint; None to begin at zero.
        """
        if not found:
            found = self._sums_of_nothing(config, run_state)
        elif not isinstance(found, sums.Sums):
            found = self._shapes_of_sums(config, run_state).replace(**found)
            found = sharding.place(jax.tree.map(jnp.asarray, found), self._mesh(run_state.key.shape[0]))
        counters = np.int32(iteration), np.int32(total_iterations), np.int32(num_iterations)
        return jax.block_until_ready(self._chunk(config, run_state, found, *counters))

    def advance(
        self, config: Any, run_state: RunState, iteration: int, total_iterations: int, num_iterations: int
    ) -> tuple[RunState, dict[str, Metric]]:
        """The run after num_iterations more, and metrics {name: Metric [S]} summed over them: numpy, float64 and int64.
        Donates run_state, and waits for the end.
        """
        run_state, found = self.advance_on(config, run_state, None, iteration, total_iterations, num_iterations)
        return run_state, sums.read(found)
