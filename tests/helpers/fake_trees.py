"""Trees whose changes a test makes up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from proto.looks import pack_looks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from proto.errors import SyncError


class FakeTree:
    """Both what tasks use of a tree, and the crate's."""

    def __init__(self) -> None:
        self.error: SyncError | OSError | None = None
        self.refreshes = 0
        self.said = ""
        self.unwatched = 0
        self.held_s: float | None = None
        self.rests = False
        self.wakes = 0
        self._tick = 0
        self._changes: list[tuple[int, bytes, bool]] = []
        self._coming: list[tuple[bytes, bool]] = []
        self._dirty = trio.Event()

    def change(self, *paths: bytes, deep: bool = False) -> None:
        """They changed; the next refresh finds it."""
        self._coming += [(path, deep) for path in paths]
        self.stir()

    def stir(self) -> None:
        """Something may have changed."""
        self.wakes += 1
        self._dirty.set()
        self._dirty = trio.Event()

    async def wait_dirty(self, seen: int) -> int:
        while self.wakes <= seen:
            await self._dirty.wait()
        return self.wakes

    def at_rest(self) -> bool:
        return self.rests

    async def refresh(self, *, hold: bool) -> bool:
        assert hold
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.refreshes += 1
        for path, deep in self._coming:
            self._tick += 1
            self._changes.append((self._tick, path, deep))
        self._coming.clear()
        return not self.unwatched

    async def survey(self, then: Callable[[Any, bool], Any], *, hold: bool) -> Any:
        return then(self, await self.refresh(hold=hold))

    async def call(self, function: Callable[[Any], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        return function(self)

    async def news(self) -> str:
        said, self.said = self.said, ""
        return said

    def is_new(self) -> bool:
        return False

    def tick(self) -> int:
        return self._tick

    def changes(self, since: int, limit: int) -> bytes | None:
        looks = pack_looks(sorted({(path, deep) for tick, path, deep in self._changes if tick > since}))
        return looks if len(looks) <= limit else None

    def held(self) -> float | None:
        return self.held_s

    def counters(self) -> dict[str, int]:
        return {"unwatched": self.unwatched}


class FakeTrees:
    def __init__(self) -> None:
        self.trees: dict[bytes, FakeTree] = {}
        self.missing = False
        self.open = 0

    def tree(self, root: bytes) -> FakeTree:
        return self.trees.setdefault(root, FakeTree())

    @asynccontextmanager
    async def use(self, root: bytes, filters: Sequence[bytes]) -> AsyncIterator[FakeTree | None]:
        self.open += 1
        try:
            yield None if self.missing else self.tree(root)
        finally:
            self.open -= 1
