"""Files with holes: making them, and comparing them without reading the holes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MIB = 1 << 20


def make(path: Path, size: int, data: Mapping[int, bytes]) -> None:
    """A file of ``size`` bytes with ``data`` at their offsets, and holes elsewhere."""
    with path.open("wb") as file:
        for offset, content in data.items():
            file.seek(offset)
            file.write(content)
        file.truncate(size)


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the stretches with data."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, at


def same(one: Path, other: Path) -> bool:
    """Whether two files read the same."""
    size = one.stat().st_size
    if size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        for file in (a, b):
            for begin, end in list(extents(file.fileno(), size)):
                for at in range(begin, end, MIB):
                    length = min(MIB, end - at)
                    if os.pread(a.fileno(), length, at) != os.pread(b.fileno(), length, at):
                        return False
    return True


def held(path: Path) -> int:
    """Bytes of storage that a file takes."""
    return path.stat().st_blocks * 512
