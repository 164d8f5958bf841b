"""Looks: paths of a root to look at, packed as LOOK's payload and as a job's scope (``docs/protocol.md``)."""

from __future__ import annotations

from struct import Struct

from proto.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_HEAD = Struct("<BxI")
_DEEP = 1


def pack_looks(looks: Iterable[tuple[bytes, bool]]) -> bytes:
    """(path from the root, with everything below it?), packed; ``b""`` is the root itself."""
    return b"".join(_HEAD.pack(_DEEP if deep else 0, len(path)) + path for path, deep in looks)


def unpack_looks(payload: Any) -> list[tuple[bytes, bool]]:
    """What pack_looks() packed, here or in the crate of this agent: nothing of a peer's."""
    data = bytes(payload)
    looks: list[tuple[bytes, bool]] = []
    at = 0
    while at < len(data):
        flags, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size + size
        looks.append((data[at - size : at], bool(flags & _DEEP)))
    return looks
