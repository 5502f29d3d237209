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
    assert set(kept["curves"]) == {"0", "1"}
    assert kept["curves"]["0"]["step"][-1] == 2048
    assert (tmp_path / "results" / "name.png").exists()


@pytest.mark.parametrize("table", [record.table, record.speed_table])
def test_the_readme_shows_the_recorded_numbers(table):
    assert table(ROOT / "experiments" / "results") in (ROOT / "README.md").read_text()


def test_the_readme_says_how_far_lanes_are_from_solo_runs():
    found = json.loads((ROOT / "experiments/results/bench-cpu-sweep.json").read_text())["sweep"][
        "parameter_differences"
    ]
    lane, changed = (
        [f"{found[f'after_{n}_updates'][pair]['share_within_1e-05']:.0%}" for n in (1, 4)]
        for pair in ("lane_against_alone", "alone_against_last_bit_changed")
    )
    said = " ".join((ROOT / "README.md").read_text().split())
    assert f"{lane[0]} of the 64 lanes have all parameters within 1e-5 of their solo runs after one update" in said
    assert f"{lane[1]} after four" in said and f"{changed[0]} and {changed[1]}" in said
