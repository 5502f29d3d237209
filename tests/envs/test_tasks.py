"""Families of tasks: rewards and dynamics by hand, splits that do not overlap, tasks that can be traced and vmapped."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.envs import tasks
from purerl.envs.tasks import Options
from purerl.errors import PurerlError
from purerl.types import EnvSpec


def first_state(task, body):
    return tasks.State(task, jnp.asarray(body, jnp.float32), jnp.int32(0))


def stepped(name, task, body, action):
    """(state, timestep) of one step of a task from a body's state."""
    environment = tasks.of_task(name, task)
    return environment.step(jax.random.key(0), first_state(task, body), jnp.asarray(action, jnp.float32))


def test_point_robot_by_hand():
    goal = jnp.array([0.3, 0.4])
    state, timestep = stepped("point-robot", goal, [0.1, -0.1], [-0.1, 0.5])  # the action is clipped to 0.1
    np.testing.assert_allclose(timestep.observation, [0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(timestep.reward, -0.5, atol=1e-6)
    assert not timestep.terminated and not timestep.truncated and state.step == 1


@pytest.mark.parametrize(("position", "reward"), [([0.0, 0.85], 0.95), ([0.0, 0.69], 0.0), ([0.06, 0.92], 0.9)])
def test_sparse_point_robot_by_hand(position, reward):
    """After a move by (0, 0.1): 0.05 and 0.21 and (0.06, 0.02) from the goal (0, 1)."""
    timestep = stepped("sparse-point-robot", jnp.array([0.0, 1.0]), position, [0.0, 0.1])[1]
    expected = reward if reward != 0.9 else 1 - np.hypot(0.06, 0.02)
    np.testing.assert_allclose(timestep.reward, expected, atol=1e-6)


def test_pendulum_of_mass_and_length_1_is_gymnasiums():
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset(seed=3)
    one = tasks.PendulumTask(jnp.float32(1), jnp.float32(1))
    environment = tasks.of_task("pendulum", one)
    state, step = first_state(one, theirs.state), jax.jit(environment.step)
    for torque in np.random.default_rng(0).uniform(-2.5, 2.5, 60):
        observation, reward, *_ = theirs.step(np.array([torque]))
        state, timestep = step(jax.random.key(0), state, jnp.array([torque], jnp.float32))
        np.testing.assert_allclose(timestep.observation, observation, atol=2e-4)
        np.testing.assert_allclose(timestep.reward, reward, atol=2e-3)


def test_pendulum_of_another_mass_and_length_by_hand():
    """From an angle of 30 degrees at rest: 15 / 2 sin(30) + 3 / (0.5 x 4) 1 = 3.75 + 1.5 rad / s^2."""
    task = tasks.PendulumTask(jnp.float32(0.5), jnp.float32(2.0))
    state, timestep = stepped("pendulum", task, [np.pi / 6, 0.0], [1.0])
    np.testing.assert_allclose(state.body, [np.pi / 6 + 0.05 * 0.2625, 0.2625], rtol=1e-5)
    np.testing.assert_allclose(timestep.reward, -((np.pi / 6) ** 2) - 0.001, rtol=1e-5)


def test_the_car_of_gymnasiums_task_is_gymnasiums():
    """It begins with a drive into the wall; pushed the way it moves it then reaches the goal."""
    theirs = gymnasium.make("MountainCarContinuous-v0").unwrapped
    theirs.reset(seed=3)
    theirs.state = np.array([-1.1, -0.065], np.float32)
    one = tasks.MountainCarTask(jnp.float32(0.0015), jnp.float32(0.0025), jnp.float32(0.45))
    environment = tasks.of_task("mountain-car", one)
    state, step = first_state(one, theirs.state), jax.jit(environment.step)
    lowest, random = 0.0, np.random.default_rng(0)
    for t in range(300):
        push = (np.sign(theirs.state[1]) if t > 2 else -1.0) * random.uniform(0.5, 1.0)
        observation, reward, terminated, *_ = theirs.step(np.array([push]))
        state, timestep = step(jax.random.key(0), state, jnp.array([push], jnp.float32))
        np.testing.assert_allclose(timestep.final_observation, observation, atol=2e-5)
        np.testing.assert_allclose(timestep.reward, reward, atol=1e-5)
        assert bool(timestep.terminated) == terminated and not timestep.truncated
        lowest = min(lowest, float(observation[0]))
        if terminated:
            break
    assert terminated and reward > 99 and lowest == pytest.approx(-1.2)
    assert state.step == 0 and -0.6 <= timestep.observation[0] <= -0.4 and timestep.observation[1] == 0


def test_a_car_of_another_task_by_hand():
    """Full power in the valley, where gravity's pull cos(3 x) is that of cos(-1.2) = 0.362358; the goal is near."""
    task = tasks.MountainCarTask(jnp.float32(0.002), jnp.float32(0.003), jnp.float32(-0.385))
    timestep = stepped("mountain-car", task, [-0.4, 0.015], [3.0])[1]  # the action is clipped to 1
    speed = 0.015 + 0.002 - 0.003 * 0.362358
    np.testing.assert_allclose(timestep.final_observation, [-0.4 + speed, speed], rtol=1e-4)
    np.testing.assert_allclose(timestep.reward, 99.9, rtol=1e-6)
    assert timestep.terminated and not timestep.truncated


def test_splits_are_those_of_the_published_seed_and_do_not_overlap():
    random = np.random.RandomState(1337)
    goals = np.array([[random.uniform(-1, 1), random.uniform(-1, 1)] for _ in range(100)], np.float32)
    train, test = (np.asarray(tasks.tasks("point-robot", Options(split=split))) for split in ("train", "test"))
    np.testing.assert_array_equal(np.concatenate([train, test]), goals)
    np.testing.assert_array_equal(tasks.tasks("point-robot", Options("test", num_tasks=3)), goals[80:83])
    half = np.concatenate([tasks.tasks("sparse-point-robot", Options(split)) for split in ("train", "test")])
    assert len(np.unique(half.round(6), axis=0)) == 100 and (half[:, 1] > -1e-6).all()
    pendulums = tasks.tasks("pendulum")
    factors = np.stack([pendulums.mass, pendulums.length])
    assert factors.shape == (2, 80) and factors.min() >= 1 / 1.5 and factors.max() <= 1.5


def test_an_episode_keeps_its_task_until_its_time_limit_and_the_next_one_draws_another():
    environment = tasks.make("point-robot", Options(num_tasks=2, max_steps=3))
    among = np.asarray(tasks.tasks("point-robot", Options(num_tasks=2)))
    reset, step = jax.vmap(environment.reset), jax.vmap(environment.step)

    def keys(i):
        return jax.random.split(jax.random.key(i), 40)

    state, _ = reset(keys(0))
    first = np.asarray(state.task)
    share = (first == among[0]).all(1).mean()
    assert 0.2 < share < 0.8 and ((first == among[0]) | (first == among[1])).all()
    for i in range(3):
        np.testing.assert_array_equal(state.task, first)
        assert (state.step == i).all()
        state, timestep = step(keys(1 + i), state, jnp.full((40, 2), 0.05))
    assert timestep.truncated.all() and not timestep.terminated.any() and (state.step == 0).all()
    assert (np.asarray(state.task) != first).any()
    assert np.abs(timestep.final_observation - timestep.observation).max() > 0.1


def test_tasks_are_traced():
    """The gradient of a reward in the goal: (position - goal) / distance."""
    goals = jnp.array([[0.3, 0.4], [-0.6, 0.8]])

    def reward(goal):
        return stepped("point-robot", goal, [0.0, 0.0], [0.0, 0.0])[1].reward

    slope = jax.vmap(jax.grad(reward))(goals)
    np.testing.assert_allclose(slope, [[-0.6, -0.8], [0.6, -0.8]], atol=1e-6)


def test_options_and_spec():
    spec = tasks.make("point-robot").spec
    assert spec == EnvSpec("tasks/point-robot", (2,), "float32", 0, (2,), -0.1, 0.1)
    for options, message in (
        (Options("held-out"), "split = 'held-out' must be train or test"),
        (Options("test", num_tasks=21), r"num-tasks = 21 must be an integer from 0 \(all\) to 20"),
        (Options(max_steps=-1), "max-steps = -1"),
    ):
        with pytest.raises(PurerlError, match=message):
            tasks.make("pendulum", options)
