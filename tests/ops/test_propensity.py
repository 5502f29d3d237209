"""The logistic regression against scikit-learn, and importance weights and effective sample sizes by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.ops import propensity

fit = jax.jit(propensity.fit_logistic)


def two_sets(num_new, num_old, shift, dimensions=3, seed=0):
    """(features, labels): N(+shift, I) of the new set (-1), N(-shift, I) of the old one (+1)."""
    random = np.random.default_rng(seed)
    new, old = (random.normal(m, 1, (n, dimensions)) for n, m in ((num_new, shift), (num_old, -shift)))
    labels = np.concatenate([-np.ones(num_new), np.ones(num_old)])
    return jnp.asarray(np.concatenate([new, old]), jnp.float32), jnp.asarray(labels, jnp.float32)


@pytest.mark.parametrize("strength", [0.01, 0.1, 10.0])
def test_it_equals_scikit_learn(strength):
    """The penalty is on the sum of losses, and none is on the intercept."""
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    random = np.random.default_rng(1)
    x = random.normal(0.4, 1.3, (400, 15)).astype(np.float32)
    y = np.where(x @ random.normal(size=15) + 0.8 + random.normal(0, 2, 400) > 0, 1.0, -1.0)
    theirs = linear_model.LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(x, y)
    ours = fit(x, jnp.asarray(y, jnp.float32), strength)
    np.testing.assert_allclose(ours.weights, theirs.coef_[0], atol=1e-3)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_[0], atol=1e-3)


def test_it_equals_scikit_learn_where_the_sets_do_not_overlap():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    x, y = two_sets(50, 50, 6.0)
    theirs = linear_model.LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(x, y)
    ours = fit(x, y, 1.0)
    np.testing.assert_allclose(ours.weights, theirs.coef_[0], atol=2e-3)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_[0], atol=2e-3)


def test_the_sign_gives_new_like_transitions_more_weight():
    """Between N(+m, I) and N(-m, I) the best classifier is w = -2 m, b = 0 (with a weak penalty)."""
    x, y = two_sets(20_000, 20_000, 0.7)
    found = fit(x, y, 100.0)
    np.testing.assert_allclose(found.weights, [-1.4] * 3, atol=0.06)
    np.testing.assert_allclose(found.intercept, 0, atol=0.05)
    beta = propensity.importance_weights(found.log_odds(x), 20.0, least=0.0)
    assert jnp.log(beta[:20_000]).mean() > 1 and jnp.log(beta[20_000:]).mean() < -1


def test_twice_as_many_old_transitions_halve_the_weights_unless_they_are_counted():
    x, y = two_sets(5_000, 10_000, 0.0, dimensions=2)
    found = fit(x, y, 1.0)
    np.testing.assert_allclose(found.intercept, np.log(2), atol=0.05)
    log_odds = found.log_odds(x)
    np.testing.assert_allclose(propensity.importance_weights(log_odds, 2.0).mean(), 0.5, atol=0.03)
    counted = propensity.importance_weights(log_odds, 2.0, log_ratio=np.log(2))
    np.testing.assert_allclose(counted.mean(), 1.0, atol=0.05)


def test_the_clip_bounds_large_weights_and_small_ones_are_0():
    beta = propensity.importance_weights(jnp.array([-10.0, 3.0, 2.0]), 1.0)
    np.testing.assert_allclose(beta, [np.e, 0.0, 0.1353], atol=1e-4)


def test_effective_sample_size_by_hand():
    size = propensity.effective_sample_size
    np.testing.assert_allclose(size(jnp.array([4.0, 1.0, 1.0, 1.0])), 49 / 76, rtol=1e-6)
    np.testing.assert_allclose(1 - size(jnp.array([4.0, 1.0, 1.0, 1.0])), 0.355263, atol=1e-6)
    np.testing.assert_allclose(size(jnp.full(7, 0.3)), 1, rtol=1e-5)
    np.testing.assert_allclose(size(jnp.eye(5)[2]), 0.2, rtol=1e-5)
    np.testing.assert_allclose(size(10 * jnp.array([4.0, 1.0, 1.0, 1.0])), 49 / 76, rtol=1e-6)


def test_it_can_be_vmapped():
    sets = [two_sets(60, 60, 0.5, seed=seed) for seed in range(3)]
    x, y = (jnp.stack(part) for part in zip(*sets, strict=True))
    together = jax.jit(jax.vmap(propensity.fit_logistic, (0, 0, None)))(x, y, 0.5)
    for i in range(3):
        np.testing.assert_allclose(together.weights[i], fit(x[i], y[i], 0.5).weights, atol=1e-4)
