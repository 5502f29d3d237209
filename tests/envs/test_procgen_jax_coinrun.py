"""Coinrun in the graph: every step against the library, in play and from states that play seldom reaches."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.envs import procgen, procgen_jax
from purerl.envs.procgen_jax import banks, bitmaps, coinrun, coinrun_frames, family, frames, states
from purerl.experiments.benchmarks import procgen_coinrun, procgen_in_graph

NUM_GAMES = 9
HARD = {"num_levels": 27, "distribution_mode": "hard", "observation": "symbolic"}


@pytest.mark.parametrize(
    "options",
    [
        {"distribution_mode": "easy"},
        {"distribution_mode": "hard", "use_monochrome_assets": True, "use_backgrounds": False},
    ],
    ids=["easy", "plain"],
)
def test_play_and_frames_equal_the_librarys(options):
    random, steps = np.random.RandomState(0), 150 if options["distribution_mode"] == "easy" else 60
    with contextlib.closing(procgen_in_graph.Pair("coinrun", NUM_GAMES, seed=2, num_levels=12, **options)) as pair:
        for _ in range(steps):  # mostly to the right, and often up
            pair.step(random.choice([0, 1, 2, 3, 4, 6, 7, 7, 8, 8, 11], NUM_GAMES))
    assert not any(pair.mismatches.values()), pair.mismatches
    assert "frame" in pair.mismatches and pair.ends and len(pair.levels) > 6


# --- states that play seldom reaches ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank():
    return banks.bank(family.bank_request("coinrun", procgen_jax.Options(**HARD)))


@pytest.fixture(scope="module")
def step(bank):
    return jax.jit(jax.vmap(lambda level, state, action: coinrun.step(bank, level, state, action)))


@pytest.fixture(scope="module")
def painter():
    with contextlib.closing(frames.Painter("coinrun", procgen.Options(distribution_mode="hard"), NUM_GAMES)) as painter:
        yield painter


def changed(painter, bank, levels, change):
    """(the library's states, ours) at the start of levels, with agents of other places and velocities.

    change(library's state) returns them, x, y, vx and vy.
    """
    theirs = painter.at_levels(levels.tolist())
    agents = np.array([change(state) for state in theirs], np.float32)
    words = states.X, states.Y, states.VX, states.VY
    for state, agent in zip(theirs, agents, strict=True):
        state.entities[0, list(words)] = agent.view(np.uint32)
        state.numbers["last_agent_y"] = float(agent[1])
    mine = jax.vmap(lambda level: coinrun.begin(bank, level))(jnp.asarray(levels))
    return theirs, mine.replace(position=jnp.asarray(agents[:, :2]), velocity=jnp.asarray(agents[:, 2:]))


def played(painter, bank, step, levels, theirs, mine, actions):
    """Plays both with actions [T, N], each until its episode ends: (steps compared, levels solved)."""
    painter.games.load([state.to_bytes() for state in theirs])
    plays, steps, solved = np.ones(len(levels), bool), 0, 0
    for action in actions:
        painter.buffers.action[:] = action
        painter.games.act()
        painter.games.observe()
        mine, reward, done, won = step(jnp.asarray(levels), mine, jnp.asarray(action))
        theirs = [states.parse(data) for data in painter.games.states()]
        begun = np.array([state.numbers["cur_time"] == 0 for state in theirs])
        assert (begun == done)[plays].all() and (painter.buffers.reward == reward)[plays].all()
        solved += int((np.asarray(won) & plays).sum())
        plays &= ~begun
        for what, (library, ours) in procgen_coinrun.compared(bank, levels, jax.device_get(mine), theirs).items():
            np.testing.assert_array_equal(library[plays], ours[plays], err_msg=what)
        steps += int(plays.sum())
    return steps, solved


def test_falls_beside_and_onto_things(painter, bank, step):
    """Agents at random places around things, at any speed: corners, crates in piles, creatures, the coin, lava."""
    random, steps, solved = np.random.RandomState(0), 0, 0

    def around(state):
        things = state.floats(states.X, states.Y)[1:]
        coin = np.argwhere(state.grid == coinrun.COIN)[:, ::-1] + 0.5
        crates = state.floats(states.X, states.Y)[state.of_type(coinrun.CRATE)]
        near = [crates, things, coin][random.choice(3, p=[0.5, 0.3, 0.2])]
        near = near[random.randint(len(near))] if len(near) else coin[0]
        place = np.clip(near + random.uniform(-2, 2, 2) * (1, 1.6) + (0, 1), (1.6, 1.8), (62, 60))
        return [*place, *random.uniform((-0.5, -1.5), (0.5, 1.5)) * (random.rand(2) < 0.7)]

    for _ in range(15):
        levels = random.randint(0, HARD["num_levels"], NUM_GAMES)
        theirs, mine = changed(painter, bank, levels, around)
        found = played(painter, bank, step, levels, theirs, mine, random.randint(0, 15, (5, NUM_GAMES)))
        steps, solved = steps + found[0], solved + found[1]
    assert steps > 300 and solved


def test_landing_on_a_crate_high_up(painter):
    """From 16 cells on, it shows that the library adds the radii in float32, and all else in float64."""
    random = np.random.RandomState(0)
    x, rows = np.float32(10.5), random.randint(16, 40, NUM_GAMES)
    y, vy = (rows + 1.6 + 0.2 * random.rand(NUM_GAMES)).astype(np.float32), np.float32(-0.6)
    theirs = painter.at_levels([next_with_crates(painter)] * NUM_GAMES)
    for n, state in enumerate(theirs):
        state.entities = state.entities[[0, state.of_type(coinrun.CRATE)[0]]]
        state.grid[:] = coinrun.SPACE
        state.place(1, float(x), rows[n] + 0.5)
        agent = np.array([x, y[n], 0, vy], np.float32)
        state.entities[0, [states.X, states.Y, states.VX, states.VY]] = agent.view(np.uint32)
        state.numbers["last_agent_y"] = float(y[n])
    painter.games.load([state.to_bytes() for state in theirs])
    painter.buffers.action[:] = 4
    painter.games.act()
    painter.games.observe()

    def fall(y, row):
        position, crates = jnp.stack([x, y]), jnp.stack([x, row + jnp.float32(0.5)])[None]
        moving = position, jnp.stack([jnp.float32(0), vy - jnp.float32(0.2)]), jnp.zeros(2, jnp.int32)
        return coinrun._moved(lambda *_: jnp.bool_(False), crates, jnp.ones(1, bool), moving, jnp.bool_(True))[0]

    mine = jax.jit(jax.vmap(fall))(jnp.asarray(y), jnp.asarray(rows, jnp.float32))
    found = [states.parse(data) for data in painter.games.states()]
    assert all(state.numbers["is_on_crate"] for state in found)
    np.testing.assert_array_equal([state.floats(states.X, states.Y)[0] for state in found], mine)


def next_with_crates(painter):
    """The number of a level with crates."""
    found = painter.at_levels(list(range(NUM_GAMES)))
    return next(n for n, state in enumerate(found) if len(state.of_type(coinrun.CRATE)))


def test_the_level_that_is_for_exploration(painter):
    options = procgen_jax.Options(distribution_mode="exploration", observation="symbolic")
    bank = banks.bank(family.bank_request("coinrun", options))
    (state, *_) = painter.at_levels([procgen._EXPLORATION_LEVELS["coinrun"]] * NUM_GAMES)
    for name, array in coinrun.level(state).items():
        np.testing.assert_array_equal(bank[name][0], array)


# --- parts -----------------------------------------------------------------------------------------------------------


def test_words_hold_all_cells():
    random = np.random.RandomState(0)
    cells = random.rand(3, 64, 64) < 0.3
    words = np.stack([bitmaps.words(one, True) for one in cells])
    np.testing.assert_array_equal(bitmaps.cells(words), cells)
    padded = np.pad(cells[1], 8, constant_values=True)
    for x, y in ((0, 0), (15, 63), (16, 31), (63, 5)):
        rows = bitmaps.around({"walls": words}, "walls", jnp.int32(1), jnp.array([x, y]), 7)
        np.testing.assert_array_equal(bitmaps.square(rows), padded[y + 1 : y + 16, x + 1 : x + 16])


def test_pixels_show_up_to_two_cells():
    index = jnp.array([[0, 1, 2, -1], [-1, -1, 0, 1], [-1, -1, -1, -1]])
    (first, source), (second, more) = coinrun_frames.two_cells(index)
    assert (first.tolist(), source.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 1])
    assert more.tolist() == [-1, -1, 0, -1] and second[2] == 1
