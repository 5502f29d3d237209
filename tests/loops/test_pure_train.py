"""Training as a pure function: under jit, nested vmap, scan and grad of the caller's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.errors import PurerlError

CARTPOLE = "gymnax/CartPole-v1"
SMALL = {"num_envs": 4, "network": "mlp", "hidden": (8,)}
ON_POLICY = SMALL | {"rollout_length": 8, "num_minibatches": 2}
OFF_POLICY = SMALL | {
    "rollout_length": 2,
    "train_period": 4,
    "target_period": 8,
    "replay_size": 64,
    "learning_starts": 16,
    "batch_size": 4,
}
CONFIGS = {
    "ppo": ON_POLICY | {"num_epochs": 2, "anneal_learning_rate": False},
    "ppg": ON_POLICY
    | {"adam_epsilon": 1e-3, "policy_iterations": 2, "auxiliary_minibatches": 2, "auxiliary_memory": "host"},
    "dqn": OFF_POLICY | {"proximal_coefficient": 0.5},
    "rainbow": OFF_POLICY | {"atoms": 5, "noisy": True},
    "p3o": SMALL | {"rollout_length": 8, "replay_size": 32, "learning_starts": 16, "sample_multiplier": 2},
    "pqn": ON_POLICY | {"num_epochs": 2, "optimizer_epsilon": 1e-2, "reward_scale": 1.0},
}


def small_train(agent, iterations=5):
    config = CONFIGS[agent]
    steps = iterations * config["num_envs"] * config["rollout_length"]
    return purerl.make_train(agent, CARTPOLE, steps=steps, preset="classic", **config)


# Rainbow's is DQN's with more in it.
@pytest.mark.parametrize("agent", ["ppo", "ppg", "rainbow", "pqn", "p3o"])
def test_the_derivative_of_late_parameters_is_the_difference_quotient(agent):
    train = small_train(agent)

    def late(rate, key):
        state, _ = train(key, train.config.replace(learning_rate=rate))
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(state.agent.params))

    value_and_slope = jax.jit(jax.value_and_grad(late))
    key, rate, step = jax.random.key(1), 1e-3, 2e-5
    _, slope = value_and_slope(rate, key)
    (above, _), (below, _) = value_and_slope(rate + step, key), value_and_slope(rate - step, key)
    assert np.isfinite(slope) and slope != 0
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=0.05)


def test_nested_vmap_over_keys_and_fields():
    train = small_train("ppo")
    keys, rates = purerl.seed_keys(3, 2), jnp.array([1e-4, 1e-3, 1e-2])
    over_rates = jax.vmap(train, (None, 0))
    state, curves = jax.jit(jax.vmap(over_rates, (0, None)))(keys, train.config.replace(learning_rate=rates))
    assert curves["policy_loss"].shape == (2, 3, 5)
    alone, curve = jax.jit(train)(keys[1], train.config.replace(learning_rate=rates[2]))
    np.testing.assert_allclose(curves["policy_loss"][1, 2], curve["policy_loss"], atol=1e-4)
    for a, b in zip(jax.tree.leaves(state.agent.params), jax.tree.leaves(alone.agent.params), strict=True):
        np.testing.assert_allclose(a[1, 2], b, atol=1e-3)


def test_it_is_the_run_of_purerl_train(tmp_path):
    """The same seed, the same random numbers: `train` of a key and a kept run end alike."""
    train = small_train("ppo")
    config = CONFIGS["ppo"]
    kept = purerl.train(
        "ppo", CARTPOLE, preset="classic", seed=3, steps=5 * 32, config=config, out=tmp_path, quiet=True
    )
    state, _ = jax.jit(train)(purerl.seed_keys(3, 1)[0])
    for a, b in zip(jax.tree.leaves(state.agent.params), jax.tree.leaves(kept.state.agent.params), strict=True):
        np.testing.assert_allclose(a, b[0], atol=1e-5)


def test_going_on_in_two_parts_is_one_run():
    train = small_train("ppo", iterations=4)
    key = purerl.seed_keys(0, 1)[0]
    whole, curves = jax.jit(train)(key)
    halves = jax.jit(lambda k: train.run(train.run(train.init(k), iterations=2)[0], first=2, iterations=2))
    state, second = halves(key)
    for a, b in zip(jax.tree.leaves(state.agent), jax.tree.leaves(whole.agent), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(second["entropy"], curves["entropy"][2:], atol=1e-5)


def test_orthogonal_weights_can_be_vmapped():
    """A batched QR decomposition could wait for ever on CPUs (jaxlib 0.10): 64 of them at once, several times."""
    train = purerl.make_train(
        "ppo", CARTPOLE, steps=1, preset="classic", num_envs=2, rollout_length=2, num_minibatches=1
    )
    init = jax.jit(jax.vmap(train.init))
    for first in range(3):
        states = jax.block_until_ready(init(purerl.seed_keys(first, 64)))
    assert jax.tree.leaves(states.agent.params)[0].shape[0] == 64


def test_the_host_cannot_stand_in_a_pure_function():
    with pytest.raises(PurerlError, match="lives on the host"):
        purerl.make_train("ppo", "procgen/coinrun")
