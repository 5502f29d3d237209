"""Plays with an agent, without learning: in the graph or on a pool, in blocks of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rng
from purerl.loops import collect, host, sharding
from purerl.loops import lanes as lane_ways
from purerl.loops.lanes import Lanes
from purerl.types import Agent, Array, Clock, Environment, EnvSpec, Pool, PyTree, RunState

# Steps of each environment in one call of the compiled program.
BLOCK_LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Block:
    """T steps of the environments `columns` of all seeds.

    Attributes:
      columns: slice of the N environments, n of them.
      observation: [S, T, n, ...], what was acted on; None where it was not asked for. Or the environments' states, or
        a pool's pictures.
      reward: float32 [S, T, n], raw.
      done: bool [S, T, n], the episode ended with this step.
    """

    columns: slice
    observation: PyTree
    reward: np.ndarray
    done: np.ndarray


def end_of_training() -> Clock:
    """What an agent is told of the clock in evaluation."""
    return Clock(jnp.int32(1), jnp.int32(1))


class GraphPlayer:
    """Plays in environments in the graph, with an agent whose parameters may change between plays; it compiles once.

    Args:
      agent, environment: who plays in what.
      config: the agent's config, its traced fields arrays.
      num_envs: N, environments of each seed.
      explore: as in `Agent.act`.
      observations: whether blocks carry them.
      states: whether blocks carry the environments' states in place of observations, random keys as their words.
      lanes: how seeds run on their device, see `lanes`.
    """

    def __init__(
        self,
        agent: Agent,
        environment: Environment,
        config: Any,
        *,
        num_envs: int,
        explore: bool,
        observations: bool = False,
        states: bool = False,
        lanes: Lanes = "auto",
    ):
        self._agent, self._config, self._num_envs = agent, config, num_envs

        def begin(config: Any, agent_state: PyTree, key: Array, seed: Array) -> RunState:
            return collect.begin(agent, environment, config, agent_state, key, num_envs, seed)

        def block(config: Any, run_state: RunState, start: Array) -> tuple[RunState, tuple]:
            run_state, rows = collect.collect(
                agent,
                environment,
                config,
                run_state,
                end_of_training(),
                length=BLOCK_LENGTH,
                iteration=0,
                first_t=start,
                explore=explore,
                states=states,
            )
            shown = jax.tree.map(rng.as_words, rows.states) if states else rows.observation if observations else None
            return run_state, (shown, rows.reward, rows.done)

        def blocks(config: Any, run_state: RunState, start: Array) -> tuple[RunState, tuple]:
            if lane_ways.resolve(lanes) == "map":
                return lane_ways.one_by_one(lambda c, s: block(c, s, start), config, run_state)
            return jax.vmap(block, in_axes=(lane_ways.config_axes(config), 0, None))(config, run_state, start)

        def of_own_seeds(function: Callable[..., PyTree], num_seed_trees: int) -> Callable[..., PyTree]:
            """Each device plays its own seeds: without this, every device plays all of them."""

            def several(config: Any, *args: PyTree) -> PyTree:
                mesh = sharding.seed_mesh(jax.tree.leaves(args[0])[0].shape[0])
                return sharding.shard_seeds(function, mesh, config, num_seed_trees)(config, *args)

            return jax.jit(several)

        self._begin, self._block = of_own_seeds(lane_ways.in_turn(begin), 3), of_own_seeds(blocks, 1)

    def play(self, agent_state: PyTree, keys: Array, seeds: Sequence[int]) -> Generator[Block, None, None]:
        """Plays without end, from first observations.

        Args:
          agent_state: the agent's State [S, ...], as far as `act` reads it.
          keys: typed base keys [S] of everything random.
          seeds: S, of the environments' own random numbers, for those with a `begin`.

        Yields:
          Blocks without end; those of the same columns are consecutive in time.
        """
        first = collect.acting_part(self._agent, agent_state), keys, jnp.asarray(seeds, jnp.uint32)
        first = sharding.place(first, sharding.seed_mesh(len(seeds)))
        run_state, start = self._begin(self._config, *first), 0
        while True:
            run_state, rows = self._block(self._config, run_state, jnp.int32(start))
            yield Block(slice(0, self._num_envs), *jax.device_get(rows))
            start += BLOCK_LENGTH


class PoolPlayer:
    """Plays on the host: the interface of `GraphPlayer`.

    Args:
      agent, config, num_envs, explore, observations, lanes: as in `GraphPlayer`.
      spec: of the environment.
      make_pool: (seeds, num_envs, num_groups) -> Pool. If a pool `draws`, blocks carry its `pictures` in place of
        observations.
    """

    def __init__(
        self,
        agent: Agent,
        spec: EnvSpec,
        config: Any,
        make_pool: Callable[[Sequence[int], int, int], Pool],
        *,
        num_envs: int,
        explore: bool,
        observations: bool = False,
        lanes: Lanes = "auto",
    ):
        self._agent, self._config, self._make_pool = agent, config, make_pool
        self._num_envs, self._observations, self._lanes = num_envs, observations, lane_ways.resolve(lanes)
        act = host.make_act(agent, spec, explore)

        def several(config, agent_state, key, memory, inputs, t, first):
            axes = (lane_ways.config_axes(config), 0, 0, 0, 0, None, None, None, None)
            clock, zero = end_of_training(), jnp.int32(0)
            found = jax.vmap(act, in_axes=axes)(config, agent_state, key, memory, inputs, zero, t, first, clock)
            return found[:2]

        self._act = jax.jit(several)
        self._memory = lane_ways.in_turn(lambda c, key: collect.first_memory(agent, c, spec, num_envs))

    def play(self, agent_state: PyTree, keys: Array, seeds: Sequence[int]) -> Generator[Block, None, None]:
        """Plays without end, from first observations. Close the iterator to close the pool.

        Args:
          agent_state, keys, seeds: as in `GraphPlayer.play`.

        Yields:
          Blocks of one step, group after group.
        """
        groups = 2 if self._num_envs % 2 == 0 else 1
        agent_state = sharding.on_one_device(collect.acting_part(self._agent, agent_state))
        state = agent_state, keys, self._memory(self._config, keys)
        parts = [[*part] for part in host.split(self._config, state, keys.shape[0], self._lanes)]
        with self._make_pool(seeds, self._num_envs, groups) as pool:
            walk = host.Walk(pool)
            acted_on: list[np.ndarray | None] = [None] * groups

            def send(group: int, inputs: Any, t: int) -> None:
                if self._observations:
                    shown = pool.pictures(group) if getattr(pool, "draws", False) else inputs.observation
                    acted_on[group] = shown[:, None].copy()  # the pool will write over it
                actions = []
                for part in parts:
                    lanes, config, (agent_part, key, memory) = part
                    mine = jax.tree.map(lambda x: x[lanes], inputs)  # noqa: B023
                    first = np.int32(walk.columns[group].start)
                    action, memory = self._act(config, agent_part, key, memory, mine, np.int32(t), first)
                    part[2] = agent_part, key, memory
                    actions.append(action)
                walk.send(group, np.concatenate([np.asarray(action) for action in actions]))

            for group in range(groups):
                send(group, walk.first_inputs(group), 0)
            t = 0
            while True:
                t += 1
                for group in range(groups):
                    timestep, inputs = walk.receive(group)
                    reward, done = np.array(timestep.reward)[:, None], inputs.is_first[:, None]
                    yield Block(walk.columns[group], acted_on[group], reward, done)
                    send(group, inputs, t)
