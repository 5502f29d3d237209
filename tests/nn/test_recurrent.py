"""The GRU: a rollout equals single steps, the memory resets at an episode's start, and its definition holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.nn import recurrent
from purerl.types import Inputs

pytestmark = pytest.mark.usefixtures("strict_dtypes")

STEPS, ENVS, FEATURES, SIZE = 7, 3, 5, 4


@pytest.fixture(scope="module")
def made():
    """(network, params, memory [N, size], features [T, N, F])."""
    network = recurrent.GRU(SIZE)
    memory = jax.random.normal(jax.random.key(0), (ENVS, SIZE))
    features = jax.random.normal(jax.random.key(1), (STEPS, ENVS, FEATURES))
    params = network.init(jax.random.key(2), memory, features, jnp.zeros((STEPS, ENVS), bool))
    return network, params, memory, features


def starts(*where):
    """is_first [T, N], true at these (t, n)."""
    is_first = np.zeros((STEPS, ENVS), bool)
    for at in where:
        is_first[at] = True
    return jnp.asarray(is_first)


@pytest.mark.parametrize("where", [(), ((0, 0), (3, 1), (4, 1), (6, 2))], ids=["no start", "starts"])
def test_along_time_it_is_what_it_is_step_by_step(made, where):
    network, params, memory, features = made
    is_first = starts(*where)
    whole = network.apply(params, memory, features, is_first)
    assert whole.shape == (STEPS, ENVS, SIZE) and whole.dtype == jnp.float32
    for t in range(STEPS):
        memory = network.apply(params, memory, features[t : t + 1], is_first[t : t + 1])[0]
        np.testing.assert_allclose(whole[t], memory, rtol=1e-5, atol=1e-6)


def test_where_an_episode_begins_everything_before_is_forgotten(made):
    """Environment 1 starts an episode at step 3: its rest equals a run from memory 0; the others do not change."""
    network, params, memory, features = made
    apply = jax.jit(network.apply)
    whole, without = apply(params, memory, features, starts((3, 1))), apply(params, memory, features, starts())
    anew = apply(params, jnp.zeros((ENVS, SIZE)), features[3:], starts()[3:])
    np.testing.assert_allclose(whole[3:, 1], anew[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole[:, [0, 2]], without[:, [0, 2]])
    np.testing.assert_array_equal(whole[:3, 1], without[:3, 1])
    assert np.abs(whole[3, 1] - without[3, 1]).max() > 1e-3
    # No gradient reaches over the border, and one reaches back to the memory without a border.
    of = lambda is_first: jax.grad(lambda m: apply(params, m, features, is_first)[-1].sum())(memory)  # noqa: E731
    with_border, without_border = of(starts((3, 1))), of(starts())
    assert (with_border[1] == 0).all() and (with_border[0] != 0).any()
    assert (without_border[1] != 0).any()


def test_one_step_is_that_of_cho_et_al(made):
    """h' = (1 - z) n + z h with the reset gate inside the candidate, as flax has it."""
    network, params, memory, features = made
    cell = params["params"]["steps"]["cell"]
    dense = lambda name, x: x @ cell[name]["kernel"] + (cell[name]["bias"][None] if "bias" in cell[name] else 0.0)  # noqa: E731
    x, h = features[0], memory
    r, z = (jax.nn.sigmoid(dense(f"i{gate}", x) + dense(f"h{gate}", h)) for gate in "rz")
    candidate = jnp.tanh(dense("in", x) + r * dense("hn", h))
    found = network.apply(params, memory, features[:1], starts()[:1])[0]
    np.testing.assert_allclose(found, (1 - z) * candidate + z * h, rtol=1e-5, atol=1e-6)


def test_context_joins_the_last_action_and_reward(specs):
    """One-hot where actions are discrete, as it is where they are not; at an episode's start both are 0."""
    is_first = jnp.array([False, True])
    features, reward = jnp.array([[0.5], [0.25]]), jnp.array([3.0, 0.0])
    discrete = Inputs(jnp.zeros((2, 3)), is_first, jnp.array([2, 0]), reward)
    found = recurrent.context(features, discrete, specs.vector)
    np.testing.assert_array_equal(found, [[0.5, 0, 0, 1, 0, 3], [0.25, 0, 0, 0, 0, 0]])
    continuous = Inputs(jnp.zeros((2, 3)), is_first, jnp.array([[1.5, -2.0], [0.0, 0.0]]), reward)
    found = recurrent.context(features, continuous, specs.continuous)
    np.testing.assert_array_equal(found, [[0.5, 1.5, -2, 3], [0.25, 0, 0, 0]])


def test_low_precision_keeps_its_memory_in_float32(made):
    _, params, memory, features = made
    with jax.numpy_dtype_promotion("standard"):  # flax's own cell joins a memory of float32 to gates of bfloat16
        found = recurrent.GRU(SIZE, jnp.dtype("bfloat16")).apply(params, memory, features, starts())
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, recurrent.GRU(SIZE).apply(params, memory, features, starts()), atol=0.05)
