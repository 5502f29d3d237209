"""PPO: the published sizes, the Baselines details, bootstrapping at time-outs, and a memory that is replayed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import configs, registry, rng
from purerl.agents import ppg, ppo
from purerl.errors import PurerlError
from purerl.loops import collect
from purerl.nn import torsos
from purerl.ops import advantages, distributions, normalizers
from purerl.types import Clock, Inputs

CLOCK = Clock(jnp.int32(0), jnp.int32(10))
SMALL = {"num_envs": 4, "rollout_length": 6, "num_minibatches": 4, "network": "mlp", "initializer": "orthogonal"}


def small_config(**overrides):
    return configs.traced(ppo.Config(**SMALL | overrides))


@pytest.fixture
def a_rollout(make_rollout, specs):
    """(config, truncated_at=None) -> rewards and values are 1; final observations show 7, the last observation 2."""

    def make(config, truncated_at=None):
        shape = (config.rollout_length, config.num_envs)
        truncated = np.zeros(shape, bool)
        if truncated_at is not None:
            truncated[truncated_at] = True
        return make_rollout(
            specs.vector,
            *shape,
            reward=jnp.ones(shape),
            truncated=jnp.asarray(truncated),
            final_observation=jnp.full((*shape, 3), 7.0),
            extras=advantages.ActorCriticExtras(jnp.zeros(shape), jnp.ones(shape)),
            last_observation=jnp.full((config.num_envs, 3), 2.0),
        )

    return make


def first_feature(observation):
    """A value function that reads its value off the observation."""
    return observation[..., 0]


def test_parameter_count(specs):
    config = configs.traced(ppo.Config())
    shapes = jax.eval_shape(
        lambda key: ppo.network(config, specs.procgen).init(key, jnp.zeros((1, 64, 64, 3), jnp.uint8)),
        jax.random.key(0),
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 626_256


@pytest.mark.parametrize("agent", [ppo, ppg])
def test_every_field_of_the_torso_is_passed_on(agent, specs):
    config = agent.Config(
        network="impala",
        initializer="glorot",
        pooling="tensorflow",
        channels=(4, 5),
        hidden=(7,),
        activation="relu",
        dtype="bfloat16",
    )
    bfloat16 = jnp.dtype("bfloat16")
    assert agent.make_torso(config, specs.procgen)(name="torso") == torsos.ImpalaCNN(
        channels=(4, 5), initializer="glorot", pooling="tensorflow", dtype=bfloat16, name="torso"
    )
    mlp = agent.make_torso(config.replace(network="mlp"), specs.procgen)()
    assert mlp == torsos.MLP((7,), "relu", 3, "glorot", bfloat16)
    nature = agent.make_torso(config.replace(network="nature"), specs.procgen)()
    assert nature == torsos.NatureCNN(initializer="glorot", dtype=bfloat16)


def test_the_value_loss_of_baselines_weighs_a_quarter(specs):
    """Half a squared error times a coefficient of 0.5: an error of 2 costs 0.25 * 4 = 1."""
    config = small_config(scale_rewards="none", entropy_coefficient=0.0, clip_values=False)
    state = ppo.init(config, specs.vector, jax.random.key(0))
    observation = jnp.zeros((5, 3))
    logits, value, memory = ppo.network(config, specs.vector).apply(state.params, observation)
    assert memory == ()
    action = jnp.zeros(5, jnp.int32)
    log_prob = jax.nn.log_softmax(logits)[:, 0]
    batch = advantages.ActorCriticBatch(observation, action, log_prob, value, jnp.zeros(5), value + 2.0)
    total, terms = ppo.loss(config, specs.vector, state.params, batch)
    assert float(terms["value_loss"]) == pytest.approx(2.0, rel=1e-5)
    assert float(total) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(("terminal", "expected"), [(True, 1.0), (False, 1 + 0.5 * 7.0)])
def test_time_outs_bootstrap_from_the_final_observation_or_end(terminal, expected, a_rollout, specs):
    """At a time-out the target is r + gamma V(final observation), or r alone where a time-out is an end."""
    config = small_config(
        scale_rewards="none",
        discount=0.5,
        gae_lambda=0.0,
        time_limit_is_terminal=terminal,
        normalize_advantages="none",
    )
    state, rollout = ppo.init(config, specs.vector, jax.random.key(0)), a_rollout(config, truncated_at=2)
    time_outs = advantages.bootstraps_time_outs(rollout, terminal)
    assert time_outs != terminal
    _, batch, _ = advantages.actor_critic_batch(
        rollout,
        rollout.observation,
        state.reward_normalizer,
        last_value=first_feature(rollout.last.observation),
        final_value=first_feature(rollout.final_observation) if time_outs else None,
        time_limit_is_terminal=terminal,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    )
    np.testing.assert_allclose(batch.value_target[2], expected)
    np.testing.assert_allclose(batch.value_target[1], 1 + 0.5 * 1.0)
    # The last row bootstraps from the observation after the rollout.
    np.testing.assert_allclose(batch.value_target[-1], 1 + 0.5 * 2.0)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_values_to_bootstrap_from_are_the_networks(terminal, a_rollout, specs):
    config = small_config(time_limit_is_terminal=terminal)
    state = ppo.init(config, specs.vector, jax.random.key(0))
    value = lambda observation: ppo.network(config, specs.vector).apply(state.params, observation)[1]  # noqa: E731
    last, final = ppo.bootstrap_values(config, specs.vector, state.params, a_rollout(config, truncated_at=2))
    np.testing.assert_allclose(last, value(jnp.full((4, 3), 2.0)), rtol=1e-6)
    if terminal:
        assert final is None
    else:
        np.testing.assert_allclose(final, value(jnp.full((6, 4, 3), 7.0)), rtol=1e-6)


def test_learning_rate_is_annealed_by_the_clock(a_rollout, specs):
    """Half way through the run a step is half as long (first Adam step: length = learning rate)."""
    config = small_config(scale_rewards="none", anneal_learning_rate=True, num_epochs=1, num_minibatches=1)
    state = ppo.init(config, specs.vector, jax.random.key(0))
    update = jax.jit(ppo.update, static_argnums=1)

    def largest_step(iteration):
        clock = Clock(jnp.int32(iteration), jnp.int32(10))
        new, _ = update(config, specs.vector, state, a_rollout(config), jax.random.key(1), clock)
        moves = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), new.params, state.params)
        return max(map(float, jax.tree.leaves(moves)))

    assert largest_step(0) == pytest.approx(5e-4, rel=1e-2)
    assert largest_step(5) == pytest.approx(2.5e-4, rel=1e-2)


def test_a_step_with_the_adam_of_baselines(a_rollout, specs):
    """One update against numpy: TensorFlow 1 adds epsilon before the bias is corrected, a far shorter first step."""
    config = small_config(
        scale_rewards="none", num_epochs=1, num_minibatches=1, optimizer="adam-tensorflow", adam_epsilon=1e-3
    )
    state = ppo.init(config, specs.vector, jax.random.key(0))
    clock = Clock(jnp.int32(0), jnp.int32(1))
    new, _ = ppo.update(config, specs.vector, state, a_rollout(config), jax.random.key(1), clock)
    rollout = a_rollout(config)
    last_value, final_value = ppo.bootstrap_values(config, specs.vector, state.params, rollout)
    _, batch, _ = advantages.actor_critic_batch(
        rollout,
        rollout.observation,
        state.reward_normalizer,
        last_value=last_value,
        final_value=final_value,
        time_limit_is_terminal=config.time_limit_is_terminal,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    )
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    gradients = jax.tree.leaves(
        jax.grad(ppo.loss, argnums=2, has_aux=True)(config, specs.vector, state.params, batch)[0]
    )
    norm = np.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in gradients))
    for before, after, g in zip(*map(jax.tree.leaves, (state.params, new.params)), gradients, strict=True):
        g = np.asarray(g) * min(1, 0.5 / norm)
        first, second = 0.1 * g, 0.001 * g**2
        step = 5e-4 * np.sqrt(1 - 0.999) / (1 - 0.9) * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(after - before, -step, atol=2e-8)


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_learning_sees_the_observations_that_acting_saw(recurrent, make_rollout, specs):
    """Before the first gradient step the policy is the one that acted, so their divergence is 0."""
    config = small_config(normalize_observations=True, num_epochs=1, num_minibatches=1, recurrent=recurrent)
    spec, (steps, num_envs) = specs.continuous, (config.rollout_length, config.num_envs)
    observation = 5 + 3 * jax.random.normal(jax.random.key(0), (steps, num_envs, 3))
    state = ppo.init(config, spec, jax.random.key(1))
    seen = normalizers.update_observation_normalizer(state.observation_normalizer, observation[:, :, ::-1] * 2)
    state, memory = state.replace(observation_normalizer=seen), collect.first_memory(ppo.AGENT, config, spec, num_envs)
    first, rows, inputs = memory, [], Inputs.at_start(spec, observation[0])
    act, update = jax.jit(ppo.act, static_argnums=(1, 7)), jax.jit(ppo.update, static_argnums=1)
    for t in range(steps):
        keys = jax.random.split(jax.random.key(t), num_envs)
        action, memory, extras = act(config, spec, state, memory, inputs, keys, CLOCK, True)
        rows.append((action, extras))
        zeros = jnp.zeros(num_envs)
        inputs = Inputs.after(observation[(t + 1) % steps], action, zeros, zeros > 0)
    action, extras = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    rollout = make_rollout(
        spec, steps, num_envs, observation=observation, action=action, extras=extras, memory=first, last_memory=memory
    )
    after, metrics = update(config, spec, state, rollout, jax.random.key(2), CLOCK)
    assert abs(float(metrics["approximate_kl"].mean())) < 1e-6
    assert float(after.observation_normalizer.count) == pytest.approx(2 * steps * num_envs, rel=1e-5)
    expected = normalizers.update_observation_normalizer(seen, observation)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), after.observation_normalizer, expected)
    wrong = state.replace(observation_normalizer=expected)
    assert float(update(config, spec, wrong, rollout, jax.random.key(2), CLOCK)[1]["approximate_kl"].mean()) > 1e-6


def test_without_normalization_there_are_no_statistics(specs):
    assert ppo.init(small_config(), specs.vector, jax.random.key(0)).observation_normalizer == ()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_minibatches": 7}, "num_minibatches = 7 does not divide num_envs x rollout_length = 24"),
        ({"shuffle": "environments", "num_minibatches": 3}, "num_minibatches = 3 does not divide num_envs = 4"),
        ({"recurrent": "gru", "num_minibatches": 3}, "num_minibatches = 3 does not divide num_envs = 4"),
        ({"network": "impala"}, "impala"),
    ],
)
def test_impossible_configs_are_named(overrides, message, specs):
    with pytest.raises(PurerlError, match=message):
        ppo.check(ppo.Config(**SMALL | overrides), specs.vector)


# --- with a memory ---------------------------------------------------------------------------------------------------


@functools.cache
def recurrent_rollouts(share_torso):
    """(config, spec, agent state, two rollouts in a row of CartPole with a time limit of 5 steps)."""
    family, name = registry.environment("gymnax/CartPole-v1")
    environment = family.make(name, family.Options(max_steps=5))
    config = small_config(
        recurrent="gru",
        recurrent_size=8,
        rollout_length=12,
        share_torso=share_torso,
        time_limit_is_terminal=False,
        hidden=(16,),
    )
    state = ppo.init(config, environment.spec, jax.random.key(3))

    @jax.jit
    def collected():
        run_state = collect.begin(ppo.AGENT, environment, config, state, rng.seed_keys(0, 1)[0], config.num_envs)
        rollouts = []
        for i in range(2):
            run_state, rollout = collect.collect(
                ppo.AGENT, environment, config, run_state, CLOCK, length=config.rollout_length, iteration=i
            )
            rollouts.append(rollout)
        return rollouts

    return config, environment.spec, state, collected()


@pytest.mark.parametrize("share_torso", [True, False])
def test_replayed_from_its_first_memory_a_rollout_is_what_acting_saw(share_torso):
    """The log-probabilities, values and memories of acting, to rounding; from another memory they are others."""
    config, spec, state, rollouts = recurrent_rollouts(share_torso)
    network, policy = ppo.network(config, spec), distributions.for_spec(spec)
    for i, rollout in enumerate(rollouts):
        assert len(rollout.memory) == (1 if share_torso else 2)
        parameters, value, memories = network.apply(state.params, rollout.inputs(), rollout.memory)
        np.testing.assert_allclose(policy.log_prob(parameters, rollout.action), rollout.extras.log_prob, atol=1e-5)
        np.testing.assert_allclose(value, rollout.extras.value, atol=1e-5)
        jax.tree.map(
            lambda all_rows, last: np.testing.assert_allclose(all_rows[-1], last, atol=1e-5),
            memories,
            rollout.last_memory,
        )
        # Half way in an episode the memory matters: a replay from nothing is another one until the episode ends.
        blank = network.apply(state.params, rollout.inputs(), jax.tree.map(jnp.zeros_like, rollout.memory))[1]
        assert np.asarray(rollout.first.is_first).all() == (i == 0)
        assert (np.abs(blank[0] - rollout.extras.value[0]).max() > 1e-4) == (i == 1)
        np.testing.assert_allclose(blank[5:], rollout.extras.value[5:], atol=1e-5)
    assert rollouts[0].truncated.any() and not rollouts[0].truncated.all()
    jax.tree.map(np.testing.assert_array_equal, rollouts[0].last_memory, rollouts[1].memory)


@pytest.mark.parametrize("share_torso", [True, False])
def test_a_memory_is_bootstrapped_from(share_torso):
    """Behind the rollout and at its final observations stand the values that acting there would have seen."""
    config, spec, state, (rollout, following) = recurrent_rollouts(share_torso)
    last, final = jax.jit(lambda r: ppo.bootstrap_values(config, spec, state.params, r))(rollout)
    np.testing.assert_allclose(last, following.extras.value[0], atol=1e-5)
    memory, inputs = rollout.memory, rollout.inputs()
    keys = rng.per_environment(jax.random.key(0), config.num_envs)

    @jax.jit
    def step(memory, row, seen):
        _, memory, _ = collect.act(ppo.AGENT, spec, config, state, memory, row, keys, CLOCK, True)
        return memory, collect.act(ppo.AGENT, spec, config, state, memory, seen, keys, CLOCK, True)[2].value

    for t in range(config.rollout_length):
        row = jax.tree.map(lambda x: x[t], inputs)  # noqa: B023
        seen = Inputs(rollout.final_observation[t], jnp.zeros(4, bool), rollout.action[t], rollout.reward[t])
        memory, value = step(memory, row, seen)
        np.testing.assert_allclose(final[t], value, atol=1e-5)


@pytest.mark.parametrize("share_torso", [True, False])
def test_nothing_has_moved_before_the_first_gradient_step_of_a_memory(share_torso):
    """One minibatch, one epoch: ratios of 1, so an approximate KL of 0; a wrong memory or wrong inputs would show."""
    config, spec, state, rollouts = recurrent_rollouts(share_torso)
    once = config.replace(num_minibatches=1, num_epochs=1)
    new, metrics = jax.jit(lambda r: ppo.update(once, spec, state, r, jax.random.key(0), CLOCK))(rollouts[1])
    assert abs(float(metrics["approximate_kl"].total)) < 1e-6
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new.params, state.params)
    assert all(move > 0 for move in jax.tree.leaves(moved["params"]["core0"]))
