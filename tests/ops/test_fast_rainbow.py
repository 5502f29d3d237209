"""Targets and losses of "Beyond the Rainbow": quantile regression and Munchausen's log-policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from purerl.ops import munchausen, quantiles

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_quantile_huber_loss_by_hand():
    """One quantile 0 with tau 0.3, targets 0.5, -0.5, 2, -2: 0.3 of what is above, 0.7 of what is below."""
    zero, tau = jnp.zeros(1), jnp.full(1, 0.3)
    for target, expected in ((0.5, 0.3 * 0.125), (-0.5, 0.7 * 0.125), (2.0, 0.3 * 1.5), (-2.0, 0.7 * 1.5)):
        loss, size = quantiles.quantile_huber_loss(zero, tau, jnp.full(1, target))
        np.testing.assert_allclose((loss, size), (expected, abs(target)), rtol=1e-6)


def test_quantile_huber_loss_against_rlax(rank_promotion):
    """A sum over the 5 quantiles, a mean over the 7 targets; and the gradient of a loss of constant targets."""
    random = np.random.default_rng(0)
    out, targets = (jnp.asarray(2 * random.standard_normal(n), jnp.float32) for n in (5, 7))
    taus = jnp.asarray(random.random(5), jnp.float32)
    ours = lambda out: quantiles.quantile_huber_loss(out, taus, targets)[0]  # noqa: E731

    def theirs(out):
        # Of one state with one action, which selects nothing.
        zero = jnp.int32(0)
        return rlax.quantile_q_learning(
            out[:, None], taus, zero, jnp.float32(0), jnp.float32(1), targets[:, None], targets[:, None], 1.0
        )

    with jax.numpy_dtype_promotion("standard"):
        expected = jax.value_and_grad(theirs)(out)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), jax.value_and_grad(ours)(out), expected
    )
    size = np.abs(np.asarray(targets)[None] - np.asarray(out)[:, None]).mean(1).sum()
    np.testing.assert_allclose(quantiles.quantile_huber_loss(out, taus, targets)[1], size, rtol=1e-5)


def test_quantile_regression_finds_the_quantiles():
    """The minimum over samples of 0 .. 99 has tau of them below it, up to the smooth part of the loss."""
    samples, taus = jnp.arange(100.0), jnp.array([0.1, 0.5, 0.9])

    def step(_, out):
        return out - 2 * jax.grad(lambda q: quantiles.quantile_huber_loss(q, taus, samples)[0])(out)

    found = jax.jit(lambda: jax.lax.fori_loop(0, 2000, step, jnp.full(3, 50.0)))()
    np.testing.assert_allclose(found, [9.5, 49.5, 89.5], atol=1.0)


def test_fractions_are_uniform():
    taus = np.asarray(quantiles.draw_fractions(jax.random.key(0), (1000, 8)))
    assert taus.shape == (1000, 8) and taus.min() >= 0 and taus.max() < 1
    np.testing.assert_allclose(np.quantile(taus, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)


Q = np.array([1.0, 0.98, 0.2, -3.0])
TAU = 0.03


def policy_of(q, tau):
    weights = np.exp((q - q.max()) / tau)
    return weights / weights.sum()


def test_munchausen_bonus():
    """tau ln pi: 0.0305 less than 0 for the second best, the clip -1 for the worst, whose probability is below e-57."""
    found = [float(munchausen.bonus(jnp.asarray(Q, jnp.float32), jnp.int32(a), TAU, -1.0)) for a in range(4)]
    policy = policy_of(Q, TAU)
    np.testing.assert_allclose(found[:2], TAU * np.log(policy[:2]), rtol=1e-4)
    np.testing.assert_allclose(found[2:], [-0.8 + TAU * np.log(policy[0]), -1.0], rtol=1e-4)
    assert max(found) < 0


def test_munchausen_soft_value():
    """Of values it is tau ln sum exp(q / tau) (the soft maximum); of quantiles the mixture of each one."""
    q = jnp.asarray(Q, jnp.float32)
    soft = 1.0 + TAU * np.log(np.exp((Q - 1.0) / TAU).sum())
    np.testing.assert_allclose(munchausen.soft_value(q, q, TAU), soft, rtol=1e-5)
    returns = np.random.default_rng(1).standard_normal((4, 5))
    policy = policy_of(Q, 0.5)
    expected = (policy[:, None] * (returns - 0.5 * np.log(policy)[:, None])).sum(0)
    found = munchausen.soft_value(jnp.asarray(returns, jnp.float32), q, 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # A small temperature is the maximum: no NaN at a probability of 0.
    np.testing.assert_allclose(munchausen.soft_value(q, q, 1e-4), 1.0, rtol=1e-5)
