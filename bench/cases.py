"""What is measured, and the bound of each figure."""

from __future__ import annotations

from typing import NamedTuple

from bench.trees import TREES, Tree

FIRST, AGAIN, CHANGED = "first", "again", "changed"
"""Steps: to a destination that is not there; with nothing changed; after the tree's change."""


class SyncCase(NamedTuple):
    """A sync by every contender.  ``bound`` is of syncctl's median divided by that of rsync as it comes."""

    name: str
    what: str
    tree: Tree
    step: str
    bound: float


class OwnCase(NamedTuple):
    """A figure of syncctl's alone, in ``unit``."""

    name: str
    what: str
    unit: str
    bound: float


Case = SyncCase | OwnCase

STATUS = OwnCase("status", "`syncctl status`, the whole process", "ms", 35)
IDLE = OwnCase("idle", "an idle agent with one warm link by ssh, its children included: PSS", "MB", 60)

_SMALL, _MANY, _LARGE = TREES["small"], TREES["many"], TREES["large"]

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        SyncCase("small-first", f"{_SMALL.what}: first sync", _SMALL, FIRST, 0.60),
        SyncCase("small-again", f"{_SMALL.what}: nothing changed", _SMALL, AGAIN, 0.15),
        SyncCase("small-append", f"{_SMALL.what}: a line appended to 100 files", _SMALL, CHANGED, 0.25),
        SyncCase("many-first", f"{_MANY.what}: first sync", _MANY, FIRST, 0.80),
        SyncCase("many-again", f"{_MANY.what}: nothing changed", _MANY, AGAIN, 0.60),
        SyncCase("large-first", f"{_LARGE.what}: first sync", _LARGE, FIRST, 0.90),
        SyncCase("large-changes", f"{_LARGE.what}: 160 pieces of 64 KiB changed", _LARGE, CHANGED, 1.0),
        STATUS,
        IDLE,
    )
}
