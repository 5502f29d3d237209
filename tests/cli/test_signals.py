"""Signals and other trouble from outside: training saves, says how to continue, and ends with one line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from purerl.experiments.benchmarks.faults import LISTENS
from purerl.runs import interrupts, sinks

TINY = "--num-envs 4 --rollout-length 16 --num-minibatches 2 --num-epochs 1 --hidden 8"
TRAIN = f"train ppo gymnax/CartPole-v1 {TINY} --steps 1000000000 --log-every 20"


@contextlib.contextmanager
def start(*words: object, **kwargs) -> Iterator[subprocess.Popen]:
    """A process whose purerl has taken over the signals; it is killed if anything goes wrong."""
    command = [sys.executable, "-c", LISTENS, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs) as process:
        try:
            assert process.stdout.readline() == "listens\n"
            yield process
        except BaseException:
            process.kill()
            raise


def wait_for(there, process: subprocess.Popen, seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not there() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.05)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_signals_save_and_say_how_to_continue(tmp_path):
    """SIGTERM, then `purerl resume` and Ctrl-C, then resumed until the folder vanishes (and without a cache)."""
    folder = tmp_path / "run"
    rows, words, saved = folder / "metrics.jsonl", [*TRAIN.split(), "--out", folder], 0
    for sent, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        size = size_of(rows)
        with start(*words) as process:
            wait_for(lambda size=size: size_of(rows) > size, process)
            if sent == signal.SIGTERM:
                with start(*TRAIN.split(), "--out", folder, "--overwrite") as second:
                    _, refused = second.communicate(timeout=60)
                assert second.returncode == 2 and refused.count("\n") == 1, refused
                assert f"{folder} is in use by process {process.pid} on" in refused
            process.send_signal(sent)
            process.send_signal(sent)  # as the command `timeout` does
            _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        iteration = max(int(path.name) for path in folder.glob("checkpoints/0*"))
        assert last_line(err) == (
            f"purerl: stopped and saved at iteration {iteration}; continue with: purerl resume {folder}"
        )
        assert "Traceback" not in err and iteration > saved
        assert [row["iteration"] for row in sinks.read_rows(rows)] == list(range(20, iteration + 1, 20))
        saved, words = iteration, ["resume", folder]
    assert not (folder / ".purerl-lock").exists()

    (tmp_path / "cache").write_text("a file where the folder should be")
    size = size_of(rows)
    with start("resume", folder, "--quiet", env=os.environ | {"PURERL_CACHE": str(tmp_path / "cache")}) as process:
        wait_for(lambda: size_of(rows) > size, process)
        folder.rename(tmp_path / "moved")
        _, err = process.communicate(timeout=60)
    no_cache, gone = err.splitlines()
    assert process.returncode == 2 and no_cache.startswith("purerl: programs are not cached: ")
    assert f"{folder} was removed or renamed while the run wrote into it" in gone and not folder.exists()


HANGS_UP = """
import os, signal, time
from purerl.runs import interrupts
interrupts.watch()
with interrupts.deferred() as stop:
    stop.at_once = False
    os.kill(os.getpid(), signal.SIGHUP)
    while not stop:
        time.sleep(0.01)
    print("saved", stop.signal, flush=True)
os.kill(os.getpid(), signal.SIGHUP)
time.sleep(60)
"""


def test_a_terminal_that_hangs_up():
    """SIGHUP as the others: it asks while there is something to save, and ends the process at once otherwise."""
    listens = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n{HANGS_UP}"
    done = subprocess.run([sys.executable, "-c", listens], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (129, "saved 1\n", "purerl: interrupted\n")


def test_handlers_of_a_users_program_come_back():
    with interrupts.deferred() as stop:
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ctrl_c_in_the_first_seconds_is_one_line_and_leaves_nothing(tmp_path):
    """At moments from purerl's first line to the first rows; whoever has trained by then has saved."""
    for moment in (0.0, 0.2, 0.8, 1.6, 3.0):
        folder = tmp_path / "run"
        with start(*TRAIN.split(), "--out", folder, cwd=tmp_path) as process:
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 20
        assert process.returncode == 130, (moment, err)
        assert err.count("\n") == 1 and err.startswith("purerl: "), (moment, err)
        if folder.exists():
            assert "continue with" in err
            shutil.rmtree(folder)
        assert list(tmp_path.iterdir()) == []


FILLS_THE_DISK = """
mount -t tmpfs -o size=3m none {disk} || exit 77
PURERL_CACHE={disk}/cache {purerl} {train} --checkpoint-seconds 0 --quiet --out {disk}/run 2>{said}/full &
while [ ! -s {disk}/run/metrics.jsonl ]; do sleep 0.1; done
head -c 9000000 /dev/zero > {disk}/filler 2>/dev/null
wait $!; echo $?
rm {disk}/filler
rows=$(wc -c < {disk}/run/metrics.jsonl)
{purerl} resume {disk}/run --quiet 2>{said}/resumed &
while [ $(wc -c < {disk}/run/metrics.jsonl) -le $rows ] && kill -0 $!; do sleep 0.1; done
kill $!; wait $!; echo $?
"""


def test_a_full_disk_is_one_line_and_resume_works_after_it(tmp_path):
    """A file system of 3 MB, mounted in a namespace of its own, that fills up while a run writes and caches there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = FILLS_THE_DISK.format(disk=disk, purerl=f"{sys.executable} -m purerl", train=TRAIN, said=tmp_path)
    if shutil.which("unshare") is None:
        pytest.skip("this machine has no unshare, to mount a small disk")
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(unshare, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip("this machine lets nobody mount a small disk")
    full, resumed = (tmp_path / "full").read_text(), (tmp_path / "resumed").read_text()
    assert done.stdout.split() == ["2", "143"], (full, resumed)
    assert full.count("\n") == 1 and full.startswith("purerl: error: cannot ")
    assert "disk" in full.lower() or "No space left on device" in full
    assert resumed.startswith("purerl: stopped and saved at iteration") and resumed.count("\n") == 1


def test_resume_needs_a_folder(run_cli, tmp_path):
    done = run_cli("resume", tmp_path / "nothing")
    assert done.code == 2 and "there is no run folder" in done.stderr
    (tmp_path / "other").mkdir()
    done = run_cli("resume", tmp_path / "other")
    assert done.code == 2 and "not a run folder" in done.stderr
    assert json.dumps(sorted(os.listdir(tmp_path))) == '["other"]'
