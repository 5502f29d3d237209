"""`purerl doctor`: shows what is installed and what works, and one command to fix each problem.

Each package is imported only inside its own check, so that the doctor works even if all packages are broken:
`python -m purerl.cli.doctor` needs only Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_INSTALL = "pip install --no-deps -r requirements.txt -e .  # in a checkout of purerl"
_CORE = {  # distribution -> module
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "chex": "chex",
    "orbax-checkpoint": "orbax.checkpoint",
    "gymnax": "gymnax",
    "numpy": "numpy",
    "tyro": "tyro",
    "rich": "rich",
    "matplotlib": "matplotlib",
}
_FREE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
      name: the checked part.
      ok: whether it works.
      detail: the result, one line.
      fix: a command that fixes it; "" if it works or there is no fix.
      core: whether purerl cannot work without it.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    core: bool = False


def diagnose() -> list[Check]:
    """All findings, those of the core first. Never raises: every error becomes a finding."""
    checks = [
        _attempt("python", _python, "install Python 3.11 or 3.12", core=True),
        _attempt(
            "purerl", functools.partial(_version, "purerl"), "pip install -e .  # in a checkout of purerl", core=True
        ),
    ]
    for distribution, module in _CORE.items():
        checks.append(_attempt(distribution, functools.partial(_imported, distribution, module), _INSTALL, core=True))
    checks.append(_attempt("devices", _devices, "unset JAX_PLATFORMS XLA_FLAGS", core=True))
    if checks[-1].ok:
        checks.append(_accelerator())
    checks += _families()
    checks += _extras()
    checks.append(_attempt("compilation cache", _cache, "export PURERL_CACHE=<a folder you may write to>"))
    checks.append(_attempt("current folder", _current_folder, "cd to a folder you may write to, or use --out DIR"))
    return checks


def main() -> int:
    """Prints all findings as a table; returns 0 if the core works, else 1."""
    checks = diagnose()
    broken = [check.name for check in checks if check.core and not check.ok]
    try:
        _print_table(checks)
    except ImportError:  # rich is missing, which is one of the findings
        for check in checks:
            print(
                f"{_state(check):8}{check.name}: {check.detail}" + (f"\n        fix: {check.fix}" if check.fix else "")
            )
    print("With uv, write 'uv pip install' for 'pip install'.")
    print(f"Broken: {', '.join(broken)}." if broken else "The core works.")
    return 1 if broken else 0


def _attempt(name: str, work: Callable[[], str], fix: str, core: bool = False) -> Check:
    """The Check of `work`, which returns its result or raises."""
    try:
        return Check(name, True, work(), core=core)
    except Exception as error:
        return Check(name, False, _one_line(error), fix, core)


def _one_line(error: Exception) -> str:
    from purerl.errors import PurerlError

    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first if isinstance(error, PurerlError) and first else f"{type(error).__name__}: {first}"[:300]


# --- the core --------------------------------------------------------------------------------------------------------


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError("not installed") from None


def _imported(distribution: str, module: str) -> str:
    version = _version(distribution)
    specifier = _declared().get("", {}).get(distribution, distribution)
    if not _satisfies(version, specifier):
        raise RuntimeError(f"{version} is installed, and purerl needs {specifier}")
    importlib.import_module(module)
    return version


@functools.cache
def _declared() -> dict[str, dict[str, str]]:
    """Extra ("" for none) -> distribution -> the requirement in purerl's metadata, such as "rich>=13.9"."""
    found: dict[str, dict[str, str]] = {}
    try:
        requirements = importlib.metadata.requires("purerl") or []
    except importlib.metadata.PackageNotFoundError:
        return found
    for requirement in requirements:
        specifier, _, marker = requirement.partition(";")
        extra = re.search(r"extra == ['\"](.+?)['\"]", marker)
        name = re.match(r"[\w.-]+", specifier)[0]
        found.setdefault(extra[1] if extra else "", {})[name] = specifier.strip()
    return found


def _satisfies(version: str, specifier: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(specifier).specifier.contains(version, prereleases=True)


def _devices() -> str:
    """Runs a compiled program and names its device."""
    import jax
    import jax.numpy as jnp

    if int(jax.jit(lambda x: jnp.sum(x * x))(jnp.arange(4))) != 14:
        raise RuntimeError("a compiled sum has a wrong result")
    found = jax.devices()
    limit = (found[0].memory_stats() or {}).get("bytes_limit") if found[0].platform != "cpu" else None
    memory = f", {limit / 2**30:.0f} GiB each" if limit else ""
    host = f"{_cores()} CPU cores, {_host_bytes() / 2**30:.0f} GiB"
    return f"{jax.default_backend()}: {len(found)} x {found[0].device_kind}{memory}; host: {host}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _host_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _accelerator() -> Check:
    """Whether JAX uses the accelerator that the machine has."""
    import jax

    if jax.default_backend() != "cpu":
        return Check("accelerator", True, f"in use ({jax.default_backend()})")
    cards = _nvidia_cards()
    if not cards:
        return Check("accelerator", True, "none on this machine; purerl runs on the CPU")
    name, driver = cards[0]
    detail = f"{len(cards)} x {name} (driver {driver}) is there, but JAX runs on the CPU"
    if "cuda" not in os.environ.get("JAX_PLATFORMS", "cuda"):
        return Check("accelerator", False, f"{detail}: JAX_PLATFORMS is set", "unset JAX_PLATFORMS")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Check("accelerator", False, f"{detail}: CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES")
    # CUDA 13 needs driver 580 or newer. Without a version in the command, pip keeps the installed jax and adds the
    # matching plugin.
    major = int(re.match(r"\d*", driver)[0] or 0)
    return Check("accelerator", False, detail, f'pip install "jax[{"cuda13" if major >= 580 else "cuda12"}]"')


def _nvidia_cards() -> list[tuple[str, str]]:
    """(name, driver version) of each NVIDIA card that the driver lists."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        return [tuple(line.rsplit(", ", 1)) for line in lines if ", " in line]
    return []


# --- environments ----------------------------------------------------------------------------------------------------


def _families() -> list[Check]:
    """Steps one environment of each registered family."""
    try:
        from purerl import registry

        names = registry.family_names()
    except Exception as error:
        return [Check("environments", False, _one_line(error), _INSTALL, core=True)]
    checks = []
    for name in names:
        fix, core = _INSTALL, False
        with contextlib.suppress(Exception):  # a family that cannot even be imported is a finding below
            found = registry.family(name)
            fix, core = getattr(found, "FIX", _INSTALL), getattr(found, "CORE", False)
        checks.append(_attempt(f"{name}/*", functools.partial(_stepped, registry, name), fix, core))
    return checks


def _stepped(registry: Any, family_name: str) -> str:
    """Creates an environment of the family and takes one step in it."""
    import numpy as np

    family = registry.family(family_name)
    ids = family.names()
    family, env_id = registry.environment(f"{family_name}/{family.example() if hasattr(family, 'example') else ids[0]}")
    options = family.Options()
    if registry.is_host(family):
        with family.make_pool(env_id, options, [0], 1, 1) as pool:
            shape = (1, 1, *pool.spec.action_shape)
            pool.reset(0)
            pool.send(0, np.zeros(shape, np.int32 if pool.spec.num_actions else np.float32))
            observation, expected = pool.recv(0).observation, (1, 1, *pool.spec.observation_shape)
    else:
        import jax
        import jax.numpy as jnp

        env = family.make(env_id, options)
        state, _ = jax.jit(env.reset)(jax.random.key(0))
        action = jnp.zeros(env.spec.action_shape, jnp.int32 if env.spec.num_actions else jnp.float32)
        step = jax.jit(env.step)(jax.random.key(1), state, action)[1]
        observation, expected = step.observation, env.spec.observation_shape
    if observation.shape != tuple(expected):
        raise RuntimeError(
            f"{env_id} has observations of shape {observation.shape}, but its spec says {tuple(expected)}"
        )
    return f"{len(ids)} ids; {env_id} takes a step"


# --- extras ----------------------------------------------------------------------------------------------------------


def _extras() -> list[Check]:
    """The installed packages of each optional extra."""
    checks = []
    for extra, packages in _declared().items():
        if not extra:
            continue
        found, wanted = [], []
        for package, specifier in packages.items():
            try:
                version = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found.append(f"no {package}")
                wanted.append(specifier)
                continue
            found.append(f"{package} {version}")
            if not _satisfies(version, specifier):
                found[-1] += f" (not {specifier})"
                wanted.append(specifier)
        fix = "pip install " + " ".join(f'"{specifier}"' for specifier in wanted)
        with contextlib.suppress(Exception):  # a family with the extra's name may have its own FIX
            from purerl import registry

            fix = registry.family(extra).FIX
        checks.append(Check(f"extra: {extra}", not wanted, ", ".join(found), fix if wanted else ""))
    return checks


# --- folders ---------------------------------------------------------------------------------------------------------


def _cache() -> str:
    import jax

    from purerl.loops import compilation

    set_by_user = jax.config.jax_compilation_cache_dir
    if set_by_user is None and os.environ.get("JAX_COMPILATION_CACHE_DIR") == "":
        return "off (JAX_COMPILATION_CACHE_DIR is empty): every run compiles again"
    folder = str(set_by_user or compilation.cache_folder())
    if "://" not in folder:
        _try_writing(Path(folder))
    return folder


def _current_folder() -> str:
    folder = Path.cwd()
    _try_writing(folder)
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        raise OSError(f"{folder} has {free / 2**20:.0f} MiB left, too little for checkpoints")
    return f"{folder}, {free / 2**30:.0f} GiB free"


def _try_writing(folder: Path) -> None:
    """Raises OSError unless a file can be written in `folder`; also tests whether a missing folder can be created."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"purerl")
        file.flush()


# --- printing --------------------------------------------------------------------------------------------------------


def _state(check: Check) -> str:
    return "ok" if check.ok else "BROKEN" if check.core else "no"


def _print_table(checks: list[Check]) -> None:
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    colours = {"ok": "green", "BROKEN": "bold red", "no": "yellow"}
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in checks:
        state = _state(check)
        found = rich.text.Text(check.detail)
        if check.fix:
            found.append(f"\nfix: {check.fix}", style="cyan")
        table.add_row(rich.text.Text(state, style=colours[state]), check.name, found)
    rich.console.Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
