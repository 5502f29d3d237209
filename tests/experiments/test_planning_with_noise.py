"""Planning with noise: formulas against numbers by hand, simulation against formulas, planning against v*."""

import json
import math

import numpy as np
import pytest

from purerl.experiments.figures import planning_with_noise as planning
from purerl.runs import files


@pytest.fixture(scope="module")
def data():
    return json.loads(files.to_json(planning.measure("smoke")))


def holds(data, what):
    found = [holds for title, _, _, holds in planning.verify(data) if title.startswith(what)]
    assert found, f"no row starts with {what!r}"
    return found


# --- the MDP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4, 8, 9])
def test_the_gridworld_is_an_mdp_whose_goal_is_reached_from_everywhere(size):
    transition, reward = planning.mdp(size)
    assert transition.shape == (4, size**2, size**2) and reward.shape == (4, size**2)
    np.testing.assert_allclose(transition.sum(axis=-1), 1, rtol=1e-15)
    ends = np.flatnonzero((transition == np.eye(size**2)).all(axis=(0, 2)))
    assert size**2 - 1 in ends and 0 not in ends
    assert not reward[:, ends].any()
    values = planning.optimal_values(transition, reward, 0.99)
    assert (values[ends] == 0).all() and (np.delete(values, ends) > 0).all() and values.max() < 1


def test_moves_slip_to_both_sides_and_walls_keep_the_state():
    transition, reward = planning.mdp(4)
    # Left in the corner: stays for left and up, and goes down; state 4 is below state 0.
    expected = np.zeros(16)
    expected[[0, 4]] = 2 / 3, 1 / 3
    np.testing.assert_allclose(transition[0, 0], expected, rtol=1e-12)
    # Above the goal, 15 (14 is a hole): down, and left and right by a slip, reach it with 1/3; up never does.
    np.testing.assert_allclose(reward[:, 11], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-12)


def test_optimal_values_by_hand():
    """From the first of two states, one action ends with 1 and the other stays with 0.1: 0.1 / (1 - 0.5) < 1."""
    transition = np.array([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    reward = np.array([[1.0, 0.0], [0.1, 0.0]])
    np.testing.assert_allclose(planning.optimal_values(transition, reward, 0.5), [1, 0], rtol=1e-15)
    np.testing.assert_allclose(planning.optimal_values(transition, reward, 0.95), [2, 0], rtol=1e-14)


# --- the formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("c", "ratio", "k"), [(0.1, 0.0905, 0.99909), (1.0, 0.4987, 0.995), (10.0, 0.9087, 0.99091), (math.inf, 1, 0.99)]
)
def test_the_numbers_of_the_specification(c, ratio, k):
    plain = 0.3**2 / (1 - 0.99**2)
    assert planning.contraction(c, 0.99) == pytest.approx(k, abs=5e-6)
    assert planning.stationary_variance(c, 0.99, 0.3) / plain == pytest.approx(ratio, abs=5e-5)


def test_variance_by_hand():
    # c = 1: b = 1/2, gamma = 1/2: k = 3/4, (1/4) 4 / (1 - 9/16) = 16/7.
    assert planning.stationary_variance(1.0, 0.5, 2.0) == pytest.approx(16 / 7, rel=1e-15)


@pytest.mark.parametrize("c", [0.0, -1.0, math.nan])
def test_a_coefficient_that_is_not_positive_is_refused(c):
    with pytest.raises(ValueError, match="c must be positive"):
        planning.stationary_variance(c, 0.9, 1.0)


@pytest.mark.parametrize("c", planning.COEFFICIENTS)
def test_covariance_is_the_limit_of_its_recursion(c):
    transition = np.array([[0.2, 0.8, 0.0], [0.5, 0.1, 0.4], [0.0, 0.0, 1.0]])
    b = 1 / (1 + c)
    k = (1 - b) * 0.9 * transition + b * np.eye(3)
    expected = np.zeros((3, 3))
    for _ in range(3000):
        expected = k @ expected @ k.T + (1 - b) ** 2 * 0.04 * np.eye(3)
    found = planning.stationary_covariance(transition, c, 0.9, 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    # A state that keeps itself is the scalar chain.
    assert found[2, 2] == pytest.approx(planning.stationary_variance(c, 0.9, 0.2), rel=1e-12)


# --- simulation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.5, math.inf])
def test_simulated_variance_is_within_its_sampling_error(c):
    transition = np.array([[0.2, 0.8], [0.6, 0.4]])
    how = (transition, np.array([1.0, -1.0]), c, 0.8, 0.1)
    predicted = np.trace(planning.stationary_covariance(transition, c, 0.8, 0.1)) / 2
    repeated = [planning.simulated_variance(*how, 400, np.random.default_rng([7, i])) for i in range(40)]
    scores = np.array([(value - predicted) / error for value, error in repeated])
    # Standard errors that are right make scores of mean 0 and standard deviation 1: off by 4 errors of each at most.
    assert abs(scores.mean()) < 4 / math.sqrt(40)
    assert 1 - 4 / math.sqrt(80) < scores.std() < 1 + 4 / math.sqrt(80)


@pytest.mark.parametrize("c", planning.COEFFICIENTS)
@pytest.mark.parametrize("sweeps", [1, 3])
def test_without_noise_the_error_shrinks_by_k_each_sweep(c, sweeps):
    """From v* + d for a constant d, T v = v* + gamma d, so that the error is d k^(sweeps j) and no less."""
    transition, reward = planning.mdp(4)
    start = planning.optimal_values(transition, reward, 0.9) + 2.0
    rng = np.random.default_rng(0)
    errors = planning.planning_errors(transition, reward, [c], 0.9, np.zeros(1), 60, sweeps, rng, start)
    k = planning.contraction(c, 0.9)
    np.testing.assert_allclose(errors[:, 0, 0], 2 * k ** (sweeps * np.arange(61)), rtol=1e-7)


@pytest.mark.parametrize("sweeps", [1, 5])
def test_without_noise_planning_ends_at_the_optimal_values(sweeps):
    transition, reward = planning.mdp(5)
    rng = np.random.default_rng(0)
    errors = planning.planning_errors(transition, reward, [1.0, 10.0], 0.9, np.zeros(1), 600, sweeps, rng)
    k = np.array([planning.contraction(c, 0.9) for c in (1.0, 10.0)])
    assert (errors[-1, :, 0] < 1e-10).all()
    # One sweep is the operator itself, which contracts.
    assert sweeps > 1 or (errors[1:, :, 0] <= k * errors[:-1, :, 0] + 1e-14).all()


def test_infinite_c_is_plain_value_iteration_to_the_last_bit():
    transition, reward = planning.mdp(4)
    best = planning.optimal_values(transition, reward, 0.95)
    noise = np.array([0.0, 0.05])
    rng = np.random.default_rng(3)
    errors = planning.planning_errors(transition, reward, [math.inf], 0.95, noise, 50, 1, rng)
    rng, values, expected = np.random.default_rng(3), np.zeros((1, 2, 16)), []
    for _ in range(50):
        values = planning.backup(transition, reward, values, 0.95).max(axis=-2)
        values = values + noise[:, None] * rng.standard_normal((2, 16))
        expected.append(np.abs(values - best).max(axis=-1))
    np.testing.assert_array_equal(errors[1:], expected)


def test_backup_is_the_bellman_backup_of_each_action():
    transition, reward = planning.mdp(3)
    values = np.random.default_rng(0).normal(size=(2, 5, 9))
    q = planning.backup(transition, reward, values, 0.7)
    expected = [[[reward[a] + 0.7 * transition[a] @ v for a in range(4)] for v in row] for row in values]
    np.testing.assert_allclose(q, expected, rtol=1e-12)


# --- end to end ------------------------------------------------------------------------------------------------------


def test_measured_numbers_are_json_and_the_same_again(data):
    assert json.loads(files.to_json(data)) == data
    assert "null" not in files.to_json(data)
    again = planning.measure("smoke")
    assert json.loads(files.to_json(again)) == data
    with pytest.raises(ValueError, match="smoke, small, paper"):
        planning.measure("large")


def test_what_was_measured_is_complete(data):
    assert data["coefficients"] == ["0.1", "1", "10", "inf"]
    for planner in data["planning"].values():
        assert planner["iteration"][0] == 1 and planner["iteration"][-1] == planner["iterations"]
        assert len(planner["iteration"]) <= 50
        for curve in planner["of"].values():
            assert {len(curve[key]) for key in ("mean", "low", "high", "noise_free")} == {len(planner["iteration"])}
            assert all(
                low < mean < high for low, mean, high in zip(curve["low"], curve["mean"], curve["high"], strict=True)
            )
        halved = [curve["noise_free_halved_after"] for curve in planner["of"].values()]
        assert halved == sorted(halved, reverse=True) and halved[-1] > 0


def test_every_claim_holds(data):
    rows = planning.verify(data)
    assert len(rows) == 4 + 4 + 3 + 2 * 2 * 3
    assert [row for row in rows if row[3] is not True] == []


def test_a_wrong_number_fails_its_own_claim_alone(data):
    wrong = json.loads(json.dumps(data))
    cell = wrong["scalar"]["10"]
    cell["simulated"] = cell["predicted"] + 5 * cell["standard_error"]
    wrong["matrix"]["1"]["simulated"] = 0.0
    pairs = wrong["planning"]["value_iteration"]["pairs"]
    pairs[0]["late_drop"] = [-0.1, -0.2, -0.05]
    pairs[1]["early_rise"] = [0.1, -0.1, 0.3]
    assert holds(wrong, "variance of one state") == [True, True, False, True]
    assert holds(wrong, "mean variance") == [True, False, True, True]
    assert holds(wrong, "asymptotic error, value iteration") == [False, True, True]
    assert holds(wrong, "early error, value iteration") == [True, None, True]
    assert holds(wrong, "asymptotic error, modified") == [True] * 3
    for c in wrong["scalar"].values():
        c["standard_error"] *= 1e-3
    assert holds(wrong, "variance over that of c = inf")[2] is False


def test_the_figure_is_drawn_from_the_data_alone(data, tmp_path):
    figure = planning.draw(data)
    figure.savefig(tmp_path / "figure.png", dpi=40)
    variance, *curves = figure.axes
    assert len(curves) == 2 and variance.get_ylim()[0] == 0
    for axes, planner in zip(curves, data["planning"].values(), strict=True):
        lines = [line for line in axes.get_lines() if line.get_label().startswith("c = ")]
        assert [line.get_label() for line in lines] == ["c = 0.1", "c = 1", "c = 10", "c = inf"]
        np.testing.assert_array_equal(lines[0].get_ydata(), planner["of"]["0.1"]["mean"])
        assert axes.get_xscale() == axes.get_yscale() == "log"
