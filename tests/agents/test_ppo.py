"""PPO: the published sizes, the Baselines details, and bootstrapping at time-outs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import configs
from purerl.agents import ppo
from purerl.errors import PurerlError
from purerl.ops import advantages
from purerl.types import Clock, EnvSpec, Rollout

VECTOR = EnvSpec("test/vector", (3,), "float32", 4)
PROCGEN = EnvSpec("test/procgen", (64, 64, 3), "uint8", 15, shows_final_observation=False)
SMALL = {"num_envs": 4, "rollout_length": 6, "num_minibatches": 4, "network": "mlp", "initializer": "orthogonal"}


def small_config(**overrides):
    return configs.traced(ppo.Config(**SMALL | overrides))


def a_rollout(config, truncated_at=None):
    """Ones for rewards, values 1 at the start of a row and what `last` says at its end."""
    shape = (config.rollout_length, config.num_envs)
    truncated = np.zeros(shape, bool)
    if truncated_at is not None:
        truncated[truncated_at] = True
    return Rollout(
        observation=jnp.zeros((*shape, 3)),
        action=jnp.zeros(shape, jnp.int32),
        reward=jnp.ones(shape),
        terminated=jnp.zeros(shape, bool),
        truncated=jnp.asarray(truncated),
        final_observation=jnp.full((*shape, 3), 7.0),
        valid=None,
        extras=advantages.ActorCriticExtras(jnp.zeros(shape), jnp.ones(shape)),
        last_observation=jnp.full((config.num_envs, 3), 2.0),
    )


def first_feature(observation):
    """A value function that reads its value off the observation."""
    return observation[..., 0]


def test_parameter_count():
    config = configs.traced(ppo.Config())
    shapes = jax.eval_shape(
        lambda key: ppo.network(config, PROCGEN).init(key, jnp.zeros((1, 64, 64, 3), jnp.uint8)), jax.random.key(0)
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 626_256


def test_the_value_loss_of_baselines_weighs_a_quarter():
    """Half a squared error times a coefficient of 0.5: an error of 2 costs 0.25 * 4 = 1."""
    config = small_config(scale_rewards="none", entropy_coefficient=0.0, clip_values=False)
    state = ppo.init(config, VECTOR, jax.random.key(0))
    observation = jnp.zeros((5, 3))
    value = ppo.network(config, VECTOR).apply(state.params, observation)[1]
    logits = ppo.network(config, VECTOR).apply(state.params, observation)[0]
    action = jnp.zeros(5, jnp.int32)
    log_prob = jax.nn.log_softmax(logits)[:, 0]
    batch = advantages.ActorCriticBatch(observation, action, log_prob, value, jnp.zeros(5), value + 2.0, None)
    total, terms = ppo.loss(config, VECTOR, state.params, batch)
    assert float(terms["value_loss"]) == pytest.approx(2.0, rel=1e-5)
    assert float(total) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(("terminal", "expected"), [(True, 1.0), (False, 1 + 0.5 * 7.0)])
def test_time_outs_bootstrap_from_the_final_observation_or_end(terminal, expected):
    """At a time-out the target is r + gamma V(final observation), or r alone where a time-out is an end."""
    config = small_config(
        scale_rewards="none",
        discount=0.5,
        trace_decay=0.0,
        time_limit_is_terminal=terminal,
        normalize_advantages="none",
    )
    state = ppo.init(config, VECTOR, jax.random.key(0))
    _, batch, _ = advantages.actor_critic_batch(
        config, state.reward_normalizer, a_rollout(config, truncated_at=2), first_feature
    )
    np.testing.assert_allclose(batch.value_target[2], expected)
    np.testing.assert_allclose(batch.value_target[1], 1 + 0.5 * 1.0)
    # The last row bootstraps from the observation behind the rollout.
    np.testing.assert_allclose(batch.value_target[-1], 1 + 0.5 * 2.0)


def test_rows_that_are_not_valid_teach_nothing():
    """Garbage in an auto-reset row changes no parameter."""
    config = small_config(scale_rewards="none")
    state = ppo.init(config, VECTOR, jax.random.key(0))
    rollout = a_rollout(config)
    ends = rollout.terminated.at[2].set(True)
    valid = jnp.ones_like(ends).at[3].set(False)
    rollout = rollout.replace(terminated=ends, valid=valid)
    garbage = rollout.replace(
        observation=rollout.observation.at[3].set(99.0),
        reward=rollout.reward.at[3].set(-50.0),
        extras=rollout.extras.replace(value=rollout.extras.value.at[3].set(33.0)),
    )
    clock = Clock(jnp.int32(0), jnp.int32(1))
    update = jax.jit(ppo.update, static_argnums=1)
    clean, _ = update(config, VECTOR, state, rollout, jax.random.key(1), clock)
    dirty, _ = update(config, VECTOR, state, garbage, jax.random.key(1), clock)
    for a, b in zip(jax.tree.leaves(clean.params), jax.tree.leaves(dirty.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_learning_rate_is_annealed_by_the_clock():
    """Half way through the run a step is half as long (first Adam step: length = learning rate)."""
    config = small_config(scale_rewards="none", anneal_learning_rate=True, num_epochs=1, num_minibatches=1)
    state = ppo.init(config, VECTOR, jax.random.key(0))
    update = jax.jit(ppo.update, static_argnums=1)

    def largest_step(iteration):
        clock = Clock(jnp.int32(iteration), jnp.int32(10))
        new, _ = update(config, VECTOR, state, a_rollout(config), jax.random.key(1), clock)
        moves = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), new.params, state.params)
        return max(map(float, jax.tree.leaves(moves)))

    assert largest_step(0) == pytest.approx(5e-4, rel=1e-2)
    assert largest_step(5) == pytest.approx(2.5e-4, rel=1e-2)


def test_a_step_with_the_adam_of_baselines():
    """One update against numpy: TensorFlow 1 adds epsilon before the bias is corrected, a far shorter first step."""
    config = small_config(
        scale_rewards="none", num_epochs=1, num_minibatches=1, optimizer="adam-tensorflow", adam_epsilon=1e-3
    )
    state = ppo.init(config, VECTOR, jax.random.key(0))
    clock = Clock(jnp.int32(0), jnp.int32(1))
    new, _ = ppo.update(config, VECTOR, state, a_rollout(config), jax.random.key(1), clock)
    value = lambda o: ppo.network(config, VECTOR).apply(state.params, o)[1]  # noqa: E731
    _, batch, _ = advantages.actor_critic_batch(config, state.reward_normalizer, a_rollout(config), value)
    gradients = jax.tree.leaves(jax.grad(ppo.loss, argnums=2, has_aux=True)(config, VECTOR, state.params, batch)[0])
    norm = np.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in gradients))
    for before, after, g in zip(*map(jax.tree.leaves, (state.params, new.params)), gradients, strict=True):
        g = np.asarray(g) * min(1, 0.5 / norm)
        first, second = 0.1 * g, 0.001 * g**2
        step = 5e-4 * np.sqrt(1 - 0.999) / (1 - 0.9) * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(after - before, -step, atol=2e-8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_minibatches": 7}, "num_minibatches = 7 does not divide num_envs x rollout_length = 24"),
        ({"shuffle": "environments", "num_minibatches": 3}, "num_minibatches = 3 does not divide num_envs = 4"),
        ({"network": "impala"}, "impala"),
    ],
)
def test_impossible_configs_are_named(overrides, message):
    with pytest.raises(PurerlError, match=message):
        ppo.check(ppo.Config(**SMALL | overrides), VECTOR)
