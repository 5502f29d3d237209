"""Keeps a finished run as a small JSON and a PNG: `python -m purerl.experiments.record RUN NAME [FOLDER]`.

Without arguments it prints the table of recorded runs that stands in the README (a test compares the two).

The JSON holds the run's config.json and summary.json as they are (device, versions, commit and protocol included) and
its return curves, thinned to at most 100 points a seed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from purerl import plots, runs, sinks

POINTS = 100


def curves(folder: Path) -> dict[str, dict[str, list[float]]]:
    """{seed: {"step": [...], "episode_return": [...]}}: means over the episodes of each of at most POINTS periods."""
    rows = [row for row in sinks.read_rows(folder / runs.METRICS) if row["episodes"]]
    result = {}
    for seed in sorted({row["seed"] for row in rows}):
        mine = [row for row in rows if row["seed"] == seed]
        periods = np.array_split(np.arange(len(mine)), min(POINTS, len(mine)))
        steps, returns = [], []
        for period in periods:
            weights = [mine[i]["episodes"] for i in period]
            steps.append(mine[period[-1]]["step"])
            returns.append(round(float(np.average([mine[i]["episode_return"] for i in period], weights=weights)), 4))
        result[str(seed)] = {"step": steps, "episode_return": returns}
    return result


def record(folder: Path, name: str, results: Path) -> Path:
    """Writes results/NAME.json and results/NAME.png from a run folder; returns the JSON's path."""
    run = runs.load(folder)
    summary = {key: value for key, value in (run["summary"] or {}).items() if key != "folder"}
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    runs.write_json(path, {"config": run["config"], "summary": summary, "curves": curves(folder)})
    shutil.copyfile(plots.plot_run(folder), results / f"{name}.png")
    return path


def table(results: Path) -> str:
    """The recorded runs of a folder as a Markdown table."""
    lines = [
        "| run | steps a seed | seeds | final return: IQM, mean (lowest to highest seed) | device | data |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(results.glob("*.json")):
        kept = runs.read_json(path)
        if "curves" not in kept:
            continue
        summary, final = kept["summary"], kept["summary"]["final_return"]
        seeds = [x for x in final["per_seed"] if x is not None]
        device = summary["device"]
        lines.append(
            f"| {summary['agent']} {summary['env']}, preset {summary['preset']} | {summary['steps']:,} | {len(seeds)} "
            f"| {final['iqm']:.1f}, {final['mean']:.1f} ({min(seeds):.1f} to {max(seeds):.1f}) "
            f"| {device['count']} x {device['kind']} | [JSON](experiments/results/{path.name}), "
            f"[curve](experiments/results/{path.stem}.png) |"
        )
    return "\n".join(lines)


if __name__ == "__main__" and not sys.argv[1:]:
    print(table(Path("experiments/results")))
elif __name__ == "__main__":
    print(record(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3] if sys.argv[3:] else "experiments/results")))
