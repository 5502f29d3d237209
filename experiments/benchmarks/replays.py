"""Prioritized replay against flashbax: the cycle of a learner, add 8 transitions, draw 32, change their priorities."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purerl import rng
from purerl.buffers import prioritized, replay
from purerl.errors import PurerlError
from purerl.types import EnvSpec, Rollout

_SPEC = EnvSpec("bench/vector", (4,), "float32", 2)
_ADDED, _DRAWN = 8, 32


def _ours(capacity: int) -> tuple[Any, Callable[..., Any]]:
    """(state, cycle): 8 environments, one step each a cycle; one-step transitions."""
    length = capacity // _ADDED

    def add(state: Any, key: jax.Array) -> Any:
        ring, priorities, iteration = state
        row = jnp.ones((1, _ADDED))
        rollout = Rollout(
            observation=jax.random.normal(key, (1, _ADDED, 4)),
            action=jnp.zeros((1, _ADDED), jnp.int32),
            reward=row,
            terminated=row < 0,
            truncated=row < 0,
            final_observation=None,
            extras=None,
            first=None,  # a replay stores rows alone
            last=None,
        )
        ring = replay.add(ring, rollout, spec=_SPEC, iteration=iteration, terminated=rollout.terminated)
        priorities = prioritized.admit(priorities, ring, iteration=iteration, rollout_length=1, num_steps=1, spec=_SPEC)
        return ring, priorities, iteration + 1

    def cycle(state: Any, key: jax.Array) -> Any:
        ring, priorities, iteration = add(state, key)
        items, probability = prioritized.sample(priorities, rng.words(key, (_DRAWN,)))
        batch = replay.gather(
            ring, jnp.divmod(items, length), spec=_SPEC, num_steps=1, discount=0.99, reward_clip=jnp.inf
        )
        values = jnp.abs(batch.observation[:, 0]) + probability
        return ring, prioritized.update(priorities, items, values), iteration

    state, fill = (replay.init(_SPEC, _ADDED, length), prioritized.init(capacity), jnp.int32(0)), jax.jit(add)
    for i in range(_DRAWN):  # there is nothing to draw from in an empty one
        state = fill(state, jax.random.key(i))
    return state, cycle


def _flashbax(capacity: int) -> tuple[Any, Callable[..., Any]]:
    """The same with flashbax's prioritised flat buffer, which draws pairs of neighbouring steps."""
    import flashbax

    buffer = flashbax.make_prioritised_flat_buffer(
        max_length=capacity, min_length=_DRAWN, sample_batch_size=_DRAWN, add_batch_size=_ADDED
    )

    def row(key: jax.Array) -> dict[str, jax.Array]:
        return {
            "observation": jax.random.normal(key, (_ADDED, 4)),
            "action": jnp.zeros(_ADDED, jnp.int32),
            "reward": jnp.ones(_ADDED),
            "done": jnp.zeros(_ADDED, bool),
        }

    def cycle(state: Any, key: jax.Array) -> Any:
        state = buffer.add(state, row(key))
        batch = buffer.sample(state, key)
        values = jnp.abs(batch.experience.first["observation"][:, 0]) + batch.probabilities
        return buffer.set_priorities(state, batch.indices, values)

    state = buffer.init(jax.tree.map(lambda x: x[0], row(jax.random.key(0))))
    for i in range(_DRAWN):  # drawing from an empty one would make all its priorities NaN, and NaN is fast
        state = buffer.add(state, row(jax.random.key(i)))
    return state, cycle


class _Side:
    """A replay with enough in it to draw from, and its cycle: jitted and donated, one call each or many in one call."""

    def __init__(self, made: tuple[Any, Callable[..., Any]], looped: bool):
        self.state, cycle = made
        self._keys = list(jax.random.split(jax.random.key(0), 64))
        self._call = self._loop if looped else self._calls
        self._cycle = jax.jit(cycle, donate_argnums=0)

        def cycles(state: Any, key: jax.Array, count: jax.Array) -> Any:
            return jax.lax.fori_loop(0, count, lambda i, state: cycle(state, jax.random.fold_in(key, i)), state)

        self._cycles = jax.jit(cycles, donate_argnums=0)
        self.rate(64)

    def _calls(self, count: int) -> None:
        for i in range(count):
            self.state = self._cycle(self.state, self._keys[i % len(self._keys)])

    def _loop(self, count: int) -> None:
        self.state = self._cycles(self.state, self._keys[0], jnp.int32(count))

    def check(self) -> None:
        """Raises PurerlError if the numbers that were timed are none."""
        if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(self.state) if x.dtype == jnp.float32):
            raise PurerlError("the replay's priorities are not finite: what was timed means nothing")

    def rate(self, cycles: int) -> float:
        """Cycles per second."""
        started = time.perf_counter()
        self._call(cycles)
        jax.block_until_ready(self.state)
        return cycles / (time.perf_counter() - started)


def cycles_per_second(capacity: int, looped: bool, *, seconds: float, repeats: int) -> float:
    """Of purerl's replay alone: the median of some turns; `looped` as the modes of `replay_cycles`."""
    side = _Side(_ours(capacity), looped)
    cycles = max(16, int(side.rate(64) * seconds))
    found = statistics.median(side.rate(cycles) for _ in range(repeats))
    side.check()
    return found


def replay_cycles(seconds: float, repeats: int) -> dict[str, Any]:
    """Cycles per second of both at 10 thousand and at 1 million items, taking turns; ratios are medians of pairs.

    "loop": all cycles in one compiled loop, as training in the graph runs them. "call": one call a cycle, as training
    on host games does; there the dispatch of the call, the same for both but for the number of buffers, is most of it.
    """
    result: dict[str, Any] = {}
    for mode in ("loop", "call"):
        medians = {}
        for capacity in (10_000, 1_000_000):
            made = {"purerl": _ours, "flashbax": _flashbax}
            sides = {name: _Side(make(capacity), mode == "loop") for name, make in made.items()}
            cycles = {name: max(16, int(side.rate(64) * seconds)) for name, side in sides.items()}
            rows = [{name: side.rate(cycles[name]) for name, side in sides.items()} for _ in range(repeats)]
            for side in sides.values():
                side.check()
            medians[capacity] = statistics.median(row["purerl"] for row in rows)
            result[f"{mode}_items_{capacity}"] = {
                "purerl_cycles_per_second": round(medians[capacity], 1),
                "flashbax_cycles_per_second": round(statistics.median(row["flashbax"] for row in rows), 1),
                "ratio": round(statistics.median(row["purerl"] / row["flashbax"] for row in rows), 2),
            }
            del sides
        result[f"{mode}_slowdown_from_10k_to_1m"] = round(medians[10_000] / medians[1_000_000], 3)
    return result
