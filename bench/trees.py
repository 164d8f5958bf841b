"""The trees that are synced, and what happens to them between two syncs.

Contents do not compress, and neither program knows a name or a size in advance.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

APPENDED_FILES = 100
LINE = b"one more line\n"
CHANGES = 160
CHANGE_BYTES = 64 * KIB


class Tree(NamedTuple):
    """A kind of source."""

    name: str
    what: str
    build: Callable[[Path], None]
    """Make it at a path that is not there."""
    change: Callable[[Path, random.Random], None]
    """What happens to it before a run of a case that syncs changes."""
    room_bytes: int
    """The most that it takes with a destination for each program, and a copy that is being written."""


def small_files(root: Path, *, directories: int, each: int) -> None:
    """``directories`` of ``each`` files of 4 KiB."""
    for directory in range(directories):
        at = root / f"d{directory:03}"
        at.mkdir(parents=True)
        for number in range(each):
            (at / f"f{number:05}").write_bytes(os.urandom(4 * KIB))


def large_file(path: Path, mib: int) -> None:
    """A file of that size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))


def append_lines(root: Path, rng: random.Random) -> None:
    """A line at the end of 100 of the small files."""
    for path in rng.sample(sorted(root.glob("d*/f*")), APPENDED_FILES):
        with path.open("ab") as file:
            file.write(LINE)


def overwrite_pieces(root: Path, rng: random.Random) -> None:
    """160 new pieces of 64 KiB each, at any byte of the file."""
    with (root / "large").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for _ in range(CHANGES):
            file.seek(rng.randrange(size - CHANGE_BYTES + 1))
            file.write(os.urandom(CHANGE_BYTES))


def _build_small(root: Path) -> None:
    small_files(root, directories=10, each=100)
    for number in range(8):
        large_file(root / f"large{number}", 2)


def _build_many(root: Path) -> None:
    small_files(root, directories=100, each=1000)


def _build_large(root: Path) -> None:
    large_file(root / "large", 1024)


TREES = {
    tree.name: tree
    for tree in (
        Tree("small", "1,000 files of 4 KiB, 8 of 2 MiB", _build_small, append_lines, 128 * MIB),
        Tree("many", "100,000 files of 4 KiB", _build_many, append_lines, 2 * GIB),
        Tree("large", "one file of 1 GiB", _build_large, overwrite_pieces, 5 * GIB + 128 * MIB),
    )
}
