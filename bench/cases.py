"""What is measured: trees, and the steps that each of them goes through.  Nothing here is known to the program."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_MTIME_NS = 1_700_000_000 * 10**9
_MIB = 1 << 20


class Source:
    """A tree at ``root`` that changes from run to run, reproducibly."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: list[str] = []
        self.random = random.Random(1)
        self._changes = 0

    def make(self, count: int, size: int, per_directory: int) -> None:
        """``count`` files of ``size`` random bytes each."""
        for number in range(count):
            directory = f"{self.root}/{size}/{number // per_directory:04}"
            if number % per_directory == 0:
                os.makedirs(directory)
            path = f"{directory}/{number:06}.bin"
            with open(path, "wb") as file:
                left = size
                while left:
                    left -= file.write(self.random.randbytes(min(left, 16 * _MIB)))
            os.utime(path, ns=(_MTIME_NS, _MTIME_NS))
            self.files.append(path)

    def append(self, count: int) -> None:
        """``count`` files of at most 64 KiB grow by a line."""
        small = [path for path in self.files if os.path.getsize(path) <= 64 << 10]
        for path in self.random.sample(small, count):
            with open(path, "ab") as file:
                file.write(self.random.randbytes(60) + b"\n")
            self._touch(path)

    def overwrite(self, count: int, size: int) -> None:
        """``count`` places of the first file get ``size`` other bytes each."""
        path = self.files[0]
        end = os.path.getsize(path) - size
        with open(path, "r+b") as file:
            for _ in range(count):
                file.seek(self.random.randrange(end))
                file.write(self.random.randbytes(size))
        self._touch(path)

    def _touch(self, path: str) -> None:
        """Every change gets a second of its own, lest a quick check misses it."""
        self._changes += 1
        when = _MTIME_NS + self._changes * 10**9
        os.utime(path, ns=(when, when))


class Step(NamedTuple):
    """One thing to measure."""

    name: str
    bound: float
    """syncctl's time as a share of rsync's: what we hold ourselves to."""
    fresh: bool = False
    """Whether the destination is missing before each run."""
    change: Callable[[Source], None] | None = None
    """Made to the source before each run."""


class Case(NamedTuple):
    """One tree and what it goes through, in order."""

    title: str
    build: Callable[[Source], None]
    steps: tuple[Step, ...]
    tree_mib: int


def _mixed(source: Source) -> None:
    source.make(1000, 4096, 100)
    source.make(8, 2 * _MIB, 8)


CASES = {
    "mixed": Case(
        "1,000 x 4 KiB + 8 x 2 MiB",
        _mixed,
        (
            Step("first", 0.60, fresh=True),
            Step("no change", 0.15),
            Step("100 files appended", 0.25, change=lambda source: source.append(100)),
        ),
        24,
    ),
    "many": Case(
        "100,000 x 4 KiB",
        lambda source: source.make(100_000, 4096, 500),
        (Step("first", 0.80, fresh=True), Step("no change", 0.60)),
        420,
    ),
    "large": Case(
        "one file of 1 GiB",
        lambda source: source.make(1, 1 << 30, 1),
        (
            Step("first", 0.90, fresh=True),
            Step("160 changes of 64 KiB", 1.0, change=lambda source: source.overwrite(160, 64 << 10)),
        ),
        1024,
    ),
}
