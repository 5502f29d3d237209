"""Planning with noise, base against proximal: benefit and cost of the pull to the last values. It uses only numpy.

The proximal Bellman operator with the quadratic divergence (Asadi et al. 2022, arXiv 2112.05848) is

    v <- argmin_u ||u - T v||^2 + (1/c) ||u - v||^2 = (1 - b) T v + b v,    b = 1 / (1 + c),

with T's fixed point v* and the contraction k = (1 - b) gamma + b. If T is observed with independent noise of standard
deviation s, values near the fixed point have the variance (1 - b)^2 s^2 / (1 - k^2) instead of s^2 / (1 - gamma^2). So
a smaller c gives less noise at the end and a slower start; c = inf is plain planning. Everything is float64.

UNVERIFIED: the paper plans with noise on a tabular MDP (perhaps the 8 x 8 FrozenLake). But that MDP, the noise, the
values of c and the paper's numbers could not be checked. The gridworld and the noise here are our own. The variance is
our own derivation, not the paper's; the numbers of `measure` are compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from purerl.report import plots

COEFFICIENTS = (0.1, 1.0, 10.0, math.inf)
DISCOUNT = 0.99
NOISE = 0.01  # for values up to 1: much less than the first error, and enough to dominate the error at the end
SWEEPS = 5  # of each iteration of modified policy iteration
RATIOS = {"0.1": 0.0905, "1": 0.4987, "10": 0.9087}  # of the variances at gamma = 0.99, computed by hand
POINTS = 50
STANDARD_ERRORS = 4.0
NORMAL_95 = 1.96
TOLERANCE = 1e-5  # the start's remaining share of the variance after the burn-in
SEEDS = {"scalar": 1, "matrix": 2, "planning": 3}
SCALES = {
    "smoke": {"size": 4, "scalar_chains": 2_000, "matrix_chains": 150, "planning_seeds": 10, "backups": 5_000},
    "small": {"size": 8, "scalar_chains": 20_000, "matrix_chains": 300, "planning_seeds": 24, "backups": 8_000},
    "paper": {"size": 8, "scalar_chains": 40_000, "matrix_chains": 600, "planning_seeds": 64, "backups": 8_000},
}
PLANNERS = {"value_iteration": 1, "modified_policy_iteration": SWEEPS}


# --- the MDP ---------------------------------------------------------------------------------------------------------


def mdp(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A slippery gridworld with holes; a reward of 1 for reaching the far corner. Our own, not the paper's.

    A move goes in its direction with probability 1/3, and to each side of it with probability 1/3; walls keep the
    state. The holes and the goal end the episode: they have no next state, and reward 0. No two holes touch, so that
    every state has a way around them.

    Args:
      size: side N of the grid, at least 2; state row * N + column, start at 0, goal at N * N - 1.

    Returns:
      transition [A, S, S], each row a distribution over next states; reward [A, S], expected. A is left, down, right,
      up; S = N * N.
    """
    if size < 2:
        raise ValueError(f"a grid of side {size}: at least 2 is needed")
    states = size * size
    row, column = np.divmod(np.arange(states), size)
    target = np.stack(
        [
            np.clip(row + down, 0, size - 1) * size + np.clip(column + right, 0, size - 1)
            for down, right in ((0, -1), (1, 0), (0, 1), (-1, 0))
        ]
    )
    transition = np.zeros((4, states, states))
    for action in range(4):
        for turn in (-1, 0, 1):
            np.add.at(transition[action], (np.arange(states), target[(action + turn) % 4]), 1 / 3)
    goal = states - 1
    ends = (2 * row + 3 * column) % 7 == 5  # neighbours, diagonal ones too, differ by 1, 2 or 3 modulo 7
    ends[goal] = True
    reward = np.where(ends, 0.0, transition[:, :, goal])
    transition[:, ends] = np.eye(states)[ends]
    return transition, reward


def backup(transition: np.ndarray, reward: np.ndarray, values: np.ndarray, discount: float) -> np.ndarray:
    """Action values r + gamma P v of many values at once: [..., S] -> [..., A, S]."""
    actions, states = reward.shape
    # One product of all lanes with all actions' rows is much faster than one product per action.
    expected = values.reshape(-1, states) @ transition.reshape(-1, states).T
    return reward + discount * expected.reshape(*values.shape[:-1], actions, states)


def optimal_values(transition: np.ndarray, reward: np.ndarray, discount: float) -> np.ndarray:
    """v* [S], by policy iteration with exact evaluation (Howard 1960), so without the error of value iteration."""
    return _solve(transition, reward, discount)[0]


def _solve(transition: np.ndarray, reward: np.ndarray, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """(v* [S], an optimal policy [S])."""
    states = np.arange(reward.shape[1])
    policy = np.zeros_like(states)
    while True:
        own = transition[policy, states]
        values = np.linalg.solve(np.eye(len(states)) - discount * own, reward[policy, states])
        q = backup(transition, reward, values, discount)
        # An action changes only for a real gain: rounding in ties could cause an endless loop.
        gain = q.max(axis=0) > q[policy, states] + 1e-12
        if not gain.any():
            return values, policy
        policy = np.where(gain, q.argmax(axis=0), policy)


# --- the formulas ----------------------------------------------------------------------------------------------------


def pull(coefficient: float) -> float:
    """b = 1 / (1 + c), the weight of the last values; 0 for c = inf."""
    if not coefficient > 0:
        raise ValueError(f"c must be positive, not {coefficient}")
    return 1 / (1 + coefficient)


def contraction(coefficient: float, discount: float) -> float:
    """k = (1 - b) gamma + b of the proximal operator."""
    b = pull(coefficient)
    return (1 - b) * discount + b


def stationary_variance(coefficient: float, discount: float, noise: float) -> float:
    """(1 - b)^2 s^2 / (1 - k^2): the stationary variance of v <- (1 - b) (gamma v + s w) + b v, w ~ N(0, 1).

    Our derivation: v <- k v + (1 - b) s w is an autoregression of order 1.

    Args:
      coefficient: c > 0; inf for plain value iteration, s^2 / (1 - gamma^2).
      discount: gamma < 1.
      noise: s.
    """
    k = contraction(coefficient, discount)
    return ((1 - pull(coefficient)) * noise) ** 2 / (1 - k * k)


def stationary_covariance(
    transition_of_policy: np.ndarray, coefficient: float, discount: float, noise: float
) -> np.ndarray:
    """Sigma [S, S] with Sigma = K Sigma K^T + (1 - b)^2 s^2 I, K = (1 - b) gamma P + b I: policy evaluation's noise.

    Sigma is the sum over j of K^j Q (K^j)^T. Each doubling, X <- X + M X M^T and M <- M^2, doubles the number of terms.
    The result is exact up to rounding after about 15 doublings (Smith 1968).

    Args:
      transition_of_policy: P [S, S].
      coefficient, discount, noise: as in `stationary_variance`, which it equals for P = [[1]].
    """
    b, states = pull(coefficient), len(transition_of_policy)
    power = (1 - b) * discount * np.asarray(transition_of_policy, np.float64) + b * np.eye(states)
    covariance = ((1 - b) * noise) ** 2 * np.eye(states)
    while True:
        more = power @ covariance @ power.T
        covariance = covariance + more
        if np.abs(more).max() <= 1e-17 * np.abs(covariance).max():
            return covariance
        power = power @ power
        power[power < 1e-200] = 0.0  # their squares would be denormal numbers, which are slow


# --- simulation ------------------------------------------------------------------------------------------------------


def proximal_step(observed: np.ndarray, values: np.ndarray, b: np.ndarray | float) -> np.ndarray:
    """(1 - b) T v + b v of an observed T v [..., S]; with b = 0 it is bit-identical to T v."""
    return (1 - b) * observed + b * values


def burn_in(coefficient: float, discount: float) -> int:
    """Steps until k^(2 steps) <= TOLERANCE, an upper bound of the missing share of the stationary variance."""
    return math.ceil(math.log(TOLERANCE) / (2 * math.log(contraction(coefficient, discount))))


def simulated_variance(
    transition: np.ndarray,
    reward: np.ndarray,
    coefficient: float,
    discount: float,
    noise: float,
    chains: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Mean over states of the variance of noisy proximal policy evaluation, from independent chains.

    Values are correlated over time, and over the states of a chain. So each chain gives only one number: the mean over
    states of (v - v_pi)^2 after the burn-in. v_pi is known, so the mean need not be estimated.

    Args:
      transition: P [S, S] of the policy.
      reward: [S] of the policy.
      coefficient, discount, noise: as in `stationary_variance`.
      chains: at least 2.
      rng: generator of the noise.

    Returns:
      (variance, its standard error).
    """
    fixed = np.linalg.solve(np.eye(len(reward)) - discount * transition, reward)
    b = pull(coefficient)
    values = np.tile(fixed, (chains, 1))
    for _ in range(burn_in(coefficient, discount)):
        observed = backup(transition[None], reward[None], values, discount)[:, 0]
        observed += noise * rng.standard_normal(values.shape)
        values = proximal_step(observed, values, b)
    squares = ((values - fixed) ** 2).mean(axis=1)
    return float(squares.mean()), float(squares.std(ddof=1) / math.sqrt(chains))


def planning_errors(
    transition: np.ndarray,
    reward: np.ndarray,
    coefficients: Sequence[float],
    discount: float,
    noise: np.ndarray,
    iterations: int,
    sweeps: int,
    rng: np.random.Generator,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """||v_j - v*|| in the maximum norm over iterations of proximal modified policy iteration.

    v_j = (T_c^pi)^n v_{j-1} with pi greedy for v_{j-1} (approximate modified policy iteration of Scherrer et al. 2015,
    with the operator of Asadi et al. 2022); one sweep is value iteration. Noise is added to each T v, after the
    maximum, so that it adds no bias. A lane's noise is the same for all c, so that they can be compared in pairs.

    Args:
      transition [A, S, S], reward [A, S]: of the MDP.
      coefficients: C values of c.
      discount: gamma.
      noise: [L] standard deviation of each lane; 0 for a lane without noise.
      iterations: J.
      sweeps: n.
      rng: generator of the noise.
      start: v_0 [S]; None for zeros.

    Returns:
      float64 [J + 1, C, L], from v_0 on.
    """
    best = optimal_values(transition, reward, discount)
    b = np.array([pull(c) for c in coefficients])[:, None, None]
    scale = np.asarray(noise, np.float64)[:, None]
    values = np.empty((len(b), len(scale), len(best)))
    values[:] = 0.0 if start is None else start
    errors = [np.abs(values - best).max(axis=-1)]
    for _ in range(iterations):
        for sweep in range(sweeps):
            q = backup(transition, reward, values, discount)
            if sweep == 0:
                policy = q.argmax(axis=-2, keepdims=True)
            observed = np.take_along_axis(q, policy, axis=-2)[..., 0, :]
            observed = observed + scale * rng.standard_normal((len(scale), len(best)))
            values = proximal_step(observed, values, b)
        errors.append(np.abs(values - best).max(axis=-1))
    return np.stack(errors)


# --- measurement -----------------------------------------------------------------------------------------------------


def measure(scale: str) -> dict[str, Any]:
    """All numbers of the figure and of `verify`, for JSON; c is given by its label, such as "0.1" or "inf".

    Args:
      scale: "smoke" (4 x 4 grid, a second), "small" or "paper" (8 x 8 grid; more chains and seeds).
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    how = SCALES[scale]
    transition, reward = mdp(how["size"])
    best, policy = _solve(transition, reward, DISCOUNT)
    states = np.arange(len(best))
    own = transition[policy, states], reward[policy, states]
    return {
        "scale": scale,
        **how,
        "discount": DISCOUNT,
        "noise": NOISE,
        "coefficients": [_label(c) for c in COEFFICIENTS],
        "random_seeds": SEEDS,
        "largest_value": float(best.max()),
        "scalar": _measure_variance("scalar", np.ones((1, 1)), np.zeros(1), how["scalar_chains"]),
        "matrix": _measure_variance("matrix", *own, how["matrix_chains"]),
        "planning": {
            name: _measure_planning(transition, reward, how["planning_seeds"], how["backups"] // sweeps, sweeps)
            for name, sweeps in PLANNERS.items()
        },
    }


def _label(coefficient: float) -> str:
    return f"{coefficient:g}"


def _measure_variance(name: str, transition: np.ndarray, reward: np.ndarray, chains: int) -> dict[str, Any]:
    found = {}
    for lane, c in enumerate(COEFFICIENTS):
        rng = np.random.default_rng([SEEDS[name], lane])
        variance, error = simulated_variance(transition, reward, c, DISCOUNT, NOISE, chains, rng)
        found[_label(c)] = {
            "contraction": contraction(c, DISCOUNT),
            "predicted": float(np.trace(stationary_covariance(transition, c, DISCOUNT, NOISE)) / len(reward)),
            "simulated": variance,
            "standard_error": error,
            "chains": chains,
            "burn_in": burn_in(c, DISCOUNT),
        }
    return found


def _measure_planning(
    transition: np.ndarray, reward: np.ndarray, seeds: int, iterations: int, sweeps: int
) -> dict[str, Any]:
    rng = np.random.default_rng([SEEDS["planning"], sweeps])
    lanes = np.array([NOISE] * seeds + [0.0])
    errors = planning_errors(transition, reward, COEFFICIENTS, DISCOUNT, lanes, iterations, sweeps, rng)
    noisy, noise_free = errors[:, :, :-1], errors[:, :, -1]
    # Early: when plain planning without noise has halved its error. Late: the last quarter, when the start has no
    # effect any more, even for the slowest c. Both are one number per seed, because values are correlated over time.
    halved = [int(np.argmax(noise_free[:, lane] <= noise_free[0, lane] / 2)) for lane in range(len(COEFFICIENTS))]
    early = noisy[halved[-1]]
    late = noisy[-(iterations // 4) :].mean(axis=0)
    # Evenly spaced on a logarithmic axis, because the values of c differ early or over long times.
    at = np.unique(np.geomspace(1, iterations, POINTS).round().astype(int))
    labels = [_label(c) for c in COEFFICIENTS]
    found = {}
    for lane, label in enumerate(labels):
        mean, low, high = _interval(noisy[at, lane].T)
        found[label] = {
            "mean": _rounded(mean),
            "low": _rounded(low),
            "high": _rounded(high),
            "noise_free": _rounded(noise_free[at, lane]),
            "noise_free_halved_after": halved[lane],
            "early": _rounded(_interval(early[lane])),
            "late": _rounded(_interval(late[lane])),
        }
    pairs = [
        {
            "smaller": labels[lane],
            "larger": labels[lane + 1],
            "early_rise": _rounded(_interval(early[lane] - early[lane + 1])),
            "late_drop": _rounded(_interval(late[lane + 1] - late[lane])),
        }
        for lane in range(len(labels) - 1)
    ]
    return {
        "sweeps": sweeps,
        "iterations": iterations,
        "seeds": seeds,
        "early_iteration": halved[-1],
        "late_from_iteration": iterations - iterations // 4 + 1,
        "iteration": at.tolist(),
        "of": found,
        "pairs": pairs,
    }


def _interval(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high) over the first axis of independent seeds: 95% interval of a normally distributed mean."""
    mean = x.mean(axis=0)
    half = NORMAL_95 * x.std(axis=0, ddof=1) / math.sqrt(len(x))
    return mean, mean - half, mean + half


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


# --- claims ----------------------------------------------------------------------------------------------------------


def verify(data: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    """(what, measured, published or predicted, whether it holds) of each claim; None if the seeds do not decide it.

    None of this is published: the predictions are those of this module's docstring.

    Args:
      data: what `measure` returned, also after a round trip through JSON.
    """
    rows: list[tuple[str, str, str, bool | None]] = []
    for part, title in (("scalar", "variance of one state"), ("matrix", "mean variance, policy evaluation")):
        for c, cell in data[part].items():
            value, error = cell["simulated"], cell["standard_error"]
            holds = abs(value - cell["predicted"]) <= STANDARD_ERRORS * error
            rows.append((f"{title}, c = {c}", f"{value:.4g} +- {error:.1g}", f"{cell['predicted']:.4g}", holds))
    base = data["scalar"]["inf"]
    for c, published in RATIOS.items():
        cell = data["scalar"][c]
        ratio = cell["simulated"] / base["simulated"]
        # The chains are independent, so the squares of relative errors add. The published ratio has four decimals.
        error = ratio * math.hypot(*(of["standard_error"] / of["simulated"] for of in (cell, base)))
        holds = abs(ratio - published) <= STANDARD_ERRORS * error + 5e-5
        rows.append((f"variance over that of c = inf, c = {c}", f"{ratio:.4f} +- {error:.4f}", f"{published}", holds))
    for name, planner in data["planning"].items():
        for key, when, sign in (("late_drop", "asymptotic", "<"), ("early_rise", "early", ">")):
            for pair in planner["pairs"]:
                cells = [planner["of"][pair[side]][key.split("_")[0]][0] for side in ("smaller", "larger")]
                difference, low, high = pair[key]
                what = f"{when} error, {name.replace('_', ' ')}, c = {pair['smaller']} against {pair['larger']}"
                measured = f"{cells[0]:.3g} against {cells[1]:.3g}, apart by {difference:.2g} ({low:.2g} to {high:.2g})"
                rows.append((what, measured, f"smaller c {sign} larger c", _positive(low, high)))
    return rows


def _positive(low: float, high: float) -> bool | None:
    """Whether an interval is above 0; None if 0 is in it."""
    return True if low > 0 else False if high < 0 else None


# --- figure ----------------------------------------------------------------------------------------------------------


def draw(data: dict[str, Any]) -> Figure:
    """Draws predicted and simulated variance, and planning error over iterations, with one panel per planner."""
    figure = Figure(figsize=(plots.WIDTH, 11.4))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    variance, *planning = figure.subplots(1 + len(data["planning"]))
    _draw_variance(variance, data)
    for axes, (name, planner) in zip(planning, data["planning"].items(), strict=True):
        _draw_planning(axes, name, planner, data["coefficients"])
    return figure


def _draw_variance(axes: Axes, data: dict[str, Any]) -> None:
    places = np.arange(len(data["coefficients"]))
    for part, title, colour, aside in (
        ("scalar", "one state", plots.COLOURS[0], -0.12),
        ("matrix", "gridworld, mean over states", plots.COLOURS[1], 0.12),
    ):
        cells = [data[part][c] for c in data["coefficients"]]
        predicted, simulated, error = (
            np.array([cell[key] for cell in cells]) / data["noise"] ** 2
            for key in ("predicted", "simulated", "standard_error")
        )
        axes.hlines(predicted, places + aside - 0.1, places + aside + 0.1, color=colour, linewidth=3, alpha=0.45)
        style = {"fmt": "o", "color": colour, "markersize": 5, "capsize": 4}
        axes.errorbar(places + aside, simulated, NORMAL_95 * error, label=title, **style)
    plots.dress(axes, "c", "variance / noise²")
    axes.set_ylim(bottom=0)
    axes.set_xticks(places, [c.replace("inf", "inf (plain)") for c in data["coefficients"]])
    _finish(axes, "Noise in the end: bars predicted, dots simulated (95%)")


def _draw_planning(axes: Axes, name: str, planner: dict[str, Any], coefficients: Sequence[str]) -> None:
    for colour, c in zip(plots.COLOURS, coefficients, strict=False):
        curve = planner["of"][c]
        axes.plot(planner["iteration"], curve["mean"], color=colour, linewidth=2, label=f"c = {c}")
        axes.fill_between(planner["iteration"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
        axes.plot(planner["iteration"], curve["noise_free"], color=colour, linewidth=1.2, linestyle=plots.DASHES[2])
    plots.dress(axes, "iteration k", "")
    axes.set_ylabel("max norm of $v_k - v^*$", fontsize=plots.TEXT_POINTS, color=plots.INK)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # The curves without noise decrease down to rounding; only the point where they leave the others matters.
    floor = min(min(planner["of"][c]["low"][1:]) for c in coefficients)
    axes.set_ylim(max(floor, 1e-6) / 2, 1.5 * max(max(planner["of"][c]["high"]) for c in coefficients))
    axes.set_xlim(1, planner["iterations"])
    sweeps = f", {planner['sweeps']} sweeps" if planner["sweeps"] > 1 else ""
    _finish(axes, f"{name.replace('_', ' ').capitalize()}{sweeps} (dotted: no noise)")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=plots.TEXT_POINTS, loc="left", color=plots.INK)
    axes.legend(frameon=False, fontsize=plots.SMALL_POINTS)
