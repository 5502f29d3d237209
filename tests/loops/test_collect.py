"""Acting with a memory: what an agent sees, what it remembers and what a rollout says of it, whoever steps the games.

The agent counts its steps, and writes into its extras all that it saw; its State is the last rollout. The games are
made of small whole numbers, so all that is compared is compared to the bit.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from purerl import rng
from purerl.envs.hosted import HostedPool
from purerl.loops import collect, in_graph
from purerl.loops.host import HostLoop
from purerl.types import Agent, Clock, Environment, EnvSpec, Inputs, Metric, Rollout, TimeStep, static, traced

SEEDS, NUM_ENVS, LENGTH, ROLLOUTS = 2, 4, 7, 3
SPEC = EnvSpec("test/ages", (2,), "float32", 3)
START = 100  # what the counting memory holds where an episode begins


# --- games ------------------------------------------------------------------------------------------------------------


def make_environment(spec: EnvSpec = SPEC) -> Environment:
    """Episodes of 1 to 5 steps (of even length: cut off), which show (age, length); a reward is 10 age + action + 1."""

    def begin(key):
        return {"age": jnp.int32(0), "length": jax.random.randint(key, (), 1, 6)}

    def observe(state):
        return jnp.stack([state["age"], state["length"]]).astype(jnp.float32)

    def reset(key):
        state = begin(key)
        return state, observe(state)

    def step(key, state, action):
        moved = state | {"age": state["age"] + 1}
        over, cut = moved["age"] >= moved["length"], moved["length"] % 2 == 0
        following = jax.tree.map(lambda new, old: jnp.where(over, new, old), begin(key), moved)
        return following, TimeStep(
            observation=observe(following),
            reward=(10 * state["age"] + 1).astype(jnp.float32) + jnp.sum(action).astype(jnp.float32),
            terminated=over & ~cut,
            truncated=over & cut,
            final_observation=observe(moved),
        )

    return Environment(spec, reset, step)


class OverwritingPool(HostedPool):
    """Gives views of buffers that it writes over as soon as the protocol lets it: at the group's next `send`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._shown: dict[int, np.ndarray] = {}

    def _show(self, group: int, observation: Any) -> np.ndarray:
        buffer = self._shown.setdefault(group, np.empty_like(np.asarray(observation)))
        buffer[...] = observation
        return buffer

    def reset(self, group: int) -> np.ndarray:
        return self._show(group, super().reset(group))

    def send(self, group: int, actions: np.ndarray) -> None:
        if group in self._shown:
            self._shown[group].fill(-99)
        super().send(group, actions)

    def recv(self, group: int) -> TimeStep:
        timestep = super().recv(group)
        return timestep.replace(observation=self._show(group, timestep.observation))


# --- the agent --------------------------------------------------------------------------------------------------------


@struct.dataclass
class Config:
    num_envs: int = static(NUM_ENVS)
    rollout_length: int = static(LENGTH)
    nothing: float = traced(0.0)


def init_memory(config, spec):
    """A count, and the sum of all that was seen in the episode (two leaves of different shapes)."""
    return {"count": jnp.int32(START), "seen": jnp.zeros(2)}


def act(config, spec, state, memory, inputs, keys, clock, explore):
    """Actions of the key and the count; everything that it was given goes into the extras."""
    drawn = jax.vmap(lambda key: rng.below(rng.words(key, ()), 1000))(keys)
    action = (drawn + memory["count"]) % 3
    if not spec.num_actions:
        action = jnp.stack([action, action + 1], axis=-1).astype(jnp.float32)
    following = {"count": memory["count"] + 1, "seen": memory["seen"] + inputs.observation}
    return action, following, {"inputs": inputs, "memory": memory, "drawn": drawn}


def init(config, spec, key):
    """A rollout of zeros, of the shapes that `update` puts in its place."""
    inputs = Inputs.at_start(spec, jnp.zeros((config.num_envs, *spec.observation_shape)))
    memory = collect.first_memory(AGENT, config, spec, config.num_envs)
    keys = rng.per_environment(key, config.num_envs)

    def rows(x):
        return jnp.zeros((config.rollout_length, *x.shape), x.dtype)

    action, _, extras = act(config, spec, None, memory, inputs, keys, None, True)
    flags = jnp.zeros((config.rollout_length, config.num_envs), bool)
    return Rollout(
        observation=rows(inputs.observation),
        action=rows(action),
        reward=flags.astype(jnp.float32),
        terminated=flags,
        truncated=flags,
        final_observation=rows(inputs.observation),
        extras=jax.tree.map(rows, extras),
        first=inputs,
        last=inputs,
        memory=memory,
        last_memory=memory,
    )


def update(config, spec, state, rollout, key, clock):
    return rollout, {"steps": Metric.of(rollout.reward)}


AGENT = Agent("counting", Config, lambda config, spec: None, init, act, update, init_memory)


# --- rollouts ---------------------------------------------------------------------------------------------------------

CONFIG = Config(nothing=jnp.float32(0))


def advanced(loop):
    """The rollouts [S, T, N, ...] of a loop as numpy arrays, one after the other, and the RunState after them."""
    state, rollouts = loop.init(CONFIG, rng.seed_keys(3, SEEDS)), []
    for i in range(ROLLOUTS):
        state, _ = loop.advance(CONFIG, state, i, ROLLOUTS, 1)
        rollouts.append(jax.tree.map(np.array, state.agent))
    return rollouts, jax.tree.map(np.array, state.replace(key=None))


@functools.cache
def walked(how):
    """The same by name: in the graph or on the host, lanes one by one or batched, in one group or two."""
    kind, lanes, *groups = how.split()
    if kind == "graph":
        return advanced(in_graph.InGraphLoop(AGENT, make_environment(), lanes))
    with OverwritingPool(make_environment(), rng.seed_keys(3, SEEDS), NUM_ENVS, int(groups[0])) as pool:
        return advanced(HostLoop(AGENT, pool, lanes))


WAYS = ["graph map", "graph vmap", "host map 1", "host map 2", "host vmap 1", "host vmap 2"]
every_way = pytest.mark.parametrize("how", WAYS)


@every_way
def test_what_acting_sees_and_remembers(how):
    """Followed by hand through all rollouts: inputs and memories of every row, and both borders of every rollout."""
    rollouts, after = walked(how)
    assert sum(rollout.terminated.sum() for rollout in rollouts) > 3
    assert sum(rollout.truncated.sum() for rollout in rollouts) > 3
    for s, n in np.ndindex(SEEDS, NUM_ENVS):
        is_first, last_action, last_reward, count, seen = True, 0, 0.0, START, np.zeros(2)
        for rollout in rollouts:
            first = rollout.first
            assert (first.is_first[s, n], first.last_action[s, n], first.last_reward[s, n]) == (
                is_first,
                last_action,
                last_reward,
            )
            np.testing.assert_array_equal(first.observation[s, n], rollout.observation[s, 0, n])
            if not is_first:  # where an episode begins, whoever replays the rollout resets it, as acting did
                assert rollout.memory["count"][s, n] == count
                np.testing.assert_array_equal(rollout.memory["seen"][s, n], seen)
            for t in range(LENGTH):
                saw = jax.tree.map(lambda x: x[s, t, n], rollout.extras)  # noqa: B023
                if is_first:
                    count, seen = START, np.zeros(2)
                assert (saw["inputs"].is_first, saw["inputs"].last_action) == (is_first, last_action)
                assert saw["inputs"].last_reward == last_reward
                np.testing.assert_array_equal(saw["inputs"].observation, rollout.observation[s, t, n])
                assert (rollout.observation[s, t, n, 0] == 0) == is_first  # the age
                assert saw["memory"]["count"] == count
                np.testing.assert_array_equal(saw["memory"]["seen"], seen)
                action, reward = rollout.action[s, t, n], rollout.reward[s, t, n]
                assert action == (saw["drawn"] + count) % 3
                assert reward == 10 * rollout.observation[s, t, n, 0] + action + 1
                is_first = bool(rollout.terminated[s, t, n] | rollout.truncated[s, t, n])
                last_action, last_reward = (0, 0.0) if is_first else (action, reward)
                count, seen = count + 1, seen + rollout.observation[s, t, n]
            last = rollout.last
            assert (last.is_first[s, n], last.last_action[s, n], last.last_reward[s, n]) == (
                is_first,
                last_action,
                last_reward,
            )
            assert rollout.last_memory["count"][s, n] == count
            np.testing.assert_array_equal(rollout.last_memory["seen"][s, n], seen)
    for before, following in itertools.pairwise(rollouts):
        jax.tree.map(np.testing.assert_array_equal, before.last, following.first)
        jax.tree.map(np.testing.assert_array_equal, before.last_memory, following.memory)
    jax.tree.map(np.testing.assert_array_equal, rollouts[-1].last, after.inputs)
    jax.tree.map(np.testing.assert_array_equal, rollouts[-1].last_memory, after.memory)


@every_way
def test_the_inputs_of_a_rollout_are_what_acting_saw(how):
    for rollout in walked(how)[0]:
        for s in range(SEEDS):
            own = jax.tree.map(lambda x: x[s], rollout)  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, own.inputs(), own.extras["inputs"])
            assert [x.dtype for x in jax.tree.leaves(own.inputs())] == [
                x.dtype for x in jax.tree.leaves(own.extras["inputs"])
            ]
            final, going_on = own.final_inputs(), ~own.done
            np.testing.assert_array_equal(final.observation, own.final_observation)
            assert not final.is_first.any()
            # Where the episode goes on, they are the inputs of the next row.
            for name in ("observation", "last_action", "last_reward"):
                shown, seen = getattr(final, name)[:-1], getattr(own.inputs(), name)[1:]
                np.testing.assert_array_equal(shown[going_on[:-1]], seen[going_on[:-1]])


@pytest.mark.parametrize("how", WAYS[1:])
def test_every_way_is_the_same_walk(how):
    """Rows, memories and run state of two seeds, to the bit, whoever steps the games and however lanes are run."""
    (rollouts, after), (expected, expected_after) = walked(how), walked(WAYS[0])
    jax.tree.map(np.testing.assert_array_equal, rollouts, expected)
    for name in ("agent", "memory", "inputs", "episodes"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(expected_after, name))
    assert (rollouts[0].observation[0] != rollouts[0].observation[1]).any()  # the seeds are two


@pytest.mark.parametrize("hosted", [False, True], ids=["graph", "host"])
def test_continuous_actions_are_seen_again(hosted):
    """Actions [N, A] come back as `last_action` [N, A], 0 where an episode begins."""
    spec = EnvSpec("test/ages", (2,), "float32", 0, action_shape=(2,))
    environment, keys = make_environment(spec), rng.seed_keys(0, SEEDS)
    if hosted:
        with OverwritingPool(environment, keys, NUM_ENVS, 2) as pool:
            rollouts, _ = advanced(HostLoop(AGENT, pool))
    else:
        rollouts, _ = advanced(in_graph.InGraphLoop(AGENT, environment))
    for rollout in rollouts:
        saw, done = rollout.extras["inputs"], rollout.terminated | rollout.truncated
        assert saw.last_action.shape == (SEEDS, LENGTH, NUM_ENVS, 2) and saw.last_action.dtype == np.float32
        np.testing.assert_array_equal(
            saw.last_action[:, 1:], np.where(done[:, :-1, :, None], 0, rollout.action[:, :-1])
        )
        for s in range(SEEDS):
            own = jax.tree.map(lambda x: x[s], rollout)  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, own.inputs(), own.extras["inputs"])


def test_a_walk_in_two_parts_is_the_walk_in_one():
    """`first_t` goes on where a walk without learning stopped, as evaluation's blocks do."""
    environment, clock, key = make_environment(), Clock(jnp.int32(1), jnp.int32(1)), rng.seed_keys(0, 1)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def walk(length, run_state, first_t):
        return collect.collect(
            AGENT, environment, CONFIG, run_state, clock, length=length, iteration=0, first_t=first_t
        )

    begun = collect.begin(AGENT, environment, CONFIG, None, key, NUM_ENVS)
    np.testing.assert_array_equal(begun.memory["count"], np.full(NUM_ENVS, START))
    assert begun.inputs.is_first.all() and not begun.inputs.last_action.any() and not begun.inputs.last_reward.any()
    after, whole = walk(2 * LENGTH, begun, 0)
    half, one = walk(LENGTH, begun, 0)
    end, two = walk(LENGTH, half, LENGTH)
    for name in ("observation", "action", "reward", "terminated", "truncated", "extras"):
        jax.tree.map(
            lambda x, y, z: np.testing.assert_array_equal(np.concatenate([x, y]), z),
            *(getattr(rows, name) for rows in (one, two, whole)),
        )
    jax.tree.map(np.testing.assert_array_equal, end.inputs, after.inputs)
    jax.tree.map(np.testing.assert_array_equal, end.memory, after.memory)
    assert half.agent is None


def test_agents_without_memory_get_none():
    memoryless = AGENT._replace(
        init_memory=Agent._field_defaults["init_memory"],
        act=lambda config, spec, state, memory, inputs, *_: (inputs.is_first.astype(jnp.int32), memory, None),
    )
    environment, clock = make_environment(), Clock(jnp.int32(0), jnp.int32(1))
    begun = collect.begin(memoryless, environment, CONFIG, None, rng.seed_keys(0, 1)[0], NUM_ENVS)
    assert begun.memory == ()
    _, rollout = collect.collect(memoryless, environment, CONFIG, begun, clock, length=3, iteration=0)
    assert rollout.memory == rollout.last_memory == ()
    np.testing.assert_array_equal(rollout.action, rollout.inputs().is_first)
