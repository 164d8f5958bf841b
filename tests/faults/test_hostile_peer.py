"""Peers that lie about lists, content and wants: refused, nothing written outside the root, nothing deleted."""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proto import peer
from tests.helpers.hostile import (
    A_DIR,
    A_LINK,
    ANSWER_S,
    PLAIN,
    ROOT,
    blake3_of,
    end_of,
    greeted,
    listing,
    opened,
    patched,
    root_group,
    say,
    wanted,
)
from tests.helpers.payloads import (
    DELTA,
    DIRECTORY,
    END,
    FIRST,
    HOLE,
    LAST,
    PIECE_RECORD,
    PROBLEM,
    RAW,
    SAME,
    SYMLINK,
    WHOLE,
    Entry,
    Group,
    pack_list,
    pack_record,
    packed,
    unpack_list,
    zstd_bomb,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Agent

SECOND = 10**9

LISTS: dict[str, list[bytes]] = {
    "no root": listing(Group(b"", [Entry(b"file", size=4)])),
    "nothing": listing(),
    "root twice": listing(root_group(ROOT)),
    "parent": listing(root_group(Entry(b"..", DIRECTORY, 0o755))),
    "parent as a file": listing(root_group(Entry(b"..", size=4))),
    "itself": listing(root_group(Entry(b".", DIRECTORY, 0o755))),
    "no name": listing(root_group(Entry(b"", size=4))),
    "absolute": listing(root_group(Entry(b"/tmp/evil", size=4))),
    "slash": listing(root_group(Entry(b"dir/evil", size=4))),
    "upwards": listing(root_group(Entry(b"../canary/evil", size=4))),
    "NUL": listing(root_group(Entry(b"a\0b", size=4))),
    "256 bytes": listing(root_group(Entry(b"n" * 256, size=4))),
    "twice": listing(root_group(Entry(b"same", size=4), Entry(b"same", size=4))),
    "file and link of one name": listing(root_group(Entry(b"same", size=4), Entry(b"same", SYMLINK, target=b"x"))),
    "twice in two parts": [
        pack_list([root_group(Entry(b"same", size=4), flags=FIRST)]),
        pack_list([root_group(Entry(b"same", size=4), flags=LAST)]),
    ],
    "group upwards": listing(root_group(A_DIR), Group(b"..", [Entry(b"evil", size=4)])),
    "group below upwards": listing(root_group(A_DIR), Group(b"sub/../../canary", [Entry(b"evil", size=4)])),
    "group absolute": listing(root_group(A_DIR), Group(b"/tmp", [Entry(b"evil", size=4)])),
    "group empty component": listing(root_group(A_DIR), Group(b"sub//x", [Entry(b"evil", size=4)])),
    "group NUL": listing(root_group(A_DIR), Group(b"sub\0", [Entry(b"evil", size=4)])),
    "group nobody listed": listing(root_group(A_DIR), Group(b"other", [Entry(b"evil", size=4)])),
    "group twice": listing(root_group(A_DIR), Group(b"sub", []), Group(b"sub", [Entry(b"evil", size=4)])),
    "group before its directory": listing(Group(b"sub", [Entry(b"evil", size=4)]), root_group(A_DIR)),
    "child of a symlink": listing(root_group(A_LINK), Group(b"link", [Entry(b"evil", size=4)])),
    "child of a file": listing(root_group(Entry(b"file", size=4)), Group(b"file", [Entry(b"evil", size=4)])),
    "child of the link that is there": listing(root_group(), Group(b"out", [Entry(b"evil", size=4)])),
    "link without target": listing(root_group(Entry(b"link", SYMLINK))),
    "link to NUL": listing(root_group(Entry(b"link", SYMLINK, target=b"a\0b"))),
    "file with a target": listing(root_group(Entry(b"file", target=b"x"))),
    "unknown type": listing(root_group(Entry(b"file", kind=9))),
    "mode beyond bits": listing(root_group(Entry(b"file", mode=0o100644, size=4))),
    "directory with a size": listing(root_group(Entry(b"sub", DIRECTORY, 0o755, size=5))),
    "nanoseconds": [pack_list([root_group(Entry(b"file", size=4))]).replace(bytes(4) + struct.pack("<HH", 4, 0),
                                                                           struct.pack("<IHH", SECOND, 4, 0))],
    "layout 2": patched(PLAIN, 0, b"\2"),
    "unknown flags": patched(PLAIN, 2, b"\xf0"),
    "more groups than bytes": patched(PLAIN, 4, b"\xff\xff\xff\xff"),
    "more entries than bytes": patched(PLAIN, 8, b"\xff\xff\xff\xff"),
    "more names than bytes": patched(PLAIN, 16, b"\xff\xff\xff\xff"),
    "truncated": [PLAIN[:-3]],
    "trailing": [PLAIN + b"x"],
    "empty": [b""],
    "short of a header": [PLAIN[:10]],
}  # fmt: skip


@pytest.mark.fault("G7")
@pytest.mark.parametrize("case", LISTS)
async def test_lists_that_lie(victim: Agent, precious: Path, case: str) -> None:
    async with greeted(victim) as connection:
        await opened(connection, precious, "receiver")
        for n, chunk in enumerate(LISTS[case]):
            await say(connection, peer.List(n), chunk)
        assert await end_of(connection) == "protocol"


LIST_ENDS: dict[str, peer.ListEnd] = {
    "wrong hash": peer.ListEnd(1, 2, bytes(32)),
    "too few chunks": peer.ListEnd(0, 2, bytes(32)),
    "too many chunks": peer.ListEnd(2, 2, bytes(32)),
    "wrong count": peer.ListEnd(1, 3, bytes(32)),
}


@pytest.mark.fault("G7")
@pytest.mark.parametrize("case", LIST_ENDS)
async def test_list_ends_that_lie(victim: Agent, precious: Path, case: str) -> None:
    """Nothing is deleted on such a word."""
    async with greeted(victim) as connection:
        await opened(connection, precious, "receiver")
        chunk = pack_list([root_group(A_LINK)])
        right = blake3_of(chunk, precious)
        end = LIST_ENDS[case]
        await say(connection, peer.List(0), chunk)
        await say(connection, end if case == "wrong hash" else end._replace(hash=right))
        assert await end_of(connection) == "protocol"


@pytest.mark.fault("G7", "X2")
@pytest.mark.parametrize("said", ["nothing", "a part of a group", "a whole group", "another connection"])
async def test_a_list_that_never_ends(victim: Agent, precious: Path, said: str) -> None:
    """Without its end nothing is deleted, however much of it came."""
    async with greeted(victim) as connection:
        await opened(connection, precious, "receiver", force=True)
        if said != "nothing":
            flags = FIRST if said == "a part of a group" else FIRST | LAST
            await say(connection, peer.List(0), pack_list([root_group(A_DIR, flags=flags)]))
        if said == "another connection":
            async with greeted(victim) as other:
                await say(other, peer.ListEnd(1, 2, bytes(32)))
                assert await end_of(other) == "protocol"
    assert (precious / "precious").exists()


@pytest.mark.fault("G7")
async def test_a_list_out_of_order(victim: Agent, precious: Path) -> None:
    for n in (1, 2**32 - 1):
        async with greeted(victim) as connection:
            await opened(connection, precious, "receiver")
            await say(connection, peer.List(n), PLAIN)
            assert await end_of(connection) == "protocol"


# Entry 1 is wanted, 2 is a directory, 3 is large and wanted.
FILES = pack_list([root_group(Entry(b"file", size=4), A_DIR, Entry(b"large", size=3 << 20)), Group(b"sub", [])])
RECORDS: dict[str, bytes] = {
    "chunk out of range": pack_record(WHOLE, 7, 0, b"evil", size=4),
    "index out of range": pack_record(WHOLE, 0, 4, b"evil", size=4),
    "largest index": pack_record(WHOLE, 0, 2**32 - 1, b"evil", size=4),
    "a directory": pack_record(WHOLE, 0, 2, b"evil", size=4),
    "unknown kind": pack_record(9, 0, 1, b"evil", size=4),
    "unknown encoding": pack_record(WHOLE, 0, 1, b"evil", size=4, encoding=7),
    "less than its size": pack_record(WHOLE, 0, 1, b"evi", size=4),
    "more than its size": pack_record(WHOLE, 0, 1, b"evil!", size=4),
    "too large in one": pack_record(WHOLE, 0, 3, b"evil", size=3 << 20),
    "delta without a basis": pack_record(WHOLE, 0, 1, b"\1\4\0\0\0" + bytes(8), size=4, encoding=DELTA),
    "hole in a small file": pack_record(WHOLE, 0, 1, b"\1\0\0\0", size=4, encoding=HOLE),
    "hole beyond its file": pack_record(PIECE_RECORD, 0, 3, b"\2\0\0\0", size=3 << 20, piece=2, encoding=HOLE),
    "hole of every piece there can be": pack_record(PIECE_RECORD, 0, 3, b"\xff" * 4, size=3 << 20, encoding=HOLE),
    "hole without a count": pack_record(PIECE_RECORD, 0, 3, size=3 << 20, encoding=HOLE),
    "delta of a huge length": pack_record(WHOLE, 0, 1, b"\0\xff\xff\xff\xff", size=4, encoding=DELTA),
    "same as nothing": pack_record(PIECE_RECORD, 0, 3, b"", size=3 << 20, encoding=SAME),
    "piece out of range": pack_record(PIECE_RECORD, 0, 3, bytes(1 << 20), size=3 << 20, piece=3),
    "largest piece": pack_record(PIECE_RECORD, 0, 3, bytes(1 << 20), size=3 << 20, piece=2**32 - 1),
    "short piece": pack_record(PIECE_RECORD, 0, 3, bytes(1000), size=3 << 20),
    "largest size": pack_record(PIECE_RECORD, 0, 3, bytes(1 << 20), size=2**64 - 1, piece=2**32 - 1),
    "unknown problem": pack_record(PROBLEM, 0, 1, code=99),
    "mode beyond bits": pack_record(WHOLE, 0, 1, b"evil", size=4, mode=0o104755),
    "packed bomb": packed(b"", raw_len=4096, frame=zstd_bomb(1 << 30)),
    "packed bomb that says so": packed(b"", raw_len=1 << 30, frame=zstd_bomb(1 << 30)),
    "packed lie": packed(pack_record(WHOLE, 0, 1, b"evil", size=4), raw_len=90),
    "header cut": pack_record(WHOLE, 0, 1, b"evil", size=4)[:30],
    "data cut": pack_record(WHOLE, 0, 1, b"evil", size=4)[:-2],
    "empty": b"",
}


@pytest.mark.fault("G7", "G8")
@pytest.mark.parametrize("case", RECORDS)
async def test_data_that_lie(victim: Agent, precious: Path, case: str) -> None:
    async with greeted(victim) as connection:
        await opened(connection, precious, "receiver")
        await connection.send(peer.List(0), FILES)
        assert await wanted(connection, 4) == [1, 3]
        await say(connection, peer.Data(), RECORDS[case])
        if case == "empty":
            await say(connection, peer.Data(), RECORDS["unknown kind"])
        elif case == "chunk out of range":  # it could have overtaken the chunk, until the list has ended
            await say(connection, peer.ListEnd(1, 4, blake3_of(FILES, precious)))
        assert await end_of(connection) == "protocol"
    assert not (precious / "file").exists()
    assert not (precious / "large").exists()


@pytest.mark.fault("G7")
async def test_a_file_that_nobody_asked_for(victim: Agent, precious: Path) -> None:
    """Not one that is here already, and none twice."""
    status = (precious / "precious").stat()
    here = Entry(b"precious", size=8, mtime_ns=status.st_mtime_ns, mode=stat.S_IMODE(status.st_mode))
    async with greeted(victim) as connection:
        await opened(connection, precious, "receiver")
        await connection.send(peer.List(0), pack_list([root_group(here, Entry(b"file", size=4))]))
        assert await wanted(connection, 3) == [2]
        await say(connection, peer.Data(), pack_record(WHOLE, 0, 1, b"evil....", size=8))
        assert await end_of(connection) == "protocol"


@pytest.mark.fault("G7")
@pytest.mark.parametrize("kind", ["small", "large"])
async def test_content_with_another_hash(victim: Agent, precious: Path, kind: str) -> None:
    """It never gets its name; the session goes on and tells of it."""
    async with greeted(victim) as connection:
        await opened(connection, precious, "receiver", delete=False)
        size = 4 if kind == "small" else (1 << 20) + 5
        chunk = pack_list([root_group(Entry(b"file", size=size))])
        await connection.send(peer.List(0), chunk)
        assert await wanted(connection, 2) == [1]
        await connection.send(peer.ListEnd(1, 2, blake3_of(chunk, precious)))
        if kind == "small":
            lies = [pack_record(WHOLE, 0, 1, b"evil", size=size, encoding=RAW)]
        else:
            lies = [
                *(pack_record(PIECE_RECORD, 0, 1, bytes(length), size=size, piece=piece)
                  for piece, length in enumerate((1 << 20, 5))),
                pack_record(END, 0, 1, size=size),
            ]  # fmt: skip
        for record in lies:
            await connection.send(peer.Data(), record)
        with trio.fail_after(ANSWER_S):
            while not isinstance((await connection.receive())[0], peer.Again):
                pass
        for record in lies:
            await connection.send(peer.Data(), record)
        assert await end_of(connection) in ("done", "protocol")
    assert not (precious / "file").exists()


WANTS: dict[str, list[tuple[Any, bytes | None]]] = {
    "chunk out of range": [(peer.Want(5), b"\0\0")],
    "short": [(peer.Want(0), b"")],
    "long": [(peer.Want(0), bytes(200))],
    "bits beyond": [(peer.Want(0), b"\xff\0")],
    "basis without wanting": [(peer.Want(0), b"\0\xff")],
    "twice": [(peer.Want(0), b"\0\0"), (peer.Want(0), b"\0\0")],
    "a basis of nothing": [(peer.Basis(), bytes(64))],
    "an empty basis": [(peer.Basis(), b"")],
    "again what was not wanted": [(peer.Again(), bytes(8))],
    "again a directory": [(peer.Want(0), b"\0\0"), (peer.Again(), bytes(8))],
    "again in part": [(peer.Want(0), b"\0\0"), (peer.Again(), bytes(9))],
    "again nothing": [(peer.Want(0), b"\0\0"), (peer.Again(), b"")],
    "an empty ack": [(peer.Ack(), b"")],
    "a cut ack": [(peer.Ack(), bytes(20))],
    "an ack that takes back": [(peer.Ack(), struct.pack("<QQQQI", 0, 0, 0, 0, 0))],
    "an ack that forgets what was never listed": [
        (peer.Ack(), struct.pack("<QQQQII", 1 << 21, 1 << 21, 0, 0, 1, 9)),
    ],
    "an ack of a huge count": [(peer.Ack(), struct.pack("<QQQQI", 1 << 21, 1 << 21, 0, 0, 2**32 - 1))],
    "done at once": [(peer.Done({}), None)],
    "data the wrong way": [(peer.Data(), pack_record(WHOLE, 0, 0, b"evil", size=4))],
    "a list the wrong way": [(peer.List(0), PLAIN)],
    "open again": [(peer.Open(bytes(16), 0, "sender", b"/", 0, 0), None)],
    "join": [(peer.Join(bytes(16), 0), None)],
    "ping in a session": [(peer.Ping(1), None)],
}


@pytest.mark.fault("G7")
@pytest.mark.parametrize("case", WANTS)
async def test_receivers_that_lie(victim: Agent, precious: Path, case: str) -> None:
    async with greeted(victim) as connection:
        await opened(connection, precious, "sender", delete=False)
        message, payload = await connection.receive()
        assert isinstance(message, peer.List)
        assert payload is not None
        groups = unpack_list(bytes(payload))[1]
        assert sum(len(group.entries) for group in groups) < 8
        for lie, with_payload in WANTS[case]:
            await say(connection, lie, with_payload)
        assert await end_of(connection) == "protocol"


def signature(
    blocks: int, *, size: int = 2048, block_len: int = 1024, first: int = 0, said: int | None = None
) -> bytes:
    """A BASIS payload behind chunk and index: the last part of a signature."""
    head = struct.pack("<B3xQIIIB3x", 1, size, block_len, first, blocks if said is None else said, 1)
    return head + bytes(20 * blocks)


BASES: dict[str, bytes] = {
    "block length 0": signature(2, block_len=0),
    "block length 1": signature(2, block_len=1, size=2),
    "block length 1025": signature(2, block_len=1025),
    "block length 2^31": signature(1, block_len=1 << 31),
    "2^31 blocks that did not come": signature(2, said=1 << 31),
    "2^32 - 1 blocks that did not come": signature(2, said=(1 << 32) - 1),
    "more blocks than the basis has": signature(3),
    "fewer": signature(1),
    "from the middle": signature(1, first=1),
    "from beyond the end": signature(1, first=(1 << 32) - 1),
    "a basis of 2^64 - 1 bytes": signature(2, size=(1 << 64) - 1),
    "an unknown kind": struct.pack("<B3x", 9),
    "reserved bytes": b"\1\1\0\0" + signature(2)[4:],
    "a piece out of range": struct.pack("<B3xII32x", 2, 1, 1 << 31),
    "a piece twice": struct.pack("<B3xI", 2, 2) + struct.pack("<I32x", 0) * 2,
    "2^32 - 1 pieces that did not come": struct.pack("<B3xI", 2, (1 << 32) - 1),
    "remembered by nobody": struct.pack("<B3x", 5),
}


@pytest.mark.fault("G7")
@pytest.mark.parametrize("case", BASES)
async def test_bases_that_lie(victim: Agent, precious: Path, case: str) -> None:
    async with greeted(victim) as connection:
        await opened(connection, precious, "sender", delete=False)
        message, payload = await connection.receive()
        assert isinstance(message, peer.List)
        assert payload is not None
        rows = [entry for group in unpack_list(bytes(payload))[1] for entry in group.entries]
        index = next(i for i, entry in enumerate(rows) if entry.name == b"precious")
        bits = bytes([1 << index])
        await connection.send(peer.Want(message.n), bits + bits)
        await say(connection, peer.Basis(), struct.pack("<II", message.n, index) + BASES[case])
        assert await end_of(connection) == "protocol"
