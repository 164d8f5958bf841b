"""How much of a session may be on its way over a long link: what is queued there, a save has to wait behind.

A link's own buffers take megabytes, which a slow one needs seconds for.  The receiver says how many bytes have arrived
(GOT), so the sender knows how many have not, and how fast they do.  It keeps at most twice of what the link needs to be
busy under way, as BBR does (cwnd_gain 2 of draft-ietf-ccwg-bbr): the bound doubles with each round trip until more of
it does not bring more.
"""

from __future__ import annotations

from collections import deque

import trio

FLOOR = 256 << 10
"""Bytes that may always be under way: 0.2 s of 10 Mbit/s."""

START = 1 << 20
"""Until the link's rate is known: most links are not that slow, and what they are shows after a round trip."""

STEP = 64 << 10
"""Bytes written at a time; and twice that much arrives between two GOTs."""

GOT_EVERY = 2 * STEP

TELL_S = 1.0
"""And so long between two, while anything arrives: a ping waits behind what is under way, and on a slow link for longer
than silence is put up with."""

GAIN = 2.0
SAMPLES = 10
"""Round trips that the fastest of is the link's rate: it may become slower, and is not always kept busy."""


class Pace:
    """The sending side of one session, over all its connections."""

    def __init__(self, rtt_s: float) -> None:
        self._rtt_s = rtt_s
        self._sent = 0
        self._got = 0
        self._limit = float(START)
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._since: tuple[float, int] | None = None
        self._room = trio.Event()
        self._stopped = False

    @property
    def under_way(self) -> int:
        """Bytes that are not known to have arrived."""
        return self._sent - self._got

    async def wait(self, count: int) -> None:
        """Until ``count`` bytes more may be written; they are taken for sent."""
        while self.under_way > self._limit and not self._stopped:
            await self._room.wait()
        self._sent += count

    def got(self, count: int, now: float) -> None:
        """So many bytes have arrived, since the session began."""
        count = min(count, self._sent)  # what was sent before it was counted
        self._got = max(self._got, count)
        if self._since is None:
            self._since = now, self._got
        elif now - self._since[0] >= self._rtt_s:
            self._rates.append((self._got - self._since[1]) / (now - self._since[0]))
            self._since = now, self._got
            self._limit = max(FLOOR, GAIN * self._rtt_s * max(self._rates))
        # One event for all connections that wait: each looks again.
        self._room.set()
        self._room = trio.Event()

    def stop(self) -> None:
        """The session is over: what was begun goes out."""
        self._stopped = True
        self._room.set()


class Arrivals:
    """The receiving side: counts, and says when to tell.  Times are trio's."""

    def __init__(self, now: float, *, far: bool) -> None:
        """``far``: whether the sender waits to hear of every byte, or only wants to know that some come."""
        self.count = 0
        self._told = 0
        self._told_at = now
        self._far = far

    def add(self, count: int, now: float) -> bool:
        """``count`` bytes came; whether that is worth a GOT."""
        self.count += count
        return self._due(now)

    def take(self, now: float) -> int | None:
        """What to tell now, if it is time to."""
        if not self._due(now):
            return None
        self._told, self._told_at = self.count, now
        return self.count

    def _due(self, now: float) -> bool:
        new = self.count - self._told
        return (self._far and new >= GOT_EVERY) or (new > 0 and now >= self._told_at + TELL_S)
