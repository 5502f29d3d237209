"""Episode statistics by hand."""

import jax.numpy as jnp
import numpy as np

from purerl.loops import episodes


def test_returns_carry_over_rollouts_and_reset_at_ends():
    tracker = episodes.init_tracker(2)
    reward = jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    done = jnp.array([[False, False], [True, False], [False, False]])
    tracker, metrics = episodes.track(tracker, reward, done)
    assert (float(metrics["episode_return"].total), float(metrics["episode_return"].count)) == (3.0, 1.0)
    assert float(metrics["episode_length"].total) == 2.0
    np.testing.assert_array_equal(tracker.return_so_far, [4.0, 70.0])
    tracker, metrics = episodes.track(tracker, jnp.array([[1.0, 5.0]]), jnp.array([[True, True]]))
    assert float(metrics["episode_return"].total) == 5.0 + 75.0
    assert float(metrics["episode_length"].total) == 2.0 + 4.0
    np.testing.assert_array_equal(tracker.length, [0, 0])
