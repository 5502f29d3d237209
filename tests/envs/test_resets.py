"""Automatic resets of a batch: as each environment alone, however many end at once, and under vmap and grad."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import sequential_vmap

from purerl.envs import resets
from purerl.types import EnvSpec, TimeStep

SPEC = EnvSpec("test/countdown", (2,), "float32", 2)


def reset(key):
    """An episode of 1 to 3 steps in a world of its own: a random number, which the observation shows."""
    length, world = jax.random.randint(key, (), 1, 4), jax.random.uniform(key)
    return (length, world), jnp.stack([world, length.astype(jnp.float32)])


def advance(key, state, action):
    length, world = state[0] - 1, state[1]
    ended, by_limit = length == 0, jax.random.bernoulli(key)
    observation = jnp.stack([world, length.astype(jnp.float32)])
    return (length, world), TimeStep(observation, world * action, ended & ~by_limit, ended & by_limit)


def play(step_all, num_envs, num_steps=30, seed=0):
    """The TimeSteps [T, N] of a walk, and the last states."""
    states, _ = jax.vmap(reset)(jax.random.split(jax.random.key(seed), num_envs))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), (num_steps, num_envs))
    return jax.lax.scan(lambda s, k: step_all(k, s, jnp.ones(num_envs)), states, keys)[::-1]


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("num_envs", [1, 7, 130])
def test_a_batch_is_its_environments_side_by_side(num_envs):
    """Three are reset at a time, and about sixty of 130 end at once."""
    environment = resets.automatic(SPEC, reset, advance, at_once=lambda n: min(n, 3))
    found, expected = (play(f, num_envs) for f in (environment.step_all, jax.vmap(environment.step)))
    same(found, expected)
    timestep, _ = found
    done = timestep.terminated | timestep.truncated
    assert (
        timestep.terminated.any() and timestep.truncated.any() and not (timestep.terminated & timestep.truncated).any()
    )
    np.testing.assert_array_equal(timestep.final_observation[..., 1] == 0, done)
    assert (timestep.observation[..., 1] > 0).all()
    begun = np.asarray(timestep.observation[..., 0])[np.asarray(done)]
    assert len(np.unique(begun)) == done.sum()  # every episode has a world of its own
    np.testing.assert_array_equal(timestep.observation[~done], timestep.final_observation[~done])


def test_optimistic_resets_share_worlds_only_where_more_end_than_there_are():
    own, shared = (resets.automatic(SPEC, reset, advance, k) for k in (0, 4))  # two new worlds for eight environments
    state, _ = jax.vmap(reset)(jax.random.split(jax.random.key(0), 8))
    keys = jax.random.split(jax.random.key(1), 8)
    for ending, worlds in (((), 0), ((5,), 1), ((2, 7), 2), ((0, 3, 4, 6, 7), 2), (range(8), 2)):
        length = np.full(8, 3)
        length[list(ending)] = 1
        states = (jnp.asarray(length), state[1])
        mine, its = (e.step_all(keys, states, jnp.zeros(8)) for e in (own, shared))
        first = list(ending)[:2]
        as_alone = np.union1d(first, np.setdiff1d(np.arange(8), list(ending))).astype(int)
        same(*(jax.tree.map(lambda x: x[as_alone], one) for one in (its, mine)))  # noqa: B023
        begun = np.asarray(its[1].observation[:, 0])[list(ending)]
        assert len(np.unique(begun)) == worlds
        if len(first) == 2:
            np.testing.assert_array_equal(begun, np.resize(begun[:2], len(begun)))  # one after the other
    # More environments for a world than there are: one world.
    begun = resets.automatic(SPEC, reset, advance, 100).step_all(keys, (jnp.ones(8, int), state[1]), jnp.zeros(8))
    assert len(np.unique(begun[1].observation[:, 0])) == 1


@pytest.mark.parametrize(("environments_per_world", "begin"), [(0, reset), (3, reset), (0, sequential_vmap(reset))])
def test_lanes_are_a_vmap_and_rewards_have_derivatives(environments_per_world, begin):
    """Also where worlds cannot be made side by side."""
    environment = resets.automatic(SPEC, begin, advance, environments_per_world)
    step_all = environment.step_all
    lanes = jax.vmap(lambda seed: play(step_all, 6, seed=seed))(jnp.arange(3))
    for seed in range(3):
        same(jax.tree.map(lambda x: x[seed], lanes), play(step_all, 6, seed=seed))  # noqa: B023

    if not environments_per_world:
        same(play(jax.vmap(environment.step), 6), play(step_all, 6))

    def total(scale):
        states, _ = jax.vmap(reset)(jax.random.split(jax.random.key(0), 6))
        keys = jax.random.split(jax.random.key(1), (9, 6))
        return jax.lax.scan(lambda s, k: step_all(k, s, scale * jnp.ones(6)), states, keys)[1].reward.sum()

    value, slope = jax.jit(jax.value_and_grad(total))(2.0)
    np.testing.assert_allclose(slope, value / 2, rtol=1e-6)
