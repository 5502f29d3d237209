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

from purerl import cells, runs, training

AGENT, ENV, PRESET = "ppo", "gymnax/Breakout-MinAtar", "minatar"
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2)
SEEDS = 8
STEPS = 204_800  # 25 updates of each run
UPDATES_COMPARED = 4


def sweep_64() -> dict[str, Any]:
    """Wall time of both ways, each from an empty compilation cache (which the 64 processes then share), and how far
    parameters are apart after the first updates.

    At full length rounding has grown to other episodes, as between any two compilations of a chaotic system: what can
    be compared then are the returns, on the average.
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
        returns = {"sweep": [], "alone": []}
        for i, rate in enumerate(RATES):
            found = runs.load(folder / "sweep" / "cells" / f"{i:03d}")["summary"]["final_return"]["per_seed"]
            returns["sweep"].append(found)
            solo = [runs.load(folder / "alone" / f"{rate}-{seed}")["summary"] for seed in range(SEEDS)]
            returns["alone"].append([summary["final_return"]["mean"] for summary in solo])
        means = {name: np.mean(np.array(values), axis=1).round(2).tolist() for name, values in returns.items()}
        return {
            "steps_per_run": STEPS,
            "sweep_seconds": round(together, 1),
            "processes_seconds": round(alone, 1),
            "ratio": round(alone / together, 2),
            "target_ratio": 3,
            "mean_final_return_by_learning_rate": means,
            "after_updates": UPDATES_COMPARED,
            "largest_parameter_difference": _difference(folder / "compared"),
        }


def _timed(words: list[Any], out: Path) -> float:
    """Seconds of a command in a process of its own."""
    environment = os.environ | {"PURERL_CACHE": str(out.parent / f"cache-{words[0]}")}
    command = [sys.executable, "-m", "purerl", *words, "--preset", PRESET, "--steps", STEPS, "--out", out, "--quiet"]
    started = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, env=environment)
    return time.perf_counter() - started


def _difference(folder: Path) -> float:
    """The largest difference of any parameter between the 64 lanes and their solo runs, after a few updates."""

    def plan(rate: float, seed: int, seeds: int) -> training.Plan:
        config = {"learning_rate": rate, "anneal_learning_rate": False}
        return training.plan(
            AGENT, ENV, preset=PRESET, seeds=seeds, seed=seed, steps=UPDATES_COMPARED * 64 * 128, config=config
        )

    swept = [cells.Cell(plan(rate, 0, SEEDS), folder / f"{rate}") for rate in RATES]
    solo = [cells.Cell(plan(rate, s, 1), folder / f"{rate}-{s}") for rate in RATES for s in range(SEEDS)]
    cells.run(swept, folder / "work", quiet=True)
    cells.run(solo, folder / "work", cells_per_program=1, quiet=True)
    worst = 0.0
    for rate, cell in zip(RATES, swept, strict=True):
        lanes = training.open_run(cell.folder)[-1]().params
        for seed in range(SEEDS):
            alone = training.open_run(folder / f"{rate}-{seed}")[-1]().params
            pairs = zip(jax.tree.leaves(lanes), jax.tree.leaves(alone), strict=True)
            worst = max(worst, *(float(np.abs(a[seed] - b[0]).max()) for a, b in pairs))
    return worst
