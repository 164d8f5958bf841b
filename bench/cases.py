"""What is measured, and the bound of each figure."""

from __future__ import annotations

from bench import cold, live, unreadable, warm, watched
from bench.case import AGAIN, CHANGED, FIRST, Case
from bench.contenders import OURS, STATUS
from bench.figures import Bound

__all__ = ["AGAIN", "CASES", "CHANGED", "FIRST", "IDLE_CASE", "STATUS_CASE", "Case", "selected"]

STATUS_CASE = Case(
    "status",
    "`syncctl status`, the whole process",
    None,
    AGAIN,
    (Bound("seconds", None, 0.035),),
    (STATUS,),
    quick=True,
)
IDLE_CASE = Case(
    "idle",
    "an idle agent with one warm link by ssh, its children included",
    None,
    AGAIN,
    (Bound("pss_mb", None, 60),),
    (OURS,),
    quick=True,
)

CASES: dict[str, Case] = {
    case.name: case
    for case in (*cold.CASES, *warm.CASES, *live.CASES, *watched.CASES, *unreadable.CASES, STATUS_CASE, IDLE_CASE)
}


def selected(names: list[str] | None, *, full: bool) -> list[Case]:
    """The cases of these names or trees; without any, those of the short or the full set."""
    if not names:
        return [case for case in CASES.values() if full or case.quick]
    return [case for case in CASES.values() if {case.name, case.tree.name if case.tree else ""} & set(names)]
