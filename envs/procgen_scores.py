"""Published reference numbers of Procgen: normalisation constants, and the returns of PPO.

Sources, all copied and none typed from memory:
  * Easy and hard constants: openai/train-procgen (Cobbe et al. 2020, "Leveraging Procedural Generation to Benchmark
    Reinforcement Learning", arXiv 1912.01588), constants.py; the hard ones again in
    openai/phasic-policy-gradient, constants.py. The minimum is the score of an agent that cannot see.
  * A second version of the easy constants, in the scripts of several later papers (as PROCGEN_RETURN_BOUNDS), has the
    minimum 3 for jumper and leaper. It lowers the mean over the 16 games by about 0.01, so a score says whose constants
    it was made with (`CONSTANTS`).
  * The four hidden games of the NeurIPS 2020 Procgen challenge: the winners' and other entrants' repositories
    (wulfebw/neurips2020-procgen, xlnwel/neurips2020-procgen), which agree. Only easy mode was played.
  * PPO's returns: averaged from the learning curves released with openai/train-procgen (per seed the mean of the last
    100 logged updates, 30 for 8M steps), rounded to the table below; the means of normalised returns come from the
    unrounded curves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from purerl.errors import PurerlError, nearest

# game: (minimum, maximum)
EASY = {
    "bigfish": (1.0, 40.0),
    "bossfight": (0.5, 13.0),
    "caveflyer": (3.5, 12.0),
    "chaser": (0.5, 13.0),
    "climber": (2.0, 12.6),
    "coinrun": (5.0, 10.0),
    "dodgeball": (1.5, 19.0),
    "fruitbot": (-1.5, 32.4),
    "heist": (3.5, 10.0),
    "jumper": (1.0, 10.0),
    "leaper": (1.5, 10.0),
    "maze": (5.0, 10.0),
    "miner": (1.5, 13.0),
    "ninja": (3.5, 10.0),
    "plunder": (4.5, 30.0),
    "starpilot": (2.5, 64.0),
}
HARD = {
    "bigfish": (0.0, 40.0),
    "bossfight": (0.5, 13.0),
    "caveflyer": (2.0, 13.4),
    "chaser": (0.5, 14.2),
    "climber": (1.0, 12.6),
    "coinrun": (5.0, 10.0),
    "dodgeball": (1.5, 19.0),
    "fruitbot": (-0.5, 27.2),
    "heist": (2.0, 10.0),
    "jumper": (1.0, 10.0),
    "leaper": (1.5, 10.0),
    "maze": (4.0, 10.0),
    "miner": (1.5, 20.0),
    "ninja": (2.0, 10.0),
    "plunder": (3.0, 30.0),
    "starpilot": (1.5, 35.0),
}
HIDDEN_EASY = {
    "caterpillar": (8.25, 24.0),
    "gemjourney": (1.1, 16.0),
    "hovercraft": (0.2, 18.0),
    "safezone": (0.2, 10.0),
}

_MINIMUM_3 = {"jumper": (3.0, 10.0), "leaper": (3.0, 10.0)}

# Whose constants: mode: game: (minimum, maximum).
CONSTANTS = {
    "train-procgen": {"easy": EASY | HIDDEN_EASY, "hard": HARD},
    "jumper-leaper-3": {"easy": EASY | HIDDEN_EASY | _MINIMUM_3, "hard": HARD},
}
DEFAULT_CONSTANTS = "train-procgen"  # of all published numbers here
RANGES = CONSTANTS[DEFAULT_CONSTANTS]
GAMES = tuple(sorted(EASY))


def normalized_return(game: str, distribution_mode: str, return_: float, constants: str = DEFAULT_CONSTANTS) -> float:
    """The normalised score of a raw episode return: 0 for an agent without observations, 1 for the maximum.

    (return - minimum) / (maximum - minimum), with the constants of the mode that was played. The mode has no default,
    because wrong constants give plausible but wrong scores.

    Args:
      game: such as "coinrun", without "procgen/".
      distribution_mode: "easy" or "hard"; there are no published constants for the other modes.
      return_: raw return, or a numpy array of them.
      constants: "train-procgen" or "jumper-leaper-3", which differ in easy jumper and leaper.

    Raises PurerlError for a game or mode without constants.
    """
    if constants not in CONSTANTS:
        raise PurerlError(
            f"unknown score constants '{constants}'.{nearest(constants, CONSTANTS)} Known: {', '.join(CONSTANTS)}"
        )
    if distribution_mode not in CONSTANTS[constants]:
        raise PurerlError(
            f"there are no score constants for the distribution mode '{distribution_mode}'."
            f"{nearest(distribution_mode, RANGES)} Use easy or hard, or report raw returns"
        )
    ranges = CONSTANTS[constants][distribution_mode]
    if game not in ranges:
        raise PurerlError(
            f"there are no {distribution_mode} score constants for the game '{game}'.{nearest(game, ranges)} "
            f"Known: {', '.join(ranges)}"
        )
    low, high = ranges[game]
    return (return_ - low) / (high - low)


def mean_normalized_return(
    returns: Mapping[str, float], distribution_mode: str, constants: str = DEFAULT_CONSTANTS
) -> float:
    """The mean of normalised returns over games, {game: raw return} -> score, as papers report it."""
    scores = [normalized_return(game, distribution_mode, return_, constants) for game, return_ in returns.items()]
    return sum(scores) / len(scores)


@dataclasses.dataclass(frozen=True)
class Published:
    """Published returns and their protocol.

    Attributes:
      distribution_mode: "easy" or "hard".
      train_levels: number of training levels, 0 for all.
      split: "train" (the training levels) or "test" (all levels, of an agent trained on `train_levels`).
      steps: environment steps of training.
      mean_normalized: published mean of normalised returns over the 16 games.
      returns: {game: (mean, standard deviation over 3 seeds)}, raw.
    """

    distribution_mode: str
    train_levels: int
    split: str
    steps: int
    mean_normalized: float
    returns: Mapping[str, tuple[float, float]]


# Per game the (mean, sd) of the seven protocols in PPO_PUBLISHED below.
_PPO_RETURNS = {
    "bigfish": ((12, 0.5), (4.8, 0.7), (21.4, 0.7), (10.5, 0.7), (10, 0.6), (3.5, 0.2), (23.1, 0.5)),
    "bossfight": ((8.2, 0.3), (7.5, 0.4), (8.8, 0.2), (7.5, 0.1), (10.6, 0.1), (10.1, 0.2), (10.9, 0.1)),
    "caveflyer": ((7.2, 0.7), (5.3, 0.5), (7.4, 0.3), (5.9, 0.4), (4.8, 0.3), (3.2, 0.2), (10.2, 0.2)),
    "chaser": ((6.4, 0.5), (5.6, 0.3), (6.9, 0.4), (2.6, 0.1), (7.3, 0.1), (7, 0.1), (8.1, 0.3)),
    "climber": ((8.7, 0.1), (5.8, 0.2), (10.3, 0.2), (6.6, 0.2), (9.1, 0.2), (6.1, 0.3), (10.3, 0.1)),
    "coinrun": ((9.6, 0.1), (8.7, 0.2), (9.1, 0.3), (8, 0.2), (7.7, 0.4), (6.3, 0.3), (9, 0.1)),
    "dodgeball": ((5.1, 0.7), (1.9, 0.3), (6.3, 1.2), (1.9, 0.5), (7.8, 0.8), (4.9, 0.7), (10, 1)),
    "fruitbot": ((29.7, 0.5), (26.6, 0.7), (28.7, 0.5), (26.2, 0.9), (18.8, 1.9), (8.8, 1.8), (23.9, 0.2)),
    "heist": ((7.9, 0.3), (2.75, 0.02), (7, 0.3), (3.8, 0.3), (3.9, 0.4), (1, 0.2), (9.2, 0.4)),
    "jumper": ((8.6, 0.01), (5.71, 0.04), (7.9, 0.1), (7.1, 0.1), (7, 0.1), (3.1, 0.1), (6.7, 0.1)),
    "leaper": ((6.1, 1.4), (5.7, 1.3), (7.32, 0.02), (5.6, 1.2), (6.5, 4.5), (5.7, 3.8), (9.3, 0.1)),
    "maze": ((9.3, 0.1), (5.6, 0.1), (9.86, 0.01), (7.4, 0.3), (7.1, 0.1), (3.5, 0.2), (9.9, 0.1)),
    "miner": ((12.8, 0.1), (9.4, 0.1), (11, 0.1), (7.3, 0.6), (18.4, 0.7), (13.9, 0.7), (16.8, 0.3)),
    "ninja": ((7.7, 0.2), (5.8, 0.3), (8, 0.5), (5.9, 0.5), (8, 0.3), (5.7, 0.3), (9.5, 0.1)),
    "plunder": ((5.3, 0.4), (4.6, 0.6), (14.6, 1.7), (7.1, 0.7), (5.4, 0.7), (4.1, 0.4), (17, 4)),
    "starpilot": ((30, 2.1), (24, 2.8), (33.2, 0.8), (27.4, 1.2), (13.2, 0.7), (4.1, 0.2), (20.5, 0.7)),
}
_PPO_PROTOCOLS = {
    "easy-200-train-25m": ("easy", 200, "train", 25_000_000, 0.594),
    "easy-200-test-25m": ("easy", 200, "test", 25_000_000, 0.353),
    "easy-all-25m": ("easy", 0, "train", 25_000_000, 0.643),
    "easy-all-8m": ("easy", 0, "train", 8_000_000, 0.387),
    "hard-500-train-200m": ("hard", 500, "train", 200_000_000, 0.511),
    "hard-500-test-200m": ("hard", 500, "test", 200_000_000, 0.277),
    "hard-all-200m": ("hard", 0, "train", 200_000_000, 0.747),
}
# PPO of Cobbe et al. 2020, by protocol.
PPO_PUBLISHED = {
    name: Published(*protocol, returns={game: cells[i] for game, cells in _PPO_RETURNS.items()})
    for i, (name, protocol) in enumerate(_PPO_PROTOCOLS.items())
}
