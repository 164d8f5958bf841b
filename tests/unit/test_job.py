"""Locations as people write them, and names as terminals may see them."""

import pytest

from proto.errors import SyncError
from proto.job import Location, format_location, parse_location, shown


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        (b"box:/srv/site", "box", b"/srv/site"),
        (b"box:site/", "box", b"site"),
        (b"box:~/site//", "box", b"~/site"),
        (b"box:/", "box", b"/"),
        (b"me@box:x", "me@box", b"x"),
        (b"box:a:b", "box", b"a:b"),
        (b"[::1]:/x", "::1", b"/x"),
        (b"me@[fe80::1%eth0]:x", "me@fe80::1%eth0", b"x"),
        (b"ssh://box/x", "box", b"/x"),
        (b"ssh://me@box:2200/x/", "ssh://me@box:2200", b"/x"),
        (b"ssh://me@box:2200/~/x", "ssh://me@box:2200", b"~/x"),
        (b"ssh://[::1]:2200/x", "ssh://[::1]:2200", b"/x"),
        (b"ssh://[::1]/x", "::1", b"/x"),
        (b"./a:b", None, b"./a:b"),
        (b"/a:b/", None, b"/a:b"),
        (b"dir/a:b", None, b"dir/a:b"),
        (b"[ab]", None, b"[ab]"),
        (b"me@box", None, b"me@box"),
        (b"caf\xe9", None, b"caf\xe9"),
        (b"/", None, b"/"),
        (b"///", None, b"/"),
    ],
)
def test_location(text: bytes, host: str | None, path: bytes) -> None:
    assert parse_location(text) == Location(host, path)
    assert parse_location(format_location(Location(host, path))) == Location(host, path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"box:",
        b":x",
        b"@box:x",
        b"me@:x",
        b"-oProxyCommand=x:y",
        b"-l@box:x",
        b"me@-box:x",
        b"bo x:y",
        b"box\n:x",
        b"b\x1bx:y",
        b"b;x:y",
        b"b$(x):y",
        b"caf\xe9:x",
        b"box::module",
        b"[zz]:x",
        b"[12]:x",
        b"a[::1]:x",
        b"ssh://box",
        b"ssh://box/",
        b"ssh:///x",
        b"ssh://box:0/x",
        b"ssh://box:65536/x",
        b"ssh://box:x/x",
        b"ssh://-box:22/x",
        b"ssh://[::1]x/x",
        b"a\0b",
        b"box:" + b"x" * 4096,
        b"x" * 256 + b":y",
    ],
)
def test_not_a_location(text: bytes) -> None:
    with pytest.raises(SyncError) as e:
        parse_location(text)
    assert e.value.code == "usage"
    assert e.value.message.isprintable()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain name", "plain name"),
        ("prüf/漢字".encode(), "prüf/漢字"),
        (b"a\x1b[2Jb\n", "a\\#033[2Jb\\#012"),
        (b"\x7f", "\\#177"),
        ("\x9b".encode(), "\\#302\\#233"),
        (b"caf\xe9", "caf\\#351"),
        ("safe\u202etxt".encode(), "safe\\#342\\#200\\#256txt"),
        (b"back\\slash", "back\\slash"),
        (b"like\\#033an escape", "like\\#134#033an escape"),
        (b"like\\#03", "like\\#03"),
        (b"\xed\xa0\x80", "\\#355\\#240\\#200"),
    ],
)
def test_shown(name: bytes, text: str) -> None:
    assert shown(name) == text
