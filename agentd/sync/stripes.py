"""How many connections carry the data of one session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import limits

if TYPE_CHECKING:
    from agentd.sync.engines import Tuning

CHANNEL_WINDOW = 2 << 20
"""Bytes under way on one SSH channel: OpenSSH's CHAN_TCP_WINDOW_DEFAULT, asyncssh's default window."""

FULL = 0.6
"""A channel that carries so much of what its window allows is held back by it.  None carries all: data has to be read
and the window's updates take their time."""

LOOK_RTTS = 3
"""What further connections bring shows after a few round trips: theirs to be made, and those of the windows."""


class Stripes:
    """Follows one session's throughput, and says when more connections would raise it."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._since = 0.0
        self._moved = 0
        self.count = 1
        """How many there are, those under way to be made included."""

    def more(self, now: float, moved: int, left: int, rtt_s: float | None) -> int:
        """How many to add at ``now``, when ``moved`` bytes are on the wire so far and ``left`` are to come."""
        tuning = self._tuning
        if rtt_s is None or rtt_s < tuning.stripe_rtt_s or left < tuning.stripe_min:
            return 0
        if self.count == 1:
            return self._add(now, moved, tuning.stripes - 1)
        elapsed = now - self._since
        if elapsed < LOOK_RTTS * rtt_s:
            return 0
        rate = (moved - self._moved) / elapsed
        if rate >= FULL * self.count * CHANNEL_WINDOW / rtt_s:
            return self._add(now, moved, min(self.count, limits.STRIPES_MAX - self.count))
        return self._add(now, moved, 0)

    def _add(self, now: float, moved: int, count: int) -> int:
        self._since, self._moved = now, moved
        self.count += count
        return count
