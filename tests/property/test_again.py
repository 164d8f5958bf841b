"""One file of many comes wrong: it alone is asked for once more, and the second time it is a problem."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import blake3
import pytest

from agentd._core import PeerViolation
from tests.helpers import sending
from tests.helpers.joined import sync
from tests.helpers.payloads import DELTA, DIRECTORY, END, PIECE, PIECE_RECORD, PROBLEM, WHOLE, Entry, Group, pack_record
from tests.helpers.receiving import ROOT, Driver, cv, leftovers, receiving, whole
from tests.helpers.sending import MIB, Sending, buffer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANGED, VANISHED = 2, 1
BIG, SMALL = 1, 2
TREE = [Group(b"", [ROOT, Entry(b"big", size=2 * PIECE + 9), Entry(b"small", size=4)])]


def large(content: bytes, wrong: int | None = None) -> list[bytes]:
    """The records of ``big``, of which piece ``wrong`` does not fit its hash."""
    made = []
    for number, at in enumerate(range(0, len(content), PIECE)):
        part = content[at : at + PIECE]
        value = cv(part, number, len(content))
        if number == wrong:
            part = b"?" + part[1:]
        made.append(pack_record(PIECE_RECORD, 0, BIG, part, size=len(content), piece=number, hash_=value))
    return [*made, pack_record(END, 0, BIG, size=len(content), hash_=blake3.blake3(content).digest())]


@contextmanager
def begun(root: Path) -> Iterator[Driver]:
    """A receiver that has other files by these names, and wants both."""
    for name in ("big", "small"):
        (root / name).write_bytes(b"old " + name.encode())
    with receiving(root, delta_min=1 << 40) as driver:
        driver.send_list(TREE).end_list()
        yield driver.run(lambda: 0 in driver.wants)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (3, 0, 2, 1)])
@pytest.mark.parametrize("wrong", [0, 2])
def test_a_large_file_is_asked_for_when_all_of_it_has_come(tmp_path: Path, order: tuple[int, ...], wrong: int) -> None:
    first, second = os.urandom(2 * PIECE + 9), os.urandom(3 * PIECE + 1)
    with begun(tmp_path) as driver:
        records = large(first, wrong)
        for number in order[:-1]:
            driver.data(records[number])
        driver.data(whole(0, SMALL, b"good"))
        driver.run(lambda: driver.engine.counters()["files"] == 1)
        assert driver.again == []
        driver.data(records[order[-1]])
        driver.run(lambda: bool(driver.again))
        assert (driver.again, driver.problems) == ([(0, BIG)], [])
        assert leftovers(tmp_path) == []
        driver.data(*reversed(large(second)))  # by now it is another file
        driver.run()
        assert (driver.done, driver.problems) == (True, [])
    assert (tmp_path / "big").read_bytes() == second
    assert (tmp_path / "small").read_bytes() == b"good"


@pytest.mark.parametrize("what", ["piece", "whole", "end", "changed", "changed before a piece", "changed small"])
def test_the_second_time_it_is_a_problem(tmp_path: Path, what: str) -> None:
    content = os.urandom(2 * PIECE + 9)
    pieces = large(content)[:-1]
    lie = pack_record(END, 0, BIG, size=len(content), hash_=bytes(32))
    wrong, index, code = {
        "piece": (large(content, 1), BIG, "verify"),
        "whole": ([pack_record(WHOLE, 0, SMALL, b"good", size=4, hash_=bytes(32))], SMALL, "verify"),
        "end": ([*pieces, lie], BIG, "verify"),
        "changed": ([pieces[0], pack_record(PROBLEM, 0, BIG, code=CHANGED, piece=1)], BIG, "changed"),
        "changed before a piece": ([pack_record(PROBLEM, 0, BIG, code=CHANGED)], BIG, "changed"),
        "changed small": ([pack_record(PROBLEM, 0, SMALL, code=CHANGED)], SMALL, "changed"),
    }[what]
    other = whole(0, SMALL, b"good") if index == BIG else b"".join(large(content))
    with begun(tmp_path) as driver:
        driver.data(*wrong).run(lambda: bool(driver.again))
        driver.data(*wrong, other).run()
        assert driver.done
        assert driver.again == [(0, index)]
        name = (b"", b"big", b"small")[index]
        assert driver.problems == [(name, code, 0)]
        assert driver.engine.counters()["files"] == 1
    assert (tmp_path / os.fsdecode(name)).read_bytes() == b"old " + name
    assert leftovers(tmp_path) == []


def test_a_new_directory_waits_for_what_is_asked_for_again(tmp_path: Path) -> None:
    names = [b"a", b"b", b"c", b"d", b"e"]
    tree = [Group(b"", [ROOT, Entry(b"new", DIRECTORY)]), Group(b"new", [Entry(name, size=1) for name in names])]
    with receiving(tmp_path / "dst") as driver:
        driver.send_list(tree).end_list()
        driver.data(*(whole(0, 2 + i, name) for i, name in enumerate(names[1:], 1)))
        driver.data(pack_record(WHOLE, 0, 2, b"a", size=1, hash_=bytes(32)))
        driver.run(lambda: bool(driver.again))
        assert driver.again == [(0, 2)]
        driver.data(whole(0, 2, b"a")).run()
        assert (driver.done, driver.problems, driver.engine.counters()["files"]) == (True, [], 5)
    assert {path.name.encode(): path.read_bytes() for path in (tmp_path / "dst" / "new").iterdir()} == {
        name: name for name in names
    }


def test_what_is_gone_is_not_asked_for(tmp_path: Path) -> None:
    with begun(tmp_path) as driver:
        driver.data(large(os.urandom(2 * PIECE + 9), 0)[0])  # wrong, but then the sender says more
        driver.data(pack_record(PROBLEM, 0, BIG, code=VANISHED, errno=2, piece=1), whole(0, SMALL, b"good"))
        driver.run()
        assert (driver.again, driver.problems) == ([], [(b"big", "vanished", 2)])


def test_a_basis_that_shrank_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(300_000))
    with receiving(tmp_path, delta_min=1) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"f", size=8)])]).end_list()
        driver.run(lambda: bool(driver.bases))
        os.truncate(tmp_path / "f", 1)
        driver.data(pack_record(WHOLE, 0, 1, struct.pack("<BIQ", 1, 8, 100_000), size=8, encoding=DELTA))
        driver.run(lambda: bool(driver.again))
        driver.data(whole(0, 1, b"new file"))
        driver.run()
        assert (driver.done, driver.problems) == (True, [])
    assert (tmp_path / "f").read_bytes() == b"new file"


def again(*entries: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<II", *entry) for entry in entries)


@pytest.mark.parametrize("size", [5, 2 * MIB + 5])
def test_a_sender_reads_afresh_what_is_asked_for_again(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(os.urandom(size))
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(b"f")
        running.until_resolved(1)
        running.records.clear()
        content = os.urandom(size + 3)
        (tmp_path / "f").write_bytes(content)
        entry = running.find(b"f")
        running.sender.again_untrusted(buffer(again(entry)))
        running.until_resolved(1)
        *_, last = running.records
        assert (last.chunk, last.entry) == entry
        assert (last.size, last.hash) == (len(content), blake3.blake3(content).digest())
        assert all(record.encoding == sending.RAW for record in running.records)
        running.sender.ack_untrusted(sending.ack(forget=(0,)))


def test_a_chunk_is_not_forgotten_while_something_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(3 * MIB))
    with Sending(tmp_path, data_window=3 * MIB + 300) as running:  # three pieces and END, and no more
        running.list_all()
        running.want(b"f")
        running.until_resolved(1)
        (tmp_path / "f").write_bytes(bytes(40 * MIB))  # more than a sender reads ahead
        running.sender.again_untrusted(buffer(again(running.find(b"f"))))
        with pytest.raises(PeerViolation, match="something is to come"):
            running.sender.ack_untrusted(sending.ack(forget=(0,)))


@pytest.mark.parametrize(
    ("payload", "how"),
    [
        (b"1234567", "cut short"),
        (again((1, 0)), "nothing is wanted"),
        (again((0, 0)), "regular file"),
        (again((0, 99)), "regular file"),
        (again((0, 1), (0, 1)), "sent again"),
    ],
)
def test_a_receiver_that_asks_for_nonsense(tmp_path: Path, payload: bytes, how: str) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(b"f")
        running.until_resolved(1)
        with pytest.raises(PeerViolation, match=how):
            running.sender.again_untrusted(buffer(payload))


@pytest.mark.parametrize("into", ["missing", "older"])
def test_a_file_that_is_rewritten_while_it_is_sent_arrives_as_it_became(tmp_path: Path, into: str) -> None:
    source, destination = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    (source / "f").write_bytes(os.urandom(40 * MIB))
    (source / "other").write_bytes(b"other")
    if into == "older":
        destination.mkdir()
        (destination / "f").write_bytes(os.urandom(5 * MIB) + (source / "f").read_bytes())
    became = os.urandom(35 * MIB + 7)

    def rewrite(number: int) -> None:
        if number == 0:
            (source / "f").write_bytes(became)

    said = sync(str(source), str(destination), passing=rewrite)
    assert (said.failure, said.problems) == (None, [])
    assert (destination / "f").read_bytes() == became
    assert (destination / "other").read_bytes() == b"other"
    assert leftovers(destination) == []


def test_the_names_of_a_file_that_is_rewritten_wait_for_it(tmp_path: Path) -> None:
    source, destination = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    (source / "a").write_bytes(os.urandom(40 * MIB))
    for name in ("b", "c"):
        (source / name).hardlink_to(source / "a")
    became = os.urandom(30 * MIB)

    def rewrite(number: int) -> None:
        if number == 0:
            (source / "b").write_bytes(became)

    said = sync(str(source), str(destination), passing=rewrite, hard_links=True)
    assert (said.failure, said.problems) == (None, [])
    assert (destination / "c").read_bytes() == became
    assert len({(destination / name).stat().st_ino for name in "abc"}) == 1


def test_a_file_that_never_rests_is_a_problem_and_the_only_one(tmp_path: Path) -> None:
    source, destination = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    (source / "f").write_bytes(bytes(range(256)) * (160 * 1024))
    (source / "other").write_bytes(b"other")
    ticks = iter(range(1, 1 << 30))

    def touch(_number: int) -> None:
        os.utime(source / "f", ns=(0, next(ticks)))

    said = sync(str(source), str(destination), passing=touch)
    assert said.failure is None
    assert said.problems == [(b"f", "changed", 0)]
    assert os.listdir(destination) == ["other"]
