"""The multiplexer, one rule at a time."""

import struct

import pytest

from proto.errors import LocalProtocolError, RemoteProtocolError
from proto.mux import (
    DATA,
    DATA_MAX,
    END,
    OPEN,
    RESET,
    STREAMS_MAX,
    WINDOW,
    WINDOW_BYTES,
    Ended,
    Mux,
    Opened,
    Received,
    WasReset,
)

ALL = 1 << 30


def frame(kind: int, stream: int, value: int = 0, data: bytes = b"") -> bytes:
    return struct.pack(">BII", kind, stream, value) + data


def pair() -> tuple[Mux, Mux, int]:
    """Both sides, and a stream that is open between them."""
    here, there = Mux(opens=True), Mux(opens=False)
    stream = here.open()
    assert there.receive_data_untrusted(here.data_to_send(ALL)) == [Opened(stream)]
    return here, there, stream


def test_data_goes_both_ways_and_ends_one_direction_at_a_time() -> None:
    here, there, stream = pair()
    here.send(stream, b"question")
    here.send_end(stream)
    assert there.receive_data_untrusted(here.data_to_send(ALL)) == [Received(stream, b"question"), Ended(stream)]
    there.send(stream, b"answer")
    there.send_end(stream)
    assert here.receive_data_untrusted(there.data_to_send(ALL)) == [Received(stream, b"answer"), Ended(stream)]
    assert not here.is_open(stream)
    assert not there.is_open(stream)


def test_a_stream_stops_at_its_window_and_goes_on_when_granted() -> None:
    here, there, stream = pair()
    here.send(stream, bytes(WINDOW_BYTES + 1))
    events = there.receive_data_untrusted(here.data_to_send(ALL))
    assert sum(len(event.data) for event in events if isinstance(event, Received)) == WINDOW_BYTES
    assert here.data_to_send(ALL) == b""
    assert here.queued(stream) == 1
    there.consumed(stream, WINDOW_BYTES // 2)
    assert here.receive_data_untrusted(there.data_to_send(ALL)) == []
    assert there.receive_data_untrusted(here.data_to_send(ALL)) == [Received(stream, b"\0")]


def test_streams_take_turns() -> None:
    here, there, first = pair()
    second = here.open()
    here.send(first, bytes(10 * DATA_MAX))
    here.send(second, b"small")
    events = there.receive_data_untrusted(here.data_to_send(2 * DATA_MAX))
    order = [event.stream for event in events if isinstance(event, Received)]
    assert order.index(second) <= 1


def test_a_stalled_stream_stops_no_other() -> None:
    here, there, stalled = pair()
    other = here.open()
    here.send(stalled, bytes(2 * WINDOW_BYTES))
    there.receive_data_untrusted(here.data_to_send(ALL))
    here.send(other, b"through")
    assert there.receive_data_untrusted(here.data_to_send(ALL)) == [Received(other, b"through")]


def test_close_sends_what_was_queued_and_takes_what_still_comes() -> None:
    here, there, stream = pair()
    here.send(stream, b"last words")
    here.close(stream)
    there.send(stream, bytes(WINDOW_BYTES))
    assert here.receive_data_untrusted(there.data_to_send(ALL)) == []
    events = there.receive_data_untrusted(here.data_to_send(ALL))
    assert events == [Received(stream, b"last words"), WasReset(stream)]
    assert not here.is_open(stream)


def test_what_crosses_a_reset_is_dropped() -> None:
    here, there, stream = pair()
    there.send(stream, b"late")
    late = there.data_to_send(ALL)
    here.close(stream)
    assert there.receive_data_untrusted(here.data_to_send(ALL)) == [WasReset(stream)]
    assert here.receive_data_untrusted(late) == []
    there.send(stream, b"to nobody")
    assert there.data_to_send(ALL) == b""


def test_one_stream_too_many_is_refused_on_both_sides() -> None:
    here, there = Mux(opens=True), Mux(opens=False)
    for _ in range(STREAMS_MAX):
        here.open()
    with pytest.raises(LocalProtocolError):
        here.open()
    there.receive_data_untrusted(here.data_to_send(ALL))
    assert there.receive_data_untrusted(frame(OPEN, STREAMS_MAX + 1)) == []
    assert there.data_to_send(ALL) == frame(RESET, STREAMS_MAX + 1)


def test_nothing_is_sent_behind_the_end() -> None:
    here, _, stream = pair()
    here.send_end(stream)
    with pytest.raises(LocalProtocolError):
        here.send(stream, b"x")


@pytest.mark.parametrize(
    "wire",
    [
        frame(0, 1),
        frame(6, 1),
        frame(OPEN, 1),
        frame(OPEN, 0),
        frame(DATA, 9, 1, b"x"),
        frame(DATA, 0, 1, b"x"),
        frame(DATA, 1, 0),
        frame(DATA, 1, DATA_MAX + 1),
        frame(DATA, 1, DATA_MAX, bytes(DATA_MAX)) * (WINDOW_BYTES // DATA_MAX) + frame(DATA, 1, 1, b"x"),
        frame(END, 1) + frame(END, 1),
        frame(END, 1) + frame(DATA, 1, 1, b"x"),
        frame(WINDOW, 1, 0),
        frame(WINDOW, 1, 1),
        frame(END, 2),
        frame(RESET, 2),
    ],
)
def test_a_peer_that_breaks_the_rules(wire: bytes) -> None:
    _, there, _ = pair()
    with pytest.raises(RemoteProtocolError):
        there.receive_data_untrusted(wire)


def test_the_side_that_opens_is_opened_nothing() -> None:
    with pytest.raises(RemoteProtocolError):
        Mux(opens=True).receive_data_untrusted(frame(OPEN, 1))


def test_a_peer_that_asks_and_does_not_read() -> None:
    there = Mux(opens=False)
    flood = b"".join(frame(OPEN, n) for n in range(1, 20_000))
    with pytest.raises(RemoteProtocolError):
        there.receive_data_untrusted(flood)
