"""Starpilot: shoot what flies towards you, and keep away from it. What is shot is worth 1, the finish 10.

What comes, and when, is decided when a level is made: each level has a list of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bodies, sampling
from purerl.envs.procgen_jax.moves import is_even, of_level, push
from purerl.envs.procgen_jax.states import (
    FIRE_TIME,
    HEALTH,
    RX,
    RY,
    SPAWN_TIME,
    TYPE,
    VX,
    VY,
    LibraryState,
    X,
    Y,
)
from purerl.types import Array

SPACE, FLYER_BULLET, TURRET_BULLET, FLYER, METEOR, CLOUD, TURRET, FAST_FLYER, FINISH = 100, 2, 3, 4, 5, 6, 7, 8, 9
EXACT = "exact: rules and levels; no frames yet, symbolic observations only"
TIMEOUT = 1000
SIZES = {"easy": (16, 16), "hard": (16, 16)}  # width and height in cells
PLANES = ("flyer", "fast flyer", "turret", "meteor", "cloud", "enemy bullet", "own bullet", "finish", "agent")
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 10_000  # 5 KB each
CENTRED = False  # frames show the whole level
SHAPED_BY = ("restrict_themes",)  # options that the sizes of things depend on

_SIZE = 16  # cells in a row and in a column
_MOST, _ENEMY_BULLETS, _BULLETS = 128, 16, 24  # things in a level, bullets at the same time
_AT_ONCE = 8  # shots in a step
_NEVER = 32_000  # a step after all others
_PUSH = np.float32(0.5) * np.float32(0.75)  # half of the highest speed
_RADIUS = np.float32(0.4)  # of the agent, and of bullets
_CORNER = _RADIUS * bodies.CORNER
_UNIT = np.float32(0.4)  # of speeds
_FAST = 2 * _UNIT  # cells a step of own bullets and those of turrets
FINISH_TIME, _FINISH_SPEED, _FINISH_RADIUS = 500, np.float32(-0.2), np.float32(8)
_NO_FINISH = -100.0  # where it is before it comes
_SPECIAL, _BACKWARDS = 9, 10  # actions from the first on shoot; the second shoots to the left
_TURN = np.float64(np.float32(np.pi))
_TARGETS = (FLYER, FAST_FLYER, TURRET, METEOR)  # what own bullets hit, and what ends an episode
_ROCKETS = [f"misc_assets/spaceRockets_00{number}.png" for number in range(1, 5)]  # the finish is one of them


@struct.dataclass
class State:
    """One game. Positions are in cells, y upwards; S things of a level, Q enemy bullets, P own ones, the newest first.

    Attributes:
      time: int32 [], steps of the episode.
      position, velocity: float32 [2], the agent's (x, y).
      place: float32 [2, S], (x, y) of what has come; health: float32 [S].
      there, dying: bool [S], what is in the world, and what is shot and goes in the next step.
      enemy_bullets: float32 [4, Q], (x, y) and velocity; enemy_kind: int32 [Q], 0 for none.
      bullets: float32 [4, P]; flies: bool [P].
      finish: float32 [], x of the finish, far on the left before it comes.
    """

    time: Array
    position: Array
    velocity: Array
    place: Array
    health: Array
    there: Array
    dying: Array
    enemy_bullets: Array
    enemy_kind: Array
    bullets: Array
    flies: Array
    finish: Array


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    start: float32 [2]. time, fire: int16 [S], when each thing comes and how often it fires; box: float32 [4, S], place
    and radii; speed: float32 [2, S]; kind: int8 [S]; health: float32 [S]. finish: float32 [], its radius along x.
    flyer_bullet: float32 [], how fast a flyer's bullet is. even: uint8 [125], a bit for each step.
    """
    spawners = state.lists["spawners"][::-1]
    number = len(spawners)
    assert number <= _MOST, f"a level of starpilot has {number} things"
    floats = spawners.view(np.float32)

    def column(*words: int) -> np.ndarray:
        found = np.zeros((len(words), _MOST), np.float32)
        found[:, :number] = floats[:, list(words)].T
        return found

    def whole(word: int, none: int, dtype: Any) -> np.ndarray:
        found = np.full(_MOST, none, dtype)
        found[:number] = spawners[:, word].view(np.int32)
        return found

    draws = state.draws(TIMEOUT + 1)
    theme = int(draws[FINISH_TIME] % len(_ROCKETS))  # one more than in the other steps
    _, sizes = sampling.read(_ROCKETS)
    height, width = sizes[0 if state.numbers["restrict_themes"] else theme].astype(np.float32)
    even = np.delete(draws, FINISH_TIME) % 1_000_000 % 2 == 0
    is_easy = state.numbers["distribution_mode"] == 0
    together = _most_shots(*spawners[:, [SPAWN_TIME, FIRE_TIME, TYPE]].astype(int).T)
    assert together <= _AT_ONCE, f"{together} things of a level of starpilot shoot in one step"
    return {
        "start": state.floats(X, Y)[0],
        "time": whole(SPAWN_TIME, _NEVER, np.int16),
        "fire": whole(FIRE_TIME, 0, np.int16),
        "box": column(X, Y, RX, RY),
        "speed": column(VX, VY),
        "kind": whole(TYPE, 0, np.int8),
        "health": column(HEALTH)[0],
        "finish": _FINISH_RADIUS * (width / height),
        "flyer_bullet": np.float32(1.25 if is_easy else 2) * _UNIT,
        "even": np.packbits(even, bitorder="little"),
    }


def _most_shots(comes: np.ndarray, fire: np.ndarray, kind: np.ndarray) -> int:
    """At most so many things [S] of a level shoot in one step, if none is shot or leaves the world."""
    age = np.arange(1, TIMEOUT + 1)[:, None] - comes[None]
    repeats = (kind == TURRET) & (fire > 0)
    is_due = np.where(repeats, age % np.maximum(fire, 1) == 0, age == fire) & (fire > 0) & (age > 0)
    return int(is_due.sum(axis=1).max(initial=0))


STILLS: dict[str, Any] = {}


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""
    box, health = of_level(bank, "box", level), of_level(bank, "health", level)
    nothing = jnp.zeros(health.shape, jnp.bool_)
    return State(
        time=jnp.zeros((), jnp.int32),
        position=of_level(bank, "start", level),
        velocity=jnp.zeros(2, jnp.float32),
        place=box[:2],
        health=health,
        there=nothing,
        dying=nothing,
        enemy_bullets=jnp.zeros((4, _ENEMY_BULLETS), jnp.float32),
        enemy_kind=jnp.zeros(_ENEMY_BULLETS, jnp.int32),
        bullets=jnp.zeros((4, _BULLETS), jnp.float32),
        flies=jnp.zeros(_BULLETS, jnp.bool_),
        finish=jnp.full((), _NO_FINISH, jnp.float32),
    )


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    time, pushes = state.time + 1, jnp.stack(push(action))
    even = is_even(bank, level, state.time)
    velocity = bodies.accelerated(state.velocity, _PUSH * pushes.astype(jnp.float32))
    position, velocity = bodies.moved_within(_SIZE, state.position, velocity, pushes, even, _RADIUS, _CORNER)
    moved = state.replace(
        time=time,
        position=position,
        velocity=velocity,
        place=state.place + jnp.where(state.there, of_level(bank, "speed", level), 0),
        enemy_bullets=state.enemy_bullets.at[:2].add(state.enemy_bullets[2:]),
        bullets=state.bullets.at[:2].add(state.bullets[2:]),
        finish=state.finish + jnp.where(time > FINISH_TIME, _FINISH_SPEED, 0),
    )
    radius = of_level(bank, "finish", level)
    reach = radius + _RADIUS, _FINISH_RADIUS + _RADIUS
    won = bodies.overlap(position[0], position[1], (moved.finish, _FINISH_RADIUS), reach)
    is_hit = _is_hit(bank, level, moved)
    after = _left(bank, level, _with_hits(bank, level, moved))
    after, points = _fought(bank, level, after)
    after = _shot(after, action)
    after = after.replace(finish=jnp.where(time == FINISH_TIME, _SIZE + radius, after.finish))
    reward = points.astype(jnp.float32) + jnp.where(won, jnp.float32(10), jnp.float32(0))
    return after, reward, is_hit | won | bodies.is_outside(_SIZE, position, _RADIUS), won


def _targets(bank: dict[str, Any], level: Array) -> Array:
    """bool [S], which things of a level can be shot."""
    return (of_level(bank, "kind", level)[None] == np.array(_TARGETS, np.int8)[:, None]).any(axis=0)


def _is_hit(bank: dict[str, Any], level: Array, state: State) -> Array:
    """Whether something touches the agent that ends the episode, bool []; what is dying does, too."""
    x, y = state.position
    _, _, rx, ry = of_level(bank, "box", level)
    things = bodies.overlap(x, y, tuple(state.place), (rx + _RADIUS, ry + _RADIUS))
    bullets = bodies.overlap(x, y, tuple(state.enemy_bullets[:2]), (_RADIUS + _RADIUS, _RADIUS + _RADIUS))
    return (things & state.there & _targets(bank, level)).any() | (bullets & (state.enemy_kind > 0)).any()


def _with_hits(bank: dict[str, Any], level: Array, state: State) -> State:
    """Own bullets hit, each the thing that came last of those that it meets; that loses health, the bullet is gone."""
    _, _, rx, ry = (numbers[None] for numbers in of_level(bank, "box", level))
    reach = rx + _RADIUS, ry + _RADIUS
    meets = bodies.overlap(state.bullets[0][:, None], state.bullets[1][:, None], tuple(state.place[:, None]), reach)
    meets = meets & (state.there & ~state.dying & _targets(bank, level))[None] & state.flies[:, None]
    is_last = meets & (jnp.cumsum(meets[:, ::-1], axis=1, dtype=jnp.int32)[:, ::-1] == 1)
    health = state.health - is_last.sum(axis=0, dtype=jnp.int32)
    return state.replace(health=health, flies=state.flies & ~meets.any(axis=1))


def _left(bank: dict[str, Any], level: Array, state: State) -> State:
    """Without what was dying, and what has left the world."""

    def inside(x: Array, y: Array, rx: Any = _RADIUS, ry: Any = _RADIUS) -> Array:
        return (x + rx >= 0) & (y + ry >= 0) & (x - rx <= _SIZE) & (y - ry <= _SIZE)

    _, _, rx, ry = of_level(bank, "box", level)
    return state.replace(
        there=state.there & ~state.dying & inside(*state.place, rx, ry),
        enemy_kind=jnp.where(inside(*state.enemy_bullets[:2]), state.enemy_kind, 0),
        flies=state.flies & inside(*state.bullets[:2]),
    )


def _fought(bank: dict[str, Any], level: Array, state: State) -> tuple[State, Array]:
    """(State, points int32 []): things shoot at the agent; what has no health left is dying; new things come."""
    comes, fire = (of_level(bank, name, level).astype(jnp.int32) for name in ("time", "fire"))
    age, is_turret = state.time - comes, of_level(bank, "kind", level) == TURRET
    is_due = jnp.where(is_turret, age % jnp.maximum(fire, 1) == 0, age == fire)
    speeds = jnp.where(is_turret, _FAST, of_level(bank, "flyer_bullet", level))
    kinds = jnp.where(is_turret, TURRET_BULLET, FLYER_BULLET)
    bullets, kind = _fired(state, state.there & (fire > 0) & is_due, speeds, kinds)
    dying = state.there & _targets(bank, level) & (state.health <= 0)
    there = state.there | (comes == state.time)
    after = state.replace(there=there, dying=dying, enemy_bullets=bullets, enemy_kind=kind)
    return after, dying.sum(dtype=jnp.int32)


def _fired(state: State, fires: Array, speeds: Array, kinds: Array) -> tuple[Array, Array]:
    """(enemy bullets, their kinds) after things [S] with `fires` have shot at the agent, with speeds [S]."""

    def shoot(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        bullets, kind, fires = carry
        which = jnp.argmax(fires)
        away = state.position - state.place[:, which]
        square = bodies.rounded(away * away)
        with jax.enable_x64(True):
            distance = jnp.sqrt((square[0] + square[1]).astype(jnp.float64))
            share = (speeds[which].astype(jnp.float64) / distance).astype(jnp.float32)
        new, is_any, empty = jnp.concatenate([state.place[:, which], away * share]), fires.any(), kind == 0
        bullets = bodies.put_first(is_any, empty, new, bullets)
        kind = bodies.put_first(is_any, empty, kinds[which], kind)
        return bullets, kind, fires & (jnp.arange(len(fires)) != which)

    return jax.lax.fori_loop(0, _AT_ONCE, shoot, (state.enemy_bullets, state.enemy_kind, fires))[:2]


def _shot(state: State, action: Array) -> State:
    """With the bullet that an action shoots, to the right or to the left."""
    is_back = action == _BACKWARDS
    speed = float(_FAST) * np.array([[1, 0], [np.cos(_TURN), np.sin(_TURN)]])
    velocity = jnp.where(is_back, *speed[::-1].astype(np.float32))
    x, y = state.position
    new = jnp.concatenate([jnp.stack([x + jnp.where(is_back, -_RADIUS, _RADIUS), y]), velocity])
    shoots, empty = action >= _SPECIAL, ~state.flies
    return state.replace(
        bullets=bodies.put_first(shoots, empty, new, state.bullets),
        flies=bodies.put_first(shoots, empty, jnp.ones((), jnp.bool_), state.flies),
    )


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], row 0 the lowest."""
    kind, (_, _, *radii) = of_level(bank, "kind", level), of_level(bank, "box", level)

    def covered(x: Array, y: Array, rx: Any, ry: Any, shown: Array) -> Array:
        return sampling.covered((x - rx, x + rx), (y - ry, y + ry), shown, _SIZE, _SIZE)

    one, width = jnp.ones(1, jnp.bool_), of_level(bank, "finish", level)
    things = (FLYER, FAST_FLYER, TURRET, METEOR, CLOUD)
    found = [covered(*state.place, *radii, state.there & (kind == what)) for what in things]
    found += [
        covered(*state.enemy_bullets[:2], _RADIUS, _RADIUS, state.enemy_kind > 0),
        covered(*state.bullets[:2], _RADIUS, _RADIUS, state.flies),
        covered(state.finish[None], _FINISH_RADIUS * one, width, _FINISH_RADIUS, one),
        covered(state.position[:1], state.position[1:], _RADIUS, _RADIUS, one),
    ]
    return jnp.stack(found, axis=-1)
