"""The results: as a table for people (Markdown, so that it can be pasted), as JSON for later comparison."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import TYPE_CHECKING, Any

from bench.cases import SyncCase
from bench.hosts import CONTENDERS, OURS, RSYNC, RSYNC_AES

if TYPE_CHECKING:
    from bench.hosts import Installed
    from bench.run import Result

_HEAD = ["", "syncctl", "rsync", "rsync, aes128-gcm", "ratio", "ratio, aes128-gcm", "bound", ""]


def table(results: list[Result]) -> str:
    """Medians, the fastest and the slowest run, and syncctl's median divided by rsync's; ``-`` where there is none."""
    rows = [_HEAD, *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    rows.insert(
        1, ["-" * width if column in (0, 7) else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    )
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def document(results: list[Result], memory_kib: dict[str, dict[str, int]], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "format": 1,
        **facts,
        "cases": [
            {
                **result.case._asdict(),
                **({"tree": result.case.tree.what} if isinstance(result.case, SyncCase) else {}),
                "load_1min": result.load,
                "median": {name: result.median(name) for name in CONTENDERS if result.values(name)},
                "ratio": {name: result.ratio(name) for name in CONTENDERS[1:] if result.values(name)},
                "held": result.held,
                "wrong": result.wrong,
                "runs": [run._asdict() for run in result.runs],
            }
            for result in results
        ],
        "memory_kib": memory_kib,
    }


def machine(installed: Installed, where: str, runs: int) -> dict[str, Any]:
    """Where the results come from."""
    return {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "cpu": _grep("/proc/cpuinfo", "model name"),
            "memory": _grep("/proc/meminfo", "MemTotal"),
            "kernel": platform.platform(),
            "load": os.getloadavg(),
        },
        "versions": {
            "syncctl": _first_line(*installed.argv, "version", PYTHONPATH=installed.python_path),
            "python": platform.python_version(),
            "ssh": _first_line("ssh", "-V"),
            "rsync": _first_line("rsync", "--version"),
        },
        "syncctl_run_as": {"argv": installed.argv, "how": installed.how},
        "where": where,
        "file_system": _first_line("stat", "-f", "-c", "%T", where),
        "runs": runs,
    }


def _row(result: Result) -> list[str]:
    case = result.case
    verdict = "void" if result.wrong else "ok" if result.held else "over"
    if isinstance(case, SyncCase):
        cells = [_cell(result.values(name), result.median(name)) for name in CONTENDERS]
        return [
            case.what,
            *cells,
            *(_ratio(result.ratio(name)) for name in (RSYNC, RSYNC_AES)),
            f"{case.bound:.2f}",
            verdict,
        ]
    median = result.median(OURS)
    ours = "-" if median is None else f"{median:.1f} {case.unit}"
    values = result.values(OURS)
    if len(values) > 1:
        ours += f" ({min(values):.1f} - {max(values):.1f})"
    return [case.what, ours, "", "", "", "", f"{case.bound:.0f} {case.unit}", verdict]


def _cell(values: list[float], median: float | None) -> str:
    return "-" if median is None else f"{_time(median)} ({_time(min(values))} - {_time(max(values))})"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _first_line(*argv: str, **environ: str) -> str:
    try:
        ended = subprocess.run(argv, env={**os.environ, **environ}, cwd="/", capture_output=True)
    except OSError as e:
        return str(e)
    return (ended.stdout or ended.stderr).decode("utf-8", "replace").partition("\n")[0]


def _grep(path: str, key: str) -> str | None:
    with open(path) as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), None)
