"""Records a finished run as a small JSON and a PNG: `python -m purerl.experiments.record RUN NAME [FOLDER]`.

Without arguments it writes docs/results.md from all JSON files under experiments/results. Run it in the checkout after
anything there has changed; a test compares the page.

The JSON holds the run's unchanged config.json and summary.json (with device, versions, commit and protocol) and its
return curves, thinned to at most 100 points per seed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from purerl.experiments import results_page
from purerl.report import plots
from purerl.runs import files, run_folder, sinks

POINTS = 100


def curves(folder: Path) -> dict[str, dict[str, list[float]]]:
    """{seed: {"step": [...], "episode_return": [...]}}: means over the episodes of each of at most POINTS periods."""
    rows = [row for row in sinks.read_rows(folder / run_folder.METRICS) if row["episodes"]]
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
    run = run_folder.load(folder)
    summary = {key: value for key, value in (run["summary"] or {}).items() if key != "folder"}
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    files.write_json(path, {"config": run["config"], "summary": summary, "curves": curves(folder)})
    shutil.copyfile(plots.plot_run(folder), results / f"{name}.png")
    return path


def main(words: list[str]) -> Path:
    """Records a run, or without words writes the page of results, in the checkout; returns what was written."""
    if words:
        return record(Path(words[0]), words[1], Path(words[2] if words[2:] else "experiments/results"))
    page = Path("docs/results.md")
    page.write_text(results_page.page(Path()))
    return page


if __name__ == "__main__":
    print(main(sys.argv[1:]))
