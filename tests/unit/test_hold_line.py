"""The marked line, found in whatever a login shell prints."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import RemoteProtocolError
from proto.hold import LINE_MAX, MARK, NOISE_MAX, Failed, LineScanner, Ready, encode_line

READY = Ready("0.1.0", bytes(16), b"/run/user/1000/syncctl/peer.sock")


@given(
    noise=st.binary(max_size=300).filter(lambda noise: MARK not in noise),
    rest=st.binary(max_size=50),
    cuts=st.lists(st.integers(0, 500), max_size=6),
)
def test_found_behind_any_noise_and_however_it_is_split(noise: bytes, rest: bytes, cuts: list[int]) -> None:
    wire = noise + encode_line(READY) + rest
    if wire.find(MARK) != len(noise):
        return
    scanner = LineScanner()
    bounds = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    found, tail = None, b""
    for start, end in itertools.pairwise(bounds):
        if found is None:
            found = scanner.feed_untrusted(wire[start:end])
        else:
            tail += wire[start:end]
    assert found == READY
    assert scanner.noise == noise
    assert scanner.rest + tail == rest


def test_a_failure_is_told_by_the_same_line() -> None:
    failed = Failed("remote-failed", "disk full", None)
    assert LineScanner().feed_untrusted(encode_line(failed)) == failed


def test_a_terminal_s_line_end_is_tolerated() -> None:
    assert LineScanner().feed_untrusted(encode_line(READY).replace(b"\n", b"\r\n")) == READY


@pytest.mark.parametrize(
    "wire",
    [
        bytes(NOISE_MAX + 1),
        MARK + b"0" * (LINE_MAX + 1),
        MARK + b"zz\n",
        MARK + b"\n",
        MARK + b"80\n",
        MARK + b"a0\n",
        MARK + b"a1617465726561647900\n",
        encode_line(READY)[:-3] + b"\n",
        encode_line(Ready("0.1.0", b"short", b"/x")),
        encode_line(Ready("0.1.0", bytes(16), b"")),
    ],
)
def test_no_such_line(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        LineScanner().feed_untrusted(wire)
