"""Deletion: on proof only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import assert_same, snapshot
from tests.helpers.pushes import push, try_push
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts


def grown(hosts: Hosts, path: Path) -> TreeBuilder:
    """A tree in which ``closed`` can be made unreadable."""
    with TreeBuilder(path) as tree:
        for name in (b"closed/in", b"closed/deeper/in", b"open/in", b"top"):
            tree.file(name, name)
    hosts.account.owns(path)
    return tree


@pytest.mark.fault("A5")
def test_nothing_goes_under_a_directory_that_cannot_be_read(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = grown(hosts, source)
    push(hosts, source, destination)
    for name in (b"closed/extra", b"open/extra", b"extra"):
        (destination / os.fsdecode(name)).write_bytes(b"extra")
    hosts.account.owns(destination)
    os.unlink(tree.at(b"closed/in"))
    os.chmod(tree.at(b"closed"), 0o000)
    ended = try_push(hosts, source, destination, "--delete")
    os.chmod(tree.at(b"closed"), 0o755)
    left = set(snapshot(destination))
    assert b"open/extra" not in left
    assert b"extra" not in left
    if hosts.account.uid == 0:  # to whom nothing is closed
        assert ended.status == 0
        assert b"closed/extra" not in left
    else:
        assert ended.status == 1
        assert "closed" in ended.err
        assert {b"closed/extra", b"closed/in", b"closed/deeper/in"} <= left
        push(hosts, source, destination, "--delete")
        assert_same(source, destination)


@pytest.mark.fault("A5")
def test_a_file_that_cannot_be_read_is_kept_there(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = grown(hosts, source)
    push(hosts, source, destination)
    tree.file(b"open/in", b"changed", mode=0o000)
    hosts.account.owns(source)
    ended = try_push(hosts, source, destination, "--delete")
    if hosts.account.uid == 0:
        assert ended.status == 0
    else:
        assert ended.status == 1
        assert "open/in" in ended.err
        assert (destination / "open/in").read_bytes() == b"open/in"


def test_a_read_only_directory_goes_like_any_other(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = grown(hosts, source)
    push(hosts, source, destination)
    os.unlink(tree.at(b"open/in"))
    inner = destination / "extra" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"x")
    inner.chmod(0o555)
    hosts.account.owns(destination)
    push(hosts, source, destination, "--delete")
    assert_same(source, destination)


def test_max_delete(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    grown(hosts, source)
    push(hosts, source, destination)
    for number in range(5):
        (destination / f"extra {number}").write_bytes(b"x")
    hosts.account.owns(destination)
    before = snapshot(destination)
    ended = try_push(hosts, source, destination, "--delete", "--max-delete", "4")
    assert ended.status == 6, ended
    assert "5" in ended.err
    assert snapshot(destination) == before
    push(hosts, source, destination, "--delete", "--max-delete", "5")
    assert_same(source, destination)


def test_an_empty_source_empties_nothing_without_force(hosts: Hosts, place: Path) -> None:
    source, destination, empty = place / "source", place / "destination", place / "empty"
    grown(hosts, source)
    push(hosts, source, destination)
    TreeBuilder(empty)
    hosts.account.owns(empty)
    before = snapshot(destination)
    ended = try_push(hosts, empty, destination, "--delete")
    assert ended.status == 6, ended
    assert "empty" in ended.err
    assert snapshot(destination) == before
    push(hosts, empty, destination, "--delete", "--force")
    assert set(snapshot(destination)) == {b""}


def test_a_whole_tree_goes(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    grown(hosts, source)
    with TreeBuilder(destination) as there:
        there.populate().awkward()
    hosts.account.owns(destination)
    push(hosts, source, destination, "--delete", "--force")
    assert_same(source, destination)
