"""Every gymnax id keeps the contract of `types.Environment`."""

import subprocess
import sys
from types import SimpleNamespace

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import registry
from purerl.cli import main
from purerl.envs import gymnax as family
from purerl.errors import PurerlError
from purerl.runs import train as training

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


@pytest.mark.parametrize("name", [name for name in family.names() if name != DOWNLOADS])
def test_every_id_takes_a_time_limit(name, rank_promotion):
    environment = family.make(name, family.Options(max_steps=3))
    state, _ = jax.eval_shape(environment.reset, jax.random.key(0))
    jax.eval_shape(environment.step, jax.random.key(0), state, zero_action(environment.spec))


def test_continuous_actions_are_clipped_to_their_bounds():
    environment = family.make("Pendulum-v1")
    state, _ = environment.reset(jax.random.key(0))
    step = jax.jit(environment.step)
    far, _ = step(jax.random.key(1), state, jnp.array([100.0]))
    bound, _ = step(jax.random.key(1), state, jnp.asarray(environment.spec.action_bounds[1]))
    jax.tree.map(np.testing.assert_array_equal, far, bound)


def test_discrete_observations_become_one_hot():
    environment = family.make("FrozenLake-misc")
    _, observation = environment.reset(jax.random.key(0))
    assert environment.spec.observation_shape == observation.shape == (16,)
    assert float(observation.sum()) == 1.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_steps": -1}, "max-steps = -1 must be an integer from 0"),
        ({"max_steps": 2**31}, "to 2147483647"),
        ({"max_steps": "9"}, "max-steps = '9' must be an integer"),
        ({"show_every": 0}, "at least 1"),
        ({"show_every": 2**40}, "at most 2147483647"),
        ({"repeat_action_probability": float("nan")}, r"must be in \[0, 1\)"),
        ({"repeat_action_probability": "0.1"}, r"must be in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(options, match):
    with pytest.raises(PurerlError, match=match):
        family.make("CartPole-v1", family.Options(**options))


# --- sticky actions ---

BANDIT = "BernoulliBandit-misc"  # its observation is [reward, the action taken as one-hot of 2, time]


def scan(environment, choose, num_envs, length, seed=0):
    """Steps environments, each action chosen by `choose(step [], observation before it, key)`. Returns the timesteps
    and the states after them, [num_envs, length, ...].
    """

    def one(key):
        def step(carry, t):
            state, observation = carry
            key_step, key_choice = jax.random.split(jax.random.fold_in(key, t))
            state, timestep = environment.step(key_step, state, choose(t, observation, key_choice))
            return (state, timestep.observation), (timestep, state)

        return jax.lax.scan(step, environment.reset(key), jnp.arange(length))[1]

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), num_envs))


def assert_share(found, expected, count):
    """Within 4 standard deviations of a binomial share."""
    assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def sticky(name, probability, **options):
    return family.make(name, family.Options(repeat_action_probability=probability, **options))


@pytest.mark.parametrize("probability", [0.1, 0.75])
def test_the_share_of_repeated_actions(probability):
    """Always asked for the action that was not the last, a bandit takes the last one again in that share of steps, and
    whether it does tells nothing of the step before.
    """
    environment = sticky(BANDIT, probability, max_steps=10**6)
    timesteps, states = scan(environment, lambda t, observation, key: 1 - jnp.argmax(observation[1:3]), 64, 1001)
    taken = np.argmax(timesteps.observation[..., 1:3], axis=-1)
    np.testing.assert_array_equal(states.last_action, taken)
    repeated = taken[:, 1:] == taken[:, :-1]
    assert_share(repeated.mean(), probability, repeated.size)
    assert_share((repeated[:, 1:] & repeated[:, :-1]).mean(), probability**2, repeated.size / 2)
    assert_share((taken[:, 0] == 0).mean(), probability, len(taken))


def test_the_first_step_of_an_episode_repeats_action_0():
    """Episodes of one and of two steps that are asked for 1: what was done before their first step is forgotten."""
    for max_steps in (1, 2):
        timesteps, states = scan(sticky(BANDIT, 0.3, max_steps=max_steps), lambda *_: jnp.int32(1), 64, 500)
        assert (np.asarray(timesteps.truncated) == (np.arange(1, 501) % max_steps == 0)).all()
        taken = np.argmax(timesteps.final_observation[..., 1:3], axis=-1)
        first = taken[:, ::max_steps] == 0
        assert_share(first.mean(), 0.3, first.size)
        if max_steps == 2:
            assert_share((taken[:, 1::2] == 0).mean(), 0.09, first.size)
        np.testing.assert_array_equal(states.last_action, np.where(timesteps.truncated, 0, taken))


def test_a_terminal_step_forgets_the_action_too():
    timesteps, states = scan(sticky("CartPole-v1", 0.5), lambda *_: jnp.int32(1), 8, 200)
    ended = np.asarray(timesteps.terminated)
    assert ended.any(axis=1).all() and not np.asarray(timesteps.truncated).any()
    assert (np.asarray(states.last_action)[ended] == 0).all()
    assert 0.5 < (np.asarray(states.last_action)[~ended] == 1).mean() < 1


def test_without_sticky_actions_steps_are_gymnaxs_own():
    """The same states, and the numbers that gymnax gives for the same keys."""
    name = "Breakout-MinAtar"
    environment, (env, params) = family.make(name), gymnax.make(name)
    key = jax.random.key(3)
    state, (_, expected) = environment.reset(key)[0], env.reset(key, params)
    assert type(state) is type(expected)
    step, theirs = jax.jit(environment.step), jax.jit(env.step)
    for t in range(40):
        key = jax.random.fold_in(key, t)
        state, timestep = step(key, state, jnp.int32(t % 3))
        observation, expected, reward, terminated, *_ = theirs(key, expected, jnp.int32(t % 3), params)
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        np.testing.assert_array_equal(timestep.observation, observation != 0)
        assert (timestep.reward, timestep.terminated) == (reward, terminated)


def test_a_step_that_repeats_nothing_is_the_step_without_sticky_actions():
    """The environment's own randomness is left as it is: with action 0 throughout, a repeat changes nothing."""
    name = "Asterix-MinAtar"  # enemies and gold come at random
    plain, _ = scan(family.make(name), lambda *_: jnp.int32(0), 2, 60)
    found, states = scan(sticky(name, 0.5), lambda *_: jnp.int32(0), 2, 60)
    jax.tree.map(np.testing.assert_array_equal, plain, found)
    assert states.last_action.dtype == jnp.int32


@pytest.mark.parametrize("name", ["Breakout-MinAtar", "CartPole-v1", "DiscountingChain-bsuite"])
def test_a_sticky_state_keeps_its_types(name, rank_promotion):
    environment = sticky(name, 0.25)
    state, _ = jax.eval_shape(environment.reset, jax.random.key(0))
    following, _ = jax.eval_shape(environment.step, jax.random.key(0), state, jnp.int32(0))
    types = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), x) for x in (state, following)]
    assert types[0] == types[1]


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_impossible_probabilities_are_refused(name, probability):
    with pytest.raises(PurerlError, match=r"^--env\.repeat-action-probability = \S+ must be in \[0, 1\)$"):
        sticky(name, probability)


def test_continuous_actions_are_not_sticky():
    with pytest.raises(PurerlError, match="those of gymnax/Pendulum-v1 are continuous: leave it at 0"):
        sticky("Pendulum-v1", 0.1)
    sticky("Pendulum-v1", 0.0)


def test_the_flag_on_the_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def train_plan(plan, *args, **fields):
        asked.append(plan.options.repeat_action_probability)
        return SimpleNamespace(folder=tmp_path / "nothing")  # whose curve cannot be drawn, which is no failure

    monkeypatch.setattr(training, "train_plan", train_plan)
    asked, line = [], "train dqn gymnax/Breakout-MinAtar --env.repeat-action-probability"
    assert main.main([*line.split(), "0.1"]) == 0
    assert asked == [0.1]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main.main([*line.split(), "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--env.repeat-action-probability = 1.0 must be in [0, 1)" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnax/CartPole", "Did you mean 'gymnax/CartPole-v1'"),
        ("gymnaxx/CartPole-v1", "Did you mean 'gymnax'"),
        ("CartPole-v1", "Did you mean 'gymnax/CartPole-v1' or 'gym/CartPole-v1'"),
    ],
)
def test_unknown_names_get_the_nearest(name, message):
    with pytest.raises(PurerlError, match=message):
        registry.environment(name)


@pytest.mark.same_bits
def test_observations_can_be_hidden():
    """Every third observation of an episode is shown, its first one included; the others are zeros. The game is the
    same.
    """
    plain, hiding = (family.make("CartPole-v1", family.Options(show_every=n)) for n in (1, 3))
    key, action = jax.random.key(0), jnp.int32(1)
    (state, first), (hidden_state, hidden_first) = plain.reset(key), hiding.reset(key)
    np.testing.assert_array_equal(first, hidden_first)
    step, hidden_step, age = jax.jit(plain.step), jax.jit(hiding.step), 0
    for t in range(30):  # always to the right: an episode ends after about ten steps
        state, seen = step(jax.random.key(t), state, action)
        hidden_state, shown = hidden_step(jax.random.key(t), hidden_state, action)
        assert (seen.reward, seen.terminated, seen.truncated) == (shown.reward, shown.terminated, shown.truncated)
        final = seen.final_observation if (age + 1) % 3 == 0 else jnp.zeros(4)
        np.testing.assert_array_equal(shown.final_observation, final)
        age = 0 if seen.terminated else age + 1
        np.testing.assert_array_equal(shown.observation, seen.observation if age % 3 == 0 else jnp.zeros(4))


def test_what_only_draws_is_imported_when_something_is_drawn():
    """A run starts a second and a half sooner; a game that gymnax draws with seaborn can still be drawn."""
    script = (
        "import sys, purerl.envs.gymnax\n"
        "assert not {'seaborn', 'matplotlib.pyplot', 'scipy.stats', 'pandas'} & sys.modules.keys()\n"
        "from gymnax.environments.misc import pong\n"
        "assert len(pong.sns.color_palette('cubehelix', 3)) == 3 and callable(pong.plt.subplots)\n"
        "import seaborn\n"
        "assert seaborn.__spec__ is not None and seaborn.utils"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
