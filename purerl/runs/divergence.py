"""Finds NaN and infinity in what an agent has learned: its parameters and optimizer state, lane by lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rng
from purerl.loops import lanes as lane_ways
from purerl.types import Agent, Array, EnvSpec, PyTree

# Fields of a State with one of these in their names are checked, and those that acting reads. Not a replay, say: a game
# may show infinity.
LEARNED = ("param", "optim", "opt_state")
# What to do about it: which of the two it was is in the rows, and cannot be known here.
ADVICE = "The rows of metrics.jsonl show what grew before it: a loss (try a smaller step size), or the game's rewards"


class Divergence:
    """Looks for NaN and infinity in the State of an agent, on its device.

    Args:
      agent, spec, config: of the program; the config's traced fields are arrays.
    """

    def __init__(self, agent: Agent, spec: EnvSpec, config: Any):
        self._agent, self._spec, self._config = agent, spec, config
        self._excused: np.ndarray | None = None

    def find(self, state: PyTree, keys: Array) -> dict[int, list[str]]:
        """{lane: names of its leaves with NaN or infinity}, of the lanes that have some.

        A leaf that begins so (the infinite best value of a schedule) may stay so.

        Args:
          state: the agent's State [S, ...].
          keys: the seeds' base keys [S].
        """
        leaves = learned(self._agent, state)
        if not leaves:
            return {}
        found = np.asarray(_flags_of_lanes(list(leaves.values())))
        if not found.any():
            return {}
        if self._excused is None:
            first = lane_ways.in_turn(lambda config, key: _not_finite(self._first_leaves(config, key)))
            self._excused = np.asarray(first(self._config, keys))
        found = found & ~self._excused
        names = list(leaves)
        return {
            int(lane): [names[i] for i in np.flatnonzero(found[lane])] for lane in np.flatnonzero(found.any(axis=1))
        }

    def _first_leaves(self, config: Any, key: Array) -> list[Array]:
        return list(learned(self._agent, self._agent.init(config, self._spec, rng.init_key(key))).values())


def learned(agent: Agent, state: PyTree) -> dict[str, Array]:
    """{path: leaf} of the real numbers in the parameters and optimizer states of a State."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        field = jax.tree_util.keystr(path[:1], simple=True)
        if (field in agent.acting or any(part in field for part in LEARNED)) and jnp.issubdtype(
            leaf.dtype, jnp.inexact
        ):
            found[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    return found


def _not_finite(leaves: list[Array]) -> Array:
    """Which leaves have NaN or infinity, bool [L]."""
    return jnp.stack([~jnp.all(jnp.isfinite(leaf)) for leaf in leaves])


# One for all programs, so that the next one of the same shapes compiles nothing.
_flags_of_lanes = jax.jit(jax.vmap(_not_finite))


def named(leaves: Sequence[str]) -> str:
    """A few words for leaves: the first, and how many there are beside it."""
    more = len(leaves) - 1
    return leaves[0] + (f" and {more} other array{'s' if more > 1 else ''} of the agent" if more else "")
