"""Sessions that ended here without the other side's knowing, so that it still holds their roots.

A way that was cut in silence stays open at the far end for hours: sshd hears of it by TCP's keepalive only.  A job
that was cancelled meanwhile, or gave up, would leave its root busy there for as long.  So the next job to that host
takes such a session up under a higher epoch, which ends the older one first, and cancels it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from agentd.sync.common import close_now
from agentd.wire import ConnectionLost
from proto.errors import ProtocolError
from proto.peer import Cancel, Error, Open

if TYPE_CHECKING:
    from agentd.sync.routes import Route

KEPT = 64
"""Of one host."""

_ANSWER_S = 5.0
"""The older epoch's engine is joined in this time, or the next job tries again."""


class Abandoned:
    """By host, how the latest epoch of each was opened."""

    def __init__(self) -> None:
        self._openings: dict[str, deque[Open]] = {}

    def add(self, host: str, opening: Open) -> None:
        """The job is over, and nobody knows whether the far side has seen the end of ``opening``."""
        self._openings.setdefault(host, deque(maxlen=KEPT)).append(opening)

    async def release(self, host: str, route: Route) -> None:
        """End those that are left, over ``route``.  Raises SyncError when there is no connection to be had."""
        openings = self._openings.pop(host, None)
        while openings:
            known = False
            try:
                known = await _cancel(openings[0], route)
            finally:
                if not known:
                    for opening in openings:
                        self.add(host, opening)
            if not known:
                return
            openings.popleft()


async def _cancel(opening: Open, route: Route) -> bool:
    """Whether the far side answered, and so has nothing of the session left."""
    connection = await route.connection()
    try:
        # of a dry run, which holds nothing: how it ends is of no importance
        await connection.send(opening._replace(epoch=opening.epoch + 1, dry_run=True, baselines=[]))
        await connection.send(Cancel())
        with trio.move_on_after(_ANSWER_S):
            while not isinstance((await connection.receive())[0], Error):
                pass
            return True
    except (ConnectionLost, trio.ClosedResourceError, ProtocolError):
        pass
    finally:
        await close_now(connection)
    return False
