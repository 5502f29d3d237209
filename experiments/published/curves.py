"""Published learning curves of Procgen as data: PPO in both modes, PPG in hard mode.

Sources, licences and how the files were made: NOTICE.md beside this file. Needs neither JAX nor a game.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any

import numpy as np

PPO_SOURCE = "Cobbe et al. 2020 (openai/train-procgen)"
PPG_SOURCE = "Cobbe et al. 2020b (openai/phasic-policy-gradient)"
CLEANRL = "CleanRL (docs/rl-algorithms/ppg.md)"
# {file: (its source, its mode)}.
_FILES = {
    "procgen-ppo-easy.csv": (PPO_SOURCE, "easy"),
    "procgen-ppo-hard.csv": (PPO_SOURCE, "hard"),
    "procgen-ppg-hard.csv": (PPG_SOURCE, "hard"),
    "procgen-ppg-reuse-hard.csv": (PPG_SOURCE, "hard"),
}
_CLEANRL_FILE = "procgen-cleanrl-easy.csv"
_KEYS = ("setting", "num_levels", "split", "game", "run")
# {a setting of PPG's runs: fields of ppg that differ from its published defaults}.
SETTINGS: dict[str, dict[str, Any]] = {
    "ppg": {},
    "ppo": {"architecture": "shared", "policy_epochs": 3, "value_epochs": 3, "auxiliary_epochs": 0},
    "ppgsingle": {"architecture": "detach"},
    "ppgkl": {"objective": "kl"},
    **{f"e-pi-{n}": {"policy_epochs": n} for n in range(1, 7)},
    **{f"e-aux-{n}": {"auxiliary_epochs": n} for n in (1, 2, 3, 6, 9)},
    **{f"n-pi-{n}": {"policy_iterations": n} for n in (2, 4, 8, 16, 32)},
}
DEFAULTS: dict[str, Any] = {
    "architecture": "dual",
    "policy_epochs": 1,
    "value_epochs": 1,
    "auxiliary_epochs": 6,
    "policy_iterations": 32,
    "objective": "clip",
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """A published learning curve of one game.

    Attributes:
      source: whose.
      setting: "ppo", "ppg" or another name in SETTINGS.
      distribution_mode: "easy" or "hard".
      num_levels: of the training, 0 for all.
      split: "train" (the training levels) or "test" (all levels, of an agent trained on `num_levels`).
      game: such as "coinrun".
      steps: [P] environment steps.
      returns: [R, P] raw returns of R runs.
    """

    source: str
    setting: str
    distribution_mode: str
    num_levels: int
    split: str
    game: str
    steps: np.ndarray
    returns: np.ndarray

    def at(self, step: int) -> np.ndarray | None:
        """[R] returns at an environment step, interpolated linearly; None before the first point or after the last."""
        if not self.steps[0] <= step <= self.steps[-1]:
            return None
        return np.array([np.interp(step, self.steps, of_run) for of_run in self.returns])


def spread(returns: np.ndarray) -> tuple[float, float | None]:
    """(mean, standard deviation with ddof 1) over runs [R]; None for the deviation of a single run."""
    return float(returns.mean()), float(returns.std(ddof=1)) if len(returns) > 1 else None


@functools.cache
def all_curves() -> dict[tuple[str, str, str, int, str, str], Curve]:
    """{(source, setting, mode, num_levels, split, game): Curve} of everything that is carried."""
    found: dict[tuple[str, str, str, int, str, str], Curve] = {}
    for name, (source, mode) in _FILES.items():
        header, *rows = _read(name)
        steps = np.array(header[len(_KEYS) :], np.int64)
        runs: dict[tuple[str, str, str, int, str, str], list[list[str]]] = {}
        for row in rows:
            of = dict(zip(_KEYS, row, strict=False))
            key = (source, of["setting"], mode, int(of["num_levels"]), of["split"], of["game"])
            runs.setdefault(key, []).append(row[len(_KEYS) :])
        for key, values in runs.items():
            found[key] = Curve(*key, steps=steps, returns=np.array(values, np.float64))
    return found


def games(setting: str, distribution_mode: str, num_levels: int, split: str, source: str = "") -> dict[str, Curve]:
    """{game: Curve} of a setting; {} if it is not published.

    Args:
      setting, distribution_mode, num_levels, split: as in Curve.
      source: whose; "" for anybody's.
    """
    wanted = (setting, distribution_mode, num_levels, split)
    return {
        key[-1]: curve for key, curve in all_curves().items() if key[1:5] == wanted and (not source or key[0] == source)
    }


def find(setting: str, distribution_mode: str, num_levels: int, split: str, game: str, source: str) -> Curve | None:
    """The Curve of one game; None if it is not published."""
    return all_curves().get((source, setting, distribution_mode, num_levels, split, game))


def setting_of(changed: Mapping[str, Any]) -> str | None:
    """The name in SETTINGS of a ppg run, from those of its fields that the settings vary; None if there is none."""
    values = DEFAULTS | {name: value for name, value in changed.items() if name in DEFAULTS}
    for name, fields in SETTINGS.items():
        wanted = DEFAULTS | fields
        if fields.get("auxiliary_epochs") == 0:  # no auxiliary phase: N_pi means nothing
            wanted = wanted | {"policy_iterations": values["policy_iterations"]}
        if values == wanted:
            return name
    return None


@functools.cache
def cleanrl() -> dict[tuple[str, str], tuple[int, float, float]]:
    """{(algorithm, game): (step, mean, standard deviation over seeds)}: easy mode, all levels, three games."""
    _, *rows = _read(_CLEANRL_FILE)
    return {(row[0], row[1]): (int(row[2]), float(row[3]), float(row[4])) for row in rows}


def _read(name: str) -> list[list[str]]:
    text = importlib.resources.files(__package__).joinpath(name).read_text()
    return list(csv.reader(text.splitlines()))
