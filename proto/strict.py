"""The one CBOR decoder for bytes from another process.

Refuses what the protocols never use and what has hurt decoders before: tags of every kind, duplicate keys,
indefinite lengths, deep nesting, trailing bytes.  A fresh decoder per message: shared state has leaked between
messages (CVE-2025-68131).
"""

from __future__ import annotations

from io import BytesIO

from proto.codec import cbor2
from proto.errors import RemoteProtocolError
from proto.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

_BUILT_IN_TAGS = (
    0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip


def _refuse(*_: object) -> NoReturn:
    raise ValueError("tags are not part of this protocol")


_DECODERS: dict[int, Any] = dict.fromkeys(_BUILT_IN_TAGS, _refuse)


def loads_untrusted(data: bytes | memoryview) -> Any:
    """Decode exactly one CBOR item that fills ``data``.  Raises RemoteProtocolError only."""
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            max_depth=16,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            tag_hook=_refuse,
            semantic_decoders=_DECODERS,
        ).decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as e:
        raise RemoteProtocolError(f"malformed CBOR ({type(e).__name__})") from None
    if stream.tell() != len(data):
        raise RemoteProtocolError("bytes after the end of a CBOR item")
    return value
