"""Frames: the unit of both sockets.

    frame = length u32 be | head length u32 be | head (CBOR map) | payload (raw)

``length`` counts what follows it.  The reader has the shape of asyncio's BufferedProtocol, so that a socket's
bytes land where they will stay: a large payload is received straight into the buffer that the crate will own.
"""

from __future__ import annotations

import struct

from proto.codec import cbor2
from proto.errors import LocalProtocolError, RemoteProtocolError
from proto.limits import FRAME_PREFIX, HEAD_MAX
from proto.record import TYPE_CHECKING, NamedTuple
from proto.strict import loads_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from proto.schema import Head

    Payload = Any
    """Anything with the buffer protocol: bytes, a bytearray, or the crate's Buffer."""

_PREFIX = struct.Struct(">II")
_STAGING = 64 << 10


class Frame(NamedTuple):
    """A decoded head and the payload behind it (None when it is empty)."""

    head: Head
    payload: Payload | None


def encode_frame(head: Head, payload_len: int = 0) -> bytes:
    """The frame up to its payload, which the caller sends behind it without copying it."""
    body = cbor2.dumps(head)
    if len(body) > HEAD_MAX:
        raise LocalProtocolError(f"head of {len(body)} bytes, the limit is {HEAD_MAX}")
    return _PREFIX.pack(4 + len(body) + payload_len, len(body)) + body


class FrameReader:
    """Bytes in, frames out.

    Fill ``get_buffer()``, say how much with ``buffer_updated(n)``, then take ``next_frame_untrusted()`` until it
    is None.  ``allocate(n)`` makes a writable buffer of n bytes for a payload; limits are checked before it is called.
    """

    def __init__(self, payload_max: int, allocate: Callable[[int], Payload] = bytearray) -> None:
        self.payload_max = payload_max
        """Of frames that were not begun yet."""
        self._allocate = allocate
        self._staging = bytearray(_STAGING + HEAD_MAX + FRAME_PREFIX)
        self._start = 0
        self._end = 0
        self._head: Head | None = None
        self._payload: Payload | None = None
        self._view: memoryview | None = None

    @property
    def mid_frame(self) -> bool:
        """Whether a frame was begun and has not ended: the end of the stream now is a truncated frame."""
        return self._start != self._end or self._payload is not None

    @property
    def ahead(self) -> int:
        """Bytes behind the last frame that was taken, when none has been begun since."""
        return self._end - self._start

    def get_buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._view is not None:
            return self._view
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._staging) - self._end < _STAGING // 2:
            rest = self._staging[self._start : self._end]
            self._staging[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return memoryview(self._staging)[self._end :]

    def buffer_updated(self, count: int) -> None:
        """``count`` bytes were written to the start of the last ``get_buffer()``."""
        if self._view is not None:
            self._view = self._view[count:]
        else:
            self._end += count

    def next_frame_untrusted(self) -> Frame | None:
        """The next whole frame, or None when more bytes are needed.  Raises RemoteProtocolError."""
        if self._payload is None:
            if not self._begin_untrusted():
                return None
            if self._head is None:
                raise AssertionError("a frame was begun without a head")
            if self._payload is None:
                head, self._head = self._head, None
                return Frame(head, None)
        if self._view is None or len(self._view):
            return None
        if self._head is None:
            raise AssertionError("a payload without a head")
        self._view.release()
        frame = Frame(self._head, self._payload)
        self._head = self._payload = self._view = None
        return frame

    def _begin_untrusted(self) -> bool:
        """Parse prefix and head out of the staging area and move what is there of the payload."""
        have = self._end - self._start
        if have < FRAME_PREFIX:
            return False
        length, head_len = _PREFIX.unpack_from(self._staging, self._start)
        payload_len = length - 4 - head_len
        if not 0 < head_len <= HEAD_MAX or payload_len < 0:
            raise RemoteProtocolError(f"frame of {length} bytes with a head of {head_len}")
        if payload_len > self.payload_max:
            raise RemoteProtocolError(f"payload of {payload_len} bytes, the limit is {self.payload_max}")
        if have < FRAME_PREFIX + head_len:
            return False
        body = self._start + FRAME_PREFIX
        with memoryview(self._staging) as staging:
            head = loads_untrusted(staging[body : body + head_len])
            if type(head) is not dict or not all(type(key) is str for key in head):
                raise RemoteProtocolError("a head is a map with text keys")
            self._head = head
            self._start = body + head_len
            if payload_len:
                self._payload = self._allocate(payload_len)
                self._view = memoryview(self._payload).cast("B")
                staged = min(payload_len, self._end - self._start)
                self._view[:staged] = staging[self._start : self._start + staged]
                self._view = self._view[staged:]
                self._start += staged
        return True
