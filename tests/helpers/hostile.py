"""A peer that lies, over a real agent's socket: ways to speak to it, and what has to be as it was afterwards."""

from __future__ import annotations

import os
import stat
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio

from agentd._core import hash_file
from agentd.wire import Connection, ConnectionLost, greet
from proto import limits, peer
from proto.hello import Hello
from tests.helpers.hosts import Agent, our_files, short_directory
from tests.helpers.payloads import DIRECTORY, FIRST, LAST, SYMLINK, Entry, Group, bits, pack_list
from tests.helpers.trouble import Baseline, contents, healthy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

ANSWER_S = 15
MINE = Hello("agent", limits.PROTOCOL_MIN, limits.PROTOCOL_MAX, "0.1.0", b"a hostile peer!!")


@contextmanager
def precious_root(agent: Agent) -> Iterator[Path]:
    """A root with something precious in it, a canary beside it; afterwards all is as it was, and so is the agent."""
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
    """How the agent ends it: an ERROR's code, ``done``, or ``closed`` without a word.

    A violation is called one.
    """
    with trio.fail_after(ANSWER_S):
        try:
            while True:
                message, _ = await connection.receive()
                if isinstance(message, peer.Error):
                    assert message.code != "protocol" or "peer violated the protocol: " in message.message, message
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
    """A chunk with other bytes in one precious."""
    return [payload[:at] + value + payload[at + len(value) :]]


PLAIN = pack_list([root_group(Entry(b"file", size=4))])
A_DIR = Entry(b"sub", DIRECTORY, 0o755)
A_LINK = Entry(b"link", SYMLINK, 0o777, target=b"../canary")


def blake3_of(data: bytes, precious: Path) -> bytes:
    """By the crate."""
    path = precious.parent / "hashed"
    path.write_bytes(data)
    try:
        return bytes(hash_file(os.fsencode(path)))
    finally:
        path.unlink()


async def wanted(connection: Connection, entries: int) -> list[int]:
    """The first WANT's indexes."""
    while True:
        message, payload = await connection.receive()
        if isinstance(message, peer.Want):
            return bits(bytes(payload or b""), entries)
        assert not isinstance(message, peer.Error), message
