"""What a person reads: sizes, times, progress, problems, itemized lines, statistics.  Pure: texts in, texts out."""

from __future__ import annotations

from os import strerror

from proto.record import TYPE_CHECKING
from proto.text import shown

if TYPE_CHECKING:
    from proto.schema import Profile

Counters = dict[str, int]

STAGES = (
    "walk", "compare", "sign", "read", "hash", "delta", "compress", "decompress", "apply", "write", "metadata",
    "rename", "finish", "socket", "wait", "idle",
)  # fmt: skip
"""Of a profile, in the order of a file's way; a newer agent's others come behind them."""

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size(count: float) -> str:
    """Bytes for people: 512 B, 1.5 kB, 23 MB."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.1f} {_UNITS[unit]}" if unit and count < 9.95 else f"{count:.0f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """A time for people: 3.4 ms, 0.45 s, 12.3 s, 2:05, 1:02:03."""
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class Rate:
    """Bytes per second over the last few seconds."""

    SPAN_S = 4.0

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, now: float, count: int) -> None:
        """``count`` bytes in all, at ``now``."""
        if self._points and now - self._points[-1][0] < 0.05:
            return
        self._points.append((now, count))
        while len(self._points) > 2 and now - self._points[1][0] >= self.SPAN_S:
            del self._points[0]

    def value(self) -> float:
        """0.0 until there are two points."""
        if len(self._points) < 2:
            return 0.0
        (start, first), (end, last) = self._points[0], self._points[-1]
        return max(0, last - first) / max(end - start, 0.05)


def done_bytes(counters: Counters) -> int:
    """Bytes of files that are applied, or on their way in a file that is not finished."""
    applied = counters.get("bytes", counters.get("acked_bytes", 0))
    under_way = counters.get("literal", 0) + counters.get("matched", 0)
    return max(applied, min(under_way, counters.get("wanted_bytes", 0)))


def progress(phase: str, counters: Counters, rate: float) -> str:
    """The progress line: phase, files, bytes, rate, and the time left once the whole list is known."""
    files = counters.get("files", counters.get("acked_files", 0))
    total_files, total = counters.get("wanted_files", 0), counters.get("wanted_bytes", 0)
    done = done_bytes(counters)
    parts = [phase or "working"]
    if counters.get("listed") and not total_files:
        parts.append(f"{counters['listed']:,} listed")
    if total_files:
        parts.append(f"{files:,}/{max(files, total_files):,} files")
        parts.append(f"{size(done)}/{size(max(done, total))}")
    if rate >= 1:
        parts.append(f"{size(rate)}/s")
        if counters.get("list_done") and total > done:
            parts.append(f"ETA {duration(max(1.0, (total - done) / rate))}")
    return "  ".join(parts)


def problem(path: bytes, code: str, errno: int) -> str:
    """One path's trouble on a line."""
    from proto.control_jobs import known_problem

    path, text = known_problem(path, shown(code.encode()))
    said = f"{shown(path) or '.'}: {text}"
    return f"{said}: {strerror(errno)}" if errno else said


def item(line: bytes) -> str:
    """An itemized line, ``%i %n%L``, safe on a terminal."""
    return shown(line)


def summary(stats: Counters, problems: int, seconds: float, wire: tuple[int, int], *, dry_run: bool) -> str:
    """The last line of a job."""
    kind = "wanted_" if dry_run else ""
    files, linked, deleted = stats.get(kind + "files", 0), stats.get("linked", 0), stats.get("deleted", 0)
    moved = stats.get("moved", 0)
    others = sum(stats.get(key, 0) for key in ("dirs", "symlinks", "meta"))
    parts = [f"{plural(files, 'file')}, {size(stats.get(kind + 'bytes', 0))}"] if files else []
    parts += [f"{moved:,} renamed"] if moved else []
    parts += [f"{linked:,} linked"] if linked else []
    parts += [plural(others, "other change")] if others else []
    parts += [f"{deleted:,} deleted"] if deleted else []
    text = ", ".join(parts) if parts else "nothing to do" if problems else "up to date"
    text = f"dry run: {text}" if dry_run else text
    text += f", {plural(problems, 'problem')}" if problems else ""
    return f"{text}, in {duration(seconds)} (sent {size(wire[0])}, received {size(wire[1])})"


def speedup(stats: Counters, moved: int) -> float:
    """The total size of the files by the bytes on the wire, as rsync has it."""
    return stats.get("listed_bytes", 0) / moved if moved else 0.0


def statistics(stats: Counters, epochs: int, seconds: float, wire: tuple[int, int]) -> str:
    """The block that ``--stats`` prints, in rsync's words where it has them."""
    moved = wire[0] + wire[1]
    counted = [
        ("entries listed", "listed"),
        ("regular files transferred", "files"),
        ("created", "created"),
        ("renamed, not transferred", "moved"),
        ("updated", "updated"),
        ("directories made", "dirs"),
        ("symlinks made", "symlinks"),
        ("hard links made", "linked"),
        ("attributes set", "meta"),
        ("deleted", "deleted"),
        ("skipped", "skipped"),
        ("total file size", "listed_bytes"),
        ("total transferred file size", "bytes"),
        ("literal data", "literal"),
        ("matched data", "matched"),
    ]
    rows = [
        *((name, f"{stats.get(key, 0):,}") for name, key in counted),
        ("total bytes sent", f"{wire[0]:,}"),
        ("total bytes received", f"{wire[1]:,}"),
        ("bytes/sec", f"{moved / seconds:,.0f}" if seconds else "-"),
        ("speedup", f"{speedup(stats, moved):,.2f}"),
        ("time", duration(seconds)),
        ("link epochs", f"{epochs:,}"),
    ]
    return "\n".join(f"  {name + ':':<29}{value:>18}" for name, value in rows)


def profile(ends: dict[str, Profile]) -> str:
    """The table that ``--profile`` prints: by stage and end, the time spent, and from when to when."""
    found = {stage for end in ends.values() for stage in end["stages"]}
    order = [stage for stage in STAGES if stage in found] + sorted(found - {*STAGES})
    rows = [
        ("stage", [f"{end:>10}  {'from - to':<23}" for end in ends]),
        *((stage, [_spent(end["stages"].get(stage)) for end in ends.values()]) for stage in order),
        ("CPU", [_spent_alone(duration(end["cpu_us"] / 1e6)) for end in ends.values()]),
        ("in all", [_spent_alone(duration(end["wall_us"] / 1e6)) for end in ends.values()]),
    ]
    return "\n".join(f"  {shown(name.encode()):<12}{''.join(cells)}".rstrip() for name, cells in rows)


def _spent(stage: Counters | None) -> str:
    if stage is None:
        return _spent_alone("-")
    spent, first, last = (duration(stage[key] / 1e6) for key in ("spent_us", "first_us", "last_us"))
    return f"{spent:>10}  {first:>9} - {last:<11}"


def _spent_alone(text: str) -> str:
    return f"{text:>10}{'':25}"
