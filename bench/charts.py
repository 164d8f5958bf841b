"""Charts as SVG: horizontal bars by case, each as a share of rsync's time.  Readable on light and on dark ground."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from bench.report import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

WIDTH, LABEL, VALUE = 880, 330, 130
BAR, GAP, TOP = 16, 14, 34
REFERENCE = "rsync"
MOST = 1.5
"""The longest bar, in times of rsync; a longer one is cut."""

_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 14px; font-weight: 600; }
.time { fill: #57606a; }
.ours { fill: #0969da; } .reference { fill: #8c959f; } .cipher { fill: #c4cad1; } .floor { fill: #dbab79; }
.peer { fill: #bf87d9; } .line { stroke: #8c959f; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .time { fill: #9198a1; }
  .ours { fill: #4493f8; } .reference { fill: #767e88; } .cipher { fill: #4b535d; } .floor { fill: #a6763f; }
  .peer { fill: #8957a8; } .line { stroke: #767e88; }
}"""

_KINDS = ("ours", "reference", "cipher", "peer", "floor")
"""From top to bottom."""

Document = dict[str, Any]


def chart(title: str, cases: Iterable[Document]) -> str:
    """Of the cases that were measured beside rsync: a bar for each contender, its median behind it."""
    rows: list[str] = []
    y = TOP
    for case in cases:
        times = {name: found["seconds"]["median"] for name, found in case["measured"].items() if "seconds" in found}
        if REFERENCE not in times:
            continue
        rows.append(_text(0, y + BAR - 4, case["what"].partition(": ")[0]))
        rows.append(_text(0, y + 2 * BAR - 4, case["what"].partition(": ")[2], "time"))
        for name in sorted(times, key=lambda name: _KINDS.index(kind(name))):
            rows.append(_bar(y, name, times[name], times[REFERENCE]))
            y += BAR
        y += max(0, 2 - len(times)) * BAR + GAP
    one = LABEL + _length(1.0)
    line = f'<line class="line" x1="{one}" x2="{one}" y1="{TOP - 6}" y2="{y - GAP}"/>'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        _text(0, 14, title, "title"),
        _text(LABEL, 14, "shorter is better; the line is rsync's time", "time"),
        *rows,
        line,
        "</svg>\n",
    ])  # fmt: skip


def kind(contender: str) -> str:
    """A bar's class."""
    if contender.startswith("syncctl"):
        return "ours"
    if contender.startswith("floor"):
        return "floor"
    if contender == REFERENCE:
        return "reference"
    return "cipher" if contender.startswith(REFERENCE) else "peer"


def _bar(y: int, name: str, seconds: float, reference: float) -> str:
    length = max(1, _length(min(seconds / reference, MOST)))
    said = f"{name.removeprefix('floor: ')} {duration(seconds)}"
    bar = f'<rect class="{kind(name)}" x="{LABEL}" y="{y + 1}" width="{length}" height="{BAR - 2}" rx="2"/>'
    return bar + _text(LABEL + length + 6, y + BAR - 4, said, "time")


def _length(share: float) -> int:
    return round(share / MOST * (WIDTH - LABEL - VALUE))


def _text(x: int, y: int, text: str, kind_of: str = "") -> str:
    style = f' class="{kind_of}"' if kind_of else ""
    return f'<text{style} x="{x}" y="{y}">{escape(text)}</text>'
