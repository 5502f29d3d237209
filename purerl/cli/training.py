"""The commands that train: `purerl train`, `purerl sweep` and `purerl resume`."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from purerl import registry
from purerl.cli import flags
from purerl.cli.flags import Group, flag
from purerl.errors import PurerlError

if TYPE_CHECKING:  # so that the help does not wait for jax
    from purerl.runs.logs import Logging
    from purerl.runs.plan import Settings
    from purerl.runs.recording import Recording
    from purerl.runs.sweeps import Sweep
    from purerl.runs.train import Run

_FILMING = ("video_every", "video_steps")  # flags of a single run

# --- train -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Which:
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
    devices_per_seed: int | Literal["auto"] = flag(
        "auto",
        "over how many devices (on a CPU: cores) each seed is spread: the same results but for rounding",
        "{auto,N}",
        "(default: auto, all of them for a network on images whose seeds do not have a device each)",
    )


@dataclasses.dataclass
class TrainFlags:
    """Flags of `purerl train`, in addition to those of a plan."""

    out: str | None = flag(
        None, "run folder", "DIR", "(default: runs/<agent>-<env>-<preset>-<what differs from it>-seed<k>)"
    )
    resume: bool = flag(False, "continue exactly from the last checkpoint in the run folder")
    overwrite: bool = flag(False, "replace the run in the run folder")
    video_every: int = flag(
        0,
        "environment steps of each seed between videos of the first seed's agent, figures/video-STEP.gif",
        "N",
        "(default: 0, for none)",
    )
    video_steps: int = flag(150, "steps that each of these videos shows", "N")
    quiet: bool = flag(False, "no progress bar and no final table")


def train(words: list[str]) -> int:
    """Runs `purerl train` with these words after it."""
    from purerl.loops import sharding

    sharding.one_cpu_device_per_core()  # before the environment is imported: gymnax starts JAX
    asked = _training_command(words, "train", Group(TrainFlags, TrainFlags()), "Trains an agent.")
    from purerl.runs import train

    which = {name: value for name, value in asked.which.items() if name != "preset"}  # that one is in the settings
    the_plan = asked.settings.plan(**which, config=asked.config, env_options=asked.env_options)
    filming = {name: asked.own.pop(name) for name in _FILMING if name in asked.own}
    recording = dataclasses.replace(asked.recording, **filming)
    run = train.train_plan(
        the_plan,
        recording,
        asked.logging,
        **asked.own,
        new_length="steps" in asked.which,
        new_devices="devices_per_seed" in asked.which,
    )
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
      logging: where its metrics go.
      config, env_options: the given fields.
    """

    settings: Settings
    which: dict[str, Any]
    own: dict[str, Any]
    recording: Recording
    logging: Logging
    config: dict[str, Any]
    env_options: dict[str, Any]


def _training_command(words: list[str], name: str, own: Group, about: str) -> _Asked:
    """Reads `purerl NAME AGENT ENV ...`, or prints its help, with the preset's values as defaults."""
    from purerl.runs.logs import Logging
    from purerl.runs.recording import Recording

    general = [Group(Which, Which()), own, Group(Recording, Recording()), Group(Logging, Logging())]
    command = f"purerl {name}"
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
        flags.environment_group(options),
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
    which, own_flags, recording, logging, *fields = flags.parse(groups, rest, command, about)
    config, env_options, eval_env_options = fields
    recording = Recording(**recording, eval_env_options=eval_env_options or None)
    return _Asked(base, which, own_flags, recording, Logging(**logging), config, env_options)


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


# --- sweep -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class SweepFlags:
    """Flags of `purerl sweep`, in addition to those of a plan."""

    grid: str | None = flag(None, 'all combinations, such as "learning_rate=1e-4,5e-4;discount=.99,.999"', "FIELDS")
    random: str | None = flag(
        None, 'random settings, such as "learning_rate=log(1e-5,1e-2);gae_lambda=uniform(.9,1)"', "FIELDS"
    )
    samples: int | None = flag(None, "how many settings --random draws", "N")
    search_seed: int = flag(0, "seed of the random settings", "K")
    sampler: Literal["random", "tpe"] = flag(
        "random", "tpe: draw the settings from the results of earlier ones, with Optuna", "{random,tpe}"
    )
    rungs: int = flag(1, "with 3, a batch stops at a ninth and a third of the steps, and the best third goes on", "N")
    batch: int = flag(9, "settings that are drawn and trained together, with tpe or rungs", "N")
    out: str | None = flag(
        None, "the sweep's folder", "DIR", "(default: runs/sweep-<agent>-<env>-<preset>-over-<swept fields>)"
    )
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


def sweep(words: list[str]) -> int:
    """Runs `purerl sweep` with these words after it."""
    from purerl.loops import sharding

    sharding.one_cpu_device_per_core()  # before the environment is imported: gymnax starts JAX
    about = "Trains an agent at many settings; seeds and settings that differ only in traced fields share one program."
    asked = _training_command(words, "sweep", Group(SweepFlags, SweepFlags()), about)
    from purerl.runs import sweeps

    recording = asked.recording.to_dict()
    for name in _FILMING:
        del recording[name]
    found = sweeps.sweep(
        asked.settings.agent,
        asked.settings.env,
        **(asked.own | asked.which | recording | dataclasses.asdict(asked.logging)),
        config=asked.config,
        env_options=asked.env_options,
    )
    _draw_sweep(found, asked.own.get("quiet", False))
    return 0


def _draw_sweep(found: Sweep, quiet: bool) -> None:
    """Draws a finished sweep, and prints its ranking."""
    from purerl.report import sweep_plots
    from purerl.runs import differences, run_folder, sweeps

    stored = sweeps.load(found.folder)
    swept = [name for name in found.ranking[0] if name not in sweeps.RANKED]
    title = differences.joined(differences.common([stored]))
    out = found.folder / run_folder.FIGURES / "sweep.png"
    sweep_plots.draw(found.ranking, swept, out, title, stored.get("laws"), found.pruned)
    if not quiet:
        _print_ranking(found, title)


def _print_ranking(found: Sweep, what: str) -> None:
    """Prints the best settings of a sweep of `what`; one seed has no interval."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from purerl.runs import sweeps

    shown, several = 20, max(row["seeds"] for row in found.ranking) > 1
    fields = [name for name in found.ranking[0] if name not in sweeps.RANKED]
    diverged = any(row["diverged"] for row in found.ranking)
    said = "IQM of the final return over seeds, 95% interval" if several else "final return of 1 seed"
    table = Table(title=Text(f"{what}: {said}"), title_justify="left")
    measured = ["IQM", "interval"] if several else ["return"]
    for column in ("rank", *fields, *measured, *(["diverged"] if diverged else []), "cell"):
        table.add_column(column, justify="right", no_wrap=column not in fields)
    for row in found.ranking[:shown]:
        known = row["iqm"] is not None
        table.add_row(
            str(row["rank"]),
            *(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in fields),
            f"{row['iqm']:.4g}" if known else "-",
            *([f"{row['low']:.4g} to {row['high']:.4g}" if known else "-"] if several else []),
            *([f"{row['diverged']} of {row['seeds']}"] if diverged else []),
            row["cell"],
        )
    console = Console(highlight=False)
    console.print(table)
    if len(found.ranking) > shown:
        console.print(f"and {len(found.ranking) - shown} more in the file")
    if found.pruned:
        steps = f"{sum(row['steps'] for row in found.pruned):,}"
        console.print(f"pruned: {len(found.pruned)} settings, {steps} steps of each seed in all, see {sweeps.PRUNED}")
    for name in (sweeps.TABLE, sweeps.RANKING, "figures/sweep.png"):
        console.print(Text(f"file: {found.folder / name}"), soft_wrap=True)


# --- resume ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class ResumeFlags:
    """Flags of `purerl resume`."""

    steps: int | None = flag(None, "a new length of a run, environment steps of each seed", "N", "(default: its own)")
    quiet: bool = flag(False, "no progress bar and no final table")


def resume(words: list[str], of_challenge: Callable[[list[str]], int]) -> int:
    """Runs `purerl resume` with these words after it; `of_challenge` is `purerl challenge`, which continues its own."""
    about = (
        "Continues the run, the sweep or the challenge in a folder exactly from its last checkpoint, with the flags "
        "that began it."
    )
    (folder,), given = flags.folders(words, "resume", "DIR", Group(ResumeFlags, ResumeFlags()), about)
    from purerl.runs import ownership

    if ownership.holds(Path(folder), ownership.CHALLENGE):
        if "steps" in given:
            raise PurerlError("--steps: the games of a challenge keep their length; leave it out")
        return of_challenge(["resume", folder, *(["--quiet"] if given.get("quiet") else [])])
    from purerl.runs import resume
    from purerl.runs.train import Run

    done = resume.resume(folder, **given)
    draw = _draw_run if isinstance(done, Run) else _draw_sweep
    draw(done, given.get("quiet", False))
    return 0
