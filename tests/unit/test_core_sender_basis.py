"""Files of which the receiver holds something: deltas, partials, and hostile claims about them."""

from __future__ import annotations

import os
import random
import struct
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from agentd import _core
from agentd._core import EngineClosed, PeerViolation
from tests.helpers import sending
from tests.helpers.sending import MIB, Record, Sending, bitmap, buffer

if TYPE_CHECKING:
    from pathlib import Path


def signature(entry: tuple[int, int], basis: bytes, block_len: int, parts: int = 1) -> list[bytes]:
    """The BASIS payloads of a signature."""
    count = -(-len(basis) // block_len)
    blocks = max(1, -(-count // parts))
    payloads = _core._selftest("sign", basis, {"block_len": block_len, "blocks": blocks})
    return [struct.pack("<II", *entry) + payload[8:] for payload in payloads]


def pieces(entry: tuple[int, int], held: dict[int, bytes], kind: int = 2) -> bytes:
    rows = b"".join(struct.pack("<I32s", number, value) for number, value in sorted(held.items()))
    return struct.pack("<IIB3xI", *entry, kind, len(held)) + rows


def rebuilt(records: list[Record], basis: bytes) -> bytes:
    """The file that records make from a basis; checks its hash."""
    *pieces, end = records
    assert end.kind == (sending.END if pieces else sending.WHOLE)
    data = bytearray()
    for record in sorted(pieces, key=lambda record: record.piece) or [end]:
        if record.encoding == sending.RAW:
            data += record.data
            continue
        assert record.encoding == sending.DELTA
        at = 0
        while at < len(record.data):
            kind, length = struct.unpack_from("<BI", record.data, at)
            at += 5
            if kind == 0:
                data += record.data[at : at + length]
                at += length
            else:
                (offset,) = struct.unpack_from("<Q", record.data, at)
                assert offset + length <= len(basis)
                data += basis[offset : offset + length]
                at += 8
    assert blake3(data).digest() == end.hash
    return bytes(data)


@pytest.mark.parametrize("size", [5000, MIB, 2 * MIB + 5])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_delta_carries_little_more_than_the_change(tmp_path: Path, size: int, parts: int) -> None:
    basis = random.Random(size).randbytes(size)
    new = basis[: size // 2] + b"a line more\n" + basis[size // 2 :]
    (tmp_path / "file").write_bytes(new)
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(basis=(b"file",))
        for payload in signature(running.find(b"file"), basis, 1024, parts):
            running.sender.basis_untrusted(buffer(payload))
        running.until_resolved(1)
        assert rebuilt(running.records, basis) == new
        counters = running.sender.counters()
        assert counters["literal"] < 3 * 1024
        assert counters["literal"] + counters["matched"] == len(new)
        assert sum(record.data_len for record in running.records) < 6 * 1024


@pytest.mark.parametrize("size", [0, 5000, MIB + 5])
def test_a_basis_that_does_not_help_costs_nothing(tmp_path: Path, size: int) -> None:
    new = os.urandom(size)
    (tmp_path / "file").write_bytes(new)
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(basis=(b"file",))
        [payload] = signature(running.find(b"file"), bytes(100_000), 1024)
        running.sender.basis_untrusted(buffer(payload))
        running.until_resolved(1)
        assert rebuilt(running.records, b"") == new
        assert sum(record.data_len for record in running.records) == size


def test_a_file_waits_for_its_basis_and_others_do_not(tmp_path: Path) -> None:
    for name in ("later", "now"):
        (tmp_path / name).write_bytes(name.encode())
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(b"now", basis=(b"later",))
        running.until_resolved(1)
        assert running.records[0].data == b"now"
        with pytest.raises(PeerViolation, match="something is to come"):
            running.sender.ack_untrusted(sending.ack(forget=(0,)))


def test_pieces_that_the_partial_holds_are_not_sent(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 9)
    (tmp_path / "file").write_bytes(data)
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(b"file")
        running.until_resolved(1)
        values = {record.piece: record.hash for record in running.records if record.kind == sending.PIECE}
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(basis=(b"file",))
        held = {0: values[0], 1: bytes(32), 3: values[3]}
        running.sender.basis_untrusted(buffer(pieces(running.find(b"file"), held)))
        running.until_resolved(1)
        *found, end = sorted(running.records, key=lambda record: (record.kind, record.piece))
        assert [r.encoding for r in found] == [sending.SAME, sending.RAW, sending.RAW, sending.SAME]
        assert [r.hash for r in found] == [values[n] for n in range(4)]
        assert end.hash == blake3(data).digest()
        assert running.sender.counters()["matched"] == MIB + 9


def test_what_a_partial_lacks_is_made_from_the_basis(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    basis = b"longer in front" + data
    (tmp_path / "file").write_bytes(data)
    value = _core._selftest("chaining-value", data[:MIB], {"piece": 0, "size": len(data)})
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(basis=(b"file",))
        entry = running.find(b"file")
        running.sender.basis_untrusted(buffer(pieces(entry, {0: value}, kind=3)))
        for payload in signature(entry, basis, 4096, 2):
            running.sender.basis_untrusted(buffer(payload))
        running.until_resolved(1)
        found = sorted((r for r in running.records if r.kind == sending.PIECE), key=lambda record: record.piece)
        assert [record.encoding for record in found] == [sending.SAME, sending.DELTA, sending.DELTA]
        assert running.sender.counters()["literal"] < 3 * 4096


def hostile_basis(entry: tuple[int, int]) -> list[bytes]:
    good = signature(entry, bytes(5000), 1024)[0]
    return [
        b"",
        good[:-1],
        good + b"\0",
        *(good[:n] for n in range(0, 36, 7)),
        signature((entry[0], entry[1] + 1), bytes(5000), 1024)[0],
        signature((entry[0] + 1, entry[1]), bytes(5000), 1024)[0],
        signature((2**32 - 1, 2**32 - 1), bytes(5000), 1024)[0],
        signature(entry, bytes(5000), 0x200000)[0],
        good[:8] + b"\3" + good[9:],
        good[:12] + b"\xff" * 8 + good[20:],
        good[:20] + bytes(4) + good[24:],
        good[:24] + b"\1" + good[25:],
        pieces(entry, {1: bytes(32)}),
        pieces(entry, {0: bytes(32)})[:-1],
        pieces(entry, {0: bytes(32)}, kind=4),
        struct.pack("<IIB3xI", *entry, 2, 2**32 - 1),
    ]


def test_a_hostile_basis_ends_the_session(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(6000))
    for number in range(len(hostile_basis((0, 0)))):
        with Sending(tmp_path) as running:
            running.list_all()
            running.want(basis=(b"file",))
            entry = running.find(b"file")
            with pytest.raises(PeerViolation):
                running.sender.basis_untrusted(buffer(hostile_basis(entry)[number]))
            assert (running.sender.failure() or ("",))[0] == "protocol"
            with pytest.raises(EngineClosed):
                running.sender.next_control()


def test_a_basis_comes_once_and_of_one_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(6000))
    for second in (0, 1):
        with Sending(tmp_path) as running:
            running.list_all()
            running.want(basis=(b"file",))
            entry = running.find(b"file")
            parts = signature(entry, os.urandom(6000), 1024, 2)
            running.sender.basis_untrusted(buffer(parts[0]))
            with pytest.raises(PeerViolation):
                running.sender.basis_untrusted(buffer([pieces(entry, {}), parts[0]][second]))


def test_a_hostile_want_ends_the_session(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("file")
    with Sending(tmp_path) as running:
        running.list_all()
        indexes = {path: running.find(path)[1] for path in (b"", b"file", b"dir", b"link")}
        assert {running.find(path)[0] for path in indexes} == {0}
        count, chunks = len(running.entries(0)), len(running.chunks)
    file = bitmap(count, {indexes[b"file"]})
    none = bytes(len(file))
    hostile = [
        (0, b""),
        (0, file),
        (0, file + none + b"\0"),
        (0, none + file),
        (0, bytes([1 << count]) + none),
        (0, b"\xff" + none),
        (0, bitmap(count, {indexes[b""]}) + none),
        (0, bitmap(count, {indexes[b"dir"]}) + none),
        (0, bitmap(count, {indexes[b"link"]}) + none),
        (1, file + none),
        (chunks, none + none),
        (2**32 - 1, none + none),
    ]
    for n, payload in hostile:
        with Sending(tmp_path) as running:
            running.list_all()
            with pytest.raises(PeerViolation):
                running.sender.want_untrusted(n, buffer(payload))
            assert (running.sender.failure() or ("",))[0] == "protocol"
    for all_first in (False, True):
        with Sending(tmp_path) as running:
            running.list_all()
            if all_first:
                running.sender.want_all()
            else:
                running.sender.want_untrusted(0, buffer(file + none))
            with pytest.raises(PeerViolation):
                running.sender.want_untrusted(0, buffer(file + none))
