"""P3O and A2C, its baseline: the numeric checks of the spec (section 2.6), a replay step by hand, and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl import configs, registry, rng
from purerl.agents import a2c, p3o
from purerl.errors import PurerlError
from purerl.loops import in_graph
from purerl.ops import distributions, optimizers, segments
from purerl.runs.plan import make_plan
from purerl.runs.trainer import Trainer
from purerl.types import Clock, EnvSpec, GaussianParameters

CARTPOLE = "gymnax/CartPole-v1"
SIZES = {
    "num_envs": 3,
    "rollout_length": 5,
    "network": "mlp",
    "hidden": (6,),
    "replay_size": 40,
    "learning_starts": 10,
    "sample_multiplier": 2,
    "learning_rate": 0.01,
    "anneal_learning_rate": False,
}
ON_ONLY = ("replay_size", "learning_starts", "sample_multiplier")
DISCRETE, CONTINUOUS = EnvSpec("test/d", (3,), "float32", 4), EnvSpec("test/c", (3,), "float32", 0, action_shape=(2,))


def p3o_config(**fields):
    return configs.traced(p3o.Config(**SIZES | fields))


def a2c_config(**fields):
    same = {name: value for name, value in SIZES.items() if name not in ON_ONLY}
    return configs.traced(a2c.Config(**same | {"gae_lambda": 0.95} | fields))


def segment_of(config, spec, params, seed=0, shift=0.0):
    """A segment [T, N] whose behaviour is the policy of `params`, moved by `shift` times random numbers."""
    random, shape = np.random.default_rng(seed), (config.rollout_length, config.num_envs)
    number = lambda *more: jnp.asarray(random.standard_normal((*shape, *more)), jnp.float32)  # noqa: E731
    observation, kind = number(3), random.random(shape)
    behaviour, _ = p3o.network(config, spec).apply(params, observation)
    behaviour = jax.tree.map(lambda x: x + shift * number(*x.shape[2:]), behaviour)
    action = jnp.asarray(random.integers(0, 4, shape), jnp.int32) if spec.num_actions else number(2)
    return segments.Segment(
        observation, action, number(), jnp.asarray(kind < 0.2), jnp.asarray(kind < 0.3), behaviour, number(3)[0], None
    )


def rollout_of(make_rollout, spec, segment):
    """The rollout that has become a segment."""
    return make_rollout(
        spec,
        *segment.reward.shape,
        last_observation=segment.last,
        observation=segment.observation,
        action=segment.action,
        reward=segment.reward,
        terminated=segment.terminated,
        truncated=segment.done & ~segment.terminated,
        extras=segment.behaviour,
    )


def clock(iteration, total=1000):
    return Clock(jnp.int32(iteration), jnp.int32(total))


# --- 1: the effective sample size ---


def test_effective_sample_size():
    of = lambda ratio: float(p3o.effective_sample_size(jnp.log(jnp.asarray(ratio, jnp.float32))))  # noqa: E731
    assert of([4.0, 1, 1, 1]) == pytest.approx(0.644737, abs=1e-6)
    assert of([1.0, 1, 1, 1]) == 1.0
    log_ratio = 0.4 * jax.random.normal(jax.random.key(0), (100_000,))
    assert float(p3o.effective_sample_size(log_ratio)) == pytest.approx(np.exp(-0.16), abs=0.01)
    assert float(p3o.effective_sample_size(log_ratio + 200)) == pytest.approx(np.exp(-0.16), abs=0.01)


# --- 2: direction and scale of the KL ---


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.368064),
        ({"kl_direction": "behaviour-policy"}, 0.510826),
        ({"kl_reduction": "mean"}, 0.184032),
    ],
)
def test_the_kl_term(fields, expected):
    spec = EnvSpec("test/two", (3,), "float32", 2)
    logits, behaviour = jnp.log(jnp.array([[[0.9, 0.1]]])), jnp.log(jnp.array([[[0.5, 0.5]]]))
    segment = segments.Segment(None, jnp.zeros((1, 1), jnp.int32), None, None, None, behaviour, None)
    config = p3o_config(kl_weight="fixed", kl_coefficient=3.0, **fields)
    total, terms = p3o.policy_loss_off(config, spec, logits, segment, jnp.zeros((1, 1)))
    assert float(terms["replay_kl"]) == pytest.approx(expected, abs=1e-6)
    assert float(total) == pytest.approx(3 * expected, abs=1e-5)


# --- 3: no gradient through the ratio ---


@pytest.mark.parametrize(("behaviour", "weight"), [(0.4, 0.8), (0.8, 0.75)], ids=["truncated", "not truncated"])
def test_the_gradient_is_the_truncated_ratio_times_the_advantage(behaviour, weight):
    """pi = 0.6, A = 1, c = 0.8. At rho = 1.5 the derivative by log pi is -0.8, where a clipped surrogate would give 0.
    At rho = 0.75 it is -0.75, where a ratio with a gradient of its own would add to it.
    """
    spec = EnvSpec("test/two", (3,), "float32", 2)
    logits, advantage = jnp.log(jnp.array([[[0.6, 0.4]]])), jnp.ones((1, 1))
    beta = jnp.log(jnp.array([[[behaviour, 1 - behaviour]]]))
    segment = segments.Segment(None, jnp.zeros((1, 1), jnp.int32), None, None, None, beta, None)
    config = p3o_config(ratio_clip="fixed", clip=0.8, kl_weight="fixed", kl_coefficient=0.0)
    gradient = jax.grad(lambda x: p3o.policy_loss_off(config, spec, x, segment, advantage)[0])(logits)
    np.testing.assert_allclose(gradient[0, 0], [-weight * 0.4, weight * 0.4], rtol=1e-5)


# --- 4: on fresh data a replay step is the step on the rollout without entropy ---


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_fresh_data_give_the_same_gradient(spec):
    config = p3o_config(entropy_coefficient=0.0)
    params = p3o.init(config, spec, jax.random.key(1)).params
    segment = segment_of(config, spec, params)
    of = jax.jit(jax.grad(p3o.loss, argnums=2, has_aux=True), static_argnums=(1, 4))
    (on, _), (off, terms) = (of(config, spec, params, segment, on_policy) for on_policy in (True, False))
    assert float(terms["effective_sample_size"]) == pytest.approx(1.0, abs=1e-6)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(on)) > 0.01
    for a, b in zip(jax.tree.leaves(on), jax.tree.leaves(off), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


# --- 5: ends of episodes ---


def test_what_comes_after_an_end_does_not_count():
    value = jnp.array([[0.5], [0.4], [0.3], [7.0]])  # the last one is that of `last`
    reward, ends = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[False], [True], [True]])
    segment = segments.Segment(jnp.zeros((3, 1, 1)), None, reward, ends, ends, None, jnp.zeros((1, 1)))
    advantage, target = segments.value_targets(segment, value, 0.9, 0.95)
    np.testing.assert_allclose(advantage[1:, 0], [2 - 0.4, 3 - 0.3], rtol=1e-6)
    np.testing.assert_allclose(advantage[0, 0], 1 + 0.9 * 0.4 - 0.5 + 0.9 * 0.95 * 1.6, rtol=1e-6)
    np.testing.assert_allclose(target, advantage + value[:3])
    # A time-out in row 2 is bootstrapped from the final observation, not from `last`.
    timed_out = segment.replace(terminated=jnp.array([[False], [True], [False]]), final=jnp.zeros((3, 1, 1)))
    more = jnp.concatenate([value, jnp.array([[100.0], [100.0], [2.0]])])
    np.testing.assert_allclose(segments.value_targets(timed_out, more, 0.9, 0.95)[0][2, 0], 3 + 0.9 * 2 - 0.3)


@pytest.mark.parametrize("on_policy", [True, False])
def test_the_last_observation_counts_only_where_the_episode_goes_on(on_policy):
    config = p3o_config()
    params = p3o.init(config, DISCRETE, jax.random.key(1)).params
    ended = jnp.zeros((5, 3), bool).at[-1].set(True)
    base = segment_of(config, DISCRETE, params, shift=0.3)
    for ends, changes in ((ended, False), (~ended & False, True)):
        segment = base.replace(terminated=ends, done=ends)
        one, other = (
            p3o.loss(config, DISCRETE, params, segment.replace(last=segment.last + by), on_policy)[0] for by in (0, 1)
        )
        assert (float(one) != float(other)) == changes


# --- 6: what is stored of the policy that acted ---


def test_the_behaviour_policy_is_kept_as_it_was(make_rollout):
    config, spec = p3o_config(), DISCRETE
    state = p3o.init(config, spec, jax.random.key(1))
    keys, inputs = jax.random.split(jax.random.key(2), 3), make_rollout(spec, 5, 3).first
    action, _, extras = p3o.act(config, spec, state, (), inputs, keys, clock(0), True)
    now, _ = p3o.network(config, spec).apply(state.params, inputs.observation)
    log_prob = distributions.for_spec(spec).log_prob
    np.testing.assert_array_equal(log_prob(now, action), log_prob(extras, action))
    update = jax.jit(p3o.update, static_argnums=1)
    first = segment_of(config, spec, state.params, seed=3)
    first = first.replace(terminated=first.done)  # a time-out whose last observation is hidden is an end
    for i in range(4):  # the replay has eight places
        rollout = rollout_of(make_rollout, spec, first if i == 0 else segment_of(config, spec, state.params, seed=i))
        state, _ = update(config, spec, state, rollout, jax.random.key(i), clock(i))
    for kept, was in zip(jax.tree.leaves(state.replay), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(kept[0], was)
    assert not state.replay.reward[4:].any() and (state.replay.reward[:4] != 0).all()


# --- 7: the scale of the value loss; entropy only on the rollout ---


def test_the_derivative_by_the_values(monkeypatch):
    """-2 x 0.5 x A / n for each, and the entropy's weight changes nothing of a replay step."""
    config = p3o_config()
    segment = segment_of(config, DISCRETE, p3o.init(config, DISCRETE, jax.random.key(1)).params, shift=0.3)
    value, logits = jnp.linspace(-1, 1, 18).reshape(6, 3), segment.behaviour + 0.1

    def total(value, on_policy, config=config):
        padded = jnp.concatenate([logits, logits[:1]])
        network = type("Fixed", (), {"apply": lambda self, params, observation: (padded, value)})()
        monkeypatch.setattr(p3o, "network", lambda config, spec: network)
        return p3o.loss(config, DISCRETE, {}, segment, on_policy)[0]

    advantage, _ = segments.value_targets(segment, value, 0.99, 0.95)
    for on_policy in (True, False):
        gradient = jax.grad(total)(value, on_policy)
        np.testing.assert_allclose(gradient[:5], -advantage / 15, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(gradient[5], 0)
    more = config.replace(entropy_coefficient=jnp.float32(0.5))
    assert float(total(value, False, more)) == float(total(value, False))
    assert float(total(value, True, more)) != float(total(value, True))


# --- 8: how many replay steps ---


def test_the_number_of_replay_steps_is_poisson():
    drawn = jax.vmap(lambda w: p3o.number_of_steps(w, jnp.float32(2.0), 8))(rng.words(jax.random.key(0), (10_000,)))
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.05) and float(drawn.var()) == pytest.approx(2.0, abs=0.1)
    assert float((drawn == 0).mean()) == pytest.approx(np.exp(-2), abs=0.01) and int(drawn.max()) <= 8
    none = jax.vmap(lambda w: p3o.number_of_steps(w, jnp.float32(0.0), 8))(rng.words(jax.random.key(0), (1000,)))
    assert not none.any()


def test_the_replay_waits_and_without_it_p3o_is_a2c(make_rollout):
    """The paper's 15,000 steps of 16 environments are 937 rollouts: 239,872 steps."""
    config, spec = p3o_config(learning_starts=15_000, replay_size=50_000, rollout_length=16, num_envs=16), DISCRETE
    assert config.learning_starts // config.rollout_length * 16 * 16 == 239_872 and p3o.slots(config) == 3125
    config = p3o_config(learning_starts=17)  # three rollouts of five steps
    state = p3o.init(config, spec, jax.random.key(1))
    rollout = rollout_of(make_rollout, spec, segment_of(config, spec, state.params))
    update = jax.jit(p3o.update, static_argnums=1)
    key = next(k for k in jax.random.split(jax.random.key(0), 9) if update(
        config, spec, state, rollout, k, clock(5))[1]["replay_steps"].total > 0)  # fmt: skip
    after, steps = {}, {}
    for i in (1, 2):
        after[i], metrics = update(config, spec, state, rollout, key, clock(i))
        steps[i] = float(metrics["replay_steps"].mean())
    assert steps[1] == 0 and steps[2] > 0
    never, _ = update(config.replace(replay_steps=jnp.float32(0)), spec, state, rollout, key, clock(2))
    baseline = a2c.State(state.params, a2c.optimizer(a2c_config()).init(state.params))
    alone, _ = jax.jit(a2c.update, static_argnums=1)(a2c_config(), spec, baseline, rollout, key, clock(2))
    moved = lambda one, other: max(  # noqa: E731
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    )
    assert moved(after[1], never) == 0 and moved(never, alone) < 1e-6
    assert moved(after[2], never) > 1e-3 and moved(never, state) > 1e-3


# --- a replay step by hand, and its optimizer ---


def test_the_loss_of_a_replay_step_in_numpy():
    config = p3o_config(replay_entropy_coefficient=0.03)
    params = p3o.init(config, DISCRETE, jax.random.key(1)).params
    segment = segment_of(config, DISCRETE, params, shift=0.7)
    found, terms = p3o.loss(config, DISCRETE, params, segment, False)
    logits, value = (
        np.asarray(x, np.float64) for x in p3o.network(config, DISCRETE).apply(params, segments.observations(segment))
    )
    log_softmax = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))  # noqa: E731
    log_pi, log_beta = log_softmax(logits[:-1]), log_softmax(np.asarray(segment.behaviour, np.float64))
    advantage, target, following = np.zeros((5, 3)), np.zeros((5, 3)), np.zeros(3)
    for t in reversed(range(5)):
        goes_on, same = ~np.asarray(segment.terminated[t]), ~np.asarray(segment.done[t])
        delta = np.asarray(segment.reward[t]) + 0.99 * goes_on * value[t + 1] - value[t]
        following = advantage[t] = delta + 0.99 * 0.95 * same * following
        target[t] = advantage[t] + value[t]
    of = lambda x: np.take_along_axis(x, np.asarray(segment.action)[..., None], -1)[..., 0]  # noqa: E731
    ratio = np.exp(of(log_pi) - of(log_beta))
    ess = ratio.sum() ** 2 / (ratio.size * (ratio**2).sum())
    kl = (np.exp(log_pi) * (log_pi - log_beta)).sum(-1).mean()
    entropy = -(np.exp(log_pi) * log_pi).sum(-1).mean()
    policy = -(np.minimum(ratio, ess) * advantage * of(log_pi)).mean()
    expected = policy + (1 - ess) * kl - 0.03 * entropy + 0.5 * ((target - value[:-1]) ** 2).mean()
    assert 0.3 < ess < 0.95
    np.testing.assert_allclose(float(terms["effective_sample_size"]), ess, rtol=1e-5)
    np.testing.assert_allclose(float(found), expected, rtol=1e-4)


def test_segments_are_drawn_with_their_own_environment():
    """Of a replay whose rewards say where they are from: segment i is of environment i % N, in the order of time."""
    config = p3o_config()
    ring = p3o.init(config, CONTINUOUS, jax.random.key(0)).replay
    where = jnp.arange(8.0)[:, None, None] * 100 + jnp.arange(5.0)[None, :, None] * 10 + jnp.arange(3.0)[None, None]
    ring = ring.replace(reward=where, last=jnp.broadcast_to(where[:, 0, :, None], ring.last.shape))
    drawn = [p3o.draw(config, ring, jnp.int32(3), jax.random.key(i)) for i in range(20)]
    reward = np.stack([np.asarray(d.reward) for d in drawn])  # [20, T, B]
    assert isinstance(drawn[0].behaviour, GaussianParameters) and reward.shape == (20, 5, 6)
    np.testing.assert_array_equal(reward % 10, np.broadcast_to(np.arange(6) % 3, reward.shape))
    np.testing.assert_array_equal(reward // 10 % 10, np.broadcast_to(np.arange(5)[None, :, None], reward.shape))
    assert set(np.unique(reward // 100)) == {0, 1, 2} and (reward // 100 == reward[:, :1] // 100).all()
    np.testing.assert_array_equal(np.stack([np.asarray(d.last)[:, 0] for d in drawn]), reward[:, 0])


def test_rmsprop_by_hand():
    """v = 0.1 g^2 at first, the step g / (sqrt(v) + 0.5), with gradients clipped to norm 1."""
    optimizer = optimizers.rmsprop(0.2, decay=0.9, epsilon=0.5, max_grad_norm=1.0)
    state = optimizer.init(jnp.zeros(2))
    first, state = optimizer.update(jnp.array([3.0, 4.0]), state)
    np.testing.assert_allclose(first, [-0.2 * g / (np.sqrt(0.1 * g * g) + 0.5) for g in (0.6, 0.8)], rtol=1e-5)
    second, _ = optimizer.update(jnp.array([0.5, 0.0]), state)
    v = 0.9 * 0.1 * 0.36 + 0.1 * 0.25
    np.testing.assert_allclose(second, [-0.2 * 0.5 / (np.sqrt(v) + 0.5), 0.0], rtol=1e-5)
    same = optax.rmsprop(0.2, decay=0.9, eps=0.5, eps_in_sqrt=False)
    expected, _ = same.update(jnp.array([0.6, 0.8]), same.init(jnp.zeros(2)))
    np.testing.assert_allclose(first, expected, rtol=1e-5)


# --- as agents ---

LEARNS = {
    "num_envs": 16,
    "rollout_length": 8,
    "network": "mlp",
    "hidden": (16,),
    "share_torso": False,
    "time_limit_is_terminal": False,
    "anneal_learning_rate": False,
    "learning_rate": 5e-3,
    "discount": 0.9,
    "gae_lambda": 0.95,
}


@pytest.mark.parametrize("agent", ["a2c", "p3o"])
@pytest.mark.parametrize(("probe", "worth"), [("policy", {1.0: 1.0, -1.0: 1.0}), ("time-limit", {0.0: 10.0})])
def test_probes_are_learned(agent, probe, worth):
    replay = {"replay_size": 400, "learning_starts": 80} if agent == "p3o" else {}
    found, environment = registry.agent(agent), registry.environment(f"probe/{probe}")[0].make(probe)
    rate = {"learning_rate": 2e-2} if probe == "time-limit" else {}
    config = configs.traced(found.Config(**LEARNS | replay | rate))
    loop = in_graph.InGraphLoop(found, environment)
    state, metrics = loop.advance(config, loop.init(config, rng.seed_keys(0, 2)), 0, 200, 200)
    module = {"a2c": a2c, "p3o": p3o}[agent]
    for observation, value in worth.items():
        apply = lambda s, at=observation: module.network(config, environment.spec).apply(s.params, jnp.full((1, 1), at))  # noqa: E731
        logits, values = jax.vmap(apply)(state.agent)
        np.testing.assert_allclose(values, value, atol=0.1 * value)
        if probe == "policy":
            assert (logits.argmax(-1) == int(observation > 0)).all()
    if agent == "p3o":
        assert np.all(np.abs(metrics["replay_steps"].mean() - 2) < 0.4)


class Killed(Exception):
    pass


@pytest.mark.same_bits
def test_resume_is_exact_and_the_policy_is_loaded(tiny, tmp_path, monkeypatch):
    """Stopped with a replay of eight rollouts that has wrapped."""
    how = {"seeds": 2, "steps": 12 * 32, "config": tiny("p3o"), "quiet": True, "log_every": 1}
    whole, advance = purerl.train("p3o", CARTPOLE, out=tmp_path / "whole", **how), Trainer._advance

    def stopping(trainer, state, stop):
        if trainer.iteration == 10:
            raise Killed
        return advance(trainer, state, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", stopping)
        with pytest.raises(Killed):
            purerl.train("p3o", CARTPOLE, out=tmp_path / "cut", checkpoint_seconds=0, **how)
    resumed = purerl.train("p3o", CARTPOLE, out=tmp_path / "cut", resume=True, **how)
    for a, b in zip(*(jax.tree.leaves(r.state.agent) for r in (whole, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)
    policy = purerl.load_policy(tmp_path / "cut")
    assert int(policy(jnp.zeros(4), jax.random.key(0))) in (0, 1)


def test_the_published_settings():
    paper = make_plan("p3o", "atari/Pong", preset="atari")
    assert (paper.config.num_envs, paper.config.rollout_length, paper.steps) == (16, 16, 28_000_000)
    assert (paper.config.learning_rate, paper.config.rmsprop_decay, paper.config.optimizer_epsilon) == (
        7e-4,
        0.99,
        1e-5,
    )
    assert (paper.config.max_grad_norm, paper.config.entropy_coefficient, paper.config.discount) == (0.5, 0.01, 0.99)
    assert (paper.config.replay_size, paper.config.learning_starts, paper.config.sample_multiplier) == (
        50_000,
        15_000,
        6,
    )
    theirs = make_plan("a2c", "atari/Pong", preset="atari").config
    assert (theirs.num_envs, theirs.rollout_length, theirs.gae_lambda) == (16, 5, 1.0)
    matched = make_plan("a2c", "gymnax/Breakout-MinAtar").config
    ours = make_plan("p3o", "gymnax/Breakout-MinAtar").config
    different = {name for name, value in configs.to_dict(matched).items() if configs.to_dict(ours)[name] != value}
    assert not different


def test_what_cannot_work_is_refused(specs):
    with pytest.raises(PurerlError, match="replay_size = 3 holds no rollout"):
        p3o.check(p3o.Config(replay_size=3), specs.vector)
    with pytest.raises(PurerlError, match="learning_starts = 90 is more than replay_size = 80"):
        p3o.check(p3o.Config(replay_size=80, learning_starts=90), specs.vector)
