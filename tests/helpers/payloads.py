"""The crate's payload layouts once more, in plain Python from docs/protocol.md: a naive model, and a way to lie."""

from __future__ import annotations

import struct
from typing import NamedTuple

DIRECTORY, REGULAR, SYMLINK, OTHER, UNREADABLE, GONE = range(6)
FIRST, LAST, INCOMPLETE, PARTIAL = 1, 2, 4, 8
SINGLE, OWNERS, HASHES, LINKS, REMEMBERED, ORIGINS = 1, 2, 4, 8, 16, 32
WHOLE, PIECE_RECORD, END, PROBLEM = 1, 2, 3, 4
RAW, DELTA, SAME, HOLE = 0, 1, 2, 3
PIECE = 1 << 20


class Entry(NamedTuple):
    """One row of a file-list chunk."""

    name: bytes
    kind: int = REGULAR
    mode: int = 0o644
    size: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    uid: int = 0
    gid: int = 0
    hash: bytes = bytes(32)
    link: int | None = None
    """The group of names that it is of."""


class Group(NamedTuple):
    """A directory, or a part of one."""

    path: bytes
    entries: list[Entry]
    flags: int = FIRST | LAST
    errno: int = 0


def pack_list(groups: list[Group], flags: int = 0) -> bytes:
    """A LIST payload."""
    rows = [entry for group in groups for entry in group.entries]
    paths = b"".join(group.path for group in groups)
    names = b"".join(row.name for row in rows)
    targets = b"".join(row.target for row in rows)
    out = [struct.pack("<HHIIIII", 1, flags, len(groups), len(rows), len(paths), len(names), len(targets))]
    out += [struct.pack("<IHBBi", len(g.entries), len(g.path), g.flags, 0, g.errno) for g in groups]
    out.append(bytes(row.kind for row in rows))
    out += [struct.pack("<H", row.mode) for row in rows]
    out += [struct.pack("<Q", row.size) for row in rows]
    out += [struct.pack("<q", row.mtime_ns // 10**9) for row in rows]
    out += [struct.pack("<I", row.mtime_ns % 10**9) for row in rows]
    out += [struct.pack("<H", len(row.name)) for row in rows]
    out += [struct.pack("<H", len(row.target)) for row in rows]
    if flags & OWNERS:
        out += [struct.pack("<I", row.uid) for row in rows]
        out += [struct.pack("<I", row.gid) for row in rows]
    if flags & HASHES:
        out += [row.hash for row in rows]
    links = b"".join(struct.pack("<II", i, row.link) for i, row in enumerate(rows) if row.link is not None)
    return b"".join([*out, paths, names, targets, links])


def unpack_list(payload: bytes) -> tuple[int, list[Group]]:
    """(chunk flags, groups) of a LIST payload."""
    layout, flags, group_count, count, paths_len, names_len, targets_len = struct.unpack_from("<HHIIIII", payload)
    assert layout == 1
    at = 24
    heads = []
    for _ in range(group_count):
        heads.append(struct.unpack_from("<IHBBi", payload, at))
        at += 12

    def column(code: str) -> list[int]:
        nonlocal at
        width = struct.calcsize("<" + code)
        values = struct.unpack_from(f"<{count}{code}", payload, at)
        at += count * width
        return list(values)

    kinds, modes, sizes, seconds, nanos = column("B"), column("H"), column("Q"), column("q"), column("I")
    name_lens, target_lens = column("H"), column("H")
    uids, gids = (column("I"), column("I")) if flags & OWNERS else ([0] * count, [0] * count)
    hashes = [bytes(32)] * count
    if flags & HASHES:
        hashes = [payload[at + 32 * i : at + 32 * i + 32] for i in range(count)]
        at += 32 * count
    paths = payload[at : at + paths_len]
    names = payload[at + paths_len : at + paths_len + names_len]
    targets = payload[at + paths_len + names_len :][:targets_len]
    links = dict(struct.iter_unpack("<II", payload[at + paths_len + names_len + targets_len :]))
    assert bool(links) == bool(flags & LINKS)
    rows = []
    for i in range(count):
        name, names = names[: name_lens[i]], names[name_lens[i] :]
        target, targets = targets[: target_lens[i]], targets[target_lens[i] :]
        mtime_ns = seconds[i] * 10**9 + nanos[i]
        rows.append(
            Entry(name, kinds[i], modes[i], sizes[i], mtime_ns, target, uids[i], gids[i], hashes[i], links.get(i))
        )
    groups = []
    for entries, path_len, group_flags, _, errno in heads:
        path, paths = paths[:path_len], paths[path_len:]
        groups.append(Group(path, rows[:entries], group_flags, errno))
        rows = rows[entries:]
    return flags, groups


def pack_record(
    kind: int,
    chunk: int,
    index: int,
    data: bytes = b"",
    *,
    size: int = 0,
    hash_: bytes = bytes(32),
    encoding: int = RAW,
    mode: int = 0o644,
    piece: int = 0,
    mtime_ns: int = 0,
    errno: int = 0,
    code: int = 0,
) -> bytes:
    """One DATA record."""
    head = struct.pack("<BBHIIIIQqII", kind, encoding, mode, chunk, index, piece, len(data), size,
                       mtime_ns // 10**9, mtime_ns % 10**9, errno)  # fmt: skip
    return head + struct.pack("<B3x", code) + hash_ + data


def bits(payload: bytes, entries: int, which: int = 0) -> list[int]:
    """The indexes set in bitmap ``which`` (0 wanted, 1 basis) of a WANT."""
    width = (entries + 7) // 8
    assert len(payload) == 2 * width
    bitmap = payload[which * width : (which + 1) * width]
    return [i for i in range(entries) if bitmap[i >> 3] >> (i & 7) & 1]


def zstd_frame(data: bytes) -> bytes:
    """One zstd frame of blocks that are not compressed."""
    cuts = range(0, len(data), 1 << 17) or (0,)
    blocks = [(data[at : at + (1 << 17)], at + (1 << 17) >= len(data)) for at in cuts]
    return _frame(len(data), b"".join(_block(last, 0, len(part)) + part for part, last in blocks))


def zstd_bomb(size: int) -> bytes:
    """One zstd frame that unpacks to so many zeros: four bytes for each 128 KiB."""
    parts = [1 << 17] * (size >> 17) + [size & ((1 << 17) - 1)]
    return _frame(size, b"".join(_block(at == len(parts) - 1, 1, part) + b"\0" for at, part in enumerate(parts)))


def _frame(size: int, blocks: bytes) -> bytes:
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", size) + blocks


def _block(last: bool, kind: int, size: int) -> bytes:
    return (last | kind << 1 | size << 3).to_bytes(3, "little")


def packed(payload: bytes, chunk: int = 0, flags: int = 0, *, raw_len: int | None = None, frame: bytes = b"") -> bytes:
    """A packed payload; ``raw_len`` and ``frame`` are what lies would say instead."""
    size = len(payload) if raw_len is None else raw_len
    return struct.pack("<HHII", 0, flags, size, chunk) + (frame or zstd_frame(payload))
