"""The direction of imports: every room may import those below it, there are no import cycles, no agent imports an
agent, and the engine imports no agent or environment by name.

All imports count, those inside functions and those for type checkers too, and `importlib.import_module` of a literal.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from purerl import registry

ROOT = Path(__file__).resolve().parents[1]
# Folder: the package that it is installed as.
FOLDERS = {
    "purerl": "purerl",
    "agents": "purerl.agents",
    "envs": "purerl.envs",
    "experiments": "purerl.experiments",
}
TOP = ("types", "errors", "arguments", "rng", "configs", "statistics", "registry", "cache", "data_parallel")
ENGINE = ("ops", "nn", "buffers", "loops", "runs", "report", "cli")

# Room: what it may import beside itself and the top files; a room, or a single module of one.
ALLOWED: dict[str, tuple[str, ...]] = {
    "top": (),
    "ops": (),
    "nn": (),
    "buffers": (),
    "loops": ("ops", "nn", "buffers"),
    "runs": ("ops", "nn", "buffers", "loops"),
    "report": (
        *("runs.files", "runs.run_folder", "runs.sinks", "runs.provenance"),
        *("runs.collection", "runs.differences", "runs.lock", "runs.ownership"),
    ),
    "cli": ("ops", "nn", "buffers", "loops", "runs", "report"),
    "agents": ("ops", "nn", "buffers"),
    "envs": (),
    "experiments": (*ENGINE, "agents", "envs"),
    # `import purerl`, `python -m purerl` and the build backend are entry points. Nothing imports them.
    "door": ENGINE,
}
# (module, what it imports): why it may all the same.
EXCEPTIONS = {
    ("purerl.cli.main", "purerl.experiments.benchmarks.commands"): "`purerl bench` is a command of the experiments",
    ("purerl.cli.main", "purerl.experiments.challenge.commands"): "`purerl challenge` is one, too",
    ("purerl.cli.main", "purerl.experiments.figures.commands"): "`purerl figure` is a command of the experiments",
}
# File of the engine: the names of agents, families, environments, presets and figures that its strings may hold.
NAMES = {
    "purerl/cli/main.py": "ppo ppg gymnax procgen coinrun CartPole-v1 Breakout-MinAtar quick",  # the text of `--help`
    "purerl/cli/doctor.py": "gymnax procgen atari",  # gymnax is a package whose version is told, beside jax and flax
    "purerl/runs/provenance.py": "gymnax",  # the same
    "purerl/nn/torsos.py": "nature dopamine minatar",  # networks, after which presets are named too
    "purerl/nn/q_network.py": "nature dopamine minatar",
    "purerl/statistics.py": "tasks",  # what a run is scored on, in an error
    "purerl/cli/folders.py": "tasks",  # the word
    "purerl/runs/adaptation.py": "tasks",  # the word
}


# --- what is imported ------------------------------------------------------------------------------------------------


@functools.cache
def sources() -> dict[str, Path]:
    """{module: its file} of the four folders."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def targets(tree: ast.AST, module: str, is_package: bool, known: frozenset[str]) -> Iterator[str]:
    """The purerl modules that a module imports, wherever in its text it does."""

    def home(name: str) -> str:
        """The module of a dotted name, which may continue with a name inside the module."""
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name

    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                start = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        for name in names:
            if name.partition(".")[0] == "purerl" and home(name):
                yield home(name)


@functools.cache
def imports() -> dict[str, set[str]]:
    """{module: the modules that it imports}."""
    known = frozenset(sources())
    return {
        module: set(targets(ast.parse(path.read_text()), module, path.name == "__init__.py", known))
        for module, path in sources().items()
    }


def room(module: str) -> str:
    """The room of a module."""
    parts = module.split(".")[1:]
    if not parts or parts in (["__main__"], ["build"]):
        return "door"
    return "top" if len(parts) == 1 and parts[0] in TOP else parts[0]


def allows(module: str, target: str) -> bool:
    """Whether the rooms let a module import another one."""
    mine, its, name = room(module), room(target), target.removeprefix("purerl.")
    if its == "top" or mine == its:
        return True
    return any(name == one or name.startswith(f"{one}.") for one in ALLOWED[mine])


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, the first one again at the end; [] if there is no ring."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph[module]):
            if found := search(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := search(module, []))), [])


# --- the rules -------------------------------------------------------------------------------------------------------


def test_every_module_has_a_room_and_every_room_a_module():
    rooms = {room(module) for module in sources()}
    assert rooms == set(ALLOWED)
    assert {module.split(".")[1] for module in sources() if room(module) == "top"} == set(TOP)
    assert sum(map(len, imports().values())) > 200


def test_imports_go_one_way():
    wrong = [
        f"{sources()[module].relative_to(ROOT)} imports {target}"
        for module, found in imports().items()
        for target in sorted(found)
        if not allows(module, target) and (module, target) not in EXCEPTIONS
    ]
    assert not wrong, "\n".join(wrong)


def test_the_engine_never_imports_agents_environments_or_experiments():
    """Entry points do. The command line's own two doors to the experiments are named above."""
    found = {
        (module, target)
        for module, its in imports().items()
        for target in its
        if room(module) in (*ENGINE, "top", "door") and room(target) in ("agents", "envs", "experiments")
    }
    assert found <= set(EXCEPTIONS), sorted(found - set(EXCEPTIONS))


def test_no_module_imports_itself_by_a_detour():
    assert not circle(imports()), " -> ".join(circle(imports()))


def test_no_agent_imports_an_agent():
    found = [
        (module, target)
        for module, its in imports().items()
        for target in its
        if room(module) == room(target) == "agents"
    ]
    assert not found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import purerl.ops.losses as x", {"purerl.ops.losses"}),
        ("from purerl.ops import losses, returns", {"purerl.ops.losses", "purerl.ops.returns"}),
        ("from purerl.errors import PurerlError", {"purerl.errors"}),
        ("def f():\n    from purerl import registry", {"purerl.registry"}),
        ("if TYPE_CHECKING:\n    from purerl.types import Agent", {"purerl.types"}),
        ("from . import returns\nfrom ..nn.heads import ValueHead", {"purerl.ops.returns", "purerl.nn.heads"}),
        ("importlib.import_module('purerl.experiments.record').main()", {"purerl.experiments.record"}),
        ("import jax, purerl_of_another\nimportlib.import_module(name)", set()),
    ],
)
def test_every_kind_of_import_is_found(text, expected):
    assert set(targets(ast.parse(text), "purerl.ops.here", False, frozenset(sources()))) == expected


def test_wrong_ways_and_rings_are_noticed():
    assert not allows("purerl.ops.losses", "purerl.nn.heads")
    assert not allows("purerl.registry", "purerl.runs.plan")
    assert not allows("purerl.report.plots", "purerl.runs.trainer") and allows(
        "purerl.report.plots", "purerl.runs.files"
    )
    assert not allows("purerl.agents.ppo", "purerl.loops.collect")
    assert not allows("purerl.loops.train", "purerl")
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


# --- names -----------------------------------------------------------------------------------------------------------


def known_names() -> set[str]:
    """All agents, families, environments, presets and figures of this project.

    Ids of the probes are left out: "action" or "discount" are words of the trade.
    """
    # Through the entry points alone: other tests of the same process register agents and families of their own.
    points = {kind: registry._entry_points(kind) for kind in ("agents", "environments", "presets", "figures")}
    names = {*points["agents"], *points["environments"]}
    for family, point in points["environments"].items():
        names |= set(point.load().names()) if family != "probe" else set()
    for point in points["presets"].values():
        names |= set(point.load())
    for point in points["figures"].values():
        names |= {figure.name for figure in point.load()}
    return names


def literals(tree: ast.AST) -> Iterator[ast.Constant]:
    """The strings of a program, but not its docstrings, nor what is given to `help=`."""
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            left_out.update(ast.walk(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node


def named(text: str, names: set[str]) -> list[str]:
    """Which of the names stand in the strings of a program, as words of their own."""
    words = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?![\w-])")
    return sorted({name for node in literals(ast.parse(text)) for name in words.findall(node.value)})


def test_the_engine_names_no_agent_environment_preset_or_figure():
    names = known_names()
    assert {"ppo", "gymnax", "coinrun", "CartPole-v1", "Pong", "procgen-easy"} <= names
    wrong = []
    for path in sorted((ROOT / "purerl").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        found = set(named(path.read_text(), names)) - set(NAMES.get(file, "").split())
        wrong += [f"{file} names {', '.join(sorted(found))}"] if found else []
    assert not wrong, "\n".join(wrong)


def test_names_are_noticed_where_they_count():
    names = {"ppo", "Pong", "quick"}
    assert named('"""Of ppo."""\ndef f():\n    """Of Pong."""\n    return flag(help="quick")', names) == []
    assert named('x = {"ppo": 1}\nraise Error(f"{x}: play atari/Pong or Pong")', names) == ["Pong", "ppo"]
    assert named('x = "pponent quickly quick-step ppo_1"', names) == []
