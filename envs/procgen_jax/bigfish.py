"""Bigfish: eat smaller fish and grow, keep away from larger ones. A fish is worth 1, and the thirtieth 10 more.

Which fish come, and when, is decided by random numbers that depend on the level alone: each level has a list of them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.envs.procgen_jax import bodies, frames, sampling
from purerl.envs.procgen_jax.moves import is_even, of_level, push
from purerl.envs.procgen_jax.states import RX, LibraryState, X
from purerl.types import Array

SPACE, AGENT, FISH = 100, 0, 2
EXACT = "exact: rules, levels and frames"
TIMEOUT = 6000
SIZES = {"easy": (20, 20), "hard": (20, 20)}  # width and height in cells
PLANES = (
    *(f"{size} fish that swims to the {side}" for size in ("smaller", "larger") for side in ("left", "right")),
    "agent",
)
SYMBOLIC = "uint8"  # 255 times the share of a cell that is covered
MOST_LEVELS = 5_000  # 15 KB each
CENTRED = False  # frames show the whole level
SHAPED_BY = ("restrict_themes",)  # options that the sizes of things depend on

_SIZE = 20  # cells in a row and in a column
_ENOUGH = 30  # fish, to solve a level
_MOST, _AT_ONCE = 768, 32  # fish in a level, and at the same time
_NEVER = 32_000  # a step after all others
_PUSH = np.float32(0.25)  # half of the highest speed
_LARGEST = 2.0  # cells, the radius of a fish, and of an agent that has eaten enough
_PICTURES = {
    (AGENT, 0): "misc_assets/fishTile_072.png",
    (FISH, 0): "misc_assets/fishTile_074.png",
    (FISH, 1): "misc_assets/fishTile_078.png",
    (FISH, 2): "misc_assets/fishTile_080.png",
}
_Y, _SPEED, _RX, _RY = range(4)  # columns of a level's `fish`


@struct.dataclass
class State:
    """One game. Positions are in cells, y upwards; F fish, the newest first.

    Attributes:
      time: int32 [], steps of the episode.
      position, velocity: float32 [2], the agent's (x, y).
      looks_left: bool [], how the agent is drawn.
      eaten: int32 [], fish eaten; the agent's size depends on it.
      x: float32 [F], where the fish are; fish: float32 [4, F], height, speed and radii of each.
      theme: int32 [F], which picture a fish has; -1 for no fish.
      next: int32 [], the number of the next fish in the level's list.
    """

    time: Array
    position: Array
    velocity: Array
    looks_left: Array
    eaten: Array
    x: Array
    fish: Array
    theme: Array
    next: Array


# --- from the library ------------------------------------------------------------------------------------------------


def level(state: LibraryState) -> dict[str, np.ndarray]:
    """What of a level's first state is kept.

    start, radius, growth: float32 [], the agent's x, its radius, and what each fish adds to it. even: uint8 [750], a
    bit for each step. step: int16 [M], when each fish comes; fish: float32 [M, 4], its height, speed and radii; theme:
    int8 [M].
    """
    _, sizes = sampling.read([_PICTURES[FISH, theme] for theme in range(3)])
    aspects = (sizes[:, 1].astype(np.float32) / sizes[:, 0].astype(np.float32)).astype(np.float32)
    draws = state.draws(2 * TIMEOUT + 5 * _MOST)
    even, found, at = np.zeros(TIMEOUT, bool), [], 0
    for time in range(TIMEOUT):
        even[time] = draws[at] % 1_000_000 % 2 == 0
        comes, at = draws[at + 1] % 10 == 1, at + 2
        if comes:
            found.append((time + 1, *_fish(draws[at : at + 5], aspects, bool(state.numbers["restrict_themes"]))))
            at += 5
    assert len(found) <= _MOST, f"a level of bigfish has {len(found)} fish"
    step, fish, theme = np.full(_MOST, _NEVER, np.int16), np.zeros((_MOST, 4), np.float32), np.zeros(_MOST, np.int8)
    step[: len(found)] = [time for time, _, _ in found]
    fish[: len(found)] = [numbers for _, numbers, _ in found]
    theme[: len(found)] = [which for _, _, which in found]
    lasts = step + np.ceil((_SIZE + 2 * fish[:, _RX]) / np.maximum(np.abs(fish[:, _SPEED]), 0.1)) + 1
    together = ((step[None] <= step[:, None]) & (lasts[None] >= step[:, None]))[: len(found)].sum(axis=1).max()
    assert together <= _AT_ONCE, f"a level of bigfish has {together} fish at once"
    return {
        "start": state.floats(X)[0, 0],
        "radius": state.floats(RX)[0, 0],
        "growth": np.float32(state.numbers["r_inc"]),
        "even": np.packbits(even, bitorder="little"),
        "step": step,
        "fish": fish,
        "theme": theme,
    }


def _fish(draws: np.ndarray, aspects: np.ndarray, is_restricted: bool) -> tuple[tuple[np.float32, ...], int]:
    """((height, speed, the two radii), theme) of a fish, of five random words."""
    of_radius, of_height, of_side, of_speed = (np.float32(word / 2**32) for word in draws[:4].astype(np.float64))
    rx = np.float32(1.75 * np.power(np.float64(of_radius), 1.4) + 0.25)
    y = of_height * (np.float32(_SIZE) - 2 * rx)
    speed = np.float32(0.15 + np.float64(of_speed) * 0.25)
    theme = int(draws[4] % 3)
    ry = rx / aspects[0 if is_restricted else theme]
    return (y, speed if of_side < 0.5 else -speed, rx, ry), theme


def still(state: LibraryState) -> None:
    """Changes a level's first state to one whose frame is the background."""
    state.place(0, -9.0, -9.0)


STILLS = {"still": still}


def sprites(camera: frames.Camera) -> dict[str, Any]:
    """The pictures of the agent and of each theme, and how a frame shows the world."""
    numbers = camera.state.numbers
    pictures, sizes = sampling.of_kinds(_PICTURES, camera.state)
    of_theme = np.array([1, 1, 1] if numbers["restrict_themes"] else [1, 2, 3], np.int8)
    view = np.array(sampling.View.of(camera.state), np.float32)
    return {"pictures": pictures, "sizes": sizes, "picture_of": of_theme, "view": view}


# --- in the graph ----------------------------------------------------------------------------------------------------


def begin(bank: dict[str, Any], level: Array, before: State | None = None) -> State:
    """The State at the start of a level, the index of a row in the bank; nothing of `before` is kept."""
    zero = jnp.zeros((), jnp.int32)
    return State(
        time=zero,
        position=jnp.stack([of_level(bank, "start", level), jnp.float32(1 + bank["radius"][0])]),
        velocity=jnp.zeros(2, jnp.float32),
        looks_left=jnp.zeros((), jnp.bool_),
        eaten=zero,
        x=jnp.zeros(_AT_ONCE, jnp.float32),
        fish=jnp.zeros((4, _AT_ONCE), jnp.float32),
        theme=jnp.full(_AT_ONCE, -1, jnp.int32),
        next=zero,
    )


def radii(bank: dict[str, Any]) -> np.ndarray:
    """float32 [62], the agent's radius after so many fish: one step eats at most all that are there."""
    found = [np.float32(bank["radius"][0])]
    for _ in range(_ENOUGH - 1 + _AT_ONCE):
        found.append(found[-1] + np.float32(bank["growth"][0]))
    return np.array(found, np.float32)


def step(bank: dict[str, Any], level: Array, state: State, action: Array) -> tuple[State, Array, Array, Array]:
    """(State, reward float32 [], done bool [], whether the level is solved bool [])."""
    time, pushes = state.time + 1, jnp.stack(push(action))
    even = is_even(bank, level, state.time)
    sizes = radii(bank)
    radius, corner = (jnp.asarray(table).at[state.eaten].get(mode="clip") for table in (sizes, sizes * bodies.CORNER))
    velocity = bodies.accelerated(state.velocity, _PUSH * pushes.astype(jnp.float32))
    position, velocity = bodies.moved_within(_SIZE, state.position, velocity, pushes, even, radius, corner)
    x = state.x + state.fish[_SPEED]

    eaten, is_dead, there = _met(sizes, position, state.eaten, x, state.fish, state.theme >= 0)
    rx = state.fish[_RX]
    theme = jnp.where(there & (x + rx >= 0) & (x - rx <= _SIZE), state.theme, -1)
    radius = jnp.asarray(sizes).at[eaten].get(mode="clip")
    is_out = bodies.is_outside(_SIZE, position, radius)

    comes = jnp.asarray(bank["step"]).at[level, state.next].get(mode="clip") == time
    new = jnp.asarray(bank["fish"]).at[level, state.next].get(mode="clip")
    new_x = jnp.where(new[_SPEED] > 0, -new[_RX], _SIZE + new[_RX])
    new_theme = jnp.asarray(bank["theme"]).at[level, state.next].get(mode="clip").astype(jnp.int32)
    empty = theme < 0
    won = eaten >= _ENOUGH
    reward = (eaten - state.eaten).astype(jnp.float32) + jnp.where(won, jnp.float32(10), jnp.float32(0))
    after = State(
        time,
        position,
        velocity,
        jnp.where(pushes[0] == 0, state.looks_left, pushes[0] < 0),
        eaten,
        bodies.put_first(comes, empty, new_x, x),
        bodies.put_first(comes, empty, new, state.fish),
        bodies.put_first(comes, empty, new_theme, theme),
        state.next + comes,
    )
    return after, reward, is_dead | is_out | won, won


def _met(
    sizes: np.ndarray, position: Array, eaten: Array, x: Array, fish: Array, there: Array
) -> tuple[Array, Array, Array]:
    """(fish eaten int32 [], whether a larger one was met bool [], which are still there bool [F]).

    One fish after the other, the newest first: the agent grows with each, so it may reach the next.
    """
    number = jnp.arange(_AT_ONCE)

    def meets(eaten: Array, first: Array) -> Array:
        """bool [F], which fish from `first` on an agent that has eaten so many touches."""
        radius = jnp.asarray(sizes).at[eaten].get(mode="clip")
        reach = fish[_RX] + radius, fish[_RY] + radius
        return there & (number >= first) & bodies.overlap(position[0], position[1], (x, fish[_Y]), reach)

    def is_left(carry: tuple[Array, ...]) -> Array:
        return meets(*carry[:2]).any()

    def meet(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        eaten, first, is_dead, gone = carry
        which = jnp.argmax(meets(eaten, first)).astype(jnp.int32)
        is_larger = fish[_RX, which] > jnp.asarray(sizes).at[eaten].get(mode="clip")
        return eaten + ~is_larger, which + 1, is_dead | is_larger, gone | ((number == which) & ~is_larger)

    start = eaten, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_), jnp.zeros_like(there)
    eaten, _, is_dead, gone = jax.lax.while_loop(is_left, meet, start)
    return eaten, is_dead, there & ~gone


def frame(bank: dict[str, Any], level: Array, state: State) -> Array:
    """The frame, uint8 [64, 64, 3]: the background, the agent, and the fish from the oldest to the newest."""
    shown = of_level(bank, "still", level)
    radius = jnp.asarray(radii(bank)).at[state.eaten].get(mode="clip")
    agent = jnp.concatenate([state.position, jnp.stack([radius, radius])])
    y, speed, rx, ry = state.fish
    boxes = jnp.concatenate([agent[None], jnp.stack([state.x, y, rx, ry], axis=-1)[::-1]])
    pictures = jnp.asarray(bank["picture_of"]).at[state.theme].get(mode="clip").astype(jnp.int32)
    pictures = jnp.concatenate([jnp.zeros(1, jnp.int32), pictures[::-1]])
    there = jnp.concatenate([jnp.ones(1, jnp.bool_), state.theme[::-1] >= 0])
    looks_left = jnp.concatenate([state.looks_left[None], speed[::-1] < 0])
    view = sampling.View(*bank["view"])
    return sampling.draw_boxes(
        shown, (bank["pictures"], bank["sizes"]), view, boxes, pictures, there, 2 * _LARGEST, looks_left
    )


def planes(bank: dict[str, Any], level: Array, state: State) -> Array:
    """255 times the share of each cell that is covered, uint8 [H, W, planes], row 0 the lowest."""
    radius = jnp.asarray(radii(bank)).at[state.eaten].get(mode="clip")
    y, speed, rx, ry = state.fish
    place = (state.x - rx, state.x + rx), (y - ry, y + ry)
    there, is_larger = state.theme >= 0, rx > radius
    shown = [
        there & (is_larger == larger) & ((speed < 0) == left) for larger in (False, True) for left in (True, False)
    ]
    fish = sampling.covered(*place, jnp.stack(shown), _SIZE, _SIZE)
    x, y = ((state.position[None, axis] - radius, state.position[None, axis] + radius) for axis in range(2))
    return jnp.concatenate([fish, sampling.covered(x, y, jnp.ones((1, 1), jnp.bool_), _SIZE, _SIZE)], axis=-1)
