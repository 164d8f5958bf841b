"""What happened, numbered, with a bounded memory for readers who come back."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import trio

from proto.control import Event

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 1024
"""Events held for a reader who resumes: an editor's restart is short."""


class EventLog:
    """Publish to whoever listens; ``seq`` counts from 1, without gaps, for as long as the agent lives."""

    def __init__(self) -> None:
        self.seq = 0
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._listeners: set[Callable[[Event], None]] = set()
        self._listened = trio.Event()

    def publish(
        self,
        kind: str,
        text: str,
        *,
        job: int | None = None,
        pair: str | None = None,
        host: str | None = None,
        code: str | None = None,
        counters: dict[str, int] | None = None,
    ) -> None:
        """Number it, keep it, tell everyone; never blocks."""
        self.seq += 1
        event = Event(0, self.seq, time.time_ns() // 1_000_000, kind, text, job, pair, host, code, counters)
        self._kept.append(event)
        for listener in tuple(self._listeners):
            listener(event)

    def listen(self, listener: Callable[[Event], None], after: int | None) -> None:
        """Call ``listener`` for the kept events behind ``after``, now, and for each one to come.

        Where some of those are no longer kept (or the agent is another one than before), an event of kind ``missed``
        comes first; it has the number before the next event's.
        """
        if after is not None:
            first = self._kept[0].seq if self._kept else self.seq + 1
            if after < first - 1 or after > self.seq:
                after = first - 1
                listener(Event(0, after, time.time_ns() // 1_000_000, "missed", "earlier events are no longer known"))
            for event in self._kept:
                if event.seq > after:
                    listener(event)
        self._listeners.add(listener)
        self._listened.set()

    def forget(self, listener: Callable[[Event], None]) -> None:
        """Stop calling it."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._listened = trio.Event()

    async def wait_listened(self) -> None:
        """Until somebody listens."""
        await self._listened.wait()
