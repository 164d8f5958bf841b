"""The registry of trees, over fakes of the crate's: who shares what, what is saved when, and what is let go of."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentd.tree import known as known_module
from agentd.tree import trees as trees_module
from agentd.tree.trees import Bounds, Trees

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from agentd.tree.known import Known

LIMIT_S = 20.0


class FakeTree:
    """Counts what it is asked for; ``gate`` closed, a refresh hangs."""

    def __init__(self, root: bytes, index: bytes | None, wake_fd: int) -> None:
        self.root, self.index, self.wake_fd = root, index, wake_fd
        self.gate = threading.Event()
        self.gate.set()
        self.refreshes: list[bool] = []
        self.committed: list[tuple[bytes, bytes, int]] = []
        self.saved: list[bytes] = []
        self.closed = False
        self.count = {"entries": 10, "watches": 1}
        self.said = ""

    def is_new(self) -> bool:
        return not self.refreshes

    def refresh(self, *, hold: bool = False, sweep: int) -> bool:
        self.refreshes.append(hold)
        assert self.gate.wait(LIMIT_S)
        return True

    def at_rest(self) -> bool:
        return False

    def overflows(self) -> int:
        return 1

    def tick(self) -> int:
        return len(self.refreshes)

    def changes(self, since: int, limit: int) -> Any | None:
        return b"looks"[:limit] if since < self.tick() else b""

    def commit(self, key: bytes, id: bytes, tick: int) -> None:  # noqa: A002
        self.committed.append((key, id, tick))

    def baselines(self, key: bytes) -> list[tuple[bytes, int]]:
        return [(id_, tick) for known, id_, tick in reversed(self.committed) if known == key][:2]

    def recall(self, key: bytes) -> tuple[bool, int, list[tuple[bytes, int]]] | None:
        if not self.gate.is_set():
            return None
        return self.is_new(), self.tick(), self.baselines(key)

    def save(self, path: bytes) -> None:
        self.saved.append(path)

    def notice(self) -> str:
        return self.said

    def held(self) -> float | None:
        return None

    def counters(self) -> dict[str, int]:
        return self.count

    def close(self) -> None:
        self.closed = True


class Forest:
    """Trees, and the fakes behind them by root, newest last."""

    def __init__(self, place: Path, **options: Any) -> None:
        self.made: list[FakeTree] = []
        self.refuse: OSError | None = None
        self.trees = Trees(str(place / "index"), threads=1, open_tree=self._open, **options)

    def _open(self, root: bytes, *, index: bytes | None, wake_fd: int, **_: Any) -> FakeTree:
        if self.refuse is not None:
            raise self.refuse
        tree = FakeTree(root, index, wake_fd)
        self.made.append(tree)
        return tree


@asynccontextmanager
async def running(place: Path, **options: Any) -> AsyncIterator[Forest]:
    forest = Forest(place, **options)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(forest.trees.run)
            yield forest
            nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - of another thread
        await trio.sleep(0.001)


async def test_one_tree_for_a_root_and_filters(tmp_path: Path) -> None:
    async with running(tmp_path) as forest:
        async with forest.trees.use(b"/r", [b"*.o"]) as one, forest.trees.use(b"/r", [b"*.o"]) as same:
            assert one is same is not None
        async with forest.trees.use(b"/r", [b"*.o"]) as again, forest.trees.use(b"/r", []) as other:
            assert again is one
            assert other is not one
        assert len(forest.made) == 2
        places = {tree.index for tree in forest.made}
        assert len(places) == 2
        assert all(os.path.dirname(place or b"") == os.fsencode(tmp_path / "index") for place in places)
    assert all(tree.closed for tree in forest.made)


async def test_where_there_can_be_none(tmp_path: Path) -> None:
    async with running(tmp_path) as forest:
        forest.refuse = OSError(24, "too many")
        async with forest.trees.use(b"/r", []) as known:
            assert known is None
        forest.refuse = None
        async with forest.trees.use(b"/r", []) as known:
            assert known is not None
    async with forest.trees.use(b"/r", []) as known:
        assert known is None, "nobody keeps them any more"


async def test_callers_share_the_refresh_that_begins_after_them(tmp_path: Path) -> None:
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        tree = forest.made[0]
        tree.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(known.refresh)
            await until(lambda: len(tree.refreshes) == 1)
            for _ in range(5):
                nursery.start_soon(known.refresh)
            await trio.testing.wait_all_tasks_blocked()
            tree.gate.set()
        assert len(tree.refreshes) == 2
        await known.refresh()
        assert len(tree.refreshes) == 3


async def test_a_refresh_that_holds_is_not_one_for_who_does_not(tmp_path: Path) -> None:
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        tree = forest.made[0]
        tree.gate.clear()

        async def ask(hold: bool) -> None:
            await known.refresh(hold=hold)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, False)
            await until(lambda: len(tree.refreshes) == 1)
            for hold in (True, False, True):
                nursery.start_soon(ask, hold)
                await trio.testing.wait_all_tasks_blocked()
            tree.gate.set()
        assert tree.refreshes in ([False, True, False], [False, True, False, True])


async def fill(known: Known, begun: trio.Event, end: trio.Event) -> None:
    async with known.filling() as filling:
        assert filling is not None
        begun.set()
        await end.wait()


async def test_a_refresh_waits_for_what_the_tree_learns(tmp_path: Path) -> None:
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        begun, end = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, known, begun, end)
            await begun.wait()
            nursery.start_soon(known.refresh)
            await trio.testing.wait_all_tasks_blocked()
            assert not forest.made[0].refreshes
            end.set()
        assert len(forest.made[0].refreshes) == 1


async def test_but_not_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "REFRESH_PATIENCE_S", 0.01)
    monkeypatch.setattr(known_module, "FILL_PATIENCE_S", 0.01)
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        async with known.filling() as filling:
            assert filling is not None
            async with known.filling() as second:
                assert second is None
            states = [filling.disturbed]
            await known.refresh()
            assert [*states, filling.disturbed] == [False, True]
        async with known.filling() as third:
            assert third is not None
            assert not third.disturbed


async def test_who_waits_for_changes_misses_none(tmp_path: Path) -> None:
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        seen = 0
        for n in range(1, 4):
            os.write(forest.made[0].wake_fd, (1).to_bytes(8, "little"))
            seen = await known.wait_dirty(seen)
            assert seen == n
        with trio.move_on_after(0.01) as waited:
            await known.wait_dirty(seen)
        assert waited.cancelled_caught


async def test_saved_after_a_commit_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "SAVE_AFTER_S", 0.01)
    async with running(tmp_path) as forest:
        async with forest.trees.use(b"/r", []) as known:
            assert known is not None
            tree = forest.made[0]
            for _ in range(3):
                known.unsaved()
            await until(lambda: len(tree.saved) == 1)
            known.unsaved()
        await trio.sleep(0.05)
        assert len(tree.saved) == 1, "not more than once a minute"
    assert tree.saved == [tree.index] * 2
    assert tree.closed


async def test_what_was_not_used_for_long_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees_module, "SWEEP_S", 0.01)
    monkeypatch.setattr(trees_module, "IDLE_S", 0.05)
    async with running(tmp_path, pinned=lambda root: root == b"/pair") as forest:
        async with forest.trees.use(b"/pair", []), forest.trees.use(b"/used", []):
            async with forest.trees.use(b"/once", []) as known:
                assert known is not None
                known.unsaved()
            await until(lambda: forest.made[2].closed)
            assert forest.made[2].saved
        await until(lambda: forest.made[1].closed)
        assert not forest.made[0].closed
        async with forest.trees.use(b"/once", []) as known:
            assert known is not None
            assert len(forest.made) == 4


@pytest.mark.parametrize("bound", [Bounds(trees=2), Bounds(entries=25), Bounds(watches_share=0.0)])
async def test_beyond_a_bound_the_longest_unused_goes(tmp_path: Path, bound: Bounds) -> None:
    async with running(tmp_path, bounds=bound) as forest:
        for n in range(5):
            async with forest.trees.use(b"/%d" % n, []):
                pass
            await trio.sleep(0.002)
        open_ones = [tree.root for tree in forest.made if not tree.closed]
        assert open_ones == [b"/2", b"/3", b"/4"][-len(open_ones) :]
        assert 1 <= len(open_ones) <= 3
        async with forest.trees.use(b"/pinned", []), forest.trees.use(b"/too", []), forest.trees.use(b"/and", []):
            assert not any(tree.closed for tree in forest.made[-3:]), "what is in use stays"


async def test_a_notice_is_news_once(tmp_path: Path) -> None:
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        assert await known.news() == ""
        forest.made[0].said = "raise fs.inotify.max_user_watches"
        assert [await known.news(), await known.news()] == [forest.made[0].said, ""]


async def test_a_tree_that_begins_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        await known.renew()
        assert [tree.closed for tree in forest.made] == [True, False]
        assert forest.made[1].index is None
        assert known.tree is forest.made[1]


async def test_old_indexes_are_cleared_away(tmp_path: Path) -> None:
    place = tmp_path / "index"
    place.mkdir()
    for name, age in (("old.idx", trees_module.KEPT_S + 60), ("young.idx", 60)):
        (place / name).write_bytes(b"")
        when = os.stat(place / name).st_mtime - age
        os.utime(place / name, (when, when))
    async with running(tmp_path):
        assert sorted(os.listdir(place)) == ["young.idx"]
