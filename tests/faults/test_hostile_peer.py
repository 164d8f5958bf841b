"""Peers that lie, over the agent's real socket: refused, nothing written outside the root, nothing deleted, no harm."""

from __future__ import annotations

import os
import random
import stat
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
import trio

from agentd._core import hash_file
from agentd.wire import HELLO, Connection, ConnectionLost, greet
from proto import limits, peer
from proto.frame import encode_frame
from proto.hello import Hello
from proto.schema import to_head
from tests.helpers.hosts import Agent, one_host, our_files, short_directory, this_account
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
    bits,
    pack_list,
    pack_record,
    packed,
    unpack_list,
    zstd_bomb,
)
from tests.helpers.trouble import Baseline, contents, healthy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

ANSWER_S = 15
MINE = Hello("agent", limits.PROTOCOL_MIN, limits.PROTOCOL_MAX, "0.1.0", b"a hostile peer!!")
NOBODY = 65534
SECOND = 10**9


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with short_directory() as directory, one_host(this_account(), directory) as made:
        made.ok("start")
        yield made


@pytest.fixture
def place(agent: Agent) -> Iterator[Path]:
    """A root with something precious in it, a canary beside it; afterwards all is as it was, and so is the agent."""
    healthy(agent)
    baseline = Baseline(agent)
    with short_directory() as directory:
        root = directory / "root"
        (root / "dir").mkdir(parents=True)
        (root / "precious").write_bytes(b"precious")
        (root / "dir/kept").write_bytes(b"kept")
        (root / "out").symlink_to("../canary")
        (directory / "canary").mkdir()
        (directory / "canary/file").write_bytes(b"untouched")
        outside, inside = snapshot(directory / "canary"), contents(root)
        beside = sorted(os.listdir(directory))
        yield root
        assert snapshot(directory / "canary") == outside
        assert sorted(os.listdir(directory)) == beside
        now = contents(root)
        assert {path: now.get(path) for path in inside} == inside, "something was deleted or replaced"
        assert not our_files(directory)
    healthy(agent)
    baseline.wait_back()


def snapshot(top: Path) -> dict[str, tuple[Any, ...]]:
    """Names, and what lstat says of them, times of change included."""
    seen = {}
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        seen[str(path)] = (
            status.st_mode,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            content,
        )
    return seen


@asynccontextmanager
async def connected(agent: Agent) -> AsyncIterator[trio.SocketStream]:
    """A stream to the agent's peer socket."""
    with trio.fail_after(60):
        async with await trio.open_unix_socket(str(agent.home / "run/peer.sock")) as stream:
            yield stream


@asynccontextmanager
async def greeted(agent: Agent) -> AsyncIterator[Connection]:
    """A connection as an agent's."""
    async with connected(agent) as stream:
        connection = Connection(stream)
        await greet(connection, MINE)
        yield connection


async def opened(connection: Connection, root: Path, side: str, **options: Any) -> peer.Opened:
    """OPEN a session there; ``side`` is the agent's."""
    receiving = {"list_window": 1 << 20, "data_window": 1 << 20, "state": "directory"} if side == "sender" else {}
    fields = {"list_window": 0, "data_window": 0, "delete": side == "receiver", **receiving, **options}
    await connection.send(peer.Open(session=os.urandom(16), epoch=0, side=side, root=os.fsencode(root), **fields))
    message, _ = await connection.receive()
    assert isinstance(message, peer.Opened), message
    return message


async def end_of(connection: Connection) -> str:
    """How the agent ends it: an ERROR's code, ``done``, or ``closed`` without a word."""
    with trio.fail_after(ANSWER_S):
        try:
            while True:
                message, _ = await connection.receive()
                if isinstance(message, peer.Error):
                    return message.code
                if isinstance(message, peer.Done):
                    return "done"
        except ConnectionLost:
            return "closed"


async def say(connection: Connection, message: Any, payload: bytes | None = None) -> None:
    """Send; whether it still arrives is no matter."""
    try:
        await connection.send(message, payload)
    except ConnectionLost:
        pass


ROOT = Entry(b"", DIRECTORY, 0o755)


def root_group(*entries: Entry, flags: int = FIRST | LAST) -> Group:
    """The root's, as chunk 0 begins with it."""
    return Group(b"", [ROOT, *entries] if flags & FIRST else list(entries), flags)


def listing(*groups: Group) -> list[bytes]:
    """One chunk."""
    return [pack_list(list(groups))]


def patched(payload: bytes, at: int, value: bytes) -> list[bytes]:
    """A chunk with other bytes in one place."""
    return [payload[:at] + value + payload[at + len(value) :]]


PLAIN = pack_list([root_group(Entry(b"file", size=4))])
A_DIR = Entry(b"sub", DIRECTORY, 0o755)
A_LINK = Entry(b"link", SYMLINK, 0o777, target=b"../canary")

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


@pytest.mark.parametrize("case", LISTS)
async def test_lists_that_lie(agent: Agent, place: Path, case: str) -> None:
    async with greeted(agent) as connection:
        await opened(connection, place, "receiver")
        for n, chunk in enumerate(LISTS[case]):
            await say(connection, peer.List(n), chunk)
        assert await end_of(connection) in ("protocol", "closed")


LIST_ENDS: dict[str, peer.ListEnd] = {
    "wrong hash": peer.ListEnd(1, 2, bytes(32)),
    "too few chunks": peer.ListEnd(0, 2, bytes(32)),
    "too many chunks": peer.ListEnd(2, 2, bytes(32)),
    "wrong count": peer.ListEnd(1, 3, bytes(32)),
}


@pytest.mark.parametrize("case", LIST_ENDS)
async def test_list_ends_that_lie(agent: Agent, place: Path, case: str) -> None:
    """Nothing is deleted on such a word."""
    async with greeted(agent) as connection:
        await opened(connection, place, "receiver")
        chunk = pack_list([root_group(A_LINK)])
        right = blake3_of(chunk, place)
        end = LIST_ENDS[case]
        await say(connection, peer.List(0), chunk)
        await say(connection, end if case == "wrong hash" else end._replace(hash=right))
        assert await end_of(connection) in ("protocol", "closed")


def blake3_of(data: bytes, place: Path) -> bytes:
    """By the crate."""
    path = place.parent / "hashed"
    path.write_bytes(data)
    try:
        return bytes(hash_file(os.fsencode(path)))
    finally:
        path.unlink()


async def test_a_list_out_of_order(agent: Agent, place: Path) -> None:
    for n in (1, 2**32 - 1):
        async with greeted(agent) as connection:
            await opened(connection, place, "receiver")
            await say(connection, peer.List(n), PLAIN)
            assert await end_of(connection) in ("protocol", "closed")


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


@pytest.mark.parametrize("case", RECORDS)
async def test_data_that_lie(agent: Agent, place: Path, case: str) -> None:
    async with greeted(agent) as connection:
        await opened(connection, place, "receiver")
        await connection.send(peer.List(0), FILES)
        assert await wanted(connection, 4) == [1, 3]
        await say(connection, peer.Data(), RECORDS[case])
        if case == "empty":
            await say(connection, peer.Data(), RECORDS["unknown kind"])
        elif case == "chunk out of range":  # it could have overtaken the chunk, until the list has ended
            await say(connection, peer.ListEnd(1, 4, blake3_of(FILES, place)))
        assert await end_of(connection) in ("protocol", "closed")
    assert not (place / "file").exists()
    assert not (place / "large").exists()


async def wanted(connection: Connection, entries: int) -> list[int]:
    """The first WANT's indexes."""
    while True:
        message, payload = await connection.receive()
        if isinstance(message, peer.Want):
            return bits(bytes(payload or b""), entries)
        assert not isinstance(message, peer.Error), message


async def test_a_file_that_nobody_asked_for(agent: Agent, place: Path) -> None:
    """Not one that is here already, and none twice."""
    status = (place / "precious").stat()
    here = Entry(b"precious", size=8, mtime_ns=status.st_mtime_ns, mode=stat.S_IMODE(status.st_mode))
    async with greeted(agent) as connection:
        await opened(connection, place, "receiver")
        await connection.send(peer.List(0), pack_list([root_group(here, Entry(b"file", size=4))]))
        assert await wanted(connection, 3) == [2]
        await say(connection, peer.Data(), pack_record(WHOLE, 0, 1, b"evil....", size=8))
        assert await end_of(connection) in ("protocol", "closed")


@pytest.mark.parametrize("kind", ["small", "large"])
async def test_content_with_another_hash(agent: Agent, place: Path, kind: str) -> None:
    """It never gets its name; the session goes on and tells of it."""
    async with greeted(agent) as connection:
        await opened(connection, place, "receiver", delete=False)
        size = 4 if kind == "small" else (1 << 20) + 5
        chunk = pack_list([root_group(Entry(b"file", size=size))])
        await connection.send(peer.List(0), chunk)
        assert await wanted(connection, 2) == [1]
        await connection.send(peer.ListEnd(1, 2, blake3_of(chunk, place)))
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
    assert not (place / "file").exists()


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


@pytest.mark.parametrize("case", WANTS)
async def test_receivers_that_lie(agent: Agent, place: Path, case: str) -> None:
    async with greeted(agent) as connection:
        await opened(connection, place, "sender", delete=False)
        message, payload = await connection.receive()
        assert isinstance(message, peer.List)
        assert payload is not None
        groups = unpack_list(bytes(payload))[1]
        assert sum(len(group.entries) for group in groups) < 8
        for lie, with_payload in WANTS[case]:
            await say(connection, lie, with_payload)
        assert await end_of(connection) in ("protocol", "closed")


def frame(length: int, head_len: int, body: bytes = b"") -> bytes:
    return struct.pack(">II", length, head_len) + body


PING = cbor2.dumps(to_head(peer.Ping(1)))
FRAMES: dict[str, bytes] = {
    "length 0": frame(0, 0),
    "zip of frames of length 0": frame(0, 0) * 1000,
    "length 4, no head": frame(4, 0),
    "head longer than the frame": frame(10, 100, bytes(100)),
    "head beyond its cap": frame(4 + limits.HEAD_MAX + 1, limits.HEAD_MAX + 1, bytes(limits.HEAD_MAX + 1)),
    "head of its cap": frame(4 + limits.HEAD_MAX, limits.HEAD_MAX, bytes(limits.HEAD_MAX)),
    "payload of its cap": frame(4 + len(PING) + limits.PAYLOAD_MAX, len(PING), PING + bytes(limits.PAYLOAD_MAX)),
    "payload beyond its cap": frame(4 + len(PING) + limits.PAYLOAD_MAX + 1, len(PING), PING),
    "largest lengths": frame(2**32 - 1, 2**32 - 1),
    "not CBOR": frame(8, 4, b"\xff\xff\xff\xff"),
    "not a map": frame(5, 1, b"\x01"),
    "nested": frame(4 + 5000, 5000, b"\x81" * 5000),
    "unknown message": encode_frame({"t": "frob"}),
    "no type": encode_frame({"n": 1}),
    "unknown field": encode_frame({**to_head(peer.Ping(1)), "x": 1}),
    "missing field": encode_frame({"t": "ping"}),
    "wrong type": encode_frame({"t": "ping", "n": "1"}),
    "negative": encode_frame({"t": "ping", "n": -1}),
    "beyond 64 bits": encode_frame({"t": "ping", "n": 2**64}),
    "duplicate key": frame(4 + 9, 9, b"\xa2\x61t\x61x\x61t\x61x"),
    "a session's message": encode_frame(to_head(peer.ListEnd(0, 0, bytes(32)))),
    "join of nothing": encode_frame(to_head(peer.Join(bytes(16), 0))),
    "hello again": encode_frame(to_head(MINE)),
}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("when", ["first", "after hello"])
@pytest.mark.parametrize("case", FRAMES)
async def test_frames(agent: Agent, case: str, when: str) -> None:
    async with connected(agent) as stream:
        connection = Connection(stream)
        if when == "after hello":
            await greet(connection, MINE)
        elif case == "hello again":
            await stream.send_all(FRAMES[case])  # the first one is what is expected
        try:
            await stream.send_all(FRAMES[case])
        except trio.BrokenResourceError:
            return
        assert await raw_end(stream) in ("protocol", "closed")


async def raw_end(stream: trio.SocketStream) -> str:
    """The end of a connection that may not have been greeted."""
    connection = Connection(stream)
    try:
        await _receive_hello(connection)
        return await end_of(connection)
    except ConnectionLost:
        return "closed"


async def _receive_hello(connection: Connection) -> None:
    """The agent's, when it has not come yet."""
    with trio.fail_after(ANSWER_S):
        message, _ = await connection.receive({**HELLO, **peer.PEER_MESSAGES})
        if isinstance(message, peer.Error):
            raise ConnectionLost("refused")


async def test_cut_and_flipped(agent: Agent, place: Path) -> None:
    """A whole exchange, cut short or with one bit flipped, 150 of each at random."""
    seed = 20
    print(f"seed {seed}")
    rng = random.Random(seed)
    opening = peer.Open(bytes(16), 0, "receiver", os.fsencode(place), 0, 0)
    listed = to_head(peer.List(0))
    good = b"".join(
        (
            encode_frame(to_head(MINE)),
            encode_frame(to_head(opening)),
            encode_frame(listed, len(PLAIN)) + PLAIN,
            encode_frame(to_head(peer.Data()), 80) + pack_record(WHOLE, 0, 0, b"evil", size=4)[:80],
        )
    )
    for number in range(300):
        bad = bytearray(good)
        if number % 2:
            at = rng.randrange(len(bad) * 8)
            bad[at // 8] ^= 1 << at % 8
        else:
            del bad[rng.randrange(len(bad)) :]
        async with connected(agent) as stream:
            try:
                await stream.send_all(bytes(bad))
                await stream.send_eof()
                with trio.fail_after(ANSWER_S):
                    while await stream.receive_some(65536):
                        pass
            except trio.BrokenResourceError:
                pass


async def test_half_a_hello_then_silence(agent: Agent, place: Path) -> None:
    """It is given up, and others are served meanwhile."""
    async with connected(agent) as silent, connected(agent) as mute:
        await silent.send_all(encode_frame(to_head(MINE))[:9])
        async with greeted(agent) as connection:
            await connection.send(peer.Ping(4))
            message, _ = await connection.receive()
            assert message == peer.Pong(4)
            await opened(connection, place, "sender", delete=False)
        with trio.fail_after(limits.HELLO_DEADLINE_S + ANSWER_S):
            for stream in (silent, mute):
                assert await raw_end(stream) == "closed"


async def test_half_a_frame_in_a_session(agent: Agent, place: Path) -> None:
    """It holds its own connection and nothing else."""
    async with connected(agent) as stream:
        connection = Connection(stream)
        await greet(connection, MINE)
        await opened(connection, place, "receiver")
        await stream.send_all((encode_frame(to_head(peer.List(0)), len(PLAIN)) + PLAIN)[:40])
        async with greeted(agent) as other:
            await opened(other, place, "sender", delete=False)
        assert (await trio.to_thread.run_sync(agent.run, "status")).status == 0


@pytest.mark.usefixtures("place")
async def test_more_connections_than_allowed(agent: Agent) -> None:
    streams: list[trio.SocketStream] = []
    try:
        for _ in range(limits.CONNECTIONS_MAX + 20):
            streams.append(await trio.open_unix_socket(str(agent.home / "run/peer.sock")))
        assert (await trio.to_thread.run_sync(agent.run, "status")).status == 0
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)
    with trio.fail_after(ANSWER_S):
        async with greeted(agent) as connection:
            await connection.send(peer.Ping(1))
            await connection.receive()


async def test_a_window_that_is_used_up(agent: Agent, place: Path) -> None:
    """A sender that sends more list than was granted."""
    async with greeted(agent) as connection:
        granted = (await opened(connection, place, "receiver", delete=False)).list_window
        padding = Entry(b"x" * 200, kind=SYMLINK, target=b"t" * 4000)
        sent = 0
        for n in range(1000):
            names = [padding._replace(name=b"%0200d" % (n * 400 + i)) for i in range(400)]
            chunk = pack_list([root_group(*names, flags=FIRST if n == 0 else 0)])
            await say(connection, peer.List(n), chunk)
            sent += len(chunk)
            if sent > granted + 4 * len(chunk):
                break
        assert await end_of(connection) in ("protocol", "closed", "done")


CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
try:
    sock.connect(sys.argv[1])
    sock.sendall(bytes.fromhex(sys.argv[2]))
    sys.exit(0 if sock.recv(1) == b"" else 9)
except (PermissionError, ConnectionResetError, BrokenPipeError):
    sys.exit(0)
"""


@pytest.mark.usefixtures("place")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["peer.sock", "control.sock"])
@pytest.mark.parametrize("guarded", [True, False], ids=["behind its directory", "with its directory open"])
def test_another_user(agent: Agent, name: str, guarded: bool) -> None:
    path = agent.home / "run" / name
    role = "agent" if name == "peer.sock" else "cli"
    hello = encode_frame(to_head(MINE._replace(role=role, agent=MINE.agent if role == "agent" else b"")))
    before = {at: at.stat().st_mode for at in (path, path.parent, agent.home)}
    try:
        if not guarded:
            for at in before:
                at.chmod(0o777)
        ended = subprocess.run(
            [find_python(), "-I", "-S", "-c", CONNECT, str(path), hello.hex()],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        for at, mode in before.items():
            at.chmod(stat.S_IMODE(mode))
    assert ended.returncode == 0, ended


def find_python() -> str:
    """One that another user may run."""
    real = os.path.realpath(sys.executable)
    system = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    return system if os.access(system, os.X_OK) else real
