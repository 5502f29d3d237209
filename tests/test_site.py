"""The site is built without a warning, holds every public name, and has no link that leads nowhere."""

from __future__ import annotations

import html.parser
import importlib.util
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import purerl

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for name in ("material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, ROOT / "docs" / "build.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Links(html.parser.HTMLParser):
    """The ids of a page, and where its links and pictures lead."""

    def __init__(self, page: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps what a tag has."""
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        self.targets += [target for name in ("href", "src") if (target := found.get(name))]


def test_every_page_is_there_and_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html")}
    names = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {"index", "CONTRIBUTING", "CHANGELOG", *written} <= names
    for page, links in pages.items():
        if page.name == "404.html":
            continue  # is shown at any address, so its links begin at the root
        for target in links.targets:
            path, fragment = urldefrag(target)
            if path.partition(":")[0] in ("http", "https", "mailto", "data", "javascript"):
                continue
            file = (page.parent / unquote(path)).resolve() if path else page
            assert file.exists(), (page.name, target)
            if fragment and file in pages:
                assert unquote(fragment) in pages[file].ids, (page.name, target)


def test_the_reference_holds_every_public_name_every_agent_and_every_room(site: Path) -> None:
    public = Links(site / "docs" / "api" / "index.html").ids
    missing = [name for name in purerl.__all__ if f"purerl.{name}" not in public]
    assert not missing
    assert not [name for name in public if name.startswith("purerl._")]
    agents = Links(site / "docs" / "api" / "agents.html").ids
    assert {"purerl.agents.ppo.update", "purerl.agents.dqn.update", "purerl.agents.rainbow.Config"} <= agents
    assert "parallel environments per seed" in (site / "docs" / "api" / "agents.html").read_text()  # a field's help
    losses = (site / "docs" / "api" / "ops.html").read_text()
    assert "purerl.ops.losses" in losses and "Returns" in losses


def test_a_browser_finds_nothing_to_complain_about_and_every_page_fits_a_phone(browser, site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for width, height, scheme in ((390, 844, "light"), (1200, 900, "dark")):
            browser.open(page, width, height, scheme)
            where = (page.relative_to(site), width)
            assert browser.value("document.documentElement.scrollWidth <= innerWidth"), where
            assert browser.value("innerWidth") == width, where
            assert browser.complaints() == [], where
            assert [url for url in browser.requests() if not url.startswith("file:")] == [], where
