"""One process at a time writes into a folder; a killed one frees it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from purerl.errors import PurerlError
from purerl.runs import lock

HOLDS = """
import sys, time
from purerl.runs import lock
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_holds_it(tmp_path, holder):
    cell = tmp_path / "cells" / "000"
    cell.mkdir(parents=True)
    for folder in (tmp_path, cell):
        expected = rf"{tmp_path} is in use by process {holder.pid} on "
        with pytest.raises(PurerlError, match=expected) as error, lock.hold(folder):
            pass
        assert "\n" not in str(error.value)
    assert not (cell / lock.NAME).exists()
    with lock.hold(cell, inside_others=True):  # a sweep's worker
        pass
    with pytest.raises(PurerlError, match="in use by process"):
        lock.refuse_if_held(tmp_path)


def test_a_kill_frees_it_and_the_next_one_cleans_up(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.NAME).exists()
    lock.refuse_if_held(tmp_path)
    with lock.hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_threads_exclude_each_other_too(tmp_path):
    refused = []

    def second() -> None:
        try:
            with lock.hold(tmp_path):
                pass
        except PurerlError as error:
            refused.append(str(error))

    with lock.hold(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        lock.refuse_if_held(tmp_path)  # it is ours: no error, and it stays ours
        probe = subprocess.run(
            [sys.executable, "-c", HOLDS, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert f"process {os.getpid()} (this one)" in refused[0]
    assert f"is in use by process {os.getpid()} on" in probe.stderr
    with lock.hold(tmp_path):
        pass


@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_keep_it(tmp_path):
    context = multiprocessing.get_context("fork")
    wait = context.Event()
    with lock.hold(tmp_path):
        child = context.Process(target=wait.wait, args=(60,))
        child.start()
    with lock.hold(tmp_path):  # although the child lives
        assert child.is_alive()
    wait.set()
    child.join()
