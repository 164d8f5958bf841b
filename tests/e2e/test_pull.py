"""Pulls over a real link, and syncs between two places of one host, as root and as an ordinary user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.helpers.oracle import assert_same, snapshot
from tests.helpers.pushes import build, pull, push, result
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Agent, Hosts


def test_first_again_and_changed(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 100, awkward=True)
    pull(hosts, source, destination)
    assert_same(source, destination)
    before = snapshot(destination)
    assert pull(hosts, source, destination).startswith("up to date")
    assert snapshot(destination) == before
    tree.file(b"alpha new", b"new")
    os.unlink(tree.at(b"zero"))
    tree.settle()
    hosts.account.owns(source)
    pull(hosts, source, destination, "--delete")
    assert_same(source, destination)


def test_a_profile_comes_from_both_ends(hosts: Hosts, place: Path) -> None:
    source = place / "source"
    build(hosts, source, 104)
    for run, sender, receiver in ((push, "here", "there"), (pull, "there", "here")):
        told = result(run(hosts, source, place / sender, "--profile", "--json"))
        assert {"walk", "read", "socket"} <= set(told["profile"][sender]["stages"])
        assert {"compare", "write", "metadata", "rename"} <= set(told["profile"][receiver]["stages"])
        assert 0 < told["speedup"] < 100
        assert_same(source, place / sender)
    assert "rename" in run(hosts, source, place / "third", "--profile")


def test_there_and_back_again(hosts: Hosts, place: Path) -> None:
    first, there, back = place / "first", place / "there", place / "back"
    build(hosts, first, 101, awkward=True)
    push(hosts, first, there)
    pull(hosts, there, back)
    assert_same(first, back)


def test_a_dry_run_beside_the_source_is_no_overlap(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "source", 103)
    for run in (pull, push):
        assert run(hosts, place / "source", place / "absent", "--dry-run").startswith("dry run")
    assert not (place / "absent").exists()


def test_one_file(hosts: Hosts, place: Path) -> None:
    with TreeBuilder(place / "source") as tree:
        tree.file(b"one", tree.noise(3 << 20), mode=0o600)
    hosts.account.owns(place)
    pull(hosts, place / "source/one", place / "two")
    assert_same(place / "source/one", place / "two")


def test_a_change_within_a_big_file_goes_as_a_delta(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 102)
    content = bytearray(tree.noise(12 << 20))
    tree.file(b"big", bytes(content))
    hosts.account.owns(source)
    pull(hosts, source, destination)
    content[6 << 20 : 6 << 20] = b"inserted"
    tree.file(b"big", bytes(content))
    hosts.account.owns(source)
    stats = result(pull(hosts, source, destination, "--json"))["stats"]
    assert stats["literal"] < 1 << 20
    assert_same(source, destination)


def test_relative_to_the_home_there(hosts: Hosts, place: Path) -> None:
    build(hosts, hosts.there.home / "pulled", 103)
    hosts.here.ok("pull", "box:pulled", place / "destination")
    assert_same(hosts.there.home / "pulled", place / "destination")


def test_here_to_here(agent: Agent, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source, 104) as tree:
        tree.populate().awkward()
    agent.account.owns(source)
    for verb in ("push", "pull"):
        agent.ok(verb, source, destination)
        assert_same(source, destination)
    tree.file(b"beta new", b"new")
    os.unlink(tree.at(b"zero"))
    tree.settle()
    agent.account.owns(source)
    agent.ok("push", "--delete", source, destination)
    assert_same(source, destination)


def test_operands_are_relative_to_where_one_is(agent: Agent, place: Path) -> None:
    with TreeBuilder(place / "a:b", 105) as tree:
        tree.file(b"file", b"content")
    agent.account.owns(place)
    agent.ok("push", "./a:b/", "copy/", cwd=place)
    assert_same(place / "a:b", place / "copy")
