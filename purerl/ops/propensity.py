"""Propensity scores: how likely a transition of a large data set is under a new, small one.

A logistic regression tells the two sets apart, and its odds weight the large one, as in "Meta-Q-Learning" (Fakoor et
al. 2020, arXiv 1910.00125). Functions of arrays, without a loop on the host, so that they can be jitted and vmapped.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from purerl.types import Array


class Logistic(NamedTuple):
    """A linear classifier: the log-odds of features x [..., D] are x . weights + intercept."""

    weights: Array
    intercept: Array

    def log_odds(self, features: Array) -> Array:
        """Log-odds [...] of the class +1."""
        return features @ self.weights + self.intercept


def fit_logistic(features: Array, labels: Array, strength: Array | float, *, num_iterations: int = 20) -> Logistic:
    """Logistic regression with a penalty on the weights, by Newton's method.

    It minimises 1/2 |w|^2 + C sum_i log(1 + exp(-y_i (w . x_i + b))), the objective of scikit-learn: the loss is a sum,
    and the intercept b has no penalty. Each iteration takes the best of several fractions of Newton's step, so that it
    never moves away from the minimum, which is unique.

    Args:
      features: float32 [B, D].
      labels: float32 [B], +1 or -1.
      strength: C, [].
      num_iterations: of Newton's method.
    """
    chex.assert_rank([features, labels], [2, 1])
    x = jnp.concatenate([features, jnp.ones((features.shape[0], 1))], axis=1)
    penalised = jnp.ones(x.shape[1]).at[-1].set(0.0)

    def objective(w: Array) -> Array:
        return 0.5 * jnp.sum(penalised * jnp.square(w)) + strength * jnp.sum(jax.nn.softplus(-labels * (x @ w)))

    def newton(_: Array, w: Array) -> Array:
        wrong = jax.nn.sigmoid(-labels * (x @ w))  # the probability of the other label
        gradient = penalised * w - strength * (x.T @ (labels * wrong))
        curvature = strength * wrong * (1 - wrong)
        # The intercept's own curvature vanishes where all points are far from the boundary.
        hessian = (x * curvature[:, None]).T @ x + jnp.diag(penalised + 1e-6)
        step = jnp.linalg.solve(hessian, gradient)
        candidates = w[None] - step[None] * 0.5 ** jnp.arange(8.0)[:, None]
        candidates = jnp.concatenate([w[None], candidates])
        values = jax.vmap(objective)(candidates)
        return candidates[jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))]

    w = jax.lax.fori_loop(0, num_iterations, newton, jnp.zeros(x.shape[1]))
    return Logistic(w[:-1], w[-1])


def importance_weights(
    log_odds: Array, clip: Array | float, *, least: float = 0.1, log_ratio: Array | float = 0.0
) -> Array:
    """beta = p(new) / p(large) of transitions, in {0} and [least, exp(clip)].

    beta = exp(-max(f, -clip)) for the log-odds f of the large data set, and 0 where that is below `least`: the code of
    Meta-Q-Learning. f also holds the ratio of how many transitions of both sets the classifier has seen;
    `log_ratio` = log(n_large / n_new) takes it out, which the code does not do.

    Args:
      log_odds: f [...].
      clip: [].
      least: smaller weights become 0.
      log_ratio: [].
    """
    beta = jnp.exp(-jnp.maximum(log_odds - log_ratio, -clip))
    return jnp.where(beta < least, 0.0, beta)


def effective_sample_size(weights: Array) -> Array:
    """(sum w)^2 / (n sum w^2) in [0, 1] of weights [n]: 1 if all are equal, 1 / n if one is all. 0 if all are 0."""
    return jnp.square(jnp.sum(weights)) / (weights.size * (jnp.sum(jnp.square(weights)) + 1e-7))
