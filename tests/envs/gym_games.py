"""Environments of a user's own file, registered with gymnasium: the tests give it to `--import`."""

import os

import gymnasium
import numpy as np
from gymnasium import spaces


class Echo(gymnasium.Env):
    """Shows its time, the action that it got and a random number of the episode; ends by rule after `length` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))

    def __init__(self, length=1000, step_of_error=None, step_of_death=None, secret=False, render_mode=None):
        self.render_mode = render_mode
        self._length, self._step_of_error, self._step_of_death = length, step_of_error, step_of_death
        if secret:
            self.secret = iter(range(10))  # not plain data

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time, self._noise = 0, self.np_random.random()
        return np.array([0, 0, 0, self._noise]), {}

    def step(self, action):
        self._time += 1
        if self._time == self._step_of_error:
            raise ValueError("a leg fell off\nand more")
        if self._time == self._step_of_death:
            os._exit(3)
        assert self.action_space.contains(action)
        observation = np.array([self._time, *action, self._noise])
        return observation, 0.1 * self._time, self._time >= self._length, False, {}

    def render(self):
        assert self.render_mode == "rgb_array"
        return np.full((4, 6, 3), self._time, np.uint8)


class Odd(gymnasium.Env):
    """Spaces to look at, and nothing else."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        raise NotImplementedError("no legs")


gymnasium.register("Echo-v0", entry_point=Echo, max_episode_steps=5)
gymnasium.register("Dict-v0", lambda: Odd(spaces.Dict({"a": spaces.Discrete(2)}), spaces.Discrete(2)))
gymnasium.register("Many-v0", lambda: Odd(spaces.Discrete(3), spaces.MultiDiscrete([2, 2])))
gymnasium.register("Whole-v0", lambda: Odd(spaces.Discrete(3), spaces.Box(0, 5, (2,), np.int32)))
gymnasium.register("Still-v0", lambda: Odd(spaces.Discrete(3), spaces.Discrete(2)))


class Doubled(gymnasium.RewardWrapper):
    """Twice the reward."""

    def reward(self, reward):
        return 2 * reward


def wrap(env):
    return Doubled(env)
