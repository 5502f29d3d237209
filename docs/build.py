"""Builds the site: the guides, the results, and the API reference from the docstrings. `python docs/build.py [FOLDER]`.

The pages are copied into a folder of their own, with everything that they link to at the same relative place, so that
the links work as they do in the repository. Every warning is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from purerl import build

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def main(words: list[str]) -> int:
    """Builds into the folder that is named, or into build/site; returns the exit code."""
    out = Path(words[0]) if words else ROOT / "build" / "site"
    with tempfile.TemporaryDirectory() as made:
        here = Path(made)
        stage(here)
        command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
        # The theme would advertise its successor in every build.
        done = subprocess.run(command, cwd=here, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False)
        if not done.returncode:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(here / "site", out)
            print(out)
    return done.returncode


def stage(here: Path) -> None:
    """Fills a folder with the site's settings, its pages, what they link to, and purerl as it is installed."""
    for name in ("mkdocs.yml", "config_fields.py"):
        shutil.copy(ROOT / "docs" / name, here)
    build.link(here / "python" / "purerl")
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for page in [*pages, *(ROOT / "docs").rglob("*.md")]:
        _copy(page, here)
        for target in _LINK.findall(page.read_text()):
            linked = (page.parent / target.partition("#")[0]).resolve()
            if linked.is_file() and linked.is_relative_to(ROOT):
                _copy(linked, here)


def _copy(file: Path, here: Path) -> None:
    copied = here / "pages" / file.relative_to(ROOT)
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copied)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
