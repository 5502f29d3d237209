"""The protocol of the NeurIPS 2020 Procgen challenge, as data (Mohanty et al. 2021, arXiv 2103.15332).

Easy mode, 8M environment steps of training a game, no settings of single games (but the constants of a game are
known to its agent, see `BY_GAME`). The generalization track trains on 200
levels, the sample-efficiency track on all levels; both are scored on all levels with sampled actions. The challenge
also allowed two hours a game on one V100. How many episodes the organisers played is not published.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from purerl.envs import procgen_scores
from purerl.errors import PurerlError, nearest

FAMILY, MODE, STEPS = "procgen", "easy", 8_000_000
# {track: number of training levels, 0 for all}.
TRACKS = {"generalization": 200, "sample-efficiency": 0}
GAMES = procgen_scores.GAMES
HIDDEN = tuple(procgen_scores.HIDDEN_EASY)
# The leaderboard of round 2: six public games and the four hidden ones.
ROUND_2 = {game: 1 / 12 for game in ("bigfish", "chaser", "coinrun", "miner", "plunder", "starpilot")}
ROUND_2 |= {game: 1 / 8 for game in HIDDEN}
# {agent: {field: {game: value}}}: what the code of a winner takes from the constants of the game that it plays.
BY_GAME = {
    "ppg-generalization": {"reward_clip": {game: highest for game, (_, highest) in procgen_scores.EASY.items()}},
}
NOT_INSTALLABLE = "not installable"
WHY_HIDDEN = "their source is on the branch contest-envs of openai/procgen, and no released library has them"


def check_track(name: str) -> str:
    """The track's name. Raises PurerlError for an unknown one."""
    if name not in TRACKS:
        raise PurerlError(f"unknown track '{name}'.{nearest(name, TRACKS)} Known: {', '.join(TRACKS)}")
    return name


def check_games(names: Iterable[str]) -> tuple[str, ...]:
    """The games in alphabetical order, each once. Raises PurerlError for an unknown or hidden game, and for none."""
    found = sorted({name for name in names if name})
    for name in found:
        if name in HIDDEN:
            raise PurerlError(
                f"{name} is a hidden game of the challenge, {NOT_INSTALLABLE}: {WHY_HIDDEN}; leave it out"
            )
        if name not in GAMES:
            raise PurerlError(f"unknown game '{name}'.{nearest(name, GAMES)} Known: {', '.join(GAMES)}")
    if not found:
        raise PurerlError("no game: name some, such as --games coinrun,maze, or leave --games out for all 16")
    return tuple(found)


def settings_by_game(agent: str, games: Iterable[str], given: Container[str]) -> dict[str, dict[str, float]]:
    """{field: {game: value}} of an agent's fields that are set for each game, except those that are `given`."""
    fields = BY_GAME.get(agent, {})
    return {name: {game: values[game] for game in games} for name, values in fields.items() if name not in given}


def training_options(track: str) -> dict[str, Any]:
    """The environment options of training."""
    return {"distribution_mode": MODE, "num_levels": TRACKS[track], "start_level": 0}


def scoring_options() -> dict[str, Any]:
    """The environment options that differ when an agent is scored: all levels."""
    return {"num_levels": 0, "start_level": 0}
