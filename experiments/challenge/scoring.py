"""Scores of the challenge: normalised returns of each game, their mean with an interval, and round 2's weighted score.

Plain numbers in and out; nothing here reads a run or needs JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from purerl import statistics
from purerl.envs import procgen_scores
from purerl.experiments.challenge import protocol
from purerl.experiments.published import beside, curves

KINDS = ("training", "evaluation")
Z_95 = 1.96  # of a normal distribution


@dataclasses.dataclass(frozen=True)
class Result:
    """What an agent reached in one game.

    Attributes:
      game: such as "coinrun".
      status: "scored", "trained" (not evaluated yet), "training" or "not begun".
      step: environment steps of training so far.
      training: [S] returns of the last tenth of the training, on its own levels; None if there are none.
      evaluation: [S] mean returns of the evaluation, on all levels; None before it.
      errors: [S] standard errors of `evaluation` over its episodes; None if unknown.
      of_best: whether the best parameters were evaluated; if not, the last ones.
    """

    game: str
    status: str
    step: int
    training: np.ndarray | None = None
    evaluation: np.ndarray | None = None
    errors: np.ndarray | None = None
    of_best: bool = False

    def returns(self, kind: str) -> np.ndarray | None:
        """[S] returns of a kind in KINDS; None if one is missing."""
        found = self.training if kind == "training" else self.evaluation
        return None if found is None or not np.isfinite(found).all() else found


@dataclasses.dataclass(frozen=True)
class Score:
    """A mean over games, with a 95% interval.

    Attributes:
      mean: of the normalised returns, over games and seeds.
      low, high: the interval; None if it is unknown.
      over: what the interval is about: "seeds", "episodes", or "" without one.
      games: the games that it is the mean of.
    """

    mean: float
    low: float | None
    high: float | None
    over: str
    games: tuple[str, ...]

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f} over {self.over})"


def normalized(game: str, returns: Any, constants: str) -> Any:
    """Normalised returns in easy mode, in the shape of `returns`."""
    return procgen_scores.normalized_return(game, protocol.MODE, returns, constants)


def mean_score(results: Sequence[Result], kind: str, constants: str) -> Score | None:
    """The mean over the finished games; None if there is none.

    With several seeds the interval is a stratified bootstrap over seeds. With one seed it is that of the evaluation's
    episodes, which says nothing about other seeds.
    """
    done = [one for one in results if one.status in ("scored", "trained") and one.returns(kind) is not None]
    if not done:
        return None
    games = tuple(one.game for one in done)
    scores = [np.asarray(normalized(one.game, one.returns(kind), constants)) for one in done]
    mean = float(np.mean([of_game.mean() for of_game in scores]))
    if len({len(of_game) for of_game in scores}) == 1 and len(scores[0]) > 1:
        _, low, high = statistics.aggregates(np.stack(scores, axis=1))["mean"]
        return Score(mean, low, high, "seeds", games)
    if kind == "evaluation" and all(len(one.evaluation) == 1 and one.errors is not None for one in done):
        width = Z_95 * math.hypot(*(_scaled_error(one, constants) for one in done)) / len(done)
        return Score(mean, mean - width, mean + width, "episodes", games)
    return Score(mean, None, None, "", games)


def _scaled_error(one: Result, constants: str) -> float:
    """The standard error of one seed's evaluation, on the normalised scale."""
    return float(normalized(one.game, one.errors[0], constants) - normalized(one.game, 0.0, constants))


def round_2(returns: Mapping[str, float], constants: str) -> tuple[float, float] | None:
    """(round 2's score, the share of its weights that the games have) of {game: raw return}; None without any of them.

    The score is the weighted mean over those of its games that are given.
    """
    weights = {game: weight for game, weight in protocol.ROUND_2.items() if game in returns}
    if not weights:
        return None
    total = sum(weights.values())
    score = sum(weight * normalized(game, returns[game], constants) for game, weight in weights.items()) / total
    return float(score), total


def published(track: str, game: str, kind: str, step: int) -> np.ndarray | None:
    """[R] returns of PPO's published runs at a step; None where nothing is published.

    The generalization track is shown beside PPO on 200 levels, trained and tested; the other beside PPO on all levels,
    where training and evaluation are the same.
    """
    levels = protocol.TRACKS[track]
    split = "test" if levels and kind == "evaluation" else "train"
    curve = curves.find("ppo", protocol.MODE, levels, split, game, curves.PPO_SOURCE)
    return None if curve is None else curve.at(step)


# --- the table -------------------------------------------------------------------------------------------------------


def summary(track: str, results: Sequence[Result], constants: str) -> dict[str, Any]:
    """What score.json holds: every game's returns, and the scores."""
    found: dict[str, Any] = {"track": track, "constants": constants, "games": {}, "mean_normalized_return": {}}
    for one in results:
        entry: dict[str, Any] = {"status": one.status, "step": one.step}
        for kind in KINDS:
            returns = one.returns(kind)
            entry[f"{kind}_return"] = None if returns is None else returns
            entry[f"{kind}_normalized"] = None if returns is None else normalized(one.game, returns, constants)
            known = published(track, one.game, kind, one.step)
            entry[f"published_ppo_{kind}_return"] = known
        found["games"][one.game] = entry
    found["games"] |= {game: {"status": protocol.NOT_INSTALLABLE} for game in protocol.HIDDEN}
    for kind in KINDS:
        score = mean_score(results, kind, constants)
        found["mean_normalized_return"][kind] = None if score is None else dataclasses.asdict(score)
    weighted = round_2(_scored(results), constants)
    found["round_2"] = None if weighted is None else {"score": weighted[0], "share_of_weights": weighted[1]}
    return found


def _scored(results: Sequence[Result]) -> dict[str, float]:
    """{game: mean return} of the evaluated games, or of the training where nothing is evaluated."""
    kind = "evaluation" if any(one.returns("evaluation") is not None for one in results) else "training"
    done = [one for one in results if one.status in ("scored", "trained") and one.returns(kind) is not None]
    return {one.game: float(one.returns(kind).mean()) for one in done}


def lines(track: str, results: Sequence[Result], constants: str, compare: bool = True) -> list[str]:
    """The table of games and the scores below it; with `compare` beside the published PPO at the same steps."""
    header = (
        "game",
        "weight",
        "steps",
        "training",
        "normalised",
        "evaluation",
        "normalised",
        "published PPO",
        "status",
    )
    rows = [_row(track, one, constants) for one in results]
    rows += [(game, _weight(game), "-", "-", "-", "-", "-", "-", protocol.NOT_INSTALLABLE) for game in protocol.HIDDEN]
    if not compare:
        header, *rows = [row[:-2] + row[-1:] for row in (header, *rows)]
    found = beside.table(header, rows)
    for kind, where in zip(KINDS, ("on the training levels", "on all levels"), strict=True):
        score = mean_score(results, kind, constants)
        if score is not None:
            found.append(f"mean normalised return over {_games(score.games)}, {kind} {where}: {score}")
            found += _published_mean(track, results, score, kind, constants) if compare else []
    weighted = round_2(_scored(results), constants)
    if weighted is not None:
        found.append(f"round 2's weighted score: {weighted[0]:.3f}, of games with {weighted[1]:.3g} of its weights")
    found.append(f"hidden games: {', '.join(protocol.HIDDEN)} are {protocol.NOT_INSTALLABLE}: {protocol.WHY_HIDDEN}")
    found.append(f"constants: {constants}, easy mode")
    return found


def _games(names: Sequence[str]) -> str:
    return f"{len(names)} games" if len(names) > 1 else names[0]


def _row(track: str, one: Result, constants: str) -> tuple[str, ...]:
    cells = []
    for kind in KINDS:
        returns = one.returns(kind)
        cells += (
            ["-", "-"]
            if returns is None
            else [_text(returns), f"{normalized(one.game, returns, constants).mean():.3f}"]
        )
    kinds = KINDS if protocol.TRACKS[track] else KINDS[:1]
    known = [published(track, one.game, kind, one.step) for kind in kinds]
    beside_it = " / ".join("-" if values is None else _text(values) for values in known)
    return (
        one.game,
        _weight(one.game),
        f"{one.step:,}",
        *cells,
        beside_it if any(v is not None for v in known) else "-",
        one.status,
    )


def _weight(game: str) -> str:
    return f"1/{round(1 / protocol.ROUND_2[game])}" if game in protocol.ROUND_2 else "-"


def _text(returns: np.ndarray) -> str:
    """ "8.12 +- 0.31", the mean and the standard deviation over seeds; one seed has no deviation."""
    mean, deviation = curves.spread(returns)
    return f"{mean:.3g}" if deviation is None else f"{mean:.3g} +- {deviation:.2g}"


def _published_mean(track: str, results: Sequence[Result], score: Score, kind: str, constants: str) -> list[str]:
    """The line about PPO's published mean over the same games and steps; [] if one of them is not published."""
    of_games = {one.game: published(track, one.game, kind, one.step) for one in results if one.game in score.games}
    if any(values is None for values in of_games.values()):
        return []
    mean = np.mean([normalized(game, values, constants).mean() for game, values in of_games.items()])
    return [f"  published PPO at the same steps, on the same games: {mean:.3f}"]
