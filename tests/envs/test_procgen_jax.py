"""Procgen in the graph against the library, and against the numbers that the library gave (CRC32 of what it showed)."""

from __future__ import annotations

import contextlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import configs, registry, rng
from purerl.envs import procgen, procgen_jax
from purerl.envs.hosted import HostedPool
from purerl.envs.procgen_jax import banks, family, maze, mersenne, miner
from purerl.errors import PurerlError
from purerl.experiments.benchmarks import procgen_in_graph
from purerl.loops import host
from purerl.runs import evaluation
from purerl.runs.plan import make_plan
from purerl.runs.trainer import make_loop

RULES = {"distribution_mode": "easy", "observation": "symbolic"}


def bank(game, **options):
    return banks.bank(family.bank_request(game, procgen_jax.Options(**options)))


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array))


# --- the generator ---------------------------------------------------------------------------------------------------


def test_the_generator_is_the_standard_one():
    def draws(generator, count):
        return jax.lax.scan(lambda g, _: mersenne.draw(g), generator, None, length=count)[1]

    assert int(draws(mersenne.seeded(jnp.uint32(5489)), 10_000)[-1]) == 4123659995
    ours = draws(mersenne.seeded(jnp.uint32(2**32 - 1)), 2_000)
    theirs = np.random.RandomState(2**32 - 1).randint(0, 2**32, 2_000, dtype=np.uint32)
    np.testing.assert_array_equal(ours, theirs)


def test_a_generator_that_draws_nothing_stays_as_it_is():
    generator = mersenne.seeded(jnp.uint32(1))
    same, _ = mersenne.draw(generator, jnp.bool_(False))
    jax.tree.map(np.testing.assert_array_equal, generator, same)


def test_the_first_levels_of_a_seed_are_those_of_the_library():
    generators = mersenne.of_games(jnp.uint32(3), 8)
    _, words = jax.vmap(mersenne.draw)(generators)
    assert mersenne.below(words, 0, 50).tolist() == [29, 17, 26, 36, 36, 47, 30, 43]
    with procgen.make_pool("maze", procgen.Options(num_levels=2**31 - 1 - 5, start_level=5), [9], 3, 1) as pool:
        _, words = jax.vmap(mersenne.draw)(mersenne.of_games(jnp.uint32(9), 3))
        np.testing.assert_array_equal(mersenne.below(words, 5, 2**31 - 1), pool.level_seeds(0)[0])


# --- levels ----------------------------------------------------------------------------------------------------------


def test_mazes_are_the_librarys():
    found = bank("maze", num_levels=50, **RULES)
    assert crc(found["grid"]) == 2857331896
    assert (found["start"] + 0.5).sum(axis=0).tolist() == [170.0, 170.0]
    goals = [tuple(int(i) for i in np.argwhere(grid == maze.GOAL)[0][::-1]) for grid in found["grid"][:6]]
    assert goals == [(6, 7), (8, 11), (5, 2), (11, 7), (13, 7), (10, 10)]
    assert [(grid == maze.SPACE).sum() for grid in found["grid"][:6]] == [6, 70, 70, 48, 96, 30]


def test_mines_are_the_librarys():
    found = bank("miner", num_levels=50, **RULES)
    assert crc(found["grid"]) == 842886468
    assert (found["start"] + 0.5).sum(axis=0).tolist() == [237.0, 210.0]
    assert found["exit"][:3].tolist() == [[2, 0], [5, 2], [6, 9]]


@pytest.mark.parametrize(
    ("game", "monochrome", "expected"),
    [("maze", True, 2480590998), ("miner", True, 101389731), ("maze", False, 3533290859), ("miner", False, 1902151152)],
)
def test_the_first_frame_of_level_1(game, monochrome, expected):
    looks = {"use_monochrome_assets": monochrome, "use_backgrounds": not monochrome}
    options = procgen_jax.Options(num_levels=2, distribution_mode="easy", **looks)
    rules, found = banks.GAMES[game], banks.bank(family.bank_request(game, options))
    frame = jax.jit(lambda: rules.frame(found, jnp.int32(1), rules.begin(found, jnp.int32(1))))()
    assert crc(frame) == expected


# --- rules -----------------------------------------------------------------------------------------------------------


def playing(game, num_levels):
    """(bank, step) of levels that each play on: step(states, actions [N]) -> (states, reward, done, complete)."""
    rules, found = banks.GAMES[game], bank(game, num_levels=num_levels, **RULES)
    levels = jnp.arange(num_levels)

    @jax.jit
    def step(carry, action):
        state, time = carry
        moved, reward, done, complete = jax.vmap(lambda *x: rules.step(found, *x))(levels, state, action)
        ended = done | (time + 1 >= rules.TIMEOUT)
        begun = jax.vmap(lambda *x: rules.begin(found, *x))(levels, moved)

        def settle(new, old):
            return jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return (jax.tree.map(settle, begun, moved), jnp.where(ended, 0, time + 1)), (reward, ended, complete)

    start = jax.vmap(lambda level: rules.begin(found, level))(levels), jnp.zeros(num_levels, jnp.int32)
    return start, step


@pytest.mark.optimized
@pytest.mark.parametrize(("game", "expected"), [("maze", (160, 99, 990)), ("miner", (106, 4, 156))])
def test_random_play_ends_as_often_as_in_the_library(game, expected):
    start, step = playing(game, 20)
    random = np.random.RandomState(7)
    actions = np.stack([random.randint(0, 15, 20) for _ in range(2_200)])
    _, (reward, ended, complete) = jax.lax.scan(step, start, jnp.asarray(actions))
    assert (int(ended.sum()), int(complete.sum()), int(reward.sum())) == expected


def test_who_stands_still():
    start, step = playing("maze", 2)
    _, (reward, ended, _) = jax.lax.scan(step, start, jnp.full((501, 2), 4))
    assert np.flatnonzero(ended[:, 1]).tolist() == [499] and reward.sum() == 0
    start, step = playing("miner", 53)
    _, (reward, ended, complete) = step(start, jnp.full(53, 4))
    assert (reward[52], ended[52], complete[52]) == (
        10,
        True,
        True,
    )  # the exit is on the start, and a new game's is open


def scene(agent=(9, 9), **objects):
    """A mine of 10 x 10 cells of space: objects are boulder, diamond or dirt, each (x, y)."""
    grid = np.full((10, 10), miner.SPACE, np.int8)
    for kind, (x, y) in objects.items():
        grid[y, x] = getattr(miner, kind.upper())
    return miner.State(jnp.asarray(grid), *map(jnp.int32, agent), jnp.int32(1), jnp.bool_(False))


def after(state, steps):
    """[(grid, diamonds, done)] after each step of standing still, far from the exit."""
    found, seen = {"exit": np.array([[9, 9]])}, []
    for _ in range(steps):
        state, _, done, _ = miner.step(found, jnp.int32(0), state, jnp.int32(4))
        seen.append((np.asarray(state.grid), int(state.diamonds), bool(done)))
    return seen


def test_a_boulder_falls_and_rests():
    seen = after(scene(boulder=(3, 3)), 4)
    where = [(int(grid[y, x]), (int(x), int(y))) for grid, _, _ in seen for y, x in np.argwhere(grid != miner.SPACE)]
    assert where == [(3, (3, 2)), (3, (3, 1)), (3, (3, 0)), (1, (3, 0))]


def test_a_diamond_that_rolls_right_falls_at_once_and_counts_twice():
    (grid, diamonds, _), (later, again, _) = after(scene(boulder=(4, 0), dirt=(3, 0), diamond=(4, 1)), 2)
    assert (grid[0, 5], diamonds) == (miner.FALLING_DIAMOND, 2)
    assert (later[0, 5], again) == (miner.DIAMOND, 1)


def test_a_boulder_that_falls_on_the_agent_ends_the_episode():
    assert [done for _, _, done in after(scene(agent=(4, 1), boulder=(4, 4)), 3)] == [False, False, True]


# --- every step against the library ----------------------------------------------------------------------------------


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("game", "mode", "num_envs", "steps", "frames"),
    [
        ("maze", "easy", 30, 100, True),
        ("miner", "easy", 30, 100, True),
        ("maze", "hard", 12, 60, False),
        ("miner", "hard", 12, 60, False),
    ],
)
def test_play_equals_the_librarys(game, mode, num_envs, steps, frames):
    with contextlib.closing(
        procgen_in_graph.Pair(game, num_envs, seed=2, frames=frames, num_levels=40, distribution_mode=mode)
    ) as pair:
        procgen_in_graph.play(pair, steps)
    assert not any(pair.mismatches.values()), pair.mismatches
    assert pair.steps == num_envs * steps and ("frame" in pair.mismatches) == frames
    assert pair.ends >= pair.solved >= (5 if mode == "easy" else 0) and len(pair.levels) > 10


def test_a_difference_is_noticed():
    with contextlib.closing(
        procgen_in_graph.Pair("maze", 4, seed=2, frames=False, num_levels=5, distribution_mode="easy")
    ) as pair:
        pair.state = pair.state.replace(game=pair.state.game.replace(x=pair.state.game.x + 1))
        pair.step(np.full(4, 4))
    assert pair.mismatches["position"] == 4 and pair.mismatches["reward"] == 0


# --- observations and options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", ["maze", "miner"])
def test_planes_are_the_picture_upside_up(game):
    shown = {}
    for kind in ("frames", "symbolic", "both"):
        options = procgen_jax.Options(num_levels=3, distribution_mode="easy", observation=kind)
        environment = procgen_jax.make(game, options)
        state, shown[kind] = jax.jit(environment.reset)(jax.random.key(0))
        assert (shown[kind].shape, shown[kind].dtype) == (
            environment.spec.observation_shape,
            environment.spec.observation_dtype,
        )
    planes = np.asarray(shown["symbolic"])
    height = planes.shape[0]
    assert np.argwhere(planes[..., -1]).tolist() == [[height - 1 - int(state.game.y), int(state.game.x)]]
    assert (planes.sum(axis=-1) <= 1 + planes[..., -1] + planes[..., -2]).all()
    np.testing.assert_array_equal(shown["both"][..., :3], shown["frames"])
    cells = np.arange(64) * height // 64
    np.testing.assert_array_equal(shown["both"][..., 3:], 255 * planes[cells][:, cells].astype(np.uint8))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_levels": 0}, "cannot hold all levels"),
        ({"num_levels": 10_001}, "too many"),
        ({"num_levels": 0, "drawn_levels": 10_001}, "drawn_levels=10001 is too many"),
        ({"num_levels": 0, "drawn_levels": -1}, "drawn_levels"),
        ({"drawn_levels": 5}, "drawn_levels=5 needs num_levels 0"),
        ({"num_levels": -1}, "num_levels"),
        ({"start_level": 2**31 - 1}, "start_level"),
        ({"distribution_mode": "memory"}, "distribution_mode"),
        ({"observation": "pictures"}, "observation"),
        ({"use_generated_assets": True}, "use_generated_assets"),
        ({"paint_vel_info": True}, "paint_vel_info"),
        ({"use_sequential_levels": True}, "use_sequential_levels"),
        ({"use_backgrounds": 1}, "use_backgrounds"),
        ({"distribution_mode": "exploration", "start_level": 3}, "exploration"),
        ({"distribution_mode": "exploration", "num_levels": 3}, "exploration"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options, match):
    with pytest.raises(PurerlError, match=match):
        procgen_jax.make("maze", procgen_jax.Options(**options))


def test_the_spec_is_the_librarys_but_for_its_name():
    ours = procgen_jax.make("maze", procgen_jax.Options()).spec
    theirs = registry.env_spec("procgen/maze")
    assert ours.name == "procgen-jax/maze" and set(registry.family("procgen-jax").names()) == set(banks.GAMES)
    assert {**vars(ours), "name": ""} == {**vars(theirs), "name": ""}


# --- the same run ----------------------------------------------------------------------------------------------------

SMALL = {"num_envs": 8, "rollout_length": 16, "num_minibatches": 2, "network": "nature", "hidden": (16,)}


def small_plan(family_name, **more):
    return make_plan(
        "ppo",
        f"{family_name}/maze",
        preset="procgen-easy",
        steps=10_000,
        config=SMALL,
        env_options={"num_levels": 20, "distribution_mode": "easy"},
        **more,
    )


def trained(loop, plan, updates):
    """The parameters after so many updates, and the metrics of each."""
    config, keys = configs.traced(plan.config), rng.seed_keys(plan.seeds[0], 1)
    state, rows = loop.init(config, keys), []
    for i in range(updates):
        state, metrics = loop.advance(config, state, i, 100, 1)
        rows.append({name: float(np.asarray(metric.mean()).squeeze()) for name, metric in metrics.items()})
    return jax.device_get(state.agent.params), rows


@pytest.mark.same_bits
def test_ppo_learns_the_same_as_from_the_library():
    """Through the same loop the parameters are the same bits: every observation, reward and end is. In the graph XLA
    compiles acting, stepping and learning as one program, and sums in another order: the same up to float rounding.
    """
    theirs_plan, plan = small_plan("procgen", seed=3), small_plan("procgen-jax", seed=3)
    theirs_loop = make_loop(theirs_plan)
    with contextlib.closing(theirs_loop.pool):
        theirs, _ = trained(theirs_loop, theirs_plan, 3)
    environment = procgen_jax.make("maze", plan.options)
    with HostedPool(environment, rng.seed_keys(3, 1), SMALL["num_envs"], num_groups=2) as pool:
        loop = host.HostLoop(registry.agent("ppo"), pool, devices_per_seed=theirs_plan.devices_per_seed)
        hosted, _ = trained(loop, plan, 3)
    jax.tree.map(np.testing.assert_array_equal, theirs, hosted)

    first, _ = trained(make_loop(theirs_plan), theirs_plan, 1)
    ours, _ = trained(make_loop(plan), plan, 1)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), first, ours)


def test_an_evaluation_plays_the_episodes_of_the_library():
    found = []
    for family_name in ("procgen", "procgen-jax"):
        plan = small_plan(family_name)
        agent, config = registry.agent("ppo"), configs.traced(plan.config)
        key = rng.init_key(rng.seed_keys(0, 1)[0])
        state = jax.tree.map(lambda x: x[None], agent.init(config, registry.env_spec(plan.env, plan.options), key))
        found.append(evaluation.evaluate_agent(plan, state, episodes=2, num_envs=8, seed=1))
    np.testing.assert_array_equal(found[0].returns, found[1].returns)
    np.testing.assert_array_equal(found[0].lengths, found[1].lengths)
    assert found[0].returns.any()
