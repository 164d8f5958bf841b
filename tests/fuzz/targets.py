"""What fuzzers drive in Python: everything that takes another process's bytes, or a person's file.

A target takes any bytes; what it raises is a defect.  The crate's are in core/src/fuzzed.rs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cbor2

from agentd.config import parse
from proto.control import CONTROL_REQUESTS
from proto.errors import RemoteProtocolError, SyncError
from proto.frame import FrameReader
from proto.hold import MARK, LineScanner
from proto.jsonl import head_untrusted, line_untrusted
from proto.limits import HEAD_MAX
from proto.mux import Mux, Opened, Received
from proto.peer import PEER_MESSAGES
from proto.schema import from_head_untrusted, to_head
from proto.strict import loads_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable

_PAYLOAD_MAX = 4096


def frames(data: bytes) -> None:
    """A connection's bytes, in pieces as long as the first byte says; each frame as a message."""
    allocated = 0

    def allocate(size: int) -> bytearray:
        nonlocal allocated
        allocated = max(allocated, size)
        return bytearray(size)

    reader = FrameReader(_PAYLOAD_MAX, allocate)
    step = 1 + data[0] if data else 1
    try:
        for at in range(1, len(data), step):
            piece = data[at : at + step]
            while piece:
                room = reader.get_buffer()
                count = min(len(room), len(piece))
                room[:count] = piece[:count]
                reader.buffer_updated(count)
                piece = piece[count:]
                while (frame := reader.next_frame_untrusted()) is not None:
                    assert frame.payload is None or 0 < len(frame.payload) <= _PAYLOAD_MAX
                    try:
                        message = from_head_untrusted(PEER_MESSAGES, frame.head)
                    except RemoteProtocolError:
                        continue
                    assert from_head_untrusted(PEER_MESSAGES, to_head(message)) == message
    except RemoteProtocolError:
        pass
    assert allocated <= _PAYLOAD_MAX


def strict(data: bytes) -> None:
    """One CBOR item; what is taken is plain, and is the same when it is said again."""
    try:
        value = loads_untrusted(data[:HEAD_MAX])
    except RemoteProtocolError:
        return
    again = cbor2.dumps(value)
    assert cbor2.dumps(loads_untrusted(again)) == again


def lines(data: bytes) -> None:
    """JSON lines of an editor."""
    for line in data.split(b"\n"):
        try:
            value = line_untrusted(line)
            message = from_head_untrusted(CONTROL_REQUESTS, head_untrusted(CONTROL_REQUESTS, value))
        except RemoteProtocolError:
            continue
        assert from_head_untrusted(CONTROL_REQUESTS, to_head(message)) == message


def marked(data: bytes) -> None:
    """What a login shell prints, and the marked line in it; the first byte cuts it into pieces."""
    scanner = LineScanner()
    step = 1 + data[0] if data else 1
    try:
        for at in range(1, len(data), step):
            message = scanner.feed_untrusted(data[at : at + step].replace(b"@!", MARK))
            if message is not None:
                return
    except RemoteProtocolError:
        pass


def multiplexer(data: bytes) -> None:
    """The wire of the stdio transport, to the end that accepts streams."""
    mux = Mux(opens=False)
    step = 1 + data[0] if data else 1
    waiting = 0
    try:
        for at in range(1, len(data), step):
            for event in mux.receive_data_untrusted(data[at : at + step]):
                if isinstance(event, Opened) and event.stream % 3 == 0:
                    mux.send_end(event.stream)
                elif isinstance(event, Received):
                    waiting += len(event.data)
                    if event.stream % 2:
                        mux.consumed(event.stream, len(event.data))
    except RemoteProtocolError:
        pass
    assert waiting <= len(data)
    mux.data_to_send(1 << 20)


def config(data: bytes) -> None:
    """A configuration file."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    refused = None
    try:
        parse("config.toml", text)
    except SyncError as e:
        refused = e
    assert refused is None or (refused.code == "config" and refused.message.isprintable())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "strict": strict,
    "lines": lines,
    "marked": marked,
    "multiplexer": multiplexer,
    "config": config,
}
