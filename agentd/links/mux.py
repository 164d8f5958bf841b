"""The multiplexer's streams as trio streams, over a child process's stdin and stdout."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from proto.errors import LocalProtocolError, RemoteProtocolError
from proto.mux import Ended, Mux, Received, WasReset

if TYPE_CHECKING:
    from proto.mux import Event

_BATCH = 256 << 10
_QUEUE_MAX = 256 << 10
"""Bytes a stream may have queued ahead of the wire."""


class MuxStream(trio.abc.HalfCloseableStream):
    """One stream.  Made by MuxStreams."""

    def __init__(self, streams: MuxStreams, number: int) -> None:
        self._streams = streams
        self._mux = streams.mux
        self._number = number
        self._inbox: deque[memoryview] = deque()
        self._ended = False
        self._broken = False
        self._closed = False
        self._sent_end = False
        self.readable = trio.Event()
        self.drained = trio.Event()
        self._sending = trio.StrictFIFOLock()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue all of it, waiting for room; the wire gets it in turns with other streams."""
        await trio.lowlevel.checkpoint()
        async with self._sending:
            view = memoryview(data).cast("B")
            while len(view):
                await self.wait_send_all_might_not_block()
                if self._sent_end:
                    raise trio.ClosedResourceError("this direction was ended")
                room = _QUEUE_MAX - self._mux.queued(self._number)
                self._mux.send(self._number, view[:room])
                self._streams.kick()
                view = view[room:]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        self._check()
        while self._mux.queued(self._number) >= _QUEUE_MAX:
            self.drained = trio.Event()
            await self.drained.wait()
            self._check()

    async def send_eof(self) -> None:
        """End our direction, behind what is queued."""
        await trio.lowlevel.checkpoint()
        async with self._sending:
            self._check()
            self._sent_end = True
            self._mux.send_end(self._number)
            self._streams.kick()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes; none at the end."""
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self._ended:
                return b""
            self._check()
            self.readable = trio.Event()
            await self.readable.wait()
        first = self._inbox[0]
        if max_bytes is None or len(first) <= max_bytes:
            data = self._inbox.popleft()
        else:
            data, self._inbox[0] = first[:max_bytes], first[max_bytes:]
        self._mux.consumed(self._number, len(data))
        self._streams.kick()
        return bytes(data)

    async def aclose(self) -> None:
        """Close both directions."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close both directions: what was sent still gets there."""
        if not self._closed:
            self._closed = True
            self._inbox.clear()
            self._streams.forget(self._number)
            self._wake()

    def is_readable(self) -> bool:
        """Whether ``receive_some()`` would not wait."""
        return bool(self._inbox) or self._ended or self._broken or self._closed

    def take(self, event: Event) -> None:
        """Something came from the wire."""
        if isinstance(event, Received):
            self._inbox.append(memoryview(event.data))
        elif isinstance(event, Ended):
            self._ended = True
        elif isinstance(event, WasReset):
            self.break_()
        self.readable.set()

    def break_(self) -> None:
        """The stream or what carries it is over; what was received may still be read."""
        self._broken = True
        self._wake()

    def _wake(self) -> None:
        self.readable.set()
        self.drained.set()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._broken:
            raise trio.BrokenResourceError("the other end closed this stream")


class MuxStreams:
    """All streams over one pair of pipes.  ``serve()`` runs for as long as they do."""

    def __init__(self, receive: trio.abc.ReceiveStream, send: trio.abc.SendStream, rest: bytes = b"") -> None:
        self.mux = Mux(opens=True)
        self._receive = receive
        self._send = send
        self._rest = rest
        self._streams: dict[int, MuxStream] = {}
        self._kicked = trio.Event()
        self._over = False

    def open(self) -> MuxStream:
        """A new stream.  Raises trio.BrokenResourceError when there can be none."""
        try:
            if self._over:
                raise LocalProtocolError("the link is down")
            number = self.mux.open()
        except LocalProtocolError as e:
            raise trio.BrokenResourceError(str(e)) from None
        stream = self._streams[number] = MuxStream(self, number)
        self.kick()
        return stream

    def forget(self, number: int) -> None:
        """Its stream was closed."""
        if self._streams.pop(number, None) is not None:
            self.mux.close(number)
            self.kick()

    def kick(self) -> None:
        """There may be something to send."""
        self._kicked.set()

    async def serve(self) -> str:
        """Pump both ways until the other side ends or breaks the rules; how it came."""
        why = "the relay ended"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump_out)
                why = await self._pump_in()
                nursery.cancel_scope.cancel()
        finally:
            self._over = True
            for stream in list(self._streams.values()):
                stream.break_()
        return why

    async def _pump_in(self) -> str:
        try:
            data = self._rest
            while True:
                for event in self.mux.receive_data_untrusted(data):
                    stream = self._streams.get(event.stream)
                    if stream is not None:
                        stream.take(event)
                self.kick()
                data = bytes(await self._receive.receive_some(_BATCH))
                if not data:
                    return "the relay ended"
        except RemoteProtocolError as e:
            return str(e)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return "the relay broke"

    async def _pump_out(self) -> None:
        try:
            while True:
                while data := self.mux.data_to_send(_BATCH):
                    for stream in self._streams.values():
                        stream.drained.set()
                    await self._send.send_all(data)
                self._kicked = trio.Event()
                await self._kicked.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # its stdout ends too, which the other pump sees
