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
import jax.numpy as jnp
import numpy as np

from purerl import configs
from purerl.runs import programs, run_folder
from purerl.runs.plan import Plan, make_plan, seed_keys
from purerl.runs.trainer import make_loop

AGENT, ENV, PRESET = "ppo", "gymnax/Breakout-MinAtar", "minatar"
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2)
SEEDS = 8
STEPS = 204_800  # 25 updates of each run
UPDATES_COMPARED = 4
TOLERANCE = 1e-5  # of a parameter


def sweep_64() -> dict[str, Any]:
    """Wall time of both ways, each from an empty compilation cache (which the 64 processes then share), and how far the
    lanes' parameters are from those of their solo runs after the first updates.

    One program of 64 lanes sums in another order than one of a single lane, and training is chaotic: what rounding
    changed in the first update soon decides for another action. At full length only the returns can be compared, on
    the average; and the first updates against what a change of the last bit does to a solo run.
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
        "parameter_differences": _differences(),
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


def _differences() -> dict[str, Any]:
    """{updates: {lanes against solo runs, solo runs against themselves with each first parameter's last bit changed}}:
    over the 64 pairs, of the largest difference of a parameter.
    """

    def plan(rate: float, seed: int = 0, seeds: int = 1) -> Plan:
        steps = UPDATES_COMPARED * 64 * 128
        config = {"learning_rate": rate, "anneal_learning_rate": False}
        return make_plan(AGENT, ENV, preset=PRESET, seed=seed, seeds=seeds, steps=steps, config=config)

    whole = programs.together([plan(rate, seeds=SEEDS) for rate in RATES], len(RATES) * SEEDS, ["learning_rate"])
    lanes = _parameters(make_loop(whole), whole)  # [U, 64, P]
    single = make_loop(plan(RATES[0]))
    solo = [plan(rate, seed) for rate in RATES for seed in range(SEEDS)]
    alone = np.concatenate([_parameters(single, one) for one in solo], axis=1)
    changed = np.concatenate([_parameters(single, one, change_last_bit=True) for one in solo], axis=1)
    pairs = {"lane_against_alone": lanes, "alone_against_last_bit_changed": changed}
    largest = {name: np.abs(alone - other).max(axis=-1) for name, other in pairs.items()}  # [U, 64]
    return {
        f"after_{update + 1}_updates": {name: _spread(of_pairs[update]) for name, of_pairs in largest.items()}
        for update in range(UPDATES_COMPARED)
    }


def _parameters(loop: Any, plan: Plan, change_last_bit: bool = False) -> np.ndarray:
    """All parameters of the plan's seeds after each update, [U, S, P]."""
    config = configs.traced(plan.config)
    state, found = loop.init(config, seed_keys(plan)), []
    if change_last_bit:
        params = jax.tree.map(lambda x: jnp.nextafter(x, jnp.inf), state.agent.params)
        state = state.replace(agent=state.agent.replace(params=params))
    for update in range(UPDATES_COMPARED):
        state, _ = loop.advance(config, state, update, UPDATES_COMPARED, 1)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state.agent.params)]
        found.append(np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1))
    return np.stack(found)


def _spread(differences: np.ndarray) -> dict[str, float]:
    return {
        "median": float(f"{np.median(differences):.2g}"),
        "largest": float(f"{differences.max():.2g}"),
        f"share_within_{TOLERANCE:g}": round(float((differences <= TOLERANCE).mean()), 3),
    }
