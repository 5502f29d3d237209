"""statistics: by hand, and against scipy and rliable."""

import types

import numpy as np
import pytest

from purerl import statistics

rng = np.random.default_rng(0)


@pytest.fixture
def rliable():
    """rliable's library and metrics."""
    try:
        from rliable import library, metrics
    except Exception as error:  # arch 7.2, which it imports, does not import beside pandas 3 (a TypeError)
        pytest.skip(f"rliable cannot be imported here: {error}")
    return types.SimpleNamespace(library=library, metrics=metrics)


def test_interquartile_mean_by_hand():
    assert statistics.interquartile_mean([1, 2, 3, 100]) == 2.5  # one value off each end
    assert statistics.interquartile_mean([5]) == 5
    assert statistics.interquartile_mean([1, 2, 9]) == 4  # floor(3 / 4) = 0 are left out
    assert statistics.interquartile_mean([7, 1, 2, 3, 4, 5, 6, 100]) == 4.5  # two off each end


def test_interquartile_mean_axes():
    x = rng.normal(size=(3, 8, 5))
    assert statistics.interquartile_mean(x, axis=1).shape == (3, 5)
    np.testing.assert_array_equal(
        statistics.interquartile_mean(x, axis=1)[2, 3], statistics.interquartile_mean(x[2, :, 3])
    )
    assert np.ndim(statistics.interquartile_mean(x, axis=None)) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 10, 33])
def test_interquartile_mean_is_scipys(count):
    stats = pytest.importorskip("scipy.stats")
    x = rng.normal(size=(6, count))
    np.testing.assert_allclose(statistics.interquartile_mean(x), stats.trim_mean(x, 0.25, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        statistics.interquartile_mean(x, axis=None), stats.trim_mean(x, 0.25, axis=None), rtol=1e-12
    )


def test_interquartile_mean_never_trims_nan_and_refuses_nothing():
    assert np.isnan(statistics.interquartile_mean([1, 2, 3, np.nan]))
    with pytest.raises(ValueError, match="no values"):
        statistics.interquartile_mean([])


def test_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    scores = rng.normal(size=10)
    low, high = statistics.stratified_bootstrap_interval(scores, repetitions=4000)
    trim = lambda x, axis: stats.trim_mean(x, 0.25, axis=axis)  # noqa: E731
    drawn = stats.bootstrap((scores,), trim, n_resamples=4000, method="percentile", vectorized=True, rng=0)
    np.testing.assert_allclose([low, high], drawn.confidence_interval, atol=0.06 * (high - low))


@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")  # rliable's way of seeding arch
def test_interval_is_rliables(rliable):
    scores = rng.normal(size=(8, 5)) + 10 * np.arange(5)  # tasks far apart: resampling across tasks would widen it
    low, high = statistics.stratified_bootstrap_interval(scores, repetitions=4000)
    point, interval = rliable.library.get_interval_estimates(
        {"a": scores}, lambda x: np.array([statistics.interquartile_mean(x, axis=None)]), reps=4000,
        random_state=np.random.RandomState(0),
    )  # fmt: skip
    assert low < point["a"][0] < high
    np.testing.assert_allclose([low, high], interval["a"][:, 0], atol=0.06 * (high - low))


def test_interval_draws_within_tasks():
    """Tasks that are constant over runs leave nothing to chance; drawing across tasks would."""
    scores = np.tile(10.0 * np.arange(5), (4, 1))
    assert statistics.stratified_bootstrap_interval(scores) == (20.0, 20.0)


def test_interval_covers_the_truth_as_often_as_it_says():
    """Of the mean of 50 values, with 80% confidence. A one-sided or 95% interval falls outside the bounds."""
    hits = 0
    for trial in range(150):
        sample = np.random.default_rng(trial).normal(size=50)
        low, high = statistics.stratified_bootstrap_interval(sample, np.mean, repetitions=200, confidence=0.8)
        hits += low <= 0 <= high
    assert 0.69 < hits / 150 < 0.88


def test_interval_edges():
    assert statistics.stratified_bootstrap_interval([3.0]) == (3.0, 3.0)
    twice = [statistics.stratified_bootstrap_interval([1, 2, 5, 9.0], seed=s) for s in (1, 1)]
    assert twice[0] == twice[1]
    for bad in ([], np.zeros((2, 2, 2)), 1.0):
        with pytest.raises(ValueError, match="scores must be"):
            statistics.stratified_bootstrap_interval(bad)
    with pytest.raises(ValueError, match="confidence"):
        statistics.stratified_bootstrap_interval([1, 2.0], confidence=95)


def test_probability_of_improvement_by_hand():
    assert statistics.probability_of_improvement([1, 3.0], [2.0]) == 0.5
    assert statistics.probability_of_improvement([1, 2, 3.0], [2, 0.0]) == pytest.approx((1 + 1.5 + 2) / 6)
    assert statistics.probability_of_improvement([9.0], [1, 2, 3.0]) == 1  # another number of runs
    # Runs of different tasks are never compared: 1 on the first task, a quarter of the pairs on the second.
    assert statistics.probability_of_improvement([[5, 10.0], [6, 13]], [[1, 11.0], [2, 14]]) == (1 + 0.25) / 2
    x, y = rng.integers(4, size=(6, 3)), rng.integers(4, size=(5, 3))
    there, back = statistics.probability_of_improvement(x, y), statistics.probability_of_improvement(y, x)
    assert there + back == pytest.approx(1) and there != back
    assert np.isnan(statistics.probability_of_improvement([1, np.nan], [0.0]))
    assert statistics.probability_of_improvement([np.inf], [np.inf]) == 0.5
    with pytest.raises(ValueError, match="scores of 2 tasks against scores of 3"):
        statistics.probability_of_improvement(np.zeros((2, 2)), np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (4, 6), (10, 5)])
def test_aggregates_are_rliables(rliable, shape):
    scores, base = np.round(rng.normal(0.8, 1, size=shape), 1), np.round(rng.normal(0.7, 1, size=shape), 1)  # with ties
    ours = {name: value for name, (value, _, _) in statistics.aggregates(scores, repetitions=2).items()}
    for name, value in ours.items():
        theirs = getattr(rliable.metrics, f"aggregate_{name}")(scores)
        assert value == pytest.approx(theirs, rel=1e-12), name
    assert statistics.probability_of_improvement(scores, base) == pytest.approx(
        rliable.metrics.probability_of_improvement(scores, base), rel=1e-12
    )


@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")
def test_intervals_of_aggregates_are_rliables(rliable):
    scores = rng.normal(0.5, 0.5, size=(8, 5)) + 0.2 * np.arange(5)
    names = ("iqm", "mean")
    theirs = [getattr(rliable.metrics, f"aggregate_{name}") for name in names]
    _, interval = rliable.library.get_interval_estimates(
        {"a": scores}, lambda x: np.array([f(x) for f in theirs]), reps=4000, random_state=np.random.RandomState(0)
    )
    ours = statistics.aggregates(scores, repetitions=4000)
    assert tuple(ours) == names
    for name, expected in zip(names, interval["a"].T, strict=True):
        value, low, high = ours[name]
        assert low < value < high
        np.testing.assert_allclose([low, high], expected, atol=0.08 * (high - low), err_msg=name)


@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")
def test_interval_of_probability_of_improvement_is_rliables(rliable):
    ours, base = rng.normal(0.4, 1, size=(8, 4)), rng.normal(size=(5, 4))
    low, high = statistics.probability_of_improvement_interval(ours, base, repetitions=4000)
    _, interval = rliable.library.get_interval_estimates(
        {"a": (ours, base)}, lambda x, y: np.array([statistics.probability_of_improvement(x, y)]), reps=4000,
        random_state=np.random.RandomState(0),
    )  # fmt: skip
    np.testing.assert_allclose([low, high], interval["a"][:, 0], atol=0.08 * (high - low))
    # Both sides are drawn: one run against several leaves a doubt, whichever side the one is on.
    for pair in ([ours, base[:1]], [ours[:1], base]):
        low, high = statistics.probability_of_improvement_interval(*pair)
        assert low < high


def test_one_run_a_task_leaves_no_width():
    scores = rng.normal(size=(1, 5))
    assert all(low == value == high for value, low, high in statistics.aggregates(scores).values())
    low, high = statistics.probability_of_improvement_interval(scores, scores[:, ::-1])
    assert low == high == statistics.probability_of_improvement(scores, scores[:, ::-1])


def test_aggregates_share_the_draws_of_the_interval():
    scores = rng.normal(size=(6, 3))
    ours = statistics.aggregates(scores, repetitions=300, confidence=0.5, seed=3)
    for name, statistic in (("iqm", lambda x: statistics.interquartile_mean(x, axis=None)), ("mean", np.mean)):
        low, high = statistics.stratified_bootstrap_interval(scores, statistic, 300, 0.5, 3)
        np.testing.assert_allclose(ours[name], [statistic(scores), low, high], rtol=1e-12, err_msg=name)


def test_aggregates_refuse_what_they_do_not_understand():
    for bad in ([], np.zeros((2, 2, 2)), 1.0):
        for function in (
            statistics.aggregates,
            lambda x: statistics.probability_of_improvement(x, [1.0]),
        ):
            with pytest.raises(ValueError, match="scores must be"):
                function(bad)


def test_band_is_the_interval_at_each_point():
    curves = rng.normal(size=(8, 3)) * [1, 5, 0]
    low, high = statistics.bootstrap_band(curves, repetitions=4000)
    assert low.shape == high.shape == (3,)
    for point in range(3):
        expected = statistics.stratified_bootstrap_interval(curves[:, point], repetitions=4000)
        np.testing.assert_allclose([low[point], high[point]], expected, atol=0.25 * curves[:, point].std() + 1e-12)
    assert low[2] == high[2] == 0


def test_running_mean_by_hand():
    np.testing.assert_allclose(statistics.running_mean([2, 4, 6, 8.0], 2), [2, 3, 5, 7])  # looks back only
    np.testing.assert_allclose(statistics.running_mean([2, 4, 6, 8.0], 1), [2, 4, 6, 8])
    np.testing.assert_allclose(statistics.running_mean([2, 4.0], 9), [2, 3])
    np.testing.assert_allclose(statistics.running_mean([2, 4, 6.0], 2, [3, 1, 0]), [2, 2.5, 4])
    assert np.isnan(statistics.running_mean([2.0], 1, [0])[0])
    with pytest.raises(ValueError, match="window"):
        statistics.running_mean([1.0], 0)


def test_common_grid():
    a = (np.array([30, 10, 20, 40]), np.array([3.0, 1, 2, 4]))  # out of order
    b = (np.array([20, 20, 60]), np.array([99.0, 0, 8]))  # the later value at 20 counts
    grid, values = statistics.to_common_grid([a, b], points=3)
    np.testing.assert_allclose(grid, [20, 30, 40])  # what both cover: nothing is extrapolated
    np.testing.assert_allclose(values, [[2, 3, 4], [0, 2, 4]])


def test_common_grid_leaves_shared_points_alone():
    x = np.array([1, 2, 7])
    grid, values = statistics.to_common_grid([(x, np.array([1, 5, 2])), (x, np.array([0, 0, 3]))])
    np.testing.assert_array_equal(grid, x)
    np.testing.assert_array_equal(values, [[1, 5, 2], [0, 0, 3]])


def test_common_grid_refuses_what_has_nothing_in_common():
    with pytest.raises(ValueError, match="no x in common"):
        statistics.to_common_grid([(np.array([1, 2]), np.array([0, 0])), (np.array([3, 4]), np.array([0, 0]))])
    with pytest.raises(ValueError, match="without points"):
        statistics.to_common_grid([(np.array([]), np.array([]))])


@pytest.mark.parametrize("runs", [(6, 6), (6, 4)])
def test_intervals_are_those_of_a_plain_loop(runs):
    """Draws that are made all at once, as those of as many runs on both sides are, are the same draws."""
    ours, base = (np.round(rng.normal(size=(n, 3)), 1) for n in runs)
    draw, values = np.random.default_rng(0), []
    for _ in range(250):
        rows = [draw.integers(len(x), size=x.shape) for x in (ours, base)]
        drawn = (np.take_along_axis(x, at, axis=0) for x, at in zip((ours, base), rows, strict=True))
        values.append(statistics.probability_of_improvement(*drawn))
    found = statistics.probability_of_improvement_interval(ours, base, repetitions=250)
    assert found == tuple(np.quantile(values, [(1 - 0.95) / 2, (1 + 0.95) / 2]))
