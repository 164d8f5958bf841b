"""Connections over real sockets and over memory streams."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from agentd.wire import Connection, ConnectionLost, greet
from proto import limits
from proto.errors import RemoteProtocolError, SyncError
from proto.frame import encode_frame
from proto.hello import Hello
from proto.peer import Closed, Data, List, Ping
from proto.schema import to_head

if TYPE_CHECKING:
    from collections.abc import Callable

    Pair = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]

HERE = Hello("agent", 1, 1, "0.1.0", agent=bytes(16), features=["a", "b"])
THERE = Hello("agent", 1, 1, "0.1.1", agent=bytes(range(16)), features=["b", "c"])


def socket_pair() -> Pair:
    left, right = socket.socketpair()
    return trio.SocketStream(trio.socket.from_stdlib_socket(left)), trio.SocketStream(
        trio.socket.from_stdlib_socket(right)
    )


def memory_pair() -> Pair:
    return trio.testing.memory_stream_pair()


pairs = pytest.mark.parametrize("pair", [socket_pair, memory_pair])


@pairs
async def test_messages_and_payloads_arrive_in_order(pair: Callable[[], Pair]) -> None:
    here, there = map(Connection, pair())
    payloads = [b"", b"x", b"y" * 5000, bytes(range(256)) * 4096, b"z" * limits.PAYLOAD_MAX]

    async def send() -> None:
        for n, payload in enumerate(payloads):
            await here.send(List(n), payload)
            await here.send(Ping(n))
        await here.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for n, payload in enumerate(payloads):
            message, got = await there.receive()
            assert message == List(n)
            assert bytes(got or b"") == payload
            assert await there.receive() == (Ping(n), None)
        with pytest.raises(ConnectionLost, match=r"the stream ended$"):
            await there.receive()
    assert here.sent == there.received > sum(map(len, payloads))
    await there.aclose()


async def test_many_senders_do_not_mix_their_frames() -> None:
    here, there = map(Connection, socket_pair())
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(here.send, List(n), bytes([n]) * 300_000)
        for _ in range(20):
            message, payload = await there.receive()
            assert payload is not None
            assert bytes(payload) == bytes([message.n]) * 300_000
    await here.aclose()
    await there.aclose()


@pairs
async def test_greeting(pair: Callable[[], Pair]) -> None:
    here, there = map(Connection, pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet, here, HERE)
        nursery.start_soon(greet, there, THERE)
    assert here.agreement is not None
    assert here.agreement.peer == THERE
    assert here.agreement.features == {"b"}
    assert there.agreement is not None
    assert there.agreement.peer == HERE
    await here.aclose()
    await there.aclose()


@pytest.mark.fault("F11")
async def test_greeting_names_the_side_to_upgrade() -> None:
    here, there = map(Connection, memory_pair())
    await there.send(THERE._replace(protocol_min=2, protocol_max=3))
    with pytest.raises(SyncError, match=r"0\.1\.0 here is too old for the other side \(0\.1\.1\)"):
        await greet(here, HERE)


async def test_greeting_refuses_another_message() -> None:
    here, there = map(Connection, memory_pair())
    await there.send(Ping(1))
    with pytest.raises(RemoteProtocolError, match="unknown message 'ping'"):
        await greet(here, HERE)


async def test_silence_instead_of_a_greeting(autojump_clock: trio.testing.MockClock) -> None:
    here, there = memory_pair()
    begun = trio.current_time()
    with pytest.raises(ConnectionLost, match="no hello within 10 s"):
        await greet(Connection(here), HERE)
    assert trio.current_time() - begun == limits.HELLO_DEADLINE_S
    await there.aclose()


@pytest.mark.fault("G3")
async def test_who_has_not_greeted_gets_no_memory_for_a_payload() -> None:
    here, there = memory_pair()
    await there.send_all(encode_frame(to_head(THERE), limits.PAYLOAD_MAX))
    with pytest.raises(RemoteProtocolError, match="the limit is 0"):
        await greet(Connection(here), HERE)


@pytest.mark.fault("F7")
async def test_one_byte_a_second_does_not_hold_the_greeting(autojump_clock: trio.testing.MockClock) -> None:
    here, there = memory_pair()

    async def drip() -> None:
        for byte in encode_frame(to_head(THERE)):
            await there.send_all(bytes([byte]))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(ConnectionLost):
            await greet(Connection(here), HERE)
        nursery.cancel_scope.cancel()


@pytest.mark.fault("F7", "G4")
@pytest.mark.parametrize("gap", [0.0, 5.0])
async def test_half_a_frame_then_silence(gap: float, autojump_clock: trio.testing.MockClock) -> None:
    here, there = memory_pair()
    frame = encode_frame(to_head(Data()), 100) + bytes(100)

    async def drip() -> None:
        for byte in frame[:-1]:
            await there.send_all(bytes([byte]))
            await trio.sleep(gap)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        begun, used = trio.current_time(), time.process_time()
        with pytest.raises(RemoteProtocolError, match="does not end"):
            await Connection(here).receive()
        assert time.process_time() - used < 0.05  # "Must show" 5
        assert limits.FRAME_DEADLINE_S <= trio.current_time() - begun < limits.FRAME_DEADLINE_S + 1
        nursery.cancel_scope.cancel()


async def test_silence_between_frames_is_no_fault(autojump_clock: trio.testing.MockClock) -> None:
    here, there = memory_pair()
    connection = Connection(here)
    with trio.move_on_after(3600) as scope:
        await connection.receive()
    assert scope.cancelled_caught
    await there.send_all(encode_frame(to_head(Ping(1))))
    assert await connection.receive() == (Ping(1), None)


@pairs
async def test_the_end_in_the_middle_of_a_frame_is_a_loss(pair: Callable[[], Pair]) -> None:
    here, there = pair()
    await there.send_all(encode_frame(to_head(Data()), 100) + bytes(99))
    await there.aclose()
    with pytest.raises(ConnectionLost, match="middle of a frame"):
        await Connection(here).receive()
    await here.aclose()


@pairs
async def test_sending_to_one_who_left(pair: Callable[[], Pair]) -> None:
    here, there = pair()
    await there.aclose()
    connection = Connection(here)
    with pytest.raises(ConnectionLost):
        await connection.send(Data(), bytes(1 << 20))
    await connection.aclose()


@pairs
async def test_a_closed_connection_says_so(pair: Callable[[], Pair]) -> None:
    here, there = pair()
    connection = Connection(here)

    async def wait_closed() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await connection.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_closed)
        await trio.testing.wait_all_tasks_blocked()
        await connection.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await connection.send(Closed({}))
    with pytest.raises(trio.ClosedResourceError):
        await connection.receive()
    await there.aclose()


async def test_a_cut_frame_is_not_followed_by_another() -> None:
    here, there = socket_pair()
    connection = Connection(here)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, Data(), bytes(8 << 20))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with pytest.raises(ConnectionLost, match="cut short"):
        await connection.send(Ping(1))
    await connection.aclose()
    await there.aclose()


async def test_bad_frames_are_the_peers_fault() -> None:
    cap = limits.PAYLOAD_MAX
    for raw in (bytes(8), encode_frame(to_head(Data()), cap + 1), b"\0\0\0\x05\0\0\0\x01\xff", b"\xff" * 100):
        here, there = memory_pair()
        await there.send_all(raw)
        with pytest.raises(RemoteProtocolError):
            await Connection(here).receive()


async def test_what_came_with_a_message_is_known_to_be_ahead() -> None:
    here, there = memory_pair()
    connection = Connection(there)
    one, two = (encode_frame(to_head(Ping(n)), 0) for n in (1, 2))
    await here.send_all(one + two + two[:5])
    assert (await connection.receive())[0] == Ping(1)
    assert connection.ahead == len(two) + 5
    assert (await connection.receive())[0] == Ping(2)
    assert connection.ahead == 5
