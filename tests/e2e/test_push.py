"""Pushes over a real link, as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import RSYNC, assert_same, snapshot
from tests.helpers.pushes import build, push, result
from tests.helpers.rsync import itemized_by_rsync, itemized_by_us
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts

UNCHANGED = "up to date"


def test_first_and_again(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    build(hosts, source, awkward=True)
    push(hosts, source, destination)
    assert_same(source, destination)
    before = snapshot(destination)
    again = push(hosts, source, destination, "--itemize")
    assert again.splitlines()[0].startswith(UNCHANGED)
    assert snapshot(destination) == before


def test_edits_of_every_kind(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 1)
    tree.file(b"same size", b"before", mtime_ns=10**18)
    tree.file(b"mode only", b"x")
    tree.file(b"time only", b"y")
    tree.file(b"becomes empty", b"z" * 100_000)
    tree.symlink(b"retargeted", b"old")
    hosts.account.owns(source)
    push(hosts, source, destination)
    tree.file(b"same size", b"behind", mtime_ns=10**18 + 1)
    os.chmod(tree.at(b"mode only"), 0o600)
    os.utime(tree.at(b"time only"), ns=(5, 5))
    tree.file(b"becomes empty", b"")
    os.unlink(tree.at(b"retargeted"))
    tree.symlink(b"retargeted", b"new")
    tree.file(b"a/new/one", b"new")
    tree.file(b"appended", tree.noise(300_000))
    hosts.account.owns(source)
    push(hosts, source, destination)
    assert_same(source, destination)


@pytest.mark.parametrize("delete", [False, True])
def test_extra_entries_go_only_with_delete(hosts: Hosts, place: Path, delete: bool) -> None:
    source, destination = place / "source", place / "destination"
    build(hosts, source, 2)
    with TreeBuilder(destination, 3) as there:
        for path in (b"extra", b"alpha0/extra", b"extra dir/in/it"):
            there.file(path, b"extra")
        there.symlink(b"extra link", b"..")
    hosts.account.owns(destination)
    kept = snapshot(destination)
    push(hosts, source, destination, *(["--delete"] if delete else []))
    if delete:
        assert_same(source, destination)
    else:
        after = snapshot(destination)
        assert all(after[path].content == seen.content for path, seen in kept.items() if seen.kind != "dir")


KINDS = ("file", "link", "dir", "empty dir")


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_changes_of_type(hosts: Hosts, place: Path, before: str, after: str) -> None:
    source, destination = place / "source", place / "destination"
    for path, kind in ((destination, before), (source, after)):
        with TreeBuilder(path, 4) as tree:
            tree.file(b"beside", b"beside")
            if kind == "file":
                tree.file(b"it", b"content")
            elif kind == "link":
                tree.symlink(b"it", b"beside")
            else:
                tree.dir(b"it")
                if kind == "dir":
                    tree.file(b"it/inside", b"inside")
        hosts.account.owns(path)
    push(hosts, source, destination, "--delete")
    assert_same(source, destination)


def test_dry_run_changes_nothing_and_says_what_the_run_does(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 5)
    push(hosts, source, destination)
    tree.file(b"new dir/new", b"new")
    tree.file(b"changed", b"changed")
    os.rename(tree.at(b"changed"), tree.at(b"renamed"))
    os.chmod(source, 0o700)
    with TreeBuilder(destination, 6) as there:
        there.file(b"extra/inner", b"x")
        there.file(b"renamed", b"other")
    hosts.account.owns(place)
    before = snapshot(destination)
    foretold = itemized_by_us(push(hosts, source, destination, "--delete", "--dry-run", "--itemize"))
    assert snapshot(destination) == before
    done = itemized_by_us(push(hosts, source, destination, "--delete", "--itemize"))
    assert sorted(foretold) == sorted(done)
    assert done
    assert_same(source, destination)


@pytest.mark.skipif(RSYNC is None, reason="rsync is not installed")
@pytest.mark.parametrize("seed", range(4))
def test_itemize_is_rsyncs(hosts: Hosts, place: Path, seed: int) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 10 + seed)
    if seed:
        shutil.copytree(source, destination, symlinks=True)
        subject = TreeBuilder(destination, 20 + seed)
        paths = [path for path, seen in sorted(snapshot(destination).items()) if seen.kind == "file"]
        for path in subject.random.sample(paths, len(paths) // 2):
            what = subject.random.randrange(4)
            if what == 0:
                os.unlink(subject.at(path))
            elif what == 1:
                subject.file(path, b"other content")
            elif what == 2:
                os.chmod(subject.at(path), 0o604)
            else:
                os.utime(subject.at(path), ns=(1, 1))
        subject.file(b"extra/deep/file", b"")
        subject.symlink(b"extra/link", b"x")
        subject.symlink(b"beta link", b"there")
        tree.symlink(b"beta link", b"here")
    os.utime(source, ns=(10**18, 10**18))  # rsync compares seconds, and the two roots changed in the same one
    hosts.account.owns(place)
    theirs = itemized_by_rsync(source, destination)
    ours = itemized_by_us(push(hosts, source, destination, "--delete", "--itemize"))
    assert sorted(ours) == sorted(theirs)
    assert_same(source, destination)


def test_checksum_finds_what_size_and_time_hide(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 7)
    tree.file(b"hidden", b"one", mtime_ns=10**18)
    hosts.account.owns(source)
    push(hosts, source, destination)
    tree.file(b"hidden", b"two", mtime_ns=10**18)
    hosts.account.owns(source)
    push(hosts, source, destination)
    assert (destination / "hidden").read_bytes() == b"one"
    push(hosts, source, destination, "--checksum")
    assert_same(source, destination)


def test_modes(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    modes = (0o000, 0o444, 0o400, 0o755, 0o777, 0o604, 0o1644, 0o2755, 0o4755, 0o6711)
    readable = [mode for mode in modes if mode & 0o400 or (os.geteuid() == 0 and hosts.account.uid == 0)]
    with TreeBuilder(source, 8) as tree:
        for mode in readable:
            tree.file(b"file %o" % mode, b"content", mode=mode)
        for mode in (0o555, 0o700, 0o1777, 0o2775):
            tree.dir(b"dir %o" % mode, mode=mode)
            tree.file(b"dir %o/inside" % mode, b"inside")
    hosts.account.owns(source)
    push(hosts, source, destination)
    assert_same(source, destination)
    for path in (destination, source):
        assert stat.S_IMODE((path / "file 4755").stat().st_mode) == 0o4755
    tree.file(b"dir 555/later", b"later")
    tree.settle()
    hosts.account.owns(source)
    push(hosts, source, destination, "--delete")
    assert_same(source, destination)


def test_a_change_within_a_big_file_goes_as_a_delta(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 9)
    content = bytearray(tree.noise(24 << 20))
    tree.file(b"big", bytes(content))
    hosts.account.owns(source)
    push(hosts, source, destination)
    content[10 << 20 : (10 << 20) + 5] = b"edit!"
    content[20 << 20 : 20 << 20] = b"inserted"
    tree.file(b"big", bytes(content))
    hosts.account.owns(source)
    stats = result(push(hosts, source, destination, "--json"))["stats"]
    assert stats["literal"] < 1 << 20
    assert stats["matched"] > 23 << 20
    assert_same(source, destination)


def test_one_file_as_the_source(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "other name"
    with TreeBuilder(source) as tree:
        tree.file(b"one", tree.noise(200_000), mode=0o640)
    hosts.account.owns(source)
    push(hosts, source / "one", destination)
    assert_same(source / "one", destination)
    tree.file(b"one", b"less", mode=0o600)
    hosts.account.owns(source)
    push(hosts, source / "one", destination)
    assert_same(source / "one", destination)
    assert push(hosts, source / "one", destination).startswith(UNCHANGED)


def test_a_symlink_at_the_destination_is_never_written_through(hosts: Hosts, place: Path) -> None:
    source, destination, outside = place / "source", place / "destination", place / "outside"
    with TreeBuilder(source) as tree:
        tree.file(b"dir/file", b"from the source")
        tree.file(b"file", b"from the source")
    with TreeBuilder(outside) as victim:
        victim.file(b"file", b"precious")
    with TreeBuilder(destination) as there:
        there.symlink(b"dir", os.fsencode(outside))
        there.symlink(b"file", os.fsencode(outside / "file"))
    hosts.account.owns(place)
    push(hosts, source, destination)
    assert (outside / "file").read_bytes() == b"precious"
    assert_same(source, destination)


def test_excluded_entries_are_neither_sent_nor_deleted(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        for path in (b"keep", b"a.o", b".git/config", b"sub/b.o", b"sub/.git/x", b"sub/keep"):
            tree.file(path, b"source")
    with TreeBuilder(destination) as there:
        there.file(b"there.o", b"destination")
        there.file(b"gone", b"destination")
    hosts.account.owns(place)
    push(hosts, source, destination, "--delete", "--exclude", "*.o", "--exclude=.git/")
    assert set(snapshot(destination)) == {b"", b"keep", b"sub", b"sub/keep", b"there.o"}


def test_the_destination_is_relative_to_the_home_there(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "source", 30)
    hosts.here.ok("push", place / "source", "box:relative")
    assert_same(place / "source", hosts.there.home / "relative")
    hosts.here.ok("push", place / "source", "box:~/tilde")
    assert_same(place / "source", hosts.there.home / "tilde")


def test_owners_are_kept_when_asked_and_privileged(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 31)
    if hosts.account.uid == 0:
        tree.file(b"theirs", b"x")
        os.chown(tree.at(b"theirs"), 1234, 5678)
        tree.symlink(b"their link", b"x")
        os.chown(tree.at(b"their link"), 1234, 5678, follow_symlinks=False)
    push(hosts, source, destination, "--owner", "--group")
    assert_same(source, destination, owners=True)
