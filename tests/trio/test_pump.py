"""The pump, with a scripted peer at the other end."""

from __future__ import annotations

import errno
import json
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentd.sync.endpoints import SenderEndpoint
from agentd.sync.pump import Pump
from agentd.wake import Wake
from agentd.wire import Connection, ConnectionLost
from proto.errors import RemoteProtocolError, SyncError
from proto.peer import Ack, Cancel, Closed, Data, Done, Error, List, ListEnd, Open, Opened, Want
from proto.session import SenderSession, State
from tests.helpers.fake_engine import FakeSender, Tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TREE: Tree = {b"%02d" % n: b"x" * 50_000 for n in range(60)}
WIDE = 1 << 40


class Rig:
    """A responding sender's pump, and its peer's connection."""

    def __init__(self, wake: Wake, pair: tuple[Any, Any], tree: Tree, farewell: Any) -> None:
        self.engine = FakeSender(tree, list_window=WIDE, data_window=WIDE, wake_fd=wake.write_fd, batch=100_000)
        self.session = SenderSession()
        self.session.receive_untrusted(Open(bytes(16), 0, "sender", b"/", WIDE, WIDE, state="directory"))
        self.session.send(Opened(bytes(16), 0, 0, 0))
        self.near, self.far = map(Connection, pair)
        self.pump = Pump(self.near, SenderEndpoint(self.session, self.engine), wake, farewell=farewell)
        self.engine.start()
        self.error: BaseException | None = None
        self.ended = trio.Event()

    async def run(self) -> None:
        try:
            await self.pump.run()
        except (ConnectionLost, SyncError, RemoteProtocolError) as e:
            self.error = e
        finally:
            self.ended.set()

    async def listed(self) -> int:
        """Read up to LIST-END; how many chunks came."""
        chunks = 0
        while True:
            message, _ = await self.far.receive()
            if isinstance(message, ListEnd):
                return chunks
            assert message == List(chunks)
            chunks += 1

    async def answer(self, chunks: int, wanted: Callable[[int], list[int]] = lambda _: []) -> None:
        for n in range(chunks):
            await self.far.send(Want(n), json.dumps([[i, False] for i in wanted(n)]).encode())


def sockets() -> tuple[Any, Any]:
    near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return near, far


@asynccontextmanager
async def rig(
    pair: Callable[[], tuple[Any, Any]] = trio.testing.memory_stream_pair,
    tree: Tree = TREE,
    farewell: Any = Cancel(),  # noqa: B008 - a constant
) -> AsyncIterator[tuple[Rig, trio.CancelScope]]:
    with Wake() as wake:
        made = Rig(wake, pair(), tree, farewell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield made, nursery.cancel_scope
            with trio.fail_after(60):
                await made.ended.wait()
        await made.near.aclose()
        await made.far.aclose()


async def test_to_the_end() -> None:
    async with rig() as (made, _):
        chunks = await made.listed()
        await made.answer(chunks)
        await made.far.send(Done({"files": 3}))
        assert isinstance((await made.far.receive())[0], Closed)
    assert made.error is None
    assert made.pump.reusable
    assert made.pump.endpoint.peer_stats == {"files": 3}


async def test_the_next_open_behind_done_is_left_alone() -> None:
    async with rig() as (made, _):
        await made.answer(await made.listed())
        await made.far.send(Done({}))
        following = Open(b"n" * 16, 0, "receiver", b"/", 0, 0)
        await made.far.send(following)
        await made.ended.wait()
        assert made.pump.reusable
        assert await made.near.receive() == (following, None)


async def test_the_reader_reads_while_the_writer_waits() -> None:
    async with rig(sockets) as (made, _):
        chunks = await made.listed()
        # Far more data than the socket holds is wanted, and none of it is read: every WANT must still get through.
        await made.answer(chunks, lambda n: [1, 2] if n == 0 else [0, 1, 2])
        with trio.fail_after(5):
            while made.session.wants < chunks:
                await trio.testing.wait_all_tasks_blocked()
        got = 0
        while got < len(TREE) * 50_000 - 50_000:
            message, payload = await made.far.receive()
            assert message == Data()
            got += sum(len(record[3]) // 2 for record in json.loads(bytes(payload or b"")))
        await made.far.aclose()
    assert isinstance(made.error, ConnectionLost)


@pytest.mark.parametrize("answers", [True, False])
async def test_cancelled(answers: bool, autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as (made, scope):
        await made.listed()
        begun = trio.current_time()
        scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await made.far.receive())[0] == Cancel()
            if answers:
                await made.far.send(Want(0), b"[]")  # what was under way is let pass
                await made.far.send(Error("cancelled", "as asked"))
            await made.ended.wait()
    assert trio.current_time() - begun == (0 if answers else 2)


async def test_a_farewell_that_needs_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    farewell = Error("agent-stopping", "bye")
    async with rig(farewell=farewell) as (made, scope):
        await made.listed()
        scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await made.far.receive())[0] == farewell
            await made.ended.wait()
    assert trio.current_time() == 0 or made.session.state is State.FAILED


async def test_cancelled_with_a_peer_that_does_not_read() -> None:
    async with rig(sockets) as (made, scope):
        chunks = await made.listed()
        await made.answer(chunks, lambda n: [1, 2])
        while made.session.wants < chunks:
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        with trio.CancelScope(shield=True):
            await made.far.aclose()  # it ends at once when the peer goes, not after a grace
            with trio.fail_after(1.5):
                await made.ended.wait()


async def test_the_peers_error() -> None:
    async with rig() as (made, _):
        await made.listed()
        await made.far.send(Error("destination-full", "no room", "make some"))
    assert isinstance(made.error, SyncError)
    assert (made.error.code, made.error.hint) == ("destination-full", "make some")
    assert made.pump.refused
    assert not made.pump.reusable


async def test_the_peers_cancel() -> None:
    async with rig() as (made, _):
        await made.listed()
        await made.far.send(Cancel())
    assert isinstance(made.error, SyncError)
    assert made.error.code == "cancelled"
    assert not made.pump.refused


async def test_last_words_before_the_end_are_heard() -> None:
    """The peer says why and goes; we were writing, and notice that it is gone first."""
    async with rig(sockets) as (made, _):
        chunks = await made.listed()
        await made.answer(chunks, lambda n: [1, 2])
        while made.session.wants < chunks:
            await trio.testing.wait_all_tasks_blocked()
        await made.far.send(Error("destination-full", "no room"))
        await made.far.aclose()
    assert isinstance(made.error, SyncError)
    assert made.error.code == "destination-full"


async def test_the_engine_fails() -> None:
    async with rig() as (made, _):
        await made.listed()
        made.engine.fail("source-unreadable", b"/a\nb", errno.EIO, "reading")
    assert isinstance(made.error, SyncError)
    assert made.error.message == "reading /a\\#012b: Input/output error"


@pytest.mark.parametrize(
    ("message", "payload"), [(Want(0), b"[[99, false]]"), (Ack(), struct.pack("<QQ", 0, 0)), (Want(5), b"[]")]
)
async def test_a_breach(message: Any, payload: bytes) -> None:
    async with rig() as (made, _):
        await made.listed()
        await made.far.send(message, payload)
    assert isinstance(made.error, RemoteProtocolError)
    assert made.session.state is State.FAILED


async def test_lost_after_done_is_no_loss() -> None:
    async with rig(sockets) as (made, _):
        await made.answer(await made.listed())
        await made.far.send(Done({}))
        await made.far.aclose()
    assert made.error is None
