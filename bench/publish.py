"""Puts results into ``docs/``: the charts, and the tables between the marks in ``docs/performance.md``.

python -m bench.publish [RESULT.json]...      the newest result, or these together
python -m bench.publish --markdown FILE ...   only the tables, into FILE (- is stdout)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench import report
from bench.cases import CASES
from bench.charts import chart
from bench.gate import parse

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- figures: make bench-charts writes what is between these marks -->", "<!-- end of figures -->"

Document = dict[str, Any]


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description="Results into docs/.")
    parser.add_argument("--markdown", metavar="FILE", help="write only the tables, there")
    arguments, document = parse(parser)
    found = in_order(document)
    if arguments.markdown:
        text = report.tables(found)
        sys.stdout.write(text) if arguments.markdown == "-" else Path(arguments.markdown).write_text(text)
        return 0
    page = DOCS / "performance.md"
    page.write_text(between_marks(page.read_text(), section(found)))
    for name, (title, cases) in groups(found).items():
        (DOCS / f"performance-{name}.svg").write_text(chart(title, cases))
    return 0


def in_order(found: Document) -> Document:
    """The cases as ``--list`` has them, whatever file they come from."""
    order = list(CASES)
    known = [case for case in found["cases"] if case["name"] in order]
    return {**found, "cases": sorted(known, key=lambda case: order.index(case["name"]))}


def groups(found: Document) -> dict[str, tuple[str, list[Document]]]:
    """Charts by file name: title and cases."""
    slow = [case for case in found["cases"] if case["name"].startswith("wan-")]
    near = [case for case in found["cases"] if case not in slow]
    first = [case for case in near if "first sync" in case["what"]]
    return {
        "first": ("First sync", first),
        "changes": ("Again, and changes", [case for case in near if case not in first]),
        "network": ("First sync over a slow network", slow),
    }


def section(found: Document) -> str:
    """The page's part that is made from results."""
    where, versions = found["machine"], found["versions"]
    rsync = versions["rsync"].partition(" protocol")[0].replace("  version", "").strip()
    ssh = versions["ssh"].partition(",")[0]
    head = (
        f"{where['cores']} cores ({where['cpu']}), {where['memory']}, {where['kernel']}, Python {versions['python']}, "
        f"{ssh}, {rsync}, {versions['syncctl']}; {found['begun'][:10]}. {conditions(found['cases'])}"
    )
    pictures = "\n\n".join(
        f"![{title}](performance-{name}.svg)" for name, (title, cases) in groups(found).items() if cases
    )
    return f"{head}\n\n{pictures}\n\n{report.times(found)}\n\n{report.others(found)}"


def conditions(cases: list[Document]) -> str:
    """How often it was measured, and how busy the machine was."""
    rounds, loads = {case["rounds"] for case in cases} - {0}, [case["load_1min"] for case in cases if case["rounds"]]
    if not rounds:
        return ""
    runs = f"{min(rounds)}" if len(rounds) == 1 else f"{min(rounds)} to {max(rounds)}"
    return f"Medians of {runs} runs; load average before the cases {min(loads):.1f} to {max(loads):.1f}."


def between_marks(page: str, text: str) -> str:
    """The page with its section replaced.  Raises ValueError when it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
