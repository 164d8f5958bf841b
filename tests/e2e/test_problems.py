"""One path's trouble never ends a sync: it is named, the rest goes on, and the status is 1."""

from __future__ import annotations

import base64
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import assert_same, snapshot
from tests.helpers.pushes import push, rows, try_push
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts


@pytest.mark.fault("A5")
def test_unreadable_files_are_named(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        tree.populate()
        tree.file(b"secret \xff", b"x", mode=0o000)
        tree.file(b"big secret", b"x" * (5 << 20), mode=0o000)
        tree.dir(b"closed")
        tree.file(b"closed/in", b"x")
    hosts.account.owns(source)
    os.chmod(tree.at(b"closed"), 0o300)
    ended = try_push(hosts, source, destination)
    os.chmod(tree.at(b"closed"), 0o755)
    if hosts.account.uid == 0:
        assert ended.status == 0
        return
    assert ended.status == 1
    assert "secret \\#377: could not be read: Permission denied" in ended.err
    assert "big secret: could not be read: Permission denied" in ended.err
    assert "closed: directory could not be read" in ended.err
    arrived = snapshot(destination)
    missing = set(snapshot(source)) - set(arrived)
    assert missing == {b"secret \xff", b"big secret", b"closed/in"}


def test_problems_in_json(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        tree.file(b"one", b"x")
        tree.file(b"two \xff", b"x")
    with TreeBuilder(destination) as there:
        there.file(b"one/inside", b"x")
        there.file(b"two \xff/inside", b"x")
    hosts.account.owns(place)
    ended = try_push(hosts, source, destination, "--json")
    assert ended.status == 1
    said = rows(ended.out)
    assert next(row for row in said if row["t"] == "result")["problem_count"] == 2
    problems = [problem for row in said if row["t"] == "problems" for problem in row["problems"]]
    assert {problem["code"] for problem in problems} == {"in-the-way"}
    assert sorted(problem.get("path", "") for problem in problems) == ["", "one"]
    assert [base64.b64decode(problem["path_b64"]) for problem in problems if "path_b64" in problem] == [b"two \xff"]


@pytest.mark.fault("A11")
def test_special_files_are_left_out(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        tree.file(b"fine", b"x")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
    hosts.account.owns(source)
    push(hosts, source, destination, "--delete")
    assert_same(source, destination)
    assert set(os.listdir(destination)) == {"fine"}


def test_special_files_at_the_destination_give_way(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        tree.file(b"was a pipe", b"x")
    TreeBuilder(destination)
    os.mkfifo(destination / "was a pipe")
    os.mkfifo(destination / "extra pipe")
    hosts.account.owns(place)
    push(hosts, source, destination, "--delete")
    assert_same(source, destination)


@pytest.mark.fault("C9")
def test_a_directory_in_the_way_of_a_file_stays_without_delete(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        tree.file(b"name", b"a file now")
        tree.file(b"other", b"x")
    with TreeBuilder(destination) as there:
        there.file(b"name/inside", b"precious")
    hosts.account.owns(place)
    ended = try_push(hosts, source, destination)
    assert ended.status == 1
    assert "name" in ended.err
    assert (destination / "name/inside").read_bytes() == b"precious"
    assert (destination / "other").read_bytes() == b"x"
    push(hosts, source, destination, "--delete")
    assert_same(source, destination)


@pytest.mark.fault("A1", "A2", "A3")
def test_files_that_change_while_they_are_read(hosts: Hosts, place: Path) -> None:
    """Whatever happens meanwhile: each file there is some state that it had here, and the next sync is complete."""
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        for number in range(4):
            tree.file(b"growing %d" % number, b"g" * (8 << 20))
            tree.file(b"shrinking %d" % number, b"s" * (8 << 20))
        for number in range(300):
            tree.file(b"vanishing/%03d" % number, b"v" * 20_000)
            tree.file(b"steady/%03d" % number, b"%d" % number)
    hosts.account.owns(source)
    over = threading.Event()

    def disturb() -> None:
        for number in range(300):
            if over.is_set():
                return
            os.unlink(source / f"vanishing/{299 - number:03}")
            with (source / f"growing {number % 4}").open("ab") as file:
                file.write(b"g" * 1000)
            os.truncate(source / f"shrinking {number % 4}", (8 << 20) - 1000 * (number + 1))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        ended = try_push(hosts, source, destination)
    finally:
        over.set()
        thread.join()
    assert ended.status in (0, 1), ended
    for name in os.listdir(destination):
        if name.startswith(("growing", "shrinking")):
            assert set((destination / name).read_bytes()) == {ord(name[0])}
    for number in range(300):
        assert (destination / f"steady/{number:03}").read_bytes() == b"%d" % number
    push(hosts, source, destination, "--delete")
    assert_same(source, destination)


def test_a_read_only_directory_takes_what_is_new(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source) as tree:
        tree.file(b"dir/file", b"new")
        tree.file(b"beside", b"new")
    with TreeBuilder(destination, 1) as there:
        there.file(b"dir/file", b"old")
        there.dir(b"dir", mode=0o555)
    hosts.account.owns(place)
    push(hosts, source, destination)
    assert_same(source, destination)
