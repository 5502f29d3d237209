"""What is compared of Procgen's games in the graph and in the library, and players that seek the goal."""

from __future__ import annotations

from typing import Any

import numpy as np

from purerl.envs.procgen_jax import bigfish, chaser, fruitbot, heist, leaper, maze, miner, starpilot, states
from purerl.envs.procgen_jax.states import LibraryState
from purerl.experiments.benchmarks import procgen_coinrun

# (dx, dy) and the action that goes there.
_MOVES = {(-1, 0): 1, (0, -1): 3, (0, 1): 5, (1, 0): 7}
Compared = dict[str, tuple[np.ndarray, np.ndarray]]  # {what: (the library's, ours)}, both [N, ...]


def compared(game: str, bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    """What of N games is compared, beyond what all games share.

    Args:
      game: its id.
      bank: the arrays of its levels.
      level: int [N], rows of the bank.
      mine: the game's State [N, ...], as numpy arrays.
      theirs: N states of the library.
    """
    return _COMPARED[game](bank, level, mine, theirs)


def seeking(game: str, bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """Actions [N] of a player who knows the way."""
    return _SEEKING[game](bank, level, mine)


def _numbers(theirs: list[LibraryState], name: str) -> np.ndarray:
    return np.array([state.numbers[name] for state in theirs])


def _normal(numbers: np.ndarray) -> np.ndarray:
    """Numbers of which the smallest are 0: the library keeps denormal speeds of an agent at rest, XLA does not."""
    return np.where(np.abs(numbers) < 1e-37, np.float32(0), numbers)


def _agents(theirs: list[LibraryState], *words: int) -> np.ndarray:
    """float32 [N, len(words)] of the agents."""
    return np.array([state.floats(*words)[0] for state in theirs])


def _bits(rows: np.ndarray, width: int) -> np.ndarray:
    """bool [N, H, W] of rows of bits, int [N, H]."""
    return (rows[..., None] >> np.arange(width)) & 1 != 0


# --- maze and miner --------------------------------------------------------------------------------------------------


def _cells(bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    grid = bank["grid"][level] if not hasattr(mine, "grid") else mine.grid
    found = {
        "position": (_agents(theirs, states.X, states.Y), np.stack([mine.x, mine.y], axis=-1) + 0.5),
        "reflected": (np.array([state.entities[0, states.REFLECTED] != 0 for state in theirs]), mine.reflected),
        "grid": (np.stack([state.grid for state in theirs]), grid),
    }
    if hasattr(mine, "diamonds"):
        found["diamonds_remaining"] = (_numbers(theirs, "diamonds_remaining"), mine.diamonds)
    return found


def _in_maze(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    grid = bank["grid"][level]
    return _towards(grid == maze.GOAL, grid != maze.WALL, mine.x, mine.y)


def _in_mine(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """To the nearest diamond, or to the exit once there is none."""
    goals = mine.grid == miner.DIAMOND
    exits, none = bank["exit"][level], ~goals.any(axis=(1, 2))
    goals[none, exits[none, 1], exits[none, 0]] = True
    free = (mine.grid != miner.BOULDER) & (mine.grid != miner.FALLING_BOULDER)
    return _towards(goals, free, mine.x, mine.y)


def _towards(goals: np.ndarray, free: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Actions [N] of a shortest way from cells (x, y) to one of the goals [N, H, W] over free cells [N, H, W]."""
    far = np.float32(10**6)
    distance = np.pad(np.where(goals, np.float32(0), far), ((0, 0), (1, 1), (1, 1)), constant_values=far)
    games = np.arange(len(x))

    def beside(dx: int, dy: int) -> np.ndarray:
        height, width = free.shape[1:]
        return distance[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    while True:
        nearer = np.where(free, np.min([beside(*move) for move in _MOVES], axis=0) + 1, far)
        nearer = np.minimum(nearer, distance[:, 1:-1, 1:-1])
        if (nearer == distance[:, 1:-1, 1:-1]).all():
            break
        distance[:, 1:-1, 1:-1] = nearer
    around = [beside(*move)[games, y, x] for move in _MOVES]
    return np.array(list(_MOVES.values()))[np.argmin(around, axis=0)]


# --- chaser ----------------------------------------------------------------------------------------------------------


def _chaser(bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    """The creatures are compared as a list: type, position, velocity and health of each, in the library's order."""
    size = theirs[0].grid.shape[0]
    orbs = np.stack([state.grid == chaser.ORB for state in theirs])
    walls = np.stack([state.grid == chaser.WALL for state in theirs])
    words = states.X, states.Y, states.VX, states.VY, states.HEALTH
    large, creatures = [], []
    for state, row in zip(theirs, level, strict=True):
        kinds = state.entities[:, states.TYPE]
        found = np.floor(state.floats(*words)[kinds == chaser.LARGE_ORB, :2])
        large.append([(found == cell).all(axis=-1).any() for cell in bank["large"][row]])
        is_creature = (kinds == chaser.EGG) | (kinds == chaser.ENEMY)
        creatures.append([(k, *f) for k, f in zip(kinds[is_creature], state.floats(*words)[is_creature], strict=True)])
    ours = [_creatures(mine, n) for n in range(len(theirs))]
    return {
        "position": (_agents(theirs, states.X, states.Y), mine.agent / 8),
        "heading": (np.sign(_agents(theirs, states.VX, states.VY)), mine.heading),
        "walls": (walls, _bits(bank["walls"][level].astype(int), size)),
        "orbs": (orbs, _bits(mine.orbs, size)),
        "large_orbs": (np.array(large), mine.large_orbs),
        "left": (_numbers(theirs, "total_orbs") - _numbers(theirs, "orbs_collected"), mine.left),
        "eat_time": (_numbers(theirs, "eat_time"), mine.ate),
        "creatures": (_listed(creatures), _listed(ours)),
        "own_time": (_numbers(theirs, "cur_time"), mine.time),
    }


def _creatures(mine: Any, n: int) -> list[tuple[float, ...]]:
    """(type, x, y, vx, vy, health) of creatures of our game n; an egg is still there in the step that hatches it."""
    found = []
    for creature, velocity, egg, order, egg_order in zip(
        mine.creature[n], mine.velocity[n], mine.egg[n], mine.order[n], mine.egg_order[n], strict=True
    ):
        place = tuple(creature / 8)
        if egg > 0:
            found.append((order, (chaser.EGG, *place, 0, 0, egg)))
        if egg == 0:
            found.append((order, (chaser.ENEMY, *place, *(velocity / 8), 1)))
            if not velocity.any():
                found.append((egg_order, (chaser.EGG, *place, 0, 0, 0)))
    return [creature for _, creature in sorted(found)]


def _listed(creatures: list[list[tuple[float, ...]]], most: int = 8) -> np.ndarray:
    """float32 [N, most, 6] of lists of different lengths."""
    found = np.zeros((len(creatures), most, 6), np.float32)
    for into, some in zip(found, creatures, strict=True):
        into[: len(some)] = some if some else 0
    return found


def _chasing(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """To the nearest orb, around enemies that are near unless they can be eaten."""
    size = mine.orbs.shape[1]
    x, y = mine.agent[:, 0] // 8, mine.agent[:, 1] // 8
    free = ~_bits(bank["walls"][level].astype(int), size)
    for n in range(len(x)):
        dangerous = (mine.egg[n] == 0) & (mine.time[n] - mine.ate[n] >= 75)
        for cell in mine.creature[n][dangerous] // 8:
            low, high = np.maximum(cell - 1, 0), cell + 2
            free[n, low[1] : high[1], low[0] : high[0]] = False
    return _towards(_bits(mine.orbs, size), free, x, y)


# --- heist -----------------------------------------------------------------------------------------------------------


def _heist(bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    keys, doors, held = (np.zeros((len(theirs), 3), bool) for _ in range(3))
    for n, state in enumerate(theirs):
        keys[n, state.entities[state.of_type(heist.KEY), states.THEME]] = True
        doors[n, state.entities[state.of_type(heist.DOOR), states.THEME]] = True
        found = state.vectors["has_keys"] != 0
        held[n, : len(found)] = found
    size = theirs[0].grid.shape[0]
    walls = np.stack([state.grid == heist.WALL for state in theirs])
    rotation = np.array([state.floats(states.ROTATION)[0, 0] for state in theirs])
    x, y = mine.direction // 3 - 1, mine.direction % 3 - 1
    angle = -np.arctan2(y.astype(float), x.astype(float))  # numpy's own for float32 is off by a digit on some CPUs
    return {
        "position": (_agents(theirs, states.X, states.Y), mine.position),
        "velocity": (_normal(_agents(theirs, states.VX, states.VY)), _normal(mine.velocity)),
        "walls": (walls, _bits(bank["walls"][level].astype(int), size)),
        "keys": (keys, (bank["keys"][level][..., 0] >= 0) & ~mine.keys),
        "doors": (doors, mine.doors),
        "keys_in_hand": (held, mine.keys),
        "rotation": (rotation, angle.astype(np.float32)),
        "own_time": (_numbers(theirs, "cur_time"), mine.time),
    }


def _stealing(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """To the nearest key, or the exit, that open doors lead to."""
    size = bank["walls"].shape[1]
    free, goals = ~_bits(bank["walls"][level].astype(int), size), np.zeros((len(level), size, size), bool)
    for n, row in enumerate(level):
        for colour in range(3):
            if mine.doors[n, colour] and not mine.keys[n, colour]:
                x, y = bank["doors"][row, colour].astype(int)
                free[n, y, x] = False
            if bank["keys"][row, colour, 0] >= 0 and not mine.keys[n, colour]:
                x, y = bank["keys"][row, colour, :2].astype(int)
                goals[n, y, x] = True
        x, y = bank["exit"][row, :2].astype(int)
        goals[n, y, x] = True
    x, y = mine.position.astype(int).T
    return _towards(goals & free, free, x, y)


# --- fruitbot --------------------------------------------------------------------------------------------------------


def _fruitbot(bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    """The things are compared as lists by height: type, position, radii and theme; bullets from the oldest on."""
    most = bank["kind"].shape[1]
    words = states.X, states.Y, states.RX, states.RY
    things, bullets = np.zeros((2, len(theirs), most, 6), np.float32), np.zeros((2, len(theirs), 3, 3), np.float32)
    for n, (state, row) in enumerate(zip(theirs, level, strict=True)):
        kinds, boxes = state.entities[:, states.TYPE], state.floats(*words)
        is_thing = (kinds != fruitbot.AGENT) & (kinds != fruitbot.BULLET)
        order = np.flatnonzero(is_thing)[np.argsort(boxes[is_thing, 1], kind="stable")]
        themes = state.entities[:, states.THEME]
        things[0, n, : len(order)] = np.column_stack([kinds[order], boxes[order], themes[order]])
        there = np.flatnonzero(mine.there[n])
        ours = [bank["kind"][row][there], bank["boxes"][row][there], bank["theme"][row][there]]
        things[1, n, : len(there)] = np.column_stack(ours)
        flying = np.flatnonzero(kinds == fruitbot.BULLET)
        ages = state.entities[flying, states.LIFE_TIME]
        bullets[0, n, : len(flying)] = np.column_stack([boxes[flying, :2], ages])
        flying = np.flatnonzero(mine.ages[n] >= 0)[::-1]
        bullets[1, n, : len(flying)] = np.column_stack([mine.bullets[n][flying], mine.ages[n][flying]])
    y = fruitbot.heights()[mine.time]
    return {
        "position": (_agents(theirs, states.X, states.Y), np.stack([mine.x, y], axis=-1)),
        "velocity": (_normal(_agents(theirs, states.VX)[:, 0]), _normal(mine.speed)),
        "things": tuple(things),
        "bullets": tuple(bullets),
        "last_fire_time": (_numbers(theirs, "last_fire_time"), mine.fired),
        "own_time": (_numbers(theirs, "cur_time"), mine.time),
    }


def _flying(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """To the gap of the next wall, or the next fruit before it; a key is shot where a lock is right above."""
    action = np.full(len(level), 4)
    for n, row in enumerate(level):
        boxes, kind = bank["boxes"][row], bank["kind"][row]
        y = fruitbot.heights()[mine.time[n]]
        above = mine.there[n] & (boxes[:, 1] > y + 0.1)
        walls = np.flatnonzero((kind == fruitbot.BARRIER) & (boxes[:, 1] > y - 0.8))[:2]  # the one around it, too
        target = mine.x[n]
        if len(walls) == 2:
            left, right = sorted(walls, key=lambda wall: boxes[wall, 0])
            gap = boxes[left, 0] + boxes[left, 2], boxes[right, 0] - boxes[right, 2]
            target = (gap[0] + gap[1]) / 2
            locks = np.flatnonzero(above & (kind == fruitbot.LOCK) & (np.abs(boxes[:, 1] - boxes[left, 1]) < 1))
            if len(locks):
                target = boxes[locks[0], 0]
                if abs(mine.x[n] - target) < 0.3 and boxes[locks[0], 1] - y < 4:
                    action[n] = 9
                    continue
            elif boxes[left, 1] - y > 3:
                fruit = np.flatnonzero(above & (kind == fruitbot.GOOD) & (boxes[:, 1] < boxes[left, 1] - 1))
                target = boxes[fruit[0], 0] if len(fruit) else target
        ahead = target - mine.x[n] - 2 * mine.speed[n]
        action[n] = 7 if ahead > 0.15 else 1 if ahead < -0.15 else 4
    return action


# --- bigfish ---------------------------------------------------------------------------------------------------------


def _bigfish(bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    """The fish are compared as lists from the oldest on: position, speed, radii and theme of each."""
    fish = np.zeros((2, len(theirs), mine.x.shape[1], 6), np.float32)
    words = states.X, states.Y, states.VX, states.RX, states.RY
    for n, state in enumerate(theirs):
        which = state.of_type(bigfish.FISH)
        fish[0, n, : len(which)] = np.column_stack([state.floats(*words)[which], state.entities[which, states.THEME]])
        which = np.flatnonzero(mine.theme[n] >= 0)[::-1]
        ours = [mine.x[n][which], mine.fish[n][:, which].T, mine.theme[n][which]]
        fish[1, n, : len(which)] = np.column_stack(ours)
    radius = bigfish.radii(bank)[mine.eaten]
    return {
        "position": (_agents(theirs, states.X, states.Y), mine.position),
        "velocity": (_normal(_agents(theirs, states.VX, states.VY)), _normal(mine.velocity)),
        "radii": (_agents(theirs, states.RX, states.RY), np.stack([radius, radius], axis=-1)),
        "reflected": (np.array([state.entities[0, states.REFLECTED] != 0 for state in theirs]), mine.looks_left),
        "fish": (np.where(fish[0] == 0, 0, fish[0]), fish[1]),
        "eaten": (_numbers(theirs, "fish_eaten"), mine.eaten),
        "own_time": (_numbers(theirs, "cur_time"), mine.time),
    }


def _fishing(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """To where the nearest smaller fish will be, unless a larger one comes near: then up or down, away from it."""
    action, radius = np.full(len(level), 4), bigfish.radii(bank)[mine.eaten]
    for n in range(len(level)):
        y, speed, rx, ry = mine.fish[n]
        away = np.stack([mine.x[n] + 4 * speed, y], axis=-1) - mine.position[n]
        is_larger = rx > radius[n]
        gap = np.abs(away) - np.stack([rx, ry], axis=-1) - radius[n]
        is_near = (mine.theme[n] >= 0) & is_larger & (gap < (3.0, 1.2)).all(axis=-1)
        is_prey = (mine.theme[n] >= 0) & ~is_larger & (mine.x[n] > 0.5) & (mine.x[n] < 19.5)
        if is_near.any():
            nearest = np.flatnonzero(is_near)[np.argmin(gap[is_near].max(axis=-1))]
            up = away[nearest, 1] < 0
            up = mine.position[n, 1] < 10 if min(mine.position[n, 1], 20 - mine.position[n, 1]) < 2 else up
            action[n] = 5 if up else 3
        elif is_prey.any():
            dx, dy = away[is_prey][np.argmin(np.abs(away[is_prey]).sum(axis=-1))]
            action[n] = (7 if dx > 0 else 1) if abs(dx) > abs(dy) else (5 if dy > 0 else 3)
    return action


# --- leaper ----------------------------------------------------------------------------------------------------------


def _leaper(bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    """What is in each lane is compared as a list from the newest on: position, speed and theme."""
    shape = mine.x.shape[1:]
    things = np.full((2, len(theirs), *shape, 3), -1, np.float32)
    words, lanes = (states.X, states.Y, states.VX), shape[0] // 2
    for n, (state, row) in enumerate(zip(theirs, level, strict=True)):
        rows, filled = bank["row"][row], np.zeros(shape[0], int)
        for kind, some in ((leaper.CAR, rows[:lanes]), (leaper.LOG, rows[lanes:])):
            for entity in state.of_type(kind)[::-1]:
                x, y, speed = state.floats(*words)[entity]
                radius = 0.5 if kind == leaper.CAR else np.float32(0.45)
                if x + radius < 0 or x - radius > state.grid.shape[1]:
                    continue
                lane = np.argmax(some == int(y)) + lanes * (kind == leaper.LOG)
                things[0, n, lane, filled[lane]] = x, speed, state.entities[entity, states.THEME]
                filled[lane] += 1
        there = mine.theme[n] >= 0
        speeds = np.broadcast_to(bank["speed"][row][:, None], shape)
        ours = np.stack([mine.x[n], speeds, mine.theme[n]], axis=-1)
        for lane in range(shape[0]):
            things[1, n, lane, : there[lane].sum()] = ours[lane][there[lane]]
    rotation = np.array([state.floats(states.ROTATION)[0, 0] for state in theirs])
    x, y = mine.direction // 3 - 1, mine.direction % 3 - 1
    expected = np.where(x > 0, np.pi / 2, np.where(x < 0, -np.pi / 2, np.where(y < 0, np.pi, 0)))
    return {
        "position": (_agents(theirs, states.X, states.Y), mine.position),
        "velocity": (_agents(theirs, states.VX, states.VY), mine.velocity),
        "rotation": (rotation, expected.astype(np.float32)),
        "leap": (np.array([state.entities[0, states.THEME] for state in theirs]), mine.leap),
        "things": tuple(things),
        "own_time": (_numbers(theirs, "cur_time"), mine.time),
    }


def _leaping(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """Upwards as soon as no car comes, or a log is there."""
    action, lanes = np.full(len(level), 4), mine.x.shape[1] // 2
    for n, row in enumerate(level):
        if mine.velocity[n].any():
            continue
        x, y = mine.position[n]
        rows, speeds = bank["row"][row], bank["speed"][row]
        lane = np.flatnonzero((rows == int(y) + 1) & (rows >= 0))
        if not len(lane):
            action[n] = 5
            continue
        there = mine.theme[n, lane[0]] >= 0
        places = mine.x[n, lane[0]][there] + 3 * speeds[lane[0]]
        if lane[0] < lanes:
            later = places + 3 * speeds[lane[0]]
            is_free = not ((np.abs(places - x) < 1.1) | (np.abs(later - x) < 1.1)).any()
            action[n] = 5 if is_free else 4
        else:
            own = np.flatnonzero(rows == int(y))
            drift = 4 * speeds[own[0]] if len(own) and own[0] >= lanes else 0
            action[n] = 5 if (np.abs(places + 2 * speeds[lane[0]] - x - drift) < 0.3).any() else 4
    return action


# --- starpilot -------------------------------------------------------------------------------------------------------


def _starpilot(bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]) -> Compared:
    """Things, by the order in which they came, and bullets: kind, position, velocity, health or angle."""
    things, bullets = np.zeros((2, 2, len(theirs), 64, 6), np.float32)
    words = states.X, states.Y, states.VX, states.VY, states.HEALTH, states.ROTATION
    finish = np.full((2, len(theirs)), -1, np.float32)
    for n, (state, row) in enumerate(zip(theirs, level, strict=True)):
        kinds, floats = state.entities[:, states.TYPE], state.floats(*words)
        which = np.flatnonzero(np.isin(kinds, (4, 5, 6, 7, 8)))
        things[0, n, : len(which)] = np.column_stack([kinds[which], floats[which, :5]])
        which = np.flatnonzero(mine.there[n])
        ours = [bank["kind"][row], *mine.place[n], *bank["speed"][row], mine.health[n]]
        things[1, n, : len(which)] = np.column_stack(ours)[which]
        found = []
        for kind in (1, 2, 3):
            found += [(kind, *line[:4], line[5] if kind > 1 else 0) for line in floats[kinds == kind]]
        bullets[0, n, : len(found)] = sorted(found) if found else 0
        found = [(kind, *line) for kind, line in zip(mine.enemy_kind[n], mine.enemy_bullets[n].T, strict=True) if kind]
        found += [(1, *line, 0) for flies, line in zip(mine.flies[n], mine.bullets[n].T, strict=True) if flies]
        bullets[1, n, : len(found)] = sorted(found) if found else 0
        if (kinds == starpilot.FINISH).any():
            finish[0, n] = floats[kinds == starpilot.FINISH][0, 0]
        if mine.time[n] >= 500:
            finish[1, n] = mine.finish[n]
    return {
        "position": (_agents(theirs, states.X, states.Y), mine.position),
        "velocity": (_normal(_agents(theirs, states.VX, states.VY)), _normal(mine.velocity)),
        "things": tuple(things),
        "bullets": tuple(bullets),
        "finish": tuple(finish),
        "own_time": (_numbers(theirs, "cur_time"), mine.time),
    }


def _piloting(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """Shoots where something is ahead, out of the way of what is near, else to the height of the nearest target."""
    action = np.full(len(level), 4)
    for n, row in enumerate(level):
        x, y = mine.position[n]
        kinds = bank["kind"][row]
        target = mine.there[n] & (kinds != starpilot.CLOUD) & (mine.place[n][0] > x)
        away = mine.place[n] - mine.position[n][:, None]
        bullets = mine.enemy_bullets[n][:2] + 2 * mine.enemy_bullets[n][2:4] - mine.position[n][:, None]
        near = np.concatenate([away[:, target], bullets[:, mine.enemy_kind[n] > 0]], axis=1)
        near = near[:, (np.abs(near) < 2.5).all(axis=0)]
        if near.shape[1] and mine.time[n] % 2:
            action[n] = 3 if near[1].mean() > 0 and y > 1.5 else 5 if y < 14.5 else 3
        elif target.any() and np.abs(away[1][target]).min() < 0.7:
            action[n] = 9
        elif target.any():
            first = np.argmin(np.where(target, away[0], 99))
            action[n] = 5 if away[1][first] > 0 else 3
    return action


_COMPARED = {
    "maze": _cells,
    "miner": _cells,
    "chaser": _chaser,
    "heist": _heist,
    "fruitbot": _fruitbot,
    "bigfish": _bigfish,
    "leaper": _leaper,
    "starpilot": _starpilot,
    "coinrun": procgen_coinrun.compared,
}
_SEEKING = {
    "maze": _in_maze,
    "miner": _in_mine,
    "chaser": _chasing,
    "heist": _stealing,
    "fruitbot": _flying,
    "bigfish": _fishing,
    "leaper": _leaping,
    "starpilot": _piloting,
    "coinrun": procgen_coinrun.seeking,
}
