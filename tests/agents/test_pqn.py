"""PQN as an agent: it learns probes with known answers, resumes exactly, and plays through every door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import configs, registry, rng
from purerl.agents import pqn
from purerl.envs.hosted import HostedPool
from purerl.errors import PurerlError
from purerl.loops import collect, in_graph
from purerl.loops.host import HostLoop
from purerl.runs.plan import make_plan
from purerl.runs.trainer import Trainer
from purerl.types import Clock, Inputs

CARTPOLE = "gymnax/CartPole-v1"
SMALL = {"num_envs": 4, "rollout_length": 8, "num_minibatches": 2, "hidden": (8,), "recurrent_size": 4}
PROBE = {
    "num_envs": 16,
    "rollout_length": 8,
    "num_minibatches": 4,
    "hidden": (16,),
    "activation": "tanh",  # observation 0 gives a ReLU nothing to learn from
    "anneal_learning_rate": False,
    "learning_rate": 5e-3,
    "discount": 0.9,
    "time_limit_is_terminal": False,
    "epsilon_decay_fraction": 0.5,
    "epsilon_final": 0.3,
}


def trained(probe, iterations=100, **overrides):
    """(config, spec, RunState, metrics of the last fifth) of two seeds on a probe."""
    environment = registry.environment(f"probe/{probe}")[0].make(probe)
    config = configs.traced(pqn.Config(**PROBE | overrides))
    loop, most = in_graph.InGraphLoop(pqn.AGENT, environment), iterations * 4 // 5
    state, _ = loop.advance(config, loop.init(config, rng.seed_keys(0, 2)), 0, iterations, most)
    state, metrics = loop.advance(config, state, most, iterations, iterations - most)
    return config, environment.spec, state, metrics


def values(config, spec, state, observation):
    """Q [seeds, A] of an episode's first observation."""
    inputs = Inputs.at_start(spec, jnp.full((1, 1), observation))
    memory = collect.first_memory(pqn.AGENT, config, spec, 1)
    return np.asarray(jax.vmap(lambda s: pqn.one_step(config, spec, s.params, memory, inputs)[0][0])(state.agent))


@pytest.mark.parametrize(
    ("probe", "overrides", "worth"),
    [
        ("discount", {}, {0.0: [0.9, 0.9], 1.0: [1, 1]}),
        ("policy", {}, {1.0: [-1, 1], -1.0: [1, -1]}),
        ("time-limit", {"time_limit_is_terminal": True}, {0.0: [1, 1]}),
        ("time-limit", {"learning_rate": 2e-2}, {0.0: [10, 10]}),
    ],
)
def test_action_values_of_probes(probe, overrides, worth):
    found = trained(probe, **overrides)[:3]
    for observation, expected in worth.items():
        np.testing.assert_allclose(values(*found, observation), [expected] * 2, atol=0.06 * max(expected) + 0.03)


def test_only_with_memory_is_the_first_observation_remembered():
    """probe/memory: 1 is always right, 0 is a guess. The last fifth explores in a twentieth of the steps."""
    sizes = {"rollout_length": 12, "recurrent_size": 16, "epsilon_final": 0.05}
    with_memory, without = (trained("memory", 150, recurrent=name, **sizes)[3] for name in ("gru", "none"))
    assert np.all(with_memory["episode_return"].mean() > 0.85)
    assert np.all(np.abs(without["episode_return"].mean()) < 0.3)


def test_epsilon_decays_over_its_share_of_the_run_and_is_another_in_evaluation():
    config = configs.traced(pqn.Config(epsilon_final=0.2, epsilon_decay_fraction=0.5, epsilon_evaluation=0.01))
    found = [pqn.epsilon(config, Clock(jnp.int32(i), jnp.int32(8)), True) for i in (0, 1, 2, 4, 7)]
    np.testing.assert_allclose(found, [1.0, 0.8, 0.6, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(pqn.epsilon(config, Clock(jnp.int32(0), jnp.int32(8)), False), 0.01)


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_both_loops_make_the_same_updates(recurrent):
    family, name = registry.environment(CARTPOLE)
    environment = family.make(name, family.Options(max_steps=20))
    config = configs.traced(
        pqn.Config(**SMALL, recurrent=recurrent, time_limit_is_terminal=False, optimizer_epsilon=1e-3)
    )
    keys = rng.seed_keys(0, 2)
    graph = in_graph.InGraphLoop(pqn.AGENT, environment, "vmap")
    expected, _ = graph.advance(config, graph.init(config, keys), 0, 4, 4)
    with HostedPool(environment, keys, num_envs=4) as pool:
        host = HostLoop(pqn.AGENT, pool, "vmap")
        found, _ = host.advance(config, host.init(config, keys), 0, 4, 4)
    for a, b in zip(jax.tree.leaves(found.agent), jax.tree.leaves(expected.agent), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


class Killed(Exception):
    pass


@pytest.mark.same_bits
@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_resume_is_exact_and_the_policy_is_loaded(recurrent, tmp_path, monkeypatch):
    config = SMALL | {"recurrent": recurrent}

    def run(folder, **how):
        return purerl.train(
            "pqn", CARTPOLE, seeds=2, steps=32 * 6, out=folder, config=config, quiet=True, log_every=1, **how
        )

    whole, advance = run(tmp_path / "whole"), Trainer._advance

    def stopping(trainer, state, stop):
        if trainer.iteration == 3:
            raise Killed
        return advance(trainer, state, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", stopping)
        with pytest.raises(Killed):
            run(tmp_path / "cut", checkpoint_seconds=0)
    resumed = run(tmp_path / "cut", resume=True)
    for a, b in zip(*(jax.tree.leaves(r.state.agent) for r in (whole, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)
    policy, spec = purerl.load_policy(tmp_path / "cut", seed=1), registry.env_spec(CARTPOLE)
    observation, state = jnp.array([0.1, -0.2, 0.03, 0.4]), jax.tree.map(lambda x: x[1], resumed.state.agent)
    made = configs.traced(make_plan("pqn", CARTPOLE, config=config).config)
    memory = collect.first_memory(pqn.AGENT, made, spec, 1)
    q, _ = pqn.one_step(made, spec, state.params, memory, Inputs.at_start(spec, observation[None]))
    played = policy(observation, jax.random.key(0)) if recurrent == "none" else None
    if played is None:
        played, _ = policy(observation, jax.random.key(0), policy.first_memory, is_first=True)
    assert int(played) == int(q[0].argmax())


def test_the_published_settings():
    """pqn_minatar.yaml, pqn_atari.yaml and pqn_cartpole.yaml of mttga/purejaxql."""
    minatar = make_plan("pqn", "gymnax/Breakout-MinAtar").config
    assert (minatar.num_envs, minatar.rollout_length, minatar.num_epochs, minatar.num_minibatches) == (128, 32, 2, 32)
    assert (minatar.learning_rate, minatar.trace_decay, minatar.max_grad_norm) == (5e-4, 0.65, 10)
    assert (minatar.epsilon_initial, minatar.epsilon_final, minatar.epsilon_decay_fraction) == (1, 0.05, 0.1)
    assert (minatar.normalization, minatar.anneal_learning_rate, minatar.observation_scale) == ("layer", True, 1 / 255)
    atari = make_plan("pqn", "atari/Pong", preset="atari")
    assert (atari.config.learning_rate, atari.config.epsilon_final, atari.config.reward_clip) == (2.5e-4, 0.001, 1)
    assert (atari.options.noop_max, atari.options.repeat_action_probability) == (30, 0)
    classic = make_plan("pqn", CARTPOLE).config
    assert (classic.num_envs, classic.rollout_length, classic.num_epochs, classic.num_minibatches) == (32, 64, 4, 16)
    assert (classic.reward_scale, classic.trace_decay, classic.epsilon_final) == (0.1, 0.95, 0.2)


def test_the_network_of_minatar_is_the_published_one(specs):
    """3 x 3 x 4 x 16 + 16, 1024 x 128 + 128, 128 x 3 + 3, and scales and offsets of 16 and 128."""
    spec = registry.env_spec("gymnax/Breakout-MinAtar")
    config = configs.traced(make_plan("pqn", spec.name).config)
    params = jax.eval_shape(lambda key: pqn.init(config, spec, key).params, jax.random.key(0))
    sizes = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
    assert sizes == 592 + 131_200 + 387 + 2 * (16 + 128)


def test_what_cannot_work_is_refused(specs):
    with pytest.raises(PurerlError, match="pqn needs discrete actions"):
        pqn.check(pqn.Config(), specs.continuous)
    with pytest.raises(PurerlError, match="num_minibatches = 3 does not divide num_envs = 4"):
        pqn.check(pqn.Config(**SMALL | {"num_minibatches": 3, "recurrent": "gru"}), specs.vector)
