"""DQN and Rainbow once more, in plain numpy and float64, to compare whole updates with something independent.

Written to be read beside the papers (DQN: Mnih et al. 2015; Rainbow: arXiv 1710.02298; the proximal pull: arXiv
2112.05848; quantiles: arXiv 1806.06923; Munchausen: arXiv 2007.14430), as reference.py is for PPO and PPG. Nothing here
calls purerl or JAX. Gradients are central differences of the loss, so no derivative is written by hand. All rows are
kept for ever, in the order of time: row t of environment n is item n L + t % L of a replay of L rows.

Random numbers are given: the words of each draw, the noise of each noisy layer, and the fractions of quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
# {number of a layer: its noise [inputs + outputs], standard normal}; None for none.
Noise = dict[int, np.ndarray] | None


class Batch(NamedTuple):
    """B transitions; `weight` is 0 for rows that cannot be learned from."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    next_observation: np.ndarray
    weight: np.ndarray


class Random(NamedTuple):
    """The random numbers of one gradient step: uint32 words [4, B] ([2, B] for DQN), and the noise of three passes."""

    words: np.ndarray
    online: Noise = None
    target: Noise = None
    selector: Noise = None
    taus: dict[str, np.ndarray] | None = None  # of the passes "online", "target" and "policy", [B, N]


def central_differences(loss: Callable[[Arrays], float], params: Arrays, step: float = 1e-5) -> Arrays:
    """The gradient of a loss, one parameter after the other."""
    gradient = {name: np.zeros_like(value) for name, value in params.items()}
    moved = {name: value.copy() for name, value in params.items()}
    for name, value in params.items():
        for i in np.ndindex(value.shape):
            moved[name][i] = value[i] + step
            above = loss(moved)
            moved[name][i] = value[i] - step
            gradient[name][i] = (above - loss(moved)) / (2 * step)
            moved[name][i] = value[i]
    return gradient


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def projected(positions: np.ndarray, mass: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Mass [K] at positions [K], on the atoms [K]: each share goes to the atoms below and above (arXiv 1707.06887,
    algorithm 1).
    """
    out, spacing = np.zeros(len(atoms)), atoms[1] - atoms[0]
    for position, share in zip(positions, mass, strict=True):
        b = (np.clip(position, atoms[0], atoms[-1]) - atoms[0]) / spacing
        below = min(int(np.floor(b)), len(atoms) - 2)
        out[below] += share * (below + 1 - b)
        out[below + 1] += share * (b - below)
    return out


class Learner:
    """DQN, or Rainbow with any of its parts.

    Attributes:
      params, target: the parameters of both networks now.
      priorities: [N, L], those of the items.
      largest: the largest priority ever set.
      metrics: name -> numbers of the last update, whose mean is the metric.
      nearest_kink: how near any choice (the best action, the drawn item) has come to being another one. A test compares
        float32 with float64: it needs this to be clearly more than their difference.
    """

    def __init__(self, s: SimpleNamespace, params: Arrays, target: Arrays, reference: ModuleType):
        """`s` has the fields of rainbow's config, `reference` is reference.py, whose Adam this is."""
        self.s = s
        self.params = {name: value.astype(np.float64) for name, value in params.items()}
        self.target = {name: value.astype(np.float64) for name, value in target.items()}
        self.adam = reference.Adam(self.params, SimpleNamespace(**vars(s), adam_epsilon=s.optimizer_epsilon))
        self.length = s.replay_size // s.num_envs
        self.observation, self.action, self.reward, self.terminated, self.done = [], [], [], [], []
        self.priorities, self.largest = np.zeros((s.num_envs, self.length)), 1.0
        self.metrics: dict[str, list] = {}
        self.nearest_kink = np.inf

    # --- the network ---

    def network(
        self, params: Arrays, observation: np.ndarray, noise: Noise, taus: np.ndarray | None = None
    ) -> np.ndarray:
        """Values [B, A], logits [B, A, K], or the quantiles [B, A, N] of taus [B, N]."""
        s = self.s

        def dense(x: np.ndarray, name: str, layer: int) -> np.ndarray:
            out = x @ params[f"{name}/kernel"] + params[f"{name}/bias"]
            if noise is None:
                return out
            shaped = np.sign(noise[layer]) * np.sqrt(np.abs(noise[layer]))
            into, out_of = shaped[: x.shape[-1]], shaped[x.shape[-1] :]
            kernel = params[f"{name}/kernel_sigma"] * np.outer(into, out_of)
            return out + x @ kernel + params[f"{name}/bias_sigma"] * out_of

        x, atoms = observation, max(1, s.atoms)
        if taus is not None:  # eq. 4 of IQN
            name = "quantile_embedding/dense"
            cosines = np.stack([np.cos(np.pi * i * taus) for i in range(64)], axis=-1)
            x = x[:, None] * np.maximum(cosines @ params[f"{name}/kernel"] + params[f"{name}/bias"], 0)
        if s.separate_streams:
            of_advantages, of_value = (np.tanh(dense(x, *of)) for of in (("advantage_hidden", 0), ("value_hidden", 3)))
        else:
            of_advantages = of_value = np.tanh(dense(x, "dense0", 0))
        out = dense(of_advantages, "advantage" if s.dueling else "value", 1)
        out = out.reshape(*out.shape[:-1], -1, atoms)
        if s.dueling:
            out = dense(of_value, "value", 2)[..., None, :] + out - out.mean(-2, keepdims=True)
        if taus is not None:
            return out[..., 0].swapaxes(1, 2)
        return out if s.atoms else out[..., 0]

    @property
    def atoms(self) -> np.ndarray:
        return np.linspace(-self.s.support_max, self.s.support_max, self.s.atoms)

    def values(self, out: np.ndarray) -> np.ndarray:
        if self.s.quantiles:
            return out.mean(-1)
        return softmax(out) @ self.atoms if self.s.atoms else out

    # --- the replay ---

    def store(self, rollout: NamedTuple) -> None:
        """Appends T rows. New items can be drawn when their windows are complete; they get the largest priority."""
        s = self.s
        before = self.drawable()
        ended = rollout.terminated | (rollout.truncated if s.time_limit_is_terminal else False)
        self.observation += list(rollout.observation)
        self.action += list(rollout.action)
        self.reward += list(rollout.reward)
        self.terminated += list(ended)
        self.done += list(ended | rollout.truncated)
        old, self.priorities = self.priorities, np.zeros_like(self.priorities)
        for t in self.drawable():
            for n in range(s.num_envs):
                learnable = self.terminated[t][n] or not self.done[t][n]
                kept = old[n, t % self.length] if t in before else self.largest
                self.priorities[n, t % self.length] = kept if learnable else 0.0

    def drawable(self) -> range:
        """The rows in the replay whose n-step windows are complete."""
        now = len(self.reward)
        return range(max(0, now - self.length), now - self.s.num_steps)

    def transition(self, t: int, n: int) -> tuple:
        """(observation, action, n-step return, discount, next observation, weight) of a row."""
        s, total = self.s, 0.0
        first = self.observation[t][n], self.action[t][n]
        for k in range(s.num_steps):
            if self.done[t + k][n] and not self.terminated[t + k][n]:
                # Where a time-out led is not stored: bootstrap from the row before it, if there is one.
                return (*first, total, s.discount**k, self.observation[t + k][n], float(k > 0))
            total += s.discount**k * np.clip(self.reward[t + k][n], -s.reward_clip, s.reward_clip)
            if self.terminated[t + k][n]:
                return (*first, total, 0.0, self.observation[t][n], 1.0)
        return (*first, total, s.discount**s.num_steps, self.observation[t + s.num_steps][n], 1.0)

    def draw(self, words: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
        """The (t, n) of B drawn rows, and their probabilities."""
        s, rows = self.s, self.drawable()
        unit = [(int(w) >> 8) / 2**24 for w in words[-2]]
        drawn = [(rows[int(b) % len(rows)], int(a) % s.num_envs) for a, b in zip(words[0], words[1], strict=True)]
        uniform = 1 / (len(rows) * s.num_envs)
        if not s.prioritized:
            return drawn, np.full(len(drawn), uniform)
        ends = np.cumsum(self.priorities.reshape(-1))
        for i, (share, coin) in enumerate(zip(unit, words[3], strict=True)):
            if (int(coin) >> 8) / 2**24 >= s.uniform_mix:
                mass = (i + share) / len(drawn) * ends[-1]
                self.avoid((ends - mass) / ends[-1])
                n, place = divmod(int(np.searchsorted(ends, mass, side="right")), self.length)
                drawn[i] = next((t, n) for t in rows if t % self.length == place)
        mine = np.array([self.priorities[n, t % self.length] for t, n in drawn]) / ends[-1]
        return drawn, (1 - s.uniform_mix) * mine + s.uniform_mix * uniform

    def avoid(self, distance: np.ndarray) -> None:
        self.nearest_kink = min(self.nearest_kink, np.abs(distance).min())

    # --- learning ---

    def target_of(self, batch: Batch, random: Random) -> np.ndarray:
        """What the online network is moved to, [B], [B, K] or [B, N']: a constant of the loss."""
        s, taus, reward = self.s, random.taus or {}, batch.reward
        discount = batch.discount.reshape(-1, *[1] * (s.quantiles > 0))
        out = self.network(self.target, batch.next_observation, random.target, taus.get("target"))
        chooser = out
        if s.quantiles:
            chooser, out = out[..., : s.acting_quantiles], out[..., s.acting_quantiles :]
        if s.double:
            chooser = self.network(self.params, batch.next_observation, random.selector, taus.get("policy"))
        if s.munchausen:
            q = self.values(self.network(self.target, batch.observation, random.target, taus.get("policy")))
            tau, rows = s.munchausen_temperature, np.arange(len(q))
            earned = tau * np.log(softmax(q / tau))[rows, batch.action]
            reward = reward + s.munchausen_scale * np.clip(earned, s.munchausen_clip, 0)
            policy = softmax(self.values(chooser) / tau).reshape(*q.shape, *[1] * (out.ndim - 2))
            soft = (policy * (out - tau * np.log(policy))).sum(1)
            return reward.reshape(discount.shape) + discount * soft
        of_actions = np.sort(self.values(chooser), axis=-1)
        self.avoid(of_actions[:, -1] - of_actions[:, -2])
        out = out[np.arange(len(out)), self.values(chooser).argmax(-1)]
        if not s.atoms:
            return reward.reshape(discount.shape) + discount * out
        positions = batch.reward[:, None] + batch.discount[:, None] * self.atoms
        return np.array([projected(p, m, self.atoms) for p, m in zip(positions, softmax(out), strict=True)])

    def losses(self, params: Arrays, batch: Batch, target: np.ndarray, random: Random) -> tuple[np.ndarray, ...]:
        """Of each transition [B]: the loss, what sets the priority, and the value of its action."""
        taus = (random.taus or {}).get("online")
        out = self.network(params, batch.observation, random.online, taus)[np.arange(len(batch.action)), batch.action]
        if self.s.atoms:
            each = -(target * np.log(softmax(out))).sum(-1)
            return each, each, self.values(out)
        if self.s.quantiles:  # eq. 3 of IQN: the pairs of a quantile and a sample of the target
            each, size = np.zeros(len(out)), np.zeros(len(out))
            for i in range(out.shape[1]):
                for j in range(target.shape[1]):
                    error = target[:, j] - out[:, i]
                    huber = np.where(np.abs(error) <= 1, 0.5 * error**2, np.abs(error) - 0.5)
                    each += np.where(error < 0, 1 - taus[:, i], taus[:, i]) * huber / target.shape[1]
                    size += np.abs(error) / target.shape[1]
            return each, size, out.mean(-1)
        error = target - out
        each = np.where(np.abs(error) <= 1, 0.5 * error**2, np.abs(error) - 0.5)
        each = error**2 if self.s.loss == "squared" else each
        return each, each, out

    def importance(self, probability: np.ndarray, weight: np.ndarray, progress: float) -> np.ndarray:
        s = self.s
        if not s.prioritized:
            return weight
        beta = s.importance_exponent + progress * (s.importance_exponent_final - s.importance_exponent)
        largest = max((1 / p) ** beta for p, w in zip(probability, weight, strict=True) if w)
        return np.array([w * (1 / p) ** beta / largest for p, w in zip(probability, weight, strict=True)])

    def update(self, rollout: NamedTuple, randoms: list[Random], iteration: int, total_iterations: int) -> None:
        """One iteration: a gradient step for every `train_period` transitions, once learning has started."""
        s, self.metrics = self.s, {name: [] for name in ("loss", "q", "target_distance")}
        self.store(rollout)
        stored = iteration * s.num_envs * s.rollout_length
        if stored + s.num_envs * s.rollout_length <= s.learning_starts:
            return
        for u, random in enumerate(randoms):
            self.gradient_step(random, iteration / total_iterations)
            if (stored + (u + 1) * s.train_period) % s.target_period == 0:
                squares = sum(((self.params[name] - old) ** 2).sum() for name, old in self.target.items())
                self.metrics["target_distance"].append(np.sqrt(squares))
                self.target = {name: value.copy() for name, value in self.params.items()}

    def gradient_step(self, random: Random, progress: float) -> None:
        s = self.s
        drawn, probability = self.draw(random.words)
        batch = Batch(*map(np.array, zip(*(self.transition(t, n) for t, n in drawn), strict=True)))
        importance = self.importance(probability, batch.weight, progress)
        target = self.target_of(batch, random)

        def loss(params: Arrays) -> float:
            mean = np.mean(importance * self.losses(params, batch, target, random)[0])
            if s.proximal == "penalty":
                squares = sum(((params[name] - theta) ** 2).sum() for name, theta in self.target.items())
                mean += 0.5 * s.penalty_coefficient * squares
            return mean

        each, sizes, q = self.losses(self.params, batch, target, random)
        self.metrics["loss"].append(np.mean(each if s.loss_is_of_each else importance * each))
        self.metrics["q"].append(np.mean(q))
        before = self.params
        stepped = self.adam.step(before, central_differences(loss, before), s.learning_rate)
        # The pull starts from the parameters before the step: w - a Adam + (a / c) (theta - w).
        pull = s.learning_rate / s.proximal_coefficient
        self.params = {name: w + pull * (self.target[name] - before[name]) for name, w in stepped.items()}
        if s.prioritized:
            for (t, n), size, weight in zip(drawn, sizes, batch.weight, strict=True):
                priority = (min(size, s.priority_clip) + 1e-10) ** s.priority_exponent if weight else 0.0
                self.priorities[n, t % self.length] = priority
                self.largest = max(self.largest, priority)
