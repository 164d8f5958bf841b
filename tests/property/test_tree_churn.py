"""A mirror that looks only where a tree says so stays equal to what is really there."""

from __future__ import annotations

import os
import struct
import threading
from stat import S_ISDIR
from typing import TYPE_CHECKING

import pytest

from agentd import _core
from tests.helpers.churn import Churn

if TYPE_CHECKING:
    from pathlib import Path

Entry = tuple[int, ...]
DEEP = 1
PLENTY = 1_000_000


def _entry(path: bytes) -> Entry:
    st = os.lstat(path)
    if S_ISDIR(st.st_mode):
        return (st.st_mode, st.st_mtime_ns, st.st_ino)
    return (st.st_mode, st.st_mtime_ns, st.st_ino, st.st_size)


def _walk(root: bytes, below: bytes = b"") -> dict[bytes, Entry]:
    found = {}
    for top, dirs, files in os.walk(os.path.join(root, below)):
        for name in dirs + files:
            path = os.path.join(top, name)
            found[os.path.relpath(path, root)] = _entry(path)
    return found


def _looks(payload: bytes) -> list[tuple[bytes, bool]]:
    looks, at = [], 0
    while at < len(payload):
        flags, _, length = struct.unpack_from("<BBI", payload, at)
        looks.append((payload[at + 6 : at + 6 + length], bool(flags & DEEP)))
        at += 6 + length
    return looks


class Mirror:
    """What somebody knows who looked once at everything, and then where ``tree`` said that something changed."""

    def __init__(self, root: bytes, tree: _core.Tree) -> None:
        self.root, self.tree = root, tree
        self.tick = 0
        self.entries: dict[bytes, Entry] = {}
        self.looked = 0

    def follow(self) -> None:
        while not self.tree.refresh():
            pass
        changes = self.tree.changes(self.tick, PLENTY)
        assert changes is not None
        self.tick = self.tree.tick()
        for path, deep in _looks(bytes(memoryview(changes))):
            self._look(path, deep)

    def _look(self, path: bytes, deep: bool) -> None:
        self.looked += 1
        full = os.path.join(self.root, path)
        try:
            now = _entry(full)
        except (FileNotFoundError, NotADirectoryError):
            now = None
        if deep or now is None or not S_ISDIR(now[0]):
            self.entries = {p: e for p, e in self.entries.items() if not (path == b"" or p.startswith(path + b"/"))}
        if path:
            self.entries.pop(path, None)
            if now is not None:
                self.entries[path] = now
        if deep and now is not None and S_ISDIR(now[0]):
            self.entries |= _walk(self.root, path)


def _tree(root: Path, index: bytes | None = None, watches_max: int = PLENTY) -> _core.Tree:
    return _core.Tree(
        os.fsencode(root), filters=[], index=index, threads=2, watches_max=watches_max, wake_fd=-1
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.mark.parametrize("watches_max", [PLENTY, 4, 0])
@pytest.mark.parametrize("seed", range(12))
def test_a_mirror_follows_every_change(root: Path, seed: int, watches_max: int) -> None:
    churn = Churn(root, seed)
    for _ in range(40):
        churn.step()
    tree = _tree(root, watches_max=watches_max)
    mirror = Mirror(os.fsencode(root), tree)
    for _ in range(25):
        mirror.follow()
        assert mirror.entries == _walk(os.fsencode(root))
        for _ in range(churn.random.randrange(8)):
            churn.step()
    counters = tree.counters()
    assert counters["overflows"] == 0
    if watches_max == PLENTY:
        assert (counters["rescans"], counters["unwatched"]) == (1, 0)
        assert counters["watches"] == counters["dirs"]
    tree.close()


@pytest.mark.parametrize("seed", range(8))
def test_refreshes_amid_changes_end_in_the_right_tree(root: Path, seed: int) -> None:
    churn = Churn(root, seed)
    for _ in range(40):
        churn.step()
    tree = _tree(root)
    mirror = Mirror(os.fsencode(root), tree)
    done = threading.Event()

    def run() -> None:
        for _ in range(400):
            churn.step()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.is_set():
        tree.refresh()
    thread.join()
    mirror.follow()
    assert mirror.entries == _walk(os.fsencode(root))
    tree.close()


@pytest.mark.parametrize("seed", range(8))
def test_what_changed_while_nobody_watched_is_found(root: Path, tmp_path: Path, seed: int) -> None:
    churn = Churn(root, seed)
    index = os.fsencode(tmp_path / "index")
    mirror = None
    for _ in range(6):
        for _ in range(20):
            churn.step()
        tree = _tree(root, index)
        assert tree.notice() == ""
        if mirror is None:
            mirror = Mirror(os.fsencode(root), tree)
        mirror.tree = tree
        mirror.follow()
        assert mirror.entries == _walk(os.fsencode(root))
        tree.save(index)
        tree.close()
        with pytest.raises(_core.EngineClosed):
            tree.refresh()


def test_one_byte_wakes_once_for_all_that_comes_before_a_refresh(root: Path) -> None:
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        tree = _core.Tree(os.fsencode(root), filters=[], index=None, threads=1, watches_max=PLENTY, wake_fd=wake)
        tree.refresh()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(wake)
        os.set_blocking(wake, True)
        for name in ("a", "b", "c"):
            (root / name).write_bytes(b"1")
        assert os.eventfd_read(wake) == 1
        tree.refresh()
        (root / "a").unlink()
        assert os.eventfd_read(wake) == 1
        tree.close()
    finally:
        os.close(wake)


def test_a_root_that_went_is_a_pause_with_its_reason(root: Path) -> None:
    (root / "a").write_bytes(b"1")
    tree = _tree(root)
    tree.refresh()
    root.rename(root.parent / "aside")
    with pytest.raises(_core.TreePaused, match="gone") as gone:
        tree.refresh()
    assert isinstance(gone.value, OSError)
    root.mkdir()
    with pytest.raises(_core.TreePaused, match="empty"):
        tree.refresh()
    tree.close()
