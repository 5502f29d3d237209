"""PPO and PPG once more, in plain numpy and float64, so that whole updates can be compared with something independent.

Written to be short and read beside the papers (PPO: arXiv 1707.06347; PPG: arXiv 2009.04416, algorithm 1), not to be
fast: loops instead of scans, gradients written out by hand. Nothing here calls purerl or JAX. Actions are discrete, the
networks are MLPs with one hidden layer of tanh units.

Parameters and gradients are dicts from a path, such as "policy/dense/kernel", to an array. `s` is always a
SimpleNamespace of settings, named as the fields of the agents' configs (and gae_lambda). Axes: T time steps,
N environments, B samples of a minibatch, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Rollout(NamedTuple):
    """T steps of N environments. log_prob and value are what the acting policy left, `final_observation` is where an
    action truly led, also where an episode ended.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_observation: np.ndarray
    log_prob: np.ndarray
    value: np.ndarray
    last_observation: np.ndarray


# --- The network -----------------------------------------------------------------------------------------------------


class Network(NamedTuple):
    """Which torso each head reads, and the heads whose gradient stops before the torso."""

    torsos: dict[str, str]
    detached: tuple[str, ...] = ()

    def features(self, params: Arrays, head: str, observation: np.ndarray) -> np.ndarray:
        layer = f"{self.torsos[head]}/dense0"
        return np.tanh(observation @ params[f"{layer}/kernel"] + params[f"{layer}/bias"])

    def forward(self, params: Arrays, head: str, observation: np.ndarray) -> np.ndarray:
        """What a head says of observations [..., D]: logits [..., A], or values [...]."""
        features = self.features(params, head, observation)
        out = features @ params[f"{head}/dense/kernel"] + params[f"{head}/dense/bias"]
        return out if head == "policy" else out[..., 0]

    def backward(self, params: Arrays, observation: np.ndarray, of_outputs: Arrays) -> Arrays:
        """The gradient of a loss in all parameters, from its gradients in the outputs [B, A] or [B] of some heads."""
        gradient = {name: np.zeros_like(value) for name, value in params.items()}
        for head, of_output in of_outputs.items():
            of_output = of_output.reshape(len(observation), -1)
            features = self.features(params, head, observation)
            gradient[f"{head}/dense/kernel"] += features.T @ of_output
            gradient[f"{head}/dense/bias"] += of_output.sum(0)
            if head not in self.detached:
                of_hidden = (of_output @ params[f"{head}/dense/kernel"].T) * (1 - features**2)
                gradient[f"{self.torsos[head]}/dense0/kernel"] += observation.T @ of_hidden
                gradient[f"{self.torsos[head]}/dense0/bias"] += of_hidden.sum(0)
        return gradient


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_prob_of(logits: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), action[..., None], -1)[..., 0]


# --- Adam ------------------------------------------------------------------------------------------------------------


class Adam:
    """Adam (arXiv 1412.6980, algorithm 1) on gradients whose norm over all parameters is clipped."""

    def __init__(self, params: Arrays, s: SimpleNamespace):
        self.s, self.count = s, 0
        self.mu = {name: np.zeros_like(value) for name, value in params.items()}
        self.nu = {name: np.zeros_like(value) for name, value in params.items()}

    def step(self, params: Arrays, gradient: Arrays, learning_rate: float) -> Arrays:
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        shrink = min(1.0, self.s.max_grad_norm / norm)
        self.count += 1
        after = {}
        for name, value in params.items():
            g = shrink * gradient[name]
            self.mu[name] = 0.9 * self.mu[name] + 0.1 * g
            self.nu[name] = 0.999 * self.nu[name] + 0.001 * g**2
            first, second = self.mu[name] / (1 - 0.9**self.count), self.nu[name] / (1 - 0.999**self.count)
            after[name] = value - learning_rate * first / (np.sqrt(second) + self.s.adam_epsilon)
        return after


# --- From a rollout to advantages ------------------------------------------------------------------------------------


class RewardStatistics:
    """The discounted return of each environment, and the moments of all these returns so far (RunningMeanStd of OpenAI
    Baselines, with its first count of 1e-4).
    """

    def __init__(self, num_envs: int):
        self.discounted_return = np.zeros(num_envs)
        self.mean, self.variance, self.count = 0.0, 1.0, 1e-4

    def include(self, x: np.ndarray) -> None:
        count, delta = self.count + x.size, x.mean() - self.mean
        squares = self.variance * self.count + x.var() * x.size + delta**2 * self.count * x.size / count
        self.mean, self.variance, self.count = self.mean + delta * x.size / count, squares / count, count

    def scaled(self, s: SimpleNamespace, reward: np.ndarray, done: np.ndarray) -> np.ndarray:
        """Rewards [T, N] divided by the standard deviation, that up to their own step or that of the whole rollout."""
        if s.scale_rewards == "none":
            return reward
        returns, variances = [], []
        for t in range(len(reward)):
            self.discounted_return = s.reward_discount * self.discounted_return + reward[t]
            returns.append(self.discounted_return)
            if s.scale_rewards == "per-step":
                self.include(self.discounted_return)
                variances.append([self.variance])
            self.discounted_return = np.where(done[t], 0, self.discounted_return)
        if s.scale_rewards == "per-rollout":
            self.include(np.array(returns))
            variances = self.variance
        return np.clip(reward / np.sqrt(np.array(variances) + 1e-8), -s.reward_clip, s.reward_clip)


def normalized(advantage: np.ndarray) -> np.ndarray:
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


# --- The learners ----------------------------------------------------------------------------------------------------


class Learner:
    """What PPO and PPG have in common.

    Attributes:
      params: the parameters now.
      rewards: the reward statistics.
      metrics: name -> numbers of the last update, whose mean is the metric.
      nearest_kink: how near any ratio or value has come to where a gradient jumps (the end of a clip range). A test
        compares float32 with float64: it needs this to be clearly more than their difference.
    """

    def __init__(self, s: SimpleNamespace, network: Network, params: Arrays):
        self.s, self.network = s, network
        self.params = {name: value.astype(np.float64) for name, value in params.items()}
        self.rewards = RewardStatistics(s.num_envs)
        self.metrics: dict[str, list] = {}
        self.nearest_kink = np.inf

    def say(self, **metrics: np.ndarray) -> None:
        for name, values in metrics.items():
            self.metrics.setdefault(name, []).append(np.mean(values))

    def avoid(self, distance: np.ndarray) -> None:
        self.nearest_kink = min(self.nearest_kink, np.abs(distance).min())

    def values(self, observation: np.ndarray) -> np.ndarray:
        return self.network.forward(self.params, "value", observation)

    def batch(self, rollout: Rollout) -> Arrays:
        """Scaled rewards, then GAE (arXiv 1506.02438) backwards in time: what is learned from, [T, N, ...]."""
        s = self.s
        done = rollout.terminated | rollout.truncated
        reward = self.rewards.scaled(s, rollout.reward, done)
        advantage, following = np.zeros_like(reward), np.zeros(s.num_envs)
        next_value = self.values(rollout.last_observation)
        for t in reversed(range(len(reward))):
            ended = done[t] if s.time_limit_is_terminal else rollout.terminated[t]
            reached = np.where(rollout.truncated[t], self.values(rollout.final_observation[t]), next_value)
            delta = reward[t] + s.discount * np.where(ended, 0, reached) - rollout.value[t]
            following = delta + s.discount * s.gae_lambda * np.where(done[t], 0, following)
            advantage[t], next_value = following, rollout.value[t]
        target = advantage + rollout.value
        self.say(value_target=target)
        if s.normalize_advantages == "rollout":
            advantage = normalized(advantage)
        return {
            "observation": rollout.observation,
            "action": rollout.action,
            "log_prob": rollout.log_prob,
            "value": rollout.value,
            "advantage": advantage,
            "target": target,
        }

    def policy_gradient(self, batch: Arrays, objective: str) -> np.ndarray:
        """The gradient [B, A] in the logits of the mean surrogate loss minus the entropy bonus."""
        s, action, advantage = self.s, batch["action"], batch["advantage"]
        logits = self.network.forward(self.params, "policy", batch["observation"])
        log_p = log_softmax(logits)
        p, entropy = np.exp(log_p), -(np.exp(log_p) * log_p).sum(-1)
        log_ratio = log_prob_of(logits, action) - batch["log_prob"]
        ratio = np.exp(log_ratio)
        self.avoid(np.abs(ratio - 1) - s.clip)
        if objective == "clip":
            loss = np.maximum(-advantage * ratio, -advantage * np.clip(ratio, 1 - s.clip, 1 + s.clip))
            # The clipped branch is constant. It is the larger one where the ratio has moved out, and to our good.
            gained = np.where(advantage > 0, ratio > 1 + s.clip, ratio < 1 - s.clip)
            of_log_prob = np.where(gained, 0, -advantage * ratio)
        else:
            loss = -advantage * ratio + s.kl_coefficient * 0.5 * log_ratio**2
            of_log_prob = -advantage * ratio + s.kl_coefficient * log_ratio
        self.say(
            policy_loss=loss,
            entropy=entropy,
            approximate_kl=ratio - 1 - log_ratio,
            clipped_fraction=np.abs(ratio - 1) > s.clip,
        )
        of_entropy = -p * (log_p + entropy[:, None])
        chosen = np.eye(logits.shape[-1])[action]
        return (of_log_prob[:, None] * (chosen - p) - s.entropy_coefficient * of_entropy) / len(action)

    def value_gradient(self, batch: Arrays, clip_values: bool) -> np.ndarray:
        """The gradient [B] in the values of their weighted mean loss, half a squared error."""
        s, target, old = self.s, batch["target"], batch["value"]
        value = self.network.forward(self.params, "value", batch["observation"])
        loss, of_value = 0.5 * (value - target) ** 2, value - target
        if clip_values:
            clipped = old + np.clip(value - old, -s.value_clip, s.value_clip)
            moved_out, worse = np.abs(value - old) > s.value_clip, (clipped - target) ** 2 > (value - target) ** 2
            self.avoid(np.abs(value - old) - s.value_clip)
            self.avoid(np.where(moved_out, (clipped - target) ** 2 - (value - target) ** 2, np.inf))
            loss = np.where(moved_out & worse, 0.5 * (clipped - target) ** 2, loss)
            of_value = np.where(moved_out & worse, 0, of_value)
        self.say(value_loss=loss)
        return s.value_coefficient * of_value / len(target)

    def descend(self, adam: Adam, learning_rate: float, observation: np.ndarray, of_outputs: Arrays) -> None:
        gradient = self.network.backward(self.params, observation, of_outputs)
        self.params = adam.step(self.params, gradient, learning_rate)

    def learning_rate(self, iteration: int, total_iterations: int) -> float:
        left = 1 - iteration / total_iterations if self.s.anneal_learning_rate else 1
        return self.s.learning_rate * left


def minibatches(permutations: np.ndarray, num_minibatches: int) -> Iterator[np.ndarray]:
    """The indices of each minibatch of each epoch; `permutations` [epochs, items] has a row for each epoch."""
    for permutation in permutations:
        yield from permutation.reshape(num_minibatches, -1)


def flat(x: np.ndarray) -> np.ndarray:
    """[T, N, ...] as samples [T * N, ...]."""
    return x.reshape(-1, *x.shape[2:])


class PPO(Learner):
    """PPO with the details of OpenAI Baselines."""

    def __init__(self, s: SimpleNamespace, params: Arrays):
        value_torso, policy_torso = ("torso", "torso") if s.share_torso else ("torsos/value", "torsos/policy")
        super().__init__(s, Network({"policy": policy_torso, "value": value_torso}), params)
        self.adam = Adam(self.params, s)

    def update(self, rollout: Rollout, permutations: np.ndarray, iteration: int, total_iterations: int) -> None:
        s, self.metrics = self.s, {}
        batch = self.batch(rollout)
        for indices in minibatches(permutations, s.num_minibatches):
            if s.shuffle == "transitions":
                chosen = {name: flat(x)[indices] for name, x in batch.items()}
            else:
                chosen = {name: flat(x[:, indices]) for name, x in batch.items()}
            if s.normalize_advantages == "minibatch":
                chosen["advantage"] = normalized(chosen["advantage"])
            of_outputs = {
                "policy": self.policy_gradient(chosen, "clip"),
                "value": self.value_gradient(chosen, s.clip_values),
            }
            self.descend(self.adam, self.learning_rate(iteration, total_iterations), chosen["observation"], of_outputs)


class PPG(Learner):
    """Algorithm 1 of the paper. Its lines are named where they are followed."""

    def __init__(self, s: SimpleNamespace, params: Arrays):
        dual = s.architecture == "dual"
        torsos = {"policy": "torsos/policy" if dual else "torso", "value": "torsos/value" if dual else "torso"}
        torsos["auxiliary_value"] = torsos["policy"]
        super().__init__(s, Network(torsos, ("value",) if s.architecture == "detach" else ()), params)
        self.policy_adam, self.value_adam, self.auxiliary_adam = (Adam(self.params, s) for _ in range(3))
        self.buffer: list[Arrays] = []

    def update(
        self, rollout: Rollout, permutations: dict[str, np.ndarray], iteration: int, total_iterations: int
    ) -> None:
        """`permutations` are of the "policy" passes, of the "value" passes and of the "auxiliary" phase."""
        s, self.metrics = self.s, {}
        rate = self.learning_rate(iteration, total_iterations)
        batch = self.batch(rollout)

        def passes(stream: str, adam: Adam, heads: tuple[str, ...]) -> None:
            for environments in minibatches(permutations[stream], s.num_minibatches):
                chosen = {name: flat(x[:, environments]) for name, x in batch.items()}
                of_outputs = {}
                if "policy" in heads:
                    of_outputs["policy"] = self.policy_gradient(chosen, s.objective)
                if "value" in heads:
                    of_outputs["value"] = self.value_gradient(chosen, clip_values=False)
                self.descend(adam, rate, chosen["observation"], of_outputs)

        # Lines 6 and 7. With E_pi = E_V both losses are descended at once; otherwise the values go first (code).
        if s.policy_epochs == s.value_epochs:
            passes("policy", self.policy_adam, ("policy", "value"))
        else:
            passes("value", self.value_adam, ("value",))
            passes("policy", self.policy_adam, ("policy",))
        # Line 8.
        self.buffer.append({name: batch[name] for name in ("observation", "target")})
        if len(self.buffer) == s.policy_iterations:
            self.auxiliary_phase(permutations["auxiliary"])
            self.buffer = []

    def auxiliary_phase(self, permutations: np.ndarray) -> None:
        """Lines 9 to 13. Segment i is environment i % N of the rollout i // N in the buffer."""
        s, network = self.s, self.network
        segments = {name: np.concatenate([np.swapaxes(b[name], 0, 1) for b in self.buffer]) for name in self.buffer[0]}
        # Line 9: pi_old is the policy at this moment, on all of the buffer.
        old_log_p = log_softmax(network.forward(self.params, "policy", segments["observation"]))
        for indices in minibatches(permutations, s.policy_iterations * s.auxiliary_minibatches):
            observation, target = flat(segments["observation"][indices]), flat(segments["target"][indices])
            old = flat(old_log_p[indices])
            new = log_softmax(network.forward(self.params, "policy", observation))
            self.say(auxiliary_kl=(np.exp(old) * (old - new)).sum(-1))
            of_outputs = {"policy": s.clone_coefficient * (np.exp(new) - np.exp(old)) / len(target)}
            for head in network.torsos.keys() - {"policy"}:
                error = network.forward(self.params, head, observation) - target
                of_outputs[head] = error / len(target)
                name = "auxiliary_true_value_loss" if head == "value" else "auxiliary_value_loss"
                self.say(**{name: 0.5 * error**2})
            self.descend(self.auxiliary_adam, s.auxiliary_learning_rate, observation, of_outputs)
