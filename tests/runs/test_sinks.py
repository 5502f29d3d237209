"""sinks and logs: rows survive kills, full disks and resumes; TensorBoard and W&B get what the JSONL file gets."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from purerl.errors import PurerlError
from purerl.runs import sinks
from purerl.runs.logs import Logged, Logging, WandbNames


def row(iteration, seed=0, **more):
    return {"iteration": iteration, "step": iteration * 100, "seed": seed, "wall_time": 0.5, **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


# --- JSONL -----------------------------------------------------------------------------------------------------------


def test_rows_come_back(path):
    sink = sinks.JsonlSink(str(path))
    rows = [row(1, seed, episode_return=11.25, episodes=3, note='ä\n"x"') for seed in range(2)]
    sink.write(rows)
    assert sinks.read_rows(path) == rows  # before close: a kill now would lose nothing
    sink.write([row(2)])
    sink.close()
    sink.close()
    assert sinks.read_rows(str(path)) == [*rows, row(2)]
    assert len(path.read_text().splitlines()) == 3


def test_arrays_and_what_is_no_number(path):
    sink = sinks.JsonlSink(path)
    sink.write([row(np.int32(1), loss=np.float32(0.5), a=float("nan"), b=np.inf, c=-np.inf, d=None)])
    sink.close()
    assert sinks.read_rows(path) == [row(1, loss=0.5, a=None, b=None, c=None, d=None)]
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_a_second_sink_goes_on(path):
    for iteration in (1, 2):
        sink = sinks.JsonlSink(path)
        sink.write([row(iteration)])
        sink.close()
    assert sinks.read_rows(path) == [row(1), row(2)]


def test_a_torn_last_line_is_ignored_and_mended(path):
    sink = sinks.JsonlSink(path)
    sink.write([row(1), row(2)])
    sink.close()
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second + 1, len(whole) - 1):  # every way to tear the second row
        path.write_bytes(whole[:cut])
        assert sinks.read_rows(path) == [row(1)]
    sink = sinks.JsonlSink(path)
    sink.write([row(3)])
    sink.close()
    assert sinks.read_rows(path) == [row(1), row(3)]


def test_a_last_row_without_its_line_break_counts(path):
    path.write_text('{"iteration": 1}\n{"iteration": 2}')
    assert len(sinks.read_rows(path)) == 2
    sink = sinks.JsonlSink(path)
    sink.write([{"iteration": 3}])
    sink.close()
    assert [r["iteration"] for r in sinks.read_rows(path)] == [1, 2, 3]


@pytest.mark.parametrize("bad", ["garbage", "[1]", '{"iteration": 1'])
def test_a_broken_line_inside_is_an_error_that_names_it(path, bad):
    path.write_text('{"iteration": 1}\n' + bad + '\n{"iteration": 3}\n')
    for read in (sinks.read_rows, lambda p: sinks.truncate_rows(p, 1)):
        with pytest.raises(PurerlError, match="line 2"):
            read(path)


def test_reading_what_is_not_there_or_not_text(path):
    with pytest.raises(PurerlError, match="no such file"):
        sinks.read_rows(path)
    path.write_bytes(b"\x80\x04\x95\n\x00\xff\n")
    with pytest.raises(PurerlError, match="line 1"):
        sinks.read_rows(path)
    path.write_bytes(b"")
    assert sinks.read_rows(path) == []


WRITES_FOR_EVER = """
import sys
from purerl.runs import sinks
from purerl.runs.logs import Logged, Logging, WandbNames
sink = sinks.JsonlSink(sys.argv[1])
n = 0
while True:
    sink.write([{"iteration": n, "seed": seed, "pad": "x" * 5000} for seed in range(4)])
    if n == 0:
        print("going", flush=True)
    n += 1
"""


def test_a_killed_process_leaves_readable_rows(path):
    for delay in (0.0, 0.02, 0.05):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", WRITES_FOR_EVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        rows = sinks.read_rows(path)
        assert [(r["iteration"], r["seed"]) for r in rows] == [(i // 4, i % 4) for i in range(len(rows))]
        assert len(rows) >= 4


def test_full_device_and_no_place(tmp_path, path):
    """test_runs.test_full_disk is the test on a disk that fills up."""
    path.symlink_to("/dev/full")
    sink = sinks.JsonlSink(path)
    with pytest.raises(PurerlError, match="disk is full"):
        sink.write([row(1)])
    sink.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(PurerlError, match="in the way"):
        sinks.JsonlSink(tmp_path / "file" / "metrics.jsonl")


def test_a_closed_sink_says_so(path):
    sink = sinks.JsonlSink(path)
    sink.close()
    with pytest.raises(PurerlError, match="closed"):
        sink.write([row(1)])


def test_truncating_drops_what_a_resumed_run_writes_again(path):
    assert sinks.truncate_rows(path, 5) == 0 and not path.exists()
    sink = sinks.JsonlSink(path)
    sink.write([row(i, seed) for i in range(1, 6) for seed in range(2)])
    before = path.read_bytes()
    assert sinks.truncate_rows(path, 5) == 0 and path.read_bytes() == before
    path.write_bytes(before + b'{"iteration": 6, "se')
    assert sinks.truncate_rows(path, 3) == 4
    assert path.read_bytes() == b"".join(before.splitlines(keepends=True)[:6])  # byte for byte
    assert sinks.truncate_rows(path, 0) == 6 and path.read_bytes() == b""
    sink.close()


def test_truncating_is_one_step_kill_pretended(path, monkeypatch):
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n')

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        sinks.truncate_rows(path, 1)
    assert len(sinks.read_rows(path)) == 2


# --- opening ---------------------------------------------------------------------------------------------------------


def test_the_jsonl_sink_is_always_opened_once(tmp_path):
    for names in ([], ["jsonl"], ["jsonl", "jsonl"]):
        opened = sinks.open_sinks(names, tmp_path, {})
        assert [type(s) for s in opened] == [sinks.JsonlSink]
        opened[0].close()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_unknown_sink_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(PurerlError, match=r"unknown sink 'tensorbord'\. Did you mean 'tensorboard'"):
        sinks.open_sinks(["jsonl", "tensorbord"], tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)  # what Python does for a package it cannot import
    for act in (lambda: sinks.check_sinks([name]), lambda: sinks.open_sinks([name], tmp_path, {})):
        with pytest.raises(PurerlError) as error:
            act()
        assert str(error.value).endswith(f"pip install {package}") and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def scalars(folder):
    """{(tag, step): value} of a run's event files, read record by record, and the steps at which it was purged."""
    from tensorboardX.proto import event_pb2

    found, purged = {}, []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            if event.HasField("session_log"):
                purged.append(event.step)
    return found, purged


def test_tensorboard_gets_the_numbers_of_each_seed(tmp_path):
    pytest.importorskip("tensorboardX")
    sink = sinks.TensorBoardSink(tmp_path / "tensorboard")
    sink.write([row(1, seed, loss=0.5 + seed, episode_return=None, flag=True, note="x") for seed in range(2)])
    wanted, found, given_up = {("wall_time", 100): 0.5, ("loss", 100): 1.5}, {}, time.monotonic() + 60
    while found != wanted and time.monotonic() < given_up:  # before close: a kill from now on would lose nothing
        time.sleep(0.1)
        found, _ = scalars(tmp_path / "tensorboard" / "seed_1")
    assert found == wanted
    sink.write([row(2, 1, loss=np.float32("nan"))])
    sink.close()
    sink.close()
    assert scalars(tmp_path / "tensorboard" / "seed_1")[0] == found | {("wall_time", 200): 0.5}
    assert scalars(tmp_path / "tensorboard" / "seed_0")[0][("loss", 100)] == 0.5


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path):
    pytest.importorskip("tensorboardX")
    for last_kept in (None, 2):
        if last_kept is not None:
            sinks.truncate_rows(tmp_path / "metrics.jsonl", last_kept)
        opened = sinks.open_sinks(["tensorboard"], tmp_path, {})
        for sink in opened:
            sink.write([row(i, loss=1.0) for i in ((1, 2, 3) if last_kept is None else (3,))])
            sink.close()
    assert scalars(tmp_path / "tensorboard" / "seed_0")[1] == [201]


def test_tensorboard_without_a_place(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "tensorboard").write_text("in the way")
    sink = sinks.TensorBoardSink(tmp_path / "tensorboard")
    with pytest.raises(PurerlError, match="in the way"):
        sink.write([row(1)])
    sink.close()


# --- W&B -------------------------------------------------------------------------------------------------------------

NAMES = WandbNames(project="mine", entity="team", group="group", name="name", id="abc")


@pytest.fixture(autouse=True)
def no_names_of_the_user(monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)


def test_names_for_wandb_are_the_flags_then_the_environments_then_the_folders(tmp_path, monkeypatch):
    names = Logging(("wandb",)).begin(tmp_path / "run").wandb
    assert (names.project, names.entity, names.group, names.name) == ("purerl", None, "run", "run")
    monkeypatch.setenv("WANDB_PROJECT", "P")
    monkeypatch.setenv("WANDB_ENTITY", "E")
    monkeypatch.setenv("WANDB_RUN_GROUP", "G")
    monkeypatch.setenv("WANDB_NAME", "N")
    names = Logging(("wandb",)).begin(tmp_path / "run").wandb
    assert (names.project, names.entity, names.group, names.name) == ("P", "E", "G", "N")
    logged = Logging(("wandb",), wandb_project="p", wandb_name="n").begin(tmp_path / "run")
    assert (logged.wandb.project, logged.wandb.entity, logged.wandb.name) == ("p", "E", "n")
    cells = [logged.of_cell(cell).wandb for cell in ("000", "001")]
    assert [(cell.group, cell.name, cell.job_type) for cell in cells] == [
        ("G", "n/000", "cell 000"),
        ("G", "n/001", "cell 001"),
    ]
    assert len({logged.wandb.id, *(cell.id for cell in cells)}) == 3
    assert Logged.from_dict(json.loads(json.dumps(logged.to_dict())), "config.json") == logged
    assert Logging(("tensorboard",)).begin(tmp_path).to_dict() == {"log": ["tensorboard"]}


def test_a_resumed_run_keeps_its_names(tmp_path, monkeypatch):
    before = Logged(("wandb",), NAMES)
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    assert Logging(("wandb", "tensorboard"), wandb_project="mine").resume(before, tmp_path).wandb == NAMES
    with pytest.raises(PurerlError, match="wandb_project was mine, is other: leave it out"):
        Logging(("wandb",), wandb_project="other").resume(before, tmp_path)
    assert Logging(("wandb",)).resume(Logged(), tmp_path).wandb.project == "elsewhere"  # it had none


def test_names_for_wandb_need_wandb():
    for fields in ({"wandb_project": "p"}, {"wandb_entity": "e"}, {"wandb_name": "n"}):
        flag = f"--{next(iter(fields)).replace('_', '-')}"
        with pytest.raises(PurerlError, match=f"{flag} needs --log wandb: add it, or leave {flag} out"):
            Logging(("tensorboard",), **fields)
    with pytest.raises(PurerlError, match=r"is damaged.*'project'"):
        Logged.from_dict({"log": ["wandb"], "wandb": {"id": "x"}}, "config.json")


def pretended_wandb(fails=None):
    logged = []

    class Run:
        def __init__(self, id):
            self.id = id

        def define_metric(self, *args, **kwargs):
            logged.append(("define", args, kwargs))

        def log(self, entry, step):
            logged.append(("log", self.id, entry, step))

        def finish(self):
            logged.append(("finish", self.id))

    def init(**kwargs):
        if fails and logged:
            raise fails
        logged.append(("init", kwargs))
        return Run(kwargs["id"])

    return types.SimpleNamespace(init=init), logged


def test_wandb_adapter_against_a_pretended_wandb(tmp_path, monkeypatch):
    module, logged = pretended_wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = {"agent": "ppo", "seeds": [4], "rate": np.float32(0.5)}
    jsonl, sink = sinks.open_sinks(["wandb"], tmp_path / ".", config, NAMES)
    sink.write([row(1, 4, loss=0.5, episode_return=None)])
    sink.write([])
    sink.close()
    sink.close()
    jsonl.close()
    init = logged[0][1]
    assert (init["project"], init["entity"], init["group"], init["name"]) == ("mine", "team", "group", "name")
    assert init["config"] == {"agent": "ppo", "seed": 4, "rate": 0.5}
    assert "mode" not in init  # the mode is W&B's own business
    assert ("define", ("*",), {"step_metric": "step"}) in logged
    entry = {"step": 100, "iteration": 1, "wall_time": 0.5, "loss": 0.5}
    assert logged[-2:] == [("log", "abc-4", entry, 1), ("finish", "abc-4")]
    with pytest.raises(PurerlError, match="closed"):
        sink.write([row(2, 4)])


def test_wandb_that_does_not_start_pretended(tmp_path, monkeypatch):
    module, logged = pretended_wandb(fails=RuntimeError("api_key not configured\nlong story"))
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(PurerlError, match=r"W&B did not start \(api_key not configured\).*WANDB_MODE=offline") as error:
        sinks.open_sinks(["wandb"], tmp_path, {"seeds": [0, 1]}, NAMES)
    assert "\n" not in str(error.value)
    assert logged[-1] == ("finish", "abc-0")  # the first seed's run had begun
    assert not _is_open(tmp_path / "metrics.jsonl")


def _is_open(path):
    folder = Path("/proc/self/fd")
    handles = folder.iterdir() if folder.exists() else []
    return any(os.path.realpath(handle) == os.path.realpath(path) for handle in handles)


REAL_WANDB = """
import sys
from purerl.runs import sinks
from purerl.runs.logs import WandbNames
names = WandbNames(project="project", entity="team", group="group", name="name", id="abc")
for iterations in ((1, 2), (2, 3)):  # the second time as a resumed run
    sink = sinks.WandbSink(names, {"rate": 0.5, "seeds": [0, 7]}, sys.argv[1])
    for i in iterations:
        sink.write([{"iteration": i, "step": 100 * i, "seed": seed, "loss": seed + i / 2} for seed in (0, 7)])
    sink.close()
"""


def test_real_wandb_offline(tmp_path):
    """In processes of their own, since wandb starts helpers. Not part of the pinned environment, so often skipped.

    W&B's own inspector reads what was written: a run for each seed, in one group, and in the same runs after a resume.
    """
    pytest.importorskip("wandb")
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}

    def python(*words):
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def history(item):
        return item["_step"], item["step"], item["loss"]

    python("-c", REAL_WANDB, str(tmp_path))
    found = []
    for folder in sorted((tmp_path / "wandb").glob("offline-run-*")):
        records = map(json.loads, python("-m", "wandb", "leet", "inspect", "--json", str(folder)).splitlines())
        of_kind = {"run": [], "history": []}
        for record in records:
            of_kind.setdefault(record["type"], []).append(record.get(record["type"]))
        run, rows = of_kind["run"][0], [history(row["item"]) for row in of_kind["history"]]
        assert (run["project"], run["entity"], run["run_group"]) == ("project", "team", "group")
        config = {name: value for name, value in run["config"]["update"].items() if name != "_wandb"}
        found.append((run["run_id"], run["display_name"], config, rows))
    wanted = [
        (f"abc-{seed}", f"name/seed_{seed}", {"rate": 0.5, "seed": seed}, [(i, 100 * i, seed + i / 2) for i in rows])
        for rows in ((1, 2), (2, 3))
        for seed in (0, 7)
    ]
    assert sorted(found, key=str) == sorted(wanted, key=str)
