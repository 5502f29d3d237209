"""Whole updates of PPO and PPG against a reference in plain numpy (reference.py, beside this file).

Every coefficient has an unusual value, no two that could be confused are equal, and the step sizes are so large that
ratios and values leave their clip ranges: a term that is dropped, weighed wrongly or of the wrong sign changes the
numbers. `python tests/agents/mutations.py` shows that by breaking the agents on purpose.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purerl import configs, rng
from purerl.agents import ppg, ppo
from purerl.ops import minibatches
from purerl.ops.advantages import ActorCriticExtras
from purerl.types import Clock, EnvSpec, Inputs, Rollout


def _load(name: str) -> ModuleType:
    """A module beside this file (pytest's import mode importlib puts no folder on the path)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load("reference")

SPEC = EnvSpec("test/vector", (3,), "float32", 4)
ITERATIONS = 4
SEED = 180  # of the rollouts, but for the configs in OTHER_SEEDS
OTHER_SEEDS = {"shared-clip-unequal": 366}
# Measured on a CPU: float32 and float64 differ by up to 8.4e-6 in parameters, 1.6e-6 in first moments, 2.2e-8 in second
# moments and 1.6e-6 in metrics (8.4e-6 in the reward statistics' discounted returns, which are up to 22).
RELATIVE, ABSOLUTE, ABSOLUTE_SECOND_MOMENT = 1e-4, 3e-5, 2e-7
# No ratio or value may come nearer to the end of its clip range, where gradients jump, than this: rounding could decide
# on which side it lies. A test that meets one asks for another seed; of a hundred, 180 stays farthest away (2.7e-4).
NEAREST_KINK = 1e-4

COMMON = {
    "num_envs": 6,
    "rollout_length": 7,
    "num_minibatches": 3,
    "network": "mlp",
    "hidden": (5,),
    "activation": "tanh",
    "learning_rate": 0.03,
    "adam_epsilon": 1e-3,
    "max_grad_norm": 0.6,
    "discount": 0.93,
    "gae_lambda": 0.85,
    "clip": 0.17,
    "entropy_coefficient": 0.07,
    "value_coefficient": 0.65,
    "reward_discount": 0.8,
    "reward_clip": 0.9,
    "anneal_learning_rate": False,
    "time_limit_is_terminal": True,
}
PPO = {"num_epochs": 3, "value_clip": 0.29}
PPG = {
    "policy_iterations": 2,
    "auxiliary_epochs": 2,
    "auxiliary_minibatches": 3,
    "policy_epochs": 2,
    "value_epochs": 2,
    "auxiliary_learning_rate": 0.02,
    "scale_rewards": "per-rollout",
    "normalize_advantages": "rollout",
    "kl_coefficient": 1.7,
    "clone_coefficient": 2.5,
}
UNEQUAL = {"policy_epochs": 2, "value_epochs": 3}

PPO_CONFIGS = {
    "published": {
        "shuffle": "transitions",
        "normalize_advantages": "minibatch",
        "clip_values": True,
        "scale_rewards": "per-step",
        "share_torso": True,
    },
    "other-switches": {
        "shuffle": "environments",
        "normalize_advantages": "rollout",
        "clip_values": False,
        "scale_rewards": "per-rollout",
        "share_torso": False,
        "time_limit_is_terminal": False,
        "anneal_learning_rate": True,
    },
    "raw": {
        "shuffle": "transitions",
        "normalize_advantages": "none",
        "clip_values": True,
        "scale_rewards": "none",
        "share_torso": False,
        "max_grad_norm": float("inf"),
    },
}
PPG_CONFIGS = {
    "dual-clip": {"architecture": "dual", "objective": "clip"},
    "dual-kl-unequal": {"architecture": "dual", "objective": "kl", "max_grad_norm": float("inf"), **UNEQUAL},
    "detach-kl": {"architecture": "detach", "objective": "kl", "time_limit_is_terminal": False},
    "detach-clip-unequal": {"architecture": "detach", "objective": "clip", "anneal_learning_rate": True, **UNEQUAL},
    "shared-clip-unequal": {"architecture": "shared", "objective": "clip", **UNEQUAL},
}


@pytest.fixture(autouse=True)
def exact_products():
    """GPUs round the factors of float32 matrix products, unless told not to."""
    with jax.default_matmul_precision("highest"):
        yield


def agent_config(agent: ModuleType, settings: dict):
    """The agent's config of settings by the names that the reference uses."""
    return configs.traced(agent.Config(**settings))


def by_path(tree) -> dict[str, np.ndarray]:
    """Flax's parameters (or their gradients or moments) as the reference holds them."""
    return {path: np.asarray(x) for path, x in flax.traverse_util.flatten_dict(tree["params"], sep="/").items()}


def initial_state(agent: ModuleType, config, seed: int):
    """The agent's first state, its parameters moved at random: at the start biases are 0 and policies uniform."""
    state = agent.init(config, SPEC, jax.random.key(seed))
    random = np.random.default_rng(seed)
    moved = jax.tree.map(lambda x: x + 0.5 * random.standard_normal(x.shape).astype(np.float32), state.params)
    return state.replace(params=moved)


def random_rollout(learner, seed: int):
    """A rollout with ends and time-outs. Its policy and its values are a little off the learner's, as if older."""
    random = np.random.default_rng(seed)
    shape = (learner.s.rollout_length, learner.s.num_envs)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape)

    observation, action, kind = normal(*shape, 3), random.integers(0, SPEC.num_actions, shape), random.random(shape)
    log_prob = reference.log_prob_of(learner.network.forward(learner.params, "policy", observation), action)
    rollout = reference.Rollout(
        observation=observation,
        action=action,
        reward=2 * normal(*shape),
        terminated=kind < 0.1,
        truncated=kind > 0.85,
        final_observation=normal(*shape, 3),
        log_prob=log_prob + 0.1 * normal(*shape),
        value=learner.values(observation) + 0.1 * normal(*shape),
        last_observation=normal(shape[1], 3),
    )
    # Numbers that float32 holds exactly, so that both learners see the same.
    return rollout._make(x.astype(np.float32).astype(np.float64) if x.dtype == np.float64 else x for x in rollout)


def as_purerl(rollout) -> Rollout:
    """The same rollout as purerl's type."""
    return Rollout(
        observation=jnp.asarray(rollout.observation),
        action=jnp.asarray(rollout.action, jnp.int32),
        reward=jnp.asarray(rollout.reward),
        terminated=jnp.asarray(rollout.terminated),
        truncated=jnp.asarray(rollout.truncated),
        final_observation=jnp.asarray(rollout.final_observation),
        extras=ActorCriticExtras(jnp.asarray(rollout.log_prob), jnp.asarray(rollout.value)),
        first=Inputs.at_start(SPEC, jnp.asarray(rollout.observation[0])),
        last=Inputs.at_start(SPEC, jnp.asarray(rollout.last_observation)),
    )


def permutations(key, num_items: int, num_epochs: int) -> np.ndarray:
    """The orders [epochs, items] in which an agent will draw its minibatches: the one thing taken from purerl."""
    return np.stack([minibatches.permutation(k, num_items) for k in jax.random.split(key, num_epochs)])


def assert_close(actual: dict, expected: dict, what: str, absolute: float = ABSOLUTE) -> None:
    """Fails with the array that differs most, if any differs."""
    assert actual.keys() == expected.keys(), what

    def excess(name: str) -> float:
        beyond = np.abs(actual[name] - expected[name]) - RELATIVE * np.abs(expected[name]) - absolute
        return float(np.nan_to_num(beyond, nan=np.inf).max())

    worst = max(expected, key=excess)
    message = f"{what}: {worst}"
    np.testing.assert_allclose(actual[worst], expected[worst], rtol=RELATIVE, atol=absolute, err_msg=message)


def assert_same_adam(state, adam, what: str) -> None:
    """Steps and moments of an optax state and of the reference's Adam."""
    assert int(optax.tree_utils.tree_get(state, "count")) == adam.count, what
    for name, absolute in (("mu", ABSOLUTE), ("nu", ABSOLUTE_SECOND_MOMENT)):
        moment = by_path(optax.tree_utils.tree_get(state, name))
        assert_close(moment, getattr(adam, name), f"{what} {name}", absolute)


def assert_same_update(state, metrics, learner, what: str) -> None:
    """Parameters, reward statistics and metrics after an update."""
    assert_close(by_path(state.params), learner.params, f"{what}, parameters")
    names = ("discounted_return", "mean", "variance", "count")
    statistics = [{n: getattr(x, n) for n in names} for x in (state.reward_normalizer, learner.rewards)]
    assert_close(*statistics, f"{what}, reward statistics")
    counted = {name: float(m.total / m.count) for name, m in metrics.items() if m.count > 0}
    assert_close(counted, {name: np.mean(x) for name, x in learner.metrics.items()}, f"{what}, metrics")


@pytest.mark.parametrize("name", PPO_CONFIGS)
def test_ppo(name):
    settings = COMMON | PPO | PPO_CONFIGS[name]
    config, s = agent_config(ppo, settings), SimpleNamespace(**settings)
    state = initial_state(ppo, config, seed=1)
    learner = reference.PPO(s, by_path(state.params))
    update = jax.jit(ppo.AGENT.update, static_argnums=1)
    num_items = s.num_envs * (s.rollout_length if s.shuffle == "transitions" else 1)
    for i in range(ITERATIONS):
        rollout, key = random_rollout(learner, seed=SEED + i), jax.random.key(20 + i)
        clock = Clock(jnp.int32(i), jnp.int32(ITERATIONS))
        state, metrics = update(config, SPEC, state, as_purerl(rollout), key, clock)
        learner.update(rollout, permutations(key, num_items, s.num_epochs), i, ITERATIONS)
        assert learner.nearest_kink > NEAREST_KINK, "choose other seeds"
        assert_same_update(state, metrics, learner, f"update {i}")
        assert_same_adam(state.optimizer, learner.adam, f"update {i}, Adam")


@pytest.mark.parametrize("name", PPG_CONFIGS)
def test_ppg(name):
    """Two cycles of two policy phases and an auxiliary phase: the second one overwrites the buffer."""
    settings = COMMON | PPG | PPG_CONFIGS[name]
    config, s = agent_config(ppg, settings), SimpleNamespace(**settings)
    state = initial_state(ppg, config, seed=1)
    learner = reference.PPG(s, by_path(state.params))
    update = jax.jit(ppg.AGENT.update, static_argnums=1)
    sizes = {
        "policy": (s.num_envs, s.policy_epochs),
        "value": (s.num_envs, s.value_epochs),
        "auxiliary": (s.num_envs * s.policy_iterations, s.auxiliary_epochs),
    }
    for i in range(ITERATIONS):
        rollout, key = random_rollout(learner, seed=OTHER_SEEDS.get(name, SEED) + i), jax.random.key(20 + i)
        clock = Clock(jnp.int32(i), jnp.int32(ITERATIONS))
        state, metrics = update(config, SPEC, state, as_purerl(rollout), key, clock)
        orders = {stream: permutations(rng.stream(key, stream), *size) for stream, size in sizes.items()}
        learner.update(rollout, orders, i, ITERATIONS)
        assert learner.nearest_kink > NEAREST_KINK, "choose other seeds"
        assert_same_update(state, metrics, learner, f"update {i}")
        assert_same_adam(state.policy_optimizer, learner.policy_adam, f"update {i}, Adam of the policy phase")
        assert_same_adam(state.auxiliary_optimizer, learner.auxiliary_adam, f"update {i}, Adam of the auxiliary phase")
        if s.policy_epochs != s.value_epochs:
            assert_same_adam(state.value_optimizer, learner.value_adam, f"update {i}, Adam of the value passes")
