"""Draw the picture of the idea: light and dark, lying for wide screens and upright for phones.

Usage: python scripts/picture.py [--check]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LABEL = (
    "An issue goes in; Outpost picks an outpost; a worker runs an agent there; a pushed branch"
    " comes out"
)


@dataclass(frozen=True)
class Colours:
    """What the picture is drawn with, as CSS colours."""

    ground: str
    box: str
    line: str
    accent: str
    words: str
    small: str


#: The end of a file's name, and the colours it has.
SCHEMES = {
    "": Colours("#fbfaf7", "#ffffff", "#1f2937", "#0f766e", "#1f2937", "#5b6472"),
    "-dark": Colours("#1b2430", "#243040", "#8fa0b5", "#2dd4bf", "#e8edf3", "#aab6c5"),
}


@dataclass(frozen=True)
class Box:
    """A box with a word in it and what is said of it, in pixels of the picture."""

    x: int
    y: int
    width: int
    height: int
    word: str
    said: tuple[str, ...]
    main: bool = False

    def draw(self, of: Colours) -> str:
        """Return the box as SVG."""
        edge = f'stroke="{of.accent}" stroke-width="2"' if self.main else f'stroke="{of.line}"'
        middle = self.x + self.width // 2
        first = self.y + self.height // 2 + 5 - 9 * len(self.said)
        size = f'width="{self.width}" height="{self.height}" rx="10"'
        bold = f'font-weight="600" fill="{of.words}"'
        lines = [
            f'<rect x="{self.x}" y="{self.y}" {size} fill="{of.box}" {edge}/>',
            f'<text x="{middle}" y="{first}" {bold}>{self.word}</text>',
        ]
        lines += [
            f'<text x="{middle}" y="{first + 2 + 18 * number}" font-size="13"'
            f' fill="{of.small}">{line}</text>'
            for number, line in enumerate(self.said, 1)
        ]
        return "\n".join(lines)


ISSUE = ("issue", ("gt-abc123",))
PICKS = ("Outpost", ("picks a place,", "says why"))
HERE = ("this machine", ("Claude Code, Codex, …",))
HOST = ("a host of yours", ("when the first is full",))
CLOUD = ("containers", ("Cloud Run, Kubernetes",))
BRANCH = ("git branch", ("pushed, seen,", "with a result"))

#: The start of a file's name: its size, its boxes, its arrows that are taken, those that could be.
LAYOUTS: dict[str, tuple[tuple[int, int], tuple[Box, ...], tuple[str, ...], tuple[str, ...]]] = {
    "idea": (
        (860, 300),
        (
            Box(22, 120, 106, 60, *ISSUE),
            Box(212, 104, 160, 92, *PICKS, main=True),
            Box(450, 26, 200, 64, *HERE),
            Box(450, 118, 200, 64, *HOST),
            Box(450, 210, 200, 64, *CLOUD),
            Box(728, 108, 112, 84, *BRANCH),
        ),
        (
            "M128 150 H206",
            "M372 132 C 405 120, 410 62, 444 58",
            "M650 58 C 690 62, 690 118, 722 134",
        ),
        (
            "M372 150 H444",
            "M372 168 C 405 180, 410 238, 444 242",
            "M650 150 H722",
            "M650 242 C 690 238, 690 182, 722 166",
        ),
    ),
    "idea-upright": (
        (360, 560),
        (
            Box(120, 18, 120, 60, *ISSUE),
            Box(90, 122, 180, 84, *PICKS, main=True),
            Box(110, 252, 200, 58, *HERE),
            Box(110, 324, 200, 58, *HOST),
            Box(110, 396, 200, 58, *CLOUD),
            Box(110, 488, 200, 58, "git branch", ("pushed, seen, with a result",)),
        ),
        (
            "M180 78 V116",
            "M110 206 C 60 220, 50 281, 104 281",
            "M310 281 C 358 300, 358 529, 316 529",
        ),
        (
            "M104 206 C 36 240, 40 353, 104 353",
            "M98 206 C 14 260, 24 425, 104 425",
            "M310 353 C 346 370, 346 517, 316 517",
            "M310 425 C 334 440, 334 505, 316 505",
        ),
    ),
}


def draw(layout: str, scheme: str) -> str:
    """Return one of the pictures as SVG."""
    (width, height), boxes, taken, others = LAYOUTS[layout]
    of = SCHEMES[scheme]
    arrows = [f'<path d="{way}" marker-end="url(#a)"/>' for way in taken]
    arrows += [f'<path d="{way}" marker-end="url(#a)" stroke-dasharray="5 5"/>' for way in others]
    about = f'role="img" aria-label="{LABEL}"'
    font = 'font-family="ui-sans-serif, system-ui, sans-serif" font-size="15"'
    marker = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {about} {font}>',
        f'<rect width="{width}" height="{height}" rx="14" fill="{of.ground}"/>',
        f'<marker id="a" {marker}><path d="M0 0 L8 4 L0 8 z" fill="{of.accent}"/></marker>',
        f'<g fill="none" stroke="{of.accent}" stroke-width="1.8">',
        *arrows,
        "</g>",
        '<g text-anchor="middle" stroke-width="1.4">',
        *(box.draw(of).replace("<text ", '<text stroke="none" ') for box in boxes),
        "</g>",
        "</svg>",
        "",
    ]
    return "\n".join(lines)


def main(check: bool) -> int:
    """Write the pictures, or return 1 when one differs from what is drawn here."""
    stale = []
    for layout in LAYOUTS:
        for scheme in SCHEMES:
            path, text = IMAGES / f"{layout}{scheme}.svg", draw(layout, scheme)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
                if not check:
                    path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)} differ\n  → python scripts/picture.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
