"""An agent there that lies to the one that asks it: the job ends with a word, and nothing here is the worse for it."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentd.sync.service import Sessions
from agentd.wire import Connection, ConnectionLost, greet
from proto import peer
from proto.errors import ProtocolError, SyncError
from proto.hello import Hello
from proto.job import Job, Options, parse_location
from proto.text import escape_text
from tests.helpers.fake_agents import FakeJournal
from tests.helpers.hosts import our_files
from tests.helpers.payloads import DIRECTORY, SYMLINK, WHOLE, Entry, Group, pack_list, pack_record
from tests.helpers.trouble import contents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

HERE = Hello("agent", 1, 1, "0.1.0", b"h" * 16)
THERE = Hello("agent", 1, 1, "0.1.0", b"t" * 16)
DEADLINE_S = 30
PLENTY = 1 << 24
WORDS = "\x1b[2J\u202eall is well\n"

ROOT = Entry(b"", DIRECTORY, 0o755)
UPWARDS = pack_list([Group(b"", [ROOT, Entry(b"..", size=4)])])
THROUGH_A_LINK = pack_list([Group(b"", [ROOT, Entry(b"l", SYMLINK, target=b"..")]), Group(b"l", [Entry(b"x", size=4)])])
EMPTY = pack_list([Group(b"", [ROOT])])

Lie = list[tuple[Any, bytes | None]]
"""What is said to an OPEN, in order; then nothing more."""


def taken(opening: peer.Open, **other: Any) -> peer.Opened:
    return peer.Opened(
        opening.session, opening.epoch, PLENTY, PLENTY, "directory" if opening.side == "receiver" else None
    )._replace(**other)


LIES: dict[str, Callable[[peer.Open], Lie]] = {
    "another session": lambda o: [(taken(o, session=bytes(16)), None)],
    "another epoch": lambda o: [(taken(o, epoch=o.epoch + 1), None)],
    "a baseline that nobody named": lambda o: [(taken(o, baseline=b"b" * 16), None)],
    "opened twice": lambda o: [(taken(o), None), (taken(o), None)],
    "a payload where none belongs": lambda o: [(taken(o), b"payload")],
    "list before opened": lambda _: [(peer.List(0), EMPTY)],
    "data before opened": lambda _: [(peer.Data(), pack_record(WHOLE, 0, 1, b"evil", size=4))],
    "done before opened": lambda _: [(peer.Done({}), None)],
    "done at once": lambda o: [(taken(o), None), (peer.Done({"files": 1 << 63}), None)],
    "closed at once": lambda o: [(taken(o), None), (peer.Closed({}), None)],
    "an open of its own": lambda o: [(o, None)],
    "a join": lambda o: [(peer.Join(o.session, o.epoch), None)],
    "a pong": lambda _: [(peer.Pong(1), None)],
    "an unknown code": lambda _: [(peer.Error("evil", WORDS, WORDS), None)],
    "hostile words": lambda _: [(peer.Error("protocol", WORDS, WORDS), None)],
    "a name upwards": lambda o: [(taken(o), None), (peer.List(0), UPWARDS)],
    "through a link": lambda o: [(taken(o), None), (peer.List(0), THROUGH_A_LINK)],
    "an empty list that is no list": lambda o: [(taken(o), None), (peer.List(0), b"")],
    "a list that ends wrong": lambda o: [
        (taken(o), None), (peer.List(0), EMPTY), (peer.ListEnd(1, 1, bytes(32)), None)
    ],
    "wants what was not listed": lambda o: [(taken(o), None), (peer.Want(7), b"\xff" * 8)],
    "an ack of everything": lambda o: [(taken(o), None), (peer.Ack(), struct.pack("<QQQQI", *[(1 << 63)] * 4, 0))],
    "problems that are none": lambda o: [(taken(o), None), (peer.Problems(), b"\xff" * 40)],
    "silence, and the end": lambda _: [],
}  # fmt: skip


class LyingLink:
    """Connections to an agent that answers OPEN with a lie and hangs up behind it."""

    rtt_s = None

    def __init__(self, lie: Callable[[peer.Open], Lie], nursery: trio.Nursery) -> None:
        self.opened = 0
        self._lie = lie
        self._nursery = nursery

    async def link(self, host: str, environ: Mapping[str, str]) -> Any:
        del host, environ
        return self

    async def connection(self) -> Connection:
        ours, theirs = (
            Connection(trio.SocketStream(trio.socket.from_stdlib_socket(end))) for end in socket.socketpair()
        )
        self._nursery.start_soon(self._answer, theirs)
        await greet(ours, HERE)
        return ours

    async def _answer(self, connection: Connection) -> None:
        try:
            await greet(connection, THERE)
            opening, _ = await connection.receive()
            assert isinstance(opening, peer.Open)
            self.opened += 1
            if self.opened > 2:
                await connection.send(peer.Error("root-busy", "enough", None))
            for message, payload in self._lie(opening):
                await connection.send(message, payload)
            with trio.move_on_after(0.3):
                while True:
                    await connection.receive()
        except (ConnectionLost, ProtocolError, trio.ClosedResourceError):
            pass
        finally:
            await connection.aclose()

    def give_back(self, connection: Connection) -> None:
        self._nursery.start_soon(connection.aclose)

    async def wait_lost(self) -> SyncError:
        return SyncError("link-lost", "the link is gone")


@pytest.fixture
async def nursery() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as made:
        yield made
        made.cancel_scope.cancel()


@pytest.mark.fault("G7")
@pytest.mark.parametrize("verb", ["pull", "push"])
@pytest.mark.parametrize("name", LIES)
async def test_an_agent_there_that_lies(tmp_path: Path, nursery: trio.Nursery, name: str, verb: str) -> None:
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "dir/kept").write_bytes(b"kept")
    (tmp_path / "canary").write_bytes(b"untouched")
    before = contents(tmp_path)
    journal = FakeJournal()
    link = LyingLink(LIES[name], nursery)
    sessions = Sessions(identity=lambda: HERE, links=link, journal=journal)
    there, here = parse_location(b"box:/there"), parse_location(os.fsencode(root))
    job = Job(there, here, Options(delete=True)) if verb == "pull" else Job(here, there, Options(delete=True))
    with trio.fail_after(DEADLINE_S), pytest.raises(SyncError) as caught:
        await sessions.run_job(job, {}, lambda _: None)
    error = caught.value
    print(error.code, error.message)
    if error.code == "protocol" and "hostile" not in name:
        assert "peer violated the protocol: " in error.message
    assert escape_text(error.message).isprintable()
    now = contents(tmp_path)
    assert {path: now.get(path) for path in before} == before
    assert not our_files(root)
    assert not journal.open
