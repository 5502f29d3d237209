"""Automatic resets of environments whose reset costs more than their steps: only where an episode ended is one made.

Under vmap a branch runs both of its sides, so a step that resets "where it has ended" makes a new world for every
environment at every step. Here the whole batch is stepped first, and new worlds are made for those that ended.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl.types import Array, Environment, EnvSpec, PyTree, TimeStep

Reset = Callable[[Array], tuple[PyTree, Array]]


def worlds_at_once(num_envs: int) -> int:
    """How many worlds are made side by side for a batch: about as many as episodes of some hundred steps end at once.

    More would be made in vain, and fewer would wait for one another. A CPU makes one after the other anyway.
    """
    return 1 if jax.default_backend() == "cpu" else -(-num_envs // 64)


def automatic(
    spec: EnvSpec,
    reset: Reset,
    advance: Callable[[Array, PyTree, Array], tuple[PyTree, TimeStep]],
    environments_per_world: int = 0,
    at_once: Callable[[int], int] = worlds_at_once,
) -> Environment:
    """An environment that resets itself in the step that ends an episode.

    A step splits its key in two, for the step and for the reset.

    Args:
      reset: key -> (state, observation).
      advance: (key, state, action) -> (state, TimeStep) without a reset: its observation is the final one.
      environments_per_world: 0 makes a world for each environment that ended. k > 0 makes one for every k environments
        of the batch in a step in which any ended, whether one or all of them did; where more have ended than there are
        new worlds, some begin in the same one. These are the optimistic resets of Craftax (Matthews et al. 2024, arXiv
        2402.16801).
      at_once: number of environments -> how many of their own worlds are made side by side.
    """

    def moved(key: Array, state: PyTree, action: Array) -> tuple[Array, PyTree, TimeStep]:
        key_step, key_reset = jax.random.split(key)
        state, timestep = advance(key_step, state, action)
        # A new world depends on nothing that a gradient could follow, and a loop of unknown length has no reverse mode.
        return key_reset, jax.lax.stop_gradient(state), timestep.replace(final_observation=timestep.observation)

    def step_batch(keys: Array, states: PyTree, actions: Array) -> tuple[PyTree, TimeStep]:
        keys_reset, states, timestep = jax.vmap(moved)(keys, states, actions)
        done = timestep.terminated | timestep.truncated
        kept = states, jax.lax.stop_gradient(timestep.observation)
        if environments_per_world:
            worlds = -(-done.shape[0] // environments_per_world)
            states, observation = _in_shared_worlds(reset, keys_reset, done, kept, worlds)
        else:
            states, observation = _in_own_worlds(reset, keys_reset, done, kept, at_once(done.shape[0]))
        return states, timestep.replace(observation=observation)

    def step(key: Array, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], (key, state, action))
        return jax.tree.map(lambda x: x[0], step_batch(*one))

    return Environment(spec, reset, step, step_batch=step_batch)


def _in_own_worlds(reset: Reset, keys: Array, done: Array, kept: PyTree, at_once: int) -> PyTree:
    """`kept` [N, ...] with a world of its own where `done` [N], of that environment's key; made some at a time."""
    num_envs = done.shape[0]

    def some(carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
        left, current = carry
        index = jnp.nonzero(left, size=at_once, fill_value=num_envs)[0]
        fresh = jax.vmap(reset)(keys[jnp.minimum(index, num_envs - 1)])
        current = jax.tree.map(lambda x, new: x.at[index].set(new, mode="drop"), current, fresh)
        return left.at[index].set(False, mode="drop"), current

    return jax.lax.while_loop(lambda carry: jnp.any(carry[0]), some, (done, kept))[1]


def _in_shared_worlds(reset: Reset, keys: Array, done: Array, kept: PyTree, num_worlds: int) -> PyTree:
    """`kept` [N, ...] with one of W new worlds where `done` [N]: of the keys of the first W that ended, dealt in turn.

    As long as no more than W end, every one has the world that it would have of its own.
    """

    def renewed() -> PyTree:
        index = jnp.nonzero(done, size=num_worlds, fill_value=0)[0]
        worlds = jax.vmap(reset)(keys[index])
        which = (jnp.cumsum(done) - 1) % num_worlds

        def chosen(x: Array, new: Array) -> Array:
            return jnp.where(done.reshape(-1, *[1] * (x.ndim - 1)), new[which], x)

        return jax.tree.map(chosen, kept, worlds)

    return jax.lax.cond(jnp.any(done), renewed, lambda: kept)
