"""Meta-test: how well an agent plays a task before and after it has adapted to one episode of it.

The agent's state is never changed: a copy is adapted, played and dropped. Everything is a pure function of one task, so
that many tasks are a `vmap`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from purerl import rng
from purerl.errors import PurerlError
from purerl.loops import collect, play
from purerl.types import Agent, Array, Environment, PyTree, Rollout


class Returns(NamedTuple):
    """Undiscounted returns of the task, float32 [episodes]: of the agent as it was, and adapted."""

    before: Array
    after: Array


def first_returns(rollout: Rollout) -> Array:
    """The return [N] of the first episode of each environment of a rollout [T, N]."""
    ended_before = jnp.cumsum(rollout.done, axis=0) - rollout.done
    return jnp.sum(jnp.where(ended_before == 0, rollout.reward, 0.0), axis=0)


def evaluate_task(
    agent: Agent, environment: Environment, config: Any, state: PyTree, key: Array, *, length: int, episodes: int
) -> Returns:
    """Plays one episode of a task greedily, adapts a copy of the agent to it, and plays both.

    Args:
      agent: with an `adapt`.
      environment: of one task.
      config, state: of one seed; the state as training left it.
      key: typed key [].
      length: steps of an episode, at most.
      episodes: to be played before and after.

    Raises:
      PurerlError: the agent does not adapt.
    """
    if agent.adapt is None:
        raise PurerlError(f"{agent.name} does not adapt: it has no `adapt`")

    def played(state: PyTree, name: str, num_envs: int) -> Rollout:
        begun = collect.begin(agent, environment, config, state, rng.stream(key, name), num_envs)
        clock = play.end_of_training()
        return collect.collect(agent, environment, config, begun, clock, length=length, iteration=0, explore=False)[1]

    with collect.products(config):
        adapted = agent.adapt(config, environment.spec, state, played(state, "new", 1), rng.stream(key, "adapt"))
    before, after = (first_returns(played(x, "evaluation", episodes)) for x in (state, adapted))
    return Returns(before, after)
