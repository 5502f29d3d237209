"""PQN once more, in plain numpy and float64, to compare whole updates with something independent.

Written to be read beside the paper (Gallici et al. 2024, arXiv 2407.04811), as reference_dqn.py is. Nothing here
calls purerl or JAX. Gradients are central differences of the loss. The returns are the forward view: the mixture of all
n-step returns. Permutations are given.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Rows(NamedTuple):
    """What the network sees, [T, N, ...]."""

    observation: np.ndarray
    is_first: np.ndarray
    last_action: np.ndarray
    last_reward: np.ndarray

    def take(self, index: object) -> Rows:
        return Rows(*(x[index] for x in self))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def forward_view(
    reward: np.ndarray, value: np.ndarray, terminated: np.ndarray, done: np.ndarray, gamma: float, decay: float
) -> np.ndarray:
    """Lambda-returns [T, N] by their definition: (1 - lambda) sum lambda^(n-1) G^(n), and the longest for the rest.

    `value` [T, N] is that of the state reached.
    """
    found = np.zeros(reward.shape)
    for t, n in np.ndindex(reward.shape):
        total, weight, discounted = 0.0, 1.0, 0.0
        for k in range(t, len(reward)):
            discounted += gamma ** (k - t) * reward[k, n]
            bootstrap = 0.0 if terminated[k, n] else gamma ** (k - t + 1) * value[k, n]
            last = done[k, n] or k == len(reward) - 1
            total += weight * (1 if last else 1 - decay) * (discounted + bootstrap)
            weight *= decay
            if last:
                break
        found[t, n] = total
    return found


class Learner:
    """PQN with or without a GRU.

    Attributes:
      params: its parameters now, {path: array}.
      count, mu, nu: RAdam's state.
      metrics: name -> numbers of the last update, whose mean is the metric.
    """

    def __init__(self, s: SimpleNamespace, params: Arrays, central_differences):
        self.s, self.central_differences = s, central_differences
        self.params = {name: value.astype(np.float64) for name, value in params.items()}
        self.count = 0
        self.mu = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.nu = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.metrics: dict[str, list] = {}

    # --- the network ---

    def forward(self, params: Arrays, rows: Rows, memory: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Q [T, N, A] and the memories [T, N, H] after each row."""
        s, x = self.s, rows.observation * self.s.observation_scale
        for i in range(len(s.hidden)):
            x = x @ params[f"torso/dense{i}/kernel"] + params[f"torso/dense{i}/bias"]
            if s.normalization == "layer":
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
                x = x * params[f"torso/normalization{i}/scale"] + params[f"torso/normalization{i}/bias"]
            x = np.tanh(x)
        memories = None
        if s.recurrent == "gru":
            action = np.eye(s.num_actions)[rows.last_action] * ~rows.is_first[..., None]
            x = np.concatenate([x, action, rows.last_reward[..., None]], axis=-1)
            memories = []
            for t in range(len(x)):
                memory = self.gru(params, np.where(rows.is_first[t][:, None], 0.0, memory), x[t])
                memories.append(memory)
            x = memories = np.stack(memories)
        return x @ params["value/kernel"] + params["value/bias"], memories

    def gru(self, params: Arrays, h: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Cho et al. 2014, as flax has it: the reset gate inside of the candidate."""

        def dense(name: str, y: np.ndarray) -> np.ndarray:
            at = f"core/steps/cell/{name}"
            return y @ params[f"{at}/kernel"] + params.get(f"{at}/bias", 0.0)

        r, z = (sigmoid(dense(f"i{gate}", x) + dense(f"h{gate}", h)) for gate in "rz")
        return (1 - z) * np.tanh(dense("in", x) + r * dense("hn", h)) + z * h

    def values(self, rows: Rows, memory: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """max_a Q [T, N], and the memories."""
        q, memories = self.forward(self.params, rows, memory)
        return q.max(-1), memories

    # --- learning ---

    def targets(self, rows: Rows, data: SimpleNamespace, last: Rows, memory: np.ndarray | None) -> np.ndarray:
        """`data` has reward, terminated, truncated, life_lost (or None) and final (observations or None)."""
        s = self.s
        value, memories = self.values(rows, memory)
        last_value, _ = self.values(last.take(None), None if memories is None else memories[-1])
        reached = np.concatenate([value[1:], last_value])
        terminated = data.terminated | (data.truncated if s.time_limit_is_terminal or data.final is None else False)
        done = data.terminated | data.truncated
        if data.life_lost is not None:
            terminated, done = terminated | data.life_lost, done | data.life_lost
        for t, n in np.argwhere(data.truncated & ~terminated):
            # The episode's last observation, seen after the memory of row t.
            row = Rows(data.final[t, n], np.bool_(False), data.action[t, n], data.reward[t, n])
            row = Rows(*(np.asarray(x)[None, None] for x in row))
            reached[t, n] = self.values(row, None if memories is None else memories[t, n][None])[0].item()
        reward = s.reward_scale * np.clip(data.reward, -s.reward_clip, s.reward_clip)
        return forward_view(reward, reached, terminated, done, s.discount, s.trace_decay)

    def update(
        self, rows: Rows, data: SimpleNamespace, last: Rows, memory: np.ndarray | None, permutations, progress: float
    ) -> None:
        """Algorithm 1 after the rollout: returns once, then epochs of minibatches."""
        s, target = self.s, self.targets(rows, data, last, memory)
        self.metrics = {"q_target": target, "loss": [], "q": []}
        rate = s.learning_rate * ((1 - progress) if s.anneal_learning_rate else 1)
        for permutation in permutations:
            for indices in permutation.reshape(s.num_minibatches, -1):
                if s.recurrent == "gru":
                    where = (slice(None), indices)
                    chosen = rows.take(where), data.action[where], target[where], memory[indices]
                else:
                    flat = lambda x, indices=indices: x.reshape(-1, *x.shape[2:])[indices][None]  # noqa: E731
                    chosen = Rows(*map(flat, rows)), flat(data.action), flat(target), None
                self.gradient_step(*chosen, rate)

    def gradient_step(self, rows: Rows, action: np.ndarray, target: np.ndarray, memory, rate: float) -> None:
        def q_of(params: Arrays) -> np.ndarray:
            q, _ = self.forward(params, rows, memory)
            return np.take_along_axis(q, action[..., None], -1)[..., 0]

        def loss(params: Arrays) -> float:
            return 0.5 * np.mean((q_of(params) - target) ** 2)

        self.metrics["loss"].append(loss(self.params))
        self.metrics["q"].append(q_of(self.params).mean())
        gradient = self.central_differences(loss, self.params)
        shrink = min(1.0, self.s.max_grad_norm / np.sqrt(sum((g**2).sum() for g in gradient.values())))
        self.radam({name: shrink * g for name, g in gradient.items()}, rate)

    def radam(self, gradient: Arrays, rate: float) -> None:
        """Liu et al. 2019 (arXiv 1908.03265), algorithm 2, rectified from rho >= 5 on."""
        self.count += 1
        t, limit = self.count, 2 / (1 - 0.999) - 1
        rho = limit - 2 * t * 0.999**t / (1 - 0.999**t)
        for name, g in gradient.items():
            self.mu[name] = 0.9 * self.mu[name] + 0.1 * g
            self.nu[name] = 0.999 * self.nu[name] + 0.001 * g**2
            step = self.mu[name] / (1 - 0.9**t)
            if rho >= 5:
                r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
                step = r * step / (np.sqrt(self.nu[name] / (1 - 0.999**t)) + self.s.optimizer_epsilon)
            self.params[name] = self.params[name] - rate * step
