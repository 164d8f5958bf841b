"""Memory that is given back when no session runs for a while.

What sessions need goes through pools and the allocator's arenas, which keep it for the next one: up to some 20 MB after
a day with many of them, which an agent that only waits should not hold.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from agentd import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REST_S = 5.0
"""Behind the last session.  The next one takes its memory from the system again: some 0.3 ms of it."""


class Rest:
    """Counts sessions; ``run()`` calls ``release``, which blocks, when none ran for REST_S."""

    def __init__(self, release: Callable[[], None] = _core.release_memory) -> None:
        self._release = release
        self._running = 0
        self._last = 0.0
        self._ended = trio.Event()

    @contextmanager
    def session(self) -> Iterator[None]:
        """The body is a session."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._last = trio.current_time()
            self._ended.set()

    async def run(self) -> None:
        """Until cancelled.  While sessions follow each other it wakes every REST_S, and does nothing."""
        while True:
            await self._ended.wait()
            if (due := self._last + REST_S) > trio.current_time():
                await trio.sleep_until(due)
                continue
            self._ended = trio.Event()
            if not self._running:
                await trio.to_thread.run_sync(self._release)
