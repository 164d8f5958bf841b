"""A place on a disk's file system.

A file system that is mounted with ``discard`` tells the disk of every file that goes; to remove 100,000 of them took
two minutes on such a one, between runs of four seconds.  There, where we may, the place is an ext4 file system of its
own in an image, which goes as one file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE_BYTES, IMAGE_FILES = 4 << 30, 600_000


@contextlib.contextmanager
def place(where: str) -> Iterator[Path]:
    """An empty directory below ``where``, which is made; gone afterwards."""
    os.makedirs(where, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="syncctl-bench-", dir=where) as directory:
        top = Path(directory)
        if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or "discard" not in _mount_options(top):
            yield top
            return
        image, mounted = top / "image", top / "mounted"
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-N", str(IMAGE_FILES), image], check=True)
        try:
            subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
            inner = mounted / "trees"
            inner.mkdir()
            yield inner
        finally:
            if mounted.is_mount():
                subprocess.run(["umount", mounted], check=True)


def _mount_options(path: Path) -> list[str]:
    said = subprocess.run(["stat", "-c", "%m", path], capture_output=True, text=True, check=True).stdout.strip()
    with open("/proc/self/mounts") as file:
        found = [line.split() for line in file]
    return next((fields[3].split(",") for fields in reversed(found) if fields[1] == said), [])
