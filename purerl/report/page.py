"""One HTML page about one or several runs, written from their folders alone: `purerl report DIR...`.

The page is whole in itself: style, script, curves and videos are inside, it opens offline and asks the network for
nothing (its own policy forbids it). A folder may be a stranger's, so every text of it is escaped, and what is not of
the expected kind is left out or refused in one line.

Curves are drawn as SVG that stretches to the page's width; the labels around it are HTML, so that they keep the size of
the text on a phone. The script only reads out what is drawn: without it nothing is missing.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import math
import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purerl import statistics
from purerl.errors import PurerlError
from purerl.report.plots import LABELS, MOST_SEED_LINES
from purerl.report.style import SCRIPT, STYLE
from purerl.runs import files, run_folder
from purerl.runs.progress import compact
from purerl.runs.sinks import COORDINATES, read_rows

FORMATS = (".html", ".htm")
# How a video is known by its first bytes, and what a browser calls it.
VIDEOS = {".gif": ("image/gif", 0, b"GIF8"), ".mp4": ("video/mp4", 4, b"ftyp")}
MOST_VIDEO_BYTES = 8 * 2**20  # of all videos in a page
POINTS, SMALL_POINTS = 200, 80
MOST_OTHER_METRICS = 40
MOST_CHARACTERS = 200  # of one value from a file
COLOURS = 7  # of the style sheet; the next runs are told apart by their dashes
MAIN_METRICS = ("episode_return", "evaluation_return")


def write_report(folders: Sequence[str | os.PathLike], out: str | os.PathLike | None = None) -> Path:
    """Writes the page about some runs in one atomic step, and returns its path.

    Args:
      folders: of the runs; one given twice counts once.
      out: the page's file, .html or .htm; missing folders above it are made. None for report.html in the run's folder,
        or, of several runs, in the current one.

    Raises PurerlError for folders that are no runs, damaged files in them, another kind of file, and failed writes.
    Nothing is written then.
    """
    if not folders:
        raise PurerlError("there is nothing to report on; name at least one run folder")
    if out is None:
        out = Path(folders[0]) / "report.html" if len(folders) == 1 else Path("report.html")
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise PurerlError(f"cannot write a '{out.suffix}' report ({out}); use one of {', '.join(FORMATS)}")
    data = render(read(folders)).encode()
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(out, data)
    return out


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """What the page is told of a run.

    Attributes:
      folder: where it is.
      name: what tells it from the others: its folder's name, with the folder above it where names repeat.
      config, summary, evaluation: its JSON files; the last two are None while they are not there.
      rows: {seed: [row, ...]} of metrics.jsonl.
    """

    folder: Path
    name: str
    config: dict
    summary: dict | None
    evaluation: dict | None
    rows: dict[int, list[dict]]

    @property
    def env(self) -> str:
        return str(self.config["env"])

    @property
    def step(self) -> int:
        """The last environment step in the rows."""
        steps = (_number(row.get("step")) for rows in self.rows.values() for row in rows)
        return int(max((step for step in steps if step is not None), default=0))

    @property
    def finished(self) -> bool:
        """Whether the summary is that of the whole run, and not of a shorter one that has been resumed since."""
        planned, done = (_number(_dict(part).get("steps")) for part in (self.config, self.summary))
        return self.summary is not None and not (planned is not None and done is not None and planned > done)

    @property
    def seed_count(self) -> int:
        seeds = self.config["seeds"]
        return len(seeds) if isinstance(seeds, list) else len(self.rows)

    @property
    def finals(self) -> list[float]:
        """The final returns of a finished run's seeds, of those that have one."""
        final = _dict(self.summary).get("final_return") if self.finished else None
        per_seed = _dict(final).get("per_seed")
        found = map(_number, per_seed if isinstance(per_seed, list) else [])
        return [value for value in found if value is not None]


def read(folders: Iterable[str | os.PathLike]) -> list[Run]:
    """Reads run folders. Raises PurerlError for folders that are no runs, and for damaged files."""
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    names = [path.resolve().name for path in paths]
    return [
        _read(path, name if names.count(name) == 1 else "/".join(path.resolve().parts[-2:]))
        for path, name in zip(paths, names, strict=True)
    ]


def _read(folder: Path, name: str) -> Run:
    loaded = run_folder.load(folder)
    evaluation = files.read_json(folder / run_folder.EVALUATION) if (folder / run_folder.EVALUATION).is_file() else None
    if evaluation is not None and not isinstance(evaluation, dict):
        raise PurerlError(f"{folder / run_folder.EVALUATION} is damaged; delete it to go on without it")
    path = folder / run_folder.METRICS
    rows: dict[int, list[dict]] = {}
    for number, row in enumerate(read_rows(path) if path.is_file() else [], 1):
        seed = row.get("seed", 0)
        if not isinstance(seed, int):
            raise PurerlError(f"{path} line {number} is not a metrics row: its seed is no whole number")
        rows.setdefault(seed, []).append(row)
    return Run(folder, name, loaded["config"], loaded["summary"], evaluation, dict(sorted(rows.items())))


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric of a run: the interquartile mean over its seeds, and their curves.

    Attributes:
      x, middle, low, high: [P]; low and high are the 95% bootstrap band.
      seeds: [S, P].
      window: of how many rows each point is the mean.
    """

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: np.ndarray
    window: int


def read_curve(run: Run, metric: str, points: int = POINTS) -> Curve | None:
    """The curve of a metric over environment steps, thinned to at most `points`; None where there is none to draw.

    Each point is the mean of a fiftieth of its seed's rows, as in `purerl plot`. Seeds without the metric are left out.
    """
    by_seed = [_seed_curve(rows, metric) for rows in run.rows.values()]
    by_seed = [one for one in by_seed if len(one[0])]
    if not by_seed:
        return None
    window = max(1, round(max(len(x) for x, _, _ in by_seed) / 50))
    smooth = [(x, statistics.running_mean(y, window, weights)) for x, y, weights in by_seed]
    try:
        x, seeds = statistics.to_common_grid(smooth)
    except ValueError:  # no stretch that all seeds cover
        return None
    kept = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
    x, seeds = x[kept], seeds[:, kept]
    low, high = statistics.bootstrap_band(seeds)
    return Curve(x, statistics.interquartile_mean(seeds, axis=0), low, high, seeds, window)


def _seed_curve(rows: list[dict], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(steps [P], values [P], episodes [P] or None) of the rows that have the metric."""
    points = [(_number(row.get("step")), _number(row.get(metric)), _number(row.get("episodes"))) for row in rows]
    points = [point for point in points if point[0] is not None and point[1] is not None]
    x, y = np.array([p[0] for p in points], np.float64), np.array([p[1] for p in points], np.float64)
    if not metric.startswith("episode_") or not all(episodes and episodes > 0 for _, _, episodes in points):
        return x, y, None
    return x, y, np.array([p[2] for p in points], np.float64)


def _number(value: Any) -> float | None:
    """A number that can be drawn; None for anything else that a file may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e100 else None  # NaN is not below it


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


# --- the page --------------------------------------------------------------------------------------------------------


class Html(str):
    """Text that is HTML already. Everything else is escaped where it is put into the page."""


def escape(value: Any) -> Html:
    """Any value as HTML text: one line, no invisible characters, not endlessly long."""
    if isinstance(value, Html):
        return value
    kept = lambda c: c.isprintable() or c == "\N{NO-BREAK SPACE}"  # noqa: E731
    text = "".join(c if kept(c) else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    if len(text) > MOST_CHARACTERS:
        text = text[: MOST_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return Html(html.escape(text))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """The parts, each escaped unless it is HTML already."""
    return Html(between.join(map(escape, parts)))


def render(read_runs: Sequence[Run]) -> str:
    """The page about some runs, as HTML text."""
    title = _title(read_runs)
    sections = [
        _curves(read_runs),
        _results(read_runs),
        _evaluations(read_runs),
        _videos(read_runs),
        _differences(read_runs),
        _settings(read_runs),
    ]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="eyebrow">purerl report</p>
<h1>{_title(read_runs, "name")}</h1>
{_lead(read_runs)}
</header>
<main>
{join(filter(None, sections), chr(10))}
</main>
<footer>
<p>Lines are interquartile means over seeds, bands and brackets 95% bootstrap intervals, as Agarwal et al. 2021
(<cite>Deep RL at the Edge of the Statistical Precipice</cite>, arXiv 2108.13264) advise. One seed has no interval. All
numbers are read from the run folders.</p>
</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _title(read_runs: Sequence[Run], kind: str = "") -> Html:
    """Which agents, on what. With `kind`, each name is a <span> of that class."""
    name = lambda x: Html(f'<span class="{kind}">{escape(x)}</span>') if kind else escape(x)  # noqa: E731
    agents = [name(x) for x in dict.fromkeys(str(run.config["agent"]) for run in read_runs)]
    envs = [name(x) for x in dict.fromkeys(run.env for run in read_runs)]
    return join([_listed(agents, "agents"), " on ", _listed(envs, "environments")])


def _listed(names: Sequence[Html], many: str) -> Html:
    """ "a", "a and b", "a, b and c", and "7 agents" of more than four."""
    if len(names) > 4:
        return escape(f"{len(names)} {many}")
    head = join(names[:-1], ", ")
    return join([head, " and ", names[-1]]) if head else names[-1]


def _lead(read_runs: Sequence[Run]) -> Html:
    """What was run, in a sentence, and the headline numbers of a single run."""
    if len(read_runs) > 1:
        seeds = sum(run.seed_count for run in read_runs)
        unfinished = sum(not run.finished for run in read_runs)
        state = "all of them finished" if not unfinished else f"{unfinished} of them unfinished"
        return Html(f'<p class="lead">{len(read_runs)} runs with {_count(seeds, "seed")} in total, {state}.</p>')
    (run,) = read_runs
    preset = join([", preset ", Html("<b>"), run.config["preset"], Html("</b>")]) if run.config.get("preset") else ""
    lead = join(
        [
            f"{_count(run.seed_count, 'seed')} of {_whole(run.config.get('steps'))} environment steps each",
            preset,
            ". ",
            _state(run),
            ". Run folder ",
            Html(f"<code>{escape(run.name)}</code>"),
            ".",
        ]
    )
    summary, finals = _dict(run.summary), run.finals
    figures = [("Seeds", run.seed_count), ("Steps of each seed", _steps(run))]
    if finals:
        iqm = _aggregates(finals)["iqm"]
        figures.insert(0, ("Final return, IQM", _interval(*iqm, len(finals))))
    if _number(summary.get("steps_per_second")):
        figures.append(("Steps a second", _whole(summary["steps_per_second"])))
    items = join(Html(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>") for name, value in figures)
    return Html(f'<p class="lead">{lead}</p>\n<dl class="figures">{items}</dl>')


def _state(run: Run) -> Html:
    if run.finished:
        return Html("Finished")
    return Html(f'<span class="badge">Unfinished</span> at step {run.step:,}')


def _steps(run: Run) -> Html:
    if run.finished:
        return _whole(run.summary.get("steps"))
    planned = _whole(run.config.get("steps"))
    return Html(f'<span class="value">{_whole(run.step)} <span class="of">of {planned}</span></span>')


# --- numbers and tables ----------------------------------------------------------------------------------------------


def _show(number: float) -> str:
    """A number to about three figures, with whole numbers whole and a true minus sign."""
    if 1e3 <= abs(number) < 1e9:
        text = f"{number:,.0f}"
    elif number == 0 or 1e-3 <= abs(number) < 1e3:
        digits = 0 if number == 0 else max(0, 2 - math.floor(math.log10(abs(number))))
        text = f"{number:.{max(1, digits) if number != round(number) else 0}f}"
    else:
        text = f"{number:.2e}"
    return text.replace("-", "\N{MINUS SIGN}")


def _whole(value: Any) -> str:
    number = _number(value)
    return MISSING if number is None else f"{number:,.0f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _interval(value: float, low: float, high: float, count: int = 2) -> Html:
    """A value, and its interval unless it comes of one number."""
    bracket = f' <span class="of">({_show(low)} to {_show(high)})</span>' if count > 1 else ""
    return Html(f'<span class="value">{_show(value)}{bracket}</span>')


def _aggregates(scores: Sequence[float]) -> dict[str, tuple[float, float, float]]:
    return statistics.aggregates(np.array(scores))


MISSING = "\N{EN DASH}"


def _table(name: str, header: Sequence[str], rows: Iterable[Sequence[Any]], words: Container[int] = ()) -> Html:
    """A table in a box of its own that scrolls sideways.

    Args:
      name: what screen readers call it.
      header: of the columns.
      rows: of values; each row's first names the row.
      words: the columns that hold words; the others, but the first, hold numbers and stand to the right.
    """
    kind = lambda column: "" if column == 0 or column in words else ' class="n"'  # noqa: E731
    head = join(Html(f'<th scope="col"{kind(i)}>{escape(cell)}</th>') for i, cell in enumerate(header))
    body = []
    for first, *others in rows:
        cells = join(Html(f"<td{kind(i)}>{escape(cell)}</td>") for i, cell in enumerate(others, 1))
        body.append(Html(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'))
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{join(body, chr(10))}\n</tbody></table></div>"
    )


def _section(title: str, *parts: Html) -> Html:
    return Html(f"<section>\n<h2>{escape(title)}</h2>\n{join(filter(None, parts), chr(10))}\n</section>")


def _details(title: str, *parts: Html) -> Html:
    return Html(f"<details>\n<summary>{escape(title)}</summary>\n{join(parts, chr(10))}\n</details>")


def _by_env(read_runs: Sequence[Run]) -> dict[str, list[Run]]:
    """{environment: its runs}."""
    found: dict[str, list[Run]] = {}
    for run in read_runs:
        found.setdefault(run.env, []).append(run)
    return found


# --- sections --------------------------------------------------------------------------------------------------------


def _curves(read_runs: Sequence[Run]) -> Html:
    groups = _by_env(read_runs)
    parts = []
    for env, group in groups.items():
        if len(groups) > 1:
            parts.append(Html(f"<h3>{escape(env)}</h3>"))
        drawn = [_chart(metric, group, single=len(read_runs) == 1) for metric in MAIN_METRICS]
        parts += drawn if any(drawn) else [Html('<p class="note">No episode has ended yet: there is no curve.</p>')]
        small = list(filter(None, (_chart(name, group, small=True) for name in _other_metrics(group))))
        if small:
            parts.append(
                _details(f"Other metrics ({len(small)})", Html(f'<div class="grid">{join(small, chr(10))}</div>'))
            )
    return _section("Learning curves", *parts)


def _other_metrics(group: Sequence[Run]) -> list[str]:
    """Names of the numbers in the rows, but for those that have a place of their own, or none."""
    found = {
        name
        for run in group
        for rows in run.rows.values()
        for row in rows
        for name, value in row.items()
        if _number(value) is not None
    }
    return sorted(found - {*COORDINATES, *MAIN_METRICS, "wall_time"})[:MOST_OTHER_METRICS]


def _results(read_runs: Sequence[Run]) -> Html:
    header = (
        *("run", "final IQM (95%)", "final mean (95%)", "seeds", "steps of each", "environment", "agent"),
        *("steps/s", "compile", "device"),
    )
    rows = []
    for run in read_runs:
        summary, finals = _dict(run.summary), run.finals
        final = _aggregates(finals) if finals else {}
        short = len(finals) < run.seed_count and run.finished
        compiled = _number(summary.get("compile_seconds"))
        rows.append(
            [
                run.name if run.finished else join([run.name, " ", Html('<span class="badge">unfinished</span>')]),
                *(_interval(*final[key], len(finals)) if final else MISSING for key in ("iqm", "mean")),
                f"{len(finals)} of {run.seed_count}" if short else run.seed_count,
                _steps(run),
                run.env,
                run.config["agent"],
                _whole(summary.get("steps_per_second")),
                MISSING if compiled is None else f"{compiled:.1f}\N{NO-BREAK SPACE}s",
                _device(summary.get("device") or _dict(run.config.get("environment")).get("device")),
            ]
        )
    definitions = {_dict(_dict(run.summary).get("final_return")).get("definition") for run in read_runs} - {None}
    defined = (
        Html(f'<p class="note">Final return of a seed: {escape(definitions.pop())}.</p>')
        if len(definitions) == 1
        else None
    )
    diverged = [
        Html(f'<p class="note">Seeds of {escape(run.name)} that diverged: {escape(_plain(seeds))}.</p>')
        for run in read_runs
        if (seeds := _dict(run.summary).get("diverged_seeds"))
    ]
    table = _table("Results", header, rows, words=(5, 6, 9))
    return _section("Results", table, defined, *diverged, _improvements(read_runs))


def _device(value: Any) -> str:
    if isinstance(value, dict):
        count = f"{value.get('count', 1)} \N{MULTIPLICATION SIGN} ".replace(" ", "\N{NO-BREAK SPACE}")
        return f"{count}{value.get('kind', '?')}"
    return MISSING if value is None else str(value)


def _improvements(read_runs: Sequence[Run]) -> Html | None:
    """How often a seed of a run is above one of the first run on its environment."""
    rows = []
    for env, group in _by_env(read_runs).items():
        ended = [run for run in group if run.finals]
        for run in ended[1:]:
            pair = np.array(run.finals), np.array(ended[0].finals)
            value = float(statistics.probability_of_improvement(*pair))
            low, high = statistics.probability_of_improvement_interval(*pair)
            count = max(map(len, pair))
            bracket = f' <span class="of">({low:.2f} to {high:.2f})</span>' if count > 1 else ""
            shown = Html(f'<span class="value">{value:.2f}{bracket}</span>')
            rows.append([run.name, shown, _gauge(value, low, high), ended[0].name, env])
    if not rows:
        return None
    header = ("run", "probability (95%)", "from 0 to 1", "against", "environment")
    return join(
        [
            Html("<h3>Probability of improvement</h3>"),
            Html(
                '<p class="note">How often the final return of a seed is above that of a seed of the first run on the '
                "same environment; ties count half. At 0.5 neither is ahead.</p>"
            ),
            _table("Probability of improvement", header, rows, words=(2, 3, 4)),
        ],
        "\n",
    )


def _gauge(value: float, low: float, high: float) -> Html:
    """A probability and its interval on a line from 0 to 1. The numbers stand beside it."""
    left, width, middle = (f"{100 * share:.1f}%" for share in (low, high - low, value))
    return Html(
        '<span class="gauge" aria-hidden="true"><i style="left:50%"></i>'
        f'<b style="left:{left};width:{width}"></b><u style="left:{middle}"></u></span>'
    )


def _evaluations(read_runs: Sequence[Run]) -> Html | None:
    header = ("run", "IQM (95%)", "mean (95%)", "episodes of each seed", "at step", "actions", "other options", "score")
    rows = []
    for run in read_runs:
        if run.evaluation is None:
            continue
        found = run.evaluation
        score = _number(_dict(found.get("normalized_return")).get("iqm"))
        lanes = found.get("per_seed")
        episodes = {_whole(_dict(lane).get("episodes")) for lane in lanes} if isinstance(lanes, list) else set()
        changed = _dict(found.get("changed_env_options"))
        newest = lambda now: now[-1] if isinstance(now, list) and now else now  # noqa: E731
        rows.append(
            [
                run.name,
                *(_stored(_dict(found.get("return")), name) for name in ("iqm", "mean")),
                episodes.pop() if len(episodes) == 1 else MISSING,
                _whole(found.get("step")),
                "greedy" if found.get("greedy") else "sampled",
                ", ".join(f"{name} {newest(now)}" for name, now in changed.items()) or "none",
                MISSING if score is None else f"{score:.3f}",
            ]
        )
    if not rows:
        return None
    if all(row[-1] == MISSING for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return _section(
        "Evaluation",
        Html('<p class="note">Return of episodes played by the trained agent with <code>purerl eval</code>.</p>'),
        _table("Evaluation", header, rows, words=(5, 6)),
    )


def _stored(found: dict, name: str) -> Any:
    """A value with the interval that stands beside it in eval.json."""
    value, interval = _number(found.get(name)), found.get(f"{name}_interval_95")
    ends = [_number(end) for end in interval] if isinstance(interval, list) else []
    if value is None:
        return MISSING
    return _interval(value, *ends) if len(ends) == 2 and None not in ends else _interval(value, value, value, 1)


def _videos(read_runs: Sequence[Run]) -> Html | None:
    room, parts = MOST_VIDEO_BYTES, []
    for run in read_runs:
        folder = run.folder / run_folder.FIGURES
        # A link could point to any file of the reader's, which the page would then carry to others.
        with files.reading(folder):
            paths = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
        for path in paths:
            if path.suffix.lower() not in VIDEOS or path.is_symlink() or not path.is_file():
                continue
            kind, offset, mark = VIDEOS[path.suffix.lower()]
            size, name = path.stat().st_size, join([run.name, ": ", path.name])
            if size > room:
                note = f"{size / 2**20:.1f} MiB are too many for this page; it is in the run folder."
                parts.append(
                    Html(f'<figure class="video"><figcaption>{name}</figcaption><p class="note">{note}</p></figure>')
                )
                continue
            with files.reading(path):
                data = path.read_bytes()
            if data[offset : offset + len(mark)] != mark:
                continue
            room -= size
            source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
            shown = (
                f'<img src="{source}" alt="The trained agent of {escape(run.name)} plays {escape(run.env)}">'
                if kind.startswith("image")
                else f'<video src="{source}" controls muted loop playsinline aria-label="The trained agent of '
                f'{escape(run.name)} plays {escape(run.env)}"></video>'
            )
            parts.append(Html(f'<figure class="video">{shown}<figcaption>{name}</figcaption></figure>'))
    if not parts:
        return None
    return _section("Video", Html(f'<div class="videos">{join(parts, chr(10))}</div>'))


# --- configuration ---------------------------------------------------------------------------------------------------


def _fields(run: Run) -> dict[str, dict[str, Any]]:
    """{"settings", "protocol", "where it ran"}: {field: value} of a run's config.json."""
    config, ran = run.config, _dict(run.config.get("environment"))
    settings = {key: config[key] for key in ("agent", "env", "preset", "seeds", "steps") if key in config}
    settings |= _dict(config.get("config"))
    settings |= {f"env.{name}": value for name, value in _dict(config.get("env_options")).items()}
    commit = ran.get("git_commit")
    return {
        "settings": settings,
        "protocol": _dict(config.get("protocol")),
        "where it ran": {
            "commit": commit and f"{commit}{' with changes' if ran.get('git_dirty') else ''}",
            "device": _device(ran.get("device")),
            "platform": ran.get("platform"),
            "cpu_count": ran.get("cpu_count"),
            **_dict(ran.get("versions")),
        },
    }


def _plain(value: Any) -> str:
    """A value of a config in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        numbers = [one for one in value if type(one) is int]
        if len(numbers) == len(value) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"{numbers[0]} to {numbers[-1]}"
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _compared(read_runs: Sequence[Run], what: str) -> dict[str, list[str | None]]:
    """{field: what each run has there, None for a run that has no such field}."""
    fields = [_fields(run)[what] for run in read_runs]
    names = dict.fromkeys(name for one in fields for name in one)
    return {name: [_plain(one[name]) if name in one else None for one in fields] for name in names}


def _fields_tables(read_runs: Sequence[Run], name: str, fields: dict[str, list[str | None]]) -> Html:
    """What is the same in all runs as one column, below what is not, as one column a run."""
    code = lambda field: Html(f"<code>{escape(field)}</code>")  # noqa: E731
    same = [[code(field), values[0]] for field, values in fields.items() if len(set(values)) == 1]
    apart = [
        [code(field), *(MISSING if value is None else value for value in values)]
        for field, values in fields.items()
        if len(set(values)) > 1
    ]
    parts = []
    if apart:
        parts.append(_table(f"{name} that differ", ("field", *(run.name for run in read_runs)), apart))
    if same:
        value = "value" if len(read_runs) == 1 else "value in all runs"
        parts.append(_table(f"{name} that are the same" if apart else name, ("field", value), same, words=(1,)))
    return join(parts, "\n")


def _differences(read_runs: Sequence[Run]) -> Html | None:
    if len(read_runs) == 1:
        return None
    fields = _compared(read_runs, "settings") | _compared(read_runs, "protocol")
    differ = {name: values for name, values in fields.items() if len(set(values)) > 1}
    shared = {name: values for name, values in differ.items() if None not in values}
    if not differ:
        return _section("What differs", Html('<p class="note">The runs have the same configuration.</p>'))
    parts = [_fields_tables(read_runs, "Fields", shared)] if shared else []
    if len(shared) < len(differ):
        apart = f"{_count(len(differ) - len(shared), 'field')} that only some of the runs have"
        parts.append(Html(f'<p class="note">{apart} can be found among all settings below.</p>'))
    return _section("What differs", *parts)


def _settings(read_runs: Sequence[Run]) -> Html:
    settings, protocol, ran = (_compared(read_runs, what) for what in ("settings", "protocol", "where it ran"))
    parts = [_details(f"All settings ({len(settings)})", _fields_tables(read_runs, "Settings", settings))]
    if protocol:
        parts.append(_details("Protocol", _fields_tables(read_runs, "Protocol switches", protocol)))
    parts.append(_details("Versions, commit and device", _fields_tables(read_runs, "Facts", ran)))
    return _section("How it was run", *parts)


# --- charts ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Axis:
    """One direction of a chart: what is shown from where to where, and the ticks in between."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, values: np.ndarray | float) -> np.ndarray | float:
        """0 for the low end, 1 for the high one."""
        return (values - self.low) / (self.high - self.low)

    @property
    def decimals(self) -> int:
        """How many the ticks' labels need."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else self.high - self.low
        return max(0, -math.floor(math.log10(step) + 1e-9))


def _axis(low: float, high: float, count: int) -> Axis:
    """An axis with about `count` ticks at round numbers."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(nice for nice in (1, 2, 5, 10) if nice * unit >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(tick * step for tick in range(first, last + 1)))


def _axis_around(low: float, high: float, count: int) -> Axis:
    """An axis for values from low to high, with some room; from 0 where that costs little."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    room = 0.05 * (high - low)
    return _axis(0.0 if 0 <= low < 0.4 * high else low - room, high + room, count)


def _chart(metric: str, group: Sequence[Run], single: bool = False, small: bool = False) -> Html | None:
    """A metric of all runs of an environment, with a legend that tells the last values; None if no run has it.

    Args:
      metric: its name in the rows.
      group: the runs; their places decide their colours.
      single: whether the lines of up to ten seeds are drawn as well.
      small: one of many, without intervals in the legend.
    """
    found = [(i, run, read_curve(run, metric, SMALL_POINTS if small else POINTS)) for i, run in enumerate(group)]
    curves = [curve for _, _, curve in found if curve is not None]
    if not curves:
        return None
    with_seeds = single and 1 < len(curves[0].seeds) <= MOST_SEED_LINES
    shown = [y for c in curves for y in (c.low, c.middle, c.high, *(c.seeds if with_seeds else []))]
    start, end = min(min(c.x.min() for c in curves), 0), max(c.x.max() for c in curves)
    x_axis = _axis(float(start), float(end if end > start else start + 1), 3 if small else 5)
    y_axis = _axis_around(min(float(y.min()) for y in shown), max(float(y.max()) for y in shown), 3 if small else 5)

    def path(x: np.ndarray, y: np.ndarray) -> str:
        across, down = 1000 * x_axis.share(x), 1000 * (1 - y_axis.share(y))
        spelled = [np.char.mod("%.0f" if small else "%.1f", part) for part in (across, down)]
        return "L".join(f"{a} {d}" for a, d in zip(*spelled, strict=True))

    shapes = [f'<path class="rule" d="M0 {1000 * (1 - y_axis.share(tick)):.1f}H1000"/>' for tick in y_axis.ticks]
    for place, _, c in found:
        if c is None:
            continue
        dot = len(c.x) == 1  # a line of no length is drawn as a dot
        if with_seeds:
            shapes += [f'<path class="seed {_look(place)}" d="M{path(c.x, seed)}"/>' for seed in c.seeds]
        if len(c.seeds) > 1 and not dot:
            outline = path(np.append(c.x, c.x[::-1]), np.append(c.low, c.high[::-1]))
            shapes.append(f'<path class="band {_look(place)}" data-run="{place}" d="M{outline}Z"/>')
        kind = "line dot" if dot else "line"
        shapes.append(
            f'<path class="{kind} {_look(place)}" data-run="{place}" d="M{path(c.x, c.middle)}{"h0" * dot}"/>'
        )

    y_labels = [_tick(tick, y_axis.decimals) for tick in y_axis.ticks]
    labels = [
        *(
            f'<span class="y" style="top:{100 * (1 - y_axis.share(tick)):.2f}%">{label}</span>'
            for tick, label in zip(y_axis.ticks, y_labels, strict=True)
        ),
        *(
            f'<span class="x" style="left:{100 * x_axis.share(tick):.2f}%">{compact(tick)}</span>'
            for tick in x_axis.ticks
        ),
    ]
    title = LABELS.get(metric, metric.replace("_", " "))
    title = escape(title[:1].upper() + title[1:])
    spoken = join([_spoken(run, curve) for _, run, curve in found if curve is not None], " ")
    # Every run learns, but not every one has been evaluated, or has the metrics of another agent.
    named = [one for one in found if one[2] is not None or metric == MAIN_METRICS[0]]
    items = [_legend_item(place, run, curve, small) for place, run, curve in named]
    return Html(
        f"""<figure class="chart{" small" if small else ""}">
<figcaption>{title}<span class="about">{_described(curves)}</span></figcaption>
<div class="frame" style="--gutter:{max(map(len, y_labels), default=1)}ch">
<div class="plot" data-x="{x_axis.low:.9g} {x_axis.high:.9g}" data-y="{y_axis.low:.9g} {y_axis.high:.9g}">
<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img"
 aria-label="{title} over environment steps. {spoken}">
{"".join(shapes)}
</svg><div aria-hidden="true">{"".join(labels)}</div></div></div>
<p class="at">last values</p>
<ul class="legend">{join(items)}</ul>
</figure>"""
    )


def _look(place: int) -> str:
    """Classes for the colour and the dashes of a run."""
    return f"c{place % COLOURS} d{place // COLOURS % 3}"


def _tick(value: float, decimals: int) -> str:
    if decimals > 4:
        return f"{value:.1e}".replace("-", "\N{MINUS SIGN}") if value else "0"
    if abs(value) >= 10_000:
        return compact(value).replace("-", "\N{MINUS SIGN}")
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _described(curves: Sequence[Curve]) -> str:
    """What lines and bands are, such as "IQM of 8 seeds, 95% band, mean of 4 rows"."""
    counts = sorted({len(curve.seeds) for curve in curves})
    windows = sorted({curve.window for curve in curves})
    span = lambda numbers: " to ".join(map(str, sorted({numbers[0], numbers[-1]})))  # noqa: E731
    parts = ["1 seed"] if counts == [1] else [f"IQM of {span(counts)} seeds", "95% band"]
    if windows[-1] > 1:
        parts.append(f"mean of {span(windows)} rows")
    return ", ".join(parts)


def _ends(curve: Curve, at: int) -> tuple[float, float, float, int]:
    return float(curve.middle[at]), float(curve.low[at]), float(curve.high[at]), len(curve.seeds)


def _spoken(run: Run, curve: Curve) -> Html:
    """A curve in words."""
    (first, *_), (last, low, high, count) = _ends(curve, 0), _ends(curve, -1)
    doubt = f" (95% interval {_show(low)} to {_show(high)})" if count > 1 else ""
    steps = [f"{int(curve.x[at]):,}" for at in (0, -1)]
    return join([run.name, f": {_show(first)} at step {steps[0]}, {_show(last)}{doubt} at step {steps[1]}."])


def _legend_item(place: int, run: Run, curve: Curve | None, small: bool) -> Html:
    value = Html('<span class="value">no curve yet</span>')
    if curve is not None:
        middle, low, high, count = _ends(curve, -1)
        value = _interval(middle, low, high, 1 if small else count)
    key = f'<svg viewBox="0 0 28 8" aria-hidden="true"><path class="line {_look(place)}" d="M1 4H27"/></svg>'
    return Html(f'<li data-run="{place}">{key} <span class="name">{escape(run.name)}</span> {value}</li>')
