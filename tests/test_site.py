"""The site as people see it, on a phone and at a desk, light and dark, by a real Chromium."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peers.website import DESK, PHONE, ROOT, Seen, build, chromium, dead_links, look, pages, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the site is built, and each page seen
#: Where pictures of pages are kept for people to look at; else they go with the test.
PICTURES = os.environ.get("OUTPOST_SCREENSHOTS", "")


@dataclass(frozen=True)
class Site:
    """The built site, and who looks at it."""

    folder: Path
    address: str
    browser: Any
    seen: dict[str, Seen]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with chromium() as browser:
        build(folder)
        with served(folder) as address:
            yield Site(folder, address, browser, look(browser, address, pages(folder)))


def test_no_page_is_wider_than_its_screen(site: Site) -> None:
    wide = [(each.path, each.phone["wider"], each.desk["wider"]) for each in site.seen.values()]
    assert [each for each in wide if each[1] > 0 or each[2] > 0] == []


def test_no_table_has_to_be_moved_sideways_on_a_phone(site: Site) -> None:
    assert {
        each.path: each.phone["tables"] for each in site.seen.values() if each.phone["tables"]
    } == {}


def test_no_key_is_broken(site: Site) -> None:
    found = {
        each.path: [*each.phone["broken"], *each.desk["broken"]] for each in site.seen.values()
    }
    assert {path: keys for path, keys in found.items() if keys} == {}


def test_no_page_reports_an_error_or_asks_another_server(site: Site) -> None:
    assert {each.path: each.said for each in site.seen.values() if each.said} == {}


def test_no_link_leads_nowhere(site: Site) -> None:
    assert dead_links(site.seen, site.folder, site.address) == []


def test_words_stand_out_from_what_they_are_on(site: Site) -> None:
    assert {each.path: each.faint for each in site.seen.values() if each.faint} == {}


def test_pictures_have_words(site: Site) -> None:
    named = {each.path: each.names["nameless"] for each in site.seen.values()}
    assert {path: images for path, images in named.items() if any(images)} == {}


def test_what_is_copied_of_a_console_are_its_commands(site: Site) -> None:
    context = site.browser.new_context(viewport=DESK)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{site.address}/guides/trust/")
    copied = []
    for block in page.locator(".highlight", has=page.locator(".gp")).all():
        page.evaluate("navigator.clipboard.writeText('')")
        block.hover()
        block.locator("button[data-md-type=copy]").click()
        page.wait_for_function("navigator.clipboard.readText().then((text) => text.length > 0)")
        copied.append(page.evaluate("navigator.clipboard.readText()"))
    context.close()
    assert copied == [
        "cd ~/gt && outpost status",  # and nothing of what it answers
        "outpost trust ~/gt\noutpost trust --list\noutpost trust --revoke ~/gt",
    ]


def test_every_page_leads_to_the_next_and_back(site: Site) -> None:
    walked = ["/"]
    while link := site.seen[walked[-1]].names["next"]:
        path = link.removeprefix(site.address)
        assert site.seen[path].names["previous"] == site.address + walked[-1]
        walked.append(path)
    assert sorted(walked) == sorted(site.seen)


def test_pictures_of_pages(site: Site, tmp_path: Path) -> None:
    folder = Path(PICTURES or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page = site.browser.new_page()
    for path in [
        "/",
        "/concepts/how-it-works/",
        "/security/",
        "/reference/cli/",
        "/reference/cli/work/",
        "/glossary/",
    ]:
        page.goto(site.address + path)
        name = path.strip("/").replace("/", "-") or "home"
        for screen, scheme in itertools.product((PHONE, DESK), ("light", "dark")):
            page.set_viewport_size(screen)
            page.emulate_media(color_scheme=scheme)
            file = folder / f"{name}-{screen['width']}-{scheme}.png"
            page.screenshot(path=file)
            assert file.read_bytes().startswith(b"\x89PNG")
    page.close()


BAD = """<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>Bad</title>
<body style="background: white"><p style="color: #999">faint</p><div style="opacity: .5">half</div>
<p><a href="/nowhere/">a</a> <a href="#none">b</a></p><p style="width: 600px">wide</p>
<p style="width: 4em"><code class="key">--max-workers-of-all-outposts</code></p><img src="data:,">
<div class="md-typeset__scrollwrap" style="width: 9em; overflow: auto">
<p style="width: 99em">t</p></div>
<script>console.error("said"); fetch("http://127.0.0.1:9/").catch(() => {})</script></html>"""


def test_who_looks_sees_what_is_wrong(site: Site, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(BAD)
    with served(tmp_path) as address:
        seen = look(site.browser, address, pages(tmp_path))
        dead = dead_links(seen, tmp_path, address)
    bad = seen["/"]
    assert dead == [f"/: {address}/#none", f"/: {address}/nowhere/"]
    assert "said" in bad.said
    assert "asks a stranger: http://127.0.0.1:9/" in bad.said
    assert bad.phone["wider"] > 0
    assert len(bad.phone["tables"]) == 1
    assert bad.phone["broken"] == ["--max-workers-of-all-outposts"]
    assert sorted(words.split()[1] for words in bad.faint.values()) == ["faint", "half"]
    assert bad.names["nameless"] == ["data:,"]


def test_the_picture_of_the_idea_is_what_the_script_draws() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "picture.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
