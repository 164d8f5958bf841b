"""What a sender remembers of what it sent: the next change needs no signature, a wrong memory a second transfer."""

from __future__ import annotations

import os
import random
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from agentd._core import PeerViolation, Tree
from tests.helpers import sending
from tests.helpers.agents import eventually
from tests.helpers.joined import Outcome, sync
from tests.helpers.payloads import DIRECTORY, Entry, Group, pack_list
from tests.helpers.receiving import ROOT, receiving
from tests.helpers.sending import MIB, Sending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REMEMBERED, LINKS = 16, 8
BARE = 12
"""Bytes of a BASIS that is its kind alone."""


class Pair:
    """A source and a destination, synced again and again by agents that remember."""

    def __init__(self, base: Path, tree: Tree) -> None:
        self.source, self.destination = base / "source", base / "destination"
        self.tree = tree
        self.clock = 10**18

    @property
    def remembered(self) -> int:
        """Bytes of signatures."""
        return self.tree.counters()["remembered"]

    def write(self, content: bytes | bytearray, name: str = "file") -> None:
        (self.source / name).write_bytes(content)
        self.tick(self.source / name)

    def tick(self, path: Path) -> None:
        """No two versions have one time, however coarse the file system's clock is."""
        self.clock += 10**9
        os.utime(path, ns=(self.clock, self.clock))

    def sync(self, **options: Any) -> Outcome:
        outcome = sync(str(self.source), str(self.destination), tree=self.tree, **options)
        assert outcome.failure is None
        assert outcome.problems == []
        for path in self.source.iterdir():
            assert (self.destination / path.name).read_bytes() == path.read_bytes()
        return outcome


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Nothing is there yet."""
    (tmp_path / "source").mkdir()
    with knowing(tmp_path / "source") as tree:
        yield Pair(tmp_path, tree)


@contextmanager
def knowing(root: Path) -> Iterator[Tree]:
    """The tree of a root."""
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    tree = Tree(os.fsencode(root), filters=[], index=None, threads=1, watches_max=100, wake_fd=wake)
    try:
        yield tree
    finally:
        tree.close()
        os.close(wake)


def noise(size: int, seed: float = 0) -> bytearray:
    return bytearray(random.Random(seed).randbytes(size))


def edit(content: bytearray, number: int) -> None:
    at = len(content) * (number % 7 + 1) // 9
    content[at : at + 3] = b"edit %d" % number


@pytest.mark.parametrize("size", [100_000, MIB, MIB + 1, 5 * MIB + 12_345])
def test_a_file_that_changed_before_is_not_signed_again(pair: Pair, size: int) -> None:
    content = noise(size)
    pair.write(content)
    assert pair.sync().bases == []
    assert pair.remembered == 0
    for number in range(5):
        edit(content, number)
        pair.write(content)
        outcome = pair.sync()
        assert outcome.bases == [BARE] if number else outcome.bases != [BARE]
        assert outcome.counters["literal"] <= 3 * 4096 * (2 if number % 7 == 0 else 1)
        assert outcome.counters["files"] == 1
        assert 0 < pair.remembered < size // 100 + 1000


def insert(content: bytearray) -> None:
    content[:0] = b"fifteen bytes.."


def shrink(content: bytearray) -> None:
    del content[MIB : 2 * MIB + 77]


def grow(content: bytearray) -> None:
    content += noise(30 * MIB, 7)


def cut(content: bytearray) -> None:
    del content[300_000:]


@pytest.mark.parametrize(
    "changes", [[insert, insert], [shrink, insert], [grow, insert, shrink], [cut, insert], [grow, cut]]
)
def test_what_is_remembered_is_what_was_made(pair: Pair, changes: list[Callable[[bytearray], None]]) -> None:
    content = noise(4 * MIB)
    pair.write(content)
    pair.sync()
    edit(content, 1)
    pair.write(content)
    pair.sync()
    for change in changes:
        before = len(content)
        change(content)
        pair.write(content)
        outcome = pair.sync()
        assert outcome.bases == [BARE]
        assert outcome.counters["literal"] < max(len(content) - before, 0) + 3 * 16_384


def remembering(pair: Pair, size: int = 3 * MIB + 5) -> bytearray:
    """Its file is remembered, and the receiver holds it so."""
    content = noise(size)
    pair.write(content)
    pair.sync()
    edit(content, 1)
    pair.write(content)
    pair.sync()
    return content


@pytest.mark.parametrize("size", [200_000, 3 * MIB + 5])
@pytest.mark.parametrize("part", ["all", "a byte", "none of its blocks in place"])
def test_a_wrong_memory_is_noticed_and_the_file_comes_right(pair: Pair, part: str, size: int) -> None:
    content = remembering(pair, size)
    there = pair.destination / "file"
    before = there.stat()
    other = {
        "all": bytes(len(content)),
        "a byte": bytes([content[0] ^ 1]) + bytes(content[1:]),
        "none of its blocks in place": bytes(content[5:] + content[:5]),
    }[part]
    there.write_bytes(other)
    os.utime(there, ns=(before.st_mtime_ns, before.st_mtime_ns))
    edit(content, 5)
    pair.write(content)
    outcome = pair.sync()
    assert outcome.bases == [BARE]
    assert outcome.counters["literal"] >= size
    edit(content, 6)
    pair.write(content)
    assert pair.sync().bases == [BARE]


@pytest.mark.parametrize("there", ["another size", "another time", "nothing", "a directory"])
def test_a_receiver_that_holds_something_else_says_so(pair: Pair, there: str) -> None:
    content = remembering(pair)
    path = pair.destination / "file"
    match there:
        case "another size":
            before = path.stat()
            with path.open("ab") as file:
                file.write(b"x")
            os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
        case "another time":
            os.utime(path, ns=(1, 1))
        case "nothing":
            path.unlink()
        case _:
            path.unlink()
            path.mkdir()
    edit(content, 5)
    pair.write(content)
    outcome = pair.sync()
    assert BARE not in outcome.bases
    assert bool(outcome.bases) == (there in ("another size", "another time"))


def test_a_second_receiver_that_holds_the_same_profits_too(pair: Pair, tmp_path: Path) -> None:
    content = remembering(pair)
    sync(str(pair.source), str(tmp_path / "second"))
    edit(content, 2)
    pair.write(content)
    pair.sync()
    # It holds what the memory is no longer about.
    assert sync(str(pair.source), str(tmp_path / "second"), tree=pair.tree).bases[0] > BARE
    edit(content, 3)
    pair.write(content)
    assert sync(str(pair.source), str(tmp_path / "second"), tree=pair.tree).bases == [BARE]
    assert (tmp_path / "second/file").read_bytes() == content


def test_only_the_blocks_of_data_are_remembered_of_a_sparse_file(pair: Pair) -> None:
    path = pair.source / "file"
    content = bytearray(6 * MIB + 3)
    content[:70_000], content[4 * MIB : 5 * MIB] = noise(70_000), noise(MIB, 3)
    for number in range(4):
        content[number] ^= 1
        with path.open("wb") as file:
            file.truncate(len(content))
            for at in (0, 4 * MIB):
                file.seek(at)
                file.write(content[at : at + (70_000 if at == 0 else MIB)])
        pair.tick(path)
        outcome = pair.sync()
        if number > 1:
            assert outcome.bases == [BARE]
            assert outcome.counters["literal"] <= 16_384
        assert (pair.destination / "file").stat().st_blocks <= path.stat().st_blocks + 64


def test_names_of_one_file_and_packed_lists_carry_memories_too(pair: Pair) -> None:
    content = remembering(pair)
    os.link(pair.source / "file", pair.source / "name")
    for number in range(40):
        pair.write(b"x", f"another-file-whose-name-packs-well-{number}")
    edit(content, 2)
    (pair.source / "file").write_bytes(content)
    pair.tick(pair.source / "file")
    outcome = pair.sync(compress="always")
    assert outcome.bases == [BARE]
    assert (pair.destination / "file").samefile(pair.destination / "name")


class TornError(Exception):
    """The link is lost."""


def test_a_partial_is_continued_with_the_rest_of_what_is_remembered(pair: Pair) -> None:
    content = remembering(pair, 12 * MIB + 5)
    content[MIB : 6 * MIB] = noise(5 * MIB, 9)
    pair.write(content)

    def arrived() -> bool:
        return any(path.stat().st_blocks * 512 >= 2 * MIB for path in pair.destination.glob(".*~"))

    def tear(number: int) -> None:
        if number == 4:
            eventually("two pieces are there", arrived)
            raise TornError

    with pytest.raises(TornError):
        pair.sync(passing=tear)
    outcome = pair.sync()
    assert len(outcome.bases) == 2
    assert outcome.bases[-1] == BARE
    assert outcome.counters["literal"] < 5 * MIB


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_at_either_end_the_files_are_the_same(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    content = noise(rng.choice([60_000, 400_000, MIB, 3 * MIB + 1, 6 * MIB]), seed)
    for _ in range(12):
        match rng.randrange(8):
            case 0:
                insert(content)
            case 1:
                at = rng.randrange(len(content) + 1)
                del content[at : at + rng.randrange(300_000)]
            case 2:
                at = rng.randrange(len(content) + 1)
                content[at:at] = bytes(rng.randrange(3 * MIB))
            case 3:
                at = rng.randrange(len(content) + 1)
                content[at : at + 70_000] = noise(70_000, rng.random())
            case 4:
                half = len(content) // 2
                content[:] = content[half:] + content[:half]
            case 5 if pair.destination.exists():
                there = pair.destination / "file"
                stamp = there.stat().st_mtime_ns
                with there.open("r+b") as file:
                    file.seek(rng.randrange(len(content) or 1))
                    file.write(b"somebody else's")
                os.utime(there, ns=(stamp, stamp))
            case _:
                edit(content, rng.randrange(7))
        content[:16] = rng.randbytes(16)
        pair.write(content)
        pair.sync()


@pytest.mark.parametrize("size", [10_000, 100_000, 2 * MIB + 5])
def test_a_file_that_is_listed_by_itself_is_remembered_and_new_directories_are_not(pair: Pair, size: int) -> None:
    (pair.source / "new").mkdir()
    for name in ("new/file", "file"):
        pair.write(noise(size), name)
    with Sending(pair.source, tree=pair.tree, looks=sending.looks(deep=(b"new",))) as sender:
        sender.list_all()
        sender.want(b"new/file")
        sender.until_resolved(1)
        assert pair.remembered == 0
    with Sending(pair.source, tree=pair.tree, looks=sending.looks(b"file")) as sender:
        sender.list_all()
        sender.want(b"file")
        sender.until_resolved(1)
        assert (pair.remembered > 0) == (size > 16_384)


def row(index: int, size: int = 5, mtime_s: int = 1, mtime_ns: int = 0) -> bytes:
    return struct.pack("<IIQq", index, mtime_ns, size, mtime_s)


def tail(*rows: bytes, count: int | None = None) -> bytes:
    return struct.pack("<I", len(rows) if count is None else count) + b"".join(rows)


TREE = [Group(b"", [ROOT, Entry(b"d", DIRECTORY, 0o755), Entry(b"f", size=4), Entry(b"g", size=4)])]


@pytest.mark.parametrize(
    ("flags", "behind"),
    [
        (REMEMBERED, b""),
        (REMEMBERED, tail()),
        (REMEMBERED, tail(count=1)),
        (REMEMBERED, tail(row(2), count=2)),
        (REMEMBERED, tail(row(2), count=0xFFFFFFFF)),
        (REMEMBERED, tail(row(2)) + b"x"),
        (REMEMBERED, tail(row(2))[:-1]),
        (REMEMBERED, tail(row(0))),
        (REMEMBERED, tail(row(1))),
        (REMEMBERED, tail(row(4))),
        (REMEMBERED, tail(row(0xFFFFFFFF))),
        (REMEMBERED, tail(row(3), row(2))),
        (REMEMBERED, tail(row(2), row(2))),
        (REMEMBERED, tail(row(2, size=1 << 63))),
        (REMEMBERED, tail(row(2, mtime_ns=10**9))),
        (REMEMBERED | LINKS, tail(row(2))),
        (REMEMBERED | LINKS, struct.pack("<II", 2, 0)),
        (0, tail(row(2))),
    ],
)
def test_tails_that_cannot_be_are_violations(tmp_path: Path, flags: int, behind: bytes) -> None:
    with receiving(tmp_path) as driver:
        (tmp_path / "f").write_bytes(b"old")
        payload = bytearray(pack_list(TREE))
        struct.pack_into("<H", payload, 2, flags)
        driver.engine.list_untrusted(0, sending.buffer(bytes(payload) + behind))
        assert driver.failed == "protocol"


def test_a_basis_that_is_not_remembered_is_a_violation(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(noise(2 * MIB)))
    with Sending(tmp_path) as sender:
        sender.list_all()
        sender.want(basis=(b"file",))
        _, index = sender.find(b"file")
        with pytest.raises(PeerViolation, match="not remembered"):
            sender.sender.basis_untrusted(sending.buffer(struct.pack("<IIB3x", 0, index, 5)))
