"""The library's states as values, and the files that keep levels: what is in them, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import struct

import numpy as np
import pytest

from purerl.cli import main
from purerl.envs import procgen, procgen_jax
from purerl.envs.procgen_jax import banks, family, frames, states
from purerl.errors import PurerlError


@pytest.fixture(scope="module")
def saved():
    """{game: bytes of a state at the start of level 0}."""
    found = {}
    for game in states.TAILS:
        games = procgen.Games(
            game, procgen.Options(num_levels=1, distribution_mode="easy"), 0, 1, procgen.Buffers.empty((1,))
        )
        games.observe()
        (found[game],) = games.states()
        games.close()
    return found


def request(**options):
    return family.bank_request(
        "maze",
        procgen_jax.Options(**{"num_levels": 4, "distribution_mode": "easy", "observation": "symbolic"} | options),
    )


# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("game", "numbers"), [("maze", (583497, 185683, 94101)), ("miner", (877012, 837363, 585360))])
def test_a_state_holds_what_the_library_draws_next(saved, game, numbers):
    state = states.parse(saved[game])
    assert state.to_bytes() == saved[game]
    assert (state.name, state.numbers["cur_time"], state.numbers["current_level_seed"]) == (game, 0, 0)
    words, position = state.generators["rand_gen"].words()
    theirs = np.random.RandomState()
    theirs.set_state(("MT19937", words, position))
    assert tuple(int(theirs.randint(0, 2**32, dtype=np.uint32)) % 1_000_000 for _ in range(3)) == numbers


def test_generators_at_the_start_of_mazes():
    options = procgen.Options(distribution_mode="easy", num_levels=50)
    painter = frames.Painter("maze", options, 25)
    found = [state for first in (0, 25) for state in painter.at_levels(list(range(first, first + 25)))]
    painter.close()
    assert sum(state.generators["rand_gen"].words()[1] for state in found) == 2772
    assert [state.numbers["maze_dim"] for state in found[:6]] == [3, 11, 11, 9, 13, 7]


def replaced(data, at, value):
    return data[:at] + struct.pack("<i", value) + data[at + 4 :]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: replaced(data, 0, 1), "version 1, not 0"),
        (lambda data: replaced(data, 4, -1), "damaged: it has -1 letters"),
        (lambda data: data.replace(b"maze", b"haze"), "'haze' are unknown"),
        (lambda data: data[:-4], "ends too early"),
        (lambda data: data[:100], "ends too early"),
        (lambda data: replaced(data, len(data) - 4, 7), "last word"),
        (lambda data: data + b"\0", "1 bytes follow"),
        (lambda data: b"", "ends too early"),
    ],
)
def test_other_states_are_refused(saved, change, match):
    with pytest.raises(PurerlError, match=match):
        states.parse(change(saved["maze"]))


def test_a_generator_of_other_text_is_refused():
    for text in (b"", b"1 2 3", b"x " * 625, b"1 " * 624 + b"625"):
        with pytest.raises(PurerlError, match="624 words"):
            states.Generator(1, text).words()


def test_random_damage_is_one_line(saved):
    random = np.random.RandomState(0)
    for _ in range(300):
        data = bytearray(saved["miner"])
        for _ in range(random.randint(1, 4)):
            data[random.randint(0, 400) if random.rand() < 0.5 else random.randint(0, len(data))] = random.randint(256)
        try:
            states.parse(bytes(data[: random.randint(1, len(data) + 1)] if random.rand() < 0.3 else data))
        except PurerlError as error:
            assert "\n" not in str(error)


# --- banks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, as if nothing had been read yet."""
    monkeypatch.setenv("PURERL_CACHE", str(tmp_path))
    banks.bank.cache_clear()
    yield tmp_path
    banks.bank.cache_clear()


def test_a_bank_is_built_at_first_use_and_read_later(cache, monkeypatch):
    built = banks.bank(request())
    (path,) = (cache / "levels").iterdir()
    assert path == request().path()
    banks.bank.cache_clear()
    monkeypatch.setattr(banks, "build", None)
    read = banks.bank(request())
    assert sorted(read) == ["grid", "start"]
    for name, array in built.items():
        np.testing.assert_array_equal(array, read[name])
    with np.load(path, allow_pickle=False) as file:
        header = json.loads(file["header"].tobytes())
    assert header["format"] == banks.FORMAT and header["library"].startswith("procgen")
    assert (header["game"], header["start_level"], header["num_levels"]) == ("maze", 0, 4)


def test_levels_are_those_of_their_numbers_in_any_batch(cache):
    whole = banks.bank(request(num_levels=23))
    for first, number in ((0, 1), (9, 9), (20, 3)):
        part = banks.bank(request(start_level=first, num_levels=number))
        np.testing.assert_array_equal(part["grid"], whole["grid"][first : first + number])
    one = banks.bank(request(num_levels=1, distribution_mode="exploration"))
    assert one["grid"].shape == (1, 25, 25)


def test_levels_drawn_from_all(cache):
    drawn = request(num_levels=0, drawn_levels=5)
    few = request(num_levels=0, drawn_levels=3)
    assert few.numbers == drawn.numbers[:3] and 0 <= min(drawn.numbers) < max(drawn.numbers) < 2**31 - 1
    words = np.random.RandomState(0).randint(0, 2**32, 5, dtype=np.uint32)
    assert drawn.numbers == [int(word) % (2**31 - 1) for word in words]
    assert drawn.levels == (0, 5) and "5of-all" in drawn.path().name
    assert len({one.path() for one in (drawn, few, request(num_levels=5))}) == 3
    grid = banks.bank(drawn)["grid"]
    for row in (0, 4):
        alone = banks.bank(request(start_level=drawn.numbers[row], num_levels=1))
        np.testing.assert_array_equal(grid[row], alone["grid"][0])
    with np.load(drawn.path(), allow_pickle=False) as file:
        assert json.loads(file["header"].tobytes())["drawn_from"] == "all levels"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda path: path.write_bytes(b"nothing"), "damaged or is none"),
        (lambda path: path.write_bytes(b""), "damaged or is none"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged or is none"),
        (lambda path: np.savez(path, grid=np.zeros(3)), "damaged or is none"),
        (lambda path: np.savez(path, header=np.array([{}], object)), "damaged or is none"),
        (lambda path: rewritten(path, grid=np.zeros((4, 15, 15), np.int8)), "checksum"),
        (lambda path: rewritten(path, header={"format": 99}), r"another version \(format\)"),
        (lambda path: rewritten(path, header={"library": "procgen 0.1"}), r"another version \(library\)"),
        (lambda path: rewritten(path, header={"start_level": 7}), r"other levels.*\(start_level\)"),
    ],
)
def test_other_and_damaged_banks_are_one_line(cache, change, match):
    banks.bank(request())
    change(request().path())
    banks.bank.cache_clear()
    with pytest.raises(PurerlError, match=match) as caught:
        banks.bank(request())
    assert "delete it" in str(caught.value) and "\n" not in str(caught.value)


def rewritten(path, header=None, **arrays):
    """Writes a bank again with something in it changed."""
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    said = json.loads(found["header"].tobytes()) | (header or {})
    found |= arrays | {"header": np.frombuffer(json.dumps(said).encode(), np.uint8)}
    with path.open("wb") as file:
        np.savez(file, **found)


def test_a_cache_that_cannot_be_written_costs_only_time(cache, capsys):
    (cache / "levels").write_text("in the way")
    assert banks.bank(request())["grid"].shape == (4, 15, 15)
    assert "the levels are not kept" in capsys.readouterr().err


def test_levels_build(cache, capsys):
    line = "levels build {}/maze --num-levels 3 --distribution-mode easy --observation symbolic"
    for name in ("procgen", "procgen-jax"):
        assert main.main(line.format(name).split()) == 0
        assert "3 levels" in capsys.readouterr().out
    request(num_levels=3).path().write_bytes(b"damaged")
    assert main.main(line.format("procgen").split()) == 2
    assert main.main([*line.format("procgen").split(), "--overwrite"]) == 0
    capsys.readouterr()
    for words in ("levels", "levels build", "levels build gymnax/CartPole-v1", "levels build procgen/jumper"):
        assert main.main(words.split()) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main.main(["list", "envs", "procgen-jax"]) == 0
    assert "exact" in capsys.readouterr().out


def test_without_the_library_a_bank_still_plays(cache, monkeypatch):
    banks.bank(request())
    banks.bank.cache_clear()
    monkeypatch.setattr(procgen, "_library", None)
    assert banks.bank(request())["grid"].shape == (4, 15, 15)


def test_the_file_of_a_request_tells_apart_what_differs(cache):
    asked = [
        request(),
        request(num_levels=5),
        request(start_level=1),
        request(distribution_mode="hard"),
        request(observation="frames"),
        request(observation="frames", use_backgrounds=False),
    ]
    assert len({one.path() for one in asked}) == len(asked)
    # Pictures do not matter to rules, nor does what these games ignore.
    assert request(use_backgrounds=False, center_agent=False).path() == request().path()
    assert dataclasses.replace(request(), pictures=False) == request()
