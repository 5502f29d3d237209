"""report: the page shows the content of the files, malicious files do no harm, and a real browser opens it."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import html.parser
import itertools
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from purerl import statistics
from purerl.cli import main as cli
from purerl.errors import PurerlError
from purerl.report import charts, curves, plots, recordings, wording
from purerl.report import page as report
from purerl.runs import files, run_folder, sinks

GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\x00\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
STYLE, SCRIPT = report.source("report.css"), report.source("report.js")
TIMES, DASH, MINUS = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}", "\N{MINUS SIGN}"
VOID = {"meta", "link", "img", "br"}


def make_run(folder, values, finals=None, config=None, evaluation=None, **columns):
    """A run folder with rows of `values` [P, S], finished if `finals` says how."""
    seeds = list(range(len(values[0])))
    planned = {
        "agent": "ppo",
        "env": "gymnax/CartPole-v1",
        "preset": "classic",
        "seeds": seeds,
        "steps": 100 * len(values),
        "config": {"learning_rate": 1e-3, "hidden": [64, 64]},
        "env_options": {"max_steps": 0},
        "protocol": {"time_limit_is_terminal": False},
        "environment": {"versions": {"jax": "0.10.2"}, "device": {"kind": "cpu", "count": 2}, "git_commit": "abc123"},
    }
    run_folder.create(folder, planned | (config or {}))
    with contextlib.closing(sinks.JsonlSink(folder / "metrics.jsonl")) as sink:
        for i, returns in enumerate(values):
            sink.write(
                [
                    {"iteration": i + 1, "step": 100 * (i + 1), "seed": seed, "episode_return": value}
                    | {name: column[i][seed] for name, column in columns.items()}
                    for seed, value in enumerate(returns)
                ]
            )
    if finals is not None:
        summary = {"steps": 100 * len(values), "steps_per_second": 12345.6, "compile_seconds": 3.21}
        final = {"per_seed": finals, "definition": "mean of the last episodes"}
        files.write_json(folder / "summary.json", summary | {"final_return": final})
    if evaluation is not None:
        files.write_json(folder / "eval.json", evaluation)
    return folder


class Page(html.parser.HTMLParser):
    """A parsed page: `elements` [(tag, attributes, text inside)]. Fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        assert tag == "path"  # only there HTML lets an element close itself
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        """(attributes, text) of the elements with that tag and, among their attributes' words, these."""
        named = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            (found, " ".join(text.split()))
            for name, found, text in self.elements
            if name == tag and all(value in (found.get(key) or "").split() for key, value in named.items())
        ]

    def table(self, name):
        """[[cell, ...], ...] of the table in the box with that name, the header first."""
        rows, inside = [], False
        for tag, attributes, text in self.elements:
            if attributes.get("role") == "region":
                inside = attributes["aria-label"] == name
            if inside and tag == "tr":
                rows.append([])
            if inside and tag in ("th", "td"):
                rows[-1].append(" ".join(text.split()))
        return rows


def page_of(*folders):
    return Page(report.render(curves.read(folders)))


def drawn(page, kind, plot=0):
    """[P, 2] points of a path, in data, from the page itself."""
    index = [i for i, (tag, a, _) in enumerate(page.elements) if tag == "div" and a.get("class") == "plot"][plot]
    box = page.elements[index][1]
    path = next(a for tag, a, _ in page.elements[index:] if tag == "path" and kind in a["class"].split())
    points = np.array(re.findall(r"[\d.]+", path["d"]), np.float64)[: 2 * (path["d"].count("L") + 1)].reshape(-1, 2)
    (x0, x1), (y0, y1) = (map(float, box[name].split()) for name in ("data-x", "data-y"))
    return np.stack([x0 + (x1 - x0) * points[:, 0] / 1000, y1 - (y1 - y0) * points[:, 1] / 1000], axis=1)


# --- what the page says ----------------------------------------------------------------------------------------------


def test_the_curve_is_the_iqm_of_the_seeds_and_the_band_its_interval(tmp_path):
    values = [[1.0, 2.0, 3.0, 100.0], [2.0, 4.0, 6.0, 8.0], [5.0, 5.0, 5.0, 5.0]]
    page = page_of(make_run(tmp_path / "run", values))
    np.testing.assert_allclose(drawn(page, "line"), [[100, 2.5], [200, 5], [300, 5]], atol=0.02)
    band = drawn(page, "band")
    np.testing.assert_allclose(band[:, 0], [100, 200, 300, 300, 200, 100], atol=0.02)
    low, high = statistics.bootstrap_band(np.array(values).T)
    np.testing.assert_allclose(band[:3, 1], low, atol=0.02)
    np.testing.assert_allclose(band[3:, 1], high[::-1], atol=0.02)
    np.testing.assert_allclose(drawn(page, "seed")[:, 1], [1, 2, 5], atol=0.02)
    ((svg, _),) = page.all("svg", role="img")
    assert svg["aria-label"] == (
        "Episode return [raw reward] over environment steps. "
        "run: 2.50 at step 100, 5 (95% interval 5 to 5) at step 300."
    )


def test_curves_are_thinned_smoothed_as_plots_are_and_periods_without_episodes_left_out(tmp_path):
    returns = np.random.default_rng(0).normal(size=(500, 2)).cumsum(axis=0) + 50
    values = [[None if i % 7 == 3 else float(x) for x in row] for i, row in enumerate(returns)]
    episodes = [[i % 3 + 1] * 2 for i in range(500)]
    folder = make_run(tmp_path / "run", values, episodes=episodes)
    line = drawn(page_of(folder), "line")
    assert len(line) == 200
    shown = plots.read_curve(folder, "step", "episode_return", smooth=9)  # a fiftieth of the 429 rows that have one
    expected = np.interp(line[:, 0], shown.x, statistics.interquartile_mean(shown.seeds, axis=0))
    np.testing.assert_allclose(line[:, 1], expected, atol=0.05)


def test_one_seed_has_neither_band_nor_interval_and_one_row_is_a_dot(tmp_path):
    text = report.render(curves.read([make_run(tmp_path / "run", [[3.0]], finals=[3.0])]))
    page = Page(text)
    assert not page.all("path", class_="band") and len(page.all("path", class_="dot")) == 1
    assert page.table("Results")[1][1:4] == ["3", "3", "1"]
    assert (
        "1 seed" in page.all("figcaption")[0][1]
        and "95% interval" not in page.all("svg", role="img")[0][0]["aria-label"]
    )


def test_the_evaluation_return_has_a_chart_where_there_is_one_and_the_rest_is_folded_away(tmp_path):
    values, nothing = [[1.0, 2.0]] * 3, [[None, None]]
    without = make_run(tmp_path / "a", values, loss=[[3.0, 3.0]] * 3, diverged=[[False, True]] * 3)
    captions = [text for _, text in page_of(without).all("figcaption")]
    assert [text.split("IQM")[0] for text in captions] == ["Episode return [raw reward]", "Loss"]
    with_it = make_run(tmp_path / "b", values, evaluation_return=[*nothing, [7.0, 9.0], *nothing])
    page = page_of(without, with_it)
    ((_, folded),) = [found for found in page.all("details") if "Other metrics" in found[1]]
    assert folded.startswith("Other metrics (1)") and "Loss" in folded and "Evaluation return" not in folded
    np.testing.assert_allclose(drawn(page, "line", plot=1), [[200, 8]], atol=0.02)
    legend = [text for _, text in page.all("ul", class_="legend")]
    assert "a" in legend[0].split() and "a" not in legend[1].split()  # it was never evaluated


def test_results_by_hand(tmp_path):
    finals, base = [1.0, 2.0, 3.0, 100.0], [2.0, 2.0, 3.0, None]
    first = make_run(tmp_path / "base", [[1.0] * 4] * 2, finals=base)
    second = make_run(tmp_path / "ours", [[1.0] * 4] * 2, finals=finals, config={"agent": "ppg"})
    page = page_of(first, second)
    header, row, other = page.table("Results")
    low, high = statistics.stratified_bootstrap_interval(np.array(finals))
    cells = dict(zip(header, other, strict=True))
    assert cells["run"] == "ours" and cells["agent"] == "ppg" and "environment" not in cells  # the title says it
    assert cells["final IQM (95%)"] == f"2.50 ({wording.show(low)} to {wording.show(high)})"
    assert cells["final mean (95%)"].startswith("26.5 (")
    assert cells["steps/s"] == "12,346" and cells["compile"] == "3.2 s" and cells["device"] == f"2 {TIMES} cpu"
    assert cells["seeds"] == "4" and cells["steps of each"] == "200"
    assert row[3] == "3 of 4" and row[1].startswith("2.33 (")
    # Pairs with 2, 2, 3: 1 loses all; 2 ties twice; 3 wins twice and ties once; 100 wins all.
    _, (name, probability, _, against, _) = page.table("Probability of improvement")
    assert (name, against) == ("ours", "base") and probability.startswith(f"{(1 + 2.5 + 3) / 12:.2f} (")
    assert "Final return of a seed: mean of the last episodes." in [text for _, text in page.all("p")]


def test_runs_are_only_compared_on_one_environment(tmp_path):
    a = make_run(tmp_path / "a", [[1.0, 2.0]], finals=[1.0, 2.0])
    b = make_run(tmp_path / "b", [[1.0, 2.0]], finals=[3.0, 4.0], config={"env": "probe/policy"})
    page = page_of(a, b)
    assert page.table("Probability of improvement") == []
    assert [text for _, text in page.all("h3")] == ["gymnax/CartPole-v1", "probe/policy"]
    assert page.all("h1")[0][1] == page.all("title")[0][1] == "ppo on gymnax/CartPole-v1 and probe/policy"


def test_a_sweep_is_all_its_cells_named_by_what_differs(tmp_path, write_sweep):
    folder = write_sweep(tmp_path / "sweep", [{"learning_rate": rate} for rate in (0.1, 0.2, 0.3)])
    page = page_of(folder)
    names = [text for _, text in page.all("span", class_="name")]
    assert names[2:5] == ["learning_rate 0.1", "learning_rate 0.2", "learning_rate 0.3"]  # after those of the title
    header, *rows = page.table("Results")
    assert header[:3] == ["run", "learning_rate", "final IQM (95%)"]
    assert [row[:2] for row in rows] == [["000", "0.1"], ["001", "0.2"], ["002", "0.3"]]
    assert [text for _, text in page.all("title")] == ["ppo on gymnax/CartPole-v1"]
    twin = write_sweep(tmp_path / "twin", [{"learning_rate": 0.4}])
    assert [run.name for run in curves.read([folder, twin])] == ["sweep/000", "001", "002", "twin/000"]


def test_thirty_runs_have_thirty_colours_and_are_rows(tmp_path, write_sweep):
    folder = write_sweep(tmp_path / "sweep", [{"learning_rate": i / 100, "clip": i / 10} for i in range(30)], seeds=1)
    text = report.render(curves.read([folder]))
    page = Page(text)
    (style,) = [text for tag, _, text in page.elements if tag == "style"]
    assert style.startswith(STYLE) and all(f".c{i} {{" in style for i in range(30))
    assert page.all("p", class_="about")[0][1] == "learning_rate, clip:"
    assert [text for _, text in page.all("span", class_="name")][2:4] == ["0, 0", "0.01, 0.1"]
    looks = {attributes["class"] for attributes, _ in page.all("path", class_="line") if "data-run" in attributes}
    assert len(looks) == 30
    assert page.table("Results")[0][:3] == ["run", "learning_rate", "clip"] and len(page.table("Results")) == 31
    assert page.table("Settings that differ")[1] == ["000", "0.0", "0.0"]
    assert "The settings that differ are columns of the table of results." in [t for _, t in page.all("p")]


def test_labels_and_a_title_of_ones_own(tmp_path, capsys):
    a, b = make_run(tmp_path / "a", [[1.0]], finals=[1.0]), make_run(tmp_path / "b", [[1.0]], finals=[2.0])
    out = tmp_path / "page.html"
    assert cli.main(["report", str(a), str(b), "--out", str(out), "--labels", "old, <new>", "--title", "A & B"]) == 0
    page = Page(out.read_text())
    assert page.all("h1")[0][1] == page.all("title")[0][1] == "A & B"
    assert [row[0] for row in page.table("Results")] == ["run", "old", "<new>"]
    assert [text for _, text in page.all("span", class_="name")] == ["old", "<new>"]
    capsys.readouterr()
    assert "1 labels for 2 runs" in refused(capsys, f"report {a} {b} --labels old")


def test_the_title_of_several_environments(tmp_path):
    envs = ["gymnax/Asterix-MinAtar", "gymnax/Breakout-MinAtar", "gymnax/Freeway-MinAtar"]
    runs = [make_run(tmp_path / env[-3:] / env, [[1.0]], config={"env": env}) for env in envs]
    page = page_of(*runs)
    assert page.all("h1")[0][1] == page.all("title")[0][1] == f"ppo on {envs[0]}, {envs[1]} and {envs[2]}"


def test_an_unfinished_run_is_shown_as_unfinished(tmp_path):
    folder = make_run(tmp_path / "run", [[1.0, 2.0]] * 3, config={"steps": 5000})
    page = page_of(folder)
    assert "Unfinished at step 300" in page.all("p", class_="lead")[0][1]
    assert page.table("Results")[1][:5] == ["run unfinished", DASH, DASH, "2", "300 of 5,000"]
    files.write_json(folder / "summary.json", {"steps": 200, "final_return": {"per_seed": [8.0, 9.0]}})
    page = page_of(folder)  # it ended at 200 steps and was then resumed to run for longer
    assert page.table("Results")[1][:5] == ["run unfinished", DASH, DASH, "2", "300 of 5,000"]
    (folder / "summary.json").unlink()
    (folder / "metrics.jsonl").unlink()  # killed before its first row
    page = page_of(folder)
    assert "No episode has ended yet: there is no curve." in [text for _, text in page.all("p")]
    done = make_run(tmp_path / "done", [[1.0, 2.0]], finals=[1.0, 2.0])
    page = page_of(done, folder)
    assert "no curve yet" in page.all("ul", class_="legend")[0][1]
    assert "1 of them unfinished" in page.all("p", class_="lead")[0][1]


def test_only_fields_that_differ_stand_in_front_and_all_of_them_in_details(tmp_path):
    a = make_run(tmp_path / "a", [[1.0]])
    b = make_run(tmp_path / "b", [[1.0]], config={"config": {"learning_rate": 0.5, "hidden": [64, 64], "clip": 0.2}})
    page = page_of(a, b)
    assert page.table("Fields that differ") == [["field", "a", "b"], ["learning_rate", "0.001", "0.5"]]
    assert "1 field that only some of the runs have" in " ".join(text for _, text in page.all("p"))
    assert ["clip", DASH, "0.2"] in page.table("Settings that differ")
    assert ["env.max_steps", "0"] in page.table("Settings that are the same")
    assert ["time_limit_is_terminal", "no"] in page.table("Protocol switches")
    facts = page.table("Facts")
    assert ["commit", "abc123"] in facts and ["jax", "0.10.2"] in facts and ["device", f"2 {TIMES} cpu"] in facts
    assert page_of(a).table("Settings")[1] == ["agent", "ppo"] and page_of(a).table("Fields that differ") == []
    twin = make_run(tmp_path / "c", [[1.0]])
    assert "The runs have the same configuration." in [text for _, text in page_of(a, twin).all("p")]


def test_evaluations(tmp_path):
    found = {
        "greedy": True,
        "step": 51200,
        "per_seed": [{"seed": 0, "episodes": 32}, {"seed": 1, "episodes": 32}],
        "changed_env_options": {"num_levels": [200, 0]},
        "return": {"iqm": 371.0, "mean": 350.6, "iqm_interval_95": [168.9, 491.5], "mean_interval_95": None},
        "normalized_return": None,
    }
    a = make_run(tmp_path / "a", [[1.0, 2.0]], evaluation=found)
    assert page_of(a).table("Evaluation") == [
        ["run", "IQM (95%)", "mean (95%)", "episodes of each seed", "at step", "actions", "other options"],
        ["a", "371 (168.9 to 491.5)", "350.6", "32", "51,200", "greedy", "num_levels 0"],
    ]
    files.write_json(a / "eval.json", found | {"normalized_return": {"iqm": 0.71}})
    assert page_of(a).table("Evaluation")[1][-1] == "0.710"


def test_videos_are_inside_the_page(tmp_path):
    folder = make_run(tmp_path / "run", [[1.0]])
    assert not page_of(folder).all("img")
    (folder / "figures").mkdir()
    (folder / "figures" / "video.gif").write_bytes(GIF)
    (folder / "figures" / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (folder / "figures" / "other.gif").write_bytes(b"not a video")
    for step in (900, 1000, 2000, 30_000, 400_000, 5_000_000):
        (folder / "figures" / f"video-{step}.gif").write_bytes(GIF)
    secret = tmp_path / "secret.gif"
    secret.write_bytes(GIF + b"secret")
    (folder / "figures" / "link.gif").symlink_to(secret)
    with pytest.raises(PurerlError, match=r"link\.gif is a link that leads out of the folder"):
        page_of(folder)
    (folder / "figures" / "link.gif").unlink()
    page = page_of(folder)
    ((image, _), *of_training), ((video, _),) = page.all("img"), page.all("video")
    shown = [one["alt"].partition(" after ")[2] for one, _ in of_training]  # the first, the newest, some between them
    assert shown == ["900 steps", "1,000 steps", "30,000 steps", "5,000,000 steps"]
    assert of_training[0][0]["alt"] == "The agent of run plays gymnax/CartPole-v1 after 900 steps"
    for path in (folder / "figures").glob("video-*.gif"):
        path.unlink()
    assert image["src"] == f"data:image/gif;base64,{base64.b64encode(GIF).decode()}"
    assert image["alt"] == "The trained agent of run plays gymnax/CartPole-v1"
    assert video["src"].startswith("data:video/mp4;base64,") and "controls" in video and video["aria-label"]
    linked = make_run(tmp_path / "linked", [[1.0]])
    (linked / "figures").symlink_to(folder / "figures")
    with pytest.raises(PurerlError, match="figures is a link that leads out of the folder"):
        page_of(linked)
    (folder / "figures" / "video.gif").write_bytes(GIF + bytes(recordings.MOST_BYTES))
    page = page_of(folder)
    assert not page.all("img") and "8.0 MiB is too large for this page" in page.all("figure", class_="video")[0][1]


def test_a_run_given_twice_counts_once_and_equal_names_are_told_apart(tmp_path):
    a, b = make_run(tmp_path / "x" / "run", [[1.0]]), make_run(tmp_path / "y" / "run", [[1.0]])
    names = [run.name for run in curves.read([a, str(a) + "/", b])]
    assert names == ["x/run", "y/run"]


def test_numbers_in_words():
    shown = {
        0: "0",
        5: "5",
        2.5: "2.50",
        15.83: "15.8",
        354.4: "354.4",
        0.00274: "0.00274",
        -0.5: f"{MINUS}0.500",
        1e-5: f"1.00e{MINUS}05",
    }
    assert {number: wording.show(number) for number in shown} == shown
    assert wording.show(16783.8) == "16,784" and wording.show(2e12) == "2.00e+12"
    assert (
        wording.plain([0, 1, 2]) == "0 to 2" and wording.plain([64, 64]) == "64, 64" and wording.plain(None) == "none"
    )


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 500, [0, 100, 200, 300, 400, 500]),
        (-0.3, 0.1, [-0.3, -0.2, -0.1, 0, 0.1]),
        (0, 51200, range(0, 50001, 10000)),
    ],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    np.testing.assert_allclose(charts.axis(low, high, 5).ticks, ticks, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 7.0, -7.0, 1e-30, 1e90])
def test_a_curve_that_never_changes_can_be_drawn(tmp_path, value):
    page = page_of(make_run(tmp_path / "run", [[value, value]] * 3))
    np.testing.assert_allclose(drawn(page, "line")[:, 1], value, atol=1e-3 * abs(value) + 1e-3)


# --- the page as such ------------------------------------------------------------------------------------------------


HOSTILE = "\"'><img src=x onerror=hacked=1><script>hacked=1</script></title></style>&\u202e\ud800\x00" + "long" * 60


def hostile_run(tmp_path):
    """A malicious run folder."""
    config = {
        "agent": HOSTILE,
        "env": HOSTILE,
        "preset": HOSTILE,
        "seeds": HOSTILE,
        "steps": [HOSTILE],
        "config": {HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE, None, 1]}, "huge": 10**400},
        "env_options": [HOSTILE],
        "protocol": {HOSTILE: HOSTILE},
        "environment": {"versions": HOSTILE, "device": {"kind": HOSTILE, "count": HOSTILE}, "git_commit": HOSTILE},
    }
    columns = {HOSTILE: [[1.0, 2.0]] * 3, "odd": [[HOSTILE, 10**400]] * 3, "list": [[[1], {}]] * 3}
    evaluation = {"return": HOSTILE, "per_seed": 1}
    folder = make_run(tmp_path / "<script>hacked=1<script>", [[1.0, 2.0]] * 3, None, config, evaluation, **columns)
    summary = {
        "final_return": {"per_seed": [HOSTILE, 1.0, None, [2]], "definition": [HOSTILE]},
        "device": HOSTILE,
        "diverged_seeds": HOSTILE,
        "steps": HOSTILE,
    }
    files.write_json(folder / "summary.json", summary)
    (folder / "figures").mkdir()
    (folder / "figures" / '"><script>hacked=1<script>.gif').write_bytes(GIF)
    return folder


def test_a_strangers_run_is_text_and_nothing_else(tmp_path):
    folder = hostile_run(tmp_path)
    text = report.render(curves.read([folder, make_run(tmp_path / "good", [[1.0]], finals=[2.0])]))
    text.encode()  # a lone surrogate would not
    page = Page(text)
    assert [tag for tag, *_ in page.elements].count("script") == 1
    assert [text for tag, _, text in page.elements if tag in ("script", "style")] == [STYLE, SCRIPT]
    assert len(page.all("img")) == 1
    for _, attributes, _ in page.elements:
        assert not any(name.startswith("on") for name in attributes)
    assert "\u202e" not in text and "\x00" not in text
    assert page.all("tr")[1][1].startswith("<script>hacked=1<script>")  # readable all the same


def test_values_from_files_are_bounded_lines_of_visible_characters():
    assert report.one_line("a\nb\tc\u2028d\x1b[0m\u202e") == "a b c d\ufffd[0m\ufffd"
    assert report.one_line("x" * 200) == "x" * 200
    assert report.one_line("x" * 201) == "x" * 199 + "\N{HORIZONTAL ELLIPSIS}"
    assert report.one_line("3\N{NO-BREAK SPACE}s") == "3\N{NO-BREAK SPACE}s"


def test_the_templates_escape_all_but_what_the_report_itself_makes():
    texts = {path.name: path.read_text() for path in (Path(report.__file__).parent / "templates").glob("*.html")}
    safe = [
        (name, value.strip()) for name, text in texts.items() for value in re.findall(r"([\w.]+)\s*\|\s*safe\b", text)
    ]
    assert sorted(set(safe)) == [
        ("charts.html", "shape.path"),
        ("page.html", "script"),
        ("page.html", "style"),
        ("video.html", "one.base64"),
    ]
    assert not any("autoescape" in text or "Markup" in text for text in texts.values())


def test_the_page_needs_nothing_and_allows_nothing_from_outside(tmp_path):
    folder = make_run(tmp_path / "run", [[1.0, 2.0]] * 3, finals=[1.0, 2.0])
    text = report.render(curves.read([folder]))
    page = Page(text)
    for _, attributes, _ in page.elements:
        assert all(attributes.get(name, "data:").startswith("data:") for name in ("src", "href", "action", "srcset"))
    assert "url(" not in STYLE and "@import" not in STYLE
    (policy,) = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert len(text) < 40_000


def test_the_page_can_be_read_by_machines_too(tmp_path):
    runs_ = [make_run(tmp_path / name, [[1.0, 2.0]] * 3, finals=[1.0, 2.0], loss=[[0.1, 0.2]] * 3) for name in "ab"]
    text = report.render(curves.read(runs_))
    page = Page(text)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert page.all("meta", name="viewport")[0][0]["content"] == "width=device-width, initial-scale=1"
    levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(a.get("scope") in ("col", "row") for a, _ in page.all("th"))
    assert all(a.get("aria-label") for a, _ in page.all("svg") if a.get("aria-hidden") != "true")
    assert all(a.get("aria-label") and a.get("tabindex") == "0" for a, _ in page.all("div", class_="scroll"))
    for name in ("Results", "Probability of improvement", "Settings"):
        widths = {len(row) for row in page.table(name)}
        assert len(widths) <= 1, name


def test_colours_have_contrast_in_both_schemes():
    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    def contrast(a, b):
        low, high = sorted([luminance(a), luminance(b)])
        return (high + 0.05) / (low + 0.05)

    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in STYLE.split("@media")[:2])
    for scheme in (light, dark):
        assert min(contrast(scheme[name], scheme["ground"]) for name in ("ink", "quiet", "accent")) >= 4.5
        assert contrast(scheme["badge-ink"], scheme["badge"]) >= 4.5
        assert min(contrast(scheme[f"c{i}"], scheme["ground"]) for i in range(charts.COLOURS)) >= 3


def test_the_report_imports_nothing_that_trains_or_plays():
    rooms = "files|run_folder|sinks|provenance|collection|differences|lock|ownership"
    allowed = rf"purerl(\.report[.\w]*|\.errors|\.statistics|\.runs\.({rooms}))?"
    for path in Path(report.__file__).parent.glob("*.py"):
        for package, names in re.findall(
            r"^\s*(?:from|import) (purerl[.\w]*)(?: import (.*))?$", path.read_text(), re.M
        ):
            modules = (
                [f"{package}.{name}" for name in names.split(", ")]
                if package in ("purerl", "purerl.runs")
                else [package]
            )
            for module in modules:
                assert re.fullmatch(allowed, module), f"{path.name} imports {module}"


# --- files and the command -------------------------------------------------------------------------------------------


def run(line, *paths):
    return cli.main([*line.split(), *map(str, paths)])


def refused(capsys, line, *paths):
    """The one line that a command says to bad input."""
    assert run(line, *paths) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("purerl: error: "), said
    return said.err


def test_where_the_page_goes(tmp_path, capsys, monkeypatch):
    a, b = make_run(tmp_path / "a", [[1.0]]), make_run(tmp_path / "b", [[1.0]])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for arguments, path in (
        ([a], a / "report.html"),
        ([a, b], Path("report.html")),
        ([a, "--out", "new/folder/page.HTM"], Path("new/folder/page.HTM")),
    ):
        assert run("report", *arguments) == 0
        assert capsys.readouterr().out == f"{path}\n"
        assert path.read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in a.iterdir()) == ["config.json", "metrics.jsonl", "purerl.json", "report.html"]
    assert run("report --help") == 0
    assert "DIR/report.html" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = make_run(tmp_path / "good", [[1.0]], finals=[1.0])
    (tmp_path / "other").mkdir()
    assert "missing DIR..." in refused(capsys, "report")
    assert "no run folder nothing" in refused(capsys, "report good nothing")
    assert "is not a run folder" in refused(capsys, "report good other")
    assert "is not a run folder" in refused(capsys, "report .")
    assert "'.json'" in refused(capsys, "report good --out good/config.json")
    assert "'--ot'" in refused(capsys, "report good --ot x.html")
    assert "in the way" in refused(capsys, "report good --out good/config.json/x.html")
    before = (good / "metrics.jsonl").read_text()
    for name, text, said in (
        ("metrics.jsonl", "{\n" + before, "metrics.jsonl line 1 is damaged"),
        ("metrics.jsonl", '{"seed": [1]}\n', "its seed is not an integer"),
        ("metrics.jsonl", "[1]\n", "is not a metrics row"),
        ("summary.json", "[", "summary.json"),
        ("eval.json", "[]", "eval.json is damaged"),
        ("config.json", "{}", "not written by purerl"),
    ):
        copy = Path(shutil.copytree(good, tmp_path / "copy"))
        (copy / name).write_text(text)
        assert said in refused(capsys, "report good copy")
        assert said in refused(capsys, "report copy")
        assert not (copy / "report.html").exists()
        shutil.rmtree(copy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "other"]
    with pytest.raises(PurerlError, match="at least one run folder"):
        report.write_report([])


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "no permission")],
)
def test_a_failed_write_leaves_the_page_that_was_there(tmp_path, capsys, monkeypatch, number, said):
    folder = make_run(tmp_path / "run", [[1.0]])
    (folder / "report.html").write_text("old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert said in refused(capsys, "report", folder)
    assert (folder / "report.html").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "purerl.json",
        "report.html",
    ]


def test_the_report_does_not_start_jax(run_cli, tmp_path):
    make_run(tmp_path / "run", [[1.0, 2.0]] * 3, finals=[1.0, 2.0])
    (tmp_path / "jax.py").write_text("raise ImportError('jax was imported')\n")
    done = run_cli("report", "run", env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 0, done.stderr


# --- a real browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(tmp_path, write_sweep):
    """Pages about one, several, thirty and hostile runs."""
    returns = np.random.default_rng(0).normal(size=(300, 4)).cumsum(axis=0) + 50
    rows, zeros = returns.tolist(), np.zeros((300, 4)).tolist()
    long = "a-rather-long-name-of-a-run-with-many-settings-in-it"
    a = make_run(tmp_path / "a", rows, finals=returns[-1].tolist(), loss=rows, evaluation_return=rows)
    config = {"agent": long, "config": {"learning_rate": 0.5, "text": "x" * 150}}
    b = make_run(tmp_path / long, rows, finals=returns[-1].tolist(), config=config, entropy=zeros)
    found = {"greedy": True, "step": 1, "return": {"iqm": 1.0, "mean": 1.0, "iqm_interval_95": [1.0, 2.0]}}
    c = make_run(tmp_path / "c", rows[:100], evaluation=found)
    (a / "figures").mkdir()
    (a / "figures" / "video.gif").write_bytes(GIF)
    hostile = hostile_run(tmp_path)
    thirty = write_sweep(tmp_path / "sweep", [{"learning_rate": i / 100, "clip": i / 10} for i in range(30)])
    named = {"one": [a], "several": [a, b, c], "unfinished": [c], "hostile": [hostile], "mixed": [hostile, a, b]}
    named |= {"thirty": [thirty]}
    return {name: report.write_report(folders, tmp_path / f"{name}.html") for name, folders in named.items()}


def test_a_browser_finds_nothing_to_complain_about_and_the_page_fits_a_phone(browser, pages):
    open_all = "for (const one of document.querySelectorAll('details')) one.open = true"
    for (name, path), (width, height), scheme in itertools.product(
        pages.items(), ((390, 844), (320, 640), (1200, 900)), ("light", "dark")
    ):
        browser.open(path, width, height, scheme)
        where = (name, width, scheme)
        for unfold in ("", open_all):
            browser.value(unfold or "0")
            assert browser.value("document.documentElement.scrollWidth <= innerWidth"), where
            assert browser.value("innerWidth") == width, where  # no wide content has made the phone zoom out
        assert browser.complaints() == [], where
        assert browser.requests() == [path.resolve().as_uri()], where
        assert browser.value("window.hacked === undefined && document.scripts.length === 1"), where
        assert browser.value("document.compatMode") == "CSS1Compat"


def test_the_pointer_reads_the_curve_out(browser, pages):
    browser.open(pages["one"], 1200, 900)
    legend = "document.querySelector('.legend .value').textContent"
    box = browser.value(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('.plot').getBoundingClientRect())"
    )
    last = browser.value(legend)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + box[2] / 2, y=box[1] + box[3] / 2)
    shown = browser.value(legend)
    line = drawn(Page(pages["one"].read_text()), "line")
    near = line[np.abs(line[:, 0] - 15000).argmin()]
    value, low, high = map(float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", shown).groups())
    assert value == pytest.approx(near[1], abs=0.06) and low <= value <= high
    assert (
        abs(int(browser.value("document.querySelector('.at').textContent").split()[-1].replace(",", "")) - 15000) < 100
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    assert browser.value(legend) == last and browser.value("document.querySelectorAll('.cursor').length") == 0
    assert browser.complaints() == []


def test_a_table_is_sorted_by_a_click(browser, pages):
    browser.open(pages["thirty"], 1200, 900)
    table = "document.querySelector('[aria-label=Results] table')"

    def click(column):
        browser.value(f"{table}.tHead.rows[0].cells[{column}].querySelector('button').click()")
        row = "[...row.cells].slice(0, 4).map((cell) => cell.textContent.trim())"
        return browser.value(f"[...{table}.tBodies[0].rows].map((row) => {row})")

    rates = [i / 100 for i in range(30)]
    assert [float(row[1]) for row in click(1)] == rates[::-1]  # numbers begin with the highest
    assert browser.value(f"{table}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "descending"
    assert [float(row[1]) for row in click(1)] == rates
    assert click(3)[0][0] == "029"  # by the final return
    assert [row[0] for row in click(0)] == [f"{i:03d}" for i in range(30)]
    assert browser.value("document.querySelectorAll('[aria-sort]').length") == 1
    assert browser.complaints() == []
