"""One tree: a root under one set of filters, and what the crate knows about it between sessions."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentd.wake import Wake

T = TypeVar("T")

log = logging.getLogger(__name__)

SAVE_AFTER_S = 1.0
"""From the first change worth saving until it is: a session is mostly followed by more of them."""

SWEEP = 2048
"""Files that no event tells of, looked at by a refresh: two or three milliseconds."""

SAVE_EVERY_S = 60.0
"""A large index is not written again for each of many small sessions; a crash costs one full list."""

FILL_PATIENCE_S = 2.0
"""How long a session waits to be the one whose work a tree takes over, before it goes on without the tree."""

REFRESH_PATIENCE_S = 10.0
"""How long a refresh waits for a session that the tree is learning from: what it saw half done would count as a change
by somebody else."""


Recalled = tuple[bool, int, list[tuple[bytes, int]]]
"""Whether nothing is known yet; the tree's tick; (id, tick) of each baseline of a key, newest first."""


class CrateTree(Protocol):
    """``_core.Tree``; every method but ``recall``, ``at_rest`` and ``overflows`` may block."""

    def is_new(self) -> bool: ...  # noqa: D102
    def refresh(self, *, hold: bool = False, sweep: int) -> bool: ...  # noqa: D102
    def at_rest(self) -> bool: ...  # noqa: D102
    def tick(self) -> int: ...  # noqa: D102
    def changes(self, since: int, limit: int) -> Any | None: ...  # noqa: D102
    def commit(self, key: bytes, id: bytes, tick: int) -> None: ...  # noqa: A002, D102
    def baselines(self, key: bytes) -> list[tuple[bytes, int]]: ...  # noqa: D102
    def recall(self, key: bytes) -> Recalled | None: ...  # noqa: D102
    def save(self, path: bytes) -> None: ...  # noqa: D102
    def notice(self) -> str: ...  # noqa: D102
    def held(self) -> float | None: ...  # noqa: D102
    def overflows(self) -> int: ...  # noqa: D102
    def counters(self) -> dict[str, int]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Filling:
    """A session's turn to teach a tree: its own writes, or its walk."""

    def __init__(self) -> None:
        self.disturbed = False
        """A refresh ran meanwhile: what it found cannot be told from what the session did."""


class Known:
    """A tree as tasks use it.  ``run()`` belongs in a nursery for as long as it is open."""

    def __init__(
        self, open_tree: Callable[[bytes | None], CrateTree], wake: Wake, index: bytes, threads: trio.CapacityLimiter
    ) -> None:
        """``open_tree(index)`` makes the crate's, from the saved ``index`` or None.  It blocks, and raises OSError."""
        self.tree = open_tree(index)
        self._open_tree = open_tree
        self.wakes = 0
        """How often it was told that something in the tree may have changed since a refresh."""
        self._wake = wake
        self._index = index
        self._threads = threads
        self._woken = trio.Event()
        self._turn = trio.Lock()
        self._begun = 0
        self._done: tuple[int, tuple[bool, int], bool] = (0, (False, 0), False)
        self._filling: Filling | None = None
        self._filled = trio.Event()
        self._unsaved = trio.Event()
        self._said = ""

    @property
    def learning(self) -> bool:
        """Whether a session teaches it: what is known is not whole, and refreshes wait."""
        return self._filling is not None

    async def call(self, function: Callable[[CrateTree], T]) -> T:
        """``function`` of the crate's tree, in a thread: its lock may be held by a refresh."""
        return await trio.to_thread.run_sync(function, self.tree, limiter=self._threads)

    async def recall(self, key: bytes) -> Recalled:
        """What is known now, before anything is looked at."""
        found = self.tree.recall(key)
        if found is None:
            found = await self.call(lambda tree: (tree.is_new(), tree.tick(), tree.baselines(key)))
        return found

    async def refresh(self, *, hold: bool = False, sweep: int = SWEEP) -> bool:
        """Make it true as of this call.  One runs at a time; callers that come before it begins share the next one.
        ``sweep``: how many files are looked at that no event tells of.

        False: it cannot be true, and its changes are not all.  Raises OSError when the root is gone, and SyncError.
        """
        return await self.survey(lambda _tree, true: true, hold=hold, sweep=sweep)

    async def survey(self, then: Callable[[CrateTree, bool], T], *, hold: bool = False, sweep: int = SWEEP) -> T:
        """``then(tree, true)`` right behind a ``refresh`` that returned ``true``, in the same visit to a thread."""
        asked = self._begun
        async with self._turn:
            number, less, true = self._done
            if number <= asked or less > (hold, -sweep):  # with hold nothing is swept
                await self._wait_filled()
                self._begun += 1
                number, tree = self._begun, self.tree
                if self._filling is not None:
                    self._filling.disturbed = True

                def look() -> tuple[bool, T]:
                    true = tree.refresh(hold=hold, sweep=sweep)
                    return true, then(tree, true)

                # abandoned when the caller is cancelled: a rescan may be long, and the crate has a lock of its own
                true, found = await trio.to_thread.run_sync(look, limiter=self._threads, abandon_on_cancel=True)
                self._done = number, (hold, -sweep), true
                return found
        return await self.call(lambda tree: then(tree, true))

    @contextlib.asynccontextmanager
    async def filling(self) -> AsyncIterator[Filling | None]:
        """While the body runs the tree learns from its session, and is not refreshed; None: another one is at it."""
        filling: Filling | None = None
        with trio.move_on_after(FILL_PATIENCE_S):
            while self._filling is not None:
                await self._filled.wait()
            async with self._turn:  # a refresh under way might see half of what is to come
                if self._filling is None:
                    filling = self._filling = Filling()
        if filling is None:
            yield None
            return
        try:
            yield filling
        finally:
            self._filling = None
            self._filled.set()
            self._filled = trio.Event()
            self._unsaved.set()

    async def renew(self) -> None:
        """Forget everything: the root is another one, and that is meant."""
        async with self._turn:
            before, self.tree = self.tree, await trio.to_thread.run_sync(self._open_tree, None, limiter=self._threads)
            await trio.to_thread.run_sync(before.close, limiter=self._threads)

    async def wait_dirty(self, seen: int) -> int:
        """Wait until ``wakes`` is more than ``seen``; what it is now."""
        while self.wakes <= seen:
            await self._woken.wait()
        return self.wakes

    def at_rest(self) -> bool:
        """Whether what became dirty are saves that are complete; it does not block."""
        return self.tree.at_rest()

    def unsaved(self) -> None:
        """Something was learnt that is worth saving soon."""
        self._unsaved.set()

    async def held(self) -> float | None:
        """Seconds until the first file that is being written may be looked at; None: no file is."""
        return await self.call(lambda tree: tree.held())

    async def news(self, said: str | None = None) -> str:
        """What a person should know about it and was not told yet; mostly nothing.  ``said`` is its ``notice()``, when
        that is known already."""
        if said is None:
            said = await self.call(lambda tree: tree.notice())
        new = said if said != self._said else ""
        self._said = said
        if new:
            log.warning("%s", new)
        return new

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear of changes, and save what was learnt, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear)
            task_status.started()
            last = -SAVE_EVERY_S
            while True:
                await self._unsaved.wait()
                now = trio.current_time()
                await trio.sleep_until(max(now + SAVE_AFTER_S, last + SAVE_EVERY_S))
                await self.save()
                last = trio.current_time()

    async def save(self) -> None:
        """Write the index, if there is anything new in it.  Raises OSError."""
        if self._unsaved.is_set():
            self._unsaved = trio.Event()
            await self.call(lambda tree: tree.save(self._index))

    def close(self) -> None:
        """Let go of it.  It blocks: not for the event loop; no task uses it any more."""
        self.tree.close()
        self._wake.close()

    async def _wait_filled(self) -> None:
        with trio.move_on_after(REFRESH_PATIENCE_S):
            while self._filling is not None:
                await self._filled.wait()

    async def _hear(self) -> None:
        while True:
            await self._wake.wait()
            self.wakes += 1
            self._woken.set()
            self._woken = trio.Event()
