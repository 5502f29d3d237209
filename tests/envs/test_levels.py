"""Levels of environments in the graph: a fixed set of starts, the same for every run, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs import gymnax as family
from purerl.envs import levels
from purerl.errors import PurerlError

CARTPOLE = "CartPole-v1"


def starts(seed, **options):
    """First observations [32, 4], and those after the ends of the episodes of 3 steps that follow them [8, 32, 4]."""
    environment = family.make(CARTPOLE, family.Options(max_steps=3, **options))

    @jax.jit
    def play(key):
        state, first = jax.vmap(environment.reset)(jax.random.split(key, 32))

        def step(state, key):
            state, timestep = jax.vmap(environment.step, (0, 0, None))(jax.random.split(key, 32), state, jnp.int32(0))
            return state, (timestep.observation, timestep.truncated)

        _, (observation, truncated) = jax.lax.scan(step, state, jax.random.split(jax.random.fold_in(key, 1), 24))
        return first, observation, truncated

    first, observation, truncated = map(np.asarray, play(jax.random.key(seed)))
    assert truncated[2::3].all() and truncated.sum() == 8 * 32
    return first, observation[2::3]


def distinct(*observations):
    return {tuple(row) for rows in observations for row in rows.reshape(-1, rows.shape[-1])}


def test_every_episode_is_one_of_the_levels_and_they_are_the_same_for_every_seed():
    one, other = (distinct(*starts(seed, num_levels=5)) for seed in (0, 1))
    assert len(one) == 5 and one == other
    parts = [distinct(*starts(2, num_levels=n, start_level=first)) for first, n in ((0, 2), (2, 3))]
    assert [len(part) for part in parts] == [2, 3] and parts[0] | parts[1] == one
    assert not one & distinct(*starts(0, num_levels=5, start_level=100))
    assert len(distinct(*starts(0))) == 9 * 32


def test_levels_are_drawn_uniformly():
    first, later = starts(3, num_levels=4)
    counts = np.unique(np.concatenate([first[None], later]).reshape(-1, 4), axis=0, return_counts=True)[1]
    assert len(counts) == 4 and counts.min() > 45  # of 72 each


def test_only_the_starts_change():
    """From the same state and key, a step is the same but for what an end leads to."""
    plain, levelled = (family.make(CARTPOLE, family.Options(max_steps=3, num_levels=n)) for n in (0, 1))
    state, start = levelled.reset(jax.random.key(0))
    for t in range(3):
        (following, expected), (state, found) = (
            e.step(jax.random.key(t), state, jnp.int32(1)) for e in (plain, levelled)
        )
        np.testing.assert_array_equal(found.final_observation, expected.final_observation)
        for name in ("reward", "terminated", "truncated"):
            assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.observation, start)  # there is one level
    assert found.truncated and not np.array_equal(expected.observation, start)
    assert jax.tree.structure(state) == jax.tree.structure(following)


def test_off_is_the_very_environment():
    environment = family.make(CARTPOLE)
    assert levels.with_levels(environment, 0) is environment


def test_they_are_options_of_training_and_of_evaluation(tmp_path):
    """With the other wrappers around them, in both, and recorded."""
    options = {"num_levels": 3, "repeat_action_probability": 0.1, "show_every": 2, "max_steps": 5}
    run = purerl.train(
        "ppo", "gymnax/CartPole-v1", seeds=2, steps=64, out=tmp_path / "run", quiet=True, env_options=options,
        config={"num_envs": 4, "rollout_length": 8, "num_minibatches": 1, "hidden": (4,)},
    )  # fmt: skip
    found = purerl.evaluate(run.folder, episodes=1, env_options={"num_levels": 4, "start_level": 3})
    assert (found["env_options"]["num_levels"], found["env_options"]["start_level"]) == (4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_levels": -1}, "num-levels = -1 must be"),
        ({"num_levels": 1.5}, "num-levels = 1.5 must be"),
        ({"start_level": 3}, "start-level = 3 needs"),
        ({"num_levels": 2**31 - 1, "start_level": 1}, "is more than"),
    ],
)
def test_numbers_that_name_no_levels(options, message):
    with pytest.raises(PurerlError, match=message):
        family.make(CARTPOLE, family.Options(**options))


def world(key):
    """A reset whose parts can be kept in few bytes, and some that cannot."""
    numbers = jax.random.randint(key, (4,), -3, 200)
    return {
        "small": numbers,
        "large": numbers * 1_000_000,
        "same": jnp.arange(5),
        "planes": (numbers > 50).astype(jnp.float32),
        "fractions": jnp.where(numbers > 50, jax.random.normal(key, (4,)), jnp.nan),
        "signed": jnp.where(numbers > 50, 0.0, -0.0),
    }, jax.random.bits(key, (2,), jnp.uint8)


@pytest.mark.parametrize("num_levels", [1, 40])
def test_looked_up_levels_are_the_computed_ones(num_levels):
    """Bit for bit, of the same dtypes; in a loop and under vmap."""
    size = levels.bytes_of(world)
    assert size == 5 * 16 + 5 * 4 + 2
    keys = jax.random.split(jax.random.key(1), 64)
    computed = levels.reset_to_levels(world, num_levels, 7, most_bytes=num_levels * size - 1)
    found, expected = (
        jax.jit(lambda keys, f=f: jax.lax.map(jax.vmap(f), keys.reshape(4, 16)))(keys)
        for f in (levels.reset_to_levels(world, num_levels, 7, most_bytes=num_levels * size), computed)
    )
    for mine, its in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == its.dtype and mine.tobytes() == its.tobytes()


def test_levels_are_computed_once_and_only_if_they_fit():
    """Up to the bound nothing of a reset is left in the program, above it all of it."""

    def computes(most_bytes):
        reset = levels.reset_to_levels(world, 40, 0, most_bytes)
        return "erf_inv" in str(jax.make_jaxpr(reset)(jax.random.key(0)))

    size = 40 * levels.bytes_of(world)
    assert computes(size - 1) and not computes(size)
    every = jax.tree.leaves(jax.vmap(world)(jax.random.split(jax.random.key(0), 40)))
    stored = [levels._packed(np.asarray(leaf)) for leaf in every]
    assert sum(x.nbytes for x, _ in stored) == 40 * (4 * 2 + 4 * 4 + 4 + 4 * 4 + 4 * 4 + 2) + 5
