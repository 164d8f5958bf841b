"""Whatever is typed is a location that round-trips or a usage error; whatever is named is safe to print."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from proto.errors import SyncError
from proto.job import format_location, parse_location, shown

_PIECES = st.sampled_from([b"ssh://", b"[::1]", b"me@", b"box", b":", b"/", b"~", b"22", b".", b"-", b"[", b"\xe9"])
_TEXTS = st.binary(max_size=40) | st.lists(_PIECES, max_size=8).map(b"".join)


@given(_TEXTS)
@example(b"ssh://me@[::1]:22/~me/x")
@example(b"./ssh://box/x")
def test_round_trip(text: bytes) -> None:
    error: SyncError | None = None
    try:
        location = parse_location(text)
    except SyncError as e:
        error = e
    if error is not None:
        assert error.code == "usage"
        assert error.message.isprintable()
        return
    assert parse_location(format_location(location)) == location
    assert location.path
    if location.host is not None:
        assert location.host.isprintable()
        assert not location.host.startswith("-")


@given(st.binary(max_size=60))
def test_a_shown_name_is_harmless_and_says_which(name: bytes) -> None:
    text = shown(name)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)
    back = re.sub(rb"\\#([0-7]{3})", lambda m: bytes([int(m[1], 8)]), text.encode())
    assert back == name
