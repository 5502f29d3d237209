"""Coinrun: run to the right and reach the coin, over pits, lava, saws, crates and creatures. The coin is worth 10.

A level's walls, lava, saws and crates stand still; only the creatures and the agent move.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bitmaps, bodies, coinrun_frames, frames, sampling
from purerl.envs.procgen_jax.coinrun_frames import COIN, CRATE, LAVA, LAVA_TOP, SAW, WALL, WALL_TOP
from purerl.envs.procgen_jax.moves import cell_of, is_cell, is_even, of_level, push
from purerl.envs.procgen_jax.states import RX, RY, THEME, VX, LibraryState, X, Y
from purerl.types import Array

SPACE, ENEMY, BARRIER = 100, 5, 19
EXACT = "exact: rules, levels and frames"
TIMEOUT = 1000
SIZES = {"easy": (13, 13), "hard": (13, 13)}  # width and height in cells, of what the agent sees
PLANES = ("wall", "lava", "coin", "crate", "saw", "enemy", "agent")
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 10_000  # 6 KB each
CENTRED = True  # frames follow the agent
SHAPED_BY: tuple[str, ...] = ()  # options that the sizes of things depend on

_MOST = {SAW: 35, CRATE: 30, ENEMY: 35}
_FAR = -9.0  # cells: where what a level lacks is
_NEAR = 4  # rows that the agent may reach in a step, downwards and upwards
_RADIUS = np.array([0.5, 0.5787], np.float32)  # of the agent
_CORNER = _RADIUS * bodies.CORNER
_CRATE = np.float32(0.5)
_CLOSER = np.float32(-0.001)  # what stands in the way is met this much later than what is touched
_EDGE = 0.01  # cells: how far under its feet, and inside of them, the agent is supported
_SPEED, _JUMP, _GRAVITY = np.float32(0.5), np.float32(1.5), np.float32(0.2)
_MIX = np.array([np.float32(0.2) * np.float32(0.15), 0.2], np.float32)  # in the air, and with support
_SUB_STEPS = (4, 5, 6)  # moves of a step, by how fast the agent is
_FASTER = (np.float32(1.25**2), np.float32(1.5**2))  # squared speeds from which on there are five and six
_TRAIL = 8  # steps
_DEPTH = 5  # how often in a row a crate may push


@struct.dataclass
class State:
    """One game. Positions are in cells, y upwards; E creatures, in the library's order.

    Attributes:
      time: int32 [], steps of the episode.
      position, velocity: float32 [2], the agent's (x, y).
      support, on_crate: bool [], whether the agent stood on something before the last step, and on a crate in it.
      looks_left: bool [].
      enemies, speeds: float32 [E], x and velocity of the creatures.
      push: int32 [], where the last action pushes along x; trail: float32 [8, E], where the creatures were one to eight
        steps before. Both are only shown.
    """

    time: Array
    position: Array
    velocity: Array
    support: Array
    on_crate: Array
    looks_left: Array
    enemies: Array
    speeds: Array
    push: Array
    trail: Array


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    start: float32 [2]. coin: int8 [2], its cell. walls, lava: uint32 [80, 4], see `bitmaps.words`. even: uint8 [125],
    a bit for each step. saws: float32 [S, 4], x, y and the two radii. crates: float32 [C, 2], x and y, the library's
    last one first. enemies: float32 [E, 5], x, y, the two radii and the velocity along x. What is beside each enemy:
    turns: int8 [E, 2], the columns in which it turns round, left and right; walled: bool [E, 2], whether there is a
    wall; crated: uint32 [E, 2], a bit for each column in which it passes a crate.

    Only for frames: tops: uint32 [80, 4], of walls and lava that are on top. themes: int8 [S + C + E] of saws, crates
    and enemies; order: int8 [S + C], the numbers of saws and crates as they are drawn, -1 for none. looks: int8 [3],
    the themes of walls and agent, and which picture is behind; shift: float32 [], where its part begins.
    """
    assert state.grid.shape == (bitmaps.SIZE, bitmaps.SIZE), f"a level of coinrun has {state.grid.shape} cells"
    coins = np.argwhere(state.grid == COIN)
    assert len(coins) == 1, f"a level of coinrun has {len(coins)} coins"
    things = {kind: state.of_type(kind) for kind in _MOST}
    things[CRATE] = things[CRATE][::-1]
    enemies = _listed(state.floats(X, Y, RX, RY, VX)[things[ENEMY]], _MOST[ENEMY])
    crates = state.floats(X, Y)[things[CRATE]]
    themes, order = _looks(state, things)
    numbers = state.numbers
    even = state.draws(TIMEOUT) % 1_000_000 % 2 == 0
    return {
        "start": state.floats(X, Y)[0],
        "coin": coins[0][::-1].astype(np.int8),
        "walls": bitmaps.words((state.grid == WALL) | (state.grid == WALL_TOP), True),
        "lava": bitmaps.words((state.grid == LAVA) | (state.grid == LAVA_TOP), False),
        "even": np.packbits(even, bitorder="little"),
        "saws": _listed(state.floats(X, Y, RX, RY)[things[SAW]], _MOST[SAW]),
        "crates": _listed(crates, _MOST[CRATE]),
        "enemies": enemies,
        "tops": bitmaps.words((state.grid == WALL_TOP) | (state.grid == LAVA_TOP), False),
        "themes": themes,
        "order": order,
        "looks": np.array([numbers["wall_theme"], state.entities[0, THEME], numbers["background_index"]], np.int8),
        "shift": np.float32(numbers["bg_pct_x"]),
    } | _beside(state.grid, enemies, crates)


def _looks(state: LibraryState, things: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """themes and order of `level`, of the numbers of the entities of each kind."""
    entities = np.full(sum(_MOST.values()), -1)
    first = 0
    for kind, most in _MOST.items():
        entities[first : first + len(things[kind])] = things[kind]
        first += most
    there = np.flatnonzero(entities[: -_MOST[ENEMY]] >= 0)
    order = np.full(len(entities) - _MOST[ENEMY], -1, np.int8)
    order[: len(there)] = there[np.argsort(entities[there])]
    return np.where(entities >= 0, state.entities[entities, THEME], 0).astype(np.int8), order


def _listed(rows: np.ndarray, most: int) -> np.ndarray:
    """float32 [most, ...] of fewer rows; what is not there is far away, without velocity."""
    assert len(rows) <= most, f"a level of coinrun has {len(rows)} things of a kind"
    found = np.zeros((most, rows.shape[1]), np.float32)
    found[:, :2] = _FAR
    found[: len(rows)] = rows
    return found


def _beside(grid: np.ndarray, enemies: np.ndarray, crates: np.ndarray) -> dict[str, np.ndarray]:
    """turns, walled and crated of `level`; creatures stay in their rows of cells."""
    turns, walled = np.zeros((len(enemies), 2), np.int8), np.zeros((len(enemies), 2), bool)
    crated = np.zeros((len(enemies), 2), np.uint32)
    for enemy, (x, y, rx, ry, _) in enumerate(enemies):
        if x < 0:
            continue
        row, column = int(y), int(x)
        assert rx <= 0.5 and ry <= 0.5 and int(y - ry * bodies.CORNER) == int(y + ry * bodies.CORNER) == row
        cells = np.pad(grid[row], 1, constant_values=WALL)  # whose number is one more
        ends = np.flatnonzero(np.isin(cells, (WALL, WALL_TOP, BARRIER))) - 1
        turns[enemy] = ends[ends < column].max(), ends[ends > column].min()
        walled[enemy] = cells[turns[enemy] + 1] == WALL
        for at in crates[crates[:, 1].astype(int) == row, 0].astype(int):
            crated[enemy, at // 32] |= np.uint32(1 << (at % 32))
    return {"turns": turns, "walled": walled, "crated": crated}


STILLS: dict[str, Any] = {}


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""
    enemies, no = of_level(bank, "enemies", level), jnp.zeros((), jnp.bool_)
    return State(
        time=jnp.zeros((), jnp.int32),
        position=of_level(bank, "start", level),
        velocity=jnp.zeros(2, jnp.float32),
        support=no,
        on_crate=no,
        looks_left=no,
        enemies=enemies[:, 0],
        speeds=enemies[:, 4],
        push=jnp.zeros((), jnp.int32),
        trail=jnp.broadcast_to(enemies[:, 0], (_TRAIL, len(enemies))),
    )


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    cell = cell_of(state.position)
    touches = bitmaps.corners_in(bitmaps.around(bank, "walls", level, cell, _NEAR), cell)
    support = _is_supported(touches, state)
    ax, ay = push(action)
    ay = jnp.where((ay > 0) & ~support, 0, ay)
    velocity = _accelerated(state.velocity, ax, ay, support)
    # Crates stop nobody but who falls on them from above, and not who presses downwards.
    falls, last_y = (velocity[1] < 0) & (ay >= 0), state.position[1]
    enemies, speeds, at_crate = _walked(bank, level, state, falls, last_y)
    crates = of_level(bank, "crates", level)
    lands = (bodies.rounded(crates[:, 1] + _CRATE) + _RADIUS[1] <= last_y) & falls
    even = is_even(bank, level, state.time)
    moving = state.position, velocity, jnp.stack([ax, ay])
    position, velocity, on_crate = _moved(touches, crates, lands, moving, even)

    is_hit = _is_hit(bank, level, position, enemies)
    won, burns = _stands_in(bank, level, position)
    reward = jnp.where(won, jnp.float32(10), jnp.float32(0))
    looks_left = jnp.where(ax == 0, state.looks_left, ax < 0)
    trail = jnp.concatenate([state.enemies[None], state.trail[:-1]])
    after = State(
        state.time + 1, position, velocity, support, on_crate | at_crate, looks_left, enemies, speeds, ax, trail
    )  # fmt: skip
    return after, reward, is_hit | won | burns, won


def _is_supported(touches: Any, state: State) -> Array:
    """Whether the agent stands on something, bool []. Under it is looked up in float64."""
    x, y = state.position
    with jax.enable_x64(True):
        inside, below = np.float64(_RADIUS[0]) - _EDGE, np.float64(_RADIUS[1]) + _EDGE
        left, right = ((x.astype(jnp.float64) + by).astype(jnp.float32) for by in (-inside, inside))
        under = (y.astype(jnp.float64) - below).astype(jnp.float32)
    row = cell_of(under)
    return (state.on_crate | touches((cell_of(left), cell_of(right)), (row, row))) & (state.velocity[1] == 0)


def _accelerated(velocity: Array, ax: Array, ay: Array, support: Array) -> Array:
    """The velocity [2] with which a step begins; ay is 1 only for an agent with support, whose vy is 0."""
    keep, pull = (jnp.where(support, *of[::-1]) for of in ((np.float32(1) - _MIX), (_MIX * _SPEED)))
    vx = bodies.rounded(keep * velocity[0]) + pull * ax.astype(jnp.float32)
    vx = jnp.where(jnp.abs(vx) < pull, 0, vx)
    vy = jnp.where(support, _GRAVITY * ay.astype(jnp.float32), velocity[1])
    vy = jnp.where(ay > 0, _JUMP, jnp.clip(vy - _GRAVITY, -_JUMP, _JUMP))
    return jnp.stack([vx, vy])


def _walked(
    bank: dict[str, Any], level: Array, state: State, falls: Array, last_y: Array
) -> tuple[Array, Array, Array]:
    """(x [E], speeds [E], whether one met a crate bool []) of the creatures after four moves.

    They turn round at walls and barriers. A wall also counts as a stop, which costs speed. A crate counts as a stop in
    their other axis while the agent falls from above it.
    """
    _, y, rx, _, _ = of_level(bank, "enemies", level).T
    turns, walled = of_level(bank, "turns", level).astype(jnp.int32).T, of_level(bank, "walled", level).T
    crated = of_level(bank, "crated", level)
    corner, reach = bodies.rounded(rx * bodies.CORNER), bodies.rounded(rx + _CRATE) + _CLOSER
    is_low = falls & (bodies.rounded(jnp.floor(y) + 1) + _RADIUS[1] <= last_y)

    def at_crate(x: Array) -> Array:
        columns = cell_of(x)[:, None] + np.arange(-1, 2)[None]  # [E, 3]
        word = jnp.where(columns < 32, crated[:, :1], crated[:, 1:])
        is_there = (jnp.right_shift(word, (columns % 32).astype(jnp.uint32)) & 1) != 0
        is_near = jnp.abs(x[:, None] - (columns.astype(jnp.float32) + _CRATE)) < reach[:, None]
        return (is_there & is_near).any(axis=1) & is_low

    def move(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        x, speed, free, met, moves = carry
        to = x + speed * jnp.float32(1 / bodies.SUB_STEPS)
        left, right = cell_of(to - corner) <= turns[0], cell_of(to + corner) >= turns[1]
        low, high = to - rx, to + rx
        back = jnp.where(speed < 0, 2 * (jnp.ceil(low) - low), 2 * (jnp.floor(high) - high))
        stops = (left & walled[0]) | (right & walled[1])
        to = jnp.where(left | right, to + back, to)
        blocked = at_crate(to) & moves
        x = jnp.where(moves, to, x)
        speed = jnp.where(moves & (left | right), -speed, speed)
        free = free + (moves & ~stops).astype(jnp.float32)
        return x, speed, free, met | blocked.any(), moves & ~(stops & blocked)

    none, no = jnp.zeros_like(state.enemies), jnp.zeros((), jnp.bool_)
    start = state.enemies, state.speeds, none, no, none == 0
    x, speed, free, met, _ = jax.lax.fori_loop(0, bodies.SUB_STEPS, move, start)
    return x, bodies.rounded(speed * (free * jnp.float32(1 / bodies.SUB_STEPS))), met


def _moved(
    touches: Any, crates: Array, lands: Array, moving: tuple[Array, Array, Array], even: Array
) -> tuple[Array, Array, Array]:
    """(position [2], velocity [2], whether it has landed on a crate bool []) of the agent: four to six moves.

    Args:
      touches: the result of `bitmaps.corners_in`.
      crates: float32 [C, 2]; lands: bool [C], on which of them the agent may land.
      moving: position and velocity, float32 [2], and the pushes int32 [2] of the action: the axis that it pushes in is
        first, y rather than x.
      even: bool [], whether x is first if both speeds are the same.
    """
    position, velocity, pushes = moving
    speed, square = jnp.abs(velocity), bodies.rounded(velocity * velocity)
    faster = (speed[0] > speed[1]) | ((speed[0] == speed[1]) & even)
    first = jnp.where(jnp.where(pushes[1] != 0, False, (pushes[0] != 0) | faster), 0, 1)
    more = sum((square[0] + square[1] >= limit).astype(jnp.int32) for limit in _FASTER)
    number = np.array(_SUB_STEPS, np.float32)
    share = jnp.asarray(np.float32(1) / number)[more]

    def slide(place: Array, axis: Array, distance: Array) -> tuple[Array, Array]:
        """(place [2], whether a wall stops it) of one move; a move of no length counts as one along y."""
        to = place + jnp.where(jnp.arange(2) == axis, distance, 0)
        columns, rows = ((cell_of(at - by), cell_of(at + by)) for at, by in zip(to, _CORNER, strict=True))
        stops = touches(columns, rows)
        snaps = jnp.arange(2) == jnp.where((axis == 0) & (distance != 0), 0, 1)
        against = jnp.where(distance > 0, jnp.floor(to + _RADIUS) - _RADIUS, jnp.ceil(to - _RADIUS) + _RADIUS)
        return jnp.where(stops & snaps, against, to), stops

    def meets(place: Array, vy: Array) -> Array:
        reach = np.float32(_RADIUS + _CRATE) + _CLOSER
        return lands & (vy < 0) & bodies.overlap(*place, tuple(crates.T), tuple(reach))

    def pushed(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        place, vy, times = carry
        crate, own = crates[jnp.argmax(meets(place, vy)), 1], place[1]
        with jax.enable_x64(True):
            reach = np.float64(_RADIUS[1] + _CRATE)  # rounded as a float32 sum first
            above = crate.astype(jnp.float64) + jnp.sign(own - crate).astype(jnp.float64) * reach
            distance = (above - own.astype(jnp.float64)).astype(jnp.float32)
        return slide(place, jnp.int32(1), distance)[0], vy, times + 1

    def along(axis: Array, place: Array, velocity: Array, moves: Array) -> tuple[Array, ...]:
        """(place, velocity, whether something stops it, whether a crate does) of one move along an axis."""
        distance = bodies.rounded(jnp.where(axis == 0, velocity[0], velocity[1]) * share)
        after, stops = slide(place, axis, distance)
        vy = jnp.where(moves & (axis == 1), velocity[1], 0)  # only moves along y meet crates
        start = after, vy, jnp.zeros((), jnp.int32)
        after, _, times = jax.lax.while_loop(lambda c: (c[2] < _DEPTH) & meets(*c[:2]).any(), pushed, start)
        velocity = jnp.where((times > 0) & (jnp.arange(2) == 1), 0, velocity)
        return jnp.where(moves, after, place), velocity, stops | (times > 0), times > 0

    def move(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        place, velocity, counts, moves, landed, stopped = carry
        axis = jnp.where(n % 2 == 0, first, 1 - first)
        moves = moves & (n < 2 * (bodies.SUB_STEPS + more))
        place, velocity, stops, at_crate = along(axis, place, velocity, moves)
        counts = counts + ((jnp.arange(2) == axis) & ~stops & moves)
        goes_on = moves & ~((n % 2 == 1) & stopped & stops)  # until both moves of a round are stopped
        return place, velocity, counts, goes_on, landed | at_crate, stops

    no = jnp.zeros((), jnp.bool_)
    start = position, velocity, jnp.zeros(2, jnp.int32), ~no, no, no
    place, velocity, counts, _, landed, _ = jax.lax.fori_loop(0, 2 * max(_SUB_STEPS), move, start)
    kept = (np.arange(max(_SUB_STEPS) + 1, dtype=np.float32)[None] / number[:, None]).astype(np.float32)
    return place, bodies.rounded(velocity * jnp.asarray(kept)[more, counts]), landed


def _is_hit(bank: dict[str, Any], level: Array, position: Array, enemies: Array) -> Array:
    """Whether a creature or a saw touches the agent, bool []."""

    def touches(x: Array, y: Array, rx: Array, ry: Array) -> Array:
        return bodies.overlap(*position, (x, y), (rx + _RADIUS[0], ry + _RADIUS[1])).any()

    _, y, *radii, _ = of_level(bank, "enemies", level).T
    return touches(enemies, y, *radii) | touches(*of_level(bank, "saws", level).T)


def _stands_in(bank: dict[str, Any], level: Array, position: Array) -> tuple[Array, Array]:
    """Whether the coin, and lava, is in one of the cells that the agent covers, bool []."""
    cell = cell_of(position)
    with jax.enable_x64(True):
        place, radius = position.astype(jnp.float64), _RADIUS.astype(np.float64) - 0.001
        low, high = (at.astype(jnp.int32) for at in (place - radius, place + radius))
    coin = of_level(bank, "coin", level).astype(jnp.int32)
    rows = cell[1] + np.arange(-1, 2)
    bits = bitmaps.around(bank, "lava", level, cell, 1)
    bits = jnp.where((rows >= low[1]) & (rows <= high[1]), bits, jnp.uint32(0))
    columns = (jnp.stack([low[0], high[0]]) - cell[0] + bitmaps.BEFORE).astype(jnp.uint32)
    burns = ((jnp.right_shift(bits[None], columns[:, None]) & 1) != 0).any()
    return ((coin >= low) & (coin <= high)).all(), burns


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [13, 13, planes], of the cells around the agent's, which
    is in the middle. Row 0 is the lowest; around the level there are walls.
    """
    width = SIZES["easy"][0]
    reach = width // 2
    cell = cell_of(state.position)
    coin = of_level(bank, "coin", level).astype(jnp.int32) - cell + reach
    corner = (cell - reach).astype(jnp.float32)

    def bits(name: str) -> Array:
        return bitmaps.square(bitmaps.around(bank, name, level, cell, reach)).astype(jnp.uint8) * 255

    def boxes(x: Array, y: Array, rx: Any, ry: Any) -> Array:
        x, y = x - corner[0], y - corner[1]
        return sampling.covered((x - rx, x + rx), (y - ry, y + ry), jnp.ones(x.shape, jnp.bool_), width, width)

    _, y, *radii, _ = of_level(bank, "enemies", level).T
    found = [
        bits("walls"),
        bits("lava"),
        is_cell(coin[0], coin[1], width, width).astype(jnp.uint8) * 255,
        boxes(*of_level(bank, "crates", level).T, _CRATE, _CRATE),
        boxes(*of_level(bank, "saws", level).T),
        boxes(state.enemies, y, *radii),
        boxes(state.position[:1], state.position[1:], *_RADIUS),
    ]
    return jnp.stack(found, axis=-1)


# --- frames ----------------------------------------------------------------------------------------------------------


def sprites(camera: frames.Camera) -> dict[str, Any]:
    """See `coinrun_frames.tables`."""
    levels = camera.levels
    x = [levels["saws"][..., 0], levels["crates"][..., 0]]
    spans = np.stack([np.concatenate([*x, levels["turns"][..., side]], axis=1) for side in range(2)])
    there = np.concatenate([*x, levels["enemies"][..., 0]], axis=1) > 0
    return coinrun_frames.tables(camera.state, levels, spans, there)


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: the picture behind, cells, things, trails of creatures, the agent, creatures."""
    view = coinrun_frames.view_of(bank, state.position)
    shown = coinrun_frames.background(bank, level, view)
    shown = coinrun_frames.with_cells(bank, shown, view, level, state.position)

    saws, crates, enemies = (of_level(bank, name, level) for name in ("saws", "crates", "enemies"))
    boxes = jnp.concatenate([saws, jnp.pad(crates, ((0, 0), (0, 2)), constant_values=_CRATE)])
    kinds = jnp.where(jnp.arange(len(boxes)) < len(saws), SAW + state.time % 2, CRATE)
    shown = coinrun_frames.with_things(bank, shown, view, level, state.position, boxes, kinds)
    creatures = jnp.concatenate([state.enemies[:, None], enemies[:, 1:4]], axis=1)
    trail = jnp.concatenate([state.enemies[None], state.trail])
    shown = coinrun_frames.with_trails(bank, shown, view, state.position, creatures, trail, state.time)

    walks = state.time // 5 % 2
    stands = (jnp.abs(state.velocity[0]) < 0.01) & (state.push == 0) & state.support
    pose = jnp.where((walks == 0) | ~state.support, coinrun_frames.WALKS, coinrun_frames.WALKS_ON)
    pose = jnp.where(stands, coinrun_frames.STANDS, pose)
    box = jnp.concatenate([state.position, jnp.asarray(_RADIUS)])
    shown = coinrun_frames.with_agent(bank, shown, view, level, box, pose, state.looks_left)
    kind, looks_right = coinrun_frames.WALKER + walks, (state.speeds > 0) & (state.time > 0)
    return coinrun_frames.with_creatures(bank, shown, view, level, state.position, creatures, kind, looks_right)
