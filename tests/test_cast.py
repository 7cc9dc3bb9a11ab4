"""The cast of the README is recorded from the real program, small, short, and without a script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
CAST = ROOT / "docs" / "images" / "cast.svg"


def test_the_cast_is_short_and_small_and_for_light_and_dark_screens() -> None:
    text = CAST.read_text(encoding="utf-8")
    assert len(text.encode()) <= 300_000
    (seconds,) = re.findall(r"animation:reel ([\d.]+)s", text)
    assert float(seconds) <= 20
    assert "prefers-color-scheme:dark" in text
    assert "prefers-reduced-motion" in text
    tree = ET.fromstring(text)
    kinds = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert kinds <= {"svg", "title", "style", "defs", "g", "rect", "circle", "use", "text"}
    hrefs = {element.get("href", "#") for element in tree.iter()}
    assert all(href.startswith("#") for href in hrefs)


def test_the_cast_shows_the_program_as_it_is_now() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "cast", "--check"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
