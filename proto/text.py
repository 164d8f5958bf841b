"""Other people's text, made safe for a terminal, a log line and an error message.

A file name, a remote shell's greeting and sshd's complaints are bytes that somebody else chose.  Shown as they are,
they move the cursor, rename the window, or reverse the reading direction of what follows.
"""

from __future__ import annotations

_BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINE_BREAKS = (0x2028, 0x2029)


def _escapes() -> dict[int, str]:
    table = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
    table.update({ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"})
    table.update({code: f"\\u{code:04x}" for code in (*_BIDI, *_LINE_BREAKS)})
    return table


_ESCAPES = _escapes()


def escape_text(value: bytes | str) -> str:
    """``value`` on one line, with C0, DEL, C1 and bidirectional controls as backslash escapes.

    Bytes that are not UTF-8 (in a str: their surrogate escapes) become ``\\xNN``.  The result can be encoded as UTF-8.
    It is for people: a backslash in ``value`` stays one, so it cannot be turned back.
    """
    if isinstance(value, str):
        if value.isprintable():
            return value
        value = value.encode("utf-8", "surrogateescape" if _only_escapes(value) else "backslashreplace")
    return value.decode("utf-8", "backslashreplace").translate(_ESCAPES)


def _only_escapes(text: str) -> bool:
    return not any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in text)


_HARMFUL = frozenset((0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)))


def shown(name: bytes) -> str:
    """``name`` as one line that is safe on a terminal: rsync's ``\\#ooo`` for every byte of what is no printable text.

    Escaped are control characters (C0, DEL, C1), line separators, direction overrides and invalid UTF-8; and the
    backslash of what would read like an escape.
    """
    if name.isascii() and b"\\" not in name:
        text = name.decode("ascii")
        if text.isprintable():
            return text
    out: list[str] = []
    decoded = name.decode("utf-8", "surrogateescape")
    for i, char in enumerate(decoded):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\#{code - 0xDC00:03o}")
        elif code < 0x20 or 0x7F <= code < 0xA0 or code in _HARMFUL:
            out += [f"\\#{byte:03o}" for byte in char.encode()]
        elif char == "\\" and _looks_escaped(decoded[i + 1 : i + 5]):
            out.append("\\#134")
        else:
            out.append(char)
    return "".join(out)


def _looks_escaped(after: str) -> bool:
    return len(after) == 4 and after[0] == "#" and all("0" <= digit <= "7" for digit in after[1:])
