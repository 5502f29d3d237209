"""Starpilot: shoot what flies towards you, and keep away from it. What is shot is worth 1, the finish 10.

What comes, and when, is decided when a level is made: each level has a list of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bodies, sampling, space
from purerl.envs.procgen_jax.moves import is_even, of_level, push
from purerl.envs.procgen_jax.space import (
    CLOUD,
    FAST_FLYER,
    FINISH_TIME,
    FLYER,
    FLYER_BULLET,
    METEOR,
    TURRET,
    TURRET_BULLET,
)
from purerl.envs.procgen_jax.states import (
    FIRE_TIME,
    HEALTH,
    ROTATION,
    RX,
    RY,
    SPAWN_TIME,
    THEME,
    TYPE,
    VX,
    VY,
    LibraryState,
    X,
    Y,
)
from purerl.types import Array

EXACT = "exact: rules, levels and frames"
TIMEOUT = 1000
SIZES = {"easy": (16, 16), "hard": (16, 16)}  # width and height in cells
PLANES = ("flyer", "fast flyer", "turret", "meteor", "cloud", "enemy bullet", "own bullet", "finish", "agent")
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 10_000  # 5 KB each
CENTRED = False  # frames show the whole level
SHAPED_BY = ("restrict_themes",)  # options that the sizes of things depend on

FINISH, SPACE = space.FINISH, space.SPACE
sprites, frame = space.sprites, space.frame

_MOST = 128  # things in a level
_PUSH = np.float32(0.5) * np.float32(0.75)  # half of the highest speed
_HALF = np.float32(0.5)
_CORNER = space.RADIUS * bodies.CORNER
_UNIT = np.float32(0.4)  # of speeds
_FINISH_SPEED = np.float32(-0.2)
_NO_FINISH = -100.0  # where it is before it comes
_SPECIAL, _BACKWARDS = 9, 10  # actions from the first on shoot; the second shoots to the left
_KINDS = (FLYER, FAST_FLYER, TURRET, METEOR, CLOUD)  # of things, in the order of their planes


@struct.dataclass
class State:
    """One game. Positions are in cells, y upwards; S things of a level, Q enemy bullets, P own ones, the newest first.

    Attributes:
      time: int32 [], steps of the episode.
      position, velocity: float32 [2], the agent's (x, y).
      place: float32 [2, S], (x, y) of what has come; health: float32 [S].
      there, dying: bool [S], what is in the world, and what is shot and goes in the next step.
      enemy_bullets: float32 [5, Q], (x, y), velocity, and angle in radians; enemy_kind: int32 [Q], 0 for none;
        enemy_order: int32 [Q], see `tiles.Sprites`.
      bullets: float32 [4, P]; flies: bool [P]; order: int32 [P].
      finish: float32 [], x of the finish, far on the left before it comes.
      explosions: float32 [5, E], (x, y), velocity, and radius; explosion_age: int32 [E], -1 for none; explosion_order.
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
    enemy_order: Array
    bullets: Array
    flies: Array
    order: Array
    finish: Array
    explosions: Array
    explosion_age: Array
    explosion_order: Array


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    start: float32 [2]. time, fire: int16 [S], when each thing comes and how often it fires; box: float32 [4, S], place
    and radii; speed: float32 [2, S]; kind, theme: int8 [S]; health: float32 [S]; quarters: int8 [S], by how many right
    angles a thing is turned. finish: float32 [], its radius along x; rocket: int8 [], its theme. background: int8 [].
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
    theme = int(draws[FINISH_TIME] % len(space.ROCKETS))  # one more than in the other steps
    _, sizes = sampling.read(space.ROCKETS)
    theme = 0 if state.numbers["restrict_themes"] else theme
    height, width = sizes[theme].astype(np.float32)
    even = np.delete(draws, FINISH_TIME) % 1_000_000 % 2 == 0
    is_easy = state.numbers["distribution_mode"] == 0
    return {
        "start": state.floats(X, Y)[0],
        "time": whole(SPAWN_TIME, space.NEVER, np.int16),
        "fire": whole(FIRE_TIME, 0, np.int16),
        "box": column(X, Y, RX, RY),
        "speed": column(VX, VY),
        "kind": whole(TYPE, 0, np.int8),
        "theme": whole(THEME, 0, np.int8),
        "health": column(HEALTH)[0],
        "quarters": np.rint(column(ROTATION)[0] / space.QUARTER).astype(np.int8),
        "finish": space.FINISH_RADIUS * (width / height),
        "rocket": np.int8(theme),
        "background": np.int8(state.numbers["background_index"]),
        "flyer_bullet": np.float32(1.25 if is_easy else 2) * _UNIT,
        "even": np.packbits(even, bitorder="little"),
    }


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
        enemy_bullets=jnp.zeros((5, space.ENEMY_BULLETS), jnp.float32),
        enemy_kind=jnp.zeros(space.ENEMY_BULLETS, jnp.int32),
        enemy_order=jnp.zeros(space.ENEMY_BULLETS, jnp.int32),
        bullets=jnp.zeros((4, space.BULLETS), jnp.float32),
        flies=jnp.zeros(space.BULLETS, jnp.bool_),
        order=jnp.zeros(space.BULLETS, jnp.int32),
        finish=jnp.full((), _NO_FINISH, jnp.float32),
        explosions=jnp.zeros((5, space.EXPLOSIONS), jnp.float32),
        explosion_age=jnp.full(space.EXPLOSIONS, -1, jnp.int32),
        explosion_order=jnp.zeros(space.EXPLOSIONS, jnp.int32),
    )


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    time, pushes = state.time + 1, jnp.stack(push(action))
    even = is_even(bank, level, state.time)
    velocity = bodies.accelerated(state.velocity, _PUSH * pushes.astype(jnp.float32))
    position, velocity = bodies.moved_within(space.SIZE, state.position, velocity, pushes, even, space.RADIUS, _CORNER)
    age = jnp.where(state.explosion_age >= 0, state.explosion_age + 1, -1)
    moved = state.replace(
        time=time,
        position=position,
        velocity=velocity,
        place=state.place + jnp.where(state.there, of_level(bank, "speed", level), 0),
        enemy_bullets=state.enemy_bullets.at[:2].add(state.enemy_bullets[2:4]),
        bullets=state.bullets.at[:2].add(state.bullets[2:]),
        finish=state.finish + jnp.where(time > FINISH_TIME, _FINISH_SPEED, 0),
        explosions=_grown(state.explosions),
        explosion_age=jnp.where(age < space.EXPLOSION_STEPS, age, -1),
    )
    radius = of_level(bank, "finish", level)
    reach = radius + space.RADIUS, space.FINISH_RADIUS + space.RADIUS
    won = bodies.overlap(position[0], position[1], (moved.finish, space.FINISH_RADIUS), reach)
    is_hit = _is_hit(bank, level, moved)
    after = _left(bank, level, _with_hits(bank, level, moved))
    after, points = _fought(bank, level, after)
    after = _shot(after, action)
    after = after.replace(finish=jnp.where(time == FINISH_TIME, space.SIZE + radius, after.finish))
    reward = points.astype(jnp.float32) + jnp.where(won, jnp.float32(10), jnp.float32(0))
    return after, reward, is_hit | won | bodies.is_outside(space.SIZE, position, space.RADIUS), won


def _grown(explosions: Array) -> Array:
    """Explosions [5, E] a step later."""
    x, y, vx, vy, radius = explosions
    return jnp.stack([x + vx, y + vy, vx, vy, bodies.rounded(radius * space.GROWTH)])


def _targets(bank: dict[str, Any], level: Array) -> Array:
    """bool [S], which things of a level can be shot."""
    return (of_level(bank, "kind", level)[None] == np.array(space.TARGETS, np.int8)[:, None]).any(axis=0)


def _is_hit(bank: dict[str, Any], level: Array, state: State) -> Array:
    """Whether something touches the agent that ends the episode, bool []; what is dying does, too."""
    x, y = state.position
    _, _, rx, ry = of_level(bank, "box", level)
    things = bodies.overlap(x, y, tuple(state.place), (rx + space.RADIUS, ry + space.RADIUS))
    bullets = bodies.overlap(
        x, y, tuple(state.enemy_bullets[:2]), (space.RADIUS + space.RADIUS, space.RADIUS + space.RADIUS)
    )
    return (things & state.there & _targets(bank, level)).any() | (bullets & (state.enemy_kind > 0)).any()


def _with_hits(bank: dict[str, Any], level: Array, state: State) -> State:
    """Own bullets hit, each the thing that came last of those that it meets; that loses health, the bullet is gone."""
    _, _, rx, ry = (numbers[None] for numbers in of_level(bank, "box", level))
    reach = rx + space.RADIUS, ry + space.RADIUS
    meets = bodies.overlap(state.bullets[0][:, None], state.bullets[1][:, None], tuple(state.place[:, None]), reach)
    meets = meets & (state.there & ~state.dying & _targets(bank, level))[None] & state.flies[:, None]
    number = jnp.arange(meets.shape[1])
    is_last = meets & (number[None] == jnp.where(meets, number[None], -1).max(axis=1, keepdims=True))
    health = state.health - is_last.sum(axis=0, dtype=jnp.int32)
    hits = meets.any(axis=1)
    after = state.replace(health=health, flies=state.flies & ~hits)
    speed = of_level(bank, "speed", level)[:, jnp.argmax(is_last, axis=1)]
    new = jnp.concatenate([state.bullets[:2], speed, jnp.full((1, len(hits)), _HALF * space.RADIUS)])
    return _exploded(bank, after, hits, new, space.STEP * state.time + jnp.arange(len(hits), dtype=jnp.int32))


def _exploded(bank: dict[str, Any], state: State, comes: Array, new: Array, order: Array) -> State:
    """With explosions `new` [5, K], where `comes` [K]; only frames show them."""
    if "pictures" not in bank:
        return state
    empty = state.explosion_age < 0
    number, place = jnp.cumsum(comes, dtype=jnp.int32), jnp.cumsum(empty, dtype=jnp.int32)
    fits = comes[None] & empty[:, None] & (number[None] == place[:, None])  # [E, K]
    is_new, which = fits.any(axis=1), jnp.argmax(fits, axis=1)
    return state.replace(
        explosions=jnp.where(is_new, new[:, which], state.explosions),
        explosion_age=jnp.where(is_new, 0, state.explosion_age),
        explosion_order=jnp.where(is_new, order[which], state.explosion_order),
    )


def _left(bank: dict[str, Any], level: Array, state: State) -> State:
    """Without what was dying, and what has left the world."""

    def inside(x: Array, y: Array, rx: Any = space.RADIUS, ry: Any = space.RADIUS) -> Array:
        return (x + rx >= 0) & (y + ry >= 0) & (x - rx <= space.SIZE) & (y - ry <= space.SIZE)

    _, _, rx, ry = of_level(bank, "box", level)
    return state.replace(
        there=state.there & ~state.dying & inside(*state.place, rx, ry),
        enemy_kind=jnp.where(inside(*state.enemy_bullets[:2]), state.enemy_kind, 0),
        flies=state.flies & inside(*state.bullets[:2]),
        explosion_age=jnp.where(
            inside(*state.explosions[:2], state.explosions[4], state.explosions[4]), state.explosion_age, -1
        ),
    )


def _fought(bank: dict[str, Any], level: Array, state: State) -> tuple[State, Array]:
    """(State, points int32 []): things shoot at the agent; what has no health left is dying; new things come."""
    comes, fire = (of_level(bank, name, level).astype(jnp.int32) for name in ("time", "fire"))
    age, is_turret = state.time - comes, of_level(bank, "kind", level) == TURRET
    is_due = jnp.where(is_turret, age % jnp.maximum(fire, 1) == 0, age == fire)
    speeds = jnp.where(is_turret, space.FAST, of_level(bank, "flyer_bullet", level))
    kinds = jnp.where(is_turret, TURRET_BULLET, FLYER_BULLET)
    after = _fired(state, state.there & (fire > 0) & is_due, speeds, kinds)
    dying = state.there & _targets(bank, level) & (state.health <= 0)
    radius = _HALF * of_level(bank, "box", level)[2:3]
    new = jnp.concatenate([state.place, of_level(bank, "speed", level), radius])
    order = space.STEP * state.time + _fights(jnp.arange(len(dying), dtype=jnp.int32), len(dying)) + 1
    after = _exploded(bank, after, dying, new, order)
    return after.replace(there=state.there | (comes == state.time), dying=dying), dying.sum(dtype=jnp.int32)


def _fights(which: Array, things: int) -> Array:
    """When in a step a thing shoots; and dies, a moment later."""
    return space.FIGHTS + 2 * (things - 1 - which)


def _fired(state: State, fires: Array, speeds: Array, kinds: Array) -> State:
    """After things [S] with `fires` have shot at the agent, with speeds [S]."""

    def shoot(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        bullets, kind, order, fires = carry
        which = jnp.argmax(fires).astype(jnp.int32)
        away = state.position - state.place[:, which]
        square = bodies.rounded(away * away)
        with jax.enable_x64(True):
            distance = jnp.sqrt((square[0] + square[1]).astype(jnp.float64))
            share = (speeds[which].astype(jnp.float64) / distance).astype(jnp.float32)
        velocity = away * share
        new = jnp.concatenate([state.place[:, which], velocity, space.angle(jnp, velocity)[None]])
        is_any, empty = fires.any(), kind == 0
        bullets = bodies.put_first(is_any, empty, new, bullets)
        kind = bodies.put_first(is_any, empty, kinds[which], kind)
        order = bodies.put_first(is_any, empty, space.STEP * state.time + _fights(which, len(fires)), order)
        return bullets, kind, order, fires & (jnp.arange(len(fires)) != which)

    start = state.enemy_bullets, state.enemy_kind, state.enemy_order, fires
    bullets, kind, order, _ = jax.lax.while_loop(lambda carry: carry[-1].any(), shoot, start)
    return state.replace(enemy_bullets=bullets, enemy_kind=kind, enemy_order=order)


def _shot(state: State, action: Array) -> State:
    """With the bullet that an action shoots, to the right or to the left."""
    is_back = action == _BACKWARDS
    velocity = jnp.where(is_back, *space.SPEEDS[::-1])
    x, y = state.position
    new = jnp.concatenate([jnp.stack([x + jnp.where(is_back, -space.RADIUS, space.RADIUS), y]), velocity])
    shoots, empty = action >= _SPECIAL, ~state.flies
    return state.replace(
        bullets=bodies.put_first(shoots, empty, new, state.bullets),
        flies=bodies.put_first(shoots, empty, jnp.ones((), jnp.bool_), state.flies),
        order=bodies.put_first(shoots, empty, space.STEP * state.time + space.SHOOTS, state.order),
    )


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], row 0 the lowest."""
    kind, (_, _, *radii) = of_level(bank, "kind", level), of_level(bank, "box", level)

    def covered(x: Array, y: Array, rx: Any, ry: Any, shown: Array) -> Array:
        return sampling.covered((x - rx, x + rx), (y - ry, y + ry), shown, space.SIZE, space.SIZE)

    one, width = jnp.ones(1, jnp.bool_), of_level(bank, "finish", level)
    used = [what for what in _KINDS if (bank["kind"] == what).any()]  # easy levels have one kind of thing
    things = covered(*state.place, *radii, jnp.stack([state.there & (kind == what) for what in used]))
    found = [
        things[..., used.index(what)] if what in used else jnp.zeros((space.SIZE,) * 2, jnp.uint8) for what in _KINDS
    ]
    found += [
        covered(*state.enemy_bullets[:2], space.RADIUS, space.RADIUS, state.enemy_kind > 0),
        covered(*state.bullets[:2], space.RADIUS, space.RADIUS, state.flies),
        covered(state.finish[None], space.FINISH_RADIUS * one, width, space.FINISH_RADIUS, one),
        covered(state.position[:1], state.position[1:], space.RADIUS, space.RADIUS, one),
    ]
    return jnp.stack(found, axis=-1)
