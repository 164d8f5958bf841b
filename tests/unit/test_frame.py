"""Frames at their limits."""

from __future__ import annotations

import struct

import cbor2
import pytest

from proto import limits
from proto.errors import LocalProtocolError, RemoteProtocolError
from proto.frame import Frame, FrameReader, encode_frame


def feed(reader: FrameReader, data: bytes) -> list[Frame]:
    frames = []
    while data:
        buffer = reader.get_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        reader.buffer_updated(count)
        while (frame := reader.next_frame_untrusted()) is not None:
            frames.append(frame)
    return frames


def raw(head: bytes, payload_len: int = 0, head_len: int | None = None) -> bytes:
    head_len = len(head) if head_len is None else head_len
    return struct.pack(">II", 4 + head_len + payload_len, head_len) + head


EMPTY_MAP = cbor2.dumps({})


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", 0, 0),
        struct.pack(">II", 4, 0),
        struct.pack(">II", 3, 1),
        struct.pack(">II", 5, 2),
        struct.pack(">II", 0xFFFFFFFF, 1),
        struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF),
        raw(b"", head_len=limits.HEAD_MAX + 1),
        raw(EMPTY_MAP, 101),
        raw(cbor2.dumps([1])),
        raw(cbor2.dumps({1: 2})),
        raw(cbor2.dumps({b"t": 2})),
        raw(EMPTY_MAP + b"\0"),
        raw(b"\xff"),
        b'{"t": "hello"}\n',
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        feed(FrameReader(100), data)


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_payloads_up_to_the_cap(size: int) -> None:
    reader = FrameReader(100)
    (frame,) = feed(reader, encode_frame({"t": "x"}, size) + bytes(size))
    assert frame == ({"t": "x"}, bytes(size) or None)
    assert not reader.mid_frame


def test_the_cap_is_checked_before_anything_is_allocated() -> None:
    asked: list[int] = []

    def allocate(size: int) -> bytearray:
        asked.append(size)
        return bytearray(size)

    with pytest.raises(RemoteProtocolError, match="payload of 101 bytes, the limit is 100"):
        feed(FrameReader(100, allocate), encode_frame({"t": "x"}, 101))
    assert not asked


def test_a_truncated_frame_is_seen() -> None:
    data = encode_frame({"t": "x"}, 10) + bytes(10)
    for length in range(1, len(data)):
        reader = FrameReader(100)
        assert not feed(reader, data[:length])
        assert reader.mid_frame


def test_a_head_beyond_the_limit_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError, match="the limit is 65536"):
        encode_frame({"t": bytes(limits.HEAD_MAX)})


def test_heads_at_the_limit() -> None:
    head = {"t": bytes(limits.HEAD_MAX - 6)}
    assert len(cbor2.dumps(head)) == limits.HEAD_MAX
    frames = feed(FrameReader(0), encode_frame(head) * 3)
    assert [frame.head for frame in frames] == [head] * 3
