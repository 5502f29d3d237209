"""A process that steps some of a pool's games: it reads actions from shared memory and writes what they led to.

The pool starts it as a fresh interpreter: see `purerl.envs.gym.pool`. Commands and answers are small messages over a
socket. The process ends with the socket, so it never outlives the one that started it, however that ended.

Nothing here imports jax.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import gymnasium
import numpy as np

from purerl.envs.gym import games, saving, spaces

RESUME = "a run continues from its last checkpoint with --resume"
_DRAWING = "without a display, MuJoCo draws with EGL or OSMesa: apt install libegl1, and set MUJOCO_GL=egl"
_ALIGNMENT = 64  # bytes, so that JAX on a CPU can read the arrays in place


class Task(NamedTuple):
    """What a worker is told at its start.

    Attributes:
      recipe: how its games are made.
      draws: whether pictures of them will be asked for.
      layout: of the shared memory, a Layout for each group.
      size: N / G, games of each seed in a group.
      seeds: S.
      rows: of each group, the indices of its games in [0, S * N / G).
    """

    recipe: games.Recipe
    draws: bool
    layout: tuple[Layout, ...]
    size: int
    seeds: tuple[int, ...]
    rows: tuple[int, ...]


class Layout(NamedTuple):
    """Where the arrays of one group are in the shared memory: (offset, shape, dtype) of each field of `games.Rows`."""

    fields: tuple[tuple[int, tuple[int, ...], str], ...]

    def rows(self, memory: mmap.mmap) -> games.Rows:
        """Views of the arrays."""
        return games.Rows(
            *(
                np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
                for offset, shape, dtype in self.fields
            )
        )


def layouts(
    num_groups: int, num_games: int, action: tuple[tuple[int, ...], str], observation: tuple[tuple[int, ...], str]
) -> tuple[tuple[Layout, ...], int]:
    """(the Layout of each group of `num_games` games, bytes of the whole memory).

    Args:
      num_groups, num_games: G, and games in each.
      action, observation: (shape, dtype) of one.
    """
    numbers = [((), "float32"), ((), "bool"), ((), "bool")]
    found, offset = [], 0
    for _ in range(num_groups):
        fields = []
        for shape, dtype in (action, observation, observation, *numbers):
            shape = (num_games, *shape)
            fields.append((offset, shape, dtype))
            size = math.prod(shape) * np.dtype(dtype).itemsize
            offset += -(-size // _ALIGNMENT) * _ALIGNMENT
        found.append(Layout(tuple(fields)))
    return tuple(found), offset


class Modules(NamedTuple):
    """What must be imported before the task can be read: (name, file) of the user's modules."""

    files: tuple[tuple[str, str], ...]

    def load(self) -> None:
        """Imports them under the names that they have in the other process."""
        for name, file in self.files:
            spec = None
            with contextlib.suppress(ImportError, ValueError):
                spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(file).resolve():
                importlib.import_module(name)
                continue
            spec = importlib.util.spec_from_file_location(name, file)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


class Worker:
    """The games of one process, made but not yet reset."""

    def __init__(self, task: Task, memory: mmap.mmap):
        self._task = task
        self._games: list[list[games.Game]] = []
        for layout in task.layout:
            rows = layout.rows(memory)
            self._games.append([self._made(rows, row) for row in task.rows])

    def _made(self, rows: games.Rows, row: int) -> games.Game:
        with self._blamed("cannot be made", None, row):
            env = games.make(self._task.recipe, self._task.draws, row // self._task.size)
            name = self._task.recipe.name
            observed = spaces.observations(name, env.observation_space).convert
            acted = spaces.actions(name, env.action_space).convert
            return games.Game(env, observed, acted, rows, row)

    def start(self, steps: Sequence[int]) -> bool:
        """Resets all games; `steps` is how many each group took before. Returns whether their states can be saved."""
        for group, of_group in enumerate(self._games):
            for row, game in zip(self._task.rows, of_group, strict=True):
                with self._blamed("failed in reset", group, row):
                    game.reset(games.seed_of(*self._place(group, row), steps[group]))
        with contextlib.suppress(saving.CannotSave):
            saving.save(self._games[0][0].env)
            return True
        return False

    def step(self, group: int) -> int:
        """Steps the games of a group, and returns it."""
        for row, game in zip(self._task.rows, self._games[group], strict=True):
            try:  # cheaper than `_blamed`
                game.step()
            except Exception as error:
                raise _Failure(f"{self._told('failed in a step', group, row, error)}; {RESUME}") from error
        return group

    def state(self) -> list[list[bytes]] | None:
        """The states of all games, by group; None if one of them cannot be saved."""
        with contextlib.suppress(saving.CannotSave):
            return [[saving.save(game.env) for game in of_group] for of_group in self._games]
        return None

    def restore(self, states: list[list[bytes]]) -> bool:
        """Loads the states of all games; False if one does not fit: all games must then be started again."""
        with contextlib.suppress(saving.CannotSave):
            for of_group, stored in zip(self._games, states, strict=True):
                for game, state in zip(of_group, stored, strict=True):
                    saving.load(game.env, state)
            return True
        return False

    def pictures(self, group: int) -> list[np.ndarray]:
        """What the renderers draw of the games of a group."""
        found = []
        for row, game in zip(self._task.rows, self._games[group], strict=True):
            try:
                found.append(game.picture())
            except Exception as error:
                told = self._told("cannot be drawn", group, row, error)
                raise _Failure(f"{told}; {_DRAWING}" if "mujoco" in sys.modules else told) from error
        return found

    def close(self) -> None:
        """Closes the games; what they say about it does not matter any more."""
        for game in (one for of_group in self._games for one in of_group):
            with contextlib.suppress(Exception):
                game.env.close()

    def _place(self, group: int, row: int) -> tuple[int, int]:
        """(seed, number of the game among the N of that seed)."""
        s, n = divmod(row, self._task.size)
        return self._task.seeds[s], group * self._task.size + n

    @contextlib.contextmanager
    def _blamed(self, what: str, group: int | None, row: int) -> Iterator[None]:
        """Adds to an error which game it is of."""
        try:
            yield
        except Exception as error:
            raise _Failure(self._told(what, group, row, error)) from error

    def _told(self, what: str, group: int | None, row: int, error: Exception) -> str:
        name = self._task.recipe.name
        if group is not None:
            seed, game = self._place(group, row)
            name = f"game {game} of seed {seed} of {name}"
        return f"{name} {what}: {games.told(error)}"


class _Failure(Exception):
    """An error of a game, told in one line."""


def main(socket: int, shared: int, size: int) -> None:
    """Serves until the socket is closed.

    Args:
      socket, shared: file descriptors of the socket and the shared memory.
      size: of that memory, in bytes.
    """
    # The pool's process saves the run at these signals, which it still needs its games for.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # the pool's process has shown the warnings
    memory = mmap.mmap(shared, size)
    os.close(shared)
    connection, worker = Connection(socket), None
    try:
        connection.recv().load()
        worker = Worker(cloudpickle.loads(connection.recv_bytes()), memory)
        _serve(worker, connection)
    except (EOFError, ConnectionError):
        pass  # the pool has gone
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.send((False, "", str(error) if isinstance(error, _Failure) else games.told(error)))
    if worker is not None:
        worker.close()


def _serve(worker: Worker, connection: Connection) -> None:
    """Answers commands (name of a method, *arguments) with (True, the name, what the method returned)."""
    commands: dict[str, Callable[..., Any]] = {
        name: getattr(worker, name) for name in ("start", "step", "state", "restore", "pictures")
    }
    while True:
        name, *arguments = connection.recv()
        connection.send((True, name, commands[name](*arguments)))
