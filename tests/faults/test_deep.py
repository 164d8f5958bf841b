"""Paths longer than the kernel takes, and directories deeper than a stack: synced, changed, moved and deleted."""

from __future__ import annotations

import os
import stat
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from agentd import _core
from tests.helpers.hosts import short_directory
from tests.helpers.joined import sync
from tests.helpers.warm_pair import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

SHAPES = {
    "long": [b"n" * 250 + b"%04d" % number for number in range(40)],  # 10,199 bytes
    "deep": [b"d"] * 2000,
}


@pytest.fixture
def top() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory
        # which, unlike the standard library, knows paths of any length
        subprocess.run(["rm", "-rf", *directory.iterdir()], check=True)


@contextmanager
def opened(top: Path, names: list[bytes], *, make: bool = False) -> Iterator[int]:
    """The directory at the end of all these names."""
    fd = os.open(top, FLAGS)
    try:
        for name in names:
            if make:
                os.mkdir(name, dir_fd=fd)
            inner = os.open(name, FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def write(directory: int, name: str, content: bytes) -> None:
    with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=directory), "wb") as file:
        file.write(content)


def everything(top: Path) -> list[tuple[object, ...]]:
    """All that a sync is to keep, level by level: of the directories of a level one has directories in it."""
    found: list[tuple[object, ...]] = []
    fd = os.open(top, FLAGS)
    for depth in range(10_000):
        deeper: list[str] = []
        for name in sorted(os.listdir(fd)):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            content = b""
            if stat.S_ISREG(status.st_mode):
                with open(os.open(name, os.O_RDONLY, dir_fd=fd), "rb") as file:
                    content = file.read()
            elif stat.S_ISDIR(status.st_mode):
                deeper.append(name)
            found.append((depth, name, status.st_mode, status.st_mtime_ns, content))
        if not deeper:
            os.close(fd)
            return found
        assert len(deeper) == 1
        inner = os.open(deeper[0], FLAGS, dir_fd=fd)
        os.close(fd)
        fd = inner
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("shape", "openat2"),
    [
        pytest.param("long", True, marks=pytest.mark.fault("B8")),
        pytest.param("long", False, marks=pytest.mark.fault("B8")),
        pytest.param("deep", True, marks=pytest.mark.fault("B9")),
    ],
)
def test_paths_of_any_length(top: Path, shape: str, *, openat2: bool) -> None:
    names = SHAPES[shape]
    source, destination = top / "src", top / "dst"
    source.mkdir()
    before = _core._selftest("openat2", b"", {"on": openat2})
    try:
        with opened(source, names, make=True) as fd:
            write(fd, "file", bytes(200_000))
            write(fd, "other", b"x")
            os.symlink("file", "link", dir_fd=fd)
        outcome = sync(str(source), str(destination), delete=True)
        assert (outcome.failure, outcome.problems) == (None, [])
        assert everything(source) == everything(destination)
        # a delta, a deletion, a change of type; then everything below the middle
        with opened(source, names) as fd:
            write(fd, "file", bytes(100_000) + b"!" + bytes(99_999))
            os.unlink("other", dir_fd=fd)
            os.unlink("link", dir_fd=fd)
            write(fd, "link", b"a file")
        outcome = sync(str(source), str(destination), delete=True, delta_min=4096)
        assert (outcome.failure, outcome.problems) == (None, [])
        assert outcome.counters["matched"] > 150_000
        assert everything(source) == everything(destination)
        assert sync(str(source), str(destination), delete=True).items == []
        half = len(names) // 2
        with opened(source, names[: half - 1]) as fd:
            os.rename(names[half - 1], b"elsewhere", src_dir_fd=fd, dst_dir_fd=fd)
        outcome = sync(str(source), str(destination), delete=True)
        assert (outcome.failure, outcome.problems) == (None, [])
        assert outcome.counters["deleted"] > half
        assert everything(source) == everything(destination)
        assert _core.sweep(bytes(destination), "00c0ffee", 1 << 20) == 0
    finally:
        _core._selftest("openat2", b"", {"on": before})


@pytest.mark.fault("B8")
def test_trees_know_paths_of_any_length(top: Path) -> None:
    names = SHAPES["long"]
    source, destination = top / "src", top / "dst"
    source.mkdir()
    destination.mkdir()
    with opened(source, names, make=True) as fd:
        write(fd, "file", b"x")
    with Pair(source, destination) as pair:
        pair.sync(delete=True)
        assert everything(source) == everything(destination)
        with opened(source, names) as fd:
            write(fd, "new", b"y")
            os.rename("file", "renamed", src_dir_fd=fd, dst_dir_fd=fd)
        counters = pair.sync(delete=True)
        assert everything(source) == everything(destination)
        assert (counters["moved"], counters["files"]) == (1, 1)
        with opened(destination, names) as fd:
            os.unlink("new", dir_fd=fd)  # by hand
        pair.sync(delete=True)
        assert everything(source) == everything(destination)
        with opened(source, names[:-1]) as fd:
            os.rename(names[-1], b"moved", src_dir_fd=fd, dst_dir_fd=fd)
        pair.sync(delete=True)
        assert everything(source) == everything(destination)
