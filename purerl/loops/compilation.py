"""Compile time: the persistent cache, and a watch that tells what a run spent on it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from purerl import cache

# A disk with less space cannot take a program.
_LEAST_SPACE = 2**20
# JAX warns once for each program that it could not store or load; it compiles it then, so nothing is lost.
_CACHE_WARNING = "Error (writing|reading) persistent compilation cache entry"


def cache_folder() -> Path:
    """Where compiled programs are kept between runs."""
    return cache.folder("compiled")


def enable_cache() -> None:
    """Turns JAX's persistent compilation cache on, unless the user has set a folder of their own (or "" for none).

    If the folder cannot be written, a line on stderr says so and nothing is cached.
    """
    if jax.config.jax_compilation_cache_dir is not None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * _LEAST_SPACE)
    except OSError as error:
        reason = error.strerror or error
        print(
            f"purerl: programs are not cached: {folder}: {reason} ($PURERL_CACHE names another folder)", file=sys.stderr
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    warnings.filterwarnings("ignore", _CACHE_WARNING, UserWarning)


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compiles all anew within, as whoever times a compilation must."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX decides only once whether it uses the cache
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


class CompileWatch:
    """Counts seconds spent tracing, lowering and compiling, and programs found in the persistent cache.

    Attributes:
      programs: programs compiled or loaded since the watch began.
      cache_hits: of these, how many came from the persistent cache.
    """

    def __init__(self) -> None:
        self.programs, self.cache_hits = 0, 0
        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_time_span_listener(self._on_span)
        jax.monitoring.register_event_listener(self._on_event)

    @property
    def seconds(self) -> float:
        """Tracing, lowering and compiling (or loading from the cache) since the watch began."""
        return sum(end - start for start, end in self._spans)

    def _on_span(self, event: str, start: float, end: float, **_: object) -> None:
        if event.startswith("/jax/core/compile/"):
            # Spans nest (a jitted function in another's trace) and inner ones end first: an outer one replaces them.
            while self._spans and self._spans[-1][0] >= start:
                self._spans.pop()
            self._spans.append((start, end))
            self.programs += event.endswith("backend_compile_duration")

    def _on_event(self, event: str, **_: object) -> None:
        self.cache_hits += event == "/jax/compilation_cache/cache_hits"

    def stop(self) -> None:
        """Ends the watch; its numbers stay."""
        jax.monitoring.unregister_event_time_span_listener(self._on_span)
        jax.monitoring.unregister_event_listener(self._on_event)
