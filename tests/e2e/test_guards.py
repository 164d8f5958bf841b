"""What is refused before anything is changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import assert_same, snapshot
from tests.helpers.pushes import build, push, try_push
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts

GUARD = 6


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
