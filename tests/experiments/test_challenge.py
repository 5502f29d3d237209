"""The Procgen challenge: scores against hand-computed and published numbers, and a folder that is resumed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from purerl.cli import main
from purerl.envs import procgen_scores
from purerl.errors import PurerlError
from purerl.experiments.challenge import commands, protocol, running, scoring
from purerl.experiments.challenge.scoring import Result
from purerl.runs import files, ownership, programs, run_folder
from purerl.runs.resume import resume

CONSTANTS = procgen_scores.DEFAULT_CONSTANTS


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("track", "training", "evaluation"), [("generalization", 0.598, 0.359), ("sample-efficiency", 0.644, None)]
)
def test_the_published_curves_have_the_published_scores(track, training, evaluation, capsys):
    """PPO after 25M easy steps: 200 levels (train, test), and all levels."""
    results = commands.published_results(track, 25_000_000)
    found = {kind: scoring.mean_score(results, kind, CONSTANTS) for kind in scoring.KINDS}
    assert round(found["training"].mean, 3) == training and len(found["training"].games) == 16
    assert found["training"].low < training < found["training"].high and found["training"].over == "seeds"
    assert found["evaluation"] is None if evaluation is None else round(found["evaluation"].mean, 3) == evaluation
    assert main.main(["challenge", "published", "--track", track, "--steps", "25000000"]) == 0
    assert f": {training} (" in capsys.readouterr().out


def test_the_score_of_round_2_is_that_of_a_published_report():
    """The ten returns in a report of a team that ended fourth and ninth; its weighted score is .713."""
    report = {"coinrun": 9.261, "bigfish": 26.28, "miner": 9.78, "starpilot": 61.9, "chaser": 10.793, "plunder": 7.45}
    report |= {"caterpillar": 23.43, "gemjourney": 15.265, "hovercraft": 16.08, "safezone": 1.638}
    score, share = scoring.round_2(report, CONSTANTS)
    assert round(score, 3) == 0.713 and share == pytest.approx(1.0)
    half = {"coinrun": 7.5, "miner": 1.5, "maze": 10.0}  # .5 and 0; maze is not of round 2
    assert scoring.round_2(half, CONSTANTS) == (pytest.approx(0.25), pytest.approx(2 / 12))
    assert scoring.round_2({"maze": 10.0}, CONSTANTS) is None


def one(game, training, evaluation=None, errors=None, status="scored"):
    arrays = [None if x is None else np.array(x, float) for x in (training, evaluation, errors)]
    return Result(game, status, 8_000_000, *arrays)


def test_means_and_intervals_by_hand():
    """coinrun is scored from 5 to 10, maze too, leaper from 1.5 to 10 (or from 3)."""
    alone = [one("coinrun", [6.0], [7.5], [0.3]), one("maze", [10.0], [5.0], [0.4])]
    score = scoring.mean_score(alone, "evaluation", CONSTANTS)
    assert score.mean == pytest.approx((0.5 + 0.0) / 2) and score.over == "episodes"
    assert score.high - score.mean == pytest.approx(1.96 * math.sqrt(0.06**2 + 0.08**2) / 2)
    training = scoring.mean_score(alone, "training", CONSTANTS)
    assert (training.mean, training.low, training.over) == (pytest.approx(0.6), None, "")
    several = [one("coinrun", [5.0, 10.0], status="trained"), one("maze", [7.5, 7.5], status="training")]
    both = scoring.mean_score(several, "training", CONSTANTS)
    assert (both.games, both.mean, both.low, both.high, both.over) == (("coinrun",), 0.5, 0.0, 1.0, "seeds")
    leaper = [one("leaper", [10.0], [3.0])]
    assert scoring.mean_score(leaper, "evaluation", "jumper-leaper-3").mean == 0.0
    assert scoring.mean_score(leaper, "evaluation", CONSTANTS).mean == pytest.approx(1.5 / 8.5)
    assert scoring.mean_score([one("maze", [np.nan])], "training", CONSTANTS) is None


def test_the_table_names_the_hidden_games_and_the_published_returns():
    lines = scoring.lines("generalization", [one("coinrun", [9.0], [8.0], [0.1])], CONSTANTS)
    row = next(line.split() for line in lines if line.split()[0] == "coinrun")
    assert row[:7] == ["coinrun", "1/12", "8,000,000", "9", "0.800", "8", "0.600"]
    known = scoring.published("generalization", "coinrun", "evaluation", 8_000_000)
    assert f"/ {known.mean():.3g} +- {known.std(ddof=1):.2g}" in " ".join(row)
    for game in protocol.HIDDEN:
        assert [line for line in lines if line.split()[0] == game and line.endswith("not installable")]
    assert sum(protocol.ROUND_2.values()) == pytest.approx(1)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_every_stage_of_a_game_is_shown(tmp_path, write_run):
    asked = running.Challenge("sample-efficiency", "ppo", "procgen-easy", ("coinrun", "heist", "maze", "miner"))
    ownership.mark(tmp_path, ownership.CHALLENGE)
    files.write_json(tmp_path / running.RECORD, asked.to_dict() | {"engine": "local", "by_game": None})
    cells = {game: tmp_path / running.CELLS / game for game in asked.games}
    for game, final in (("coinrun", 9.0), ("maze", 7.0), ("heist", None)):
        write_run(cells[game], [[final or 3.0]] * 20, None if final is None else [final], env=f"procgen/{game}")
    played = {"seed": 0, "mean": 8.0, "std": 3.0, "episodes": 101, "length": 9.0, "normalized": 0.6}
    content = {"env": "procgen/coinrun", "step": 2000, "episodes_per_environment": 2, "num_envs": 50}
    content |= {"env_options": {"num_levels": 0, "start_level": 0}, "per_seed": [played]}
    files.write_json(cells["coinrun"] / run_folder.EVALUATION, content)
    found = running.write_score(tmp_path)
    assert {game: entry["status"] for game, entry in found["games"].items() if game in cells} == {
        "coinrun": "scored",
        "heist": "training",
        "maze": "trained",
        "miner": "not begun",
    }
    stored = json.loads((tmp_path / running.SCORE).read_text())
    assert stored["games"]["coinrun"]["evaluation_normalized"] == [pytest.approx(0.6)]
    assert stored["mean_normalized_return"]["training"]["mean"] == pytest.approx((0.8 + 0.4) / 2)
    score = stored["mean_normalized_return"]["evaluation"]
    assert score["high"] - score["mean"] == pytest.approx(1.96 * 0.3 / 5)
    files.write_json(cells["coinrun"] / run_folder.EVALUATION, content | {"env_options": {"num_levels": 200}})
    assert running.write_score(tmp_path)["games"]["coinrun"]["status"] == "trained"  # of other levels: plays again


def test_overwrite_removes_what_purerl_wrote(tmp_path, write_run, capsys):
    asked = running.Challenge("generalization", "ppo", "procgen-easy", ("coinrun",))
    ownership.mark(tmp_path, ownership.CHALLENGE)
    for name in (running.RECORD, running.SCORE):
        files.write_json(tmp_path / name, asked.to_dict())
    write_run(tmp_path / "cells" / "coinrun", [[1.0]], env="procgen/coinrun")
    (tmp_path / "notes.txt").write_text("mine")
    running._check(tmp_path, asked, resume=False, overwrite=True)
    running._begin(tmp_path, asked, "local", (), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["challenge.json", "notes.txt", ownership.MARKER]
    assert "purerl did not write it: notes.txt" in capsys.readouterr().err
    (tmp_path / ownership.MARKER).unlink()
    with pytest.raises(PurerlError, match="says that purerl wrote it"):
        running._check(tmp_path, asked, resume=False, overwrite=True)


def test_a_challenge_is_stopped_resumed_and_scored(tmp_path, tiny, monkeypatch, capsys):
    """Two games one after the other; the second one fails at first. Nothing is trained twice."""
    out = tmp_path / "run"
    fields = {"num_envs": 8, "rollout_length": 16, "num_minibatches": 2, "network": "mlp", "hidden": 4}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    words += ["--track", "generalization", "--games", "maze,coinrun", "--steps", "256", "--out", str(out)]
    words += ["--eval-envs", "1", "--eval-episodes", "1", "--quiet"]
    train, trained = programs.train_program, []

    def failing(path, **how):
        trained.append(json.loads((path / programs.PROGRAM).read_text())["cells"][0]["plan"]["env"])
        if len(trained) == 2:
            raise PurerlError("the disk is full")
        train(path, **how)

    monkeypatch.setattr(programs, "train_program", failing)
    monkeypatch.setattr(programs, "random_return", lambda *_: None)  # a measurement that takes as long as all else
    assert main.main(["challenge", "run", "ppo", *words]) == 2
    assert trained == ["procgen/coinrun", "procgen/maze"]
    config = run_folder.load(out / "cells" / "coinrun")["config"]
    options = {name: config["env_options"][name] for name in ("distribution_mode", "num_levels", "start_level")}
    assert options == {"distribution_mode": "easy", "num_levels": 200, "start_level": 0}
    assert config["recording"]["keep_best"]
    capsys.readouterr()
    assert main.main(["challenge", "score", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "scored" in shown and "not begun" in shown and "2 of the 16 public games" in shown
    assert main.main(["challenge", "run", "ppo", *words, "--resume", "--seed", "1"]) == 2
    assert "--resume: seed differs from the challenge in" in capsys.readouterr().err
    assert main.main(["resume", str(out), "--steps", "512"]) == 2
    assert "the games of a challenge keep their length" in capsys.readouterr().err
    with pytest.raises(PurerlError, match="with purerl resume"):
        resume(out)
    assert main.main(["resume", str(out), "--quiet"]) == 0
    assert main.main(["challenge", "resume", str(out), "--quiet"]) == 0
    assert main.main(["challenge", "run", "ppo", *words, "--resume"]) == 0
    assert trained == ["procgen/coinrun", "procgen/maze", "procgen/maze"]
    games = json.loads((out / "score.json").read_text())["games"]
    assert [games[game]["status"] for game in ("coinrun", "maze")] == ["scored", "scored"]
    played = json.loads((out / "cells" / "maze" / "eval.json").read_text())
    assert played["env_options"]["num_levels"] == 0 and played["env_options"]["distribution_mode"] == "easy"


def test_rewards_of_the_winner_are_clipped_to_the_largest_return_of_each_game():
    """And only in the challenge, where its game is known; a value of the user's is for all games."""
    flags = {"track": "generalization", "games": "starpilot,bigfish"}

    def clips(agent, **fields):
        asked = commands._asked(agent, "procgen-easy", flags, fields)
        assert ("reward_clip" in commands._default_folder(asked).name) == bool(fields)
        return [float(plan.config.reward_clip) for plan in asked.plans().values()]

    assert clips("ppg-generalization") == [40.0, 64.0]
    assert clips("ppg-generalization", reward_clip=5.0) == [5.0, 5.0]
    assert clips("ppg") == [10.0, 10.0]


@pytest.mark.parametrize("track", ["generalization", "sample-efficiency"])
def test_a_winner_plays_its_own_track(track):
    assert commands._asked(f"ppg-{track}", "procgen-easy", {"games": "coinrun"}, {}).track == track


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run ppo", "which track? --track generalization"),
        ("run ppo --track general", "Did you mean 'generalization'"),
        ("run ppo --track generalization --games caterpillar", "hidden game of the challenge, not installable"),
        ("run ppo --track generalization --games mase", "unknown game 'mase'. Did you mean 'maze'"),
        ("run pp --track generalization", "Did you mean 'ppo'"),
        ("run ppo --track generalization --eval-envs 0", "num_envs"),
        ("run ppo --track generalization --env.num-levels 5", "unknown flag"),
        ("score nowhere", "is not a challenge's folder"),
        ("published --track generalization --steps 10", "nothing is published at 10 steps"),
        ("published --track generalization --constants mine", "unknown score constants 'mine'"),
        ("scores", "Did you mean 'score'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(line, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["challenge", *line.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "cells").mkdir()
    words = ["challenge", "run", "ppo", "--track", "generalization", "--games", "maze", "--out", str(tmp_path)]
    assert main.main(words) == 2
    assert "has its own 'cells'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
