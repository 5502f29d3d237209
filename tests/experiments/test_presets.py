"""Presets are plans that work, and the published ones hold the published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import registry
from purerl.agents import rainbow
from purerl.errors import PurerlError
from purerl.experiments.presets import value_based
from purerl.ops import optimizers
from purerl.runs.plan import make_plan
from purerl.types import EnvSpec

ALL = [(agent, name) for agent in registry.preset_agents() for name in registry.presets_of(agent)]


ATARI = ("dopamine", "pro-paper", "nature", "full-rainbow", "rainbow-2018", "atari", "atari-matched")


def env_of(agent, preset):
    if preset in (*ATARI, "btr") or (preset == "quick" and agent.startswith(("dqn", "rainbow"))):
        return "atari/Pong"
    if agent == "td3" and preset == "classic":
        return "gymnax/Pendulum-v1"
    if agent in ("mql", "td3-context") and preset != "tasks":
        return f"tasks/{preset}"
    if preset == "tasks":
        return "tasks/point-robot"
    if agent == "td3":
        return "gym/Hopper-v5"
    if preset == "procgen-symbolic":
        return "procgen-jax/maze"
    if preset.startswith("craftax"):
        pytest.importorskip("craftax", reason="craftax is not installed")
        return "craftax/Craftax-Classic-Symbolic-v1"
    if preset == "mujoco":
        return "gym/Hopper-v5"
    if preset.startswith("procgen") or preset == "quick":
        return "procgen/coinrun"
    return "gymnax/Breakout-MinAtar" if preset == "minatar" else "gymnax/CartPole-v1"


@pytest.mark.parametrize(("agent", "name"), ALL)
def test_every_preset_is_a_plan(agent, name):
    plan = make_plan(agent, env_of(agent, name), preset=name)
    assert plan.iterations >= 10
    assert registry.presets_of(agent)[name].source


def test_presets_with_lost_lives_say_what_differs_from_the_original():
    """ale-py plays a step to its end where Dopamine stops; Rainbow's frames are not DQN Zoo's."""
    found = set()
    for agent, name in ALL:
        preset = registry.presets_of(agent)[name]
        if preset.env.get("life_loss") == "terminal":
            found.add(name)
            wanted = "1 to 30 there" if name == "rainbow-2018" else "Dopamine's ends at once"
            assert wanted in preset.source, (agent, name)
    assert found == {"pro-paper", "nature", "rainbow-2018", "atari", "atari-matched"}
    rainbow = registry.presets_of("rainbow")["rainbow-2018"].source
    assert all(word in rainbow for word in ("luma before", "area resize (bilinear)", "stack is blanked"))


def test_the_published_procgen_settings():
    """Spec 1.2, 1.3 and 2.1."""
    easy, hard = (make_plan("ppo", "procgen/coinrun", preset=f"procgen-{mode}") for mode in ("easy", "hard"))
    assert (easy.steps_per_iteration, hard.steps_per_iteration) == (16_384, 65_536)
    assert (easy.options.distribution_mode, hard.options.distribution_mode) == ("easy", "hard")
    assert (easy.config.learning_rate, easy.config.adam_epsilon, easy.config.max_grad_norm) == (5e-4, 1e-5, 0.5)
    assert easy.config.optimizer == hard.config.optimizer == "adam-tensorflow"
    assert make_plan("ppo", "gymnax/CartPole-v1").config.optimizer == "adam"
    assert (easy.config.num_epochs, easy.config.num_minibatches, easy.config.clip_values) == (3, 8, True)
    ppg = make_plan("ppg", "procgen/coinrun", preset="procgen-hard")
    assert (ppg.config.policy_iterations, ppg.config.auxiliary_epochs, ppg.config.architecture) == (32, 6, "dual")
    assert (ppg.config.adam_epsilon, ppg.config.max_grad_norm) == (1e-8, float("inf"))
    assert -(-100_000_000 // ppg.steps_per_iteration) == ppg.iterations == 1526


def test_the_published_settings_of_mql():
    """Spec 1.6, where gradient steps are 1 or 0.2 for each transition."""
    chosen = ("learning_rate", "history_length", "context_size", "policy_delay", "exploration_noise", "target_noise",
              "beta_clip", "classifier_strength", "new_task_steps", "replay_steps", "replay_batches", "snapshot_size",
              "learning_starts", "classifier_sees_observation", "train_period")  # fmt: skip
    published = {
        "cheetah-dir": (3e-4, 20, 20, 2, 0.3, 0.3, 1.5, 0.5, 10, 50, 10, 2 * 2000, 10_000, False, 1),
        "cheetah-vel": (1e-3, 20, 15, 2, 0.3, 0.3, 1.0, 0.1, 10, 100, 5, 100 * 2000, 100 * 500, False, 1),
        "ant-dir": (3e-4, 25, 30, 4, 0.2, 0.4, 1.2, 0.05, 5, 400, 5, 2 * 2000, 10_000, False, 1),
        "ant-goal": (4e-4, 40, 40, 4, 0.3, 0.3, 2.0, 0.1, 10, 150, 1, 150 * 1000, 150 * 1500, True, 5),
        "walker-params": (8e-4, 10, 30, 3, 0.2, 0.2, 1.1, 0.06, 10, 400, 5, 40 * 4000, 40 * 2000, True, 5),
    }
    for task, values in published.items():
        assert registry.preset("mql", None, f"tasks/{task}")[0] == task
        config = registry.presets_of("td3-context")[task].config
        made = registry.agent("mql").Config(**config)
        assert tuple(getattr(made, name) for name in chosen) == values, task
        assert (made.batch_size, made.hidden, made.replay_size) == (256, (300, 300), 1_000_000)
        assert registry.preset("td3", None, f"tasks/{task}")[0] == "mujoco"
    assert registry.preset("mql", None, "tasks/pendulum")[0] == "tasks"


# --- the proximal coefficient ---

PRO = [(agent, name) for agent, name in ALL if agent.endswith("-pro")]


def test_what_the_pull_leaves_of_a_drift_by_hand():
    """Three steps with m = 1/2: the distance is 1, 3/2, 7/4 after them, without the pull 3."""
    assert value_based.drift_left(0.5, 3) == pytest.approx(1.75 / 3)
    assert value_based.drift_left(1.0, 4) == pytest.approx(0.25)
    assert value_based.drift_left(0.0, 1000) == 1.0
    # The papers' runs; what the presets had before they followed the rule; all with m = 1.25e-3.
    steps = {"paper": 2000, "classic": 50, "minatar": 250}
    found = {name: round(value_based.drift_left(1.25e-3, k), 2) for name, k in steps.items()}
    assert found == {"paper": 0.37, "classic": 0.97, "minatar": 0.86}


def test_a_drift_under_adam_is_left_as_computed():
    """A constant gradient moves each parameter by the step size: the pull of the optimizer itself leaves the share."""
    optimizer = optimizers.value_optimizer("adam", 1e-3, epsilon=0.0, proximal_coefficient=0.05)

    def step(_, carry):
        w, state = carry
        updates, state = optimizer.update(jnp.float32(-1.0), state, w, anchor=jnp.float32(0.0))
        return w + updates, state

    zero = jnp.float32(0.0)
    reached, _ = jax.lax.fori_loop(0, 200, step, (zero, optimizer.init(zero)))
    assert float(reached) / (1e-3 * 200) == pytest.approx(value_based.drift_left(1e-3 / 0.05, 200), rel=1e-3)


@pytest.mark.parametrize(("agent", "name"), PRO)
def test_every_pro_preset_pulls_as_the_published_runs(agent, name):
    """m K = 2.5, which leaves 0.37 of a constant drift; the list says so. The published coefficients follow from it."""
    preset = registry.presets_of(agent)[name]
    config = make_plan(agent, env_of(agent, name), preset=name).config
    steps = config.target_period // config.train_period
    assert config.learning_rate / config.proximal_coefficient * steps == pytest.approx(2.5, rel=1e-3)
    assert f"c = {config.proximal_coefficient:g} leaves 0.37 of a constant drift after the {steps:,} " in preset.source
    published = {"dqn-pro": {"pro-paper": 0.2, "dopamine": 0.05}, "rainbow-pro": dict.fromkeys(ATARI, 0.05)}
    assert config.proximal_coefficient == published[agent].get(name, config.proximal_coefficient)


@pytest.mark.parametrize("agent", ["dqn", "rainbow"])
def test_the_rule_knows_the_agents_defaults(agent):
    config = registry.agent(agent).Config()
    assert {name: getattr(config, name) for name in value_based.DEFAULTS} == value_based.DEFAULTS
    assert registry.agent(f"{agent}-pro").defaults == {"proximal_coefficient": value_based.published_coefficient({})}


@pytest.mark.parametrize("agent", ["dqn", "rainbow"])
def test_minatar_is_trained_as_by_young_and_tian(agent):
    """A gradient step per frame, 1,000 of them between targets, epsilon from 1 to 0.1 over 100,000 frames after 5,000
    (examples/dqn.py of kenjyoung/MinAtar).
    """
    config = make_plan(agent, "gymnax/Breakout-MinAtar", preset="minatar").config
    assert (config.train_period, config.target_period // config.train_period) == (1, 1_000)
    assert (config.learning_starts, config.replay_size, config.batch_size) == (5_000, 100_000, 32)
    assert (config.epsilon_initial, config.epsilon_final, config.epsilon_decay_steps) == (1.0, 0.1, 100_000)
    assert (config.learning_rate, config.discount) == (2.5e-4, 0.99)


def test_beyond_the_rainbow_has_its_published_settings():
    """Table D6 of arXiv 2411.03820: a gradient step of 256 rows every 64 steps, 781,000 of them, targets every 500."""
    plan = make_plan("rainbow", "atari/Pong", preset="btr")
    config, options = plan.config, plan.options
    assert (plan.steps_per_iteration, config.batch_size, config.train_period) == (64, 256, 64)
    assert config.target_period // config.train_period == 500 and config.replay_size == 2**20
    assert round((50_000_000 - config.learning_starts) / 64, -3) == 778_000  # 781,000 without the first 200,000 rows
    assert (config.learning_rate, config.discount, config.num_steps, config.max_grad_norm) == (1e-4, 0.997, 3, 10.0)
    assert config.optimizer_epsilon == pytest.approx(1.95e-5, rel=2e-3)
    assert (config.quantiles, config.target_quantiles, config.acting_quantiles, config.atoms) == (8, 8, 8, 0)
    assert (config.munchausen_scale, config.munchausen_temperature, config.munchausen_clip) == (0.9, 0.03, -1.0)
    assert (config.priority_exponent, config.noisy_sigma, config.reward_clip, config.double) == (0.2, 0.5, 1.0, False)
    # Frames are four times as many: epsilon falls over 8M of them and is 0 after 100M.
    assert (4 * config.epsilon_decay_steps, 4 * config.epsilon_zero_after) == (8e6, 100e6)
    assert (config.epsilon_initial, config.epsilon_final) == (1.0, 0.01)
    assert (options.repeat_action_probability, options.life_loss, options.noop_max) == (0.25, "ignored", 30)
    assert (options.frame_skip, options.frame_stack, options.max_frames) == (4, 4, 108_000)


# --- initial weights ---


def test_full_rainbow_starts_with_the_weights_of_its_source():
    """Dopamine's FullRainbowNetwork: convolutions Glorot-uniform without biases, dense layers noisy."""
    params = first_parameters("full-rainbow")
    for name, size, channels, features in (("convolution0", 8, 4, 32), ("convolution1", 4, 32, 64)):
        bound = np.sqrt(6 / (size * size * (channels + features)))
        assert_uniform(params["torso"][name]["kernel"], bound)
        np.testing.assert_array_equal(params["torso"][name]["bias"], 0.0)
    assert_noisy(params)


def test_rainbow_2018_starts_with_the_weights_of_its_source():
    """DQN Zoo's rainbow_atari_network: weights and biases of all layers within 1 / sqrt(inputs)."""
    params = first_parameters("rainbow-2018")
    for name, inputs in (("convolution0", 8 * 8 * 4), ("convolution1", 4 * 4 * 32), ("convolution2", 3 * 3 * 64)):
        assert_uniform(params["torso"][name]["kernel"], 1 / np.sqrt(inputs))
        assert_uniform(params["torso"][name]["bias"], 1 / np.sqrt(inputs), loose=0.8)
    assert_noisy(params)


def first_parameters(preset):
    """The first parameters of Rainbow with this preset, on small frames and with few actions."""
    spec = EnvSpec("test/small", (4, 36, 36), "uint8", 3, stacked_frames=4)
    config = rainbow.Config(**registry.presets_of("rainbow")[preset].config)
    init = jax.jit(lambda key: rainbow.network(config, spec).init(key, jnp.zeros((1, 4, 36, 36), jnp.uint8)))
    return jax.tree.map(np.asarray, init(jax.random.key(0))["params"])


def assert_uniform(x, bound, loose=0.99):
    """All within the bound, some close to it, spread as a uniform distribution is."""
    assert loose * bound < np.abs(x).max() <= bound * (1 + 1e-6)
    np.testing.assert_allclose(x.std(), bound / np.sqrt(3), rtol=0.02 if x.size > 5_000 else 0.3)


def assert_noisy(params):
    """Means within 1 / sqrt(inputs), spreads 0.1 / sqrt(inputs) (both sources)."""
    for name in ("dense0", "advantage", "value"):
        bound = 1 / np.sqrt(len(params[name]["kernel"]))
        assert_uniform(params[name]["kernel"], bound)
        assert_uniform(params[name]["bias"], bound, loose=0.8)
        for spread in ("kernel_sigma", "bias_sigma"):
            np.testing.assert_allclose(params[name][spread], 0.1 * bound, rtol=1e-6)


def test_the_environment_chooses_a_preset_where_none_is_named():
    assert make_plan("ppg", "procgen/coinrun").preset == "procgen-easy"
    assert make_plan("ppo", "gymnax/Asterix-MinAtar").preset == "minatar"
    assert make_plan("ppo", "gymnax/CartPole-v1").preset == "classic"


def test_an_unknown_preset_gets_the_nearest():
    with pytest.raises(PurerlError, match="Did you mean 'minatar'"):
        make_plan("ppo", "gymnax/CartPole-v1", preset="miniatar")
