"""Control messages as JSON lines, for editors and scripts: the same messages and fields as in CBOR.

JSON has no bytes: a field of bytes is text when it is UTF-8, or else stands under its name with ``_b64`` in base64; in
a list it is a text or ``{"b64": …}``.  What is a payload in CBOR is a list: ``items`` or ``problems``.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

from proto.control import Items, Problems, Run, Sync, Trash, known_problem, unpack_problems_untrusted
from proto.errors import RemoteProtocolError
from proto.hello import Hello
from proto.record import TYPE_CHECKING
from proto.schema import Head, Message, Registry, from_head_untrusted, to_head

if TYPE_CHECKING:
    from typing import Any, NoReturn

LINE_MAX = 256 << 10
"""Bytes of a request's line: a head's 64 KiB, as base64 and with escapes."""

_BYTES: dict[type[Any], tuple[str, ...]] = {
    Hello: ("agent", "machine"),
    Run: ("source", "destination", "excludes"),
    Sync: ("targets", "excludes"),
    Trash: ("target", "paths"),
}
_CHANGE = 11
"""Characters of an itemized change, ``%i``; a space follows."""


def to_json(message: Message, payload: bytes | bytearray | memoryview | None = None) -> dict[str, Any]:
    """``message`` as JSON values."""
    value: dict[str, Any] = {}
    for name, field in to_head(message).items():
        if type(field) is bytes:
            value.update(named(name, field))
        elif type(field) in (list, tuple) and field and type(field[0]) is bytes:
            value[name] = [_element(item) for item in field]
        else:
            value[name] = field
    if type(message) is Items:
        value["items"] = [
            {"change": line[:_CHANGE].decode("ascii", "replace"), **named("path", line[_CHANGE + 1 :])}
            for line in split_items(payload or b"")
        ]
    elif type(message) is Problems:
        value["problems"] = [
            {**named("path", path), "code": code, "errno": errno, "text": text}
            for at, code, errno in unpack_problems_untrusted(payload or b"")
            for path, text in (known_problem(at, code),)
        ]
    return value


def dump_line(value: dict[str, Any]) -> bytes:
    """One line, pure ASCII, so that nothing in it acts on a terminal."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def load_line_untrusted(messages: Registry, line: bytes) -> Any:
    """The message on ``line``.  Raises RemoteProtocolError only."""
    return from_head_untrusted(messages, head_untrusted(messages, line_untrusted(line)))


def line_untrusted(line: bytes) -> dict[str, Any]:
    """The JSON object on ``line``.  Raises RemoteProtocolError only."""
    try:
        value = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise RemoteProtocolError("a line that is not JSON, or names a key twice") from None
    if type(value) is not dict:
        raise RemoteProtocolError("a line is a JSON object")
    return value


def head_untrusted(messages: Registry, value: dict[str, Any]) -> Head:
    """The head that ``value`` stands for, as CBOR would have it.  Raises RemoteProtocolError only."""
    tag = value.get("t")
    cls = messages.get(tag) if type(tag) is str else None
    head = dict(value)
    for name in _BYTES.get(cls, ()) if cls is not None else ():
        coded = head.pop(name + "_b64", None)
        if coded is not None:
            if name in head:
                raise RemoteProtocolError(f"{name}: given twice")
            head[name] = _decoded(name, coded)
        elif type(head.get(name)) is list:
            head[name] = [_from_element(name, item) for item in head[name]]
        elif name in head:
            head[name] = _from_element(name, head[name])
    return head


def named(name: str, value: bytes) -> dict[str, str]:
    """A field of bytes: ``name`` with text when it is UTF-8, else ``name_b64``."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {name + "_b64": b64encode(value).decode()}


def split_items(payload: bytes | bytearray | memoryview) -> list[bytes]:
    """ITEMS' payload as lines."""
    return bytes(payload).removesuffix(b"\0").split(b"\0") if len(payload) else []


def _element(item: bytes) -> Any:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": b64encode(item).decode()}


def _from_element(name: str, item: Any) -> bytes:
    if type(item) is str:
        try:
            return item.encode()
        except UnicodeEncodeError:
            raise RemoteProtocolError(f"{name}: a text with half a surrogate pair") from None
    if type(item) is dict and item.keys() == {"b64"}:
        return _decoded(name, item["b64"])
    raise RemoteProtocolError(f"{name}: not a text")


def _decoded(name: str, coded: Any) -> bytes:
    try:
        return b64decode(coded.encode("ascii"), validate=True)
    except (ValueError, AttributeError):
        raise RemoteProtocolError(f"{name}: not base64") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key twice")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
