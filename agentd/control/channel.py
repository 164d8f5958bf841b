"""The two forms of a control connection, told apart by its first byte: CBOR frames, or JSON lines after a ``{``."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Protocol

import trio

from agentd.wire import Connection, ConnectionLost, greet
from proto import limits
from proto.control import CONTROL_REQUESTS
from proto.errors import RemoteProtocolError
from proto.hello import Hello, agree
from proto.jsonl import LINE_MAX, dump_line, head_untrusted, line_untrusted, load_line_untrusted, to_json
from proto.schema import from_head_untrusted, registry

if TYPE_CHECKING:
    from proto.schema import Message

_HELLO = registry(Hello)


class BadRequest(Exception):  # noqa: N818 - it is answered, not a failure of ours
    """A request that breaks its schema, on a connection that can go on: ``args`` is (id or 0, what is wrong)."""


class Channel(Protocol):
    """Messages of one control connection."""

    async def greet(self, ours: Hello) -> Hello:
        """Exchange hellos; theirs.  Raises SyncError ``incompatible``, RemoteProtocolError, ConnectionLost."""

    async def receive(self) -> Any:
        """The next request.  Raises BadRequest, RemoteProtocolError, ConnectionLost, trio.ClosedResourceError."""

    async def send(self, message: Message, payload: bytes | None = None) -> None:
        """Send one answer.  Raises ConnectionLost, trio.ClosedResourceError."""


async def open_channel(stream: trio.SocketStream) -> Channel:
    """Look at the first byte and choose.  Raises ConnectionLost when none comes in time."""
    with trio.move_on_after(limits.HELLO_DEADLINE_S):
        try:
            first = await stream.socket.recv(1, socket.MSG_PEEK)
        except OSError as e:
            raise ConnectionLost(e.strerror) from None
        return JsonChannel(stream) if first == b"{" else CborChannel(stream)
    raise ConnectionLost("no hello in time")


class CborChannel:
    """Frames, as between agents; requests have no payload."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._connection = Connection(stream, payload_max=0)

    async def greet(self, ours: Hello) -> Hello:
        """See Channel."""
        return (await greet(self._connection, ours)).peer

    async def receive(self) -> Any:
        """See Channel."""
        message, _ = await self._connection.receive(CONTROL_REQUESTS)
        return message

    async def send(self, message: Message, payload: bytes | None = None) -> None:
        """See Channel."""
        await self._connection.send(message, payload)


class JsonChannel:
    """One JSON object a line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def greet(self, ours: Hello) -> Hello:
        """See Channel."""
        with trio.move_on_after(limits.HELLO_DEADLINE_S):
            await self.send(ours)
            theirs: Hello = load_line_untrusted(_HELLO, await self._line())
            agree(ours, theirs)
            return theirs
        raise ConnectionLost("no hello in time")

    async def receive(self) -> Any:
        """See Channel."""
        value = line_untrusted(await self._line())
        try:
            return from_head_untrusted(CONTROL_REQUESTS, head_untrusted(CONTROL_REQUESTS, value))
        except RemoteProtocolError as e:
            request = value.get("id")
            known = type(request) is int and 0 <= request <= limits.U32
            raise BadRequest(request if known else 0, str(e)) from None

    async def send(self, message: Message, payload: bytes | None = None) -> None:
        """See Channel."""
        try:
            await self._stream.send_all(dump_line(to_json(message, payload)))
        except trio.BrokenResourceError as e:
            raise ConnectionLost(str(e)) from None

    async def _line(self) -> bytes:
        """The next line that is not empty; one that was begun has to end within a deadline."""
        searched = 0
        with trio.CancelScope() as scope:
            while True:
                end = self._buffer.find(b"\n", searched)
                if end >= 0:
                    line = bytes(self._buffer[:end])
                    del self._buffer[: end + 1]
                    searched = 0
                    if line.strip():
                        return line
                    continue
                searched = len(self._buffer)
                if searched > LINE_MAX:
                    raise RemoteProtocolError(f"a line of more than {LINE_MAX} bytes")
                if not searched:
                    scope.deadline = float("inf")
                elif scope.deadline == float("inf"):
                    scope.deadline = trio.current_time() + limits.FRAME_DEADLINE_S
                try:
                    data = await self._stream.receive_some(64 << 10)
                except trio.BrokenResourceError as e:
                    raise ConnectionLost(str(e)) from None
                if not data:
                    raise ConnectionLost("the stream ended" + " in the middle of a line" * bool(searched))
                self._buffer += data
        raise RemoteProtocolError("a line was begun and does not end")
