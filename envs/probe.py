"""Probe environments: tiny environments with exactly known optimal values, to test an agent part by part.

| id          | game                                                         | what a correct agent learns             |
| constant    | one step, reward 1                                           | V = 1                                   |
| observation | one step, observation o in {-1, 1}, reward o                 | V(o) = o                                |
| discount    | two steps (o = 0, then 1), reward 1 at the end               | V(0) = discount, V(1) = 1               |
| action      | one step, reward 1 for action 1, else -1                     | always action 1                         |
| policy      | one step, observation o, reward 1 if the action names o      | action (o > 0), V = 1                   |
| time-limit  | reward 1 a step, never ends, cut off after 1 step            | V = 1 / (1 - discount) if time-outs are |
|             |                                                              | bootstrapped, V = 1 if they are an end  |
| memory      | three steps, o in {-1, 1} and then 0 twice; at the end       | action (o > 0) at the end: return 1     |
|             | reward 1 if the action names the first o, else -1            | (0 on average without memory)           |

Debug in the order of the list: the first failing environment names the broken part (loss, observation, discount, policy
gradient, both together, time-outs, memory).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from purerl.types import Array, Environment, EnvSpec, TimeStep


@dataclasses.dataclass(frozen=True)
class Options:
    """Probe environments have no options."""


@struct.dataclass
class State:
    """Step within the episode, int32 [], and what is observed, float32 []."""

    step: Array
    observed: Array


def names() -> list[str]:
    """All probe ids, in debugging order."""
    return ["constant", "observation", "discount", "action", "policy", "time-limit", "memory"]


def make(name: str, options: Options | None = None) -> Environment:
    """The probe environment `name`, unbatched."""
    spec = EnvSpec(name=f"probe/{name}", observation_shape=(1,), observation_dtype="float32", num_actions=2)

    def reset(key: Array) -> tuple[State, Array]:
        random_sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        observed = random_sign if name in ("observation", "policy", "memory") else jnp.zeros(())
        state = State(jnp.zeros((), jnp.int32), observed.astype(jnp.float32))
        return state, state.observed[None]

    def step(key: Array, state: State, action: Array) -> tuple[State, TimeStep]:
        reward = {
            "constant": jnp.float32(1.0),
            "observation": state.observed,
            "discount": state.step.astype(jnp.float32),
            "action": jnp.where(action == 1, 1.0, -1.0),
            "policy": jnp.where((action == 1) == (state.observed > 0), 1.0, -1.0),
            "time-limit": jnp.float32(1.0),
            "memory": jnp.where(state.step < 2, 0.0, jnp.where((action == 1) == (state.observed > 0), 1.0, -1.0)),
        }[name]
        ends = state.step >= {"discount": 1, "memory": 2}.get(name, 0)
        is_time_out = jnp.bool_(name == "time-limit")
        observed_next = jnp.float32(1.0) if name == "discount" else state.observed
        fresh, first = reset(key)
        following = jax.tree.map(lambda a, b: jnp.where(ends, a, b), fresh, State(state.step + 1, observed_next))
        if name == "memory":
            observed_next = jnp.float32(0.0)  # the observation is hidden, and the state keeps the first one
        return following, TimeStep(
            observation=jnp.where(ends, first, observed_next[None]),
            reward=reward.astype(jnp.float32),
            terminated=ends & ~is_time_out,
            truncated=ends & is_time_out,
            final_observation=observed_next[None],
        )

    return Environment(spec, reset, step)
