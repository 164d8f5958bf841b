"""The crate's receiver with a tree: what it tells it of its own changes, and what it does about someone else's."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blake3
import pytest

from agentd import _core
from tests.helpers.payloads import (
    DIRECTORY,
    GONE,
    HASHES,
    INCOMPLETE,
    OTHER,
    PROBLEM,
    SYMLINK,
    UNREADABLE,
    Entry,
    Group,
    bits,
    pack_record,
)
from tests.helpers.receiving import ROOT, leftovers, named, receiving, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1 << 20
KEPT = re.compile(r"(.+)\.conflict-\d{8}-\d{6}(-\d+)?")


def directory(name: bytes, listing: bool = False) -> Entry:
    return Entry(name, DIRECTORY, 0o750, size=int(listing), mtime_ns=10**18)


def gone(name: bytes) -> Entry:
    return Entry(name, GONE, 0)


@contextmanager
def watching(root: Path, filters: list[bytes] | None = None) -> Iterator[_core.Tree]:
    tree = _core.Tree(os.fsencode(root), filters=filters or [], index=None, threads=2, watches_max=1000, wake_fd=-1)
    try:
        tree.refresh()
        yield tree
    finally:
        tree.close()


def changes(tree: _core.Tree, since: int, *, sweep: int = 2048) -> list[bytes]:
    """The paths that changed, after a look."""
    tree.refresh(sweep=sweep)
    looks = tree.changes(since, LIMIT)
    assert looks is not None
    raw, paths = bytes(memoryview(looks)), []
    while raw:
        length = int.from_bytes(raw[2:6], "little")
        paths.append(raw[6 : 6 + length])
        raw = raw[6 + length :]
    return paths


@pytest.mark.parametrize("partial", [True, False])
def test_what_a_session_did_is_no_change(tmp_path: Path, partial: bool) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "mode").write_bytes(b"")
    os.utime(tmp_path / "mode", ns=(0, 0))
    (tmp_path / "was" / "deep").mkdir(parents=True)
    (tmp_path / "was" / "deep" / "f").write_bytes(b"")
    files = [Entry(b"%d" % i, size=1, mtime_ns=i) for i in range(5)]
    entries = [
        ROOT,
        Entry(b"old", size=3, mtime_ns=5),
        Entry(b"mode", mode=0o600),
        Entry(b"ln", SYMLINK, 0o777, mtime_ns=7, target=b"x"),
        directory(b"d", partial),
        directory(b"empty", partial),
    ]
    with watching(tmp_path) as tree, receiving(tmp_path, partial=partial, delete=True, tree=tree) as driver:
        groups = [named(b"", *entries, gone(b"was"), gone(b"never"))] if partial else [Group(b"", entries)]
        driver.send_list([*groups, Group(b"d", files), Group(b"empty", [])]).end_list()
        first = 8 if partial else 6
        driver.data(whole(0, 1, b"new", mtime_ns=5))
        driver.data(*(whole(0, first + i, b"x", mtime_ns=i) for i in range(5)))
        driver.run()
        assert (driver.done, driver.problems) == (True, [])
        assert driver.engine.counters()["deleted"] == 3
        agreed = tree.tick()
        assert changes(tree, agreed) == []
        (tmp_path / "d" / "2").write_bytes(b"y")
        os.unlink(tmp_path / "ln")
        assert sorted(changes(tree, agreed)) == [b"", b"d/2", b"ln"]


CREATED = 0x100
"""linux/inotify.h: IN_CREATE."""


def watched_for(directory: Path) -> list[int]:
    """The masks of this process's watches on ``directory``, as proc_pid_fdinfo(5) tells them."""
    ino, found = directory.stat().st_ino, []
    for fd in os.listdir("/proc/self/fd"):
        try:
            told = Path(f"/proc/self/fdinfo/{fd}").read_text()
        except OSError:  # the one that the list itself was read from
            continue
        watches = re.findall(r"^inotify wd:\S+ ino:(\S+) sdev:\S+ mask:(\S+)", told, re.MULTILINE)
        found += [int(mask, 16) for number, mask in watches if int(number, 16) == ino]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is watched")
@pytest.mark.parametrize("refreshed", [False, True], ids=["", "by a refresh in the middle"])
@pytest.mark.parametrize("partial", [True, False])
def test_a_directory_that_is_filled_is_not_watched_and_what_others_do_there_is_found(
    tmp_path: Path, partial: bool, refreshed: bool
) -> None:
    filled, quiet, count = tmp_path / "filled", tmp_path / "quiet", 100
    for made in (filled, quiet):
        made.mkdir()
        for name in ("edited", "mode", "deleted", "same"):
            (made / name).write_bytes(b"old")
            os.utime(made / name, ns=(0, 0))
    files = [Entry(b"f%03d" % i, size=1, mtime_ns=i) for i in range(count)]
    root = [ROOT, directory(b"filled"), directory(b"quiet")]
    data = [whole(0, 3 + i, b"x", mtime_ns=i) for i in range(count)]
    with watching(tmp_path) as tree, receiving(tmp_path, partial=partial, tree=tree) as driver:
        groups = [named(b"", *root), named(b"filled", *files)]
        if not partial:
            groups = [Group(b"", root), Group(b"filled", files), Group(b"quiet", [])]
        driver.send_list(groups).end_list().run(lambda: 0 in driver.wants)
        [mask], [other] = watched_for(filled), watched_for(quiet)
        assert not mask & CREATED
        assert other & CREATED

        (filled / "edited").write_bytes(b"not by us")
        driver.data(*data[: count // 2]).run(lambda: len(os.listdir(filled)) >= 4 + count // 2)
        if refreshed:
            assert b"filled/edited" in changes(tree, tree.tick(), sweep=0)
            assert watched_for(filled)[0] & CREATED
        (filled / "mode").chmod(0o600)
        (filled / "deleted").unlink()
        (filled / "f003").write_bytes(b"not by us")
        (filled / "f005").unlink()
        (filled / "theirs").write_bytes(b"not by us")
        (filled / "their directory").mkdir()
        (filled / "their directory" / "deep").write_bytes(b"not by us")
        driver.data(*data[count // 2 :]).run()
        assert (driver.done, driver.problems) == (True, [])

        agreed = tree.tick()
        (filled / "f099").write_bytes(b"not by us, behind the session")
        theirs = {"mode", "deleted", "f003", "f005", "f099", "theirs", "their directory"}
        theirs |= set() if refreshed else {"edited"}
        found = {path.decode() for path in changes(tree, agreed, sweep=0)} - {"", "filled"}
        told = {f"filled/{name}" for name in theirs}
        assert found >= told if refreshed else found == told  # in the middle, what is not there yet is missed, too
        assert watched_for(filled)[0] & CREATED

        agreed = tree.tick()
        looked = tree.counters()["looked"]
        (filled / "same").write_bytes(b"not by us, when all is quiet")
        assert changes(tree, agreed, sweep=0) == [b"filled/same"]
        assert tree.counters()["looked"] - looked < count


def test_a_new_tree_learns_its_root_from_the_session(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tree = _core.Tree(os.fsencode(root), filters=[], index=None, threads=2, watches_max=1000, wake_fd=-1)
    with receiving(root, tree=tree) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"f", size=1), directory(b"d")]), Group(b"d", [])]).end_list()
        driver.data(whole(0, 1, b"x")).run()
        assert driver.done
        agreed = tree.tick()
    assert changes(tree, agreed) == []
    assert tree.counters()["entries"] == 2
    tree.close()


def test_what_became_something_else_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "f").write_bytes(b"")
    with watching(tmp_path) as tree:
        with receiving(tmp_path, partial=True, tree=tree) as driver:
            driver.send_list([named(b"", ROOT, Entry(b"a", size=1), Entry(b"b", size=1), Entry(b"full", size=1))])
            driver.end_list()
            driver.data(pack_record(PROBLEM, 0, 1, code=3, errno=13), whole(0, 2, b"x", mode=0o600)).run()
            assert sorted(code for _, code, _ in driver.problems) == ["in-the-way", "unreadable"]
            agreed = tree.tick()
        assert set(changes(tree, agreed)) == {b"a", b"b", b"full"}


@pytest.mark.parametrize("partial", [True, False])
def test_what_could_not_be_read_is_among_the_changes_until_it_can(tmp_path: Path, partial: bool) -> None:
    listing = int(partial)
    with watching(tmp_path) as tree:
        for errno in (13, 0):
            file = Entry(b"f", UNREADABLE) if errno else Entry(b"f", mode=0o600)
            entries = [ROOT, file, Entry(b"d", DIRECTORY, 0o750, size=listing, mtime_ns=10**18), Entry(b"o", OTHER)]
            root = named(b"", *entries) if partial else Group(b"", entries)
            with receiving(tmp_path, partial=partial, tree=tree) as driver:
                driver.send_list([root, Group(b"d", [], 3 | (INCOMPLETE if errno else 0), errno)]).end_list()
                if not errno:
                    driver.data(whole(0, 1, b"", mode=0o600))
                driver.run()
                assert driver.done
                agreed = tree.tick()
            for _ in range(2):
                assert sorted(changes(tree, agreed)) == ([b"d", b"f"] if errno else [])


def test_a_dry_run_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with watching(tmp_path) as tree:
        before = tree.tick()
        with receiving(tmp_path, partial=True, dry_run=True, delete=True, tree=tree) as driver:
            driver.send_list([named(b"", ROOT, Entry(b"f", size=1), Entry(b"u", UNREADABLE), gone(b"a"))])
            driver.end_list().run()
            assert driver.done
        assert tree.tick() == before
        assert changes(tree, before) == []


def test_content_is_hashed_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    os.utime(tmp_path / "f", ns=(0, 0))
    time.sleep(0.1)  # What changed a moment ago is not remembered: there is no event to wait for.
    file = Entry(b"f", size=1, hash=blake3.blake3(b"x").digest())
    with watching(tmp_path) as tree:
        hashed = []
        for _ in range(2):
            with receiving(tmp_path, hashes=True, tree=tree, profile=True) as driver:
                driver.send_list([Group(b"", [ROOT, file])], flags=HASHES).end_list().run()
                assert driver.done
                assert bits(driver.wants[0], 2) == []
                hashed.append("hash" in driver.engine.profile())
        assert hashed == [True, False]
        (tmp_path / "f").write_bytes(b"y")
        os.utime(tmp_path / "f", ns=(0, 0))
        with receiving(tmp_path, hashes=True, tree=tree) as driver:
            driver.send_list([Group(b"", [ROOT, file])], flags=HASHES).end_list()
            driver.run(lambda: 0 in driver.wants)
            assert bits(driver.wants[0], 2) == [1]


def changed_here(root: Path, tree: _core.Tree) -> int:
    """Things at ``root``, some of which someone changes after the tick that this returns."""
    for name in ("file", "mode", "link", "dir/f", "way/f", "gone", "was/f", "was/theirs", "quiet"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"old")
        os.utime(root / name, ns=(0, 0))
    tree.refresh()
    since = tree.tick()
    for name in ("file", "link", "dir/f", "way/f", "gone", "was/theirs"):
        (root / name).write_bytes(b"theirs")
    (root / "mode").chmod(0o600)
    tree.refresh()
    return since


CONFLICTS = [
    Entry(b"file", size=3),
    Entry(b"mode", size=3, mode=0o644),
    Entry(b"link", SYMLINK, 0o777, target=b"x"),
    directory(b"dir"),
    Entry(b"way", size=3),
    gone(b"gone"),
    gone(b"was"),
    Entry(b"quiet", size=4),
]


def settle_conflicts(root: Path, tree: _core.Tree, **options: Any) -> tuple[list[tuple[bytes, str]], int]:
    """One session that wants all of it otherwise: problems, and how many conflicts were counted."""
    with receiving(root, partial=True, delete=True, tree=tree, **options) as driver:
        driver.send_list([named(b"", ROOT, *CONFLICTS), named(b"dir", directory(b"f"))]).end_list()
        driver.run(lambda: 0 in driver.wants)
        content = {1: b"new", 5: b"way", 8: b"more"}
        driver.data(*(whole(0, i, content[i]) for i in bits(driver.wants[0], 10)))
        driver.run()
        assert driver.done
        return sorted((path, code) for path, code, _ in driver.problems), driver.engine.counters()["conflicts"]


def tree_of(root: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for base, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(base, name)
            seen = KEPT.sub(r"\1.kept", os.path.relpath(path, root))
            if os.path.islink(path):
                found[seen] = os.readlink(path)
            elif os.path.isdir(path):
                found[seen] = "/"
            else:
                with open(path, "rb") as file:
                    found[seen] = file.read()
    return found


NEW = {"file": b"new", "mode": b"old", "link": "x", "dir": "/", "dir/f": "/", "way": b"way", "quiet": b"more"}


def test_conflicts_are_overwritten_and_counted(tmp_path: Path) -> None:
    with watching(tmp_path) as tree:
        since = changed_here(tmp_path, tree)
        assert settle_conflicts(tmp_path, tree, since=since) == ([], 7)
        assert tree_of(tmp_path) == NEW
        assert changes(tree, tree.tick()) == []
    assert not leftovers(tmp_path)


def test_without_a_baseline_there_is_no_conflict(tmp_path: Path) -> None:
    with watching(tmp_path) as tree:
        changed_here(tmp_path, tree)
        assert settle_conflicts(tmp_path, tree, on_conflict="stop") == ([], 0)
    assert tree_of(tmp_path) == NEW


def test_conflicts_stop_what_they_are_about(tmp_path: Path) -> None:
    theirs = [b"dir/f", b"file", b"gone", b"link", b"mode", b"was/theirs"]
    with watching(tmp_path) as tree:
        since = changed_here(tmp_path, tree)
        problems, count = settle_conflicts(tmp_path, tree, since=since, on_conflict="stop")
        assert problems == sorted([*((path, "changed-here") for path in theirs), (b"way", "in-the-way")])
        assert count == 0
        assert (tmp_path / "mode").stat().st_mode & 0o777 == 0o600
        assert tree_of(tmp_path) == {
            "file": b"theirs", "mode": b"old", "link": b"theirs", "dir": "/", "dir/f": b"theirs", "way": "/",
            "way/f": b"theirs", "gone": b"theirs", "was": "/", "was/theirs": b"theirs", "quiet": b"more",
        }  # fmt: skip
        # They are told again by the next session, and by each one until someone settles them.
        assert {b"file", b"gone", b"link", b"mode", b"way", b"dir/f", b"was/theirs"} <= set(changes(tree, tree.tick()))


def test_conflicts_are_kept_beside_what_is_new(tmp_path: Path) -> None:
    with watching(tmp_path) as tree:
        since = changed_here(tmp_path, tree)
        (tmp_path / "file.conflict-1").write_bytes(b"a name like another")
        problems, count = settle_conflicts(tmp_path, tree, since=since, on_conflict="keep-both")
        assert (problems, count) == ([(b"way", "in-the-way")], 6)
        kept = {
            "file.kept": b"theirs", "link.kept": b"theirs", "dir/f.kept": b"theirs", "way": "/", "way/f": b"theirs",
            "gone": b"theirs", "was": "/", "was/theirs": b"theirs", "file.conflict-1": b"a name like another",
        }  # fmt: skip
        assert tree_of(tmp_path) == NEW | kept
        copies = [os.fsencode(name) for name in os.listdir(tmp_path) if KEPT.fullmatch(name)]
        assert len(copies) == 2
        # What was kept is not deleted by later sessions, with a baseline or without one, and is agreed to.
        since = tree.tick()
        assert set(copies) <= set(changes(tree, since))
        for baseline in (since, None):
            with receiving(
                tmp_path, partial=True, delete=True, tree=tree, since=baseline, on_conflict="keep-both"
            ) as driver:
                driver.send_list([named(b"", ROOT, *(gone(name) for name in copies))]).end_list().run()
                assert (driver.done, driver.engine.counters()["deleted"]) == (True, 0)
                agreed = tree.tick()
            assert not set(copies) & set(changes(tree, agreed))
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("choice", ["stop", "keep-both"])
def test_what_only_the_destination_has_stays_in_every_session(tmp_path: Path, choice: str) -> None:
    with watching(tmp_path) as tree:
        since = changed_here(tmp_path, tree)
        for others in (1, 0, 0):
            with receiving(tmp_path, partial=True, delete=True, tree=tree, since=since, on_conflict=choice) as driver:
                driver.send_list([named(b"", ROOT, gone(b"gone"), gone(b"was"))]).end_list().run()
                assert (driver.done, driver.engine.counters()["deleted"]) == (True, others)
                assert len(driver.problems) == (2 if choice == "stop" else 0)
                since = tree.tick()
            tree.refresh()
            assert {b"gone", b"was/theirs"} <= set(changes(tree, since))
    assert (tmp_path / "gone").read_bytes() == (tmp_path / "was/theirs").read_bytes() == b"theirs"


def test_names_for_what_is_kept_are_free_ones(tmp_path: Path) -> None:
    long = "n" * 255
    with watching(tmp_path) as tree:
        for content in (b"one", b"two"):
            since = tree.tick()
            (tmp_path / long).write_bytes(content)
            tree.refresh()
            with receiving(tmp_path, partial=True, tree=tree, since=since, on_conflict="keep-both") as driver:
                driver.send_list([named(b"", ROOT, Entry(os.fsencode(long), size=4))]).end_list()
                driver.data(whole(0, 1, b"more")).run()
                assert (driver.done, driver.problems) == (True, [])
    contents = sorted((tmp_path / name).read_bytes() for name in os.listdir(tmp_path))
    assert contents == [b"more", b"one", b"two"]


def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_conflict"), receiving(tmp_path, on_conflict="ask"):
        pass
