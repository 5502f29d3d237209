"""Recorded results are what the run's files say."""

import json
from pathlib import Path

from purerl import training
from purerl.experiments import record


def test_a_recorded_run_keeps_its_numbers(tmp_path):
    config = {"num_envs": 4, "rollout_length": 64, "num_minibatches": 2}
    run = training.train(
        "ppo", "gymnax/CartPole-v1", seeds=2, steps=2048, out=tmp_path / "run", config=config, quiet=True
    )
    path = record.record(run.folder, "name", tmp_path / "results")
    kept = json.loads(path.read_text())
    assert kept["summary"]["final_return"]["per_seed"] == run.summary["final_return"]["per_seed"]
    assert kept["config"]["config"]["num_envs"] == 4
    assert set(kept["curves"]) == {"0", "1"}
    assert kept["curves"]["0"]["step"][-1] == 2048
    assert (tmp_path / "results" / "name.png").exists()


def test_the_readme_shows_the_recorded_numbers():
    root = Path(__file__).parents[2]
    assert record.table(root / "experiments" / "results") in (root / "README.md").read_text()
