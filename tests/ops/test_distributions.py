"""Policies: exact numbers, rlax, Monte Carlo and the statistics of their samples."""

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.errors import PurerlError
from purerl.ops.distributions import CATEGORICAL, DIAGONAL_GAUSSIAN, GaussianParameters, for_spec
from purerl.types import EnvSpec

pytestmark = pytest.mark.usefixtures("strict_dtypes")
with_and_without_jit = pytest.mark.parametrize("compiled", [jax.jit, lambda f: f], ids=["jit", "eager"])


@pytest.fixture(scope="module")
def rlax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        import rlax
    return rlax


def random_gaussian(seed, shape):
    mean, log_std = jax.random.normal(jax.random.key(seed), (2, *shape))
    return GaussianParameters(mean, 0.5 * log_std)


@with_and_without_jit
def test_categorical_numbers(compiled):
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [4.0, 4.0, 8.0]])) + 7.0
    p = np.array([[0.125, 0.25, 0.625], [0.25, 0.25, 0.5]])
    log_prob = compiled(CATEGORICAL.log_prob)(logits, jnp.array([2, 0]))
    np.testing.assert_allclose(log_prob, np.log([0.625, 0.25]), rtol=1e-5)
    np.testing.assert_allclose(compiled(CATEGORICAL.entropy)(logits), -(p * np.log(p)).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(compiled(CATEGORICAL.mode)(logits), [2, 2])
    assert CATEGORICAL.mode(logits).dtype == jnp.int32
    np.testing.assert_allclose(CATEGORICAL.entropy(jnp.zeros(15)), 2.70805, atol=1e-5)


@with_and_without_jit
def test_categorical_kl_is_from_the_first_to_the_second(compiled):
    old, new = jnp.zeros(2), jnp.array([math.log(3.0), 0.0])
    np.testing.assert_allclose(compiled(CATEGORICAL.kl)(old, new), 0.143841, atol=1e-6)
    np.testing.assert_allclose(compiled(CATEGORICAL.kl)(new, old), 0.130812, atol=1e-6)
    assert float(CATEGORICAL.kl(new, new)) == 0.0


@pytest.mark.filterwarnings("ignore:Rlax:PendingDeprecationWarning")
def test_categorical_equals_rlax(rlax):
    p, q = jax.random.normal(jax.random.key(0), (2, 7, 5))
    action = jnp.array([0, 1, 2, 3, 4, 0, 1])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        kl = jax.vmap(rlax.categorical_kl_divergence)(p, q)
        log_prob, entropy = rlax.softmax().logprob(action, p), rlax.softmax().entropy(p)
    np.testing.assert_allclose(CATEGORICAL.kl(p, q), kl, rtol=1e-5)
    np.testing.assert_allclose(CATEGORICAL.log_prob(p, action), log_prob, rtol=1e-5)
    np.testing.assert_allclose(CATEGORICAL.entropy(p), entropy, rtol=1e-5)


def test_gradients_of_the_categorical():
    logits, action = jax.random.normal(jax.random.key(0), (4, 3)), jnp.array([2, 0, 1, 2])
    p = np.asarray(jax.nn.softmax(logits))
    # d log p(a) / d logits = onehot(a) - p
    gradient = jax.grad(lambda x: CATEGORICAL.log_prob(x, action).sum())(logits)
    np.testing.assert_allclose(gradient, np.eye(3)[action] - p, atol=1e-6)
    # d KL(p || q) / d q = q - p
    other = jax.random.normal(jax.random.key(1), (4, 3))
    gradient = jax.grad(lambda x: CATEGORICAL.kl(logits, x).sum())(other)
    np.testing.assert_allclose(gradient, np.asarray(jax.nn.softmax(other)) - p, atol=1e-6)


def test_extreme_logits_stay_finite():
    logits = jnp.array([1e4, 0.0, -1e4])
    assert float(CATEGORICAL.entropy(logits)) == 0.0
    assert float(CATEGORICAL.log_prob(logits, jnp.array(2))) == -2e4
    # An action that is ruled out by a logit of minus infinity leaves the others' gradients alone.
    gradient = jax.grad(lambda x: CATEGORICAL.log_prob(x, jnp.array(0)))(jnp.array([0.0, 0.0, -jnp.inf]))
    np.testing.assert_allclose(gradient, [0.5, -0.5, 0.0])


def test_low_precision_parameters_are_evaluated_in_float32():
    logits = jax.random.normal(jax.random.key(0), (2, 5)).astype(jnp.bfloat16)
    wide = logits.astype(jnp.float32)
    for call in (
        CATEGORICAL.entropy,
        lambda x: CATEGORICAL.kl(x, x[::-1]),
        lambda x: CATEGORICAL.log_prob(x, jnp.array([1, 2])),
    ):
        assert call(logits).dtype == jnp.float32
        np.testing.assert_array_equal(call(logits), call(wide))
    gaussian = GaussianParameters(logits, logits)
    for value in (
        DIAGONAL_GAUSSIAN.entropy(gaussian),
        DIAGONAL_GAUSSIAN.mode(gaussian),
        DIAGONAL_GAUSSIAN.kl(gaussian, gaussian),
    ):
        assert value.dtype == jnp.float32


@with_and_without_jit
def test_categorical_samples_have_the_right_frequencies(compiled):
    p = np.array([0.1, 0.2, 0.3, 0.4])
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = compiled(jax.vmap(CATEGORICAL.sample, in_axes=(0, None)))
    actions = draw(keys, jnp.log(jnp.asarray(p, jnp.float32)))
    assert actions.dtype == jnp.int32
    # Five standard deviations of a frequency are at most 5 * sqrt(0.24 / 20000).
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 20_000, p, atol=0.0174)


@pytest.mark.parametrize("policy", [CATEGORICAL, DIAGONAL_GAUSSIAN], ids=["categorical", "gaussian"])
def test_an_environments_sample_depends_on_its_own_key_only(policy):
    params = jax.random.normal(jax.random.key(1), (6, 9))
    if policy is DIAGONAL_GAUSSIAN:
        params = GaussianParameters(params, params)
    keys = jax.random.split(jax.random.key(0), 6)
    together = jax.vmap(policy.sample)(keys, params)
    for i in range(6):
        alone = jax.jit(policy.sample)(keys[i], jax.tree.map(lambda x, i=i: x[i], params))
        np.testing.assert_allclose(together[i], alone, rtol=1e-6)
    with pytest.raises(AssertionError):
        policy.sample(keys[0], params)


@with_and_without_jit
def test_gaussian_numbers(compiled):
    params = GaussianParameters(jnp.array([[1.0, -1.0]]), jnp.log(jnp.array([[0.5, 4.0]])))
    action = jnp.array([[2.0, -1.0]])
    # Two standard deviations away in the first dimension, none in the second; the standard deviations multiply to 2.
    np.testing.assert_allclose(
        compiled(DIAGONAL_GAUSSIAN.log_prob)(params, action), [-2.0 - math.log(4 * math.pi)], rtol=1e-6
    )
    np.testing.assert_allclose(compiled(DIAGONAL_GAUSSIAN.entropy)(params), [1 + math.log(4 * math.pi)], rtol=1e-6)
    np.testing.assert_array_equal(compiled(DIAGONAL_GAUSSIAN.mode)(params), [[1.0, -1.0]])


@with_and_without_jit
def test_gaussian_kl_numbers(compiled):
    # KL(N(0, 1) || N(1, 2^2)) = ln 2 + (1 + 1) / 8 - 1 / 2, and the other way round -ln 2 + (4 + 1) / 2 - 1 / 2.
    narrow, wide = (
        GaussianParameters(jnp.array([mean]), jnp.log(jnp.array([std]))) for mean, std in ((0.0, 1.0), (1.0, 2.0))
    )
    kl = compiled(DIAGONAL_GAUSSIAN.kl)
    np.testing.assert_allclose(kl(narrow, wide), math.log(2) - 0.25, rtol=1e-6)
    np.testing.assert_allclose(kl(wide, narrow), 2 - math.log(2), rtol=1e-6)
    assert float(kl(wide, wide)) == 0.0


def test_gaussian_agrees_with_its_own_samples():
    p, q = random_gaussian(0, (3,)), random_gaussian(1, (3,))
    keys = jax.random.split(jax.random.key(2), 50_000)
    actions = jax.vmap(DIAGONAL_GAUSSIAN.sample, in_axes=(0, None))(keys, p)
    assert actions.dtype == jnp.float32
    np.testing.assert_allclose(actions.mean(0), p.mean, atol=0.05)
    np.testing.assert_allclose(actions.std(0), jnp.exp(p.log_std), rtol=0.03)

    def log_prob(params):
        same = jax.tree.map(lambda x: jnp.broadcast_to(x, actions.shape), params)
        return np.asarray(DIAGONAL_GAUSSIAN.log_prob(same, actions))

    np.testing.assert_allclose(-log_prob(p).mean(), DIAGONAL_GAUSSIAN.entropy(p), atol=0.05)
    difference = log_prob(p) - log_prob(q)
    tolerance = 5 * difference.std() / math.sqrt(50_000)
    np.testing.assert_allclose(difference.mean(), DIAGONAL_GAUSSIAN.kl(p, q), atol=tolerance)


def test_bounds_of_a_spec_are_one_number_or_one_for_each_dimension():
    spec = EnvSpec("x/y", (4,), "float32", 0, (2,), action_low=(-1.0, -1.0), action_high=(1.0, 2.0))
    assert (spec.action_low, spec.action_high) == (-1.0, (1.0, 2.0))
    np.testing.assert_array_equal(spec.action_bounds, [[-1, -1], [1, 2]])
    with pytest.raises(PurerlError, match="action_high has 2 numbers, and an action has 3"):
        dataclasses.replace(spec, action_shape=(3,))


def test_for_spec():
    discrete = EnvSpec("x/y", (4,), "float32", 3)
    continuous = dataclasses.replace(discrete, num_actions=0, action_shape=(2,))
    assert for_spec(discrete) is CATEGORICAL
    assert for_spec(continuous) is DIAGONAL_GAUSSIAN
    with pytest.raises(PurerlError, match=r"x/y: actions of shape \(2, 3\)"):
        for_spec(dataclasses.replace(continuous, action_shape=(2, 3)))


def test_wrong_shapes_and_types_are_refused():
    with pytest.raises(AssertionError):
        CATEGORICAL.log_prob(jnp.zeros((3, 4)), jnp.zeros((3, 1), jnp.int32))
    with pytest.raises(AssertionError):
        CATEGORICAL.log_prob(jnp.zeros((3, 4)), jnp.zeros(3))
    with pytest.raises(AssertionError):
        CATEGORICAL.kl(jnp.zeros((3, 4)), jnp.zeros(4))
    with pytest.raises(AssertionError):
        DIAGONAL_GAUSSIAN.log_prob(GaussianParameters(jnp.zeros((3, 2)), jnp.zeros(2)), jnp.zeros((3, 2)))
