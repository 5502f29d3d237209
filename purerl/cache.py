"""Where purerl keeps what can be made again: compiled programs, level banks, the environments of other libraries."""

from __future__ import annotations

import os
from pathlib import Path


def folder(what: str) -> Path:
    """The folder `what` of purerl's cache: below $PURERL_CACHE, or purerl/ in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "purerl"
    return Path(os.environ.get("PURERL_CACHE") or default) / what
