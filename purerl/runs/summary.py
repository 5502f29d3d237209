"""What summary.json says of a finished run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purerl import statistics as stats
from purerl.runs import run_folder, schemas, sinks
from purerl.runs.plan import Plan

# Each seed's final return is the mean of the episodes that end in the last tenth of its steps.
FINAL_SHARE = 0.1


def summarize(plan: Plan, folder: Path, measured: dict[str, Any], diverged: Collection[int] = ()) -> dict[str, Any]:
    """The summary of a run from its metric rows.

    Args:
      plan, folder: of the run.
      measured: what else to say: speed, memory, device.
      diverged: seeds whose last parameters are known to be NaN or infinite; their rows may not show it yet.
    """
    config = run_folder.load(folder)["config"]
    rows = sinks.read_rows(folder / run_folder.METRICS)
    schemas.check_rows(rows, folder / run_folder.METRICS)
    finals = final_returns(rows, plan.seeds, plan.steps)
    known = [x for x in finals if x is not None]
    return {
        "agent": plan.agent,
        "env": plan.env,
        "preset": plan.preset,
        "seeds": list(plan.seeds),
        "steps": plan.steps,
        **({} if plan.asked_steps is None else {"asked_steps": plan.asked_steps}),
        "final_return": {
            "iqm": float(stats.interquartile_mean(np.array(known))) if known else None,
            "mean": float(np.mean(known)) if known else None,
            "per_seed": finals,
            "definition": f"mean of the episodes ending in the last {FINAL_SHARE:.0%} of the steps",
        },
        **({"random_return": config["random_return"]} if config.get("random_return") else {}),
        "diverged_seeds": sorted({row["seed"] for row in rows if row.get("diverged")} | set(diverged)),
        **measured,
        "folder": str(folder),
    }


def final_returns(rows: Sequence[dict[str, Any]], seeds: Sequence[int], steps: int) -> list[float | None]:
    """For each seed, the mean return of the episodes that ended in the last tenth of the run; None without any."""
    finals = []
    for seed in seeds:
        late = [
            (row["episode_return"], row["episodes"])
            for row in rows
            if row["seed"] == seed and row["step"] > (1 - FINAL_SHARE) * steps and row.get("episodes")
        ]
        count = sum(n for _, n in late)
        finals.append(sum(r * n for r, n in late) / count if count else None)
    return finals
