#!/usr/bin/env python3
"""Draws what a program printed to a terminal as an SVG picture, with the colours that it printed.

usage: CLICOLOR_FORCE=1 make --silent demo | scripts/terminal-svg.py TITLE > docs/demo.svg

Every run of characters is placed on a grid and stretched to it, so that the picture is the same with any monospaced
font. The window is dark, on light and dark pages alike.
"""

import re
import sys
import unicodedata
from xml.sax.saxutils import escape

CELL_WIDTH, LINE_HEIGHT, FONT_SIZE = 8.0, 19, 13.3
MARGIN, TITLE_HEIGHT = 20, 38
COLOURS = {31: "#ff7b72", 32: "#7ee787", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#76e3ea"}
FOREGROUND, DIM, BRIGHT, BACKGROUND, BORDER = "#d1d7e0", "#8b949e", "#ffffff", "#0d1117", "#30363d"
CODE = re.compile(r"\x1b\[([\d;]*)m")


def runs(line):
    """The pieces of a line with their style: (column, text, bold, colour)."""
    column, bold, colour = 0, False, FOREGROUND
    for index, piece in enumerate(CODE.split(line)):
        if index % 2 == 0:
            if piece:
                yield column, piece, bold, BRIGHT if bold and colour == FOREGROUND else colour
                column += len(piece)
            continue
        for code in (int(code or 0) for code in piece.split(";")):
            if code == 0:
                bold, colour = False, FOREGROUND
            elif code == 1:
                bold = True
            elif code == 2:
                colour = DIM
            else:
                colour = COLOURS.get(code, colour)


def draw(lines, title):
    columns = max(len(CODE.sub("", line)) for line in lines)
    width = round(columns * CELL_WIDTH + 2 * MARGIN)
    height = TITLE_HEIGHT + LINE_HEIGHT * len(lines) + MARGIN
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">'
    yield f"<title>{escape(title)}</title>"
    yield (
        "<style>text{font-family:ui-monospace,SFMono-Regular,'SF Mono',Menlo,Consolas,"
        f"'DejaVu Sans Mono','Liberation Mono',monospace;font-size:{FONT_SIZE}px}}</style>"
    )
    yield (
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="9" fill="{BACKGROUND}" '
        f'stroke="{BORDER}"/>'
    )
    for index, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        yield f'<circle cx="{22 + 19 * index}" cy="19" r="5.5" fill="{colour}"/>'
    yield f'<text x="{width / 2:g}" y="23" text-anchor="middle" fill="{DIM}">{escape(title)}</text>'
    for number, line in enumerate(lines):
        baseline = TITLE_HEIGHT + LINE_HEIGHT * number + 14
        for column, text, bold, colour in runs(line):
            weight = ' font-weight="600"' if bold else ""
            # Viewers fold spaces that follow each other: what they part is placed on its own.
            for part in re.finditer(r"\S+( \S+)*", text):
                x = MARGIN + CELL_WIDTH * (column + part.start())
                yield (
                    f'<text x="{x:g}" y="{baseline}" textLength="{CELL_WIDTH * len(part[0]):g}" '
                    f'lengthAdjust="spacingAndGlyphs" fill="{colour}"{weight}>{escape(part[0])}</text>'
                )
    yield "</svg>"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1])
    lines = sys.stdin.read().rstrip().expandtabs().splitlines()
    lines = [line for line in lines if not line.startswith(("setup: ", "cargo ", "    Finished", "   Compiling"))]
    wide = sorted({char for line in lines for char in line if unicodedata.east_asian_width(char) in "WF"})
    if not lines or wide:
        sys.exit(f"cannot draw: {'there is no text' if not lines else f'characters of double width: {wide}'}")
    print("\n".join(draw(lines, sys.argv[1])))


if __name__ == "__main__":
    main()
