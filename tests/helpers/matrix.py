"""The numbered cases of the fault matrix, and which tests carry their numbers."""

from __future__ import annotations

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
