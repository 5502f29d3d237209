"""Which tasks the robots have: how many for training and held out, and how they are drawn.

| id            | a task is                                                                     | train, test |
| cheetah-dir   | a direction, -1 or 1                                                          | the same 2  |
| cheetah-vel   | a speed, uniform in [0, 3]                                                    | 100, 30     |
| ant-dir       | an angle, 0 or pi                                                             | the same 2  |
| ant-goal      | a goal, at the angle 2 pi u and the radius 3 sqrt(u)                          | 150, 30     |
| walker-params | factors of each body's mass, inertia and friction, 1.5^u, and of each joint's | 40, 10      |
|               | damping, 1.3^u, u uniform in [-3, 3]                                          |             |

The numbers are those of MQL's published commands (Fakoor et al. 2020, arXiv 1910.00125). All tasks of an id are drawn
at once, by numpy's generator with seed 1337; the held-out ones are the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from purerl.errors import PurerlError

_SEED = 1337
Tasks = dict[str, np.ndarray]  # arrays of K tasks, [K, ...] each


class Split(NamedTuple):
    """The tasks of an id.

    Attributes:
      train, test: how many there are. If `same`, both are the same tasks.
      draw: (generator, K) -> K tasks.
      same: whether the tasks for training are also those held out.
    """

    train: int
    test: int
    draw: Callable[[np.random.RandomState, int], Tasks]
    same: bool = False


def _goals(random: np.random.RandomState, number: int) -> Tasks:
    angle, radius = random.random_sample(number) * 2 * np.pi, 3 * np.sqrt(random.random_sample(number))
    return {"goal": np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)}


# Fields of MuJoCo's model of the walker: (shape, base of the factors). The world and the floor count as bodies.
_PHYSICS = {
    "body_mass": ((8,), 1.5),
    "body_inertia": ((8, 3), 1.5),
    "dof_damping": ((9,), 1.3),
    "geom_friction": ((8, 3), 1.5),
}


def _factors(random: np.random.RandomState, number: int) -> Tasks:
    """Factors of each number in the fields of `_PHYSICS`, task after task."""
    drawn = [
        {name: base ** random.uniform(-3, 3, shape) for name, (shape, base) in _PHYSICS.items()} for _ in range(number)
    ]
    return {name: np.stack([one[name] for one in drawn]) for name in _PHYSICS}


SPLITS: dict[str, Split] = {
    "cheetah-dir": Split(2, 2, lambda random, number: {"direction": np.array([-1.0, 1.0])}, same=True),
    "cheetah-vel": Split(100, 30, lambda random, number: {"speed": random.uniform(0, 3, number)}),
    "ant-dir": Split(2, 2, lambda random, number: {"angle": np.array([0.0, np.pi])}, same=True),
    "ant-goal": Split(150, 30, _goals),
    "walker-params": Split(40, 10, _factors),
}


@functools.cache
def every(name: str) -> Tasks:
    """All tasks of an id, those for training first."""
    split = SPLITS[name]
    return split.draw(np.random.RandomState(_SEED), split.train if split.same else split.train + split.test)


def rows(name: str, split: str, num_tasks: int) -> tuple[int, int]:
    """(first, number) of the rows of `every` that a split has, or its first `num_tasks`; 0 is all of them.

    Raises PurerlError for an unknown split, or more tasks than it has.
    """
    known = SPLITS[name]
    most = {"train": known.train, "test": known.test}.get(split)
    if most is None:
        raise PurerlError(f"--env.split = {split!r} must be train or test")
    if type(num_tasks) is not int or not 0 <= num_tasks <= most:
        raise PurerlError(f"--env.num-tasks = {num_tasks!r} must be an integer from 0 (all) to {most}")
    return (known.train if split == "test" and not known.same else 0), num_tasks or most
