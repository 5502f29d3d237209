"""The recorded comparison of the DQN family: what is kept is what the runs say, and finished runs are not run again."""

import json
from pathlib import Path

import numpy as np
import pytest

from purerl import training
from purerl.experiments import dqn_family


def test_runs_are_kept_and_not_repeated(tmp_path, monkeypatch):
    small = {"GAMES": ("Breakout",), "SWEPT_GAMES": ("Breakout",), "AGENTS": ("dqn", "dqn-pro"), "SEEDS": 2}
    for name, value in (small | {"SWEPT_SEEDS": 2, "COEFFICIENTS": (0.05, 0.5)}).items():
        monkeypatch.setattr(dqn_family, name, value)
    dqn_family.run_all(tmp_path / "runs", steps=6400)
    cut = tmp_path / "runs" / "dqn-Breakout" / "summary.json"
    before = json.loads(cut.read_text())["final_return"]
    cut.unlink()
    dqn_family.run_all(tmp_path / "runs", steps=6400)
    assert json.loads(cut.read_text())["final_return"] == before
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("a finished run was run again"))
    dqn_family.run_all(tmp_path / "runs", steps=6400)
    path = dqn_family.keep(tmp_path / "runs", tmp_path / "results")

    entries = json.loads(path.read_text())["runs"]
    assert [(e["agent"], e["proximal_coefficient"], e["swept"]) for e in entries] == [
        ("dqn", "inf", False),
        ("dqn-pro", 0.1, False),
        ("dqn-pro", 0.05, True),
        ("dqn-pro", 0.5, True),
    ]
    assert [e["seeds"] for e in entries] == [[0, 1], [0, 1], [0, 1], [2, 3]]
    summary = json.loads((tmp_path / "runs" / "sweep-Breakout" / "summary.json").read_text())
    np.testing.assert_allclose(entries[3]["final_return"], summary["final_return"]["per_seed"][2:], atol=1e-4)
    distance = entries[1]["curves"]["target_distance"]
    assert all(np.array(distance["iqm"]) > 0) and distance["step"][-1] <= 6400
    assert dqn_family.table(path).count("\n") == 2
    for figure in ("returns", "target-distance", "coefficient"):
        assert path.with_name(f"{path.stem}-{figure}.png").stat().st_size > 10_000


def test_probability_of_improvement():
    assert dqn_family.probability_of_improvement([1.0, 3.0], [0.0, 1.0, 2.0, 2.0]) == (1.5 + 4) / 8


def test_the_readme_shows_the_recorded_comparison():
    root = Path(__file__).parents[2]
    table = dqn_family.table(root / "experiments" / "results" / f"{dqn_family.NAME}.json")
    assert table in (root / "README.md").read_text()
