"""What a result was made with: versions, device, commit, memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    *("purerl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("gymnax", "procgen-mirror", "ale-py"),
)


# --- software and hardware -------------------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """{"python" and each of PACKAGES: version, or None if it is not installed}."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def environment_report() -> dict[str, Any]:
    """Versions, device and commit that a result depends on, for config.json and summary.json.

    Returns:
      versions: as of `versions`;
      device: {"kind": such as "NVIDIA H200" or "cpu", "backend": "gpu", "cpu", ..., "count": devices of all processes};
      platform: operating system, processor type and C library, one line;
      cpu_count: logical cores of this machine;
      xla_flags: the variable XLA_FLAGS, "" without one;
      default_matmul_precision: JAX's own setting, which `matmul_precision` of a config replaces; None for its default;
      git_commit, git_dirty: of the git checkout that purerl is imported from; both None without one. Dirty means that a
        tracked file differs from the commit.
    """
    import jax

    commit, dirty = git_state(Path(__file__).resolve())
    devices = jax.devices()
    return {
        "versions": versions(),
        "device": {"kind": devices[0].device_kind, "backend": devices[0].platform, "count": len(devices)},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "default_matmul_precision": jax.config.jax_default_matmul_precision,
        "git_commit": commit,
        "git_dirty": dirty,
    }


def differences(
    before: dict[str, Any] | None, now: dict[str, Any], resumed: Sequence[dict[str, Any]] = ()
) -> dict[str, list[Any]]:
    """{what: [before, now]} of all that results depend on and that differs between two `environment_report`s.

    Args:
      before: None, or a report of an older version, compares nothing that it does not have.
      now: the other one.
      resumed: entries {"changed": {what: [before, now]}} of changes since `before`.
    """
    known = _facts(before)
    for entry in resumed:
        known |= {name: value for name, (_, value) in entry["changed"].items() if name in known}
    return {name: [known[name], value] for name, value in _facts(now).items() if name in known and known[name] != value}


def entries(resumed: Any) -> list[dict[str, Any]]:
    """The entries of "resumed" in a config.json, without damaged ones."""
    return [
        entry
        for entry in (resumed if isinstance(resumed, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("changed"), dict)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in entry["changed"].values())
    ]


def _facts(report: Any) -> dict[str, Any]:
    """The entries of an `environment_report` that results depend on, in one dict; none of something else."""
    report = report if isinstance(report, dict) else {}
    parts = {name: report[name] for name in ("versions", "device") if isinstance(report.get(name), dict)}
    named = {"kind": "device", "count": "device_count"}
    rest = ("git_commit", "git_dirty", "xla_flags", "default_matmul_precision")
    return (
        parts.get("versions", {})
        | {new: value for name, new in named.items() if (value := parts.get("device", {}).get(name)) is not None}
        | {name: report[name] for name in rest if name in report}
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(source: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) of the git checkout that tracks the file `source`, else (None, None).

    The file must be tracked: purerl in a virtual environment inside another repository is not of that repository.
    """
    tracked = _git(source.parent, "ls-files", "--error-unmatch", "--", source.name)
    commit = _git(source.parent, "rev-parse", "--verify", "HEAD") if tracked else None
    if not commit:
        return None, None
    changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """The stripped output of a git command; None if it fails or git is missing."""
    # Inside a git hook, GIT_DIR and similar variables point at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory_bytes() -> dict[str, Any]:
    """Peak memory: {"peak_memory_bytes": int, "peak_memory_of": "device" or "process"}.

    On devices that count it (GPUs do), this is the largest peak of this process's devices. Otherwise it is the peak of
    the whole process in the machine's main memory.
    """
    import jax

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return {"peak_memory_bytes": int(max(peaks)), "peak_memory_of": "device"}
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_bytes": int(peak), "peak_memory_of": "process"}
