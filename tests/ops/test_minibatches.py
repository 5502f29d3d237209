"""Minibatch epochs use every item once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.errors import PurerlError
from purerl.ops import minibatches


def test_each_epoch_uses_every_item_once_in_a_fresh_order():
    carry, indices = minibatches.shuffled_epochs(
        lambda carry, i: (carry + 1, i), 0, jax.random.key(0), num_items=12, num_minibatches=3, num_epochs=2
    )
    assert int(carry) == 6
    assert indices.shape == (6, 4)
    first, second = np.asarray(indices[:3]).ravel(), np.asarray(indices[3:]).ravel()
    assert sorted(first) == sorted(second) == list(range(12))
    assert not np.array_equal(first, second)


def test_take_along_either_axis():
    batch = {"x": jnp.arange(6).reshape(2, 3)}
    np.testing.assert_array_equal(minibatches.take(batch, jnp.array([2, 0]), axis=1)["x"], [[2, 0], [5, 3]])


def test_the_error_names_sizes_that_work():
    with pytest.raises(
        PurerlError, match="num_minibatches = 5 does not divide num_envs = 16; use num_minibatches = 2 or 4 or 8"
    ):
        minibatches.check_division("num_envs", 16, "num_minibatches", 5)
    minibatches.check_division("num_envs", 16, "num_minibatches", 4)


@pytest.mark.parametrize("num_items", [1, 2, 7, 8, 1000, 40_000])
def test_permutations_hold_every_item(num_items):
    permutation = minibatches.permutation(jax.random.key(num_items), num_items)
    assert permutation.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(permutation), np.arange(num_items))


def test_permutations_are_uniform():
    """All 24 orders of 4 items come equally often (chi-square, 23 degrees of freedom, 0.1% point 49.7)."""
    keys = jax.random.split(jax.random.key(0), 24_000)
    permutations = np.asarray(jax.vmap(lambda key: minibatches.permutation(key, 4))(keys))
    _, counts = np.unique(permutations, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 49.7
