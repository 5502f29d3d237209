"""Aggregates of few runs, said honestly: interquartile means and their like, with stratified bootstrap intervals.

All follow rliable (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice", arXiv 2108.13264), which
the tests use as an oracle. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def interquartile_mean(x: np.ndarray, axis: int | None = -1) -> np.ndarray:
    """Mean of the middle half: floor(n / 4) smallest and as many largest values are left out.

    So the plain mean of up to three values. A NaN anywhere makes the result NaN: it is never trimmed away unseen.

    Args:
      x: [..., n, ...] numbers.
      axis: the axis of length n; None for all of x.

    Returns:
      float64, x's shape without `axis`. Raises ValueError if n is 0.
    """
    x = np.asarray(x, np.float64)
    x = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    if n == 0:
        raise ValueError("the interquartile mean of no values")
    cut = n // 4
    middle = np.sort(x, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return np.where(np.isnan(x).any(axis=-1), np.nan, middle)[()]


def pooled_interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The interquartile mean of all scores together, [...] -> []: rliable's IQM of [runs, tasks]."""
    return interquartile_mean(scores, axis=None)


def median(scores: np.ndarray) -> np.ndarray:
    """Median over the tasks of each task's mean over runs (Agarwal et al. 2021, arXiv 2108.13264, section 4.3).

    Of one task, [S], it is therefore the mean.

    Args:
      scores: [S] of one task, or [runs, tasks].

    Returns:
      float64 []. Raises ValueError for empty scores or another number of axes.
    """
    return np.median(_columns(scores).mean(axis=0))


def optimality_gap(scores: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """How far scores fall short of gamma on average, those above it counting as gamma: less is better.

    Agarwal et al. 2021, arXiv 2108.13264, section 4.3; gamma = 1 is meant for scores where 1 is human or the best.

    Args:
      scores: [S] of one task, or [runs, tasks].
      gamma: the score beyond which more does not count.

    Returns:
      float64 []. Raises ValueError for empty scores or another number of axes.
    """
    return gamma - np.minimum(_columns(scores), gamma).mean()


def probability_of_improvement(ours: np.ndarray, base: np.ndarray) -> np.ndarray:
    """How often a run of ours is above one of the base on the same task: the mean over tasks, ties counting half.

    Agarwal et al. 2021, arXiv 2108.13264, section 4.3: the Mann-Whitney U statistic over the number of pairs.

    Args:
      ours: [S] of one task, or [runs, tasks].
      base: [S'], or [runs', tasks].

    Returns:
      float64 [], NaN if a score is NaN. Raises ValueError for empty scores, or if the tasks are not as many.
    """
    ours, base = _of_same_tasks(ours, base)
    if np.isnan(ours).any() or np.isnan(base).any():
        return np.float64(np.nan)
    ours, base = ours[:, None], base[None]
    return ((ours > base) + 0.5 * (ours == base)).mean()


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs that are above each threshold, averaged over tasks.

    Agarwal et al. 2021, arXiv 2108.13264, section 4.2: the run-score distribution.

    Args:
      scores: [S] of one task, or [runs, tasks].
      thresholds: [P] scores.

    Returns:
      float64 [P], NaN if a score is NaN. Raises ValueError for empty scores or another number of axes.
    """
    columns, thresholds = _columns(scores), np.asarray(thresholds, np.float64)
    if np.isnan(columns).any():
        return np.full(thresholds.shape, np.nan)
    return (columns[..., None] > thresholds).mean(axis=(0, 1))


def aggregates(
    scores: np.ndarray, gamma: float = 1.0, repetitions: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """The aggregates of Agarwal et al. 2021 (arXiv 2108.13264, section 4.3), each with its bootstrap interval.

    Args:
      scores: [S] of one task, or [runs, tasks].
      gamma: of the optimality gap.
      repetitions, confidence, seed: as in `stratified_bootstrap_interval`; all four share the draws.

    Returns:
      {"iqm", "median", "mean", "optimality_gap": (value, low, high)}.
    """
    names = ("iqm", "median", "mean", "optimality_gap")

    def statistic(x: np.ndarray) -> np.ndarray:
        return np.array([pooled_interquartile_mean(x), median(x), x.mean(), optimality_gap(x, gamma)])

    scores = np.asarray(scores, np.float64)
    low, high = _bootstrap([scores], statistic, repetitions, confidence, seed)
    return {name: tuple(map(float, three)) for name, *three in zip(names, statistic(scores), low, high, strict=True)}


def stratified_bootstrap_interval(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float] = pooled_interquartile_mean,
    repetitions: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic, drawing runs anew within each task.

    With one run the interval has no width, and tells nothing.

    Args:
      scores: [S] of one task, or [runs, tasks].
      statistic: what to estimate; takes an array shaped as `scores`, returns a number.
      repetitions: how often to draw.
      confidence: probability mass between low and high.
      seed: of the draws; the same seed gives the same interval.

    Returns:
      (low, high). Raises ValueError for empty scores or another number of axes.
    """
    low, high = _bootstrap([scores], statistic, repetitions, confidence, seed)
    return float(low), float(high)


def probability_of_improvement_interval(
    ours: np.ndarray, base: np.ndarray, repetitions: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of `probability_of_improvement`, drawing the runs of both sides anew within each task.

    Args:
      ours, base: as in `probability_of_improvement`.
      repetitions, confidence, seed: as in `stratified_bootstrap_interval`.

    Returns:
      (low, high).
    """
    pair = _of_same_tasks(ours, base)
    low, high = _bootstrap(pair, probability_of_improvement, repetitions, confidence, seed)
    return float(low), float(high)


def performance_profile_band(
    scores: np.ndarray, thresholds: np.ndarray, repetitions: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise bootstrap intervals of `performance_profile`, drawing runs anew within each task.

    Args:
      scores, thresholds: as in `performance_profile`.
      repetitions, confidence, seed: as in `stratified_bootstrap_interval`.

    Returns:
      low [P], high [P].
    """
    profile = lambda x: performance_profile(x, thresholds)  # noqa: E731
    return _bootstrap([scores], profile, repetitions, confidence, seed)


def _bootstrap(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    repetitions: int,
    confidence: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of statistic(*samples) [...]: low [...], high [...]. Each sample is [S] or [runs, tasks]."""
    samples = [np.asarray(sample, np.float64) for sample in samples]
    columns = [_columns(sample) for sample in samples]
    tails = _tails(confidence)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(repetitions):
        chosen = [rng.integers(len(column), size=column.shape) for column in columns]
        drawn = [np.take_along_axis(column, rows, axis=0) for column, rows in zip(columns, chosen, strict=True)]
        values.append(statistic(*(x.reshape(sample.shape) for x, sample in zip(drawn, samples, strict=True))))
    low, high = np.quantile(np.array(values), tails, axis=0)
    return low, high


def _columns(scores: np.ndarray) -> np.ndarray:
    """[runs, tasks] float64 of [S] or [runs, tasks]."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim not in (1, 2) or scores.size == 0:
        raise ValueError(f"scores must be [S] or [runs, tasks] and not empty, not {list(scores.shape)}")
    return scores.reshape(len(scores), -1)


def _of_same_tasks(ours: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ours, base = _columns(ours), _columns(base)
    if ours.shape[1] != base.shape[1]:
        raise ValueError(f"scores of {ours.shape[1]} tasks against scores of {base.shape[1]}")
    return ours, base


def bootstrap_band(
    curves: np.ndarray, repetitions: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise bootstrap intervals of the interquartile mean of curves, drawing whole curves.

    Args:
      curves: [S, P], S runs on a common grid of P points.

    Returns:
      low [P], high [P].
    """
    curves = np.asarray(curves, np.float64)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(curves), size=(repetitions, len(curves)))
    # In blocks, since all repetitions at once would take repetitions * S * P numbers.
    values = np.concatenate([interquartile_mean(curves[block], axis=1) for block in np.array_split(chosen, 20)])
    low, high = np.quantile(values, _tails(confidence), axis=0)
    return low, high


def _tails(confidence: float) -> list[float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def running_mean(values: np.ndarray, window: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of each value and up to window - 1 before it, never of one after it.

    Args:
      values: [P] numbers.
      window: how many values, at least 1; 1 returns the values.
      weights: [P], such as the number of episodes that a value is the mean of; None for equal weights. Where a whole
        window weighs nothing the result is NaN.

    Returns:
      float64 [P].
    """
    if window < 1:
        raise ValueError(f"a window of {window} values")
    values = np.asarray(values, np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
    ones = np.ones(window)
    total = np.convolve(values * weights, ones)[: len(values)]
    weight = np.convolve(weights, ones)[: len(values)]
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def to_common_grid(curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Interpolates curves of several seeds linearly to evenly spaced x that all of them cover: nothing is extrapolated.

    Of several values at one x the last is taken. Curves that already share their x are not interpolated.

    Args:
      curves: S pairs (x [P_s], y [P_s]) of finite numbers, x in any order.
      points: length of the grid.

    Returns:
      grid [P], values [S, P]. Raises ValueError if a curve is empty or no x is covered by all.
    """
    if not curves or any(len(x) == 0 for x, _ in curves):
        raise ValueError("a curve without points")
    curves = [_in_order(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in curves]
    first = curves[0][0]
    if all(np.array_equal(x, first) for x, _ in curves):
        return first, np.stack([y for _, y in curves])
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low > high:
        raise ValueError("the curves have no stretch in common")
    grid = np.linspace(low, high, points) if high > low else np.array([low])
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _in_order(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x ascending without repeats, and the last y at each x."""
    _, from_the_end = np.unique(x[::-1], return_index=True)
    last = len(x) - 1 - from_the_end
    return x[last], y[last]
