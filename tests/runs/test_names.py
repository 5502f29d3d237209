"""names: default folder names contain what differs from the preset, and stay short, safe and stable."""

import re

import numpy as np
import pytest

from purerl import registry
from purerl.runs import names
from purerl.runs.plan import make_plan

CARTPOLE = ("ppo", "gymnax/CartPole-v1")


def name(config=None, env_options=None, **which):
    return names.default_folder(make_plan(*CARTPOLE, config=config, env_options=env_options, **which)).as_posix()


def test_two_learning_rates_have_two_names():
    start = "runs/ppo-gymnax-CartPole-v1-classic"
    assert name() == f"{start}-seed0" and name(seeds=4, seed=2) == f"{start}-seed2to5"
    assert name({"learning_rate": 5e-3}) == f"{start}-learning_rate_0.005-seed0"
    assert name({"lr": 1e-5}) == f"{start}-learning_rate_1e-05-seed0"
    assert name({"learning_rate": 1e-3}) == name()  # the preset's own value


def test_an_agent_without_a_preset(monkeypatch):
    monkeypatch.setitem(registry._agents, "bare", registry.agent("ppo")._replace(name="bare"))
    plan = make_plan("bare", "probe/constant", config={"learning_rate": 0.5})
    assert plan.preset == "none"
    # As a sweep resumes.
    assert make_plan("bare", "probe/constant", preset="none", config={"learning_rate": 0.5}) == plan
    assert names.default_folder(plan).name == "bare-probe-constant-none-learning_rate_0.5-seed0"


def test_values_are_written_as_on_the_command_line():
    found = name({"hidden": (32, 16), "clip_values": False, "clip": 1.0}, {"max_steps": 7})
    assert "-hidden_32x16-" in found and "-clip_1-" in found and "-clip_values_false-" in found
    assert found.endswith("-env.max_steps_7-seed0")
    assert name({"clip": float("inf")}).endswith("-clip_inf-seed0")


def test_the_order_of_flags_and_the_length_do_not_matter():
    one, other = {"learning_rate": 0.5, "discount": 0.9}, {"gamma": 0.9, "lr": 0.5}
    assert name(one) == name(other) == name(one, steps=10_000)


def test_long_names_are_cut_and_still_different():
    many = {"learning_rate": 0.5, "discount": 0.9, "gae_lambda": 0.8, "num_envs": 4, "rollout_length": 16}
    many |= {"num_minibatches": 1, "entropy_coefficient": 0.125, "clip": 0.3}
    found = [name(many), name(many | {"clip": 0.4}), name(many | {"clip": np.array([0.3, 0.4])}, seeds=2)]
    assert len(set(found)) == 3
    for one in found:
        assert re.search(r"-and_\d_more-[0-9a-f]{8}-seed0", one) and len(one) < 160
    assert name(many) == name(dict(reversed(many.items())))


@pytest.mark.parametrize("text", ["a/b", "../..", "x y", "\n", "\ud800", "日本", "x" * 500])
def test_parts_are_safe_in_file_names(text):
    found = names._shortened([f"field_{text}"], {"field": text})
    assert all(re.fullmatch(r"[\w.-]+", part, re.ASCII) for part in found)
    assert len(found[0]) <= names.MOST_CHARACTERS and re.fullmatch("[0-9a-f]{8}", found[-1])


def test_sweeps_are_named_by_their_fields():
    plan = make_plan(*CARTPOLE, config={"num_envs": 8, "learning_rate": 0.5})
    folder = names.default_sweep_folder(plan, ["learning_rate", "env.max_steps"])
    assert folder.as_posix() == (
        "runs/sweep-ppo-gymnax-CartPole-v1-classic-num_envs_8-over-learning_rate-env.max_steps"
    )
