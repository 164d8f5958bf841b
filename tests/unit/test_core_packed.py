"""Packed payloads at both engines: what comes out is what went in, and no lie about it takes memory."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd._core import PeerViolation, _selftest
from proto import limits
from tests.helpers.payloads import DIRECTORY, HASHES, Entry, Group, pack_list, packed, zstd_bomb, zstd_frame
from tests.helpers.receiving import Driver, buffer, receiving, whole
from tests.helpers.sending import END, PIECE, Sending, unpacked

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b"".join(b"line %d of some text\n" % n for n in range(40_000))
CHUNK = [Group(b"", [Entry(b"", DIRECTORY, 0o755), Entry(b"file", size=len(TEXT))])]
LIST = pack_list(CHUNK)
DATA = whole(0, 1, TEXT)


def listed(driver: Driver) -> Driver:
    driver.engine.list_untrusted(0, buffer(packed(LIST)))
    return driver


def test_a_packed_list_and_packed_data_are_applied(tmp_path: Path) -> None:
    with receiving(tmp_path / "dst") as driver:
        listed(driver).data(packed(DATA))
        driver.engine.list_end_untrusted(1, 2, blake3.blake3(LIST).digest())
        driver.run()
        assert driver.done
    assert (tmp_path / "dst/file").read_bytes() == TEXT


def test_packed_data_waits_for_its_chunk(tmp_path: Path) -> None:
    with receiving(tmp_path / "dst") as driver:
        driver.data(packed(DATA))
        listed(driver)
        driver.engine.list_end_untrusted(1, 2, blake3.blake3(LIST).digest())
        assert driver.run().done
    assert (tmp_path / "dst/file").read_bytes() == TEXT


REFUSED_AT_ONCE: dict[str, bytes] = {
    "nothing behind the header": packed(DATA)[:12],
    "a header that is cut": packed(DATA)[:11],
    "nothing": packed(DATA, raw_len=0),
    "more than a payload": packed(b"", raw_len=limits.PAYLOAD_MAX + 1, frame=zstd_bomb(limits.PAYLOAD_MAX + 1)),
    "all that can be said": packed(b"", raw_len=2**32 - 1, frame=zstd_bomb(1 << 30)),
}

REFUSED: dict[str, bytes] = {
    "flags": packed(DATA, flags=1),
    "no frame": packed(DATA, frame=DATA),
    "a frame that is cut": packed(DATA)[:-1],
    "two frames": packed(DATA, raw_len=2 * len(DATA), frame=zstd_frame(DATA) * 2),
    "something behind the frame": packed(DATA) + b"x",
    "a byte less than it says": packed(DATA, raw_len=len(DATA) + 1),
    "a byte more than it says": packed(DATA, raw_len=len(DATA) - 1),
    "a bomb": packed(b"", raw_len=4096, frame=zstd_bomb(1 << 30)),
    "a bomb that says 4 KiB": packed(b"", raw_len=4096, frame=zstd_frame(bytes(4096))[:9] + zstd_bomb(1 << 30)[9:]),
    "no records": packed(bytes(4096)),
    "a record that is cut": packed(DATA[:-1]),
    "packed twice": packed(packed(DATA)),
    "another chunk's records": packed(whole(1, 1, TEXT)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_AT_ONCE)
def test_what_names_too_much_is_refused_at_once(tmp_path: Path, case: str) -> None:
    with receiving(tmp_path / "dst") as driver:
        with pytest.raises(PeerViolation):
            listed(driver).data(REFUSED_AT_ONCE[case])
        assert driver.failed == "protocol"


@pytest.mark.parametrize("case", REFUSED)
def test_data_that_are_not_what_their_packing_says(tmp_path: Path, case: str) -> None:
    with receiving(tmp_path / "dst") as driver:
        listed(driver).data(REFUSED[case])
        assert driver.failed == "protocol"
    assert not (tmp_path / "dst/file").exists()


@pytest.mark.parametrize(
    "lie",
    [packed(LIST, flags=HASHES), packed(LIST, 1), packed(LIST)[:-1], packed(LIST, raw_len=0), packed(packed(LIST)),
     packed(LIST, raw_len=4096, frame=zstd_bomb(1 << 30)), packed(LIST)[:9]],
)  # fmt: skip
def test_a_list_that_is_not_what_its_packing_says(tmp_path: Path, lie: bytes) -> None:
    with receiving(tmp_path / "dst") as driver:
        driver.engine.list_untrusted(0, buffer(lie))
        assert driver.failed == "protocol"


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=600), st.integers(1, 2000), st.integers(1, 6))
def test_whatever_is_packed_comes_back(word: bytes, times: int, level: int) -> None:
    raw = (word * times)[: limits.PAYLOAD_MAX]
    packed_raw = _selftest("pack", raw, {"level": level})
    assert packed_raw is None or (len(packed_raw) < len(raw) and unpacked(packed_raw) == raw)


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_whatever_comes_is_unpacked_or_refused(frame: bytes, raw_len: int) -> None:
    payload = packed(b"", raw_len=raw_len, frame=zstd_frame(b"x")[:9] + frame)
    try:
        raw = unpacked(payload)
    except ValueError:
        return
    assert len(raw) == raw_len


def sent(root: Path, compress: str) -> tuple[int, int, dict[bytes, bytes]]:
    """(bytes of LIST and DATA as sent, of these unpacked, content by path) of everything below ``root``."""
    count = sum(len(files) for _, _, files in os.walk(root))
    with Sending(root, compress=compress) as running:
        running.sender.want_all()
        running.sender.start()
        running.until(lambda: running.ended and sum(record.kind != PIECE for record in running.records) == count)
        contents: dict[bytes, list[tuple[int, bytes]]] = {}
        for record in running.records:
            if record.kind != END:
                path = running.entries(record.chunk)[record.entry].path
                contents.setdefault(path, []).append((record.piece, record.data))
        raw = sum(len(unpacked(batch)) for batch in running.batches)
        joined = {path: b"".join(data for _, data in sorted(parts)) for path, parts in contents.items()}
        return sum(map(len, running.batches)), raw, joined


def test_what_shrinks_is_packed_and_what_does_not_is_left(tmp_path: Path) -> None:
    files = {
        b"text": TEXT, b"large text": TEXT * 3, b"noise": random.randbytes(len(TEXT)),
        b"large noise": random.randbytes(3 << 20), b"empty": b"",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / os.fsdecode(name)).write_bytes(content)
    noise = len(files[b"noise"]) + len(files[b"large noise"])
    wire, raw, contents = sent(tmp_path, "always")
    assert contents == files
    assert raw > sum(map(len, files.values()))
    assert noise < wire < noise + len(TEXT)
    wire, raw, contents = sent(tmp_path, "never")
    assert (wire, contents) == (raw, files)


def test_on_a_link_of_which_nothing_is_known_nothing_is_packed(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(TEXT)
    wire, raw, _ = sent(tmp_path, "auto")
    assert wire == raw
