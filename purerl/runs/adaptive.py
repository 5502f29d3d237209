"""Adaptive search: settings drawn from the results of earlier ones (Optuna), and unpromising ones stopped early.

Settings come in batches. A batch is proposed from the results of all batches before it, and trained together. With 3
rungs, its runs stop at steps / 9, at steps / 3 and at the end, and the best third goes on from each: successive halving
(Jamieson and Talwalkar, 2016) within a batch, as in BOHB (Falkner et al., 2018).

All decisions are functions of the metric rows in the cells' folders. A resumed search makes them again from the same
rows, so it needs no state of its own, and goes on as it would have without a stop.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from purerl import arguments, configs, registry
from purerl import statistics as stats
from purerl.errors import PurerlError, needs
from purerl.runs import files, programs, run_folder, schemas, search_space, sinks
from purerl.runs.collection import CELLS, SWEEP
from purerl.runs.logs import Logged
from purerl.runs.plan import Plan
from purerl.runs.recording import Recording
from purerl.runs.summary import final_returns

Sampler = Literal["random", "tpe"]
FACTOR = 3  # of successive halving, as in Hyperband and BOHB
BATCH = FACTOR**2
MOST_RUNGS = 6


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
      laws: {field: [kind, *arguments]}, with plain values.
      samples: how many settings are tried.
      sampler: "random", or "tpe", a tree-structured Parzen estimator.
      rungs: how often the runs of a batch are compared; 1 trains all of them to the end.
      batch: how many settings are proposed and trained together.
      seed: of the proposals.
    """

    laws: dict[str, list[Any]]
    samples: int
    sampler: Sampler
    rungs: int
    batch: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """{attribute: value}, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: object) -> Search:
        """Reads a dict. Raises PurerlError, which names the file, if it is damaged."""
        schemas.check(values, schemas.SEARCH, where, "start the sweep again")
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
      state: "finished", "pruned" or "running".
      values: {steps of a rung: interquartile mean over the seeds of the return in the last tenth of those steps}, of
        the rungs that it has reached; without those at which a seed had diverged or none had ended an episode.
      steps: how far it was trained.
    """

    state: str
    values: dict[int, float]
    steps: int


def search_of(
    agent: str,
    env: str,
    random: Mapping[str, Any] | str | None,
    samples: int | None,
    seed: int,
    sampler: str,
    rungs: int,
    batch: int,
) -> Search | None:
    """The search that is asked for; None for a sweep that needs none. Raises PurerlError for bad input."""
    if sampler not in ("random", "tpe"):
        raise PurerlError(f"unknown sampler '{sampler}'. Known: random, tpe")
    arguments.in_range("rungs", rungs, 1, MOST_RUNGS)
    arguments.in_range("batch", batch, 1)
    if sampler == "random" and rungs == 1:
        return None
    if random is None or samples is None:
        raise PurerlError("--sampler and --rungs need --random and --samples: the fields, and how many settings to try")
    search_space.settings_of(agent, env, None, random, samples, seed)  # its checks
    laws = search_space.laws(agent, env, random)
    plain = {name: [law[0], *map(configs.plain, law[1:])] for name, law in laws.items()}
    if sampler == "tpe":
        _import()
    return Search(plain, samples, sampler, rungs, batch, seed)


# --- proposals -------------------------------------------------------------------------------------------------------


def propose(
    search: Search, agent: str, env: str, tried: Sequence[dict[str, Any]], outcomes: Sequence[Outcome]
) -> list[dict[str, Any]]:
    """The settings of the next batch, from the outcomes of all batches before it."""
    count = min(search.batch, search.samples - len(tried))
    if search.sampler == "random":
        drawn = search_space.settings_of(agent, env, None, search.laws, search.samples, search.seed)
        return drawn[len(tried) : len(tried) + count]
    optuna, kinds = _import(), search_space.fields(agent, env)
    laws = {name: _distribution(optuna, law, kinds[name]) for name, law in search.laws.items()}
    seed = int(np.random.SeedSequence([search.seed, len(tried)]).generate_state(1)[0])
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # The first batch is random. Those of a batch see each other as running, which keeps them apart (constant liar).
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.batch)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for setting, outcome in zip(tried, outcomes, strict=True):
            study.add_trial(_trial(optuna, search, laws, setting, outcome))
        asked = [study.ask(laws).params for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [{name: _value(value, search.laws[name]) for name, value in params.items()} for params in asked]


def _import() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise needs("--sampler tpe", "optuna") from error
    return optuna


def _distribution(optuna: Any, law: Sequence[Any], kind: Any) -> Any:
    """Optuna's distribution for a law; that of a choice is over the places of its values."""
    which, *bounds = law
    if which == "choice":
        return optuna.distributions.CategoricalDistribution(list(range(len(bounds))))
    if kind is int:
        return optuna.distributions.IntDistribution(round(bounds[0]), round(bounds[1]), log=which == "log")
    return optuna.distributions.FloatDistribution(float(bounds[0]), float(bounds[1]), log=which == "log")


def _value(value: Any, law: Sequence[Any]) -> Any:
    """A field's value for what Optuna has drawn, with as many digits as random settings have."""
    if law[0] == "choice":
        return law[1 + value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _trial(optuna: Any, search: Search, laws: Mapping[str, Any], setting: Mapping[str, Any], outcome: Outcome) -> Any:
    """An earlier trial as Optuna keeps it. A pruned one counts by its last rung, one without a value as the worst."""
    params = {}
    for name, law in search.laws.items():
        value = setting[name]
        if law[0] == "choice":
            params[name] = [configs.plain(one) for one in law[1:]].index(configs.plain(value))
        else:
            params[name] = min(max(value, laws[name].low), laws[name].high)  # the digits may have rounded it out
    finished = outcome.state == "finished" and outcome.steps in outcome.values
    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.COMPLETE if finished else states.PRUNED,
        value=outcome.values[outcome.steps] if finished else None,
        params=params,
        distributions=dict(laws),
        intermediate_values=outcome.values,
    )


# --- training --------------------------------------------------------------------------------------------------------


def run(
    folder: Path,
    search: Search,
    plans_of: Callable[[Sequence[dict[str, Any]]], list[Plan]],
    recording: Recording,
    logged: Logged,
    *,
    cells_per_program: int | None = None,
    **how: Any,
) -> None:
    """Trains what is left of a search.

    Args:
      folder: of the sweep; its sweep.json has the settings of the batches that have begun.
      search, recording, logged: of the sweep.
      plans_of: the plans of some settings.
      cells_per_program, how: as in `programs.run`.

    Raises:
      PurerlError, KeyboardInterrupt: as `programs.run`.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < search.samples:
        first = len(outcomes)
        stored = files.read_json(folder / SWEEP)
        if len(stored["cells"]) <= first:
            new = propose(search, stored["agent"], stored["env"], stored["cells"], outcomes)
            stored["cells"] += [{name: configs.plain(value) for name, value in one.items()} for one in new]
            files.write_json(folder / SWEEP, stored)
        plans = plans_of(stored["cells"][first : first + search.batch])
        names = [cell_name(first + i, search.samples) for i in range(len(plans))]
        if search.rungs > 1 and registry.is_host(registry.environment(plans[0].env)[0]):
            cells_per_program = 1  # a pool can continue the games of one run alone
        cells = [
            programs.Cell(plan, folder / CELLS / name, recording, logged.of_cell(name))
            for name, plan in zip(names, plans, strict=True)
        ]
        _train_batch(cells, search.rungs, folder, cells_per_program=cells_per_program, **how)
        outcomes += [outcome(cell.plan, cell.folder, recording, search.rungs) for cell in cells]


def cell_name(place: int, count: int) -> str:
    """The name of a cell's folder, such as "007"."""
    return f"{place:0{max(3, len(str(count - 1)))}d}"


def _train_batch(cells: Sequence[programs.Cell], rungs: int, folder: Path, **how: Any) -> None:
    """Trains a batch from rung to rung, the best third each time, and marks the others as pruned."""
    alive, begun = list(cells), [0] * len(cells)
    for rung in range(rungs):
        ends = [rung_iterations(cell.plan, cell.recording, rungs)[rung] for cell in alive]
        limited = [
            dataclasses.replace(cell, joined_at=begin, until=None if end == cell.plan.iterations else end)
            for cell, begin, end in zip(alive, begun, ends, strict=True)
        ]
        programs.run(limited, folder / "programs", **how)
        if rung == rungs - 1 or not alive:
            return
        scores = [_score(cell.plan, cell.folder, end) for cell, end in zip(alive, ends, strict=True)]
        sound = [i for i, score in enumerate(scores) if score is not None]
        kept = sorted(sound, key=lambda i: scores[i], reverse=True)[: math.ceil(len(alive) / FACTOR)]
        for i, (cell, end) in enumerate(zip(alive, ends, strict=True)):
            if i not in kept:
                _mark_pruned(cell, end)
        alive, begun = ([values[i] for i in sorted(kept)] for values in (alive, ends))


def rung_iterations(plan: Plan, recording: Recording, rungs: int) -> list[int]:
    """The iterations at which the rungs end, the last one the run's.

    They are ends of log periods, so that a run that goes on writes the same rows as one that never stopped.

    Raises PurerlError if the run is too short for them.
    """
    period = recording.log_every or max(1, plan.iterations // 200)
    ends = [math.ceil(plan.iterations / FACTOR**k / period) * period for k in range(rungs - 1, 0, -1)]
    ends.append(plan.iterations)
    if any(one >= other for one, other in itertools.pairwise(ends)):
        raise PurerlError(
            f"a run of {plan.iterations} iterations with a row every {period} is too short for {rungs} rungs: use "
            "fewer --rungs, more --steps, or a smaller --log-every"
        )
    return ends


def _mark_pruned(cell: programs.Cell, iteration: int) -> None:
    """Notes in a run's config.json that its search has stopped it."""
    config = files.read_json(cell.folder / run_folder.CONFIG)
    mark = {"iteration": iteration, "step": iteration * cell.plan.steps_per_iteration}
    if config.get("pruned") != mark:
        files.write_json(cell.folder / run_folder.CONFIG, config | {"pruned": mark})


# --- outcomes --------------------------------------------------------------------------------------------------------


def outcome(plan: Plan, folder: Path, recording: Recording, rungs: int) -> Outcome:
    """What came of a trial, from its folder."""
    config = run_folder.load(folder)["config"]
    finished = (folder / run_folder.SUMMARY).exists()
    done = plan.steps if finished else (config.get("pruned") or {}).get("step", 0)
    values = {}
    for end in rung_iterations(plan, recording, rungs):
        steps = end * plan.steps_per_iteration
        value = _score(plan, folder, end) if steps <= done else None
        if value is not None and math.isfinite(value):
            values[steps] = value
    return Outcome("finished" if finished else "pruned" if done else "running", values, done)


def _score(plan: Plan, folder: Path, iteration: int) -> float | None:
    """The interquartile mean over the seeds of their returns in the last tenth of the steps up to an iteration.

    None if a seed has diverged; minus infinity if none has ended an episode there.
    """
    path, steps = folder / run_folder.METRICS, iteration * plan.steps_per_iteration
    rows = sinks.read_rows(path)
    schemas.check_rows(rows, path)
    rows = [row for row in rows if row["step"] <= steps]
    known = [value for value in final_returns(rows, plan.seeds, steps) if value is not None]
    if any(row.get("diverged") for row in rows):
        return None
    return float(stats.interquartile_mean(np.array(known))) if known else -math.inf


def pruned(folder: Path) -> list[dict[str, Any]]:
    """[{"steps", "iqm"}] of a run that was stopped early, when it was stopped; [] of any other."""
    if not run_folder.holds_run(folder):
        return []
    config = run_folder.load(folder)["config"]
    mark = schemas.check(config.get("pruned"), schemas.PRUNED, folder, "start again") if config.get("pruned") else None
    if mark is None:
        return []
    value = _score(Plan.from_dict(config), folder, mark["iteration"])
    return [{"steps": mark["step"], "iqm": None if value is None or math.isinf(value) else value}]
