"""Whole updates of PQN against a reference in plain numpy (reference_pqn.py, beside this file).

As in test_whole_updates.py, every constant has an unusual value. Time-outs, terminations, lost lives, clipped rewards
and the end of RAdam's first phase all occur. `python tests/agents/mutations.py pqn` breaks the agent on purpose.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purerl import configs
from purerl.agents import pqn
from purerl.ops import minibatches
from purerl.types import Clock, EnvSpec, Inputs, Rollout


def _load(name: str) -> ModuleType:
    """A module beside this file (pytest's import mode importlib puts no folder on the path)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference_dqn, reference_pqn = _load("reference_dqn"), _load("reference_pqn")
Rows = reference_pqn.Rows

SPEC = EnvSpec("test/vector", (3,), "float32", 4)
ITERATIONS = 3
RELATIVE, ABSOLUTE = 1e-4, 3e-5

COMMON = {
    "num_envs": 4,
    "rollout_length": 6,
    "num_epochs": 2,
    "num_minibatches": 2,
    "network": "mlp",
    "hidden": (5, 4),
    "activation": "tanh",
    "normalization": "layer",
    "recurrent": "none",
    "recurrent_size": 3,
    "observation_scale": 0.7,
    "anneal_learning_rate": False,
    "time_limit_is_terminal": False,
    "learning_rate": 0.02,
    "optimizer_epsilon": 3e-2,
    "max_grad_norm": 0.4,
    "discount": 0.93,
    "trace_decay": 0.8,
    "reward_scale": 0.6,
    "reward_clip": 1.1,
}
CONFIGS = {
    "time-outs": {},
    "time-outs-are-ends": {"time_limit_is_terminal": True, "anneal_learning_rate": True},
    "unseen-ends": {"normalization": "none", "max_grad_norm": float("inf")},
    "lost-lives": {"reward_clip": float("inf"), "observation_scale": 1.0},
    "memory": {"recurrent": "gru", "hidden": (4,)},
}


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """GPUs round the factors of float32 matrix products, unless told not to."""
    with jax.default_matmul_precision("highest"):
        yield


def by_path(tree) -> dict[str, np.ndarray]:
    """Flax's parameters (or their moments) as the reference holds them."""
    return {path: np.asarray(x) for path, x in flax.traverse_util.flatten_dict(tree["params"], sep="/").items()}


def drawn(seed: int, s: SimpleNamespace, name: str) -> tuple[Rows, SimpleNamespace, Rows, np.ndarray | None]:
    """(rows, data, last row, memory) of a rollout, in numbers that float32 holds exactly."""
    random, shape = np.random.default_rng(seed), (s.rollout_length, s.num_envs)
    number = lambda *shape: random.standard_normal(shape).astype(np.float32).astype(np.float64)  # noqa: E731
    observation, reward, kind = number(*shape, 3), number(*shape), random.random(shape)
    action = random.integers(0, SPEC.num_actions, shape)
    data = SimpleNamespace(
        action=action,
        reward=reward,
        terminated=kind < 0.15,
        truncated=kind > 0.75,
        life_lost=(kind > 0.3) & (kind < 0.45) if name == "lost-lives" else None,
        final=None if name == "unseen-ends" else number(*shape, 3),
    )
    done = data.terminated | data.truncated
    after = Rows(observation, done, np.where(done, 0, action), np.where(done, 0.0, reward))
    first = Rows(number(s.num_envs, 3), np.arange(s.num_envs) == 0, *(np.zeros(s.num_envs, x) for x in (int, float)))
    joined = (np.concatenate([a[None], b[:-1]]) for a, b in zip(first, after, strict=True))
    rows = Rows(observation, *list(joined)[1:])
    last = Rows(number(s.num_envs, 3), *(x[-1] for x in after[1:]))
    return rows, data, last, number(s.num_envs, s.recurrent_size) if s.recurrent == "gru" else None


def as_purerl(rows: Rows, data: SimpleNamespace, last: Rows, memory, value, last_memory) -> Rollout:
    """The same rollout as purerl's type; `value` is what acting stored."""
    float32 = lambda x: None if x is None else jnp.asarray(x, jnp.float32)  # noqa: E731
    of = lambda r: Inputs(float32(r[0]), jnp.asarray(r[1]), jnp.asarray(r[2], jnp.int32), float32(r[3]))  # noqa: E731
    return Rollout(
        observation=float32(rows.observation),
        action=jnp.asarray(data.action, jnp.int32),
        reward=float32(data.reward),
        terminated=jnp.asarray(data.terminated),
        truncated=jnp.asarray(data.truncated),
        final_observation=float32(data.final),
        extras=float32(value),
        first=of(rows.take(0)),
        last=of(last),
        memory=() if memory is None else float32(memory),
        last_memory=() if memory is None else float32(last_memory),
        life_lost=None if data.life_lost is None else jnp.asarray(data.life_lost),
    )


def assert_close(actual: dict, expected: dict, what: str) -> None:
    assert actual.keys() == expected.keys(), what
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=RELATIVE, atol=ABSOLUTE, err_msg=f"{what}: {name}")


@pytest.mark.parametrize("name", CONFIGS)
def test_pqn(name: str) -> None:
    """Three updates of four steps each; what acting says of each row's value is the reference's, too."""
    settings = COMMON | CONFIGS[name]
    config, s = configs.traced(pqn.Config(**settings)), SimpleNamespace(**settings, num_actions=SPEC.num_actions)
    state = pqn.init(config, SPEC, jax.random.key(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * random.standard_normal(x.shape).astype(np.float32), state.params)
    state = state.replace(params=params)
    learner = reference_pqn.Learner(s, by_path(params), reference_dqn.central_differences)
    update, act = jax.jit(pqn.update, static_argnums=1), jax.jit(pqn.act, static_argnums=(1, 7))
    for i in range(ITERATIONS):
        rows, data, last, memory = drawn(10 + i, s, name)
        value, memories = learner.values(rows, memory)
        rollout = as_purerl(rows, data, last, memory, value, None if memories is None else memories[-1])
        key, clock = jax.random.key(i), Clock(jnp.int32(i), jnp.int32(ITERATIONS))
        said = act(config, SPEC, state, rollout.memory, rollout.first, jax.random.split(key, s.num_envs), clock, True)
        first = Rows(*(np.asarray(x)[None] for x in jax.tree.leaves(rollout.first)))
        np.testing.assert_allclose(
            said[2], learner.values(first, memory)[0][0], 1e-4, 1e-4, err_msg=f"update {i}, acting"
        )
        items = s.num_envs if memory is not None else s.num_envs * s.rollout_length
        permutations = [np.asarray(minibatches.permutation(k, items)) for k in jax.random.split(key, s.num_epochs)]
        learner.update(rows, data, last, memory, permutations, i / ITERATIONS)
        state, metrics = update(config, SPEC, state, rollout, key, clock)
        assert_close(by_path(state.params), learner.params, f"update {i}, parameters")
        for moment in ("mu", "nu"):
            found = by_path(optax.tree_utils.tree_get(state.optimizer, moment))
            assert_close(found, getattr(learner, moment), f"update {i}, RAdam's {moment}")
        means = {name: float(m.mean()) for name, m in metrics.items()}
        assert_close(means, {name: np.mean(x) for name, x in learner.metrics.items()}, f"update {i}, metrics")
    assert learner.count == 12  # RAdam's second phase began with the sixth
