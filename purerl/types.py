"""The shared types of the loops, the agents and the environments.

Axis letters in all docstrings: S seeds, T time steps of a rollout, N environments of one seed. Agents never see S (the
loops vmap over it).
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.errors import PurerlError

Array = jax.Array
PyTree = Any
MatmulPrecision = Literal["default", "high", "highest"]


def static(
    default: Any = dataclasses.MISSING,
    *,
    help: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A config field that is a constant of the compiled program (a length, a switch): a new value compiles again.

    Args:
      default: its default.
      help: what it is, one line.
      low, high: the smallest and the largest value, or element of a tuple. Integers are at least 0 unless `low` says
        otherwise. A number with bounds is finite, unless `high` is infinite.
      above: what the value must exceed, in place of `low`.
    """
    return struct.field(pytree_node=False, default=default, metadata=_metadata(help, low, high, above))


def traced(
    default: Any = dataclasses.MISSING,
    *,
    help: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A config field that is an array in the program: it can be vmapped and changed without compiling again.

    The arguments are as in `static`.
    """
    return struct.field(pytree_node=True, default=default, metadata=_metadata(help, low, high, above))


def _metadata(help: str, low: float | None, high: float | None, above: float | None) -> dict[str, Any]:
    bounds = {"low": low, "high": high, "above": above}
    return {"help": help} | {name: value for name, value in bounds.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What an agent may know about an environment. Hashable, so it can be a static argument.

    Attributes:
      name: "family/id", as on the command line.
      observation_shape: shape of one observation, without batch axes.
      observation_dtype: numpy dtype name ("uint8", "float32", "bool"); uint8 is converted only inside the network.
      num_actions: number of discrete actions; 0 for continuous actions.
      action_shape: () for discrete actions, the shape of one action otherwise.
      action_low, action_high: bounds of a continuous action, perhaps infinite: one number for all dimensions, or one
        for each (an array's elements in order). Equal ones become one number. See `action_bounds`.
      shows_final_observation: whether the last observation of an episode is returned in spite of the auto-reset
        (Procgen hides it), so that a time-out can be bootstrapped.
      stacked_frames: k > 1 if an observation is the last k frames on its first axis, oldest first, zeros before an
        episode's first frame (Atari). A replay then stores each frame once.
      episode_metrics: names of what the environment reports of an episode beside its return and length, in the order of
        `TimeStep.episode_metrics`. Rows of metrics show the means over episodes, in the graph.
    """

    name: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int
    action_shape: tuple[int, ...] = ()
    action_low: tuple[float, ...] | float = -1.0
    action_high: tuple[float, ...] | float = 1.0
    shows_final_observation: bool = True
    stacked_frames: int = 1
    episode_metrics: tuple[str, ...] = ()

    def __post_init__(self):
        size = math.prod(self.action_shape)
        for name in ("action_low", "action_high"):
            bound = np.asarray(getattr(self, name), np.float64).reshape(-1)
            if bound.size not in (1, size):
                raise PurerlError(
                    f"{self.name}: {name} has {bound.size} numbers, and an action has {size}: give one for each"
                )
            same = (bound == bound[0]).all()
            object.__setattr__(self, name, float(bound[0]) if same else tuple(bound.tolist()))

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(lowest, highest) continuous action, float32 [*action_shape] each."""

        def filled(bound: tuple[float, ...] | float) -> np.ndarray:
            size = math.prod(self.action_shape)
            return np.broadcast_to(np.asarray(bound, np.float32), size).reshape(self.action_shape)

        return filled(self.action_low), filled(self.action_high)

    @property
    def action_dtype(self) -> str:
        """int32 for discrete actions, float32 for vectors."""
        return "int32" if self.num_actions else "float32"


@struct.dataclass
class TimeStep:
    """The result of an action in an environment, or in a batch of them (all fields then have leading batch axes).

    Attributes:
      observation: the observation to act on next: after an episode's end, the first one of the new episode.
      reward: float32, raw reward of the last action.
      terminated: bool, the rules of the environment ended the episode.
      truncated: bool, a time limit ended the episode.
      final_observation: the observation after the action, before any reset (equal to `observation` unless the episode
        ended), or None if the environment hides it.
      life_lost: bool, a life was lost and the episode continues. Some papers treat this as a termination in learning,
        although the episode and its return continue. None if the environment does not report it.
      episode_metrics: float32 [..., M], a number for each name in the spec's `episode_metrics`: of the episode up to
        this step, and read where it ends. None for an environment without them.
    """

    observation: Array | np.ndarray
    reward: Array | np.ndarray
    terminated: Array | np.ndarray
    truncated: Array | np.ndarray
    final_observation: Array | np.ndarray | None = None
    life_lost: Array | np.ndarray | None = None
    episode_metrics: Array | np.ndarray | None = None


class Environment(NamedTuple):
    """An environment written in JAX, unbatched: the loops vmap it over [S, N].

    Attributes:
      spec: its EnvSpec.
      reset: key -> (state, observation).
      step: (key, state, action) -> (state, TimeStep), with an automatic reset at an episode's end.
      begin: (seed uint32 [], num_envs) -> (states, observations) [N, ...]: used in place of `reset` at the start, by
        environments whose games are those that a host library makes of the seed. None for all others.
      step_batch: `step` of a batch [N], (keys, states, actions) -> (states, TimeStep) [N, ...], for environments that
        can do better than a vmap of it: reset those alone whose episodes ended, say. None for all others.
    """

    spec: EnvSpec
    reset: Callable[[Array], tuple[PyTree, Array]]
    step: Callable[[Array, PyTree, Array], tuple[PyTree, TimeStep]]
    begin: Callable[[Array, int], tuple[PyTree, Array]] | None = None
    step_batch: Callable[[Array, PyTree, Array], tuple[PyTree, TimeStep]] | None = None

    def step_all(self, keys: Array, states: PyTree, actions: Array) -> tuple[PyTree, TimeStep]:
        """Steps N environments with keys [N]: by `step_batch`, or by a vmap of `step`."""
        return (self.step_batch or jax.vmap(self.step))(keys, states, actions)


class Pool(Protocol):
    """S x N host environments in G alternating groups of [S, N / G].

    While C++ threads step one group, the accelerator acts for another. Environment n of seed s is column n % (N / G) of
    group n // (N / G).

    A pool is a context manager that closes itself. Arrays returned by `reset` and `recv` are numpy arrays that stay
    unchanged until the next `send` of the same group. Using a closed pool, a wrong shape, or a receive without a send
    raises PurerlError.
    """

    spec: EnvSpec
    num_seeds: int
    num_envs: int
    num_groups: int
    resumes_exactly: bool

    def reset(self, group: int) -> np.ndarray:
        """First observations of a group, [S, N / G, ...]. Only before its first send."""
        ...

    def send(self, group: int, actions: np.ndarray) -> None:
        """Starts stepping a group with int32 (or float32) actions [S, N / G, ...]; returns at once."""
        ...

    def recv(self, group: int) -> TimeStep:
        """Waits for the group's step and returns its TimeStep of numpy arrays [S, N / G, ...]."""
        ...

    def state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray]:
        """Everything needed to continue exactly, as plain numeric arrays: for all seeds, or for those in `lanes`.

        It must not be called between `send` and `recv`. A pool with only the seeds of `lanes` can restore their state.
        """
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Loads a result of `state` in a pool of the same shape.

        If `resumes_exactly` is False (Atari), new episodes begin instead, and `reset` returns their first observations.
        """
        ...

    def close(self) -> None:
        """Frees the environments. Safe to call twice."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(self, *exc: object) -> None: ...


@struct.dataclass
class Inputs:
    """The inputs of an agent when it acts, [N, ...] (and [T, N, ...] when it learns).

    Attributes:
      observation: in the environment's dtype.
      is_first: bool, the observation is the first one of an episode.
      last_action: int32 [N], or float32 [N, A], the previous action; 0 where `is_first`.
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
        """The inputs after `action` gave `reward` and led to `observation`, which starts an episode where `done`."""
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
      final_observation: [T, N, ...], the observation after action[t], before any reset; None if the environment hides
        it.
      extras: pytree of [T, N, ...], what the agent's `act` returned in addition to the action.
      first: the Inputs [N, ...] of row 0.
      last: the Inputs [N, ...] after the last row, to bootstrap from.
      memory: the agent's Memory [N, ...] before row 0, as used in acting (see `Agent.init_memory`).
      last_memory: the same after the last row.
      life_lost: [T, N] bool, or None if the environment does not report it.
      states: [T, N, ...], the environments' states that were acted in; None except where a video asks for them.
      episode_metrics: [T, N, M], as in `TimeStep`, or None.
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
    states: PyTree = None
    episode_metrics: Array | None = None

    @property
    def done(self) -> Array:
        """bool [T, N], the episode ended with this step, by termination or by a time limit."""
        return self.terminated | self.truncated

    def inputs(self) -> Inputs:
        """The Inputs [T, N, ...] with which each row was acted on; a recurrent network is replayed over them."""

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
        """The Inputs [T, N, ...] of the observations after the actions, before any reset.

        This needs an environment that shows its final observations.
        """
        assert self.final_observation is not None
        return Inputs(self.final_observation, jnp.zeros_like(self.done), self.action, self.reward)


@struct.dataclass
class GaussianParameters:
    """Independent normal distributions: mean and log standard deviation, each [..., D]."""

    mean: Array
    log_std: Array


@struct.dataclass
class Clock:
    """The progress of the run. Never batched, so that a `lax.cond` on it stays a branch under vmap.

    Attributes:
      iteration: int32 [], updates done so far. `iteration * T`, the steps of each environment, fits too: a longer run
        is refused (`runs.plan`). Environment steps of all are iteration * T * N; the host counts them in Python
        integers, so they never overflow.
      total_iterations: int32 [], the run's planned length (for schedules).
    """

    iteration: Array
    total_iterations: Array

    def fraction_done(self) -> Array:
        """Share of the run that is done, float32 in [0, 1)."""
        return self.iteration.astype(jnp.float32) / jnp.maximum(self.total_iterations, 1)


@struct.dataclass
class Metric:
    """A masked mean that can be accumulated: a sum and the number of summed values.

    The loops lose nothing of either over a run of any length (`loops.sums`).

    Attributes:
      total: float32 [].
      count: int32 []; float32 for a sum of weights.
    """

    total: Array
    count: Array

    def mean(self) -> Array:
        """float32 []; NaN if the count is 0."""
        return self.total / jnp.asarray(self.count, jnp.float32)

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> Metric:
        """The metric of all `values` (any shape), or of those where `mask` (same shape) is true."""
        if mask is None:
            return cls(jnp.sum(values, dtype=jnp.float32), jnp.int32(values.size))
        return cls(jnp.sum(jnp.where(mask, values, 0), dtype=jnp.float32), jnp.sum(mask, dtype=jnp.int32))


@struct.dataclass
class RunState:
    """The whole state of one seed, on which the next iteration depends.

    The checkpoint consists of it, the iteration number and, for host environments, the pool's state.

    Attributes:
      agent: the agent's State.
      memory: the agent's Memory [N, ...], which acting carries from step to step; () for agents without memory.
      environment: [N, ...] environment states; None for host environments.
      inputs: Inputs [N, ...] of the next action.
      episodes: running episode statistics.
      key: the seed's typed base key; constant during the run.
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
      Config: flax dataclass; has at least static `num_envs` and `rollout_length`. The loops also follow a static
        `matmul_precision`, if there is one (see `loops.collect.products`).
      check: (config, spec) -> None; raises PurerlError for invalid sizes, before anything is built.
      init: (config, spec, key) -> State.
      act: (config, spec, state, memory [N, ...], inputs: Inputs [N, ...], keys [N], clock, explore) -> (action [N,
        ...], memory [N, ...], extras [N, ...]). `explore` is static: True in training, False for greedy evaluation.
        The loops reset the memory where `inputs.is_first`, before they call this.
      update: (config, spec, state, rollout, key, clock) -> (State, {name: Metric}).
      init_memory: (config, spec) -> Memory of one environment (no batch axis) at the start of an episode.
      acting: the fields of State that `act` reads; evaluation loads only these from a checkpoint.
      adapt: (config, spec, state, rollouts, key) -> State, for meta-test adaptation inside evaluation; None for none.
      on_env_restart: (config, State, iteration) -> State, called if the environments are restarted after `iteration`
        iterations: the last stored row is not followed by the next one. None if no data outlives a rollout.
      plays_greedily: whether a trained agent always plays with `explore` off (the DQN family, with its own epsilon),
        and not only on request.
      defaults: config fields with another default under this name (for a variant of an agent).
      environment_axes: {field of State: the axis of its arrays that counts environments}, of fields that are to be
        spread over the devices where a seed has several; the others are then on each of them. None if the agent was
        not tried so: it gets several devices only where a user asks for them.
      passes: (config, iteration, total_iterations), integers, -> the passes over one rollout's data that the update of
        that iteration makes, for `hours`, which leaves room for long ones. None if all iterations take as long.
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
    environment_axes: Mapping[str, int] | None = None
    passes: Callable[[Any, int, int], float] | None = None
