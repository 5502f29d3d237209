"""The winner of the generalization track of the NeurIPS 2020 Procgen challenge (D. Chakraborty and N. Q. Tran), as PPG.

Source: the repository Dipamc77/procgen-competition at its commit "submit oct 29" (19f6ab2). Which commit was finally
scored is not known. A later one (f473f51) is four flags away: `--policy-iterations 32 --skip-iterations 0
--max-auxiliary-phases 8 --auxiliary-epochs 6`, and it plays with a softmax temperature of 0.5, which is not here.

It differs from PPG in this: two stacked frames with their signed difference, a wider network, minibatches of shuffled
transitions in both phases, a discount of 0.996, a step size that decreases to a tenth, two of every 18 rollouts that no
auxiliary phase learns from, 14 auxiliary phases at most, three optimizers (the value head keeps one in both phases),
images that are cropped, covered or left as they are in the auxiliary phase.

Quirks of the code, and what became of them:

- Its frame stack begins an episode with the last frame of the one before. Here it begins with a copy of the first one.
- Its boxes lie further from the corner the larger they are. Kept (`ops.augmentations`).
- It clips rewards to the game's largest return, which is a constant of each game. `purerl challenge run` sets
  `reward_clip` to it (`protocol.BY_GAME`). An agent does not know its game: elsewhere `reward_clip` is 10, as in PPG.
  `--reward-clip 64` on starpilot is then the original; `envs/procgen_scores.py` has the other games' constants.
- It keeps the weights with the best training return. That is `--keep-best`, which `purerl challenge run` sets. The
  original chooses from the first step on, where maze and heist have only successes; see docs/procgen-challenge.md.
- Its auxiliary phase computes in float16. Here it has the `dtype` of the rest.
- Its gradients are summed over parts of a minibatch, which changes nothing but memory. Left out.
"""

from __future__ import annotations

from purerl.agents import ppg

DEFAULTS = {
    # 7 workers of 16 environments; 8 gradient steps per rollout; minibatches of 2,048 in the auxiliary phase
    "num_envs": 112,
    "rollout_length": 256,
    "num_minibatches": 8,
    "auxiliary_minibatches": 14,
    "shuffle": "transitions",
    "auxiliary_shuffle": "transitions",
    "skip_iterations": 2,
    "policy_iterations": 16,
    "max_auxiliary_phases": 14,
    "auxiliary_epochs": 7,
    "architecture": "detach",
    "auxiliary_optimizer": "shared-value",
    "auxiliary_augmentation": "mixture",
    "stacked_frames": 2,
    "frame_differences": True,
    "channels": (32, 64, 64),
    "features": 512,
    "discount": 0.996,
    "learning_rate": 5e-4,
    "auxiliary_learning_rate": 5e-4,
    "final_learning_rate": 5e-5,
    "anneal_learning_rate": True,
    "anneal_auxiliary_learning_rate": True,
}

AGENT = ppg.AGENT._replace(name="ppg-generalization", defaults=DEFAULTS)
