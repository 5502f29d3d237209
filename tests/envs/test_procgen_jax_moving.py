"""Procgen's games in the graph whose things move between cells: against the library, and their drawing by hand."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.envs import procgen, procgen_jax
from purerl.envs.procgen_jax import banks, bodies, family, frames, fruitbot, heist, sampling, starpilot, states, turning
from purerl.errors import PurerlError
from purerl.experiments.benchmarks import procgen_in_graph, procgen_players

# --- every step against the library ----------------------------------------------------------------------------------


def played(game, num_envs, steps, **options):
    with contextlib.closing(procgen_in_graph.Pair(game, num_envs, seed=2, num_levels=30, **options)) as pair:
        procgen_in_graph.play(pair, steps)
    assert not any(pair.mismatches.values()), pair.mismatches
    assert pair.steps == num_envs * steps and len(pair.levels) >= 9
    return pair


# Enemies hatch in step 50 of chaser; in fruitbot the first key may be shot in step 8; bigfish takes time to grow.
@pytest.mark.parametrize(
    ("game", "steps"), [("chaser", 80), ("heist", 60), ("fruitbot", 100), ("bigfish", 250), ("leaper", 120)]
)
def test_play_and_frames_equal_the_librarys(game, steps):
    pair = played(game, 12, steps, frames=True, distribution_mode="easy")
    assert "frame" in pair.mismatches and (pair.ends or game == "chaser") and pair.rewards != 0


@pytest.mark.parametrize(
    ("game", "steps"),
    [("chaser", 70), ("heist", 40), ("fruitbot", 70), ("bigfish", 90), ("leaper", 60), ("starpilot", 120)],
)
def test_play_in_hard_mode_equals_the_librarys(game, steps):
    played(game, 12, steps, frames=game == "starpilot", distribution_mode="hard")


def test_plain_frames_equal_the_librarys():
    looks = {"use_monochrome_assets": True, "use_backgrounds": False}
    played("fruitbot", 9, 12, frames=True, distribution_mode="hard", **looks)


def test_the_finish_of_starpilot_comes_as_in_the_library():
    """States of the library a step before the finish comes, with what comes after it; then both are played."""
    late, levels = starpilot.FINISH_TIME - 1, jnp.arange(9)
    options = procgen_jax.Options(num_levels=9, distribution_mode="easy", observation="symbolic")
    bank = banks.bank(family.bank_request("starpilot", options))
    with contextlib.closing(frames.Painter("starpilot", procgen.Options(distribution_mode="easy"), 9)) as painter:
        found = painter.at_levels(levels.tolist())
        for state in found:
            state.numbers["cur_time"] = late
            spawners = state.lists["spawners"]
            state.lists["spawners"] = spawners[spawners[:, states.SPAWN_TIME] > late]
            state.generators["rand_gen"] = state.later_generator(late)
        painter.games.load([state.to_bytes() for state in found])
        mine = jax.vmap(lambda level: starpilot.begin(bank, level))(levels).replace(time=jnp.full(9, late))
        step = jax.jit(jax.vmap(lambda level, state, action: starpilot.step(bank, level, state, action)))
        playing, won = np.ones(9, bool), 0
        for _ in range(100):
            action = procgen_players.seeking("starpilot", bank, np.asarray(levels), jax.device_get(mine))
            painter.buffers.action[:] = action
            painter.games.act()
            painter.games.observe()
            mine, reward, done, complete = step(levels, mine, jnp.asarray(action))
            theirs = [states.parse(data) for data in painter.games.states()]
            begun = np.array([state.numbers["cur_time"] < late for state in theirs])
            assert (painter.buffers.reward == reward)[playing].all() and (begun == done)[playing].all()
            won += int((np.asarray(complete) & playing).sum())
            playing &= ~np.asarray(done)
            both = procgen_players.compared("starpilot", bank, np.asarray(levels), jax.device_get(mine), theirs)
            assert all((library[playing] == ours[playing]).all() for library, ours in both.values())
        assert won >= 5 and not playing.any()


def test_a_difference_of_a_creature_is_noticed():
    with contextlib.closing(
        procgen_in_graph.Pair("chaser", 9, seed=2, frames=False, num_levels=5, distribution_mode="easy")
    ) as pair:
        pair.state = pair.state.replace(game=pair.state.game.replace(egg=pair.state.game.egg + 1))
        pair.step(np.full(9, 4))
    assert pair.mismatches["creatures"] == 9 and pair.mismatches["position"] == 0


# --- symbolic observations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "area"),
    [
        ("chaser", 1.0),
        ("heist", 0.5625),
        ("fruitbot", 0.64),
        ("bigfish", 4.0),
        ("leaper", 0.64),
        ("starpilot", 0.64),
        ("coinrun", 1.1574),
    ],
)
def test_planes_are_shares_of_cells(game, area):
    options = procgen_jax.Options(num_levels=3, distribution_mode="easy", observation="symbolic")
    environment = procgen_jax.make(game, options)
    _, planes = environment.reset(jax.random.key(1))  # the agent of bigfish may start partly outside of the world
    assert (planes.shape, planes.dtype) == (environment.spec.observation_shape, environment.spec.observation_dtype)
    assert len(banks.GAMES[game].PLANES) == planes.shape[-1]
    assert planes[..., -1].sum(dtype=int) == pytest.approx(255 * area, abs=2)


def test_what_boxes_cover():
    x, y = (jnp.array([0.5, 2.0]), jnp.array([1.5, 9.0])), (jnp.array([0.0, 0.0]), jnp.array([1.0, 0.5]))
    found = sampling.covered(x, y, jnp.array([True, True]), 3, 2)
    assert found.tolist() == [[128, 128, 128], [0, 0, 0]]
    assert sampling.covered(x, y, jnp.array([False, True]), 3, 2).tolist() == [[0, 0, 128], [0, 0, 0]]


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "backwards", "expected"),
    [
        (0.4, False, [0, 0, 1, 1, 9, 9]),
        (0.4, True, [1, 1, 0, 0, 9, 9]),
        (-1.0, False, [0, 1, 1, 9, 9, 9]),
        (-9.0, False, [9] * 6),
        (1.6, False, [9, 9, 0, 0, 1, 1]),
    ],
)
def test_pixels_show_what_is_at_their_centres(start, backwards, expected):
    """A picture of two pixels on four pixels of a frame; 9 is nothing."""
    window = np.full(8, 9)
    backwards = np.array(True) if backwards else False
    first, index = sampling.spans(np, np.float64(start), np.float64(4.0), 2, 6, 9, backwards)
    window[first : first + 6] = index[: 8 - first]
    assert window[:6].tolist() == expected


@pytest.mark.parametrize(("half_turn", "expected"), [(False, 39), (True, 40)])
def test_a_mirrored_picture_is_not_rounded_as_one_that_is_turned_by_180_degrees(half_turn, expected):
    """108 pixels on 6.6 of a frame: pixel 35 shows what is just before or after the border of column 40."""
    start, length = (np.float64(np.float32(x)) for x in (31.336048, 6.613333))
    first, index = sampling.spans(np, start, length, 108, 14, 108, np.array(True), half_turn)
    assert (first, index[:7].tolist()) == (31, [105, 88, 72, 56, expected, 23, 7])


def test_a_turned_picture():
    """A quarter turn to the left of two by two pixels: its first column is below, its first row on the left."""
    size = np.array([2, 2])
    turn = turning.turned(-90.0, 4.0, 4.0, size)
    with jax.enable_x64(True):
        turn = turning.Turn(*map(jnp.asarray, turn))
        first_row, first_column, index = turning.covered(turn, (jnp.float64(10.0), jnp.float64(20.0)), size, 6, 9)
    assert (int(first_row), int(first_column)) == (17, 7)
    inside = np.asarray(index)[1:5, 1:5]
    assert inside[[0, 0, 3, 3], [0, 3, 0, 3]].tolist() == [[0, 1], [1, 1], [0, 0], [1, 0]]
    assert (np.asarray(index) == 9).all(axis=-1).sum() == 36 - 16


def test_the_last_digit_of_a_turned_corner_decides_as_in_the_library():
    """The agent of heist at (2.375, 6.625), turned by 135 degrees: a pixel on the border between two of its picture."""
    place = 2.375, 6.625
    with contextlib.closing(frames.Painter("heist", procgen.Options(distribution_mode="easy"), 1)) as painter:
        (state,) = painter.at_levels([3])
        state = frames.emptied(state, heist.SPACE, None)
        (empty,) = painter.draw([state])
        view = sampling.View.of(states.parse(painter.games.states()[0]))
        state.place(0, *place)
        state.entities[0, states.ROTATION] = np.float32(-0.75 * np.pi).view(np.uint32)
        (theirs,) = painter.draw([state])
    agent = turning.Sprite(np.float32(0.375), np.array([-135.0]))
    pictures = sampling.read(["misc_assets/spaceAstronauts_008.png"])
    draw = jax.jit(lambda frame, place: turning.draw(frame, pictures, agent, view, place, jnp.int32(0)))
    np.testing.assert_array_equal(draw(empty, jnp.array(place, jnp.float32)), theirs)
    assert (theirs != empty).any()


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_velocities_are_rounded_as_doubles_are():
    """0.9 is not a float32: products with float32 0.9 differ from the library's in a third of all cases."""
    random = np.random.RandomState(0)
    velocity, push = random.uniform(-1, 1, (2, 1_000)).astype(np.float32)
    plain = np.float32(0.5) * velocity + push
    expected = (0.9 * plain.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(bodies.accelerated)(velocity, push), expected)
    assert (expected != np.float32(0.9) * plain).mean() > 0.2


def test_the_agent_of_fruitbot_rises_by_itself():
    heights = fruitbot.heights()
    assert heights.dtype == np.float32 and heights[0] == np.float32(0.4)
    assert np.diff(heights)[30:].mean() == pytest.approx(0.139, abs=5e-4) and 58.6 < heights[-1] < 60


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_of_these_games():
    with pytest.raises(PurerlError, match="too many"):
        procgen_jax.make("chaser", procgen_jax.Options(num_levels=50_000, observation="symbolic"))
    with pytest.raises(PurerlError, match="no game jumper"):
        procgen_jax.make("jumper")
    for game in ("fruitbot", "coinrun"):
        with pytest.raises(PurerlError, match=f"{game} follows the agent"):
            procgen_jax.make(game, procgen_jax.Options(center_agent=False, observation="symbolic"))

    def path(game, **options):
        return family.bank_request(game, procgen_jax.Options(observation="symbolic", **options)).path()

    # The sizes of fruit depend on their pictures, so rules do, too.
    assert path("fruitbot") != path("fruitbot", restrict_themes=True)
    assert path("heist") == path("heist", restrict_themes=True, center_agent=False)
