"""What is measured, and the bound of each figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bench import trees
from bench.contenders import FLOOR_TREE, OURS, OURS_ON_RANDOM, RSYNC, RSYNC_AES, SSH_CAT, STATUS, Contender
from bench.figures import Bound
from bench.trees import TREES, Tree
from bench.wan import Wan

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

FIRST, AGAIN, CHANGED = "first", "again", "changed"
"""Steps: to a destination that is not there; with nothing changed; after a change."""

FLOOR = 1.25
"""The most of a floor's time."""

_LAN = (OURS, RSYNC, RSYNC_AES)
_CHANGES_S = 120.0


class Case(NamedTuple):
    """A sync by every contender, or something of syncctl's alone (without a tree)."""

    name: str
    what: str
    tree: Tree | None
    step: str
    bounds: tuple[Bound, ...]
    contenders: tuple[Contender, ...] = _LAN
    change: Callable[[Path, random.Random], None] | None = None
    """What happens to the tree before each round."""
    before: Callable[[Path, random.Random], None] | None = None
    """What the tree becomes before that, synced outside of the time."""
    pull: bool = False
    wan: Wan | None = None
    disk: bool = False
    """On a real file system."""
    rsync: tuple[str, ...] = ()
    """rsync's options beyond ``-a --delete``."""
    runs: int = 5
    limit_s: float = 900.0
    """For one run."""
    quick: bool = False
    """In the short set."""


def _time(most: float, against: Contender = RSYNC) -> Bound:
    return Bound("seconds", against.name, most)


def _cpu(most: float = 1.0, against: Contender = RSYNC) -> Bound:
    return Bound("cpu_s", against.name, most)


def _literal() -> Bound:
    return Bound("literal", RSYNC.name, 1.2)


def _tree(name: str, tree: str, step: str, what: str, *bounds: Bound, **options: Any) -> Case:
    return Case(name, f"{TREES[tree].what}: {what}", TREES[tree], step, bounds, **options)


_WAN = Wan(50, 200)
_FAT = Wan(100, 1000)

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
    for case in (
        _tree("small-first", "small", FIRST, "first sync", _time(0.30), _cpu(), quick=True),
        _tree("small-again", "small", AGAIN, "nothing changed", _time(0.15), contenders=(*_LAN, STATUS), quick=True),
        _tree(
            "small-append",
            "small",
            CHANGED,
            "a line appended to 100 files",
            _time(0.25),
            change=trees.append_lines,
            quick=True,
        ),
        _tree(
            "many-first",
            "many",
            FIRST,
            "first sync",
            _time(0.45),
            _time(FLOOR, FLOOR_TREE),
            _cpu(),
            contenders=(*_LAN, FLOOR_TREE),
            quick=True,
        ),
        _tree(
            "many-pull",
            "many",
            FIRST,
            "first sync, pull",
            _time(0.45),
            _time(FLOOR, FLOOR_TREE),
            _cpu(),
            contenders=(OURS, RSYNC, FLOOR_TREE),
            pull=True,
            quick=True,
        ),
        _tree("many-again", "many", AGAIN, "nothing changed", _time(0.60), contenders=(*_LAN, STATUS), quick=True),
        _tree(
            "many-disk",
            "many",
            FIRST,
            "first sync, on a disk's file system",
            _time(0.75),
            contenders=(OURS, RSYNC, FLOOR_TREE),
            disk=True,
        ),
        _tree(
            "million-first",
            "million",
            FIRST,
            "first sync",
            _time(0.40),
            Bound("rss_mb", None, 250),
            Bound("first_file_s", None, 0.2),
            _cpu(),
            contenders=(OURS, RSYNC),
        ),
        _tree("real-first", "real", FIRST, "first sync", _time(0.55), _cpu(), contenders=(OURS, RSYNC)),
        _tree(
            "large-first",
            "large",
            FIRST,
            "first sync",
            _time(0.70),
            _time(FLOOR, SSH_CAT),
            _cpu(),
            contenders=(*_LAN, SSH_CAT),
            runs=7,
            quick=True,
        ),
        _tree(
            "large-changes",
            "large",
            CHANGED,
            "160 pieces of 64 KiB changed",
            _time(0.50),
            _literal(),
            change=trees.overwrite_pieces,
            runs=7,
            quick=True,
        ),
        _tree(
            "large-insert",
            "large",
            CHANGED,
            "15 bytes inserted at the front",
            _time(0.60),
            _literal(),
            change=trees.insert_at_front,
            runs=7,
        ),
        _tree("links-first", "links", FIRST, "first sync, rsync with -H", _time(0.50), _cpu(), rsync=("-H",)),
        _tree("wan-small", "small", FIRST, f"first sync, {_WAN.what}", _time(0.65), contenders=(OURS, RSYNC), wan=_WAN),
        _tree(
            "wan-sources",
            "sources",
            FIRST,
            f"first sync, {_WAN.what}, rsync with -z",
            _time(0.80),
            contenders=(OURS, RSYNC),
            wan=_WAN,
            rsync=("-z",),
        ),
        _tree("wan-half", "half", FIRST, f"first sync, {_FAT.what}", _time(0.25), contenders=(OURS, RSYNC), wan=_FAT),
        _tree(
            "repeated",
            "repeated",
            CHANGED,
            "shifted by one",
            _time(1.0),
            _cpu(3.0, OURS_ON_RANDOM),
            contenders=(OURS, OURS_ON_RANDOM, RSYNC),
            change=trees.shift_by_one,
            runs=3,
            limit_s=_CHANGES_S,
        ),
        _tree(
            "colliding",
            "colliding",
            CHANGED,
            "replaced by another that collides with it",
            _cpu(3.0, OURS_ON_RANDOM),
            contenders=(OURS, OURS_ON_RANDOM),
            before=trees.collide_before,
            change=trees.collide_after,
            runs=3,
            limit_s=_CHANGES_S,
        ),
        _tree(
            "sparse-first",
            "sparse",
            FIRST,
            "first sync, rsync with -S",
            _time(1.0),
            Bound("rss_mb", None, 200),
            contenders=(OURS, RSYNC),
            rsync=("-S",),
            runs=3,
        ),
        STATUS_CASE,
        IDLE_CASE,
    )
}


def selected(names: list[str] | None, *, full: bool) -> list[Case]:
    """The cases of these names or trees; without any, those of the short or the full set."""
    if not names:
        return [case for case in CASES.values() if full or case.quick]
    return [case for case in CASES.values() if {case.name, case.tree.name if case.tree else ""} & set(names)]
