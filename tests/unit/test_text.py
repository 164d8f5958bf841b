"""Hostile text becomes one harmless line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.text import escape_text


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("plain ünïcode 漢字", "plain ünïcode 漢字"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "caf\\xe9"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("two\nlines\r\tand a tab", "two\\nlines\\r\\tand a tab"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        ("safe\u202etxt.exe", "safe\\u202etxt.exe"),
        ("\u2066\u2069\u200f\u061c\u2028", "\\u2066\\u2069\\u200f\\u061c\\u2028"),
        ("", ""),
    ],
)
def test_escapes(given_: bytes | str, shown: str) -> None:
    assert escape_text(given_) == shown


@pytest.mark.fault("G10")
@given(st.one_of(st.binary(), st.text(st.characters(codec=None, exclude_categories=()))))
def test_whatever_comes_is_printable_and_encodable(value: bytes | str) -> None:
    shown = escape_text(value)
    shown.encode()
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or "\u202a" <= c <= "\u202e" for c in shown)
