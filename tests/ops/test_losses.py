"""Loss terms: values and gradients worked out by hand, and rlax."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.ops import losses

pytestmark = pytest.mark.usefixtures("strict_dtypes")
with_and_without_jit = pytest.mark.parametrize("compiled", [jax.jit, lambda f: f], ids=["jit", "eager"])


@pytest.fixture(scope="module")
def rlax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        import rlax
    return rlax


@with_and_without_jit
def test_mean(compiled):
    mean = compiled(losses.mean)
    x = jnp.array([[1.0, 2.0], [6.0, 9.0]])
    assert float(mean(x[:1])) == 1.5
    assert float(mean(x)) == 4.5
    assert float(mean(x > 1.5)) == 0.75
    assert mean(x > 1.5).dtype == jnp.float32
    assert float(mean(jnp.arange(4))) == 1.5


def test_mean_sums_small_types_in_float32():
    assert float(losses.mean(jnp.ones(1000, bool))) == 1.0
    assert float(losses.mean(jnp.ones(1000, jnp.bfloat16))) == 1.0


@with_and_without_jit
def test_clipped_surrogate(compiled):
    # Ratios below, inside and above 1 -+ 0.2, for good and bad actions.
    ratio = jnp.array([0.5, 0.9, 1.5, 0.5, 0.9, 1.5])
    advantage = jnp.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    value = compiled(losses.clipped_surrogate)(jnp.log(ratio), advantage, 0.2)
    np.testing.assert_allclose(value, [-1.0, -1.8, -2.4, 1.6, 1.8, 3.0], rtol=1e-6)
    # d/d(log ratio) is -A r, and 0 where the clipped ratio counts.
    gradient = jax.grad(lambda x: compiled(losses.clipped_surrogate)(x, advantage, 0.2).sum())(jnp.log(ratio))
    np.testing.assert_allclose(gradient, [-1.0, -1.8, 0.0, 0.0, 1.8, 3.0], rtol=1e-6)


def test_clipped_surrogate_equals_rlax(rlax):
    rng = np.random.default_rng(0)
    log_ratio, advantage = jnp.asarray(rng.normal(size=(2, 100)) * [[0.3], [1.0]], jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        expected = rlax.clipped_surrogate_pg_loss(jnp.exp(log_ratio), advantage, 0.2)
    np.testing.assert_allclose(losses.clipped_surrogate(log_ratio, advantage, 0.2).mean(), expected, rtol=1e-6)


@with_and_without_jit
def test_quadratic_kl_penalty(compiled):
    np.testing.assert_allclose(compiled(losses.quadratic_kl_penalty)(jnp.array([-2.0, 0.0, 3.0])), [2.0, 0.0, 4.5])


@with_and_without_jit
def test_squared_value_error(compiled):
    # Off by 2 everywhere is a loss of 2 (no double half), and off by 10 a gradient of 10 / N.
    error = compiled(losses.squared_value_error)(jnp.full(8, 5.0), jnp.full(8, 3.0))
    np.testing.assert_allclose(losses.mean(error), 2.0)
    gradient = jax.grad(lambda v: losses.mean(compiled(losses.squared_value_error)(v, jnp.zeros(8))))
    np.testing.assert_allclose(gradient(jnp.full(8, 10.0)), 10 / 8)


@with_and_without_jit
def test_clipped_squared_value_error(compiled):
    # Old value 0, clip 0.2. A move of 1 towards the target counts as one of 0.2, one away from it as the whole of it; a
    # move of 0.1 is not clipped.
    value, target = jnp.array([1.0, 1.0, 0.1, -1.0]), jnp.array([2.0, -2.0, 2.0, 2.0])
    loss = compiled(losses.clipped_squared_value_error)
    old_value = jnp.zeros(4)
    expected = 0.5 * np.array([1.8, 3.0, 1.9, 3.0]) ** 2
    np.testing.assert_allclose(loss(value, old_value, target, 0.2), expected, rtol=1e-6)
    gradient = jax.grad(lambda v: loss(v, old_value, target, 0.2).sum())(value)
    np.testing.assert_allclose(gradient, [0.0, 3.0, -1.9, -3.0], rtol=1e-6)


@with_and_without_jit
def test_normalize_advantages(compiled):
    # Population standard deviation: that of 1, 3, 5 is sqrt(8 / 3).
    normalize = compiled(losses.normalize_advantages)
    expected = np.array([-2.0, 0.0, 2.0]) / np.sqrt(8 / 3)
    np.testing.assert_allclose(normalize(jnp.array([1.0, 3.0, 5.0])), expected, rtol=1e-6)
    np.testing.assert_array_equal(normalize(jnp.full(4, 0.3)), 0.0)


def test_advantages_are_normalized_over_all_axes():
    raw = jnp.asarray(np.random.default_rng(0).normal(100.0, 3.0, (256, 64)), jnp.float32)
    normalized = np.asarray(losses.normalize_advantages(raw), np.float64)
    assert abs(normalized.mean()) < 1e-5
    assert abs(normalized.std() - 1) < 1e-4
    # Normalising each minibatch of environments by itself would make these 0.
    assert max(abs(normalized[:, i : i + 8].mean()) for i in range(0, 64, 8)) > 1e-3


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: losses.clipped_surrogate(x, y, 0.2),
        lambda x, y: losses.squared_value_error(x, y),
        lambda x, y: losses.clipped_squared_value_error(x, x, y, 0.2),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(AssertionError):
        call(jnp.zeros(3), jnp.zeros((3, 1)))
