"""docs/security.md says of every case of the fault matrix which tests stand for it, and says the truth."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.agents import ROOT
from tests.helpers.matrix import CASES, NONE, PASSES, ROW, with_tests


def collected() -> dict[str, list[str]]:
    """Case -> tests, by their marks."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fault-table", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    found = {row[0]: row[1:] for row in rows if row and row[0] in CASES}
    assert list(found) == CASES, done.stdout + done.stderr
    return {case: tests for case, tests in found.items() if tests != ["-"]}


def test_the_page_is_what_the_marks_say() -> None:
    page = (ROOT / "docs/security.md").read_text()
    assert [row["case"] for row in ROW.finditer(page)] == CASES
    assert with_tests(page, collected()) == page, "run 'pytest --fault-table=write'"


def test_what_has_no_test_has_a_reason() -> None:
    for row in ROW.finditer((ROOT / "docs/security.md").read_text()):
        assert (row["tests"] == NONE) == (row["result"] != PASSES), row[0]
        assert row["result"], row[0]
