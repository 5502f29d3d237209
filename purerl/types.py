"""The types that the engine, the agents and the environments agree on.

Axis letters in all docstrings: S seeds, T time steps of a rollout, N environments of one seed. Agents never see S (the
loops vmap over it).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array
PyTree = Any


def static(default: Any = dataclasses.MISSING, *, help: str = "") -> Any:
    """A config field that shapes the program (a length, a switch): part of the compiled program's identity."""
    return struct.field(pytree_node=False, default=default, metadata={"help": help})


def traced(default: Any = dataclasses.MISSING, *, help: str = "") -> Any:
    """A config field that is an array in the program: it can be changed without compiling again, and vmapped."""
    return struct.field(pytree_node=True, default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What an agent may know of an environment. Hashable, so it can be a static argument.

    Attributes:
      name: "family/id", as on the command line.
      observation_shape: shape of one observation, without batch axes.
      observation_dtype: numpy dtype name ("uint8", "float32", "bool"); uint8 stays uint8 until inside the loss.
      num_actions: number of discrete actions; 0 for continuous actions.
      action_shape: () for discrete actions, the shape of one action otherwise.
      action_low, action_high: bounds of a continuous action.
      shows_final_observation: whether the last observation of an episode is seen before the auto-reset replaces it
        (Procgen hides it), so whether a time-out can be bootstrapped.
      stacked_frames: k > 1 where an observation is the last k frames on its first axis, oldest first, zeros before an
        episode's first frame (Atari). A replay then stores each frame once.
    """

    name: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int
    action_shape: tuple[int, ...] = ()
    action_low: float = -1.0
    action_high: float = 1.0
    shows_final_observation: bool = True
    stacked_frames: int = 1

    @property
    def action_dtype(self) -> str:
        """int32 for discrete actions, float32 for vectors."""
        return "int32" if self.num_actions else "float32"


@struct.dataclass
class TimeStep:
    """What an environment (or a batch of them: every field then leads with the batch axes) shows after an action.

    Attributes:
      observation: the observation to act on next: after an episode's end, the first one of the new episode.
      reward: float32, raw reward of the action just taken.
      terminated: bool, the episode ended by the rules of the game.
      truncated: bool, the episode was cut off by a time limit.
      final_observation: the observation the action truly led to (equal to `observation` unless the episode ended), or
        None where the environment hides it.
      life_lost: bool, a life was lost and the game goes on: some papers learn from it as from an end, though the
        episode and its return go on. None where the environment does not tell.
    """

    observation: Array | np.ndarray
    reward: Array | np.ndarray
    terminated: Array | np.ndarray
    truncated: Array | np.ndarray
    final_observation: Array | np.ndarray | None = None
    life_lost: Array | np.ndarray | None = None


class Environment(NamedTuple):
    """An environment written in JAX, unbatched: the loops vmap it over [S, N].

    Attributes:
      spec: its EnvSpec.
      reset: key -> (state, observation).
      step: (key, state, action) -> (state, TimeStep), resetting itself at an episode's end.
    """

    spec: EnvSpec
    reset: Callable[[Array], tuple[PyTree, Array]]
    step: Callable[[Array, PyTree, Array], tuple[PyTree, TimeStep]]


class Pool(Protocol):
    """S x N games that live on the host, in G alternating groups of [S, N / G], so that one group can be stepped by C++
    threads while the accelerator acts for another. Environment n of seed s is column n % (N / G) of group n // (N / G).

    A pool is a context manager that closes itself. Arrays given by `reset` and `recv` are numpy arrays that stay
    unchanged until the next `send` of the same group. Using a closed pool, a wrong shape, or a receive
    without a send raises PurerlError.
    """

    spec: EnvSpec
    num_seeds: int
    num_envs: int
    num_groups: int
    resumes_exactly: bool

    def reset(self, group: int) -> np.ndarray:
        """First observations of a group, [S, N / G, ...]. Only before its first send."""

    def send(self, group: int, actions: np.ndarray) -> None:
        """Starts stepping a group with int32 (or float32) actions [S, N / G, ...]; returns at once."""

    def recv(self, group: int) -> TimeStep:
        """Waits for the group's step and returns its TimeStep of numpy arrays [S, N / G, ...]."""

    def state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray]:
        """Everything needed to continue exactly, as plain numeric arrays (only while no step is under way): of all
        seeds, or of those in `lanes`, for a pool of these alone."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Loads what `state` returned, in a pool of the same shape. Where `resumes_exactly` is False (Atari), new
        episodes begin instead, and `reset` gives their first observations."""

    def close(self) -> None:
        """Frees the games. Safe to call twice."""

    def __enter__(self) -> Pool: ...

    def __exit__(self, *exc: object) -> None: ...


@struct.dataclass
class Inputs:
    """What an agent may look at when it acts, [N, ...] (and [T, N, ...] when it learns).

    Attributes:
      observation: in the environment's dtype.
      is_first: bool, the observation is the first one of an episode.
      last_action: int32 [N], or float32 [N, A], the action before; 0 where `is_first`.
      last_reward: float32, the raw reward of that action; 0 where `is_first`.
    """

    observation: Array
    is_first: Array
    last_action: Array
    last_reward: Array

    @classmethod
    def at_start(cls, spec: EnvSpec, observation: Array) -> Inputs:
        """The inputs [N, ...] of first observations [N, ...]."""
        num_envs = observation.shape[0]
        return cls(
            observation,
            jnp.ones(num_envs, jnp.bool_),
            jnp.zeros((num_envs, *spec.action_shape), spec.action_dtype),
            jnp.zeros(num_envs, jnp.float32),
        )

    @classmethod
    def after(cls, observation: Array, action: Array, reward: Array, done: Array) -> Inputs:
        """The inputs after `action` gave `reward` and led to `observation`, which begins an episode where `done`."""
        action_done = done.reshape(*done.shape, *[1] * (action.ndim - done.ndim))
        return cls(observation, done, jnp.where(action_done, 0, action), jnp.where(done, 0.0, reward))


@struct.dataclass
class Rollout:
    """T steps of N environments of one seed. Row t: at `observation[t]`, `action[t]` gave `reward[t]`.

    Attributes:
      observation: [T, N, ...] in the environment's dtype.
      action: [T, N] int32, or [T, N, A] float32.
      reward: [T, N] float32, raw.
      terminated, truncated: [T, N] bool, of the step that `action[t]` caused.
      final_observation: [T, N, ...], where action[t] truly led; None where the environment hides it.
      extras: pytree of [T, N, ...], what the agent's `act` returned beside the action.
      first: the Inputs [N, ...] of row 0.
      last: the Inputs [N, ...] after the last row, to bootstrap from.
      memory: the agent's Memory [N, ...] before row 0, as acting found it (see `Agent.init_memory`).
      last_memory: the same after the last row.
      life_lost: [T, N] bool, or None where the environment does not tell.
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    final_observation: Array | None
    extras: PyTree
    first: Inputs
    last: Inputs
    memory: PyTree = ()
    last_memory: PyTree = ()
    life_lost: Array | None = None

    @property
    def done(self) -> Array:
        """bool [T, N], the episode ended with this step, by the rules or by a time limit."""
        return self.terminated | self.truncated

    def inputs(self) -> Inputs:
        """The Inputs [T, N, ...] that each row was acted on with: what a recurrent network is replayed over."""

        def shifted(first: Array, rows: Array) -> Array:
            return jnp.concatenate([first[None], rows[:-1]])

        after = Inputs.after(self.observation, self.action, self.reward, self.done)
        return Inputs(
            self.observation,
            shifted(self.first.is_first, after.is_first),
            shifted(self.first.last_action, after.last_action),
            shifted(self.first.last_reward, after.last_reward),
        )

    def final_inputs(self) -> Inputs:
        """The Inputs [T, N, ...] of the observations that the actions truly led to, before any reset. Only where the
        environment shows its final observations.
        """
        return Inputs(self.final_observation, jnp.zeros_like(self.done), self.action, self.reward)


@struct.dataclass
class GaussianParameters:
    """Independent normal distributions: mean and log standard deviation, each [..., D]."""

    mean: Array
    log_std: Array


@struct.dataclass
class Clock:
    """Where the run stands. Never batched, so that a `lax.cond` on it stays a branch under vmap.

    Attributes:
      iteration: int32 [], updates done so far. Environment steps are iteration * T * N, counted by the host in Python
        integers, so they never overflow.
      total_iterations: int32 [], the run's planned length (for schedules).
    """

    iteration: Array
    total_iterations: Array

    def fraction_done(self) -> Array:
        """Share of the run that is over, float32 in [0, 1)."""
        return self.iteration.astype(jnp.float32) / jnp.maximum(self.total_iterations, 1)


@struct.dataclass
class Metric:
    """A masked mean that can still be added to: a sum and the number of things summed, float32 []."""

    total: Array
    count: Array

    def mean(self) -> Array:
        """float32 []; NaN of nothing."""
        return self.total / self.count

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> Metric:
        """The metric of all `values` (any shape), or of those where `mask` (same shape) is true."""
        if mask is None:
            return cls(jnp.sum(values, dtype=jnp.float32), jnp.float32(values.size))
        return cls(jnp.sum(jnp.where(mask, values, 0), dtype=jnp.float32), jnp.sum(mask, dtype=jnp.float32))


@struct.dataclass
class RunState:
    """Everything of one seed that the next iteration depends on. Together with the iteration number (and, for host
    games, the pool's state) it is the checkpoint.

    Attributes:
      agent: the agent's State.
      memory: the agent's Memory [N, ...], what acting carries from step to step; () for agents without.
      environment: [N, ...] environment states; None for environments on the host.
      inputs: Inputs [N, ...], what to act on next.
      episodes: running episode statistics.
      key: the seed's typed base key; constant through the run.
    """

    agent: PyTree
    memory: PyTree
    environment: PyTree
    inputs: Inputs
    episodes: PyTree
    key: Array


def no_memory(config: Any, spec: EnvSpec) -> tuple[()]:
    """The `init_memory` of an agent that acts without memory."""
    return ()


class Agent(NamedTuple):
    """An algorithm: pure functions of one seed, which the loops vmap over seeds and hyperparameters.

    Attributes:
      name: registry name.
      Config: flax dataclass; has at least static `num_envs` and `rollout_length`.
      check: (config, spec) -> None; raises PurerlError on impossible sizes, before anything is built.
      init: (config, spec, key) -> State.
      act: (config, spec, state, memory [N, ...], inputs: Inputs [N, ...], keys [N], clock, explore) -> (action [N,
        ...], memory [N, ...], extras [N, ...]). `explore` is static: True in training, False for greedy evaluation.
        The loops put the first memory back where `inputs.is_first`, before they call this.
      update: (config, spec, state, rollout, key, clock) -> (State, {name: Metric}).
      init_memory: (config, spec) -> Memory of one environment (no batch axis) at the start of an episode.
      acting: the fields of State that `act` reads: all that evaluation loads of a checkpoint.
      adapt: (config, spec, state, rollouts, key) -> State, for meta-test adaptation inside evaluation; None for none.
      on_env_restart: (config, State, iteration) -> State, of a run whose environments were restarted after that many
        iterations: what was stored last is not followed by what comes next. None where nothing outlives a rollout.
      plays_greedily: whether a trained agent plays with `explore` off (the DQN family, with an epsilon of its own), not
        only when that is asked for.
      defaults: config fields whose default is another one under this name (a variant with a name of its own).
    """

    name: str
    Config: type
    check: Callable[[Any, EnvSpec], None]
    init: Callable[[Any, EnvSpec, Array], PyTree]
    act: Callable[..., tuple[Array, PyTree, PyTree]]
    update: Callable[..., tuple[PyTree, dict[str, Metric]]]
    init_memory: Callable[[Any, EnvSpec], PyTree] = no_memory
    acting: tuple[str, ...] = ("params",)
    adapt: Callable[..., PyTree] | None = None
    on_env_restart: Callable[[Any, PyTree, Array], PyTree] | None = None
    plays_greedily: bool = False
    defaults: Mapping[str, Any] = types.MappingProxyType({})
