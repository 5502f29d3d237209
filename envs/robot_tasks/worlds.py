"""How a robot's task is played: gymnasium's environment with the task's own reward, or its own physics.

| id            | gymnasium's    | reward of a step (a is the action)                  | sees | ends      |
| cheetah-dir   | HalfCheetah-v5 | direction x speed - 0.05 |a|^2                      | 20   | never     |
| cheetah-vel   | HalfCheetah-v5 | - |speed - the task's| - 0.05 |a|^2                 | 20   | never     |
| ant-dir       | Ant-v5         | speed in the direction - 0.5 |a|^2 - contact + 1    | 27   | unhealthy |
| ant-goal      | Ant-v5         | - |x - goal x| - |y - goal y| - 0.1 |a|^2 - contact | 107  | never     |
| walker-params | Walker2d-v5    | speed - 0.001 |a|^2 + 1                             | 17   | unhealthy |

contact is 5e-4 times the sum of squared contact forces, clipped to 1. Unhealthy is gymnasium's word: an ant whose torso
is not between 0.2 and 1, a walker not between 0.8 and 2 or tilted by 1. All have a time limit of 200 steps, which
truncates.

These are the tasks of PEARL (Rakelly et al. 2019) and MQL, which ran on MuJoCo 1.5 or older, and on older models. Three
more things differ: the ant sees 78 contact forces, not the world's, which are always 0 (the original sees 113 numbers);
the ant is where it is after a step, not one substep before; the walker's two feet have the same friction.

Nothing here imports jax, because the worker processes import it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from purerl.envs.robot_tasks import splits

STEPS = 200
_TORSO = "torso"


class World(NamedTuple):
    """What the tasks of an id share.

    Attributes:
      robot: gymnasium's id.
      kwargs: of its constructor.
      reward: (task, gymnasium's info of the step) -> the step's reward.
      sees_torso: whether the torso's position [3] is seen, after what gymnasium's robot sees.
      changes_physics: whether a task is factors of fields of MuJoCo's model.
    """

    robot: str
    kwargs: dict[str, Any]
    reward: Callable[[dict[str, np.ndarray], dict[str, Any]], float]
    sees_torso: bool = False
    changes_physics: bool = False


def _distance(goal: np.ndarray, info: dict[str, Any]) -> float:
    return abs(info["x_position"] - goal[0]) + abs(info["y_position"] - goal[1])


def _towards(angle: float, info: dict[str, Any]) -> float:
    return info["x_velocity"] * np.cos(angle) + info["y_velocity"] * np.sin(angle)


_CHEETAH = {"ctrl_cost_weight": 0.05}

WORLDS: dict[str, World] = {
    "cheetah-dir": World(
        "HalfCheetah-v5",
        _CHEETAH,
        lambda task, info: task["direction"] * info["x_velocity"] + info["reward_ctrl"],
        sees_torso=True,
    ),
    "cheetah-vel": World(
        "HalfCheetah-v5",
        _CHEETAH,
        lambda task, info: -abs(info["x_velocity"] - task["speed"]) + info["reward_ctrl"],
        sees_torso=True,
    ),
    "ant-dir": World(
        "Ant-v5",
        {"ctrl_cost_weight": 0.5, "include_cfrc_ext_in_observation": False},
        lambda task, info: _towards(task["angle"], info) + info["reward_ctrl"] + info["reward_contact"] + 1.0,
    ),
    "ant-goal": World(
        "Ant-v5",
        {
            "ctrl_cost_weight": 0.1,
            "terminate_when_unhealthy": False,
            "exclude_current_positions_from_observation": False,
        },
        lambda task, info: -_distance(task["goal"], info) + info["reward_ctrl"] + info["reward_contact"],
    ),
    "walker-params": World(
        "Walker2d-v5",
        {"ctrl_cost_weight": 1e-3},
        lambda task, info: info["x_velocity"] + info["reward_ctrl"] + 1.0,
        changes_physics=True,
    ),
}


class InTasks(gymnasium.Wrapper):
    """Plays every episode in one of the tasks `first`, ..., `first + number - 1` of an id, drawn uniformly.

    Tasks are drawn by a generator of their own, seeded with the environment. So an episode begins as gymnasium's does
    with that seed.

    Attributes:
      row: of the running episode's task in `splits.every`.
    """

    def __init__(self, env: gymnasium.Env, name: str, first: int, number: int):
        super().__init__(env)
        self.row = first
        self._name, self._first, self._number = name, first, number
        self._random: np.random.Generator | None = None
        world = WORLDS[name]
        if world.sees_torso:
            size = env.observation_space.shape[0] + 3
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self._physics: dict[str, np.ndarray] = {}
        if world.changes_physics:
            self._physics = {name: getattr(env.unwrapped.model, name).copy() for name in splits.every(name)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draws a task and begins an episode in it."""
        if seed is not None or self._random is None:
            self._random = np.random.default_rng(None if seed is None else [seed, 1])
        self.row = self._first + int(self._random.integers(self._number))
        self.restored()
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A step of gymnasium's robot, with the task's reward."""
        observation, _, terminated, truncated, info = self.env.step(action)
        return self._seen(observation), float(WORLDS[self._name].reward(self.task, info)), terminated, truncated, info

    @property
    def task(self) -> dict[str, np.ndarray]:
        """The running episode's task."""
        return {name: values[self.row] for name, values in splits.every(self._name).items()}

    def restored(self) -> None:
        """Gives MuJoCo's model the task's physics; `saving.load` calls it before it loads MuJoCo's data."""
        if self._physics:
            scale(self.unwrapped.model, self.unwrapped.data, self._physics, self.task)

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        if not WORLDS[self._name].sees_torso:
            return observation
        return np.concatenate([observation, self.unwrapped.data.body(_TORSO).xpos])


def scale(model: Any, data: Any, physics: dict[str, np.ndarray], factors: dict[str, np.ndarray]) -> None:
    """Sets fields of MuJoCo's model to physics x factors, and all that follows from them. `data` must then be reset."""
    import mujoco

    for name, factor in factors.items():
        getattr(model, name)[...] = physics[name] * factor
    mujoco.mj_setConst(model, data)


def wrap(env: gymnasium.Env, *, name: str, first: int, number: int) -> gymnasium.Env:
    """gymnasium's robot in the tasks of a split."""
    return InTasks(env, name, first, number)


def wrap_one(env: gymnasium.Env, seed_index: int, *, name: str, first: int) -> gymnasium.Env:
    """gymnasium's robot in the task of a seed: the k-th seed of a pool plays the k-th task from `first`."""
    return InTasks(env, name, first + seed_index, 1)
