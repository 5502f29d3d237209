"""Craftax: the package's own steps and resets, both kinds of end, worlds that are kept or shared, and a whole run.

Every program takes many seconds to compile, so the tests share a few of them; only Craftax-Classic is compiled.
"""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import registry
from purerl.envs import craftax as family
from purerl.envs import levels
from purerl.errors import PurerlError
from purerl.loops import compilation

pytest.importorskip("craftax", reason="craftax is not installed")
CLASSIC = "Craftax-Classic-Symbolic-v1"
LIMIT, STEPS, ENVS = 40, 130, 4


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    compilation.enable_cache()


def make(**options):
    return family.make(CLASSIC, family.Options(max_steps=LIMIT, **options))


@functools.cache
def first_states():
    return jax.jit(jax.vmap(make().reset))(jax.random.split(jax.random.key(0), ENVS))


@functools.cache
def walk(optimistic_resets=0):
    """Compiled (states, keys [T, N], actions [T, N]) -> (states, TimeStep [T, N])."""
    step_all = make(optimistic_resets=optimistic_resets).step_all
    return jax.jit(
        lambda states, keys, actions: jax.lax.scan(lambda s, x: step_all(x[0], s, x[1]), states, (keys, actions))
    )


@functools.cache
def keys_and_actions():
    keys = jax.random.split(jax.random.key(1), (STEPS, ENVS))
    return keys, jax.random.randint(jax.random.key(2), (STEPS, ENVS), 0, 17)


@functools.cache
def walked():
    return walk()(first_states()[0], *keys_and_actions())


@pytest.mark.same_bits
def test_steps_and_resets_are_the_packages_own():
    """Bit for bit: observations, rewards, ends and the last state, of its class that resets itself.

    But for the light of a new world, a number that XLA computes in one of the programs and folds in the other.
    """
    from craftax.craftax_classic.envs.craftax_symbolic_env import CraftaxClassicSymbolicEnv

    env = CraftaxClassicSymbolicEnv()
    params = env.default_params.replace(max_timesteps=LIMIT)
    state, timestep = walked()

    @jax.jit
    def theirs(states, keys, actions):
        def step(states, x):
            observation, states, reward, done, _ = jax.vmap(lambda k, s, a: env.step(k, s, a, params))(
                jax.random.key_data(x[0]), states, x[1]
            )
            return states, (observation, reward, done)

        return jax.lax.scan(step, states, (keys, actions))

    their_state, (observation, reward, done) = theirs(first_states()[0], *keys_and_actions())
    new = np.asarray(done)[..., None] & (np.arange(1345) == 1343)
    np.testing.assert_array_equal(np.where(new, 0, timestep.observation), np.where(new, 0, observation))
    np.testing.assert_allclose(timestep.observation, observation, rtol=1e-6)
    np.testing.assert_array_equal(timestep.reward, reward)
    np.testing.assert_array_equal(timestep.terminated | timestep.truncated, done)
    jax.tree.map(np.testing.assert_array_equal, state, their_state)
    assert jnp.sum(done) >= ENVS * (STEPS // LIMIT) and len(np.unique(reward)) > 2


@pytest.mark.same_bits
def test_time_limits_truncate_and_deaths_terminate():
    """A death in the last step before the limit is a death."""
    states, _ = first_states()
    states = states.replace(
        player_health=jnp.array([9, 0, 0, 9]), timestep=jnp.array([LIMIT - 1, LIMIT - 1, 3, 3], jnp.int32)
    )
    _, timestep = walk()(states, *keys_and_actions())
    np.testing.assert_array_equal(timestep.truncated[0], [True, False, False, False])
    np.testing.assert_array_equal(timestep.terminated[0], [False, True, True, False])
    _, timestep = walked()
    done = np.asarray(timestep.terminated | timestep.truncated)
    changed = (np.asarray(timestep.observation) != np.asarray(timestep.final_observation)).any(-1)
    np.testing.assert_array_equal(changed, done)
    begun = np.asarray(timestep.observation)[done]
    assert len(np.unique(begun, axis=0)) == len(begun)  # every episode is in a world of its own


@pytest.mark.same_bits
def test_achievements_are_those_of_the_episode():
    """They are paid once each, as the rewards that are not health's tenths, and none is left after an end."""
    _, timestep = walked()
    spec = make().spec
    assert len(spec.episode_metrics) == 23 and spec.episode_metrics[:2] == (
        "achievement_collect_wood",
        "achievement_place_table",
    )
    found, reward = np.asarray(timestep.episode_metrics), np.asarray(timestep.reward)
    np.testing.assert_array_equal(found[..., :-1].sum(-1), found[..., -1])
    done = np.asarray(timestep.terminated | timestep.truncated)
    for n in range(ENVS):
        before = 0.0
        for t in range(STEPS):
            assert abs(reward[t, n] - (found[t, n, -1] - before)) <= 0.91
            before = 0.0 if done[t, n] else found[t, n, -1]
    assert found[..., -1].max() > 0


@pytest.mark.same_bits
def test_optimistic_resets_of_craftax():
    """All end at once here, in two new worlds for four environments."""
    states, _ = first_states()
    states = states.replace(timestep=jnp.full(ENVS, LIMIT - 1, jnp.int32))
    (_, own), (_, shared) = (walk(k)(states, *keys_and_actions()) for k in (0, 2))
    assert own.truncated[0].all() and len(np.unique(own.observation[0], axis=0)) == ENVS
    np.testing.assert_array_equal(shared.observation[0, :2], own.observation[0, :2])
    np.testing.assert_array_equal(shared.observation[0, 2:], shared.observation[0, :2])
    np.testing.assert_array_equal(shared.final_observation[0], own.final_observation[0])


@pytest.mark.same_bits
def test_kept_worlds_are_the_computed_ones():
    """Bit for bit, states too; three worlds, of 26 KB each, of any number of episodes."""
    reset, keys = make().reset, jax.random.split(jax.random.key(3), 16)
    size = levels.bytes_of(reset)
    assert 25_000 < size < 27_000
    kept = jax.jit(jax.vmap(make(num_levels=3, start_level=5).reset))(keys)
    computed = jax.jit(jax.vmap(levels.reset_to_levels(reset, 3, 5, most_bytes=3 * size - 1)))(keys)
    jax.tree.map(np.testing.assert_array_equal, kept, computed)
    assert len(np.unique(kept[1], axis=0)) == 3


CONFIG = {
    "num_envs": 4,
    "rollout_length": 8,
    "num_minibatches": 1,
    "num_epochs": 1,
    "hidden": (4,),
    "anneal_learning_rate": False,
}
PLAN = {"preset": "craftax", "config": CONFIG, "env_options": {"max_steps": 6, "num_levels": 2}}


@pytest.mark.same_bits
def test_a_run_its_resume_its_policy_and_its_achievements(tmp_path):
    name = f"craftax/{CLASSIC}"
    whole, part = (
        purerl.train("ppo", name, steps=n, out=tmp_path / str(n), quiet=True, random_episodes=0, log_every=1, **PLAN)
        for n in (128, 64)
    )
    part = purerl.resume(part.folder, steps=128, quiet=True)
    files = [(run.folder / "metrics.jsonl").read_text() for run in (whole, part)]
    rows = [[json.loads(line) for line in file.splitlines()] for file in files]
    for mine, its in zip(*rows, strict=True):
        timed = ("wall_time", "steps_per_second")
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in its.items() if k not in timed}
    last = rows[0][-1]
    assert last["episode_length"] <= 6 and 0 <= last["achievement_collect_wood"] <= 1 and last["achievements"] >= 0
    train = purerl.make_train("ppo", name, steps=128, preset="craftax", env_options=PLAN["env_options"], **CONFIG)
    _, curves = jax.eval_shape(train, jax.random.key(0))
    assert curves["achievement_wake_up"].shape == (4,)
    policy = purerl.load_policy(part.folder)
    assert 0 <= policy(jnp.zeros(1345), jax.random.key(0)) < 17


def test_scores_are_shares_of_the_maximum():
    """Which are those of the package's own table of rewards."""
    from craftax.craftax.constants import ACHIEVEMENT_REWARD_MAP
    from craftax.craftax_classic.constants import Achievement

    assert family.GAMES["Craftax-Symbolic-v1"].most_reward == int(jnp.sum(ACHIEVEMENT_REWARD_MAP))
    assert family.GAMES[CLASSIC].most_reward == len(Achievement)
    name, found = registry.score("craftax/Craftax-Symbolic-v1", family.Options(), np.array([0.0, 22.6]))
    assert name == "% of the maximum reward (226)" and found.tolist() == [0.0, 10.0]


def test_the_whole_game_has_its_own_sizes():
    """Traced alone: compiling it takes minutes."""
    spec = registry.env_spec("craftax/Craftax-Symbolic-v1")
    assert (spec.observation_shape, spec.num_actions, len(spec.episode_metrics)) == ((8268,), 43, 68)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "--env.max-steps = -1 must be"),
        ({"optimistic_resets": 0.5}, "--env.optimistic-resets = 0.5 must be"),
        ({"start_level": 3}, "start-level = 3 needs"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(PurerlError, match=message):
        family.make(CLASSIC, family.Options(**options))
