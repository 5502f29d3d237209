"""Aggregates over a few runs: interquartile means with stratified bootstrap intervals, and curves of several seeds.

They follow Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice" (arXiv 2108.13264). The tests
compare the aggregates and their intervals with rliable, the authors' library. This file needs only numpy, so that
training and reports do not depend on rliable. rliable also has the median, the optimality gap and performance profiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

# More draws of a bootstrap at once would need more memory, and are hardly faster.
_DRAWS_AT_ONCE = 100


def interquartile_mean(x: np.ndarray, axis: int | None = -1) -> np.ndarray:
    """The interquartile mean (IQM): the mean without the floor(n / 4) smallest and the floor(n / 4) largest values.

    For up to three values it equals the mean. If any value is NaN, the result is NaN.

    Args:
      x: [..., n, ...] numbers.
      axis: the axis of length n; None for all of x.

    Returns:
      float64, x's shape without `axis`.

    Raises:
      ValueError: n is 0.
    """
    x = np.asarray(x, np.float64)
    x = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    if n == 0:
        raise ValueError("the interquartile mean of no values")
    cut = n // 4
    middle = np.sort(x, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return np.where(np.isnan(x).any(axis=-1), np.nan, middle)[()]


def _interquartile_mean_of_all(scores: np.ndarray) -> np.ndarray:
    return interquartile_mean(scores, axis=None)


def _interquartile_means(drawn: np.ndarray) -> np.ndarray:
    """That of each of R draws [R, runs, tasks]."""
    return interquartile_mean(drawn.reshape(len(drawn), -1))


def probability_of_improvement(ours: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The probability that a run of ours scores higher than a run of the base, averaged over tasks; ties count half.

    Agarwal et al. 2021, arXiv 2108.13264, section 4.3: the Mann-Whitney U statistic over the number of pairs.

    Args:
      ours: [S] of one task, or [runs, tasks].
      base: [S'], or [runs', tasks].

    Returns:
      float64 [], NaN if a score is NaN.

    Raises:
      ValueError: scores are empty or of another shape, or the two numbers of tasks differ.
    """
    ours, base = _of_same_tasks(ours, base)
    return _improvements(ours[None], base[None])[0]


def _improvements(ours: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The probability of improvement of each of R draws: ours [R, runs, tasks], base [R, runs', tasks]."""
    unknown = np.isnan(ours).any(axis=(1, 2)) | np.isnan(base).any(axis=(1, 2))
    ours, base = ours[:, :, None], base[:, None]
    # Halves add up without rounding, so the order of the sum does not matter.
    wins = (ours > base).sum(axis=(1, 2, 3)) + 0.5 * (ours == base).sum(axis=(1, 2, 3))
    return np.where(unknown, np.nan, wins / math.prod(np.broadcast_shapes(ours.shape, base.shape)[1:]))


def aggregates(
    scores: np.ndarray, repetitions: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """The interquartile mean and the mean of all scores together, each with its bootstrap interval.

    Agarwal et al. 2021, arXiv 2108.13264, section 4.3.

    Args:
      scores: [S] of one task, or [runs, tasks].
      repetitions, confidence, seed: as in `stratified_bootstrap_interval`; both share the draws.

    Returns:
      {"iqm", "mean": (value, low, high)}.

    Raises:
      ValueError: as `stratified_bootstrap_interval`.
    """

    def statistics(drawn: np.ndarray) -> np.ndarray:
        return np.stack([_interquartile_means(drawn), drawn.reshape(len(drawn), -1).mean(axis=-1)], axis=-1)

    scores = np.asarray(scores, np.float64)
    low, high = _bootstrap([scores], statistics, repetitions, confidence, seed)
    found = zip(statistics(scores[None])[0], low, high, strict=True)
    return {name: tuple(map(float, three)) for name, three in zip(("iqm", "mean"), found, strict=True)}


def stratified_bootstrap_interval(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float] = _interquartile_mean_of_all,
    repetitions: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic, resampling the runs within each task.

    With one run the interval has width 0 and is meaningless.

    Args:
      scores: [S] of one task, or [runs, tasks].
      statistic: what to estimate; takes an array shaped as `scores`, returns a number. The default is the interquartile
        mean of all scores.
      repetitions: how often to resample.
      confidence: probability mass between low and high, between 0 and 1.
      seed: seed of the random numbers; the same seed gives the same interval.

    Returns:
      (low, high).

    Raises:
      ValueError: scores are empty or of another shape; an impossible confidence.
    """

    def statistics(drawn: np.ndarray) -> np.ndarray:
        if statistic is _interquartile_mean_of_all:
            return _interquartile_means(drawn)  # all at once, which is a hundred times as fast
        return np.array([statistic(x) for x in drawn.reshape(-1, *np.shape(scores))])

    low, high = _bootstrap([scores], statistics, repetitions, confidence, seed)
    return float(low), float(high)


def probability_of_improvement_interval(
    ours: np.ndarray, base: np.ndarray, repetitions: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of `probability_of_improvement`, resampling the runs of both sides within each task.

    Args:
      ours, base: as in `probability_of_improvement`.
      repetitions, confidence, seed: as in `stratified_bootstrap_interval`.

    Returns:
      (low, high).

    Raises:
      ValueError: as `probability_of_improvement`; an impossible confidence.
    """
    pair = _of_same_tasks(ours, base)
    low, high = _bootstrap(pair, _improvements, repetitions, confidence, seed)
    return float(low), float(high)


def _bootstrap(
    samples: Sequence[np.ndarray],
    statistics: Callable[..., np.ndarray],
    repetitions: int,
    confidence: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of what `statistics` makes of resampled runs: low [...], high [...].

    Each sample is [S] or [runs, tasks]; `statistics` gets R draws of each, [R, runs, tasks], and returns [R, ...].
    """
    columns = [_columns(sample) for sample in samples]
    tails = _tails(confidence)
    rng = np.random.default_rng(seed)
    values = []
    for part in range(0, repetitions, _DRAWS_AT_ONCE):
        chosen = _rows(columns, min(_DRAWS_AT_ONCE, repetitions - part), rng)
        drawn = [np.take_along_axis(x[None], at, axis=1) for x, at in zip(columns, chosen, strict=True)]
        values.append(statistics(*drawn))
    low, high = np.quantile(np.concatenate(values), tails, axis=0)
    return low, high


def _rows(columns: Sequence[np.ndarray], draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows of some draws [draws, runs, tasks] of each sample. All at once or one by one: the same."""
    shapes = [column.shape for column in columns]
    if len(set(shapes)) == 1:
        rows = rng.integers(shapes[0][0], size=(draws, len(shapes), *shapes[0]))
        return [rows[:, i] for i in range(len(shapes))]
    of_draws = [[rng.integers(shape[0], size=shape) for shape in shapes] for _ in range(draws)]
    return [np.stack(of_sample) for of_sample in zip(*of_draws, strict=True)]


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
    """Pointwise bootstrap intervals of the interquartile mean of curves, resampling whole curves.

    Args:
      curves: [S, P], S runs on a common grid of P points.
      repetitions, confidence, seed: as in `stratified_bootstrap_interval`.

    Returns:
      low [P], high [P].

    Raises:
      ValueError: an impossible confidence.
    """
    curves = np.asarray(curves, np.float64)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(curves), size=(repetitions, len(curves)))
    # In blocks: all repetitions at once would need memory for repetitions * S * P numbers.
    values = np.concatenate([interquartile_mean(curves[block], axis=1) for block in np.array_split(chosen, 20)])
    low, high = np.quantile(values, _tails(confidence), axis=0)
    return low, high


def _tails(confidence: float) -> list[float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def running_mean(values: np.ndarray, window: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of each value and up to window - 1 values before it.

    Args:
      values: [P] numbers.
      window: how many values, at least 1; 1 returns the values.
      weights: [P], such as the number of episodes that a value averages; None for equal weights. If a whole window has
        weight 0, the result is NaN.

    Returns:
      float64 [P].

    Raises:
      ValueError: a window below 1.
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
    """Interpolates curves of several seeds linearly to evenly spaced x that all of them cover, without extrapolation.

    If there are several values at one x, the last one counts. Curves with equal x are not interpolated.

    Args:
      curves: S pairs (x [P_s], y [P_s]) of finite numbers, x in any order.
      points: length of the grid.

    Returns:
      grid [P], values [S, P].

    Raises:
      ValueError: a curve is empty, or no x is covered by all.
    """
    if not curves or any(len(x) == 0 for x, _ in curves):
        raise ValueError("a curve without points")
    curves = [_in_order(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in curves]
    first = curves[0][0]
    if all(np.array_equal(x, first) for x, _ in curves):
        return first, np.stack([y for _, y in curves])
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low > high:
        raise ValueError("the curves have no x in common")
    grid = np.linspace(low, high, points) if high > low else np.array([low])
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _in_order(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x ascending without repeats, and the last y at each x."""
    _, from_the_end = np.unique(x[::-1], return_index=True)
    last = len(x) - 1 - from_the_end
    return x[last], y[last]
