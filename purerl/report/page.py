"""Writes one HTML page about one or several runs, only from their folders: `purerl report DIR...`.

The page is self-contained: style, script, curves and videos are inside. It opens offline, and its own policy forbids
every request to the network. The script only shows values under the cursor and sorts tables; the page is complete
without it.

The templates define the layout; this package computes the data. A folder may come from an unknown source, so the
templates escape every value and cut it to a bounded line of visible characters (see `one_line`). The exceptions are
marked `safe` in the templates: the style sheet, the script, paths and base64 data, which this package creates.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from purerl.errors import PurerlError
from purerl.report import charts, configuration, plots, recordings, results, wording
from purerl.report.curves import Run, by_environment, read
from purerl.runs import differences, files

FORMATS = (".html", ".htm")
MOST_RUNS_ACROSS = 5  # as columns of a table of settings; more runs are its rows
MOST_CHARACTERS = 200  # of one value in the page


def write_report(
    folders: Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Path:
    """Writes the page about some runs atomically.

    Args:
      folders: run folders, and sweep folders for all their cells; duplicates count once.
      out: the page's file, .html or .htm; missing parent folders are created. None for report.html in the folder, or in
        the current folder if there are several.
      labels: the runs' names; None for those of their folders, and in legends for what differs.
      title: None for the agents and environments.

    Returns:
      The path of the page.

    Raises:
      PurerlError: a folder is neither a run nor a sweep folder, a file in it is damaged, `out` has another suffix,
        another number of labels than of runs, or the page cannot be written. Nothing is written then.
    """
    if not folders:
        raise PurerlError("there is nothing to report on; name at least one run folder")
    if out is None:
        out = Path(folders[0]) / "report.html" if len(folders) == 1 else Path("report.html")
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise PurerlError(f"cannot write a '{out.suffix}' report ({out}); use one of {', '.join(FORMATS)}")
    runs = read(folders)
    if labels is not None:
        if len(labels) != len(runs):
            raise PurerlError(f"{len(labels)} labels for {len(runs)} runs: give one label for each run")
        runs = [dataclasses.replace(run, name=label) for run, label in zip(runs, labels, strict=True)]
    data = render(runs, labelled=labels is not None, title=title).encode()
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(out, data)
    return out


def render(runs: Sequence[Run], labelled: bool = False, title: str | None = None) -> str:
    """Renders the page about some runs as HTML text.

    Args:
      runs: at least one, from `purerl.report.curves.read`.
      labelled: whether legends show the runs' names instead of what differs between them.
      title: None for the agents and environments.

    Returns:
      The text of the page.

    Raises:
      PurerlError: a video in the run folders cannot be read.
    """
    return _environment().get_template("page.html").render(_data(runs, labelled), title=title)


# --- data ------------------------------------------------------------------------------------------------------------


def _data(runs: Sequence[Run], labelled: bool) -> dict[str, Any]:
    """The data of the templates."""
    script = source("report.js")
    different, fields_of_some = configuration.differences(runs)
    groups = by_environment(runs)
    return {
        "runs": runs,
        "agents": list(dict.fromkeys(run.agent for run in runs)),
        "envs": list(groups),
        "groups": [_group(env, group, len(runs) == 1, labelled) for env, group in groups.items()],
        "results": [results.result(run) for run in runs],
        "columns": configuration.columns(different),
        "definition": results.definition(runs),
        "diverged": results.diverged(runs),
        "improvements": results.improvements(runs),
        "evaluations": [found for run in runs if (found := results.evaluation(run)) is not None],
        "recordings": recordings.recordings(runs),
        "differences": different,
        "fields_of_some": fields_of_some,
        "settings": configuration.settings(runs),
        "protocol": configuration.protocol(runs),
        "facts": configuration.facts(runs),
        "runs_are_rows": len(runs) > MOST_RUNS_ACROSS,
        "style": source("report.css") + charts.palette_style(max(map(len, groups.values()))),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _group(env: str, group: Sequence[Run], single: bool, labelled: bool) -> dict[str, Any]:
    """The charts of an environment."""
    names, configs, head = [run.name for run in group], [run.config for run in group], ""
    if not labelled:
        head, names = plots.shared_head(configs, differences.labels(configs, names))
    main = [charts.chart(metric, group, names, head, single=single) for metric in charts.MAIN_METRICS]
    others = [charts.chart(metric, group, names, head, small=True) for metric in charts.other_metrics(group)]
    return {
        "env": env,
        "main": [chart for chart in main if chart is not None],
        "others": [chart for chart in others if chart is not None],
    }


# --- templates -------------------------------------------------------------------------------------------------------


def one_line(value: Any) -> str:
    """Converts a value to one line of at most MOST_CHARACTERS visible characters.

    Jinja calls this for every value that a template shows, and escapes the result. Values that are already HTML (a
    macro's text, a value marked `safe`) are returned unchanged.
    """
    if hasattr(value, "__html__"):
        return value
    text = "".join(_visible(character) for character in str(value))
    if len(text) > MOST_CHARACTERS:
        return text[: MOST_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return text


def _visible(character: str) -> str:
    if character.isprintable() or character == wording.NO_BREAK_SPACE:
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("purerl.report"),
        autoescape=True,
        finalize=one_line,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"show": wording.show, "whole": wording.whole}
    environment.globals |= {"count": wording.count, "missing": wording.MISSING}
    return environment


def source(name: str) -> str:
    """The text of a file in the templates folder, such as "report.css"."""
    return _environment().loader.get_source(_environment(), name)[0]
