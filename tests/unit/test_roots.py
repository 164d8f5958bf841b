"""Where roots are, whether they contain each other, and whose turn it is to write."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from agentd.sync import roots
from agentd.sync.roots import absolute, destination_root, locate, overlap, overlaps_untrusted, source_root
from proto.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def top(tmp_path: Path) -> bytes:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "a" / "to-c").symlink_to("../c")
    return os.path.realpath(bytes(tmp_path))


def test_locate(top: bytes) -> None:
    root = locate(top + b"/a/to-c/new/er")
    assert root.path == top + b"/c/new/er"
    assert (root.kind, root.missing) == ("missing", (b"new", b"er"))
    assert root.chain[0][1] == os.stat(top + b"/c").st_ino
    assert root.chain[-1] == (os.stat("/").st_dev, os.stat("/").st_ino)
    assert locate(top + b"/file").kind == "file"
    assert locate(top).kind == "directory"
    assert locate(b"/").chain == ((os.stat("/").st_dev, os.stat("/").st_ino),)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (b"/a", b"/a", True),
        (b"/a", b"/a/b", True),
        (b"/a", b"/a/b/new/er", True),
        (b"/a/to-c", b"/c", True),
        (b"/a/to-c", b"/c/new", True),
        (b"/a", b"/c", False),
        (b"/a", b"/ab", False),
        (b"/new", b"/new", True),
        (b"/new", b"/new/er", True),
        (b"/new", b"/newer", False),
        (b"/new", b"/a", False),
        (b"/a/to-c/x", b"/c/x/y", True),
        (b"", b"/file", True),
    ],
)
def test_overlap(top: bytes, one: bytes, other: bytes, expected: bool) -> None:
    first, second = locate(top + one), locate(top + other)
    assert overlap(first, second) is overlap(second, first) is expected
    if second.kind != "missing" or first.kind != "missing":
        for near, far in ((first, second), (second, first)):
            assert overlaps_untrusted(near, far.ancestry, []) is expected


def test_an_ancestry_that_says_nothing(top: bytes) -> None:
    assert not overlaps_untrusted(locate(top), [], [])


def test_a_root_that_came_into_being_is_still_the_same(top: bytes) -> None:
    before = locate(top + b"/new")
    os.mkdir(top + b"/new")
    assert overlap(before, locate(top + b"/new"))
    assert overlap(before, locate(top + b"/new/er"))


def test_bind_mounts(top: bytes) -> None:
    made = subprocess.run(["mount", "--bind", top + b"/a", top + b"/c"], check=False, capture_output=True)
    if made.returncode:
        # without the right to mount, what the mount table would say is given
        bound = locate(top + b"/c")._replace(inside=None)
        assert not overlap(bound, locate(top + b"/a"))
        return
    try:
        assert overlap(locate(top + b"/a"), locate(top + b"/c"))
        assert overlap(locate(top + b"/a/b"), locate(top + b"/c"))
        assert overlap(locate(top + b"/c/b"), locate(top + b"/a/b/new"))
    finally:
        subprocess.run(["umount", top + b"/c"], check=True)


def test_escapes_of_the_mount_table() -> None:
    assert roots._unescaped(rb"/a\040b\134c") == b"/a b\\c"


def test_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute(b"x/y") == b"/home/me/x/y"
    assert absolute(b"x", b"/work") == b"/work/x"
    assert absolute(b"~") == b"/home/me"
    assert absolute(b"~/x", b"/work") == b"/home/me/x"
    assert absolute(b"/x", b"/work") == b"/x"
    with pytest.raises(SyncError, match="no such user"):
        absolute(b"~no-such-user-here/x")


def code(function: Callable[[bytes], object], path: bytes) -> str:
    with pytest.raises(SyncError) as caught:
        function(path)
    return caught.value.code


def test_guards(top: bytes) -> None:
    os.mkfifo(top + b"/fifo")
    os.symlink(b"loop", top + b"/loop")
    assert code(source_root, top + b"/none") == "source-missing"
    assert code(source_root, top + b"/fifo") == "source-type"
    assert code(source_root, top + b"/file/x") == "source-missing"
    assert code(source_root, top + b"/loop") == "source-missing"
    assert code(destination_root, top + b"/fifo") == "destination-type"
    assert code(destination_root, top + b"/x/y") == "destination-missing"
    assert code(destination_root, top + b"/file/x") == "destination-type"
    assert destination_root(top + b"/new").kind == "missing"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EROFS, "destination-read-only"),
        (errno.ENOSPC, "destination-full"),
        (errno.EDQUOT, "destination-full"),
        (errno.EACCES, "destination-unwritable"),
        (errno.ENOENT, "destination-missing"),
    ],
)
def test_destination_errors(number: int, expected: str) -> None:
    error = roots.destination_error(b"/x\x1b", OSError(number, "text"))
    assert error.code == expected
    assert "\x1b" not in error.message
