"""Starpilot: shoot what flies towards you, and keep away from it. What is shot is worth 1, the finish 10.

What comes, and when, is decided when a level is made: each level has a list of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bodies, frames, sampling, tiles
from purerl.envs.procgen_jax.moves import is_even, of_level, push
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

SPACE, AGENT, BULLET, FLYER_BULLET, TURRET_BULLET, FLYER, METEOR = 100, 0, 1, 2, 3, 4, 5
CLOUD, TURRET, FAST_FLYER, FINISH, EXPLOSION = 6, 7, 8, 9, 54
EXACT = "exact: rules, levels and frames"
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
_HALF = np.float32(0.5)
_RADIUS = np.float32(0.4)  # of the agent, and of bullets
_CORNER = _RADIUS * bodies.CORNER
_UNIT = np.float32(0.4)  # of speeds
_FAST = 2 * _UNIT  # cells a step of own bullets and those of turrets
FINISH_TIME, _FINISH_SPEED, _FINISH_RADIUS = 500, np.float32(-0.2), np.float32(8)
_NO_FINISH = -100.0  # where it is before it comes
_SPECIAL, _BACKWARDS = 9, 10  # actions from the first on shoot; the second shoots to the left
_TURN = np.float64(np.float32(np.pi))
_SPEEDS = (float(_FAST) * np.array([[1, 0], [np.cos(_TURN), np.sin(_TURN)]])).astype(np.float32)  # of own bullets
_QUARTER = np.float32(np.pi / 2)
_EXPLOSIONS, _EXPLOSION_STEPS, _GROWTH = (
    20,
    5,
    np.float32(1.4),
)  # at the same time; how long one is seen, and its growth
_BACKGROUNDS, _PERIOD = 13, 240  # pictures of the sky, and steps after which each is where it was
_KINDS = (FLYER, FAST_FLYER, TURRET, METEOR, CLOUD)  # of things, in the order of their planes
_TARGETS = (FLYER, FAST_FLYER, TURRET, METEOR)  # what own bullets hit, and what ends an episode
_ROCKETS = [f"misc_assets/spaceRockets_00{number}.png" for number in range(1, 5)]  # the finish is one of them
_METEORS = (*(f"spaceMeteors_00{n}" for n in range(1, 5)), *(f"meteorGrey_big{n}" for n in range(1, 5)))
_SHIPS = [f"misc_assets/spaceShips_00{number}.png" for number in range(1, 8)]
_PICTURES = {
    (AGENT, 0): "misc_assets/playerShip2_blue.png",
    (BULLET, 0): "misc_assets/towerDefense_tile295.png",
    (FLYER_BULLET, 0): "misc_assets/towerDefense_tile296.png",
    (TURRET_BULLET, 0): "misc_assets/towerDefense_tile297.png",
    **{(kind, theme): file for kind in (FLYER, FAST_FLYER) for theme, file in enumerate(_SHIPS)},
    **{(METEOR, theme): f"misc_assets/{name}.png" for theme, name in enumerate(_METEORS)},
    **{(CLOUD, theme): f"misc_assets/spaceEffect{theme + 1}.png" for theme in range(9)},
    **{(TURRET, theme): f"misc_assets/spaceStation_01{theme + 8}.png" for theme in range(2)},
    **{(FINISH, theme): file for theme, file in enumerate(_ROCKETS)},
    **{(EXPLOSION + age, 0): f"misc_assets/explosion{age + 1}.png" for age in range(_EXPLOSION_STEPS)},
}
# What came later into the world is drawn over what came before. Within a step: explosions of what bullets hit; then
# each thing's bullet and its own explosion, the newest thing's first; then new things, an own bullet, the finish.
_STEP, _FIGHTS, _COMES, _SHOOTS, _FINISHES = 1024, 32, 300, 450, 460
_ABOVE = _STEP * _STEP  # the agent, and then clouds, are over all others


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
    theme = int(draws[FINISH_TIME] % len(_ROCKETS))  # one more than in the other steps
    _, sizes = sampling.read(_ROCKETS)
    theme = 0 if state.numbers["restrict_themes"] else theme
    height, width = sizes[theme].astype(np.float32)
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
        "theme": whole(THEME, 0, np.int8),
        "health": column(HEALTH)[0],
        "quarters": np.rint(column(ROTATION)[0] / _QUARTER).astype(np.int8),
        "finish": _FINISH_RADIUS * (width / height),
        "rocket": np.int8(theme),
        "background": np.int8(state.numbers["background_index"]),
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


def sprites(camera: frames.Camera) -> dict[str, Any]:
    """The pictures of everything, how a frame shows the world, and the background, which moves to the left.

    sky: uint8 [B, C, 64, 3], different columns of the frames of each background; sky_columns: int16 [B, _PERIOD, 64],
    which of them are where at each time.
    """
    pictures, sizes = sampling.of_kinds(_PICTURES, camera.state)
    found = [_sky(camera, background) for background in range(_BACKGROUNDS)]
    most = max(len(columns) for columns, _ in found)
    return {
        "pictures": pictures,
        "sizes": sizes,
        "view": np.array(sampling.View.of(camera.state), np.float32),
        "sky": np.stack([np.pad(columns, ((0, most - len(columns)), (0, 0), (0, 0))) for columns, _ in found]),
        "sky_columns": np.stack([which for _, which in found]),
    }


def _sky(camera: frames.Camera, background: int) -> tuple[np.ndarray, np.ndarray]:
    """(columns [C, 64, 3], which of them is where int16 [_PERIOD, 64]) of a background; black if there is none."""
    is_used = camera.state.numbers["use_backgrounds"]
    scenes = [frames.emptied(camera.state, SPACE, background if is_used else None) for _ in range(_PERIOD)]
    for time, scene in enumerate(scenes):
        scene.numbers["cur_time"] = time
    columns = camera.draw(scenes).transpose(0, 2, 1, 3).reshape(_PERIOD * frames.SIZE, -1)
    columns, which = np.unique(columns, axis=0, return_inverse=True)
    return columns.reshape(-1, frames.SIZE, 3), which.reshape(_PERIOD, frames.SIZE).astype(np.int16)


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
        enemy_bullets=jnp.zeros((5, _ENEMY_BULLETS), jnp.float32),
        enemy_kind=jnp.zeros(_ENEMY_BULLETS, jnp.int32),
        enemy_order=jnp.zeros(_ENEMY_BULLETS, jnp.int32),
        bullets=jnp.zeros((4, _BULLETS), jnp.float32),
        flies=jnp.zeros(_BULLETS, jnp.bool_),
        order=jnp.zeros(_BULLETS, jnp.int32),
        finish=jnp.full((), _NO_FINISH, jnp.float32),
        explosions=jnp.zeros((5, _EXPLOSIONS), jnp.float32),
        explosion_age=jnp.full(_EXPLOSIONS, -1, jnp.int32),
        explosion_order=jnp.zeros(_EXPLOSIONS, jnp.int32),
    )


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    time, pushes = state.time + 1, jnp.stack(push(action))
    even = is_even(bank, level, state.time)
    velocity = bodies.accelerated(state.velocity, _PUSH * pushes.astype(jnp.float32))
    position, velocity = bodies.moved_within(_SIZE, state.position, velocity, pushes, even, _RADIUS, _CORNER)
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
        explosion_age=jnp.where(age < _EXPLOSION_STEPS, age, -1),
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


def _grown(explosions: Array) -> Array:
    """Explosions [5, E] a step later."""
    x, y, vx, vy, radius = explosions
    return jnp.stack([x + vx, y + vy, vx, vy, bodies.rounded(radius * _GROWTH)])


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
    number = jnp.arange(meets.shape[1])
    is_last = meets & (number[None] == jnp.where(meets, number[None], -1).max(axis=1, keepdims=True))
    health = state.health - is_last.sum(axis=0, dtype=jnp.int32)
    hits = meets.any(axis=1)
    after = state.replace(health=health, flies=state.flies & ~hits)
    speed = of_level(bank, "speed", level)[:, jnp.argmax(is_last, axis=1)]
    new = jnp.concatenate([state.bullets[:2], speed, jnp.full((1, len(hits)), _HALF * _RADIUS)])
    return _exploded(bank, after, hits, new, _STEP * state.time + jnp.arange(len(hits), dtype=jnp.int32))


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

    def inside(x: Array, y: Array, rx: Any = _RADIUS, ry: Any = _RADIUS) -> Array:
        return (x + rx >= 0) & (y + ry >= 0) & (x - rx <= _SIZE) & (y - ry <= _SIZE)

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
    speeds = jnp.where(is_turret, _FAST, of_level(bank, "flyer_bullet", level))
    kinds = jnp.where(is_turret, TURRET_BULLET, FLYER_BULLET)
    after = _fired(state, state.there & (fire > 0) & is_due, speeds, kinds)
    dying = state.there & _targets(bank, level) & (state.health <= 0)
    radius = _HALF * of_level(bank, "box", level)[2:3]
    new = jnp.concatenate([state.place, of_level(bank, "speed", level), radius])
    order = _STEP * state.time + _fights(jnp.arange(len(dying), dtype=jnp.int32), len(dying)) + 1
    after = _exploded(bank, after, dying, new, order)
    return after.replace(there=state.there | (comes == state.time), dying=dying), dying.sum(dtype=jnp.int32)


def _fights(which: Array, things: int) -> Array:
    """When in a step a thing shoots; and dies, a moment later."""
    return _FIGHTS + 2 * (things - 1 - which)


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
        new = jnp.concatenate([state.place[:, which], velocity, _angle(jnp, velocity)[None]])
        is_any, empty = fires.any(), kind == 0
        bullets = bodies.put_first(is_any, empty, new, bullets)
        kind = bodies.put_first(is_any, empty, kinds[which], kind)
        order = bodies.put_first(is_any, empty, _STEP * state.time + _fights(which, len(fires)), order)
        return bullets, kind, order, fires & (jnp.arange(len(fires)) != which)

    start = state.enemy_bullets, state.enemy_kind, state.enemy_order, fires
    bullets, kind, order, _ = jax.lax.while_loop(lambda carry: carry[-1].any(), shoot, start)
    return state.replace(enemy_bullets=bullets, enemy_kind=kind, enemy_order=order)


def _angle(xp: Any, velocity: Any) -> Any:
    """How bullets with velocities float32 [2, ...] are turned, in radians clockwise; their picture points upwards.

    On CPUs the arctangent is that of the machine's own mathematical library, as for the C++ code.
    """
    return -xp.arctan2(velocity[1], velocity[0]) - _QUARTER


def _shot(state: State, action: Array) -> State:
    """With the bullet that an action shoots, to the right or to the left."""
    is_back = action == _BACKWARDS
    velocity = jnp.where(is_back, *_SPEEDS[::-1])
    x, y = state.position
    new = jnp.concatenate([jnp.stack([x + jnp.where(is_back, -_RADIUS, _RADIUS), y]), velocity])
    shoots, empty = action >= _SPECIAL, ~state.flies
    return state.replace(
        bullets=bodies.put_first(shoots, empty, new, state.bullets),
        flies=bodies.put_first(shoots, empty, jnp.ones((), jnp.bool_), state.flies),
        order=bodies.put_first(shoots, empty, _STEP * state.time + _SHOOTS, state.order),
    )


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: the background, and everything over it in the order in which it came."""
    view = sampling.View(*bank["view"])
    most, of_tiles = _drawn_together(bank, view)
    kind, speed = of_level(bank, "kind", level).astype(jnp.int32), state.bullets[2]
    small = jnp.full((2, 1), _RADIUS, jnp.float32)

    def sprites(place: Array, radii: Array, picture: Array, rotation: Any, order: Any, there: Array) -> tiles.Sprites:
        number = len(there)
        boxes = jnp.concatenate([place, jnp.broadcast_to(radii, (2, number))]).T
        spread = [jnp.broadcast_to(jnp.asarray(array), (number,)) for array in (picture, rotation, order)]
        return tiles.Sprites(boxes, spread[0].astype(jnp.int32), *spread[1:], there)

    number = jnp.arange(len(kind), dtype=jnp.int32)
    order = _STEP * of_level(bank, "time", level).astype(jnp.int32) + _COMES + number
    things = sprites(
        state.place,
        of_level(bank, "box", level)[2:],
        _picture(kind, of_level(bank, "theme", level)),
        of_level(bank, "quarters", level) * _QUARTER,
        order + jnp.where(kind == CLOUD, _ABOVE, 0),
        state.there,
    )
    finish = jnp.stack([state.finish, jnp.float32(_FINISH_RADIUS)])[:, None]
    radii = jnp.stack([of_level(bank, "finish", level), jnp.float32(_FINISH_RADIUS)])[:, None]
    rocket, one = _picture(FINISH, of_level(bank, "rocket", level)), jnp.ones(1, jnp.bool_)
    explosion = _picture(EXPLOSION, 0) + state.explosion_age
    forth, back = _angle(np, _SPEEDS.T)
    places, angle, burst = state.enemy_bullets[:2], state.enemy_bullets[4], state.explosions
    everything = tiles.joined(
        sprites(state.position[:, None], small, _picture(AGENT, 0), _QUARTER, _ABOVE, one),
        tiles.first(things, most),
        sprites(places, small, _picture(state.enemy_kind, 0), angle, state.enemy_order, state.enemy_kind > 0),
        sprites(
            state.bullets[:2],
            small,
            _picture(BULLET, 0),
            jnp.where(speed < 0, back, forth),
            state.order,
            state.flies,
        ),
        sprites(burst[:2], burst[4:], explosion, 0.0, state.explosion_order, state.explosion_age >= 0),
        sprites(finish, radii, rocket, 0.0, _STEP * FINISH_TIME + _FINISHES, one & (state.time >= FINISH_TIME)),
    )
    background = of_level(bank, "background", level).astype(jnp.int32)
    columns = jnp.asarray(bank["sky_columns"])[background, state.time % _PERIOD].astype(jnp.int32)
    sky = jnp.asarray(bank["sky"])[background, columns].swapaxes(0, 1)
    return tiles.draw(sky, (bank["pictures"], bank["sizes"]), view, everything, of_tiles)


def _picture(kind: Any, theme: Any) -> Array:
    """The number of the picture of a kind of thing with a theme."""
    first = {key: number for number, (key, theme) in enumerate(_PICTURES) if theme == 0}
    numbers = np.array([first.get(key, 0) for key in range(EXPLOSION + 1)], np.int32)
    return jnp.asarray(numbers).at[kind].get(mode="clip") + theme


def _drawn_together(bank: dict[str, Any], view: sampling.View) -> tuple[int, int]:
    """(how many things of a level are in the world at most, how many tiles are drawn at most), of all levels."""
    comes, kind = bank["time"].astype(int), bank["kind"]
    x, y, rx, ry = bank["box"].swapaxes(0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        leaves = [
            np.where(v < 0, (at + r) / -v, np.where(v > 0, (_SIZE + r - at) / v, TIMEOUT))
            for at, r, v in ((x, rx, bank["speed"][:, 0]), (y, ry, bank["speed"][:, 1]))
        ]
    lasts = comes + np.ceil(np.minimum(*leaves)) + 2

    def together(weight: np.ndarray, longer: int = 0) -> int:
        most = 0
        for i in range(comes.shape[1]):
            here = (comes <= comes[:, i : i + 1]) & (lasts + longer >= comes[:, i : i + 1]) & (comes < _NEVER)
            most = max(most, int((here * weight).sum(axis=1).max()))
        return most

    unit = float(view.unit)
    of_each = np.array([tiles.number(2 * unit * a, 2 * unit * b) for a, b in zip(rx.ravel(), ry.ravel(), strict=True)])
    burst = [tiles.number(*[unit * float(r * _GROWTH ** (_EXPLOSION_STEPS - 1))] * 2) for r in rx.ravel()]
    is_target = np.isin(kind, _TARGETS)
    more = together(np.where(is_target, np.reshape(burst, kind.shape) - 1, 0), _EXPLOSION_STEPS)
    finish = max(tiles.number(2 * unit * radius, 2 * unit * _FINISH_RADIUS) for radius in np.unique(bank["finish"]))
    others = 1 + _ENEMY_BULLETS + _BULLETS + _EXPLOSIONS
    return together(np.ones(kind.shape, int)), together(of_each.reshape(kind.shape)) + others + more + finish


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], row 0 the lowest."""
    kind, (_, _, *radii) = of_level(bank, "kind", level), of_level(bank, "box", level)

    def covered(x: Array, y: Array, rx: Any, ry: Any, shown: Array) -> Array:
        return sampling.covered((x - rx, x + rx), (y - ry, y + ry), shown, _SIZE, _SIZE)

    one, width = jnp.ones(1, jnp.bool_), of_level(bank, "finish", level)
    used = [what for what in _KINDS if (bank["kind"] == what).any()]  # easy levels have one kind of thing
    things = covered(*state.place, *radii, jnp.stack([state.there & (kind == what) for what in used]))
    found = [things[..., used.index(what)] if what in used else jnp.zeros((_SIZE,) * 2, jnp.uint8) for what in _KINDS]
    found += [
        covered(*state.enemy_bullets[:2], _RADIUS, _RADIUS, state.enemy_kind > 0),
        covered(*state.bullets[:2], _RADIUS, _RADIUS, state.flies),
        covered(state.finish[None], _FINISH_RADIUS * one, width, _FINISH_RADIUS, one),
        covered(state.position[:1], state.position[1:], _RADIUS, _RADIUS, one),
    ]
    return jnp.stack(found, axis=-1)
