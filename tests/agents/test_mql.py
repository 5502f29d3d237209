"""MQL: windows of steps by hand and as acted on, the context's GRU, and adaptation that leaves no trace."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl import configs, registry, rng
from purerl.agents import mql
from purerl.buffers import replay, windows
from purerl.envs import tasks
from purerl.errors import PurerlError
from purerl.loops import collect, in_graph, meta_test
from purerl.nn.context import Context
from purerl.types import Clock, EnvSpec

ROBOT = "tasks/point-robot"
GOALS = np.float32([[0.9, 0.9], [-0.9, 0.2]])
ONE = EnvSpec("test/one", (1,), "float32", 0, action_shape=(1,))


def clock(iteration):
    return Clock(jnp.int32(iteration), jnp.int32(100))


def bits(x):
    """An array, or a key's data."""
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def numbered(make_rollout):
    """A ring of eight rows: observations 1 to 8, actions 10 to 80, rewards 100 to 800; the first episode has 5 rows."""
    number = jnp.arange(1.0, 9.0)[:, None]
    rollout = make_rollout(
        ONE,
        8,
        1,
        observation=number[..., None],
        action=10 * number[..., None],
        reward=100 * number,
        truncated=number == 5,
        final_observation=number[..., None] + 0.5,
    )
    ring = replay.init(ONE, 1, 8, final_observations=True)
    return replay.add(ring, rollout, spec=ONE, iteration=jnp.int32(0), terminated=rollout.terminated)


def at(ring, row, length=3):
    before, after = windows.gather(ring, jnp.array([0]), jnp.array([row]), length=length)
    return np.asarray(before.steps[0]), np.asarray(after.steps[0]), np.asarray(before.used[0])


def test_windows_by_hand(numbered):
    before, after, used = at(numbered, 1)
    np.testing.assert_array_equal(before, [[0, 0, 0], [0, 0, 1], [10, 100, 1]])
    np.testing.assert_array_equal(after, [[0, 0, 0], [10, 100, 1], [20, 200, 2]])
    np.testing.assert_array_equal(used, [False, True, True])
    before, after, _ = at(numbered, 5)  # the first row of the second episode
    np.testing.assert_array_equal(before, [[0, 0, 0], [0, 0, 0], [0, 0, 6]])
    np.testing.assert_array_equal(after, [[0, 0, 0], [0, 0, 0], [60, 600, 6]])


def test_after_a_step_is_before_the_next_one_but_for_the_start(numbered):
    """They differ in exactly one slot while the first observation is in the window (t <= T - 2), then not at all."""
    for t in range(4):
        differs = (at(numbered, t)[1] != at(numbered, t + 1)[0]).any(axis=1)
        assert differs.sum() == (1 if t <= 1 else 0), t
    changed = numbered.replace(reward=numbered.reward.at[0, 3].set(-1.0))
    assert (at(changed, 3)[0] == at(numbered, 3)[0]).all()  # the context before a step does not see its reward
    assert (at(changed, 3)[1] != at(numbered, 3)[1]).any()


def test_the_gru_is_the_one_of_the_spec_and_padding_counts():
    steps = jax.random.normal(jax.random.key(0), (2, 4, 3)).at[:, :2].set(0.0)
    used = jnp.array([[False, False, True, True]] * 2)
    params = Context(5).init(jax.random.key(1), steps)
    cell = jax.tree.map(np.asarray, params["params"]["gru"]["steps"]["cell"])
    bound = 1 / np.sqrt(5)
    assert all(np.abs(x).max() <= bound and np.abs(x).min() > 0 for x in jax.tree.leaves(cell))

    def output(steps):
        h = np.zeros((2, 5))
        sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
        for x in np.swapaxes(np.asarray(steps, np.float64), 0, 1):
            into = {name: x @ cell[f"i{name}"]["kernel"] + cell[f"i{name}"]["bias"] for name in "rzn"}
            r, z = (sigmoid(into[name] + h @ cell[f"h{name}"]["kernel"]) for name in "rz")
            n = np.tanh(into["n"] + r * (h @ cell["hn"]["kernel"] + cell["hn"]["bias"]))
            h = (1 - z) * n + z * h
        return h

    padded, unpadded = Context(5).apply(params, steps), Context(5).apply(params, steps, used)
    np.testing.assert_allclose(padded, output(steps), atol=1e-5)
    np.testing.assert_allclose(unpadded, output(steps[:, 2:]), atol=1e-5)
    assert np.abs(padded - unpadded).max() > 1e-3


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_config):
    """(config, environment, state of one seed after 12 iterations, whose replay has wrapped)."""
    config, environment = tiny_config("mql"), tasks.make("point-robot", tasks.Options(max_steps=6))
    loop = in_graph.InGraphLoop(mql.AGENT, environment)
    state, metrics = loop.advance(config, loop.init(config, rng.seed_keys(0, 1)), 0, 100, 12)
    assert all(np.isfinite(m.mean()).all() for m in metrics.values())
    return config, environment, jax.tree.map(lambda x: x[0], state.agent)


def test_acting_sees_the_windows_that_learning_gathers(trained, tiny_config):
    config, environment, state = trained
    begun = collect.begin(mql.AGENT, environment, config, state, jax.random.key(3), 2)
    seen, ring = [], replay.init(environment.spec, 2, 12, final_observations=True)

    @jax.jit
    def step(begun, ring, t):
        begun, rollout = collect.collect(mql.AGENT, environment, config, begun, clock(99), length=1, iteration=t)
        return begun, replay.add(ring, rollout, spec=environment.spec, iteration=t, terminated=rollout.terminated)

    for t in range(12):
        begun, ring = step(begun, ring, jnp.int32(t))
        seen.append(begun.memory.window)
    for t in range(12):
        rows = jnp.arange(2), jnp.full(2, t)
        before, _ = windows.gather(ring, *rows, length=config.history_length)
        np.testing.assert_array_equal(before.steps, seen[t].steps, err_msg=str(t))
        np.testing.assert_array_equal(before.used, seen[t].used, err_msg=str(t))


def test_each_network_learns_its_own_context(trained, tiny_config):
    """The actor's GRU gets no gradient of the critics' loss, nor theirs one of the actor's; all learn."""
    config, environment, state = trained
    spec = environment.spec
    batch = mql.gather(config, spec, state.replay, mql.replay_rows(config, state, jax.random.key(0), 16))
    ones = jnp.ones(16)

    @jax.jit
    def gradients(params):
        def of_critics(params):
            target = mql.targets(config, spec, state.target_params, batch, jnp.zeros((16, 2)))
            return mql.critic_loss(config, spec, params["critics"], batch, jax.lax.stop_gradient(target), ones)[0]

        of_actor = jax.grad(lambda p: mql.actor_loss(config, spec, p, params["critics"], batch, ones))
        return jax.grad(of_critics)(params), of_actor(params["actor"])

    of_critics, of_actor = gradients(state.params)
    assert all((x == 0).all() for x in jax.tree.leaves(of_critics["actor"]))
    for tree in (of_critics["critics"], of_actor):
        assert optax.tree.norm(tree["params"]["context"]) > 0
    # No episode ends before its time limit, and that is bootstrapped: its discount is never 0.
    np.testing.assert_allclose(batch.transitions.discount, config.discount)
    every = jnp.divmod(jnp.arange(state.replay.reward.size), state.replay.reward.shape[1])
    assert np.asarray(state.replay.done).any()
    np.testing.assert_allclose(mql.gather(config, spec, state.replay, every).transitions.discount, config.discount)


# --- adaptation ------------------------------------------------------------------------------------------------------


adapt = jax.jit(mql.adapt, static_argnums=1)  # one program for all tests


@pytest.fixture(scope="module")
def rollouts(trained):
    """Episodes [6, 1] in two tasks, played greedily."""
    config, _, state = trained

    @jax.jit
    def episode(goal):
        one = tasks.of_task("point-robot", goal, tasks.Options(max_steps=6))
        begun = collect.begin(mql.AGENT, one, config, state, jax.random.key(0), 1)
        return collect.collect(mql.AGENT, one, config, begun, clock(0), length=6, iteration=0, explore=False)[1]

    return [episode(goal) for goal in GOALS]


def test_adaptation_leaves_no_trace_and_the_order_of_tasks_does_not_matter(trained, rollouts):
    config, environment, state = trained
    before = [np.array(x) for x in jax.tree.leaves(state)]

    def all_in(order):
        return {i: adapt(config, environment.spec, state, rollouts[i], jax.random.key(i)) for i in order}

    first, second = all_in((0, 1)), all_in((1, 0))
    for i in (0, 1):
        for a, b in zip(jax.tree.leaves(first[i]), jax.tree.leaves(second[i]), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(before, jax.tree.leaves(state), strict=True):
        assert a.tobytes() == np.asarray(b).tobytes()
    distance = [optax.tree.norm(jax.tree.map(jnp.subtract, x.params, state.params)) for x in first.values()]
    assert all(1e-4 < d < 1 for d in distance)
    kept = ("actor_optimizer", "critic_optimizer", "replay", "rollouts")
    for a, b in zip(*(jax.tree.leaves([getattr(x, name) for name in kept]) for x in (first[0], state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_many_tasks_are_a_vmap(trained):
    config, environment, state = trained

    def played(goal, key):
        one = tasks.of_task("point-robot", goal, tasks.Options(max_steps=6))
        return meta_test.evaluate_task(mql.AGENT, one, config, state, key, length=6, episodes=3)

    keys, many = rng.seed_keys(7, 2), jax.jit(jax.vmap(played))
    found, reversed_ = many(jnp.asarray(GOALS), keys), many(jnp.asarray(GOALS[::-1].copy()), keys[::-1])
    assert found.before.shape == found.after.shape == (2, 3)
    np.testing.assert_array_equal(found.after, reversed_.after[::-1])
    assert (found.before != found.after).any() and (found.before < 0).all()
    with pytest.raises(PurerlError, match="td3-context does not adapt"):
        meta_test.evaluate_task(mql.TD3_CONTEXT, environment, config, state, keys[0], length=6, episodes=1)


def test_the_proximal_term_is_lambda_times_the_squared_distance(trained):
    """Its gradient is 2 lambda (theta - theta_meta): 0 at the start, without a stage A."""
    config, environment, state = trained
    spec, number = environment.spec, 16
    batch = mql.gather(config, spec, state.replay, mql.replay_rows(config, state, jax.random.key(0), number))
    optimizer = optax.sgd(1.0)
    shifted = jax.tree.map(lambda x: x + 0.25, state.params)

    @jax.jit
    def stepped(params):
        fresh = optimizer.init(params["actor"]), optimizer.init(params["critics"])
        networks = mql.Networks(params, state.target_params, *fresh)
        beta = jnp.zeros(number)  # all that is left of the losses is the term
        return mql.gradient_step(
            config, spec, optimizer, networks, batch, jnp.zeros((number, 2)), jnp.bool_(True),
            beta=beta, strength=0.1, anchor=state.params,
        )[0].params  # fmt: skip

    for a, b in zip(jax.tree.leaves(stepped(shifted)), jax.tree.leaves(shifted), strict=True):
        np.testing.assert_allclose(a, b - 2 * 0.1 * 0.25, atol=1e-6)
    for a, b in zip(jax.tree.leaves(stepped(state.params)), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_lambda_is_the_coefficient_or_what_the_effective_sample_size_lacks(tiny_config):
    beta = jnp.array([4.0, 1.0, 1.0, 1.0])
    by_size = tiny_config("mql", proximal="effective-sample-size", proximal_coefficient=0.3)
    np.testing.assert_allclose(mql.proximal_strength(by_size, beta), 0.355263, atol=1e-5)
    np.testing.assert_allclose(mql.proximal_strength(by_size, 1e4 * jnp.ones(4)), 0.3)
    np.testing.assert_allclose(mql.proximal_strength(tiny_config("mql", proximal_coefficient=0.3), beta), 0.3)


def test_stage_b_is_weighted_and_both_stages_can_be_left_out(trained, rollouts, tiny_config):
    _, environment, state = trained
    settings = {"whole": {}, "ones": {"weighting": "ones"}, "nothing": {"replay_steps": 0, "new_task_steps": 0}}
    found = {"meta": state.params}
    for name, fields in settings.items():
        config = tiny_config("mql", **fields)
        found[name] = adapt(config, environment.spec, state, rollouts[0], jax.random.key(0)).params
    flat = {name: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for name, tree in found.items()}
    np.testing.assert_array_equal(flat["nothing"], flat["meta"])
    assert (flat["whole"] != flat["ones"]).any() and (flat["whole"] != flat["meta"]).any()


def test_the_classifier_sees_the_context_and_perhaps_the_observation(trained, tiny_config):
    _, environment, state = trained
    for sees, size in ((False, 3), (True, 2 + 3)):
        config = tiny_config("mql", classifier_sees_observation=sees)
        batch = mql.gather(config, environment.spec, state.replay, (jnp.zeros(4, int), jnp.arange(4)))
        assert mql.features(config, environment.spec, state.params["actor"], batch).shape == (4, size)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.same_bits
def test_a_resumed_run_has_the_same_bits(tiny, tmp_path):
    how = {"config": tiny("mql"), "quiet": True, "log_every": 1, "random_episodes": 0, "seed": 1}
    whole = purerl.train("mql", ROBOT, steps=8 * 14, out=tmp_path / "whole", **how)
    purerl.train("mql", ROBOT, steps=8 * 11, out=tmp_path / "cut", **how)
    resumed = purerl.train("mql", ROBOT, steps=8 * 14, out=tmp_path / "cut", resume=True, **how)
    for a, b in zip(*(jax.tree.leaves(run.state) for run in (whole, resumed)), strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))
    assert (whole.state.agent.rollouts == 14).all()
    assert purerl.load_policy(tmp_path / "cut").agent.name == "mql"


def test_windows_that_cannot_be_are_refused():
    config = configs.build(mql.Config, {"history_length": 251}, "mql")
    with pytest.raises(PurerlError, match="at most 250"):
        mql.check(config, registry.env_spec(ROBOT))


@pytest.mark.optimized
def test_an_update_copies_no_replay(tiny_config, make_rollout):
    """With one gradient step per iteration XLA knew its rows before its loop, and copied the replay to gather them."""
    config = tiny_config("mql", rollout_length=1, train_period=2, replay_size=50_000)
    environment = tasks.make("point-robot")
    rollout = make_rollout(environment.spec, 1, 2, final_observation=jnp.zeros((1, 2, 2)))
    state = jax.eval_shape(lambda key: mql.init(config, environment.spec, key), jax.random.key(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, rollout, key, clock):
        return mql.update(config, environment.spec, state, rollout, key, clock)

    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.replay))
    compiled = update.lower(state, rollout, jax.random.key(0), clock(0)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * size
