"""Records a finished run as a small JSON and a PNG: `python -m purerl.experiments.record RUN NAME [FOLDER]`.

Without arguments it prints the README's tables of recorded runs and benchmarks (a test compares them).

The JSON holds the run's unchanged config.json and summary.json (with device, versions, commit and protocol) and its
return curves, thinned to at most 100 points per seed.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from purerl import configs
from purerl.report import plots
from purerl.runs import files, run_folder, sinks
from purerl.runs.plan import Plan, make_plan

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


def changes(header: dict[str, Any]) -> list[str]:
    """The settings in a run's config.json that its preset, as it is today, does not have: ["recurrent gru", ...]."""
    mine = Plan.from_dict(header)
    base = make_plan(mine.agent, mine.env, preset=mine.preset)
    pairs = [(configs.to_dict(plan.config), dataclasses.asdict(plan.options)) for plan in (mine, base)]
    found = []
    for prefix, now, then in zip(("", "env."), *pairs, strict=True):
        found += [f"{prefix}{name.replace('_', '-')} {value}" for name, value in now.items() if value != then[name]]
    return found


def table(results: Path) -> str:
    """The recorded runs of a folder as a Markdown table."""
    lines = [
        "| run | steps a seed | seeds | final return: IQM, mean (lowest to highest seed) | device | data |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(results.glob("*.json")):
        kept = files.read_json(path)
        if "curves" not in kept:
            continue
        summary, final = kept["summary"], kept["summary"]["final_return"]
        seeds = [x for x in final["per_seed"] if x is not None]
        device = summary["device"]
        what = ", ".join(
            [f"{summary['agent']} {summary['env']}", f"preset {summary['preset']}", *changes(kept["config"])]
        )
        lines.append(
            f"| {what} | {summary['steps']:,} | {len(seeds)} "
            f"| {final['iqm']:.1f}, {final['mean']:.1f} ({min(seeds):.1f} to {max(seeds):.1f}) "
            f"| {device['count']} x {device['kind']} | [JSON](experiments/results/{path.name}), "
            f"[curve](experiments/results/{path.stem}.png) |"
        )
    return "\n".join(lines)


def speed_table(results: Path) -> str:
    """The benchmarks of a folder, bench-cpu-<name>.json, as a Markdown table."""
    lines = ["| what | measured |", "|---|---|"]
    for name, (what, words) in _SPEEDS.items():
        file = f"bench-cpu-{name}.json"
        measured = words(files.read_json(results / file)[name])
        lines.append(f"| {what} | {measured} ([JSON](experiments/results/{file})) |")
    return "\n".join(lines)


def _against_rejax(found: dict[str, Any]) -> str:
    one, eight = found["seeds_1"], found["seeds_8"]
    return (
        f"{one['ratio']:.2f}x at 1 seed ({one['purerl_steps_per_second']:,.0f} steps/s), "
        f"{eight['ratio']:.2f}x at 8 ({eight['purerl_steps_per_second']:,.0f})"
    )


def _pure_train(found: dict[str, Any]) -> str:
    spread = found["seeds_8_on_all_devices"]
    return (
        f"{_against_rejax(found)}; with the keys of 8 spread over both devices, for both libraries, "
        f"{spread['ratio']:.2f}x ({spread['purerl_steps_per_second']:,.0f})"
    )


def _pool(found: dict[str, Any]) -> str:
    games = [game for game in found.values() if isinstance(game, dict)]
    ratios, speeds = sorted(game["ratio"] for game in games), sorted(game["pool"] for game in games)
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}; {speeds[0]:,.0f} to {speeds[-1]:,.0f} steps/s"


def _replay(found: dict[str, Any]) -> str:
    loop, call = ([found[f"{kind}_items_{items}"] for items in (10_000, 1_000_000)] for kind in ("loop", "call"))
    return (
        f"in a compiled loop {loop[0]['ratio']:.2f}x at 10 thousand items, {loop[1]['ratio']:.2f}x at 1 million "
        f"({loop[1]['purerl_cycles_per_second']:,.0f} cycles/s); one jitted and donated call a cycle "
        f"{call[0]['ratio']:.2f}x and {call[1]['ratio']:.2f}x ({call[1]['purerl_cycles_per_second']:,.0f})"
    )


def _lanes(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{agent} {rates['map_over_vmap']:.2f}x ({rates['map_steps_per_second']:,.0f} steps/s)"
        for agent, rates in found.items()
        if isinstance(rates, dict)
    )


_SPEEDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "ppo-minatar": ("PPO on Breakout-MinAtar against rejax 0.1.3, same sizes, taking turns", _against_rejax),
    "pure-train": (
        "`jit(vmap(train))` of make_train against rejax 0.1.3's, PPO on Breakout-MinAtar, one device, taking turns",
        _pure_train,
    ),
    "dqn-cartpole": ("DQN on CartPole against rejax 0.1.3, same sizes, taking turns", _against_rejax),
    "sweep": (
        "8 learning rates x 8 seeds of PPO on Breakout-MinAtar, 204,800 steps each: one sweep against 64 processes one "
        "after another, compiling included",
        lambda found: f"{found['ratio']:.2f}x ({found['sweep_seconds']:.0f} s, {found['processes_seconds']:.0f} s)",
    ),
    "lanes": ("8 seeds by `--lanes map` (a CPU's default) against `--lanes vmap`, taking turns", _lanes),
    "replay": ("prioritized replay, add 8 + draw 32 + change 32, against flashbax 0.1.3", _replay),
    "procgen-pool": (
        "Procgen pool, frames landing on the (CPU) device, against bare libenv with as many threads a group",
        _pool,
    ),
    "atari-pool": (
        "Atari pool, 32 games, frames landing on the (CPU) device, against bare ale-py with as many threads a group",
        _pool,
    ),
    "ppg-procgen": (
        "PPG on procgen/starpilot, preset quick, whole cycles: wall time outside games and device",
        lambda found: f"{found['quick']['host_share']:.1%} ({found['quick']['steps_per_second']:.0f} steps/s)",
    ),
    "rainbow-atari": (
        "Rainbow on atari/Pong, preset quick, learning: wall time outside games and device",
        lambda found: f"{found['host_share']:.1%} ({found['steps_per_second']:.0f} steps/s)",
    ),
}


if __name__ == "__main__" and not sys.argv[1:]:
    print(table(Path("experiments/results")), speed_table(Path("experiments/results")), sep="\n\n")
elif __name__ == "__main__":
    print(record(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3] if sys.argv[3:] else "experiments/results")))
