"""What sets runs apart: the settings in their config.json that differ, and short labels made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from purerl.runs import run_folder

# A label names a run by these, and by its settings only where runs are equal in them.
IDENTITY = ("agent", "preset", "env")
# They name a run only where its fields and options do not.
_LAST = ("steps", "seeds")
MOST_FIELDS, MOST_CHARACTERS = 6, 40  # in a label; of a value in it


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """{name: value} of a config.json: agent, env, preset, seeds, steps, fields, and options as "env.<option>"."""
    found = {name: config[name] for name in ("agent", "env", "preset", "seeds", "steps") if name in config}
    fields, options = config.get("config"), config.get("env_options")
    found |= fields if isinstance(fields, dict) else {}
    return found | ({f"env.{name}": value for name, value in options.items()} if isinstance(options, dict) else {})


def differing(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The names in `settings` of some runs whose values are not the same in all of them, in the runs' order."""
    names = dict.fromkeys(name for one in runs for name in one)
    return [name for name in names if any(_pair(one, name) != _pair(runs[0], name) for one in runs)]


def _pair(one: dict[str, Any], name: str) -> tuple[bool, Any]:
    return name in one, one.get(name)


def common(configs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """{"agent", "preset", "env": what all runs have in common}, "" for what they do not."""
    parts = [_identity(config) for config in configs]
    return {name: parts[0][name] if all(part[name] == parts[0][name] for part in parts) else "" for name in IDENTITY}


def joined(identity: dict[str, str]) -> str:
    """An identity as text: "ppo (classic) on gymnax/CartPole-v1", without the parts that are ""."""
    agent = " ".join(filter(None, (identity["agent"], f"({identity['preset']})" if identity["preset"] else "")))
    return " on ".join(filter(None, (agent, identity["env"])))


def labels(configs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """A short label for each run, which says what sets it apart: "ppg", or "learning_rate 0.001".

    Agent, preset and environment come first, as far as they differ. Runs that are equal in them are told apart by their
    fields and options, then by steps and seeds, and at last by their names.

    Args:
      configs: the runs' config.json.
      names: the runs' names.

    Returns:
      The labels, all different if the names are; a single run has its name.
    """
    shared = common(configs)
    parts = [{name: "" if shared[name] else value for name, value in _identity(config).items()} for config in configs]
    found, known = [joined(part) for part in parts], [settings(config) for config in configs]
    for group in _equal(found):
        for place, text in zip(group, _texts([known[i] for i in group]), strict=True):
            found[place] = _extended(found[place], text)
    for group in _equal(found):
        for place in group:
            found[place] = f"{found[place]} {names[place]}".strip()
    return found


def columns(configs: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]] | None:
    """(the fields and options that differ, their values in each run): shorter than `labels` for many runs.

    Such as (["learning_rate", "clip"], ["0.001, 0.1", "0.005, 0.2"]). None for runs of several agents, presets or
    environments, and for runs that their fields do not tell apart.
    """
    known = [settings(config) for config in configs]
    names = [name for name in differing(known) if name not in _LAST]
    if not 0 < len(names) <= MOST_FIELDS or any(name in IDENTITY for name in names):
        return None
    for texts in (_shortest, shorts):
        rows = [
            ", ".join(row) for row in zip(*(texts([one.get(name) for one in known]) for name in names), strict=True)
        ]
        if len(set(rows)) == len(rows):
            return names, rows
    return None


def _shortest(values: Sequence[Any]) -> list[str]:
    """Short texts, numbers with three digits."""
    return [f"{value:.3g}" if isinstance(value, float) else short(value) for value in values]


def _identity(config: dict[str, Any]) -> dict[str, str]:
    return {"agent": str(config["agent"]), "preset": run_folder.shown_preset(config), "env": str(config["env"])}


def _equal(found: Sequence[str]) -> list[list[int]]:
    """The places of equal or empty labels, together."""
    groups: dict[str, list[int]] = {}
    for place, label in enumerate(found):
        groups.setdefault(label, []).append(place)
    return [places for label, places in groups.items() if len(places) > 1 or not label]


def _extended(label: str, text: str) -> str:
    return f"{label}, {text}" if label and text else label or text


def _texts(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What sets runs of one identity apart, such as "learning_rate 0.001, clip 0.2"."""
    names = [name for name in differing(runs) if name not in IDENTITY]
    fields = [name for name in names if name not in _LAST][:MOST_FIELDS]
    texts = _of_fields(runs, fields)
    if len(set(texts)) == len(runs):
        return texts
    return _of_fields(runs, [*fields, *(name for name in _LAST if name in names)])


def _of_fields(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    columns = {name: shorts([one.get(name) for one in runs]) for name in names}
    return [
        ", ".join(f"{name} {column[place]}" for name, column in columns.items() if name in one)
        for place, one in enumerate(runs)
    ]


# --- values ----------------------------------------------------------------------------------------------------------


def shorts(values: Sequence[Any]) -> list[str]:
    """The values of a field in several runs as short text; numbers have all digits if four do not tell them apart."""
    texts = [short(value) for value in values]
    if len(set(texts)) == len({repr(value) for value in values}):
        return texts
    return [repr(value) if isinstance(value, float) else text for value, text in zip(values, texts, strict=True)]


def short(value: Any) -> str:
    """A value of a config.json as short text: 0.001, 64x64, yes, none, "0 to 7" for consecutive integers."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        counted = len(value) > 2 and all(type(one) is int for one in value)
        if counted and value == list(range(value[0], value[0] + len(value))):
            return f"{value[0]} to {value[-1]}"
        value = "x".join(map(short, value)) or "none"
    text = "".join(character if character.isprintable() else "?" for character in str(value)[: MOST_CHARACTERS + 1])
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
