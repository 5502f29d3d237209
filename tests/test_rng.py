"""Random numbers from random words: their ranges, checked at the extreme words, and their distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import rng

pytestmark = pytest.mark.usefixtures("strict_dtypes")

EXTREMES = jnp.array([0, 255, 256, 2**31, 2**32 - 1], jnp.uint32)


def test_units_are_below_1_and_hold_24_bits():
    found = rng.unit(EXTREMES)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.float32([0, 0, 2**-24, 0.5, 1 - 2**-24]))
    units = np.asarray(rng.unit(rng.words(jax.random.key(0), (2, 50_000)))).reshape(-1)
    counts = np.bincount((units * 50).astype(int), minlength=50)
    assert ((counts - 2000) ** 2 / 2000).sum() < 49 + 4 * np.sqrt(2 * 49)


@pytest.mark.parametrize("bound", [1, 3, 1_000_000, 2**31 - 1])
def test_whole_numbers_are_below_their_bound(bound):
    """As a Python number and as an array in the program."""
    expected = [int(word) % bound for word in np.asarray(EXTREMES)]
    for given in (bound, jnp.int32(bound)):
        found = jax.jit(rng.below)(EXTREMES, given)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, expected)


def test_whole_numbers_are_each_alike():
    counts = np.bincount(np.asarray(rng.below(rng.words(jax.random.key(1), (70_000,)), 7)), minlength=7)
    assert len(counts) == 7
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 6 + 4 * np.sqrt(2 * 6)


# --- the hash --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_unrolled_hashes_have_the_bits_of_jax(kind):
    """Alone, batched over keys and data, and compiled."""
    keys = jax.vmap(lambda seed: jax.random.key(seed, impl=kind))(jnp.array([0, 1, 2**32 - 1], jnp.uint32))
    data = jnp.array([0, 7, 2**31 - 1], jnp.int32)
    for ours, theirs in (
        (rng.at, jax.random.fold_in),
        (lambda k, n: rng.words(rng.at(k, n), (3, 5)), lambda k, n: bits(jax.random.fold_in(k, n))),
    ):
        expected = rng.as_words(jax.vmap(theirs)(keys, data))
        np.testing.assert_array_equal(rng.as_words(jax.jit(jax.vmap(ours))(keys, data)), expected)
        np.testing.assert_array_equal(rng.as_words(ours(keys[1], 7)), rng.as_words(theirs(keys[1], 7)))


def bits(key):
    return jax.random.bits(key, (3, 5), jnp.uint32)
