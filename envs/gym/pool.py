"""The pool of `gym/<id>`: S x N games of gymnasium, stepped by worker processes that share their arrays with it.

A worker is a fresh interpreter, started with `subprocess`. It is not forked, because a fork copies the locks of JAX's
threads but not the threads, and it is not spawned by `multiprocessing`, because that imports the user's main script
again, which would train again. The environment's class and the user's wrapper travel by cloudpickle to this process's
own children; what comes back from disk is never unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import json
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import cloudpickle
import numpy as np

from purerl.envs.gym import games, worker
from purerl.envs.pool_guard import PoolGuard, checked_seeds, usable_cores
from purerl.errors import PurerlError
from purerl.types import EnvSpec, TimeStep

_PROGRAM = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from purerl.envs.gym import worker; " + (
    "worker.main(*map(int, sys.argv[2:]))"
)
_SECONDS_TO_CLOSE = 5.0
# Of a worker, unless the user has set them: one core, and none of the accelerator's memory if its games import JAX.
_VARIABLES = {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


class GymPool:
    """A `types.Pool` of one gymnasium environment.

    Game n of seed s is reset with a seed that depends on these two numbers alone, and later resets go on from there. So
    it plays the same for any other seeds and any number of groups and workers, as long as the environment draws its
    random numbers from its own `np_random`.

    The arrays that `reset` and `recv` return are views of the shared memory, which the next `send` of the group
    overwrites.

    Args:
      recipe: how a game is made.
      spec: of the environment.
      identity: {name: value} that a stored state must agree with.
      seeds: S integers in [0, 2**31).
      num_envs: N, games of each seed.
      num_groups: G, must divide N.
      num_workers: processes; 0 takes one for each usable core.
      modules: the user's modules that the workers must import.
      draws: whether `pictures` will be asked for.

    Attributes:
      draws: the same.
      resumes_exactly: whether the environments' states are plain data, so that they can be saved (see `saving`). If
        not, new episodes begin after `restore`.

    Raises PurerlError for sizes that do not fit, and for an environment that cannot be made or reset.
    """

    def __init__(
        self,
        recipe: games.Recipe,
        spec: EnvSpec,
        identity: dict[str, Any],
        seeds: Sequence[int],
        num_envs: int,
        num_groups: int,
        *,
        num_workers: int = 0,
        modules: worker.Modules = worker.Modules(()),  # noqa: B008
        draws: bool = False,
    ):
        self.spec, self.num_envs, self.num_groups, self.draws = spec, num_envs, num_groups, draws
        seeds = checked_seeds(seeds)
        self.num_seeds = len(seeds)
        self._guard = PoolGuard(self, spec, self.num_seeds, num_envs, num_groups)
        self._identity, self._steps = dict(identity), np.zeros(num_groups, np.int64)
        size = self._guard.group_size
        layout, num_bytes = worker.layouts(
            num_groups,
            self.num_seeds * size,
            (spec.action_shape, spec.action_dtype),
            (spec.observation_shape, spec.observation_dtype),
        )
        count = min(num_workers or usable_cores(), self.num_seeds * size)
        self._workers: list[_Process] = []
        with _shared_memory(num_bytes) as (descriptor, memory):
            shape = (self.num_seeds, size)
            self._rows = [games.Rows(*(x.reshape(*shape, *x.shape[1:]) for x in one.rows(memory))) for one in layout]
            try:
                for rows in np.array_split(np.arange(self.num_seeds * size), count):
                    task = worker.Task(recipe, draws, layout, size, tuple(seeds), tuple(rows.tolist()))
                    self._workers.append(_Process(spec.name, modules, task, descriptor, num_bytes))
                self.resumes_exactly = self._start()
            except BaseException:
                self.close()
                raise

    def _start(self) -> bool:
        """Begins an episode in all games; returns whether their states can be saved."""
        return all(self._ask("start", self._steps.tolist()))

    def reset(self, group: int) -> np.ndarray:
        """First observations of a group [S, N / G, ...]; after `restore`, those to act on next."""
        self._guard.reset(group)
        return self._rows[group].observation

    def send(self, group: int, actions: np.ndarray) -> None:
        """Starts stepping a group with int32 (or float32) actions [S, N / G, ...]."""
        np.copyto(self._rows[group].action, self._guard.send(group, actions))
        with self._closed_on_failure():
            for one in self._workers:
                one.send("step", group)

    def recv(self, group: int) -> TimeStep:
        """Waits for a group's step and returns its TimeStep of numpy arrays [S, N / G, ...]."""
        self._guard.recv(group)
        with self._closed_on_failure():
            for one in self._workers:
                one.wait_for_step(group)
        self._steps[group] += 1
        rows = self._rows[group]
        return TimeStep(
            observation=rows.observation,
            reward=rows.reward,
            terminated=rows.terminated,
            truncated=rows.truncated,
            final_observation=rows.final_observation,
        )

    def pictures(self, group: int) -> np.ndarray:
        """What the environment's own renderer draws of the games of a group now, uint8 [S, N / G, H, W, 3]."""
        self._guard.rest("pictures()", group)
        drawn = [picture for of_worker in self._ask("pictures", group) for picture in of_worker]
        return np.stack(drawn).reshape(self.num_seeds, self._guard.group_size, *drawn[0].shape)

    def state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray]:
        """Everything needed to continue exactly, or, for environments that cannot be saved, not to repeat episodes.

        It holds how many steps each group took, whether the games could be saved, their states uint8 [S, N, longest]
        with their lengths int32 [S, N], the observations to act on next, and what they were made of.
        """
        self._guard.rest("state()")
        answers = self._ask("state") if self.resumes_exactly else [None]
        exact = all(answer is not None for answer in answers)
        shape = (self.num_seeds, self.num_envs)
        blobs = [[b""] * self.num_envs for _ in range(self.num_seeds)]
        if exact:
            for one, answer in zip(self._workers, answers, strict=True):
                for (s, n), state in zip(self._places(one), (x for group in answer for x in group), strict=True):
                    blobs[s][n] = state
        lengths = np.array([[len(state) for state in row] for row in blobs], np.int32).reshape(shape)
        stored = np.zeros((*shape, max(1, int(lengths.max()))), np.uint8)
        for s, n in np.ndindex(shape):
            stored[s, n, : lengths[s, n]] = np.frombuffer(blobs[s][n], np.uint8)
        return {
            "identity": np.frombuffer(json.dumps(self._identity, sort_keys=True).encode(), np.uint8),
            "steps": self._steps.copy(),
            "exact": np.array([exact], np.uint8),
            "observation": np.concatenate([rows.observation for rows in self._rows], axis=1)[lanes],
            "games": stored[lanes],
            "lengths": lengths[lanes],
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Loads a result of `state`. If the games could not be saved then, or do not fit now, new episodes begin.

        `resumes_exactly` tells which. Raises PurerlError if the state comes from another environment or pool.
        """
        self._guard.rest("restore()")
        state = {name: np.asarray(array) for name, array in state.items()}
        self._check(state)
        self._steps = state["steps"].copy()
        self.resumes_exactly = bool(state["exact"][0]) and self._load(state["games"], state["lengths"])
        if self.resumes_exactly:
            size = self._guard.group_size
            for group, rows in enumerate(self._rows):
                rows.observation[...] = state["observation"][:, group * size : (group + 1) * size]
        else:
            self._start()
        self._guard.rewind()

    def _load(self, stored: np.ndarray, lengths: np.ndarray) -> bool:
        """Loads the states of all games; False if one does not fit."""
        for one in self._workers:
            states = [stored[s, n, : lengths[s, n]].tobytes() for s, n in self._places(one)]
            count = len(states) // self.num_groups
            one.send("restore", [states[group * count : (group + 1) * count] for group in range(self.num_groups)])
        with self._closed_on_failure():
            return all([one.answer("restore") for one in self._workers])

    def _check(self, state: dict[str, np.ndarray]) -> None:
        """Raises PurerlError if a state is not one of such a pool."""
        identity = json.dumps(self._identity, sort_keys=True)
        theirs = state.get("identity", np.zeros(0, np.uint8)).tobytes().decode(errors="replace")
        if theirs != identity:
            raise PurerlError(f"this state belongs to other games ({theirs!r}): create the pool with those options")
        shape = (self.num_seeds, self.num_envs)
        shapes = {
            name: state[name].shape[: len(shape)] for name in ("observation", "games", "lengths") if name in state
        }
        if state.keys() != {"identity", "steps", "exact", *shapes} or state["steps"].shape != self._steps.shape:
            raise PurerlError(
                f"this is not a state of such a pool of {self.spec.name}: use a checkpoint of the same run"
            )
        if set(shapes.values()) != {shape}:
            raise PurerlError(
                f"this state of {self.spec.name} comes from a pool of another shape, {shapes['lengths']} instead of "
                f"{shape} = (seeds, environments)"
            )

    def _places(self, one: _Process) -> list[tuple[int, int]]:
        """(s, n) of a worker's games, by group."""
        size = self._guard.group_size
        return [(row // size, group * size + row % size) for group in range(self.num_groups) for row in one.task_rows]

    def _ask(self, *command: Any) -> list[Any]:
        """What each worker answers to a command."""
        with self._closed_on_failure():
            for one in self._workers:
                one.send(*command)
            return [one.answer(command[0]) for one in self._workers]

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        """Closes the pool on an error: games without all their workers are of no use."""
        try:
            yield
        except PurerlError:
            self.close()
            raise

    def close(self) -> None:
        """Ends the games and their processes. Safe to call twice."""
        guard = getattr(self, "_guard", None)  # missing if the arguments were refused
        if guard is not None and guard.close():
            for one in self._workers:
                one.hang_up()
            for one in self._workers:
                one.wait()

    def __enter__(self) -> GymPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Process:
    """A worker process and the socket to it."""

    def __init__(self, name: str, modules: worker.Modules, task: worker.Task, memory: int, num_bytes: int):
        self.task_rows = task.rows
        self._name = name
        self._stepped: set[int] = set()  # groups whose steps have ended, but were not yet asked for
        self._connection, other = multiprocessing.Pipe()
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        arguments = [sys.executable, "-c", _PROGRAM, paths, str(other.fileno()), str(memory), str(num_bytes)]
        try:
            self._process = subprocess.Popen(
                arguments,
                pass_fds=(other.fileno(), memory),
                env={**_VARIABLES, **(_renderer() if task.draws else {}), **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=2,  # what games print is not a result of this process
                start_new_session=True,  # Ctrl-C is for the pool's process, which then still needs the games
            )
        finally:
            other.close()
        try:
            self._connection.send(modules)
            self._connection.send_bytes(cloudpickle.dumps(task))
        except (OSError, EOFError):
            self.answer("start")  # raises what the worker said at its end

    def send(self, *command: Any) -> None:
        """Starts a command."""
        with contextlib.suppress(OSError):  # the worker has gone: `answer` says so
            self._connection.send(command)

    def answer(self, command: str) -> Any:
        """Waits for the result of a command; steps may end before it.

        Raises PurerlError if a game failed or the process has gone.
        """
        while True:
            try:
                well, of, found = self._connection.recv()
            except (EOFError, OSError):
                raise PurerlError(f"a worker process of {self._name} {self._end()}; {worker.RESUME}") from None
            if not well:
                raise PurerlError(found)
            if of == command:
                return found
            self._stepped.add(found)

    def wait_for_step(self, group: int) -> None:
        """Waits for the step of a group, which may not be the oldest one."""
        while group not in self._stepped:
            self._stepped.add(self.answer("step"))
        self._stepped.remove(group)

    def _end(self) -> str:
        """How the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=_SECONDS_TO_CLOSE)
            if code < 0:
                hint = ", as it is when the memory is full" if -code == signal.SIGKILL else ""
                return f"was killed by {signal.Signals(-code).name}{hint}"
            return f"ended with exit code {code}"
        return "does not answer"

    def hang_up(self) -> None:
        """Closes the socket, which ends the process."""
        self._connection.close()

    def wait(self) -> None:
        """Waits until the process has ended, and kills it if it does not."""
        try:
            self._process.wait(timeout=_SECONDS_TO_CLOSE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _renderer() -> dict[str, str]:
    """What makes MuJoCo draw where there is no display."""
    if sys.platform != "linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ:
        return {}
    found = [name for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if ctypes.util.find_library(library)]
    return {"MUJOCO_GL": found[0]} if found else {}


@contextlib.contextmanager
def _shared_memory(num_bytes: int) -> Iterator[tuple[int, mmap.mmap]]:
    """(file descriptor, mapping) of memory without a name, which is freed with the last process or array that uses it.

    The descriptor is closed at the end of the block.
    """
    if hasattr(os, "memfd_create"):  # Linux: not limited by the size of /dev/shm
        descriptor = os.memfd_create("purerl-gym")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, num_bytes)
        yield descriptor, mmap.mmap(descriptor, num_bytes)
    finally:
        os.close(descriptor)
