"""Published reference scores of Atari: random and human scores, lists of games, and the human-normalised score.

Source of the scores: google-deepmind/dqn_zoo, atari_data.py (no-op starts, 108,000 frames per episode). AirRaid,
Carnival, JourneyEscape and Pooyan have no human score in any source that we know.
"""

from __future__ import annotations

from typing import Any

from purerl.errors import PurerlError, nearest

# game: (random, human)
RANDOM_AND_HUMAN = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742.0),
    "Asterix": (210.0, 8503.3),
    "Asteroids": (719.1, 47388.7),
    "Atlantis": (12850.0, 29028.1),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5),
    "BeamRider": (363.9, 16926.5),
    "Berzerk": (123.7, 2630.4),
    "Bowling": (23.1, 160.7),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "Centipede": (2090.9, 12017.0),
    "ChopperCommand": (811.0, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "DemonAttack": (152.1, 1971.0),
    "DoubleDunk": (-18.6, -16.4),
    "Enduro": (0.0, 860.5),
    "FishingDerby": (-91.7, -38.7),
    "Freeway": (0.0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Gravitar": (173.0, 3351.4),
    "Hero": (1027.0, 30826.4),
    "IceHockey": (-11.2, 0.9),
    "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0),
    "Krull": (1598.0, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MontezumaRevenge": (0.0, 4753.3),
    "MsPacman": (307.3, 6951.6),
    "NameThisGame": (2292.3, 8049.0),
    "Phoenix": (761.4, 7242.6),
    "Pitfall": (-229.4, 6463.7),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0),
    "Riverraid": (1338.5, 17118.0),
    "RoadRunner": (11.5, 7845.0),
    "Robotank": (2.2, 11.9),
    "Seaquest": (68.4, 42054.7),
    "Skiing": (-17098.1, -4336.9),
    "Solaris": (1236.3, 12326.7),
    "SpaceInvaders": (148.0, 1668.7),
    "StarGunner": (664.0, 10250.0),
    "Tennis": (-23.8, -8.3),
    "TimePilot": (3568.0, 5229.2),
    "Tutankham": (11.4, 167.6),
    "UpNDown": (533.4, 11693.2),
    "Venture": (0.0, 1187.5),
    "VideoPinball": (16256.9, 17667.9),
    "WizardOfWor": (563.5, 4756.5),
    "YarsRevenge": (3092.9, 54576.9),
    "Zaxxon": (32.5, 9173.3),
}
_WITHOUT_HUMAN_SCORE = ("AirRaid", "Carnival", "JourneyEscape", "Pooyan")
_NOT_IN_THE_PAPER = ("Centipede", "DoubleDunk", "Skiing", "Tennis")
# The 55 games of rliable (Agarwal et al. 2021): Atari-57 without Defender and Surround.
RLIABLE_55 = tuple(RANDOM_AND_HUMAN)
# The 55 games in the figures of the proximal-iteration paper (Asadi et al. 2022): Dopamine's 60 without five.
PRO_PAPER_55 = tuple(sorted((*(g for g in RLIABLE_55 if g not in _NOT_IN_THE_PAPER), *_WITHOUT_HUMAN_SCORE)))


def human_normalized_score(game: str, score: Any) -> Any:
    """(score - random) / (human - random): 0 for a random player, 1 for a human.

    Args:
      game: as in `atari/<game>`.
      score: raw return, a number or an array [...].

    Returns:
      the normalised score, of the same shape.

    Raises:
      PurerlError: the game has no published human score.
    """
    if game not in RANDOM_AND_HUMAN:
        raise PurerlError(f"there is no human score for '{game}'.{nearest(game, RANDOM_AND_HUMAN)}")
    random, human = RANDOM_AND_HUMAN[game]
    return (score - random) / (human - random)
