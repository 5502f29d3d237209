"""Families of tasks, in the graph: `tasks/<id>`. An episode is played in one task, which the observation does not show.

| id                 | a task is                         | reward of a step                  | first state     | steps |
| point-robot        | a goal in the square [-1, 1]^2    | - distance to the goal            | in the square   | 20    |
| sparse-point-robot | a goal on the unit half circle    | 1 - distance within 0.2, else 0   | the origin      | 20    |
| pendulum           | mass and length of the pendulum,  | - (angle^2 + 0.1 speed^2          | any angle, slow | 200   |
|                    | each 1.5^u, u uniform in [-1, 1]  | + 0.001 torque^2)                 |                 |       |
| mountain-car       | power and gravity, gymnasium's    | - 0.1 force^2, and 100 at the     | in the valley,  | 999   |
|                    | times 1.5^u, and the goal in      | goal, which ends the episode      | at rest         |       |
|                    | [0.35, 0.55]                      |                                   |                 |       |

Point robots move by their action, of at most 0.1 in each direction, and see their position; the distance is measured
after the move. `point-robot` is that of PEARL (Rakelly et al. 2019, arXiv 1903.08254): goals from numpy's generator
with seed 1337, 80 tasks for training and 20 held out. The others are drawn with the same seed:
`sparse-point-robot` has 100 goals at even angles, shuffled. The pendulum is gymnasium's Pendulum-v1, the car its
MountainCarContinuous-v0; their ranges of tasks are purerl's own. Only the car's episodes end before their time limit,
which truncates them.

Every episode draws its task uniformly from the split. A task is a pytree of arrays: `of_task` makes the environment of
one, traced or not, so that many tasks are a `vmap`.

MuJoCo's robots are tasks too, but not in the graph: see `purerl.envs.robot_tasks`, to which `part` leads.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl import rng
from purerl.envs.pool_guard import INT32_MAX
from purerl.envs.robot_tasks import splits
from purerl.errors import PurerlError
from purerl.types import Array, Environment, EnvSpec, TimeStep

# As in PEARL's point-robot.
_SEED, _TRAIN, _TEST = 1337, 80, 20


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the families of tasks."""

    split: Literal["train", "test"] = "train"
    """Which tasks are played: the 80 for training, or the 20 held out."""

    num_tasks: int = 0
    """Only the first tasks of the split; 0 for all."""

    max_steps: int = 0
    """Time limit of an episode in steps; 0 for the family's own."""


@struct.dataclass
class State:
    """An episode of a task: the task's arrays, the body's state float32 [2], and the step, int32 []."""

    task: Any
    body: Array
    step: Array


class Family(NamedTuple):
    """What the tasks of an id share.

    Attributes:
      draw: numpy's RandomState -> the arrays of 100 tasks, [100, ...].
      begin: key -> the body's first state, float32 [2].
      move: (task, body, action [A]) -> (body, reward [], whether the rules end the episode: bool []).
      observe: body -> observation float32 [D].
      size: D.
      actions: A.
      bound: actions are in [-bound, bound].
      steps: time limit.
    """

    draw: Callable[[np.random.RandomState], Any]
    begin: Callable[[Array], Array]
    move: Callable[[Any, Array, Array], tuple[Array, Array, Array | bool]]
    observe: Callable[[Array], Array]
    size: int
    actions: int
    bound: float
    steps: int


# --- point robots ----------------------------------------------------------------------------------------------------


def _distance(goal: Array, position: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(position - goal)))


def _towards(goal: Array, position: Array, action: Array) -> tuple[Array, Array, bool]:
    position = position + action
    return position, -_distance(goal, position), False


def _found(goal: Array, position: Array, action: Array) -> tuple[Array, Array, bool]:
    position = position + action
    distance = _distance(goal, position)
    return position, jnp.where(distance <= 0.2, 1.0 - distance, 0.0), False


def _half_circle(random: np.random.RandomState) -> np.ndarray:
    angle = random.permutation(np.linspace(0, np.pi, _TRAIN + _TEST))
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


# --- pendulum --------------------------------------------------------------------------------------------------------


@struct.dataclass
class PendulumTask:
    """Mass and length of a pendulum, float32 []; both are 1 in gymnasium's."""

    mass: Array
    length: Array


def _pendulums(random: np.random.RandomState) -> PendulumTask:
    factor = 1.5 ** random.uniform(-1, 1, (_TRAIN + _TEST, 2))
    return PendulumTask(factor[:, 0], factor[:, 1])


def _swing(task: PendulumTask, body: Array, action: Array) -> tuple[Array, Array, bool]:
    """One step of 0.05 s by the semi-implicit Euler method, with gravity 10; the reward is of the state before it."""
    angle, speed, torque = body[0], body[1], action[0]
    cost = jnp.square((angle + jnp.pi) % (2 * jnp.pi) - jnp.pi) + 0.1 * jnp.square(speed) + 0.001 * jnp.square(torque)
    acceleration = 15.0 / task.length * jnp.sin(angle) + 3.0 / (task.mass * jnp.square(task.length)) * torque
    speed = jnp.clip(speed + 0.05 * acceleration, -8.0, 8.0)
    return jnp.stack([angle + 0.05 * speed, speed]), -cost, False


# --- mountain car ----------------------------------------------------------------------------------------------------


@struct.dataclass
class MountainCarTask:
    """Power of a car, gravity and the position of the goal, float32 []; in gymnasium 0.0015, 0.0025 and 0.45."""

    power: Array
    gravity: Array
    goal: Array


def _cars(random: np.random.RandomState) -> MountainCarTask:
    drawn = random.uniform(-1, 1, (_TRAIN + _TEST, 3))
    power, gravity = 0.0015 * 1.5 ** drawn[:, 0], 0.0025 * 1.5 ** drawn[:, 1]
    return MountainCarTask(power, gravity, 0.45 + 0.1 * drawn[:, 2])


def _drive(task: MountainCarTask, body: Array, action: Array) -> tuple[Array, Array, Array]:
    """One step of 1 s. The valley is at -pi/6, a wall at -1.2 stops the car, and so does the end at 0.6."""
    position, force = body[0], action[0]
    speed = jnp.clip(body[1] + task.power * force - task.gravity * jnp.cos(3 * position), -0.07, 0.07)
    position = jnp.clip(position + speed, -1.2, 0.6)
    speed = jnp.where((position == -1.2) & (speed < 0), 0.0, speed)
    arrived = (position >= task.goal) & (speed >= 0)
    return jnp.stack([position, speed]), jnp.where(arrived, 100.0, 0.0) - 0.1 * jnp.square(force), arrived


FAMILIES: dict[str, Family] = {
    "point-robot": Family(
        draw=lambda random: random.uniform(-1, 1, (_TRAIN + _TEST, 2)),
        begin=lambda key: jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0),
        move=_towards,
        observe=lambda body: body,
        size=2,
        actions=2,
        bound=0.1,
        steps=20,
    ),
    "sparse-point-robot": Family(
        draw=_half_circle,
        begin=lambda key: jnp.zeros(2, jnp.float32),
        move=_found,
        observe=lambda body: body,
        size=2,
        actions=2,
        bound=0.1,
        steps=20,
    ),
    "pendulum": Family(
        draw=_pendulums,
        begin=lambda key: jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0) * jnp.array([jnp.pi, 1.0], jnp.float32),
        move=_swing,
        observe=lambda body: jnp.stack([jnp.cos(body[0]), jnp.sin(body[0]), body[1]]),
        size=3,
        actions=1,
        bound=2.0,
        steps=200,
    ),
    "mountain-car": Family(
        draw=_cars,
        begin=lambda key: jnp.stack([jax.random.uniform(key, (), jnp.float32, -0.6, -0.4), jnp.float32(0)]),
        move=_drive,
        observe=lambda body: body,
        size=2,
        actions=1,
        bound=1.0,
        steps=999,
    ),
}


# --- the family of environments --------------------------------------------------------------------------------------


def names() -> list[str]:
    """All ids, those of the robots too."""
    return [*FAMILIES, *splits.SPLITS]


def part(name: str) -> Any:
    """The module that serves an id: this one, or that of the robots, which run on the host."""
    return importlib.import_module("purerl.envs.robot_tasks.family" if name in splits.SPLITS else __name__)


def tasks(name: str, options: Options | None = None) -> Any:
    """The tasks of a split, a pytree of float32 arrays [K, ...]. Raises PurerlError for options that do not fit."""
    options = options or Options()
    _check(options)
    drawn = FAMILIES[name].draw(np.random.RandomState(_SEED))
    first, number = {"train": (0, _TRAIN), "test": (_TRAIN, _TEST)}[options.split]
    number = options.num_tasks or number
    return jax.tree.map(lambda x: jnp.asarray(x[first : first + number], jnp.float32), drawn)


def make(name: str, options: Options | None = None) -> Environment:
    """The environment whose episodes draw their tasks from a split, unbatched."""
    among = tasks(name, options)
    number = jax.tree.leaves(among)[0].shape[0]

    def drawn(key: Array) -> Any:
        chosen = rng.below(rng.words(rng.stream(key, "task"), ()), number)
        return jax.tree.map(lambda x: x[chosen], among)

    return _environment(name, options or Options(), drawn)


def of_task(name: str, task: Any, options: Options | None = None) -> Environment:
    """The environment of one task, an entry of `tasks`; it may be traced."""
    return _environment(name, options or Options(), lambda key: task)


def episode_length(name: str, options: Options | None = None) -> int:
    """Steps of an episode."""
    return (options or Options()).max_steps or FAMILIES[name].steps


def _check(options: Options) -> None:
    most = {"train": _TRAIN, "test": _TEST}.get(options.split)
    if most is None:
        raise PurerlError(f"--env.split = {options.split!r} must be train or test")
    if type(options.num_tasks) is not int or not 0 <= options.num_tasks <= most:
        raise PurerlError(f"--env.num-tasks = {options.num_tasks!r} must be an integer from 0 (all) to {most}")
    if type(options.max_steps) is not int or not 0 <= options.max_steps <= INT32_MAX:
        raise PurerlError(f"--env.max-steps = {options.max_steps!r} must be an integer from 0 to {INT32_MAX}")


def _environment(name: str, options: Options, draw: Callable[[Array], Any]) -> Environment:
    """The environment whose episodes are played in the task draw(key)."""
    _check(options)
    family = FAMILIES[name]
    limit = episode_length(name, options)
    spec = EnvSpec(
        name=f"tasks/{name}",
        observation_shape=(family.size,),
        observation_dtype="float32",
        num_actions=0,
        action_shape=(family.actions,),
        action_low=-family.bound,
        action_high=family.bound,
    )

    def reset(key: Array) -> tuple[State, Array]:
        state = State(draw(key), family.begin(rng.stream(key, "body")), jnp.zeros((), jnp.int32))
        return state, family.observe(state.body)

    def step(key: Array, state: State, action: Array) -> tuple[State, TimeStep]:
        action = jnp.clip(action, -family.bound, family.bound)
        body, reward, terminated = family.move(state.task, state.body, action)
        moved = State(state.task, body, state.step + 1)
        truncated = (moved.step >= limit) & jnp.logical_not(terminated)
        ended = terminated | truncated
        fresh, first = reset(key)
        following = jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, moved)
        final = family.observe(body)
        return following, TimeStep(
            observation=jnp.where(ended, first, final),
            reward=reward.astype(jnp.float32),
            terminated=jnp.asarray(terminated),
            truncated=truncated,
            final_observation=final,
        )

    return Environment(spec, reset, step)
