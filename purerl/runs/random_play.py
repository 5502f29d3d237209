"""What random play reaches: the mark that a learning curve must rise above, measured before a run trains."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from purerl import cache, registry
from purerl.errors import PurerlError
from purerl.runs import evaluation, files, provenance
from purerl.runs.plan import Plan
from purerl.types import Agent, Array, EnvSpec, Inputs, PyTree

# Environments whose episodes are longer than this have no random return: measuring it would not be cheap.
MOST_STEPS = 5_000
SEED = 0
CACHE = "random-returns"


@struct.dataclass
class NoSettings:
    """The Config of random play."""


def _act(
    config: NoSettings,
    spec: EnvSpec,
    state: PyTree,
    memory: PyTree,
    inputs: Inputs,
    keys: Array,
    clock: PyTree,
    explore: bool,
) -> tuple[Array, PyTree, PyTree]:
    """Uniform actions [N, ...]; a dimension without bounds is normally distributed, within the bound that it has."""
    if spec.num_actions:
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, spec.num_actions))(keys), memory, ()
    low, high = map(jnp.asarray, spec.action_bounds)
    bounded = jnp.isfinite(low) & jnp.isfinite(high)
    least, most = jnp.where(bounded, low, 0.0), jnp.where(bounded, high, 1.0)

    def draw(key: Array) -> Array:
        uniform = jax.random.uniform(key, low.shape, minval=least, maxval=most)
        normal = jnp.clip(jax.random.normal(jax.random.fold_in(key, 1), low.shape), low, high)
        return jnp.where(bounded, uniform, normal)

    return jax.vmap(draw)(keys), memory, ()


RANDOM = Agent(
    name="random",
    Config=NoSettings,
    check=lambda config, spec: None,
    init=lambda config, spec, key: jnp.zeros(()),
    act=_act,
    update=lambda config, spec, state, rollout, key, clock: (state, {}),
    acting=(),
)


def random_return(plan: Plan, episodes: int) -> dict[str, Any] | None:
    """The mean return of random play in a plan's environment, raw and undiscounted.

    One whole episode of each of `episodes` environments is played, so short ones do not count more than long ones. It
    is the same number for every run in the environment with the same options, and it is kept in purerl's cache.
    Environments of the user's own code are measured each time, because that code may change.

    Args:
      plan: of the run.
      episodes: how many; 0 for no measurement.

    Returns:
      {"mean", "standard_error" of the mean, "episodes", "definition"}, or None if nothing was measured or an episode
      took more than MOST_STEPS steps.
    """
    if not episodes:
        return None
    path = _cached(plan, episodes)
    if path is not None:
        with contextlib.suppress(PurerlError, KeyError):
            return files.read_json(path)["random_return"]
    found = _measure(plan, episodes)
    if path is not None:
        with contextlib.suppress(PurerlError, OSError):  # a cache that cannot be written costs the time again
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, {"env": plan.env, "random_return": found})
    return found


def _measure(plan: Plan, episodes: int) -> dict[str, Any] | None:
    alone = dataclasses.replace(plan, seeds=(SEED,), lanes="auto", config=NoSettings())
    player = evaluation.Player(alone, num_envs=episodes, agent=RANDOM)
    try:
        played = evaluation.evaluate_agent(
            alone, jnp.zeros(1), episodes=1, num_envs=episodes, max_steps=MOST_STEPS, player=player
        )
    except evaluation.TooLong:
        return None
    returns = played.returns.reshape(-1)
    return {
        "mean": float(returns.mean()),
        "standard_error": float(returns.std(ddof=1) / math.sqrt(episodes)) if episodes > 1 else None,
        "episodes": episodes,
        "definition": "uniformly random actions, one whole episode of each environment; raw, undiscounted",
    }


def _cached(plan: Plan, episodes: int) -> Path | None:
    """The file of a measurement; None if it is not kept."""
    if plan.imports or not registry.is_own_family(plan.env.partition("/")[0]):
        return None
    options = dataclasses.asdict(plan.options)
    key = files.to_json([plan.env, options, episodes, MOST_STEPS, provenance.versions()])
    return cache.folder(CACHE) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
