"""One case: what is synced, by whom, and the bounds of its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bench.contenders import OURS, RSYNC, RSYNC_AES, Contender
from bench.figures import Bound
from bench.trees import TREES, Tree

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.figures import Run
    from bench.hosts import Hosts
    from bench.wan import Wan

    Measure = Callable[[Hosts, Path], Iterator[Run]]

FIRST, AGAIN, CHANGED = "first", "again", "changed"
"""Steps: to a destination that is not there; with nothing changed; after a change."""

LAN = (OURS, RSYNC, RSYNC_AES)
PAIR = (OURS, RSYNC)


class Lacking(Exception):  # noqa: N818 - a reason to skip, no failure
    """What a live case would need and this machine does not have, for a person."""


class Case(NamedTuple):
    """A sync by every contender, or something of syncctl's alone (without a tree)."""

    name: str
    what: str
    tree: Tree | None
    step: str
    bounds: tuple[Bound, ...]
    contenders: tuple[Contender, ...] = LAN
    change: Callable[[Path, random.Random], None] | None = None
    """What happens to the tree before each round."""
    before: Callable[[Path, random.Random], None] | None = None
    """What the tree becomes before that, synced outside of the time."""
    pull: bool = False
    wan: Wan | None = None
    disk: bool = False
    """On a real file system."""
    delete: bool = True
    """With ``--delete``."""
    extras: Callable[[Path], None] | None = None
    """What somebody else puts into each destination after the first sync."""
    ordinary: bool = False
    """Of a live case: by an account without privileges, made for it."""
    restart: bool = False
    """Before each run both agents are started anew, and linked."""
    rsync: tuple[str, ...] = ()
    """rsync's options beyond ``-a`` and ``--delete``."""
    syncctl: tuple[str, ...] = ()
    """syncctl's options beyond ``--delete``."""
    runs: int = 5
    limit_s: float = 900.0
    """For one run."""
    quick: bool = False
    """In the short set."""
    live: Measure | None = None
    """How it is measured, when that is no matter of turns: with agents of its own.  Raises what went wrong; Lacking."""


def time(most: float, against: Contender = RSYNC) -> Bound:
    """The most of another's time."""
    return Bound("seconds", against.name, most)


def cpu(most: float = 1.0, against: Contender = RSYNC) -> Bound:
    """The most of another's CPU time."""
    return Bound("cpu_s", against.name, most)


def literal() -> Bound:
    """Literal data, of rsync's."""
    return Bound("literal", RSYNC.name, 1.2)


def sync(name: str, tree: str, step: str, what: str, *bounds: Bound, **options: Any) -> Case:
    """A sync of the tree of that name."""
    return Case(name, f"{TREES[tree].what}: {what}", TREES[tree], step, bounds, **options)
