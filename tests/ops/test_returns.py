"""GAE and lambda-returns against numbers worked out by hand, a loop in numpy, and rlax."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.ops.returns import generalized_advantage_estimation, lambda_returns

pytestmark = pytest.mark.usefixtures("strict_dtypes")
with_and_without_jit = pytest.mark.parametrize("compiled", [jax.jit, lambda f: f], ids=["jit", "eager"])


@pytest.fixture(scope="module")
def rlax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        import rlax
    return rlax


def loop_gae(reward, value_tm1, value_t, terminated, done, discount, gae_lambda):
    """The definition, row by row, in float64."""
    advantage = np.zeros(reward.shape)
    for column in np.ndindex(reward.shape[1:]):
        for t in range(len(reward)):
            weight, i = 1.0, t
            while i < len(reward):
                at = (i, *column)
                bootstrap = 0.0 if terminated[at] else discount * value_t[at]
                advantage[(t, *column)] += weight * (reward[at] + bootstrap - value_tm1[at])
                if done[at]:
                    break
                weight *= discount * gae_lambda
                i += 1
    return advantage


def random_rollout(seed, shape):
    """(reward, value_tm1, value_t, terminated, done) where some steps end a game, some a time limit, some both."""
    rng = np.random.default_rng(seed)
    terminated, truncated = rng.random((2, *shape)) < 0.2
    reward, value_tm1, value_t = rng.normal(size=(3, *shape)).astype(np.float32)
    return reward, value_tm1, value_t, terminated, terminated | truncated


@with_and_without_jit
def test_example_of_the_spec(compiled):
    # first = [1, 0, 1, 0]: the step at row 1 ends an episode.
    done = jnp.array([False, True, False])
    value = jnp.array([0.5, 0.4, 0.3])
    advantage = compiled(generalized_advantage_estimation)(
        jnp.array([1.0, 0.0, 2.0]), value, jnp.array([0.4, 0.3, 0.2]), done, done, 0.999, 0.95
    )
    np.testing.assert_allclose(advantage, [0.51998, -0.4, 1.8998], atol=1e-6)
    np.testing.assert_allclose(advantage + value, [1.01998, 0.0, 2.1998], atol=1e-6)


@with_and_without_jit
def test_time_out_is_bootstrapped_and_cuts_the_sum(compiled):
    # Row 0 times out in a state of value 10: 1 + 0.5 * 10 - 3 = 3, and nothing of row 1 (2 + 0.5 * 8 - 4 = 2) leaks in.
    reward, value_tm1, value_t = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), jnp.array([10.0, 8.0])
    never, first = jnp.array([False, False]), jnp.array([True, False])
    gae = compiled(generalized_advantage_estimation)
    np.testing.assert_allclose(gae(reward, value_tm1, value_t, never, first, 0.5, 0.5), [3.0, 2.0])
    # As an end of the game the state reached is worth nothing: 1 - 3.
    np.testing.assert_allclose(gae(reward, value_tm1, value_t, first, first, 0.5, 0.5), [-2.0, 2.0])
    # As neither: 3 + 0.25 * 2.
    np.testing.assert_allclose(gae(reward, value_tm1, value_t, never, never, 0.5, 0.5), [3.5, 2.0])


@with_and_without_jit
@pytest.mark.parametrize("shape", [(1, 3), (13,), (29, 4), (6, 2, 3)])
def test_equals_the_definition(compiled, shape):
    rows = random_rollout(0, shape)
    advantage = compiled(generalized_advantage_estimation)(*map(jnp.asarray, rows), 0.97, 0.9)
    assert advantage.shape == shape and advantage.dtype == jnp.float32
    np.testing.assert_allclose(advantage, loop_gae(*rows, 0.97, 0.9), rtol=1e-5, atol=1e-5)


def test_columns_do_not_mix_and_constants_can_be_vmapped():
    rows = random_rollout(1, (10, 3))
    jax_rows = tuple(map(jnp.asarray, rows))
    gae_lambdas = jnp.array([0.0, 0.5, 1.0])
    swept = jax.vmap(lambda decay: generalized_advantage_estimation(*jax_rows, 0.9, decay))(gae_lambdas)
    for advantage, gae_lambda in zip(swept, (0.0, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(advantage, loop_gae(*rows, 0.9, gae_lambda), rtol=1e-5, atol=1e-5)


def test_anything_may_stand_behind_a_terminal_step():
    end = jnp.array([True])
    advantage = generalized_advantage_estimation(
        jnp.array([1.0]), jnp.array([0.5]), jnp.array([jnp.nan]), end, end, 0.9, 0.9
    )
    np.testing.assert_allclose(advantage, [0.5])


def test_equals_rlax_where_every_end_is_terminal(rlax):
    reward, value_tm1, _, _, done = random_rollout(2, (50,))
    values = np.append(value_tm1, np.float32(0.7))
    with jax.numpy_dtype_promotion("standard"):
        expected = rlax.truncated_generalized_advantage_estimation(
            jnp.asarray(reward), jnp.asarray(0.99 * ~done, jnp.float32), 0.95, jnp.asarray(values)
        )
    rows = map(jnp.asarray, (reward, value_tm1, values[1:], done, done))
    np.testing.assert_allclose(generalized_advantage_estimation(*rows, 0.99, 0.95), expected, rtol=1e-5, atol=1e-5)


def test_wrong_shapes_and_types_are_refused():
    x, done = jnp.zeros((3, 2)), jnp.zeros((3, 2), bool)
    with pytest.raises(AssertionError):
        generalized_advantage_estimation(x, x, jnp.zeros((4, 2)), done, done, 0.9, 0.9)
    with pytest.raises(AssertionError):
        generalized_advantage_estimation(x, x, x, done, x, 0.9, 0.9)


@with_and_without_jit
def test_lambda_returns_by_hand(compiled):
    """gamma 0.9, lambda 0.5. Row 2 times out where v = 4, row 1 terminates, after row 3 v = 2."""
    reward, value = jnp.array([1.0, 2.0, 3.0, 1.0]), jnp.array([10.0, 7.0, 4.0, 2.0])
    terminated = jnp.array([False, True, False, False])
    done = jnp.array([False, True, True, False])
    found = compiled(lambda_returns)(reward, value, terminated, done, 0.9, 0.5)
    np.testing.assert_allclose(found, [1 + 0.9 * (0.5 * 10 + 0.5 * 2), 2.0, 3 + 0.9 * 4, 1 + 0.9 * 2], rtol=1e-6)


@pytest.mark.parametrize("trace_decay", [0.0, 0.65, 1.0])
def test_lambda_returns_are_rlaxs_and_those_of_gae(rlax, trace_decay):
    """rlax takes one discount and one lambda for each row: 0 after an end, and no trace over a time-out."""
    reward, value_tm1, _, terminated, done = random_rollout(3, (40, 5))
    value_t = np.concatenate([value_tm1[1:], np.ones((1, 5), np.float32)])
    found = lambda_returns(*map(jnp.asarray, (reward, value_t, terminated, done)), 0.9, trace_decay)
    discount, decay = np.where(terminated, 0, 0.9), np.where(done, 0, trace_decay)
    with jax.numpy_dtype_promotion("standard"):
        each = jax.vmap(rlax.lambda_returns, in_axes=1, out_axes=1)
        expected = each(jnp.asarray(reward), jnp.float32(discount), jnp.asarray(value_t), jnp.float32(decay))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gae = generalized_advantage_estimation(
        *map(jnp.asarray, (reward, value_tm1, value_t, terminated, done)), 0.9, trace_decay
    )
    np.testing.assert_allclose(found, gae + value_tm1, rtol=1e-4, atol=1e-5)
