"""Presets are plans that work, and the published ones hold the published numbers."""

import pytest

from purerl import registry
from purerl.errors import PurerlError
from purerl.runs.plan import make_plan

ALL = [(agent, name) for agent in registry.preset_agents() for name in registry.presets_of(agent)]


ATARI = ("dopamine", "pro-paper", "nature", "full-rainbow", "rainbow-2018")


def env_of(agent, preset):
    if preset in ATARI or (preset == "quick" and agent.startswith(("dqn", "rainbow"))):
        return "atari/Pong"
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
    assert found == {"pro-paper", "nature", "rainbow-2018"}
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


def test_the_environment_chooses_a_preset_where_none_is_named():
    assert make_plan("ppg", "procgen/coinrun").preset == "procgen-easy"
    assert make_plan("ppo", "gymnax/Asterix-MinAtar").preset == "minatar"
    assert make_plan("ppo", "gymnax/CartPole-v1").preset == "classic"


def test_an_unknown_preset_gets_the_nearest():
    with pytest.raises(PurerlError, match="Did you mean 'minatar'"):
        make_plan("ppo", "gymnax/CartPole-v1", preset="miniatar")
