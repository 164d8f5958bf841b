"""A sender with a tree: what it fills by the way, and what the tree spares it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from agentd._core import Tree
from tests.helpers import sending
from tests.helpers.sending import Sending, looks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(
        os.fsencode(tmp_path), filters=[b"*.o"], index=None, threads=2, watches_max=10_000, wake_fd=-1
    )  # fmt: skip
    yield made
    made.close()


def make_tree(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    for i in range(50):
        (root / "a" / "b" / f"{i:02}").write_bytes(b"x" * i)
    (root / "a" / "skip.o").touch()


def test_the_first_list_fills_a_new_tree(tmp_path: Path, tree: Tree) -> None:
    make_tree(tmp_path)
    assert tree.is_new()
    with Sending(tmp_path, filters=(b"*.o",), tree=tree) as running:
        running.list_all()
    assert not tree.is_new()
    assert tree.counters()["entries"] == 52
    since = tree.tick()
    assert tree.refresh()
    nothing = tree.changes(since, 1 << 20)
    assert nothing is not None
    assert len(nothing) == 0
    (tmp_path / "a" / "b" / "07").unlink()
    (tmp_path / "a" / "new").mkdir()
    (tmp_path / "a" / "new" / "file").touch()
    assert tree.refresh()
    changes = tree.changes(since, 1 << 20)
    assert changes is not None
    with Sending(tmp_path, filters=(b"*.o",), tree=tree, looks=changes) as running:
        found = {entry.path: entry.kind for group in running.list_all() for entry in group.entries}
    assert found == {
        b"": sending.DIRECTORY, b"a": sending.DIRECTORY, b"a/b": sending.DIRECTORY, b"a/b/07": sending.GONE,
        b"a/new": sending.DIRECTORY, b"a/new/file": sending.REGULAR,
    }  # fmt: skip
    assert len(changes) > 0, "looks are left as they are"


def test_a_tree_that_was_closed_does_not_cut_a_list_short(tmp_path: Path, tree: Tree) -> None:
    make_tree(tmp_path)
    tree.close()
    with Sending(tmp_path, tree=tree) as running:
        assert sum(len(group.entries) for group in running.list_all()) == 54


def bytes_read() -> int:
    with open("/proc/self/io") as io:
        return int(io.readline().removeprefix("rchar:"))


def read_by_list(root: Path, tree: Tree, looks: bytes | None = None) -> tuple[int, dict[bytes, bytes]]:
    """(bytes read while the root was listed with hashes, path -> hash)."""
    before = bytes_read()
    with Sending(root, hashes=True, tree=tree, looks=looks) as running:
        hashes = {entry.path: entry.hash for group in running.list_all() for entry in group.entries}
    return bytes_read() - before, hashes


def test_what_was_hashed_is_not_read_again(tmp_path: Path, tree: Tree) -> None:
    size = 4 << 20
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(os.urandom(size))
    read, hashes = read_by_list(tmp_path, tree)
    assert read > 2 * size
    # A file that changed a moment ago is not trusted yet, so this may take a few times.
    end = time.monotonic() + sending.DEADLINE_S
    while (again := read_by_list(tmp_path, tree))[0] > size / 2:
        assert time.monotonic() < end
        assert again[1] == hashes
    assert again[1] == hashes
    with open(tmp_path / "two", "r+b") as file:
        file.write(b"changed")
    read, changed = read_by_list(tmp_path, tree, looks(b"one", b"two"))
    assert size < read < size * 3 / 2
    assert changed[b"one"] == hashes[b"one"]
    assert changed[b"two"] != hashes[b"two"]


def test_a_new_name_of_a_known_file_brings_the_others(tmp_path: Path, tree: Tree) -> None:
    make_tree(tmp_path)
    assert tree.refresh()
    since = tree.tick()
    os.link(tmp_path / "a" / "b" / "00", tmp_path / "other")
    os.link(tmp_path / "a" / "b" / "01", tmp_path / "a" / "other.o")
    (tmp_path / "copy").mkdir()
    for name in ("02", "03"):
        os.link(tmp_path / "a" / "b" / name, tmp_path / "copy" / name)
    assert tree.refresh()
    changes = tree.changes(since, 1 << 20)
    for hard_links in (True, False):
        with Sending(tmp_path, filters=(b"*.o",), tree=tree, looks=changes, hard_links=hard_links) as running:
            names = {e.path for g in running.list_all() for e in g.entries if e.kind == sending.REGULAR}
            assert names >= {b"other", b"copy/02", b"copy/03"}
            assert not hard_links or names >= {b"a/b/00", b"a/b/02", b"a/b/03"}
            assert b"a/b/04" not in names
            assert running.look(looks(b"a/b/00", b"other")) == [] or not hard_links
