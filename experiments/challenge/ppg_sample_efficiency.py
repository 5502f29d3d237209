"""The winner of the sample efficiency track of the NeurIPS 2020 Procgen challenge (A. Gaidon and B. Wulfe), as PPG.

Source: the repository wulfebw/neurips2020-procgen, experiments/data_aug_ppo_gen.yaml at its commit ec31191 ("match
submissions").

It is PPO on short rollouts of many environments, with an auxiliary phase that trains the same value head on shifted
images and with dropout, all with one Adam. The network sees two stacked frames and the previous action. A step that
changes nothing costs 0.1, and the entropy bonus is doubled where agents go round in circles. Rewards are divided by the
standard deviation of their sums over the fragments of a rollout.

Quirks of the code, and what became of them:

- The value loss is a quarter of the squared error, with values clipped as in Baselines. Kept (`value_coefficient` 0.5).
- Gradients are clipped number by number to 1, then to a global norm: 1 in the configuration file, 5 in the runs that
  the authors plotted. Here 5; `--max-grad-norm 1` for the other.
- Each of 7 workers scales rewards by statistics of its own. Kept (`reward_groups`).
- The share of distinct frames decides on the entropy's weight for a whole minibatch, and back again. Kept.
- Frames are compared by a hash, which is that of this library, and an episode's first 1,000 are remembered.
- At an episode's start the previous action is action 0 and the frame before is a copy of the first one.
- The step penalty is part of what the agent learns from; all returns in purerl's tables are the game's own.
"""

from __future__ import annotations

from purerl.agents import ppg

DEFAULTS = {
    # 7 workers of 125 environments; minibatches of 1,750 in both phases
    "num_envs": 875,
    "rollout_length": 16,
    "num_minibatches": 8,
    "auxiliary_minibatches": 8,
    "shuffle": "transitions",
    "auxiliary_shuffle": "transitions",
    "policy_iterations": 32,
    "auxiliary_epochs": 2,
    "architecture": "single",
    "auxiliary_optimizer": "shared",
    "auxiliary_augmentation": "translate",
    "auxiliary_dropout": 0.1,
    "stacked_frames": 2,
    "previous_action": True,
    "channels": (32, 48, 64),
    "initializer": "torch",
    "scale_rewards": "per-fragment",
    "reward_groups": 7,
    "clip_values": True,
    "value_coefficient": 0.5,
    "penalize_repetition": True,
    "adaptive_entropy": True,
    "max_grad_value": 1.0,
    "max_grad_norm": 5.0,
    "discount": 0.999,
}

AGENT = ppg.AGENT._replace(name="ppg-sample-efficiency", defaults=DEFAULTS)
