"""The pool of real Atari games: its seeds, frames, ends and options."""

import re
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest

from purerl import registry
from purerl.envs import atari, atari_scores, atari_watch
from purerl.errors import PurerlError
from purerl.runs.train import train


def play(pool, steps, seed=0):
    """Random play: lists over steps of whole observations [S, N, ...] and TimeSteps, by group joined."""
    rng = np.random.default_rng(seed)
    groups = range(pool.num_groups)
    shown = [np.concatenate([pool.reset(g).copy() for g in groups], axis=1)]
    ends, lost, rewards = [], [], []
    for _ in range(steps):
        actions = rng.integers(0, pool.spec.num_actions, (pool.num_seeds, pool.num_envs), dtype=np.int32)
        size = pool.num_envs // pool.num_groups
        for g in groups:
            pool.send(g, actions[:, g * size : (g + 1) * size])
        found = [pool.recv(g) for g in groups]
        shown.append(np.concatenate([t.observation.copy() for t in found], axis=1))
        ends.append(np.concatenate([t.terminated | t.truncated for t in found], axis=1))
        rewards.append(np.concatenate([t.reward for t in found], axis=1))
        lost.append([t.life_lost for t in found])
    return np.array(shown), np.array(ends), np.array(rewards), lost


def test_a_seed_is_its_own_whatever_the_groups_and_other_seeds():
    with (
        atari.make_pool("Breakout", atari.Options(), [3, 4], 4, 2) as both,
        atari.make_pool("Breakout", atari.Options(num_threads=1), [3], 4, 1) as solo,
    ):
        rng = np.random.default_rng(0)
        actions = rng.integers(0, 4, (30, 1, 4), dtype=np.int32)
        for t in range(30):
            for g in range(2):
                both.send(g, np.repeat(actions[t][:, 2 * g : 2 * g + 2], 2, axis=0))
            solo.send(0, actions[t])
            alone = solo.recv(0)
            together = [both.recv(g) for g in range(2)]
            first = np.concatenate([x.observation[:1] for x in together], axis=1)
            second = np.concatenate([x.observation[1:] for x in together], axis=1)
            np.testing.assert_array_equal(first, alone.observation)
        assert not np.array_equal(first, second)


def test_frames_are_stacked_with_zeros_before_an_episode():
    with atari.make_pool("Breakout", atari.Options(repeat_action_probability=0.0), [0], 2) as pool:
        shown, ends, rewards, _ = play(pool, 400)
    assert shown.shape[3:] == (4, 84, 84)
    assert (shown[0][:, :, :3] == 0).all() and shown[0][:, :, 3].any()
    assert ends.any()
    for t, s, n in zip(*np.nonzero(ends), strict=True):
        assert (shown[t + 1, s, n, :3] == 0).all() and shown[t + 1, s, n, 3].any()
    for t in range(400):
        going = ~ends[t]
        np.testing.assert_array_equal(shown[t + 1][going][:, :3], shown[t][going][:, 1:])
    assert set(np.unique(rewards)) <= {0.0, 1.0, 4.0, 7.0} and rewards.any()


def test_a_lost_life_blanks_the_frames_and_the_episode_goes_on():
    options = atari.Options(life_loss="terminal", repeat_action_probability=0.0)
    with atari.make_pool("Breakout", options, [0], 2) as pool:
        shown, ends, _, lost = play(pool, 400)
    lost = np.array([x[0] for x in lost])
    assert lost.sum() >= 4 * ends.sum() > 0  # five lives an episode, the last of which ends it
    assert not (lost & ends).any()
    for t, s, n in zip(*np.nonzero(lost), strict=True):
        assert (shown[t + 1, s, n, :3] == 0).all() and shown[t + 1, s, n, 3].any()


def test_the_step_of_a_lost_life_plays_all_its_frames():
    """What the options' text says of ale-py (Dopamine would stop); a version that stops makes that text wrong."""
    games = atari.vector_environment("Breakout", atari.Options(life_loss="terminal"), 4)
    _, info = games.reset(seed=np.arange(4))
    rng, lives, frames, played = np.random.default_rng(0), info["lives"], info["episode_frame_number"], []
    for _ in range(300):
        _, _, terminated, _, info = games.step(rng.integers(0, 4, 4, dtype=np.int32))
        lost = (info["lives"] < lives) & ~terminated
        played += list((info["episode_frame_number"] - frames)[lost])
        lives, frames = info["lives"], info["episode_frame_number"]
    assert len(played) > 10 and set(played) == {4}
    assert "to the end of its frame skip" in atari.Options.__doc__


@pytest.mark.parametrize(
    ("game", "steps", "episodes", "expected", "tolerance"),
    [("Breakout", 1100, 40, 1.7, 0.8), ("Pong", 1400, 10, -20.7, 0.6)],  # an episode's standard deviation: 1.3 and 0.5
)
def test_random_play_scores_the_published_random_score(game, steps, episodes, expected, tolerance):
    """Check 15."""
    with atari.make_pool(game, atari.Options(), list(range(10)), 1) as pool:
        _, ends, rewards, _ = play(pool, steps)
    returns = []
    for s in range(10):
        last = 0
        for t in np.nonzero(ends[:, s, 0])[0]:
            returns.append(rewards[last : t + 1, s, 0].sum())
            last = t + 1
    assert len(returns) >= episodes
    assert abs(np.mean(returns) - expected) < tolerance


def paddles(probability, games, episodes, length, frame_skip=1):
    """Where Breakout's paddle is, [episodes, length - 1, games], in episodes that go right, left, right, ..."""
    options = atari.Options(
        repeat_action_probability=probability,
        frame_skip=frame_skip,
        frame_stack=1,
        max_frames=length * frame_skip,
    )
    positions = []
    with atari.make_pool("Breakout", options, [0], games) as pool:
        for t in range(length * episodes):
            pool.send(0, np.full((1, games), 2 + t % length % 2, np.int32))
            timestep = pool.recv(0)
            assert timestep.truncated.all() == ((t + 1) % length == 0)
            brightness = timestep.observation[0, :, 0, 74:78, 5:79].sum(axis=1, dtype=float)
            positions.append((brightness * np.arange(74)).sum(axis=1) / brightness.sum(axis=1))
    return np.array(positions).reshape(episodes, length, games)[:, :-1]


def test_a_quarter_of_the_frames_repeats_the_action_before():
    """Check 15: an episode's paddle leaves its path without stickiness at the first frame that repeats an action."""
    path = paddles(0.0, 2, 2, 12)
    np.testing.assert_array_equal(path, np.broadcast_to(path[:1, :, :1], path.shape))
    left = np.abs(paddles(0.25, 8, 80, 12) - path[:1, :, :1]) > 0.2
    assert not left[:, 0].any()  # the picture is one frame late
    repeated = left.any(axis=1)
    tried = np.where(repeated, left.argmax(axis=1), 10)
    assert abs(repeated.sum() / tried.sum() - 0.25) < 0.035  # 4 standard deviations


def test_each_frame_of_a_step_repeats_by_its_own_draw():
    """Check 15: of the steps of four frames whose first one repeats, one draw a step would repeat all four in each."""
    path = paddles(0.0, 2, 1, 2, frame_skip=4)
    behind = np.abs(paddles(0.25, 8, 60, 2, frame_skip=4) - path[0, 0, 0]).ravel()
    first_repeats = behind > 0.2
    assert abs(first_repeats.mean() - 0.25) < 0.08  # 4 standard deviations
    assert abs((behind[first_repeats] < 3.5).mean() - 0.75) < 0.16  # one frame costs 2.4 pixels, two cost 4.5


def test_the_time_cap_truncates():
    with atari.make_pool("Pong", atari.Options(max_frames=80), [0], 1) as pool:
        pool.reset(0)
        cut = []
        for _ in range(25):
            pool.send(0, np.zeros((1, 1), np.int32))
            step = pool.recv(0)
            assert not step.terminated.any()
            cut.append(step.truncated.any())
    assert np.nonzero(cut)[0] == 19


def test_other_options():
    assert atari.spec("Pong", atari.Options()).num_actions == 6
    assert atari.spec("Pong", atari.Options(full_action_space=True)).num_actions == 18
    assert atari.spec("Pong", atari.Options(frame_stack=2)).observation_shape == (2, 84, 84)


def test_a_restored_pool_begins_other_episodes():
    """Not those of the start again, but the same ones in every pool that is restored from the same state."""
    with atari.make_pool("Breakout", atari.Options(), [0], 2) as pool:
        from_the_start, *_ = play(pool, 60)
        state = pool.state()
        pool.restore(state)
        restored, *_ = play(pool, 60)
    assert not np.array_equal(from_the_start, restored)
    with atari.make_pool("Breakout", atari.Options(), [0], 2) as other:
        other.restore(state)
        np.testing.assert_array_equal(play(other, 60)[0], restored)
    with atari.make_pool("Pong", atari.Options(), [0], 2) as other, pytest.raises(PurerlError, match="other games"):
        other.restore(state)


def test_a_resumed_run_marks_the_break(tmp_path):
    config = {
        "num_envs": 2, "rollout_length": 4, "replay_size": 400, "learning_starts": 64, "target_period": 64,
        "batch_size": 4, "network": "mlp", "hidden": (8,),
    }  # fmt: skip

    def run(steps, **kwargs):
        return train(
            "rainbow-pro", "atari/pong", steps=steps, out=tmp_path / "run", config=config, quiet=True, **kwargs
        )

    run(96)
    resumed = run(192, resume=True)
    assert resumed.summary["env"] == "atari/Pong" and resumed.summary["steps"] == 192
    ring = resumed.state.agent.replay
    done, age = np.asarray(ring.done)[0], np.asarray(ring.age)[0]
    assert done[:, 47].all() and (age[:, 48] == 0).all()  # 96 steps of 2 environments
    assert done.sum() == 2


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "ms-pacman", "mspacman"])
def test_spellings(name):
    assert registry.environment(f"atari/{name}")[1] == "MsPacman"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Pung", {}, "Did you mean 'Pong'"),
        ("Pong", {"repeat_action_probability": 1.5}, r"must be in \[0, 1\)"),
        ("Pong", {"frame_skip": 0}, "frame_skip must be an integer"),
        ("Pong", {"life_loss": "maybe"}, "unknown life_loss"),
        ("Pong", {"repeat_action_probability": float("nan")}, r"must be in \[0, 1\)"),
        ("Pong", {"repeat_action_probability": "0.2"}, r"must be in \[0, 1\)"),
        ("Pong", {"full_action_space": 1}, "full_action_space must be True or False"),
        ("Pong", {"frame_stack": 1001}, r"frame_stack must be an integer in \[1, 1000\]"),
        ("Pong", {"num_threads": 10**6}, r"num_threads must be an integer in \[0, 1024\]"),
        ("Pong", {"noop_max": 2**31 - 1}, "noop_max must be an integer"),
    ],
)
def test_bad_input_is_named(name, options, message):
    with pytest.raises(PurerlError, match=message):
        atari.make_pool(name, atari.Options(**options), [0], 1)


@pytest.mark.parametrize(
    ("seeds", "num_envs", "message"),
    [
        ([-1], 1, "every seed must be an integer"),
        ([0.5], 1, "every seed must be an integer"),
        (["0"], 1, "every seed must be an integer"),
        ([0], 1.0, "num_envs must be an integer"),
        ([0], 10**16, "lower num_envs"),
    ],
)
def test_bad_sizes_are_told(seeds, num_envs, message):
    with pytest.raises(PurerlError, match=message):
        atari.make_pool("Pong", atari.Options(), seeds, num_envs)


def test_missing_ale_py_names_the_extra(monkeypatch):
    monkeypatch.setattr(atari.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PurerlError, match="pip install ale-py"):
        atari.make_pool("Pong", atari.Options(frame_stack=3), [0], 1)


def test_the_extra_asks_for_the_version_that_the_repair_line_installs():
    """0.11.0 lacks the autoreset mode that the pool needs."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (requirement,) = project["optional-dependencies"]["atari"]
    assert requirement == "ale-py>=0.11.2" and f'"{requirement}"' in atari.FIX


def test_every_game_of_one_player_has_a_rom():
    from ale_py import roms

    carried = {rom.replace("_", "") for rom in roms.get_all_rom_ids()}
    assert carried - {game.lower() for game in atari.names()} == {"combat", "joust", "mazecraze", "warlords"}
    assert {game.lower() for game in atari.names()} <= carried


def test_no_ops_go_up_to_the_most():
    games = atari.vector_environment("Pong", atari.Options(noop_max=2), 30)
    _, info = games.reset(seed=np.arange(30))
    assert set(info["episode_frame_number"]) == {0, 1, 2}


def test_lists_of_games_and_scores():
    paper, rliable = set(atari_scores.PRO_PAPER_55), set(atari_scores.RLIABLE_55)
    assert len(paper) == len(rliable) == 55 and len(paper & rliable) == 51
    assert paper | rliable <= set(atari.names())
    for game, (random, human) in atari_scores.RANDOM_AND_HUMAN.items():
        assert atari_scores.human_normalized_score(game, random) == 0
        assert atari_scores.human_normalized_score(game, human) == 1
    with pytest.raises(PurerlError, match="no human score for 'AirRaid'"):
        atari_scores.human_normalized_score("AirRaid", 1.0)


def test_a_worker_that_throws_ends_the_wait_for_it(monkeypatch):
    """ale-py keeps the exception of a worker for `recv`, which first waits for the result that never comes."""
    monkeypatch.setattr(atari, "Watch", lambda: atari_watch.Watch(0.02))
    pool = atari.make_pool("Pong", atari.Options(num_threads=1), [0], 4, 2)
    monkeypatch.setattr(pool._guard, "send", lambda group, actions: actions)  # it would refuse the action
    pool._guard._stepping = [True, True]
    pool.send(0, np.zeros((1, 2), np.int32))
    pool.send(1, np.array([[0, 99]], np.int32))
    assert pool.recv(0).observation.any()
    told = []

    def receive():
        try:
            pool.recv(1)
        except PurerlError as error:
            told.append(str(error))

    thread = threading.Thread(target=receive, daemon=True)  # so that a hang is a failure, not a hang
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert re.match(r"a game of atari/Pong failed inside ale-py \(Invalid action_id: 99.*with --resume$", told[0])
    with pytest.raises(PurerlError, match="closed: create a new one"):
        pool.reset(0)


def test_a_slow_step_is_waited_for(monkeypatch):
    """Looks that come faster than any step ends must not take a working thread for a dead one."""
    monkeypatch.setattr(atari, "Watch", lambda: atari_watch.Watch(0.001))
    with atari.make_pool("Pong", atari.Options(frame_skip=2000, max_frames=10**6), [0], 1) as pool:
        sent = []
        send = pool._games[0].send
        monkeypatch.setattr(pool._games[0], "send", lambda actions: (sent.append(actions), send(actions)))
        for _ in range(2):
            pool.send(0, np.zeros((1, 1), np.int32))
            pool.recv(0)
    assert len(sent) == 2


def test_a_dropped_pool_leaves_no_thread():
    before = set(threading.enumerate())
    pool = atari.make_pool("Pong", atari.Options(), [0], 2, 2)
    watch = next(thread for thread in threading.enumerate() if thread.name == "purerl-atari-watch")
    del pool
    watch.join(5)
    assert not watch.is_alive() and set(threading.enumerate()) <= before  # another test's thread may end meanwhile


def test_a_missing_rom_is_told(monkeypatch, tmp_path, capfd):
    """The library would end the process."""
    with atari.make_pool("Pong", atari.Options(), [0], 1) as pool:
        monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
        with pytest.raises(PurerlError, match=r"ale-py.s file of Pong cannot be used.*install ale-py again"):
            pool.restore(pool.state())
        (tmp_path / "pong.bin").write_bytes(b"not a game")
        with pytest.raises(PurerlError, match=r"hash of pong\.bin"):
            pool.restore(pool.state())


def test_foreign_states_are_told():
    with atari.make_pool("Pong", atari.Options(), [0], 2, 2) as pool:
        state = pool.state()
        for bad in (
            {},
            {**state, "steps": state["steps"][:1]},
            {**state, "steps": state["steps"] - 1},
            {**state, "steps": state["steps"].astype(np.float32)},
            {**state, "identity": np.array("text")},
        ):
            with pytest.raises(PurerlError, match="not a state of such an Atari pool"):
                pool.restore(bad)
