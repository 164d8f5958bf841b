"""What Linux's /proc says of processes: CPU time, memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of CPU time of these processes and of all children that they have waited for.

    Between two calls, a child that ends moves from the sum's one part to its other, if its parent is among them.
    """
    return TICK_S * sum(sum(_stat(pid)[11:15]) for pid in pids)


def machine_s() -> tuple[float, float]:
    """Seconds of all cores since boot: idle, total."""
    with open("/proc/stat") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return (ticks[3] + ticks[4]) * TICK_S, sum(ticks) * TICK_S


def forget_peak(pid: int) -> None:
    """The process's peak of resident memory counts from now on (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss_mb(pid: int) -> float:
    """The peak of its resident memory."""
    return _kib(f"/proc/{pid}/status", "VmHWM:") * 1024 / 1e6


def pss_kib(pid: int) -> int:
    """Its proportional set size: what it shares with others is divided among them."""
    return _kib(f"/proc/{pid}/smaps_rollup", "Pss:")


def command(pid: int) -> str:
    """Its name."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def meminfo_bytes(key: str) -> int:
    """A line of /proc/meminfo."""
    return _kib("/proc/meminfo", key + ":") * 1024


def _kib(path: str, key: str) -> int:
    with open(path) as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))


def _stat(pid: int) -> list[int]:
    """The numbers behind its state; none when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [0, *map(int, fields[1:17])]
