"""Published scoreboards as data: that of Craftax. Sources and licences: NOTICE.md beside this file."""

from __future__ import annotations

import csv
import functools
import importlib.resources

CRAFTAX_SOURCE = "README.md of craftax 1.6.1 (Matthews et al. 2024, arXiv 2402.16801)"


@functools.cache
def craftax() -> dict[tuple[int, str], float]:
    """{(environment steps, algorithm): return as % of the maximum, 226}, on craftax/Craftax-Symbolic-v1."""
    text = importlib.resources.files(__package__).joinpath("craftax-scoreboard.csv").read_text()
    rows = csv.DictReader(text.splitlines())
    return {(int(row["steps"]), row["algorithm"]): float(row["percent_of_maximum"]) for row in rows}
