"""The crate's receiver, driven by a sender written here: what it applies, what it refuses, what it leaves behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import blake3
import pytest

from agentd import _core
from tests.helpers.payloads import (
    DELTA,
    DIRECTORY,
    END,
    FIRST,
    HOLE,
    INCOMPLETE,
    LAST,
    OTHER,
    PIECE,
    PIECE_RECORD,
    PROBLEM,
    SAME,
    SINGLE,
    SYMLINK,
    WHOLE,
    Entry,
    Group,
    bits,
    pack_list,
    pack_record,
)
from tests.helpers.receiving import ROOT, TAG, Driver, buffer, cv, leftovers, receiving, whole

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_missing_root_gets_everything(tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    listing = [
        Group(b"", [ROOT, Entry(b"d", DIRECTORY, 0o550, mtime_ns=5), Entry(b"f", size=3, mtime_ns=7 * 10**9 + 1),
                    Entry(b"l", SYMLINK, 0o777, target=b"../nowhere", mtime_ns=9 * 10**9)]),
        Group(b"d", [Entry(b"caf\xe9", size=0, mode=0o4755), Entry(b"sub", DIRECTORY, 0o700, mtime_ns=1)]),
        Group(b"d/sub", []),
    ]  # fmt: skip
    with receiving(dst) as driver:
        assert driver.state == "missing"
        driver.send_list(listing)
        driver.data(whole(0, 2, b"abc", mtime_ns=7 * 10**9 + 1, mode=0o640), whole(0, 4, b"", mode=0o4755))
        driver.end_list()
        driver.run()
        assert driver.done
        assert not driver.problems
        assert not driver.wants
        counters = driver.engine.counters()
    assert (dst / "f").read_bytes() == b"abc"
    assert stat.S_IMODE((dst / "f").stat().st_mode) == 0o640
    assert (dst / "f").stat().st_mtime_ns == 7 * 10**9 + 1
    assert os.readlink(dst / "l") == "../nowhere"
    assert (dst / "l").lstat().st_mtime_ns == 9 * 10**9
    assert (dst / "d").stat().st_mtime_ns == 5
    assert stat.S_IMODE((dst / "d").stat().st_mode) == 0o550
    assert stat.S_IMODE(os.stat(os.fsencode(dst) + b"/d/caf\xe9").st_mode) == 0o4755
    assert dst.stat().st_mtime_ns == 10**18
    assert counters["listed_bytes"] == 3
    assert (counters["files"], counters["dirs"], counters["symlinks"], counters["created"]) == (2, 3, 1, 2)
    assert sorted(driver.items) == [
        b">f+++++++++ d/caf\xe9", b">f+++++++++ f", b"cL+++++++++ l -> ../nowhere", b"cd+++++++++ ./",
        b"cd+++++++++ d/", b"cd+++++++++ d/sub/",
    ]  # fmt: skip
    assert not leftovers(dst)


def test_only_what_differs_is_wanted(tmp_path: Path) -> None:
    dst = tmp_path
    for name in ("same", "touched", "longer", "mode"):
        (dst / name).write_bytes(b"12345")
        os.utime(dst / name, ns=(0, 50))
        (dst / name).chmod(0o644)
    rows = [
        Entry(b"same", size=5, mtime_ns=50),
        Entry(b"touched", size=5, mtime_ns=51),
        Entry(b"longer", size=6, mtime_ns=50),
        Entry(b"mode", size=5, mtime_ns=50, mode=0o600),
        Entry(b"new", size=1),
        Entry(b"pipe", OTHER),
    ]
    with receiving(dst) as driver:
        driver.send_list([Group(b"", [ROOT, *rows])])
        driver.run(lambda: 0 in driver.wants)
        assert bits(driver.wants[0], 7) == [2, 3, 5]
        assert bits(driver.wants[0], 7, 1) == []
        driver.end_list()
        driver.data(whole(0, 2, b"54321", mtime_ns=51), whole(0, 3, b"123456", mtime_ns=50), whole(0, 5, b"n"))
        driver.run()
        assert driver.engine.counters()["skipped"] == 1
    assert stat.S_IMODE((dst / "mode").stat().st_mode) == 0o600
    assert (dst / "touched").read_bytes() == b"54321"
    assert (dst / "longer").read_bytes() == b"123456"
    assert sorted(driver.items) == [
        b".d..t...... ./" if stat.S_IMODE(dst.stat().st_mode) == 0o755 and b".d..t...... ./" in driver.items
        else b".d..tp..... ./",
        b".f...p..... mode", b">f+++++++++ new", b">f..t...... touched", b">f.s....... longer",
    ]  # fmt: skip


def test_deletion_needs_proof_and_permission(tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    (dst / "gone/deep").mkdir(parents=True)
    (dst / "gone/deep/x").touch()
    (dst / "kept.o").touch()
    (dst / "half").mkdir()
    (dst / "half/unseen").touch()
    listing = [
        Group(b"", [ROOT, Entry(b"half", DIRECTORY, 0o755)]),
        Group(b"half", [], FIRST | LAST | INCOMPLETE, 13),
    ]
    with receiving(dst, delete=True, filters=[b"*.o"]) as driver:
        driver.send_list(listing)
        driver.end_list()
        driver.run()
        assert driver.problems == [(b"half", "unreadable-directory", 13)]
        assert driver.engine.counters()["deleted"] == 3
    assert sorted(os.listdir(dst)) == ["half", "kept.o"]
    assert os.listdir(dst / "half") == ["unseen"]
    assert b"*deleting   gone/deep/" in driver.items


@pytest.mark.parametrize(("force", "code"), [(False, "source-empty"), (True, "no failure")])
def test_an_empty_source_deletes_only_by_force(tmp_path: Path, force: bool, code: str) -> None:
    (tmp_path / "precious").touch()
    with receiving(tmp_path, delete=True, force=force) as driver:
        driver.send_list([Group(b"", [ROOT])])
        driver.end_list()
        assert driver.failed == code
    assert (tmp_path / "precious").exists() != force


def test_max_delete_counts_before_the_first(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"f{i}").touch()
    with receiving(tmp_path, delete=True, max_delete=4) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"other", DIRECTORY)]), Group(b"other", [])])
        driver.end_list()
        assert driver.failed == "max-delete"
    assert len(list(tmp_path.glob("f*"))) == 5


def test_types_change_both_ways(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"was a file")
    (tmp_path / "tree/inner").mkdir(parents=True)
    (tmp_path / "tree/inner/x").touch()
    (tmp_path / "link").symlink_to("/etc")
    listing = [
        Group(b"", [ROOT, Entry(b"file", DIRECTORY, 0o755), Entry(b"tree", size=2), Entry(b"link", size=1)]),
        Group(b"file", [Entry(b"in", size=1)]),
    ]
    with receiving(tmp_path, delete=True) as driver:
        driver.send_list(listing)
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        driver.data(whole(0, 2, b"t!"), whole(0, 3, b"l"), whole(0, 4, b"i"))
        driver.run()
        assert driver.done
        assert not driver.problems
    assert (tmp_path / "file/in").read_bytes() == b"i"
    assert (tmp_path / "tree").read_bytes() == b"t!"
    assert (tmp_path / "link").read_bytes() == b"l"
    assert not (tmp_path / "link").is_symlink()
    assert not leftovers(tmp_path)


def test_without_delete_a_full_directory_stays_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/x").touch()
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"tree", size=2)])])
        driver.end_list()
        driver.run()
        assert [(p, c) for p, c, _ in driver.problems] == [(b"tree", "in-the-way")]
    assert (tmp_path / "tree/x").exists()


def test_a_failed_session_puts_back_what_stood_aside(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"was a file")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/x").touch()
    listing = [
        Group(b"", [ROOT, Entry(b"file", DIRECTORY), Entry(b"tree", size=2), Entry(b"more", size=9)]),
        Group(b"file", []),
    ]
    with receiving(tmp_path, delete=True) as driver:
        driver.send_list(listing)
        driver.run(lambda: 0 in driver.wants)
        driver.data(whole(0, 2, b"t!"))
        driver.run(lambda: driver.engine.counters()["files"] == 1)
    assert (tmp_path / "file").read_bytes() == b"was a file"
    assert (tmp_path / "tree/x").exists()
    assert not leftovers(tmp_path)


def large(size: int) -> tuple[bytes, list[bytes]]:
    content = os.urandom(size)
    return content, [content[at : at + PIECE] for at in range(0, size, PIECE)]


def test_pieces_come_in_any_order_and_continue_after_a_break(tmp_path: Path) -> None:
    content, pieces = large(3 * PIECE + 17)
    size, digest = len(content), blake3.blake3(content).digest()
    listing = [Group(b"", [ROOT, Entry(b"big", size=size, mtime_ns=3)])]

    def record(i: int, encoding: int = 0) -> bytes:
        data = b"" if encoding else pieces[i]
        hash_ = cv(pieces[i], i, size)
        return pack_record(PIECE_RECORD, 0, 1, data, size=size, hash_=hash_, piece=i, encoding=encoding)

    end = pack_record(END, 0, 1, size=size, hash_=digest, mtime_ns=3)
    dst = tmp_path / "dst"
    with receiving(dst) as driver:
        driver.send_list(listing)
        driver.data(record(2), record(0))
        driver.run(lambda: driver.engine.counters()["literal"] == 2 * PIECE)
    assert len(leftovers(dst)) == 1  # the partial
    with receiving(dst) as driver:
        driver.send_list(listing)
        driver.end_list()
        driver.run(lambda: bool(driver.bases))
        assert bits(driver.wants[0], 2, 1) == [1]
        held = {driver.bases[0][16 + 36 * i + 4 : 16 + 36 * (i + 1)] for i in range(3)}
        assert held >= {cv(pieces[0], 0, size), cv(pieces[2], 2, size)}
        driver.data(record(2, SAME), record(3), end, record(1), record(0, SAME))
        driver.run()
        assert driver.done
        assert not driver.problems
        assert driver.engine.counters()["matched"] == 2 * PIECE
    assert (dst / "big").read_bytes() == content
    assert (dst / "big").stat().st_mtime_ns == 3
    assert not leftovers(dst)


def test_a_partial_and_a_basis_are_both_of_use(tmp_path: Path) -> None:
    content, pieces = large(2 * PIECE)
    (tmp_path / "big").write_bytes(b"x" + content)
    (tmp_path / f".big.{TAG}00000000.sync~").write_bytes(pieces[0])
    size = len(content)
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"big", size=size, mtime_ns=3)])]).end_list()
        driver.run(lambda: len(driver.bases) >= 2 and driver.bases[-1][32] == 1)
        assert [basis[8] for basis in driver.bases] == [3, 1]
        assert driver.bases[0][20:] == cv(pieces[0], 0, size)
        moved = b"\1" + PIECE.to_bytes(4, "little") + (PIECE + 1).to_bytes(8, "little")
        driver.data(
            pack_record(PIECE_RECORD, 0, 1, size=size, hash_=cv(pieces[0], 0, size), encoding=SAME),
            pack_record(PIECE_RECORD, 0, 1, moved, size=size, hash_=cv(pieces[1], 1, size), piece=1, encoding=DELTA),
            pack_record(END, 0, 1, size=size, hash_=blake3.blake3(content).digest(), mtime_ns=3),
        )
        driver.run()
        assert driver.done
        assert not driver.problems
        assert driver.engine.counters()["literal"] == 0
    assert (tmp_path / "big").read_bytes() == content
    assert not leftovers(tmp_path)


def test_a_wrong_hash_never_replaces_anything(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"f", size=9), Entry(b"v", size=1)])])
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        driver.data(pack_record(WHOLE, 0, 1, b"new bytes", size=9, hash_=bytes(32)))
        driver.data(pack_record(PROBLEM, 0, 2, code=1, errno=2))
        driver.run(lambda: bool(driver.again))
        driver.data(pack_record(WHOLE, 0, 1, b"new again", size=9, hash_=bytes(32)))
        driver.run()
        assert driver.again == [(0, 1)]
        assert sorted(c for _, c, _ in driver.problems) == ["vanished", "verify"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_single_file_takes_the_destinations_name(tmp_path: Path) -> None:
    (tmp_path / "neighbour").touch()
    before = tmp_path.stat().st_mtime_ns
    with receiving(tmp_path / "there", delete=True) as driver:
        assert driver.state == "missing"
        driver.send_list([Group(b"", [Entry(b"here", size=2)])], flags=SINGLE)
        driver.end_list()
        driver.data(whole(0, 0, b"ok"))
        driver.run()
        assert driver.done, driver.engine.failure()
    assert sorted(os.listdir(tmp_path)) == ["neighbour", "there"]
    assert (tmp_path / "there").read_bytes() == b"ok"
    assert tmp_path.stat().st_mtime_ns != before
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", [Entry(b"here", size=2)])], flags=SINGLE)
        assert driver.failed == "destination-type"


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x")
    os.utime(tmp_path, ns=(0, 77))
    listing = [Group(b"", [ROOT, Entry(b"d", DIRECTORY), Entry(b"f", size=3)]), Group(b"d", [Entry(b"g", size=1)])]
    with receiving(tmp_path, dry_run=True, delete=True) as driver:
        driver.send_list(listing)
        driver.end_list()
        driver.run()
        assert driver.done
    assert os.listdir(tmp_path) == ["old"]
    assert tmp_path.stat().st_mtime_ns == 77
    assert {b"*deleting   old", b"cd+++++++++ d/", b">f+++++++++ d/g", b">f+++++++++ f"} < set(driver.items)
    with receiving(tmp_path / "absent", dry_run=True) as driver:
        assert driver.state == "directory"
        driver.send_list(listing)
        driver.end_list()
        driver.run()
        assert driver.done
        assert bits(driver.wants[0], 4) == []
    assert os.listdir(tmp_path) == ["old"]


def hole(driver: Driver, first: int, count: int) -> Driver:
    """A hole in a file of three pieces."""
    record = pack_record(PIECE_RECORD, 0, 1, count.to_bytes(4, "little"), size=3 << 20, piece=first, encoding=HOLE)
    return driver.send_list([Group(b"", [ROOT, Entry(b"f", size=3 << 20)])]).data(record)


VIOLATIONS: dict[str, Callable[[Driver], object]] = {
    "gap": lambda d: d.engine.list_untrusted(1, buffer(pack_list([Group(b"", [ROOT])]))),
    "no root": lambda d: d.send_list([Group(b"", [Entry(b"f")])]),
    "dotdot": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"..")])]),
    "absolute": lambda d: d.send_list([Group(b"", [ROOT]), Group(b"/etc", [Entry(b"f")])]),
    "nul": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"a\0b")])]),
    "duplicate": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"a"), Entry(b"a")])]),
    "duplicate over parts": lambda d: d.send_list(
        [Group(b"", [ROOT, Entry(b"a")], FIRST)], [Group(b"", [Entry(b"a")], LAST)]
    ),
    "unlisted directory": lambda d: d.send_list([Group(b"", [ROOT]), Group(b"d", [Entry(b"f")])]),
    "child of a file": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"f")]), Group(b"f", [Entry(b"x")])]),
    "child of a symlink": lambda d: d.send_list(
        [Group(b"", [ROOT, Entry(b"l", SYMLINK, target=b"/etc")]), Group(b"l", [Entry(b"passwd", size=1)])]
    ),
    "directory twice": lambda d: d.send_list(
        [Group(b"", [ROOT, Entry(b"d", DIRECTORY)]), Group(b"d", []), Group(b"d", [])]
    ),
    "index out of range": lambda d: d.send_list([Group(b"", [ROOT])]).data(whole(0, 7, b"x")),
    "not asked for": lambda d: d.send_list([Group(b"", [ROOT])]).data(whole(0, 0, b"x")),
    "sent twice": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"f", size=1), Entry(b"g", size=1)])]).data(
        whole(0, 1, b"x"), whole(0, 1, b"x")
    ),
    "delta without a basis": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"f", size=1)])]).data(
        pack_record(WHOLE, 0, 1, b"\1\1\0\0\0" + bytes(8), size=1, encoding=DELTA)
    ),
    "hole of no pieces": lambda d: hole(d, 0, 0),
    "hole beyond its file": lambda d: hole(d, 1, 3),
    "hole of too many pieces to count": lambda d: hole(d, 2, 0xFFFFFFFF),
    "hole that overlaps another": lambda d: hole(d, 0, 2).data(
        pack_record(PIECE_RECORD, 0, 1, b"\2\0\0\0", size=3 << 20, piece=1, encoding=HOLE)
    ),
    "file of too many pieces": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"f", size=3 << 20)])]).data(
        pack_record(PIECE_RECORD, 0, 1, b"\1\0\0\0", size=1 << 62, encoding=HOLE)
    ),
    "hole shorter than any": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"f", size=8)])]).data(
        pack_record(WHOLE, 0, 1, b"\2\x08\0\0\0", size=8, encoding=DELTA)
    ),
    "piece beyond": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"f", size=3 << 20)])]).data(
        pack_record(PIECE_RECORD, 0, 1, bytes(PIECE), size=3 << 20, piece=9)
    ),
    "same without a partial": lambda d: d.send_list([Group(b"", [ROOT, Entry(b"f", size=3 << 20)])]).data(
        pack_record(PIECE_RECORD, 0, 1, size=3 << 20, encoding=SAME)
    ),
    "lying end": lambda d: d.send_list([Group(b"", [ROOT])]).engine.list_end_untrusted(1, 1, bytes(32)),
    "end before parts": lambda d: d.send_list([Group(b"", [ROOT], FIRST)]).end_list(),
    "data for no chunk": lambda d: d.send_list([Group(b"", [ROOT])]).data(whole(5, 0, b"x")).end_list(),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_hostile_sender_is_refused_and_nothing_escapes(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"alive")
    dst = tmp_path / "dst"
    dst.mkdir()
    with receiving(dst, delete=True) as driver:
        assert driver.state == "empty"
        VIOLATIONS[name](driver)
        assert driver.failed == "protocol", driver.engine.failure()
        with pytest.raises(_core.EngineClosed):
            driver.data(whole(0, 0, b"x"))
    assert canary.read_bytes() == b"alive"
    assert sorted(os.listdir(tmp_path)) == ["canary", "dst"]
    assert not leftovers(dst)


def test_a_record_that_is_no_record_is_refused_at_once(tmp_path: Path) -> None:
    with receiving(tmp_path) as driver:
        with pytest.raises(_core.PeerViolation):
            driver.data(b"\xff" * 200)
        assert driver.failed == "protocol"


def test_a_sweep_leaves_partials_and_others_alone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / f".small.{TAG}00000000.sync~").write_bytes(b"x")
    (tmp_path / "d" / f".big.{TAG}00000001.sync~").write_bytes(bytes(100))
    (tmp_path / f".back.{TAG}00000002.aside~").write_bytes(b"put back")
    (tmp_path / ".small.ffffffff00000000.sync~").write_bytes(b"another agent's")
    assert _core.sweep(os.fsencode(tmp_path), TAG, 50) == 2
    assert sorted(os.listdir(tmp_path)) == [".small.ffffffff00000000.sync~", "back", "d"]
    assert os.listdir(tmp_path / "d") == [f".big.{TAG}00000001.sync~"]


def test_a_file_is_hashed_as_blake3_says() -> None:
    assert _core.hash_file(os.fsencode(__file__)) == blake3.blake3(Path(__file__).read_bytes()).digest()
