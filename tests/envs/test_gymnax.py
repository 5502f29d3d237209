"""Every gymnax id keeps the contract of `types.Environment`."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import registry
from purerl.envs import gymnax as family
from purerl.errors import PurerlError

DOWNLOADS = "MNISTBandit-bsuite"


def zero_action(spec):
    return jnp.int32(0) if spec.num_actions else jnp.zeros(spec.action_shape)


@pytest.mark.parametrize("name", [name for name in family.names() if name != DOWNLOADS])
def test_shapes_and_dtypes_of_every_id(name, rank_promotion):
    """What reset and step give is what the spec says, and a state keeps its types from step to step."""
    environment = family.make(name)
    spec = environment.spec
    state, observation = jax.eval_shape(environment.reset, jax.random.key(0))
    following, timestep = jax.eval_shape(environment.step, jax.random.key(0), state, zero_action(spec))
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.weak_type), following
    )
    for shown in (observation, timestep.observation, timestep.final_observation):
        assert (shown.shape, str(shown.dtype)) == (spec.observation_shape, spec.observation_dtype)
    assert (timestep.reward.shape, timestep.reward.dtype) == ((), jnp.float32)
    assert timestep.terminated.dtype == timestep.truncated.dtype == jnp.bool_
    assert spec.num_actions or spec.action_shape


def test_an_environment_that_cannot_download_its_data_says_so():
    try:
        family.make(DOWNLOADS)
    except PurerlError as error:
        assert "downloads its data" in str(error)


@pytest.mark.parametrize("name", [name for name in family.names() if name.endswith("MinAtar")])
def test_minatar_planes_are_binary_so_that_bool_loses_nothing(name):
    env, params = gymnax.make(name)

    def step(state, key):
        action = jax.random.randint(key, (), 0, env.num_actions)
        observation, state, *_ = env.step(key, state, action, params)
        return state, observation

    _, state = env.reset(jax.random.key(0), params)
    _, observations = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(state, jax.random.split(jax.random.key(1), 300))
    assert set(np.unique(observations)) == {0.0, 1.0}


def test_time_limits_truncate_and_show_where_the_action_led():
    """CartPole with a limit of 3: cut off at the third step, the old episode's observation beside the new one's."""
    environment = family.make("CartPole-v1", family.Options(max_steps=3))
    step = jax.jit(environment.step)
    state, _ = environment.reset(jax.random.key(0))
    for t in range(3):
        state, timestep = step(jax.random.key(t), state, jnp.int32(t % 2))
        assert not timestep.terminated
        assert bool(timestep.truncated) == (t == 2)
        assert np.array_equal(timestep.observation, timestep.final_observation) == (t < 2)


def test_continuous_actions_are_clipped_to_their_bounds():
    environment = family.make("Pendulum-v1")
    state, _ = environment.reset(jax.random.key(0))
    step = jax.jit(environment.step)
    far, _ = step(jax.random.key(1), state, jnp.array([100.0]))
    bound, _ = step(jax.random.key(1), state, jnp.array([environment.spec.action_high]))
    jax.tree.map(np.testing.assert_array_equal, far, bound)


def test_discrete_observations_become_one_hot():
    environment = family.make("FrozenLake-misc")
    _, observation = environment.reset(jax.random.key(0))
    assert environment.spec.observation_shape == observation.shape == (16,)
    assert float(observation.sum()) == 1.0


def test_a_negative_time_limit_is_refused():
    with pytest.raises(PurerlError, match="max-steps"):
        family.make("CartPole-v1", family.Options(max_steps=-1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnax/CartPole", "Did you mean 'gymnax/CartPole-v1'"),
        ("gymnaxx/CartPole-v1", "Did you mean 'gymnax'"),
        ("CartPole-v1", "Did you mean 'gymnax/CartPole-v1'"),
    ],
)
def test_unknown_names_get_the_nearest(name, message):
    with pytest.raises(PurerlError, match=message):
        registry.environment(name)
