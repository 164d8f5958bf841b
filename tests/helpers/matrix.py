"""The numbered cases of the fault matrix, and which tests carry their numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pytest

SECTIONS = {"A": 17, "B": 11, "C": 13, "D": 10, "E": 9, "F": 14, "G": 10, "W": 10, "X": 7, "S": 3}
"""Section -> how many cases it has."""

CASES = [f"{section}{number}" for section, count in SECTIONS.items() for number in range(1, count + 1)]


def fault_table(items: Iterable[pytest.Item]) -> Mapping[str, list[str]]:
    """Case -> the tests marked with ``@pytest.mark.fault``, without their parameters; a number that is none fails."""
    found: dict[str, list[str]] = defaultdict(list)
    for item in items:
        test = item.nodeid.partition("[")[0]
        for mark in item.iter_markers("fault"):
            for case in mark.args:
                if case not in CASES:
                    raise ValueError(f"{item.nodeid}: the fault matrix has no case {case!r}")
                if test not in found[case]:
                    found[case].append(test)
    return {case: found[case] for case in CASES if case in found}


ROW = re.compile(
    r"^\| (?P<case>[A-Z]\d+) \| (?P<fault>[^|]*) \| (?P<tests>[^|]*) \| (?P<result>[^|]*) \|$", re.MULTILINE
)
"""Of the table in docs/security.md.  Without tests the result says why."""

NONE, PASSES = "-", "passes"


def with_tests(page: str, table: Mapping[str, list[str]]) -> str:
    """The page with the modules of ``table`` in its rows; the reasons of cases without tests stay."""

    def row(found: re.Match[str]) -> str:
        tests = table.get(found["case"], [])
        modules = sorted({test.partition("::")[0].rpartition("/")[2].removesuffix(".py") for test in tests})
        result = PASSES if modules else "not there yet" if found["result"] == PASSES else found["result"]
        return f"| {found['case']} | {found['fault']} | {', '.join(modules) or NONE} | {result} |"

    return ROW.sub(row, page)
