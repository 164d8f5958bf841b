"""The log's lines: one a record, whatever a peer named."""

from __future__ import annotations

import json
import logging

import pytest

from agentd.log import LineFormatter

HOSTILE = "a\nFAKE \x1b[31m\x9b\N{RIGHT-TO-LEFT OVERRIDE}\udcff\x00"


def record(level: int = logging.WARNING, message: str = "said %s", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("agentd.x", level, __file__, 1, message, (HOSTILE,), None)
    vars(made).update(extra)
    return made


def test_a_line_stays_a_line() -> None:
    line = LineFormatter().format(record(root=HOSTILE))
    assert line.isprintable()
    assert "a\\nFAKE" in line
    assert " WARNING agentd.x: said " in line
    assert " root=a\\nFAKE" in line


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)]
)
def test_the_journal_s_priorities(level: int, priority: int) -> None:
    line = LineFormatter(priorities=True).format(record(level, message="x %s"))
    assert line.startswith(f"<{priority}>agentd.x: x a")
    assert "\n" not in line


def test_json_lines_can_be_read_again() -> None:
    line = LineFormatter(as_json=True).format(record(root=HOSTILE))
    assert line.isascii()
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["root"]) == ("warning", "agentd.x", HOSTILE)


def test_a_defect_leaves_its_traceback() -> None:
    made = record()
    try:
        raise ValueError("unheard of")
    except ValueError as e:
        made.exc_info = (type(e), e, e.__traceback__)
    assert "ValueError: unheard of" in LineFormatter().format(made)
    assert "ValueError: unheard of" in json.loads(LineFormatter(as_json=True).format(made))["traceback"]
