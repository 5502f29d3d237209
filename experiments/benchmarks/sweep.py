"""A sweep of 8 learning rates x 8 seeds against its 64 runs: as processes one after another, and in numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl.runs import run_folder
from purerl.runs.policy import open_run

AGENT, ENV, PRESET = "ppo", "gymnax/Breakout-MinAtar", "minatar"
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2)
SEEDS = 8
STEPS = 204_800  # 25 updates of each run


def sweep_64() -> dict[str, Any]:
    """Wall time of both ways, each from an empty compilation cache (which the 64 processes then share), and how many of
    the 64 lanes end with the very parameters and returns of their solo runs: on a CPU all of them, with lanes by map.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rates = ",".join(map(str, RATES))
        together = _timed(["sweep", AGENT, ENV, "--grid", f"learning_rate={rates}", "--seeds", SEEDS], folder / "sweep")
        alone = 0.0
        for rate in RATES:
            for seed in range(SEEDS):
                alone += _timed(
                    ["train", AGENT, ENV, "--learning-rate", rate, "--seed", seed], folder / "alone" / f"{rate}-{seed}"
                )
        equal = sum(
            _same_parameters(folder / "sweep" / "cells" / f"{i:03d}", seed, folder / "alone" / f"{rate}-{seed}")
            for i, rate in enumerate(RATES)
            for seed in range(SEEDS)
        )
        returns: dict[str, list[list[float]]] = {"sweep": [], "alone": []}
        for i, rate in enumerate(RATES):
            found = run_folder.load(folder / "sweep" / "cells" / f"{i:03d}")["summary"]["final_return"]["per_seed"]
            returns["sweep"].append(found)
            solo = [run_folder.load(folder / "alone" / f"{rate}-{seed}")["summary"] for seed in range(SEEDS)]
            returns["alone"].append([summary["final_return"]["mean"] for summary in solo])
    return {
        "steps_per_run": STEPS,
        "sweep_seconds": round(together, 1),
        "processes_seconds": round(alone, 1),
        "ratio": round(alone / together, 2),
        "target_ratio": 3,
        "learning_rates": RATES,
        "final_return_mean_and_standard_error": {name: _mean_and_error(values) for name, values in returns.items()},
        "lanes_equal_to_their_solo_runs": f"{equal} of {len(RATES) * SEEDS}",
    }


def _mean_and_error(values: list[list[float]]) -> list[list[float]]:
    """[mean over seeds, its standard error] of each learning rate."""
    of_rate = np.array(values)
    errors = of_rate.std(axis=1, ddof=1) / np.sqrt(SEEDS)
    return np.stack([of_rate.mean(axis=1), errors], axis=1).round(2).tolist()


def _timed(words: list[Any], out: Path) -> float:
    """Seconds of a command in a process of its own."""
    environment = os.environ | {"PURERL_CACHE": str(out.parent / f"cache-{words[0]}")}
    command = [sys.executable, "-m", "purerl", *words, "--preset", PRESET, "--steps", STEPS, "--out", out, "--quiet"]
    started = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, env=environment)
    return time.perf_counter() - started


def _same_parameters(cell: Path, seed: int, alone: Path) -> bool:
    """Whether a seed of a cell ends with the same bits as its solo run."""
    whole, solo = (jax.tree.leaves(open_run(folder)[4]().params) for folder in (cell, alone))
    return all(np.array_equal(x[seed], y[0]) for x, y in zip(whole, solo, strict=True))
