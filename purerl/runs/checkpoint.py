"""Checkpoints of a whole run: atomic, verified, exact, and safe to load.

    with Checkpoints(run_folder / "checkpoints") as checkpoints:
        checkpoints.save(iteration, state, {"steps": steps})
        iteration, state, metadata = checkpoints.restore(template=state)

A checkpoint is a folder named after its iteration:

    00000200/index.json        each leaf's path, dtype, shape; the caller's metadata; each other file's size and CRC-32
    00000200/index.json.crc32  the CRC-32 of index.json
    00000200/arrays/           the leaves' values, written by orbax

It is written under a hidden temporary name and renamed when it is complete. A kill at any moment therefore leaves
either the whole checkpoint or none. Older checkpoints are removed only after that. Every file is verified before it is
parsed, so truncated files and flipped bits are found here and not later in a restored network. The format holds only
numbers and JSON: nothing is ever unpickled.

Saving is synchronous on purpose. Training donates its buffers, so a save in the background would have to copy all of
them first. 100 small leaves take about 0.05 s. Large leaves are written without a copy from the CPU's memory, and
through one copy on the host from an accelerator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.errors import PurerlError, shown
from purerl.runs import files as plain_files
from purerl.runs import trust
from purerl.types import PyTree

FORMAT = 1
_INDEX, _INDEX_CRC, _ARRAYS = "index.json", "index.json.crc32", "arrays"
_TEMPORARY, _DELETED = ".saving-", ".deleting-"
_PIECE = 2**28  # bytes
_MOST_INDEX_BYTES = 2**26
_NAME = re.compile(r"(\d{8,})(?:\.(\d+))?")  # iteration, and a serial number if that iteration was saved again


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, complete or not: purerl may delete it."""
    return path.name.startswith((_TEMPORARY, _DELETED)) or bool(_NAME.fullmatch(path.name) and (path / _INDEX).exists())


@dataclasses.dataclass(frozen=True)
class AnyShape:
    """A template leaf for a numpy array of this dtype whose shape is known only from the checkpoint."""

    dtype: Any


class Checkpoints:
    """The newest `keep` checkpoints of one run, in one folder.

    Trees are pytrees of jax arrays of any dtype (typed PRNG keys included), numpy arrays, Python numbers and None.

    Args:
      folder: where they are stored; created at the first save.
      keep: how many iterations to keep, at least 1. During a save, one more is on disk.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.folder = Path(folder).absolute()
        self._keep = keep
        self._orbax = None

    def save(self, iteration: int, tree: PyTree, metadata: dict) -> None:
        """Writes `tree` and `metadata` (any JSON value), then removes checkpoints that are no longer kept.

        When it returns, the checkpoint is complete and `tree` may be donated. A checkpoint of the same iteration is
        replaced. Temporary folders that a killed process left are removed.

        Raises:
          PurerlError: the disk is full, the folder cannot be written, ... No partial file stays, and the earlier
            checkpoints are still valid.
          TypeError: a leaf, or something in `metadata`, cannot be stored.
        """
        leaves, arrays = _describe(tree)
        index = {"format": FORMAT, "iteration": int(iteration), "metadata": metadata, "leaves": leaves}
        json.dumps(index)  # raises TypeError for values that JSON cannot hold, before anything is written
        name = _name_for(int(iteration), self._found())
        temporary = self.folder / (_TEMPORARY + name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clean()
            _check_space(self.folder, sum(array.nbytes for array in arrays.values()))
            temporary.mkdir()
            self._write_arrays(temporary / _ARRAYS, arrays)
            _write_index(temporary, index)
            os.rename(temporary, self.folder / name)
            self._prune()
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise PurerlError(self._save_error_message(int(iteration), error)) from error
        except BaseException:  # including Ctrl-C during the save
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def latest(self) -> int | None:
        """Iteration of the newest checkpoint (damaged or not), or None if there is none."""
        found = self._found()
        return found[-1][0] if found else None

    def read_metadata(self, iteration: int | None = None) -> tuple[int, dict]:
        """Returns (iteration, metadata) of the newest checkpoint, or of the given one, without reading the arrays.

        Raises:
          PurerlError: there is no such checkpoint, or its index is damaged.
        """
        index = self._index(self._path(iteration))
        return index["iteration"], index["metadata"]

    def restore(self, template: PyTree, iteration: int | None = None) -> tuple[int, PyTree, dict]:
        """Returns (iteration, tree, metadata) of the newest checkpoint, or of the given one.

        Args:
          template: a tree of the same structure. Its leaves set the type of the restored values, which are bit for bit
            those that were stored. A jax array (or jax.ShapeDtypeStruct) gives a jax array of its shape, dtype and
            sharding. A numpy array gives a numpy array, AnyShape a numpy array of the stored shape, and a Python number
            a Python number. Weak types become strong. An abstract template saves the memory of a second tree.

        Raises:
          PurerlError: there is no such checkpoint; it is damaged (the message names an older one that is valid); or it
            does not fit the template (the message names the first leaf that differs).
        """
        path = self._path(iteration)
        index = self._index(path)
        return index["iteration"], self._load(path, index, "", template), index["metadata"]

    def restore_part(self, part: str, template: PyTree, iteration: int | None = None) -> PyTree:
        """Returns the part of the stored tree at a path such as "run/agent", without reading the other parts' values.

        The template has the structure of that part. The errors are those of `restore`.
        """
        path = self._path(iteration)
        return self._load(path, self._index(path), part.replace("/", ".") + ".", template)

    def _load(self, path: Path, index: dict, prefix: str, template: PyTree) -> PyTree:
        """The leaves of a checkpoint whose paths begin with `prefix`, in the form of the template."""
        damage = _damage(path, index)
        if damage:
            raise PurerlError(self._damage_message(path, damage))
        stored = {n: leaf for n, leaf in enumerate(index["leaves"]) if leaf[0].startswith(prefix)}
        templates, treedef = _flatten(template)
        # A field that is newer than the checkpoint, and holds nothing here, is no difference.
        names = {name for name, _, _ in stored.values()}
        is_new = [leaf is None and prefix + name not in names for name, leaf in templates]
        known = [pair for pair, new in zip(templates, is_new, strict=True) if not new]
        _check_fit(path, list(stored.values()), [_record(prefix + name, leaf) for name, leaf in known])
        arrays = self._read_arrays(path, stored)
        # Popped one by one, so that a leaf that moves to a device does not stay in host memory as well.
        pairs = zip(stored.items(), known, strict=True)
        leaves = iter([_rebuild(arrays.pop(n, None), shape, leaf) for (n, (_, _, shape)), (_, leaf) in pairs])
        return jax.tree.unflatten(treedef, [None if new else next(leaves) for new in is_new])

    def read_arrays(self, iteration: int | None = None) -> dict[str, np.ndarray]:
        """Returns {path such as "run.agent.params.kernel": values} of the newest checkpoint, or of the given one.

        Typed PRNG keys come as their numbers. The errors are those of `restore`.
        """
        path = self._path(iteration)
        index = self._index(path)
        damage = _damage(path, index)
        if damage:
            raise PurerlError(self._damage_message(path, damage))
        leaves = dict(enumerate(index["leaves"]))
        return {leaves[number][0]: values for number, values in self._read_arrays(path, leaves).items()}

    def close(self) -> None:
        """Frees what orbax holds. Safe to call twice."""
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _found(self) -> list[tuple[int, int, Path]]:
        """(iteration, serial, path) of every complete checkpoint, oldest first; reads names only."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        matches = [match for match in map(_NAME.fullmatch, names) if match]
        return sorted((int(match[1]), int(match[2] or 0), self.folder / match[0]) for match in matches)

    def _path(self, iteration: int | None) -> Path:
        """The folder of the given checkpoint, or of the newest; PurerlError where there is none."""
        found = self._found()
        if not found:
            raise PurerlError(f"no checkpoint in {self.folder}: check the path, or start a new run")
        paths = {number: path for number, _, path in found}  # the highest serial number of an iteration wins
        if iteration is None:
            return found[-1][2]
        if iteration not in paths:
            raise PurerlError(f"no checkpoint of iteration {iteration} in {self.folder}: there are {sorted(paths)}")
        return paths[iteration]

    def _index(self, path: Path) -> dict:
        """The verified index of a checkpoint; PurerlError if it is damaged."""
        index = _read_index(path)
        if isinstance(index, str):
            raise PurerlError(self._damage_message(path, index))
        return index

    def _damage_message(self, path: Path, damage: str) -> str:
        """The message for a damaged checkpoint: what is wrong, and which other one can be used instead."""
        for iteration, _, other in reversed(self._found()):
            index = _read_index(other) if other != path else "this one"
            if not isinstance(index, str) and not _damage(other, index):
                return f"checkpoint {path} is damaged ({damage}); that of iteration {iteration} is good: " + (
                    f"remove {path} to continue from there"
                )
        return f"checkpoint {path} is damaged ({damage}) and no other one here is good: start a new run"

    def _save_error_message(self, iteration: int, error: Exception) -> str:
        """The message for a save that failed."""
        older = self.latest()
        rest = "nothing was written" if older is None else f"the checkpoint of iteration {older} is still good"
        return f"cannot save checkpoint {iteration} in {self.folder}: {_reason(error)}; {rest}. " + (
            "Free disk space, fix the permissions or choose another folder"
        )

    def _clean(self) -> None:
        """Removes what a killed process left. Only writers do this, so a reader never disturbs a running save."""
        for leftover in self.folder.glob(".*"):
            if leftover.name.startswith((_TEMPORARY, _DELETED)):
                shutil.rmtree(leftover)

    def _prune(self) -> None:
        """Removes all but the newest `keep` iterations, renaming each first: a kill leaves no partial checkpoint."""
        found = self._found()
        newest = {iteration: path for iteration, _, path in found}
        kept = [newest[iteration] for iteration in sorted(newest)[-self._keep :]]
        for _, _, path in found:
            if path not in kept and is_checkpoint(path):
                deleted = path.with_name(_DELETED + path.name)
                os.rename(path, deleted)
                shutil.rmtree(deleted, ignore_errors=True)

    def _checkpointer(self) -> Any:
        """The orbax checkpointer, created at the first use because importing orbax takes 0.2 s."""
        if self._orbax is None:
            import orbax.checkpoint as ocp

            # The values are numpy arrays that do not change during the write, so orbax need not copy them. Only numbers
            # can be read back.
            values = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
            registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, values))
            handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
            self._orbax = ocp.Checkpointer(handler)
        return self._orbax

    def _write_arrays(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        """Stores named numpy arrays with orbax."""
        if arrays:
            with _quiet():
                import orbax.checkpoint as ocp

                pieces = {key: _piece_bytes(array) for key, array in arrays.items()}
                arrays = {key: array.reshape(-1) if pieces[key] else array for key, array in arrays.items()}
                save_args = {key: ocp.SaveArgs(chunk_byte_size=size) for key, size in pieces.items()}
                self._checkpointer().save(path, args=ocp.args.PyTreeSave(arrays, save_args))

    def _read_arrays(self, path: Path, leaves: dict[int, list]) -> dict[int, np.ndarray]:
        """Loads the values of these leaves of a verified checkpoint: {leaf number: numpy array}."""
        numbers = {_key(number, *leaf): number for number, leaf in leaves.items() if _is_stored(*leaf[1:])}
        if not numbers:
            return {}
        try:
            with _quiet():
                import orbax.checkpoint as ocp

                wanted = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in numbers}
                item = dict.fromkeys(numbers, 0)  # only names what to read; orbax ignores the values
                args = ocp.args.PyTreeRestore(item, restore_args=wanted, partial_restore=True)
                values = self._checkpointer().restore(path / _ARRAYS, args=args)
        except Exception as error:
            line = f"the installed orbax-checkpoint cannot read checkpoint {path}: {_reason(error)}"
            raise PurerlError(line) from error
        for key, number in numbers.items():
            name, kind, shape = leaves[number]
            if not _holds(values[key], kind, shape):
                raise PurerlError(self._damage_message(path, f"the values of '{name}' are not what {_INDEX} says"))
        return {number: _unflatten(values[key], *leaves[number][1:]) for key, number in numbers.items()}


def _flatten(tree: PyTree) -> tuple[list[tuple[str, Any]], Any]:
    """Returns ([(path such as "agent.params.kernel", leaf)], treedef); None counts as a leaf."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in pairs], treedef


def _is_key(leaf: Any) -> bool:
    """Whether the leaf is (or describes) an array of typed PRNG keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _record(path: str, leaf: Any) -> list:
    """The index entry of a leaf: [path, kind, shape].

    The kind is a dtype's name, "key<...>", "python int" or "none". The shape is None for AnyShape. Raises TypeError for
    values that cannot be stored.
    """
    if leaf is None:
        return [path, "none", []]
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):  # np.float64 is a float
        if np.asarray(leaf).dtype == object:
            raise TypeError(f"leaf '{path}' of a checkpoint is an integer of more than 64 bits")
        return [path, f"python {type(leaf).__name__}", []]
    if isinstance(leaf, AnyShape):
        return [path, np.dtype(leaf.dtype).name, None]
    if _is_key(leaf):
        return [path, str(leaf.dtype), list(leaf.shape)]
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic):
        dtype = np.dtype(leaf.dtype)
        if not (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_):
            raise TypeError(f"leaf '{path}' of a checkpoint has dtype {dtype}: only numbers can be stored")
        return [path, dtype.name, list(leaf.shape)]
    raise TypeError(f"leaf '{path}' of a checkpoint is a {type(leaf).__name__}: only numbers and None can be stored")


def _is_stored(kind: str, shape: list) -> bool:
    """Whether orbax stores values for such a leaf: not for None, and not for arrays without elements."""
    return kind != "none" and 0 not in shape


def _key(number: int, path: str, kind: str, shape: list) -> str:
    """The name of a leaf in orbax: the number makes it unique, the path makes it readable."""
    return f"{number:05d}:{path}"


def _piece_bytes(array: np.ndarray) -> int | None:
    """Bytes of the equal pieces into which a large flat array is cut; None for one piece.

    Pieces can be read back without a second copy of the whole array.
    """
    fewest = -(-array.nbytes // _PIECE)
    counts = [count for count in range(fewest, 32 * fewest) if array.size % count == 0]
    return array.nbytes // counts[0] if fewest > 1 and counts else None


def _holds(values: Any, kind: str, shape: list[int]) -> bool:
    """Whether values that were read are those of a leaf of that kind and shape."""
    if not isinstance(values, np.ndarray):
        return False
    if kind.startswith("key"):
        return values.dtype == np.uint32 and math.prod(shape) > 0 and values.size % math.prod(shape) == 0
    kinds = {"python int": "iu", "python float": "f", "python bool": "b"}
    fits = values.dtype.kind in kinds[kind] if kind in kinds else values.dtype.name == kind
    return fits and values.size == math.prod(shape)


def _unflatten(values: np.ndarray, kind: str, shape: list[int]) -> np.ndarray:
    """Gives values the shape of their leaf. The values of keys have one more axis."""
    return values.reshape([*shape, -1] if kind.startswith("key") else shape)


def _describe(tree: PyTree) -> tuple[list[list], dict[str, np.ndarray]]:
    """Returns (the index entry of every leaf, {orbax name: values on the host})."""
    pairs, _ = _flatten(tree)
    records = [_record(path, leaf) for path, leaf in pairs]
    numbered = enumerate(zip(records, pairs, strict=True))
    return records, {_key(n, *record): _on_host(leaf) for n, (record, (_, leaf)) in numbered if _is_stored(*record[1:])}


def _on_host(leaf: Any) -> np.ndarray:
    """The leaf's values as a numpy array: a view if they are already on the host."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        # A jax array keeps its numpy copy alive, which would hold a whole replay buffer in host memory. This second
        # array over the same device buffers is freed soon, and its copy with it.
        shards = [shard.data for shard in leaf.addressable_shards]
        leaf = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)
    return np.asarray(leaf)


def _key_impl(leaf: Any) -> Any:
    """The PRNG implementation of an array of keys or of its jax.ShapeDtypeStruct, which needs an abstract trace."""
    found = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), leaf)
    return found[0]


def _is_offloaded(leaf: jax.Array) -> bool:
    """Whether an array is stored outside its device's own memory."""
    device = next(iter(leaf.sharding.device_set))
    return leaf.sharding.memory_kind not in (None, device.default_memory().kind)


def _rebuild(values: np.ndarray | None, shape: list[int], leaf: Any) -> Any:
    """Converts stored values (None if the leaf has no elements) of the stored shape to the template leaf's form."""
    if leaf is None:
        return None
    if values is None:
        data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else jax.ShapeDtypeStruct(shape, leaf.dtype)
        values = np.zeros(data.shape, data.dtype)
    if isinstance(leaf, AnyShape):
        return values
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        array = jax.random.wrap_key_data(values, impl=_key_impl(leaf)) if _is_key(leaf) else values
        # An uncommitted array stays uncommitted: jit would compile again for one that is committed to its device.
        bound = leaf.committed or _is_offloaded(leaf) if isinstance(leaf, jax.Array) else leaf.sharding is not None
        return jax.device_put(array, leaf.sharding if bound else None)
    return values if isinstance(leaf, np.ndarray) else values[()] if isinstance(leaf, np.generic) else values.item()


def _check_fit(path: Path, stored: list[list], wanted: list[list]) -> None:
    """Raises PurerlError that names the first leaf in which checkpoint and template differ."""

    def text(kind: str, shape: list | None) -> str:
        return kind if kind.startswith(("none", "python")) else f"{kind}[{', '.join(map(str, shape))}]"

    def refuse(difference: str) -> None:
        raise PurerlError(f"checkpoint {path} is of another run: {difference}. Use the config that it was written with")

    names, wanted_names = {leaf[0] for leaf in stored}, {leaf[0] for leaf in wanted}
    for name, kind, shape in wanted:
        if name not in names:
            refuse(f"it has no leaf '{name}'" + ("" if shape is None else f" ({text(kind, shape)} here)"))
    for name, kind, shape in stored:
        if name not in wanted_names:
            refuse(f"its leaf '{name}' ({text(kind, shape)}) does not exist here")
    for (name, kind, shape), (other, wanted_kind, wanted_shape) in zip(stored, wanted, strict=True):
        if name != other:
            refuse(f"its leaf '{name}' comes where '{other}' is expected")
        if kind != wanted_kind or (wanted_shape is not None and shape != wanted_shape):
            here = text(wanted_kind, wanted_shape if wanted_shape is not None else ["any shape"])
            refuse(f"leaf '{name}' is {text(kind, shape)} in it and {here} here")


def _name_for(iteration: int, found: list[tuple[int, int, Path]]) -> str:
    """Name of a new checkpoint's folder. An iteration that is saved again gets a serial number, so that the old one
    stays until the new one is complete."""
    serials = [serial for other, serial, _ in found if other == iteration]
    return f"{iteration:08d}" + (f".{max(serials) + 1}" if serials else "")


def _reason(error: Exception) -> str:
    """One short line for what went wrong below; tensorstore's own have the number of the system's error in them."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        return os.strerror(int(number[1]))
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__


def _check_space(folder: Path, num_bytes: int) -> None:
    """Raises OSError where the disk has no room: better than to find out after writing gigabytes."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        amounts = f"{num_bytes / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({amounts})")


def _write_index(path: Path, index: dict) -> None:
    """Adds the files' sizes and checksums to the index and writes it."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    checksums = {str(file.relative_to(path)): [file.stat().st_size, _crc32(file)] for file in files}
    text = json.dumps(index | {"files": checksums}).encode()
    (path / _INDEX).write_bytes(text)
    (path / _INDEX_CRC).write_text(f"{zlib.crc32(text):08x}")


def _read_index(path: Path) -> dict | str:
    """The index of a checkpoint, or what is wrong with it."""
    try:
        trust.check_folder(path, [""])
        text = plain_files.read_bytes(path / _INDEX, _MOST_INDEX_BYTES)
        if plain_files.read_bytes(path / _INDEX_CRC, 100) != f"{zlib.crc32(text):08x}".encode():
            return f"checksum of {_INDEX} differs"
        index = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        return f"{_INDEX} cannot be read: {_reason(error)}"
    except PurerlError as error:
        cause = error.__cause__
        return str(error) if cause is None else f"{_INDEX} cannot be read: {_reason(cause)}"
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        return f"{_INDEX} is not of format {FORMAT}: another version of purerl wrote it"
    return _misfit(index, int(_NAME.fullmatch(path.name)[1])) or index


def _misfit(index: dict, iteration: int) -> str | None:
    """What in an index is missing or of a wrong type, or None: its checksum is right, but anybody can compute that."""
    if type(index.get("iteration")) is not int or index["iteration"] != iteration:
        return f"{_INDEX} is of iteration {shown(index.get('iteration'))}"
    if not isinstance(index.get("metadata"), dict):
        return f"{_INDEX} has no metadata"
    leaves, files = index.get("leaves"), index.get("files")
    if not isinstance(leaves, list) or not all(_is_leaf(leaf) for leaf in leaves):
        return f"{_INDEX} does not describe its arrays"
    if not isinstance(files, dict) or not all(_is_file_entry(entry) for entry in files.values()):
        return f"{_INDEX} does not list its files"
    outside = [name for name in files if not trust.file_name(name)]
    return f"{_INDEX} names a file outside of the checkpoint, {shown(outside[0])}" if outside else None


def _is_leaf(leaf: Any) -> bool:
    """Whether an entry of an index is that of a leaf, see `_record`."""
    if not (isinstance(leaf, list) and len(leaf) == 3 and isinstance(leaf[0], str) and isinstance(leaf[1], str)):
        return False
    return isinstance(leaf[2], list) and all(type(size) is int and size >= 0 for size in leaf[2])


def _is_file_entry(entry: Any) -> bool:
    """Whether an entry of an index is [size, CRC-32]."""
    return isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)


def _damage(path: Path, index: dict) -> str | None:
    """What is wrong with the files of a checkpoint, or None."""
    for name, (size, crc32) in index["files"].items():
        try:
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size} bytes, not {size}"
            if _crc32(path / name) != crc32:
                return f"checksum of {name} differs"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    unlisted = [file for file in (path / _ARRAYS).rglob("*") if file.is_file()]
    unlisted = [name for file in unlisted if (name := file.relative_to(path).as_posix()) not in index["files"]]
    return f"{unlisted[0]} is not one of its files" if unlisted else None


def _crc32(file: Path) -> int:
    """CRC-32 of a file, at a few GiB/s."""
    checksum, block = 0, memoryview(bytearray(2**20))
    with plain_files.open_regular(file) as stream:
        while size := stream.readinto(block):
            checksum = zlib.crc32(block[:size], checksum)
    return checksum


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax, which logs through absl, off the terminal. What matters reaches the caller as an exception."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
