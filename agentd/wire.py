"""Connections: frames over a byte stream.

Over a Unix socket a payload is received straight into the memory that the crate will own, and sent from where it lies;
over any other stream (the multiplexer's) it is copied once.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from socket import SO_SNDBUF, SOL_SOCKET
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol

import trio

from proto import limits
from proto.errors import RemoteProtocolError
from proto.frame import FrameReader, encode_frame
from proto.hello import Agreement, Hello, agree
from proto.peer import PEER_MESSAGES
from proto.schema import from_head_untrusted, registry, to_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from proto.frame import Payload
    from proto.schema import Message, Registry

try:
    from agentd._core import Buffer

    allocate: Callable[[int], Payload] = Buffer
except ImportError:  # a checkout whose crate is not built: everything but the engines works
    allocate = bytearray

HELLO = registry(Hello)

PACED = 64 << 10
"""Bytes that a paced connection writes at once."""

SEND_BUFFER = 1 << 20
"""What the kernel is asked to take off us at once, so that a payload leaves with one call; it grants what it allows."""

YIELD = 1 << 20
"""Bytes that one connection moves before others run: less than a millisecond."""


class ConnectionLost(trio.BrokenResourceError):
    """The other side went away: the stream ended or broke, in the middle of a frame or between two."""


class Connection:
    """A bidirectional stream of messages with their payloads.

    One task receives; any number send, one after the other.  ``sent`` and ``received`` count bytes, frames included.
    ``agreement`` is what ``greet()`` found.  ``timed``, when it is set, is told how time was spent since a moment of
    perf_counter_ns(): "wait" for a frame to begin, "socket" for all else.  ``pace``, when it is set, is waited for
    before that many bytes of a frame go out; ``arrived`` is told of bytes as they come.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, *, payload_max: int = limits.PAYLOAD_MAX) -> None:
        self.agreement: Agreement | None = None
        self.sent = 0
        self.received = 0
        self.timed: Callable[[str, int], None] | None = None
        self.pace: Callable[[int], Awaitable[None]] | None = None
        self.arrived: Callable[[int], None] | None = None
        self._stream = stream
        self._pipe: _Pipe = _SocketPipe(stream.socket) if isinstance(stream, trio.SocketStream) else _AnyPipe(stream)
        self._reader = FrameReader(payload_max, allocate)
        self._send_lock = trio.Lock()
        self._cut = False
        self._deadline: float | None = None

    async def send(self, message: Message, payload: Payload | None = None) -> None:
        """Send one frame.

        Raises ConnectionLost, trio.ClosedResourceError, or LocalProtocolError for a head beyond its limit.  When it
        is cancelled in the middle of a frame, the connection can send no more.
        """
        view = memoryview(b"" if payload is None else payload).cast("B")
        head = encode_frame(to_head(message), len(view))
        async with self._send_lock:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._cut:
                raise ConnectionLost("an earlier frame was cut short")
            self._cut = True
            since = perf_counter_ns() if self.timed else 0
            if self.pace is None:
                await self._pipe.send_all(head, view)
            else:
                await self._send_paced(self.pace, head, view)
            if self.timed:
                self.timed("socket", since)
            self._cut = False
        self.sent += len(head) + len(view)

    async def _send_paced(self, pace: Callable[[int], Awaitable[None]], head: bytes, view: memoryview) -> None:
        first, rest = view[:PACED], view[PACED:]
        await pace(len(head) + len(first))
        await self._pipe.send_all(head, first)
        while rest:
            first, rest = rest[:PACED], rest[PACED:]
            await pace(len(first))
            await self._pipe.send_all(b"", first)

    async def receive(self, messages: Registry = PEER_MESSAGES) -> tuple[Any, Payload | None]:
        """The next message and its payload, validated.  It is no checkpoint when one lies ready.

        Raises RemoteProtocolError (a frame that takes too long included), ConnectionLost, trio.ClosedResourceError.
        """
        while (frame := self._reader.next_frame_untrusted()) is None:
            await self._fill()
        self._deadline = None
        return from_head_untrusted(messages, frame.head), frame.payload

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Frames have no payload within: who has not said who it is gets no memory for one."""
        most, self._reader.payload_max = self._reader.payload_max, 0
        try:
            yield
        finally:
            self._reader.payload_max = most

    @property
    def ahead(self) -> int:
        """Bytes that came together with the last message, and are of the next ones."""
        return self._reader.ahead

    async def _fill(self) -> None:
        """Wait for some bytes.  A frame that was begun gets a deadline, and more time for each byte that comes."""
        timed, stage = self.timed, "socket" if self._reader.mid_frame else "wait"
        since = perf_counter_ns() if timed else 0
        if not self._reader.mid_frame:
            count = await self._pipe.receive_into(self._reader.get_buffer())
        else:
            if self._deadline is None:
                self._deadline = trio.current_time() + limits.FRAME_DEADLINE_S
            count = -1
            with trio.CancelScope(deadline=self._deadline):
                count = await self._pipe.receive_into(self._reader.get_buffer())
            if count < 0:
                raise RemoteProtocolError("a frame was begun and does not end")
            self._deadline += count / limits.FRAME_RATE_MIN
        if timed:
            timed(stage, since)
        if count == 0:
            raise ConnectionLost("the stream ended" + " in the middle of a frame" * self._reader.mid_frame)
        self.received += count
        if self.arrived is not None:
            self.arrived(count)
        self._reader.buffer_updated(count)

    async def aclose(self) -> None:
        """Close the stream; whoever waits on it gets trio.ClosedResourceError."""
        await trio.aclose_forcefully(self._stream)


async def greet(connection: Connection, ours: Hello) -> Agreement:
    """Exchange hellos, under one deadline for all of it; the result is also ``connection.agreement``.

    Raises SyncError ``incompatible``, RemoteProtocolError, or ConnectionLost when the other side is silent or gone.
    """
    with trio.move_on_after(limits.HELLO_DEADLINE_S):
        await connection.send(ours)
        with connection.bare():
            theirs, _ = await connection.receive(HELLO)
        connection.agreement = agree(ours, theirs)
        return connection.agreement
    raise ConnectionLost(f"no hello within {limits.HELLO_DEADLINE_S:.0f} s")


class _Pipe(Protocol):
    """What a connection needs of a stream."""

    async def send_all(self, head: bytes, payload: memoryview) -> None:
        """Send both."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; how many, 0 at the end."""


class _SocketPipe:
    """A socket: one system call for head and payload, and no copy of the payload.

    The calls are made on the descriptor, which trio's socket keeps non-blocking: its own methods pass through the
    scheduler each time, which costs more than the call, and a payload takes several.
    """

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket
        self._unyielded = 0
        with suppress(OSError):
            socket.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)

    async def send_all(self, head: bytes, payload: memoryview) -> None:
        rest = -len(head)
        while rest < len(payload):
            try:
                parts: list[Payload] = [head[rest:], payload] if rest < 0 else [payload[rest:]]
                rest += self._moved(os.writev(self._socket.fileno(), parts))
            except BlockingIOError:
                self._unyielded = 0
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as e:
                raise _translated(e) from None
        await self._yield()

    async def receive_into(self, buffer: memoryview) -> int:
        await self._yield()
        while True:
            try:
                return self._moved(os.readv(self._socket.fileno(), [buffer]))
            except BlockingIOError:
                self._unyielded = 0
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as e:
                raise _translated(e) from None

    def _moved(self, count: int) -> int:
        self._unyielded += max(count, YIELD // 4)  # a few bytes may be many frames
        return count

    async def _yield(self) -> None:
        """Let others run, now and then."""
        if self._unyielded >= YIELD:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()


class _AnyPipe:
    """Any other stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, head: bytes, payload: memoryview) -> None:
        try:
            await self._stream.send_all(head)
            if payload:
                await self._stream.send_all(payload)
        except trio.BrokenResourceError as e:
            raise ConnectionLost(str(e)) from None

    async def receive_into(self, buffer: memoryview) -> int:
        try:
            data = await self._stream.receive_some(len(buffer))
        except trio.BrokenResourceError as e:
            raise ConnectionLost(str(e)) from None
        buffer[: len(data)] = data
        return len(data)


def _translated(error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this connection was closed")
    return ConnectionLost(error.strerror or str(error))
