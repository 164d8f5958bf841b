"""A new directory of small files: built under a hidden name, there with all its files at once, and never in the way."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

import blake3

from agentd import _core
from tests.helpers.payloads import DIRECTORY, END, PIECE, PIECE_RECORD, PROBLEM, Entry, Group, pack_record
from tests.helpers.receiving import ROOT, TAG, Driver, cv, leftovers, receiving, whole

if TYPE_CHECKING:
    from pathlib import Path

FILES = 6
VANISHED = 1


def listing(*directories: bytes) -> list[Group]:
    """Directories of files; file ``i`` of directory ``d`` is entry 1 + len(directories) + FILES * d + i."""
    top = Group(b"", [ROOT, *(Entry(name, DIRECTORY, 0o750, mtime_ns=5) for name in directories)])
    return [top, *(Group(name, [Entry(b"f%d" % i, size=1) for i in range(FILES)]) for name in directories)]


def send(driver: Driver, *indexes: int) -> None:
    driver.data(*(whole(0, i, b"x", mode=0o604, mtime_ns=i) for i in indexes))


def has_taken(driver: Driver, literal: int) -> bool:
    return driver.engine.counters()["literal"] == literal


def test_it_appears_with_all_its_files(tmp_path: Path) -> None:
    with receiving(tmp_path, data_window=64) as driver:
        driver.send_list(listing(b"d"))
        send(driver, *range(3, 2 + FILES))
        driver.run(lambda: driver.engine.counters()["literal"] == FILES - 1)
        assert [name for name in os.listdir(tmp_path) if not name.endswith(".new~")] == []
        assert driver.engine.counters()["files"] == 0, "nothing is acknowledged that has no name"
        send(driver, 2)
        driver.end_list()
        driver.run()
        assert driver.done
        assert not driver.problems
        assert driver.engine.counters()["files"] == driver.engine.counters()["created"] == FILES
    assert sorted(os.listdir(tmp_path / "d")) == [f"f{i}" for i in range(FILES)]
    for i in range(FILES):
        status = (tmp_path / "d" / f"f{i}").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o604, 2 + i)
    assert (stat.S_IMODE((tmp_path / "d").stat().st_mode), (tmp_path / "d").stat().st_mtime_ns) == (0o750, 5)
    assert not leftovers(tmp_path)


def test_what_came_before_the_end_of_a_session_stays(tmp_path: Path) -> None:
    with receiving(tmp_path) as driver:
        driver.send_list(listing(b"d", b"e"))
        send(driver, 3, 4)
        driver.run(lambda: driver.engine.counters()["literal"] == 2)
    assert sorted(os.listdir(tmp_path)) == ["d"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()} == {"f0": b"x", "f1": b"x"}


def test_a_name_that_was_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with receiving(tmp_path) as driver:
        driver.send_list(listing(b"d"))
        send(driver, *range(3, 2 + FILES))
        driver.run(lambda: driver.engine.counters()["literal"] == FILES - 1)
        (tmp_path / "d").mkdir(mode=0o711)
        (tmp_path / "d" / "mine").write_bytes(b"kept")
        send(driver, 2)
        driver.end_list()
        driver.run()
        assert driver.done
        assert [(path, code) for path, code, _ in driver.problems] == [(b"d", "changed-here")]
        assert driver.engine.counters()["files"] == 0
    assert os.listdir(tmp_path / "d") == ["mine"]
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o711
    assert not leftovers(tmp_path)


def test_it_is_there_when_none_of_its_files_is(tmp_path: Path) -> None:
    with receiving(tmp_path) as driver:
        driver.send_list(listing(b"d"))
        driver.data(*(pack_record(PROBLEM, 0, i, code=VANISHED) for i in range(2, 2 + FILES)))
        driver.end_list()
        driver.run()
        assert driver.done
        assert len(driver.problems) == FILES
    assert os.listdir(tmp_path) == ["d"]
    assert (tmp_path / "d").stat().st_mtime_ns == 5


def test_a_file_in_it_may_have_grown_into_pieces(tmp_path: Path) -> None:
    content = os.urandom(PIECE + 5)
    size = len(content)
    pieces = [content[:PIECE], content[PIECE:]]
    with receiving(tmp_path) as driver:
        driver.send_list(listing(b"d"))
        send(driver, *range(3, 2 + FILES))
        for n, data in enumerate(pieces):
            driver.data(pack_record(PIECE_RECORD, 0, 2, data, size=size, hash_=cv(data, n, size), piece=n))
        driver.data(pack_record(END, 0, 2, size=size, hash_=blake3.blake3(content).digest(), mtime_ns=3))
        driver.end_list()
        driver.run()
        assert driver.done
        assert not driver.problems
    assert (tmp_path / "d" / "f0").read_bytes() == content
    assert not leftovers(tmp_path)


def test_many_are_filled_at_once_with_few_handles(tmp_path: Path) -> None:
    names = [b"d%03d" % n for n in range(200)]
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    with receiving(tmp_path) as driver:
        driver.send_list(listing(*names))
        for i in range(FILES):
            send(driver, *(1 + len(names) + FILES * d + i for d in range(len(names))))
            driver.run(partial(has_taken, driver, len(names) * (i + 1)))
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
        driver.end_list()
        driver.run()
        assert driver.done
        assert not driver.problems
    assert most < len(names)
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == FILES * len(names)
    assert not leftovers(tmp_path)


def test_what_a_killed_agent_left_goes(tmp_path: Path) -> None:
    for parent in (tmp_path, tmp_path / "sub"):
        (parent / f".d.{TAG}00000000.new~").mkdir(parents=True)
        (parent / f".d.{TAG}00000000.new~" / "f0").write_bytes(b"half")
        (parent / ".d.ffffffff00000000.new~").mkdir()
    assert _core.sweep(os.fsencode(tmp_path / "sub"), TAG, 1) == 1
    with receiving(tmp_path, delete=True) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"sub", DIRECTORY)]), Group(b"sub", [])])
        driver.end_list()
        driver.run()
        assert driver.done
    assert leftovers(tmp_path) == [".d.ffffffff00000000.new~"] * 2, "another agent's are not ours"
