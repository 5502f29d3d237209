"""The entry point of the command `purerl`: it takes over the signals before anything that takes time is imported."""

from __future__ import annotations

from purerl.runs import interrupts


def main() -> int:
    """Runs this process's command line and returns the exit code."""
    interrupts.watch()
    from purerl.cli.main import main as run

    return run()
