"""The parts of the Procgen challenge's winners in PPO and PPG: what the network sees, rewards, phases, optimizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import configs, registry, rng
from purerl.agents import ppg, ppo
from purerl.errors import PurerlError
from purerl.experiments.challenge import ppg_generalization, ppg_sample_efficiency
from purerl.loops import collect
from purerl.nn import network_inputs
from purerl.ops import advantages, distributions, episode_memory, optimizers, repetition
from purerl.types import Clock

CLOCK = Clock(jnp.int32(0), jnp.int32(4))
PARTS = {
    "stacked_frames": 3,
    "frame_differences": True,
    "previous_action": True,
    "penalize_repetition": True,
    "adaptive_entropy": True,
}
SIZES = {"num_envs": 4, "rollout_length": 12, "num_minibatches": 2, "network": "mlp", "hidden": (16,)}
AGENTS = {
    "ppo": (ppo, {"initializer": "orthogonal"}),
    "recurrent ppo": (ppo, {"recurrent": "gru", "recurrent_size": 8, "initializer": "orthogonal"}),
    "ppg": (ppg, {"policy_iterations": 2, "auxiliary_minibatches": 2, "initializer": "orthogonal"}),
}


def make_config(module, **fields):
    return configs.traced(module.Config(**SIZES | fields))


@functools.cache
def environment(max_steps=9):
    family, name = registry.environment("gymnax/Breakout-MinAtar")
    return family.make(name, family.Options(max_steps=max_steps))


def walked(module, config, state, num_rollouts=2):
    """Rollouts in a row."""

    @jax.jit
    def run():
        run_state = collect.begin(module.AGENT, environment(), config, state, rng.seed_keys(0, 1)[0], config.num_envs)
        rollouts = []
        for i in range(num_rollouts):
            run_state, rollout = collect.collect(
                module.AGENT, environment(), config, run_state, CLOCK, length=config.rollout_length, iteration=i
            )
            rollouts.append(rollout)
        return rollouts

    return run()


# --- what the network sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_learning_sees_what_acting_saw(name):
    """Stacks, differences and previous actions that are made from a rollout give the log-probabilities and values that
    acting had, over ends of episodes and the border between rollouts.
    """
    module, fields = AGENTS[name]
    config = make_config(module, **PARTS, **fields)
    spec, policy = environment().spec, distributions.for_spec(environment().spec)
    module.AGENT.check(config, spec)
    state = module.init(config, spec, jax.random.key(1))
    rollouts = walked(module, config, state)
    network = module.network(config, spec)
    for rollout in rollouts:
        cores, episode = ppo.split_memory(config, rollout.memory) if module is ppo else ((), rollout.memory)
        rows = episode_memory.rows(config, rollout, episode)
        assert rows.observation.shape[-1] == 3 * rollout.observation.shape[-1]
        inputs = rows.inputs() if cores else network_inputs.choose(config, rows.inputs())
        if module is ppo:
            parameters, value, _ = network.apply(state.params, inputs, cores)
        else:
            output = network.apply(state.params, inputs)
            parameters, value = output.policy, output.value
        np.testing.assert_allclose(value, rollout.extras.value, atol=1e-5)
        np.testing.assert_allclose(policy.log_prob(parameters, rollout.action), rollout.extras.log_prob, atol=1e-5)
    first, second = rollouts
    assert first.done.any() and second.done.any() and not second.first.is_first.all()
    # What is bootstrapped from is what acting sees there.
    episode = ppo.split_memory(config, first.memory)[1] if module is ppo else first.memory
    rows = episode_memory.rows(config, first, episode)
    if module is ppo:
        last, _ = module.bootstrap_values(config, spec, state.params, rows)
    else:
        last = network.apply(state.params, network_inputs.choose(config, rows.last)).value
    np.testing.assert_allclose(last, second.extras.value[0], atol=1e-5)


@pytest.mark.parametrize("name", AGENTS)
def test_the_first_gradient_step_finds_the_policy_that_acted(name):
    """With one gradient step the mean KL from the policy that acted is 0, in a rollout that begins inside episodes."""
    module, fields = AGENTS[name]
    config = make_config(module, **PARTS, **fields | {"num_minibatches": 1, "hidden": (32,)})
    config = config.replace(**{"policy_epochs": 1, "auxiliary_epochs": 0} if module is ppg else {"num_epochs": 1})
    spec = environment().spec
    state = module.init(config, spec, jax.random.key(1))
    state.params["params"]["policy"]["dense"]["kernel"] *= 300  # so that what it sees matters
    rollout = walked(module, config, state)[1]
    for memory, least, most in (
        (rollout.memory, -1e-6, 1e-6),
        (jax.tree.map(jnp.zeros_like, rollout.memory), 1e-4, 1e3),
    ):
        rollout = rollout.replace(memory=memory)
        _, terms = module.update(config, spec, state, rollout, jax.random.key(0), CLOCK)
        assert least < float(terms["approximate_kl"].mean()) < most


def test_stacks_against_frames_that_are_put_together_one_by_one():
    """An episode begins with copies of its first frame; the observation behind an episode's end is of that episode."""
    config = make_config(ppg, stacked_frames=3)
    spec = environment().spec
    first, second = walked(ppg, config, ppg.init(config, spec, jax.random.key(1)))
    history = [[] for _ in range(config.num_envs)]
    for rollout in (first, second):
        rows = episode_memory.rows(config, rollout, rollout.memory)
        begins = np.asarray(rollout.inputs().is_first)
        for t in range(config.rollout_length):
            for n, frames in enumerate(history):
                if begins[t, n]:
                    frames.clear()
                frames.append(np.asarray(rollout.observation[t, n]))
                latest = ([frames[0]] * 2 + frames)[-3:]
                np.testing.assert_array_equal(rows.observation[t, n], np.concatenate(latest, axis=-1))
                ended = [*latest[1:], np.asarray(rollout.final_observation[t, n])]
                np.testing.assert_array_equal(rows.final_observation[t, n], np.concatenate(ended, axis=-1))
    np.testing.assert_array_equal(
        episode_memory.rows(config, first, first.memory).last.observation,
        episode_memory.rows(config, second, second.memory).observation[0],
    )


def test_penalty_and_share_of_an_environment_that_stands_still(specs, make_rollout):
    """The penalty is added to the 12th step and later ones; half of two frames are new, one of three, and so on."""
    config = make_config(
        ppo, penalize_repetition=True, adaptive_entropy=True, rollout_length=14, repetition_penalty=-0.5
    )
    memory = jax.tree.map(lambda x: jnp.stack([x] * 4), episode_memory.init(config, specs.vector))
    rollout = make_rollout(specs.vector, 14, 4, reward=jnp.ones((14, 4)))
    reward = np.asarray(episode_memory.rows(config, rollout, memory).reward)
    np.testing.assert_array_equal(reward[:, 0], [1.0] * 11 + [0.5] * 3)
    # The next rollout goes on counting.
    later = rollout.replace(first=rollout.last)
    memory = memory.replace(steps=jnp.full(4, 14, jnp.int32))
    np.testing.assert_array_equal(episode_memory.rows(config, later, memory).reward, np.full((14, 4), 0.5))
    for i in range(1, 4):
        _, memory, share = episode_memory.see(config, memory, rollout.first)
        np.testing.assert_allclose(share, np.full(4, 1 / i), rtol=1e-6)
    np.testing.assert_array_equal(memory.steps, np.full(4, 17))


def test_adaptive_entropy_changes_the_loss(specs):
    """The weight is 0.02 in a minibatch whose agents have seen less than 90% new frames, and 0.01 otherwise."""
    fields = {"adaptive_entropy": True, "entropy_coefficient": 0.01, "initializer": "orthogonal"}
    config, logits = make_config(ppg, **fields), jnp.array([[1.0, 0.0, 0.0, 0.0]])
    entropy = float(distributions.categorical_entropy(logits)[0])
    output, zero = ppg.Output(logits, jnp.zeros(1), jnp.zeros(1)), jnp.zeros(1)
    losses = []
    for share in (0.95, 0.85):
        batch = advantages.ActorCriticBatch((), jnp.zeros(1, int), zero, zero, zero, zero, jnp.full(1, share))
        losses.append(float(ppg.policy_loss(config, specs.vector, output, batch)[0]))
    np.testing.assert_allclose(losses, [-0.01 * entropy, -0.02 * entropy], rtol=1e-5)


# --- phases ----------------------------------------------------------------------------------------------------------


def updates(config, iterations, total=100):
    """(states after 0, 1, ... updates of PPG, the metrics of each), on rollouts in a row."""
    spec = environment().spec
    state = ppg.init(config, spec, jax.random.key(1))
    rollouts = walked(ppg, config, state, 2)
    update = jax.jit(
        lambda s, r, i: ppg.update(config, spec, s, r, rng.at(jax.random.key(2), i), Clock(i, jnp.int32(total)))
    )
    states, metrics = [state], []
    for i in range(iterations):
        state, terms = update(state, rollouts[i % 2].replace(reward=rollouts[i % 2].reward + i), jnp.int32(i))
        states.append(state)
        metrics.append(terms)
    return states, metrics


def counts(tree):
    """Adam's numbers of steps in an optimizer state."""
    return [int(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.integer)]


def test_skipped_rollouts_and_the_largest_number_of_phases():
    """Skip 1, store 2, learn from these, again: after iterations 3 and 6 of 9, if 2 phases are allowed."""
    config = make_config(
        ppg,
        initializer="orthogonal",
        skip_iterations=1,
        policy_iterations=2,
        max_auxiliary_phases=2,
        auxiliary_epochs=1,
        auxiliary_minibatches=2,
        scale_rewards="none",
    )
    states, metrics = updates(config, 9)
    assert [i + 1 for i, terms in enumerate(metrics) if int(terms["auxiliary_kl"].count)] == [3, 6]
    # Rewards grow by one with each iteration, so targets tell the rollouts apart: the buffer holds the last two.
    means = [float(terms["value_target"].mean()) for terms in metrics]
    for end in (3, 6, 9):
        stored = np.asarray(states[end].segments.value_target).mean(axis=(1, 2))
        np.testing.assert_allclose(stored, means[end - 2 : end], rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "policy", "auxiliary"),
    [
        # 3 iterations of 2 gradient steps, and one phase of 2 x 2 after the second
        ("own", [6], [4]),
        ("shared", [10], []),
        ("shared-value", [10, 6], [10, 4]),  # (value head, the rest)
    ],
)
def test_whose_moments_the_auxiliary_phase_moves(optimizer, policy, auxiliary):
    config = make_config(
        ppg,
        initializer="orthogonal",
        policy_iterations=2,
        auxiliary_epochs=1,
        auxiliary_minibatches=2,
        auxiliary_optimizer=optimizer,
        architecture="detach",
    )
    state = updates(config, 3)[0][-1]
    assert counts(state.policy_optimizer) == policy
    assert counts(state.auxiliary_optimizer) == auxiliary


def test_only_the_auxiliary_phase_drops_units_and_moves_images():
    """Until the first phase all bits are those without dropout and augmentation; its target policy is the plain one."""
    fields = {
        "initializer": "orthogonal",
        "policy_iterations": 2,
        "auxiliary_epochs": 1,
        "auxiliary_minibatches": 1,
        "auxiliary_learning_rate": 0.0,
        "auxiliary_shuffle": "transitions",
    }
    plain, plain_terms = updates(make_config(ppg, **fields), 3)
    for part in ({"auxiliary_dropout": 0.3}, {"auxiliary_augmentation": "translate"}):
        states, terms = updates(make_config(ppg, **fields, **part), 3)
        for ours, theirs in zip(states, plain, strict=True):  # the phase's step size is 0
            jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
        assert float(terms[1]["auxiliary_kl"].mean()) > 1e-6 > abs(float(plain_terms[1]["auxiliary_kl"].mean()))
        assert float(terms[1]["auxiliary_true_value_loss"].mean()) != float(
            plain_terms[1]["auxiliary_true_value_loss"].mean()
        )


# --- optimizers ------------------------------------------------------------------------------------------------------


def test_numbers_of_a_gradient_are_clipped_before_its_norm():
    """(3, -0.5) becomes (1, -0.5), whose norm is clipped to 0.5."""
    clip = optimizers.clip_by_global_norm(0.5, 1.0)
    found, _ = clip.update(jnp.array([3.0, -0.5]), clip.init(None))
    np.testing.assert_allclose(found, np.array([1.0, -0.5]) * 0.5 / np.sqrt(1.25), rtol=1e-6)


def test_a_learning_rate_that_ends_above_zero():
    """5e-4 to 5e-5, the middle half way."""
    for iteration, rate in ((0, 5e-4), (2, 2.75e-4), (4, 5e-5)):
        clock = Clock(jnp.int32(iteration), jnp.int32(4))
        np.testing.assert_allclose(optimizers.annealed(5e-4, clock, 5e-5), rate, rtol=1e-6)


# --- the agents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "count"), [(ppg_generalization, 2_496_849), (ppg_sample_efficiency, 1_368_208)])
def test_parameter_counts_of_the_winners(module, count, specs):
    config = configs.traced(ppg.Config(**module.DEFAULTS))
    ppg.check(config, specs.procgen)
    state = jax.eval_shape(lambda key: ppg.init(config, specs.procgen, key), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == count


def test_torch_heads_start_within_their_bounds(specs):
    """Weights and biases within +- 1 / sqrt(256), and neither zero nor orthogonal."""
    config = configs.traced(ppg.Config(initializer="torch", network="nature", architecture="single", features=256))
    params = ppg.init(config.replace(num_envs=1, policy_iterations=1), specs.procgen, jax.random.key(0)).params
    for name in ("policy", "value"):
        for x in params["params"][name]["dense"].values():
            assert 0 < np.abs(x).max() <= 1 / 16
    assert 0.3 < np.abs(params["params"]["policy"]["dense"]["kernel"]).mean() * 16 < 0.7


@pytest.mark.parametrize(
    ("fields", "spec", "words"),
    [
        ({"stacked_frames": 2}, "atari", "stacks 4 frames itself"),
        ({"frame_differences": True}, "procgen", "use stacked_frames = 2"),
        ({"auxiliary_augmentation": "crop"}, "vector", "no images"),
        ({"reward_groups": 3}, "vector", "reward_groups = 3 does not divide num_envs"),
        ({"auxiliary_optimizer": "shared", "value_epochs": 2}, "vector", "value_epochs = 1"),
        ({"shuffle": "transitions", "num_minibatches": 1000}, "vector", "num_envs x rollout_length"),
    ],
)
def test_settings_that_cannot_be(fields, spec, words, specs):
    with pytest.raises(PurerlError, match=words):
        ppg.check(configs.traced(ppg.Config(**{"network": "auto"} | fields)), getattr(specs, spec))


def test_frames_of_any_dtype_are_told_apart():
    """Floats are hashed by their bits: 0.25 and 0.75 are not the same frame."""
    low, high = (repetition.frame_hash(jnp.full(3, x)) for x in (0.25, 0.75))
    assert int(low) != int(high)
