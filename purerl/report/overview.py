"""The rows of `purerl list runs`: what the runs and sweeps under a folder are, how far they are, how well they do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from purerl import statistics
from purerl.errors import PurerlError
from purerl.report import curves
from purerl.report.curves import Run, mapping, number
from purerl.runs import collection, differences, files, lock, run_folder

TENTHS = 10  # the final return is that of the last tenth of a run


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run or a sweep; unknown values are None.

    Attributes:
      path: its folder.
      agent, env, preset: names.
      status: "running", "finished", "pruned" (by its search), "stopped", or "diverged" with the number of seeds; of a
        sweep, with its cells.
      done, planned: environment steps of each seed; of a sweep, those of the cell that is ahead.
      final: interquartile mean over seeds of the mean return of the episodes that end in the last tenth of the steps
        done; of a sweep, that of its best cell.
      best: the same of the best tenth of the steps planned.
      seeds: number of seeds of a run or a cell.
      differs: what sets it apart from the others of its agent, environment and preset; of a sweep, its best setting.
      changed: when it last wrote, in seconds since 1970.
    """

    path: Path
    agent: str
    env: str
    preset: str
    status: str
    done: float | None
    planned: float | None
    final: float | None
    best: float | None
    seeds: int
    differs: str
    changed: float


def entries(folder: str | os.PathLike) -> tuple[list[Entry], list[Path], dict[Path, str]]:
    """What is under a folder; of a sweep folder itself, its cells.

    Returns:
      The runs and sweeps, the folders directly below that are neither, and {damaged folder: why}.

    Raises:
      PurerlError: there is no such folder, or it has too many folders.
    """
    damaged: dict[Path, str] = {}
    if collection.is_sweep(folder):
        return _of_runs(_read(collection.cells(folder), damaged)), [], damaged
    found = collection.find(folder)
    listed = _of_runs(_read(found.runs, damaged))
    for path in found.sweeps:
        try:
            listed.append(_of_sweep(path))
        except PurerlError as error:
            damaged[path] = str(error)
    return listed, found.others, damaged


def _read(paths: Iterable[Path], damaged: dict[Path, str]) -> list[Run]:
    """The runs that can be read; the others go to `damaged`."""
    runs = []
    for path in paths:
        try:
            runs += curves.read([path])
        except PurerlError as error:
            damaged[path] = str(error)
    return runs


# --- runs ------------------------------------------------------------------------------------------------------------


def _of_runs(runs: Sequence[Run]) -> list[Entry]:
    """The entries of runs, compared with those of the same agent, environment and preset."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.env, run.agent, run.preset), []).append(run)
    found = []
    for group in groups.values():
        labels = differences.labels([run.config for run in group], [""] * len(group))
        found += [_of_run(run, label) for run, label in zip(group, labels, strict=True)]
    return found


def _of_run(run: Run, differs: str) -> Entry:
    final, best = returns(run)
    return Entry(
        path=run.folder,
        agent=run.agent,
        env=run.env,
        preset=run.preset,
        status=_status(run),
        done=run.done_steps,
        planned=run.planned_steps,
        final=final,
        best=best,
        seeds=run.seed_count,
        differs=differs,
        changed=_changed(run.folder),
    )


def _status(run: Run) -> str:
    """Whether a run is running, finished, stopped or diverged. A finished cell of a running sweep is finished."""
    diverged = _diverged(run)
    if not run.finished and lock.is_held(run.folder):
        return "running"
    if diverged:
        return f"diverged: {diverged} of {run.seed_count} seeds" if run.seed_count > 1 else "diverged"
    return "finished" if run.finished else "pruned" if run.config.get("pruned") else "stopped"


def _diverged(run: Run) -> int:
    """How many seeds have a loss or parameters that are NaN or infinite."""
    seeds = mapping(run.summary).get("diverged_seeds")
    rows = {seed for seed, rows in run.rows.items() if any(row.get("diverged") is True for row in rows)}
    return max(len(rows), len(seeds) if isinstance(seeds, list) else 0)


def returns(run: Run) -> tuple[float | None, float | None]:
    """(final, best) return of a run, as in `Entry`; None without an ended episode."""
    end = max(run.last_step, 1)
    final = run.final_returns or _in(run, 0.9 * end, end)
    length = max(run.planned_steps or 0, end)
    tenths = [_in(run, length * i / TENTHS, length * (i + 1) / TENTHS) for i in range(TENTHS)]
    means = [float(statistics.interquartile_mean(np.array(tenth))) for tenth in [final, *tenths] if tenth]
    return (means[0] if final else None), max(means, default=None)


def _in(run: Run, low: float, high: float) -> list[float]:
    """The mean return of each seed's episodes that end at steps in (low, high], of the seeds that have some."""
    means = []
    for rows in run.rows.values():
        found = [
            (value, count)
            for row in rows
            if (step := number(row.get("step"))) is not None
            and low < step <= high
            and (value := number(row.get("episode_return"))) is not None
            and (count := number(row.get("episodes", 1)))
        ]
        total = sum(count for _, count in found)
        means += [sum(value * count for value, count in found) / total] if total > 0 else []
    return means


def _changed(folder: Path) -> float:
    """When a run or a sweep last wrote one of its files."""
    times = [0.0]
    for name in (run_folder.CONFIG, run_folder.METRICS, run_folder.SUMMARY, collection.SWEEP, "table.csv"):
        path = folder / name
        if path.is_file():
            times.append(path.stat().st_mtime)
    return max(times)


# --- sweeps ----------------------------------------------------------------------------------------------------------


def _of_sweep(folder: Path) -> Entry:
    """The entry of a sweep. Raises PurerlError if it, or one of its cells, is damaged."""
    stored = files.read_json(folder / collection.SWEEP)
    settings = mapping(stored).get("cells")
    if not isinstance(settings, list) or not all(isinstance(one, dict) for one in settings):
        raise PurerlError(f"{folder / collection.SWEEP} is damaged or was not written by purerl")
    cells = _of_runs(curves.read(collection.cells(folder)))
    search = mapping(mapping(stored).get("search"))
    count = max(len(settings), int(number(search.get("samples")) or 0))
    pruned = sum(cell.status == "pruned" for cell in cells)
    finished = pruned + sum(cell.status.startswith(("finished", "diverged")) for cell in cells)
    diverged = sum(cell.status.startswith("diverged") for cell in cells)
    state = "finished" if finished == count else "running" if lock.is_held(folder) else "stopped"
    parts = [state if state == "finished" else f"{state}, {finished} of {count} settings"]
    parts += [f"{pruned} pruned"] if pruned else []
    parts += [f"{diverged} diverged"] if diverged else []
    best = max(cells, key=lambda cell: -np.inf if cell.final is None else cell.final, default=None)
    seeds = stored.get("seeds")
    return Entry(
        path=folder,
        agent=str(stored.get("agent")),
        env=str(stored.get("env")),
        preset=run_folder.shown_preset(stored),
        status=", ".join(parts),
        done=max((cell.done for cell in cells if cell.done is not None), default=None),
        planned=max((cell.planned for cell in cells if cell.planned is not None), default=number(stored.get("steps"))),
        final=best.final if best else None,
        best=max((cell.best for cell in cells if cell.best is not None), default=None),
        seeds=len(seeds) if isinstance(seeds, list) else 0,
        differs=_best_setting(settings, best),
        changed=max([_changed(folder), *(cell.changed for cell in cells)]),
    )


def _best_setting(settings: Sequence[dict], best: Entry | None) -> str:
    """The size of a sweep, and the setting of its best cell: "30 settings, best 012: learning_rate 0.001"."""
    text = f"{len(settings)} setting{'' if len(settings) == 1 else 's'}"
    if best is None or best.final is None or not best.path.name.isdecimal():
        return f"{text} of {', '.join(settings[0])}" if settings else text
    place = int(best.path.name)
    setting = settings[place] if place < len(settings) else {}
    return f"{text}, best {best.path.name}: {', '.join(f'{k} {differences.short(v)}' for k, v in setting.items())}"
