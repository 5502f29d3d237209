"""The hosted pool gives exactly what an in-graph loop gives, for any number of groups, also after a restore."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import rng
from purerl.envs.hosted import HostedPool
from purerl.errors import PurerlError
from purerl.types import Environment, EnvSpec, TimeStep

NUM_ENVS = 4
STEPS = 12
SPEC = EnvSpec(name="test/walk", observation_shape=(2,), observation_dtype="float32", num_actions=3)


def _observe(state):
    return jnp.stack([state["place"], state["age"].astype(jnp.float32)])


def _reset(key):
    start_key, own_key = jax.random.split(key)
    state = {"place": jax.random.normal(start_key), "age": jnp.int32(0), "own_key": own_key}
    return state, _observe(state)


def _step(key, state, action):
    """A random walk whose noise comes from the step's key and from a key in the state; it ends high up or at age 5."""
    noise_key, reset_key = jax.random.split(key)
    own_key, _ = jax.random.split(state["own_key"])
    place = state["place"] + action - 1 + 0.1 * jax.random.normal(noise_key) + 0.1 * jax.random.normal(own_key)
    moved = {"place": place, "age": state["age"] + 1, "own_key": own_key}
    terminated, truncated = place > 1.5, moved["age"] >= 5
    fresh, first_observation = _reset(reset_key)
    ended = terminated | truncated
    following = jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, moved)
    final_observation = _observe(moved)
    observation = jnp.where(ended, first_observation, final_observation)
    step = TimeStep(observation, place, terminated, truncated & ~terminated, final_observation, jnp.bool_(True))
    return following, step


WALK = Environment(SPEC, _reset, _step)


@pytest.fixture
def actions():
    """[T, S, N]"""
    return np.random.default_rng(0).integers(0, 3, (STEPS, 2, NUM_ENVS), dtype=np.int32)


def play(pool, actions):
    """Steps all groups one after another. Returns a TimeStep of [T, S, N, ...]."""
    size = pool.num_envs // pool.num_groups
    steps = []
    for row in actions:
        for group in range(pool.num_groups):
            pool.send(group, np.ascontiguousarray(row[:, group * size : (group + 1) * size]))
        groups = [pool.recv(group) for group in range(pool.num_groups)]
        steps.append(jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *groups))
    return jax.tree.map(lambda *rows: np.stack(rows), *steps)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_it_plays_what_a_loop_in_the_graph_plays(actions):
    keys = rng.seed_keys(3, 2)

    @jax.jit
    @jax.vmap
    def in_graph(key, actions):
        fold_in = jax.random.fold_in
        numbers = jnp.arange(NUM_ENVS, dtype=jnp.uint32)
        first_key = fold_in(fold_in(key, zlib.crc32(b"reset")), 0)
        states, first = jax.vmap(_reset)(jax.vmap(lambda n: fold_in(first_key, n))(numbers))

        def step(states, now):
            g, row = now
            step_key = fold_in(fold_in(key, zlib.crc32(b"environment")), g)
            return jax.vmap(_step)(jax.vmap(lambda n: fold_in(step_key, n))(numbers), states, row)

        _, steps = jax.lax.scan(step, states, (jnp.arange(STEPS), actions))
        return first, steps

    first, steps = in_graph(keys, actions.swapaxes(0, 1))
    with HostedPool(WALK, keys, NUM_ENVS) as pool:
        np.testing.assert_array_equal(pool.reset(0), first)
        played = play(pool, actions)
    assert played.terminated.any() and played.truncated.any()  # the comparison covers both ends of an episode
    for name in ("observation", "reward", "final_observation"):
        np.testing.assert_allclose(getattr(played, name).swapaxes(0, 1), getattr(steps, name), rtol=1e-6, atol=1e-6)
    for name in ("terminated", "truncated", "life_lost"):
        np.testing.assert_array_equal(getattr(played, name).swapaxes(0, 1), getattr(steps, name))


def test_groups_and_other_seeds_change_nothing(actions):
    keys = rng.seed_keys(3, 2)
    with HostedPool(WALK, keys, NUM_ENVS) as whole, HostedPool(WALK, keys, NUM_ENVS, num_groups=2) as halves:
        assert_same(whole.reset(0), np.concatenate([halves.reset(0), halves.reset(1)], axis=1))
        steps = play(whole, actions)
        assert_same(steps, play(halves, actions))
    with HostedPool(WALK, rng.seed_keys(4, 1), NUM_ENVS) as solo:
        assert_same(jax.tree.map(lambda x: x[:, 1:], steps), play(solo, actions[:, 1:]))


def test_restored_it_continues_exactly(actions):
    with HostedPool(WALK, rng.seed_keys(3, 2), NUM_ENVS, num_groups=2) as pool:
        last = play(pool, actions[:7]).observation[-1]
        state = pool.state()
        expected = play(pool, actions[7:])
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "uifb" for array in state.values())
    with HostedPool(WALK, rng.seed_keys(3, 2), NUM_ENVS, num_groups=2) as other:
        play(other, actions[:3])
        other.restore(state)
        assert_same(np.concatenate([other.reset(0), other.reset(1)], axis=1), last)
        assert_same(play(other, actions[7:]), expected)


def test_arrays_stay_as_they_were(actions):
    buffer = actions[0].copy()
    keys = rng.seed_keys(0, 2)
    with HostedPool(WALK, keys, NUM_ENVS) as pool, HostedPool(WALK, keys, NUM_ENVS) as twin:
        pool.send(0, buffer)
        buffer.fill(0)  # the caller may reuse its actions at once
        step = pool.recv(0)
        twin.send(0, actions[0])
        assert_same(step, twin.recv(0))
        before = jax.tree.map(np.copy, step)
        pool.send(0, buffer)
        pool.recv(0)
        assert_same(step, before)


def test_what_a_game_hides_stays_hidden():
    def step(key, state, action):
        return state, TimeStep(action, jnp.sum(action), jnp.bool_(False), jnp.bool_(False))

    spec = EnvSpec("test/echo", (3,), "float32", num_actions=0, action_shape=(3,), shows_final_observation=False)
    echo = Environment(spec, lambda key: (jnp.int32(0), jnp.zeros(3)), step)
    action = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    diverged = np.where(action == 3, np.float32("nan"), action)
    with HostedPool(echo, rng.seed_keys(0, 1), 2) as pool:
        with pytest.raises(PurerlError, match="actions of test/echo hold NaN or infinity"):
            pool.send(0, diverged)
        pool.send(0, action)
        shown = pool.recv(0)
    assert shown.final_observation is None and shown.life_lost is None
    np.testing.assert_array_equal(shown.observation, action)
    np.testing.assert_array_equal(shown.reward, [[3, 12]])


def test_misuse_is_told(actions):
    keys = rng.seed_keys(0, 2)
    with pytest.raises(PurerlError, match="use num_groups=1"):
        HostedPool(WALK, keys, NUM_ENVS, num_groups=3)
    with pytest.raises(PurerlError, match="num_envs must be at least 1"):
        HostedPool(WALK, keys, 0)
    with pytest.raises(PurerlError, match="seed_keys"):
        HostedPool(WALK, jnp.zeros((2, 2), jnp.uint32), NUM_ENVS)
    pool = HostedPool(WALK, keys, NUM_ENVS, num_groups=2)
    good = actions[0, :, :2]
    with pytest.raises(PurerlError, match=r"call send\(1, actions\) before recv"):
        pool.recv(1)
    for bad, match in [
        (actions[0], r"shape \(2, 2\)"),
        (good.astype(np.int64), r"actions.astype\('int32'\)"),
        (good.astype(np.float32), "must be int32"),
        (good + 3, r"lie in \[0, 3\)"),
        (good - 3, r"lie in \[0, 3\)"),
    ]:
        with pytest.raises(PurerlError, match=match):
            pool.send(0, bad)
    with pytest.raises(PurerlError, match="groups are 0 to 1"):
        pool.send(2, good)
    pool.send(0, good)  # nothing above counted as a step
    with pytest.raises(PurerlError, match=r"call recv\(0\) before send"):
        pool.send(0, good)
    with pytest.raises(PurerlError, match=r"call recv\(0\) before state\(\)"):
        pool.state()
    pool.recv(0)
    with pytest.raises(PurerlError, match="reset only gives the first observations"):
        pool.reset(0)
    state = pool.state()
    for bad, match in [
        ({}, "belongs to"),
        ({**state, "identity": np.frombuffer(b"test/other", np.uint8)}, "belongs to 'test/other'"),
        ({**state, "identity": np.array("text\n")}, r"belongs to 't\\x00"),
        ({**state, "observation": state["observation"][:, :2]}, "another shape: its observation"),
        ({name: array for name, array in state.items() if name != "steps"}, "another version"),
    ]:
        with pytest.raises(PurerlError, match=match):
            pool.restore(bad)
    pool.close()
    pool.close()
    for use in (lambda: pool.reset(0), lambda: pool.send(0, good), lambda: pool.recv(0), pool.state):
        with pytest.raises(PurerlError, match="is closed"):
            use()
