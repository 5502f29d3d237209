"""Published numbers of papers, with which the figures are compared.

Procgen's PPO tables are in `purerl.envs.procgen_scores`, and learning curves as data in
`purerl.experiments.published`.

PPG: Cobbe, Hilton, Klimov, Schulman 2020 (arXiv 2009.04416), hard mode, unlimited levels, 100M steps; averaged from the
learning curves released with openai/phasic-policy-gradient (last 100 updates; 3 seeds, the ablations 1).

DQN Pro: Asadi et al. 2022 (arXiv 2112.05848), 120M frames. The bars are read from the figure, with an error of about
6% of their size; those below 1% cannot be read. The medians are from the authors' blog post; the median of Rainbow Pro
is UNVERIFIED.
"""

from __future__ import annotations

# game: (PPO, PPG, PPG with a single network), mean return over 3 seeds at 100M steps.
PPG_RETURNS = {
    "bigfish": (18.3, 33.1, 32.0),
    "bossfight": (11.2, 11.7, 11.9),
    "caveflyer": (8.6, 11.2, 10.4),
    "chaser": (6.1, 9.3, 8.8),
    "climber": (8.8, 10.8, 10.8),
    "coinrun": (8.7, 9.3, 9.1),
    "dodgeball": (6.8, 12.7, 12.3),
    "fruitbot": (22.1, 25.0, 24.8),
    "heist": (3.9, 6.1, 6.8),
    "jumper": (6.1, 7.0, 7.2),
    "leaper": (7.8, 9.4, 9.4),
    "maze": (7.0, 9.1, 9.2),
    "miner": (10.3, 12.3, 13.1),
    "ninja": (9.30, 9.68, 9.63),
    "plunder": (14.8, 17.0, 16.0),
    "starpilot": (20.3, 22.6, 23.8),
}
# Mean normalised return at 100M steps.
PPG_MEAN_NORMALIZED = {"ppo": 0.577, "dual": 0.754, "detach": 0.754}
# {field: {value: mean normalised return at 100M steps}}.
PPG_SAMPLE_REUSE = {
    "policy_epochs": {1: 0.763, 2: 0.694, 3: 0.688, 4: 0.539, 5: 0.462, 6: 0.391},
    "auxiliary_epochs": {1: 0.623, 2: 0.674, 3: 0.728, 6: 0.736, 9: 0.767},
    "policy_iterations": {2: 0.618, 4: 0.640, 8: 0.729, 16: 0.761, 32: 0.756},
}

# Improvement of the Pro version over its base in percent, (DQN, Rainbow).
PRO_BARS = {
    "AirRaid": (58, 114),
    "Alien": (-2.4, 27),
    "Amidar": (11, -6.8),
    "Assault": (-24, 37),
    "Asterix": (34, 311),
    "Asteroids": (1.7, 1.9),
    "Atlantis": (2.7, -5.0),
    "BankHeist": (11, -35),
    "BattleZone": (4.8, 2.2),
    "BeamRider": (36, 107),
    "Berzerk": (2.1, 21),
    "Bowling": (-2.1, -3.4),
    "Boxing": (73, 2.6),
    "Breakout": (66, 15),
    "Carnival": (-12, 0),
    "ChopperCommand": (-1.4, -2.3),
    "CrazyClimber": (2.9, 11),
    "DemonAttack": (-32, 94),
    "Enduro": (98, 7.7),
    "FishingDerby": (27, 2.1),
    "Freeway": (-12, 6.0),
    "Frostbite": (5.8, -9.3),
    "Gopher": (31, 156),
    "Gravitar": (17, -57),
    "Hero": (-48, -12),
    "IceHockey": (34, 42),
    "Jamesbond": (66, -1.7),
    "JourneyEscape": (-24, 0),
    "Kangaroo": (93, -4.1),
    "Krull": (-11, -2.2),
    "KungFuMaster": (20, 78),
    "MontezumaRevenge": (0, -14),
    "MsPacman": (4.3, 5.3),
    "NameThisGame": (182, 101),
    "Phoenix": (9.8, 2628),
    "Pitfall": (5.5, -9.3),
    "Pong": (-5.5, 31),
    "Pooyan": (41, 16),
    "PrivateEye": (6.3, -25),
    "Qbert": (9.3, 5.6),
    "Riverraid": (8.1, -1.9),
    "RoadRunner": (5.8, 9.3),
    "Robotank": (-1.5, 8.2),
    "Seaquest": (27, 114),
    "Solaris": (2.7, 1.7),
    "SpaceInvaders": (73, 798),
    "StarGunner": (73, 101),
    "TimePilot": (118, 35),
    "Tutankham": (6.0, 9.9),
    "UpNDown": (63, 6.8),
    "Venture": (11, -1.1),
    "VideoPinball": (48, 3.2),
    "WizardOfWor": (98, 177),
    "YarsRevenge": (-1.5, 29),
    "Zaxxon": (37, 83),
}
# Games of 55 in which the Pro version is better.
PRO_GAMES_IMPROVED = {"dqn": 41, "rainbow": 37}
# Median human-normalised score over games.
PRO_MEDIAN = {"dqn-pro": 1.0, "rainbow-pro": 2.2}
# The six games on which c was chosen, and the score at each c, normalised by the best one.
PRO_RADAR = {
    "Breakout": {0.1: 0.80, 0.2: 1.0, 0.5: 1.0, 1.0: 1.0},
    "Amidar": {0.1: 0.90, 0.2: 0.97, 0.5: 1.0, 1.0: 0.75},
    "Asterix": {0.1: 0.75, 0.2: 1.0, 0.5: 0.80, 1.0: 0.60},
    "BeamRider": {0.1: 0.60, 0.2: 1.0, 0.5: 0.90, 1.0: 0.95},
    "Qbert": {0.1: 0.80, 0.2: 0.80, 0.5: 1.0, 1.0: 0.70},
    "Gopher": {0.1: 0.86, 0.2: 1.0, 0.5: 0.90, 1.0: 0.76},
}
