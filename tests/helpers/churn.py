"""Random operations on a tree, as whatever runs on a machine does them: seeded, and over the tree's edge."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import time
from contextlib import suppress
from stat import S_IMODE
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIST_EVERY = 8
"""Steps that choose from one listing of the tree; some of what it names is gone then."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Churn:
    """Random operations below ``root``, and between it and a directory outside: one beside it, unless it is given."""

    def __init__(self, root: Path, seed: int, outside: Path | None = None) -> None:
        self.root, self.outside = root, outside or root.parent / "outside"
        self.outside.mkdir(exist_ok=True)
        self.random = random.Random(seed)
        self.count = 0
        self.lone: list[Path] = []
        self._listed: list[Path] = []
        self._steps = 0
        self._operations = (
            self._write, self._write, self._write, self._append, self._replace, self._mkdir, self._mkdir, self._mkdir,
            self._move, self._move, self._swap, self._put_over, self._out, self._in, self._in, self._remove, self._link,
            self._link_from_outside, self._outside_write, self._chmod, self._times, self._symlink,
        )  # fmt: skip

    def step(self) -> None:
        """One operation, or none: an odd pair of random paths, a directory into itself, cannot be moved."""
        if self._steps % LIST_EVERY == 0:
            with suppress(FileNotFoundError):  # somebody else may be at work there, too
                self._listed = sorted(self.root.rglob("*"))
        self._steps += 1
        try:
            self.random.choice(self._operations)()
        except OSError:
            pass

    def run(self, steps: int, pause_s: float = 0.0) -> None:
        """So many, in bursts; up to ``pause_s`` between them."""
        while steps > 0:
            burst = min(steps, self.random.choice((1, 3, 20, 150)))
            for _ in range(burst):
                self.step()
            steps -= burst
            time.sleep(self.random.uniform(0, pause_s))

    def _some(self) -> Path:
        return self.random.choice([*self._listed, self.root])

    def _some_deep(self) -> Path:
        """What is to vanish: seldom most of the tree at once."""
        return max((self._some() for _ in range(4)), key=lambda path: len(path.parts))

    def _some_directory(self) -> Path:
        directories = [path for path in self._listed if path.is_dir() and not path.is_symlink()]
        return self.random.choice([*directories, self.root])

    def _new(self) -> Path:
        parent = self._some()
        if not parent.is_dir() or parent.is_symlink():
            parent = parent.parent
        self.count += 1
        fresh = [f"n{self.count}", "same"]
        return parent / self.random.choice(fresh)

    def _write(self) -> None:
        self._new().write_bytes(self.random.randbytes(self.random.randrange(20)))

    def _append(self) -> None:
        with self._some().open("ab") as file:
            file.write(b"more")

    def _replace(self) -> None:
        path = self._some()
        temporary = path.parent / f".{self.count}.tmp"
        temporary.write_bytes(self.random.randbytes(20))
        temporary.replace(path)

    def _mkdir(self) -> None:
        path = self._new() / "d" / "e"
        path.mkdir(parents=True)
        (path / "f").write_bytes(b"within")

    def _move(self) -> None:
        self._some().rename(self.random.choice([self._new(), self._some()]))

    def _swap(self) -> None:
        names = (os.fsencode(self._some_directory()), os.fsencode(self._some_directory()))
        _libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)

    def _put_over(self) -> None:
        moved, target = self._some_directory(), self._some_directory()
        if self.root not in (moved, target) and moved not in target.parents and target not in moved.parents:
            shutil.rmtree(target)
            moved.rename(target)

    def _out(self) -> None:
        self.count += 1
        path = self._some_deep()
        if path != self.root:
            path.rename(self.outside / f"o{self.count}")

    def _in(self) -> None:
        self.random.choice(sorted(self.outside.iterdir()) or [self.outside / "none"]).rename(self._new())

    def _remove(self) -> None:
        path = self._some_deep()
        if path == self.root:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _link(self) -> None:
        os.link(self._some(), self._new(), follow_symlinks=False)

    def _link_from_outside(self) -> None:
        # Not the other way round: of a name that a file gets elsewhere no directory's watch tells.
        self.count += 1
        lone = self.outside / f"l{self.count}"
        lone.write_bytes(b"lone")
        os.link(lone, self._new())
        self.lone.append(lone)

    def _outside_write(self) -> None:
        if self.lone:
            self.random.choice(self.lone).write_bytes(self.random.randbytes(5))

    def _chmod(self) -> None:
        path = self._some()
        if not path.is_symlink():
            path.chmod(S_IMODE(path.stat().st_mode) ^ self.random.choice([0o10, 0o4, 0o40]))

    def _times(self) -> None:
        os.utime(self._some(), ns=(0, self.random.randrange(10**18)), follow_symlinks=False)

    def _symlink(self) -> None:
        self._new().symlink_to(self.random.choice(["same", "..", "d"]))
