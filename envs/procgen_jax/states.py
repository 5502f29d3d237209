"""The states of the Procgen library as values: `parse` reads what get_state gives, `to_bytes` writes it for set_state.

All numbers are little-endian and four bytes long. A state holds the numbers of the game, of its base class and of the
level (`NUMBERS`), three random generators as text, the entities, the grid, and a few numbers of the game's own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import struct

import numpy as np

from purerl.errors import PurerlError

VERSION = 0
END_WORD = 0xCAFECAFE
ENTITY_WORDS = 31
# Words of an entity that purerl reads or changes. Entity 0 is the agent.
X, Y, VX, VY, RX, RY, TYPE, IMAGE_TYPE, THEME = range(9)
RENDER_Z, ROTATION, REFLECTED, FIRE_TIME, SPAWN_TIME, LIFE_TIME = 9, 13, 15, 16, 17, 18
USE_ABSOLUTE, SMART, HEALTH = 20, 22, 26
MOST_ENTITIES = MOST_CELLS = 2**16
# Games that purerl knows: {name: what is its own at the end of a state}; "*name" is a vector of integers, booleans or
# bits of floats, "#name" a list of entities.
TAILS = {
    "maze": ("maze_dim", "world_dim"),
    "miner": ("diamonds_remaining",),
    "chaser": (
        "*free_cells", "*is_space", "eat_timeout", "egg_timeout", "eat_time", "total_enemies", "total_orbs",
        "orbs_collected", "maze_dim",
    ),
    "heist": ("num_keys", "world_dim", "*has_keys"),
    "fruitbot": ("min_dim:f", "bullet_vscale:f", "last_fire_time"),
    "bigfish": ("fish_eaten", "r_inc:f"),
    "starpilot": ("#spawners",),
    "leaper": ("bottom_road_y", "*road_speeds", "bottom_water_y", "*water_speeds", "goal_y"),
    "coinrun": (
        "last_agent_y:f", "wall_theme", "has_support", "facing_right", "is_on_crate", "gravity:f", "air_control:f",
    ),
}  # fmt: skip

_OPTIONS = (
    "paint_vel_info use_generated_assets use_monochrome_assets restrict_themes use_backgrounds center_agent debug_mode "
    "distribution_mode use_sequential_levels use_easy_jump plain_assets physics_mode"
)
_LEVELS = "grid_step level_seed_low level_seed_high game_type game_n"
_GAME = (
    "reward:f done level_complete action timeout current_level_seed prev_level_seed episodes_remaining episode_done "
    "last_reward_timer last_reward:f default_action fixed_asset_seed cur_time is_waiting_for_step"
)
_BASE = (
    "use_procgen_background background_index bg_tile_ratio:f bg_pct_x:f char_dim:f last_move_action move_action "
    "special_action mixrate:f maxspeed:f max_jump:f action_vx:f action_vy:f action_vrot:f center_x:f center_y:f "
    "random_agent_start has_useful_vel_info step_rand_int"
)
_VIEW = "main_width main_height out_of_bounds_object unit:f view_dim:f x_off:f y_off:f visibility:f min_visibility:f"
# The order of everything in a state: numbers ("name:f" is a float32), and between them what is not a number.
_LAYOUT = (
    *_OPTIONS.split(), *_LEVELS.split(), "@level_seed_rand_gen", "@rand_gen", *_GAME.split(), "grid_size", "@entities",
    *_BASE.split(), "@asset_rand_gen", *_VIEW.split(), "@grid",
)  # fmt: skip
_WORDS_OF_GENERATOR = 624


@dataclasses.dataclass(frozen=True)
class Generator:
    """A random generator of the library, std::mt19937.

    Attributes:
      is_seeded: whether it has been seeded.
      text: 624 words and the position in decimal, separated by single spaces.
    """

    is_seeded: int
    text: bytes

    def words(self) -> tuple[np.ndarray, int]:
        """(uint32 [624], position in 0..624). Raises PurerlError for a text that is not a generator's."""
        numbers = self.text.split()
        try:
            values = [int(number) for number in numbers]
        except ValueError:
            values = []
        fits = len(values) == _WORDS_OF_GENERATOR + 1 and 0 <= values[-1] <= _WORDS_OF_GENERATOR
        if not fits or not all(0 <= value < 2**32 for value in values):
            raise _damaged("a random generator is not 624 words and a position")
        return np.array(values[:-1], np.uint32), values[-1]


@dataclasses.dataclass
class LibraryState:
    """One game's state.

    Attributes:
      name: of the game.
      numbers: {name: int or float} of all plain numbers, with those of the game's own part.
      generators: {name: Generator}.
      entities: uint32 [E, 31], the bits of each entity's words; entity 0 is the agent.
      grid: int32 [H, W], row 0 is the lowest one.
      vectors: {name: int32 [...]} of the game's own part; lists: {name: uint32 [K, 31]} of entities in it.
    """

    name: str
    numbers: dict[str, int | float]
    generators: dict[str, Generator]
    entities: np.ndarray
    grid: np.ndarray
    vectors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    lists: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def of_type(self, kind: int) -> np.ndarray:
        """The numbers of the entities of a type, in their order."""
        return np.flatnonzero(self.entities[:, TYPE] == kind)

    def floats(self, *words: int) -> np.ndarray:
        """float32 [E, len(words)], words of all entities."""
        return self.entities[:, list(words)].view(np.float32)

    def draws(self, number: int) -> np.ndarray:
        """The next numbers that the generator of the level gives, uint32 [number]."""
        return self._generator().randint(0, 2**32, number, dtype=np.uint32)

    def later_generator(self, number: int) -> Generator:
        """The generator of the level after so many numbers."""
        generator = self._generator()
        generator.randint(0, 2**32, number, dtype=np.uint32)
        _, words, position, *_ = generator.get_state()
        return Generator(1, " ".join(map(str, [*words.tolist(), position])).encode())

    def _generator(self) -> np.random.RandomState:
        words, position = self.generators["rand_gen"].words()
        generator = np.random.RandomState()
        generator.set_state(("MT19937", words, position))
        return generator

    def position(self, entity: int) -> tuple[float, float]:
        """Where an entity's centre is, in cells."""
        x, y = self.entities[entity, [X, Y]].view(np.float32)
        return float(x), float(y)

    def place(self, entity: int, x: float, y: float) -> None:
        """Moves an entity's centre."""
        self.entities[entity, [X, Y]] = np.array([x, y], np.float32).view(np.uint32)

    def to_bytes(self) -> bytes:
        """The bytes that set_state loads."""
        name = self.name.encode()
        parts = [struct.pack("<ii", VERSION, len(name)), name]
        for fields in _runs(self.name):
            parts.append(self._packed(fields))
        return b"".join([*parts, struct.pack("<I", END_WORD)])

    def _packed(self, fields: tuple[str, ...]) -> bytes:
        """The bytes of a run of fields."""
        field = fields[0]
        if field == "@entities" or field.startswith("#"):
            entities = self.lists[field[1:]] if field.startswith("#") else self.entities
            return struct.pack("<i", len(entities)) + entities.astype("<u4").tobytes()
        if field == "@grid":
            height, width = self.grid.shape
            return struct.pack("<iii", width, height, self.grid.size) + self.grid.astype("<i4").tobytes()
        if field.startswith("@"):
            generator = self.generators[field[1:]]
            return struct.pack("<ii", generator.is_seeded, len(generator.text)) + generator.text
        if field.startswith("*"):
            vector = self.vectors[field[1:]]
            return struct.pack("<i", len(vector)) + vector.astype("<i4").tobytes()
        names, form = _numbers(fields)
        return struct.pack(form, *(self.numbers[name] for name in names))


@functools.cache
def _runs(game: str) -> tuple[tuple[str, ...], ...]:
    """The fields of a game's states, in their order: runs of plain numbers, and each other field alone."""
    found: list[tuple[str, ...]] = []
    for is_special, group in itertools.groupby((*_LAYOUT, *TAILS[game]), lambda field: field[0] in "@*#"):
        fields = tuple(group)
        found += [(field,) for field in fields] if is_special else [fields]
    return tuple(found)


@functools.cache
def _numbers(fields: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """(names, format of the struct module) of a run of plain numbers."""
    pairs = [field.partition(":") for field in fields]
    return tuple(name for name, _, _ in pairs), "<" + "".join("f" if kind else "i" for _, _, kind in pairs)


class _Reader:
    """Reads numbers from bytes. Raises PurerlError where they end too early."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise _damaged("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, kind: str = "i") -> int | float:
        return struct.unpack(f"<{kind}", self.take(4))[0]

    def count(self, most: int, what: str) -> int:
        found = self.number()
        if not 0 <= found <= most:
            raise _damaged(f"it has {found} {what}")
        return found


def parse(data: bytes) -> LibraryState:
    """The state in the bytes of get_state.

    Raises PurerlError for another version of the library, a game that purerl does not know, or damage.
    """
    reader = _Reader(data)
    version = reader.number()
    if version != VERSION:
        raise PurerlError(f"this Procgen state has version {version}, not {VERSION}: install procgen 0.10")
    name = reader.take(reader.count(64, "letters in its name")).decode("ascii", "replace")
    if name not in TAILS:
        raise PurerlError(f"the states of the game {name!r} are unknown here: known are {', '.join(TAILS)}")
    found = LibraryState(name, {}, {}, np.zeros((0, ENTITY_WORDS), np.uint32), np.zeros((0, 0), np.int32))
    for fields in _runs(name):
        _read(reader, fields, found)
    if reader.number("I") != END_WORD:
        raise _damaged("its last word is not the mark of the end")
    if reader.at != len(data):
        raise _damaged(f"{len(data) - reader.at} bytes follow its end")
    return found


def _read(reader: _Reader, fields: tuple[str, ...], found: LibraryState) -> None:
    """Reads a run of fields into a state."""
    field = fields[0]
    if field == "@entities" or field.startswith("#"):
        number = reader.count(MOST_ENTITIES, "entities")
        words = np.frombuffer(reader.take(4 * ENTITY_WORDS * number), "<u4")
        entities = words.reshape(number, ENTITY_WORDS).astype(np.uint32)
        if field.startswith("#"):
            found.lists[field[1:]] = entities
        else:
            found.entities = entities
    elif field == "@grid":
        width, height = (reader.count(1024, "cells in a row or column") for _ in range(2))
        cells = reader.count(MOST_CELLS, "cells")
        if cells != width * height:
            raise _damaged(f"its grid of {width} x {height} has {cells} cells")
        found.grid = np.frombuffer(reader.take(4 * cells), "<i4").reshape(height, width).astype(np.int32)
    elif field.startswith("@"):
        is_seeded = reader.count(1, "as the mark of a seeded generator")
        found.generators[field[1:]] = Generator(is_seeded, reader.take(reader.count(2**16, "letters in a generator")))
    elif field.startswith("*"):
        number = reader.count(MOST_CELLS, "numbers in a vector")
        found.vectors[field[1:]] = np.frombuffer(reader.take(4 * number), "<i4").astype(np.int32)
    else:
        names, form = _numbers(fields)
        found.numbers.update(zip(names, struct.unpack(form, reader.take(struct.calcsize(form))), strict=True))


def _damaged(how: str) -> PurerlError:
    return PurerlError(f"this Procgen state is damaged: {how}; take it from the installed library again")
