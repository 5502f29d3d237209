"""Reads run folders for the report: their JSON files, metric rows and learning curves.

A folder may come from an unknown source. Values of an unexpected type are left out; damaged files are an error.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purerl import statistics
from purerl.errors import PurerlError
from purerl.runs import collection, files, run_folder
from purerl.runs.sinks import read_rows

POINTS = 200  # of a curve


# --- values from files -----------------------------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """The value if it can be drawn; None for other values in a file, such as text, NaN or 10**400."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e100 else None  # False for NaN as well


def mapping(value: Any) -> dict:
    """The value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


# --- runs ------------------------------------------------------------------------------------------------------------


def random_play(configs: Iterable[dict]) -> float | None:
    """The mean return of random play in the config.json of some runs; None if they have none, or different ones."""
    found = {number(mapping(config.get("random_return")).get("mean")) for config in configs}
    return found.pop() if len(found) == 1 else None


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
      folder: its path.
      name: its folder's name, with that of the sweep or the folder above if another run has the same name.
      config: its config.json.
      summary, evaluation: its summary.json and eval.json; None if they do not exist.
      rows: {seed: [row, ...]} of metrics.jsonl.
    """

    folder: Path
    name: str
    config: dict
    summary: dict | None
    evaluation: dict | None
    rows: dict[int, list[dict]]

    @property
    def agent(self) -> str:
        return str(self.config["agent"])

    @property
    def env(self) -> str:
        return str(self.config["env"])

    @property
    def preset(self) -> str:
        return run_folder.shown_preset(self.config)

    @property
    def planned_steps(self) -> float | None:
        """Environment steps of each seed that config.json asks for."""
        return number(self.config.get("steps"))

    @property
    def done_steps(self) -> float | None:
        """Environment steps of each seed in the summary; before the run is finished, in the last row."""
        return number(mapping(self.summary).get("steps")) if self.finished else self.last_step

    @property
    def last_step(self) -> int:
        """The last environment step in the rows."""
        steps = (number(row.get("step")) for rows in self.rows.values() for row in rows)
        return int(max((step for step in steps if step is not None), default=0))

    @property
    def finished(self) -> bool:
        """Whether the summary is of the whole run, not of a shorter run that was resumed later."""
        planned, done = self.planned_steps, number(mapping(self.summary).get("steps"))
        return self.summary is not None and not (planned is not None and done is not None and planned > done)

    @property
    def seed_count(self) -> int:
        seeds = self.config["seeds"]
        return len(seeds) if isinstance(seeds, list) else len(self.rows)

    @property
    def final_returns(self) -> list[float]:
        """The final returns of a finished run's seeds, without the seeds that have none."""
        final = mapping(self.summary).get("final_return") if self.finished else None
        per_seed = mapping(final).get("per_seed")
        found = map(number, per_seed if isinstance(per_seed, list) else [])
        return [value for value in found if value is not None]


def read(folders: Iterable[str | os.PathLike]) -> list[Run]:
    """Reads run folders, and the cells of sweep folders that have begun.

    Args:
      folders: run and sweep folders; duplicates count once.

    Returns:
      The runs, in the order of the folders.

    Raises:
      PurerlError: a folder is neither a run nor a sweep folder, or a file in it is damaged.
    """
    paths: dict[Path, Path] = {}
    for folder in folders:
        with files.reading(folder):
            for path in collection.expand([folder]):
                paths.setdefault(Path(os.path.realpath(path)), path)
    return [_read(path, name) for path, name in zip(paths.values(), _names(list(paths)), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of runs: their folders' names, with as much of the path above as tells them apart."""
    names = [path.name for path in paths]
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        repeated = {name for name in names if names.count(name) > 1}
        names = [
            "/".join(part for part in path.parts[-depth:-1] if part != collection.CELLS) + f"/{path.name}"
            if name in repeated
            else name
            for path, name in zip(paths, names, strict=True)
        ]
    return [name.lstrip("/") for name in names]


def _read(folder: Path, name: str) -> Run:
    loaded = run_folder.load(folder)
    evaluation = files.read_json(folder / run_folder.EVALUATION) if (folder / run_folder.EVALUATION).is_file() else None
    if evaluation is not None and not isinstance(evaluation, dict):
        raise PurerlError(f"{folder / run_folder.EVALUATION} is damaged; delete it to continue without it")
    path = folder / run_folder.METRICS
    rows: dict[int, list[dict]] = {}
    for line, row in enumerate(read_rows(path) if path.is_file() else [], 1):
        seed = row.get("seed", 0)
        if not isinstance(seed, int):
            raise PurerlError(f"{path} line {line} is not a metrics row: its seed is not an integer")
        rows.setdefault(seed, []).append(row)
    return Run(folder, name, loaded["config"], loaded["summary"], evaluation, dict(sorted(rows.items())))


def by_environment(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """{environment: its runs}, both in the order of `runs`."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.env, []).append(run)
    return found


# --- curves ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric of a run: the interquartile mean over its seeds, and the curve of each seed.

    Attributes:
      x, middle, low, high: [P]; low and high are the 95% bootstrap band.
      seeds: [S, P].
      window: number of rows that each point averages.
    """

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: np.ndarray
    window: int


def read_curve(run: Run, metric: str, points: int = POINTS) -> Curve | None:
    """The curve of a metric over environment steps.

    Each point is the mean of a fiftieth of its seed's rows, as in `purerl plot`. Seeds without the metric are left out.

    Args:
      run: one of `read`.
      metric: its name in the rows.
      points: the curve is thinned to at most this many points.

    Returns:
      The curve, or None if there is nothing to draw.
    """
    by_seed = [_seed_curve(rows, metric) for rows in run.rows.values()]
    by_seed = [one for one in by_seed if len(one[0])]
    if not by_seed:
        return None
    window = max(1, round(max(len(x) for x, _, _ in by_seed) / 50))
    smooth = [(x, statistics.running_mean(y, window, weights)) for x, y, weights in by_seed]
    try:
        x, seeds = statistics.to_common_grid(smooth)
    except ValueError:  # the seeds have no steps in common
        return None
    kept = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
    x, seeds = x[kept], seeds[:, kept]
    low, high = statistics.bootstrap_band(seeds)
    return Curve(x, statistics.interquartile_mean(seeds, axis=0), low, high, seeds, window)


def _seed_curve(rows: list[dict], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(steps [P], values [P], episodes [P] or None) of the rows that have the metric."""
    points = [(number(row.get("step")), number(row.get(metric)), number(row.get("episodes"))) for row in rows]
    points = [point for point in points if point[0] is not None and point[1] is not None]
    x, y = np.array([p[0] for p in points], np.float64), np.array([p[1] for p in points], np.float64)
    if not metric.startswith("episode_") or not all(episodes and episodes > 0 for _, _, episodes in points):
        return x, y, None
    return x, y, np.array([p[2] for p in points], np.float64)
