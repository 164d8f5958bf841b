"""Two endpoints joined in memory: whatever the credits and the splits, they never stall and end in equal trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.sync.endpoints import Endpoint, ReceiverEndpoint, SenderEndpoint
from proto import limits
from proto.frame import FrameReader, encode_frame
from proto.peer import PEER_MESSAGES, Open, Opened, PeerMessage
from proto.schema import from_head_untrusted, to_head
from proto.session import ReceiverSession, SenderSession
from tests.helpers.fake_engine import FakeReceiver, FakeSender, Tree

if TYPE_CHECKING:
    from random import Random

names = st.binary(min_size=1, max_size=6)
trees = st.dictionaries(names, st.binary(max_size=80), max_size=10)
tiny = st.one_of(st.integers(1, 8), st.integers(20, 2000))


class Pipe:
    """One direction: it holds ``capacity`` bytes; a writer that finds it full has to wait, as on a socket."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.waiting = bytearray()
        self.held = bytearray()
        self.reader = FrameReader(limits.PAYLOAD_MAX)

    @property
    def blocked(self) -> bool:
        return bool(self.waiting)

    def write(self, message: PeerMessage, payload: bytes | None) -> None:
        assert not self.blocked
        self.waiting += encode_frame(to_head(message), len(payload or b"")) + (payload or b"")

    def move(self, rng: Random) -> bool:
        count = min(len(self.waiting), self.capacity - len(self.held))
        self.held += self.waiting[:count]
        del self.waiting[:count]
        if not self.held:
            return count > 0
        buffer = self.reader.get_buffer()
        count = min(len(buffer), rng.randint(1, len(self.held)))
        buffer[:count] = self.held[:count]
        del self.held[:count]
        self.reader.buffer_updated(count)
        return True


class End:
    """One pump without trio: its reader always reads, its writer waits for the pipe."""

    def __init__(self, endpoint: Endpoint, outward: Pipe, inward: Pipe) -> None:
        self.endpoint = endpoint
        self.outward = outward
        self.inward = inward

    def read(self, rng: Random) -> bool:
        moved = self.inward.move(rng)
        while (frame := self.inward.reader.next_frame_untrusted()) is not None:
            self.endpoint.receive_untrusted(from_head_untrusted(PEER_MESSAGES, frame.head), frame.payload)
        return moved

    def write(self) -> bool:
        if self.outward.blocked or self.endpoint.session.over:
            return False
        outgoing = self.endpoint.take_control() or self.endpoint.take_data()
        if outgoing is not None:
            self.outward.write(*outgoing)
        return outgoing is not None


def run(ends: list[End], rng: Random) -> None:
    """Until both are closed; whoever may go next is drawn.  Fails when nobody can."""
    while not all(end.endpoint.session.closed for end in ends):
        steps = [step for end in ends for step in (lambda end=end: end.read(rng), end.write)]
        rng.shuffle(steps)
        assert any(step() for step in steps), f"stalled: {[end.endpoint.session.state for end in ends]}"


@settings(max_examples=150, deadline=None)
@given(
    source=trees,
    destination=st.none() | trees,
    pushing=st.booleans(),
    delete=st.booleans(),
    list_window=tiny,
    data_window=tiny,
    capacities=st.tuples(tiny, tiny),
    per_chunk=st.integers(1, 5),
    batch=st.integers(1, 300),
    rng=st.randoms(use_true_random=False),
)
def test_sessions_never_stall_and_end_in_equal_trees(
    source: Tree,
    destination: Tree | None,
    pushing: bool,
    delete: bool,
    list_window: int,
    data_window: int,
    capacities: tuple[int, int],
    per_chunk: int,
    batch: int,
    rng: Random,
) -> None:
    into: Tree = {}
    sender_session = SenderSession(first_list_window=list_window)
    receiver_session = ReceiverSession(first_list_window=list_window)
    sender = FakeSender(
        source,
        list_window=list_window,
        data_window=0 if pushing else data_window,
        wake_fd=-1,
        per_chunk=per_chunk,
        batch=batch,
    )
    receiver = FakeReceiver(
        destination, into, delete=delete, list_window=list_window, data_window=data_window, wake_fd=-1
    )
    there, back = map(Pipe, capacities)
    sending = End(SenderEndpoint(sender_session, sender), there, back)
    receiving = End(ReceiverEndpoint(receiver_session, receiver), back, there)
    side, state = ("receiver", None) if pushing else ("sender", receiver.state)
    opening = (
        Open(bytes(16), 0, side, b"/r", 0, 0)
        if pushing
        else Open(bytes(16), 0, side, b"/r", list_window, data_window, state=state)
    )
    sender.start()
    (sender_session if pushing else receiver_session).send(opening)
    (receiver_session if pushing else sender_session).receive_untrusted(opening)
    if pushing:
        opened = Opened(bytes(16), 0, list_window, data_window, receiver.state)
        receiver_session.send(opened)
        back.write(opened, None)
    else:
        opened = Opened(bytes(16), 0, 0, 0)
        assert isinstance(sending.endpoint, SenderEndpoint)
        sending.endpoint.begin(want_all=state in ("missing", "empty"), list_window=list_window, data_window=data_window)
        sender_session.send(opened)
        there.write(opened, None)
    run([sending, receiving], rng)
    expected = source if delete else {**(destination or {}), **source}
    assert into == expected
