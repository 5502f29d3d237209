"""TD3's whole updates against numpy in float64: all of algorithm 1, with gradients by central differences."""

from __future__ import annotations

from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purerl import configs, rng
from purerl.agents import td3
from purerl.types import Clock, EnvSpec

# Bounds that are neither symmetric nor equal, so that their middle and their range both count.
SPEC = EnvSpec("test/bounds", (3,), "float32", 0, action_shape=(2,), action_low=(-2.0, -1.0), action_high=(1.0, 4.0))
CENTRE, SCALE = np.array([-0.5, 1.5]), np.array([1.5, 2.5])
# Two gradient steps in each iteration, the second with actor and targets; the replay of three rollouts wraps. The noise
# on target actions is often beyond its clip and the bounds.
SETTINGS = {
    "num_envs": 2,
    "rollout_length": 4,
    "train_period": 4,
    "batch_size": 16,
    "replay_size": 24,
    "learning_starts": 8,
    "hidden": (5, 4),
    "activation": "tanh",
    "learning_rate": 0.01,
    "adam_epsilon": 1e-3,
    "discount": 0.9,
    "tau": 0.2,
    "target_noise": 0.8,
    "target_noise_clip": 0.5,
}


class Batch(NamedTuple):
    """B transitions of the replay, [B, ...]."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    next_observation: np.ndarray


def flat(tree):
    """Flax's parameters as {path: float64 array}."""
    return {k: np.asarray(v, np.float64) for k, v in flax.traverse_util.flatten_dict(tree["params"], sep="/").items()}


def dense(params, name, x):
    for i in range(3):
        x = (x if i == 0 else np.tanh(x)) @ params[f"{name}/dense{i}/kernel"] + params[f"{name}/dense{i}/bias"]
    return x


def mu(params, observation):
    return CENTRE + SCALE * np.tanh(dense(params, "actor", observation))


def q(params, i, observation, action):
    return dense(params, f"critic{i}", np.concatenate([observation, action], -1))[:, 0]


def differences(loss, params, step=1e-5):
    """The gradient of a loss by central differences."""
    gradient = {name: np.zeros_like(x) for name, x in params.items()}
    for name, x in params.items():
        for i in np.ndindex(x.shape):
            ends = []
            for sign in (1, -1):
                moved = x.copy()
                moved[i] += sign * step
                ends.append(loss(params | {name: moved}))
            gradient[name][i] = (ends[0] - ends[1]) / (2 * step)
    return gradient


class Adam:
    def __init__(self, params):
        self.mu, self.nu, self.count = (
            {k: np.zeros_like(v) for k, v in params.items()},
            {k: np.zeros_like(v) for k, v in params.items()},
            0,
        )

    def step(self, params, gradient):
        self.count, after = self.count + 1, {}
        for k, g in gradient.items():
            self.mu[k] = 0.9 * self.mu[k] + 0.1 * g
            self.nu[k] = 0.999 * self.nu[k] + 0.001 * g**2
            first, second = self.mu[k] / (1 - 0.9**self.count), self.nu[k] / (1 - 0.999**self.count)
            after[k] = params[k] - SETTINGS["learning_rate"] * first / (np.sqrt(second) + SETTINGS["adam_epsilon"])
        return after


class Learner:
    """TD3 as its algorithm 1 says; all rows are kept, the replay is the newest twelve of each environment."""

    def __init__(self, state):
        self.params = {name: flat(tree) for name, tree in state.params.items()}
        self.target = {name: flat(tree) for name, tree in state.target_params.items()}
        self.adam = {name: Adam(tree) for name, tree in self.params.items()}
        self.rows, self.metrics = [], {}

    def drawn(self, words):
        """The batch of random words: an environment, then a row whose successor is stored, the oldest first."""
        rows = self.rows[-12:][:-1]
        chosen = [(rows[int(b) % len(rows)], int(a) % 2) for a, b in zip(*words, strict=True)]
        return Batch(*(np.array([row[i][n] for row, n in chosen], np.float64) for i in range(5)))

    def step(self, words, noise, due):
        batch, target = self.drawn(words), self.target
        smoothing = np.clip(SETTINGS["target_noise"] * noise, -SETTINGS["target_noise_clip"], 0.5)
        action = mu(target["actor"], batch.next_observation) + SCALE * smoothing
        action = np.clip(action, SPEC.action_low, SPEC.action_high)
        smaller = np.minimum(*(q(target["critics"], i, batch.next_observation, action) for i in (1, 2)))
        y = batch.reward + SETTINGS["discount"] * (1 - batch.terminated) * smaller

        def critic_loss(params):
            return np.mean(sum((y - q(params, i, batch.observation, batch.action)) ** 2 for i in (1, 2)))

        def actor_loss(params):
            return -np.mean(q(self.params["critics"], 1, batch.observation, mu(params, batch.observation)))

        self.metrics.setdefault("critic_loss", []).append(critic_loss(self.params["critics"]))
        gradient = differences(critic_loss, self.params["critics"])
        self.params["critics"] = self.adam["critics"].step(self.params["critics"], gradient)
        if due:
            self.metrics["actor_loss"] = [actor_loss(self.params["actor"])]
            gradient = differences(actor_loss, self.params["actor"])
            self.params["actor"] = self.adam["actor"].step(self.params["actor"], gradient)
            for name, tree in self.params.items():
                for k, v in tree.items():
                    target[name][k] = SETTINGS["tau"] * v + (1 - SETTINGS["tau"]) * target[name][k]


def random_rollout(seed, make_rollout):
    """Four steps of two environments, with ends by the rules and by time limits."""
    random = np.random.default_rng(seed)
    shape = (4, 2)
    observation, final = (random.standard_normal((*shape, 3)).astype(np.float32) for _ in range(2))
    action = (CENTRE + SCALE * random.uniform(-1, 1, (*shape, 2))).astype(np.float32)
    reward, kind = random.standard_normal(shape).astype(np.float32), random.random(shape)
    fields = {"observation": observation, "action": action, "reward": reward, "final_observation": final}
    fields |= {"terminated": kind < 0.2, "truncated": kind > 0.6}
    return make_rollout(SPEC, *shape, **{name: jnp.asarray(x) for name, x in fields.items()})


@pytest.mark.parametrize("time_limit_is_terminal", [False, True])
def test_td3(time_limit_is_terminal, make_rollout):
    """Targets with the smaller critic and smoothed actions, time-outs, the delayed actor, Adam, and the targets."""
    config = configs.traced(td3.Config(**SETTINGS, time_limit_is_terminal=time_limit_is_terminal))
    state = td3.init(config, SPEC, jax.random.key(0))
    random = np.random.default_rng(0)
    state = state.replace(target_params=jax.tree.map(lambda x: x + random.normal(0, 0.3, x.shape), state.target_params))
    state = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, state)
    learner = Learner(state)
    with jax.default_matmul_precision("highest"):
        update = jax.jit(td3.update, static_argnums=1)
        for i in range(5):
            rollout, key = random_rollout(10 + i, make_rollout), jax.random.key(100 + i)
            state, metrics = update(config, SPEC, state, rollout, key, Clock(jnp.int32(i), jnp.int32(9)))
            ends = rollout.terminated | (rollout.truncated & time_limit_is_terminal)
            shown = rollout.observation, rollout.action, rollout.reward, ends, rollout.final_observation
            if time_limit_is_terminal:  # no value is looked at after an end
                shown = (*shown[:4], jnp.concatenate([rollout.observation[1:], rollout.last.observation[None]]))
            learner.rows += list(zip(*map(np.asarray, shown), strict=True))
            if i == 0:  # learning has not started
                assert float(metrics["critic_loss"].count) == 0
                continue
            if time_limit_is_terminal:
                # The last row of a rollout is followed by the first row of the next one.
                before = list(learner.rows[-5])
                before[4] = np.asarray(rollout.observation[0])
                learner.rows[-5] = tuple(before)
            learner.metrics = {}
            for u in range(2):
                of_step = rng.at(rng.stream(key, "replay"), u)
                words = np.asarray(rng.words(rng.stream(of_step, "sample"), (2, 16)))
                noise = np.asarray(jax.random.normal(rng.stream(of_step, "noise"), (16, 2)), np.float64)
                learner.step(words, noise, due=u == 1)
            for tree, expected in ((state.params, learner.params), (state.target_params, learner.target)):
                for name in ("actor", "critics"):
                    for path, x in flat(tree[name]).items():
                        np.testing.assert_allclose(
                            x, expected[name][path], atol=2e-5, err_msg=f"update {i}, {name} {path}"
                        )
            for name, values in learner.metrics.items():
                np.testing.assert_allclose(
                    metrics[name].mean(), np.mean(values), rtol=1e-4, atol=1e-5, err_msg=f"update {i}, {name}"
                )
    assert int(optax.tree_utils.tree_get(state.actor_optimizer, "count")) == 4
    assert int(optax.tree_utils.tree_get(state.critic_optimizer, "count")) == 8
