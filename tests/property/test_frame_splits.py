"""Any split of the byte stream gives the same frames; any bytes give frames or the protocol error."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from proto.errors import RemoteProtocolError
from proto.frame import Frame, FrameReader, encode_frame
from proto.peer import PEER_MESSAGES
from proto.schema import from_head_untrusted
from proto.strict import loads_untrusted

heads = st.dictionaries(
    st.text(max_size=8), st.integers(-(1 << 63), (1 << 63) - 1) | st.binary(max_size=30), max_size=4
)
frames = st.lists(st.tuples(heads, st.binary(max_size=200)), max_size=8)


def feed(reader: FrameReader, pieces: list[bytes]) -> list[Frame]:
    out = []
    for piece in pieces:
        rest = piece
        while rest:
            buffer = reader.get_buffer()
            assert len(buffer) > 0
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            rest = rest[count:]
            reader.buffer_updated(count)
            while (frame := reader.next_frame_untrusted()) is not None:
                out.append(frame)
    return out


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(frames, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_gives_the_same_frames(sent: list[tuple[dict[str, object], bytes]], cuts: list[int]) -> None:
    data = b"".join(encode_frame(head, len(payload)) + payload for head, payload in sent)
    reader = FrameReader(200)
    got = feed(reader, split(data, cuts))
    assert [(frame.head, bytes(frame.payload or b"")) for frame in got] == sent
    assert not reader.mid_frame


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        feed(FrameReader(200), [data])
    except RemoteProtocolError:
        pass


@given(frames, st.integers(0, 1 << 20), st.integers(0, 7))
def test_a_flipped_bit_is_a_frame_or_refused(sent: list[tuple[dict[str, object], bytes]], at: int, bit: int) -> None:
    data = bytearray(b"".join(encode_frame(head, len(payload)) + payload for head, payload in sent))
    if data:
        data[at % len(data)] ^= 1 << bit
    try:
        for frame in feed(FrameReader(200), [bytes(data)]):
            from_head_untrusted(PEER_MESSAGES, frame.head)
    except RemoteProtocolError:
        pass


@given(st.binary(max_size=100))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        loads_untrusted(data)
    except RemoteProtocolError:
        pass
