"""The command `purerl`.

It reads the command line, calls the library, and turns errors into one line and an exit code: 2 for errors that the
user can fix, 128 + signal for Ctrl-C (130), SIGTERM (143) and SIGHUP (129). jax and tyro are imported only by the
commands that need them.
"""

from __future__ import annotations

import dataclasses
import errno
import glob
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from purerl import registry
from purerl.cli import flags
from purerl.cli.flags import Group, flag
from purerl.errors import Interrupted, PurerlError, nearest

if TYPE_CHECKING:  # so that the help does not wait for jax
    from purerl.runs.plan import Settings
    from purerl.runs.recording import Recording
    from purerl.runs.sweeps import Sweep
    from purerl.runs.train import Run

BAD_INPUT, BROKEN_PIPE = 2, 141

OVERVIEW = """\
purerl: reinforcement learning that lives on the accelerator

usage: purerl COMMAND ...      (purerl COMMAND --help: details; purerl --version: the version)

  train AGENT ENV   train an agent; writes a run folder under runs/
  sweep AGENT ENV   train many settings together; writes a table, a ranking and a plot
  resume DIR        continue a stopped run or sweep as it was begun
  eval DIR          play a fixed number of episodes with a trained agent; writes DIR/eval.json
  video DIR         a GIF or MP4 of a trained agent
  plot DIR...       learning curves of one run, or of several in one figure
  report DIR...     one self-contained HTML page about one run, or about several
  figure COMMAND    list, run, render, verify or cost: figures of papers at three scales
  list WHAT         agents, envs [FAMILY] or presets [AGENT]
  doctor            what is installed, what works on this machine, how to fix the rest
  bench             speed measurements, as JSON

  --import FILE     with any command: import a Python file (or a module, by its name) that registers agents,
                    environments, presets or figures of your own; may be given several times

examples:
  purerl train ppo gymnax/CartPole-v1
  purerl train ppg procgen/coinrun --preset quick --seeds 2 --env.num-levels 200
  purerl sweep ppo gymnax/Breakout-MinAtar --seeds 8 --grid "learning_rate=1e-3,5e-3;discount=.97,.99"
  purerl train mine gymnax/CartPole-v1 --import my_agent.py
  purerl train ppo gymnax/Breakout-MinAtar --help         all fields of ppo, with their values in its preset
  purerl eval runs/ppg-procgen-coinrun-quick-seed0to1 --env.num-levels 0
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (None for this process's own) and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text of the terminal's encoding
    try:
        code = _run(words)
        sys.stdout.flush()  # so that a closed pipe raises here
        return code
    except PurerlError as error:
        return _fail(str(error))
    except SystemExit as done:  # from --help
        return done.code if isinstance(done.code, int) else 0
    except KeyboardInterrupt as stopped:
        print(f"purerl: {stopped if isinstance(stopped, Interrupted) else 'interrupted'}", file=sys.stderr)
        return 128 + getattr(stopped, "signal", signal.SIGINT)
    except BrokenPipeError:  # purerl list envs | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail(_os_error(error))
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail(f"out of memory: try fewer --seeds or a smaller --num-envs ({str(error)[:200]})")


def _run(words: list[str]) -> int:
    words, imports = flags.take(words, "import")
    if not words or words[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if words[0] in ("--version", "-V", "version"):
        from importlib.metadata import version

        print(f"purerl {version('purerl')}")
        return 0
    if words[0] not in COMMANDS:
        hint = nearest(words[0], COMMANDS)
        if words[0] in registry.agent_names():
            hint = f" To train it: purerl train {words[0]} ENV."
        raise PurerlError(f"unknown command '{words[0]}'.{hint} Commands: {', '.join(COMMANDS)} (purerl --help)")
    _import(imports, words)
    return COMMANDS[words[0]](words[1:])


def _import(imports: list[str], words: list[str]) -> None:
    """Imports the modules of --import, after the settings that must be made before JAX starts."""
    from purerl.runs import user_modules

    many = words[0] != "train" or flags.value_of(words, "seeds") not in (None, "1")
    if imports and words[0] in ("train", "sweep", "figure", "bench") and many:
        from purerl.loops import sharding

        sharding.one_cpu_device_per_core()  # before a module of the user's starts JAX
    user_modules.import_all(imports)


def _fail(message: str) -> int:
    print(f"purerl: error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def _cut(text: str) -> str:
    """A path for a message; one that is too long for a file is cut."""
    return text if len(text) <= 300 else f"{text[:300]}..."


def _os_error(error: OSError) -> str:
    """The error of the operating system, its path, and the fix."""
    what = f"{error.strerror or error}{f': {_cut(str(error.filename))}' if error.filename else ''}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}; free some space, or choose a folder on another disk (--out)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what}; make it accessible, or choose another folder (--out)"
    return what


# --- train -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Which:
    """Flags of a plan, in addition to the fields of agent and environment."""

    preset: str | None = flag(None, "named settings (purerl list presets)", "NAME", "(default: by the environment)")
    seeds: int = flag(1, "how many seeds are trained together: K, K + 1, ...", "N")
    seed: int = flag(0, "the first seed", "K")
    steps: int | None = flag(None, "environment steps of each seed", "N", "(default: the preset's)")
    lanes: Literal["auto", "vmap", "map"] = flag(
        "auto",
        "how seeds share a device: map, one after the other, bit-identical to single runs; vmap, in one batch",
        "{auto,vmap,map}",
        "(default: auto, map on CPUs and vmap on accelerators)",
    )


@dataclasses.dataclass
class _Train:
    out: str | None = flag(None, "run folder", "DIR", "(default: runs/<agent>-<env>-<preset>-seed<k>)")
    resume: bool = flag(False, "continue exactly from the last checkpoint in the run folder")
    overwrite: bool = flag(False, "replace the run in the run folder")
    log: tuple[Literal["tensorboard", "wandb"], ...] = flag(
        (), "where to write metrics in addition to metrics.jsonl", "{tensorboard,wandb}", "(default: nowhere)"
    )
    quiet: bool = flag(False, "no progress bar and no final table")


def _train(words: list[str]) -> int:
    if flags.value_of(words, "seeds") not in (None, "1"):
        from purerl.loops import sharding

        sharding.one_cpu_device_per_core()  # before the environment is imported: gymnax starts JAX
    asked = _training_command(words, "train", Group(_Train, _Train()), "Trains an agent.")
    from purerl.runs import train

    which = {name: value for name, value in asked.which.items() if name != "preset"}  # that one is in the settings
    the_plan = asked.settings.plan(**which, config=asked.config, env_options=asked.env_options)
    run = train.train_plan(the_plan, asked.recording, **asked.own, new_length="steps" in asked.which)
    _draw_run(run, asked.own.get("quiet", False))
    return 0


def _draw_run(run: Run, quiet: bool) -> None:
    """Draws the return of a finished run."""
    from purerl.report import plots

    try:
        figure = str(plots.plot_run(run.folder))
    except PurerlError as error:  # a run that is too short to finish an episode has no curve; this is not an error
        figure = f"none: {error}"
    if not quiet:
        print(f"figure: {figure}")


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The content of a command line that trains.

    Attributes:
      settings: the agent, the environment and the preset.
      which, own: the given flags of the plan and of the command.
      recording: how often the run writes, saves and evaluates.
      config, env_options: the given fields.
    """

    settings: Settings
    which: dict[str, Any]
    own: dict[str, Any]
    recording: Recording
    config: dict[str, Any]
    env_options: dict[str, Any]


def _training_command(words: list[str], name: str, own: Group, about: str) -> _Asked:
    """Reads `purerl NAME AGENT ENV ...`, or prints its help, with the preset's values as defaults."""
    from purerl.runs.recording import Recording

    general, command = [Group(_Which, _Which()), own, Group(Recording, Recording())], f"purerl {name}"
    (agent, env), rest = _agent_and_env(words, general, command)
    command = " ".join([command, agent or "AGENT", env or "ENV"])
    if not (agent and env):
        fields, more = [], f"`purerl {name} AGENT ENV --help` shows the fields of an agent as well."
        if agent:
            found = registry.agent(agent)
            defaults = found.Config(**found.defaults)
            fields = [Group(found.Config, defaults, agent, about="Any field of the agent, here without a preset.")]
            more = f"`purerl {name} {agent} ENV --help` shows its preset's values."
        flags.parse([*general, *fields], rest, command, f"{about} {more}")
    from purerl.runs.plan import settings

    base = settings(agent, env, flags.value_of(rest, "preset"))
    options = base.options()
    groups = [
        *general,
        Group(
            type(base.config()),
            base.config(),
            agent,
            about=f"Any field of the agent; defaults of preset {base.preset}.",
        ),
        _environment_group(options),
        Group(
            type(options),
            options,
            "eval-env",
            "eval-env.",
            "Options of the environment in evaluations; the others are as in training.",
        ),
    ]
    about += (
        f" Here: {agent} on {env} for {base.chosen.steps:,} steps a seed. Preset {base.preset}: {base.chosen.source}."
    )
    which, own_flags, recording, config, env_options, eval_env_options = flags.parse(groups, rest, command, about)
    recording = Recording(**recording, eval_env_options=eval_env_options or None)
    return _Asked(base, which, own_flags, recording, config, env_options)


def _agent_and_env(words: list[str], general: list[Group], command: str) -> tuple[tuple[str, str], list[str]]:
    """((agent, env), the flags); "" for a name that is missing with --help. Unknown names raise PurerlError."""
    found, rest = flags.positionals(words, ("AGENT", "ENV"), general, command)
    agent, env = [*found, "", ""][:2]
    if agent:
        if "/" in agent:
            swapped = env if env in registry.agent_names() else "AGENT"
            raise PurerlError(
                f"the agent comes before the environment: {command} {swapped} {agent} (purerl list agents)"
            )
        _import_again(agent, env, rest, command)
        registry.agent(agent)
    flags.require(found, ("AGENT", "ENV"), words, command)
    if env:
        registry.environment(env)
    return (agent, env), rest


def _import_again(agent: str, env: str, words: list[str], command: str) -> None:
    """With --resume: imports the user's modules that the run or sweep in the folder needs."""
    if not flags.is_given(words, "resume"):
        return
    from purerl.runs import run_folder, user_modules

    sweeps = command.endswith("sweep")
    name, record = (f"sweep-{agent}", "sweep.json") if sweeps else (agent, run_folder.CONFIG)
    out = flags.value_of(words, "out")
    folders = [Path(out)] if out else sorted(Path("runs").glob(f"{glob.escape(name)}-{env.replace('/', '-')}-*"))
    for folder in folders:
        user_modules.restore_from(folder / record)


def _environment_group(options: Any) -> Group:
    """The `--env.*` flags of a family, with `options` as their defaults."""
    return Group(type(options), options, "env", "env.", "Options of the environment.")


# --- sweep -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Sweep:
    grid: str | None = flag(None, 'all combinations, such as "learning_rate=1e-4,5e-4;discount=.99,.999"', "FIELDS")
    random: str | None = flag(
        None, 'random settings, such as "learning_rate=log(1e-5,1e-2);gae_lambda=uniform(.9,1)"', "FIELDS"
    )
    samples: int | None = flag(None, "how many settings --random draws", "N")
    search_seed: int = flag(0, "seed of the random settings", "K")
    out: str | None = flag(None, "the sweep's folder", "DIR", "(default: runs/sweep-<agent>-<env>-<preset>)")
    resume: bool = flag(False, "continue the sweep in the folder")
    overwrite: bool = flag(False, "replace the sweep in the folder")
    max_memory: str | None = flag(
        None, "the most memory that a program may use, such as 8GB", "SIZE", "(default: 80% of the free memory)"
    )
    cells_per_program: int | None = flag(
        None, "the most cells in one program (cell: one setting, with all its seeds)", "N", "(default: as many as fit)"
    )
    engine: Literal["local", "ray"] = flag("local", "ray: run the programs on a Ray cluster", "{local,ray}")
    quiet: bool = flag(False, "no progress bar and no final table")


def _sweep(words: list[str]) -> int:
    from purerl.loops import sharding

    sharding.one_cpu_device_per_core()  # before the environment is imported: gymnax starts JAX
    about = "Trains an agent at many settings; seeds and settings that differ only in traced fields share one program."
    asked = _training_command(words, "sweep", Group(_Sweep, _Sweep()), about)
    from purerl.runs import sweeps

    found = sweeps.sweep(
        asked.settings.agent,
        asked.settings.env,
        **(asked.own | asked.which | asked.recording.to_dict()),
        config=asked.config,
        env_options=asked.env_options,
    )
    _draw_sweep(found, asked.own.get("quiet", False))
    return 0


def _draw_sweep(found: Sweep, quiet: bool) -> None:
    """Draws a finished sweep, and prints its ranking."""
    from purerl.report import sweep_plots
    from purerl.runs import sweeps

    swept = [name for name in found.ranking[0] if name not in sweeps.RANKED]
    sweep_plots.draw(found.ranking, swept, found.folder / "figures" / "sweep.png")
    if not quiet:
        _print_ranking(found)


def _print_ranking(found: Sweep) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from purerl.runs import sweeps

    shown = 20
    fields = [name for name in found.ranking[0] if name not in sweeps.RANKED]
    diverged = any(row["diverged"] for row in found.ranking)
    table = Table(title="IQM of the final return over seeds, 95% interval", title_justify="left")
    for column in ("rank", *fields, "IQM", "interval", *(["diverged"] if diverged else []), "cell"):
        table.add_column(column, justify="right", no_wrap=column not in fields)
    for row in found.ranking[:shown]:
        known = row["iqm"] is not None
        table.add_row(
            str(row["rank"]),
            *(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in fields),
            f"{row['iqm']:.4g}" if known else "-",
            f"{row['low']:.4g} to {row['high']:.4g}" if known else "-",
            *([f"{row['diverged']} of {row['seeds']}"] if diverged else []),
            row["cell"],
        )
    console = Console(highlight=False)
    console.print(table)
    if len(found.ranking) > shown:
        console.print(f"and {len(found.ranking) - shown} more in the file")
    for name in (sweeps.TABLE, sweeps.RANKING, "figures/sweep.png"):
        console.print(Text(f"file: {found.folder / name}"), soft_wrap=True)


# --- commands on folders that exist ----------------------------------------------------------------------------------


def _on_folders(
    words: list[str], name: str, places: str, general: Group, about: str
) -> tuple[list[str], dict[str, Any]]:
    """(folders, flags given) of `purerl NAME PLACES ...`, where `places` is DIR or DIR..."""
    command = f"purerl {name}"
    found, rest = flags.positionals(words, (places,), [general], command)
    flags.require(found, (places,), words, command)
    (given,) = flags.parse([general], rest, f"{command} {places}", about)
    return found, given


# --- resume ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Resume:
    steps: int | None = flag(None, "a new length of a run, environment steps of each seed", "N", "(default: its own)")
    quiet: bool = flag(False, "no progress bar and no final table")


def _resume(words: list[str]) -> int:
    about = "Continues the run or the sweep in a folder exactly from its last checkpoint, with the flags that began it."
    found, given = _on_folders(words, "resume", "DIR", Group(_Resume, _Resume()), about)
    from purerl.runs import resume
    from purerl.runs.train import Run

    done = resume.resume(found[0], **given)
    draw = _draw_run if isinstance(done, Run) else _draw_sweep
    draw(done, given.get("quiet", False))
    return 0


# --- eval and video --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Eval:
    episodes: int = flag(10, "episodes of every environment; all count", "N")
    num_envs: int | None = flag(None, "environments of each seed", "N", "(default: as in training)")
    greedy: bool = flag(False, "take the most likely action instead of sampling, as in training")
    seed: int = flag(0, "seed of the evaluation's random numbers", "K")
    max_steps: int | None = flag(
        None, "stop with an error if an environment needs more steps than this", "N", "(default: 30000 per episode)"
    )
    out: str | None = flag(None, "where the result goes", "FILE", "(default: DIR/eval.json)")
    quiet: bool = flag(False, "no progress and no table")


@dataclasses.dataclass
class _Video:
    out: str | None = flag(None, "the video, .gif or .mp4", "FILE", "(default: DIR/figures/video.gif)")
    steps: int | None = flag(None, "how many steps to show", "N", "(default: 300)")
    seconds: float | None = flag(None, "how many seconds to show, instead of --steps", "S", "(default: by --steps)")
    frames_per_second: float = flag(15.0, "speed of the video", "F")
    greedy: bool = flag(False, "take the most likely action instead of sampling, as in training")
    seed: int = flag(0, "seed of the video's random numbers", "K")


def _eval(words: list[str]) -> int:
    about = "Plays a fixed number of episodes with a trained agent, and writes eval.json."
    folder, given, options = _run_folder_command(words, "eval", Group(_Eval, _Eval()), about)
    from purerl.runs import evaluation

    quiet = given.pop("quiet", False)
    result = evaluation.evaluate(folder, **given, env_options=options, report=None if quiet else _episode_counter())
    if not quiet:
        _print_evaluation(result, given.get("out") or Path(folder) / "eval.json")
    return 0


def _video(words: list[str]) -> int:
    about = "Writes a video of a trained agent (of the run's first seed)."
    folder, given, options = _run_folder_command(words, "video", Group(_Video, _Video()), about)
    from purerl.cli import video

    seconds = given.pop("seconds", None)
    if seconds is not None:
        if "steps" in given:
            raise PurerlError("--steps and --seconds both set the length of the video: leave one out")
        given["steps"] = video.steps_of(seconds, given.get("frames_per_second", _Video().frames_per_second))
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
    groups = [general, _environment_group(the_plan.options)]
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


def _print_evaluation(result: dict[str, Any], path: str | Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kind = "greedy" if result["greedy"] else "sampled"
    title = f"{result['agent']} on {result['env']} after {result['step']:,} steps, {kind} actions"
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
    for name in ("iqm", "mean"):
        interval = result["return"][f"{name}_interval_95"]
        shown = "" if interval is None else f" (95% interval {interval[0]:.4g} to {interval[1]:.4g})"
        score = f", normalised {result['normalized_return'][name]:.3f}" if has_score else ""
        console.print(f"{name} over seeds: {result['return'][name]:.4g}{shown}{score}")
    options = ", ".join(f"{name} {now}" for name, (_, now) in result["changed_env_options"].items())
    if options:
        console.print(f"other environment options than in training: {options}")
    console.print(Text(f"file: {path}"), soft_wrap=True)


# --- plot, report, list, doctor, bench -------------------------------------------------------------------------------


@dataclasses.dataclass
class _Plot:
    out: str | None = flag(
        None,
        "the figure, .png, .pdf or .svg",
        "FILE",
        "(default: DIR/figures/return.png; for several runs, return.png in this folder)",
    )
    x: str = flag("step", "the x axis: a name in metrics.jsonl", "NAME")
    y: str = flag("episode_return", "the y axis: a name in metrics.jsonl", "NAME")
    smooth: int | None = flag(None, "number of rows that each point averages", "N", "(default: a fiftieth of the rows)")


@dataclasses.dataclass
class _Nothing:
    """No flags but --help."""


def _plot(words: list[str]) -> int:
    about = "Draws the learning curves of one run, or of several in one figure."
    folders, given = _on_folders(words, "plot", "DIR...", Group(_Plot, _Plot()), about)
    from purerl.report import plots
    from purerl.runs import run_folder

    y = given.get("y", _Plot().y)
    name = f"{'return' if y == _Plot().y else y}.png"
    default = Path(folders[0]) / run_folder.FIGURES / name if len(folders) == 1 else Path(name)
    print(plots.plot_runs(folders, **{"out": default} | given))
    return 0


@dataclasses.dataclass
class _Report:
    out: str | None = flag(
        None,
        "the page, .html",
        "FILE",
        "(default: DIR/report.html; for several runs, page.html in this folder)",
    )


def _report(words: list[str]) -> int:
    about = "Writes one self-contained HTML page about one run, or about several: curves, results, settings, videos."
    folders, given = _on_folders(words, "report", "DIR...", Group(_Report, _Report()), about)
    from purerl.report import page

    print(page.write_report(folders, **given))
    return 0


def _list(words: list[str]) -> int:
    from purerl.cli import listing

    return listing.main(words)


def _doctor(words: list[str]) -> int:
    flags.parse([Group(_Nothing, _Nothing())], words, "purerl doctor", "Shows what is installed and what works here.")
    from purerl.cli import doctor

    return doctor.main()


def _figure(words: list[str]) -> int:
    import importlib

    return importlib.import_module("purerl.experiments.figures.commands").main(words)


def _bench(words: list[str]) -> int:
    import importlib

    return importlib.import_module("purerl.experiments.benchmarks.commands").main(words)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "sweep": _sweep,
    "resume": _resume,
    "eval": _eval,
    "video": _video,
    "plot": _plot,
    "report": _report,
    "list": _list,
    "figure": _figure,
    "doctor": _doctor,
    "bench": _bench,
}


if __name__ == "__main__":
    sys.exit(main())
