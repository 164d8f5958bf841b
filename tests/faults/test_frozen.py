"""Processes that stop without ending: noticed in time, everything else answers meanwhile, and the job goes on."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.hosts import Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.sshd import SSHD, command_of
from tests.helpers.trouble import (
    TwoVersions,
    agent_pid,
    healthy,
    read_result,
    run_job,
    ssh_children,
    strike,
    victims,
    within,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(180)]

DEAD_AFTER_S = 2
SLACK_S = 2.0
"""Over DEAD_AFTER_S, on a machine that has other things to do."""

JOB_S = 90


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with (
        short_directory() as directory,
        two_hosts(this_account(), directory, ssh=f"dead_after_s = {DEAD_AFTER_S}") as made,
    ):
        yield made


@pytest.fixture(scope="module")
def tree() -> Iterator[TwoVersions]:
    with short_directory() as directory:
        yield TwoVersions(directory, 11, small=60, large_mib=40)


def link_state(hosts: Hosts) -> str:
    """Of the link to the box, as status has it; status has to answer at once."""
    begun = time.monotonic()
    said = json.loads(hosts.here.ok("status", "--json"))
    assert time.monotonic() - begun < 5
    states = [link["state"] for link in said["links"]]
    return str(states[0]) if states else "none"


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """They are stopped within."""
    assert pids
    strike(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        strike(pids, signal.SIGCONT)


def begin(hosts: Hosts, tree: TwoVersions, verb: str) -> subprocess.Popen[bytes]:
    """Start a job over a warm link, and wait until it is in the middle of a file."""
    tree.reset()
    warm = run_job(hosts.here, "push", tree.v1, f"box:{tree.destination}")
    assert warm.status == 0, warm
    pair = (tree.v2, f"box:{tree.destination}") if verb == "push" else (f"box:{tree.v2}", tree.destination)
    process = hosts.here.popen(verb, *pair, "--delete", "--json")
    within(20, lambda: bool(our_files(tree.destination)) or process.poll() is not None, lambda: "it never began")
    return process


def end(hosts: Hosts, tree: TwoVersions, process: subprocess.Popen[bytes], *, resumed: bool) -> None:
    """The job ended as it may; a further one leaves equal trees."""
    try:
        ended = read_result(*output_of(process))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    tree.check()
    print(f"status {ended.status} {ended.code}, {ended.result.get('epochs')} epochs")
    if resumed:
        assert ended.status == 0, ended
    assert ended.status in (0, 4), ended
    if ended.status == 4:
        assert ended.code in ("link-lost", "unreachable", "remote-failed"), ended
    again = run_job(hosts.here, "push", tree.v2, f"box:{tree.destination}", "--delete")
    assert again.status == 0, again
    assert_same(tree.v2, tree.destination)
    assert not tree.leftovers()
    healthy(hosts.here, hosts.there)


def output_of(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=JOB_S)
    return process.returncode, out, err


def notice_s(hosts: Hosts) -> float:
    """How long until the link is known to be lost; status answers all the while."""
    return within(DEAD_AFTER_S + SLACK_S, lambda: link_state(hosts) != "up", lambda: hosts.here.ok("status"))


@pytest.mark.fault("F2")
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_the_agent_there_stops(hosts: Hosts, tree: TwoVersions, verb: str) -> None:
    process = begin(hosts, tree, verb)
    with stopped([agent_pid(hosts.there)]):
        print(f"noticed after {notice_s(hosts):.1f} s")
    end(hosts, tree, process, resumed=False)


@pytest.mark.fault("F2")
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_the_way_stops(hosts: Hosts, tree: TwoVersions, verb: str) -> None:
    """Another connection is made, and the job goes on over it while the old one is still frozen."""
    process = begin(hosts, tree, verb)
    with stopped(victims(hosts, "sshd")):
        print(f"noticed after {notice_s(hosts):.1f} s")
        end(hosts, tree, process, resumed=True)


@pytest.mark.fault("F2")
def test_our_ssh_stops(hosts: Hosts, tree: TwoVersions) -> None:
    """It is ended, and a new one made."""
    process = begin(hosts, tree, "push")
    old = ssh_children(hosts.here)
    with stopped(old):
        print(f"noticed after {notice_s(hosts):.1f} s")
        end(hosts, tree, process, resumed=True)
        within(10, lambda: not any(map(command_of, old)), lambda: [command_of(pid) for pid in old])


@pytest.mark.fault("G9")
def test_a_reader_of_events_stops(hosts: Hosts, tree: TwoVersions) -> None:
    """Nobody waits for it; what it missed is told when it goes on."""
    tree.reset()
    reader = hosts.here.popen("events", "--json")
    try:
        assert reader.stdout is not None
        first = json.loads(reader.stdout.readline())
        with stopped([reader.pid]):
            for _ in range(40):
                ended = run_job(hosts.here, "push", tree.v1, f"box:{tree.destination}", timeout=20)
                assert ended.status == 0, ended
            healthy(hosts.here, hosts.there)
        numbers = [first["seq"]] if first["t"] == "event" else []
        while len(numbers) < 80:
            line = reader.stdout.readline()
            assert line, "it was disconnected"
            event = json.loads(line)
            if event["t"] == "event":
                numbers.append(event["seq"])
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    finally:
        reader.kill()
        reader.communicate()


@pytest.mark.fault("G9")
def test_a_reader_of_items_stops(hosts: Hosts, tree: TwoVersions, tmp_path: Path) -> None:
    """Its job goes on to its end; other commands are not held up."""
    tree.reset()
    process = hosts.here.popen("push", tree.v2, f"box:{tree.destination}", "--delete", "--itemize", "--json")
    with stopped([process.pid]):
        other = run_job(hosts.here, "push", tree.v1, f"box:{tmp_path}", timeout=30)
        assert other.status == 0, other
    end(hosts, tree, process, resumed=True)
