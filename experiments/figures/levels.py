"""Figures of PPO and PPG on Procgen's own levels inside the compiled program: training levels and held-out levels.

    levels/generalization   both agents over the number of training levels (Cobbe et al. 2020)
    levels/mechanism        what PPG gains by using samples more often for the value function, and by two networks
    levels/sample-reuse     E_pi with E_V fixed, E_aux and N_pi (Cobbe et al. 2020b, sections 3.2 to 3.4)
    levels/single-network   two networks, one with a detached value head, one shared (section 3.6)

All play easy mode from symbolic observations, with the preset procgen-symbolic. A cell's test returns come from
evaluations during training on levels far beyond the training range. "train" is a cell's final return, and "test" is the
mean of its evaluations in the same last tenth of the steps; both are of the sampling policy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from purerl import statistics
from purerl.envs import procgen_scores
from purerl.experiments.figures import published
from purerl.experiments.figures.commands import Cell, Check, Figure
from purerl.experiments.figures.parts import legend, panels, summary, text
from purerl.experiments.presets import ppg as presets
from purerl.report import plots
from purerl.runs import run_folder, sinks
from purerl.runs.summary import FINAL_SHARE

PRESET = "procgen-symbolic"
PAPERS = {"levels": "Cobbe et al. 2020, arXiv 1912.01588", "ppg": "Cobbe et al. 2020b, arXiv 2009.04416"}
SPLITS = {"train": "episode_return", "test": "evaluation_return"}
FIRST_TEST_LEVEL = 1_000_000
# As many as a bank without frames holds: the stand-in for all levels.
MOST_LEVELS = 100_000
AGENTS = ("ppo", "ppg")
ARCHITECTURES = ("dual", "detach", "shared")
LETTERS = {"policy_epochs": "E_pi", "value_epochs": "E_V", "auxiliary_epochs": "E_aux", "policy_iterations": "N_pi"}


class Scale(NamedTuple):
    """What differs between the scales.

    Attributes:
      level_sets: {game: numbers of training levels in levels/generalization}.
      levels: number of training levels in the other figures.
      games: of the other figures.
      seeds, steps: of each cell.
      eval_every, eval_episodes: how often a cell plays how many episodes per environment on the test levels.
      test_levels: how many test levels there are, from FIRST_TEST_LEVEL on.
      reuse: {field: values} of levels/sample-reuse.
      config: {agent: fields changed in all cells}.
    """

    level_sets: dict[str, tuple[int, ...]]
    levels: int
    games: tuple[str, ...]
    seeds: int
    steps: int
    eval_every: int
    eval_episodes: int
    test_levels: int
    reuse: dict[str, tuple[int, ...]]
    config: dict[str, dict[str, Any]]


_TINY = {"num_envs": 8, "rollout_length": 16, "num_minibatches": 2, "hidden": (16,)}
_TINY_PPG = {"policy_iterations": 2, "auxiliary_epochs": 1, "auxiliary_minibatches": 2}
SCALES = {
    "smoke": Scale(
        level_sets={"maze": (20,)},
        levels=20,
        games=("maze",),
        seeds=1,
        steps=512,
        eval_every=256,
        eval_episodes=1,
        test_levels=20,
        reuse={"auxiliary_epochs": (1,)},
        config={"ppo": _TINY, "ppg": _TINY | _TINY_PPG},
    ),
    "small": Scale(
        level_sets={"maze": (50, 200), "miner": (200,)},
        levels=200,
        games=("maze",),
        seeds=4,
        steps=5_000_000,
        eval_every=1_000_000,
        eval_episodes=2,
        test_levels=10_000,
        reuse={"policy_epochs": (1, 2, 4), "auxiliary_epochs": (0, 1, 6), "policy_iterations": (4, 16)},
        config={"ppo": {}, "ppg": {}},
    ),
    "paper": Scale(
        level_sets={"maze": (50, 200, 1_000, MOST_LEVELS), "miner": (200,), "heist": (200,)},
        levels=200,
        games=("maze", "miner", "heist"),
        seeds=8,
        steps=25_000_000,
        eval_every=1_250_000,
        eval_episodes=2,
        test_levels=10_000,
        reuse={name: tuple(values) for name, values in published.PPG_SAMPLE_REUSE.items()},
        config={"ppo": {}, "ppg": {}},
    ),
}


# --- cells -----------------------------------------------------------------------------------------------------------


def _cell(scale: str, agent: str, game: str, levels: int, **config: Any) -> Cell:
    """A cell that trains on levels 0 to levels - 1; its name contains the differences from the scale's settings."""
    one = SCALES[scale]
    changes = [f"{LETTERS.get(name, name)}-{value}" for name, value in config.items()]
    return Cell(
        name="-".join(["levels", agent, game, str(levels), *changes]),
        agent=agent,
        env=f"procgen-jax/{game}",
        preset=PRESET,
        seeds=one.seeds,
        steps=one.steps,
        config=one.config[agent] | config,
        env_options={"num_levels": levels},
        eval_every=one.eval_every,
        eval_episodes=one.eval_episodes,
        eval_env_options={"start_level": FIRST_TEST_LEVEL, "num_levels": one.test_levels},
    )


def _generalization(scale: str) -> list[Cell]:
    found = SCALES[scale].level_sets
    return [_cell(scale, agent, game, n) for game, sets in found.items() for n in sets for agent in AGENTS]


class Arm(NamedTuple):
    """One setting of a figure: its label, its agent, and the fields in which it differs from the preset."""

    label: str
    agent: str
    config: dict[str, Any]


def ppg_values(scale: str) -> dict[str, int]:
    """{field: its value in PPG's cells} of E_pi, E_V, E_aux and N_pi."""
    changed = presets.PRESETS[PRESET].config | SCALES[scale].config["ppg"]
    from purerl.agents import ppg  # and with it JAX, which reading a figure's files does not need

    return {name: changed.get(name, getattr(ppg.Config(), name)) for name in LETTERS}


def mechanism(scale: str) -> list[Arm]:
    """PPG, what is left without its auxiliary phase, and the same number of value passes in the policy phase instead.

    The arms after PPO and PPG have no auxiliary phase. They cross two networks or one with PPG's E_V, or with
    E_V + E_aux: then each sample is used as often for the value function as in PPG.
    """
    usual = ppg_values(scale)
    once, often = usual["value_epochs"], usual["value_epochs"] + usual["auxiliary_epochs"]
    few, many = {"auxiliary_epochs": 0}, {"auxiliary_epochs": 0, "value_epochs": often}
    shared = {"architecture": "shared"}
    arms = [
        Arm("PPO", "ppo", {}),
        Arm("PPG", "ppg", {}),
        Arm(f"two networks, E_V = {once}", "ppg", few),
        Arm(f"two networks, E_V = {often}", "ppg", many),
        Arm(f"one network, E_V = {once}", "ppg", few | shared),
        Arm(f"one network, E_V = {often}", "ppg", many | shared),
    ]
    return arms[:2] if scale == "smoke" else arms  # no programs of its own: compiling is what takes time there


def reuse_arms(scale: str) -> dict[str, dict[int, dict[str, Any]]]:
    """{field: {value: fields in which the cell differs from the preset}}; the preset's own value differs in none."""
    usual = ppg_values(scale)
    return {
        name: {value: {} if value == usual[name] else {name: value} for value in values}
        for name, values in SCALES[scale].reuse.items()
    }


def _cells_of(scale: str, configs: Sequence[tuple[str, dict[str, Any]]]) -> list[Cell]:
    """The cells of (agent, changed fields) in all games of a scale, each once."""
    one = SCALES[scale]
    found = [_cell(scale, agent, game, one.levels, **config) for game in one.games for agent, config in configs]
    return list({cell.name: cell for cell in found}.values())


def _mechanism(scale: str) -> list[Cell]:
    return _cells_of(scale, [(arm.agent, arm.config) for arm in mechanism(scale)])


def _sample_reuse(scale: str) -> list[Cell]:
    return _cells_of(scale, [("ppg", config) for of in reuse_arms(scale).values() for config in of.values()])


def architectures(scale: str) -> list[Arm]:
    """The architectures of levels/single-network."""
    chosen = ARCHITECTURES[:1] if scale == "smoke" else ARCHITECTURES
    return [Arm(name, "ppg", {} if name == "dual" else {"architecture": name}) for name in chosen]


def _single_network(scale: str) -> list[Cell]:
    return _cells_of(scale, [(arm.agent, arm.config) for arm in architectures(scale)])


# --- measuring and reading -------------------------------------------------------------------------------------------


def _measure(cells: Any, scale: str, folder: Path) -> dict[str, Any]:
    """{cell: its last returns}."""
    return {
        cell.name: last_returns(
            run_folder.load(folder / cell.name)["summary"], sinks.read_rows(folder / cell.name / run_folder.METRICS)
        )
        for cell in cells(scale)
    }


def last_returns(done: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """{"train" or "test": mean return of each seed in the last tenth of the steps, None if no episode ended}.

    Args:
      done: the run's summary.
      rows: its metrics.
    """
    late: dict[int, list[float]] = {seed: [] for seed in done["seeds"]}
    for row in rows:
        if row["step"] > (1 - FINAL_SHARE) * done["steps"] and row.get(SPLITS["test"]) is not None:
            late[row["seed"]].append(row[SPLITS["test"]])
    found = {"train": done["final_return"]["per_seed"], "test": [np.mean(x) if x else None for x in late.values()]}
    return {
        split: [None if value is None else float(f"{value:.5g}") for value in values] for split, values in found.items()
    }


def finals(data: dict[str, Any], cell: Cell, split: str) -> np.ndarray:
    """[seeds] last returns of a cell, train or test; NaN where there is none."""
    return np.array([np.nan if x is None else x for x in data["measured"][cell.name][split]], np.float64)


def normalized(data: dict[str, Any], cell: Cell, split: str) -> np.ndarray:
    """[seeds] as `finals`, on Procgen's scale of easy mode."""
    return procgen_scores.normalized_return(_game(cell), "easy", finals(data, cell, split))


def _game(cell: Cell) -> str:
    return cell.env.partition("/")[2]


def _mean(columns: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """(mean over games [seeds] of the mean over seeds, 95% stratified bootstrap interval); NaN if one is missing."""
    values = np.stack(columns, axis=1)
    return statistics.aggregates(values)["mean"] if np.isfinite(values).all() else (float("nan"),) * 3


def _improvement(what: str, ours: np.ndarray, base: np.ndarray) -> list[Check]:
    """P(ours > base) as a check without a verdict; none if a return is missing."""
    if not (np.isfinite(ours).all() and np.isfinite(base).all()):
        return []
    value = float(statistics.probability_of_improvement(ours, base))
    return [Check(what, text((value, *statistics.probability_of_improvement_interval(ours, base))), "-", None)]


def _known(game: str, levels: int) -> dict[str, float]:
    """{split: PPO's published return after 25M easy steps}; {} if there is none for this number of levels."""
    names = {200: {split: f"easy-200-{split}-25m" for split in SPLITS}, MOST_LEVELS: {"train": "easy-all-25m"}}
    found = names.get(levels, {})
    return {split: procgen_scores.PPO_PUBLISHED[name].returns[game][0] for split, name in found.items()}


# --- levels/generalization -------------------------------------------------------------------------------------------


def _verify_generalization(data: dict[str, Any]) -> list[Check]:
    checks, cells = [], {cell.name: cell for cell in _generalization(data["scale"])}
    for cell in cells.values():
        levels, known = cell.env_options["num_levels"], _known(_game(cell), cell.env_options["num_levels"])
        returns = {split: finals(data, cell, split) for split in SPLITS}
        returns["gap"] = returns["train"] - returns["test"]
        if len(known) == len(SPLITS):
            known["gap"] = round(known["train"] - known["test"], 2)
        for name, values in returns.items():
            expected = f"{known[name]:g} (PPO on frames, 25M steps)" if name in known else "-"
            what = f"{_game(cell)}, {levels:,} levels, {cell.agent.upper()}, {name}"
            checks.append(Check(what, text(summary(values.tolist())), expected, None))
    for cell in (one for one in cells.values() if one.agent == "ppg"):
        base = cells[cell.name.replace("ppg", "ppo", 1)]
        what = f"P(PPG > PPO), {_game(cell)}, {cell.env_options['num_levels']:,} levels, "
        for split in SPLITS:
            checks += _improvement(what + split, finals(data, cell, split), finals(data, base, split))
    return checks


def _draw_generalization(data: dict[str, Any]) -> Drawing:
    """For each game with several level sets the last returns over their number, then the curves of each set."""
    scale = data["scale"]
    sets = SCALES[scale].level_sets
    several = [game for game, numbers in sets.items() if len(numbers) > 1]
    titles = [f"{game}: last returns over the number of training levels" for game in several]
    titles += [f"{game}, {n:,} training levels" for game, numbers in sets.items() for n in numbers]
    drawing, axes = panels(titles, height=2.6)
    for game in several:
        _draw_level_sets(next(axes), data, game, sets[game])
    for game, numbers in sets.items():
        for n in numbers:
            cells = {agent.upper(): data["cells"][_cell(scale, agent, game, n).name] for agent in AGENTS}
            _draw_splits(next(axes), cells)
    return drawing


def _draw_level_sets(axes: Axes, data: dict[str, Any], game: str, numbers: Sequence[int]) -> None:
    for colour, agent in zip(plots.COLOURS, AGENTS, strict=False):
        for split, style in zip(SPLITS, plots.DASHES, strict=False):
            cells = [_cell(data["scale"], agent, game, n) for n in numbers]
            intervals = [summary(finals(data, cell, split).tolist()) for cell in cells]
            _errorbar(axes, intervals, f"{agent.upper()}, {split}", color=colour, linestyle=style)
    for split, marker in zip(SPLITS, "^v", strict=True):
        known = {i: _known(game, n)[split] for i, n in enumerate(numbers) if split in _known(game, n)}
        label = f"PPO on frames, {split}, published"
        axes.plot(list(known), list(known.values()), marker, color=plots.INK, label=label, linestyle="")
    plots.dress(axes, "training levels", "episode_return")
    axes.set_xticks(range(len(numbers)), [f"{n:,}" for n in numbers])
    legend(axes)


def _errorbar(axes: Axes, intervals: Sequence[tuple[float, float, float]], label: str, **style: Any) -> None:
    """Points with intervals at 0, 1, 2, ..."""
    middle, low, high = (np.array(column) for column in zip(*intervals, strict=True))
    spread = np.maximum([middle - low, high - middle], 0)
    axes.errorbar(range(len(middle)), middle, spread, marker="o", capsize=3, label=label, **style)


def _draw_splits(axes: Axes, entries: dict[str, dict[str, Any]]) -> None:
    """The training and test curves of {label: entry}: a colour for each entry, a dash for each split."""
    for colour, (label, entry) in zip(plots.COLOURS, entries.items(), strict=False):
        for (split, metric), style in zip(SPLITS.items(), plots.DASHES, strict=False):
            curve = entry["curves"][metric]
            if curve:
                axes.plot(curve["step"], curve["iqm"], color=colour, linestyle=style, label=f"{label}, {split}")
                axes.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
    plots.dress(axes, "step", "episode_return")
    legend(axes)


# --- levels/mechanism and levels/single-network ----------------------------------------------------------------------


def _verify_arms(data: dict[str, Any], arms: Sequence[Arm], base: str) -> list[Check]:
    """The last returns of all arms, and how often each is above the arm `base`."""
    scale, checks = data["scale"], []
    levels = SCALES[scale].levels
    for game in SCALES[scale].games:
        cells = {arm.label: _cell(scale, arm.agent, game, levels, **arm.config) for arm in arms}
        for label, cell in cells.items():
            for split in SPLITS:
                value = text(summary(finals(data, cell, split).tolist()))
                checks.append(Check(f"{game}, {label}, {split}", value, "-", None))
        for label, cell in cells.items():
            for split in SPLITS if label != base else ():
                ours, theirs = finals(data, cell, split), finals(data, cells[base], split)
                checks += _improvement(f"P({label} > {base}), {game}, {split}", ours, theirs)
    return checks


def _draw_arms(data: dict[str, Any], arms: Sequence[Arm]) -> Drawing:
    """For each game the last training and test returns of all arms."""
    scale = data["scale"]
    one = SCALES[scale]
    drawing, axes = panels(list(one.games), height=1.2 + 0.4 * len(arms))
    for axis, game in zip(axes, one.games, strict=True):
        places = np.arange(len(arms))[::-1]
        for colour, split, shift in zip(plots.COLOURS, SPLITS, (0.12, -0.12), strict=False):
            cells = [_cell(scale, arm.agent, game, one.levels, **arm.config) for arm in arms]
            intervals = [summary(finals(data, cell, split).tolist()) for cell in cells]
            middle, low, high = (np.array(column) for column in zip(*intervals, strict=True))
            spread = np.maximum([middle - low, high - middle], 0)
            axis.errorbar(middle, places + shift, xerr=spread, fmt="o", color=colour, capsize=3, label=split)
        plots.dress(axis, "last return (IQM, 95% interval)", "")
        axis.set_ylabel("")
        axis.set_yticks(places, [arm.label for arm in arms], fontsize=plots.SMALL_POINTS)
        legend(axis)
    return drawing


def _draw_architectures(data: dict[str, Any]) -> Drawing:
    scale = data["scale"]
    one = SCALES[scale]
    drawing, axes = panels(list(one.games))
    for axis, game in zip(axes, one.games, strict=True):
        cells = {arm.label: _cell(scale, arm.agent, game, one.levels, **arm.config) for arm in architectures(scale)}
        _draw_splits(axis, {label: data["cells"][cell.name] for label, cell in cells.items()})
    return drawing


# --- levels/sample-reuse ---------------------------------------------------------------------------------------------


def reuse(data: dict[str, Any], split: str) -> dict[str, dict[int, tuple[float, float, float]]]:
    """{field: {value: mean normalised return over the games, with its interval}}."""
    scale = data["scale"]
    one = SCALES[scale]
    return {
        name: {
            value: _mean(
                [normalized(data, _cell(scale, "ppg", game, one.levels, **config), split) for game in one.games]
            )
            for value, config in of_name.items()
        }
        for name, of_name in reuse_arms(scale).items()
    }


def _verify_reuse(data: dict[str, Any]) -> list[Check]:
    checks = []
    for split in SPLITS:
        for name, of_name in reuse(data, split).items():
            for value, interval in of_name.items():
                wanted = published.PPG_SAMPLE_REUSE[name].get(value)
                expected = f"{wanted} (16 games, hard, all levels, 1 seed)" if wanted and split == "train" else "-"
                checks.append(Check(f"{LETTERS[name]} = {value}, {split}", text(interval), expected, None))
    return checks


def _draw_reuse(data: dict[str, Any]) -> Drawing:
    found = {split: reuse(data, split) for split in SPLITS}
    usual = ppg_values(data["scale"])
    titles = {"policy_epochs": f"policy epochs E_pi, with E_V = {usual['value_epochs']}"}
    titles |= {"auxiliary_epochs": "auxiliary epochs E_aux"}
    titles |= {"policy_iterations": "policy phases before an auxiliary phase, N_pi"}
    drawing, axes = panels([titles[name] for name in found["train"]])
    for axis, name in zip(axes, found["train"], strict=True):
        for colour, split in zip(plots.COLOURS, SPLITS, strict=False):
            _errorbar(axis, list(found[split][name].values()), split, color=colour)
        plots.dress(axis, LETTERS[name], "mean normalised return")
        axis.set_xlabel("")
        values = found["train"][name]
        axis.set_xticks(range(len(values)), [str(value) for value in values])
        legend(axis)
    return drawing


# --- figures ---------------------------------------------------------------------------------------------------------

_PROTOCOL = {
    scale: f"{words}{one.steps:,} steps, {one.seeds} seed{'s' * (one.seeds > 1)}; easy mode, symbolic observations, "
    f"preset {PRESET} (small networks on planes of cells); {one.test_levels:,} test levels, from {FIRST_TEST_LEVEL:,} "
    "on, sampling policy"
    for (scale, one), words in zip(
        SCALES.items(), ("tiny networks: shows that it works, the numbers mean nothing; ", "", ""), strict=True
    )
}


def _figure(name: str, paper: str, about: str, cells: Any, protocol: str, draw: Any, verify: Any) -> Figure:
    return Figure(
        name=name,
        paper=PAPERS[paper],
        about=about,
        cells=cells,
        protocol={scale: f"{shared}; {protocol}" for scale, shared in _PROTOCOL.items()},
        draw=draw,
        verify=verify,
        metrics=tuple(SPLITS.values()),
        measure=functools.partial(_measure, cells),
    )


FIGURES = (
    _figure(
        "levels/generalization",
        "levels",
        "returns on the training levels and on held-out levels, PPO and PPG, IQM with 95% band",
        _generalization,
        "published: PPO, frames, IMPALA, 3 seeds, 200 or all levels, tested on all levels; "
        f"{MOST_LEVELS:,} levels, as many as a bank holds, stand for all levels",
        _draw_generalization,
        _verify_generalization,
    ),
    _figure(
        "levels/mechanism",
        "ppg",
        "PPG, and its parts without the auxiliary phase: value epochs, two networks or one; IQM with 95% interval",
        _mechanism,
        "an arm without auxiliary phase has as many value epochs as PPG in its policy phase, or in both phases",
        lambda data: _draw_arms(data, mechanism(data["scale"])),
        lambda data: _verify_arms(data, mechanism(data["scale"]), "PPG"),
    ),
    _figure(
        "levels/sample-reuse",
        "ppg",
        "how often a sample is used: E_pi (E_V fixed), E_aux and N_pi; mean normalised return with 95% interval",
        _sample_reuse,
        "E_pi, E_aux and N_pi are varied one at a time; published: 16 games, hard, all levels, frames, 100M steps",
        _draw_reuse,
        _verify_reuse,
    ),
    _figure(
        "levels/single-network",
        "ppg",
        "two networks, one with a detached value head, one shared; IQM with 95% band",
        _single_network,
        "the shared network has an auxiliary head too; published: 16 games, hard, all levels, frames, 100M steps",
        _draw_architectures,
        lambda data: _verify_arms(data, architectures(data["scale"]), "dual"),
    ),
)
