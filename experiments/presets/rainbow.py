"""Presets of Rainbow and Rainbow Pro."""

from __future__ import annotations

from purerl.experiments.presets.value_based import (
    CLASSIC,
    FIRST_PAPER,
    MINATAR,
    MINATAR_SMALL,
    PLAYS_ON,
    QUICK,
    pro_presets,
)
from purerl.registry import Preset

PRESETS: dict[str, Preset] = {
    "dopamine": Preset(
        steps=50_000_000,
        default_for=("atari/*",),
        source="Dopamine's Rainbow: C51, n = 3, prioritized replay, sticky actions, 200 iterations of 250k steps",
        config={"network": "dopamine"},
    ),
    "pro-paper": Preset(
        steps=30_000_000,
        source="rainbow_our_first_paper.gin; its priorities were never written, so replay was in effect uniform "
        "(--prioritized for what it says); " + PLAYS_ON,
        config={
            "network": "dopamine",
            "optimizer": "adam-tensorflow",
            "batch_size": 64,
            "prioritized": False,
            "time_limit_is_terminal": True,
        },
        env=FIRST_PAPER,
    ),
    "full-rainbow": Preset(
        steps=50_000_000,
        source="Dopamine's full Rainbow (FullRainbowNetwork of dopamine/jax/networks.py): double, dueling and noisy as "
        "well, Glorot's initial weights in the convolutions",
        config={
            "network": "dopamine",
            "initializer": "glorot",
            "double": True,
            "dueling": True,
            "noisy": True,
            "epsilon_initial": 0.0,
            "epsilon_final": 0.0,
        },
    ),
    "rainbow-2018": Preset(
        steps=50_000_000,
        source="Hessel et al. 2018, constants as in DQN Zoo; no-op starts, no sticky actions, a lost life is terminal. "
        "Frames differ from DQN Zoo's: 0 to 30 no-ops (1 to 30 there), luma before the maximum of two frames (after), "
        "area resize (bilinear), the stack is blanked at a lost life (kept). Initial weights and biases are DQN Zoo's, "
        "but both streams share one hidden layer (one each there), and their outputs have a bias (noise alone there)",
        config={
            "network": "nature",
            "initializer": "torch",
            "double": True,
            "dueling": True,
            "noisy": True,
            "epsilon_initial": 0.0,
            "epsilon_final": 0.0,
            "epsilon_evaluation": 0.0,
            "optimizer_epsilon": 0.005 / 32,
            "max_grad_norm": 10.0,
            "uniform_mix": 1e-3,
            "priority_clip": 100.0,
            "importance_exponent": 0.4,
            "importance_exponent_final": 1.0,
        },
        env={**FIRST_PAPER, "noop_max": 30},
    ),
    "btr": Preset(
        steps=50_000_000,
        source="Clark et al. 2024 (Beyond the Rainbow), table D6, and the authors' code where the table is silent "
        "(VIPTankz/BeyondTheRainbowICML at 0e08f8b): sticky actions, up to 30 no-ops, a time-out is an end, importance "
        "weights with the exponent of the priorities. Epsilon falls linearly from the start of learning (there "
        "exponentially, from the first step) and is 0 in evaluation (there 0.01 for the first 125M frames); the bonus "
        "is of the target network (there the online one), each of its passes has quantiles of its own, the batch is "
        "of all environments' rows (there of one), and the power iteration is one a gradient step (there one a pass)",
        config={
            "num_envs": 64,
            "rollout_length": 1,
            "train_period": 64,
            "batch_size": 256,
            "replay_size": 1_048_576,
            "learning_starts": 200_000,
            "target_period": 32_000,
            "num_steps": 3,
            "atoms": 0,
            "quantiles": 8,
            "target_quantiles": 8,
            "acting_quantiles": 8,
            "munchausen": True,
            "dueling": True,
            "separate_streams": True,
            "noisy": True,
            "noisy_sigma": 0.5,
            "network": "impala",
            "channels": (32, 64, 64),
            "features": 512,
            "spectral_norm": True,
            "max_pool": 6,
            "initializer": "torch",
            "time_limit_is_terminal": True,
            "learning_rate": 1e-4,
            "optimizer_epsilon": 0.005 / 256,
            "max_grad_norm": 10.0,
            "discount": 0.997,
            "priority_exponent": 0.2,
            "importance_exponent": 0.2,
            "importance_exponent_final": 0.2,
            "epsilon_decay_steps": 2_000_000.0,
            "epsilon_zero_after": 25_000_000.0,
            "epsilon_evaluation": 0.0,
        },
        env={"noop_max": 30},
    ),
    "minatar": Preset(
        steps=1_000_000,
        default_for=("*-MinAtar",),
        source="C51, n = 3, prioritized replay; network, sizes, a gradient step per frame and final epsilon 0.1 of "
        "Young and Tian 2019 (8 environments, no sticky actions, a fifth of the frames)",
        config={**MINATAR, "support_max": 100.0, "reward_clip": float("inf")},
    ),
    "minatar-small": Preset(
        steps=1_000_000,
        source="purerl's own: minatar with a 64-64 MLP and a quarter of the gradient steps, for CPUs",
        config={**MINATAR_SMALL, "support_max": 20.0, "reward_clip": float("inf")},
    ),
    "classic": Preset(
        steps=200_000,
        default_for=("*",),
        source="purerl's own, for CartPole and similar control tasks",
        config={**CLASSIC, "support_max": 100.0},
    ),
    "quick": Preset(
        steps=16_000,
        source="purerl's own: the whole algorithm at small scale, minutes on two CPU cores",
        config=QUICK,
    ),
}

PRO_PRESETS = pro_presets(PRESETS)
