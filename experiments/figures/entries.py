"""The entries of a figure's JSON that are read from run folders: curves, and what a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from purerl import statistics
from purerl.errors import PurerlError
from purerl.report import plots
from purerl.runs import run_folder, schemas

POINTS = 50


def curve(folder: Path, metric: str) -> dict[str, list[float]] | None:
    """Interquartile mean and 95% band of a metric at POINTS steps; None if a seed has no value of it."""
    try:
        curve = plots.read_curve(folder, "step", metric)
    except PurerlError:
        return None
    at = np.unique(np.linspace(0, len(curve.x) - 1, POINTS).round().astype(int))
    lines = curve.seeds[:, at]
    low, high = statistics.bootstrap_band(lines)
    columns = {"step": curve.x[at], "iqm": statistics.interquartile_mean(lines, axis=0), "low": low, "high": high}
    return {name: [float(f"{value:.5g}") for value in column] for name, column in columns.items()}


def of_run(folder: Path) -> dict[str, Any]:
    """What a run is, and its curves so far, finished or not. Raises PurerlError for a folder without a run."""
    config = run_folder.load(folder)["config"]
    schemas.check_plan(config)
    tested = (config.get("recording") or {}).get("eval_env_options")
    return {
        **{name: config[name] for name in ("agent", "env", "preset", "seeds", "config", "env_options")},
        "eval_env_options": tested,
        "curves": {name: curve(folder, name) for name in ("episode_return", "evaluation_return")},
    }
