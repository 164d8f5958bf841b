"""Where a session's time goes at this end: the engine's threads, the pump's waits, the process's CPU."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proto.schema import Profile

Rows = dict[str, tuple[int, int, int]]
"""By stage, (spent, first moment, last moment) in ns, as the engines' ``profile()`` has them."""

now_ns = time.perf_counter_ns


class Meter:
    """Begins with its session; there is one only where somebody asked for a profile."""

    def __init__(self) -> None:
        self._began = now_ns()
        self._cpu = time.process_time_ns()
        self._rows: Rows = {}

    def add(self, stage: str, since: int) -> None:
        """Something of ``stage`` went on from ``since``, a moment of now_ns(), until now."""
        first, last = since - self._began, now_ns() - self._began
        spent, earliest, _ = self._rows.get(stage, (0, first, 0))
        self._rows[stage] = spent + last - first, min(first, earliest), last

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """What the body does is ``stage``."""
        since = now_ns()
        try:
            yield
        finally:
            self.add(stage, since)

    def profile(self, engine: Rows) -> Profile:
        """All until now, ``engine``'s stages first.  CPU time is the whole process's, and so of all its sessions."""
        rows = {**engine, **self._rows}
        return {
            "wall_us": (now_ns() - self._began) // 1000,
            "cpu_us": (time.process_time_ns() - self._cpu) // 1000,
            "stages": {
                stage: {"spent_us": spent // 1000, "first_us": max(0, first) // 1000, "last_us": max(0, last) // 1000}
                for stage, (spent, first, last) in rows.items()
            },
        }
