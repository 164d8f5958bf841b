"""What a service answers to a peer that breaks the protocol."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from agentd.sync.engines import Tuning
from agentd.wire import Connection, ConnectionLost, greet
from proto import limits
from proto.peer import Cancel, Closed, Data, Done, Error, Join, List, Open, Opened, Want
from tests.helpers.fake_agents import Joined, open_joined
from tests.helpers.fake_engine import FakeReceiver, FakeSender
from tests.trio.test_service import check_clean


async def hostile(joined: Joined, *messages: object) -> Error:
    """Send these to the responder; the ERROR that comes."""
    connection = await joined.link.connection()
    for message in messages:
        one, payload = message if type(message) is tuple else (message, None)
        await connection.send(one, payload)
    while True:
        got, _ = await connection.receive()
        if isinstance(got, Error):
            with pytest.raises(ConnectionLost):
                await connection.receive()
            await connection.aclose()
            await check_clean(joined)
            return got


def opening(roots: tuple[bytes, bytes], epoch: int = 0) -> Open:
    return Open(b"s" * 16, epoch, "receiver", roots[1], 0, 0)


async def test_out_of_order(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    strays: list[Any] = [Want(0), Done({}), Opened(b"s" * 16, 0, 0, 0), Closed({})]
    for message in strays:
        error = await hostile(joined, (message, None))
        assert (error.code, "outside of a session" in error.message) == ("protocol", True)
    strays = [Want(0), Done({}), Closed({}), Open(b"t" * 16, 0, "receiver", roots[1], 0, 0)]
    for n, message in enumerate(strays):
        error = await hostile(joined, opening(roots, n), (message, None))
        assert error.code == "protocol", message
        assert "out of order" in error.message, message


async def test_an_unknown_session_is_not_joined(joined: Joined) -> None:
    assert "not open" in (await hostile(joined, Join(b"s" * 16, 0))).message


async def test_a_session_has_so_many_connections_and_no_more(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    first = await joined.link.connection()
    await first.send(opening(roots))
    assert isinstance((await first.receive())[0], Opened)
    further = [await joined.link.connection() for _ in range(limits.STRIPES_MAX)]
    for connection in further:
        await connection.send(Join(b"s" * 16, 0))
    got, _ = await further[-1].receive()
    assert isinstance(got, Error)
    assert f"more than {limits.STRIPES_MAX} connections" in got.message
    for connection in (first, *further):
        await connection.aclose()
    await check_clean(joined)


async def test_a_lower_epoch_is_refused(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    await hostile(joined, opening(roots, 5), Cancel())
    for epoch in (5, 4):
        assert "is over" in (await hostile(joined, opening(roots, epoch))).message


async def test_a_higher_epoch_ends_the_older_one_first(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    older = await joined.link.connection()
    await older.send(opening(roots, 0))
    assert isinstance((await older.receive())[0], Opened)
    newer = await joined.link.connection()
    await newer.send(opening(roots, 1))
    assert isinstance((await newer.receive())[0], Opened)
    with pytest.raises(ConnectionLost):
        await older.receive()
    assert [engine.closed for engine in joined.there.engines.made] == [True, False]
    await older.aclose()
    await newer.aclose()


async def test_a_gap_in_the_list(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    assert "chunk 1 instead of 0" in (await hostile(joined, opening(roots), (List(1), b"x"))).message


async def test_data_that_nobody_wanted(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    joined.there.engines.trees[roots[1]] = {b"not": b"empty"}
    assert "nothing was listed" in (await hostile(joined, opening(roots), (Data(), b"x"))).message


async def test_credits_that_are_ignored(roots: tuple[bytes, bytes]) -> None:
    async with open_joined(Tuning(list_window=10, first_list_window=10)) as joined:
        engine = FakeSender({b"%d" % n: b"x" for n in range(30)}, list_window=1 << 20, data_window=0, wake_fd=-1)
        engine.start()
        chunks = [engine.next_control() for _ in range(3)]
        lists = [(List(event[1]), event[2]) for event in chunks if event is not None]
        joined.there.engines.trees[roots[1]] = {b"not": b"empty"}
        assert "beyond the list window" in (await hostile(joined, opening(roots), *lists)).message


async def test_half_a_frame_then_silence(
    joined: Joined, roots: tuple[bytes, bytes], autojump_clock: trio.testing.MockClock
) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.there.answer, Connection(far))
        await greet(Connection(near), joined.here.hello)
        await near.send_all(b"\0\0\0\x20\0")
        answer = Connection(near)
        message, _ = await answer.receive()
        assert isinstance(message, Error)
        assert "does not end" in message.message
    await near.aclose()


async def test_a_payload_that_the_engine_refuses(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    error = await hostile(joined, opening(roots), (List(0), b"not a chunk"))
    assert (error.code, "cannot be read" in error.message) == ("protocol", True)
    assert isinstance(joined.there.engines.made[0], FakeReceiver)
