"""Sweeps: their settings, their table and ranking, and that a kill and a restart change neither."""

import csv
import math

import numpy as np
import pytest

import purerl
from purerl.errors import PurerlError
from purerl.runs import run_folder, search_space
from purerl.runs.train import train

CARTPOLE = ("ppo", "gymnax/CartPole-v1")
GRID = "learning_rate=1e-3,1e-2;num_epochs=1,2"


def settings(grid=None, random=None, samples=None, search_seed=0):
    return search_space.settings_of(*CARTPOLE, grid, random, samples, search_seed)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    return purerl.sweep(*CARTPOLE, grid=GRID, seeds=2, steps=640, config=tiny("ppo"), out=folder, quiet=True)


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_grid_is_all_combinations_in_order():
    assert settings("lambda=.9") == settings("gae_lambda=.9") == settings("trace_decay=.9")
    assert settings("lr=1e-4,5e-4; gamma=.99,.999") == [
        {"learning_rate": 1e-4, "discount": 0.99},
        {"learning_rate": 1e-4, "discount": 0.999},
        {"learning_rate": 5e-4, "discount": 0.99},
        {"learning_rate": 5e-4, "discount": 0.999},
    ]


def test_values_have_the_types_of_their_fields():
    text = "num-epochs=2;network=mlp;hidden=64x64,32;clip_values=true;clip=inf;env.max_steps=100"
    first, second = settings(text)
    assert first == {
        "num_epochs": 2, "network": "mlp", "hidden": (64, 64), "clip_values": True, "clip": math.inf,
        "env.max_steps": 100,
    }  # fmt: skip
    assert second["hidden"] == (32,)
    assert settings({"learning_rate": np.array([0.25, 0.5])}) == [{"learning_rate": 0.25}, {"learning_rate": 0.5}]


def test_random_settings_follow_their_laws():
    text = "learning_rate=log(1e-5,1e-1);num_envs=choice(16,32);clip=uniform(.1,.3);rollout_length=log(8,128)"
    found = settings(random=text, samples=2000)
    assert found == settings(random=text, samples=2000) != settings(random=text, samples=2000, search_seed=1)
    exponents = np.log10([s["learning_rate"] for s in found])
    assert np.histogram(exponents, bins=4, range=(-5, -1))[0] == pytest.approx([500] * 4, abs=80)
    clips = np.array([s["clip"] for s in found])
    assert clips.min() >= 0.1 and clips.max() <= 0.3 and clips.mean() == pytest.approx(0.2, abs=0.01)
    assert sum(s["num_envs"] == 16 for s in found) == pytest.approx(1000, abs=90)
    assert all(isinstance(s["rollout_length"], int) and 8 <= s["rollout_length"] <= 128 for s in found)


@pytest.mark.parametrize(
    "how, line",
    [
        ({}, "give the fields to sweep"),
        ({"grid": "clip=1", "random": "clip=uniform(1,2)"}, "give the fields to sweep"),
        ({"grid": "clip=1", "samples": 3}, "--samples belongs to --random"),
        ({"grid": "learning_rat=1"}, "no field 'learning_rat' to sweep. Did you mean 'learning_rate'"),
        ({"grid": "max_steps=1"}, "Did you mean 'env.max_steps'"),
        ({"grid": "learning_rate"}, "has no values"),
        ({"grid": "learning_rate=a"}, "learning_rate: 'a' is not a number"),
        ({"grid": "network=mlpp"}, "Did you mean 'mlp'"),
        ({"grid": "num_epochs=1.5"}, "an integer"),
        ({"grid": "clip=1,1"}, "different values"),
        ({"grid": "clip=1;clip=2"}, "named twice"),
        ({"grid": "discount=1;gamma=2"}, "named twice"),
        ({"grid": ";"}, "nothing to sweep"),
        ({"grid": {"clip": 0.1}}, "sequence of different values"),
        ({"random": "clip=uniform(1,2)"}, "needs --samples"),
        ({"random": "clip=normal(1,2)", "samples": 1}, "not a distribution"),
        ({"random": "clip=1,2", "samples": 1}, "write log"),
        ({"random": "clip=uniform(2,1)", "samples": 1}, "lower first"),
        ({"random": "clip=log(0,1)", "samples": 1}, "positive bounds"),
        ({"random": "network=uniform(mlp,impala)", "samples": 1}, "choice"),
    ],
)
def test_what_cannot_be_swept_gets_one_line(how, line, tmp_path):
    with pytest.raises(PurerlError, match=line):
        purerl.sweep(*CARTPOLE, **how, out=tmp_path / "sweep", quiet=True)
    assert not (tmp_path / "sweep").exists()


def test_a_cell_that_cannot_work_is_found_before_anything_is_written(tmp_path):
    with pytest.raises(PurerlError):
        purerl.sweep(*CARTPOLE, grid={"num_minibatches": [2, 7]}, config={"num_envs": 4}, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


# --- results ---------------------------------------------------------------------------------------------------------


def test_the_table_is_what_the_cells_say(finished):
    assert [(row["cell"], row["learning_rate"], row["num_epochs"], row["seed"]) for row in finished.table] == [
        (f"{cell:03d}", rate, epochs, seed)
        for cell, (rate, epochs) in enumerate([(1e-3, 1), (1e-3, 2), (1e-2, 1), (1e-2, 2)])
        for seed in (0, 1)
    ]
    for row in finished.table:
        folder = finished.folder / "cells" / row["cell"]
        assert row["final_return"] == run_folder.load(folder)["summary"]["final_return"]["per_seed"][row["seed"]]
        assert row["mean_return"] > 8
    with open(finished.folder / "table.csv", newline="") as file:
        stored = list(csv.DictReader(file))
    assert [float(row["final_return"]) for row in stored] == [row["final_return"] for row in finished.table]
    assert not (finished.folder / "figures").exists()  # the command line draws


def test_the_ranking_is_by_interquartile_mean(finished):
    means = {}
    for row in finished.table:
        means.setdefault(row["cell"], []).append(row["final_return"])
    order = sorted(means, key=lambda cell: -np.mean(means[cell]))  # of two seeds the IQM is the mean
    assert [row["cell"] for row in finished.ranking] == order
    assert [row["rank"] for row in finished.ranking] == [1, 2, 3, 4]
    for row in finished.ranking:
        assert row["iqm"] == row["mean"] == np.mean(means[row["cell"]])
        assert row["low"] == min(means[row["cell"]]) and row["high"] == max(means[row["cell"]])


def test_a_cell_equals_train_with_its_setting(finished, tmp_path, tiny):
    config = tiny("ppo", learning_rate=1e-2, num_epochs=2)
    solo = train(*CARTPOLE, seeds=2, steps=640, config=config, out=tmp_path / "solo", quiet=True)
    mine = [row["final_return"] for row in finished.table if row["cell"] == "003"]
    assert mine == pytest.approx(solo.summary["final_return"]["per_seed"], rel=1e-5)


def test_a_sweep_folder_is_not_taken_for_another(finished, tmp_path, tiny):
    how = {"seeds": 2, "steps": 640, "config": tiny("ppo"), "quiet": True}
    with pytest.raises(PurerlError, match="already holds a sweep"):
        purerl.sweep(*CARTPOLE, grid=GRID, out=finished.folder, **how)
    with pytest.raises(PurerlError, match="cells differs from the sweep"):
        purerl.sweep(*CARTPOLE, grid="learning_rate=1", out=finished.folder, resume=True, **how)
    with pytest.raises(PurerlError, match="seeds differs from the sweep"):
        purerl.sweep(*CARTPOLE, grid=GRID, out=finished.folder, resume=True, **(how | {"seeds": 3}))
    with pytest.raises(PurerlError, match="no sweep to resume"):
        purerl.sweep(*CARTPOLE, grid=GRID, out=tmp_path / "none", resume=True, **how)
    with pytest.raises(PurerlError, match="already holds a run"):
        purerl.sweep(*CARTPOLE, grid=GRID, out=finished.folder / "cells" / "000", **how)
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(PurerlError, match=r"has its own 'table\.csv'"):
        purerl.sweep(*CARTPOLE, grid=GRID, out=tmp_path, **how)
    again = purerl.sweep(*CARTPOLE, grid=GRID, out=finished.folder, resume=True, **how)
    assert again.table == finished.table


def test_overwrite_replaces_a_sweep(tmp_path, tiny):
    how = {"steps": 64, "config": tiny("ppo"), "out": tmp_path / "sweep", "quiet": True}
    purerl.sweep(*CARTPOLE, grid={"clip": [0.1, 0.2, 0.3]}, **how)
    found = purerl.sweep(*CARTPOLE, grid={"clip": [0.4]}, overwrite=True, **how)
    assert [path.name for path in (tmp_path / "sweep" / "cells").iterdir()] == ["000"]
    assert [row["clip"] for row in found.table] == [0.4]


def test_the_command_prints_the_ranking(run_cli, tmp_path):
    done = run_cli(
        "sweep", *CARTPOLE, "--random", "learning_rate=log(1e-4,1e-2)", "--samples", 2, "--steps", 640,
        "--num-envs", 4, "--rollout-length", 16, "--num-minibatches", 2, "--out", tmp_path / "sweep",
        "--log", "tensorboard",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "learning_rate" in done.stdout and "table.csv" in done.stdout and "2 lanes" in done.stderr
    assert (tmp_path / "sweep" / "figures" / "sweep.png").stat().st_size > 10_000
    logs = sorted((tmp_path / "sweep").glob("cells/*/tensorboard/seed_*/events*"))
    assert [path.parents[2].name for path in logs] == ["000", "001"]
    done = run_cli("sweep", *CARTPOLE, "--grid", "clip=.1", "--max-memory", "lots")
    assert (done.code, done.stdout) == (2, "") and "'lots' is not an amount of memory" in done.stderr


PPO_OF_MY_OWN = """
import purerl
from purerl import registry

purerl.register_agent("mine", registry.agent("ppo")._replace(name="mine"))
purerl.register_preset("mine", "classic", registry.presets_of("ppo")["classic"])
"""


def test_ray_gives_the_same_sweep(finished, run_cli, tmp_path):
    """A local cluster of one node: the same programs in processes of Ray's own, which import a user's agent."""
    pytest.importorskip("ray", reason="ray is not installed")
    (tmp_path / "my_agent.py").write_text(PPO_OF_MY_OWN)
    done = run_cli(
        *("sweep", "mine", CARTPOLE[1], "--import", "my_agent.py", "--grid", GRID, "--seeds", 2, "--steps", 640),
        *("--num-envs", 4, "--rollout-length", 16, "--num-minibatches", 2, "--engine", "ray"),
        *("--out", tmp_path / "sweep"),
    )
    assert done.code == 0, done.stderr
    assert "Warning" not in done.stderr
    for name in ("table.csv", "ranking.csv"):
        assert (tmp_path / "sweep" / name).read_bytes() == (finished.folder / name).read_bytes()
