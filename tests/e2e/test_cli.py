"""The command line over real agents: exit statuses, interruption, time limits, detached jobs, pairs."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.helpers.agents import eventually
from tests.helpers.oracle import assert_same
from tests.helpers.pushes import build, push, rows, try_push
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts


@pytest.fixture
def slow(hosts: Hosts, place: Path) -> Path:
    """A source large enough to be in the middle of."""
    with TreeBuilder(place / "source") as tree:
        block = tree.noise(1 << 20)
        for number in range(3):
            with open(tree.at(b"large %d" % number), "wb") as file:
                file.writelines(block for _ in range(128))
    hosts.account.owns(place)
    return place / "source"


def test_usage(hosts: Hosts) -> None:
    for words in (["push"], ["push", "a", "b", "c"], ["push", "a", "b", "--no-such"], ["pusj"], ["push", "x:a", "y:b"]):
        ended = hosts.here.run(*words)
        assert ended.status == 2, (words, ended)
        assert ended.err.startswith("syncctl: ")


def test_an_unknown_host_is_unreachable(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "source")
    ended = hosts.here.run("push", place / "source", "no-such-host.invalid:there")
    assert ended.status == 4, ended
    assert "no-such-host.invalid" in ended.err


def test_status_and_stop_start_no_agent(hosts: Hosts, place: Path) -> None:
    hosts.here.stop()
    assert hosts.here.run("status").status == 3
    assert hosts.here.run("stop").status == 3
    assert not hosts.here.processes()
    build(hosts, place / "source")
    push(hosts, place / "source", place / "destination")
    assert json.loads(hosts.here.ok("status", "--json"))["agent"]["pid"]


def test_json_tells_of_progress_items_and_the_result(hosts: Hosts, place: Path) -> None:
    build(hosts, place / "source")
    said = rows(push(hosts, place / "source", place / "destination", "--json", "--itemize"))
    kinds = [row["t"] for row in said]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "result"
    items = [item for row in said if row["t"] == "items" for item in row["items"]]
    assert {item["change"][:2] for item in items} >= {"cd", "<f"}
    found = said[-1]
    assert found["stats"]["files"] == sum(1 for item in items if item["change"].startswith("<f"))
    assert found["wire_sent"] > found["stats"]["literal"]


def test_a_time_limit(hosts: Hosts, slow: Path, place: Path) -> None:
    ended = try_push(hosts, slow, place / "destination", "--timeout", "0.05")
    assert ended.status == 5, ended
    push(hosts, slow, place / "destination")
    assert_same(slow, place / "destination")


@pytest.mark.fault("E8")
def test_an_interrupted_push_leaves_whole_files_and_goes_on_later(hosts: Hosts, slow: Path, place: Path) -> None:
    destination = place / "destination"
    process = hosts.here.popen("push", "--json", slow, hosts.remote(destination))
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["t"] == "progress":
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=30)
    assert process.returncode in (1, 130), (process.returncode, err)
    if destination.exists():
        for name in os.listdir(destination):
            if not name.endswith(".sync~"):
                assert (destination / name).read_bytes() == (slow / name).read_bytes()
    push(hosts, slow, destination)
    assert_same(slow, destination)


@pytest.mark.fault("E8")
def test_a_detached_job_goes_on_without_its_command(hosts: Hosts, slow: Path, place: Path) -> None:
    printed = hosts.here.ok("push", "--detach", slow, hosts.remote(place / "destination"))
    number = int(printed.split()[1])

    def state() -> str:
        jobs = json.loads(hosts.here.ok("status", "--json"))["jobs"]
        return str(next(job["state"] for job in jobs if job["job"] == number))

    eventually("the job is done", lambda: state() == "done")
    assert_same(slow, place / "destination")


def test_pairs_by_name_by_path_and_from_within(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source)
    sub = tree.file(b"sub/file", b"1")
    hosts.account.owns(source)
    hosts.here.ok("add", "site", source, hosts.remote(destination), "--mirror", "--exclude", "*.tmp")
    assert "site" in hosts.here.ok("list")
    try:
        hosts.here.ok("sync", "site")
        assert_same(source, destination)
        tree.file(sub, b"22")
        tree.file(b"sub/left.tmp", b"out")
        hosts.account.owns(source)
        hosts.here.ok("sync", cwd=source / "sub")
        assert (destination / "sub/file").read_bytes() == b"22"
        assert not (destination / "sub/left.tmp").exists()
        os.unlink(source / "sub/left.tmp")
        os.unlink(tree.at(sub))
        hosts.here.ok("sync", source / "sub")
        assert_same(source, destination)
    finally:
        hosts.here.ok("remove", "site")
    assert hosts.here.run("sync", "site").status == 2


def test_two_writers_take_turns_at_one_destination(hosts: Hosts, place: Path) -> None:
    first, second, destination = place / "first", place / "second", place / "destination"
    for number, path in enumerate((first, second)):
        with TreeBuilder(path, number) as tree:
            for name in range(50):
                tree.file(b"file %d" % name, b"%d" % number * 70_000)
        hosts.account.owns(path)
    ended = []
    threads = [
        threading.Thread(target=lambda path=path: ended.append(try_push(hosts, path, destination)))
        for path in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.status for one in ended} <= {0, 6}, ended
    assert 0 in {one.status for one in ended}
    assert len({(destination / f"file {name}").read_bytes() for name in range(50)}) == 1
