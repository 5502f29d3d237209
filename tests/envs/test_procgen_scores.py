"""scores: the published tables give the published means, and only with the right constants."""

import numpy as np
import pytest

from purerl.envs import procgen, procgen_scores
from purerl.errors import PurerlError


@pytest.mark.parametrize("name", procgen_scores.PPO_PUBLISHED)
def test_published_means_recompute(name):
    """Spec 8, check 15 (.594/.353 for easy-200 and so on). The table is rounded, hence the tolerance."""
    published = procgen_scores.PPO_PUBLISHED[name]
    assert set(published.returns) == set(procgen_scores.GAMES) and len(procgen_scores.GAMES) == 16
    returns = {game: mean for game, (mean, _) in published.returns.items()}
    recomputed = procgen_scores.mean_normalized_return(returns, published.distribution_mode)
    assert recomputed == pytest.approx(published.mean_normalized, abs=0.005)


def test_the_headline_numbers():
    assert procgen_scores.PPO_PUBLISHED["easy-200-train-25m"].mean_normalized == 0.594
    assert procgen_scores.PPO_PUBLISHED["easy-200-test-25m"].mean_normalized == 0.353


@pytest.mark.parametrize("name", procgen_scores.PPO_PUBLISHED)
def test_constants_of_the_other_mode_do_not_pass(name):
    published = procgen_scores.PPO_PUBLISHED[name]
    other = {"easy": "hard", "hard": "easy"}[published.distribution_mode]
    returns = {game: mean for game, (mean, _) in published.returns.items()}
    assert procgen_scores.mean_normalized_return(returns, other) != pytest.approx(published.mean_normalized, abs=0.005)


def test_the_mode_must_be_said():
    with pytest.raises(TypeError):
        procgen_scores.normalized_return("coinrun", return_=10)
    with pytest.raises(TypeError):
        procgen_scores.mean_normalized_return({"coinrun": 10})


@pytest.mark.parametrize("mode", ["easy", "hard"])
def test_ends_of_the_scale(mode):
    for game, (low, high) in procgen_scores.RANGES[mode].items():
        assert low < high
        assert procgen_scores.normalized_return(game, mode, low) == 0
        assert procgen_scores.normalized_return(game, mode, high) == 1


@pytest.mark.parametrize(
    ("name", "lower"), [("easy-all-25m", 0.0086), ("easy-200-train-25m", 0.0085), ("easy-200-test-25m", 0.0148)]
)
def test_two_versions_of_the_constants_are_named(name, lower):
    """In easy mode jumper and leaper have two published minima; what they do to the mean over 16 games is known."""
    returns = {game: mean for game, (mean, _) in procgen_scores.PPO_PUBLISHED[name].returns.items()}
    default, same, other = (
        procgen_scores.mean_normalized_return(returns, "easy", *constants)
        for constants in ((), ("train-procgen",), ("jumper-leaper-3",))
    )
    assert default == same and default - other == pytest.approx(lower, abs=5e-4)
    assert procgen_scores.CONSTANTS["jumper-leaper-3"]["hard"] == procgen_scores.HARD
    with pytest.raises(PurerlError, match="Did you mean 'train-procgen'"):
        procgen_scores.normalized_return("jumper", "easy", 5, "train-procgem")


@pytest.mark.parametrize("mode", ["easy", "hard"])
def test_the_score_of_a_run_says_whose_constants_it_has(mode):
    name, scores = procgen.score("jumper", procgen.Options(distribution_mode=mode), np.array([1.0, 10.0]))
    assert name == f"Procgen normalised return, {mode}, constants of train-procgen" and scores.tolist() == [0, 1]
    assert procgen.score("jumper", procgen.Options(distribution_mode="memory"), np.zeros(1)) is None


def test_by_hand_and_on_arrays():
    np.testing.assert_allclose(procgen_scores.normalized_return("starpilot", "easy", np.array([2.5, 33.25])), [0, 0.5])
    assert procgen_scores.normalized_return("starpilot", "hard", 33.25) == pytest.approx(0.947761, abs=1e-6)
    assert procgen_scores.normalized_return("caterpillar", "easy", 16.125) == 0.5


@pytest.mark.parametrize(
    ("game", "mode", "hint"),
    [
        ("coinrum", "easy", "'coinrun'"),
        ("procgen/coinrun", "easy", "'coinrun'"),
        ("caterpillar", "hard", "no hard score constants"),
        ("coinrun", "memory", "Use easy or hard"),
        ("coinrun", "Easy", "'easy'"),
    ],
)
def test_what_has_no_constants_is_refused(game, mode, hint):
    with pytest.raises(PurerlError, match=hint):
        procgen_scores.normalized_return(game, mode, 5)
