"""Adaptive search: rungs cut a run without changing it, a kill changes nothing, Optuna's proposals can be repeated."""

import json

import numpy as np
import pytest

import purerl
from purerl.errors import PurerlError
from purerl.loops import in_graph
from purerl.report import overview
from purerl.runs import adaptive, run_folder, sinks
from purerl.runs.checkpoint import Checkpoints

CARTPOLE = ("ppo", "gymnax/CartPole-v1")
LAWS = "learning_rate=log(1e-4,1e-1);clip=uniform(.1,.3)"
CLOCKS = ("wall_time", "steps_per_second")


def rows_of(folder):
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in sinks.read_rows(folder / run_folder.METRICS)]


def states_of(folder):
    return Checkpoints(folder / run_folder.CHECKPOINTS).read_arrays()


@pytest.fixture(scope="module")
def how(tiny):
    """18 iterations of one seed, rungs at 2, 6 and 18; a learning rate that falls over the whole run."""
    config = tiny("ppo") | {"anneal_learning_rate": True}
    return {"steps": 1152, "config": config, "log_every": 1, "quiet": True, "lanes": "map"}


@pytest.fixture(scope="module")
def found(how, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptive") / "search"
    return purerl.sweep(*CARTPOLE, random=LAWS, samples=5, rungs=3, batch=4, out=folder, **how)


def test_the_best_third_goes_on_and_the_others_are_marked(found):
    stored = json.loads((found.folder / "sweep.json").read_text())
    assert len(stored["cells"]) == 5
    # 4 settings, then 2, then 1; and a batch of 1.
    assert sorted(row["steps"] for row in found.pruned) == [128, 128, 384]
    assert len(found.ranking) == 2 and "004" in {row["cell"] for row in found.ranking}
    assert {row["cell"] for row in found.pruned}.isdisjoint(row["cell"] for row in found.ranking)
    at_first = {}
    for cell in ("000", "001", "002", "003"):
        (at_first[cell],) = (
            row["episode_return"] for row in rows_of(found.folder / "cells" / cell) if row["step"] == 128
        )
    first_out = {row["cell"] for row in found.pruned if row["steps"] == 128}
    assert max(at_first[cell] for cell in first_out) <= min(v for cell, v in at_first.items() if cell not in first_out)
    (entry,), _, _ = overview.entries(found.folder.parent)
    assert entry.status == "finished, 3 pruned"


def test_a_run_that_was_cut_is_the_run_that_was_not(found, how, tmp_path):
    """Bit for bit, in a program of its own: the learning rate falls as in a run of the whole length."""
    best = next(row for row in found.ranking if row["cell"] != "004")
    cell = found.folder / "cells" / best["cell"]
    config = how["config"] | {name: best[name] for name in ("learning_rate", "clip")}
    whole = purerl.train(*CARTPOLE, **(how | {"config": config}), out=tmp_path / "whole")
    assert rows_of(cell) == rows_of(whole.folder)
    one, other = states_of(cell), states_of(whole.folder)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("calls", [2, 27])
def test_a_search_that_is_stopped_goes_on_to_the_same_result(found, how, tmp_path, monkeypatch, calls):
    """Stopped before the first iteration that goes on from a rung, and later in another batch."""
    left, advance_on = [calls], in_graph.InGraphLoop.advance_on

    def interrupted(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return advance_on(self, *args)

    monkeypatch.setattr(in_graph.InGraphLoop, "advance_on", interrupted)
    folder, how = tmp_path / "search", how | {"checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        purerl.sweep(*CARTPOLE, random=LAWS, samples=5, rungs=3, batch=4, out=folder, **how)
    monkeypatch.undo()
    again = purerl.resume(folder, quiet=True)
    for name in ("table.csv", "ranking.csv", "pruned.csv"):
        assert (folder / name).read_bytes() == (found.folder / name).read_bytes()
    assert again.ranking == found.ranking and again.pruned == found.pruned
    assert list((folder / "programs").iterdir()) == []


def test_what_a_search_cannot_do_gets_one_line(how, tmp_path):
    for more, line in [
        ({"grid": "clip=.1,.2"}, "--sampler and --rungs need --random and --samples"),
        ({"random": LAWS}, "--sampler and --rungs need --random and --samples"),
        ({"random": LAWS, "samples": 3, "log_every": 18}, "too short for 3 rungs"),
        ({"random": LAWS, "samples": 3, "batch": 0}, "batch = 0 must be at least 1"),
        ({"random": LAWS, "samples": 3, "hours": 1.0}, "--hours does not go with --sampler or --rungs"),
        ({"random": LAWS, "samples": 3, "sampler": "tpee"}, "unknown sampler 'tpee'"),
    ]:
        with pytest.raises(PurerlError, match=line):
            purerl.sweep(*CARTPOLE, **(how | {"rungs": 3, "out": tmp_path / "x"} | more))
    assert list(tmp_path.iterdir()) == []


# --- Optuna ----------------------------------------------------------------------------------------------------------


def test_tpe_proposes_the_same_settings_again_and_finds_the_good_ones():
    pytest.importorskip("optuna", reason="optuna is not installed")
    laws = "learning_rate=log(1e-4,1e-1);num_envs=uniform(8,64);hidden=choice(8,64x64)"

    def settings(seed):
        search = adaptive.search_of(*CARTPOLE, laws, 45, seed, "tpe", 3, 9)
        tried, outcomes = [], []
        while len(tried) < 45:
            new = adaptive.propose(search, *CARTPOLE, tried, outcomes)
            assert len(new) == 9
            tried += new
            for i, setting in enumerate(new):  # the best learning rate is 1e-2; eight of nine are pruned, one diverged
                value = -abs(np.log10(setting["learning_rate"]) + 2)
                values = {100: value} if i else {100: value, 900: value}
                outcomes.append(adaptive.Outcome("pruned" if i else "finished", {} if i == 1 else values, max(values)))
        return tried

    tried = settings(3)
    assert tried == settings(3) != settings(4)
    assert all(type(one["num_envs"]) is int and 8 <= one["num_envs"] <= 64 for one in tried)
    assert {json.dumps(one["hidden"]) for one in tried} == {"[8]", "[64, 64]"}
    assert len({one["learning_rate"] for one in tried}) > 40  # those of a batch differ
    distance = [abs(np.log10(one["learning_rate"]) + 2) for one in tried]
    assert np.mean(distance[-18:]) < 0.6 * np.mean(distance[:9])
