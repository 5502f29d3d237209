"""`purerl challenge run|resume|score|published`: the NeurIPS 2020 Procgen challenge.

run AGENT    train and score an agent on the challenge's games
resume DIR   continue a stopped challenge
score DIR    the table of games and scores of a challenge, finished or not; writes DIR/score.json
published    the same table of the published PPO runs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from purerl import registry
from purerl.cli import flags
from purerl.cli.flags import Group, flag
from purerl.envs import procgen_scores
from purerl.errors import PurerlError, nearest
from purerl.experiments.challenge import protocol, scoring

if TYPE_CHECKING:  # so that the tables do not wait for jax
    from purerl.experiments.challenge.running import Challenge

_ABOUT = """The NeurIPS 2020 Procgen challenge: run AGENT trains and scores an agent, resume DIR continues, score DIR
shows the table, published that of published PPO runs. `purerl challenge run AGENT --help` shows the agent's fields."""


@dataclasses.dataclass
class RunFlags:
    """Flags of `purerl challenge run`."""

    track: str | None = flag(None, f"one of {', '.join(protocol.TRACKS)}", "TRACK", "(default: the winners' own)")
    games: str | None = flag(None, "some of the 16 public games", "A,B,...", "(default: all 16)")
    steps: int = flag(protocol.STEPS, "environment steps of each seed in each game", "N")
    hours: float = flag(0.0, "end the training of each game in time for this many hours", "H", "(default: no limit)")
    preset: str | None = flag(None, "named settings of the agent", "NAME", "(default: that for procgen/*)")
    seeds: int = flag(1, "how many seeds are trained together: K, K + 1, ...", "N")
    seed: int = flag(0, "the first seed", "K")
    eval_episodes: int = flag(2, "episodes of each environment in the evaluation", "N")
    eval_envs: int = flag(50, "environments of each seed in the evaluation", "N")
    engine: Literal["local", "ray"] = flag(
        "local", "local: one game after the other; ray: spread over a Ray cluster", "{local,ray}"
    )
    out: str | None = flag(
        None, "the challenge's folder", "DIR", "(default: runs/challenge-<track>-<agent>-<preset>-...)"
    )
    resume: bool = flag(False, "continue the challenge in the folder")
    overwrite: bool = flag(False, "replace the challenge in the folder")


@dataclasses.dataclass
class ScoreFlags:
    """Flags of all these commands."""

    constants: str = flag(
        procgen_scores.DEFAULT_CONSTANTS, f"of the normalised return: {', '.join(procgen_scores.CONSTANTS)}", "NAME"
    )


@dataclasses.dataclass
class QuietFlags:
    """The flag of the commands that train."""

    quiet: bool = flag(False, "no progress and no table")


def run(words: list[str]) -> int:
    """Runs `purerl challenge run` with these words after it."""
    command = "purerl challenge run"
    general = [Group(RunFlags, RunFlags()), Group(ScoreFlags, ScoreFlags()), Group(QuietFlags, QuietFlags())]
    from purerl.loops import sharding

    sharding.one_cpu_device_per_core()
    found, rest = flags.positionals(words, ("AGENT",), general, command)
    flags.require(found, ("AGENT",), words, command)
    if not found:
        flags.parse(general, rest, f"{command} AGENT", _ABOUT)
    (agent,) = found
    from purerl.experiments.challenge import running

    out = flags.value_of(rest, "out")
    if flags.is_given(rest, "resume") and out:
        from purerl.runs import user_modules

        user_modules.restore_from(Path(out) / running.RECORD)
    registry.agent(agent)
    from purerl.runs.plan import settings

    base = settings(agent, f"{protocol.FAMILY}/{protocol.GAMES[0]}", flags.value_of(rest, "preset"))
    about = f"Any field of the agent; preset {base.preset}."
    if agent in protocol.BY_GAME:
        about += f" Without its flag, {', '.join(protocol.BY_GAME[agent])} is set for each game."
    fields = Group(type(base.config()), base.config(), agent, about=about)
    given, scored, quiet, config = flags.parse([*general, fields], rest, f"{command} {agent}", _ABOUT)
    asked = _asked(agent, base.preset, given, base.named(config))
    constants = _constants(scored)
    folder = Path(given["out"]) if "out" in given else _default_folder(asked)
    how = {name: given[name] for name in ("resume", "overwrite", "engine") if name in given}
    running.run(asked, folder, constants=constants, **how, **quiet)
    _print(folder, constants, **quiet)
    return 0


def _asked(agent: str, preset: str, given: dict[str, Any], config: dict[str, Any]) -> Challenge:
    """The challenge that a command line asks for."""
    from purerl.experiments.challenge.running import Challenge

    # A winner plays the track that it won and is named after.
    track = given.get("track") or next((track for track in protocol.TRACKS if agent.endswith(f"-{track}")), None)
    if track is None:
        raise PurerlError(f"which track? --track {' or --track '.join(protocol.TRACKS)}")
    games = given["games"].replace(" ", "").split(",") if "games" in given else protocol.GAMES
    names = {"steps": "steps", "hours": "hours", "seeds": "seeds", "seed": "seed"}
    names |= {"eval_episodes": "episodes", "eval_envs": "num_envs"}
    values = {name: given[field] for field, name in names.items() if field in given}
    track, games = protocol.check_track(track), protocol.check_games(games)
    by_game = protocol.settings_by_game(agent, games, given=config)
    return Challenge(track, agent, preset, games, config=config, by_game=by_game, **values)


def _default_folder(asked: Challenge) -> Path:
    """runs/challenge-<track>-<agent>-<preset>-<what differs>-seed<k>, from the name of the first game's run."""
    from purerl.runs.names import default_folder
    from purerl.runs.plan import settings

    game, plan = next(iter(dataclasses.replace(asked, by_game={}).plans().items()))
    usual = settings(plan.agent, plan.env, plan.preset).options()  # the track's own options are in its name
    name = default_folder(dataclasses.replace(plan, options=usual)).name.replace(f"-{protocol.FAMILY}-{game}", "", 1)
    return Path("runs") / f"challenge-{asked.track}-{name}"


def resume(words: list[str]) -> int:
    """Runs `purerl challenge resume` with these words after it."""
    folder, scored, quiet = _folder(words, "resume", Group(QuietFlags, QuietFlags()))
    from purerl.experiments.challenge import running
    from purerl.loops import sharding

    sharding.one_cpu_device_per_core()
    running.resume_folder(folder, constants=_constants(scored), **quiet)
    _print(folder, _constants(scored), **quiet)
    return 0


def score(words: list[str]) -> int:
    """Runs `purerl challenge score` with these words after it."""
    folder, scored, _ = _folder(words, "score")
    from purerl.experiments.challenge import running

    constants = _constants(scored)
    running.write_score(folder, constants)
    _print(folder, constants)
    return 0


@dataclasses.dataclass
class PublishedFlags:
    """Flags of `purerl challenge published`."""

    track: str | None = flag(None, f"one of {', '.join(protocol.TRACKS)}", "TRACK", "(needed)")
    steps: int = flag(protocol.STEPS, "environment steps of training, 781,250 to 50,000,000", "N")


def published(words: list[str]) -> int:
    """Runs `purerl challenge published` with these words after it."""
    groups = [Group(PublishedFlags, PublishedFlags()), Group(ScoreFlags, ScoreFlags())]
    given, scored = flags.parse(groups, words, "purerl challenge published", "Scores the published runs of PPO.")
    if "track" not in given:
        raise PurerlError(f"which track? --track {' or --track '.join(protocol.TRACKS)}")
    track, steps = protocol.check_track(given["track"]), given.get("steps", protocol.STEPS)
    found = published_results(track, steps)
    print(f"Procgen, published runs of PPO after {steps:,} steps: {scoring.curves.PPO_SOURCE}, 3 runs")
    print("\n".join(scoring.lines(track, found, _constants(scored), compare=False)))
    return 0


def published_results(track: str, steps: int) -> list[scoring.Result]:
    """PPO's published returns of all games, as results of a challenge. Raises PurerlError if there are none."""
    results = []
    for game in protocol.GAMES:
        training, evaluation = (scoring.published(track, game, kind, steps) for kind in scoring.KINDS)
        if training is None:
            raise PurerlError(f"--steps: nothing is published at {steps:,} steps; ask for 781,250 to 50,000,000")
        tested = evaluation if protocol.TRACKS[track] else None  # all levels: the training return is all there is
        results.append(scoring.Result(game, "scored", steps, training, tested))
    return results


def _folder(words: list[str], name: str, *more: Group) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """(folder, flags of scoring, flags of `more`) of `purerl challenge NAME DIR`."""
    command, groups = f"purerl challenge {name}", [Group(ScoreFlags, ScoreFlags()), *more]
    found, rest = flags.positionals(words, ("DIR",), groups, command)
    flags.require(found, ("DIR",), words, command)
    scored, *others = flags.parse(groups, rest, f"{command} DIR", _ABOUT)
    return Path(found[0]), scored, others[0] if others else {}


def _constants(scored: dict[str, Any]) -> str:
    """The name of the constants that a command line asks for. Raises PurerlError for an unknown one."""
    name = scored.get("constants", procgen_scores.DEFAULT_CONSTANTS)
    procgen_scores.normalized_return(protocol.GAMES[0], protocol.MODE, 0.0, name)  # raises for an unknown name
    return name


def _print(folder: Path, constants: str, quiet: bool = False) -> None:
    from purerl.experiments.challenge import running

    if not quiet:
        print(running.report(folder, constants))
        print(f"file: {folder / running.SCORE}")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "resume": resume,
    "score": score,
    "published": published,
}


def main(words: list[str]) -> int:
    """Runs `purerl challenge`; see the module's docstring."""
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return run(["--help"])
    if words[0] not in COMMANDS:
        raise PurerlError(
            f"unknown command '{words[0]}'.{nearest(words[0], COMMANDS)} Commands: {', '.join(COMMANDS)} "
            "(purerl challenge --help)"
        )
    return COMMANDS[words[0]](list(words[1:]))
