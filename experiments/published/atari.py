"""Published scores and hours of fast agents on Atari as data: "Beyond the Rainbow" (BTR) and PQN.

Sources, licences and how the files were made: NOTICE.md beside this file. Needs neither JAX nor a game.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources

import numpy as np


@dataclasses.dataclass(frozen=True)
class Score:
    """A published aggregate over games.

    Attributes:
      method: "btr", "pqn" or another agent that its source compares with.
      frames: of training in each game, four to a step.
      games: how many; 0 if the source does not say.
      metric: "iqm", "median" or "mean" of human-normalised scores, or "games above human", a number of games.
      value: its value; 1 is a human's.
      lives_end_episodes: whether a lost life counted as an end in learning; scores with and without it do not compare.
      source: where it is published.
      seen: whether the source itself was read for this file; else a public survey that quotes it.
    """

    method: str
    frames: int
    games: int
    metric: str
    value: float
    lives_end_episodes: bool
    source: str
    seen: bool


@dataclasses.dataclass(frozen=True)
class Hours:
    """How long one game takes.

    Attributes:
      method, frames, source, seen: as in `Score`.
      hours: of one run.
      hardware: the GPU and the CPU.
    """

    method: str
    frames: int
    hours: float
    hardware: str
    source: str
    seen: bool


@functools.cache
def btr_scores() -> dict[str, np.ndarray]:
    """{game: the last ten evaluations [10] of one run of BTR, after 191M to 200M frames}: raw returns of 19 games."""
    _, *rows = _read("atari-btr.csv")
    return {game: np.array(values, np.float64) for game, *values in rows}


@functools.cache
def scores(method: str = "") -> tuple[Score, ...]:
    """All published aggregates, or those of a method."""
    _, *rows = _read("atari-fast-scores.csv")
    found = (
        Score(name, int(frames), int(games), metric, float(value), lives == "yes", source, seen == "yes")
        for name, frames, games, metric, value, lives, source, seen in rows
    )
    return tuple(one for one in found if not method or one.method == method)


@functools.cache
def hours(method: str = "") -> tuple[Hours, ...]:
    """All published durations, or those of a method."""
    _, *rows = _read("atari-fast-hours.csv")
    found = (
        Hours(name, int(frames), float(time), hardware, source, seen == "yes")
        for name, frames, time, hardware, source, seen in rows
    )
    return tuple(one for one in found if not method or one.method == method)


def _read(name: str) -> list[list[str]]:
    text = importlib.resources.files(__package__).joinpath(name).read_text()
    return list(csv.reader(text.splitlines()))
