"""Atari 2600 games through ale-py's C++ vector environment (Bellemare et al. 2013; Machado et al. 2018).

The defaults are Dopamine's: sticky actions, no no-op start, no fire reset, raw rewards, minimal action set, four frames
per step (the last two are max-pooled), 84 x 84 greyscale, four stacked frames, zeros before an episode's first frame.

Properties of the library:
- An episode that ends is reset in the same step, so no row is masked.
- It cannot save an emulator. A resumed run continues with new episodes (`AtariPool.restore`).
- A step plays all its frames even if a life is lost in one of them. It stops early only in a mode that also restarts
  the whole game, which is not used here. Dopamine stops at once; DQN Zoo plays all frames, as here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from purerl.envs import atari_scores
from purerl.envs.atari_watch import Wait, Watch, thread_ids
from purerl.envs.pool_guard import INT32_MAX, PoolGuard, checked_seeds, usable_cores, whole
from purerl.errors import PurerlError, nearest, needs
from purerl.types import EnvSpec, TimeStep

# The games with ROMs in ale-py, by their names in papers, except games only for two players (Combat, Joust, MazeCraze,
# Warlords), which ale-py cannot start.
_GAMES = (
    "Adventure", "AirRaid", "Alien", "Amidar", "Assault", "Asterix", "Asteroids", "Atlantis", "Atlantis2",
    "Backgammon", "BankHeist", "BasicMath", "BattleZone", "BeamRider", "Berzerk", "Blackjack", "Bowling", "Boxing",
    "Breakout", "Carnival", "Casino", "Centipede", "ChopperCommand", "CrazyClimber", "Crossbow", "Darkchambers",
    "Defender", "DemonAttack", "DonkeyKong", "DoubleDunk", "Earthworld", "ElevatorAction", "Enduro", "Entombed",
    "Et", "FishingDerby", "FlagCapture", "Freeway", "Frogger", "Frostbite", "Galaxian", "Gopher", "Gravitar",
    "Hangman", "HauntedHouse", "Hero", "HumanCannonball", "IceHockey", "Jamesbond", "JourneyEscape", "Kaboom",
    "Kangaroo", "KeystoneKapers", "KingKong", "Klax", "Koolaid", "Krull", "KungFuMaster", "LaserGates",
    "LostLuggage", "MarioBros", "MiniatureGolf", "MontezumaRevenge", "MrDo", "MsPacman", "NameThisGame", "Othello",
    "Pacman", "Phoenix", "Pitfall", "Pitfall2", "Pong", "Pooyan", "PrivateEye", "Qbert", "Riverraid", "RoadRunner",
    "Robotank", "Seaquest", "SirLancelot", "Skiing", "Solaris", "SpaceInvaders", "SpaceWar", "StarGunner",
    "Superman", "Surround", "Tennis", "Tetris", "TicTacToe3d", "TimePilot", "Trondead", "Turmoil", "Tutankham",
    "UpNDown", "Venture", "VideoCheckers", "VideoChess", "VideoCube", "VideoPinball", "WizardOfWor", "WordZapper",
    "YarsRevenge", "Zaxxon",
)  # fmt: skip
_SIZE = 84
# The smallest and the largest value of each number. The library adds 1 to int32s, and multiplies 84 * 84 by the stack.
_RANGES = {
    "frame_skip": (1, INT32_MAX - 1),
    "frame_stack": (1, 1000),
    "max_frames": (1, INT32_MAX - 1),
    "noop_max": (0, INT32_MAX - 1),
    "num_threads": (0, 1024),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the games; the defaults are Dopamine's.

    Attributes:
      repeat_action_probability: probability that a frame repeats the previous action (sticky actions); 0 for none.
      full_action_space: all 18 actions instead of those with an effect in the game.
      frame_skip: frames in one step.
      frame_stack: frames in one observation.
      noop_max: an episode starts with 0 to this many no-ops.
      life_loss: "terminal" reports a lost life as `life_lost` and blanks the frames before it. The episode continues,
        and the step in which the life was lost plays on to the end of its frame skip (Dopamine's step ends at once).
      max_frames: time limit of an episode, in frames.
      num_threads: threads that step one group of environments; 0 takes one for each usable core.
    """

    repeat_action_probability: float = 0.25
    full_action_space: bool = False
    frame_skip: int = 4
    frame_stack: int = 4
    noop_max: int = 0
    life_loss: Literal["ignored", "terminal"] = "ignored"
    max_frames: int = 108_000
    num_threads: int = 0


# Fixes a broken installation. ale-py has the GPL-2.0 licence, unlike everything else here.
FIX = 'pip install "ale-py>=0.11.2"  # GPL-2.0'


def names() -> list[str]:
    """All games. Works without ale-py."""
    return list(_GAMES)


def canonical(id: str) -> str:
    """The listed name of a game in any spelling: ms_pacman, ms-pacman and mspacman are MsPacman."""
    plain = id.replace("_", "").replace("-", "").lower()
    return {game.lower(): game for game in _GAMES}.get(plain, id)


def spec(id: str, options: Options) -> EnvSpec:
    """A game's EnvSpec: uint8 [K, 84, 84], the K stacked frames oldest first. Raises PurerlError for bad input."""
    _check(id, options)
    return EnvSpec(
        name=f"atari/{id}",
        observation_shape=(options.frame_stack, _SIZE, _SIZE),
        observation_dtype="uint8",
        num_actions=_num_actions(id, options.full_action_space),
        shows_final_observation=False,
        stacked_frames=options.frame_stack,
    )


def score(id: str, options: Options, returns: Any) -> tuple[str, Any] | None:
    """("human-normalised score", scores) of raw returns; None for a game without a published human score."""
    if id not in atari_scores.RANDOM_AND_HUMAN:
        return None
    return "human-normalised score", atari_scores.human_normalized_score(id, returns)


def example() -> str:
    """The id that `purerl doctor` tries."""
    return "Pong"


def make_pool(id: str, options: Options, seeds: Sequence[int], num_envs: int, num_groups: int = 1) -> AtariPool:
    """S x N games in `num_groups` groups; see AtariPool."""
    return AtariPool(id, options, seeds, num_envs, num_groups)


class AtariPool:
    """A `types.Pool` of one Atari game.

    Environment n of seed s gives the same results for any other seeds and any number of groups and threads.

    Args:
      id: the game.
      options: its Options.
      seeds: S integers in [0, 2**31).
      num_envs: N, games of each seed.
      num_groups: G, must divide N.

    Attributes:
      resumes_exactly: False. After `restore` the games start new episodes.

    Raises PurerlError for an unknown game, invalid options or sizes, or if ale-py is missing.
    """

    resumes_exactly = False

    def __init__(self, id: str, options: Options, seeds: Sequence[int], num_envs: int, num_groups: int = 1):
        self.spec = spec(id, options)
        self._seeds = checked_seeds(seeds)
        self.num_seeds, self.num_envs, self.num_groups = len(seeds), num_envs, num_groups
        self._guard = PoolGuard(self, self.spec, self.num_seeds, num_envs, num_groups)
        self._shape = (self.num_seeds, num_envs // num_groups)
        self._blanks = options.life_loss == "terminal"
        self._identity = {"id": id, **dataclasses.asdict(options)}
        del self._identity["num_threads"]
        self._steps = np.zeros(num_groups, np.int64)
        self._games, self._workers = [], []
        for _ in range(num_groups):
            before = thread_ids()
            self._games.append(vector_environment(id, options, int(np.prod(self._shape))))
            self._workers.append(frozenset(thread_ids() - before))
        self._watch = Watch()
        self._age = [np.zeros(self._shape, np.int64) for _ in range(num_groups)]
        self._start()

    def _start(self) -> None:
        """Starts an episode in all games; each game's random numbers depend on its seed, its index and steps so far."""
        first, size = [], self._shape[1]
        self._lives = []
        _rom(self._identity["id"])  # the games load it anew; the library ends the process if it has gone
        for group, games in enumerate(self._games):
            where = [(s, group * size + n) for s in self._seeds for n in range(size)]
            seeds = [_game_seed(s, n, int(self._steps[group])) for s, n in where]
            observation, info = games.reset(seed=np.array(seeds, np.int32))
            first.append(observation.reshape(*self._shape, *self.spec.observation_shape))
            self._lives.append(info["lives"].reshape(self._shape))
        self._first = first
        for age in self._age:
            age[:] = self.spec.stacked_frames

    def reset(self, group: int) -> np.ndarray:
        """First observations of a group [S, N / G, K, 84, 84]; after `restore`, those of the new episodes."""
        self._guard.reset(group)
        return self._first[group]

    def send(self, group: int, actions: np.ndarray) -> None:
        """Starts stepping a group with int32 actions [S, N / G]."""
        actions = self._guard.send(group, actions)
        self._games[group].send(np.ascontiguousarray(actions).reshape(-1))

    def recv(self, group: int) -> TimeStep:
        """Waits for a group's step and returns its TimeStep of numpy arrays [S, N / G, ...]."""
        self._guard.recv(group)
        observation, reward, terminated, truncated, info = self._receive(group)
        self._steps[group] += 1
        observation = observation.reshape(*self._shape, *self.spec.observation_shape)
        terminated, truncated = terminated.reshape(self._shape), truncated.reshape(self._shape)
        lives, life_lost = info["lives"].reshape(self._shape), None
        if self._blanks:
            ended = terminated | truncated
            life_lost = (lives < self._lives[group]) & ~ended
            self._blank(observation, group, life_lost, ended)
        self._lives[group] = lives
        return TimeStep(
            observation=observation,
            reward=reward.reshape(self._shape).astype(np.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
            life_lost=life_lost,
        )

    def _receive(self, group: int) -> Any:
        """What the library's `recv` returns. Closes the pool and raises PurerlError if one of its workers failed."""
        games = self._games[group]
        self._watch.wait = Wait(games, self._workers[group] | {str(threading.get_native_id())})
        try:
            return games.recv()
        except Exception as error:
            self.close()
            raise PurerlError(
                f"a game of {self.spec.name} failed inside ale-py ({error}): create a new pool; a run continues from "
                "its last checkpoint with --resume"
            ) from error
        finally:
            self._watch.wait = None

    def _blank(self, observation: np.ndarray, group: int, life_lost: np.ndarray, ended: np.ndarray) -> None:
        """Blanks the frames of the previous life, as at an episode's start (the array belongs to this step)."""
        age, stack = self._age[group], self.spec.stacked_frames
        age += 1
        age[ended] = stack
        age[life_lost] = 0
        for s, n in zip(*np.nonzero(age < stack - 1), strict=True):
            observation[s, n, : stack - 1 - age[s, n]] = 0

    def state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray]:
        """How many steps each group took, which is the same for all seeds.

        A resumed pool needs this so that it does not play the same episodes again.
        """
        self._guard.rest("state()")
        identity = json.dumps(self._identity, sort_keys=True).encode()
        return {"identity": np.frombuffer(identity, np.uint8), "steps": self._steps.copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Starts new episodes with other random numbers, because ale-py cannot save the emulators.

        Raises PurerlError if the state comes from other games or another number of groups.
        """
        self._guard.rest("restore()")
        mine, state = self.state(), {name: np.asarray(array) for name, array in state.items()}
        fits = state.keys() == mine.keys() and all(state[name].dtype == mine[name].dtype for name in mine)
        if not fits or state["steps"].shape != mine["steps"].shape or state["steps"].min() < 0:
            raise PurerlError("this is not a state of such an Atari pool: use a checkpoint of the same run")
        if state["identity"].tobytes() != mine["identity"].tobytes():
            theirs = state["identity"].tobytes().decode(errors="replace")
            raise PurerlError(
                f"this Atari state belongs to other games ({theirs!r}): create the pool with those options"
            )
        self._steps = state["steps"].copy()
        self._start()
        self._guard.rewind()

    def close(self) -> None:
        """Frees the games. Safe to call twice."""
        turns = getattr(self, "_guard", None)  # missing if the arguments were refused
        if turns is not None and turns.close():
            self._games, self._first = [], []
            watch = getattr(self, "_watch", None)
            if watch is not None:
                watch.close()

    def __enter__(self) -> AtariPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def _game_seed(seed: int, environment: int, steps: int) -> int:
    """The emulator's seed, a function of only these three numbers; collisions are rare."""
    return zlib.crc32(f"atari {seed} {environment} {steps}".encode()) % 2**31


def _library() -> Any:
    """The module ale_py. Raises PurerlError if it is missing."""
    if importlib.util.find_spec("ale_py") is None:
        raise needs("Atari (GPL-2.0)", "ale-py")
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


def _rom(id: str) -> tuple[str, Path]:
    """(ale-py's name of a game: ms_pacman, its file). Raises PurerlError if the file is missing or another."""
    from ale_py import roms

    name = next(rom for rom in roms.get_all_rom_ids() if rom.replace("_", "") == id.lower())
    try:
        return name, roms.get_rom_path(name)
    except OSError as error:
        reason = str(error).replace("\n", " ")
        raise PurerlError(f"ale-py's file of {id} cannot be used ({reason}): install ale-py again") from None


@functools.cache
def _num_actions(id: str, full: bool) -> int:
    ale_py = _library()
    ale = ale_py.ALEInterface()
    ale.loadROM(_rom(id)[1])
    return len(ale.getLegalActionSet() if full else ale.getMinimalActionSet())


def vector_environment(id: str, options: Options, num_games: int) -> Any:
    """ale-py's vector environment, with all options set explicitly."""
    _library()
    from ale_py.vector_env import AtariVectorEnv
    from gymnasium.vector import AutoresetMode

    return AtariVectorEnv(
        _rom(id)[0],
        num_games,
        num_threads=min(num_games, options.num_threads or usable_cores()),
        max_num_frames_per_episode=options.max_frames,
        repeat_action_probability=options.repeat_action_probability,
        full_action_space=options.full_action_space,
        autoreset_mode=AutoresetMode.SAME_STEP,
        img_height=_SIZE,
        img_width=_SIZE,
        grayscale=True,
        stack_num=options.frame_stack,
        frameskip=options.frame_skip,
        maxpool=options.frame_skip > 1,
        noop_max=options.noop_max + 1 if options.noop_max else 0,  # the library's upper bound is exclusive
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
    )


def _check(id: str, options: Options) -> None:
    if id not in _GAMES:
        raise PurerlError(f"unknown Atari game '{id}'.{nearest(id, _GAMES)} (purerl list envs atari)")
    probability = options.repeat_action_probability
    if type(probability) not in (int, float) or not 0 <= probability < 1:
        raise PurerlError(f"repeat_action_probability = {probability!r} must be in [0, 1)")
    if not isinstance(options.full_action_space, bool):
        raise PurerlError(f"full_action_space must be True or False, not {options.full_action_space!r}")
    if options.life_loss not in ("ignored", "terminal"):
        raise PurerlError(f"unknown life_loss '{options.life_loss}'. Known: ignored, terminal")
    for name, (least, most) in _RANGES.items():
        whole(name, getattr(options, name), least, most)
