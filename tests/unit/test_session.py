"""The session machines: every row of their tables, every pair that is in none, and the counting on top."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import pytest

from proto import limits, session
from proto.errors import LocalProtocolError, RemoteProtocolError
from proto.peer import (
    PEER_MESSAGES,
    Ack,
    Again,
    Basis,
    Cancel,
    Closed,
    Data,
    Done,
    Error,
    Got,
    Items,
    Join,
    List,
    ListEnd,
    Look,
    Open,
    Opened,
    Ping,
    Pong,
    Problems,
    Want,
)
from proto.session import RECEIVER_TABLE, SENDER_TABLE, ReceiverSession, SenderSession, Session, State

if TYPE_CHECKING:
    from collections.abc import Callable

SID = b"s" * 16
OLD, OLDER = b"o" * 16, b"p" * 16
PUSH = Open(SID, 0, "receiver", b"/r", 0, 0)
PULL = Open(SID, 0, "sender", b"/r", 100, 100, state="directory")
KNOWN_PUSH = PUSH._replace(baselines=[OLD])
KNOWN_PULL = PULL._replace(baselines=[OLD, OLDER])

#: One legal example of each message, and its payload.
EXAMPLES: dict[str, tuple[Any, bytes]] = {
    "ping": (Ping(1), b""), "pong": (Pong(1), b""), "join": (Join(SID, 0), b""),
    "open": (PUSH, b""), "opened": (Opened(SID, 0, 100, 100, "directory"), b""),
    "list": (List(1), b"x"), "list-end": (ListEnd(1, 1, bytes(32)), b""),
    "want": (Want(0), b"x"), "basis": (Basis(), b"x"), "again": (Again(), b"x"),
    "look": (Look(), b"x"), "data": (Data(), b"x"),
    "ack": (Ack(), struct.pack("<QQ", 1 << 40, 1 << 40)), "problems": (Problems(), b"x"), "items": (Items(), b"x"),
    "got": (Got(1), b""),
    "done": (Done({}), b""), "closed": (Closed({}), b""), "cancel": (Cancel(), b""), "error": (Error("e", "m"), b""),
}  # fmt: skip

SIDES = [(SenderSession, SENDER_TABLE), (ReceiverSession, RECEIVER_TABLE)]


def at(cls: type[Session], state: State) -> Session:
    """A machine in ``state``, one chunk listed (and answered, where DONE is to follow)."""
    machine = cls()
    machine.open = KNOWN_PUSH
    machine.ends_due = int(state not in (State.LISTED_EARLY, State.FLOWING))
    machine.state = state
    machine.chunks = 1
    machine.wants = 0
    machine._list.granted = machine._data.granted = 1000
    return machine


def do(machine: Session, way: str, tag: str, *, wanted: bool = False) -> None:
    message, payload = EXAMPLES[tag]
    if tag in ("basis", "again", "data", "done") or wanted:
        machine.wants = machine.chunks
    (machine.send if way == ">" else machine.receive_untrusted)(message, payload)


@pytest.mark.parametrize("cls", [cls for cls, _ in SIDES])
@pytest.mark.parametrize("tag", EXAMPLES)
@pytest.mark.parametrize("way", "<>")
@pytest.mark.parametrize("state", State)
def test_every_pair(cls: type[Session], state: State, way: str, tag: str) -> None:
    after = dict(SIDES)[cls].get((state, way, tag))
    machine = at(cls, state)
    if after is not None:
        do(machine, way, tag)
        assert machine.state is after
        return
    with pytest.raises(LocalProtocolError if way == ">" else RemoteProtocolError, match=f"^{tag} is out of order"):
        do(machine, way, tag)
    assert machine.state is State.FAILED
    assert machine.over


def test_every_message_is_in_a_table_or_belongs_to_spares() -> None:
    in_tables = {tag for table in (SENDER_TABLE, RECEIVER_TABLE) for _, _, tag in table}
    assert in_tables | {"ping", "pong", "join"} == set(PEER_MESSAGES)
    assert set(EXAMPLES) == set(PEER_MESSAGES)


def test_what_one_side_may_send_the_other_may_receive() -> None:
    mirrored = {"sender": SENDER_TABLE, "receiver": RECEIVER_TABLE}
    for mine, others in ((SENDER_TABLE, RECEIVER_TABLE), (RECEIVER_TABLE, SENDER_TABLE)):
        sent = {tag for _, way, tag in mine if way == ">"}
        heard = {tag for _, way, tag in others if way == "<"}
        assert sent == heard, mirrored


@pytest.mark.parametrize("opening", [PUSH, PULL])
def test_a_whole_session(opening: Open) -> None:
    sender, receiver = SenderSession(), ReceiverSession()

    def say(source: Session, target: Session, message: Any, payload: bytes = b"") -> None:
        source.send(message, payload)
        target.receive_untrusted(message, payload)

    pushing = opening.side == "receiver"
    initiator, responder = (sender, receiver) if pushing else (receiver, sender)
    say(initiator, responder, opening)
    state = "directory" if pushing else None
    say(responder, initiator, Opened(SID, 0, 100, 100, state) if pushing else Opened(SID, 0, 0, 0))
    say(sender, receiver, List(0), b"chunk")
    say(receiver, sender, Want(0), b"bits")
    say(receiver, sender, Basis(), b"signature")
    say(sender, receiver, Data(), b"data")
    say(sender, receiver, ListEnd(1, 1, bytes(32)))
    say(receiver, sender, Ack(), struct.pack("<QQ", 1 << 21, 1 << 21))
    say(receiver, sender, Done({}))
    assert sender.heard_all
    assert sender.finished
    assert not sender.over
    say(sender, receiver, Closed({}))
    assert sender.closed
    assert receiver.closed
    assert initiator.initiator
    assert not responder.initiator


def opened(opening: Open, baseline: bytes | None) -> Opened:
    pushing = opening.side == "receiver"
    return Opened(SID, 0, 100, 100, "directory", baseline) if pushing else Opened(SID, 0, 0, 0, None, baseline)


@pytest.mark.parametrize("opening", [KNOWN_PUSH, KNOWN_PULL])
def test_a_session_about_what_changed(opening: Open) -> None:
    sender, receiver = SenderSession(), ReceiverSession()

    def say(source: Session, target: Session, message: Any, payload: bytes = b"") -> None:
        source.send(message, payload)
        target.receive_untrusted(message, payload)

    pushing = opening.side == "receiver"
    initiator, responder = (sender, receiver) if pushing else (receiver, sender)
    say(initiator, responder, opening)
    if pushing:  # all that changed here is on its way before OPENED is
        for message, payload in ((List(0), b"chunk"), (ListEnd(1, 1, bytes(32)), b"")):
            sender.send(message, payload)
        assert sender.state is State.LISTED_EARLY
    say(responder, initiator, opened(opening, OLD))
    assert sender.baseline == receiver.baseline == OLD
    say(receiver, sender, Look(), b"paths")
    say(receiver, sender, Look(), b"more paths")
    if pushing:
        receiver.receive_untrusted(List(0), b"chunk")
        receiver.receive_untrusted(ListEnd(1, 1, bytes(32)))
    else:
        say(sender, receiver, List(0), b"chunk")
        say(sender, receiver, ListEnd(1, 1, bytes(32)))
    say(sender, receiver, List(1), b"chunk")
    say(sender, receiver, ListEnd(2, 2, bytes(32)))
    assert {sender.state, receiver.state} == {State.LISTING}, "one LIST-END is still due"
    say(sender, receiver, ListEnd(2, 2, bytes(32)))
    assert {sender.state, receiver.state} == {State.FLOWING}
    say(receiver, sender, Want(0), b"bits")
    say(receiver, sender, Look(), b"at last")
    assert {sender.state, receiver.state} == {State.LISTING}
    say(sender, receiver, List(2), b"chunk")
    say(sender, receiver, ListEnd(3, 3, bytes(32)))
    say(receiver, sender, Want(1), b"bits")
    say(receiver, sender, Want(2), b"bits")
    say(receiver, sender, Done({}))
    say(sender, receiver, Closed({}))
    assert sender.closed
    assert receiver.closed


def test_done_waits_for_every_list_that_is_due() -> None:
    for way, machine in (("<", SenderSession()), (">", ReceiverSession())):
        machine.open, machine.state = KNOWN_PUSH, State.LISTING
        do(machine, way, "look")
        machine.chunks = machine.wants = 1
        do(machine, "<>"[way == "<"], "list-end")
        with pytest.raises((LocalProtocolError, RemoteProtocolError), match=r"^done is out of order \(listing\)"):
            do(machine, way, "done")


def test_nothing_is_looked_at_where_everything_is_listed() -> None:
    for opening, baseline in ((PUSH, None), (PULL, None), (KNOWN_PULL, None), (PUSH._replace(scoped=True), None)):
        machine = SenderSession()
        pushing = opening.side == "receiver"
        (machine.send if pushing else machine.receive_untrusted)(opening)
        (machine.receive_untrusted if pushing else machine.send)(opened(opening, baseline))
        assert refused(machine, Look(), b"x") == "look: everything is listed already"


def test_looks_have_an_end() -> None:
    machine = SenderSession()
    machine.send(KNOWN_PUSH)
    machine.receive_untrusted(opened(KNOWN_PUSH, None))
    for _ in range(limits.LOOKS_MAX):
        machine.receive_untrusted(Look(), b"x")
    assert refused(machine, Look(), b"x") == f"look: more than {limits.LOOKS_MAX}"


def test_baselines_are_the_openers_to_name() -> None:
    assert "more baselines" in refused(ReceiverSession(), PUSH._replace(baselines=[OLD, OLDER]))
    assert "more baselines" in refused(ReceiverSession(), KNOWN_PUSH._replace(scoped=True))
    assert "the sender alone" in refused(SenderSession(), PULL._replace(scoped=True))
    assert "has nothing" in refused(SenderSession(), KNOWN_PULL._replace(state="empty"))
    for opening, answer in (
        (KNOWN_PUSH, opened(KNOWN_PUSH, OLD)._replace(state="missing")),
        (PUSH._replace(scoped=True), opened(PUSH, None)._replace(state="empty")),
    ):
        machine = SenderSession()
        machine.send(opening)
        assert "has nothing" in refused(machine, answer)
    for opening in (PUSH, KNOWN_PUSH):
        machine = SenderSession()
        machine.send(opening)
        assert "a baseline that was not named" in refused(machine, opened(opening, OLDER))


@pytest.mark.parametrize("opening", [PUSH, PULL])
@pytest.mark.parametrize("asked", [False, True])
def test_a_profile_is_the_responders_and_only_when_asked(opening: Open, asked: bool) -> None:
    opening = opening._replace(profile=asked)
    told = {"wall_us": 1, "cpu_us": 1, "stages": {}}
    for by_receiver, by_sender in ((None, None), (told, None), (None, told), (told, told)):
        sender, receiver = SenderSession(), ReceiverSession()
        for machine in (sender, receiver):
            machine.open, machine.want_all, machine.state = opening, True, State.FLOWING
        right = asked and opening.side == "receiver"
        if right != (by_receiver is not None):
            assert "profile" in refused(sender, Done({}, by_receiver))
            with pytest.raises(LocalProtocolError):
                receiver.send(Done({}, by_receiver))
            continue
        receiver.send(Done({}, by_receiver))
        sender.receive_untrusted(Done({}, by_receiver))
        if (asked and opening.side == "sender") == (by_sender is not None):
            sender.send(Closed({}, by_sender))
            receiver.receive_untrusted(Closed({}, by_sender))
            assert receiver.closed
        else:
            assert "profile" in refused(receiver, Closed({}, by_sender))


def refused(machine: Session, message: Any, payload: bytes = b"", **more: bool) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        machine.receive_untrusted(message, payload, **more)
    assert machine.state is State.FAILED
    return str(caught.value)


def listing(cls: Callable[[], Session] = ReceiverSession) -> Session:
    machine = cls()
    machine.receive_untrusted(PULL if cls is SenderSession else PUSH)
    machine.send(Opened(SID, 0, 0, 0) if cls is SenderSession else Opened(SID, 0, 100, 100, "directory"))
    return machine


def test_chunks_have_no_gaps() -> None:
    machine = listing()
    machine.receive_untrusted(List(0), b"x")
    assert refused(machine, List(2), b"x") == "list: chunk 2 instead of 1"
    machine = listing()
    assert "1 chunks instead of 0" in refused(machine, ListEnd(1, 1, bytes(32)))


def test_wants_come_in_order_and_once() -> None:
    machine = listing(SenderSession)
    machine.send(List(0), b"x")
    for n in (1, 2):
        other = listing(SenderSession)
        other.send(List(0), b"x")
        assert "instead of 0" in refused(other, Want(n), b"x")
    machine.receive_untrusted(Want(0), b"x")
    assert "instead of 1 of 1" in refused(machine, Want(1), b"x")


def test_an_answer_for_every_chunk_before_done() -> None:
    machine = listing(SenderSession)
    machine.send(List(0), b"x")
    machine.send(ListEnd(1, 1, bytes(32)))
    assert "before every chunk was answered" in refused(machine, Done({}))


def test_an_empty_root_wants_everything_and_nothing_else() -> None:
    machine = SenderSession()
    machine.receive_untrusted(PULL._replace(state="empty"))
    machine.send(Opened(SID, 0, 0, 0))
    machine.send(List(0), b"x")
    machine.send(Data(), b"x")
    assert "everything is wanted already" in refused(machine, Want(0), b"x")


def test_a_basis_or_data_that_nothing_waits_for() -> None:
    assert "nothing was wanted" in refused(listing(SenderSession), Basis(), b"x")
    assert "nothing was wanted" in refused(listing(SenderSession), Again(), b"x")
    assert "nothing was listed" in refused(listing(), Data(), b"x")


def test_windows_are_kept() -> None:
    machine = listing()
    size = limits.FIRST_LIST_WINDOW
    machine.receive_untrusted(List(0), bytes(size - 1))
    machine.receive_untrusted(List(1), bytes(50))  # began with a byte left
    assert "beyond the list window" in refused(machine, List(2), b"x")
    machine = listing()
    machine.receive_untrusted(List(0), b"x")
    machine.send(Want(0), b"x")
    machine.receive_untrusted(Data(), bytes(limits.FIRST_DATA_WINDOW))
    machine.send(Ack(), struct.pack("<QQ", size, limits.FIRST_DATA_WINDOW + 1))
    machine.receive_untrusted(Data(), bytes(100))
    assert "beyond the data window" in refused(machine, Data(), b"x")


def test_what_comes_unasked_comes_before_opened() -> None:
    sender = SenderSession(first_data_window=100)
    sender.send(KNOWN_PUSH)
    sender.send(List(0), b"x")
    sender.send(Data(), bytes(60))
    sender.send(ListEnd(1, 1, bytes(32)))
    sender.send(Data(), bytes(60))
    with pytest.raises(LocalProtocolError, match="beyond the data window"):
        sender.send(Data(), b"x")


def test_a_packed_list_counts_as_what_it_unpacks_to() -> None:
    machine = listing()
    machine.receive_untrusted(List(0), struct.pack("<HHII", 0, 0, limits.FIRST_LIST_WINDOW - 1, 0))
    machine.receive_untrusted(List(1), struct.pack("<HHII", 0, 0, 1, 1))
    assert "beyond the list window" in refused(machine, List(2), b"x")
    machine = listing()
    machine.receive_untrusted(List(0), struct.pack("<HHII", 0, 0, 1, 0) + bytes(limits.FIRST_LIST_WINDOW))
    assert "beyond the list window" in refused(machine, List(1), b"x")


def test_we_keep_them_too() -> None:
    machine = listing(SenderSession)
    machine.send(List(0), bytes(100))
    with pytest.raises(LocalProtocolError, match="beyond the list window"):
        machine.send(List(1), b"x")


def test_frames_on_joined_connections_overtake_each_other() -> None:
    machine = listing()
    machine.receive_untrusted(List(0), b"x")
    machine.send(Want(0), b"x")
    machine.joined = 1
    machine.receive_untrusted(Data(), bytes(limits.FIRST_DATA_WINDOW), joined=True)
    machine.receive_untrusted(Data(), bytes(limits.PAYLOAD_MAX))
    assert "beyond the data window" in refused(machine, Data(), b"x")


def test_only_data_travels_on_a_joined_connection() -> None:
    assert refused(listing(), List(0), b"x", joined=True) == "list on a data connection"


def test_grants_are_not_taken_back() -> None:
    machine = listing(SenderSession)
    assert "taken back" in refused(machine, Ack(), struct.pack("<QQ", 99, 100))
    assert "cut short" in refused(listing(SenderSession), Ack(), b"x")


def test_payloads_where_they_belong() -> None:
    assert "payload of 0 bytes" in refused(listing(), List(0))
    assert "payload of 1 bytes" in refused(ReceiverSession(), PUSH, b"x")


def test_opened_answers_this_open() -> None:
    for opened in (Opened(b"t" * 16, 0, 1, 1, "empty"), Opened(SID, 1, 1, 1, "empty")):
        machine = SenderSession()
        machine.send(PUSH)
        assert "another session or epoch" in refused(machine, opened)


def test_the_receiver_alone_says_its_state() -> None:
    assert "the receiver, and it alone" in refused(ReceiverSession(), PUSH._replace(state="empty"))
    assert "the receiver, and it alone" in refused(SenderSession(), PULL._replace(state=None))
    machine = SenderSession()
    machine.send(PUSH)
    assert "the receiver, and it alone" in refused(machine, Opened(SID, 0, 1, 1))


def test_what_is_under_way_when_it_is_cancelled_may_pass() -> None:
    machine = listing()
    machine.send(Cancel())
    for message, payload in ((List(7), b"x"), (Data(), b"x"), (ListEnd(9, 9, bytes(32)), b"")):
        machine.receive_untrusted(message, payload)
        assert machine.state is State.CANCELLING
    machine.receive_untrusted(Error("cancelled", "as asked"))
    assert machine.over


def test_the_diagrams_are_drawn_from_the_tables() -> None:
    with open("docs/protocol.md", encoding="utf-8") as page:
        text = page.read()
    drawn = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    for name, rows in (("Sender", session.SENDER_ROWS), ("Receiver", session.RECEIVER_ROWS)):
        assert session.diagram(name, rows) in drawn, f"{name}'s diagram is stale: print session.diagram() into the page"
