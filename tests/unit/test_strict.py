"""What the decoder refuses that CBOR would allow."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import cbor2
import pytest

from proto.errors import RemoteProtocolError
from proto.strict import loads_untrusted


@pytest.mark.parametrize(
    "value", [{}, [], 0, -1, 1 << 63, "text", b"bytes", None, True, 1.5, {"a": [{"b": b"\xff"}]}, "ü"]
)
def test_plain_values(value: object) -> None:
    assert loads_untrusted(cbor2.dumps(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x18",  # cut short
        b"\x00\x00",  # bytes behind the item
        b"\x9f\x01\xff",  # indefinite list
        b"\xbf\xff",  # indefinite map
        b"\x5f\x41\x01\xff",  # indefinite bytes
        b"\xa2\x61a\x01\x61a\x02",  # a key twice
        b"\x81" * 17 + b"\x00",  # deep
        b"\x81" * 100_000,
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",  # a list of 2**64 - 1
        b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x61\xff",  # text that is no UTF-8
        b"\xff",
        b"\x1c",  # reserved
        *(b"\xd8" + bytes([tag]) + b"\x81\x00" for tag in (24, 25, 28, 29, 35, 36, 37, 52, 54, 100, 200)),
        *(bytes([0xC0 + tag]) + b"\x61a" for tag in range(6)),
        b"\xd9\xd9\xf7\x00",  # self-described CBOR
        cbor2.dumps(datetime(2026, 1, 2, tzinfo=UTC)),
        cbor2.dumps(Fraction(1, 2)),
        cbor2.dumps(1 << 70),
        cbor2.dumps({1, 2}),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        loads_untrusted(data)
