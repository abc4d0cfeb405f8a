"""The documentation site, built and opened in a real browser."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.browsers import browser, need_chromium
from tests.conftest import PROJECT
from tests.needs import lack

pytestmark = pytest.mark.once

WIDTHS = (1280, 400)
# What sticks out of the window, unless something around it scrolls by itself.
STICKING_OUT = """(() => {
  const limit = document.documentElement.clientWidth + 1;
  const scrolls = e => { for (; e; e = e.parentElement) {
    const style = getComputedStyle(e);
    if (/auto|scroll|hidden|clip/.test(style.overflowX) || style.position == 'fixed') return true; }
    return false; };
  return [...document.body.querySelectorAll('*')]
    .filter(e => e.getBoundingClientRect().right > limit && !scrolls(e.parentElement))
    .map(e => e.outerHTML.slice(0, 100)).slice(0, 3)
    .concat(document.documentElement.scrollWidth > limit ? ['the page itself'] : []);
})()"""
# A table must be readable without scrolling it sideways.
WIDE_TABLES = """[...document.querySelectorAll('article table')]
  .filter(t => t.getBoundingClientRect().width > t.closest('.md-content').clientWidth)
  .map(t => t.textContent.trim().slice(0, 60))"""
# Nor does code hide the ends of its lines.
CUT_CODE = """[...document.querySelectorAll('article pre code')]
  .filter(e => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.trim().slice(0, 60))"""
# Whether the page is dark, as soon as it is, or what it is after three seconds.
IS_DARK = """(async () => {
  const sum = color => color.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0);
  let dark;
  for (let i = 0; i < 60; i++) {
    const style = getComputedStyle(document.body);
    dark = sum(style.backgroundColor) < sum(style.color);
    if (dark == matchMedia('(prefers-color-scheme: dark)').matches) break;
    await new Promise(done => setTimeout(done, 50));
  }
  return dark;
})()"""


# What is written in an element, in those that a script made too.
TEXT = """function text(e) {
  return [...(e.shadowRoot || e).childNodes].map(n => n.nodeType == 3 ? n.data : text(n)).join('');
}"""

SEARCHING = "document.activeElement.shadowRoot"


def until(condition: str) -> str:
    """A script that waits up to five seconds for a condition, and gives its last value."""
    return f"""(async () => {{
      for (let i = 0; i < 100 && !({condition}); i++) await new Promise(d => setTimeout(d, 50));
      return !!({condition});
    }})()"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def served_from(directory: Path) -> Iterator[str]:
    """The address of a server of these files on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def build(project: Path) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).with_name("zensical")
    if not program.exists():
        lack("zensical is not installed")
    return subprocess.run(
        [program, "build", "--strict"], cwd=project, capture_output=True, text=True, timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(project), "LANG": "C.UTF-8"}, check=False,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    copy = tmp_path / "project"
    copy.mkdir()
    shutil.copy(PROJECT / "mkdocs.yml", copy)
    shutil.copytree(PROJECT / "docs", copy / "docs")
    return copy


def test_every_page_of_the_site_fits_the_window_and_fetches_nothing(project: Path, tmp_path: Path):
    need_chromium()
    done = build(project)
    assert done.returncode == 0, done.stdout + done.stderr
    site = project / "build" / "docs"
    pages = sorted(page.name for page in site.glob("*.html"))
    assert {f"{page.stem}.html" for page in (PROJECT / "docs").glob("*.md")} <= set(pages)

    wrong = []
    with served_from(site) as address, browser(tmp_path / "profile") as tab:
        for page in pages:
            tab.open(f"{address}/{page}")
            for width in WIDTHS:
                tab.look(width, "light")
                wrong += [(page, width, e) for e in tab.run(STICKING_OUT)]
                wrong += [(page, width, "table", t) for t in tab.run(WIDE_TABLES)]
                wrong += [(page, width, "code", c) for c in tab.run(CUT_CODE)]
            # The two differ in nothing but colors, and so take the same room.
            for scheme in ("light", "dark"):
                tab.look(WIDTHS[-1], scheme)
                assert tab.run(IS_DARK) == (scheme == "dark"), (page, scheme)
        assert wrong == []
        # The server has no page for an address that was never written.
        assert [p for p in tab.problems if "favicon" not in p] == []
        assert [url for url in tab.requested if not url.startswith((address, "data:"))] == []

        tab.open(f"{address}/getting-started.html")
        assert tab.run("document.querySelectorAll('.highlight pre code span').length") > 20
        assert tab.run("document.querySelectorAll('.md-code__button, .md-clipboard').length") > 5
        tab.look(WIDTHS[0], "light")
        assert tab.run(
            until(f"{SEARCHING} || document.querySelector('.md-search__button').click()")
        )
        tab.call("Input.insertText", text="checkpoint")
        assert tab.run(until(f"/[1-9]\\d* results/.test(({TEXT})(document.body))"))


def test_a_link_that_leads_nowhere_fails_the_build(project: Path):
    with (project / "docs" / "index.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    assert build(project).returncode != 0


def test_every_page_is_in_the_navigation():
    data = yaml.safe_load((PROJECT / "mkdocs.yml").read_text())

    def pages(nav: object) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        items = nav if isinstance(nav, list) else list(nav.values())  # type: ignore[attr-defined]
        return [page for item in items for page in pages(item)]

    assert sorted(pages(data["nav"])) == sorted(p.name for p in (PROJECT / "docs").glob("*.md"))
