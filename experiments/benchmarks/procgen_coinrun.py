"""Coinrun in the graph and in the library: what is compared, and a player who looks ahead."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.envs.procgen_jax import bitmaps, coinrun, states
from purerl.envs.procgen_jax.states import LibraryState

_AHEAD = 24  # steps
_LEFT, _LEFT_UP, _STILL, _UP, _RIGHT, _RIGHT_UP = 1, 2, 4, 5, 7, 8
# (action, for how many steps), one after the other; the last one goes on.
_PLANS = (
    ((_RIGHT, 1),),
    ((_RIGHT_UP, 1), (_RIGHT, 1)),
    *(((_RIGHT, n), (_RIGHT_UP, 1), (_RIGHT, 1)) for n in (1, 2, 3, 5)),
    *(((_RIGHT_UP, 1), (_RIGHT, n), (_LEFT, 1)) for n in (1, 4, 8)),
    ((_UP, 1), (_RIGHT, 1)),
    *(((_STILL, n), (_RIGHT, 1)) for n in (2, 6, 10)),
    *(((_STILL, n), (_RIGHT_UP, 1), (_RIGHT, 1)) for n in (2, 5, 8)),
    *(((_LEFT, n), (_RIGHT, 5), (_RIGHT_UP, 1), (_RIGHT, 1)) for n in (2, 5, 9)),
    ((_STILL, 1),),
    ((_LEFT, 1),),
    ((_LEFT_UP, 1), (_LEFT, 1)),
)


def compared(
    bank: dict[str, Any], level: np.ndarray, mine: Any, theirs: list[LibraryState]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """See `procgen_players.compared`. Creatures and saws are in the library's order, crates from its last one on."""
    found: dict[str, list[np.ndarray]] = {"enemies": [], "saws": [], "crates": []}
    words = states.X, states.Y, states.VX, states.VY, states.RX, states.RY
    for state in theirs:
        floats = state.floats(*words)
        for kind, name in ((coinrun.ENEMY, "enemies"), (coinrun.SAW, "saws"), (coinrun.CRATE, "crates")):
            things = state.of_type(kind)[:: -1 if kind == coinrun.CRATE else 1]
            found[name].append(_padded(floats[things], bank[name].shape[1]))
    _, y, rx, ry, _ = np.moveaxis(bank["enemies"][level], -1, 0)
    none = np.zeros_like(y)
    saws, crates = bank["saws"][level], bank["crates"][level]
    still = [none[:, : saws.shape[1]]] * 2
    halves = [np.where(crates[..., 0] > 0, 0.5, 0)] * 2
    ours = {
        "enemies": np.stack([mine.enemies, y, mine.speeds, none, rx, ry], axis=-1),
        "saws": np.stack([saws[..., 0], saws[..., 1], *still, saws[..., 2], saws[..., 3]], axis=-1),
        "crates": np.stack([crates[..., 0], crates[..., 1], *[np.zeros_like(halves[0])] * 2, *halves], axis=-1),
    }
    numbers = {name: np.array([state.numbers[name] for state in theirs]) for name in _NUMBERS}
    agents = np.array([state.floats(*words)[0] for state in theirs])
    grid = np.stack([state.grid for state in theirs])
    return {
        "position": (agents[:, :2], mine.position),
        "velocity": (_normal(agents[:, 2:4]), _normal(mine.velocity)),
        "radii": (agents[:, 4:], np.broadcast_to(coinrun._RADIUS, (len(theirs), 2))),
        "reflected": (np.array([state.entities[0, states.REFLECTED] != 0 for state in theirs]), mine.looks_left),
        "support": (numbers["has_support"] != 0, mine.support),
        "on_crate": (numbers["is_on_crate"] != 0, mine.on_crate),
        "last_y": (numbers["last_agent_y"], mine.position[:, 1]),
        "walls": ((grid == coinrun.WALL) | (grid == coinrun.WALL_TOP), bitmaps.cells(bank["walls"][level])),
        "lava": ((grid == coinrun.LAVA) | (grid == coinrun.LAVA_TOP), bitmaps.cells(bank["lava"][level])),
        "coin": (np.array([np.argwhere(cells == coinrun.COIN)[0][::-1] for cells in grid]), bank["coin"][level]),
        **{name: (np.stack(some), _without_far(ours[name])) for name, some in found.items()},
        "own_time": (numbers["cur_time"], mine.time),
    }


_NUMBERS = ("has_support", "is_on_crate", "last_agent_y", "cur_time")


def _padded(rows: np.ndarray, most: int) -> np.ndarray:
    found = np.zeros((most, rows.shape[1]), np.float32)
    found[: len(rows)] = rows
    return _without_far(found)


def _without_far(rows: np.ndarray) -> np.ndarray:
    """Rows [..., K], zeros where they stand for nothing."""
    return np.where(rows[..., :1] > 0, _normal(rows), np.float32(0))


def _normal(numbers: np.ndarray) -> np.ndarray:
    return np.where(np.abs(numbers) < 1e-37, np.float32(0), numbers)


def seeking(bank: dict[str, Any], level: np.ndarray, mine: Any) -> np.ndarray:
    """Actions [N] of a player who tries some plans in the graph, and begins the one that leads farthest."""
    return np.asarray(_best(bank, jnp.asarray(level), mine))


def _actions() -> np.ndarray:
    """int32 [P, _AHEAD]"""
    found = []
    for plan in _PLANS:
        actions = [action for action, steps in plan for _ in range(steps)]
        found.append((actions + _AHEAD * actions[-1:])[:_AHEAD])
    return np.array(found, np.int32)


@jax.jit
def _best(bank: dict[str, Any], level: jax.Array, mine: Any) -> jax.Array:
    def value(level: jax.Array, state: Any, plan: jax.Array) -> jax.Array:
        def one(carry: tuple[Any, jax.Array, jax.Array], action: jax.Array) -> tuple[Any, None]:
            state, goes_on, value = carry
            state, _, done, won = coinrun.step(bank, level, state, action)
            # Winning soon is best, then to live and be far on the right; then to die late.
            of_end = jnp.where(won, 1e4 - state.time, -1e4 + state.time)
            value = jnp.where(goes_on, jnp.where(done, of_end, state.position[0]), value)
            return (state, goes_on & ~done, value), None

        return jax.lax.scan(one, (state, jnp.ones((), jnp.bool_), jnp.float32(0)), plan)[0][2]

    plans = jnp.asarray(_actions())
    values = jax.vmap(jax.vmap(value, (None, None, 0)), (0, 0, None))(level, mine, plans)
    return plans[:, 0][jnp.argmax(values, axis=1)]
