"""The family `procgen-jax`: Procgen's own levels, played inside the compiled program, exact against the library."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purerl.configs import flag
from purerl.envs import procgen
from purerl.envs.procgen_jax import banks, frames, mersenne
from purerl.errors import PurerlError
from purerl.types import Array, Environment, EnvSpec, PyTree, TimeStep

FIX = procgen.FIX
# Levels are constants of compiled programs: 5,000 with their stills (12 KB each) make one compile for 12 seconds.
MOST_LEVELS_WITH_FRAMES = 10_000
LEVELS_OF = "procgen"  # the family whose levels the banks hold


@dataclasses.dataclass(frozen=True)
class Options:
    """The `--env.*` flags of Procgen in the graph: those of procgen/* where they mean something, and `observation`."""

    num_levels: int = flag(
        200,
        "how many levels to play; all levels (0 in procgen/*) do not fit into a bank: held-out levels are a range of "
        "their own, such as start_level 1000000 and num_levels 10000",
    )
    start_level: int = flag(0, "the first level's number")
    drawn_levels: int = flag(
        0,
        "with num_levels 0: play this many levels, drawn once from all levels. An approximation: in the library nearly "
        "every episode is then a level of its own",
    )
    distribution_mode: Literal["easy", "hard", "exploration"] = flag(
        "hard", "which variant of the game to play; exploration (maze, heist and coinrun) is one given hard level"
    )
    observation: Literal["frames", "symbolic", "both"] = flag(
        "frames",
        "frames: the library's, uint8 [64, 64, 3]; symbolic: what stands in each cell, bool [H, W, planes], or for "
        "games with moving things 255 times the share of the cell that they cover, uint8; both: the frame, and the "
        "planes enlarged to its pixels as further channels, 0 to 255",
    )
    center_agent: bool = flag(
        True, "whether the view follows the agent, as fruitbot and coinrun need; others always show the whole level"
    )
    use_backgrounds: bool = flag(True, "whether to draw pictures as backgrounds; black otherwise")
    use_monochrome_assets: bool = flag(False, "whether to draw every object as a rectangle of one colour")
    restrict_themes: bool = flag(False, "whether to use a single theme for objects that have several")
    use_generated_assets: bool = flag(False, "only in procgen/*")
    paint_vel_info: bool = flag(False, "only in procgen/*")
    use_sequential_levels: bool = flag(False, "only in procgen/*")


@struct.dataclass
class State:
    """One game.

    Attributes:
      generator: which levels come next.
      level: int32 [], the level's row in the bank.
      time: int32 [], steps of this episode.
      level_complete: bool [], the last step solved its level.
      game: the state of the game.
    """

    generator: mersenne.Generator
    level: Array
    time: Array
    level_complete: Array
    game: PyTree


def names() -> list[str]:
    """The games. Works without the procgen package."""
    return list(banks.GAMES)


def about(id: str) -> str:
    """What `purerl list envs` says of a game."""
    return banks.GAMES[id].EXACT


def build_levels(id: str, options: Options, *, overwrite: bool = False, quiet: bool = False) -> tuple[Path, int]:
    """Builds the bank of a game with these options, unless it is there: (its file, number of levels).

    Raises PurerlError for options that cannot be honoured, or if the procgen package is missing.
    """
    request = bank_request(id, options)
    path = request.path()
    if overwrite or not path.exists():
        banks.write(path, request, banks.build(request, quiet))
    banks.read(path, request)
    return path, request.levels[1]


def example() -> str:
    """The id that `purerl doctor` tries."""
    return "maze"


def score(id: str, options: Options, returns: Any) -> tuple[str, Any] | None:
    """As of procgen/<id>."""
    return procgen.score(id, procgen.Options(distribution_mode=options.distribution_mode), returns)


def picture(options: Options, observation: np.ndarray) -> np.ndarray:
    """What a video shows of an observation: of "both" the frame."""
    return observation[..., :3] if options.observation == "both" else observation


def make(id: str, options: Options | None = None) -> Environment:
    """The game `id`, unbatched. Its bank is read, or built, when the first program with it is traced.

    Raises PurerlError for options that cannot be honoured.
    """
    options = options or Options()
    request = bank_request(id, options)
    game = banks.GAMES[id]
    number = request.levels[1]
    spec = _spec(id, options, game)

    def bank() -> dict[str, Any]:
        return banks.bank(request)

    def observe(level: Array, state: PyTree) -> Array:
        return _observation(options.observation, game, bank(), level, state)

    def fresh(generator: mersenne.Generator) -> tuple[State, Array]:
        generator, word = mersenne.draw(generator)
        level = mersenne.below(word, 0, number)
        state = game.begin(bank(), level)
        zero = jnp.zeros((), jnp.int32)
        return State(generator, level, zero, jnp.zeros((), jnp.bool_), state), observe(level, state)

    def begin(seed: Array, num_envs: int) -> tuple[State, Array]:
        return jax.vmap(fresh)(mersenne.of_games(seed, num_envs))

    def reset(key: Array) -> tuple[State, Array]:
        seed = jax.random.bits(key, (), jnp.uint32) >> 1
        return jax.tree.map(lambda x: x[0], begin(seed, 1))

    def step(key: Array, state: State, action: Array) -> tuple[State, TimeStep]:
        moved, reward, done, complete = game.step(bank(), state.level, state.game, jnp.asarray(action, jnp.int32))
        time = state.time + 1
        done = done | (time >= game.TIMEOUT)
        generator, word = mersenne.draw(state.generator, done)
        level = jnp.where(done, mersenne.below(word, 0, number), state.level)
        begun = game.begin(bank(), level, moved)
        moved = jax.tree.map(lambda new, old: jnp.where(done, new, old), begun, moved)
        after = State(generator, level, jnp.where(done, 0, time), complete, moved)
        return after, TimeStep(observe(level, moved), reward, terminated=done, truncated=jnp.zeros((), jnp.bool_))

    return Environment(spec, reset, step, begin)


def bank_request(id: str, options: Options) -> banks.Request:
    """The bank that the options need. Raises PurerlError for options that cannot be honoured."""
    if id not in banks.GAMES:
        raise PurerlError(f"procgen-jax has no game {id}: it has {', '.join(banks.GAMES)}; or play procgen/{id}")
    for name in ("use_generated_assets", "paint_vel_info", "use_sequential_levels"):
        if getattr(options, name) is not False:
            raise PurerlError(f"procgen-jax/{id} cannot honour {name}: leave it off, or play procgen/{id}")
    if banks.GAMES[id].CENTRED and options.center_agent is False:
        raise PurerlError(f"procgen-jax/{id} follows the agent: leave center_agent on, or play procgen/{id}")
    if options.distribution_mode not in ("easy", "hard", "exploration"):
        raise PurerlError(
            f"procgen-jax/{id} has no distribution_mode '{options.distribution_mode}': use easy or hard, or play "
            f"procgen/{id}"
        )
    if options.observation not in ("frames", "symbolic", "both"):
        raise PurerlError(f"unknown observation {options.observation!r}: use frames, symbolic or both")
    shared = {f.name for f in dataclasses.fields(procgen.Options)} & {f.name for f in dataclasses.fields(Options)}
    values = {name: getattr(options, name) for name in shared}
    drawn = options.drawn_levels
    if drawn and (options.num_levels or drawn < 0 or options.distribution_mode == "exploration"):
        raise PurerlError(
            f"drawn_levels={drawn} needs num_levels 0, a positive number and distribution_mode easy or hard"
        )
    if options.distribution_mode == "exploration" and options.num_levels in (1, Options().num_levels):
        values |= {"num_levels": 0}  # what the library wants for its one level
    theirs = procgen.Options(**values)
    procgen.spec(id, theirs)  # checks the rest
    request = banks.Request(id, theirs, pictures=options.observation != "symbolic", drawn=drawn)
    _check_number(id, request)
    return request


def _check_number(id: str, request: banks.Request) -> None:
    """Raises PurerlError if a bank would hold no levels or too many."""
    number, most = request.levels[1], banks.GAMES[id].MOST_LEVELS
    if request.pictures:
        most = min(most, MOST_LEVELS_WITH_FRAMES)
    if not number:
        raise PurerlError(
            f"procgen-jax/{id} plays the levels of a bank, which cannot hold all levels: set num_levels, to 200 for "
            f"training, or play procgen/{id}; drawn_levels 10000 plays a sample of them (an approximation), and "
            "held-out levels are for example start_level 1000000, num_levels 10000"
        )
    if number > most:
        raise PurerlError(
            f"{'drawn_levels' if request.drawn else 'num_levels'}={number} is too many: at most {most:,}"
            + (f", or {banks.GAMES[id].MOST_LEVELS:,} with observation symbolic" if request.pictures else "")
        )


def _spec(id: str, options: Options, game: ModuleType) -> EnvSpec:
    width, height = game.SIZES["easy" if options.distribution_mode == "easy" else "hard"]
    planes = len(game.PLANES)
    shape, dtype = {
        "frames": ((frames.SIZE, frames.SIZE, 3), "uint8"),
        "symbolic": ((height, width, planes), game.SYMBOLIC),
        "both": ((frames.SIZE, frames.SIZE, 3 + planes), "uint8"),
    }[options.observation]
    return EnvSpec(
        name=f"procgen-jax/{id}",
        observation_shape=shape,
        observation_dtype=dtype,
        num_actions=procgen.NUM_ACTIONS,
        shows_final_observation=False,
    )


def _observation(kind: str, game: ModuleType, bank: dict[str, Any], level: Array, state: PyTree) -> Array:
    """What is shown of a state; the first row of planes is the highest row of cells, as in frames."""
    if kind == "frames":
        return game.frame(bank, level, state)
    planes = game.planes(bank, level, state)[::-1]
    if kind == "symbolic":
        return planes
    rows, columns = (np.arange(frames.SIZE) * size // frames.SIZE for size in planes.shape[:2])
    enlarged = planes[rows][:, columns]
    if enlarged.dtype == jnp.bool_:
        enlarged = jnp.where(enlarged, jnp.uint8(255), jnp.uint8(0))
    return jnp.concatenate([game.frame(bank, level, state), enlarged], axis=-1)
