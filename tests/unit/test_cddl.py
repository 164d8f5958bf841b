"""Every message is what docs/protocol.md says, and nothing beside it: both ways, by the page's own CDDL."""

from __future__ import annotations

import re
from typing import Any

import cbor2
import pycddl  # type: ignore[import-untyped]
import pytest

from proto.errors import RemoteProtocolError
from proto.hello import Hello
from proto.peer import PEER_MESSAGES, Closed, Done, Error, Got, Join, List, ListEnd, Open, Opened, Ping, Pong, Want
from proto.schema import Message, Registry, from_head_untrusted, registry, tag_of, to_head

SID = bytes(range(16))
HELLO = registry(Hello)


def rules() -> str:
    with open("docs/protocol.md", encoding="utf-8") as page:
        return "\n".join(re.findall(r"```cddl\n(.*?)```", page.read(), re.DOTALL))


def schema(rule: str) -> pycddl.Schema:
    """The page's rules; the first one is what is checked."""
    return pycddl.Schema(f"checked = {rule}\n{rules()}")


def fits(rule: str, head: object) -> bool:
    try:
        schema(rule).validate_cbor(cbor2.dumps(head))
    except pycddl.ValidationError:
        return False
    return True


def accepted(messages: Registry, head: dict[str, Any]) -> bool:
    try:
        from_head_untrusted(messages, head)
    except RemoteProtocolError:
        return False
    return True


PROFILE = {"wall_us": 9, "cpu_us": 8, "stages": {"walk": {"spent_us": 5, "first_us": 1, "last_us": 6}}}
FULL: list[Any] = [
    Ping(0), Pong((1 << 64) - 1),
    Open(SID, 0, "receiver", b"/srv", 0, 0),
    Open(SID, (1 << 32) - 1, "sender", b"~/\xff", 1, 1, True, True, True, True, True, True, True, True, True,
         5, "missing", [b"*.o"], [[1, 2], [3, 4]], "always", 50_000, [SID, SID], True, "keep-both", SID,
         True, True, "always", True, 86400, [b"8:1", b"/srv"]),
    Opened(SID, 1, 2, 3, "file"), Opened(SID, 1, 2, 3, None, SID),
    Opened(SID, 1, 2, 3, None, None, True), Opened(SID, 1, 0, 0), Join(SID, 0),
    List(0), ListEnd(1, 2, bytes(32)), Want(7), Got(1 << 40), Done({"files": 1}), Closed({}),
    Done({}, PROFILE), Closed({"listed": 1}, PROFILE), Error("protocol", "text", "hint"),
    Error("internal", ""), *(cls() for cls in PEER_MESSAGES.values() if not cls._fields),
]  # fmt: skip
HELLOS: list[Any] = [Hello("cli", 1, 2, "0.1"), Hello("agent", 1, 1, "0.1", SID, SID, ["a"])]


@pytest.mark.parametrize("message", FULL, ids=lambda message: tag_of(type(message)))
def test_peer_messages(message: Message) -> None:
    head = to_head(message)
    assert fits("peer", head)
    assert fits(tag_of(type(message)), head)
    assert from_head_untrusted(PEER_MESSAGES, head) == message


@pytest.mark.parametrize("message", HELLOS)
def test_hello(message: Message) -> None:
    assert fits("hello", to_head(message))
    assert from_head_untrusted(HELLO, to_head(message)) == message


def test_every_peer_message_has_a_rule_and_an_example() -> None:
    assert {tag_of(type(message)) for message in FULL} == set(PEER_MESSAGES)
    listed = re.search(r"^peer = (.*?)\n\n", rules(), re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert set(re.split(r"\s*/\s*", listed[1].strip())) == set(PEER_MESSAGES)


@pytest.mark.parametrize("message", [*FULL, *HELLOS], ids=lambda message: tag_of(type(message)))
def test_neither_takes_a_field_too_many_or_of_another_type(message: Message) -> None:
    tag = tag_of(type(message))
    messages = HELLO if tag == "hello" else PEER_MESSAGES
    head = to_head(message)
    wrong = [{**head, "more": 1}]
    wronger: list[dict[str, Any]] = []  # the CDDL library lets these pass where it should not
    for name, value in head.items():
        flipped: Any = "x" if type(value) is bool else True
        wrong += [{**head, name: other} for other in (None, 1.5, -1, flipped)]
        wronger += [{**head, name: other} for other in ([1.5], {1: 1}, "\0" if type(value) is bytes else b"x")]
    for bad in wrong:
        assert not fits(tag, bad), bad
    for bad in [*wrong, *wronger]:
        if bad != head:
            assert not accepted(messages, bad), bad


@pytest.mark.parametrize("message", FULL, ids=lambda message: tag_of(type(message)))
def test_a_field_that_the_page_wants_is_always_sent(message: Message) -> None:
    head = to_head(message)
    optional = {"max_delete", "state", "hint", "profile", "baseline"}
    if type(message) is Open:
        optional = {"max_delete", "state", "rtt_us"}
    for name in head.keys() - optional:
        assert not fits("peer", {key: value for key, value in head.items() if key != name}), name


EDGES: list[tuple[Any, dict[str, Any]]] = [
    (Join(SID, 0), {"session": SID[:15]}), (Join(SID, 0), {"epoch": 1 << 32}),
    (Open(SID, 0, "sender", b"/", 1, 1), {"root": b""}), (Open(SID, 0, "sender", b"/", 1, 1), {"side": "both"}),
    (Open(SID, 0, "sender", b"/", 1, 1), {"state": "odd"}), (Open(SID, 0, "sender", b"/", 1, 1), {"ancestry": [[1]]}),
    (Open(SID, 0, "sender", b"/", 1, 1), {"baselines": [SID[:15]]}),
    (Open(SID, 0, "sender", b"/", 1, 1), {"origin": SID[:15]}),
    (Open(SID, 0, "sender", b"/", 1, 1), {"on_conflict": "merge"}), (Opened(SID, 0, 0, 0), {"baseline": SID[:15]}),
    (ListEnd(1, 1, bytes(32)), {"hash": bytes(31)}),
    (Want(0), {"n": 1 << 32}), (Ping(0), {"t": "pint"}), (Done({}), {"stats": {"a": -1}}),
    (Done({}), {"stats": {b"a": 1}}),
    (Done({}), {"profile": {"wall_us": 9, "cpu_us": 8}}), (Done({}), {"profile": {**PROFILE, "cpu_us": -1}}),
    (Closed({}), {"profile": {**PROFILE, "stages": {"walk": 1}}}),
    (Closed({}), {"profile": {**PROFILE, "stages": {"walk": {"spent_us": 5, "first_us": 1, "last_us": 6, "more": 1}}}}),
    (List(1), {"n": True}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), EDGES)
def test_the_same_values_are_refused(message: Message, change: dict[str, Any]) -> None:
    head = {**to_head(message), **change}
    assert not fits("peer", head)
    assert not accepted(PEER_MESSAGES, head)
