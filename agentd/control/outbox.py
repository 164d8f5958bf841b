"""What a control connection still has to be told: bounded, and never waited for by whoever has something to say."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from proto.control import Items, Notice, Problems, Progress
from proto.limits import CONTROL_PAYLOAD_MAX

if TYPE_CHECKING:
    from agentd.control.channel import Channel
    from proto.schema import Message

BULK_MAX = 32 << 20
"""Bytes of items and problems kept for a reader that lags, such as a pager: about 400,000 lines."""

BULK_TOTAL = 128 << 20
"""The same of all connections together: four such readers."""

MESSAGES_MAX = 4096
"""Other messages kept.  Only who has stopped reading gets there: a reader of events is disconnected, and from who asks
no more requests are taken until the answers were read."""


class Room:
    """Bytes of items and problems that wait on any connection."""

    def __init__(self) -> None:
        self.taken = 0


class Outbox:
    """A queue with one writer task, ``run()``.

    Of PROGRESS only the newest of a job is kept.  ITEMS and PROBLEMS beyond BULK_MAX, or BULK_TOTAL in the ``room``
    that connections share, are dropped and counted, and a NOTICE says so: a job does not wait for its reader, and is
    not lost by it.  ``overflowed`` is set while other messages pile up.
    """

    def __init__(self, channel: Channel, room: Room) -> None:
        self._channel = channel
        self._room = room
        self._queue: OrderedDict[object, tuple[Message, bytes | None]] = OrderedDict()
        self._bulk = 0
        self._dropped: dict[tuple[int, int], int] = {}
        self._news = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    @property
    def backlog(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    @property
    def overflowed(self) -> bool:
        """Whether its reader has stopped reading."""
        return len(self._queue) > MESSAGES_MAX

    def post(self, message: Message, payload: bytes | None = None) -> None:
        """Queue a message; never blocks."""
        if payload is not None and len(payload) > CONTROL_PAYLOAD_MAX:
            raise ValueError("a payload beyond the limit of a frame")
        if isinstance(message, Progress):
            self._queue[message.id, message.job] = (message, None)
        elif isinstance(message, Items | Problems):
            size = len(payload or b"")
            if self._bulk + size > BULK_MAX or self._room.taken + size > BULK_TOTAL:
                key = (message.id, message.job)
                self._dropped[key] = self._dropped.get(key, 0) + 1
                return
            self._take(size)
            self._queue[object()] = (message, payload)
        else:
            self._queue[object()] = (message, payload)
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._news.set()

    def close_job(self, request: int, job: int) -> None:
        """Say before a job's last message what was dropped of it."""
        self._queue.pop((request, job), None)
        dropped = self._dropped.pop((request, job), 0)
        if dropped:
            self.post(Notice(request, job, f"output was not read in time: {dropped} batches of lines are not shown"))

    async def wait_idle(self) -> None:
        """Until everything was handed to the system."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send, in order, until the connection breaks (ConnectionLost, trio.ClosedResourceError)."""
        while True:
            await self._news.wait()
            while self._queue:
                _, (message, payload) = self._queue.popitem(last=False)
                if isinstance(message, Items | Problems):
                    self._take(-len(payload or b""))
                await self._channel.send(message, payload)
            self._news = trio.Event()
            self._idle.set()

    def close(self) -> None:
        """Nothing more is sent: what waits goes."""
        self._queue.clear()
        self._take(-self._bulk)

    def _take(self, size: int) -> None:
        self._bulk += size
        self._room.taken += size
