"""The numbers of a report's tables: final returns, probabilities of improvement, evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from purerl import statistics
from purerl.report.curves import Run, by_environment, mapping, number
from purerl.report.wording import device, plain


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; low and high are None if there is none."""

    value: float
    low: float | None = None
    high: float | None = None


# --- final returns ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Result:
    """A run in the table of results; unknown values are None.

    Attributes:
      run: the run.
      iqm, mean: of the final returns.
      ended: number of seeds with a final return, if the run is finished and some seeds have none.
      steps_per_second, compile_seconds: from the summary.
      device: the device of the run.
    """

    run: Run
    iqm: Interval | None
    mean: Interval | None
    ended: int | None
    steps_per_second: float | None
    compile_seconds: float | None
    device: str


def result(run: Run) -> Result:
    """The results of a run."""
    summary, finals = mapping(run.summary), run.final_returns
    found = statistics.aggregates(np.array(finals)) if finals else {}
    several = len(finals) > 1
    intervals = {name: Interval(*three) if several else Interval(three[0]) for name, three in found.items()}
    return Result(
        run=run,
        iqm=intervals.get("iqm"),
        mean=intervals.get("mean"),
        ended=len(finals) if run.finished and len(finals) < run.seed_count else None,
        steps_per_second=number(summary.get("steps_per_second")),
        compile_seconds=number(summary.get("compile_seconds")),
        device=device(summary.get("device") or mapping(run.config.get("environment")).get("device")),
    )


def definition(runs: Sequence[Run]) -> str | None:
    """The definition of the final return in the summaries; None if it differs or is missing."""
    found = [mapping(mapping(run.summary).get("final_return")).get("definition") for run in runs]
    said = {plain(value) for value in found if value is not None}
    return said.pop() if len(said) == 1 else None


def diverged(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """(run, its diverged seeds) of the runs that have any."""
    found = [(run, mapping(run.summary).get("diverged_seeds")) for run in runs]
    return [(run, plain(seeds)) for run, seeds in found if seeds]


@dataclasses.dataclass(frozen=True)
class Improvement:
    """The probability that a final return of `run` is above one of `base`, on the same environment.

    Attributes:
      run, base: the runs.
      probability, low, high: from 0 to 1, with the 95% interval.
      single: whether each run has only one seed, so that the interval is meaningless.
    """

    run: Run
    base: Run
    probability: float
    low: float
    high: float
    single: bool


def improvements(runs: Sequence[Run]) -> list[Improvement]:
    """Compares the runs of each environment with the first one."""
    rows = []
    for group in by_environment(runs).values():
        base, *others = [run for run in group if run.final_returns] or [None]
        for run in others:
            pair = np.array(run.final_returns), np.array(base.final_returns)
            probability = float(statistics.probability_of_improvement(*pair))
            low, high = statistics.probability_of_improvement_interval(*pair)
            rows.append(Improvement(run, base, probability, low, high, single=max(map(len, pair)) == 1))
    return rows


# --- evaluations -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run's eval.json; unknown values are None.

    Attributes:
      run: the run.
      iqm, mean: of the seeds' returns.
      episodes: episodes of each seed, if all seeds have the same number.
      step: the checkpoint's step.
      greedy: whether the most likely action was taken.
      options: another environment than in training, and environment options that differ, with their values, as text.
      score: the IQM of the normalised return.
    """

    run: Run
    iqm: Interval | None
    mean: Interval | None
    episodes: float | None
    step: float | None
    greedy: bool
    options: str
    score: float | None


def evaluation(run: Run) -> Evaluation | None:
    """The evaluation of a run; None if there is none."""
    found = run.evaluation
    if found is None:
        return None
    lanes = found.get("per_seed")
    episodes = {number(mapping(lane).get("episodes")) for lane in lanes} if isinstance(lanes, list) else set()
    returns = mapping(found.get("return"))
    changed = mapping(found.get("changed_env_options"))  # {name: [in training, in the evaluation]}
    options = {name: now[-1] if isinstance(now, list) and now else now for name, now in changed.items()}
    played = found.get("env")
    elsewhere = [f"played in {played}"] if played not in (None, run.config["env"]) else []
    return Evaluation(
        run=run,
        iqm=_stored(returns, "iqm"),
        mean=_stored(returns, "mean"),
        episodes=episodes.pop() if len(episodes) == 1 else None,
        step=number(found.get("step")),
        greedy=bool(found.get("greedy")),
        options=", ".join([*elsewhere, *(f"{name} {now}" for name, now in options.items())]),
        score=number(mapping(found.get("normalized_return")).get("iqm")),
    )


def _stored(found: dict, name: str) -> Interval | None:
    """A value of eval.json with its interval."""
    value, interval = number(found.get(name)), found.get(f"{name}_interval_95")
    ends = [number(end) for end in interval] if isinstance(interval, list) else []
    if value is None:
        return None
    return Interval(value, *ends) if len(ends) == 2 and None not in ends else Interval(value)
