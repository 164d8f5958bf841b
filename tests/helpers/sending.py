"""A sender driven by hand: a naive reading of the payload layouts in docs/protocol.md, and an event pump."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from agentd._core import Buffer, Sender, Tree, _selftest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

DIRECTORY, REGULAR, SYMLINK, OTHER, UNREADABLE, GONE = range(6)
SINGLE, OWNERS, HASHES = 1, 2, 4
FIRST, LAST, INCOMPLETE, PARTIAL = 1, 2, 4, 8
LINKS = 8
WHOLE, PIECE, END, PROBLEM = 1, 2, 3, 4
RAW, DELTA, SAME, HOLE = 0, 1, 2, 3
VANISHED, CHANGED, UNREADABLE_FILE = 1, 2, 3
MIB = 1 << 20
NO_LIMIT = 1 << 40
DEADLINE_S = 60.0

_RECORD = struct.Struct("<BBHIIIIQqIIB3x32s")


class Entry(NamedTuple):
    """One entry of a list; ``path`` is relative to the root."""

    path: bytes
    kind: int
    mode: int
    size: int
    mtime_ns: int
    target: bytes
    uid: int
    gid: int
    hash: bytes


class Group(NamedTuple):
    """A directory or a part of one."""

    path: bytes
    flags: int
    errno: int
    entries: list[Entry]


class Record(NamedTuple):
    """A DATA record."""

    kind: int
    encoding: int
    mode: int
    chunk: int
    entry: int
    piece: int
    data_len: int
    size: int
    mtime_s: int
    mtime_ns: int
    errno: int
    code: int
    hash: bytes
    data: bytes


def buffer(data: bytes) -> Buffer:
    """A Buffer that holds ``data``."""
    made = Buffer(len(data))
    with memoryview(made) as view:
        view[:] = data
    return made


def parse_chunk(data: bytes) -> tuple[int, list[Group]]:
    """(chunk flags, groups) of a LIST payload."""
    layout, flags, group_count, n, paths_len, names_len, targets_len = struct.unpack_from("<HHIIIII", data)
    assert layout == 1
    at = 24
    heads = [struct.unpack_from("<IHBBi", data, at + 12 * i) for i in range(group_count)]
    at += 12 * group_count

    def column(code: str, there: bool = True) -> list[int]:
        nonlocal at
        if not there:
            return [0] * n
        begin, at = at, at + struct.calcsize(f"<{n}{code}")
        return list(struct.unpack_from(f"<{n}{code}", data, begin))

    kinds, modes, sizes, seconds, nanos = column("B"), column("H"), column("Q"), column("q"), column("I")
    name_lens, target_lens = column("H"), column("H")
    uids, gids = column("I", bool(flags & OWNERS)), column("I", bool(flags & OWNERS))
    hashes = [data[at + 32 * i : at + 32 * i + 32] for i in range(n)] if flags & HASHES else [b""] * n
    at += 32 * n if flags & HASHES else 0
    paths, names, targets = at, at + paths_len, at + paths_len + names_len
    links = len(data) - targets - targets_len
    assert links > 0 and links % 8 == 0 if flags & LINKS else links == 0
    groups, i = [], 0
    for count, path_len, group_flags, reserved, errno in heads:
        assert reserved == 0
        path = data[paths : paths + path_len]
        paths += path_len
        entries = []
        for _ in range(count):
            name = data[names : names + name_lens[i]]
            target = data[targets : targets + target_lens[i]]
            names += name_lens[i]
            targets += target_lens[i]
            full = path + b"/" + name if path and name else path + name
            mtime_ns = seconds[i] * 1_000_000_000 + nanos[i]
            entries.append(Entry(full, kinds[i], modes[i], sizes[i], mtime_ns, target, uids[i], gids[i], hashes[i]))
            i += 1
        groups.append(Group(path, group_flags, errno, entries))
    assert i == n
    return flags, groups


def parse_records(data: bytes) -> Iterator[Record]:
    """The records of a DATA payload."""
    at = 0
    while at < len(data):
        fields = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        yield Record._make((*fields, data[at : at + fields[6]]))
        at += fields[6]


def unpacked(payload: Buffer | bytes) -> bytes:
    """What a payload holds, packed or not."""
    raw = _selftest("unpack", payload, {})
    assert isinstance(raw, bytes)
    return raw


def ack(
    list_window: int = NO_LIMIT,
    data_window: int = NO_LIMIT,
    forget: tuple[int, ...] = (),
    applied: tuple[int, int] = (0, 0),
) -> Buffer:
    """An ACK."""
    return buffer(struct.pack(f"<QQQQI{len(forget)}I", list_window, data_window, *applied, len(forget), *forget))


def bitmap(n: int, indexes: set[int]) -> bytes:
    """A WANT's bitmap over ``n`` entries."""
    bits = bytearray((n + 7) // 8)
    for i in indexes:
        bits[i >> 3] |= 1 << (i & 7)
    return bytes(bits)


def looks(*paths: bytes, deep: tuple[bytes, ...] = ()) -> bytes:
    """A payload of looks at ``paths``, and at those in ``deep`` with everything below them."""
    pairs = [(path, 0) for path in paths] + [(path, 1) for path in deep]
    return b"".join(struct.pack("<BBI", flags, 0, len(path)) + path for path, flags in pairs)


class Sending:
    """A running sender and all that it gave so far."""

    def __init__(
        self,
        root: bytes | str | os.PathLike[str],
        *,
        filters: tuple[bytes, ...] = (),
        hashes: bool = False,
        owners: bool = False,
        hard_links: bool = True,
        threads: int = 2,
        batch_max: int = MIB + 4096,
        list_window: int = NO_LIMIT,
        data_window: int = NO_LIMIT,
        compress: str = "never",
        tree: Tree | None = None,
        looks: Buffer | bytes | None = None,
        since: int | None = None,
        ahead: bool = False,
    ) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            self.sender = Sender(
                os.fsencode(root), filters=list(filters), hashes=hashes, owners=owners, hard_links=hard_links,
                threads=threads, batch_max=batch_max, list_window=list_window, data_window=data_window,
                compress=compress, far=False, wake_fd=self._wake, tree=tree, looks=looks, since=since,
                ahead=ahead,
            )  # fmt: skip
        except OSError:
            os.close(self._wake)
            raise
        self.chunks: list[bytes] = []
        self.batches: list[bytes] = []
        self.records: list[Record] = []
        self.ends = 0

    @property
    def ended(self) -> bool:
        """Whether a LIST-END is due."""
        return self.ends > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.sender.close()
        os.close(self._wake)

    def take(self) -> None:
        """All that is there now."""
        while (event := self.sender.next_control()) is not None:
            tag, n, payload = event
            if tag == "list":
                assert n == len(self.chunks)
                assert payload is not None
                self.chunks.append(unpacked(payload))
            else:
                assert (tag, n, payload) == ("list-end", 0, None)
                self.ends += 1
        while (event := self.sender.next_data()) is not None:
            assert event[:2] == ("data", 0)
            assert event[2] is not None
            self.batches.append(bytes(event[2]))
            self.records.extend(parse_records(unpacked(event[2])))

    def until(self, done: Callable[[], bool]) -> None:
        """Take until ``done()``; fails when nothing comes for too long."""
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass
            self.take()
            if done():
                return
            left = end - time.monotonic()
            assert left > 0, "the sender stalled"
            select.select([self._wake], [], [], left)

    def list_all(self) -> list[Group]:
        """Start, and wait for the whole list."""
        self.sender.start()
        self.until(lambda: self.ended)
        return self.groups()

    def look(self, payload: bytes) -> list[Group]:
        """LOOK, and wait for what it has listed."""
        before, ends = len(self.chunks), self.ends
        self.sender.look_untrusted(buffer(payload))
        self.until(lambda: self.ends > ends)
        return self.groups(before)

    def groups(self, first: int = 0) -> list[Group]:
        """The groups of all chunks so far, from chunk ``first`` on."""
        return [group for chunk in self.chunks[first:] for group in parse_chunk(chunk)[1]]

    def entries(self, n: int = 0) -> list[Entry]:
        """The entries of chunk ``n``, by index."""
        return [entry for group in parse_chunk(self.chunks[n])[1] for entry in group.entries]

    def find(self, path: bytes) -> tuple[int, int]:
        """(chunk, index) of an entry."""
        for n in range(len(self.chunks)):
            for i, entry in enumerate(self.entries(n)):
                if entry.path == path:
                    return n, i
        raise AssertionError(f"{path!r} is not listed")

    def want(self, *paths: bytes, basis: tuple[bytes, ...] = ()) -> None:
        """WANTs for all chunks that name these paths; of those in ``basis`` a basis will come."""
        wanted = {self.find(path) for path in (*paths, *basis)}
        later = {self.find(path) for path in basis}
        for n in range(len(self.chunks)):
            count = len(self.entries(n))
            maps = (bitmap(count, {i for chunk, i in pairs if chunk == n}) for pairs in (wanted, later))
            self.sender.want_untrusted(n, buffer(b"".join(maps)))

    def resolved(self) -> int:
        """Files that came whole or will not come."""
        return sum(record.kind != PIECE for record in self.records)

    def until_resolved(self, count: int) -> None:
        """Take until so many files came whole or will not come."""
        self.until(lambda: self.resolved() >= count)
        assert self.resolved() == count
