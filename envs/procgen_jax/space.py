"""Frames of starpilot: its background moves, and what came into the world later is drawn over what came before."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from purerl.envs.procgen_jax import frames, sampling, tiles
from purerl.envs.procgen_jax.moves import of_level
from purerl.types import Array

SPACE, AGENT, BULLET, FLYER_BULLET, TURRET_BULLET, FLYER, METEOR = 100, 0, 1, 2, 3, 4, 5
CLOUD, TURRET, FAST_FLYER, FINISH, EXPLOSION = 6, 7, 8, 9, 54
TARGETS = (FLYER, FAST_FLYER, TURRET, METEOR)  # what own bullets hit, and what ends an episode
SIZE = 16  # cells in a row and in a column
ENEMY_BULLETS, BULLETS, EXPLOSIONS = 16, 24, 20  # at the same time
RADIUS = np.float32(0.4)  # of the agent, and of bullets
FAST = np.float32(0.8)  # cells a step of own bullets and those of turrets
EXPLOSION_STEPS, GROWTH = 5, np.float32(1.4)  # how long an explosion is seen, and by how much it grows in a step
NEVER = 32_000  # a step after all others
FINISH_TIME, FINISH_RADIUS = 500, np.float32(8)
QUARTER = np.float32(np.pi / 2)
_TURN = np.float64(np.float32(np.pi))
SPEEDS = (float(FAST) * np.array([[1, 0], [np.cos(_TURN), np.sin(_TURN)]])).astype(np.float32)  # of own bullets
_BACKGROUNDS, _PERIOD = 13, 240  # pictures of the sky, and steps after which each is where it was
ROCKETS = [f"misc_assets/spaceRockets_00{number}.png" for number in range(1, 5)]  # the finish is one of them
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
    **{(FINISH, theme): file for theme, file in enumerate(ROCKETS)},
    **{(EXPLOSION + age, 0): f"misc_assets/explosion{age + 1}.png" for age in range(EXPLOSION_STEPS)},
}
# When something comes into the world, within a step: explosions of what bullets hit; then each thing's bullet and its
# own explosion, the newest thing's first; then new things, an own bullet, the finish.
STEP, FIGHTS, _COMES, SHOOTS, _FINISHES = 1024, 32, 300, 450, 460
_ABOVE = STEP * STEP  # the agent, and then clouds, are over all others


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


def angle(xp: Any, velocity: Any) -> Any:
    """How bullets with velocities float32 [2, ...] are turned, in radians clockwise; their picture points upwards.

    On CPUs the arctangent is that of the machine's own mathematical library, as for the C++ code.
    """
    return -xp.arctan2(velocity[1], velocity[0]) - QUARTER


def frame(bank: dict[str, Any], level: Array, state: Any) -> Array:
    """The frame, uint8 [64, 64, 3]: the background, and everything over it in the order in which it came."""
    view = sampling.View(*bank["view"])
    most, of_tiles = _drawn_together(bank, view)
    kind, speed = of_level(bank, "kind", level).astype(jnp.int32), state.bullets[2]
    small = jnp.full((2, 1), RADIUS, jnp.float32)

    def sprites(place: Array, radii: Array, picture: Array, rotation: Any, order: Any, there: Array) -> tiles.Sprites:
        number = len(there)
        boxes = jnp.concatenate([place, jnp.broadcast_to(radii, (2, number))]).T
        spread = [jnp.broadcast_to(jnp.asarray(array), (number,)) for array in (picture, rotation, order)]
        return tiles.Sprites(boxes, spread[0].astype(jnp.int32), *spread[1:], there)

    number = jnp.arange(len(kind), dtype=jnp.int32)
    order = STEP * of_level(bank, "time", level).astype(jnp.int32) + _COMES + number
    things = sprites(
        state.place,
        of_level(bank, "box", level)[2:],
        _picture(kind, of_level(bank, "theme", level)),
        of_level(bank, "quarters", level) * QUARTER,
        order + jnp.where(kind == CLOUD, _ABOVE, 0),
        state.there,
    )
    finish = jnp.stack([state.finish, jnp.float32(FINISH_RADIUS)])[:, None]
    radii = jnp.stack([of_level(bank, "finish", level), jnp.float32(FINISH_RADIUS)])[:, None]
    rocket, one = _picture(FINISH, of_level(bank, "rocket", level)), jnp.ones(1, jnp.bool_)
    explosion = _picture(EXPLOSION, 0) + state.explosion_age
    forth, back = angle(np, SPEEDS.T)
    places, turned, burst = state.enemy_bullets[:2], state.enemy_bullets[4], state.explosions
    everything = tiles.joined(
        sprites(state.position[:, None], small, _picture(AGENT, 0), QUARTER, _ABOVE, one),
        tiles.first(things, most),
        sprites(places, small, _picture(state.enemy_kind, 0), turned, state.enemy_order, state.enemy_kind > 0),
        sprites(
            state.bullets[:2],
            small,
            _picture(BULLET, 0),
            jnp.where(speed < 0, back, forth),
            state.order,
            state.flies,
        ),
        sprites(burst[:2], burst[4:], explosion, 0.0, state.explosion_order, state.explosion_age >= 0),
        sprites(finish, radii, rocket, 0.0, STEP * FINISH_TIME + _FINISHES, one & (state.time >= FINISH_TIME)),
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
            np.where(v < 0, (at + r) / -v, np.where(v > 0, (SIZE + r - at) / v, NEVER))
            for at, r, v in ((x, rx, bank["speed"][:, 0]), (y, ry, bank["speed"][:, 1]))
        ]
    lasts = comes + np.ceil(np.minimum(*leaves)) + 2

    def together(weight: np.ndarray, longer: int = 0) -> int:
        most = 0
        for i in range(comes.shape[1]):
            here = (comes <= comes[:, i : i + 1]) & (lasts + longer >= comes[:, i : i + 1]) & (comes < NEVER)
            most = max(most, int((here * weight).sum(axis=1).max()))
        return most

    unit = float(view.unit)
    of_each = np.array([tiles.number(2 * unit * a, 2 * unit * b) for a, b in zip(rx.ravel(), ry.ravel(), strict=True)])
    burst = [tiles.number(*[unit * float(r * GROWTH ** (EXPLOSION_STEPS - 1))] * 2) for r in rx.ravel()]
    is_target = np.isin(kind, TARGETS)
    more = together(np.where(is_target, np.reshape(burst, kind.shape) - 1, 0), EXPLOSION_STEPS)
    finish = max(tiles.number(2 * unit * radius, 2 * unit * FINISH_RADIUS) for radius in np.unique(bank["finish"]))
    others = 1 + ENEMY_BULLETS + BULLETS + EXPLOSIONS
    return together(np.ones(kind.shape, int)), together(of_each.reshape(kind.shape)) + others + more + finish
