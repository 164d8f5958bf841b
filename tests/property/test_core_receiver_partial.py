"""The crate's receiver with lists of single names: what they say, what they leave alone, and how they end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.payloads import (
    DIRECTORY,
    FIRST,
    GONE,
    LAST,
    LINKS,
    PARTIAL,
    PIECE,
    SYMLINK,
    UNREADABLE,
    Entry,
    Group,
    bits,
)
from tests.helpers.receiving import ROOT, TAG, Driver, leftovers, named, receiving, whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERYTHING = b"\x01\0" + bytes(4)


def directory(name: bytes, listing: bool = False) -> Entry:
    return Entry(name, DIRECTORY, 0o750, size=int(listing), mtime_ns=10**18)


def gone(name: bytes) -> Entry:
    return Entry(name, GONE, 0)


@pytest.mark.parametrize("delete", [True, False])
def test_names_are_looked_at_alone(tmp_path: Path, delete: bool) -> None:
    for name in ("same", "other", "old", "extra"):
        (tmp_path / name).write_bytes(b"old")
        os.utime(tmp_path / name, ns=(0, 0))
    (tmp_path / "full" / "inner").mkdir(parents=True)
    with receiving(tmp_path, partial=True, delete=delete) as driver:
        assert driver.state == "directory"
        driver.send_list(
            [
                named(b"", ROOT, Entry(b"same", size=3), Entry(b"other", size=4), gone(b"old")),
                named(b"", Entry(b"new", size=1), gone(b"never"), gone(b"full"), Entry(b"ln", SYMLINK, target=b"x")),
            ]
        )
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        assert bits(driver.wants[0], 8) == [2, 4]
        driver.data(whole(0, 2, b"more"), whole(0, 4, b"1"))
        driver.run()
        assert driver.done
        assert not driver.problems
        assert driver.engine.counters()["deleted"] == (3 if delete else 0)
    left = ["extra", "ln", "new", "other", "same"] if delete else sorted(
        ["extra", "full", "ln", "new", "old", "other", "same"]
    )  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == left
    assert (tmp_path / "other").read_bytes() == b"more"
    assert tmp_path.stat().st_mtime_ns == 10**18


def test_directories_are_made_with_or_without_a_listing(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f").write_bytes(b"f")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "extra").write_bytes(b"f")
    files = [Entry(b"%d" % i, size=1) for i in range(5)]
    with receiving(tmp_path, partial=True, delete=True) as driver:
        driver.send_list(
            [
                named(b"", ROOT, directory(b"empty"), directory(b"kept"), directory(b"new", True)),
                named(b"", directory(b"path"), directory(b"whole", True)),
                named(b"path", directory(b"deep")),
                Group(b"new", files),
                Group(b"whole", []),
                named(b"path/deep", Entry(b"f", size=1)),
            ]
        )
        driver.end_list()
        driver.data(*(whole(0, i, b"x") for i in range(7, 12)), whole(0, 12, b"y"))
        driver.run()
        assert (driver.done, driver.problems) == (True, [])
        assert driver.engine.counters()["dirs"] == 4
    assert sorted(os.listdir(tmp_path)) == ["empty", "kept", "new", "path", "whole"]
    assert os.listdir(tmp_path / "kept") == ["f"]
    assert os.listdir(tmp_path / "whole") == []
    assert sorted(os.listdir(tmp_path / "new")) == ["0", "1", "2", "3", "4"]
    assert (tmp_path / "path" / "deep" / "f").read_bytes() == b"y"
    for name in ("empty", "kept", "new", "path", "path/deep", "whole"):
        st = (tmp_path / name).stat()
        assert (st.st_mode & 0o7777, st.st_mtime_ns) == (0o750, 10**18), name


def test_nothing_to_say_takes_one_list_end(tmp_path: Path) -> None:
    with receiving(tmp_path / "missing", partial=True) as driver:
        assert driver.state == "directory"
        driver.end_list().run()
        assert driver.done
        assert driver.engine.counters()["listed"] == 0
    assert not (tmp_path / "missing").exists()


def test_a_missing_root_is_made(tmp_path: Path) -> None:
    with receiving(tmp_path / "root", partial=True) as driver:
        assert driver.state == "directory"
        driver.send_list([named(b"", ROOT, Entry(b"f", size=1))]).end_list()
        driver.run(lambda: 0 in driver.wants)
        assert bits(driver.wants[0], 2) == [1]
        driver.data(whole(0, 1, b"x")).run()
        assert driver.done
    assert (tmp_path / "root" / "f").read_bytes() == b"x"
    assert (tmp_path / "root").stat().st_mtime_ns == 10**18


def test_each_look_has_a_list_end_of_its_own(tmp_path: Path) -> None:
    with receiving(tmp_path, partial=True) as driver:
        driver.engine.look(EVERYTHING)
        driver.engine.look(b"\0\0\x01\0\0\0x")
        driver.send_list([named(b"", ROOT, Entry(b"a", size=1))]).end_list()
        with pytest.raises(ValueError, match="look"):
            driver.engine.look(EVERYTHING)
        driver.data(whole(0, 1, b"a"))
        driver.end_list()
        driver.run(lambda: len(driver.looks) == 2 and driver.engine.counters()["files"] == 1)
        assert driver.looks == [EVERYTHING, b"\0\0\x01\0\0\0x"]
        assert not driver.engine.counters()["list_done"]
        driver.send_list([named(b"", ROOT, Entry(b"x", size=1))]).end_list()
        driver.run(lambda: 1 in driver.wants)
        waiting = not driver.done
        assert waiting
        driver.data(whole(1, 1, b"x")).run()
        assert driver.done
        assert driver.engine.counters()["list_done"]
    assert sorted(os.listdir(tmp_path)) == ["a", "x"]


def test_a_name_that_is_listed_again_finds_what_the_first_time_made(tmp_path: Path) -> None:
    (tmp_path / "was").mkdir()
    with receiving(tmp_path, partial=True, delete=True) as driver:
        driver.engine.look(EVERYTHING)
        driver.send_list(
            [
                named(b"", ROOT, Entry(b"a", size=1), directory(b"d", True), directory(b"f"), directory(b"was")),
                Group(b"d", [Entry(b"%d" % i, size=1) for i in range(4)]),
                named(b"was", directory(b"inner")),
            ]
        )
        driver.end_list()
        driver.send_list(
            [
                Group(b"", [ROOT, Entry(b"a", size=1), directory(b"d"), Entry(b"f", size=1), directory(b"g")]),
                Group(b"d", [Entry(b"0", size=1), Entry(b"9", size=1)]),
                Group(b"g", []),
            ]
        )
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        assert bits(driver.wants[0], 10) == [1, 5, 6, 7, 8]
        driver.data(whole(0, 1, b"a"), *(whole(0, i, b"x") for i in range(5, 9)))
        driver.run(lambda: 1 in driver.wants)
        assert bits(driver.wants[1], 7) == [3, 6]
        driver.data(whole(1, 3, b"f"), whole(1, 6, b"9")).run()
        assert (driver.done, driver.problems) == (True, [])
    assert sorted(os.listdir(tmp_path)) == ["a", "d", "f", "g"]
    assert sorted(os.listdir(tmp_path / "d")) == ["0", "9"]
    assert (tmp_path / "f").read_bytes() == b"f"
    assert not leftovers(tmp_path)


def test_what_comes_before_the_first_list_end_may_be_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with receiving(tmp_path, partial=True, skip_first=True, delete=True) as driver:
        driver.engine.look(EVERYTHING)
        skipped = [named(b"", ROOT, gone(b"a"), Entry(b"x", size=1, link=0), directory(b"d", True)), Group(b"d", [])]
        driver.send_list(skipped, flags=LINKS)
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        assert bits(driver.wants[0], 4) == []
        assert driver.engine.counters()["listed"] == 0
        driver.send_list(
            [Group(b"", [ROOT, Entry(b"b", size=1), Entry(b"x", size=1, link=0), Entry(b"y", size=1, link=0)])],
            flags=LINKS,
        )
        driver.end_list()
        driver.run(lambda: 1 in driver.wants)
        assert bits(driver.wants[1], 4) == [1, 2]
        driver.data(whole(1, 1, b"b"), whole(1, 2, b"x")).run()
        assert driver.done, driver.engine.failure()
    assert sorted(os.listdir(tmp_path)) == ["b", "x", "y"]
    assert os.path.samefile(tmp_path / "x", tmp_path / "y")


def test_names_of_one_file_in_groups_of_single_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one").write_bytes(b"x")
    os.utime(tmp_path / "d" / "one", ns=(0, 0))
    with receiving(tmp_path, partial=True) as driver:
        one, two = (Entry(name, size=1, link=0) for name in (b"one", b"two"))
        driver.send_list([named(b"", ROOT, directory(b"d"), two), named(b"d", one)], flags=LINKS)
        driver.end_list().run()
        assert driver.done
        assert not driver.problems
        assert bits(driver.wants[0], 4) == []
    assert os.path.samefile(tmp_path / "two", tmp_path / "d" / "one")


@pytest.mark.parametrize("link", [None, 0])
def test_the_partial_of_a_named_file_is_found_and_others_are_left(tmp_path: Path, link: int | None) -> None:
    names = {number: f".big.{TAG}0000000{number}.sync~" for number in (1, 2)}
    names[3] = f".small.{TAG}00000003.sync~"
    for name in names.values():
        (tmp_path / name).write_bytes(os.urandom(2 * PIECE))
    (tmp_path / ".big.ffffffff00000001.sync~").write_bytes(b"another agent's")
    with receiving(tmp_path, partial=True) as driver:
        big = Entry(b"big", size=3 * PIECE, link=link)
        driver.send_list(
            [named(b"", ROOT, big, Entry(b"small", size=9))], flags=0 if link is None else LINKS
        ).end_list()
        driver.run(lambda: bool(driver.bases))
        assert bits(driver.wants[0], 3, 1) == [1]
        left = set(os.listdir(tmp_path))
    assert names[3] in left
    assert ".big.ffffffff00000001.sync~" in left
    assert len(left & {names[1], names[2]}) == 1


def test_the_names_of_this_session_are_not_swept_when_their_directory_is_listed_whole(tmp_path: Path) -> None:
    (tmp_path / "d" / "was").mkdir(parents=True)
    with receiving(tmp_path, partial=True) as driver:
        driver.send_list([named(b"", ROOT, directory(b"d")), named(b"d", Entry(b"was", SYMLINK, target=b"x"))])
        driver.send_list([named(b"", directory(b"d", True)), Group(b"d", [Entry(b"was", SYMLINK, target=b"y")])])
        driver.end_list().run()
        assert (driver.done, driver.problems) == (True, [])
    assert os.readlink(tmp_path / "d" / "was") == "y"
    assert os.listdir(tmp_path / "d") == ["was"]


def test_what_cannot_be_read_is_a_problem_and_stays(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with receiving(tmp_path, partial=True, delete=True) as driver:
        driver.send_list([named(b"", ROOT, Entry(b"f", UNREADABLE))]).end_list().run()
        assert driver.done
        assert [code for _, code, _ in driver.problems] == ["unreadable"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_the_guards_count_both_ways_to_go(tmp_path: Path) -> None:
    for name in ("a", "b", "d/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    groups = [named(b"", ROOT, gone(b"a"), gone(b"b"), directory(b"d", True)), Group(b"d", [])]
    with receiving(tmp_path, partial=True, delete=True, max_delete=2) as driver:
        driver.send_list(groups).end_list()
        assert driver.failed == "max-delete"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "d"]
    with receiving(tmp_path, partial=True, delete=True, max_delete=3) as driver:
        driver.send_list(groups).end_list().run()
        assert driver.done
    assert os.listdir(tmp_path) == ["d"]
    # All that is there goes by name: that is no source that was lost.
    with receiving(tmp_path, partial=True, delete=True) as driver:
        driver.send_list([named(b"", ROOT, gone(b"d"))]).end_list().run()
        assert driver.done
    (tmp_path / "a").write_bytes(b"")
    with receiving(tmp_path, partial=True, delete=True) as driver:
        driver.engine.look(EVERYTHING)
        driver.end_list()
        driver.send_list([Group(b"", [ROOT])]).end_list()
        assert driver.failed == "source-empty"
    assert os.listdir(tmp_path) == ["a"]


def test_filters_protect_what_goes_by_name(tmp_path: Path) -> None:
    (tmp_path / "d" / "keep.o").mkdir(parents=True)
    (tmp_path / "d" / "x").write_bytes(b"")
    with receiving(tmp_path, partial=True, delete=True, filters=[b"*.o/"]) as driver:
        driver.send_list([named(b"", ROOT, gone(b"d"), gone(b"was.o"))]).end_list().run()
        assert driver.done
    assert os.listdir(tmp_path / "d") == ["keep.o"]


def test_a_dry_run_says_what_it_would_do(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with receiving(tmp_path, partial=True, delete=True, dry_run=True) as driver:
        driver.send_list([named(b"", ROOT, gone(b"a"), directory(b"d"), Entry(b"f", size=1))]).end_list().run()
        assert driver.done
        assert driver.items[-1] == b"*deleting   a"
        assert b"cd+++++++++ d/" in driver.items
    assert os.listdir(tmp_path) == ["a"]


def begin_again(driver: Driver) -> None:
    driver.engine.look(EVERYTHING)
    driver.send_list([named(b"", ROOT)]).end_list()
    driver.engine.list_end_untrusted(0, 0, bytes(32))


WANTED = [named(b"", ROOT, Entry(b"wanted", size=1))]
LIES: dict[str, Callable[[Driver], object]] = {
    "gone outside": lambda d: d.send_list([Group(b"", [ROOT, gone(b"a")])]),
    "gone root": lambda d: d.send_list([named(b"", Entry(b"", GONE, 0))]),
    "gone with a size": lambda d: d.send_list([named(b"", ROOT, Entry(b"a", GONE, 0, size=1))]),
    "part of a listing": lambda d: d.send_list([Group(b"", [ROOT], FIRST | PARTIAL)]),
    "no root": lambda d: d.send_list([named(b"", Entry(b"a"))]),
    "file as root": lambda d: d.send_list([named(b"", ROOT)], [named(b"", Entry(b""))]),
    "root below": lambda d: d.send_list([named(b"", ROOT, directory(b"d")), named(b"d", ROOT)]),
    "unlisted directory": lambda d: d.send_list([named(b"", ROOT), named(b"d", Entry(b"a"))]),
    "twice in a group": lambda d: d.send_list([named(b"", ROOT, Entry(b"a"), gone(b"a"))]),
    "a name of ours": lambda d: d.send_list([named(b"", ROOT, gone(f".a.{TAG}00000001.sync~".encode()))]),
    "listing that was promised": lambda d: d.send_list([named(b"", ROOT, directory(b"d", True))]).end_list(),
    "listing that does not end": lambda d: d.send_list(
        [named(b"", ROOT, directory(b"d", True)), Group(b"d", [], FIRST)]
    ).end_list(),
    "listing without a first part": lambda d: d.send_list(
        [named(b"", ROOT, directory(b"d", True)), Group(b"d", [], LAST)]
    ),
    "listed again while it comes": lambda d: d.send_list(
        [named(b"", ROOT, directory(b"d", True)), Group(b"d", [], FIRST), named(b"", directory(b"d", True))]
    ),
    "listing that begins again": lambda d: d.send_list(
        [named(b"", ROOT, directory(b"d", True)), Group(b"d", [], FIRST), Group(b"d", [], FIRST)]
    ),
    "a list-end too many": lambda d: d.send_list(WANTED).end_list().end_list(),
    "a list behind its end": lambda d: d.send_list(WANTED).end_list().send_list([named(b"", ROOT)]),
    "totals that begin again": begin_again,
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_violations(tmp_path: Path, lie: str) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with receiving(tmp_path, partial=True, delete=True) as driver:
        LIES[lie](driver)
        assert driver.failed == "protocol"
    assert (tmp_path / "a").read_bytes() == b"a"


def test_data_for_a_refused_chunk_is_a_violation(tmp_path: Path) -> None:
    with receiving(tmp_path, partial=True, skip_first=True) as driver:
        driver.engine.look(EVERYTHING)
        driver.send_list([named(b"", ROOT, Entry(b"f", size=1))]).end_list()
        driver.data(whole(0, 1, b"x"))
        assert driver.failed == "protocol"
    assert os.listdir(tmp_path) == []


def test_single_names_are_a_violation_where_all_were_asked_for(tmp_path: Path) -> None:
    with receiving(tmp_path) as driver:
        with pytest.raises(ValueError, match="look"):
            driver.engine.look(EVERYTHING)
        driver.send_list([named(b"", ROOT)])
        assert driver.failed == "protocol"
