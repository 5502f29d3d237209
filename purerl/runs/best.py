"""The best parameters of a run so far, by its training return: `--keep-best`.

A lane's best are the parameters at the end of the log period whose smoothed return was the highest. Smoothed: the mean
of the last EPISODES episodes or more. The choice begins after START_SHARE of the run. Earlier, nearly all episodes that
have ended are short. In some games all that end early are successes, so untrained parameters would win.

    <run folder>/best/    a checkpoint of what acting reads of the agent's State [S, ...], and in its metadata
                          {"best": [{"seed", "step", "return"}]}, one entry for each seed
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl.errors import PurerlError
from purerl.runs import checkpoint, run_folder, schemas, sinks
from purerl.runs.plan import Plan
from purerl.types import PyTree, RunState

START_SHARE = 1 / 8
EPISODES = 100


class Best:
    """The best parameters of each lane of a program, held on the host and saved with each of its checkpoints.

    Args:
      runs: (plan, folder, lanes) of each run of the program.
      acting: the fields of the agent's State to keep.
      steps: of the whole run.
    """

    def __init__(self, runs: Sequence[tuple[Plan, Path, slice]], acting: Sequence[str], steps: int):
        self._runs, self._acting, self._first_step = list(runs), tuple(acting), START_SHARE * steps
        seeds = [seed for plan, _, _ in self._runs for seed in plan.seeds]
        self._marks: list[dict[str, Any]] = [{"seed": seed, "step": None, "return": None} for seed in seeds]
        self._recent: list[collections.deque[tuple[int, float]]] = [collections.deque() for _ in seeds]
        self._values: dict[str, PyTree] | None = None
        self._unsaved = False

    def resume(self, state: RunState) -> None:
        """Reads what was saved, and the returns of the rows that are left. Raises PurerlError for a damaged file."""
        for plan, folder, lanes in self._runs:
            rows = sinks.read_rows(folder / run_folder.METRICS) if run_folder.has_rows(folder) else []
            for lane, seed in zip(range(lanes.start, lanes.stop), plan.seeds, strict=True):
                for row in rows:
                    if row["seed"] == seed:
                        self._smoothed(lane, row)
            try:
                self._read(folder / run_folder.BEST, lanes, state)
            except PurerlError as error:
                raise PurerlError(f"{error}; or remove {folder / run_folder.BEST}, to choose the best anew") from error

    def _read(self, folder: Path, lanes: slice, state: RunState) -> None:
        with checkpoint.Checkpoints(folder) as saved:
            if saved.latest() is None:
                return
            _, metadata = saved.read_metadata()
            marks = schemas.check_best(metadata, lanes.stop - lanes.start, folder)
            values = self._values or self._held(state)
            for name in self._acting:
                template = jax.tree.map(lambda x: x[lanes], values[name])
                found = saved.restore_part(f"run/agent/{name}", template)
                jax.tree.map(lambda old, new: _put(old, new, lanes), values[name], found)
        self._values = values
        self._marks[lanes] = marks

    def _held(self, state: RunState) -> dict[str, PyTree]:
        """A copy on the host of what acting reads."""
        return {name: jax.tree.map(np.array, jax.device_get(getattr(state.agent, name))) for name in self._acting}

    def update(self, rows: Sequence[dict[str, Any]], state: RunState) -> None:
        """Keeps the parameters of the lanes whose smoothed return is the best so far.

        Args:
          rows: the metrics of the log period that has ended, one for each lane.
          state: RunState [S, ...] at its end; lanes that only fill up devices may follow.
        """
        better = []
        for lane, row in enumerate(rows):
            value, best = self._smoothed(lane, row), self._marks[lane]["return"]
            if value is not None and row["step"] > self._first_step and (best is None or value > best):
                better.append((lane, row["step"], value))
        if not better:
            return
        now = self._held(state)
        if self._values is None:
            self._values = now
        for lane, step, value in better:
            if _is_finite(now, lane):
                self._marks[lane] |= {"step": step, "return": value}
                self._unsaved = True
                if self._values is not now:
                    jax.tree.map(lambda old, new, lane=lane: _put(old, new[lane], lane), self._values, now)

    def _smoothed(self, lane: int, row: dict[str, Any]) -> float | None:
        """The mean return of a lane's last episodes, with those of this row; None as long as they are too few."""
        recent = self._recent[lane]
        if row.get("episodes") and row.get("episode_return") is not None and not row.get("diverged"):
            recent.append((row["episodes"], row["episode_return"]))
        count = sum(n for n, _ in recent)
        while recent and count - recent[0][0] >= EPISODES:
            count -= recent.popleft()[0]
        return sum(n * value for n, value in recent) / count if count >= EPISODES else None

    def save(self, iteration: int) -> None:
        """Writes what has changed since the last time. Raises PurerlError as `Checkpoints.save`."""
        if not self._unsaved:
            return
        for plan, folder, lanes in self._runs:
            tree = {"run": {"agent": jax.tree.map(lambda x, lanes=lanes: x[lanes], self._values)}}
            with checkpoint.Checkpoints(folder / run_folder.BEST, keep=1) as saved:
                number = max(iteration, saved.latest() or 0)  # only the highest number is kept
                saved.save(number, tree, {"plan": plan.to_dict(), "best": self._marks[lanes]})
        self._unsaved = False

    def marks(self, lanes: slice) -> list[dict[str, Any]]:
        """[{"seed", "step", "return"}] of a run's seeds; None for those of a seed without enough episodes."""
        return [dict(mark) for mark in self._marks[lanes]]


def _put(array: np.ndarray, values: np.ndarray, at: int | slice) -> None:
    array[at] = values


def _is_finite(values: PyTree, lane: int) -> bool:
    """Whether the parameters of a lane contain neither NaN nor infinity."""
    floats = [x[lane] for x in jax.tree.leaves(values) if jax.numpy.issubdtype(x.dtype, jax.numpy.floating)]
    return all(bool(np.isfinite(x).all()) for x in floats)
