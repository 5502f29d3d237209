"""Named settings of each agent: config fields, environment options and run length. `--preset` and flags lie over them.

A preset is data. Its `source` says where the numbers come from.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from purerl.errors import PurerlError, nearest


@dataclasses.dataclass(frozen=True)
class Preset:
    """Config fields and environment options that differ from the defaults, length in environment steps, source."""

    steps: int
    source: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    env: dict[str, Any] = dataclasses.field(default_factory=dict)


# Two 64-64 MLPs on the flattened planes, large steps annealed to zero: cheap, and strong on MinAtar.
_MINATAR = {
    "num_envs": 64,
    "rollout_length": 128,
    "num_minibatches": 8,
    "network": "mlp",
    "activation": "relu",
    "initializer": "orthogonal",
    "time_limit_is_terminal": False,
    "anneal_learning_rate": True,
    "learning_rate": 5e-3,
    "discount": 0.99,
}
_CLASSIC = {
    "num_envs": 16,
    "rollout_length": 128,
    "network": "mlp",
    "initializer": "orthogonal",
    "time_limit_is_terminal": False,
    "anneal_learning_rate": True,
    "learning_rate": 1e-3,
    "discount": 0.99,
}
# The regime of the authors' configuration "first paper": no sticky actions, a lost life is an end (spec of DQN Pro).
_FIRST_PAPER = {"repeat_action_probability": 0.0, "life_loss": "terminal"}
# Dopamine's "nature" configuration of the agent and the games.
_NATURE = {
    "network": "dopamine",
    "loss": "huber",
    "optimizer": "rmsprop",
    "optimizer_epsilon": 1e-5,
    "learning_rate": 2.5e-4,
    "time_limit_is_terminal": True,
}
# MinAtar's own network and sizes (Young and Tian 2019), with Dopamine's optimizer constants at MinAtar's step size.
_MINATAR_DQN = {
    "num_envs": 8,
    "rollout_length": 1,
    "network": "minatar",
    "replay_size": 100_000,
    "learning_starts": 5_000,
    "target_period": 1_000,
    "epsilon_decay_steps": 100_000.0,
    "learning_rate": 2.5e-4,
}
# Ours: as minatar, with the MLP of the other MinAtar presets, which a CPU runs ten times as fast.
_MINATAR_SMALL_DQN = {**_MINATAR_DQN, "network": "mlp", "hidden": (64, 64), "learning_rate": 5e-4}
# Ours: of 8 seeds on CartPole 7 stay at 500, where one-step returns lose it again and again.
_CLASSIC_DQN = {
    "num_envs": 10,
    "rollout_length": 1,
    "train_period": 10,
    "batch_size": 128,
    "replay_size": 10_000,
    "learning_starts": 1_000,
    "target_period": 500,
    "num_steps": 3,
    "network": "mlp",
    "hidden": (120, 84),
    "learning_rate": 5e-4,
    "optimizer_epsilon": 1e-8,
    "epsilon_decay_steps": 10_000.0,
    "epsilon_final": 0.05,
    "reward_clip": float("inf"),
}
# Real Atari in minutes on two cores: everything happens, little is learned.
_QUICK_DQN = {
    "num_envs": 8,
    "rollout_length": 4,
    "network": "nature",
    "train_period": 8,
    "replay_size": 20_000,
    "learning_starts": 2_000,
    "target_period": 2_000,
    "epsilon_decay_steps": 8_000.0,
}

_DQN = {
    "dopamine": Preset(
        steps=50_000_000,
        source="Dopamine's JAX DQN: Adam, squared error, sticky actions, 200 iterations of 250k steps",
        config={"network": "dopamine"},
    ),
    "pro-paper": Preset(
        steps=30_000_000,
        source="Dopamine's TensorFlow DQN in the authors' first-paper regime; which optimizer they used is unverified",
        config=_NATURE,
        env=_FIRST_PAPER,
    ),
    "nature": Preset(
        steps=50_000_000,
        source="Dopamine's dqn_nature.gin, after Mnih et al. 2015",
        config={
            **_NATURE,
            "learning_starts": 50_000,
            "target_period": 10_000,
            "epsilon_decay_steps": 1_000_000.0,
            "epsilon_final": 0.1,
            "epsilon_evaluation": 0.05,
        },
        env=_FIRST_PAPER,
    ),
    "minatar": Preset(
        steps=1_000_000, source="MinAtar's network and sizes, 8 environments, Dopamine's Adam", config=_MINATAR_DQN
    ),
    "minatar-small": Preset(
        steps=1_000_000, source="ours: minatar with an MLP of 64-64, for CPUs", config=_MINATAR_SMALL_DQN
    ),
    "classic": Preset(steps=200_000, source="ours, for CartPole and games of its size", config=_CLASSIC_DQN),
    "quick": Preset(
        steps=16_000,
        source="ours: the whole algorithm on a small scale, on two CPU cores in minutes",
        config=_QUICK_DQN,
    ),
}
_RAINBOW = {
    "dopamine": Preset(
        steps=50_000_000,
        source="Dopamine's Rainbow: C51, n = 3, prioritized replay, sticky actions, 200 iterations of 250k steps",
        config={"network": "dopamine"},
    ),
    "pro-paper": Preset(
        steps=30_000_000,
        source="rainbow_our_first_paper.gin; its priorities were never written, so replay was in effect uniform "
        "(--prioritized for what it says)",
        config={
            "network": "dopamine",
            "optimizer": "adam-tensorflow",
            "batch_size": 64,
            "prioritized": False,
            "time_limit_is_terminal": True,
        },
        env=_FIRST_PAPER,
    ),
    "full-rainbow": Preset(
        steps=50_000_000,
        source="Dopamine's full Rainbow: double, dueling and noisy as well",
        config={
            "network": "dopamine",
            "double": True,
            "dueling": True,
            "noisy": True,
            "epsilon_initial": 0.0,
            "epsilon_final": 0.0,
        },
    ),
    "rainbow-2018": Preset(
        steps=50_000_000,
        source="Hessel et al. 2018, constants as in DQN Zoo; no-op starts, no sticky actions, a lost life is an end",
        config={
            "network": "nature",
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
        env={**_FIRST_PAPER, "noop_max": 30},
    ),
    "minatar": Preset(
        steps=1_000_000,
        source="MinAtar's network and sizes, 8 environments; C51, n = 3, prioritized replay",
        config={**_MINATAR_DQN, "support_max": 100.0, "reward_clip": float("inf")},
    ),
    "minatar-small": Preset(
        steps=1_000_000,
        source="ours: minatar with an MLP of 64-64, for CPUs",
        config={**_MINATAR_SMALL_DQN, "support_max": 20.0, "reward_clip": float("inf")},
    ),
    "classic": Preset(
        steps=200_000,
        source="ours, for CartPole and games of its size",
        config={**_CLASSIC_DQN, "support_max": 100.0},
    ),
    "quick": Preset(
        steps=16_000,
        source="ours: the whole algorithm on a small scale, on two CPU cores in minutes",
        config=_QUICK_DQN,
    ),
}


def _pro(presets: dict[str, Preset], coefficients: dict[str, float]) -> dict[str, Preset]:
    """The presets of a Pro agent: those of its base, with another proximal coefficient in some."""
    changed = {
        name: dataclasses.replace(presets[name], config={**presets[name].config, "proximal_coefficient": coefficient})
        for name, coefficient in coefficients.items()
    }
    return {**presets, **changed}


PRESETS: dict[str, dict[str, Preset]] = {
    "ppo": {
        "procgen-easy": Preset(
            steps=25_000_000,
            source="Cobbe et al. 2020, released code, easy mode; --env.num-levels 200 for the generalization protocol",
            env={"distribution_mode": "easy"},
        ),
        "procgen-hard": Preset(
            steps=200_000_000,
            source="Cobbe et al. 2020, released code, hard mode (4 workers of 64 environments as one batch of 256)",
            config={"num_envs": 256},
            env={"distribution_mode": "hard"},
        ),
        "minatar": Preset(
            steps=2_000_000,
            source="the PPO settings common for MinAtar in JAX: 64 x 128, 4 epochs, 8 minibatches",
            config={**_MINATAR, "num_epochs": 4, "share_torso": False, "scale_rewards": "none"},
        ),
        "classic": Preset(
            steps=500_000,
            source="ours, for CartPole and games of its size",
            config={
                **_CLASSIC,
                "num_epochs": 4,
                "num_minibatches": 4,
                "share_torso": False,
                "scale_rewards": "per-step",
            },
        ),
    },
    "ppg": {
        "procgen-hard": Preset(
            steps=100_000_000,
            source="Cobbe et al. 2020b, appendix A and released code: the published runs",
            env={"distribution_mode": "hard"},
        ),
        "procgen-easy": Preset(
            steps=25_000_000,
            source="as procgen-hard with one worker of 64 environments: four times as many auxiliary steps a frame",
            config={"num_envs": 64},
            env={"distribution_mode": "easy"},
        ),
        "minatar": Preset(
            steps=2_000_000,
            source="ours: the MinAtar settings of ppo, N_pi = 8 rollouts of 64 x 128",
            config={
                **_MINATAR,
                "policy_iterations": 8,
                "policy_epochs": 4,
                "value_epochs": 4,
                "auxiliary_epochs": 2,
                "auxiliary_minibatches": 8,
                "max_grad_norm": 0.5,
                "auxiliary_learning_rate": 1e-3,
                "value_coefficient": 0.5,
            },
        ),
        "classic": Preset(
            steps=500_000,
            source="ours, for CartPole and games of its size",
            config={
                **_CLASSIC,
                "policy_iterations": 8,
                "policy_epochs": 4,
                "value_epochs": 4,
                "auxiliary_epochs": 2,
                "num_minibatches": 4,
                "auxiliary_minibatches": 4,
                "max_grad_norm": 0.5,
                "auxiliary_learning_rate": 1e-3,
            },
        ),
        "quick": Preset(
            steps=100_000,
            source="ours: the whole algorithm on a small network, to see a learning curve on two CPU cores in minutes",
            config={
                "num_envs": 64,
                "rollout_length": 64,
                "policy_iterations": 4,
                "auxiliary_epochs": 2,
                "network": "nature",
                "architecture": "detach",
                "learning_rate": 5e-4,
            },
            env={"distribution_mode": "easy"},
        ),
    },
    "dqn": _DQN,
    # c = 0.2 goes with the step size 2.5e-4 (a pull of 1.25e-3, as 0.05 does with 6.25e-5).
    "dqn-pro": _pro(_DQN, {"pro-paper": 0.2, "nature": 0.2, "minatar": 0.2, "minatar-small": 0.1, "classic": 0.4}),
    "rainbow": _RAINBOW,
    "rainbow-pro": _pro(_RAINBOW, {"minatar": 0.2, "minatar-small": 0.1, "classic": 0.4}),
}


def find(agent: str, preset: str | None, env: str) -> tuple[str, Preset]:
    """(name, preset) of an agent, the one that suits the environment if `preset` is None.

    Raises PurerlError, with the nearest name, if there is none.
    """
    known = PRESETS.get(agent, {})
    if preset is None:
        family, _, env_id = env.partition("/")
        preset = {"procgen": "procgen-easy", "atari": "dopamine"}.get(
            family, "minatar" if env_id.endswith("-MinAtar") else "classic"
        )
        return (preset, known[preset]) if preset in known else ("none", Preset(steps=1_000_000, source="defaults"))
    if preset not in known:
        raise PurerlError(
            f"{agent} has no preset '{preset}'.{nearest(preset, known)} Known: {', '.join(known)} (purerl list presets)"
        )
    return preset, known[preset]
