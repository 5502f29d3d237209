"""A trained policy in a loop of the caller's own. Training as a function is in tests/loops/test_pure_train.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.errors import PurerlError

CARTPOLE = "gymnax/CartPole-v1"
SMALL = {"num_envs": 4, "rollout_length": 8, "num_minibatches": 2, "network": "mlp", "hidden": (8,)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two seeds of PPO after an update."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return purerl.train("ppo", CARTPOLE, seeds=2, seed=4, steps=32, config=SMALL, out=folder, quiet=True)


@pytest.fixture(scope="module")
def recurrent_run(tmp_path_factory):
    """PPO with a GRU after an update."""
    folder = tmp_path_factory.mktemp("recurrent") / "run"
    config = SMALL | {"recurrent": "gru", "recurrent_size": 4}
    return purerl.train("ppo", CARTPOLE, steps=32, config=config, out=folder, quiet=True)


def test_a_policy_is_a_function_of_one_observation(run):
    """Greedy actions are those of the network of the seed that is asked for; it can be jitted and vmapped."""
    from purerl.agents import ppo

    observations = jax.random.normal(jax.random.key(0), (16, 4))
    for lane, seed in enumerate((4, 5)):
        policy = purerl.load_policy(run.folder, seed=seed, greedy=True)
        actions = jax.jit(jax.vmap(policy, (0, None)))(observations, jax.random.key(1))
        params = jax.tree.map(lambda x: x[lane], run.state.agent.params)  # noqa: B023
        logits, _, _ = ppo.network(policy.config, policy.spec).apply(params, observations)
        np.testing.assert_array_equal(actions, jnp.argmax(logits, axis=-1))
    with pytest.raises(PurerlError, match="has no seed 7: it has 4, 5"):
        purerl.load_policy(run.folder, seed=7)


def test_without_greedy_actions_are_sampled(run):
    policy = purerl.load_policy(run.folder)
    keys = jax.random.split(jax.random.key(0), 64)
    assert set(np.asarray(jax.vmap(policy, (None, 0))(jnp.zeros(4), keys))) == {0, 1}


def test_a_policy_with_memory_gives_it_and_takes_it(recurrent_run):
    policy = purerl.load_policy(recurrent_run.folder, greedy=True)
    act = jax.jit(policy)
    key, observation = jax.random.key(0), jnp.ones(4)
    _, memory = act(observation, key, policy.first_memory, is_first=True)
    _, after = act(observation, key, memory, last_action=1, last_reward=1.0)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(memory), jax.tree.leaves(after), strict=True))
    _, again = act(observation, key, after, is_first=True)
    for fresh, first in zip(jax.tree.leaves(again), jax.tree.leaves(memory), strict=True):
        np.testing.assert_allclose(fresh, first, atol=1e-6)
    with pytest.raises(PurerlError, match="acts with memory"):
        policy(observation, key)
