"""sinks: rows survive kills, full disks and resumes; TensorBoard and W&B get what the JSONL file gets."""

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
        assert f"pip install 'purerl[{name}]'" in str(error.value) and "\n" not in str(error.value)
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


def test_wandb_entry_of_one_seed_and_of_several():
    assert sinks.wandb_entry([row(1, 7, loss=0.5, episode_return=None)]) == {
        "step": 100,
        "iteration": 1,
        "wall_time": 0.5,
        "loss": 0.5,
    }
    entry = sinks.wandb_entry([row(1, seed, loss=float(loss)) for seed, loss in enumerate([1, 2, 3, 100])])
    assert entry["loss"] == 2.5  # the interquartile mean
    assert [entry[f"loss/seed_{seed}"] for seed in range(4)] == [1, 2, 3, 100]


def pretended_wandb(fails=None):
    logged = []

    class Run:
        def define_metric(self, *args, **kwargs):
            logged.append(("define", args, kwargs))

        def log(self, entry):
            logged.append(("log", entry))

        def finish(self):
            logged.append(("finish",))

    def init(**kwargs):
        if fails:
            raise fails
        logged.append(("init", kwargs))
        return Run()

    return types.SimpleNamespace(init=init), logged


def test_wandb_adapter_against_a_pretended_wandb(tmp_path, monkeypatch):
    module, logged = pretended_wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = {"agent": "ppo", "wandb_project": "mine", "rate": np.float32(0.5)}
    jsonl, sink = sinks.open_sinks(["wandb"], tmp_path / ".", config)
    sink.write([row(1, loss=0.5)])
    sink.write([])
    sink.close()
    sink.close()
    jsonl.close()
    assert logged[0][1]["project"] == "mine" and logged[0][1]["name"] == tmp_path.name
    assert logged[0][1]["config"] == config and "mode" not in logged[0][1]  # the mode is W&B's own business
    assert ("define", ("*",), {"step_metric": "step"}) in logged
    assert logged[-2:] == [("log", {"step": 100, "iteration": 1, "wall_time": 0.5, "loss": 0.5}), ("finish",)]
    with pytest.raises(PurerlError, match="closed"):
        sink.write([row(2)])


def test_wandb_that_does_not_start_pretended(tmp_path, monkeypatch):
    module, _ = pretended_wandb(fails=RuntimeError("api_key not configured\nlong story"))
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(PurerlError, match=r"W&B did not start \(api_key not configured\).*WANDB_MODE=offline") as error:
        sinks.open_sinks(["wandb"], tmp_path, {})
    assert "\n" not in str(error.value)
    assert not _is_open(tmp_path / "metrics.jsonl")


def _is_open(path):
    folder = Path("/proc/self/fd")
    handles = folder.iterdir() if folder.exists() else []
    return any(os.path.realpath(handle) == os.path.realpath(path) for handle in handles)


REAL_WANDB = """
import sys
from purerl.runs import sinks
sink = sinks.WandbSink("project", "name", {"a": 1}, sys.argv[1])
sink.write([{"iteration": 1, "step": 100, "seed": 0, "loss": 0.5}])
sink.close()
"""


def test_real_wandb_offline(tmp_path):
    """In a process of its own, since wandb starts helpers. Not part of the pinned environment, so often skipped."""
    pytest.importorskip("wandb")
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    command = [sys.executable, "-c", REAL_WANDB, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
