"""Many streams over one: what a link becomes where the other sshd forwards nothing.

    frame = kind u8 | stream u32 be | value u32 be | data

    OPEN     a new stream, by the opening side only, numbered upwards from 1
    DATA     ``value`` bytes follow, 1 to DATA_MAX
    WINDOW   ``value`` more bytes may be sent on the stream; WINDOW_BYTES may be at first
    END      no more data in this direction (half-close)
    RESET    the stream is over in both directions: refused, broken, or closed by one who reads no more

Sans-IO.  The reader always takes everything: what a peer may have under way is bounded per stream by its window, so a
stream that nobody reads stops no other one.  Streams with something to send take turns of one frame each.  What comes
for a stream that is over is dropped: it was sent before our RESET arrived.
"""

from __future__ import annotations

import struct
from collections import deque

from proto.errors import LocalProtocolError, RemoteProtocolError
from proto.limits import CONNECTIONS_MAX, U32
from proto.record import NamedTuple

WINDOW_BYTES = 2 << 20
"""As much as an OpenSSH channel holds in flight: less would slow a single stream down, more would only wait in ssh."""

DATA_MAX = 64 << 10
"""A turn's worth: at 30 MB/s a small reply waits 2 ms for each busy stream."""

STREAMS_MAX = CONNECTIONS_MAX

_CONTROL_MAX = 64 << 10
"""Bytes of our own answers that a peer may leave unread."""

OPEN, DATA, WINDOW, END, RESET = 1, 2, 3, 4, 5
_HEADER = struct.Struct(">BII")


class Opened(NamedTuple):
    """The peer opened a stream."""

    stream: int


class Received(NamedTuple):
    """Some bytes of a stream; ``consumed()`` is to be told when they have been passed on."""

    stream: int
    data: bytes


class Ended(NamedTuple):
    """The peer sends no more on it."""

    stream: int


class WasReset(NamedTuple):
    """It is over in both directions."""

    stream: int


Event = Opened | Received | Ended | WasReset


class _Stream:
    __slots__ = ("closing", "consumed", "credit", "ended", "ending", "granted", "in_turn", "queue", "queued")

    def __init__(self) -> None:
        self.queue: deque[memoryview] = deque()  # what is to be sent
        self.queued = 0  # bytes in it
        self.credit = WINDOW_BYTES  # how much of it may be
        self.granted = WINDOW_BYTES  # how much the peer may still send
        self.consumed = 0  # passed on, and not granted again yet
        self.ending = False  # END follows the queue, or was sent
        self.ended = False  # the peer sent END
        self.closing = False  # RESET follows the queue
        self.in_turn = False


class Mux:
    """One side.  ``opens`` is whether it is the one that opens streams."""

    def __init__(self, *, opens: bool) -> None:
        self._opens = opens
        self._last = 0
        self._streams: dict[int, _Stream] = {}
        self._turns: deque[int] = deque()
        self._control = bytearray()
        self._partial = b""
        self._data_stream = 0
        self._data_left = 0

    # what this side does

    def open(self) -> int:
        """A new stream's number.  Raises LocalProtocolError when there are too many."""
        if not self._opens or len(self._streams) >= STREAMS_MAX or self._last >= U32:
            raise LocalProtocolError("no more streams")
        self._last += 1
        self._streams[self._last] = _Stream()
        self._control += _HEADER.pack(OPEN, self._last, 0)
        return self._last

    def send(self, stream: int, data: bytes | bytearray | memoryview) -> None:
        """Queue a copy of ``data``.  Nothing happens to a stream that is over: its event says so."""
        state = self._streams.get(stream)
        if state is None or not len(data):
            return
        if state.ending:
            raise LocalProtocolError("sent behind the end")
        state.queue.append(memoryview(bytes(data)))
        state.queued += len(data)
        self._take_turn(stream, state)

    def send_end(self, stream: int) -> None:
        """No more will be sent on it."""
        state = self._streams.get(stream)
        if state is not None and not state.ending:
            state.ending = True
            self._take_turn(stream, state)

    def close(self, stream: int) -> None:
        """End it in both directions: what is queued is still sent, what comes is of no interest."""
        state = self._streams.get(stream)
        if state is not None and not state.closing:
            state.closing = state.ending = True
            self._take_turn(stream, state)

    def consumed(self, stream: int, count: int) -> None:
        """So many received bytes were passed on: the peer may send as many again."""
        state = self._streams.get(stream)
        if state is None or state.ended:
            return
        state.consumed += count
        if state.consumed >= WINDOW_BYTES // 2:
            self._control += _HEADER.pack(WINDOW, stream, state.consumed)
            state.granted += state.consumed
            state.consumed = 0

    def queued(self, stream: int) -> int:
        """Bytes that wait to be sent on it."""
        state = self._streams.get(stream)
        return 0 if state is None else state.queued

    def is_open(self, stream: int) -> bool:
        """Whether it is not over yet in at least one direction."""
        return stream in self._streams

    # the wire

    def data_to_send(self, limit: int) -> bytes:
        """The next bytes for the wire, about ``limit`` of them; empty when there is nothing to send now."""
        out: list[bytes | memoryview] = [bytes(self._control)]
        size = len(self._control)
        self._control.clear()
        while self._turns and size < limit:
            stream = self._turns.popleft()
            state = self._streams.get(stream)
            if state is None:
                continue
            state.in_turn = False
            if state.queue and state.credit:
                part = self._next_part(state)
                out += (_HEADER.pack(DATA, stream, len(part)), part)
                size += _HEADER.size + len(part)
            if state.queue:
                self._take_turn(stream, state)
            elif state.ending:
                out.append(_HEADER.pack(RESET if state.closing else END, stream, 0))
                size += _HEADER.size
                if state.closing or state.ended:
                    del self._streams[stream]
        return b"".join(out)

    def receive_data_untrusted(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """What came from the wire, as events.  Raises RemoteProtocolError."""
        events: list[Event] = []
        view = memoryview(self._partial + data if self._partial else data)
        self._partial = b""
        at = 0
        while at < len(view):
            if self._data_left:
                part = view[at : at + self._data_left]
                at += len(part)
                self._data_left -= len(part)
                state = self._streams.get(self._data_stream)
                if state is not None and state.closing:
                    self.consumed(self._data_stream, len(part))
                elif state is not None:
                    events.append(Received(self._data_stream, bytes(part)))
                continue
            if len(view) - at < _HEADER.size:
                self._partial = bytes(view[at:])
                break
            kind, stream, value = _HEADER.unpack_from(view, at)
            at += _HEADER.size
            event = self._frame_untrusted(kind, stream, value)
            if event is not None:
                events.append(event)
        if len(self._control) > _CONTROL_MAX:
            raise RemoteProtocolError("the multiplexer's peer asks and does not read")
        return events

    def _frame_untrusted(self, kind: int, stream: int, value: int) -> Event | None:
        if kind == OPEN:
            return self._open_untrusted(stream)
        if not 0 < stream <= self._last:
            raise RemoteProtocolError(f"multiplexer: frame {kind} for stream {stream}, which was never opened")
        state = self._streams.get(stream)
        if kind == DATA:
            self._begin_data_untrusted(stream, state, value)
        elif kind == WINDOW:
            if state is not None:
                self._grant_untrusted(stream, state, value)
        elif kind == END:
            if state is not None:
                return self._end_untrusted(stream, state)
        elif kind == RESET:
            state = self._streams.pop(stream, None)
            if state is not None and not state.closing:
                return WasReset(stream)
        else:
            raise RemoteProtocolError(f"multiplexer: unknown frame {kind}")
        return None

    def _open_untrusted(self, stream: int) -> Event | None:
        if self._opens or stream <= self._last:
            raise RemoteProtocolError(f"multiplexer: stream {stream} cannot be opened")
        self._last = stream
        if len(self._streams) >= STREAMS_MAX:
            self._control += _HEADER.pack(RESET, stream, 0)
            return None
        self._streams[stream] = _Stream()
        return Opened(stream)

    def _begin_data_untrusted(self, stream: int, state: _Stream | None, value: int) -> None:
        if not 0 < value <= DATA_MAX:
            raise RemoteProtocolError(f"multiplexer: {value} bytes of data in one frame")
        if state is not None:
            if state.ended or value > state.granted:
                raise RemoteProtocolError(f"multiplexer: more data on stream {stream} than was granted")
            state.granted -= value
        self._data_stream, self._data_left = stream, value

    def _grant_untrusted(self, stream: int, state: _Stream, value: int) -> None:
        state.credit += value
        if not value or state.credit > WINDOW_BYTES:
            raise RemoteProtocolError(f"multiplexer: a window of {state.credit} bytes on stream {stream}")
        if state.queue:
            self._take_turn(stream, state)

    def _end_untrusted(self, stream: int, state: _Stream) -> Event | None:
        if state.ended:
            raise RemoteProtocolError(f"multiplexer: stream {stream} ended twice")
        state.ended = True
        if state.ending and not state.queue and not state.in_turn:
            del self._streams[stream]
        return None if state.closing else Ended(stream)

    # turns

    def _take_turn(self, stream: int, state: _Stream) -> None:
        if not state.in_turn and (state.credit or not state.queue):
            state.in_turn = True
            self._turns.append(stream)

    def _next_part(self, state: _Stream) -> memoryview:
        size = min(DATA_MAX, state.credit)
        first = state.queue[0]
        if len(first) <= size:
            state.queue.popleft()
            part = first
        else:
            part, state.queue[0] = first[:size], first[size:]
        state.credit -= len(part)
        state.queued -= len(part)
        return part
