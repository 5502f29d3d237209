"""sweep_plots: the points of a sweep's figure are the rows of its ranking."""

import numpy as np
import pytest
from PIL import Image

from purerl.report import sweep_plots


def ranking(cells, seeds=4, iqm=lambda i: 10.0 - i):
    """Rows of a ranking for some cells, best first."""
    spread = 0.5 if seeds > 1 else 0.0
    return [
        {"rank": i + 1, "cell": f"{i:03d}", **cell, "iqm": iqm(i), "low": iqm(i) - spread, "high": iqm(i) + spread}
        | {"mean": iqm(i), "seeds": seeds, "diverged": 0}
        for i, cell in enumerate(cells)
    ]


def drawn(monkeypatch, tmp_path, *arguments):
    """The figure that `draw` writes."""
    found = []
    image = sweep_plots.plots.image
    monkeypatch.setattr(sweep_plots.plots, "image", lambda figure, kind: found.append(figure) or image(figure, kind))
    out = sweep_plots.draw(*arguments[:2], tmp_path / "figures" / "sweep.png", *arguments[2:])
    with Image.open(out) as picture:
        picture.load()
    return found[0]


def points(axes):
    """[P, 2] markers of a panel."""
    return np.concatenate([line.get_xydata() for line in axes.get_lines() if line.get_marker() == "o"])


def random_cells(count):
    draw = np.random.default_rng(0)
    return [
        {"learning_rate": float(10 ** draw.uniform(-3, -2)), "clip": float(draw.uniform(0.1, 5)), "network": word}
        for word in draw.choice(["mlp", "nature"], count)
    ]


def test_random_search_is_a_scatter_of_all_settings_per_field(monkeypatch, tmp_path):
    cells = random_cells(30)
    laws = {"learning_rate": "log", "clip": "uniform", "network": "choice"}
    title = "ppo (classic) on gymnax/CartPole-v1"
    figure = drawn(monkeypatch, tmp_path, ranking(cells), ["learning_rate", "clip", "network"], title, laws)
    rate, clip, network = [axes for axes in figure.axes if axes.get_visible()]
    assert (rate.get_xscale(), clip.get_xscale(), network.get_xscale()) == ("log", "linear", "linear")
    assert [axes.get_xlabel() for axes in (rate, clip, network)] == ["learning rate", "clip", "network"]
    for axes, name in ((rate, "learning_rate"), (clip, "clip")):
        expected = [(cell[name], 10.0 - i) for i, cell in enumerate(cells)]
        np.testing.assert_allclose(sorted(points(axes).tolist()), sorted(expected))
    assert len(points(network)) == 30
    assert [label.get_text() for label in network.get_xticklabels()] == ["mlp", "nature"]
    assert [text.get_text() for text in figure.texts] == [
        title, "final return of 30 settings: IQM of 4 seeds, 95% interval",
    ]  # fmt: skip


def test_one_seed_has_no_interval(monkeypatch, tmp_path):
    rows = ranking(random_cells(5), seeds=1)
    figure = drawn(monkeypatch, tmp_path, rows, ["clip"], "ppo on x", {"clip": "uniform"})
    assert figure.texts[1].get_text() == "final return of 5 settings: 1 seed"
    assert not figure.axes[0].collections  # no error bars
    several = drawn(monkeypatch, tmp_path, ranking(random_cells(5)), ["clip"], "ppo on x", {"clip": "uniform"})
    assert several.axes[0].collections


def test_a_grid_over_a_number_is_a_line_per_value_of_the_other_field(monkeypatch, tmp_path):
    cells = [{"learning_rate": rate, "network": word} for rate in (1e-4, 1e-3, 1e-2) for word in ("mlp", "nature")]
    figure = drawn(monkeypatch, tmp_path, ranking(cells), ["learning_rate", "network"], "ppo on x", None)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"  # it spans a factor of 100
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["network mlp", "network nature"] and len(points(axes)) == 6


def test_a_few_chosen_numbers_are_the_ticks(monkeypatch, tmp_path):
    cells = [{"num_envs": count, "clip": i / 10} for i, count in enumerate((16, 32, 16))]
    laws = {"num_envs": "choice", "clip": "uniform"}
    figure = drawn(monkeypatch, tmp_path, ranking(cells), ["num_envs", "clip"], "ppo on x", laws)
    assert list(figure.axes[0].get_xticks()) == [16, 32] and list(figure.axes[1].get_xticks()) != [0, 0.1, 0.2]


def test_a_grid_of_three_fields_shows_all_its_settings(monkeypatch, tmp_path):
    cells = [{"a": a, "b": b, "c": c} for a in (1, 2, 3) for b in (0.1, 0.2, 0.3) for c in (True, False, None)]
    figure = drawn(monkeypatch, tmp_path, ranking(cells), ["a", "b", "c"], "ppo on x", None)
    assert [len(points(axes)) for axes in figure.axes if axes.get_visible()] == [27, 27, 27]


@pytest.mark.parametrize("value", ["$\\frac$", "x" * 300, [64, 64], None])
def test_any_value_can_be_drawn(monkeypatch, tmp_path, value):
    rows = ranking([{"field": value}, {"field": "other"}])
    drawn(monkeypatch, tmp_path, rows, ["field"], "$\\frac$ on x", {"field": "choice"})


def test_cells_without_a_return_are_left_out(monkeypatch, tmp_path):
    rows = ranking([{"clip": 0.1}, {"clip": 0.2}])
    rows[1] |= {"iqm": None, "low": None, "high": None, "seeds": 0}
    figure = drawn(monkeypatch, tmp_path, rows, ["clip"], "ppo on x", None)
    assert len(points(figure.axes[0])) == 1
    drawn(monkeypatch, tmp_path, rows[1:], ["clip"], "ppo on x", None)
