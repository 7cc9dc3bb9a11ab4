"""The site as people see it: built, served on loopback, and looked at by a real Chromium."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urlsplit

from peers import MissingError

ROOT = Path(__file__).resolve().parents[2]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
#: Of what a page shows: what is wider than the screen, and which keys are in two pieces.
SIZES = """() => ({
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  tables: [...document.querySelectorAll('.md-typeset__scrollwrap')]
    .filter((table) => table.scrollWidth > table.clientWidth + 1)
    .map((table) => table.innerText.slice(0, 60)),
  broken: [...document.querySelectorAll('code.key')]
    .filter((key) => key.checkVisibility() && key.getClientRects().length > 1)
    .map((key) => key.textContent),
})"""
#: Where its links lead, what can be led to, and pictures without words.
NAMES = """() => ({
  links: [...document.querySelectorAll('a[href], link[href], img[src], script[src]')].map(
    (each) => each.href ?? each.src).filter((link) => typeof link === 'string'),
  names: [...document.querySelectorAll('[id], a[name]')].map((each) => each.id || each.name),
  next: document.querySelector('a.md-footer__link--next')?.href ?? '',
  previous: document.querySelector('a.md-footer__link--prev')?.href ?? '',
  nameless: [...document.querySelectorAll('img:not([alt])')].map((image) => image.src),
})"""
#: Each pair of colours of words and ground that are too much alike, by the measure of WCAG (AA).
FAINT = """() => {
  const parse = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [parts[0] * scale, parts[1] * scale, parts[2] * scale, parts[3] ?? 1];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const known = new Map();
  const about = (element) => {
    if (!element) return {ground: [255, 255, 255], opacity: 1};
    if (!known.has(element)) {
      const style = getComputedStyle(element), above = about(element.parentElement);
      const own = parse(style.backgroundColor);
      known.set(element, {
        ground: own[3] === 1 ? own : over(own, above.ground),
        opacity: above.opacity * Number(style.opacity),
      });
    }
    return known.get(element);
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => v / 255).map(
      (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = {}, seen = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const words = texts.currentNode.textContent.trim();
    if (!words || seen.has(element)) continue;
    seen.add(element);
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.closest('.headerlink, .md-top, .md-search, script, style')) continue;
    const style = getComputedStyle(element), {ground, opacity} = about(element);
    const colour = parse(style.color);
    colour[3] *= opacity;
    const one = light(over(colour, ground)), two = light(ground);
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const pair = `${style.color} on ${ground.map(Math.round)}`;
    if (ratio < (large ? 3 : 4.5)) faint[pair] = `${ratio.toFixed(2)} ${words.slice(0, 40)}`;
  }
  return faint;
}"""
#: What is asked of each page on a phone, at a desk, and of the first page at a desk.
STILL = """document.head.append(Object.assign(document.createElement('style'),
  {textContent: '*, *::before, *::after { transition: none !important; }'}));
const dressed = (scheme) => document.body.setAttribute('data-md-color-scheme', scheme);"""
DARK = f"(dressed('slate'), ({FAINT})())"
PHONE_VIEW = f"() => {{ {STILL} return [({SIZES})(), ({NAMES})(), ({FAINT})(), {DARK}]; }}"
DESK_VIEW = f"() => [({SIZES})()]"
WHOLE_VIEW = f"() => {{ {STILL} return [({SIZES})(), {DARK}, (dressed('default'), ({FAINT})())]; }}"
NO_SEARCH = {"config": {"lang": ["en"], "separator": " ", "pipeline": [], "fields": {}}, "docs": []}


@dataclass
class Seen:
    """What was seen of one page."""

    path: str
    said: list[str] = field(default_factory=list)  # errors on its console, requests that failed
    phone: dict[str, Any] = field(default_factory=dict)  # SIZES
    desk: dict[str, Any] = field(default_factory=dict)  # SIZES
    names: dict[str, Any] = field(default_factory=dict)  # NAMES
    faint: dict[str, str] = field(default_factory=dict)  # FAINT, of light, dark and desk


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; yields the address without a slash at its end."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def build(folder: Path) -> None:
    """Build the site as the gate does."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; raises MissingError where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise MissingError("the site is looked at by Chromium: scripts/setup test")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])],
        )
        try:
            yield browser
        finally:
            browser.close()


def pages(folder: Path) -> list[str]:
    """Return the paths of all pages of a built site."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("index.html"))
    return [f"/{path.parent}/" if str(path.parent) != "." else "/" for path in found]


def look(browser: Any, address: str, paths: list[str]) -> dict[str, Seen]:
    """Look at pages: on a phone, light and dark, and at a desk; colours there of the first only.

    What a desk shows besides (tabs and lists of pages) is the same on each. So is what the search
    looks through, which would be read and sorted on each page: it is by the first alone.
    """
    found: dict[str, Seen] = {}
    context = browser.new_context(viewport=PHONE, color_scheme="light", reduced_motion="reduce")
    try:
        page = context.new_page()
        _hear(page, address, lambda: found[path].said)
        for path in paths:
            found[path] = Seen(path)
            _look(page, address, found[path], path == paths[0])
            if path == paths[0]:
                page.route("**/search_index.json", lambda route: route.fulfill(json=NO_SEARCH))
    finally:
        context.close()
    return found


def _hear(page: Any, address: str, said: Callable[[], list[str]]) -> None:
    page.on("pageerror", lambda error: said().append(str(error)))
    page.on(
        "console",
        lambda word: said().append(word.text) if word.type in ("error", "warning") else None,
    )
    page.on(
        "requestfailed",  # what is given up as the next page is opened has not failed
        lambda request: (
            None
            if request.failure == "net::ERR_ABORTED"
            else said().append(f"no answer: {request.url}")
        ),
    )
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:"))
            else said().append(f"asks a stranger: {request.url}")
        ),
    )
    page.on(
        "response",
        lambda answer: (
            said().append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
        ),
    )


def _look(page: Any, address: str, seen: Seen, whole: bool) -> None:
    page.set_viewport_size(PHONE)
    page.goto(address + seen.path, wait_until="load")
    seen.phone, seen.names, *faint = page.evaluate(PHONE_VIEW)
    page.set_viewport_size(DESK)
    seen.desk, *more = page.evaluate(WHOLE_VIEW if whole else DESK_VIEW)
    for pairs in [*faint, *more]:
        seen.faint |= pairs


def dead_links(seen: dict[str, Seen], folder: Path, address: str) -> list[str]:
    """Return the links within the site that lead nowhere, each with its page."""
    dead = []
    names = {path: set(each.names["names"]) for path, each in seen.items()}
    for path, each in seen.items():
        for link in sorted(set(each.names["links"])):
            if not link.startswith(address):
                continue
            to, anchor = urldefrag(link)
            to = urlsplit(to).path
            there = folder / to.lstrip("/")
            found = there.is_file() or (there / "index.html").is_file()
            if not found or (anchor and anchor not in names.get(to, {anchor})):
                dead.append(f"{path}: {link}")
    return dead
