"""Robots with tasks, on MuJoCo itself: rewards from the robot's positions, splits, physics, seeds, resume."""

import json
import re

import gymnasium
import numpy as np
import pytest

import purerl
from purerl import registry
from purerl.cli import main
from purerl.envs import tasks
from purerl.envs.gym import games, saving
from purerl.envs.robot_tasks import family, splits, worlds
from purerl.envs.robot_tasks.family import Options
from purerl.errors import PurerlError

pytest.importorskip("mujoco", reason="the robots are MuJoCo's")


def make(name, first=0, number=1):
    """One robot, not yet reset."""
    world = worlds.WORLDS[name]
    env = gymnasium.make(world.robot, worlds.STEPS, disable_env_checker=True, **world.kwargs)
    return worlds.wrap(env, name=name, first=first, number=number)


def actions_of(size, steps=25):
    return np.random.default_rng(0).uniform(-1, 1, (steps, size)).astype(np.float32)


def play(pool, steps, seed=0):
    """Random play of all groups, {field: [T, S, N, ...]}."""
    random, found = np.random.default_rng(seed), []
    size = pool.num_envs // pool.num_groups
    for _ in range(steps):
        actions = random.uniform(-1, 1, (pool.num_seeds, pool.num_envs, *pool.spec.action_shape)).astype(np.float32)
        for group in range(pool.num_groups):
            pool.send(group, actions[:, group * size : (group + 1) * size])
        of_groups = [pool.recv(group) for group in range(pool.num_groups)]
        names = ("observation", "reward", "terminated", "truncated", "final_observation")
        found.append({name: np.concatenate([getattr(one, name) for one in of_groups], axis=1) for name in names})
    return {name: np.array([row[name] for row in found]) for name in found[0]}


# --- rewards ---------------------------------------------------------------------------------------------------------


def expected_reward(name, task, data, before, action, dt):
    """The reward by the definitions of the published tasks; `before` is (qpos, the torso's position)."""
    speed, torso = (data.qpos[0] - before[0][0]) / dt, (data.body("torso").xpos - before[1]) / dt
    contact = 5e-4 * np.square(np.clip(data.cfrc_ext, -1, 1)).sum()
    cost = np.square(action.astype(np.float64)).sum()
    if name == "cheetah-dir":
        return task["direction"] * speed - 0.05 * cost
    if name == "cheetah-vel":
        return -abs(speed - task["speed"]) - 0.05 * cost
    if name == "ant-dir":
        return torso[0] * np.cos(task["angle"]) + torso[1] * np.sin(task["angle"]) - 0.5 * cost - contact + 1
    if name == "ant-goal":
        return -np.abs(data.qpos[:2] - task["goal"]).sum() - 0.1 * cost - contact
    return speed + 1 - 1e-3 * cost


SEEN = {
    "cheetah-dir": lambda data: [data.qpos[1:], data.qvel, data.body("torso").xpos],
    "cheetah-vel": lambda data: [data.qpos[1:], data.qvel, data.body("torso").xpos],
    "ant-dir": lambda data: [data.qpos[2:], data.qvel],
    "ant-goal": lambda data: [data.qpos, data.qvel, np.clip(data.cfrc_ext[1:], -1, 1).ravel()],
    "walker-params": lambda data: [data.qpos[1:], np.clip(data.qvel, -10, 10)],
}


@pytest.mark.parametrize(("name", "row"), [(name, row) for name in splits.SPLITS for row in (0, 1)])
def test_rewards_and_observations_are_those_of_the_published_tasks(name, row):
    env = make(name, row)
    data, task = env.unwrapped.data, {field: values[row] for field, values in splits.every(name).items()}
    env.reset(seed=3)
    for action in actions_of(env.action_space.shape[0]):
        before = data.qpos.copy(), data.body("torso").xpos.copy()
        observation, reward, terminated, truncated, _ = env.step(action)
        np.testing.assert_allclose(observation, np.concatenate(SEEN[name](data)))
        assert observation.shape == env.observation_space.shape and not truncated
        assert reward == pytest.approx(expected_reward(name, task, data, before, action, env.unwrapped.dt), abs=1e-6)
        if terminated:
            break


@pytest.mark.parametrize(("name", "ends"), [("cheetah-vel", False), ("ant-goal", False), ("ant-dir", True)])
def test_only_some_fall(name, ends):
    env = make(name)
    env.reset(seed=0)
    if "ant" in name:
        env.unwrapped.data.qpos[2] = 3.0  # above its healthy heights
    *_, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
    assert terminated == ends and not truncated


def test_an_episode_begins_as_gymnasiums():
    theirs, ours = gymnasium.make("HalfCheetah-v5"), make("cheetah-vel", 0, 100)
    for seed in (4, None, None):
        np.testing.assert_array_equal(theirs.reset(seed=seed)[0], ours.reset(seed=seed)[0][:17])


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_splits_have_the_published_numbers_and_seed():
    found = {name: [family.tasks(name, Options(split)) for split in ("train", "test")] for name in family.names()}
    sizes = {name: tuple(len(next(iter(one.values()))) for one in both) for name, both in found.items()}
    assert sizes == {
        "cheetah-dir": (2, 2), "cheetah-vel": (100, 30), "ant-dir": (2, 2), "ant-goal": (150, 30),
        "walker-params": (40, 10),
    }  # fmt: skip
    speeds = np.random.RandomState(1337).uniform(0, 3, 130)
    np.testing.assert_array_equal(np.concatenate([one["speed"] for one in found["cheetah-vel"]]), speeds)
    assert [list(one["direction"]) for one in found["cheetah-dir"]] == [[-1, 1], [-1, 1]]
    radius = np.linalg.norm(np.concatenate([one["goal"] for one in found["ant-goal"]]), axis=1)
    assert radius.max() < 3 and np.mean(radius < 1.5) == pytest.approx(0.25, abs=0.08)
    mass = np.concatenate([one["body_mass"] for one in found["walker-params"]])
    assert mass.shape == (50, 8) and len(np.unique(mass)) == 400 and 1.5**-3 < mass.min() < mass.max() < 1.5**3
    damping = found["walker-params"][0]["dof_damping"]
    assert 1.3**-3 < damping.min() < 0.6 and 1.8 < damping.max() < 1.3**3
    held_out = family.tasks("ant-goal", Options("test", 3))["goal"]
    np.testing.assert_array_equal(held_out, splits.every("ant-goal")["goal"][150:153])


def test_a_walkers_physics_are_those_of_its_task_alone():
    own, one = gymnasium.make("Walker2d-v5").unwrapped, make("walker-params", 3)
    physics = {name: getattr(own.model, name).copy() for name in splits.every("walker-params")}
    as_it_was = saving.model_checksum(own.model)
    one.reset(seed=0)
    model = one.unwrapped.model
    for name, values in splits.every("walker-params").items():
        np.testing.assert_array_equal(getattr(model, name), physics[name] * values[3])
    np.testing.assert_allclose(model.body_subtreemass[1], model.body_mass[1:].sum())  # what follows from them, too
    # After any other task.
    other = make("walker-params", 7)
    other.reset(seed=0)
    worlds.scale(other.unwrapped.model, other.unwrapped.data, physics, one.task)
    assert saving.model_checksum(other.unwrapped.model) == saving.model_checksum(model) != as_it_was
    ones = {name: np.ones_like(values) for name, values in physics.items()}
    worlds.scale(model, one.unwrapped.data, physics, ones)
    assert saving.model_checksum(model) == as_it_was


def test_each_episode_draws_a_task_of_the_split():
    env = make("cheetah-vel", 100, 3)
    env.reset(seed=0)
    rows = [env.row, *((env.reset(), env.row)[1] for _ in range(60))]
    assert set(rows) == {100, 101, 102} and min(np.bincount(rows)[100:]) > 10
    env.reset(seed=0)
    assert rows[:9] == [env.row, *((env.reset(), env.row)[1] for _ in range(8))]


# --- pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["walker-params", "cheetah-vel"])
def test_a_restored_pool_continues_bit_for_bit(name):
    """Each game within an episode of its own task, and then in episodes of other tasks."""
    options = Options(max_steps=8, num_workers=1)
    with (
        family.make_pool(name, options, [1, 2], 2, 2) as pool,
        family.make_pool(name, Options(max_steps=8, num_workers=2), [5, 6], 2, 2) as other,
    ):
        assert pool.resumes_exactly and pool.spec == registry.env_spec(f"tasks/{name}")
        play(pool, 13)
        state = pool.state()
        whole = play(pool, 20, seed=1)
        assert whole["truncated"].any() and len(np.unique(whole["reward"])) > 40
        play(other, 3)
        other.restore(state)
        assert other.resumes_exactly
        again = play(other, 20, seed=1)
        for field, values in whole.items():
            np.testing.assert_array_equal(values, again[field], err_msg=field)


def test_the_kth_seed_of_a_task_pool_plays_the_kth_task():
    options = Options("test", max_steps=20, num_workers=2)
    with family.make_task_pool("cheetah-vel", options, [5, 6, 7], 2) as pool:
        played = play(pool, 22)
    random = np.random.default_rng(0)
    actions = [random.uniform(-1, 1, (3, 2, 6)).astype(np.float32) for _ in range(22)]
    for k, n in ((0, 1), (2, 0)):
        env = make("cheetah-vel", 100 + k)
        env.reset(seed=games.seed_of(5 + k, n, 0))
        for t in range(22):
            reward = env.step(actions[t][k, n])[1]
            assert played["reward"][t, k, n] == np.float32(reward)
            if t == 19:
                env.reset()  # another episode, the same task


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cheetah-vel", {"split": "held-out"}, "--env.split = 'held-out' must be train or test"),
        (
            "cheetah-vel",
            {"split": "test", "num_tasks": 31},
            "num-tasks = 31 must be an integer from 0 (all) to 30",
        ),
        ("ant-dir", {"num_tasks": 3}, "must be an integer from 0 (all) to 2"),
        ("ant-goal", {"max_steps": -1}, "--env.max-steps must be an integer in [0, 2147483647], not -1"),
        ("walker-params", {"num_workers": 5000}, "--env.num-workers must be an integer in [0, 4096], not 5000"),
    ],
)
def test_bad_options_are_told_in_one_line(name, options, message):
    with pytest.raises(PurerlError, match=re.escape(message)) as caught:
        family.make_pool(name, Options(**options), [0], 1)
    assert "\n" not in str(caught.value)


def test_unknown_tasks_are_told_with_the_nearest_and_robots_are_not_in_the_graph():
    with pytest.raises(PurerlError, match=r"unknown environment 'tasks/cheetah-speed'\. Did you mean 'tasks/cheetah-"):
        registry.environment("tasks/cheetah-speed")
    with pytest.raises(PurerlError, match=r"write family/id\. Did you mean 'tasks/ant-goal'"):
        registry.environment("ant-goal")
    assert registry.is_host(registry.environment("tasks/ant-goal")[0])
    assert registry.environment("tasks/pendulum") == (tasks, "pendulum")


# --- runs ------------------------------------------------------------------------------------------------------------

SMALL = {
    "num_envs": 2, "train_period": 2, "hidden": (8,), "history_length": 4, "context_size": 3, "batch_size": 16,
    "replay_size": 400, "learning_starts": 100, "new_task_steps": 3, "replay_steps": 4, "replay_batches": 1,
}  # fmt: skip


def test_a_run_is_evaluated_in_the_held_out_tasks_with_adaptation(tmp_path, capsys):
    folder = tmp_path / "run"
    how = {"steps": 160, "random_episodes": 0, "quiet": True}
    purerl.train("mql", "tasks/ant-dir", config=SMALL, env_options={"max_steps": 10}, out=folder, **how)
    words = ["eval", str(folder), "--adapt", "--episodes", "2", "--seed", "5"]
    assert main.main(words) == 0
    assert "2 tasks (test), 2 episodes of each" in capsys.readouterr().out
    result = json.loads((folder / "adapt.json").read_text())
    assert result["tasks"] == len(result["per_task"]) == 2 and result["env_options"]["split"] == "test"
    assert result["gain"]["mean"] == pytest.approx(result["after"]["mean"] - result["before"]["mean"]) != 0
