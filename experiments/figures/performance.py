"""Speed against the number of seeds on this machine: steps per second, compile time and memory. Not from a paper."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing

from purerl.experiments.figures.commands import Cell, Check, Figure
from purerl.experiments.figures.parts import panels
from purerl.report import plots
from purerl.runs import files

SEEDS = {"smoke": (1, 2), "small": (1, 2, 4, 8, 16, 32, 64), "paper": (1, 2, 4, 8, 16, 32, 64, 128, 256)}
AGENTS = {"smoke": ("ppo",), "small": ("ppo", "ppg", "dqn", "rainbow"), "paper": ("ppo", "ppg", "dqn", "rainbow")}
SECONDS = {"smoke": 0.2, "small": 3.0, "paper": 5.0}
REPEATS = {"smoke": 1, "small": 3, "paper": 5}
_TINY = {"num_envs": 8, "rollout_length": 16, "num_minibatches": 2, "hidden": (16,)}
CONFIGS: dict[str, dict[str, Any]] = {"smoke": _TINY, "small": {}, "paper": {}}


def _preset(agent: str) -> str:
    """The preset: on a CPU the DQN family's small network, because MinAtar's own takes minutes per point."""
    import jax

    small = agent in ("dqn", "rainbow") and jax.default_backend() == "cpu"
    return "minatar-small" if small else "minatar"


def _measure(scale: str, folder: Path) -> dict[str, Any]:
    """{agent: {seeds: numbers}}; each point has its own file, so that the measurement can be stopped and continued."""
    found: dict[str, Any] = {}
    for agent in AGENTS[scale]:
        for seeds in SEEDS[scale]:
            path = folder / f"performance-{agent}-{seeds}.json"
            if not path.is_file():
                with files.writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(path, _point(agent, seeds, scale))
            found.setdefault(agent, {})[str(seeds)] = files.read_json(path)
    return found


def _point(agent: str, seeds: int, scale: str) -> dict[str, Any]:
    """Speed of all seeds together (median over repeats), time to the end of the first iteration, program's memory."""
    from purerl import rng
    from purerl.experiments.benchmarks import commands
    from purerl.loops import compilation

    with compilation.without_cache():
        run = commands.Measured(agent, "gymnax/Breakout-MinAtar", seeds, preset=_preset(agent), config=CONFIGS[scale])
    run.advance(run.learning_starts)
    iterations = run.iterations_for(SECONDS[scale])
    rates = [run.measure(iterations)["steps_per_second"] for _ in range(REPEATS[scale])]
    return {
        "preset": _preset(agent),
        "steps_per_second": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
        "compile_and_first_iteration_seconds": round(run.first_seconds, 2),
        "program_bytes": run.loop.program_bytes(run.config, rng.seed_keys(0, seeds)),
    }


def _draw(data: dict[str, Any]) -> Drawing:
    drawing, axes = panels(
        ["All seeds together", "Compiling and the first iteration", "Memory of the program"], height=2.8
    )
    quantities = (
        ("steps_per_second", 1.0, "steps/s"),
        ("compile_and_first_iteration_seconds", 1.0, "seconds"),
        ("program_bytes", 1e-9, "GB"),
    )
    for one, (quantity, unit, name) in zip(axes, quantities, strict=True):
        for colour, (agent, points) in zip(plots.COLOURS, data["measured"].items(), strict=False):
            values = [point[quantity] * unit for point in points.values()]
            one.plot([int(seeds) for seeds in points], values, "o-", color=colour, label=agent)
        plots.dress(one, "seeds", name)
        one.set_xscale("log", base=2)
        places = [int(seeds) for seeds in next(iter(data["measured"].values()))]
        one.set_xticks(places, [str(place) for place in places])
        if quantity == "program_bytes":  # grows with the seeds: a straight line here
            one.set_yscale("log")
        else:
            one.set_ylim(bottom=0)
        one.minorticks_off()
    drawing.legend(*one.get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False)
    return drawing


def _verify(data: dict[str, Any]) -> list[Check]:
    checks = []
    for agent, points in data["measured"].items():
        first = next(iter(points.values()))["steps_per_second"]
        for seeds, point in points.items():
            rate = point["steps_per_second"]
            measured = f"{rate:,.0f} steps/s, {rate / first:.2f} times one seed's"
            checks.append(Check(f"{agent} ({point['preset']}), {seeds} seeds", measured, "-", None))
    return checks


def _no_cells(_: str) -> list[Cell]:
    return []


FIGURES = (
    Figure(
        name="performance/seeds",
        paper="none",
        about="total steps per second, compile time and memory against the number of seeds",
        cells=_no_cells,
        protocol={
            "smoke": "Breakout-MinAtar, a tiny network: shows that it works, the numbers mean nothing",
            **dict.fromkeys(("small", "paper"), "Breakout-MinAtar, learning; median of repeats that follow each other"),
        },
        draw=_draw,
        verify=_verify,
        measure=_measure,
    ),
)
