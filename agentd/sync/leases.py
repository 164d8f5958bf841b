"""Leases: one writing session per root, roots within it included."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import trio

from agentd.sync.roots import Root, overlap
from proto.errors import SyncError
from proto.job import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE_S = 2.0
"""How long a session waits for the one before it: enough for its last batch, too short to look like a hang."""

SWEEP = "the clearing up after a killed session"
"""A holder that everybody waits for: it ends by itself."""


class Leases:
    """The writing sessions of one agent, by the roots that they write to."""

    def __init__(self) -> None:
        self._held: dict[Root, str] = {}
        self._released = trio.Event()

    @contextlib.asynccontextmanager
    async def lease(self, root: Root, holder: str) -> AsyncIterator[None]:
        """Hold ``root`` for ``holder``.  Raises SyncError ``root-busy``, naming who holds it, after a short wait."""
        patience = trio.current_time() + PATIENCE_S
        while (other := self._holder(root)) is not None:
            with trio.CancelScope(deadline=math.inf if other == SWEEP else patience) as waiting:
                await self._released.wait()
            if waiting.cancelled_caught:
                raise SyncError("root-busy", f"{shown(root.path)} is being written by {other}")
        self._held[root] = holder
        try:
            yield
        finally:
            del self._held[root]
            self._released.set()
            self._released = trio.Event()

    def _holder(self, root: Root) -> str | None:
        return next((holder for held, holder in self._held.items() if overlap(held, root)), None)
