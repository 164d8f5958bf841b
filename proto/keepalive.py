"""Whether the other end of a link is still there, and how far away it is.

Sans-IO: the caller tells the time (seconds of a clock that only goes forward), says when bytes came, and sends the
pings it is told to send.  Any byte proves life, a pong or file data; only pongs measure the round trip.
"""

from __future__ import annotations

from collections import deque

from proto.errors import RemoteProtocolError
from proto.record import NamedTuple

SAMPLES = 16
"""Round trips that the minimum is taken over: a minute or so at the usual interval, so a longer route shows soon."""

WAKE_GRACE_S = 4.0
"""After a sleep the connection is usually gone with its NAT entry; this long it may take to prove otherwise."""


class SendPing(NamedTuple):
    """Send PING ``n`` now."""

    n: int


class Wait(NamedTuple):
    """Nothing to do for so long, unless something happens before."""

    seconds: float


class Dead(NamedTuple):
    """No byte came for so long: give the link up."""

    silent_s: float


class Keepalive:
    """One per link.  ``next_action`` is asked again after each event and when the time it named has passed."""

    def __init__(self, dead_after_s: float, now: float) -> None:
        self._dead_after_s = dead_after_s
        self._interval_s = dead_after_s / 3
        self._heard_at = now
        self._deadline = now + dead_after_s
        self._ping_at = now
        self._n = 0
        self._asked: dict[int, float] = {}
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    @property
    def rtt_s(self) -> float | None:
        """The shortest of the latest round trips.  The minimum, since a mean under load measures our own queues."""
        return min(self._samples, default=None)

    def heard(self, now: float) -> None:
        """Bytes came, on whichever connection of the link."""
        self._heard_at = now
        self._deadline = now + self._dead_after_s

    def pong_untrusted(self, n: int, now: float) -> None:
        """PONG ``n`` came.  Raises RemoteProtocolError for one that was not asked for."""
        asked_at = self._asked.pop(n, None)
        if asked_at is None:
            raise RemoteProtocolError(f"pong {n} answers no ping")
        self.heard(now)
        self._samples.append(max(0.0, now - asked_at))

    def slept(self, now: float) -> None:
        """The machine was suspended: whatever the silence so far, find out at once."""
        self._ping_at = now
        self._deadline = now + min(WAKE_GRACE_S, self._dead_after_s)

    def next_action(self, now: float) -> SendPing | Wait | Dead:
        """What to do at ``now``."""
        if now >= self._deadline:
            return Dead(now - self._heard_at)
        if now >= self._ping_at:
            self._ping_at = now + self._interval_s
            self._n += 1
            self._asked[self._n] = now
            return SendPing(self._n)
        return Wait(min(self._ping_at, self._deadline) - now)
