"""Fruitbot: fly upwards, eat fruit, avoid other food and walls, shoot keys at locked doors, reach the presents.

A fruit is worth 1, other food -4, a present 10. The agent rises by itself, so its height depends on the time alone:
heights, and all that a frame needs of them, are tables. What stands still is a list of boxes per level.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bodies, frames, sampling, scroll
from purerl.envs.procgen_jax.moves import of_level, push
from purerl.envs.procgen_jax.states import RX, RY, THEME, TYPE, LibraryState, X, Y
from purerl.types import Array

SPACE, AGENT, BARRIER, BORDER, BULLET, BAD, GOOD, DOOR, LOCK, PRESENT = 100, 0, 1, 2, 3, 4, 7, 10, 11, 12
EXACT = "exact: rules, levels and frames"
TIMEOUT = 1000
SIZES = {"easy": (10, 10), "hard": (20, 20)}  # width and height in cells, of what the agent sees
PLANES = ("barrier", "door", "lock", "food", "fruit", "present", "key", "agent")
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 20_000  # 2 KB each
CENTRED = True  # frames follow the agent
SHAPED_BY = ("restrict_themes",)  # options that the sizes of things depend on

_HEIGHT = 60  # cells of a level
_MOST = {10: 58, 20: 98}  # things in a level, by its width
_STATIC = (BARRIER, DOOR, LOCK, BAD, GOOD, PRESENT)
_RADIUS, _BULLET_RADIUS = np.float32(0.4), np.float32(0.25)
_CORNER = _RADIUS * np.float32(0.98)
_PUSH = np.float32(0.5) * np.float32(0.85)
_RISE = _PUSH * np.float32(0.2)
_BULLET_SPEED = np.float32(0.5)
_BULLETS, _BULLET_STEPS = 2, 8
_FIRES = 9  # the action
_FAR = -9.0
_LOOK = scroll.Look(
    pictures={
        (BARRIER, 0): "misc_assets/tileStone_slope.png",
        (BORDER, 0): "misc_assets/tileStone_slope.png",
        (BULLET, 0): "misc_assets/keyRed2.png",
        **{(BAD, theme): f"misc_assets/food{theme + 1}.png" for theme in range(6)},
        **{(GOOD, theme): f"misc_assets/fruit{theme + 1}.png" for theme in range(6)},
        (DOOR, 0): "misc_assets/fenceYellow.png",
        (LOCK, 0): "misc_assets/lockRed2.png",
        **{(PRESENT, theme): f"misc_assets/present{theme + 1}.png" for theme in range(3)},
    },
    agent=("misc_assets/robot_3Dblue.png", _RADIUS, -90.0),
    bullet=BULLET,
    border=BORDER,
    tiles={BARRIER: 1.0, DOOR: 3.25},
    height=_HEIGHT,
)


@struct.dataclass
class State:
    """One game. Positions are in cells, y upwards; B bullets, the newest first.

    Attributes:
      time: int32 [], steps of the episode; the agent's height depends on it.
      x, speed: float32 [], of the agent.
      there: bool [E], which of the level's things are still there.
      bullets: float32 [B, 2]; ages: int32 [B], steps since they were shot, -1 for none.
      fired: int32 [], when the last bullet was shot.
    """

    time: Array
    x: Array
    speed: Array
    there: Array
    bullets: Array
    ages: Array
    fired: Array


@functools.cache
def heights() -> np.ndarray:
    """float32 [T], the agent's height at each time, until it is out of the world; the presents end the level before."""
    y, speed, found = _RADIUS, np.float32(0), []
    while y < _HEIGHT:
        found.append(y)
        speed = np.float32(0.9 * np.float64(np.float32(0.5) * speed + _RISE))
        for _ in range(bodies.SUB_STEPS):
            y = y + speed / np.float32(bodies.SUB_STEPS)
    return np.array(found, np.float32)


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    boxes: float32 [E, 4], x, y and the two radii of each thing, in the order of their heights; kind, theme: int8 [E].
    start: float32 []. door_of: int8 [E], the number of the door that a lock opens. background: int8 [].
    """
    most = _MOST[state.grid.shape[1]]
    entities = np.flatnonzero(np.isin(state.entities[:, TYPE], _STATIC))
    assert len(entities) <= most, f"a level of fruitbot has {len(entities)} things"
    place = state.floats(X, Y, RX, RY)[entities]
    order = np.argsort(place[:, 1], kind="stable")
    boxes = np.full((most, 4), _FAR, np.float32)
    boxes[:, 1], boxes[:, 2:] = 1000.0, 0.0
    kind, theme, door_of = (np.zeros(most, np.int8) for _ in range(3))
    boxes[: len(entities)] = place[order]
    kind[: len(entities)] = state.entities[entities, TYPE][order]
    theme[: len(entities)] = state.entities[entities, THEME][order]
    doors = np.flatnonzero(kind == DOOR)
    for lock in np.flatnonzero(kind == LOCK):
        door_of[lock] = doors[np.abs(boxes[doors, 1] - boxes[lock, 1]) < 1][0]
    return {
        "boxes": boxes,
        "kind": kind,
        "theme": theme,
        "door_of": door_of,
        "start": state.floats(X)[0, 0],
        "background": np.int8(state.numbers["background_index"]),
    }


STILLS: dict[str, Any] = {}


def sprites(camera: frames.Camera) -> dict[str, Any]:
    """See `scroll.tables`."""
    return scroll.tables(camera, _LOOK, heights()) | {"heights": heights()}


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""
    return State(
        time=jnp.zeros((), jnp.int32),
        x=of_level(bank, "start", level),
        speed=jnp.zeros((), jnp.float32),
        there=of_level(bank, "kind", level) > 0,
        bullets=jnp.zeros((_BULLETS, 2), jnp.float32),
        ages=jnp.full(_BULLETS, -1, jnp.int32),
        fired=jnp.zeros((), jnp.int32),
    )


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    boxes, kind = of_level(bank, "boxes", level), of_level(bank, "kind", level)
    time = state.time + 1
    y = jnp.asarray(heights()).at[time].get(mode="clip")
    width = _width(len(kind))
    x, speed = _moved(state.x, state.speed, push(action)[0], width)

    def touched(x: Array, y: Array, radius: np.float32) -> Array:
        reach = boxes[:, 2] + radius, boxes[:, 3] + radius
        return state.there & bodies.overlap(x, y, (boxes[:, 0], boxes[:, 1]), reach)

    # Bullets, the newest first. A lock that is hit takes its door along; what is gone still counts in this step.
    ages = jnp.where(state.ages >= 0, state.ages + 1, -1)
    bullets = state.bullets + jnp.array([[0, _BULLET_SPEED]])
    flies = (ages >= 0) & (ages <= _BULLET_STEPS)
    opened = jnp.zeros_like(state.there)
    kept = []
    for bullet in range(_BULLETS):
        at = touched(bullets[bullet, 0], bullets[bullet, 1], _BULLET_RADIUS) & flies[bullet] & ~opened
        locks = at & (kind == LOCK)
        opened = opened | locks
        kept.append(flies[bullet] & ~locks.any() & ~(at & (kind == BARRIER)).any())
    inside = bullets[:, 1] - _BULLET_RADIUS <= _HEIGHT
    ages = jnp.where(jnp.stack(kept) & inside, ages, -1)
    doors = of_level(bank, "door_of", level).astype(jnp.int32)
    number = jnp.arange(len(kind))
    opened = opened | (opened[:, None] & (number[None] == doors[:, None])).any(axis=0)

    # What the agent touches.
    hit = touched(x, y, _RADIUS)
    fruit, food, presents = ((hit & (kind == what)).sum(dtype=jnp.int32) for what in (GOOD, BAD, PRESENT))
    reward = (fruit - 4 * food + 10 * presents).astype(jnp.float32)
    crashed = (hit & ((kind == BARRIER) | (kind == DOOR))).any()
    won = presents > 0
    there = state.there & ~opened & ~(hit & ((kind == GOOD) | (kind == BAD)))

    fires = (action == _FIRES) & (time - state.fired >= _BULLET_STEPS)
    shot = jnp.stack([x, y])
    bullets = jnp.where(fires, jnp.stack([shot, bullets[0]]), bullets)
    ages = jnp.where(fires, jnp.stack([jnp.int32(0), ages[0]]), ages)
    after = State(time, x, speed, there, bullets, ages, jnp.where(fires, time, state.fired))
    return after, reward, crashed | won, won


def _width(things: int) -> int:
    """Cells in a row of levels with so many things."""
    return {most: width for width, most in _MOST.items()}[things]


def _moved(x: Array, speed: Array, push: Array, width: int) -> tuple[Array, Array]:
    """(x, speed) after four moves to the side; the sides of the world stop the agent."""
    speed = bodies.accelerated(speed, _PUSH * push.astype(jnp.float32))
    distance = speed * jnp.float32(1 / bodies.SUB_STEPS)
    free = jnp.zeros((), jnp.float32)
    left, right = _RADIUS, np.float32(width) - _RADIUS
    for _ in range(bodies.SUB_STEPS):
        to = x + distance
        stops = (distance != 0) & ((to - _CORNER < 0) | (to + _CORNER >= width))
        x = jnp.where(stops, jnp.where(distance > 0, right, left), to)
        free = free + jnp.where(stops, jnp.float32(0), jnp.float32(1))
    return x, bodies.rounded(speed * (free * jnp.float32(1 / bodies.SUB_STEPS)))


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: see `scroll.frame`."""
    bullets = state.bullets, state.ages >= 0
    return scroll.frame(bank, _LOOK, level, state.time, state.there, bullets, state.x)


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], of the cells that a frame shows: columns
    of the level, and rows from twice the agent's radius below its centre upwards. Row 0 is the lowest.
    """
    boxes, kind = of_level(bank, "boxes", level), of_level(bank, "kind", level)
    width = _width(len(kind))
    y = jnp.asarray(heights()).at[state.time].get(mode="clip")
    base = y - 2 * _RADIUS

    def covered(x: Array, y: Array, rx: Array, ry: Array, shown: Array) -> Array:
        return sampling.covered((x - rx, x + rx), (y - base - ry, y - base + ry), shown, width, width)

    found = covered(*boxes.T, jnp.stack([state.there & (kind == what) for what in _STATIC]))
    small = jnp.full(_BULLETS, _BULLET_RADIUS)
    bullets = covered(state.bullets[:, 0], state.bullets[:, 1], small, small, state.ages[None] >= 0)
    radius = jnp.full(1, _RADIUS)
    agent = covered(state.x[None], y[None], radius, radius, jnp.ones((1, 1), jnp.bool_))
    return jnp.concatenate([found, bullets, agent], axis=-1)
