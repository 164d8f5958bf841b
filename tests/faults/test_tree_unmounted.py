"""A file system that comes and goes below a watched root: a pause, never a tree without files."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from agentd import _core

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _mount(*args: str | Path) -> bool:
    return subprocess.run(["mount", *args], capture_output=True, check=False).returncode == 0


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    root.mkdir()
    yield root
    # Until there is nothing left to unmount: of a bind mount os.path.ismount does not know.
    while subprocess.run(["umount", "-l", root], capture_output=True, check=False).returncode == 0:
        pass


def _tree(root: Path) -> _core.Tree:
    return _core.Tree(os.fsencode(root), filters=[], index=None, threads=1, watches_max=1000, wake_fd=-1)


def test_a_watched_file_system_can_be_unmounted_and_its_empty_place_is_a_pause(root: Path) -> None:
    if not _mount("-t", "tmpfs", "tmpfs", root):
        pytest.skip("needs the right to mount")
    (root / "dir").mkdir()
    (root / "dir" / "file").write_bytes(b"1")
    tree = _tree(root)
    assert tree.refresh()
    subprocess.run(["umount", root], check=True)
    with pytest.raises(_core.TreePaused, match="empty"):
        tree.refresh()
    assert tree.counters()["entries"] == 2
    assert _mount("-t", "tmpfs", "tmpfs", root)
    with pytest.raises(_core.TreePaused, match="empty"):
        tree.refresh()
    (root / "other").write_bytes(b"1")
    assert tree.refresh()
    assert tree.counters()["entries"] == 1
    assert "another directory" in tree.notice()
    (root / "other").unlink()
    assert tree.refresh()
    assert tree.counters()["entries"] == 0
    tree.close()


def test_the_same_directory_mounted_again_is_the_same_root(root: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "dir").mkdir(parents=True)
    (there / "dir" / "file").write_bytes(b"1")
    if not _mount("--bind", there, root):
        pytest.skip("needs the right to mount")
    tree = _tree(root)
    assert tree.refresh()
    key, name = bytes(16), bytes(range(16))
    tree.commit(key, name, tree.tick())
    subprocess.run(["umount", root], check=True)
    with pytest.raises(_core.TreePaused, match="empty"):
        tree.refresh()
    (there / "dir" / "file").write_bytes(b"changed meanwhile")
    assert _mount("--bind", there, root)
    assert tree.refresh()
    [(known, tick)] = tree.baselines(key)
    assert known == name
    changes = tree.changes(tick, 1000)
    assert changes is not None
    assert bytes(memoryview(changes)) == b"\0\0\x08\0\0\0dir/file"
    tree.close()


def test_a_file_system_below_the_root_that_goes_takes_its_files_along(root: Path) -> None:
    below = root / "below"
    below.mkdir()
    (root / "stays").write_bytes(b"1")
    if not _mount("-t", "tmpfs", "tmpfs", below):
        pytest.skip("needs the right to mount")
    (below / "dir").mkdir()
    (below / "dir" / "file").write_bytes(b"1")
    tree = _tree(root)
    assert tree.refresh()
    assert tree.counters()["entries"] == 4
    subprocess.run(["umount", below], check=True)
    assert tree.refresh()
    assert tree.counters()["entries"] == 2
    (below / "new").write_bytes(b"1")
    assert tree.refresh()
    assert tree.counters()["entries"] == 3
    tree.close()
