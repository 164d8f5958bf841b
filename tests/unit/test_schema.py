"""Messages and heads."""

from __future__ import annotations

from typing import Any

import pytest

from proto import schema
from proto.errors import RemoteProtocolError
from proto.peer import PEER_MESSAGES, Error, List, ListEnd, Open, Ping
from proto.schema import from_head_untrusted, printable, tag_of, to_head


def refused(head: dict[str, Any]) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        from_head_untrusted(PEER_MESSAGES, head)
    return str(caught.value)


def test_tags() -> None:
    assert tag_of(ListEnd) == "list-end"
    assert tag_of(List) == "list"


def test_what_is_none_is_left_out() -> None:
    assert to_head(Error("internal", "m")) == {"t": "error", "code": "internal", "message": "m"}
    assert from_head_untrusted(PEER_MESSAGES, {"t": "error", "code": "c", "message": "m"}) == Error("c", "m")


@pytest.mark.parametrize("tag", [None, 1, [], {}, b"ping", "nope", "Ping", ""])
def test_unknown_messages(tag: object) -> None:
    assert refused({"t": tag, "n": 1}).startswith("unknown message")


def test_fields() -> None:
    assert refused({"n": 1}) == "unknown message None"
    assert refused({"t": "ping"}) == "ping: field n is missing"
    assert refused({"t": "ping", "n": 1, "m": 2}) == "ping: unknown field 'm'"
    assert refused({"t": "error", "code": "c", "message": "m", "hint": None}).endswith("left out, not null")


def test_a_peers_text_is_shown_escaped_and_short() -> None:
    assert printable("\x1b[31m") == r"'\x1b[31m'"
    assert len(printable("x" * 1000)) == 80
    assert printable(1 << 5000) == "a huge integer"
    assert "\x1b" not in refused({"t": "\x1b" * 10})


CHECKS: list[tuple[str, tuple[Any, ...], list[object], list[object]]] = [
    ("check_uint", (10, 2), [2, 10], [1, 11, -1, True, 2.0, "2", None]),
    ("check_bool", (), [True, False], [0, 1, None, "true"]),
    ("check_bytes", (3, 1), [b"a", b"abc"], [b"", b"abcd", "a", bytearray(b"a"), None]),
    ("check_text", (3,), ["", "abc", "äöü"], ["abcd", b"a", None, "a\ud800"]),
    ("check_choice", (("a", "b"),), ["a", "b"], ["c", b"a", ["a"], None]),
    ("check_list", (2,), [[], [1, 2], (1,)], [[1, 2, 3], {}, "ab", None]),
    ("check_path", (3,), [b"a", b"\xff"], [b"", b"a\0", b"abcd", "a"]),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CHECKS)
def test_checks(name: str, arguments: tuple[Any, ...], good: list[object], bad: list[object]) -> None:
    check = getattr(schema, name)
    for value in good:
        check("field", value, *arguments)
    for value in bad:
        with pytest.raises(RemoteProtocolError, match=r"^field: "):
            check("field", value, *arguments)


GOOD = Open(bytes(16), 0, "receiver", b"/", 0, 0)
BREACHES: list[dict[str, Any]] = [
    {"session": bytes(15)}, {"session": bytes(17)}, {"epoch": -1}, {"epoch": 1 << 32}, {"side": "both"},
    {"root": b""}, {"root": b"a\0b"}, {"list_window": -1}, {"data_window": 1 << 64}, {"delete": 1}, {"checksum": None},
    {"max_delete": -1}, {"state": "gone"}, {"filters": [b""]}, {"filters": ["x"]}, {"filters": [b"x"] * 4097},
    {"ancestry": [[1]]}, {"ancestry": [[1, 2, 3]]}, {"ancestry": [[1, "2"]]}, {"ancestry": [1]},
    {"ancestry": [[1, 2]] * 4097},
]  # fmt: skip


@pytest.mark.parametrize("change", BREACHES)
def test_every_invariant_of_open(change: dict[str, Any]) -> None:
    GOOD.validate()
    with pytest.raises(RemoteProtocolError):
        GOOD._replace(**change).validate()


def test_round_trip() -> None:
    assert from_head_untrusted(PEER_MESSAGES, to_head(GOOD)) == GOOD
    assert from_head_untrusted(PEER_MESSAGES, to_head(Ping(3))) == Ping(3)
