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
from jax.sharding import NamedSharding, PartitionSpec

from purerl.loops import lanes as lane_ways
from purerl.loops import sharding, sums
from purerl.loops.lanes import Lanes
from purerl.loops.train import init_run_state, iterate
from purerl.types import Agent, Array, Clock, Environment, Metric, PyTree, RunState


def make_init(agent: Agent, environment: Environment) -> Callable[[Any, Array], RunState]:
    """Jitted (config, keys [S]) -> RunState [S, ...]."""
    return lane_ways.in_turn(lambda config, key: init_run_state(agent, environment, config, key))


def make_chunk(
    agent: Agent, environment: Environment, lanes: Lanes = "auto"
) -> Callable[[Any, RunState, Array, Array, Array], tuple[RunState, sums.Sums]]:
    """Jitted, donated (config, run_state [S, ...], iteration, total_iterations, num_iterations) -> the same run after
    num_iterations more, and the Sums [S, ...] of its metrics over them. The three counters are int32 [].
    """

    # Traced once, although the loops below call it for its shapes as well; inline, so the program is the same without.
    one_lane = jax.jit(functools.partial(iterate, agent, environment), inline=True)

    def several(advance: Callable, state: RunState, iteration: Array, total: Array, num_iterations: Array):
        """num_iterations of advance(state, clock) -> (state, metrics), the metrics summed."""

        def one_iteration(i: Array, carry: PyTree) -> PyTree:
            state, found = carry
            state, metrics = advance(state, Clock(iteration + i, total))
            return state, sums.add(found, metrics)

        shapes = jax.eval_shape(lambda s: advance(s, Clock(iteration, total))[1], state)
        return jax.lax.fori_loop(0, num_iterations, one_iteration, (state, sums.zeros(shapes)))

    def side_by_side(config: Any, run_state: RunState, *counters: Array):
        batched = jax.vmap(one_lane, in_axes=(lane_ways.config_axes(config), 0, None))
        return several(lambda states, clock: batched(config, states, clock), run_state, *counters)

    def one_by_one(config: Any, run_state: RunState, *counters: Array):
        def whole_chunk(config: Any, state: RunState):
            return several(lambda s, clock: one_lane(config, s, clock), state, *counters)

        return lane_ways.one_by_one(whole_chunk, config, run_state)

    local_chunk = {"vmap": side_by_side, "map": one_by_one}[lane_ways.resolve(lanes)]

    def chunk(config: Any, run_state: RunState, iteration: Array, total: Array, num_iterations: Array):
        mesh = sharding.seed_mesh(run_state.key.shape[0])
        sharded = sharding.shard_seeds(local_chunk, mesh, config, num_seed_trees=1)
        return sharded(config, run_state, iteration, total, num_iterations)

    return jax.jit(chunk, donate_argnums=1)


class InGraphLoop:
    """Advances a run on environments in the graph: the interface that `host.HostLoop` has too.

    Args:
      lanes: how lanes run on their device, see `lanes`.
    """

    def __init__(self, agent: Agent, environment: Environment, lanes: Lanes = "auto"):
        self.agent, self.spec, self.lanes = agent, environment.spec, lane_ways.resolve(lanes)
        self._init, self._chunk = make_init(agent, environment), make_chunk(agent, environment, lanes)

    def num_lanes(self, num_seeds: int) -> int:
        """Lanes for so many seeds: a few more where they can then be spread over all devices evenly."""
        return sharding.spread_evenly(num_seeds)

    def init(self, config: Any, keys: Array) -> RunState:
        """RunState [S, ...] of a fresh run, its seeds spread over the devices."""
        return self.placed(self._init(config, keys))

    def placed(self, run_state: RunState) -> RunState:
        """A RunState [S, ...] with its seeds spread over the devices."""
        return sharding.place(run_state, sharding.seed_mesh(run_state.key.shape[0]))

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
        """The run after num_iterations more, and metrics {name: Metric [S]} summed over them: numpy, float64 and int64.
        Donates run_state, and waits for the end.
        """
        run_state, found = self._chunk(
            config, run_state, jnp.int32(iteration), jnp.int32(total_iterations), jnp.int32(num_iterations)
        )
        return run_state, sums.read(found)
