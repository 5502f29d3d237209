"""Recorded results equal the content of the run's files, and docs/results.md that of the recorded files."""

import json
import re
import shutil
from pathlib import Path

import pytest

from purerl.experiments import record, results_page, results_tables
from purerl.runs.train import train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"


def test_a_recorded_run_keeps_its_numbers(tmp_path):
    config = {"num_envs": 4, "rollout_length": 64, "num_minibatches": 2}
    run = train("ppo", "gymnax/CartPole-v1", seeds=2, steps=2048, out=tmp_path / "run", config=config, quiet=True)
    path = record.record(run.folder, "name", tmp_path / "results")
    kept = json.loads(path.read_text())
    assert kept["summary"]["final_return"]["per_seed"] == run.summary["final_return"]["per_seed"]
    assert kept["config"]["config"]["num_envs"] == 4
    assert kept["config"]["environment"]["versions"]["purerl"] == kept["summary"]["versions"]["purerl"] != ""
    assert results_tables.changes(kept["config"]) == ["num-envs 4", "rollout-length 64", "num-minibatches 2"]
    assert set(kept["curves"]) == {"0", "1"}
    assert kept["curves"]["0"]["step"][-1] == 2048
    assert (tmp_path / "results" / "name.png").exists()


def test_the_page_of_results_is_the_one_of_the_files():
    """Written again by `python -m purerl.experiments.record`."""
    assert (ROOT / "docs" / "results.md").read_text() == results_page.page(ROOT)


@pytest.mark.parametrize("name", ["ppo-minatar", "pure-train", "dqn-cartpole"])
def test_the_readme_is_right_about_rejax(name):
    assert "PPO and DQN are faster here" in (ROOT / "README.md").read_text()
    found = json.loads((RESULTS / f"bench-cpu-{name}.json").read_text())[name]
    assert all(found[seeds]["ratio"] > 1 for seeds in ("seeds_1", "seeds_8"))


def test_the_page_follows_the_files(tmp_path):
    """Another number, a game without frames, and PPO end to end, as `purerl bench procgen-jax` writes it today."""
    shutil.copytree(RESULTS, tmp_path / "experiments" / "results", ignore=shutil.ignore_patterns("*.png"))
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / results_page.TEMPLATE, tmp_path / "docs")
    path = tmp_path / "experiments" / "results" / "bench-cpu-procgen-jax.json"
    data = json.loads(path.read_text())
    sides = {"library": 1_000.0, "frames": 800.0, "symbolic": 9_876.0}
    maze = {f"{side}_steps_per_second": rate for side, rate in sides.items()}
    maze |= {"frames_ratio": 0.8, "symbolic_ratio": 9.876}
    starpilot = {name: value for name, value in maze.items() if not name.startswith("frames")}
    ppo = {"about": {"same": "words"}} | {
        "mlp_maze_1024_games_8_seeds": {
            **{"host_frames_steps_per_second": 2_345.6, "frames_over_host": 1.234, "symbolic_over_host": 11.1},
            **{"symbolic_over_library": 7.77, "rollout_length": 4},
        },
        "impala_maze_64_games_1_seeds": {"host_frames_steps_per_second": 12.3, "frames_over_host": 0.98},
        "cut_off": "impala_maze_64_games_8_seeds",
    }
    environment = {"target_ratio_of_maze_with_frames": 20, "maze_1024_games": maze, "starpilot_1024_games": starpilot}
    data["procgen-jax"] = {"target_ratio_of_symbolic_ppo": 10, "environment": environment, "ppo": ppo}
    path.write_text(json.dumps(data))
    text = results_page.page(tmp_path)
    for line in (
        "| maze | 1,000 | 800 (0.80x) | 9,876 (9.9x) |",
        "| starpilot | 1,000 | - | 9,876 (9.9x) |",
        "**With frames it is slower than the library on maze**",
        "| mlp | maze | 1,024 | 8 | 2,346 | 1.2x | 11x | 7.8x |",
        "| impala | maze | 64 | 1 | 12 | 0.98x | - | - |",
        "With the network `impala`, frames in the graph make PPO 0.98 times as fast. Below one,",
        "The recording ends there: `impala_maze_64_games_8_seeds` and what follows are missing.",
    ):
        assert line in text


def test_the_words_of_the_page_hold_no_number():
    """But for those of the method and of titles: the level of intervals, the year of a paper, a version."""
    words = (ROOT / results_page.TEMPLATE).read_text()
    for hidden in (r"\{#.*?#\}", r"\{%.*?%\}", r"\{\{.*?\}\}", r"`[^`]*`", r"\]\([^)]*\)"):
        words = re.sub(hidden, "", words, flags=re.S)
    assert set(re.findall(r"\S*\d\S*", words)) <= {"95%", "95%,", "2020)"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": (0.9, 0.6, 1.0), "b": (0.1, 0.0, 0.4), "c": (0.6, 0.5, 0.7)}, (["a"], ["b"], ["c"])),
        ({}, ([], [], [])),
    ],
)
def test_words_follow_from_intervals(found, expected):
    assert tuple(results_page.sides(found).values()) == expected
    assert results_page.listed(["x", "y", "z"]) == "x, y and z" and results_page.listed([]) == "none"
    assert results_page.overlap([(0, 0, 2), (3, 2, 4)]) and not results_page.overlap([(0, 0, 1), (3, 2, 4)])
