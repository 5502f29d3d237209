"""The pool of real gymnasium environments: seeds, ends, bounds, resume, and what goes wrong in a worker."""

import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces

import purerl
from purerl import registry
from purerl.envs.gym import family, games, saving, spaces
from purerl.errors import PurerlError
from purerl.runs import filming, user_modules

OWN = Path(__file__).with_name("gym_games.py")


@pytest.fixture(scope="module", autouse=True)
def own_file():
    """The ids of a user's own file."""
    user_modules.load(str(OWN))


def make_pool(id, seeds=(0,), num_envs=1, num_groups=1, **options):
    options = {"num_workers": 1} | options
    return family.make_pool(id, family.Options(**options), list(seeds), num_envs, num_groups)


def draw(pool, rng):
    """Random actions [S, N, ...], beyond the bounds where there are some."""
    shape = (pool.num_seeds, pool.num_envs, *pool.spec.action_shape)
    if pool.spec.num_actions:
        return rng.integers(0, pool.spec.num_actions, shape, dtype=np.int32)
    return (3 * rng.standard_normal(shape)).astype(np.float32)


def step(pool, actions):
    """A step of all groups, as copies of all fields joined [S, N, ...]."""
    size = pool.num_envs // pool.num_groups
    for group in range(pool.num_groups):
        pool.send(group, actions[:, group * size : (group + 1) * size])
    found = [pool.recv(group) for group in range(pool.num_groups)]
    names = ("observation", "reward", "terminated", "truncated", "final_observation")
    return {name: np.concatenate([getattr(one, name) for one in found], axis=1) for name in names}


def play(pool, steps, seed=0):
    """Steps of random play, {field: [T, S, N, ...]}."""
    rng = np.random.default_rng(seed)
    rows = [step(pool, draw(pool, rng)) for _ in range(steps)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def assert_same(one, other):
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


# --- episodes --------------------------------------------------------------------------------------------------------


def test_cartpole_is_gymnasiums_own():
    with make_pool("CartPole-v1", [3], 2) as pool:
        first, played = pool.reset(0).copy(), play(pool, 80)
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, 2, (1, 2), dtype=np.int32) for _ in range(80)]
    assert played["terminated"].sum() > 4 and not played["truncated"].any()
    for n in range(2):
        env = gymnasium.make("CartPole-v1")
        observation, _ = env.reset(seed=games.seed_of(3, n, 0))
        np.testing.assert_array_equal(first[0, n], observation)
        for t in range(80):
            observation, reward, terminated, truncated, _ = env.step(int(actions[t][0, n]))
            np.testing.assert_array_equal(played["final_observation"][t, 0, n], observation)
            if terminated:
                observation, _ = env.reset()
            np.testing.assert_array_equal(played["observation"][t, 0, n], observation)
            row = [played[name][t, 0, n] for name in ("reward", "terminated", "truncated")]
            assert row == [reward, terminated, truncated]
        env.close()


def test_a_time_limit_truncates_and_the_last_observation_is_shown():
    with make_pool("Echo-v0", num_envs=2) as pool:
        played = play(pool, 11)
    ends = np.arange(1, 12) % 5 == 0
    np.testing.assert_array_equal(played["truncated"][:, 0, 0], ends)
    assert not played["terminated"].any()
    np.testing.assert_array_equal(played["final_observation"][:, 0, 0, 0], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1])
    np.testing.assert_array_equal(played["observation"][:, 0, 0, 0], [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])
    noise = played["final_observation"][:, 0, :, 3]
    assert (noise[4] == noise[0]).all() and (noise[5] != noise[4]).all() and noise[0, 0] != noise[0, 1]


def test_an_end_by_rule_at_the_time_limit_is_no_time_out():
    with make_pool("Echo-v0", kwargs='{"length": 3}', max_episode_steps=3) as pool:
        played = play(pool, 3)
    np.testing.assert_array_equal(played["terminated"][:, 0, 0], [False, False, True])
    assert not played["truncated"].any()


def test_each_dimension_of_an_action_has_its_own_bounds():
    with make_pool("Echo-v0") as pool:
        assert (pool.spec.action_low, pool.spec.action_high) == ((-1.0, -2.0), (1.0, 3.0))
        np.testing.assert_array_equal(pool.spec.action_bounds, [[-1, -2], [1, 3]])
        far = step(pool, np.array([[[9.0, 9.0]]], np.float32))
        near = step(pool, np.array([[[-9.0, 0.5]]], np.float32))
    np.testing.assert_array_equal(far["observation"][0, 0, 1:3], [1, 3])
    np.testing.assert_array_equal(near["observation"][0, 0, 1:3], [-1, 0.5])


def test_a_seed_is_its_own_whatever_the_groups_workers_and_other_seeds():
    with (
        make_pool("CartPole-v1", [3, 4], 4, 2, num_workers=2) as both,
        make_pool("CartPole-v1", [4], 4, 1) as solo,
    ):
        first = np.concatenate([both.reset(g) for g in range(2)], axis=1)
        np.testing.assert_array_equal(first[1:], solo.reset(0))
        assert not np.array_equal(first[0], first[1])
        rng = np.random.default_rng(0)
        for _ in range(60):
            actions = draw(solo, rng)
            together, alone = step(both, np.repeat(actions, 2, axis=0)), step(solo, actions)
            assert_same({name: x[1:] for name, x in together.items()}, alone)
        both.send(0, actions[[0, 0], :2])
        both.send(1, actions[[0, 0], :2])
        both.recv(1), both.recv(0)  # in any order


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("id", "groups"), [("Hopper-v5", 2), ("Echo-v0", 1)])
def test_a_restored_pool_continues_bit_for_bit(id, groups):
    with make_pool(id, [1, 2], 2, groups) as pool, make_pool(id, [8], 2, groups, num_workers=2) as other:
        assert pool.resumes_exactly and pool.spec.num_actions == 0
        play(pool, 7)
        state, of_second = pool.state(), pool.state(slice(1, 2))
        whole = play(pool, 50, seed=1)
        ended = whole["terminated"] | whole["truncated"]
        assert ended.any()  # new episodes draw random numbers
        pool.restore(state)
        np.testing.assert_array_equal(pool.reset(0), state["observation"][:, : 2 // groups])
        assert_same(play(pool, 50, seed=1), whole)
        other.restore(of_second)
        assert other.resumes_exactly
        rng = np.random.default_rng(1)
        for t in range(20):
            found = step(other, draw(pool, rng)[1:])
            assert_same(found, {name: values[t, 1:] for name, values in whole.items()})
        with pytest.raises(PurerlError, match="another shape"):
            other.restore(state)


def test_what_is_no_plain_data_begins_new_episodes():
    with make_pool("Echo-v0", kwargs='{"secret": true}') as pool:
        assert not pool.resumes_exactly
        first = pool.reset(0).copy()
        play(pool, 3)
        state = pool.state()
        pool.restore(state)
        assert not pool.resumes_exactly
        again = pool.reset(0).copy()
        assert again[0, 0, 0] == 0 and again[0, 0, 3] != first[0, 0, 3]
        with make_pool("Echo-v0") as another, pytest.raises(PurerlError, match="belongs to other games"):
            another.restore(state)


@pytest.mark.parametrize(
    "id", ["Ant-v5", "Reacher-v5", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "Taxi-v4"]
)
def test_a_stored_environment_is_the_same_again(id):
    """In another instance, after many steps: what an environment holds beside its positions counts too."""
    env, other = (gymnasium.make(id, disable_env_checker=True) for _ in range(2))
    env.reset(seed=0), other.reset(seed=1)
    env.action_space.seed(0)

    def walk(env, actions):
        found = []
        for action in actions:
            observation, reward, terminated, truncated, _ = env.step(action)
            found.append([*np.ravel(observation), reward, terminated, truncated])
            if terminated or truncated:
                found[-1].extend(np.ravel(env.reset()[0]))
        return found

    walk(env, [env.action_space.sample() for _ in range(20)])
    state = saving.save(env)
    actions = [env.action_space.sample() for _ in range(60)]
    whole = walk(env, actions)
    saving.load(other, state)
    assert walk(other, actions) == whole
    with pytest.raises(saving.CannotSave):
        saving.load(gymnasium.wrappers.ClipReward(other, -1, 1), state)


def test_a_run_that_was_stopped_is_the_run_in_one_go(tmp_path):
    how = {
        "num_envs": 2, "rollout_length": 16, "num_minibatches": 1, "num_epochs": 1, "normalize_observations": True,
        "anneal_learning_rate": False, "hidden": (8,),
    }  # fmt: skip

    def train(out, steps, **more):
        return purerl.train(
            "ppo", "gym/Echo-v0", seeds=2, steps=steps, config=how, env_options={"num_workers": 1}, out=tmp_path / out,
            quiet=True, **more,
        )  # fmt: skip

    whole = train("whole", 96)
    train("parts", 32)
    parts = train("parts", 96, resume=True)
    import jax

    from purerl.rng import as_words

    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(as_words, run.state) for run in (whole, parts)))
    seen = whole.state.agent.observation_normalizer
    np.testing.assert_allclose(seen.count, 96, rtol=1e-5)
    np.testing.assert_allclose(seen.mean[:, 0], 2.0, atol=0.2)  # the time goes round 0, 1, 2, 3, 4
    policy = purerl.load_policy(tmp_path / "parts", seed=1)
    np.testing.assert_array_equal(policy.state.observation_normalizer.mean, seen.mean[1])

    frames, returns = filming.film(tmp_path / "parts", steps=7)  # the environment's own pictures
    assert np.shape(frames) == (7, 4, 6, 3) and returns == pytest.approx([1.5])
    np.testing.assert_array_equal(np.array(frames)[:, 0, 0, 0], [0, 1, 2, 3, 4, 0, 1])


# --- options ---------------------------------------------------------------------------------------------------------


def test_a_wrapper_of_the_users_own_file():
    with make_pool("Echo-v0", wrapper="gym_games:wrap") as pool:
        np.testing.assert_allclose(play(pool, 3)["reward"][:, 0, 0], [0.2, 0.4, 0.6], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrapper": "gym_games"}, "must be module:function"),
        ({"wrapper": "gym_games:warp"}, "has no function 'warp'. Did you mean 'wrap'?"),
        ({"wrapper": "no_such_file:wrap"}, "add --import FILE"),
        ({"kwargs": "{"}, "is not JSON"),
        ({"kwargs": "[1]"}, "must be a JSON object"),
        ({"kwargs": '{"lenght": 3}'}, "gym/Echo-v0 cannot be made: TypeError: "),
        ({"max_episode_steps": -1}, "max_episode_steps must be an integer in"),
    ],
)
def test_bad_options_are_told_in_one_line(options, message):
    with pytest.raises(PurerlError, match=re.escape(message)) as caught:
        family.spec("Echo-v0", family.Options(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("Dict-v0", "gym/Dict-v0 has Dict observations"),
        ("Many-v0", "gym/Many-v0 has MultiDiscrete actions"),
        ("Whole-v0", "gym/Whole-v0 has Box of int32 actions"),
    ],
)
def test_spaces_that_no_agent_sees_are_refused(id, message):
    with pytest.raises(PurerlError, match=f"{message}.*--env.wrapper"):
        family.spec(id, family.Options())


def test_spaces_become_arrays():
    found = spaces.observations("x", gym_spaces.Discrete(3, start=1))
    np.testing.assert_array_equal(found.convert(2), [0, 1, 0])
    found = spaces.observations("x", gym_spaces.MultiDiscrete([2, 3]))
    assert found.shape == (5,)
    np.testing.assert_array_equal(found.convert(np.array([1, 0])), [0, 1, 1, 0, 0])
    assert spaces.observations("x", gym_spaces.Box(0, 255, (4, 5, 3), np.uint8)).dtype == "uint8"
    assert spaces.observations("x", gym_spaces.Box(0, 1, (), np.float64)).shape == (1,)
    assert spaces.actions("x", gym_spaces.Discrete(3, start=-1)).convert(np.int32(0)) == -1
    matrix = spaces.actions("x", gym_spaces.Box(-1, 1, (2, 2)))
    assert (matrix.low, matrix.convert(np.full(4, 7.0, np.float32)).tolist()) == ((-1,) * 4, [[1, 1], [1, 1]])


def test_names_are_those_of_gymnasium_and_of_the_users_file():
    known = family.names()
    assert {"CartPole-v1", "Hopper-v5", "Echo-v0"} <= set(known) and "Hopper-v2" not in known
    with pytest.raises(PurerlError, match=r"unknown environment 'gym/Hoper-v5'\. Did you mean 'gym/Hopper-v5'\?"):
        registry.environment("gym/Hoper-v5")
    assert registry.preset("ppo", None, "gym/Hopper-v5")[0] == "mujoco"
    assert registry.preset("ppo", None, "gym/CartPole-v1")[0] == "classic"


def test_a_missing_package_is_told_with_its_command(monkeypatch):
    for name in [one for one in sys.modules if one.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.setattr(family, "_known", {})
    with pytest.raises(PurerlError, match="gym/Walker2d-v5 cannot be made: MuJoCo is not installed, run `pip install"):
        family.spec("Walker2d-v5", family.Options())


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_game_that_raises_ends_the_pool_in_one_line():
    with make_pool("Echo-v0", [7], 2, num_workers=2, kwargs='{"step_of_error": 2}') as pool:
        play(pool, 1)
        with pytest.raises(PurerlError) as caught:
            play(pool, 1)
        line = "game 0 of seed 7 of gym/Echo-v0 failed in a step: ValueError: a leg fell off (gym_games.py, line "
        assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
        with pytest.raises(PurerlError, match="is closed"):
            pool.send(0, np.zeros((1, 2, 2), np.float32))


def test_a_worker_that_dies_ends_the_pool_in_one_line():
    with (
        make_pool("Echo-v0", kwargs='{"step_of_death": 1}') as pool,
        pytest.raises(PurerlError, match="a worker process of gym/Echo-v0 ended with exit code 3; a run continues"),
    ):
        play(pool, 1)


def test_an_environment_that_fails_in_reset_is_told():
    with pytest.raises(
        PurerlError, match="game 0 of seed 0 of gym/Still-v0 failed in reset: NotImplementedError: no legs"
    ):
        make_pool("Still-v0")
