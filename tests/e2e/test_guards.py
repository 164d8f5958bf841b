"""What is refused before anything is changed, and what full and read-only places come to."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import assert_same, snapshot
from tests.helpers.pushes import build, push, try_push
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Hosts

GUARD = 6


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A small file system in memory at ``path``."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount here: {made.stderr!r}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("remote", [False, True])
def test_a_missing_source(hosts: Hosts, place: Path, remote: bool) -> None:
    there = place / "destination"
    if remote:
        ended = hosts.here.run("pull", hosts.remote(place / "nothing"), there)
    else:
        ended = try_push(hosts, place / "nothing", there)
    assert ended.status == GUARD, ended
    assert "nothing" in ended.err
    assert not there.exists()


def test_a_source_that_cannot_be_read(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "source")
    (place / "source").chmod(0o000)
    ended = try_push(hosts, place / "source", place / "destination", "--delete")
    (place / "source").chmod(0o755)
    if hosts.account.uid != 0:
        assert ended.status == GUARD, ended
        assert "source" in ended.err
        assert not (place / "destination").exists()
    else:
        assert ended.status == 0, ended


@pytest.mark.parametrize("kind", ["fifo", "dangling link"])
def test_a_source_that_is_no_tree(hosts: Hosts, place: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(place / "source")
    else:
        (place / "source").symlink_to("nowhere")
    hosts.account.owns(place)
    ended = try_push(hosts, place / "source", place / "destination")
    assert ended.status == GUARD, ended
    assert not (place / "destination").exists()


def test_a_source_that_is_a_symlink_to_a_directory_is_that_directory(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "real")
    (place / "link").symlink_to("real")
    push(hosts, place / "link", place / "destination")
    assert_same(place / "real", place / "destination")


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("a", "a"),
        ("a", "a/inside"),
        ("a/sub", "a"),
        ("a", "link/inside"),
        ("link/sub", "a"),
        ("a", "a/new"),
        ("a", "a/sub/../inside"),
    ],
)
@pytest.mark.parametrize("way", ["push", "pull", "here"])
def test_roots_within_each_other(hosts: Hosts, place: Path, source: str, destination: str, way: str) -> None:
    with TreeBuilder(place / "a") as tree:
        tree.file(b"sub/file", b"x")
        tree.file(b"inside/file", b"x")
    (place / "link").symlink_to("a")
    hosts.account.owns(place)
    before = snapshot(place)
    a, b = place / source, place / destination
    if way == "push":
        ended = hosts.here.run("push", a, hosts.remote(b), "--delete")
    elif way == "pull":
        ended = hosts.here.run("pull", hosts.remote(a), b, "--delete")
    else:
        ended = hosts.here.run("push", a, b, "--delete")
    assert ended.status == GUARD, ended
    assert snapshot(place) == before


def test_only_the_last_component_is_made(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "source")
    ended = try_push(hosts, place / "source", place / "no/such/destination")
    assert ended.status == GUARD, ended
    assert not (place / "no").exists()


def test_a_destination_of_another_kind(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "source")
    (place / "file").write_text("precious")
    hosts.account.owns(place / "file")
    ended = try_push(hosts, place / "source", place / "file")
    assert ended.status == GUARD, ended
    assert (place / "file").read_text() == "precious"


def test_a_destination_that_may_not_be_written(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "closed/destination"
    build(hosts, source)
    destination.parent.mkdir()
    hosts.account.owns(destination.parent)
    destination.parent.chmod(0o555)
    ended = try_push(hosts, source, destination)
    if hosts.account.uid == 0:
        assert_same(source, destination)
    else:
        assert ended.status == GUARD, ended
        assert "closed" in ended.err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs privileges")
def test_a_read_only_destination(hosts: Hosts, place: Path) -> None:
    source = place / "source"
    build(hosts, source)
    with mounted(place / "mounted", "size=4m,mode=777") as there:
        (there / "kept").write_text("kept")
        subprocess.run(["mount", "-o", "remount,ro", there], check=True)
        ended = try_push(hosts, source, there, "--delete")
        assert ended.status == GUARD, ended
        assert "ead-only" in ended.err
        assert set(snapshot(there)) == {b"", b"kept"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs privileges")
def test_a_full_destination(hosts: Hosts, place: Path) -> None:
    source = place / "source"
    with TreeBuilder(source) as tree:
        for number in range(8):
            tree.file(b"file %d" % number, tree.noise(1 << 20))
    hosts.account.owns(source)
    with mounted(place / "mounted", "size=4m") as there:
        hosts.account.owns(there)
        ended = try_push(hosts, source, there)
        assert ended.status == GUARD, ended
        for path in there.iterdir():
            if path.name.startswith("file"):
                assert path.read_bytes() == (source / path.name).read_bytes()
        arrived = set(os.listdir(there))
        for number in range(8):
            if f"file {number}" not in arrived:
                os.unlink(source / f"file {number}")
        push(hosts, source, there, "--delete")
        assert {p.name for p in there.iterdir()} == {p.name for p in source.iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs privileges")
def test_what_was_deleted_in_a_full_destination_makes_room_for_the_next_run(hosts: Hosts, place: Path) -> None:
    source = place / "source"
    with TreeBuilder(source) as tree:
        tree.file(b"new", tree.noise(3 << 20))
    hosts.account.owns(source)
    with mounted(place / "mounted", "size=4m,mode=777") as there:
        (there / "old").write_bytes(b"o" * (3 << 20))
        hosts.account.owns(there)
        ended = try_push(hosts, source, there, "--delete")
        assert ended.status in (0, GUARD), ended
        push(hosts, source, there, "--delete")
        assert {p.name for p in there.iterdir()} == {"new"}
        assert (there / "new").read_bytes() == (source / "new").read_bytes()
