"""`--keep-best` and `--hours`: which parameters are kept, and runs that end in time."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from purerl.agents import ppg
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


class FakeTiming:
    """A clock that a test sets by hand: `wall` seconds, of which `watch.seconds` went into compilation."""

    def __init__(self, wall=0.0, compiling=0.0):
        self.wall, self.watch = wall, SimpleNamespace(seconds=compiling)


def test_no_log_period_begins_that_would_not_fit():
    clock = FakeTiming()
    budget = timing.Budget(100 / 3600, clock, lambda first, end: end - first)
    budget.begin()
    fits = []
    for period, (clock.wall, clock.watch.seconds) in enumerate(((40.0, 30.0), (65.0, 30.0), (80.0, 30.0))):
        budget.note(period, period + 1)
        fits.append(budget.fits(period + 1, period + 2))
    assert fits == [True, True, False]  # periods of 10, 25 and 15 seconds: 80 + 25 is more than 100


def train_by(clock, budget, seconds, iterations):
    """Moves the clock through iterations (seconds: of light and long ones, every fourth) as long as they fit."""
    for i in iterations:
        if i and not budget.fits(i, i + 1):
            return i
        clock.wall += seconds[(i + 1) % 4 == 0]
        budget.note(i, i + 1)
    return None


def test_a_run_ends_before_a_long_phase_that_would_not_fit():
    """Iterations of 2 passes; every fourth, of 22, takes 30 seconds instead of 5. 18 iterations end at 190 seconds."""

    def passes(first, end):
        return sum(22 if (i + 1) % 4 == 0 else 2 for i in range(first, end))

    def ended(seconds, seen=(), first=0, wall=0.0, playing=0.0):
        clock = FakeTiming(wall)
        budget = timing.Budget(seconds / 3600, clock, passes, lambda: playing * clock.wall)
        budget.begin(seen)
        stopped = train_by(clock, budget, (5.0, 30.0), range(first, 18))
        assert clock.wall <= seconds
        return stopped, clock.wall, budget.longest()

    # The first long phase: unknown, so 5 + 1.5 * 5 / 2 * 20 = 80 seconds are expected. It begins after 15 seconds.
    assert ended(94)[:2] == (3, 15.0)
    # Then it is known: light iterations go on as long as 5 seconds are left, and the next long one needs 30.
    assert ended(95)[:2] == (9, 95.0)
    # With half of the time spent in games, 5 + 1.5 * 2.5 / 2 * 20 = 42.5 seconds are expected.
    assert ended(57, playing=0.5)[0] == 3 and ended(58, playing=0.5)[0] == 6
    stopped, wall, seen = ended(119)
    assert (stopped, wall) == (11, 105.0)
    assert ended(135)[0] == 12 and ended(189)[0] == 17 and ended(190)[0] is None
    # The next session knows it, too; without that it would begin the long phase at 105 of 130 seconds.
    assert ended(130, seen, first=11, wall=105.0)[:2] == (11, 105.0)
    with pytest.raises(AssertionError):
        ended(130, [], first=11, wall=105.0)


def test_the_passes_of_ppg_are_those_of_its_phases():
    """N_pi 2, 1 skipped, E_aux 3, at most one auxiliary phase: that of iteration 2, of 2 x (3 + 1) passes more."""
    fields = {"policy_iterations": 2, "skip_iterations": 1, "auxiliary_epochs": 3, "max_auxiliary_phases": 1}
    assert [ppg.passes(ppg.Config(**fields), i, 6) for i in range(6)] == [1, 1, 9, 1, 1, 1]
    last = ppg.Config(policy_iterations=2, auxiliary_epochs=3, final_auxiliary_phase=False, value_epochs=4)
    assert [ppg.passes(last, i, 4) for i in range(4)] == [5, 13, 5, 5]
    assert ppg.passes(ppg.Config(policy_iterations=1, auxiliary_epochs=0), 0, 4) == 1


def test_a_short_run_of_ppg_does_not_begin_its_auxiliary_phase(tmp_path, tiny):
    """Three minutes: plenty for four policy phases of milliseconds, and too short for 4 x 10^7 passes after them."""
    fields = {"policy_iterations": 4, "auxiliary_epochs": 10**7, "auxiliary_minibatches": 1}
    fields = tiny("ppg", network="mlp", hidden=(8,)) | fields
    how = RUN | {"agent": "ppg", "config": fields, "log_every": 1, "out": tmp_path}
    done = train(**how, hours=0.05).summary
    assert (done["iterations"], done["ended_after_hours"] < 0.05) == (3, True)
    with checkpoint.Checkpoints(tmp_path / run_folder.CHECKPOINTS) as saved:
        (longest,) = saved.read_metadata()[1]["longest_periods"]
    assert longest["passes"] == 4 and 0 < longest["seconds"] < 180
    assert train(**how, hours=0.06, resume=True).summary["iterations"] == 3
