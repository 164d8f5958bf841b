"""The results as JSON, and from that the tables for people (Markdown, so that they can be pasted)."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from typing import TYPE_CHECKING, Any

from bench import figures
from bench.contenders import OURS, RSYNC, RSYNC_AES, STATUS
from bench.hosts import SAMPLE_S
from bench.room import file_system

if TYPE_CHECKING:
    from pathlib import Path

    from bench.hosts import Installed
    from bench.run import Result

FORMAT = 2
COLUMNS = (OURS.name, RSYNC.name, RSYNC_AES.name)
Document = dict[str, Any]


def document(results: list[Result], pss_kib: dict[str, dict[str, int]], facts: Document) -> Document:
    """Everything."""
    return {"format": FORMAT, **facts, "cases": [_case(result) for result in results], "pss_kib": pss_kib}


def _case(result: Result) -> Document:
    case = result.case
    measured = {} if result.wrong else figures.medians(result.runs)
    ours = OURS.name if case.tree else case.contenders[0].name
    found = figures.figures(ours, measured, case.bounds)
    over = [figure.name for figure in found if not figure.held]
    return {
        "name": case.name,
        "what": case.what,
        "quick": case.quick,
        "verdict": "skipped" if result.skipped else "void" if result.wrong else "over" if over else "ok",
        "skipped": result.skipped,
        "wrong": result.wrong,
        "over": over,
        "load_1min": result.load,
        "rounds": max((run.round for run in result.runs), default=0),
        "measured": measured,
        "figures": [figure._asdict() for figure in found],
        "runs": [run._asdict() for run in result.runs],
    }


def tables(found: Document) -> str:
    """Times; then whatever else has a bound."""
    return f"{times(found)}\n\n{others(found)}\n"


def times(found: Document) -> str:
    """Medians, the fastest and the slowest run, and syncctl's median divided by the others'."""
    rows = [["", *COLUMNS, "floor", "ratio", "bound", "aes128-gcm", "floor", "bound", ""]]
    for case in found["cases"]:
        if case["skipped"]:
            rows.append([case["what"], *[""] * 9, f"skipped: {case['skipped']}"])
        elif any(row["metric"] == "seconds" and row["against"] for row in case["figures"]):
            rows.append(_times(case))
    return _table(rows)


def _times(case: Document) -> list[str]:
    measured, ratio = case["measured"], {row["name"]: row for row in case["figures"]}
    floor = next((name for name in [*measured, *_against(case)] if name.startswith("floor")), "")
    cells = [case["what"], *(_spread(measured, name) for name in (*COLUMNS, floor))]
    for name, bounded in ((RSYNC.name, True), (RSYNC_AES.name, False), (floor, True)):
        row = ratio.get(f"seconds / {name}", {})
        cells.append(number(row.get("value")))
        if bounded:
            cells.append(number(row.get("bound")))
    return [*cells, case["verdict"]]


def _against(case: Document) -> list[str]:
    return [row["against"] for row in case["figures"] if row["against"]]


def others(found: Document) -> str:
    """CPU time beside rsync's, memory, literal data, bytes on the wire, and all else that has a bound."""
    rows = [["", "figure", "syncctl", "other", "ratio", "bound", ""]]
    for case in found["cases"]:
        for row in case["figures"]:
            told = row["bound"] is not None or (row["against"] == RSYNC.name and row["metric"] in ("wire", "literal"))
            if told and not case["skipped"] and not (row["metric"] == "seconds" and row["against"]):
                rows.append([case["what"], *_other(case, row)])
    return _table(rows)


def _other(case: Document, row: Document) -> list[str]:
    metric, against = row["metric"], row["against"]
    ours = OURS.name if OURS.name in case["measured"] else STATUS.name
    held = row["value"] is not None and row["bound"] is not None and row["value"] <= row["bound"]
    return [
        row["name"],
        _value(case, ours, metric),
        _value(case, against, metric) if against else "",
        number(row["value"]) if against else "",
        number(row["bound"]) if against else amount(metric, row["bound"]),
        "void" if case["wrong"] else "" if row["bound"] is None else "ok" if held else "over",
    ]


def _value(case: Document, contender: str, metric: str) -> str:
    value = case["measured"].get(contender, {}).get(metric, {}).get("median")
    return "-" if value is None else amount(metric, value)


def amount(metric: str, value: float) -> str:
    """A median, for people."""
    unit = figures.METRICS[metric]
    if unit == "s":
        return duration(value)
    if metric == "core_share":
        return f"{value:.2%}"
    if not unit:
        return f"{value:,.0f}"
    if unit == "MB":
        return f"{value:.0f} MB"
    return f"{value:,.0f} B" if value < 1e5 else f"{value / 1e6:,.2f} MB"


def duration(seconds: float) -> str:
    """Milliseconds below a second."""
    if seconds < 0.02:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def number(value: float | None) -> str:
    """A ratio or its bound."""
    return "" if value is None else f"{value:.2f}"


def _spread(measured: Document, name: str) -> str:
    found = measured.get(name, {}).get("seconds")
    if found is None:
        return ""
    return f"{duration(found['median'])} ({duration(found['least'])} - {duration(found['most'])})"


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * max(3, width) for width in widths) + " |")
    return "\n".join(lines)


def machine(installed: Installed, where: Path) -> Document:
    """Where the results come from."""
    return {
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
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
        "file_system": file_system(where),
        "sample_s": SAMPLE_S,
    }


def _first_line(*argv: str, **environ: str) -> str:
    try:
        ended = subprocess.run(argv, env={**os.environ, **environ}, cwd="/", capture_output=True)
    except OSError as e:
        return str(e)
    return (ended.stdout or ended.stderr).decode("utf-8", "replace").partition("\n")[0]


def _grep(path: str, key: str) -> str | None:
    with open(path) as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), None)
