"""Leases: one writing session per root, roots within it included; and one of its agent's for some paths beside it."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, NamedTuple

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


class Held(NamedTuple):
    """A lease."""

    root: Root
    holder: str
    peer: bytes | None
    """The agent that asked for it."""
    scoped: bool
    """Some paths of the root only."""

    def admits(self, other: Held) -> bool:
        """Whether ``other`` may be held beside it.

        One agent's session about some paths may go on beside its session about all of the same root: a save does not
        wait for a bulk push.  Either puts whole files in place by a rename, from temporary names that are not the
        other's.  Which of two contents of one file stays is up to who comes last, so the asking agent looks at these
        paths once more when the long session is over (agentd.watch.turns).
        """
        return self.peer == other.peer and self.root == other.root and self.scoped != other.scoped


class Leases:
    """The writing sessions of one agent, by the roots that they write to."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._released = trio.Event()

    @contextlib.asynccontextmanager
    async def lease(
        self, root: Root, holder: str, *, peer: bytes | None = None, scoped: bool = False
    ) -> AsyncIterator[None]:
        """Hold ``root`` for ``holder``.  Raises SyncError ``root-busy``, naming who holds it, after a short wait.

        Sessions about some paths are short, and are waited for by each other.
        """
        wanted = Held(root, holder, peer, scoped)
        patience = trio.current_time() + PATIENCE_S
        while (other := self._in_the_way(wanted)) is not None:
            endless = other.holder == SWEEP or (scoped and other.scoped)
            with trio.CancelScope(deadline=math.inf if endless else patience) as waiting:
                await self._released.wait()
            if waiting.cancelled_caught:
                raise SyncError("root-busy", f"{shown(root.path)} is being written by {other.holder}")
        self._held.append(wanted)
        try:
            yield
        finally:
            self._held.remove(wanted)
            self._released.set()
            self._released = trio.Event()

    def _in_the_way(self, wanted: Held) -> Held | None:
        return next((held for held in self._held if overlap(held.root, wanted.root) and not held.admits(wanted)), None)
