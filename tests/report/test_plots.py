"""plots: the figure's lines equal the values in the rows."""

import dataclasses
import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from purerl.errors import PurerlError
from purerl.report import plots
from purerl.runs import run_folder, sinks


def make_run(folder, values, config=None, steps=None, **columns):
    """A run folder with rows of `values` [P, S] (None where no episode ended)."""
    seeds = len(values[0])
    config = {"agent": "ppo", "env": "gymnax/CartPole-v1", "preset": "classic", "seeds": list(range(seeds))} | (
        config or {}
    )
    run_folder.create(folder, config)
    sink = sinks.JsonlSink(folder / "metrics.jsonl")
    for i, returns in enumerate(values):
        sink.write(
            [
                {"iteration": i + 1, "step": (steps or (lambda i, s: 100 * (i + 1)))(i, seed), "seed": seed}
                | {"episode_return": value, **{name: column[i][seed] for name, column in columns.items()}}
                for seed, value in enumerate(returns)
            ]
        )
    sink.close()
    return folder


def drawn(figure):
    """(thick line [P, 2], thin lines) of the only run in a figure."""
    lines = figure.axes[0].get_lines()
    thick = [line.get_xydata() for line in lines if line.get_label() == "middle"]
    thin = [line.get_xydata() for line in lines if line.get_label() != "middle"]
    assert len(thick) == 1
    return thick[0], thin


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_plot_run_writes_a_readable_png(tmp_path):
    folder = make_run(tmp_path / "run", np.random.default_rng(0).normal(size=(20, 4)).tolist())
    path = plots.plot_run(str(folder))
    assert path == folder / "figures" / "return.png" and sorted(p.name for p in path.parent.iterdir()) == ["return.png"]
    with Image.open(path) as image:
        image.load()
        assert image.width == 1200 and 600 < image.height < 1200  # twice or more of a phone's width
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    blue = np.array([0x00, 0x72, 0xB2])
    assert (pixels[0] == 255).all() and (np.abs(pixels.astype(int) - blue).max(axis=1) < 3).sum() > 500


def test_the_line_is_the_iqm_of_the_seeds_and_the_band_its_interval(tmp_path):
    values = [[1.0, 2.0, 3.0, 100.0], [2.0, 4.0, 6.0, 8.0], [5.0, 5.0, 5.0, 5.0]]
    curve = plots.read_curve(make_run(tmp_path / "run", values), "step", "episode_return")
    figure = plots.draw([curve], "step", "episode_return")
    thick, thin = drawn(figure)
    np.testing.assert_allclose(thick, [[100, 2.5], [200, 5], [300, 5]])
    np.testing.assert_allclose(sorted(line[1, 1] for line in thin), [2, 4, 6, 8])
    (band,) = figure.axes[0].collections
    outline = band.get_paths()[0].vertices
    assert (outline[outline[:, 0] == 300][:, 1] == 5).all()  # seeds that agree leave no doubt
    low, high = outline[outline[:, 0] == 200][:, 1].min(), outline[outline[:, 0] == 200][:, 1].max()
    assert 2 <= low < 5 < high <= 8
    assert texts(figure) == ["ppo (classic) on gymnax/CartPole-v1", "IQM of 4 seeds, 95% bootstrap band"]
    assert figure.axes[0].get_xlabel() == "environment steps"
    assert figure.axes[0].get_ylabel() == "episode return [raw reward]"
    assert figure.legends == []


def test_one_seed_has_no_band_and_many_seeds_no_thin_lines(tmp_path):
    one = plots.read_curve(make_run(tmp_path / "one", [[1.0], [2.0]]), "step", "episode_return")
    figure = plots.draw([one], "step", "episode_return")
    assert not figure.axes[0].collections and drawn(figure)[1] == [] and texts(figure)[1] == "1 seed"
    many = plots.read_curve(make_run(tmp_path / "many", [[1.0] * 11, [2.0] * 11]), "step", "episode_return")
    figure = plots.draw([many], "step", "episode_return")
    assert len(figure.axes[0].collections) == 1 and drawn(figure)[1] == []


def test_periods_without_episodes_are_left_out_and_nothing_is_extrapolated(tmp_path):
    values = [[None, 1.0], [2.0, None], [4.0, 5.0], [8.0, None]]
    curve = plots.read_curve(make_run(tmp_path / "run", values), "step", "episode_return")
    assert curve.x.min() == 200 and curve.x.max() == 300  # what both seeds cover
    np.testing.assert_allclose(curve.seeds[:, 0], [2, 3])  # seed 1 is half way from 1 to 5
    np.testing.assert_allclose(curve.seeds[:, -1], [4, 5])


def test_smoothing_weighs_by_episodes_and_says_so(tmp_path):
    folder = make_run(tmp_path / "run", [[0.0], [10.0], [20.0]], episodes=[[3], [1], [1]], loss=[[0.0], [10.0], [20.0]])
    smooth = lambda y: plots.read_curve(folder, "step", y, smooth=2)  # noqa: E731
    np.testing.assert_allclose(smooth("episode_return").seeds[0], [0, 2.5, 15])
    np.testing.assert_allclose(smooth("loss").seeds[0], [0, 5, 15])  # not a statistic of episodes
    assert texts(plots.draw([smooth("loss")], "step", "loss"))[1] == "1 seed, smoothed over 2 rows"


def test_smoothing_takes_a_fiftieth_of_the_rows_by_default(tmp_path):
    folder = make_run(tmp_path / "run", [[float(i), 0.0] for i in range(200)])
    assert plots.read_curve(folder, "step", "episode_return").window == 4
    assert plots.read_curve(folder, "step", "episode_return", smooth=1).window == 1


def test_runs_are_named_by_what_sets_them_apart(tmp_path):
    def names(*configs):
        curves = [
            plots.read_curve(
                make_run(tmp_path / f"{len(list(tmp_path.iterdir()))}", [[1.0]], c), "step", "episode_return"
            )
            for c in configs
        ]
        return plots.name_curves(curves)

    assert names({}, {"agent": "ppg"}) == ("(classic) on gymnax/CartPole-v1", ["ppo", "ppg"])
    assert names({}, {"env": "procgen/coinrun"}) == ("ppo (classic)", ["gymnax/CartPole-v1", "procgen/coinrun"])
    assert names({"preset": None}, {"agent": "ppg", "env": "e"}) == (
        "2 runs",
        ["ppo on gymnax/CartPole-v1", "ppg (classic) on e"],
    )
    rates = [{"config": {"learning_rate": rate, "clip": 0.1}} for rate in (1e-3, 5e-3)]
    assert names(*rates) == (
        "ppo (classic) on gymnax/CartPole-v1",
        ["learning_rate 0.001", "learning_rate 0.005"],
    )
    title, labels = names({}, {})  # same in everything that has a name: the folders tell them apart
    assert title == "ppo (classic) on gymnax/CartPole-v1" and labels == ["8", "9"]


def test_several_runs_have_colours_a_legend_and_room_for_it(tmp_path):
    folders = [make_run(tmp_path / f"run{i}", [[1.0, 2.0], [2.0, 3.0 + i]], {"agent": f"agent-{i}"}) for i in range(9)]
    curves = [plots.read_curve(folder, "step", "episode_return") for folder in folders]
    figure = plots.draw(curves, "step", "episode_return")
    looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.legends[0].get_lines()}
    assert len(looks) == 9
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"agent-{i}" for i in range(9)]
    figure.canvas.draw()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_tightbbox()
    assert legend.y1 <= axes.y0 and legend.y0 >= 0 and legend.x1 <= figure.bbox.x1
    assert axes.y1 <= min(text.get_window_extent().y0 for text in figure.texts)
    assert axes.x0 >= 0 and axes.height > 0.35 * figure.bbox.height


def test_the_cells_of_a_sweep_are_named_by_their_settings_and_never_share_a_look(tmp_path, capsys, write_sweep):
    folder = write_sweep(tmp_path / "sweep", [{"learning_rate": i / 1000} for i in range(12)])
    curves = [plots.read_curve(cell, "step", "episode_return") for cell in sorted((folder / "cells").iterdir())]
    figure = plots.draw(curves, "step", "episode_return")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["learning_rate 0", "learning_rate 0.001"]
    assert len({line.get_color() for line in legend.get_lines()}) == 12
    figure.canvas.draw()
    box, axes = legend.get_window_extent(), figure.axes[0].get_tightbbox()
    assert box.y1 <= axes.y0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and axes.height > 0.35 * figure.bbox.height
    two = [dataclasses.replace(c, config=c.config | {"env_options": {"max_steps": i}}) for i, c in enumerate(curves)]
    (legend,) = plots.draw(two, "step", "episode_return").legends
    assert legend.get_title().get_text() == "learning_rate, env.max_steps"
    assert [text.get_text() for text in legend.get_texts()][1:3] == ["0.001, 1", "0.002, 2"]
    (folder / "cells" / "007" / "metrics.jsonl").unlink()
    out = plots.plot_runs([folder], tmp_path / "out.png")
    assert out.stat().st_size > 1000 and capsys.readouterr().err.startswith(
        "purerl: note: left out 1 run without a curve"
    )


def test_labels_and_a_title_of_ones_own(tmp_path):
    folders = [make_run(tmp_path / name, [[1.0], [2.0]]) for name in "ab"]
    curves = [plots.read_curve(folder, "step", "episode_return") for folder in folders]
    figure = plots.draw(curves, "step", "episode_return", ["old", "new"], "Mine")
    assert texts(figure)[0] == "Mine" and [t.get_text() for t in figure.legends[0].get_texts()] == ["old", "new"]
    with pytest.raises(PurerlError, match="3 labels for 2 runs"):
        plots.plot_runs(folders, tmp_path / "out.png", labels=["a", "b", "c"])


def test_long_names_stay_inside_the_figure(tmp_path):
    config = {"agent": "a-very-long-agent-name", "preset": "with-a-long-preset", "env": "gymnax/SpaceInvaders-MinAtar"}
    one = make_run(tmp_path / "one", [[1.0], [2.0]], config)
    other = make_run(tmp_path / "other", [[1.0], [2.0]], {k: v + "$\\frac$" for k, v in config.items()})
    beside = config | {"random_return": {"mean": -1234.5}}  # with a smoothed curve: the longest description
    described = make_run(tmp_path / "described", np.random.default_rng(0).normal(size=(400, 12)).tolist(), beside)
    for folders in ([one], [other], [one, other], [described]):  # the dollars are no formula
        figure = plots.draw([plots.read_curve(f, "step", "episode_return") for f in folders], "step", "episode_return")
        figure.canvas.draw()
        for thing in (*figure.texts, *figure.legends):
            box = thing.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".PNG"])
def test_kinds_of_files(tmp_path, suffix):
    folder = make_run(tmp_path / "run", [[1.0], [2.0]], loss=[[0.5], [0.25]])
    out = plots.plot_runs([folder, folder], tmp_path / "new" / f"figure{suffix}", x="iteration", y="loss")
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix.lower()]
    assert out.read_bytes().startswith(starts)


def test_a_run_of_one_row_can_be_seen(tmp_path):
    path = plots.plot_run(make_run(tmp_path / "run", [[1.0, 2.0]]))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.abs(pixels - [0x00, 0x72, 0xB2]).max(axis=1) < 3).sum() > 50


def test_the_users_matplotlib_is_left_alone(tmp_path):
    import matplotlib

    before, pyplot = dict(matplotlib.rcParams), sys.modules.get("matplotlib.pyplot")
    plots.plot_run(make_run(tmp_path / "run", [[1.0], [2.0]]))
    assert dict(matplotlib.rcParams) == before
    assert sys.modules.get("matplotlib.pyplot") is pyplot
    importlib.import_module("purerl.report.plots")


def test_what_cannot_be_drawn(tmp_path):
    good = make_run(tmp_path / "good", [[1.0], [2.0]])
    out = tmp_path / "out.png"
    empty = run_folder.create(tmp_path / "empty", json.loads((good / "config.json").read_text()))
    nothing = make_run(tmp_path / "nothing", [[1.0, None], [2.0, None]])
    apart = make_run(tmp_path / "apart", [[1.0, None], [None, 2.0]])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    for folder, message in (
        (tmp_path / "nowhere", "no run folder"),
        (tmp_path / "foreign", "not written by purerl"),
        (empty, "no metrics yet"),
        (nothing, "some seed .* no 'episode_return'"),
        (apart, "have no .* in common"),
    ):
        with pytest.raises(PurerlError, match=message) as error:
            plots.plot_runs([good, folder], out)
        assert "\n" not in str(error.value)
    (empty / "metrics.jsonl").write_text("")
    with pytest.raises(PurerlError, match="no metrics yet"):
        plots.plot_run(empty)
    with pytest.raises(PurerlError, match=r"has 'episode_retur'.* Did you mean 'episode_return'"):
        plots.plot_runs([good], out, y="episode_retur")
    with pytest.raises(PurerlError, match=r"Known: .*iteration"):
        plots.plot_runs([good], out, x="time")
    with pytest.raises(PurerlError, match="at least one"):
        plots.plot_runs([], out)
    with pytest.raises(PurerlError, match=r"'\.bmp' figure"):
        plots.plot_runs([good], tmp_path / "out.bmp")
    with pytest.raises(PurerlError, match="0 rows"):
        plots.plot_runs([good], out, smooth=0)
    with pytest.raises(PurerlError, match="in the way"):
        plots.plot_runs([good], good / "config.json" / "out.png")
    assert not out.exists() and not (empty / "figures").exists()
