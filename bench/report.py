"""The figures: as a table for people, as JSON for later comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"


class Figures(NamedTuple):
    """One step's: seconds by contender, in order; a contender's are None when a tree came out wrong."""

    case: str
    step: str
    bound: float
    seconds: dict[str, list[float] | None]

    def median(self, name: str) -> float | None:
        """In seconds."""
        found = self.seconds[name]
        return statistics.median(found) if found else None

    def ratio(self, other: str = "rsync") -> float | None:
        """syncctl's median as a share of another's."""
        ours, theirs = self.median("syncctl"), self.median(other)
        return None if ours is None or theirs is None else ours / theirs

    def held(self) -> bool:
        """Whether the bound is."""
        ratio = self.ratio()
        return ratio is not None and ratio <= self.bound


def table(figures: list[Figures]) -> str:
    """Medians with their spread, and the ratios; ``-`` where there is no valid figure."""
    others = list(figures[0].seconds)[1:]
    rows = [["", "syncctl", *others, "ratio", "bound", "", f"to {others[-1]}"]]
    rows += [
        [
            f"{one.case}: {one.step}",
            *(_cell(one.seconds[name]) for name in ("syncctl", *others)),
            _ratio(one.ratio()),
            f"{one.bound:.2f}",
            "held" if one.held() else "MISSED",
            _ratio(one.ratio(others[-1])),
        ]
        for one in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "rsync": _first_line("rsync", "--version"),
        "ssh": _first_line("ssh", "-V"),
        "load": os.getloadavg()[0],
    }


def write(figures: list[Figures], extra: dict[str, Any]) -> Path:
    """A file of its own in bench/results/; its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    value = {
        "machine": machine(),
        "argv": sys.argv[1:],
        "steps": [one._asdict() | {"ratio": one.ratio(), "held": one.held()} for one in figures],
        **extra,
    }
    path.write_text(json.dumps(value, indent=1) + "\n")
    return path


def _cell(seconds: list[float] | None) -> str:
    if not seconds:
        return "-"
    return f"{_time(statistics.median(seconds))} ({_time(min(seconds))}..{_time(max(seconds))})"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _first_line(*argv: str) -> str:
    ended = subprocess.run(argv, capture_output=True, check=False)
    return (ended.stdout or ended.stderr).decode("utf-8", "replace").partition("\n")[0]
