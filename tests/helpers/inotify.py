"""Whatever changes below a directory, as the kernel tells it."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHANGES = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""linux/inotify.h: modified, attributes, closed behind writing, moved from and to, created, deleted, itself of both."""

_EVENT = struct.Struct("iIII")


@contextmanager
def changes(root: Path) -> Iterator[Callable[[], list[str]]]:
    """Watch every directory below ``root``; the function says what happened since: ``MASK NAME``, a line each."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd >= 0, os.strerror(ctypes.get_errno())

    def told() -> list[str]:
        found = []
        try:
            while data := os.read(fd, 1 << 16):
                at = 0
                while at < len(data):
                    _, mask, _, length = _EVENT.unpack_from(data, at)
                    at += _EVENT.size + length
                    found.append(f"{mask:x} {data[at - length : at].rstrip(bytes(1))!r}")
        except BlockingIOError:
            return found
        return found

    try:
        for directory, _, _ in os.walk(os.fsencode(root)):
            assert libc.inotify_add_watch(fd, directory, _CHANGES) >= 0, os.strerror(ctypes.get_errno())
        yield told
    finally:
        os.close(fd)
