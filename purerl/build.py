"""Builds purerl as setuptools does, and makes an editable installation that type checkers can follow, too.

In the repository agents/, envs/ and experiments/ lie beside purerl/. Installed, they lie in it. An editable
installation of setuptools maps them with an import hook, which pyright and mypy do not run. So it gets one more file
here: a .pth with the path of build/typing/. That folder holds `purerl`, a package of links to the files and folders as
they would be installed, for type checkers to follow. Python itself imports the files where they are: the second line of
the .pth tells it that there is nothing to import from in that folder.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("agents", "envs", "experiments")


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """PEP 660: the wheel of an editable installation; returns its name."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    folder = str(ROOT / "build" / "typing")
    link(Path(folder) / "purerl")
    nothing = f"import sys; sys.path_importer_cache[{folder!r}] = None"
    add_file(Path(wheel_directory) / name, "purerl_typing.pth", f"{folder}\n{nothing}\n")
    return name


def link(package: Path) -> None:
    """Makes the folder `package` anew: links to what is in purerl/, and to the three folders beside it."""
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for path in [*sorted((ROOT / "purerl").iterdir()), *(ROOT / name for name in BESIDE)]:
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)


def add_file(wheel: Path, name: str, text: str) -> None:
    """Adds a file to a wheel, and to the wheel's list of files with its hash."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    (record,) = (path for path in files if path.endswith(".dist-info/RECORD"))
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    files[record] += f"{name},sha256={digest},{len(text.encode())}\n".encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in {name: text.encode(), **files}.items():
            archive.writestr(path, content)
