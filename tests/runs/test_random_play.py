"""Random play: whole episodes of uniform actions, measured once, kept only where the environment's code is known."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import cache, registry
from purerl.runs import random_play
from purerl.runs.plan import make_plan
from purerl.runs.random_play import RANDOM, random_return
from purerl.runs.train import train
from purerl.types import Environment, EnvSpec, Inputs, TimeStep


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The games below have no options."""


def game(name, options):
    """Half of the episodes of "halves" last one step and give 0, the others ten steps and give 1. "endless" never ends.

    The state is (steps that are left, the return at the end).
    """
    spec = EnvSpec(name=f"mine/{name}", observation_shape=(1,), observation_dtype="float32", num_actions=2)

    def reset(key):
        long = jax.random.bernoulli(key)
        return (jnp.where(long, 10, 1), long.astype(jnp.float32)), jnp.zeros(1)

    def step(key, state, action):
        left, worth = state
        done = (left == 1) & (name == "halves")
        first, observation = reset(key)
        after = jax.tree.map(lambda a, b: jnp.where(done, a, b), first, (left - 1, worth))
        reward = jnp.where(done, worth, 0.0)
        return after, TimeStep(observation, reward, done, jnp.bool_(False), final_observation=observation)

    return Environment(spec, reset, step)


@pytest.fixture
def mine(monkeypatch):
    """The games above, registered as `mine/<name>`."""
    family = SimpleNamespace(Options=NoOptions, names=lambda: ["halves", "endless"], make=game)
    monkeypatch.setitem(registry._families, "mine", family)


def test_long_episodes_count_as_much_as_short_ones(mine):
    found = random_return(make_plan("ppo", "mine/halves", preset="classic"), 200)
    assert found["episodes"] == 200
    # The first 200 episodes to end would be nearly all short ones: 10 short ones end for each long one.
    assert found["mean"] == pytest.approx(0.5, abs=4 * 0.5 / 200**0.5)
    expected = (found["mean"] * (1 - found["mean"]) / 199) ** 0.5  # of zeros and ones
    assert found["standard_error"] == pytest.approx(expected)


def test_episodes_that_do_not_end_have_no_mean(mine, monkeypatch):
    monkeypatch.setattr(random_play, "MOST_STEPS", 300)
    assert random_return(make_plan("ppo", "mine/endless", preset="classic"), 4) is None


def test_it_is_measured_once_for_games_of_purerl_only(mine, monkeypatch, tmp_path):
    monkeypatch.setenv("PURERL_CACHE", str(tmp_path))
    plans = [make_plan("ppo", name, preset="classic") for name in ("probe/action", "mine/halves")]
    found = [random_return(plan, 8) for plan in plans]
    assert len(list(cache.folder(random_play.CACHE).iterdir())) == 1
    monkeypatch.setattr(random_play, "_measure", lambda plan, episodes: "measured again")
    assert [random_return(plan, 8) for plan in plans] == [found[0], "measured again"]
    assert random_return(plans[0], 9) == "measured again"
    (kept,) = [
        path
        for path in cache.folder(random_play.CACHE).iterdir()
        if json.loads(path.read_text())["random_return"] == found[0]
    ]
    kept.write_text("{")
    assert random_return(plans[0], 8) == "measured again"


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PURERL_CACHE", str(tmp_path / "file"))
    assert random_return(make_plan("ppo", "probe/constant"), 4)["mean"] == 1.0


def actions_in(spec, count=4000):
    inputs = Inputs.at_start(spec, jnp.zeros((count, 1)))
    keys = jax.random.split(jax.random.key(3), count)
    return np.asarray(RANDOM.act(RANDOM.Config(), spec, (), (), inputs, keys, None, True)[0])


def test_actions_are_uniform_within_their_bounds():
    discrete = actions_in(EnvSpec("x/y", (1,), "float32", num_actions=3))
    assert np.bincount(discrete).tolist() == pytest.approx([4000 / 3] * 3, rel=0.1)
    bounds = {"action_low": (-2.0, 5.0, -np.inf, 0.0), "action_high": (2.0, 6.0, np.inf, np.inf)}
    one = actions_in(EnvSpec("x/y", (1,), "float32", num_actions=0, action_shape=(4,), **bounds))
    assert one.shape == (4000, 4)
    assert one.dtype == np.float32
    assert one.min(axis=0)[[0, 1, 3]].tolist() == pytest.approx([-2, 5, 0], abs=0.01)
    assert one.max(axis=0)[[0, 1]].tolist() == pytest.approx([2, 6], abs=0.01)
    assert one.mean(axis=0)[:3].tolist() == pytest.approx([0, 5.5, 0], abs=0.08)
    assert one.std(axis=0)[:3].tolist() == pytest.approx([4 / 12**0.5, 1 / 12**0.5, 1], rel=0.05)


def test_a_run_writes_it_before_it_trains_and_keeps_it(tiny, tmp_path):
    how = {"config": tiny("ppo"), "steps": 256, "quiet": True, "out": tmp_path / "run"}
    run = train("ppo", "gymnax/CartPole-v1", **how, random_episodes=4)
    config = json.loads((run.folder / "config.json").read_text())
    assert run.summary["random_return"] == config["random_return"]
    assert 8 < config["random_return"]["mean"] < 60  # 22 on average
    resumed = train("ppo", "gymnax/CartPole-v1", **how | {"steps": 512}, resume=True, random_episodes=0)
    assert resumed.summary["random_return"] == config["random_return"]
    without = train("ppo", "gymnax/CartPole-v1", **how | {"out": tmp_path / "other"}, random_episodes=0)
    assert "random_return" not in without.summary
