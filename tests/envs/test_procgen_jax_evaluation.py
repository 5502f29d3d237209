"""A policy trained in the graph plays on the real library: the same returns, episode for episode."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from purerl.cli import main
from purerl.errors import PurerlError
from purerl.runs import evaluation
from purerl.runs.train import train

CONFIG = {"num_envs": 8, "rollout_length": 32, "num_minibatches": 2, "network": "mlp", "hidden": (16,)}
HELD_OUT = {"start_level": 1_000_000, "num_levels": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a short PPO run on the frames of 20 easy mazes."""
    found = tmp_path_factory.mktemp("maze") / "run"
    options = {"num_levels": 20}
    train("ppo", "procgen-jax/maze", seed=1, steps=2_048, config=CONFIG, env_options=options, out=found, quiet=True)
    return found


def played(folder, env, options):
    """(Episodes, plan) of two episodes of each of 6 games, with the options of training but for `options`."""
    _, plan, state, _ = evaluation.open_for_evaluation(folder, env, options)
    return evaluation.evaluate_agent(plan, state, episodes=2, num_envs=6, seed=3), plan


@pytest.mark.optimized
@pytest.mark.parametrize("options", [{}, HELD_OUT])
def test_the_same_returns_episode_for_episode(folder, options):
    ours, _ = played(folder, None, options)
    theirs, plan = played(folder, "procgen/maze", options)
    assert plan.env == "procgen/maze" and plan.options.num_levels == options.get("num_levels", 20)
    np.testing.assert_array_equal(ours.returns, theirs.returns)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)
    assert ours.returns.any() and len(np.unique(ours.lengths)) > 3


def test_eval_and_video_on_the_library(folder, capsys, tmp_path):
    found, line = {}, "--episodes 1 --num-envs 4 --env.num-levels 3"
    for env in ("procgen-jax/maze", "procgen/maze"):
        out = tmp_path / "eval.json"
        assert main.main([*f"eval {folder} --env {env} {line} --out {out}".split()]) == 0
        found[env] = json.loads(out.read_text())
    said = capsys.readouterr().out
    assert "ppo on procgen/maze after" in said and "trained on procgen-jax/maze" in said and "num_levels 3" in said
    ours, theirs = found.values()
    assert ours["per_seed"] == theirs["per_seed"] and ours["normalized_return"] == theirs["normalized_return"]
    assert (theirs["env"], theirs["training_env"]) == ("procgen/maze", "procgen-jax/maze")
    assert ours["changed_env_options"] == theirs["changed_env_options"] == {"num_levels": [20, 3]}

    frames = {}
    for env in ("procgen-jax/maze", "procgen/maze"):
        out = tmp_path / f"{env.partition('/')[0]}.gif"
        assert main.main([*f"video {folder} --env {env} --steps 12 --out {out}".split()]) == 0
        with Image.open(out) as opened:
            frames[env] = [np.array((opened.seek(i), opened.convert("RGB"))[1]) for i in range(opened.n_frames)]
    np.testing.assert_array_equal(*frames.values())


def test_other_environments_are_refused(folder, capsys):
    with pytest.raises(PurerlError, match="CartPole-v1 has other observations or actions than procgen-jax/maze had"):
        evaluation.evaluate(folder, env="gymnax/CartPole-v1")
    for command in ("eval", "video"):
        assert main.main([command, str(folder), "--env", "procgen/mase"]) == 2
        said = capsys.readouterr().err
        assert "procgen/maze" in said and said.count("\n") == 1


def test_a_video_of_both_shows_the_frame():
    from purerl.envs import procgen_jax

    seen = np.arange(64 * 64 * 6, dtype=np.uint8).reshape(64, 64, 6)
    for kind, expected in (("both", seen[..., :3]), ("frames", seen)):
        np.testing.assert_array_equal(procgen_jax.picture(procgen_jax.Options(observation=kind), seen), expected)
