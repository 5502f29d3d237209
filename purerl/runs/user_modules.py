"""Imports the user's own files and modules that register agents, environments, presets or figures: `--import`.

    purerl train mine gymnax/CartPole-v1 --import my_agent.py

Every run's config.json lists the modules that it needs, so that every later use of the run (resume, evaluation, Ray's
workers) imports them again. If a file has changed since, the new version is used, with a note on stderr.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from purerl import registry
from purerl.errors import PurerlError, nearest, shown
from purerl.runs import provenance, trust

MAIN = "__main__"
NOT_IMPORTABLE = "main script, not importable"

# {argument of --import: its module}; every run that this process starts lists these.
_asked: dict[str, str] = {}
_loading: list[str] = []
_noted: set[str] = set()


@dataclasses.dataclass(frozen=True)
class Import:
    """A module that a run needs, as stored in config.json.

    Attributes:
      what: a file or a module's name, as given to --import; NOT_IMPORTABLE for a script that registers its own agents
        or environments.
      module: its name in Python.
      path: path of its file; None if it has none (a notebook).
      sha256: hash of that file.
      git_commit, git_dirty: of the repository that tracks the file; None without one.
      registers: "agent NAME", "environment NAME", ...: the names that it registers.
      previous: {sha256, git_commit, git_dirty} of earlier versions of the file, if it changed before a resume.
    """

    what: str
    module: str
    path: str | None = None
    sha256: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    registers: tuple[str, ...] = ()
    previous: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return dataclasses.asdict(self) | {"registers": list(self.registers), "previous": list(self.previous)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Import:
        """The inverse of `to_dict`."""
        lists = {name: tuple(values.get(name, ())) for name in ("registers", "previous")}
        return cls(**(values | lists))


# --- importing -------------------------------------------------------------------------------------------------------


def import_all(whats: Sequence[str]) -> None:
    """Imports the modules of a command line, and records them for its new runs. Raises PurerlError as `load`."""
    _asked.clear()
    for what in whats:
        _asked[what] = load(what)


def load(what: str) -> str:
    """Imports a Python file (given by its path) or a module (by its name), once; returns the module's name.

    The file's folder is added to `sys.path`, so that a file can import other files of its folder.

    Raises PurerlError for a file or module that does not exist, and for all errors during the import.
    """
    if not (what.endswith(".py") or "/" in what or "\\" in what):
        return _load_module(what)
    try:
        path = Path(what).expanduser().resolve()
        path.stat()
    except FileNotFoundError:
        pass  # the nearest name is looked for below
    except (RuntimeError, ValueError, OSError) as error:  # an unknown user, a link to itself, an impossible name
        raise PurerlError(f"--import {shown(what)}: there is no such file ({error})") from error
    if path.is_dir():
        raise PurerlError(f"--import {what}: this is a folder; name the Python file in it")
    if not path.is_file():
        there = [one.name for one in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise PurerlError(f"--import {what}: there is no such file.{nearest(path.name, there)}")
    return _module_of(path) or _load_file(path, what)


def _load_module(name: str) -> str:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        file = f"{name.replace('.', '/')}.py"
        hint = f"write --import {file}" if Path(file).is_file() else "a file is given by its path: --import my_file.py"
        raise PurerlError(f"--import {name}: no module of that name is installed; {hint}")
    with _importing(name, name):
        importlib.import_module(name)
    return name


def _load_file(path: Path, what: str) -> str:
    root, name = _place(path)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))  # Python does the same for a script
    importlib.invalidate_caches()
    if "." in name:  # a file of a package
        with _importing(what, name):
            importlib.import_module(name)
        return name
    if name in sys.modules or name in sys.stdlib_module_names or not name.isidentifier():
        name = f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PurerlError(f"--import {what}: this is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    with _importing(what, name):
        sys.modules[name] = module  # dataclasses look up their module there
        spec.loader.exec_module(module)
    return name


def _place(path: Path) -> tuple[Path, str]:
    """(the folder to import from, the dotted name there) of a file, which may be in a package."""
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@contextlib.contextmanager
def _importing(what: str, name: str) -> Iterator[None]:
    """Turns any error inside the block into a PurerlError of one line, and removes a module that failed."""
    known = name in sys.modules
    _loading.append(what)
    try:
        yield
    except (Exception, SystemExit) as error:
        if not known:
            sys.modules.pop(name, None)
            registry.forget(name)
        if isinstance(error, PurerlError):
            raise PurerlError(f"--import {what}: {error}") from error
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
        frames = [one for one in frames if one.filename != __file__]
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        raise PurerlError(f"--import {what}: {type(error).__name__}: {error}{where}") from error
    finally:
        _loading.pop()


def refuse_while_importing(call: str) -> None:
    """Raises PurerlError if a user's module makes this call during its import: it must only register names."""
    if _loading:
        raise PurerlError(
            f"it calls {call} while it is imported: move the registrations into a separate file, or put the call under "
            '`if __name__ == "__main__":`'
        )


def note_own_line(error: BaseException) -> None:
    """Adds to an error where in the user's modules it was raised: a traceback through JAX buries that line."""
    files = {str(_file_of(sys.modules.get(module))): None for module in registry.modules()}
    found = [one for one in traceback.extract_tb(error.__traceback__) if one.filename in files]
    if not found:
        return
    hint = ""
    if "tracer" in type(error).__name__.lower():
        hint = "; it is compiled: use jnp.where, jax.lax.cond or jnp in place of if, float() or numpy"
    line = found[-1]
    error.add_note(f"purerl: raised by {Path(line.filename).name}, line {line.lineno}, in {line.name}{hint}")


def _module_of(path: Path) -> str | None:
    """The module that was loaded from a file; None if there is none."""
    for name, module in list(sys.modules.items()):
        file = _file_of(module)
        if file is not None and file.name == path.name and file.resolve() == path:
            return name
    return None


def _file_of(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


# --- what a run needs ------------------------------------------------------------------------------------------------


def needed(names: Iterable[tuple[str, str]]) -> tuple[Import, ...]:
    """The user's modules that a new run needs: all from the command line, and those that registered `names`.

    Args:
      names: (kind, name), as in `registry.origin`.
    """
    modules = dict.fromkeys(_asked.values())
    modules |= dict.fromkeys(owner for owner in (registry.origin(*name) for name in names) if owner)
    return tuple(_described(module) for module in modules)


def _described(module: str) -> Import:
    """The entry of a loaded module in config.json."""
    file = _file_of(sys.modules.get(module))
    path = file.resolve() if file is not None and file.is_file() else None
    given = {owner: what for what, owner in _asked.items()}
    what = NOT_IMPORTABLE if module == MAIN else given.get(module, module)
    if what == module and path is not None and "." not in module:
        what = path.name
    sha256, commit, dirty = (None, None, None) if path is None else _state(path, path.stat().st_mtime_ns)
    registers = tuple(f"{kind} {name}" for kind, name in registry.registered_by(module))
    return Import(what, module, None if path is None else str(path), sha256, commit, dirty, registers)


@functools.lru_cache(maxsize=64)
def _state(path: Path, _: int) -> tuple[str, str | None, bool | None]:
    """(sha256, git commit, dirty) of a file; the modification time is only part of the cache's key."""
    return (hashlib.sha256(path.read_bytes()).hexdigest(), *provenance.git_state(path))


def restore(stored: Sequence[Import], folder: Path | None = None) -> tuple[Import, ...]:
    """Imports the modules that a stored run needs; returns their current entries for config.json.

    A file that came with a run is not imported (see `trust.check_code`), nor is one in `folder`, where the record is.

    A module from --import replaces a stored file with the same file name. A stored file is not imported if all the
    names that it registers are already known.

    Raises PurerlError for a missing file, and for a script, because importing it would train again.
    """
    found: dict[str, Import] = {}
    for one in stored:
        for now in _import_again(one, folder):
            found.setdefault(now.module, now)
    return tuple(found.values())


def _import_again(stored: Import, folder: Path | None) -> list[Import]:
    path = None if stored.path is None else Path(stored.path)
    module = None if path is None else _module_of(path) or _replacement(path)
    if module is None and stored.registers:
        owners = [_owner(one) for one in stored.registers]
        if all(known for known, _ in owners):  # registered by another user module or an installed package
            return [_described(owner) for owner in dict.fromkeys(owner for _, owner in owners) if owner]
    if module is None:
        module = _load_again(stored, path, folder)
    now = _described(module)
    if stored.what != NOT_IMPORTABLE and now.path == stored.path and now.what != NOT_IMPORTABLE:
        now = dataclasses.replace(now, what=stored.what)
    if now.sha256 == stored.sha256:
        return [dataclasses.replace(now, previous=stored.previous)]
    was = {"sha256": stored.sha256, "git_commit": stored.git_commit, "git_dirty": stored.git_dirty}
    _note(
        f"{now.path or now.what} has changed since the run was made (sha256 {str(stored.sha256)[:8]} then, "
        f"{str(now.sha256)[:8]} now); continuing with the new version"
    )
    return [dataclasses.replace(now, previous=(*stored.previous, was))]


def changed(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """{file: [its sha256 before, now]} of the modules that differ between two lists of imports in config.json."""

    def hashes(imports: Sequence[dict[str, Any]]) -> dict[str, str | None]:
        return {Path(one["path"]).name if one.get("path") else one["module"]: one.get("sha256") for one in imports}

    known = hashes(before)
    return {name: [known[name], now] for name, now in hashes(now).items() if name in known and known[name] != now}


def _replacement(path: Path) -> str | None:
    """The module from --import whose file has the same name as `path`; None if there is none."""
    for module in _asked.values():
        file = _file_of(sys.modules.get(module))
        if file is not None and file.name == path.name:
            return module
    return None


def _owner(registered: str) -> tuple[bool, str | None]:
    """(whether a name such as "agent NAME" is registered, the module that registered it)."""
    kind, _, name = registered.partition(" ")
    return registry.is_known(kind, name), registry.origin(kind, name)


def restore_from(record: Path) -> None:
    """Imports the modules that are listed in a config.json or sweep.json, if the file exists."""
    from purerl.runs import files

    with files.reading(record):
        known = record.is_file()
    if known:
        found = files.read_json(record)
        if isinstance(found, dict):
            restore(read(found.get("imports", [])), record.parent)


def read(values: Any) -> list[Import]:
    """The imports listed in a JSON file. Raises PurerlError if they are damaged."""
    try:
        found = [Import.from_dict(one) for one in values]
        for one in found:
            texts = (one.what, one.module, one.path or "", one.sha256 or "", *one.registers)
            if not all(isinstance(text, str) and "\0" not in text for text in texts):
                raise TypeError("a name that is not text")
        return found
    except (TypeError, AttributeError, ValueError) as error:
        raise PurerlError(
            f"the imports in a run's config.json are damaged or of another purerl version ({error}): train again"
        ) from error


def _load_again(stored: Import, path: Path | None, folder: Path | None) -> str:
    if stored.module == MAIN:
        script = "a notebook or an interactive session" if path is None else f"the script {path}"
        raise PurerlError(
            f"{_listed(stored)} of this run was registered by {script}, which is not run again: register it in a "
            "separate file, and add --import FILE"
        )
    if path is not None and path.is_file():
        trust.check_code(path, folder)
        return _load_file(path, str(path))
    top, _, rest = stored.module.partition(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is not None:
        for home in spec.submodule_search_locations or [Path(spec.origin or "").parent]:
            trust.check_code(Path(home, *rest.split(".")).absolute(), folder)
        return _load_module(stored.module)
    name = path.name if path is not None else stored.what
    raise PurerlError(
        f"this run needs {stored.what}, but {path or stored.module} no longer exists: give its new place with "
        f"--import NEW_PATH/{name}"
    )


def _note(line: str) -> None:
    """Prints a note on stderr, once per process."""
    if line not in _noted:
        _noted.add(line)
        print(f"purerl: note: {line}", file=sys.stderr)


def check_importable(imports: Iterable[Import], where: str) -> None:
    """Raises PurerlError if another process cannot import what a run needs."""
    for one in imports:
        if one.module == MAIN or one.path is None:
            source = f"the script {one.path}" if one.path else "a notebook or an interactive session"
            raise PurerlError(
                f"{_listed(one)} was registered by {source}, which {where} cannot import: register it in a separate "
                "file and import that (on the command line: --import FILE)"
            )


def _listed(one: Import) -> str:
    return " and ".join(one.registers) or one.what
