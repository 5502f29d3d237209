"""The DQN family on MinAtar, base against Pro: `python -m purerl.experiments.dqn_family run|keep FOLDER`.

`run` trains dqn, dqn-pro, rainbow and rainbow-pro on the five MinAtar games of gymnax with ten seeds each, and dqn-pro
on two of them over values of c, side by side in one program; runs that are finished are not run again, and what was
cut short goes on. `keep` writes what came out to a folder of results, as a small JSON and three figures drawn from it:

- learning curves of each game;
- the final return over c, beside that of DQN (c = inf);
- the distance between consecutive target networks.

The comparison is that of Asadi et al. 2022 (arXiv 2112.05848), who made it on Atari: their numbers are not expected
here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from purerl import plots, runs, sharding, statistics

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
AGENTS = ("dqn", "dqn-pro", "rainbow", "rainbow-pro")
SWEPT_GAMES = ("Breakout", "SpaceInvaders")
COEFFICIENTS = (0.02, 0.05, 0.2, 0.5, 1.0)  # with 0.1 of the preset, and inf, which is DQN
SEEDS = 10
SWEPT_SEEDS = 6  # of each of these values; with five values an even number of lanes, for two cores
PRESET = "minatar-small"
POINTS = 50
NAME = "dqn-family-minatar"
METRICS = ("episode_return", "target_distance")


def run_all(folder: Path, steps: int) -> None:
    """Trains what is not yet finished in `folder`, a run folder each."""
    from purerl import training

    for game in GAMES:
        for agent in AGENTS:
            _train(training, folder / f"{agent}-{game}", agent, game, seeds=SEEDS, steps=steps)
    for game in SWEPT_GAMES:
        # A lane for each value and seed; lanes of other values have other seeds.
        config = {"proximal_coefficient": np.repeat(np.float32(COEFFICIENTS), SWEPT_SEEDS)}
        lanes = SWEPT_SEEDS * len(COEFFICIENTS)
        _train(training, folder / f"sweep-{game}", "dqn-pro", game, seeds=lanes, steps=steps, config=config)


def _train(training: Any, out: Path, agent: str, game: str, **how: Any) -> None:
    if (out / "summary.json").exists():
        print(f"{out.name}: finished before", flush=True)
        return
    begun = (out / runs.CONFIG).exists()
    run = training.train(agent, f"gymnax/{game}-MinAtar", preset=PRESET, out=out, resume=begun, quiet=True, **how)
    print(f"{out.name}: {run.summary['final_return']['iqm']:.2f}, {run.summary['train_seconds']} s", flush=True)


def keep(folder: Path, results: Path) -> Path:
    """Writes the JSON and the figures of the finished runs in `folder`; returns the JSON's path."""
    entries = [entry for path in sorted(folder.iterdir()) if (path / "summary.json").exists() for entry in _read(path)]
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{NAME}.json"
    runs.write_file(path, (_compact({"runs": entries}) + "\n").encode())
    draw(path)
    return path


def _read(folder: Path) -> list[dict[str, Any]]:
    """What is kept of a run folder: one entry, or one for each value of c."""
    run = runs.load(folder)
    config, summary = run["config"], run["summary"]
    final = summary["final_return"]
    values = config["config"]["proximal_coefficient"]
    swept = isinstance(values, list)
    values = values if swept else [values] * len(summary["seeds"])
    curves = {name: plots.read_curve(folder, "step", name, smooth=5) for name in METRICS}
    entries = []
    for value in dict.fromkeys(values):
        lanes = [lane for lane, of_lane in enumerate(values) if of_lane == value]
        entry = {
            "agent": summary["agent"],
            "game": summary["env"].removeprefix("gymnax/").removesuffix("-MinAtar"),
            "proximal_coefficient": round(value, 6) if swept else value,
            "swept": swept,
            "preset": summary["preset"],
            "steps": summary["steps"],
            "seeds": [summary["seeds"][lane] for lane in lanes],
            "final_return": [round(final["per_seed"][lane], 4) for lane in lanes],
            "final_return_definition": final["definition"],
            "curves": {name: _thinned(curve, lanes) for name, curve in curves.items()},
            "versions": summary["versions"],
            "device": summary["device"],
            "git_commit": summary["git_commit"],
        }
        entries.append(entry)
    return entries


def _thinned(curve: plots.Curve, lanes: Sequence[int]) -> dict[str, list[float]]:
    """The middle of some lanes' curve and its band, at POINTS steps."""
    at = np.unique(np.linspace(0, len(curve.x) - 1, POINTS).round().astype(int))
    lines = curve.seeds[lanes][:, at]
    low, high = statistics.bootstrap_band(lines)
    columns = {"step": curve.x[at], "iqm": statistics.interquartile_mean(lines, axis=0), "low": low, "high": high}
    return {name: [float(f"{value:.5g}") for value in column] for name, column in columns.items()}


def _compact(value: Any, indent: int = 0) -> str:
    """JSON with lists of numbers on one line each."""
    if isinstance(value, dict):
        inner = ",\n".join(f"{' ' * (indent + 1)}{json.dumps(k)}: {_compact(v, indent + 1)}" for k, v in value.items())
        return f"{{\n{inner}\n{' ' * indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        inner = ",\n".join(" " * (indent + 1) + _compact(v, indent + 1) for v in value)
        return f"[\n{inner}\n{' ' * indent}]"
    return json.dumps(value)


# --- what it says ----------------------------------------------------------------------------------------------------


def load(path: Path) -> list[dict[str, Any]]:
    """The entries of the JSON."""
    return runs.read_json(path)["runs"]


def entry_of(entries: list[dict[str, Any]], agent: str, game: str) -> dict[str, Any] | None:
    """The entry of an agent with its preset's c, if it has been run."""
    return next((e for e in entries if (e["agent"], e["game"], e["swept"]) == (agent, game, False)), None)


def summary(final: Sequence[float]) -> tuple[float, float, float]:
    """(IQM, low, high): 95% bootstrap interval over the seeds."""
    scores = np.asarray(final)
    return (float(statistics.interquartile_mean(scores)), *statistics.stratified_bootstrap_interval(scores))


def probability_of_improvement(ours: Sequence[float], base: Sequence[float]) -> float:
    """How often a seed of ours is above one of the base, ties counting half (Agarwal et al. 2021, section 4.3)."""
    ours, base = np.asarray(ours)[:, None], np.asarray(base)[None]
    return float(np.mean((ours > base) + 0.5 * (ours == base)))


def table(path: Path) -> str:
    """Markdown: a game in each row; IQM of the final return with its interval; P(Pro above base)."""
    entries = load(path)
    lines = [
        f"| {entries[0]['steps']:,} steps, {SEEDS} seeds | dqn | dqn-pro | P(Pro > base) | rainbow | rainbow-pro "
        "| P(Pro > base) |",
        "|---|---|---|---|---|---|---|",
    ]
    for game in GAMES:
        row = []
        for base in ("dqn", "rainbow"):
            pair = [entry_of(entries, agent, game) for agent in (base, f"{base}-pro")]
            finals = [entry["final_return"] if entry else None for entry in pair]
            row += ["{:.1f} ({:.1f} to {:.1f})".format(*summary(final)) if final else "-" for final in finals]
            row.append(f"{probability_of_improvement(*finals[::-1]):.2f}" if all(finals) else "-")
        lines.append(f"| {game} | {' | '.join(row)} |")
    return "\n".join(lines)


# --- figures ---------------------------------------------------------------------------------------------------------


def draw(path: Path) -> None:
    """Draws the three figures beside the JSON, from it alone."""
    entries = load(path)
    games = [game for game in GAMES if any(e["game"] == game for e in entries)]
    swept = [game for game in SWEPT_GAMES if any(e["game"] == game and e["swept"] for e in entries)]
    _save(path, "returns", games, lambda axes, game: _draw_curves(axes, entries, game, "episode_return"))
    _save(path, "target-distance", games, lambda axes, game: _draw_curves(axes, entries, game, "target_distance"))
    if swept:
        _save(path, "coefficient", swept, lambda axes, game: _draw_sweep(axes, entries, game))


def _save(path: Path, name: str, games: Sequence[str], panel: Callable[[Axes, str], None]) -> None:
    """One panel a game, below each other, so that it can be read on a phone."""
    figure = Figure(figsize=(plots.WIDTH, 2.9 * len(games)))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    for axes, game in zip(figure.subplots(len(games), squeeze=False)[:, 0], games, strict=True):
        panel(axes, game)
    figure.savefig(path.with_name(f"{path.stem}-{name}.png"), dpi=110, facecolor="white")


def _draw_curves(axes: Axes, entries: list[dict[str, Any]], game: str, metric: str) -> None:
    for colour, agent in zip(plots.COLOURS, AGENTS, strict=False):
        entry = entry_of(entries, agent, game)
        if entry is not None:
            curve = entry["curves"][metric]
            axes.plot(curve["step"], curve["iqm"], color=colour, linewidth=2, label=agent)
            axes.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
    _finish(axes, game, "step", metric)


def _draw_sweep(axes: Axes, entries: list[dict[str, Any]], game: str) -> None:
    found = {e["proximal_coefficient"]: e for e in entries if (e["agent"], e["game"]) == ("dqn-pro", game)}
    for value, entry in sorted(found.items()):
        middle, low, high = summary(entry["final_return"])
        label = "dqn-pro" if value == min(found) else None
        axes.errorbar(
            value, middle, [[middle - low], [high - middle]], fmt="o", color=plots.COLOURS[1], capsize=3, label=label
        )
    base = entry_of(entries, "dqn", game)
    if base is not None:
        middle, low, high = summary(base["final_return"])
        axes.axhline(middle, color=plots.COLOURS[0], label="dqn (c = inf)")
        axes.axhspan(low, high, color=plots.COLOURS[0], alpha=0.18, linewidth=0)
    _finish(axes, game, "proximal_coefficient", "episode_return")
    axes.set_xscale("log")
    axes.set_xticks(sorted(found), [f"{value:g}" for value in sorted(found)])
    axes.minorticks_off()


def _finish(axes: Axes, game: str, x: str, y: str) -> None:
    plots.dress(axes, x, y)
    axes.set_title(f"{game}-MinAtar", fontsize=plots.TEXT_POINTS, loc="left", color=plots.INK)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=plots.SMALL_POINTS)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m purerl.experiments.dqn_family", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="train what is not yet finished")
    command.add_argument("folder", type=Path)
    command.add_argument("--steps", type=int, default=500_000, help="of each seed (default 500000)")
    command = commands.add_parser("keep", help="write JSON and figures of what is finished")
    command.add_argument("folder", type=Path)
    command.add_argument("--results", type=Path, default=Path("experiments/results"))
    arguments = parser.parse_args(argv)
    if arguments.command == "run":
        sharding.one_cpu_device_per_core()
        run_all(arguments.folder, arguments.steps)
    else:
        print(table(keep(arguments.folder, arguments.results)))


if __name__ == "__main__":
    main(sys.argv[1:])
