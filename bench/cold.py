"""Cold: what has to be moved, and what it may cost."""

from __future__ import annotations

from bench import trees
from bench.case import CHANGED, FIRST, LAN, PAIR, Case, cpu, literal, sync, time
from bench.contenders import FLOOR_TREE, OURS, OURS_ON_RANDOM, RSYNC, SSH_CAT
from bench.figures import Bound
from bench.wan import Wan

FLOOR = 1.25
"""The most of a floor's time."""

_CHANGES_S = 120.0
_WAN = Wan(50, 200)
_FAT = Wan(100, 1000)

CASES: tuple[Case, ...] = (
    sync("small-first", "small", FIRST, "first sync", time(0.30), cpu(), quick=True),
    sync(
        "many-first",
        "many",
        FIRST,
        "first sync",
        time(0.45),
        time(FLOOR, FLOOR_TREE),
        cpu(),
        contenders=(*LAN, FLOOR_TREE),
        quick=True,
    ),
    sync(
        "many-pull",
        "many",
        FIRST,
        "first sync, pull",
        time(0.45),
        time(FLOOR, FLOOR_TREE),
        cpu(),
        contenders=(OURS, RSYNC, FLOOR_TREE),
        pull=True,
        quick=True,
    ),
    sync(
        "many-disk",
        "many",
        FIRST,
        "first sync, on a disk's file system, synced to disk in batches",
        time(1.0),
        contenders=(OURS, RSYNC, FLOOR_TREE),
        disk=True,
    ),
    sync(
        "many-unsynced",
        "many",
        FIRST,
        "first sync, on a disk's file system, --fsync never",
        time(0.75),
        contenders=(OURS, RSYNC, FLOOR_TREE),
        disk=True,
        syncctl=("--fsync=never",),
    ),
    sync(
        "million-first",
        "million",
        FIRST,
        "first sync",
        time(0.40),
        Bound("rss_mb", None, 250),
        Bound("first_file_s", None, 0.2),
        cpu(),
        contenders=PAIR,
    ),
    sync("real-first", "real", FIRST, "first sync", time(0.55), cpu(), contenders=PAIR),
    sync(
        "large-first",
        "large",
        FIRST,
        "first sync",
        time(0.70),
        time(FLOOR, SSH_CAT),
        cpu(),
        contenders=(*LAN, SSH_CAT),
        runs=7,
        quick=True,
    ),
    sync(
        "large-changes",
        "large",
        CHANGED,
        "160 pieces of 64 KiB changed",
        time(0.50),
        literal(),
        change=trees.overwrite_pieces,
        runs=7,
        quick=True,
    ),
    sync(
        "large-insert",
        "large",
        CHANGED,
        "15 bytes inserted at the front",
        time(0.60),
        literal(),
        change=trees.insert_at_front,
        runs=7,
    ),
    sync("links-first", "links", FIRST, "first sync, rsync with -H", time(0.50), cpu(), rsync=("-H",)),
    sync("wan-small", "small", FIRST, f"first sync, {_WAN.what}", time(0.65), contenders=PAIR, wan=_WAN),
    sync(
        "wan-sources",
        "sources",
        FIRST,
        f"first sync, {_WAN.what}, rsync with -z",
        time(0.80),
        contenders=PAIR,
        wan=_WAN,
        rsync=("-z",),
    ),
    sync("wan-half", "half", FIRST, f"first sync, {_FAT.what}", time(0.25), contenders=PAIR, wan=_FAT),
    sync(
        "repeated",
        "repeated",
        CHANGED,
        "shifted by one",
        time(1.0),
        cpu(3.0, OURS_ON_RANDOM),
        contenders=(OURS, OURS_ON_RANDOM, RSYNC),
        change=trees.shift_by_one,
        runs=3,
        limit_s=_CHANGES_S,
    ),
    sync(
        "colliding",
        "colliding",
        CHANGED,
        "replaced by another that collides with it",
        cpu(3.0, OURS_ON_RANDOM),
        contenders=(OURS, OURS_ON_RANDOM),
        before=trees.collide_before,
        change=trees.collide_after,
        runs=3,
        limit_s=_CHANGES_S,
    ),
    sync(
        "sparse-first",
        "sparse",
        FIRST,
        "first sync, rsync with -S",
        time(1.0),
        Bound("rss_mb", None, 200),
        contenders=PAIR,
        rsync=("-S",),
        runs=3,
    ),
)
