"""Videos: what they show of in-graph games, and those of `--video-every`, which change nothing in the training."""

import types

import jax
import numpy as np
import pytest

from purerl import configs, registry, rng
from purerl.envs import gymnax, gymnax_pictures, probe
from purerl.envs.hosted import HostedPool
from purerl.errors import PurerlError
from purerl.loops import lanes
from purerl.runs import filming, run_folder
from purerl.runs.plan import make_plan, seed_keys
from purerl.runs.train import train
from purerl.runs.trainer import Trainer

CARTPOLE = "gymnax/CartPole-v1"
ORANGE, DARK = (213, 94, 0), (40, 40, 40)


def as_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(rng.as_words(x)), tree)


def of_training(folder):
    """{name: content} of the videos of a training."""
    return {path.name: path.read_bytes() for path in (folder / "figures").glob("video-*.gif")}


# --- pictures --------------------------------------------------------------------------------------------------------


def where(picture, colour):
    """(mean row, mean column) of the pixels of a colour, which must be there."""
    rows, columns = np.nonzero((picture == colour).all(axis=-1))
    assert rows.size > 20
    return rows.mean(), columns.mean()


@pytest.mark.parametrize("options", [{}, {"show_every": 3, "repeat_action_probability": 0.1}], ids=["plain", "wrapped"])
def test_cartpole_is_a_cart_with_a_pole(options):
    options = gymnax.Options(**options)
    render = gymnax.renderer("CartPole-v1", options)
    state = jax.device_get(gymnax.make("CartPole-v1", options).reset(jax.random.key(0))[0])

    def placed(state, **values):
        inner = getattr(state, "environment", None)
        return state.replace(**values) if inner is None else state.replace(environment=placed(inner, **values))

    picture = render(placed(state, x=0.0, theta=0.0))
    assert picture.shape == (200, 300, 3) and picture.dtype == np.uint8
    (pole, upright), (cart, middle) = where(picture, ORANGE), where(picture, DARK)
    assert pole < cart - 15 and abs(upright - middle) < 2 and abs(middle - 149.5) < 2
    right = render(placed(state, x=1.2, theta=0.2))
    (_, pole), (_, cart) = where(right, ORANGE), where(right, DARK)
    assert cart > middle + 50 and pole > cart + 3


def test_which_gymnax_games_have_pictures():
    """matplotlib draws on one figure, and pyplot knows nothing of it."""
    from matplotlib import pyplot

    drawn = {}
    for name in ("Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "FourRooms-misc"):
        state = jax.device_get(gymnax.make(name).reset(jax.random.key(0))[0])
        render = gymnax.renderer(name, gymnax.Options())
        drawn[name] = render(state)
        np.testing.assert_array_equal(render(state), drawn[name])
        assert drawn[name].dtype == np.uint8 and len(np.unique(drawn[name])) > 1
    assert drawn["FourRooms-misc"].shape == (240, 320, 3) and pyplot.get_fignums() == []
    for name in ("Catch-bsuite", "Breakout-MinAtar", "Reacher-misc", "FrozenLake-misc"):
        assert gymnax.renderer(name, gymnax.Options()) is None


def test_a_game_that_draws_itself_as_an_array():
    """As a game that a user adds with `gymnax.register` may."""
    game = types.SimpleNamespace(render=lambda state, params: np.full((2, 3, 3), state + params, np.uint8))
    render = gymnax_pictures.renderer("mine", game, 1)
    assert render(3).tolist() == np.full((2, 3, 3), 4).tolist()
    game.render = lambda state, params: "nothing"
    with pytest.raises(PurerlError, match="render of SimpleNamespace gave 'nothing'"):
        render(3)


# --- during training -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny):
    """(folder, env=CARTPOLE, **kwargs) -> the Run of 8 rows of 64 steps."""

    def run(folder, env=CARTPOLE, **kwargs):
        config = tiny("ppo", num_epochs=1, hidden=(8,))
        return train("ppo", env, steps=512, out=folder, config=config, quiet=True, log_every=1, **kwargs)

    return run


@pytest.fixture(scope="module")
def filmed(run, tmp_path_factory):
    """A run with videos."""
    return run(tmp_path_factory.mktemp("filmed") / "run", seeds=2, video_every=150, video_steps=4)


def test_videos_do_not_change_the_training(run, filmed, tmp_path):
    plain = run(tmp_path / "plain", seeds=2)
    jax.tree.map(np.testing.assert_array_equal, as_numpy(plain.state), as_numpy(filmed.state))
    assert not of_training(plain.folder)
    assert sorted(of_training(filmed.folder)) == ["video-192.gif", "video-320.gif", "video-512.gif"]  # rows: 64 steps
    recording = run_folder.load(filmed.folder)["config"]["recording"]
    assert (recording["video_every"], recording["video_steps"]) == (150, 4)


class Killed(Exception):
    pass


def test_a_resumed_run_has_every_video_once(run, filmed, tmp_path, monkeypatch):
    folder, advance = tmp_path / "run", Trainer._advance

    def stopping(trainer, state, stop):
        if trainer.iteration == 4:
            raise Killed
        return advance(trainer, state, stop)

    how = {"seeds": 2, "video_every": 150, "video_steps": 4, "checkpoint_seconds": 0}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", stopping)
        with pytest.raises(Killed):
            run(folder, **how)
    assert list(of_training(folder)) == ["video-192.gif"]
    (folder / "figures" / "video-500.gif").write_bytes(b"of rows that are trained again, at other steps")
    (folder / "figures" / "video-mine.gif").write_bytes(b"mine")
    run(folder, **how, resume=True)
    assert of_training(folder) == of_training(filmed.folder) | {"video-mine.gif": b"mine"}


@pytest.fixture
def own(monkeypatch):
    """Adds a family of the probe environment "policy", with `more` attributes: own(name, **more)."""

    def own(name, **more):
        family = types.SimpleNamespace(Options=probe.Options, names=lambda: ["policy"], **more)
        monkeypatch.setitem(registry._families, name, family)

    return own


@pytest.fixture
def untrained(tiny):
    """env -> (plan, the agent's State [1, ...])."""

    def untrained(env):
        plan = make_plan("ppo", env, config=tiny("ppo", hidden=(8,)))
        spec = registry.env_spec(env)
        init = lanes.in_turn(lambda c, key: registry.agent("ppo").init(c, spec, key))
        return plan, init(configs.traced(plan.config), seed_keys(plan))

    return untrained


def test_games_on_the_host_are_filmed_too(own, untrained, tmp_path):
    game, closed = probe.make("policy"), []

    class Pool(HostedPool):
        def close(self):
            closed.append(self.num_envs)
            super().close()

    def make_pool(name, options, seeds, num_envs, num_groups=1):
        return Pool(game, rng.seed_keys(seeds[0], 1), num_envs, num_groups)

    own("hosted", make_pool=make_pool, spec=lambda name, options: game.spec)
    plan, state = untrained("hosted/policy")
    videos = filming.Videos(plan, tmp_path, every=256, steps=3)
    for before, now in ((0, 64), (192, 256), (500, 513)):
        videos.write(types.SimpleNamespace(agent=state), before, now)
    assert sorted(of_training(tmp_path)) == ["video-256.gif", "video-513.gif"]
    assert closed == [1, 1]  # each film has a pool of its own


def test_a_family_of_ones_own_draws_its_states(own, untrained, tmp_path):
    """The state that was acted in, of the steps of a film; one program for all films."""
    render = lambda state: np.full((2, 2, 3), 100 + 50 * state.observed, np.uint8)  # noqa: E731
    own("drawn", make=probe.make, renderer=lambda name, options: lambda state: render(state))
    plan, state = untrained("drawn/policy")
    videos = filming.Videos(plan, tmp_path, every=10, steps=130)
    camera = videos._camera
    films = [camera.film(state, seed) for seed in (0, 0, 1)]
    pictures, returns = films[0]
    assert np.shape(pictures) == (130, 2, 2, 3) and {50, 150} == set(np.unique(pictures)) and len(returns) == 130
    np.testing.assert_array_equal(pictures, films[1][0])
    assert not np.array_equal(pictures, films[2][0])
    assert camera._player._player._block._cache_size() == 1
    filming.path_of(tmp_path, 20).mkdir(parents=True)
    videos.write(types.SimpleNamespace(agent=state), 21, 29)  # none is due
    with pytest.raises(PurerlError, match=r"video-20\.gif: this is a folder"):
        videos.write(types.SimpleNamespace(agent=state), 19, 20)

    render = lambda state: state.observed  # noqa: E731
    with pytest.raises(PurerlError, match=r"the renderer of drawn/policy gave .* must give a numpy array uint8"):
        camera.film(state)
    render = lambda state: np.zeros((2, 3 + int(state.observed), 3), np.uint8)  # noqa: E731
    with pytest.raises(PurerlError, match="the pictures of drawn/policy have different shapes"):
        camera.film(state)
