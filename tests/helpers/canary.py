"""A tree that nothing may touch, and directories that turn into symlinks to it and back."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FLIP = Path(__file__).with_name("flip.py")
_LONG_AGO_NS = 10**9


class Canary:
    """A tree, and all that lstat and reading say of it; also whether it is read, where the file system keeps that."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._contents = self._read()
        self._paths = list(self._contents)
        for path in self._paths:
            if not os.path.islink(path):
                # relatime moves the time of access when it is older than that of modification
                os.utime(path, ns=(_LONG_AGO_NS, os.stat(path).st_mtime_ns))
        self._status = self._look()

    def check(self) -> None:
        """Fail when anything about it changed; once."""
        assert self._look() == self._status
        assert self._read() == self._contents

    def _look(self) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for path in self._paths:
            status = os.lstat(path)
            found.append((path, *status[:7], status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns))
        return found

    def _read(self) -> dict[str, bytes]:
        paths = (self._top, *self._top.rglob("*"))
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


@contextmanager
def flipping(one: Path, two: Path, target: Path) -> Iterator[None]:
    """A directory and a symlink to ``target`` change places all the time within."""
    process = subprocess.Popen([sys.executable, FLIP, one, two, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield
        out, _ = process.communicate(timeout=20)
        exchanges, links = map(int, out.split())
        print(f"{exchanges} exchanges of {links} links")
        assert exchanges >= 100
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
