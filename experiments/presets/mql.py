"""Presets of MQL, and of TD3 with a context."""

from __future__ import annotations

from typing import Any

from purerl.registry import Preset

# Published: gradient steps follow whole episodes. Here they are spread evenly; so many per transition are theirs if no
# episode ends early.
_STEPS = {1: "a gradient step for each transition", 5: "a gradient step for every 5 transitions"}


def _published(task: str, about: str, **config: Any) -> Preset:
    """The settings of MQL's published commands for a task on MuJoCo.

    `snapshot_size` is the published one, of each task, times the training tasks, and `learning_starts` the initial
    steps of each task times those, but at least 10,000. Their option to evaluate ant-dir and ant-goal with a window of
    200 steps has no counterpart here.
    """
    return Preset(
        steps=5_000_000,
        default_for=(f"tasks/{task}",),
        source=f"MQL's published commands for {about}; 10 environments instead of 1, {_STEPS[config['train_period']]}",
        config={"num_envs": 10, "rollout_length": 1, "replay_size": 1_000_000} | config,
    )


PRESETS: dict[str, Preset] = {
    "cheetah-dir": _published(
        "cheetah-dir",
        "HalfCheetah forward and backward (they make 2.5 gradient steps for each transition)",
        train_period=1,
        policy_delay=2,
        learning_starts=10_000,
        history_length=20,
        context_size=20,
        new_task_steps=10,
        replay_steps=50,
        replay_batches=10,
        snapshot_size=4_000,
        learning_rate=3e-4,
        exploration_noise=0.3,
        target_noise=0.3,
        classifier_strength=0.5,
        beta_clip=1.5,
    ),
    "cheetah-vel": _published(
        "cheetah-vel",
        "HalfCheetah at a speed",
        train_period=1,
        policy_delay=2,
        learning_starts=50_000,
        history_length=20,
        context_size=15,
        new_task_steps=10,
        replay_steps=100,
        replay_batches=5,
        snapshot_size=200_000,
        learning_rate=1e-3,
        exploration_noise=0.3,
        target_noise=0.3,
        classifier_strength=0.1,
        beta_clip=1.0,
    ),
    "ant-dir": _published(
        "ant-dir",
        "Ant forward and backward",
        train_period=1,
        policy_delay=4,
        learning_starts=10_000,
        history_length=25,
        context_size=30,
        new_task_steps=5,
        replay_steps=400,
        replay_batches=5,
        snapshot_size=4_000,
        learning_rate=3e-4,
        exploration_noise=0.2,
        target_noise=0.4,
        classifier_strength=0.05,
        beta_clip=1.2,
    ),
    "ant-goal": _published(
        "ant-goal",
        "Ant to a goal",
        train_period=5,
        policy_delay=4,
        learning_starts=225_000,
        history_length=40,
        context_size=40,
        new_task_steps=10,
        replay_steps=150,
        replay_batches=1,
        snapshot_size=150_000,
        classifier_sees_observation=True,
        learning_rate=4e-4,
        exploration_noise=0.3,
        target_noise=0.3,
        classifier_strength=0.1,
        beta_clip=2.0,
    ),
    "walker-params": _published(
        "walker-params",
        "Walker2d with other physics",
        train_period=5,
        policy_delay=3,
        learning_starts=80_000,
        history_length=10,
        context_size=30,
        new_task_steps=10,
        replay_steps=400,
        replay_batches=5,
        snapshot_size=160_000,
        classifier_sees_observation=True,
        learning_rate=8e-4,
        exploration_noise=0.2,
        target_noise=0.2,
        classifier_strength=0.06,
        beta_clip=1.1,
    ),
    "tasks": Preset(
        steps=60_000,
        default_for=("*",),
        source="purerl's own, for point robots: small networks, and a discount of 0.9 for episodes of 20 steps",
        config={
            "num_envs": 4,
            "rollout_length": 1,
            "train_period": 1,
            "hidden": (64, 64),
            "batch_size": 128,
            "replay_size": 40_000,
            "learning_starts": 1_000,
            "history_length": 5,
            "context_size": 16,
            "snapshot_size": 8_000,
            "discount": 0.9,
        },
    ),
}
