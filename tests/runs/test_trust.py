"""Folders of strangers: links that lead out of them, devices and pipes, names with "..", code that came with them.

All are refused before anything is written, in one line that names the path; nothing outside is read or changed, and
nothing waits for a pipe.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import zlib
from pathlib import Path

import pytest

import purerl
from purerl import PurerlError
from purerl.cli import main
from purerl.runs import checkpoint, files, programs, run_folder, sinks, trust
from purerl.runs.plan import make_plan
from purerl.runs.user_modules import Import

TRAIN = "train ppo gymnax/CartPole-v1 --num-envs 2 --rollout-length 8 --num-minibatches 2 --num-epochs 1 --hidden 4"
SWEEP = TRAIN.replace("train", "sweep", 1) + " --grid learning_rate=1e-3,1e-2"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a finished run and a finished sweep."""
    folder = tmp_path_factory.mktemp("made")
    assert main.main(f"{TRAIN} --steps 32 --log-every 1 --quiet --out {folder}/run".split()) == 0
    assert main.main(f"{SWEEP} --steps 32 --quiet --out {folder}/sweep".split()) == 0
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy of the run, as a stranger could send it. The folder outside holds what must not be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("mine")
    return Path(shutil.copytree(made / "run", tmp_path / "run", symlinks=True))


def snapshot(folder: Path) -> dict[str, object]:
    """Every path below a folder, and what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = what
    return found


def refused(capsys, line: str, *parts: object) -> None:
    capsys.readouterr()
    assert main.main(line.split()) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("purerl: error: "), said.err
    for part in parts:
        assert str(part) in said.err, said.err


COMMANDS = {
    "resume": f"{TRAIN} --steps 64 --quiet --resume --out {{run}}",
    "overwrite": f"{TRAIN} --steps 64 --quiet --overwrite --out {{run}}",
    "eval": "eval {run} --episodes 1 --quiet",
    "video": "video {run} --steps 2",
    "report": "report {run}",
    "plot": "plot {run} --y wall_time",
    "continue": "resume {run} --quiet",
}
LINKS = [
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "eval.json",
    "checkpoints",
    "best",
    "figures",
    "report.html",
    "tensorboard",
]


def lead_out(path: Path, target: Path) -> None:
    """Puts a link in the place of a file or folder; its content goes to the link's target."""
    if path.is_dir():
        shutil.copytree(path, target)
        shutil.rmtree(path)
    elif path.exists():
        shutil.copy(path, target)
        path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_out_are_refused_before_anything_is_written(capsys, run, tmp_path, name):
    lead_out(run / name, tmp_path / "outside" / "target")
    before = snapshot(tmp_path)
    for line in COMMANDS.values():
        refused(capsys, line.format(run=run), run / name, "is a link that leads out of the folder")
    assert snapshot(tmp_path) == before


def test_links_below_checkpoints_and_hidden_ones_are_refused_as_well(capsys, run, tmp_path):
    (index,) = (run / "checkpoints").glob("*/index.json")
    for path in (index, index.parent / "arrays", run / "checkpoints" / ".saving-1", run / ".lock"):
        copy = Path(shutil.copytree(run, tmp_path / "copy"))
        lead_out(copy / path.relative_to(run), tmp_path / "outside" / "target")
        refused(capsys, COMMANDS["eval"].format(run=copy), copy / path.relative_to(run), "leads out")
        shutil.rmtree(copy)
        target = tmp_path / "outside" / "target"
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)


def test_links_that_stay(capsys, run, tmp_path):
    """The run folder may be a link or lie below one, and a link may lead to another place in the folder."""
    (tmp_path / "runs").symlink_to(tmp_path)
    (tmp_path / "direct").symlink_to(run)
    (run / "my-notes").symlink_to(tmp_path / "outside" / "mine")  # not one of purerl's names
    shutil.move(run / "checkpoints", run / "moved")
    (run / "checkpoints").symlink_to("moved")
    for folder in (tmp_path / "runs" / "run", tmp_path / "direct"):
        assert main.main(f"report {folder}".split()) == 0
        assert main.main(f"{TRAIN} --steps 32 --quiet --resume --out {folder}".split()) == 0
        purerl.load_policy(folder)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", "eval.json", "checkpoints"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_nothing_waits_for_a_pipe_or_a_device(capsys, run, tmp_path, monkeypatch, name, kind):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    monkeypatch.chdir(run)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(name)  # a short name: that of a socket has at most 108 characters
    else:
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero, which never ends
        except PermissionError:
            pytest.skip("only root makes devices")
    before = sorted(run.rglob("*"))
    for line in COMMANDS.values():
        refused(capsys, line.format(run=run), path, f"is a {kind}, not a file or a folder")
    assert sorted(run.rglob("*")) == before


def test_reading_opens_only_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (files.read_json, files.read_bytes, sinks.read_rows):
        with pytest.raises(PurerlError, match="it is a pipe, not a file"):
            read(tmp_path / "pipe")
        with pytest.raises(PurerlError, match="it is a device, not a file"):
            read("/dev/zero")
        with pytest.raises(PurerlError, match="cannot read"):
            read(tmp_path)


def test_writing_does_not_follow_a_link_under_the_temporary_name(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".x.json.{os.getpid()}.purerl-tmp").symlink_to(tmp_path / "mine")
    files.write_json(tmp_path / "x.json", 1)
    assert (tmp_path / "mine").read_text() == "mine" and files.read_json(tmp_path / "x.json") == 1
    assert not (tmp_path / "x.json").is_symlink()


# --- indexes ---------------------------------------------------------------------------------------------------------


def forge(folder: Path, change) -> Path:
    """Changes the index of a run's checkpoint, with the right checksum."""
    (path,) = (folder / "checkpoints").glob("*/index.json")
    index = json.loads(path.read_text())
    change(index)
    text = json.dumps(index).encode()
    path.write_bytes(text)
    path.with_name("index.json.crc32").write_text(f"{zlib.crc32(text):08x}")
    return path.parent


@pytest.mark.parametrize("name", ["../../../outside/mine", "/dev/zero", "arrays/../../../x", "./x", "", "x\x00"])
def test_names_outside_of_a_checkpoint(capsys, run, tmp_path, name):
    forge(run, lambda index: index["files"].update({name: [4, zlib.crc32(b"mine")]}))
    for command in ("resume", "eval", "video"):
        refused(capsys, COMMANDS[command].format(run=run), "names a file outside of the checkpoint", ascii(name)[:4])


def test_a_pipe_that_an_index_lists(capsys, run):
    path = forge(run, lambda index: index["files"].update({"arrays/pipe": [0, 0]}))
    os.mkfifo(path / "arrays" / "pipe")
    refused(capsys, COMMANDS["resume"].format(run=run), "arrays/pipe is a pipe")


def test_files_that_no_index_lists(run):
    path = forge(run, lambda index: None)
    (path / "arrays" / "more").write_text("x")
    with pytest.raises(PurerlError, match="arrays/more is not one of its files"):
        purerl.load_policy(run)


def test_arrays_that_are_not_what_the_index_says(run, tmp_path):
    """Values of another size or type, under a valid index: both a stranger's own."""

    def swap(index):
        leaf = next(leaf for leaf in index["leaves"] if leaf[0].startswith("run.agent.params") and len(leaf[2]) == 2)
        leaf[2] = [leaf[2][0] + 1, leaf[2][1]]

    with checkpoint.Checkpoints(tmp_path / "mine" / "checkpoints") as saved:
        import numpy as np

        saved.save(1, {"x": np.zeros(3, np.float32)}, {})
        forge(tmp_path / "mine", lambda index: index["leaves"].__setitem__(0, ["x", "int32", [3]]))
        with pytest.raises(PurerlError, match=r"the values of 'x' are not what index\.json says"):
            saved.restore({"x": checkpoint.AnyShape(np.int32)})
        forge(tmp_path / "mine", lambda index: index["leaves"].__setitem__(0, ["x", "float32", [4]]))
        with pytest.raises(PurerlError, match=r"the values of 'x' are not what index\.json says"):
            saved.restore({"x": np.zeros(4, np.float32)})
    forge(run, swap)
    with pytest.raises(PurerlError, match="is of another run"):
        purerl.load_policy(run)


# --- sweeps and programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sweep.json", "cells", "programs", "figures", "table.csv", "cells/000"])
def test_a_sweep_with_a_link(capsys, made, tmp_path, name):
    folder = Path(shutil.copytree(made / "sweep", tmp_path / "sweep"))
    (tmp_path / "outside").mkdir()
    lead_out(folder / name, tmp_path / "outside" / "target")
    before = snapshot(tmp_path)
    for how in ("--resume", "--overwrite"):
        refused(capsys, f"{SWEEP} --steps 32 --quiet {how} --out {folder}", folder / name, "leads out")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("place", ["../../../outside/new", "/{outside}/new", "../../link/new"])
def test_a_program_that_names_a_folder_outside(capsys, made, tmp_path, place):
    folder = Path(shutil.copytree(made / "sweep", tmp_path / "sweep"))
    (tmp_path / "outside").mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    cell = folder / "cells" / "000"
    plans = [run_folder.load(folder / "cells" / name)["config"] for name in ("000", "001")]
    (cell / "summary.json").unlink()
    program = {
        "cells": [
            {"folder": "../../cells/000", "plan": plans[0]},
            {"folder": place.format(outside=tmp_path / "outside"), "plan": plans[1]},
        ],
        "lanes": 2,
        "varying": ["learning_rate"],
    }
    (folder / "programs" / "0000").mkdir(parents=True)
    files.write_json(folder / "programs" / "0000" / "program.json", program)
    before = snapshot(tmp_path)
    refused(
        capsys,
        f"{SWEEP} --steps 32 --quiet --resume --out {folder}",
        "program.json names the folder",
        "not one of its own",
    )
    assert snapshot(tmp_path) == before


def test_cells_anywhere_are_those_of_the_caller(tmp_path):
    """`programs.run` takes cells with folders of the caller's choice, and continues exactly those."""
    plan = make_plan("ppo", "gymnax/CartPole-v1", steps=64, config={"num_envs": 2})
    cells = [programs.Cell(plan, tmp_path / "elsewhere" / "cell")]
    programs._pack(cells, tmp_path / "a" / "work", None, None)
    found = programs._unfinished_programs(tmp_path / "a" / "work", [cells[0].folder])
    assert [list(members) for members in found.values()] == [[cells[0].folder.resolve()]]
    with pytest.raises(PurerlError, match="not one of its own"):
        programs._unfinished_programs(tmp_path / "a" / "work")


def test_a_figures_folder_with_a_link(capsys, tmp_path):
    folder = tmp_path / "figures" / "smoke"
    folder.mkdir(parents=True)
    (tmp_path / "secret.json").write_text("{}")
    (folder / "dqn-pro-bars.json").symlink_to(tmp_path / "secret.json")
    line = f"figure render dqn-pro/bars --folder {tmp_path / 'figures'}"
    refused(capsys, line, folder / "dqn-pro-bars.json", "leads out")
    (folder / "dqn-pro-bars.json").unlink()
    (folder / "cells").symlink_to(tmp_path)
    refused(capsys, line.replace("render", "run"), folder / "cells", "leads out")


# --- code ------------------------------------------------------------------------------------------------------------


def with_import(folder: Path, path: str | None, module: str = "came_along") -> None:
    """Makes the run need a Python file or a module."""
    config = json.loads((folder / "config.json").read_text())
    one = Import(what=path or module, module=module, path=path, registers=("agent came-along",))
    config["imports"] = [one.to_dict()]
    (folder / "config.json").write_text(json.dumps(config))


def test_code_that_came_with_a_run_is_not_imported(capsys, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "open({!r}, 'w').close()\n".format(str(tmp_path / "ran"))
    (run / "came_along.py").write_text(code)
    for path in (str(run / "came_along.py"), "run/came_along.py"):
        with_import(run, path)
        for command in ("resume", "eval", "video"):
            refused(capsys, COMMANDS[command].format(run=run), "came_along.py", "add --import")
        for command in ("report", "plot"):  # they look, and import nothing
            assert main.main(COMMANDS[command].format(run=run).split()) == 0
    monkeypatch.syspath_prepend(str(tmp_path))
    with_import(run, None, "run.came_along")
    refused(capsys, COMMANDS["eval"].format(run=run), "came with the run", "add --import")
    assert not (tmp_path / "ran").exists()


def test_code_that_came_with_a_run_is_imported_if_the_user_names_it(run, tmp_path):
    file = run / "came_along_and_named.py"
    file.write_text("open({!r}, 'w').close()\n".format(str(tmp_path / "ran")))
    with_import(run, str(file), "came_along_and_named")
    assert main.main([*COMMANDS["eval"].format(run=run).split(), "--import", str(file)]) == 0
    assert (tmp_path / "ran").exists()


def test_names_of_files():
    good = ("index.json", "arrays/d/0", "a/..b/c", "...")
    assert all(trust.file_name(name) for name in good)
    assert not any(trust.file_name(name) for name in ("", "/x", "x/", "a//b", "..", "a/../b", ".", "a\\b", "a\x00"))
