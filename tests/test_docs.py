"""Runs the documentation: every code block of every page of docs/, in order and unchanged, and README's Python.

README's other commands take minutes, so they are only looked up; `.ci/run` runs those that are marked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from purerl import registry
from purerl.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
PROSE = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```[ \t]*$", re.M | re.S
)
# A python block that begins with its file's name is saved under it, for the later blocks that import it.
_FILE = re.compile(r"# ([\w.]+\.py)\n")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block: its line, language and text, and why it is not run (None if it is)."""

    line: int
    language: str
    text: str
    reason: str | None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(page.count("\n", 0, found.start("text")), found["language"].strip(), found["text"], found["reason"])
        for found in _BLOCK.finditer(page)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `purerl` command in a bash block."""
    lexer = shlex.shlex(text.replace("\\\n", " ").replace("\n", "\n;\n"), posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word.strip(";|&"):
            words.append(word)
            continue
        if "purerl" in words:
            yield words[words.index("purerl") + 1 :]
        words = []


@functools.cache
def help_of(*words: str) -> str:
    """What `purerl WORDS --help` prints."""
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setenv("COLUMNS", "120")
        patch.setenv("NO_COLOR", "1")
        assert main.main([*words, "--help"]) == 0
    return text.getvalue()


def _run(command: list[str], folder: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1", "PYTHONFAULTHANDLER": "1"}
    # The command that is documented, and the flags that conftest's run_cli gives it.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["XLA_FLAGS"] = environment["PURERL_TESTS_COMMAND_XLA_FLAGS"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=text if text is not None else "",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def check_exists(words: list[str]) -> None:
    """Asserts that a command line's command, agent, environment and flags exist."""
    assert words and words[0] in main.COMMANDS, f"there is no command {words[:1]}"
    plain = [word for word in words if not word.startswith("-")]
    topic = [words[0]]
    if words[0] in ("train", "sweep"):
        agent, env = plain[1:3]
        registry.agent(agent)
        registry.environment(env)
        topic += [agent, env]
    if words[0] == "bench" and len(plain) > 1:
        assert plain[1] in help_of("bench").split(), f"there is no bench {plain[1]}"
    known = set(re.findall(r"--[a-z][\w.-]*", help_of(*topic)))
    for word in words:
        # Options of a run's own environment are not in `purerl eval --help`: that takes a run.
        if word.startswith("--") and not (len(topic) == 1 and word.startswith("--env.")):
            assert word.partition("=")[0] in known, f"purerl {' '.join(topic)} has no {word}"


def test_there_are_pages() -> None:
    assert len(PAGES) >= 6
    for page in PAGES:
        text = page.read_text()
        assert text.count("\n```") % 2 == 0, f"{page.name}: a fence is open"
        assert {b.language for b in blocks(text)} <= {"bash", "python", "", "text"}, page.name
        assert text.count("<!-- not run:") == sum(b.reason is not None for b in blocks(text)), page.name


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.same_bits] if page.stem == "determinism" else [])
        for page in PAGES
    ],
)
def test_the_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    found = blocks(page.read_text())
    for number, block in enumerate(found):
        where = f"{page.name}, line {block.line}"
        if block.language == "bash" and block.reason:
            shown = list(commands(block.text))
            assert shown, f"{where}: not run, and no purerl command"
            for words in shown:
                check_exists(words)
        elif block.language == "bash":
            done = _run(["bash", "-euo", "pipefail", "-s"], tmp_path, block.text)
            assert done.returncode == 0, f"{where}:\n{done.stdout[-4000:]}"
        elif block.language == "python" and not block.reason:
            named = _FILE.match(block.text)
            script = tmp_path / (named[1] if named else f".block{number}.py")
            script.write_text(block.text)
            if named:
                later = "".join(other.text for other in found[number + 1 :] if not other.reason)
                assert re.search(rf"import {script.stem}\b", later), f"{where}: nothing imports {script.name}"
                continue
            done = _run([sys.executable, str(script)], tmp_path)
            assert done.returncode == 0, f"{where}:\n{done.stdout[-4000:]}"


def test_the_commands_of_the_readme_exist() -> None:
    shown = [
        words for block in blocks(README.read_text()) if block.language == "bash" for words in commands(block.text)
    ]
    assert len(shown) >= 7
    for words in shown:
        if "--import" not in words:  # an agent that the reader writes
            check_exists(words)


def test_the_readme_trains_as_a_function(tmp_path: Path) -> None:
    (block,) = (block for block in blocks(README.read_text()) if block.language == "python")
    assert len([line for line in block.text.splitlines() if line]) == 5
    shorter = block.text.replace("steps=1_000_000, num_envs=64", "steps=2_048, num_envs=8")
    assert shorter != block.text
    done = _run([sys.executable, "-c", shorter], tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "(8, 2)"), done.stdout[-4000:]


def test_the_readme_can_be_read_in_some_minutes() -> None:
    words = README.read_text().split()
    assert 700 < len(words) < 1_000


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_relative_links_point_to_files(page: Path) -> None:
    prose = _BLOCK.sub("", page.read_text())
    targets = [target for target in _LINK.findall(prose) if not re.match(r"[a-z]+:|#", target)]
    missing = [target for target in targets if not (page.parent / target.partition("#")[0]).exists()]
    assert not missing


def test_blocks_and_commands_are_found() -> None:
    page = (
        "text\n\n```bash\npurerl list agents | head\nA=1 purerl eval \\\n  RUN --greedy  # really\n"
        "purerl doctor\n```\n\n"
        "<!-- not run: long -->\n```bash\npurerl bench\n```\n```python\nx = 1\n```\n"
    )
    first, second, third = blocks(page)
    assert list(commands(first.text)) == [["list", "agents"], ["eval", "RUN", "--greedy"], ["doctor"]]
    assert (first.reason, second.reason, third.reason, third.text) == (None, "long", None, "x = 1\n")
    assert (first.line, third.language) == (3, "python")


@pytest.mark.parametrize(
    "line", ["fly", "train ppo gymnax/CartPole-v1 --no-such-flag 1", "bench no-such-bench", "eval RUN --no-such-flag"]
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check_exists(line.split())
