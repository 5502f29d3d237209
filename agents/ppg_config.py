"""The config of phasic policy gradient: the paper's constants, and parts of other agents that can be switched on."""

from __future__ import annotations

from typing import Literal

from flax import struct

from purerl.buffers import offload
from purerl.nn import initializers, layers, torsos
from purerl.ops import advantages, augmentations, minibatches
from purerl.types import MatmulPrecision, static, traced


@struct.dataclass
class Config:
    """Sizes and constants from appendix A of the paper; those marked "code" are only in the released code."""

    num_envs: int = static(256, low=1, help="parallel environments per seed (paper: 4 workers of 64)")
    rollout_length: int = static(256, low=1, help="steps per environment between updates")
    policy_iterations: int = static(32, low=1, help="N_pi: policy iterations before each auxiliary phase")
    skip_iterations: int = static(
        0, low=0, help="further policy iterations, before the N_pi ones, that the auxiliary phase does not learn from"
    )
    max_auxiliary_phases: int = static(0, low=0, help="no auxiliary phase after so many; 0: no limit")
    policy_epochs: int = static(1, help="E_pi: policy epochs per rollout")
    value_epochs: int = static(1, help="E_V: value epochs per rollout")
    auxiliary_epochs: int = static(6, help="E_aux: epochs over the auxiliary buffer; 0: no auxiliary phase")
    num_minibatches: int = static(8, low=1, help="minibatches (gradient steps) per epoch over a rollout")
    shuffle: minibatches.ShuffleName = static(
        "environments", help="a policy minibatch is a random subset of whole environments (code), or of transitions"
    )
    auxiliary_shuffle: minibatches.ShuffleName = static("environments", help="the same for the auxiliary phase")
    final_auxiliary_phase: bool = static(
        True, help="run the auxiliary phase that is due at the run's last iteration (the released code ends before it)"
    )
    auxiliary_minibatches: int = static(
        16, low=1, help="minibatches (gradient steps) per auxiliary epoch, for each rollout in the buffer"
    )
    architecture: Literal["dual", "detach", "shared", "single"] = static(
        "dual",
        help="two networks; one whose true value is detached from the torso; one without that; or one with only that "
        "value, which the auxiliary phase trains too",
    )
    auxiliary_optimizer: Literal["own", "shared-value", "shared"] = static(
        "own",
        help="Adam's moments in the auxiliary phase: its own, its own except for the value head, or the policy phase's",
    )
    auxiliary_augmentation: augmentations.AugmentationName = static(
        "none", help="random augmentation of the auxiliary phase's observations; the policy to stay close to sees none"
    )
    auxiliary_dropout: float = static(0.0, low=0.0, high=0.9, help="dropout in the auxiliary phase's gradient steps")
    objective: Literal["clip", "kl"] = static(
        "clip", help="clipped surrogate objective, or the ratio with a KL penalty (section 3.5)"
    )
    normalize_advantages: Literal["rollout", "none"] = static(
        "rollout", help="normalize advantages to mean 0 and std 1 over the rollout (code)"
    )
    scale_rewards: advantages.RewardScaling = static(
        "per-rollout", help="divide rewards by the running standard deviation of the return"
    )
    reward_groups: int = static(
        1,
        low=1,
        help="groups of environments whose rewards have statistics of their own, with scale_rewards per-fragment",
    )
    clip_values: bool = static(False, help="clip the value loss as OpenAI Baselines does (range: value_clip)")
    time_limit_is_terminal: bool = static(True, help="treat a time-out as terminal instead of bootstrapping")
    anneal_learning_rate: bool = static(
        False, help="anneal the policy phase's learning rate linearly to final_learning_rate over the run"
    )
    anneal_auxiliary_learning_rate: bool = static(
        False, help="anneal the auxiliary learning rate linearly to final_learning_rate over the run"
    )
    network: torsos.TorsoName = static("auto", help="torso network; auto chooses by the observation shape")
    channels: tuple[int, ...] = static((16, 32, 32), low=1, help="channels of the IMPALA network's blocks")
    features: int = static(0, low=0, help="width of the layer that ends an image network; 0: the published one")
    hidden: tuple[int, ...] = static((64, 64), low=1, help="hidden sizes of the MLP")
    activation: Literal["tanh", "relu"] = static("tanh", help="activation of the MLP")
    initializer: initializers.InitializerName = static("normed", help="weight initialization (code)")
    pooling: layers.PoolingName = static(
        "torch", help="padding of IMPALA's max pooling: as TensorFlow (SAME) or as PyTorch (code)"
    )
    stacked_frames: int = static(1, low=1, help="how many of the last observations the network sees")
    frame_differences: bool = static(False, help="the network also sees what changes between stacked frames")
    previous_action: bool = static(False, help="the network also sees the previous action")
    penalize_repetition: bool = static(False, help="add repetition_penalty to rewards of steps that change nothing")
    adaptive_entropy: bool = static(
        False, help="weight the entropy by raised_entropy_coefficient where agents go round in circles"
    )
    dtype: Literal["float32", "bfloat16"] = static(
        "float32", help="compute dtype of the networks; parameters stay float32"
    )
    matmul_precision: MatmulPrecision = static(
        "default", help="precision of float32 products; default: JAX's own, TF32 on recent GPUs; highest: float32"
    )
    auxiliary_memory: offload.Memory = static(
        "device", help="memory that holds the auxiliary buffer's frames (12 KB per Procgen step)"
    )
    learning_rate: float = traced(5e-4, low=0.0, help="Adam learning rate of the policy phase")
    auxiliary_learning_rate: float = traced(5e-4, low=0.0, help="Adam learning rate of the auxiliary phase")
    final_learning_rate: float = traced(0.0, low=0.0, help="the learning rates at the end, where they are annealed")
    adam_epsilon: float = traced(1e-8, low=0.0, help="Adam epsilon (code)")
    max_grad_norm: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip gradients to this global norm; inf: no clipping (code)"
    )
    max_grad_value: float = traced(
        float("inf"), above=0.0, high=float("inf"), help="clip each number of a gradient to +-this before; inf: none"
    )
    discount: float = traced(0.999, low=0.0, high=1.0, help="discount factor gamma")
    gae_lambda: float = traced(0.95, low=0.0, high=1.0, help="lambda of generalized advantage estimation (GAE)")
    clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the policy ratio")
    value_clip: float = traced(0.2, low=0.0, high=float("inf"), help="clip range of the value loss, if clip_values")
    kl_coefficient: float = traced(1.0, low=0.0, help="beta_pi: weight of the KL penalty, with objective kl")
    entropy_coefficient: float = traced(0.01, help="beta_S: weight of the entropy bonus")
    raised_entropy_coefficient: float = traced(0.02, help="weight of the entropy bonus, see adaptive_entropy")
    repetition_penalty: float = traced(-0.1, help="added to raw rewards, see penalize_repetition")
    value_coefficient: float = traced(1.0, low=0.0, help="weight of the value loss (half the squared error)")
    clone_coefficient: float = traced(1.0, low=0.0, help="beta_clone: weight of the auxiliary phase's KL term")
    reward_discount: float = traced(
        0.99, low=0.0, high=1.0, help="discount of the return that scales rewards (code; not gamma)"
    )
    reward_clip: float = traced(10.0, above=0.0, high=float("inf"), help="clip scaled rewards to +-this (code)")
