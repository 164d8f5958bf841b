"""File systems of their own in image files, and ways to take the power from them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
_SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN, of include/uapi/linux/fs.h."""
_NOLOGFLUSH = 2
_FICLONE = 0x40049409
_IMAGE_BYTES = 320 << 20
"""xfs takes 300 MiB or more."""


def make(kind: str, image: Path, size: int = _IMAGE_BYTES) -> None:
    """A new file system of ``kind``.  Skips the test where that cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    command = KINDS[kind]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*command, image], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """The image's file system at ``at``, which is made."""
    at.mkdir(exist_ok=True)
    took = subprocess.run(["mount", "-o", "loop", image, at], check=False, capture_output=True, text=True)
    if took.returncode != 0:
        pytest.skip(f"no loop mounts here: {took.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def copy(image: Path, to: Path) -> Path:
    """What is in an image that is not mounted."""
    subprocess.run(["cp", "--sparse=always", image, to], check=True)
    return to


def clone(image: Path, to: Path) -> None:
    """What is in an image that is in use, as of one moment: a copy block by block would hold what was
    written later beside what was written before."""
    with image.open("rb") as file, to.open("wb") as made:
        fcntl.ioctl(made, _FICLONE, file.fileno())


def can_shut_down(at: Path) -> bool:
    """Whether the file system knows that call; one that does not answers so whatever it is asked."""
    fd = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", 0xFFFF))
    except OSError as e:
        return e.errno not in (errno.ENOTTY, errno.EOPNOTSUPP)
    finally:
        os.close(fd)
    return True


def cut_power(fd: int) -> None:
    """From now on nothing is written, the journal's own memory included: ``fd`` is a directory of the file system."""
    fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
