"""Formats numbers and configuration values as short text."""

from __future__ import annotations

import json
import math
from typing import Any

from purerl.report.curves import number

MISSING = "\N{EN DASH}"
MINUS, NO_BREAK_SPACE = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


def show(value: float) -> str:
    """Formats a number to about three digits, integers without decimals: 0.00274, 15.8, 354.4, 16,784, 2.00e+12."""
    if 1e3 <= abs(value) < 1e9:
        text = f"{value:,.0f}"
    elif value == 0 or 1e-3 <= abs(value) < 1e3:
        digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{max(1, digits) if value != round(value) else 0}f}"
    else:
        text = f"{value:.2e}"
    return text.replace("-", MINUS)


def whole(value: Any) -> str:
    """A value from a file, rounded to an integer; a dash if it is not a number."""
    found = number(value)
    return MISSING if found is None else f"{found:,.0f}"


def compact(value: float) -> str:
    """A number in few characters: 950, 41.2k, 25M, 1.2G."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:  # 999.9k is 1M, not 1e+03k
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.0f}"


def count(amount: int, what: str) -> str:
    """An amount of something: "1 seed", "8 seeds"."""
    return f"{amount} {what}{'' if amount == 1 else 's'}"


def plain(value: Any) -> str:
    """A value of a config.json: "none", "yes", "0 to 7" for consecutive integers, "64, 64" for other lists."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        whole_numbers = [one for one in value if type(one) is int]
        if len(whole_numbers) == len(value) > 2 and value == list(range(value[0], value[0] + len(value))):
            return f"{value[0]} to {value[-1]}"
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def device(value: Any) -> str:
    """The device of a config.json or a summary.json, such as "2 x cpu" with a multiplication sign."""
    if isinstance(value, dict):
        amount = f"{value.get('count', 1)} \N{MULTIPLICATION SIGN} ".replace(" ", NO_BREAK_SPACE)
        return f"{amount}{value.get('kind', '?')}"
    return MISSING if value is None else str(value)
