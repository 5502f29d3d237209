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
      valid: bool, False where the row is an auto-reset step that took no action: neither learned from nor counted.
        None means that every row is valid.
      life_lost: bool, a life was lost and the game goes on: some papers learn from it as from an end, though the
        episode and its return go on. None where the environment does not tell.
    """

    observation: Array | np.ndarray
    reward: Array | np.ndarray
    terminated: Array | np.ndarray
    truncated: Array | np.ndarray
    final_observation: Array | np.ndarray | None = None
    valid: Array | np.ndarray | None = None
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
class Rollout:
    """T steps of N environments of one seed. Row t: at `observation[t]`, `action[t]` gave `reward[t]`.

    Attributes:
      observation: [T, N, ...] in the environment's dtype.
      action: [T, N] int32, or [T, N, A] float32.
      reward: [T, N] float32, raw.
      terminated, truncated: [T, N] bool, of the step that `action[t]` caused.
      final_observation: [T, N, ...], where action[t] truly led; None where the environment hides it.
      valid: [T, N] bool, or None for all valid.
      life_lost: [T, N] bool, or None where the environment does not tell.
      extras: pytree of [T, N, ...], what the agent's `act` returned beside the action.
      last_observation: [N, ...], the observation after the last row, to bootstrap from.
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    final_observation: Array | None
    valid: Array | None
    extras: PyTree
    last_observation: Array
    life_lost: Array | None = None


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
      environment: [N, ...] environment states; None for host games.
      observation: [N, ...], the observation to act on next.
      episodes: running episode statistics.
      key: the seed's typed base key; constant through the run.
    """

    agent: PyTree
    environment: PyTree
    observation: Array
    episodes: PyTree
    key: Array


class Agent(NamedTuple):
    """An algorithm: pure functions of one seed, which the loops vmap over seeds and hyperparameters.

    Attributes:
      name: registry name.
      Config: flax dataclass; has at least static `num_envs` and `rollout_length`.
      check: (config, spec) -> None; raises PurerlError on impossible sizes, before anything is built.
      init: (config, spec, key) -> State.
      act: (config, spec, state, observation [N, ...], keys [N], clock, explore) -> (action [N, ...], extras).
        `explore` is static: True in training, False for greedy evaluation.
      update: (config, spec, state, rollout, key, clock) -> (State, {name: Metric}).
      acting: the fields of State that `act` reads: all that evaluation loads of a checkpoint.
      interrupt: (config, State, iteration) -> State, of a run whose games were restarted behind that many iterations:
        what was stored last is not followed by what comes next. None where nothing outlives a rollout.
      plays_greedily: whether a trained agent plays with `explore` off (the DQN family, with an epsilon of its own), not
        only when that is asked for.
      defaults: config fields whose default is another one under this name (a variant with a name of its own).
    """

    name: str
    Config: type
    check: Callable[[Any, EnvSpec], None]
    init: Callable[[Any, EnvSpec, Array], PyTree]
    act: Callable[..., tuple[Array, PyTree]]
    update: Callable[..., tuple[PyTree, dict[str, Metric]]]
    acting: tuple[str, ...] = ("params",)
    interrupt: Callable[[Any, PyTree, Array], PyTree] | None = None
    plays_greedily: bool = False
    defaults: Mapping[str, Any] = types.MappingProxyType({})
