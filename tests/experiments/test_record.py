"""Recorded results equal the content of the run's files."""

import json
from pathlib import Path

import pytest

from purerl.experiments import record
from purerl.runs.train import train

ROOT = Path(__file__).parents[2]


def test_a_recorded_run_keeps_its_numbers(tmp_path):
    config = {"num_envs": 4, "rollout_length": 64, "num_minibatches": 2}
    run = train("ppo", "gymnax/CartPole-v1", seeds=2, steps=2048, out=tmp_path / "run", config=config, quiet=True)
    path = record.record(run.folder, "name", tmp_path / "results")
    kept = json.loads(path.read_text())
    assert kept["summary"]["final_return"]["per_seed"] == run.summary["final_return"]["per_seed"]
    assert kept["config"]["config"]["num_envs"] == 4
    assert record.changes(kept["config"]) == ["num-envs 4", "rollout-length 64", "num-minibatches 2"]
    assert set(kept["curves"]) == {"0", "1"}
    assert kept["curves"]["0"]["step"][-1] == 2048
    assert (tmp_path / "results" / "name.png").exists()


@pytest.mark.parametrize("table", [record.table, record.speed_table])
def test_the_readme_shows_the_recorded_numbers(table):
    assert table(ROOT / "experiments" / "results") in (ROOT / "README.md").read_text()
