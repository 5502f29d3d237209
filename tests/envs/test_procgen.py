"""The real games, by the real library: exact seeds, exact restores, no copies, errors instead of dead processes."""

import functools
import importlib.util
import os
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.envs import procgen
from purerl.envs.procgen import Options, make_pool
from purerl.errors import PurerlError

needs_procgen = pytest.mark.skipif(
    not (importlib.util.find_spec("procgen") and importlib.util.find_spec("cffi")),
    reason="the procgen and cffi packages are not installed",
)
EASY = Options(distribution_mode="easy", num_threads=2)
NOTHING = 4  # the action that presses no key


def random_actions(steps, shape, seed=0):
    """[T, S, N]"""
    return np.random.default_rng(seed).integers(0, 15, (steps, *shape), dtype=np.int32)


def shown(pool):
    """First observations [S, N, 64, 64, 3] of all groups."""
    return np.concatenate([pool.reset(group) for group in range(pool.num_groups)], axis=1)


def play(pool, actions):
    """Steps all groups one after another. Returns {name: [T, S, N, ...]}."""
    size = pool.num_envs // pool.num_groups
    rows = []
    for row in actions:
        for group in range(pool.num_groups):
            pool.send(group, row[:, group * size : (group + 1) * size])
        groups = [pool.recv(group) for group in range(pool.num_groups)]
        row = {}
        for name in ("observation", "reward", "terminated", "truncated"):
            row[name] = np.concatenate([getattr(step, name) for step in groups], axis=1)
        row["level"] = np.concatenate([pool.level_seeds(group) for group in range(pool.num_groups)], axis=1)
        rows.append(row)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def assert_same(one, other, seeds=slice(None)):
    """Bit for bit; `seeds` picks those of `other` to compare with."""
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name][:, seeds], name)


def test_all_games_are_known_without_the_package():
    assert len(procgen.names()) == 16
    spec = procgen.spec("coinrun", Options())
    assert (spec.name, spec.observation_shape, spec.observation_dtype) == ("procgen/coinrun", (64, 64, 3), "uint8")
    assert (spec.num_actions, spec.action_shape, spec.shows_final_observation) == (15, (), False)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PurerlError, match="pip install cffi && pip install --no-deps procgen-mirror"):
        procgen._library.__wrapped__()


@needs_procgen
def test_missing_pictures_are_told(monkeypatch, tmp_path):
    """The library would end the process."""
    package = Path(importlib.util.find_spec("procgen").submodule_search_locations[0])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prebuilt").symlink_to(package / "data" / "prebuilt")
    found = SimpleNamespace(submodule_search_locations=[tmp_path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(PurerlError, match=r"has no pictures .*install procgen again"):
        procgen._library.__wrapped__()


@pytest.mark.parametrize(
    ("game", "options", "match"),
    [
        ("coinrum", {}, "Did you mean 'coinrun'"),
        ("coinrun", {"distribution_mode": "Easy"}, "Did you mean 'easy'"),
        ("coinrun", {"distribution_mode": "memory"}, "only caveflyer, dodgeball, heist, jumper, maze, miner"),
        ("coinrun", {"distribution_mode": "extreme"}, "only chaser, dodgeball, leaper, starpilot"),
        ("bigfish", {"distribution_mode": "exploration"}, "use easy or hard"),
        ("coinrun", {"distribution_mode": "exploration", "num_levels": 5}, "leave num_levels and start_level at 0"),
        ("coinrun", {"num_levels": -1}, "num_levels must be an integer in"),
        ("coinrun", {"num_levels": 2.5}, "num_levels must be an integer in"),
        ("coinrun", {"num_levels": np.int64(5)}, "num_levels must be an integer in"),
        ("coinrun", {"center_agent": 1}, "center_agent must be True or False"),
        ("coinrun", {"num_levels": 2**31}, "num_levels must be an integer in"),
        ("coinrun", {"num_levels": 1, "start_level": -1}, "start_level must be an integer in"),
        ("coinrun", {"start_level": 3}, "set num_levels as well"),
        ("coinrun", {"num_levels": 2**30, "start_level": 2**30}, r"num_levels must be at most"),
        ("coinrun", {"num_threads": -1}, "num_threads must be an integer in"),
        ("coinrun", {"num_threads": 10**6}, "use 0"),
    ],
)
def test_impossible_options_are_refused(game, options, match):
    for build in (procgen.spec, lambda *args: make_pool(*args, [0], 2, 1)):
        with pytest.raises(PurerlError, match=match) as told:
            build(game, Options(**options))
        assert "\n" not in str(told.value)


@needs_procgen
@pytest.mark.parametrize(
    ("seeds", "num_envs", "num_groups", "match"),
    [
        ([0], 6, 4, "use num_groups=1 or a multiple of 4"),
        ([0], 0, 1, "num_envs must be at least 1"),
        ([0], 2, 0, "num_groups must be at least 1"),
        ([], 2, 1, "num_seeds must be at least 1"),
        ([0, -1], 2, 1, "every seed must be an integer in"),
        ([2**31], 2, 1, "every seed must be an integer in"),
        ([True], 2, 1, "every seed must be an integer in"),
        ([0], 2.0, 1, "num_envs must be an integer"),
        ([0], "2", 1, "num_envs must be an integer"),
        ([0], 10**16, 1, "this machine has .* GB: lower num_envs"),
    ],
)
def test_impossible_sizes_are_refused(seeds, num_envs, num_groups, match):
    with pytest.raises(PurerlError, match=match):
        make_pool("coinrun", EASY, seeds, num_envs, num_groups)


@needs_procgen
@pytest.mark.parametrize("game", procgen.names())
def test_every_game_plays_its_seed_whatever_it_is_played_beside(game):
    options = Options(num_levels=200, num_threads=2)
    actions = random_actions(80, (2, 4))
    with make_pool(game, options, [5], 4, 1) as solo, make_pool(game, options, [2, 5], 4, 2) as sweep:
        first = shown(solo)
        np.testing.assert_array_equal(first, shown(sweep)[1:])
        assert not (first == shown(sweep)[:1]).all()
        alone, beside = play(solo, actions[:, 1:]), play(sweep, actions)
    assert_same(alone, beside, [1])
    assert alone["observation"].shape == (80, 1, 4, 64, 64, 3) and alone["observation"].dtype == np.uint8
    assert alone["reward"].dtype == np.float32 and np.isfinite(alone["reward"]).all()
    assert alone["terminated"].dtype == alone["truncated"].dtype == np.bool_
    assert not alone["truncated"].any()
    assert set(alone["level"].flat) <= set(range(200))
    assert (alone["observation"] != alone["observation"][:1]).any()


@needs_procgen
@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("coinrun", {"num_levels": 200, "distribution_mode": "easy"}),
        ("starpilot", {"distribution_mode": "extreme"}),
        ("bigfish", {"distribution_mode": "easy"}),
        ("maze", {"distribution_mode": "memory"}),
        ("plunder", {"distribution_mode": "hard", "paint_vel_info": True, "use_monochrome_assets": True}),
    ],
)
def test_restored_games_continue_bit_for_bit(game, options):
    options = Options(**options, num_threads=2)
    actions = random_actions(400, (2, 4))
    with make_pool(game, options, [0, 1], 4, 2) as pool:
        before = play(pool, actions[:70])
        state = pool.state()
        expected = play(pool, actions[70:])
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "ui" for array in state.values())
    # Other seeds, another number of groups, and games that have moved on.
    with make_pool(game, options, [8, 9], 4, 1) as other:
        play(other, actions[:30])
        other.restore(state)
        np.testing.assert_array_equal(shown(other), before["observation"][-1])
        np.testing.assert_array_equal(other.level_seeds(0), before["level"][-1])
        for name, array in other.state().items():
            np.testing.assert_array_equal(array, state[name], name)
        assert_same(play(other, actions[70:]), expected)


@needs_procgen
def test_seeds_give_the_levels_that_the_library_gives():
    with make_pool("coinrun", EASY, np.array([1]), 4, 2) as pool:
        levels = np.concatenate([pool.level_seeds(0), pool.level_seeds(1)], axis=1)
    # Read off the bare library with 4 games and rand_seed=1.
    np.testing.assert_array_equal(levels, [[1028862084, 1350755646, 171461426, 1650001247]])


@needs_procgen
def test_only_the_wanted_levels_are_played():
    options = Options(distribution_mode="easy", num_levels=3, start_level=7, num_threads=2)
    with make_pool("jumper", options, [0], 8, 1) as pool:
        start = pool.level_seeds(0)
        levels = np.append(play(pool, random_actions(300, (1, 8)))["level"], start)
    assert set(levels.tolist()) == {7, 8, 9}


def layouts(game, levels, size=200):
    """What is in each level at its start, as bytes: the grid, and every object's type, place, velocity and size. Games
    are sent to a level by their states, whose fields are those of the library's source (no pictures among them)."""

    def generator(state, at):
        return at + 8 + struct.unpack_from("<i", state, at + 4)[0]

    def layout(state):
        at = generator(state, generator(state, 4 + 4 + len(game) + 12 * 4 + 5 * 4)) + 16 * 4
        (count,) = struct.unpack_from("<i", state, at)
        objects = np.frombuffer(state, "<i4", count * 31, at + 4).reshape(count, 31)[:, :7]
        grid = generator(state, at + 4 + count * 31 * 4 + 19 * 4) + 9 * 4
        width, height, cells = struct.unpack_from("<3i", state, grid)
        assert width * height == cells
        return objects.tobytes() + state[grid : grid + 12 + 4 * cells]

    buffers, found = procgen.Buffers.empty((size,)), []
    games = procgen.Games(game, EASY, 0, 2, buffers)
    games.observe()
    for first in range(0, len(levels), size):
        chosen = levels[first : first + size]
        states = [bytearray(state) for state in games.states()]
        for state, level in zip(states, chosen, strict=True):
            struct.pack_into("<2i", state, 60 + len(game), level, level + 1)
        games.load([bytes(state) for state in states])
        buffers.action[:] = -1  # start the next level
        games.act()
        games.observe()
        assert list(buffers.level_seed) == list(chosen)
        found += [layout(state) for state in games.states()]
    games.close()
    return found


@needs_procgen
@pytest.mark.parametrize(("game", "low", "high"), [("coinrun", 0.13, 0.21), ("maze", 0.08, 0.15), ("jumper", 0, 0)])
def test_how_many_test_levels_repeat_a_training_level(game, low, high):
    """The shares in docs/protocols.md, of 1,000 levels: 200 training levels, and test levels with other numbers."""
    tested = np.random.default_rng(0).integers(200, procgen.NUM_LEVELS, 1000).tolist()
    training = set(layouts(game, list(range(200))))
    assert low <= np.mean([layout in training for layout in layouts(game, tested)]) <= high


@needs_procgen
def test_modes_and_pictures():
    first = {}
    for mode in ("easy", "hard", "memory", "exploration"):
        with make_pool("maze", Options(distribution_mode=mode), [0], 2, 1) as pool:
            first[mode] = shown(pool).copy()
            if mode == "exploration":
                np.testing.assert_array_equal(pool.level_seeds(0), [[158988835, 158988835]])
    for picture in ("use_monochrome_assets", "restrict_themes", "use_backgrounds", "center_agent", "paint_vel_info"):
        options = Options(**{picture: not getattr(Options(), picture)})
        with make_pool("coinrun", options, [0], 2, 1) as pool:
            first[picture] = shown(pool).copy()
    looks = list(first.values())
    assert all((a != b).any() for i, a in enumerate(looks) for b in looks[:i])


@needs_procgen
def test_a_time_out_is_an_end_like_any_other():
    options = Options(distribution_mode="easy", num_levels=1, num_threads=2)
    with make_pool("maze", options, [0], 2, 1) as pool:
        first = shown(pool).copy()
        steps = play(pool, np.full((501, 1, 2), NOTHING, np.int32))
    expected = np.zeros((501, 1, 2), bool)
    expected[499] = True  # maze gives up after 500 steps
    np.testing.assert_array_equal(steps["terminated"], expected)
    assert not steps["truncated"].any() and not steps["reward"].any()
    np.testing.assert_array_equal(steps["observation"][499], first)


@needs_procgen
def test_a_reward_belongs_to_the_action_that_earned_it():
    with make_pool("coinrun", EASY, [0], 16, 2) as pool:
        steps = play(pool, np.full((300, 1, 16), 7, np.int32) + random_actions(300, (1, 16)) % 2)  # run and jump
    earned = steps["reward"] > 0
    assert earned.any() and (steps["reward"][earned] == 10).all()
    assert steps["terminated"][earned].all()  # the coin ends the level, in the very step that pays
    changed = steps["level"][1:] != steps["level"][:-1]
    assert steps["terminated"][1:][changed].all()


@needs_procgen
def test_nothing_is_copied_and_nothing_moves_before_the_next_send():
    actions = random_actions(3, (2, 2))
    with make_pool("starpilot", EASY, [0, 1], 4, 2) as pool:
        first = pool.reset(0)
        pool.send(0, actions[0])
        step = pool.recv(0)
        assert step.final_observation is None
        kept = {name: getattr(step, name).copy() for name in ("observation", "reward", "terminated", "truncated")}
        pool.send(1, actions[1])
        other = pool.recv(1)
        for name, array in kept.items():
            mine = getattr(step, name)
            np.testing.assert_array_equal(mine, array)
            assert mine.ctypes.data % 64 == 0 and mine.flags.c_contiguous
            assert not np.shares_memory(mine, getattr(other, name))
            with pytest.raises(ValueError, match="read-only"):
                mine[...] = 0
        pool.send(0, actions[2])
        assert np.shares_memory(first, pool.recv(0).observation)
        assert (step.observation != kept["observation"]).any()
    assert step.observation.any()  # a view outlives its pool


@needs_procgen
def test_frames_land_in_a_rollout_before_the_games_overwrite_them():
    @functools.partial(jax.jit, donate_argnums=0)
    def store(rollout, observation, t, first, actions):
        return jax.lax.dynamic_update_slice(rollout, observation[None], (t, 0, first, 0, 0, 0)), actions

    actions = random_actions(60, (1, 16))
    rollout = jnp.zeros((60, 1, 32, 64, 64, 3), jnp.uint8)
    expected = np.zeros(rollout.shape, np.uint8)
    with make_pool("bigfish", EASY, [0], 32, 2) as pool:
        for group in range(2):
            pool.send(group, actions[0])
        for t in range(60):
            for group in range(2):
                seen = pool.recv(group).observation
                expected[t, :, 16 * group : 16 * group + 16] = seen
                rollout, chosen = store(rollout, seen, np.int32(t), np.int32(16 * group), actions[t])
                pool.send(group, np.asarray(chosen))
    np.testing.assert_array_equal(rollout, expected)


@needs_procgen
def test_generated_pictures_play_but_cannot_be_saved():
    options = Options(use_generated_assets=True, num_threads=1)
    with make_pool("dodgeball", options, [0], 2, 1) as pool:
        play(pool, random_actions(3, (1, 2)))
        with pytest.raises(PurerlError, match="without checkpoints"):
            pool.state()
    with pytest.raises(PurerlError, match="use num_groups=1"):
        make_pool("dodgeball", options, [0], 2, 2)


def test_generated_pictures_are_not_trained_on():
    """A training run saves its games, so it must be refused when it starts, not at its first checkpoint."""
    with pytest.raises(PurerlError, match=r"use_generated_assets cannot be saved.*leave it off"):
        procgen.check_training("dodgeball", Options(use_generated_assets=True))
    procgen.check_training("dodgeball", Options())


@needs_procgen
def test_foreign_and_damaged_states_are_refused():
    with make_pool("maze", EASY, [0], 4, 1) as pool:
        state, first = pool.state(), shown(pool).copy()
        damaged = state["games"].copy()
        damaged[0, 1, 500] ^= 1

        def forged(change):
            """The state with a right checksum after `change` of its bytes and lengths."""
            games, lengths = state["games"].copy(), state["lengths"].copy()
            change(games, lengths)
            return {**state, "games": games, "lengths": lengths, "checksum": procgen._checksum(games, lengths)}

        for bad, match in [
            ({}, "this Procgen state has no checksum, games"),
            ({**state, "identity": np.zeros(3, np.uint8)}, "has no readable game and options"),
            ({**state, "games": damaged}, "is damaged"),
            ({**state, "games": state["games"][:, :, :-1]}, "is damaged"),
            ({**state, "games": state["games"].astype(np.int32)}, "is damaged"),
            ({**state, "lengths": state["lengths"] + 10**6}, "is damaged"),
            ({**state, "lengths": -state["lengths"]}, "is damaged"),
            ({**state, "checksum": np.zeros(2, np.uint32)}, "is damaged"),
            ({**state, "identity": np.frombuffer(b"[" * 10**5, np.uint8)}, "has no readable game and options"),
            (forged(lambda games, lengths: np.put(games, 0, 1)), "not one of this game, options and version"),
            (forged(lambda games, lengths: np.put(games, 8, ord("h"))), "not one of this game, options and version"),
            (forged(lambda games, lengths: np.put(lengths, 3, 2000)), "not one of this game, options and version"),
            (forged(lambda games, lengths: np.put(lengths, 3, 5)), "not one of this game, options and version"),
        ]:
            with pytest.raises(PurerlError, match=match):
                pool.restore(bad)
        for game, options, seeds, num_envs, match in [
            ("heist", EASY, [0], 4, r"game=maze \(here heist\)"),
            ("maze", Options(), [0], 4, r"distribution_mode=easy \(here hard\)"),
            ("maze", Options(distribution_mode="easy", num_levels=9), [0], 4, r"num_levels=0 \(here 9\)"),
            ("maze", EASY, [0, 1], 4, r"not of \[2, 4\]"),
            ("maze", EASY, [0], 2, r"not of \[1, 2\]"),
        ]:
            with make_pool(game, options, seeds, num_envs, 1) as other, pytest.raises(PurerlError, match=match):
                other.restore(state)
        np.testing.assert_array_equal(shown(pool), first)


@needs_procgen
def test_misuse_is_told():
    pool = make_pool("leaper", EASY, [0], 4, 2)
    good = random_actions(1, (1, 2))[0]
    with pytest.raises(PurerlError, match=r"call send\(0, actions\) before recv"):
        pool.recv(0)
    for bad, match in [
        (good[0], r"shape \(1, 2\)"),
        (good.astype(np.int64), r"actions.astype\('int32'\)"),
        (np.full((1, 2), 15, np.int32), r"lie in \[0, 15\), not in \[15, 15\]"),
        (np.full((1, 2), -1, np.int32), r"lie in \[0, 15\)"),
    ]:
        with pytest.raises(PurerlError, match=match):
            pool.send(0, bad)
    with pytest.raises(PurerlError, match="has no group 2"):
        pool.send(2, good)
    pool.send(0, good)
    for use, match in [
        (lambda: pool.send(0, good), r"call recv\(0\) before send"),
        (lambda: pool.level_seeds(0), r"call recv\(0\) before level_seeds"),
        (pool.state, r"call recv\(0\) before state"),
        (lambda: pool.restore({}), r"call recv\(0\) before restore"),
    ]:
        with pytest.raises(PurerlError, match=match):
            use()
    assert pool.level_seeds(1).shape == (1, 2)
    pool.recv(0)
    with pytest.raises(PurerlError, match="reset only gives the first observations"):
        pool.reset(0)
    pool.send(1, good)
    pool.close()  # in the middle of a step
    pool.close()
    for use in (lambda: pool.reset(1), lambda: pool.send(0, good), lambda: pool.recv(1), pool.state):
        with pytest.raises(PurerlError, match="is closed"):
            use()


@needs_procgen
def test_dropped_pools_give_their_threads_back():
    def threads():
        return len(os.listdir("/proc/self/task"))

    if not sys.platform.startswith("linux"):
        pytest.skip("threads are counted in /proc")
    before = threads()
    for _ in range(3):
        pool = make_pool("bigfish", EASY, [0, 1], 2, 2)
        pool.send(0, np.zeros((2, 1), np.int32))
        assert threads() > before
        del pool
        assert threads() == before


@needs_procgen
def test_gym3_is_not_needed():
    make_pool("bigfish", EASY, [0], 1, 1).close()
    assert not {"procgen", "gym", "gym3"} & sys.modules.keys()
