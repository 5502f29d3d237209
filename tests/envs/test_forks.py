"""A pool that a child process inherits through fork: every call is told, nothing hangs, and the parent plays on."""

import copy
import os
import pickle
import subprocess
import sys

import pytest

from purerl import rng
from purerl.envs import pool_guard, probe
from purerl.envs.hosted import HostedPool
from purerl.errors import PurerlError

# A fork that waits for threads that it does not have is ended by its alarm, which makes its exit status differ from 0.
SCRIPT = """
import gc, os, signal, sys, warnings
import numpy as np

warnings.simplefilter("ignore")  # of JAX and Python: that threads are not forked is what this is about
from purerl import rng
from purerl.errors import PurerlError


def in_child(index, end):
    signal.alarm(20)
    pool = POOLS[index]
    actions = np.zeros((1, pool.num_envs // 2), np.int32)
    calls = {
        "reset": lambda: pool.reset(0), "send": lambda: pool.send(1, actions), "recv": lambda: pool.recv(0),
        "state": pool.state, "restore": lambda: pool.restore({}), "close": pool.close,
        "reset after close": lambda: pool.reset(1),
    }
    for name, call in calls.items():
        try:
            call()
            told = ""
        except PurerlError as error:
            told = str(error)
        belongs = f"belongs to process {os.getppid()}, of which this is a fork" in told and "\\n" not in told
        if belongs == (name == "close"):
            os._exit(1)
    del call, calls, pool
    POOLS.clear()
    gc.collect()
    end(0)


def fork(end):
    for index in range(len(POOLS)):
        pool = POOLS[index]
        pool.send(0, np.zeros((1, pool.num_envs // 2), np.int32))  # its threads work while the process forks
        del pool  # in the child, nothing but POOLS refers to it
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            in_child(index, end)
        pool = POOLS[index]
        assert os.waitpid(child, 0)[1] == 0, f"the child of {pool.spec.name} hung, crashed or was told nothing"
        assert pool.recv(0).observation.any()
        print("played on", pool.spec.name)
        del pool


POOLS = []
if "procgen" in sys.argv:
    from purerl.envs import procgen
    POOLS.append(procgen.make_pool("bigfish", procgen.Options(num_threads=2), [0], 2, 2))
if "atari" in sys.argv:
    from purerl.envs import atari
    POOLS.append(atari.make_pool("Pong", atari.Options(num_threads=2), [0], 4, 2))
fork(sys.exit)  # an orderly end, which frees all objects that are left
POOLS.clear()
from purerl.envs import probe
from purerl.envs.hosted import HostedPool
POOLS.append(HostedPool(probe.make("observation"), rng.seed_keys(0, 1), 2, 2))
fork(os._exit)  # as multiprocessing ends its children: JAX itself cannot end in order in a fork
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_told_that_its_pools_belong_to_its_parent():
    pytest.importorskip("cffi")
    pytest.importorskip("ale_py")
    command = [sys.executable, "-c", SCRIPT, "procgen", "atari"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [
        "played on procgen/bigfish", "played on atari/Pong", "played on probe/observation"
    ]  # fmt: skip


@pytest.mark.parametrize("transport", [pickle.dumps, copy.deepcopy])
def test_a_pool_is_not_copied(transport):
    """A copy would close the games of the original."""
    pool = HostedPool(probe.make("observation"), rng.seed_keys(0, 1), 1)
    with pool, pytest.raises(PurerlError, match="create it there"):
        transport(pool)


def test_a_pool_left_open_is_freed_after_the_modules(monkeypatch):
    """When Python ends, it may empty a module before it frees the last pools."""
    pool = HostedPool(probe.make("observation"), rng.seed_keys(0, 1), 1)
    with monkeypatch.context() as patch:
        patch.setattr(pool_guard, "os", None)
        pool.close()
    with pytest.raises(PurerlError, match="is closed: create a new one"):
        pool.reset(0)
