"""What purerl deletes: its own files in folders that it marked, and nothing else."""

import contextlib
import functools
from pathlib import Path

import numpy as np
import pytest

import purerl
from purerl.errors import PurerlError
from purerl.runs import files, ownership, run_folder
from purerl.runs.checkpoint import Checkpoints

CONFIG = {"agent": "ppo", "env": "gymnax/CartPole-v1", "preset": None, "seeds": [0, 1]}


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


@pytest.mark.parametrize("name", ["config.json", "sweep.json"])
def test_a_folder_without_the_marker_is_not_overwritten(tmp_path, name):
    """Even if the file of that name could be purerl's own."""
    files.write_json(tmp_path / name, CONFIG | {"cells": [{"clip": 0.1}]})
    fill(tmp_path, "cells/mine.txt", "programs/mine.txt", "figures/mine.png", "checkpoints/model.bin", "table.csv")
    before = tree(tmp_path)
    with pytest.raises(PurerlError, match=r"purerl\.json that says that purerl wrote it: remove it yourself"):
        if name == "config.json":
            purerl.train(*("ppo", "gymnax/CartPole-v1"), steps=64, out=tmp_path, overwrite=True)
        else:
            purerl.sweep(*("ppo", "gymnax/CartPole-v1"), grid="clip=.1", steps=64, out=tmp_path, overwrite=True)
    assert tree(tmp_path) == before


def test_a_strangers_sweep_json_is_refused_without_flags(tmp_path):
    fill(tmp_path, "sweep.json", "cells/mine.txt")
    for flags in ({}, {"resume": True}):
        with pytest.raises(PurerlError):
            purerl.sweep("ppo", "gymnax/CartPole-v1", grid="clip=.1", steps=64, out=tmp_path, **flags)
    assert tree(tmp_path) == ["cells/mine.txt", "sweep.json"]


def test_a_run_loses_its_own_files_and_the_rest_is_named(tmp_path, capsys):
    folder = run_folder.create(tmp_path / "run", CONFIG)
    own = ["summary.json", "eval.json", "report.html", "figures/return.png", "figures/loss.png", "figures/video.gif"]
    own += ["figures/video-20000.gif", "figures/video-0.gif"]
    own += ["checkpoints/00000200/index.json", "checkpoints/.saving-00000400/arrays/a", ".config.json.7.purerl-tmp"]
    own += ["tensorboard/seed_0/events.out.tfevents.7"]
    foreign = ["notes.txt", "figures/mine.png", "checkpoints/20261127/best.pt", "tensorboard/hparams", "wandb/run"]
    fill(folder, *own, *foreign)
    (folder / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    run_folder.create(folder, CONFIG | {"agent": "ppg"}, overwrite=True)
    assert tree(folder) == sorted(["config.json", "purerl.json", *foreign])
    assert run_folder.load(folder)["config"]["agent"] == "ppg"
    said = capsys.readouterr().err
    assert said.startswith(f"purerl: kept in {folder}, because purerl did not write it: ") and said.count("\n") == 1
    for name in ("notes.txt", "figures/mine.png", "checkpoints/20261127", "tensorboard/hparams", "wandb"):
        assert name in said


def test_videos_of_training_are_known_by_their_names_alone(tmp_path):
    fill(tmp_path, "video-900.gif", "video-20000.gif", "video.gif", "video-.gif", "video-1st.gif", "video-1.mp4")
    assert [(step, path.name) for step, path in ownership.videos_of_training(tmp_path).items()] == [
        (900, "video-900.gif"),
        (20000, "video-20000.gif"),
    ]


def test_a_sweep_loses_its_own_files_in_all_its_folders(tmp_path):
    ownership.mark(tmp_path, ownership.SWEEP)
    run_folder.create(tmp_path / "cells" / "000", CONFIG)
    (tmp_path / "programs" / "0000").mkdir(parents=True)
    ownership.mark(tmp_path / "programs" / "0000", ownership.PROGRAM)
    own = ["sweep.json", "table.csv", "figures/sweep.png", "cells/000/summary.json", "programs/0000/program.json"]
    foreign = ["cells/000/notes.txt", "cells/mine/config.json", "programs/mine/program.json", "figures/mine.png"]
    fill(tmp_path, *own, *foreign)
    stays = ownership.remove(tmp_path, ownership.SWEEP)
    assert tree(tmp_path) == sorted(foreign)
    assert [path.name for path in stays] == ["000", "mine", "mine.png", "mine"]


def test_links_are_not_followed(tmp_path):
    fill(tmp_path / "elsewhere", "return.png", "00000200/index.json")
    folder = run_folder.create(tmp_path / "run", CONFIG)
    for name in ("figures", "checkpoints"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PurerlError, match="checkpoints is a link that leads out of the folder"):
        run_folder.create(folder, CONFIG, overwrite=True)
    ownership.remove(folder, ownership.RUN)  # as in a sweep's cell
    assert tree(tmp_path / "elsewhere") == ["00000200/index.json", "return.png"]


def test_markers_that_are_not_ours(tmp_path):
    for text, line in (
        ("{}", "not written by purerl"),
        ('{"purerl": "run", "format": 99}', "use the purerl that wrote"),
    ):
        (tmp_path / "purerl.json").write_text(text)
        with pytest.raises(PurerlError, match=line):
            run_folder.check(tmp_path)
    ownership.mark(tmp_path, ownership.SWEEP)
    with pytest.raises(PurerlError, match="holds a sweep of purerl, not a run"):
        run_folder.check(tmp_path)


@contextlib.contextmanager
def new_run(folder):
    learned = functools.partial(run_folder.has_rows, folder)
    with run_folder.held(folder), run_folder.undone_if_nothing_is_learned(folder, ownership.RUN, learned):
        yield run_folder.create(folder, CONFIG)


def test_a_run_that_fails_before_its_first_row_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_run(tmp_path / "a" / "run"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_after_its_first_row_keeps_it(tmp_path):
    with pytest.raises(RuntimeError), new_run(tmp_path / "run") as folder:
        (folder / "metrics.jsonl").write_text("{}\n")
        raise RuntimeError
    assert tree(tmp_path / "run") == ["config.json", "metrics.jsonl", "purerl.json"]


def test_a_users_numbered_folder_among_the_checkpoints_is_not_pruned(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        fill(tmp_path / "checkpoints", "2026/mine.pt", "00000000/mine.pt")
        for iteration in (1, 2, 3):
            checkpoints.save(iteration, {"x": np.zeros(2)}, {})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000000", "00000003", "2026"]
