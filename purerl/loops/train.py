"""Training as a pure function: one iteration, and a whole run as a scan of it.

`iterate` is the heart of every run: the run-keeping loop (`in_graph`) calls it in chunks, and `Train` scans it, so
that a whole run can stand inside anyone's jit, vmap, scan or grad.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from purerl import configs, rng
from purerl.loops import collect, episodes
from purerl.types import Agent, Array, Clock, Environment, Metric, Rollout, RunState


def init_run_state(agent: Agent, environment: Environment, config: Any, key: Array) -> RunState:
    """The state of one seed before its first iteration. `key` is the seed's typed base key []."""
    state = agent.init(config, environment.spec, rng.init_key(key))
    run_state = collect.begin(agent, environment, config, state, key, config.num_envs)
    return run_state.replace(episodes=episodes.init_tracker(config.num_envs))


def learn(
    agent: Agent, spec: Any, config: Any, run_state: RunState, rollout: Rollout, clock: Clock
) -> tuple[RunState, dict[str, Metric]]:
    """Updates the agent of one seed on a rollout and follows its episodes. Every loop ends an iteration with this."""
    tracker, episode_metrics = episodes.track(run_state.episodes, rollout.reward, rollout.done)
    episode_metrics |= episodes.reported(spec.episode_metrics, rollout)
    with collect.products(config):
        agent_state, metrics = agent.update(
            config, spec, run_state.agent, rollout, rng.update_key(run_state.key, clock.iteration), clock
        )
    return run_state.replace(agent=agent_state, episodes=tracker), metrics | episode_metrics


def iterate(
    agent: Agent, environment: Environment, config: Any, run_state: RunState, clock: Clock
) -> tuple[RunState, dict[str, Metric]]:
    """One iteration of one seed: collect a rollout, learn from it."""
    run_state, rollout = collect.collect(
        agent, environment, config, run_state, clock, length=config.rollout_length, iteration=clock.iteration
    )
    return learn(agent, environment.spec, config, run_state, rollout, clock)


@dataclasses.dataclass(frozen=True, eq=False)
class Train:
    """A whole training run as a pure function of a key and a config.

        state, curves = train(key)
        state, curves = jax.jit(jax.vmap(train))(keys)
        state, curves = jax.vmap(jax.vmap(train, (None, 0)), (0, None))(keys, train.config.replace(learning_rate=rates))

    Attributes:
      agent, environment: what is trained in what.
      config: the agent's Config with its traced fields as float32 arrays, the default of every call. Its `replace`
        with an array of values gives every traced field that leading axis, so that the whole config can be vmapped
        over.
      iterations: updates of a run.
    """

    agent: Agent
    environment: Environment
    config: Any
    iterations: int

    __name__ = "train"  # what jax.jit calls its program

    def __call__(self, key: Array, config: Any = None) -> tuple[RunState, dict[str, Array]]:
        """Trains one seed from the start.

        Args:
          key: the seed's typed key []; `purerl.seed_keys` gives those of `purerl.train`.
          config: traced fields with one value each; None for `self.config`.

        Returns:
          the RunState after the last iteration, and the curves {metric: float32 [iterations]}: each the mean over an
          iteration, NaN where it has nothing to average (no episode ended, say).
        """
        config = self.config if config is None else config
        return self.run(self.init(key, config), config)

    def init(self, key: Array, config: Any = None) -> RunState:
        """The RunState of one seed before its first iteration."""
        return init_run_state(self.agent, self.environment, self.config if config is None else config, key)

    def run(
        self, state: RunState, config: Any = None, *, first: Array | int = 0, iterations: int | None = None
    ) -> tuple[RunState, dict[str, Array]]:
        """Goes on from a RunState: what population-based training calls between its changes.

        Args:
          state: of one seed.
          config: as in `__call__`.
          first: int [], iterations that the state has already made. It must not be batched: schedules and phases follow
            it.
          iterations: how many to go on for; None for all that are left of `self.iterations` after `first` (then an
            int).

        Returns:
          (state, curves), as `__call__`.
        """
        config = self.config if config is None else config
        iterations = self.iterations - first if iterations is None else iterations
        total = jnp.int32(self.iterations)

        def step(state: RunState, i: Array) -> tuple[RunState, dict[str, Array]]:
            state, metrics = iterate(self.agent, self.environment, config, state, Clock(i, total))
            return state, {name: metric.mean() for name, metric in metrics.items()}

        return jax.lax.scan(step, state, first + jnp.arange(iterations, dtype=jnp.int32))


def make_train(agent: Agent, environment: Environment, config: Any, iterations: int) -> Train:
    """The Train of an agent in an environment. `config` has plain numbers or arrays in its traced fields."""
    arrays = configs.traced(config)
    fields = {field.name: getattr(arrays, field.name) for field in dataclasses.fields(arrays)}
    return Train(agent, environment, _sweepable(type(config))(**fields), iterations)


@functools.cache
def _sweepable(cls: type) -> type:
    """A config class whose `replace` broadcasts all traced fields to the leading axes of the new ones."""

    def replace(self: Any, **changes: Any) -> Any:
        traced = configs.traced_fields(type(self))
        values = {name: jnp.asarray(changes.get(name, getattr(self, name)), jnp.float32) for name in traced}
        shape = jnp.broadcast_shapes(*(value.shape for value in values.values()))
        values = {name: jnp.broadcast_to(value, shape) for name, value in values.items()}
        return dataclasses.replace(self, **changes | values)

    sweepable = struct.dataclass(type(cls.__name__, (cls,), {"__module__": cls.__module__, "__doc__": cls.__doc__}))
    sweepable.replace = replace
    return sweepable
