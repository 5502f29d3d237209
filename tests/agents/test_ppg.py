"""PPG against section 8 of its specification: the numbers of each check are in the test of that name."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import configs, registry, rng
from purerl.agents import ppg
from purerl.errors import PurerlError
from purerl.loops import in_graph
from purerl.ops import advantages, distributions, minibatches
from purerl.runs.plan import make_plan
from purerl.types import Clock, Inputs

SMALL = {
    "num_envs": 8,
    "rollout_length": 4,
    "policy_iterations": 3,
    "auxiliary_epochs": 2,
    "num_minibatches": 4,
    "auxiliary_minibatches": 2,
    "network": "mlp",
    "initializer": "orthogonal",
}


def small_config(**overrides):
    return configs.traced(ppg.Config(**SMALL | overrides))


@pytest.fixture(scope="module")
def random_rollout(make_rollout):
    """(config, spec, state, seed=0) -> a rollout of random observations and rewards in which the agent really acted."""

    def make(config, spec, state, seed=0):
        key = jax.random.key(seed)
        shape = (config.rollout_length, config.num_envs)
        observation = jax.random.normal(rng.at(key, 0), (*shape, *spec.observation_shape))
        keys = jax.vmap(lambda t: rng.per_environment(rng.at(key, 100 + t), config.num_envs))(jnp.arange(shape[0]))
        clock = Clock(jnp.int32(0), jnp.int32(10))

        def act(observation, keys):
            inputs = Inputs.at_start(spec, observation)
            action, memory, extras = ppg.act(config, spec, state, (), inputs, keys, clock, True)
            assert memory == ()
            return action, extras

        action, extras = jax.vmap(act)(observation, keys)
        return make_rollout(
            spec,
            *shape,
            observation=observation,
            action=action,
            reward=jax.random.normal(rng.at(key, 1), shape),
            terminated=jax.random.bernoulli(rng.at(key, 2), 0.2, shape),
            extras=extras,
            last_observation=jax.random.normal(rng.at(key, 3), (config.num_envs, *spec.observation_shape)),
        )

    return make


def run_updates(random_rollout, config, spec, iterations):
    """The states after 0, 1, ..., iterations updates."""
    update = jax.jit(ppg.update, static_argnums=1)
    state = ppg.init(config, spec, jax.random.key(1))
    states = [state]
    for i in range(iterations):
        clock = Clock(jnp.int32(i), jnp.int32(iterations))
        rollout = random_rollout(config, spec, state, seed=i)
        state, _ = update(config, spec, state, rollout, jax.random.key(50 + i), clock)
        states.append(state)
    return states


def adam_count(optimizer_state):
    return int(next(x for x in jax.tree.leaves(optimizer_state) if jnp.issubdtype(x.dtype, jnp.integer)))


def equal(a, b):
    return all(bool(jnp.array_equal(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def phases(random_rollout, specs):
    """States around two phases of dual PPG (N_pi = 3), shared by the tests that only look."""
    config = small_config()
    return config, run_updates(random_rollout, config, specs.vector, 6)


@pytest.mark.parametrize(("architecture", "count"), [("detach", 626_513), ("dual", 1_248_657), ("shared", 626_513)])
def test_parameter_counts(architecture, count, specs):
    config = configs.traced(ppg.Config(architecture=architecture))
    shapes = jax.eval_shape(
        lambda key: ppg.network(config, specs.procgen).init(key, jnp.zeros((1, 64, 64, 3), jnp.uint8)),
        jax.random.key(0),
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_initial_entropy_is_nearly_uniform(specs):
    """Check 12: near ln 15 = 2.70805."""
    config = configs.traced(ppg.Config(network="nature", architecture="detach"))
    net = ppg.network(config, specs.procgen)
    observation = jax.random.randint(jax.random.key(0), (16, 64, 64, 3), 0, 256).astype(jnp.uint8)
    logits = net.apply(net.init(jax.random.key(0), observation), observation).policy
    assert np.log(15) - 0.02 < float(distributions.categorical_entropy(logits).mean()) <= np.log(15) + 1e-5


def test_whole_rollout_advantage_normalisation_and_raw_targets(phases, specs, random_rollout):
    """Check 3: mean 0 and std 1 over the rollout but not over a minibatch; targets from unnormalised advantages."""
    config, states = phases[0].replace(scale_rewards="none"), phases[1]
    rollout = random_rollout(config, specs.vector, states[0])
    rollout = rollout.replace(reward=3 * rollout.reward)
    _, batch, _ = advantages.actor_critic_batch(
        rollout,
        rollout.observation,
        states[0].reward_normalizer,
        last_value=ppg.network(config, specs.vector).apply(states[0].params, rollout.last.observation).value,
        final_value=None,
        time_limit_is_terminal=True,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        normalize=config.normalize_advantages == "rollout",
    )
    assert abs(float(batch.advantage.mean())) < 1e-5
    assert abs(float(batch.advantage.std()) - 1) < 1e-4
    per_minibatch = np.asarray(batch.advantage).reshape(4, 4, 2).mean(axis=(0, 2))
    assert np.abs(per_minibatch).max() > 1e-3
    raw = np.asarray(batch.value_target - batch.value)
    assert abs(raw.std() - 1) > 1e-2
    np.testing.assert_allclose((raw - raw.mean()) / raw.std(), batch.advantage, atol=1e-5)


def test_old_policy_is_taken_when_the_auxiliary_phase_starts(specs, random_rollout):
    """Check 5: before any auxiliary step the KL is 0 on every sample; the policy that acted is far from it."""
    config = small_config(policy_epochs=3, value_epochs=3, learning_rate=3e-2)
    state = ppg.init(config, specs.vector, jax.random.key(1))
    rollout = random_rollout(config, specs.vector, state)
    acted = ppg.network(config, specs.vector).apply(state.params, rollout.observation).policy
    clock = Clock(jnp.int32(0), jnp.int32(10))
    moved, batch, _ = ppg.policy_phase(config, specs.vector, state, rollout, jax.random.key(2), clock)
    segments = ppg.store(config, moved.segments, batch, jnp.int32(0))
    # One pass with a step size of zero: every minibatch then sees the parameters the phase began with.
    frozen = config.replace(auxiliary_epochs=1, auxiliary_learning_rate=jnp.float32(0))
    _, _, terms = ppg.auxiliary_phase(
        frozen, specs.vector, moved.params, moved.auxiliary_optimizer, segments, jax.random.key(3)
    )
    assert float(terms["auxiliary_kl"].total) < 1e-6
    now = ppg.network(config, specs.vector).apply(moved.params, rollout.observation).policy
    assert float(distributions.categorical_kl(acted, now).mean()) > 1e-3


def test_targets_are_frozen_through_the_auxiliary_phase(phases, specs, random_rollout):
    """Check 6: the buffer's targets are those of the policy phases, bit for bit, after all auxiliary epochs."""
    config, states = phases
    for i in range(3):
        rollout = random_rollout(config, specs.vector, states[i], seed=i)
        clock = Clock(jnp.int32(i), jnp.int32(6))
        phase = jax.jit(ppg.policy_phase, static_argnums=1)
        _, batch, _ = phase(config, specs.vector, states[i], rollout, jax.random.key(50 + i), clock)
        np.testing.assert_array_equal(states[3].segments.value_target[i], batch.value_target.T)
        np.testing.assert_array_equal(states[3].segments.observation[i], jnp.swapaxes(rollout.observation, 0, 1))


def gradients_of(config, spec, loss):
    """Gradient of loss(Output) at random observations."""
    state = ppg.init(config, spec, jax.random.key(1))
    observation = jax.random.normal(jax.random.key(2), (16, 3))
    return jax.grad(lambda p: loss(ppg.network(config, spec).apply(p, observation)))(state.params)["params"]


def largest(tree):
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def test_gradients_stay_in_their_network(specs):
    """Check 7: dual networks do not touch; detached value heads do not reach the trunk, auxiliary heads do."""
    value, auxiliary = (lambda out: out.value.sum()), (lambda out: out.auxiliary_value.sum())
    policy = lambda out: jax.nn.log_softmax(out.policy)[:, 0].sum()  # noqa: E731
    dual = small_config(architecture="dual")
    of_policy, of_value = gradients_of(dual, specs.vector, policy), gradients_of(dual, specs.vector, value)
    assert largest((of_policy["torsos"]["value"], of_policy["value"], of_policy["auxiliary_value"])) == 0
    assert largest(of_policy["torsos"]["policy"]) > 0
    assert largest((of_value["torsos"]["policy"], of_value["policy"], of_value["auxiliary_value"])) == 0
    assert largest(of_value["torsos"]["value"]) > 0
    detach = small_config(architecture="detach")
    assert largest(gradients_of(detach, specs.vector, value)["torso"]) == 0
    assert largest(gradients_of(detach, specs.vector, value)["value"]) > 0
    assert largest(gradients_of(detach, specs.vector, auxiliary)["torso"]) > 0
    shared = small_config(architecture="shared")
    assert largest(gradients_of(shared, specs.vector, value)["torso"]) > 0
    assert largest(gradients_of(shared, specs.vector, auxiliary)["torso"]) > 0


def test_optimizers_do_not_leak(phases):
    """Check 8: steps of each Adam, and an auxiliary head that is bitwise still in every policy phase."""
    _, states = phases
    heads = [s.params["params"]["auxiliary_value"] for s in states]
    assert [equal(a, b) for a, b in itertools.pairwise(heads)] == [True, True, False] * 2
    # 4 minibatches an iteration; 2 epochs of 2 minibatches for each of 3 segments in an auxiliary phase.
    assert [adam_count(s.policy_optimizer) for s in states] == [0, 4, 8, 12, 16, 20, 24]
    assert [adam_count(s.auxiliary_optimizer) for s in states] == [0, 0, 0, 12, 12, 12, 24]


def test_the_last_auxiliary_phase_can_be_left_out_as_released(random_rollout, specs):
    """N_pi = 1, two iterations: the released loop ends before the second auxiliary phase."""
    counts = {}
    for final in (True, False):
        states = run_updates(
            random_rollout, small_config(policy_iterations=1, final_auxiliary_phase=final), specs.vector, 2
        )
        counts[final] = [adam_count(state.auxiliary_optimizer) for state in states]
    assert counts == {True: [0, 4, 8], False: [0, 4, 4]}


@pytest.mark.parametrize("annealed", [False, True])
def test_the_auxiliary_step_size_can_be_annealed(annealed, random_rollout, specs):
    """Half way through the run a step is half as long (first Adam step: length = learning rate)."""
    config = small_config(
        policy_iterations=1, auxiliary_epochs=1, auxiliary_minibatches=1, auxiliary_learning_rate=1e-3,
        anneal_auxiliary_learning_rate=annealed, learning_rate=0.0,
    )  # fmt: skip
    state = ppg.init(config, specs.vector, jax.random.key(1))
    rollout = random_rollout(config, specs.vector, state)
    update = jax.jit(ppg.update, static_argnums=1)

    def largest_step(iteration):
        clock = Clock(jnp.int32(iteration), jnp.int32(10))
        new, _ = update(config, specs.vector, state, rollout, jax.random.key(2), clock)
        return largest(jax.tree.map(lambda a, b: a - b, new.params, state.params))

    assert largest_step(0) == pytest.approx(1e-3, rel=1e-2)
    assert largest_step(5) == pytest.approx(5e-4 if annealed else 1e-3, rel=1e-2)


def test_published_step_counts():
    """Checks 8, 9 and 14: 256 policy and 3,072 auxiliary steps a phase, 4,096 samples each, 47 phases in 100M."""
    config = ppg.Config()
    frames = config.num_envs * config.rollout_length
    assert config.policy_iterations * config.policy_epochs * config.num_minibatches == 256
    groups = config.policy_iterations * config.auxiliary_minibatches
    assert (groups, config.auxiliary_epochs * groups) == (512, 3072)
    assert config.policy_iterations * frames // groups == 4096
    assert config.policy_iterations * frames == 2_097_152
    plan = make_plan("ppg", "gymnax/CartPole-v1", preset="procgen-hard")
    assert plan.iterations == 1526
    assert plan.iterations // config.policy_iterations == 47


@pytest.mark.parametrize("num_envs", [8, 4])
def test_auxiliary_minibatches_are_whole_segments(num_envs, monkeypatch, specs):
    """Check 9: in each epoch every (environment, segment) pair is in exactly one minibatch, with all its steps."""
    config = small_config(num_envs=num_envs)
    state = ppg.init(config, specs.vector, jax.random.key(0))
    groups, shapes, take = [], [], minibatches.take

    def recording_take(batch, indices, axis=0):
        jax.debug.callback(lambda i: groups.append(np.asarray(i)), indices)
        taken = take(batch, indices, axis)
        shapes.append(taken.shape)
        return taken

    monkeypatch.setattr(minibatches, "take", recording_take)
    ppg.auxiliary_phase(
        config, specs.vector, state.params, state.auxiliary_optimizer, state.segments, jax.random.key(0)
    )
    jax.effects_barrier()
    assert set(shapes) == {(num_envs // 2, 4, specs.vector.num_actions)}
    assert len(groups) == 2 * 6
    first, second = np.concatenate(groups[:6]), np.concatenate(groups[6:])
    assert sorted(first) == sorted(second) == list(range(3 * num_envs))
    assert not np.array_equal(first, second)


def test_loss_coefficients(specs):
    """Check 10: a value error of 2 costs 2.0 in the policy phase; both heads off by 2 cost 4.0 in the auxiliary."""
    config = small_config()
    logits = jnp.zeros((5, 4))
    output = ppg.Output(logits, jnp.full(5, 3.0), jnp.full(5, -1.0))
    batch = advantages.ActorCriticBatch(None, None, None, None, None, jnp.full(5, 1.0))
    assert float(ppg.value_loss(config, specs.vector, output, batch)[0]) == 2.0
    assert float(ppg.auxiliary_loss(config, specs.vector, output, logits, jnp.full(5, 1.0))[0]) == 4.0


@pytest.mark.parametrize("architecture", ["dual", "detach", "shared"])
def test_the_auxiliary_loss_has_both_heads(architecture, specs):
    """As released, in every architecture: half the squared error of the auxiliary head and of the true one."""
    config = small_config(architecture=architecture)
    state = ppg.init(config, specs.vector, jax.random.key(1))
    output = ppg.network(config, specs.vector).apply(state.params, jnp.ones((1, 3)))
    at = jnp.array([2.0])
    total, terms = ppg.auxiliary_loss(config, specs.vector, output, output.policy, at)
    by_hand = sum(0.5 * (float(value[0]) - 2.0) ** 2 for value in (output.value, output.auxiliary_value))
    assert float(output.value[0]) != float(output.auxiliary_value[0])
    assert float(total) == pytest.approx(by_hand, rel=1e-5)
    assert set(terms) == {"auxiliary_kl", "auxiliary_true_value_loss", "auxiliary_value_loss"}


def test_without_auxiliary_phases_the_auxiliary_head_is_idle(random_rollout, specs):
    """PPO of the paper: architecture shared, no auxiliary epochs. The released network has the head all the same."""
    states = run_updates(random_rollout, small_config(architecture="shared", auxiliary_epochs=0), specs.vector, 2)
    first, last = (state.params["params"] for state in (states[0], states[-1]))
    assert equal(first["auxiliary_value"], last["auxiliary_value"]) and not equal(first["torso"], last["torso"])


def test_kl_is_from_the_old_policy_and_does_not_train_it(specs):
    """Check 4: old (0, 0), new (ln 3, 0): 0.143841, not the reverse 0.130812."""
    config = small_config(clone_coefficient=1.0)
    old, new = jnp.array([[0.0, 0.0]]), jnp.array([[jnp.log(3.0), 0.0]])
    output = ppg.Output(new, jnp.zeros(1), jnp.zeros(1))
    total, _ = ppg.auxiliary_loss(config, specs.two_actions, output, old, jnp.zeros(1))
    assert float(total) == pytest.approx(0.143841, abs=1e-6)


def test_no_borrowed_tricks(specs):
    """Check 11: no value clipping (dL/dV_i = 10 / N) and no norm clip (1e3 times the loss, 1e3 times the moments)."""
    config = small_config()
    target = jnp.zeros(8)
    batch = advantages.ActorCriticBatch(None, None, None, jnp.zeros(8), None, target)
    value_loss = lambda v: ppg.value_loss(config, specs.vector, ppg.Output(None, v, None), batch)[0]  # noqa: E731
    np.testing.assert_allclose(jax.grad(value_loss)(jnp.full(8, 10.0)), 10 / 8, rtol=1e-6)
    adam = ppg.adam(config)
    gradient = {"w": jnp.array([3.0, -4.0])}
    moments = [adam.update(jax.tree.map(lambda g: s * g, gradient), adam.init(gradient))[1] for s in (1.0, 1e3)]  # noqa: B023
    first = [next(x for x in jax.tree.leaves(m) if x.shape == (2,)) for m in moments]
    np.testing.assert_allclose(first[1], 1e3 * first[0], rtol=1e-6)


def test_first_minibatch_has_ratio_one(specs, random_rollout):
    """Check 14: with E_pi = 1 and one minibatch nothing has moved yet, so the ratio is 1 and nothing is clipped."""
    config = small_config(num_minibatches=1)
    state = ppg.init(config, specs.vector, jax.random.key(1))
    rollout = random_rollout(config, specs.vector, state)
    clock = Clock(jnp.int32(0), jnp.int32(10))
    _, _, terms = ppg.policy_phase(config, specs.vector, state, rollout, jax.random.key(2), clock)
    assert abs(float(terms["approximate_kl"].total)) < 1e-5
    stale = rollout.replace(extras=rollout.extras.replace(log_prob=rollout.extras.log_prob - 0.1))
    _, _, terms = ppg.policy_phase(config, specs.vector, state, stale, jax.random.key(2), clock)
    assert float(terms["approximate_kl"].total) > 1e-3


def test_unequal_epochs_use_two_optimizers_and_run_the_value_passes_first(specs, random_rollout):
    """E_pi = 1, E_V = 3: 4 policy and 12 value steps; a value pass moves the value network only."""
    config = small_config(value_epochs=3)
    states = run_updates(random_rollout, config, specs.vector, 1)
    assert adam_count(states[1].policy_optimizer) == 4
    assert adam_count(states[1].value_optimizer) == 12


def test_objective_kl_has_no_clip(specs):
    """At a ratio of 2 with advantage 1 the clipped objective stops at 1.2; the KL objective continues."""
    log_ratio = jnp.log(2.0)
    logits = jnp.array([[0.0, 0.0]])
    action = jnp.array([0])
    old = distributions.categorical_log_prob(logits, action) - log_ratio
    batch = advantages.ActorCriticBatch(None, action, old, None, jnp.ones(1), None)
    output = ppg.Output(logits, None, None)

    def surrogate(**fields):
        return float(ppg.policy_loss(small_config(**fields), specs.two_actions, output, batch)[1]["policy_loss"])

    assert surrogate(objective="clip") == pytest.approx(-1.2)
    assert surrogate(objective="kl") == pytest.approx(-2 + 0.5 * float(log_ratio) ** 2)


@pytest.mark.parametrize(("field", "value"), [("num_minibatches", 3), ("auxiliary_minibatches", 5)])
def test_impossible_sizes_are_named(field, value, specs):
    with pytest.raises(PurerlError, match=f"{field} = {value} does not divide num_envs = 8"):
        ppg.check(ppg.Config(**SMALL | {field: value}), specs.vector)


def test_auxiliary_phase_is_a_branch_under_vmap():
    """The predicate is the clock, so vmapping over seeds must leave a cond, not a select that runs both."""
    config = small_config()
    environment = registry.environment("gymnax/CartPole-v1")[0].make("CartPole-v1")
    agent = registry.agent("ppg")
    run_state = jax.eval_shape(in_graph.make_init(agent, environment), config, rng.seed_keys(0, 2))
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    jaxpr = jax.make_jaxpr(in_graph.make_chunk(agent, environment))(config, run_state, None, *[scalar] * 3)
    assert " cond[" in str(jaxpr)
