"""Procgen: 16 procedurally generated games (Cobbe et al. 2020, arXiv 1912.01588), stepped on the host by C++ threads.

The wheel's shared library is used through its C API, `libenv`, without gym and gym3. Its `act` starts the threads and
returns, and its `observe` waits for them. So the accelerator can act for one group while another is stepped.

Properties of the library:
- It does not distinguish time-outs from other ends, so a time-out is `terminated`, and `truncated` is always False.
- It resets a game in the same step, and never shows the last observation of an episode.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from purerl.envs import procgen_scores
from purerl.envs.pool_guard import INT32_MAX, PoolGuard, checked_seeds, usable_cores, whole
from purerl.errors import PurerlError, nearest
from purerl.types import EnvSpec, TimeStep

_GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)  # fmt: skip
# "exploration" is not a mode of the library: it is "hard" with the one level of the game below.
_MODES = {"easy": 0, "hard": 1, "extreme": 2, "memory": 10, "exploration": 1}
_EXPLORATION_LEVELS = {
    "coinrun": 1949448038,
    "caveflyer": 1259048185,
    "leaper": 1318677581,
    "jumper": 1434825276,
    "maze": 158988835,
    "heist": 876640971,
    "climber": 1561126160,
    "ninja": 1123500215,
}
# All games have "easy" and "hard"; the library aborts the process if a game does not have its mode.
_GAMES_OF_MODE = {
    "extreme": ("chaser", "dodgeball", "leaper", "starpilot"),
    "memory": ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"),
    "exploration": tuple(_EXPLORATION_LEVELS),
}
# The options that are passed to the library unchanged.
_SWITCHES = (
    "center_agent", "use_backgrounds", "use_monochrome_assets", "restrict_themes", "use_generated_assets",
    "paint_vel_info", "use_sequential_levels",
)  # fmt: skip
NUM_ACTIONS = 15
# Fixes a broken installation. The wheels also require numpy<2, gym and gym3, which are not needed and which pip cannot
# install together with JAX.
FIX = "pip install cffi && pip install --no-deps procgen-mirror  # wheels: Linux on x86-64"
NUM_LEVELS = INT32_MAX  # of each game and mode: 0 to NUM_LEVELS - 1

# Version 1 of libenv, the one that every Procgen release was built with.
_LIBENV_VERSION = 1
_LIBENV = """
typedef void libenv_env;
union libenv_value { uint8_t uint8; int32_t int32; float float32; };
struct libenv_tensortype {
  char name[128]; int scalar_type; int dtype; int shape[16]; int ndim; union libenv_value low; union libenv_value high;
};
struct libenv_option { char name[128]; int dtype; int count; void* data; };
struct libenv_options { struct libenv_option* items; int count; };
struct libenv_buffers { void** ob; float* rew; uint8_t* first; void** info; void** ac; };
int libenv_version(void);
libenv_env* libenv_make(int num_envs, const struct libenv_options options);
int libenv_get_tensortypes(libenv_env* handle, int space, struct libenv_tensortype* types);
void libenv_set_buffers(libenv_env* handle, struct libenv_buffers* buffers);
void libenv_observe(libenv_env* handle);
void libenv_act(libenv_env* handle);
void libenv_close(libenv_env* handle);
int get_state(libenv_env* handle, int env, char* data, int length);
void set_state(libenv_env* handle, int env, char* data, int length);
"""
_UINT8, _INT32 = 1, 2  # libenv's dtypes
_SPACES = {1: ["rgb"], 2: ["action"], 3: ["prev_level_seed", "prev_level_complete", "level_seed"]}
_END_OF_STATE = bytes.fromhex("fecafeca")  # the last four bytes of every state
_MAX_STATE = 2**20  # bytes of one game's state; they are 20 to 40 KB


@dataclasses.dataclass(frozen=True)
class Options:
    """The `--env.*` flags of Procgen.

    Attributes:
      num_levels: how many levels to play; 0 plays all levels, 0 to 2^31 - 2.
      start_level: the first level's number; needs num_levels.
      distribution_mode: which variant of the game to play; every game has easy and hard, some have extreme (chaser,
        dodgeball, leaper, starpilot), memory (caveflyer, dodgeball, heist, jumper, maze, miner) or exploration (one
        given hard level: caveflyer, climber, coinrun, heist, jumper, leaper, maze, ninja).
      center_agent: whether the view follows the agent rather than showing the whole level.
      use_backgrounds: whether to draw pictures as backgrounds; black otherwise.
      use_monochrome_assets: whether to draw every object as a rectangle of one colour.
      restrict_themes: whether to use a single theme for objects that have several.
      use_generated_assets: whether to draw randomly generated pictures instead of those made by artists. The library
        cannot save such games, so they cannot be used for training, and a pool can have only one group: evaluate with
        an odd number of environments.
      paint_vel_info: whether to paint the agent's velocity in the upper left corner, if the game has a velocity.
      use_sequential_levels: whether a solved level leads to the next one within the same episode.
      num_threads: threads that step one group of environments; 0 takes one for each usable core.
    """

    num_levels: int = 0
    start_level: int = 0
    distribution_mode: Literal["easy", "hard", "extreme", "memory", "exploration"] = "hard"
    center_agent: bool = True
    use_backgrounds: bool = True
    use_monochrome_assets: bool = False
    restrict_themes: bool = False
    use_generated_assets: bool = False
    paint_vel_info: bool = False
    use_sequential_levels: bool = False
    num_threads: int = 0


def names() -> list[str]:
    """The 16 games. Works without the procgen package."""
    return list(_GAMES)


def spec(id: str, options: Options) -> EnvSpec:
    """A game's EnvSpec. Works without the procgen package. Raises PurerlError for an unknown game or bad options."""
    _check(id, options)
    return EnvSpec(
        name=f"procgen/{id}",
        observation_shape=(64, 64, 3),
        observation_dtype="uint8",
        num_actions=NUM_ACTIONS,
        shows_final_observation=False,
    )


def score(id: str, options: Options, returns: Any) -> tuple[str, Any] | None:
    """("Procgen normalised return, <mode>, constants of train-procgen", scores) of raw returns in the options' mode.

    None for a mode without published constants.
    """
    if options.distribution_mode not in procgen_scores.RANGES:
        return None
    mode = options.distribution_mode
    name = f"Procgen normalised return, {mode}, constants of {procgen_scores.DEFAULT_CONSTANTS}"
    return name, procgen_scores.normalized_return(id, mode, returns)


def check_training(id: str, options: Options) -> None:
    """Raises PurerlError for options that work in evaluation but not in training."""
    if options.use_generated_assets:
        raise PurerlError(
            "Procgen games with use_generated_assets cannot be saved, but training needs checkpoints: leave it off "
            "(evaluations may use it: purerl eval RUN --num-envs 1 --env.use-generated-assets)"
        )


def example() -> str:
    """The id that `purerl doctor` tries."""
    return "coinrun"


def make_pool(id: str, options: Options, seeds: Sequence[int], num_envs: int, num_groups: int) -> ProcgenPool:
    """S x N games with these seeds. Raises PurerlError for arguments that would make the library end the process."""
    return ProcgenPool(id, options, seeds, num_envs, num_groups)


class ProcgenPool:
    """A `types.Pool` of one Procgen game.

    Environment n of seed s is bit-identical to the library's own environment n with rand_seed=s, for any other seeds
    and any number of groups and threads.

    The arrays that `reset` and `recv` return are read-only views of the buffers that the C++ threads write. A step
    copies and allocates nothing, and the next `send` of the group overwrites them. On a CPU device JAX also reads such
    arrays in place. So every computation on them must finish before the group's next `send`. It is enough to take the
    actions of that send as numpy from the same jitted call, because all outputs of one program are ready together.

    Args:
      id: the game.
      options: its Options.
      seeds: S integers in [0, 2**31).
      num_envs: N, games of each seed.
      num_groups: G, must divide N.

    Raises PurerlError for an unknown game, invalid options or sizes, or if the procgen package is missing.
    """

    resumes_exactly = True

    def __init__(self, id: str, options: Options, seeds: Sequence[int], num_envs: int, num_groups: int):
        self.spec = spec(id, options)
        seeds = checked_seeds(seeds)
        self.num_seeds = len(seeds)
        self.num_envs = num_envs
        self.num_groups = num_groups
        self._guard = PoolGuard(self, self.spec, self.num_seeds, num_envs, num_groups)
        self._can_save = not options.use_generated_assets
        if num_groups > 1:
            self._check_can_save(f"num_groups={num_groups}", "use num_groups=1 (an odd number of environments)")
        self._identity = {"game": id, **dataclasses.asdict(options)}
        del self._identity["num_threads"]  # the games' states depend on all other options
        # One library environment for each seed and group: it locks and scans all its games after each game's step, so a
        # single large one with many threads is slow.
        threads = -(-(options.num_threads or usable_cores()) // self.num_seeds)
        self._buffers = [Buffers.empty((self.num_seeds, num_envs // num_groups)) for _ in range(num_groups)]
        self._shown = [buffers.shown() for buffers in self._buffers]
        self._games: list[list[Games]] = []
        for buffers in self._buffers:
            self._games.append([])
            for s, seed in enumerate(seeds):
                self._games[-1].append(Games(id, options, seed, threads, buffers.row(s)))
        for s, seed in enumerate(seeds):
            if num_groups == 1:
                self._games[0][s].observe()  # wait for its first levels
            else:
                self._load(s, _first_states(id, options, seed, num_envs, usable_cores()))

    def reset(self, group: int) -> np.ndarray:
        """First observations of a group, uint8 [S, N / G, 64, 64, 3]; after `restore`, those to act on next."""
        self._guard.reset(group)
        return self._shown[group].observation

    def send(self, group: int, actions: np.ndarray) -> None:
        """Starts stepping a group with int32 actions [S, N / G] in [0, 15)."""
        actions = self._guard.send(group, actions)
        np.copyto(self._buffers[group].action, actions)
        for games in self._games[group]:
            games.act()

    def recv(self, group: int) -> TimeStep:
        """Waits for a group's step and returns its TimeStep, all fields [S, N / G, ...]."""
        self._guard.recv(group)
        for games in self._games[group]:
            games.observe()
        return self._shown[group]

    def level_seeds(self, group: int) -> np.ndarray:
        """The current level of each game of a group, int32 [S, N / G]."""
        self._guard.rest("level_seeds()", group)
        return self._buffers[group].level_seed.copy()

    def state(self, lanes: slice = slice(None)) -> dict[str, np.ndarray]:
        """Everything needed to continue exactly, independent of the number of groups.

        It holds the library's state of each game, uint8 [S, N, longest], their lengths int32 [S, N], a checksum, and
        the game and options.
        """
        self._guard.rest("state()")
        self._check_can_save("state()", "train without checkpoints")
        states = [[state for games in self._games for state in games[s].states()] for s in range(self.num_seeds)[lanes]]
        lengths = np.array([[len(state) for state in row] for row in states], np.int32)
        blobs = np.zeros((*lengths.shape, int(lengths.max())), np.uint8)
        for s, row in enumerate(states):
            for n, state in enumerate(row):
                blobs[s, n, : len(state)] = np.frombuffer(state, np.uint8)
        identity = np.frombuffer(json.dumps(self._identity).encode(), np.uint8)
        return {"games": blobs, "lengths": lengths, "identity": identity, "checksum": _checksum(blobs, lengths)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Loads a result of `state`, in a pool with any seeds, groups and threads.

        The library trusts the states: one that was made to deceive can end the process or read foreign memory.

        Raises PurerlError if the state is damaged, or comes from another game, other options, or other numbers of seeds
        and environments. The pool is then unchanged.
        """
        self._guard.rest("restore()")
        self._check_can_save("restore()", "train without checkpoints")
        header = self._games[0][0].state(0)[: _header_size(self._identity["game"])]
        blobs, lengths = _checked_state(state, self._identity, (self.num_seeds, self.num_envs), header)
        for s in range(self.num_seeds):
            self._load(s, [blobs[s, n, : lengths[s, n]].tobytes() for n in range(self.num_envs)])
        self._guard.rewind()

    def close(self) -> None:
        """Ends the games and their threads. Safe to call twice."""
        turns = getattr(self, "_guard", None)  # missing if the arguments were refused
        if turns is not None and turns.close():
            for group in getattr(self, "_games", []):
                for games in group:
                    games.close()

    def __enter__(self) -> ProcgenPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _check_can_save(self, what: str, fix: str) -> None:
        """Raises PurerlError for generated pictures: the library would end the process if asked for their state."""
        if not self._can_save:
            raise PurerlError(f"Procgen games with use_generated_assets cannot be saved, as {what} needs: {fix}")

    def _load(self, s: int, states: list[bytes]) -> None:
        """Loads the states of the N games of the s-th seed."""
        size = self._guard.group_size
        for group, games in enumerate(self._games):
            games[s].load(states[group * size : (group + 1) * size])


class Buffers(NamedTuple):
    """The memory that games [...] share with the library, which writes all arrays except `action`.

    Attributes:
      observation: uint8 [..., 64, 64, 3].
      action: int32 [...].
      reward: float32 [...].
      first: uint8 [...], 1 where the observation is the first one of an episode.
      previous_level_seed, previous_level_complete: int32 and uint8 [...], the level of the last action, and whether
        that action solved it.
      level_seed: int32 [...], the level of the observation.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    first: np.ndarray
    previous_level_seed: np.ndarray
    previous_level_complete: np.ndarray
    level_seed: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Buffers:
        """Buffers of games [*shape]."""
        return cls(
            observation=_aligned((*shape, 64, 64, 3), np.uint8),
            action=_aligned(shape, np.int32),
            reward=_aligned(shape, np.float32),
            first=_aligned(shape, np.uint8),
            previous_level_seed=_aligned(shape, np.int32),
            previous_level_complete=_aligned(shape, np.uint8),
            level_seed=_aligned(shape, np.int32),
        )

    def row(self, s: int) -> Buffers:
        """The part of the s-th seed."""
        return Buffers(*(array[s] for array in self))

    def shown(self) -> TimeStep:
        """Read-only views of these buffers as a TimeStep, so they always show the latest step."""
        return TimeStep(
            observation=_read_only(self.observation),
            reward=_read_only(self.reward),
            terminated=_read_only(self.first.view(np.bool_)),
            truncated=_read_only(_aligned(self.first.shape, np.bool_)),
        )


class Games:
    """One libenv environment: M games that step together, on its own threads, with buffers [M, ...]."""

    def __init__(self, id: str, options: Options, rand_seed: int, threads: int, buffers: Buffers):
        self._ffi, self._lib, assets = _library()
        self._buffers = buffers  # the library keeps pointers into them, so they must live as long as the games
        self._size = len(buffers.action)
        self._handle = _make(self._ffi, self._lib, self._size, library_flags(id, options, rand_seed, threads, assets))
        self._check_spaces()
        info = [buffers.previous_level_seed, buffers.previous_level_complete, buffers.level_seed]
        spaces = {"ob": [buffers.observation], "ac": [buffers.action], "info": info}
        pointers = {name: self._pointers(arrays) for name, arrays in spaces.items()}
        plain = {"rew": self._pointer("float*", buffers.reward), "first": self._pointer("uint8_t*", buffers.first)}
        # This also starts the threads that create the first levels; every other call waits for them.
        self._lib.libenv_set_buffers(self._handle, self._ffi.new("struct libenv_buffers*", {**pointers, **plain}))

    def act(self) -> None:
        """Starts stepping with the actions in the buffers."""
        self._lib.libenv_act(self._handle)

    def observe(self) -> None:
        """Waits for the step."""
        self._lib.libenv_observe(self._handle)

    def states(self) -> list[bytes]:
        """The library's states of the M games."""
        data = self._ffi.new("char[]", _MAX_STATE)
        return [self.state(game, data) for game in range(self._size)]

    def state(self, game: int, data: Any = None) -> bytes:
        """The library's state of one game; `data` is memory to write it to, char[_MAX_STATE]."""
        data = self._ffi.new("char[]", _MAX_STATE) if data is None else data
        return bytes(self._ffi.buffer(data, self._lib.get_state(self._handle, game, data, _MAX_STATE)))

    def load(self, states: list[bytes]) -> None:
        """Loads the states of the M games. The library then renders them and writes all other buffers."""
        for game, state in enumerate(states):
            self._lib.set_state(self._handle, game, state, len(state))

    def close(self) -> None:
        """Waits for a running step, then ends the threads."""
        self._lib.libenv_close(self._handle)

    def _pointer(self, kind: str, array: np.ndarray) -> Any:
        return self._ffi.cast(kind, array.ctypes.data)

    def _pointers(self, arrays: list[np.ndarray]) -> Any:
        """Where each game's part of each array [M, ...] starts: void* [len(arrays) * M]."""
        starts = [self._pointer("void*", array[game : game + 1]) for array in arrays for game in range(self._size)]
        return self._ffi.new("void*[]", starts)

    def _check_spaces(self) -> None:
        """Raises PurerlError unless the library's buffers have the expected names, shapes and dtypes."""
        for space, expected in _SPACES.items():
            types = self._ffi.new("struct libenv_tensortype[]", 8)
            count = self._lib.libenv_get_tensortypes(self._handle, space, types)
            found = [self._ffi.string(types[i].name).decode() for i in range(count)]
            if found != expected:
                self.close()
                raise PurerlError(f"the installed procgen has {found} instead of {expected}: install procgen 0.10")


def _first_states(id: str, options: Options, seed: int, num_envs: int, threads: int) -> list[bytes]:
    """The first states of the games of a pool with only this seed.

    A library environment draws the seeds of all its games from one rand_seed, in the order of the games. So the second
    half of a seed's games cannot be created without the first half. All are therefore created together once, and their
    states are loaded into the groups.
    """
    games = Games(id, options, seed, threads, Buffers.empty((num_envs,)))
    states = games.states()
    games.close()
    return states


@functools.cache
def _library() -> tuple[Any, Any, str]:
    """(ffi, the loaded library, its folder of pictures). The package is not imported, because that needs gym3."""
    try:
        import cffi
    except ImportError:
        raise PurerlError(f"Procgen needs the cffi package: {FIX}") from None
    found = importlib.util.find_spec("procgen")
    folders = [Path(folder) / "data" for folder in (found.submodule_search_locations if found else None) or ()]
    libraries = [file for folder in folders for file in sorted(folder.glob("prebuilt/libenv.*"))]
    if not libraries:
        raise PurerlError(f"the procgen package is not installed: {FIX}")
    ffi = cffi.FFI()
    ffi.cdef(_LIBENV)
    lib = ffi.dlopen(str(libraries[0]))
    if lib.libenv_version() != _LIBENV_VERSION:
        version = lib.libenv_version()
        raise PurerlError(f"the installed procgen has libenv {version}, not {_LIBENV_VERSION}: install procgen 0.10")
    assets = libraries[0].parent.parent / "assets"
    if not assets.is_dir():  # the library would end the process
        raise PurerlError(f"the installed procgen has no pictures ({assets} is missing): install procgen again")
    return ffi, lib, str(assets) + os.sep


def _make(ffi: Any, lib: Any, num_games: int, flags: dict[str, bool | int | str]) -> Any:
    """Calls libenv_make, with Python values for its flags."""
    items = ffi.new("struct libenv_option[]", len(flags))
    alive = []  # keeps the values in memory until libenv_make returns
    for item, (name, value) in zip(items, flags.items(), strict=True):
        if isinstance(value, str):
            data = ffi.new("uint8_t[]", value.encode())
            item.count = len(value.encode())
        else:
            data = ffi.new("uint8_t*" if isinstance(value, bool) else "int32_t*", value)
            item.count = 1
        item.name = name.encode()
        item.dtype = _UINT8 if isinstance(value, bool | str) else _INT32
        item.data = data
        alive.append(data)
    return lib.libenv_make(num_games, ffi.new("struct libenv_options*", {"items": items, "count": len(items)})[0])


def library_flags(id: str, options: Options, rand_seed: int, threads: int, assets: str) -> dict[str, bool | int | str]:
    """All options of the library, which needs exact types: bool is a byte, int an int32, str bytes."""
    exploration = options.distribution_mode == "exploration"
    return {
        "env_name": id,
        "num_levels": 1 if exploration else options.num_levels,
        "start_level": _EXPLORATION_LEVELS[id] if exploration else options.start_level,
        "distribution_mode": _MODES[options.distribution_mode],
        **{name: getattr(options, name) for name in _SWITCHES},
        "num_actions": NUM_ACTIONS,
        "rand_seed": rand_seed,
        "num_threads": threads,
        "debug_mode": 0,
        "render_human": False,
        "resource_root": assets,  # read only by the first environment of a process
    }


def _check(id: str, options: Options) -> None:
    """Raises PurerlError for options that would make the library end the process, or that it would ignore."""
    if id not in _GAMES:
        raise PurerlError(f"unknown Procgen game '{id}'.{nearest(id, _GAMES)} (purerl list envs procgen)")
    mode = options.distribution_mode
    if mode not in _MODES:
        raise PurerlError(f"unknown distribution_mode '{mode}'.{nearest(mode, _MODES)} Known: {', '.join(_MODES)}")
    if id not in _GAMES_OF_MODE.get(mode, _GAMES):
        raise PurerlError(
            f"{id} has no distribution_mode '{mode}': use easy or hard (only {', '.join(_GAMES_OF_MODE[mode])} have it)"
        )
    for name in ("num_levels", "start_level", "num_threads"):
        whole(name, getattr(options, name))
    for name in _SWITCHES:
        if not isinstance(getattr(options, name), bool):
            raise PurerlError(f"{name} must be True or False, not {getattr(options, name)!r}")
    if options.num_threads > 1024:
        raise PurerlError(f"num_threads={options.num_threads} is too many: use 0 for one thread per usable core")
    if mode == "exploration" and (options.num_levels or options.start_level):
        raise PurerlError("distribution_mode 'exploration' has one fixed level: leave num_levels and start_level at 0")
    if options.start_level and not options.num_levels:
        raise PurerlError(
            f"start_level={options.start_level} has no effect if num_levels is 0 (all levels): set num_levels as well"
        )
    if options.start_level + options.num_levels > INT32_MAX:
        raise PurerlError(f"start_level + num_levels must be at most {INT32_MAX}")


def _checksum(blobs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.array(zlib.crc32(blobs, zlib.crc32(lengths)), np.uint32)


def _header_size(id: str) -> int:
    """How many bytes a game's states have in common: version, length of the name, name, and 16 numbers, of which the
    first 12 are its options and two the range of its levels.
    """
    return 4 * (2 + 16) + len(id)


def _checked_state(
    state: dict[str, Any], identity: dict[str, Any], shape: tuple[int, int], header: bytes
) -> tuple[np.ndarray, np.ndarray]:
    """(blobs [S, N, longest], lengths [S, N]) of a saved state, checked against damage, `identity` and `shape`, and
    each game's state against the first bytes `header` of all of them and the mark of their end.

    The library ends the process if a state is damaged, so this must be found before.
    """
    missing = {"games", "lengths", "identity", "checksum"} - state.keys()
    if missing:
        raise PurerlError(f"this Procgen state has no {', '.join(sorted(missing))}: use another checkpoint")
    try:
        theirs = dict(json.loads(np.asarray(state["identity"]).tobytes()))
    except (ValueError, TypeError, RecursionError):
        raise PurerlError("this Procgen state has no readable game and options: use another checkpoint") from None
    names = sorted(name for name in theirs.keys() | identity.keys() if theirs.get(name) != identity.get(name))
    if names:
        other = ", ".join(f"{name}={theirs.get(name)} (here {identity.get(name)})" for name in names)
        raise PurerlError(f"this Procgen state belongs to other games: {other}; create the pool with the same options")
    blobs, lengths = np.ascontiguousarray(state["games"]), np.ascontiguousarray(state["lengths"])
    if lengths.shape != shape:
        raise PurerlError(
            f"this Procgen state has the size {list(lengths.shape)} = [seeds, environments]: "
            f"restore it in a pool of that size, not of {list(shape)}"
        )
    complete = (blobs.shape[:2], blobs.ndim, blobs.dtype, lengths.dtype) == (shape, 3, np.uint8, np.int32)
    complete = complete and 0 < lengths.min() <= lengths.max() <= blobs.shape[2]
    if not complete or not np.array_equal(_checksum(blobs, lengths), state["checksum"]):
        raise PurerlError("this Procgen state is damaged (its checksum differs): use another checkpoint")
    for game, length in zip(blobs.reshape(-1, blobs.shape[2]), lengths.flat, strict=True):
        if not (game[: len(header)].tobytes() == header and game[:length].tobytes().endswith(_END_OF_STATE)):
            raise PurerlError(
                "this Procgen state is not one of this game, options and version of the library: use another "
                "checkpoint, or the procgen version that made it"
            )
    return blobs, lengths


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that start at a multiple of 64 bytes, which JAX requires of memory that it reads in place."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
