"""Two multiplexers joined in memory: whatever is done and however the bytes are split, all of it arrives in order."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from proto.mux import WINDOW_BYTES, Ended, Mux, Opened, Received, WasReset

Side = Literal[0, 1]


class Joined:
    """Both sides, what each sent on each stream, and what the other got."""

    def __init__(self) -> None:
        self.sides = (Mux(opens=True), Mux(opens=False))
        self.wire = (bytearray(), bytearray())
        self.sent: dict[tuple[int, int], bytearray] = {}
        self.got: dict[tuple[int, int], bytearray] = {}
        self.ended: set[tuple[int, int]] = set()
        self.finished: set[tuple[int, int]] = set()
        self.stalled: set[int] = set()
        self.closed: set[int] = set()

    def move(self, side: int, count: int) -> None:
        """Carry up to ``count`` bytes from one side to the other."""
        self.wire[side].extend(self.sides[side].data_to_send(count))
        part = bytes(self.wire[side][:count])
        del self.wire[side][:count]
        other = 1 - side
        for event in self.sides[other].receive_data_untrusted(part):
            key = (side, event.stream)
            if isinstance(event, Received):
                assert key not in self.finished
                self.got.setdefault(key, bytearray()).extend(event.data)
                if event.stream not in self.stalled:
                    self.sides[other].consumed(event.stream, len(event.data))
            elif isinstance(event, Ended):
                self.finished.add(key)
            elif isinstance(event, WasReset):
                self.closed.add(event.stream)
            else:
                assert isinstance(event, Opened)

    def settle(self) -> None:
        """Carry everything."""
        for _ in range(10_000):
            before = [len(wire) for wire in self.wire]
            for side in (0, 1):
                self.move(side, 1 << 20)
            if before == [0, 0] and not any(self.wire) and not any(m.data_to_send(1) for m in self.sides):
                return
        raise AssertionError("it never comes to rest")


OPERATION = st.one_of(
    st.tuples(st.just("open")),
    st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 4), st.integers(1, 200_000)),
    st.tuples(st.just("end"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("stall"), st.integers(1, 4)),
    st.tuples(st.just("move"), st.integers(0, 1), st.integers(1, 100_000)),
    st.tuples(st.just("close"), st.integers(0, 1), st.integers(1, 4)),
)


@given(st.lists(OPERATION, max_size=40))
def test_streams(operations: list[tuple[str, ...]]) -> None:
    joined = Joined()
    opened = 0
    fill = 0
    for name, *rest in operations:
        arguments = [int(argument) for argument in rest]
        if name == "open":
            opened = joined.sides[0].open()
        elif name == "move":
            joined.move(*arguments)
        elif name == "stall":
            joined.stalled.add(arguments[0])
        else:
            side, stream = arguments[:2]
            mux = joined.sides[side]
            if stream > opened or not mux.is_open(stream) or stream in joined.closed:
                continue
            if name == "close":
                mux.close(stream)
                joined.closed.add(stream)
            elif name == "end":
                mux.send_end(stream)
                joined.ended.add((side, stream))
            elif (side, stream) not in joined.ended:
                fill = (fill + 1) % 256
                data = bytes([fill]) * arguments[2]
                mux.send(stream, data)
                joined.sent.setdefault((side, stream), bytearray()).extend(data)
    joined.settle()
    for key, sent in joined.sent.items():
        got = joined.got.get(key, bytearray())
        assert sent.startswith(got)
        stream = key[1]
        if stream in joined.closed:
            continue
        if stream in joined.stalled:
            assert len(got) >= min(len(sent), WINDOW_BYTES // 2)
        else:
            assert got == sent
            assert (key in joined.finished) == (key in joined.ended)
