"""Evaluation: every episode counts once, every environment plays the same number, and training does not change."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from purerl import configs, registry, rng
from purerl.cli import video
from purerl.envs import probe
from purerl.envs.hosted import HostedPool
from purerl.errors import PurerlError
from purerl.loops import lanes
from purerl.loops.play import Block
from purerl.runs import evaluation, filming
from purerl.runs.plan import make_plan, seed_keys
from purerl.runs.policy import open_run
from purerl.runs.train import train
from purerl.types import Environment, EnvSpec, TimeStep

needs_procgen = pytest.mark.skipif(importlib.util.find_spec("procgen") is None, reason="procgen is not installed")


@pytest.fixture(scope="module")
def small(tiny) -> dict:
    """A config of PPO."""
    return tiny("ppo", num_epochs=1, hidden=(8,))


@pytest.fixture(scope="module")
def fresh(small):
    """(env, *, seeds=2, config=None, **options) -> (plan, agent State [S, ...]) of an untrained agent."""

    def fresh(env: str, *, seeds: int = 2, config: dict | None = None, **options):
        plan = make_plan("ppo", env, seeds=seeds, config=small | (config or {}), env_options=options)
        found, spec = registry.agent("ppo"), registry.env_spec(env, plan.options)
        init = lanes.in_turn(lambda c, key: found.init(c, spec, rng.init_key(key)))
        return plan, init(configs.traced(plan.config), seed_keys(plan))

    return fresh


def evaluation_keys(plan, seed):
    """Typed base keys [S] of an evaluation."""
    return jax.vmap(lambda key: rng.evaluation_key(key, seed))(seed_keys(plan))


# --- counting --------------------------------------------------------------------------------------------------------


def block(columns, reward, done):
    """A Block of one seed from rows [T][n]."""
    return Block(columns, None, np.array([reward], np.float32), np.array([done], bool))


def test_the_book_counts_the_first_episodes_of_each_environment_and_no_others():
    book = evaluation.EpisodeBook(num_seeds=1, num_envs=2, episodes=2)
    book.add(block(slice(0, 2), [[1, 10], [2, 20], [4, 40]], [[0, 1], [1, 0], [0, 1]]))
    np.testing.assert_array_equal(book.returns, [[[3, 0], [10, 60]]])
    np.testing.assert_array_equal(book.lengths, [[[2, 0], [1, 2]]])
    np.testing.assert_array_equal(book.ended, [[1, 2]])
    assert not book.complete
    # environment 0 ends its second episode, which began in the block before; a third of environment 1 is ignored
    book.add(block(slice(0, 2), [[8, 80]], [[1, 1]]))
    np.testing.assert_array_equal(book.returns, [[[3, 12], [10, 60]]])
    np.testing.assert_array_equal(book.lengths, [[[2, 2], [1, 2]]])
    assert book.complete


def test_the_book_keeps_the_groups_of_a_pool_apart():
    book = evaluation.EpisodeBook(num_seeds=1, num_envs=2, episodes=1)
    book.add(block(slice(1, 2), [[5]], [[1]]))
    np.testing.assert_array_equal(book.ended, [[0, 1]])
    book.add(block(slice(0, 1), [[3]], [[0]]))
    book.add(block(slice(0, 1), [[4]], [[1]]))
    np.testing.assert_array_equal(book.returns, [[[7], [5]]])
    np.testing.assert_array_equal(book.lengths, [[[2], [1]]])


def test_returns_are_summed_in_float64():
    book = evaluation.EpisodeBook(num_seeds=1, num_envs=1, episodes=1)
    book.add(block(slice(0, 1), [[2.0**24], [1.0], [1.0]], [[0], [0], [1]]))
    assert book.returns[0, 0, 0] == 2**24 + 2  # float32 would stay at 2 ** 24


# --- environments with known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "length", "reward"), [("probe/constant", 1, 1), ("probe/discount", 2, 1), ("probe/time-limit", 1, 1)]
)
def test_known_returns(env, length, reward, fresh):
    plan, state = fresh(env)
    played = evaluation.evaluate_agent(plan, state, episodes=3, num_envs=5)
    np.testing.assert_array_equal(played.returns, np.full((2, 5, 3), reward, np.float64))
    np.testing.assert_array_equal(played.lengths, np.full((2, 5, 3), length))


def test_greedy_takes_one_action_where_sampling_takes_both(fresh):
    plan, state = fresh("probe/action", seeds=1)
    greedy = evaluation.evaluate_agent(plan, state, episodes=20, num_envs=5, greedy=True).returns
    sampled = evaluation.evaluate_agent(plan, state, episodes=20, num_envs=5).returns
    assert len(np.unique(greedy)) == 1
    assert set(np.unique(sampled)) == {-1.0, 1.0}  # an untrained policy is close to even
    assert abs(sampled.mean()) < 0.6


def lottery(name: str, options: object = None) -> Environment:
    """Half of the episodes last 1 step, the other half 40."""
    spec = EnvSpec(name="lottery/1", observation_shape=(1,), observation_dtype="float32", num_actions=2)
    observation = jnp.zeros(1)

    def reset(key):
        return jnp.where(jax.random.bernoulli(key), 1, 40), observation

    def step(key, left, action):
        ends = left <= 1
        after = jnp.where(ends, reset(key)[0], left - 1)
        return after, TimeStep(observation, jnp.float32(0), ends, jnp.bool_(False), observation)

    return Environment(spec, reset, step)


def family(make) -> types.SimpleNamespace:
    """A family of one environment."""
    options = dataclasses.make_dataclass("Options", [], frozen=True)
    return types.SimpleNamespace(Options=options, names=lambda: ["1"], make=make)


def test_every_environment_plays_the_same_number_of_episodes(monkeypatch, fresh):
    monkeypatch.setitem(registry._families, "lottery", family(lottery))
    plan, state = fresh("lottery/1")
    lengths = evaluation.evaluate_agent(plan, state, episodes=5, num_envs=200).lengths
    assert lengths.shape == (2, 200, 5)
    assert set(np.unique(lengths)) == {1, 40}
    # of the first thousand to finish, nearly all would be short; here half of them are (standard deviation 0.011)
    assert abs((lengths == 1).mean() - 0.5) < 0.06


def endless(name: str, options: object = None) -> Environment:
    """An environment whose episodes never end."""
    constant = registry.family("probe").make("constant")

    def step(key, state, action):
        state, timestep = constant.step(key, state, action)
        return state, timestep.replace(terminated=jnp.bool_(False))

    return constant._replace(step=step)


def test_episodes_that_never_end_are_an_error(monkeypatch, fresh):
    monkeypatch.setitem(registry._families, "endless", family(endless))
    plan, state = fresh("endless/1", seeds=1)
    with pytest.raises(PurerlError, match=r"after 256 steps .* only 0 of its 2 episodes: raise --max-steps"):
        evaluation.evaluate_agent(plan, state, episodes=2, max_steps=200)


@pytest.mark.parametrize("sizes", [{"episodes": 0}, {"num_envs": 0}, {"max_steps": 0}, {"seed": -1}, {"seed": 2**31}])
def test_impossible_sizes_are_errors(sizes, small):
    plan = make_plan("ppo", "probe/constant", config=small)
    with pytest.raises(PurerlError, match=next(iter(sizes))):
        evaluation.evaluate_agent(plan, None, **sizes)


# --- random numbers --------------------------------------------------------------------------------------------------


def test_the_seed_decides_everything_and_lanes_are_solo_runs(fresh):
    """In probe/policy both the observations and the actions are random."""
    plan, state = fresh("probe/policy")
    play = lambda plan, state, seed: evaluation.evaluate_agent(plan, state, episodes=16, seed=seed).returns  # noqa: E731
    first = play(plan, state, 0)
    np.testing.assert_array_equal(first, play(plan, state, 0))
    assert not np.array_equal(first, play(plan, state, 1))
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[:1], play(*filming.first_seed(plan, state), 0))


def test_each_device_plays_its_own_seeds(monkeypatch, fresh):
    """Two seeds on two devices: none plays both, and none waits for the other."""
    plan, state = fresh("probe/policy")
    player, seen = evaluation.Player(plan, num_envs=2)._player, []
    play_block = player._block
    monkeypatch.setattr(player, "_block", lambda *args: seen.append(args) or play_block(*args))
    next(player.play(state, evaluation_keys(plan, 0), [5, 6]))
    program = play_block.lower(*seen[0]).compile().as_text()
    assert "num_partitions=2" in program and not re.search("all-gather|all-reduce|all-to-all|collective", program)


def test_evaluation_draws_other_numbers_than_training():
    plan = make_plan("ppo", "probe/policy", seeds=2)
    keys = [*seed_keys(plan), *evaluation_keys(plan, 0), *evaluation_keys(plan, 1)]
    keys = jax.random.key_data(jnp.stack(keys))
    assert len(np.unique(np.asarray(keys), axis=0)) == 6


@pytest.mark.parametrize("num_envs", [3, 4])
def test_host_games_and_games_in_the_graph_give_the_same_episodes(monkeypatch, num_envs, fresh):
    """Three environments play in one group of the pool, four in two."""
    plan, state = fresh("probe/policy")
    in_the_graph = evaluation.evaluate_agent(plan, state, episodes=16, num_envs=num_envs)
    pools = []

    class Pool(HostedPool):
        closed = False

        def close(self):
            self.closed = True
            super().close()

    def make_pool(id, options, seeds, num_envs, num_groups):
        assert seeds == evaluation.pool_seeds(plan.seeds, 0)
        pools.append(Pool(probe.make(id, options), evaluation_keys(plan, 0), num_envs, num_groups))
        return pools[-1]

    hosted = types.SimpleNamespace(
        Options=probe.Options,
        names=probe.names,
        spec=lambda id, options: probe.make(id, options).spec,
        make_pool=make_pool,
    )
    monkeypatch.setitem(registry._families, "hosted", hosted)
    plan = dataclasses.replace(plan, env="hosted/policy")
    on_the_host = evaluation.evaluate_agent(plan, state, episodes=16, num_envs=num_envs)
    np.testing.assert_array_equal(on_the_host.returns, in_the_graph.returns)
    np.testing.assert_array_equal(on_the_host.lengths, in_the_graph.lengths)
    assert [(pool.num_groups, pool.closed) for pool in pools] == [(2 - num_envs % 2, True)]


def test_host_games_are_seeded_apart_from_training():
    seeds = evaluation.pool_seeds((0, 1, 2), 0)
    assert seeds == evaluation.pool_seeds((0, 1, 2), 0) != evaluation.pool_seeds((0, 1, 2), 1)
    assert len({*seeds, 0, 1, 2}) == 6 and all(0 <= seed < 2**31 for seed in seeds)
    # a chosen number that training used is not taken
    taken = evaluation.pool_seeds((0,), 0)[0]
    assert taken not in evaluation.pool_seeds((0, taken), 0)


# --- a run folder's evaluation ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, small):
    """The folder of a small finished run of two seeds on CartPole."""
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    train("ppo", "gymnax/CartPole-v1", seeds=2, steps=128, out=folder, config=small, quiet=True)
    return folder


def contents(folder):
    """{file: hash of its bytes} of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_evaluate_writes_what_it_returns_and_nothing_else(run):
    before = contents(run)
    result = evaluation.evaluate(run, episodes=2, num_envs=3, env_options={"max_steps": 7})
    after = contents(run)
    assert json.loads((run / "eval.json").read_text()) == result
    assert {name: after[name] for name in before} == before and set(after) - set(before) <= {"eval.json"}
    assert (result["agent"], result["env"], result["preset"]) == ("ppo", "gymnax/CartPole-v1", "classic")
    assert (result["iteration"], result["step"]) == (2, 128)
    others = {"repeat_action_probability": 0.0, "show_every": 1, "num_levels": 0, "start_level": 0}
    assert result["env_options"] == {"max_steps": 7, **others}
    assert result["changed_env_options"] == {"max_steps": [0, 7]}
    assert [lane["seed"] for lane in result["per_seed"]] == [0, 1]
    # CartPole cannot fall in 7 steps, so that all answers are known
    for lane in result["per_seed"]:
        assert (lane["mean"], lane["std"], lane["episodes"], lane["length"]) == (7, 0, 6, 7)
    assert result["return"] == {"iqm": 7, "mean": 7, "iqm_interval_95": [7, 7], "mean_interval_95": [7, 7]}
    assert result["normalized_return"] is None
    assert result["environment"]["versions"]["jax"] == jax.__version__


def test_the_stored_agent_is_the_one_that_plays(run):
    """The returns of a run folder are those of the State in memory."""
    loaded = open_run(run)
    plan, state = loaded[0], loaded[-1]()
    expected = evaluation.evaluate_agent(plan, state, episodes=2, num_envs=3, greedy=True)
    result = evaluation.evaluate(run, episodes=2, num_envs=3, greedy=True, out=run.parent / "other.json")
    assert [lane["mean"] for lane in result["per_seed"]] == list(expected.returns.mean(axis=(1, 2)))
    assert (run.parent / "other.json").exists()


def test_evaluate_refuses_what_it_cannot_do(run, tmp_path):
    with pytest.raises(PurerlError, match="no field 'max_stps'"):
        evaluation.evaluate(run, env_options={"max_stps": 3})
    with pytest.raises(PurerlError, match="no run folder"):
        evaluation.evaluate(tmp_path / "nothing")


def shown_for(opened):
    """Milliseconds that each frame of a GIF is shown."""
    for number in range(opened.n_frames):
        opened.seek(number)
        yield opened.info["duration"]


def test_record_writes_one_frame_a_step(run, tmp_path):
    made = video.record(run, steps=30, out=tmp_path / "new" / "video.gif")
    with Image.open(made["path"]) as opened:
        assert sum(shown_for(opened)) == 2000 and made["steps"] == 30  # 15 frames a second; equal ones become one
    # an untrained CartPole falls every 10 to 40 steps, and its return is its length
    assert 0 <= len(made["returns"]) <= 3 and sum(made["returns"]) <= 30


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"out": "x.avi"}, r"'\.avi'"),
        ({"steps": 0}, "a video cannot have 0 steps"),
        ({"frames_per_second": 60.0, "steps": 2}, "50"),
    ],
)
def test_record_refuses_what_it_cannot_write(run, values, part):
    before = contents(run)
    with pytest.raises(PurerlError, match=part):
        video.record(run, **values)
    assert contents(run) == before


# --- aggregates ------------------------------------------------------------------------------------------------------


def procgen_plan(mode: str, seeds: tuple[int, ...]):
    options = types.SimpleNamespace(distribution_mode=mode)
    return types.SimpleNamespace(env="procgen/maze", options=options, seeds=seeds)


def episodes(*means: float) -> evaluation.Episodes:
    """Two environments with two episodes of each seed, of the given mean returns and standard deviation 1."""
    returns = np.array([[[mean - 1, mean + 1], [mean + 1, mean - 1]] for mean in means])
    return evaluation.Episodes(returns, np.full(returns.shape, 3))


def test_aggregates_are_over_seeds():
    summary = evaluation.summarize(procgen_plan("easy", (3, 4, 5, 6)), episodes(5, 6, 7, 10))
    assert [lane["seed"] for lane in summary["per_seed"]] == [3, 4, 5, 6]
    assert [lane["mean"] for lane in summary["per_seed"]] == [5, 6, 7, 10]
    assert all((lane["std"], lane["episodes"]) == (1, 4) for lane in summary["per_seed"])
    assert summary["return"]["iqm"] == 6.5 and summary["return"]["mean"] == 7
    low, high = summary["return"]["mean_interval_95"]
    assert 5 <= low < 6.5 and 7.5 < high <= 10
    assert summary["episode_length"] == 3


@pytest.mark.parametrize(("mode", "expected"), [("easy", 0.2), ("hard", 1 / 3), ("memory", None)])
def test_normalised_returns_take_the_constants_of_the_mode_that_is_played(mode, expected):
    """maze: easy (5, 10), hard (4, 10), of the spec of Procgen's scores."""
    summary = evaluation.summarize(procgen_plan(mode, (0,)), episodes(6))
    if expected is None:
        assert summary["normalized_return"] is None and summary["per_seed"][0]["normalized"] is None
    else:
        assert summary["normalized_return"]["mean"] == pytest.approx(expected)
        assert summary["per_seed"][0]["normalized"] == pytest.approx(expected)


def test_one_seed_has_no_interval():
    summary = evaluation.summarize(procgen_plan("easy", (0,)), episodes(6))
    assert summary["return"] == {"iqm": 6, "mean": 6, "iqm_interval_95": None, "mean_interval_95": None}


# --- Procgen ---------------------------------------------------------------------------------------------------------


@needs_procgen
def test_procgen_plays_whole_episodes_on_the_levels_asked_for(fresh):
    plan, state = fresh(
        "procgen/fruitbot",
        seeds=2,
        config={"network": "nature"},
        num_levels=1,
        start_level=3,
        num_threads=1,
    )
    levels = set()
    make_pool = registry.family("procgen").make_pool

    def watched(*arguments):
        pool = make_pool(*arguments)
        levels.update(int(level) for group in range(pool.num_groups) for level in pool.level_seeds(group).ravel())
        return pool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.family("procgen"), "make_pool", watched)
        played = evaluation.evaluate_agent(plan, state, episodes=2, num_envs=2)
    assert levels == {3}
    assert played.returns.shape == (2, 2, 2)
    # fruitbot scrolls by, so that a level has one length, whoever plays it
    assert len(np.unique(played.lengths)) == 1 and played.lengths.min() > 10
    assert len(np.unique(played.returns)) > 1


@needs_procgen
def test_procgen_blocks_show_the_frames_that_were_acted_on(fresh):
    plan, state = fresh("procgen/fruitbot", seeds=1, config={"network": "nature"}, num_threads=1)
    blocks = evaluation.Player(plan, num_envs=1, observations=True).play(state)
    frames = [next(blocks).observation for _ in range(5)]
    blocks.close()
    assert all(frame.shape == (1, 1, 1, 64, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    # kept frames are copies: the pool writes the next one over its own
    assert len({frame.tobytes() for frame in frames}) > 1
