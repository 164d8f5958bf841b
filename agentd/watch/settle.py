"""When changes leave: a single save at once, a burst when it is over, a file rewritten in a loop now and then.

Pure: it is told the time, and of what was found; it says when to look again, and when a batch is due.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

PATTERN_S = 0.002
"""From the first event to the first look, unless a save is complete before: editors save by several calls within a
millisecond."""

GONE_S = 0.03
"""Once more for a name that went: an editor that moves the old file away puts the new one there next."""

FEW = 8
"""So many paths are saves; more of them are a burst."""

GAP_S, GAP_MAX_S = 0.01, 0.5
"""How long a burst has to be quiet, at first and at most; it doubles with each look that finds more of it."""

BURST_MAX_S = 5.0
"""A burst that does not end leaves all the same after this time."""

TOKENS, TOKEN_S = 10.0, 0.25
"""Each path may leave so often at once, then once in this time: a person saves less often, a loop more.  What takes
longer than that to send waits as long before the next time, so that a large file leaves time for others."""

REST_MAX_S = 0.05
"""Between two looks that find nothing, or nothing but what has to wait."""

PATHS_MAX = 1024
"""Paths whose tokens are counted; the one that changed longest ago is forgotten first, and starts anew."""


class Found(NamedTuple):
    """What a look found that earlier ones had not."""

    paths: frozenset[bytes] | None
    """None: more than FEW."""
    gone: bool
    """Whether one of them is gone, among FEW."""


class Settle:
    """The changes of one pair on their way out.  Times are seconds of one clock."""

    def __init__(self) -> None:
        self._since = math.inf
        """When the first change of the batch was found."""
        self._due = math.inf
        self._gap = 0.0
        self._rest = PATTERN_S
        self._looked = -math.inf
        self._tokens: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        self._batch: set[bytes] = set()
        self._left: set[bytes] = set()
        """What was in the last batch."""
        self._began = 0.0

    @property
    def due(self) -> float:
        """When what was found so far leaves, unless a look before then finds more; never, when nothing was found."""
        return self._due

    @property
    def bursting(self) -> bool:
        """Whether a burst is waited for, so that nothing before ``due`` is of interest."""
        return self._gap >= GAP_S and self._since < math.inf

    def first_look(self, now: float) -> float:
        """When to look at the latest, when something changed at ``now``; PATTERN_S before that at the earliest."""
        if now - self._looked > 4 * self._rest:
            self._rest = PATTERN_S
        return now + self._rest

    def looked(self, found: Found | None, now: float) -> None:
        """A look found these changes, or none."""
        self._looked = now
        if found is None:
            self._rest = min(2 * self._rest, REST_MAX_S)
            if self._due == math.inf:  # the burst is over, if there was one
                self._gap = 0.0
        elif found.paths is not None and not any(self._ready(path, now) for path in found.paths):
            self._rest = min(2 * self._rest, REST_MAX_S)
            if not self.bursting:
                self._gap = 0.0
            self._batch |= found.paths
            self._due = min(self._due, min((self._when_ready(path, now) for path in found.paths), default=now))
        else:
            self._add(found, now)

    def _add(self, found: Found, now: float) -> None:
        self._rest = PATTERN_S
        if found.paths is not None and found.paths <= self._batch and self._since < math.inf:
            return  # what changes again before it has left makes nobody wait longer
        again = found.paths is not None and found.paths <= self._left
        if again and not self.bursting:
            self._gap = 0.0
        self._since = min(self._since, now)
        self._batch |= found.paths or frozenset()
        if found.paths is not None and not self._gap:
            self._due = now + GONE_S * found.gone
            self._gap = 0.0 if again else GAP_S / 2
        else:
            self._gap = min(max(2 * self._gap, GAP_S), GAP_MAX_S)
            self._due = min(now + self._gap, self._since + BURST_MAX_S)

    def left(self, now: float) -> None:
        """The batch leaves."""
        self._left, self._batch = self._batch, set()
        self._began = now
        self._since = self._due = math.inf

    def arrived(self, now: float) -> None:
        """It is at the far end."""
        cost = max(1.0, 2 * (now - self._began) / TOKEN_S)  # one half came back meanwhile
        for path in self._left:
            self._tokens[path] = max(self._bucket(path, now)[0] - cost, -cost), now
            self._tokens.move_to_end(path)
        while len(self._tokens) > PATHS_MAX:
            self._tokens.popitem(last=False)

    def _bucket(self, path: bytes, now: float) -> tuple[float, float]:
        tokens, at = self._tokens.get(path, (TOKENS, now))
        return min(TOKENS, tokens + (now - at) / TOKEN_S), now

    def _ready(self, path: bytes, now: float) -> bool:
        return self._bucket(path, now)[0] >= 1

    def _when_ready(self, path: bytes, now: float) -> float:
        return now + max(0.0, 1 - self._bucket(path, now)[0]) * TOKEN_S
