"""Figures of MQL (Fakoor et al. 2020, arXiv 1910.00125): what a context is worth, and what adaptation adds to it.

`mql/context` compares TD3 with and without a context, of the same sizes, on tasks that neither has seen.
`mql/adaptation` takes the same runs with a context, and adapts them to each of those tasks in several ways. The runs
are of the agent `mql`, which trains exactly as `td3-context`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawing

from purerl.experiments.figures.commands import Cell, Check, Figure
from purerl.experiments.figures.parts import chance, draw_curves, draw_intervals, panels, summary, text
from purerl.report import plots
from purerl.runs import files

PAPER = "Fakoor et al. 2020, arXiv 1910.00125"
CONTEXT, NONE = "mql", "td3"
LABELS = {CONTEXT: "td3-context", NONE: "td3"}
ADAPTATIONS: dict[str, dict[str, Any]] = {
    "as released (lambda = 0.1)": {},
    "lambda = 1 - ESS": {"proximal": "effective-sample-size"},
    "lambda = 0": {"proximal_coefficient": 0.0},
    "beta = 1": {"weighting": "ones"},
    "no stage B": {"replay_steps": 0},
    "no stage A": {"new_task_steps": 0},
    "a tenth of the step size": {"adaptation_learning_rate": 1e-4},
}


class Scale(NamedTuple):
    """What differs between the scales. `shared` are fields that both agents have, `context` those of `mql` alone."""

    families: dict[str, dict[str, Any]]
    adaptations: tuple[str, ...]
    seeds: int
    steps: int
    episodes: int
    shared: dict[str, Any]
    context: dict[str, Any]


_SIZES = {
    "num_envs": 4,
    "rollout_length": 1,
    "train_period": 1,
    "hidden": (64, 64),
    "batch_size": 128,
    "replay_size": 40_000,
    "learning_starts": 1_000,
    "learning_rate": 1e-3,
    "exploration_noise": 0.3,
    "target_noise": 0.3,
}
_CONTEXT = {"history_length": 5, "context_size": 16, "snapshot_size": 8_000}
_TINY = {"hidden": (8,), "batch_size": 16, "replay_size": 400, "learning_starts": 100, "num_envs": 2}
_TINY_CONTEXT = {"history_length": 3, "context_size": 3, "new_task_steps": 1, "replay_steps": 1, "replay_batches": 1}
SCALES = {
    "smoke": Scale(
        {"point-robot": {"discount": 0.9}},
        ("as released (lambda = 0.1)", "no stage B"),
        *(2, 160, 1),
        _SIZES | _TINY,
        _TINY_CONTEXT,
    ),
    "small": Scale(
        {"point-robot": {"discount": 0.9}},
        tuple(ADAPTATIONS),
        *(8, 100_000, 10),
        _SIZES,
        _CONTEXT,
    ),
    "paper": Scale(
        {"point-robot": {"discount": 0.9}, "pendulum": {"discount": 0.98}},
        tuple(ADAPTATIONS),
        *(8, 1_000_000, 20),
        _SIZES | {"hidden": (300, 300), "batch_size": 256, "replay_size": 1_000_000, "learning_starts": 10_000},
        _CONTEXT | {"history_length": 20, "snapshot_size": 160_000},
    ),
}
_PROTOCOLS = {
    "smoke": "tasks/point-robot, tiny networks, 160 steps, 2 seeds: shows that it works, the numbers mean nothing",
    "small": "tasks/point-robot, both agents with two layers of 64, batches of 128 and a gradient step per "
    "transition (the context, a GRU of 16 over 5 steps, comes on top), 100,000 steps, 8 seeds, settings not "
    "tuned; 10 greedy episodes on each of 20 held-out tasks; the paper: MuJoCo",
    "paper": "tasks/point-robot and tasks/pendulum, as small with the released sizes (300-300, batches of 256, 20 "
    "steps of history), 1M steps; the paper: MuJoCo",
}


def _cell(family: str, agent: str, scale: str) -> Cell:
    one = SCALES[scale]
    config = one.shared | one.families[family] | (one.context if agent == CONTEXT else {})
    return Cell(
        name=f"{agent}-{family}",
        agent=agent,
        env=f"tasks/{family}",
        preset="tasks" if agent == CONTEXT else "classic",
        seeds=one.seeds,
        steps=one.steps,
        config=config,
        eval_every=max(1, one.steps // 20),
        eval_episodes=10,
        eval_env_options={"split": "test"},
    )


def _contexts(scale: str) -> list[Cell]:
    return [_cell(family, agent, scale) for family in SCALES[scale].families for agent in (NONE, CONTEXT)]


def _adaptations(scale: str) -> list[Cell]:
    return [_cell(family, CONTEXT, scale) for family in SCALES[scale].families]


# --- measurements ----------------------------------------------------------------------------------------------------


def _held_out(scale: str, folder: Path) -> dict[str, Any]:
    """{family: {agent: mean greedy return on the held-out tasks of each seed}}."""
    from purerl.runs.evaluation import evaluate

    found: dict[str, Any] = {}
    for cell in _contexts(scale):
        family = cell.env.partition("/")[2]
        options = {"split": "test"}  # its 20 tasks are drawn for every episode
        result = evaluate(folder / cell.name, num_envs=20, episodes=SCALES[scale].episodes, env_options=options)
        found.setdefault(family, {})[cell.agent] = [one["mean"] for one in result["per_seed"]]
    return found


def _adapted(scale: str, folder: Path) -> dict[str, Any]:
    """{family: {way to adapt: {"before", "after": mean return on the held-out tasks of each seed}}}.

    Each way has its own file in the run's folder, so that the measurement can be stopped and continued.
    """
    from purerl.runs.adaptation import evaluate_adaptation

    found: dict[str, Any] = {}
    for cell in _adaptations(scale):
        for index, way in enumerate(SCALES[scale].adaptations):
            path = folder / f"{cell.name}-adapted-{index}.json"
            if not path.is_file():
                evaluate_adaptation(
                    folder / cell.name, episodes=SCALES[scale].episodes, config=ADAPTATIONS[way], out=path
                )
            kept = files.read_json(path)["per_seed"]
            of_way = {name: [one[name] for one in kept] for name in ("before", "after")}
            found.setdefault(cell.env.partition("/")[2], {})[way] = of_way
    return found


# --- checks ----------------------------------------------------------------------------------------------------------


def _verdict(scale: str, interval: tuple[float, float, float], middle: float) -> bool | None:
    """Whether an interval is above `middle`; None at the smoke scale, or where the interval contains it."""
    _, low, high = interval
    return None if scale == "smoke" or low <= middle <= high else low > middle


def _verify_context(data: dict[str, Any]) -> list[Check]:
    checks = []
    for family, returns in data["measured"].items():
        for agent, of_seeds in returns.items():
            checks.append(Check(f"{family}, {LABELS[agent]}, held-out tasks", text(summary(of_seeds)), "-", None))
        better = chance(returns[CONTEXT], returns[NONE])
        verdict = _verdict(data["scale"], better, 0.5)
        checks.append(Check(f"P(td3-context > td3), {family}", text(better), "above 0.5", verdict))
    return checks


def gains(data: dict[str, Any]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """{family: {way to adapt: after - before on the same tasks, IQM over seeds with its interval}}."""
    return {
        family: {
            way: summary((np.array(found["after"]) - np.array(found["before"])).tolist()) for way, found in ways.items()
        }
        for family, ways in data["measured"].items()
    }


def _verify_adaptation(data: dict[str, Any]) -> list[Check]:
    checks = []
    for family, ways in gains(data).items():
        before = next(iter(data["measured"][family].values()))["before"]
        checks.append(Check(f"{family}, before adaptation", text(summary(before)), "-", None))
        for way, gain in ways.items():
            verdict = _verdict(data["scale"], gain, 0.0)
            checks.append(Check(f"{family}, gain, {way}", text(gain), "above 0 if adaptation helps", verdict))
    return checks


# --- drawing ---------------------------------------------------------------------------------------------------------


def _draw_context(data: dict[str, Any]) -> Drawing:
    families = SCALES[data["scale"]].families
    drawing, axes = panels([f"tasks/{family}, held-out tasks" for family in families])
    for one, family in zip(axes, families, strict=True):
        entries = {LABELS[agent]: data["cells"][f"{agent}-{family}"] for agent in (NONE, CONTEXT)}
        draw_curves(one, entries, "evaluation_return", "return")
    return drawing


def _draw_adaptation(data: dict[str, Any]) -> Drawing:
    found = gains(data)
    drawing, axes = panels([f"tasks/{family}, held-out tasks" for family in found], height=2.6)
    for one, ways in zip(axes, found.values(), strict=True):
        draw_intervals(one, list(ways), list(ways.values()), "gain in return (IQM, 95%)")
        one.axvline(0.0, color=plots.INK, linewidth=0.8)
    return drawing


_METRICS = ("episode_return", "evaluation_return")
FIGURES = (
    Figure(
        "mql/context",
        PAPER,
        "TD3 with and without a context on held-out tasks, IQM with 95% band",
        _contexts,
        _PROTOCOLS,
        _draw_context,
        _verify_context,
        metrics=_METRICS,
        measure=_held_out,
    ),
    Figure(
        "mql/adaptation",
        PAPER,
        "what adapting to one episode of a held-out task adds to the return, IQM over seeds with 95% interval",
        _adaptations,
        _PROTOCOLS,
        _draw_adaptation,
        _verify_adaptation,
        metrics=_METRICS,
        measure=_adapted,
    ),
)
