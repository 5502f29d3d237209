"""Published curves: the data gives the published means, and runs are shown beside the right ones."""

from __future__ import annotations

import numpy as np
import pytest

from purerl.cli import main
from purerl.envs import atari_scores, procgen_scores
from purerl.experiments.figures import published as tables
from purerl.experiments.published import atari, beside, curves, scoreboards


def mean_normalized(found: dict[str, curves.Curve], step: int) -> float:
    """The mean over 16 games of each game's mean normalised return over runs."""
    assert set(found) == set(procgen_scores.GAMES)
    mode = found["coinrun"].distribution_mode
    return float(np.mean([procgen_scores.normalized_return(g, mode, c.at(step)).mean() for g, c in found.items()]))


@pytest.mark.parametrize("setting", [name for name in curves.SETTINGS if name not in ("e-pi-1", "e-aux-6", "n-pi-32")])
def test_ppg_settings_give_the_published_means(setting):
    """The tables average the last 100 updates, the data a window around 100M steps: a single run's sd is about .02."""
    found = curves.games(setting, "hard", 0, "train", curves.PPG_SOURCE)
    known = {f"e-pi-{n}": v for n, v in tables.PPG_SAMPLE_REUSE["policy_epochs"].items()}
    known |= {f"e-aux-{n}": v for n, v in tables.PPG_SAMPLE_REUSE["auxiliary_epochs"].items()}
    known |= {f"n-pi-{n}": v for n, v in tables.PPG_SAMPLE_REUSE["policy_iterations"].items()}
    known |= {"ppo": 0.577, "ppg": 0.754, "ppgsingle": 0.754, "ppgkl": 0.754}
    assert mean_normalized(found, 100_000_000) == pytest.approx(known[setting], abs=0.02)
    assert curves.setting_of(curves.SETTINGS[setting]) == setting


def test_curves_agree_with_the_tables_of_single_games():
    for name, one in procgen_scores.PPO_PUBLISHED.items():
        found = curves.games("ppo", one.distribution_mode, one.train_levels, one.split, curves.PPO_SOURCE)
        assert mean_normalized(found, one.steps) == pytest.approx(one.mean_normalized, abs=0.008), name


def test_between_points_is_a_line_and_outside_is_nothing():
    curve = curves.find("ppo", "easy", 200, "test", "coinrun", curves.PPO_SOURCE)
    first, second = curve.steps[:2]
    np.testing.assert_allclose(curve.at((first + second) // 2), curve.returns[:, :2].mean(axis=1))
    assert curve.at(first - 1) is None and curve.at(curve.steps[-1] + 1) is None
    mean, deviation = curves.spread(np.array([1.0, 2.0, 6.0]))
    assert (mean, deviation) == (3.0, pytest.approx(7**0.5)) and curves.spread(np.array([1.0])) == (1.0, None)


def entry(**changes):
    """A run of PPG on coinrun, 200 levels, that has reached 9 million steps."""
    line = {"step": [1e6, 9e6], "iqm": [6.0, 8.0], "low": [5.0, 7.0], "high": [7.0, 9.0]}
    return {
        "agent": "ppg",
        "env": "procgen/coinrun",
        "preset": "procgen-easy",
        "config": {},
        "env_options": {"num_levels": 200},
        "eval_env_options": {"num_levels": 0},
        "curves": {"episode_return": line, "evaluation_return": line},
        **changes,
    }


def test_a_run_is_shown_at_the_steps_that_it_has_reached():
    found = beside.rows("mine", entry())
    assert [row.step for row in found] == 2 * [1_000_000, 2_000_000, 4_000_000, 8_000_000, 9_000_000]
    assert {row.split: row.source for row in found} == {
        split: f"PPO easy 200 levels, {curves.PPO_SOURCE}" for split in ("train", "test")
    }
    published = curves.find("ppo", "easy", 200, "train", "coinrun", curves.PPO_SOURCE).at(8_000_000)
    assert found[3].published == f"{published.mean():.3g} +- {published.std(ddof=1):.2g} (3 runs)"
    assert found[3].measured == "7.75 (6.75 to 8.75)"
    assert beside.differences(entry()) == ["PPG here, PPO published"]


def test_every_mode_and_agent_has_its_own_curves():
    hard = entry(preset="procgen-hard", env_options={}, eval_env_options=None)
    assert [(c.source, c.setting) for c in beside.published_curves(beside.protocol(hard), "train")] == [
        (curves.PPG_SOURCE, "ppg"),
        (curves.PPG_SOURCE, "ppo"),
        (curves.PPO_SOURCE, "ppo"),
    ]
    assert beside.differences(hard) == []
    again = beside.protocol(hard | {"config": {"policy_epochs": 3}})
    assert beside.published_curves(again, "train")[0].setting == "e-pi-3"
    odd = entry(env="procgen-jax/maze", preset="procgen-symbolic", env_options={"num_levels": 50})
    assert beside.differences(odd) == [
        "PPG here, PPO published",
        "network mlp here, IMPALA published",
        "symbolic observations here, frames published",
        "50 training levels here, 200 levels published",
    ]
    assert beside.report({"other": entry(env="gymnax/CartPole-v1")}) == []


def test_verify_takes_a_folder_of_runs(tmp_path, write_run, capsys):
    config = {"preset": "procgen-easy", "config": {}, "env": "procgen/coinrun", "env_options": {"num_levels": 0}}
    write_run(tmp_path / "a", [[5.0]] * 3, **config | {"env_options": {"distribution_mode": "easy"}})
    assert main.main(["figure", "verify", str(tmp_path)]) == 0
    assert "no run has reached the first published point" in capsys.readouterr().out
    write_run(tmp_path / "other" / "b", [[5.0]] * 3)
    assert main.main(["figure", "verify", str(tmp_path / "other")]) == 2
    assert "nothing to compare is published" in capsys.readouterr().err


def test_scores_of_fast_agents_on_atari():
    """The numbers of NOTICE.md; what nobody has read in its source says so."""
    found = atari.btr_scores()
    assert len(found) == 19 and all(x.shape == (10,) and np.isfinite(x).all() for x in found.values())
    assert found["Pong"].max() <= 21 and found["Boxing"].max() <= 100  # the games' own limits
    human = np.sort([atari_scores.human_normalized_score(game, x.mean()) for game, x in found.items()])
    assert (round(np.median(human), 2), round(human[4:-4].mean(), 1)) == (4.55, 10.7)
    iqm = {(s.method, s.seen): s.value for s in atari.scores() if s.metric == "iqm" and not s.lives_end_episodes}
    assert round(iqm["btr", False], 1) == iqm["btr", True] == 7.4 and iqm["rainbow", False] == 1.852
    assert {s.frames for s in atari.scores("pqn")} == {400_000_000} and all(
        s.lives_end_episodes for s in atari.scores("pqn")
    )
    assert min(h.hours for h in atari.hours("btr")) == 11.5 and min(h.hours for h in atari.hours("pqn")) == 1
    seen = {one.source.rpartition(" ")[2] for one in (*atari.scores(), *atari.hours()) if one.seen}
    assert seen == {"abstract", "(0c6e737)"}


def test_the_scoreboard_of_craftax():
    found = scoreboards.craftax()
    billion = {name: found[10**9, name] for name in ("PPO", "PPO-RNN", "PQN-RNN", "PPO-GTrXL")}
    assert billion == {"PPO": 11.9, "PPO-RNN": 15.3, "PQN-RNN": 16.0, "PPO-GTrXL": 18.3}
    assert found[10**6, "PPO"] == 2.2 and len(found) == 14
