"""The commands on folders of runs: `purerl eval`, `purerl video`, `purerl plot` and `purerl report`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from purerl.cli import flags
from purerl.cli.flags import Group, flag
from purerl.errors import PurerlError

# --- eval and video --------------------------------------------------------------------------------------------------

ANOTHER_ENV = "another environment of the same observations and actions"
BEST = "the best parameters by the training return, of a run with --keep-best, instead of the newest ones"


@dataclasses.dataclass
class EvalFlags:
    """Flags of `purerl eval`."""

    episodes: int = flag(10, "episodes per environment (of --num-envs for each seed); all count", "N")
    num_envs: int | None = flag(None, "environments of each seed", "N", "(default: as in training)")
    env: str | None = flag(None, ANOTHER_ENV, "ENV", "(default: that of training)")
    greedy: bool = flag(False, "take the most likely action instead of sampling, as in training")
    best: bool = flag(False, BEST)
    adapt: bool = flag(False, "in families of tasks: returns before and after adapting to one episode of each task")
    seed: int = flag(0, "seed of the evaluation's random numbers", "K")
    max_steps: int | None = flag(
        None, "stop with an error if an environment needs more steps than this", "N", "(default: 30000 per episode)"
    )
    out: str | None = flag(None, "where the result goes", "FILE", "(default: DIR/eval.json, or adapt.json)")
    quiet: bool = flag(False, "no progress and no table")


@dataclasses.dataclass
class VideoFlags:
    """Flags of `purerl video`."""

    out: str | None = flag(None, "the video, .gif or .mp4", "FILE", "(default: DIR/figures/video.gif)")
    steps: int | None = flag(None, "how many steps to show", "N", "(default: 300)")
    seconds: float | None = flag(None, "how many seconds to show, instead of --steps", "S", "(default: by --steps)")
    frames_per_second: float = flag(15.0, "speed of the video", "F")
    env: str | None = flag(None, ANOTHER_ENV, "ENV", "(default: that of training)")
    greedy: bool = flag(False, "take the most likely action instead of sampling, as in training")
    best: bool = flag(False, BEST)
    seed: int = flag(0, "seed of the video's random numbers", "K")


def evaluate(words: list[str]) -> int:
    """Runs `purerl eval` with these words after it."""
    about = "Plays a fixed number of episodes per environment with a trained agent, and writes eval.json."
    folder, given, options = _run_folder_command(words, "eval", Group(EvalFlags, EvalFlags()), about)
    from purerl.runs import evaluation

    quiet = given.pop("quiet", False)
    if given.pop("adapt", False):
        _evaluate_adaptation(folder, given, options, quiet)
        return 0
    result = evaluation.evaluate(folder, **given, env_options=options, report=None if quiet else _episode_counter())
    if not quiet:
        _print_evaluation(result, given.get("out") or Path(folder) / "eval.json")
    return 0


def _evaluate_adaptation(folder: str, given: dict[str, Any], options: dict[str, Any], quiet: bool) -> None:
    from purerl.runs import adaptation

    others = sorted(given.keys() - {"episodes", "seed", "out"})
    if others:
        raise PurerlError(f"--{others[0].replace('_', '-')} does not go with --adapt: leave it out")
    result = adaptation.evaluate_adaptation(folder, **given, env_options=options)
    if quiet:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("seed", "before", "after")
    for lane in result["per_seed"]:
        table.add_row(str(lane["seed"]), f"{lane['before']:.4g}", f"{lane['after']:.4g}")
    console = Console(highlight=False)
    console.print(f"[bold]{result['agent']} on {result['env']} after {result['step']:,} steps, greedy actions[/bold]")
    console.print(table)
    split = result["env_options"].get("split", "its")
    console.print(
        f"{result['tasks']} tasks ({split}), {result['episodes_per_task']} episodes of each, before and after"
    )
    console.print(f"mean gain over seeds: {_with_interval(result['gain'], 'mean')}")
    console.print(f"file: {given.get('out') or Path(folder) / 'adapt.json'}", soft_wrap=True)


def make_video(words: list[str]) -> int:
    """Runs `purerl video` with these words after it."""
    about = "Writes a video of a trained agent (of the run's first seed)."
    folder, given, options = _run_folder_command(words, "video", Group(VideoFlags, VideoFlags()), about)
    from purerl.cli import video

    seconds = given.pop("seconds", None)
    if seconds is not None:
        if "steps" in given:
            raise PurerlError("--steps and --seconds both set the length of the video: leave one out")
        given["steps"] = video.steps_of(seconds, given.get("frames_per_second", VideoFlags().frames_per_second))
    made = video.record(folder, **given, env_options=options)
    ended = f", {len(made['returns'])} episodes ended in them" if made["returns"] else ""
    print(f"wrote {made['path']}: {made['steps']} steps{ended}")
    return 0


def _run_folder_command(
    words: list[str], name: str, general: Group, about: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(run folder, general flags given, environment options given) of `purerl NAME DIR ...`."""
    found, rest = flags.positionals(words, ("DIR",), [general], f"purerl {name}")
    flags.require(found, ("DIR",), words, f"purerl {name}")
    if not found:
        about += f" `purerl {name} DIR --help` shows the options of the run's environment as well."
        flags.parse([general], rest, f"purerl {name} DIR", about)
    from purerl.runs import run_folder
    from purerl.runs.plan import Plan

    the_plan = Plan.from_dict(run_folder.load(found[0])["config"])
    env = flags.value_of(rest, "env")
    the_plan = the_plan.with_env(env) if env else the_plan
    groups = [general, flags.environment_group(the_plan.options)]
    given, options = flags.parse(groups, rest, f"purerl {name} {found[0]}", about)
    return found[0], given, options


def _episode_counter() -> Callable[[int, int], None]:
    """Prints on stderr how many episodes have ended, every few seconds."""
    said = time.monotonic()

    def report(ended: int, wanted: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 5:
            print(f"{ended:,} of {wanted:,} episodes", file=sys.stderr, flush=True)
            said = time.monotonic()

    return report


def _with_interval(aggregates: dict[str, Any], name: str) -> str:
    """An aggregate over seeds, with its interval where there are several."""
    interval = aggregates[f"{name}_interval_95"]
    shown = "" if interval is None else f" (95% interval {interval[0]:.4g} to {interval[1]:.4g})"
    return f"{aggregates[name]:.4g}{shown}"


def _print_evaluation(result: dict[str, Any], path: str | Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kind = "greedy" if result["greedy"] else "sampled"
    which = "best of" if "best" in result else "after"
    title = f"{result['agent']} on {result['env']} {which} {result['step']:,} steps, {kind} actions"
    table = Table()
    has_score = result["normalized_return"] is not None
    for column in ("seed", "return", "std", "episodes", "length", *(["normalised"] if has_score else [])):
        table.add_column(column, justify="right")
    for lane in result["per_seed"]:
        cells = [lane["seed"], f"{lane['mean']:.4g}", f"{lane['std']:.4g}", lane["episodes"], f"{lane['length']:.4g}"]
        table.add_row(*map(str, cells), *([f"{lane['normalized']:.3f}"] if has_score else []))
    console = Console(highlight=False)
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)
    per, count = result["episodes_per_environment"], result["num_envs"]
    console.print(f"episodes: {per} per environment, in {count} environment{'' if count == 1 else 's'} for each seed")
    for name in ("iqm", "mean"):
        score = f", normalised {result['normalized_return'][name]:.3f}" if has_score else ""
        console.print(f"{name} over seeds: {_with_interval(result['return'], name)}{score}")
    if result["training_env"] != result["env"]:
        console.print(f"trained on {result['training_env']}")
    options = ", ".join(f"{name} {now}" for name, (_, now) in result["changed_env_options"].items())
    if options:
        console.print(f"other environment options than in training: {options}")
    console.print(Text(f"file: {path}"), soft_wrap=True)


# --- plot and report -------------------------------------------------------------------------------------------------

LABELS_HELP = "the names of the runs, in the order of the folders, and of a sweep's cells"


@dataclasses.dataclass
class PlotFlags:
    """Flags of `purerl plot`."""

    out: str | None = flag(
        None,
        "the figure, .png, .pdf or .svg",
        "FILE",
        "(default: DIR/figures/return.png; for several folders, return.png in this folder)",
    )
    x: str = flag("step", "the x axis: a name in metrics.jsonl", "NAME")
    y: str = flag("episode_return", "the y axis: a name in metrics.jsonl", "NAME")
    smooth: int | None = flag(None, "number of rows that each point averages", "N", "(default: a fiftieth of the rows)")
    labels: str | None = flag(None, LABELS_HELP, "A,B,...", "(default: what differs between the runs)")
    title: str | None = flag(None, "the title", "TEXT", "(default: what the runs have in common)")


def plot(words: list[str]) -> int:
    """Runs `purerl plot` with these words after it."""
    about = "Draws the learning curves of one run, or of several runs and sweeps in one figure."
    folders, given = flags.folders(words, "plot", "DIR...", Group(PlotFlags, PlotFlags()), about)
    from purerl.report import plots
    from purerl.runs import run_folder

    y = given.get("y", PlotFlags().y)
    name = f"{'return' if y == PlotFlags().y else y}.png"
    default = Path(folders[0]) / run_folder.FIGURES / name if len(folders) == 1 else Path(name)
    print(plots.plot_runs(folders, **{"out": default} | _with_labels(given)))
    return 0


@dataclasses.dataclass
class ReportFlags:
    """Flags of `purerl report`."""

    out: str | None = flag(
        None,
        "the page, .html",
        "FILE",
        "(default: DIR/report.html; for several folders, report.html in this folder)",
    )
    labels: str | None = flag(None, LABELS_HELP, "A,B,...", "(default: what differs between the runs)")
    title: str | None = flag(None, "the title", "TEXT", "(default: the agents and environments)")


def report(words: list[str]) -> int:
    """Runs `purerl report` with these words after it."""
    about = "Writes one self-contained HTML page about runs and sweeps: curves, results, settings, videos."
    folders, given = flags.folders(words, "report", "DIR...", Group(ReportFlags, ReportFlags()), about)
    from purerl.report import page

    print(page.write_report(folders, **_with_labels(given)))
    return 0


def _with_labels(given: dict[str, Any]) -> dict[str, Any]:
    """The flags given, with the labels as a list."""
    labels = given.get("labels")
    return given if labels is None else given | {"labels": [label.strip() for label in labels.split(",")]}
