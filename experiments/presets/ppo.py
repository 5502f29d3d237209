"""Presets of PPO."""

from __future__ import annotations

from purerl.experiments.presets.actor_critic import CLASSIC, CRAFTAX, MINATAR, PROCGEN_SYMBOLIC
from purerl.registry import Preset

# What gymnasium registers of MuJoCo.
MUJOCO_TASKS = (
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum"),
    *("Pusher", "Reacher", "Swimmer", "Walker2d"),
)
# All environments with its robots.
MUJOCO = (*(f"gym/{task}-v*" for task in MUJOCO_TASKS), "tasks/ant-*", "tasks/cheetah-*", "tasks/walker-*")

PRESETS: dict[str, Preset] = {
    "procgen-easy": Preset(
        steps=25_000_000,
        default_for=("procgen/*", "procgen-jax/*"),
        source="Cobbe et al. 2020, released code, easy mode; --env.num-levels 200 for the generalization protocol",
        config={"optimizer": "adam-tensorflow"},
        env={"distribution_mode": "easy"},
    ),
    "procgen-hard": Preset(
        steps=200_000_000,
        source="Cobbe et al. 2020, released code, hard mode (4 workers of 64 environments as one batch of 256)",
        config={"num_envs": 256, "optimizer": "adam-tensorflow"},
        env={"distribution_mode": "hard"},
    ),
    "procgen-symbolic": Preset(
        steps=25_000_000,
        source="purerl's own, not tuned: procgen-easy on planes of cells instead of frames, two layers of 64",
        config=PROCGEN_SYMBOLIC,
        env={"distribution_mode": "easy", "observation": "symbolic"},
    ),
    "minatar": Preset(
        steps=2_000_000,
        default_for=("*-MinAtar",),
        source="the PPO settings common for MinAtar in JAX: 64 x 128, 4 epochs, 8 minibatches",
        config={**MINATAR, "num_epochs": 4, "share_torso": False, "scale_rewards": "none"},
    ),
    "craftax": Preset(
        steps=1_000_000_000,
        default_for=("craftax/*",),
        source="Craftax_Baselines (249b6da), defaults of ppo.py: 1024 x 64, 4 epochs, 8 minibatches, actor and critic "
        "of three layers of 512; every episode in a world of its own (there one new world for 16 environments). "
        "UNVERIFIED that the scoreboard's PPO has these settings",
        config={**CRAFTAX, "hidden": (512, 512, 512), "activation": "tanh", "share_torso": False},
    ),
    "craftax-rnn": Preset(
        steps=1_000_000_000,
        source="Craftax_Baselines (0fbf3e1), defaults of ppo_rnn.py: a layer and a GRU of 512 for both heads; each "
        "head has two more layers there, and the GRU here also sees the last action and reward. UNVERIFIED that the "
        "scoreboard's PPO-RNN has these settings",
        config={
            **CRAFTAX,
            "hidden": (512,),
            "activation": "relu",
            "share_torso": True,
            "recurrent": "gru",
            "recurrent_size": 512,
        },
    ),
    "craftax-small": Preset(
        steps=10_000_000,
        source="purerl's own, not tuned: craftax with 64 environments and two layers of 64, for CPUs",
        config={**CRAFTAX, "num_envs": 64, "hidden": (64, 64), "activation": "tanh", "share_torso": False},
    ),
    "mujoco": Preset(
        steps=1_000_000,
        default_for=MUJOCO,
        source="CleanRL's ppo_continuous_action, but time limits are bootstrapped, and observations are normalized by "
        "the statistics before each rollout",
        config={
            "num_envs": 1,
            "rollout_length": 2048,
            "num_epochs": 10,
            "num_minibatches": 32,
            "network": "mlp",
            "hidden": (64, 64),
            "activation": "tanh",
            "initializer": "orthogonal",
            "share_torso": False,
            "normalize_observations": True,
            "scale_rewards": "per-step",
            "reward_discount": 0.99,
            "time_limit_is_terminal": False,
            "anneal_learning_rate": True,
            "learning_rate": 3e-4,
            "discount": 0.99,
            "entropy_coefficient": 0.0,
        },
    ),
    "classic": Preset(
        steps=500_000,
        default_for=("*",),
        source="purerl's own, for CartPole and similar control tasks",
        config={
            **CLASSIC,
            "num_epochs": 4,
            "num_minibatches": 4,
            "share_torso": False,
            "scale_rewards": "per-step",
        },
    ),
}
