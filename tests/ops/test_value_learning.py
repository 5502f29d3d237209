"""Exploration, losses, projection and periods of the DQN family, by the numbers of its specification (section 8)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax

from purerl import registry, rng
from purerl.agents import dqn, rainbow
from purerl.buffers import replay
from purerl.errors import PurerlError
from purerl.loops import in_graph
from purerl.nn.q_network import NoisyDense, QNetwork
from purerl.ops import optimizers, value_learning
from purerl.types import Clock, EnvSpec, Metric


def clock(iteration):
    return Clock(jnp.int32(iteration), jnp.int32(10**6))


# --- the proximal pull ---

PARAMS = {"a": jnp.array([2.0, -1.0]), "b": {"bias": jnp.array([[0.5], [3.0]])}}
ANCHOR = {"a": jnp.array([1.0, 0.0]), "b": {"bias": jnp.array([[0.0], [-1.0]])}}


def test_pull_without_gradient():
    """Checks 1, 3 and 4: one step leaves 0.99875 of every leaf's distance, 2000 leave 0.0820; Adam sees none of it."""
    optimizer = optax.chain(optax.adam(6.25e-5), optimizers.proximal_pull(1.25e-3))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)

    @jax.jit
    def steps(count):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(zeros, state, params, anchor=ANCHOR)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, count, step, (PARAMS, optimizer.init(PARAMS)))

    for count, left in ((1, 0.99875), (2000, 0.0820)):
        params, state = steps(count)
        for w, w0, theta in zip(*map(jax.tree.leaves, (params, PARAMS, ANCHOR)), strict=True):
            np.testing.assert_allclose((w - theta) / (w0 - theta), left, rtol=2e-4 if count == 1 else 1e-3)
        assert all((moment == 0).all() for moment in jax.tree.leaves((state[0][0].mu, state[0][0].nu)))


def test_gradient_is_taken_before_the_pull():
    """Check 5: h = w^2 / 2, SGD 0.1, c = 1, w = 2, theta = 1 gives 1.7 (1.71 in the wrong order)."""
    optimizer = optax.chain(optax.sgd(0.1), optimizers.proximal_pull(0.1 / 1.0))
    w, theta = jnp.float32(2.0), jnp.float32(1.0)
    updates, _ = optimizer.update(w, optimizer.init(w), w, anchor=theta)
    np.testing.assert_allclose(optax.apply_updates(w, updates), 1.7, rtol=1e-6)


def test_pull_at_the_anchor_is_the_base_optimizer():
    """Check 2: right after a copy a step is the optimizer's own, bit for bit."""
    grads = jax.tree.map(lambda x: 0.1 * x + 1, PARAMS)
    base, pulled = optax.adam(1e-3), optax.chain(optax.adam(1e-3), optimizers.proximal_pull(0.01))
    expected, _ = base.update(grads, base.init(PARAMS), PARAMS)
    found, _ = pulled.update(grads, pulled.init(PARAMS), PARAMS, anchor=PARAMS)
    jax.tree.map(np.testing.assert_array_equal, expected, found)


def test_pull_needs_an_anchor():
    optimizer = optimizers.proximal_pull(0.1)
    with pytest.raises(PurerlError, match="anchor="):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


def test_coupled_penalty():
    """Its gradient is coefficient times the distance."""
    gradient = jax.grad(lambda w: optimizers.proximal_penalty(0.3, w, ANCHOR))(PARAMS)
    jax.tree.map(
        lambda g, w, theta: np.testing.assert_allclose(g, 0.3 * (w - theta), rtol=1e-6), gradient, PARAMS, ANCHOR
    )


def test_rmsprop_is_tensorflows():
    """Check 6."""
    optimizer = optimizers.centered_rmsprop(2.5e-4)
    updates, _ = optimizer.update(jnp.float32(1.0), optimizer.init(jnp.float32(0.0)), jnp.float32(0.0))
    np.testing.assert_allclose(-updates, 2.5031e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "expected"), [("adam", 0.4), ("adam-tensorflow", 0.0206)])
def test_where_epsilon_joins_adam(name, expected):
    """Check 7: epsilon comes after the bias correction in optax, before it in TensorFlow 1."""
    config = dqn.Config(optimizer=name)
    for optimizer in (
        optimizers.value_optimizer(name, config.learning_rate, epsilon=config.optimizer_epsilon),
        dqn.optimizer(config),  # the same, with the constants of Dopamine
    ):
        w = jnp.float32(0.0)
        updates, _ = optimizer.update(jnp.float32(1e-4), optimizer.init(w), w, anchor=w)
        np.testing.assert_allclose(-updates / config.learning_rate, expected, rtol=3e-3)


def test_the_two_adams_agree_without_epsilon():
    gradients = np.random.default_rng(0).normal(size=20).astype(np.float32)
    found = []
    for optimizer in (optax.adam(0.1, eps=0.0), optimizers.tensorflow_adam(0.1, 0.0)):
        w, state = jnp.float32(1.0), optimizer.init(jnp.float32(1.0))
        for gradient in gradients:
            updates, state = optimizer.update(jnp.float32(gradient), state, w)
            w += updates
        found.append(w)
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_the_adam_of_tensorflow_against_its_definition():
    """TensorFlow 1's documentation, in numpy: epsilon beside the root of the raw second moment."""
    optimizer = optimizers.adam(1e-2, epsilon=1e-3, form="adam-tensorflow")
    gradients = np.random.default_rng(0).normal(scale=1e-2, size=(30, 4)).astype(np.float32)
    w, first, second = np.ones(4), np.zeros(4), np.zeros(4)
    mine, state = jnp.ones(4), optimizer.init(jnp.ones(4))
    for t, g in enumerate(gradients, start=1):
        updates, state = optimizer.update(jnp.asarray(g), state)
        mine += updates
        rate = 1e-2 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        w -= rate * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(mine, w, rtol=2e-6)


# --- targets ---


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [(0.0, 1.0, None), (20.0, 0.99, {50: 1.0}), (-20.0, 0.99, {0: 1.0}), (0.3, 0.0, {25: 0.25, 26: 0.75})],
)
def test_projection(reward, discount, expected):
    """Check 13, and rlax. The atoms are 0.4 apart: a terminal 0.3 is a quarter 0 and three quarters 0.4."""
    support = jnp.linspace(-10.0, 10.0, 51)
    probabilities = jax.nn.softmax(jax.random.normal(jax.random.key(0), (51,)))
    atoms = reward + discount * support
    found = value_learning.categorical_projection(atoms, probabilities, support)
    np.testing.assert_allclose(found.sum(), 1.0, atol=1e-6)
    np.testing.assert_allclose(found, rlax.categorical_l2_project(atoms, probabilities, support), atol=1e-6)
    if expected is None:
        np.testing.assert_allclose(found, probabilities, atol=1e-6)
    else:
        np.testing.assert_allclose([found[k] for k in expected], list(expected.values()), atol=1e-5)
        np.testing.assert_allclose(jnp.dot(found, support), np.clip(reward, -10, 10), atol=1e-5)


def test_temporal_difference_losses():
    error = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(value_learning.temporal_difference_loss(error, "squared"), [0.25, 9.0])
    np.testing.assert_allclose(value_learning.temporal_difference_loss(error, "huber"), [0.125, 2.5])


def test_the_entries_of_the_actions():
    q = jnp.arange(24.0).reshape(2, 3, 4)
    found = value_learning.batched_index(q, jnp.array([2, 0]))
    np.testing.assert_array_equal(found, [[8, 9, 10, 11], [12, 13, 14, 15]])


# --- exploration and periods ---


def test_epsilon_schedule():
    """Check 14: in transitions, beginning with learning."""
    moments, expected = (0, 20_000, 145_000, 270_000, 10**8), [1, 1, 0.505, 0.01, 0.01]
    by_hand = [
        float(
            value_learning.epsilon_schedule(
                jnp.float32(steps), initial=1.0, final=0.01, begin=20_000, decay_steps=250_000.0
            )
        )
        for steps in moments
    ]
    np.testing.assert_allclose(by_hand, expected, atol=1e-5)
    for agent in (dqn, rainbow):
        config = agent.Config()
        found = [float(agent.epsilon(config, clock(steps // 4), explore=True)) for steps in moments]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert agent.epsilon(config, clock(0), explore=False) == config.epsilon_evaluation == 0.001


def test_epsilon_greedy_frequencies():
    q = jnp.tile(jnp.array([[0.0, 2.0, 1.0]]), (20_000, 1))
    actions = value_learning.epsilon_greedy(jax.random.split(jax.random.key(0), 20_000), q, 0.3)
    shares = np.bincount(np.asarray(actions), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.8, 0.1], atol=0.01)


@pytest.mark.parametrize(("num_envs", "rollout_length"), [(1, 4), (8, 1), (8, 16)])
def test_gradient_steps_and_copies(num_envs, rollout_length):
    """Check 14: 250k transitions are 57.5k gradient steps after 20k, and a copy every 8000 transitions."""
    config, transitions = dqn.Config(), num_envs * rollout_length

    @jax.jit
    def run():
        def step(counts, key, due):
            return (counts[0] + 1, counts[1] + due.astype(jnp.int32)), {"one": Metric.of(jnp.float32(1))}

        def iterate(i, counts):
            return value_learning.gradient_steps(
                step,
                counts,
                jax.random.key(0),
                clock(i),
                transitions=transitions,
                train_period=config.train_period,
                target_period=config.target_period,
                learning_starts=config.learning_starts,
            )[0]

        zero = jnp.int32(0)
        return jax.lax.fori_loop(0, 250_000 // transitions, iterate, (zero, zero))

    steps, copies = run()
    assert abs(int(steps) - 57_500) <= rollout_length * num_envs / 4
    assert int(copies) == 250_000 // 8000 - 20_000 // 8000  # 31 in a quarter of a million, 2 of them before learning


def test_the_next_target_and_its_distance():
    params = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([[2.0]])}
    before = {"a": jnp.zeros(2), "b": jnp.array([[-1.0]])}
    renew = jax.jit(value_learning.next_target)
    after, distance = renew(jnp.bool_(True), params, before)
    jax.tree.map(np.testing.assert_array_equal, after, params)
    assert (distance.total, distance.count) == (pytest.approx(np.sqrt(9 + 1 + 9), rel=1e-6), 1)
    after, distance = renew(jnp.bool_(False), params, before)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert (distance.total, distance.count) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_envs": 3, "rollout_length": 1}, "multiple of train_period"),
        ({"target_period": 8001}, "try 8000"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"replay_size": 1_000_001}, "try 1000000"),
    ],
)
def test_impossible_sizes_are_named(fields, message, specs):
    for agent in (dqn, rainbow):
        with pytest.raises(PurerlError, match=message):
            agent.check(agent.Config(**fields), specs.atari)


# --- networks ---


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def shapes_of(spec, **fields):
    network = QNetwork(spec, **fields)
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4, 84, 84), jnp.uint8))


@pytest.mark.parametrize(("network", "expected"), [("dopamine", 4_043_424 + 513 * 4), ("nature", 1_684_128 + 513 * 4)])
def test_parameter_counts(network, expected, specs):
    """Check 8: padded convolutions give 7744 features, others 3136."""
    params = shapes_of(specs.atari, network=network)
    assert count(params) == expected
    assert params["params"]["dense0"]["kernel"].shape[0] == {"dopamine": 7744, "nature": 3136}[network]


def test_dueling_parameter_count_and_mean(specs):
    params = shapes_of(specs.atari, network="dopamine", atoms=51, dueling=True)
    assert count(params) == 4_043_424 + 513 * 51 * 4 + 513 * 51
    vector = EnvSpec("test/vector", (3,), "float32", 5)
    network = QNetwork(vector, "mlp", (8,), dueling=True)
    params = network.init(jax.random.key(0), jnp.zeros((1, 3)))
    out, bound = network.apply(params, jnp.ones((2, 3))), network.bind(params)
    value = network.apply(params, jnp.ones((2, 3)), capture_intermediates=True)[1]["intermediates"]["value"][
        "__call__"
    ][0]
    np.testing.assert_allclose(out.mean(-1), value[:, 0], atol=1e-6)
    assert bound is not None


def test_stacked_frames_become_channels(specs):
    network = QNetwork(specs.atari, "nature")
    params = network.init(jax.random.key(0), jnp.zeros((1, 4, 84, 84), jnp.uint8))
    assert params["params"]["torso"]["convolution0"]["kernel"].shape == (8, 8, 4, 32)


def test_noisy_layer_is_its_weights_plus_rank_one_noise():
    """Row by row noise equals the layer written out with its noisy weight matrix."""
    layer, x = NoisyDense(3, sigma=0.5), jax.random.normal(jax.random.key(1), (4, 6))
    params = layer.init(jax.random.key(0), x, None)
    p = params["params"]
    np.testing.assert_allclose(p["kernel_sigma"], 0.5 / np.sqrt(6), rtol=1e-6)
    assert np.abs(p["kernel"]).max() <= 1 / np.sqrt(6)
    keys = jax.random.split(jax.random.key(2), 4)
    rows = layer.apply(params, x, keys)
    for b in range(4):
        normal = jax.random.normal(keys[b], (9,))
        shaped = jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))
        kernel = p["kernel"] + p["kernel_sigma"] * jnp.outer(shaped[:6], shaped[6:])
        expected = x[b] @ kernel + p["bias"] + p["bias_sigma"] * shaped[6:]
        np.testing.assert_allclose(rows[b], expected, atol=1e-5)
        np.testing.assert_allclose(layer.apply(params, x[b : b + 1], keys[b])[0], expected, atol=1e-5)
    np.testing.assert_allclose(layer.apply(params, x, None), x @ p["kernel"] + p["bias"][None], atol=1e-6)


def test_rainbow_priorities_are_roots_of_the_cross_entropy():
    """Check 12: after a gradient step the drawn leaves are sqrt(CE + 1e-10), for any importance weights."""
    env = registry.environment("gymnax/CartPole-v1")[0].make("CartPole-v1")
    config = rainbow.Config(
        network="mlp", hidden=(8,), replay_size=64, learning_starts=60, batch_size=8, num_envs=1, rollout_length=4,
        learning_rate=0.0,
    )  # fmt: skip
    loop = in_graph.InGraphLoop(registry.agent("rainbow"), env)
    state = loop.init(config, rng.seed_keys(0, 1))
    state, _ = loop.advance(config, state, 0, 100, 16)  # one gradient step, which changes no weight
    agent = jax.tree.map(lambda x: x[0], state.agent)
    leaves = np.asarray(agent.priorities.items).reshape(-1)[:64]
    changed = np.nonzero((leaves > 0) & (leaves != 1))[0]
    assert 1 <= len(changed) <= 8
    rows = jnp.asarray(changed)
    batch = replay.gather(
        agent.replay, (0 * rows, rows), spec=env.spec, num_steps=3, discount=config.discount, reward_clip=1.0
    )
    each, _, _ = rainbow.losses_of(config, env.spec, agent.params, agent.target_params, batch, jax.random.key(0))
    np.testing.assert_allclose(leaves[changed], np.sqrt(each + 1e-10), rtol=1e-4)
