"""Meta-test on the host: `loops.meta_test` in tasks that a pool plays, all of them side by side.

The k-th seed of a pool is the k-th task. The device acts for all tasks in one call per step, and adapts to them in one
batch on accelerators, one after the other on CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rng
from purerl.errors import PurerlError
from purerl.loops import collect, host, lanes, meta_test, play
from purerl.types import Agent, Array, EnvSpec, Pool, PyTree, Rollout


class PoolMetaTest:
    """Evaluates an agent in K tasks before and after adapting to each. It compiles once for all states of the agent.

    Args:
      agent: with an `adapt`.
      spec: of the environment.
      length: steps of an episode, at most.

    Raises PurerlError if the agent does not adapt.
    """

    def __init__(self, agent: Agent, spec: EnvSpec, length: int):
        if agent.adapt is None:
            raise PurerlError(f"{agent.name} does not adapt: it has no `adapt`")
        self._agent, self._spec, self._length = agent, spec, length
        act = host.make_act(agent, spec, explore=False)

        def of_all(state_axis: int | None) -> Any:
            """Acting for K tasks, with one agent for all of them, or one for each."""

            def several(config, agent_state, keys, memory, inputs, t):
                axes = (None, state_axis, 0, 0, 0, None, None, None, None)
                zero, clock = jnp.int32(0), play.end_of_training()
                return jax.vmap(act, in_axes=axes)(config, agent_state, keys, memory, inputs, zero, t, zero, clock)

            return jax.jit(several)

        def adapted(config: Any, state: PyTree, rollouts: Rollout, keys: Array) -> PyTree:
            def one(rollout: Rollout, key: Array) -> PyTree:
                with collect.products(config):
                    # Without what acting does not read: K copies of a replay would not fit.
                    return collect.acting_part(agent, agent.adapt(config, spec, state, rollout, key))

            if lanes.resolve("auto") == "map":
                return jax.lax.map(lambda x: one(*x), (rollouts, keys))
            return jax.vmap(one)(rollouts, keys)

        self._act_as_one, self._act_as_many, self._adapted = of_all(None), of_all(0), jax.jit(adapted)
        self._memory = jax.jit(self._first_memory, static_argnums=(1, 2))

    def evaluate(self, config: Any, state: PyTree, keys: Array, new: Pool, evaluation: Pool) -> meta_test.Returns:
        """Plays an episode of each task greedily, adapts copies of the agent to them, and plays all.

        If an episode ends early, others of the same task follow, up to `length` steps.

        Args:
          config, state: of one seed; the state as training left it.
          keys: typed keys [K], one for each task.
          new: K x 1 games, fresh; what the agent adapts to.
          evaluation: K x E games, fresh; both agents play the same first episodes of them, if the pool resumes exactly.

        Returns:
          Returns [K, E].
        """

        def of(name: str) -> Array:
            return jax.vmap(lambda key: rng.stream(key, name))(keys)

        as_it_was = collect.acting_part(self._agent, state)
        rollouts = self._collect(self._act_as_one, config, as_it_was, of("new"), new)
        adapted = self._adapted(config, state, rollouts, of("adapt"))
        start = evaluation.state()
        before = self._first_returns(self._act_as_one, config, as_it_was, of("evaluation"), evaluation)
        evaluation.restore(start)
        after = self._first_returns(self._act_as_many, config, adapted, of("evaluation"), evaluation)
        return meta_test.Returns(before, after)

    def _first_memory(self, config: Any, num_tasks: int, num_envs: int) -> PyTree:
        memory = collect.first_memory(self._agent, config, self._spec, num_envs)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_tasks, *x.shape)), memory)

    def _walk(self, act: Any, config: Any, agent_state: PyTree, keys: Array, pool: Pool) -> Iterator[tuple]:
        """Yields (inputs, memory, action, extras, timestep) of each step, [K, N, ...]; the pool's arrays are copied.

        At last come the inputs and the memory after the last step, and Nones.
        """
        walk = host.Walk(pool)
        inputs = _copied(walk.first_inputs(0))
        memory = self._memory(config, pool.num_seeds, pool.num_envs)
        for t in range(self._length):
            action, following, extras = act(config, agent_state, keys, memory, inputs, np.int32(t))
            walk.send(0, np.asarray(action))
            timestep, after = walk.receive(0)
            yield inputs, memory, action, extras, _copied(timestep)
            inputs, memory = _copied(after), following
        yield inputs, memory, None, None, None

    def _collect(self, act: Any, config: Any, agent_state: PyTree, keys: Array, pool: Pool) -> Rollout:
        """A greedy rollout [K, T, N] from first observations."""
        *steps, (last, last_memory, *_) = self._walk(act, config, agent_state, keys, pool)
        inputs, memories, actions, extras, timesteps = zip(*steps, strict=True)

        def stacked(trees: tuple[PyTree, ...]) -> PyTree:
            return jax.tree.map(lambda *x: np.stack([np.asarray(one) for one in x], axis=1), *trees)

        timestep = stacked(timesteps)
        return Rollout(
            observation=stacked(tuple(one.observation for one in inputs)),
            action=stacked(actions),
            reward=timestep.reward,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            final_observation=timestep.final_observation,
            extras=stacked(extras),
            first=inputs[0],
            last=last,
            memory=memories[0],
            last_memory=last_memory,
            life_lost=timestep.life_lost,
        )

    def _first_returns(self, act: Any, config: Any, agent_state: PyTree, keys: Array, pool: Pool) -> np.ndarray:
        """The return of the first episode of each game, float32 [K, N]."""
        found = np.zeros((pool.num_seeds, pool.num_envs), np.float32)
        running = np.ones(found.shape, bool)
        for *_, timestep in self._walk(act, config, agent_state, keys, pool):
            if timestep is None or not running.any():
                break
            found += np.where(running, timestep.reward, 0)
            running &= ~(timestep.terminated | timestep.truncated)
        return found


def _copied(tree: PyTree) -> PyTree:
    """Without views of the pool's memory, which its next step overwrites: JAX on CPUs reads arrays in place."""
    return jax.tree.map(np.array, tree)
