"""Whole updates of DQN and Rainbow against a reference in plain numpy (reference_dqn.py, beside this file).

As in test_whole_updates.py, every constant has an unusual value and time-outs, terminations, clipped rewards, the wrap
of the replay and copies of the target in the middle of an iteration all occur: a part that is dropped, of the wrong
network or in the wrong order changes the numbers. `python tests/agents/mutations.py` shows that.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purerl import configs, rng
from purerl.agents import dqn, rainbow
from purerl.types import Clock, EnvSpec, Inputs, Rollout


def _load(name: str) -> ModuleType:
    """A module beside this file (pytest's import mode importlib puts no folder on the path)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, reference_dqn = _load("reference"), _load("reference_dqn")

SPEC = EnvSpec("test/vector", (3,), "float32", 4)
ITERATIONS = 5
RELATIVE, ABSOLUTE, ABSOLUTE_SECOND_MOMENT = 1e-4, 3e-5, 2e-7
NEAREST_KINK = 1e-5

COMMON = {
    "num_envs": 3,
    "rollout_length": 4,
    "train_period": 6,
    "batch_size": 8,
    "replay_size": 36,
    "learning_starts": 12,
    "target_period": 18,
    "num_steps": 1,
    "double": False,
    "network": "mlp",
    "hidden": (5,),
    "activation": "tanh",
    "learning_rate": 0.03,
    "optimizer_epsilon": 1e-3,
    "max_grad_norm": float("inf"),
    "proximal": "pull",
    "proximal_coefficient": float("inf"),
    "penalty_coefficient": 0.0,
    "discount": 0.93,
    "reward_clip": 1.1,
    "time_limit_is_terminal": False,
}
# What only Rainbow's config has: DQN is Rainbow without any of it.
PLAIN = {"atoms": 0, "dueling": False, "noisy": False, "prioritized": False, "support_max": 1.7, "uniform_mix": 0.0}
PLAIN |= {"quantiles": 0, "munchausen": False, "separate_streams": False}
PRIORITIZED = {
    "prioritized": True,
    "priority_exponent": 0.7,
    "priority_clip": float("inf"),
    "importance_exponent": 0.35,
    "importance_exponent_final": 0.95,
}
MUNCHAUSEN = {"munchausen": True, "munchausen_scale": 0.8, "munchausen_temperature": 0.4, "munchausen_clip": -0.7}
QUANTILES = {"quantiles": 3, "target_quantiles": 4, "acting_quantiles": 2}
PULL, CLIP = {"proximal_coefficient": 0.2}, {"max_grad_norm": 0.4}

DQN_CONFIGS = {
    "squared": {"loss": "squared"},
    "double-huber": {"loss": "huber", "double": True, "num_steps": 3},
    "pro-clip": {"loss": "squared", "num_steps": 2, "time_limit_is_terminal": True} | PULL | CLIP,
    "penalty": {"loss": "huber", "proximal": "penalty", "penalty_coefficient": 0.3, "train_period": 3},
}
RAINBOW_CONFIGS = {
    "uniform-double": PLAIN | {"loss": "squared", "double": True},
    "prioritized": PLAIN | PRIORITIZED | {"loss": "squared", "num_steps": 3},
    "mixed-priority-clip": PLAIN | PRIORITIZED | {"loss": "huber", "uniform_mix": 0.4, "priority_clip": 0.2},
    "c51-dueling": PLAIN | {"atoms": 5, "dueling": True, "num_steps": 2, "time_limit_is_terminal": True},
    "noisy-double": PLAIN | {"loss": "squared", "noisy": True, "noisy_sigma": 0.6, "double": True},
    "munchausen": PLAIN | MUNCHAUSEN | {"loss": "huber", "num_steps": 2},
    "quantiles-double": PLAIN | PRIORITIZED | QUANTILES | {"double": True},
    "beyond-the-rainbow": PLAIN
    | PRIORITIZED
    | MUNCHAUSEN
    | QUANTILES
    | PULL
    | CLIP
    | {"dueling": True, "separate_streams": True, "noisy": True, "noisy_sigma": 0.6, "num_steps": 3},
    "everything": PLAIN
    | PRIORITIZED
    | PULL
    | CLIP
    | {"atoms": 5, "dueling": True, "double": True, "noisy": True, "noisy_sigma": 0.6, "uniform_mix": 0.3}
    | {"num_steps": 2, "priority_clip": 1.2},
}
SEED = 1
OTHER_SEEDS: dict[str, int] = {}


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """GPUs round the factors of float32 matrix products, unless told not to."""
    with jax.default_matmul_precision("highest"):
        yield


class RandomRollout(NamedTuple):
    """T steps of N environments, [T, N, ...]."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @classmethod
    def drawn(cls, seed: int, num_steps: int, num_envs: int) -> RandomRollout:
        """Numbers that float32 holds exactly, so that both learners see the same."""
        random, shape = np.random.default_rng(seed), (num_steps, num_envs)
        observation, reward = (random.standard_normal(s).astype(np.float32) for s in ((*shape, 3), shape))
        action, kind = random.integers(0, SPEC.num_actions, shape), random.random(shape)
        return cls(observation.astype(np.float64), action, reward.astype(np.float64), kind < 0.12, kind > 0.75)

    def as_purerl(self) -> Rollout:
        """The same rollout as purerl's type."""
        observation = jnp.asarray(self.observation, jnp.float32)
        return Rollout(
            observation=observation,
            action=jnp.asarray(self.action, jnp.int32),
            reward=jnp.asarray(self.reward, jnp.float32),
            terminated=jnp.asarray(self.terminated),
            truncated=jnp.asarray(self.truncated),
            final_observation=None,
            extras=None,
            first=Inputs.at_start(SPEC, observation[0]),
            last=Inputs.at_start(SPEC, observation[0]),
        )


def by_path(tree) -> dict[str, np.ndarray]:
    """Flax's parameters (or their moments) as the reference holds them."""
    return {path: np.asarray(x) for path, x in flax.traverse_util.flatten_dict(tree["params"], sep="/").items()}


def noise_of(key, config, sizes: list[tuple[int, int]]) -> dict[int, np.ndarray] | None:
    """The standard normal numbers of each noisy layer of (inputs, outputs)."""
    if not getattr(config, "noisy", False):
        return None
    return {i: np.asarray(jax.random.normal(jax.random.fold_in(key, i), (sum(s),))) for i, s in enumerate(sizes)}


def fractions_of(key, config) -> dict[str, np.ndarray] | None:
    """The fractions of the quantiles of each pass, [B, N]."""
    if not config.quantiles:
        return None
    counts = {"online": config.quantiles, "policy": config.acting_quantiles}
    counts["target"] = config.acting_quantiles + config.target_quantiles
    shapes = {name: (config.batch_size, count) for name, count in counts.items()}
    return {
        name: np.asarray(rng.unit(rng.words(rng.stream(key, f"{name} quantiles"), shape)), np.float64)
        for name, shape in shapes.items()
    }


def randoms_of(key, config) -> list:
    """The random numbers of an iteration's gradient steps: the one thing that is taken from purerl."""
    (width,), actions, found = config.hidden, SPEC.num_actions, []
    is_rainbow = isinstance(config, rainbow.Config)
    atoms = max(1, config.atoms) if is_rainbow else 1
    sizes = [(SPEC.observation_shape[0], width), (width, actions * atoms), (width, atoms)]
    sizes = [*sizes, sizes[0]] if is_rainbow and config.dueling else sizes[:2]
    for u in range(config.num_envs * config.rollout_length // config.train_period):
        of_step = rng.at(rng.stream(key, "replay"), u)
        if not is_rainbow:
            found.append(reference_dqn.Random(np.asarray(rng.words(of_step, (2, config.batch_size)))))
            continue
        words = np.asarray(rng.words(rng.stream(of_step, "sample"), (4, config.batch_size)))
        names, noise = ("online", "target", "selector"), rng.stream(of_step, "noise")
        passes = {name: noise_of(rng.stream(noise, name), config, sizes) for name in names}
        found.append(reference_dqn.Random(words, **passes, taus=fractions_of(noise, config)))
    return found


def assert_close(actual: dict, expected: dict, what: str, absolute: float = ABSOLUTE) -> None:
    """Fails with the array that differs most, if any differs."""
    assert actual.keys() == expected.keys(), what

    def excess(name: str) -> float:
        beyond = np.abs(actual[name] - expected[name]) - RELATIVE * np.abs(expected[name]) - absolute
        return float(np.nan_to_num(beyond, nan=np.inf).max())

    worst = max(expected, key=excess)
    np.testing.assert_allclose(actual[worst], expected[worst], rtol=RELATIVE, atol=absolute, err_msg=f"{what}: {worst}")


def assert_same(state, metrics, learner, what: str) -> None:
    """Both networks, Adam's moments, the priorities and the metrics after an update."""
    assert_close(by_path(state.params), learner.params, f"{what}, parameters")
    assert_close(by_path(state.target_params), learner.target, f"{what}, target parameters")
    assert int(optax.tree_utils.tree_get(state.optimizer, "count")) == learner.adam.count, f"{what}, Adam's steps"
    for name, absolute in (("mu", ABSOLUTE), ("nu", ABSOLUTE_SECOND_MOMENT)):
        moment = by_path(optax.tree_utils.tree_get(state.optimizer, name))
        assert_close(moment, getattr(learner.adam, name), f"{what}, Adam's {name}", absolute)
    if learner.s.prioritized:
        found = {"items": np.asarray(state.priorities.items), "largest": np.asarray(state.priorities.largest)}
        expected = {"items": learner.priorities.reshape(-1), "largest": np.asarray(learner.largest)}
        assert_close(found, expected, f"{what}, priorities")
    counted = {name: float(m.total / m.count) for name, m in metrics.items() if m.count > 0}
    expected = {name: np.mean(x) for name, x in learner.metrics.items() if x}
    assert counted.keys() == expected.keys(), what
    if expected:  # none before learning starts
        assert_close(counted, expected, f"{what}, metrics")


def compare(agent: ModuleType, name: str, settings: dict) -> None:
    """Five updates: the first one only stores, then two steps each (copies after steps 1 and 4 and ...); the replay of
    three rollouts wraps.
    """
    config = configs.traced(agent.Config(**settings))
    s = SimpleNamespace(**(PLAIN | settings), loss_is_of_each=agent is rainbow)
    seed = OTHER_SEEDS.get(name, SEED)
    state = agent.init(config, SPEC, jax.random.key(seed))
    random = np.random.default_rng(seed)
    # Two networks that disagree on the best actions, though soon after a copy they would not.
    params, target_params = (
        jax.tree.map(lambda x: x + 0.5 * random.standard_normal(x.shape).astype(np.float32), state.params)
        for _ in range(2)
    )
    state = state.replace(params=params, target_params=target_params)
    learner = reference_dqn.Learner(s, by_path(params), by_path(target_params), reference)
    update = jax.jit(agent.AGENT.update, static_argnums=1)
    for i in range(ITERATIONS):
        rollout = RandomRollout.drawn(100 * seed + i, s.rollout_length, s.num_envs)
        key, clock = jax.random.key(1000 * seed + i), Clock(jnp.int32(i), jnp.int32(ITERATIONS))
        state, metrics = update(config, SPEC, state, rollout.as_purerl(), key, clock)
        learner.update(rollout, randoms_of(key, config), i, ITERATIONS)
        assert learner.nearest_kink > NEAREST_KINK, f"choose other seeds: {learner.nearest_kink}"
        assert_same(state, metrics, learner, f"update {i}")


@pytest.mark.parametrize("name", DQN_CONFIGS)
def test_dqn(name: str) -> None:
    compare(dqn, name, COMMON | DQN_CONFIGS[name])


@pytest.mark.parametrize("name", RAINBOW_CONFIGS)
def test_rainbow(name: str) -> None:
    compare(rainbow, name, COMMON | RAINBOW_CONFIGS[name])
