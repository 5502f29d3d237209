"""Sums of metrics against float64 and Python's integers, alone and in both loops."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from purerl import registry, rng
from purerl.envs.hosted import HostedPool
from purerl.loops import in_graph, sums
from purerl.loops.host import HostLoop
from purerl.types import Agent, Metric, static, traced

MILLION = 1_000_000


@jax.jit
def accumulated(values, counts):
    """Sums of the rows of values [T, S] and counts [T, S]; and float32 sums of the values [S], one after the other."""

    def one(i, carry):
        found, plain = carry
        return sums.add(found, {"x": Metric(values[i], counts[i])}), plain + values[i]

    first = sums.zeros({"x": Metric(values[0], counts[0])})
    return jax.lax.fori_loop(0, len(values), one, (first, jnp.zeros_like(values[0])))


@pytest.mark.optimized  # XLA must not simplify the compensation away where it optimizes either
def test_a_million_additions_are_as_good_as_float64():
    values = np.full((MILLION, 3), 0.1, np.float32)
    values[:, 1:] = np.random.default_rng(0).uniform(0.05, 0.15, (MILLION, 2))
    values[:, 2] *= np.where(np.arange(MILLION) % 2, -1.0, 1.0)  # and a sum in which almost all cancels
    found, plain = accumulated(values, np.ones((MILLION, 3), np.int32))
    exact = [math.fsum(column) for column in values.T.tolist()]
    metric = sums.read(found)["x"]
    assert metric.total.dtype == np.float64 and metric.count.dtype == np.int64
    np.testing.assert_allclose(metric.total, exact, rtol=1e-11)
    np.testing.assert_array_equal(metric.count, MILLION)
    assert abs(float(plain[0]) - exact[0]) > 0.009 * exact[0]  # what a float32 sum is worth


def test_counts_are_exact_beyond_32_bits():
    counts = np.array([2**31 - 1, 2**31 - 1, 2**31 - 1, 5, -7, 2**24 + 1] * 50, np.int32)[:, None]
    found, _ = accumulated(np.zeros((300, 1), np.float32), counts)
    assert sums.read(found)["x"].count.tolist() == [counts.astype(object).sum()]


def test_weights_may_be_the_count_and_infinity_stays():
    values = np.array([[1.0, 2.0, 3.0], [np.inf, np.nan, -np.inf], [1.0, 1.0, 1.0]], np.float32)
    found, _ = accumulated(values, np.full((3, 3), 0.25, np.float32))
    metric = sums.read(found)["x"]
    np.testing.assert_array_equal(metric.total, [np.inf, np.nan, -np.inf])
    np.testing.assert_array_equal(metric.count, 0.75)
    np.testing.assert_array_equal(metric.mean(), [np.inf, np.nan, -np.inf])


# --- in the loops ----------------------------------------------------------------------------------------------------


@struct.dataclass
class Config:
    num_envs: int = static(2)
    rollout_length: int = static(1)
    nothing: float = traced(0.0)


def update(config, spec, state, rollout, key, clock):
    """A sum to which float32 adds nothing after the first, and a count that float32 cannot hold."""
    total = jnp.where(clock.iteration == 0, 2.0**24, 1.0)
    return state, {"big": Metric(total, jnp.int32(2**24 - 1)), "mean": Metric.of(jnp.arange(3.0))}


def act(config, spec, state, memory, inputs, keys, clock, explore):
    return jnp.zeros(inputs.is_first.shape, jnp.int32), memory, None


AGENT = Agent("adding", Config, lambda config, spec: None, lambda config, spec, key: jnp.zeros(()), act, update)


@functools.cache
def environment():
    family, name = registry.environment("probe/constant")
    return family.make(name, family.Options())


@pytest.mark.parametrize("how", ["graph map", "graph vmap", "host map", "host vmap"])
def test_a_chunk_loses_nothing(how):
    kind, lanes = how.split()
    config, keys = Config(nothing=jnp.float32(0)), rng.seed_keys(0, 2)
    if kind == "graph":
        loop = in_graph.InGraphLoop(AGENT, environment(), lanes)
    else:
        loop = HostLoop(AGENT, HostedPool(environment(), keys, num_envs=2), lanes)
    _, metrics = loop.advance(config, loop.init(config, keys), 0, 5, 5)
    assert metrics["big"].total.tolist() == [2**24 + 4] * 2
    assert metrics["big"].count.tolist() == [5 * (2**24 - 1)] * 2
    assert metrics["mean"].total.tolist() == [15.0] * 2 and metrics["mean"].count.tolist() == [15] * 2
    assert metrics["episode_return"].count.dtype == np.int64
