"""`--keep-best` and `--hours`: which parameters are kept, and runs that end in time."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from purerl.cli import main
from purerl.errors import PurerlError
from purerl.runs import checkpoint, run_folder, timing
from purerl.runs.best import Best
from purerl.runs.evaluation import evaluate
from purerl.runs.filming import film
from purerl.runs.functions import load_policy
from purerl.runs.policy import best_marks, open_run
from purerl.runs.resume import resume
from purerl.runs.train import train
from purerl.runs.trainer import Trainer

PLAN = SimpleNamespace(seeds=(3, 4), to_dict=lambda: {})
RUN = {
    "agent": "ppo",
    "env": "gymnax/CartPole-v1",
    "steps": 4096,
    "log_every": 8,
    "quiet": True,
    "random_episodes": 0,
}


def state(*weights):
    """A state whose parameters are one number in each lane."""
    return SimpleNamespace(agent=SimpleNamespace(params={"w": np.array(weights, np.float32)[:, None]}))


def rows(step, *returns, episodes=60):
    return [
        {"step": step, "seed": seed, "episodes": episodes, "episode_return": value}
        for seed, value in zip(PLAN.seeds, returns, strict=True)
    ]


def test_the_parameters_of_the_best_smoothed_return_are_kept(tmp_path):
    """By hand: from 125 steps on (an eighth), means of the last two rows (of 60 episodes: one is too few)."""
    best = Best([(PLAN, tmp_path, slice(0, 2))], ("params",), 1000)
    best.update(rows(50, 100.0, 0.0), state(0, 0))
    best.update(rows(100, 100.0, 0.0), state(1, 1))  # a mean of 100, but too early
    assert best.marks(slice(0, 2)) == [{"seed": s, "step": None, "return": None} for s in PLAN.seeds]
    best.update(rows(150, 0.0, 4.0), state(2, 2))
    best.update(rows(200, 20.0, 6.0), state(3, 3))
    best.update(rows(250, 50.0, 2.0), state(math.nan, 4))  # lane 0: a mean of 35, which is less than 50
    best.update(rows(300, 70.0, 2.0), state(math.inf, 5))  # a mean of 60, but the parameters are lost
    best.save(7)
    assert best.marks(slice(0, 2)) == [
        {"seed": 3, "step": 150, "return": 50.0},
        {"seed": 4, "step": 200, "return": 5.0},
    ]
    with checkpoint.Checkpoints(tmp_path / run_folder.BEST) as saved:
        assert saved.read_arrays()["run.agent.params.w"].tolist() == [[2.0], [3.0]]


def test_a_resumed_run_keeps_what_was_best(tmp_path):
    best = Best([(PLAN, tmp_path, slice(0, 2))], ("params",), 1000)
    best.update(rows(500, 5.0, 5.0, episodes=100), state(1, 1))
    best.save(3)
    again = Best([(PLAN, tmp_path, slice(0, 2))], ("params",), 1000)
    again.resume(state(9, 9))
    again.update(rows(600, 4.0, 6.0, episodes=100), state(2, 2))
    again.save(2)  # of a lower number, as after a resume from an older checkpoint
    with checkpoint.Checkpoints(tmp_path / run_folder.BEST) as saved:
        assert saved.read_arrays()["run.agent.params.w"].tolist() == [[1.0], [2.0]]
        assert [mark["return"] for mark in saved.read_metadata()[1]["best"]] == [5.0, 6.0]


def test_a_run_is_cut_resumed_and_evaluated_at_its_best(tmp_path, tiny, monkeypatch):
    how = RUN | {
        "config": tiny("ppo", network="mlp", hidden=(8,)),
        "keep_best": True,
        "checkpoint_seconds": 0,
    }
    whole = train(**how, out=tmp_path / "whole")
    advance, calls = Trainer._advance, iter(range(1_000))

    def failing(*args):
        if next(calls) == 5:
            raise ConnectionError
        return advance(*args)

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(Trainer, "_advance", failing)
        train(**how, out=tmp_path / "cut")
    cut = resume(tmp_path / "cut", quiet=True)
    assert whole.summary["best"] == cut.summary["best"] == best_marks(tmp_path / "cut")
    assert all(512 < mark["step"] <= 4096 and mark["return"] > 0 for mark in cut.summary["best"])
    mine, other = (open_run(tmp_path / name, best=True)[4]().params for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, mine, other)
    assert main.main(["eval", str(tmp_path / "cut"), "--best", "--episodes", "1", "--quiet"]) == 0
    again = train(**how | {"keep_best": False, "overwrite": True}, out=tmp_path / "cut")
    assert not (again.folder / run_folder.BEST).exists()
    for use in (evaluate, load_policy, partial(film, steps=1)):
        with pytest.raises(PurerlError, match="has no best parameters: train with --keep-best"):
            use(again.folder, best=True)


def test_videos_and_policies_can_be_of_the_best(tmp_path, tiny, capsys):
    """The best parameters are set to others than the newest: zeros, which let the agent act as at random."""
    fields = tiny("ppo", network="mlp", hidden=(8,))
    run = train(**RUN | {"env": "gymnax/Catch-bsuite"}, config=fields, seeds=2, keep_best=True, out=tmp_path / "run")
    newest = load_policy(run.folder, seed=1)
    acting = {"params": jax.tree.map(np.zeros_like, run.state.agent.params)}
    for number, marks in enumerate(([(0, None), (1, 700)], [(0, 600), (1, 700)]), 10_000):
        content = [{"seed": seed, "step": step, "return": step and 1.0} for seed, step in marks]
        with checkpoint.Checkpoints(run.folder / run_folder.BEST, keep=1) as saved:
            saved.save(number, {"run": {"agent": acting}}, {"best": content})
        best = load_policy(run.folder, seed=1, best=True)  # seed 1 has one, whether seed 0 has one or not
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(best.state.params))
        words = ["video", str(run.folder), "--best", "--steps", "40", "--out", str(tmp_path / f"{number}.gif")]
        assert main.main(words) == (2 if number == 10_000 else 0)  # of the first seed
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(newest.state.params))
    error = capsys.readouterr().err
    assert "has no best parameters of seed 0: train with --keep-best" in error and len(error.splitlines()) == 1
    shown = [film(run.folder, steps=40, greedy=True, best=best)[0] for best in (True, False)]
    assert any((one != other).any() for one, other in zip(*shown, strict=True))


def test_a_run_ends_in_time_and_can_be_given_more(tmp_path, tiny):
    how = RUN | {"config": tiny("ppo", network="mlp", hidden=(8,)), "out": tmp_path}
    done = train(**how, hours=1e-9).summary
    assert (done["steps"], done["planned_steps"], done["iterations"]) == (512, 4096, 8)
    assert 0 < done["ended_after_hours"] < 1
    more = train(**how, resume=True).summary
    assert (more["steps"], more["iterations"]) == (4096, 64) and "planned_steps" not in more


def test_no_log_period_begins_that_would_not_fit():
    clock = SimpleNamespace(wall=0.0, watch=SimpleNamespace(seconds=0.0))
    budget = timing.Budget(100 / 3600, clock)
    spent = []
    for clock.wall, clock.watch.seconds in ((40.0, 30.0), (65.0, 30.0), (80.0, 30.0)):
        spent.append(budget.is_spent())
    assert spent == [False, False, True]  # periods of 10, 25 and 15 seconds: 80 + 25 is more than 100
