"""The power goes in the middle of a job, and both agents with it; when it is back, the next run makes it good.

What each file system keeps of a cut is in test_power_cuts.  SYNCCTL_SEEDS sets how many moments are tried (2 unless it
is set).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.helpers import disks
from tests.helpers.hosts import Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import (
    STATUSES,
    agent_pid,
    contents,
    healthy,
    read_result,
    run_job,
    seeds,
    strike,
    torn,
    within,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(180)]

FILES, DIRECTORIES = 3_000, 20
JOB_S = 60


class Place(NamedTuple):
    hosts: Hosts
    source: Path
    empty: Path
    """An image."""
    at: Path
    seconds: float


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with short_directory() as directory, two_hosts(this_account(), directory) as hosts:
        source, empty, at = directory / "source", directory / "empty", directory / "mnt"
        with TreeBuilder(source, 3) as tree:
            tree.populate(files=FILES, dirs=DIRECTORIES)
            tree.file(b"large", tree.noise(9 << 20))
        disks.make("ext4", empty)
        with disks.mounted(disks.copy(empty, directory / "clean"), at):
            assert run_job(hosts.here, "push", "--dry-run", source, f"box:{at / 'to'}").status == 0  # makes the link
            begun = time.monotonic()
            assert run_job(hosts.here, "push", source, f"box:{at / 'to'}").status == 0
            seconds = time.monotonic() - begun
            hosts.there.ok("stop")  # it watches the root
        yield Place(hosts, source, empty, at, seconds)


@pytest.mark.fault("E3")
@pytest.mark.parametrize("seed", seeds(2))
def test_the_power_goes_there(place: Place, seed: int) -> None:
    hosts, destination = place.hosts, place.at / "to"
    moment = random.Random(seed).uniform(0.0, 1.2) * place.seconds
    image = disks.copy(place.empty, place.empty.with_name("cut"))
    new = contents(place.source)
    with disks.mounted(image, place.at):
        if not disks.can_shut_down(place.at):
            pytest.skip("ext4 of this kernel has no FS_IOC_SHUTDOWN")
        destination.mkdir()
        os.sync()
        fd = os.open(place.at, os.O_RDONLY)
        assert run_job(hosts.here, "push", "--dry-run", place.source, f"box:{destination}").status == 0
        process = hosts.here.popen("push", place.source, f"box:{destination}", "--json")
        within(JOB_S, lambda: bool(os.listdir(destination)), lambda: "it never began")
        threading.Event().wait(moment)
        disks.cut_power(fd)
        os.close(fd)
        strike([agent_pid(hosts.here), agent_pid(hosts.there)])
        out, err = process.communicate(timeout=JOB_S)
        ended = read_result(process.returncode, out, err)
        assert ended.status in STATUSES, ended
        assert "Traceback" not in ended.err, ended
        assert ended.status == 0 or ended.error, "it ended without a word"
    acknowledged = max((line["counters"].get("files", 0) for line in progress(out)), default=0)
    with disks.mounted(image, place.at):
        found = contents(destination)
        assert not torn(found, {}, new)
        landed = sum(kind == "file" for kind, _ in found.values())
        left = len(our_files(destination))
        said = f"{acknowledged} acknowledged, {landed} there, {left} temporary"
        print(f"seed {seed}: cut after {moment:.2f} s, {ended.code or 'done'}: {said}")
        assert landed >= acknowledged
        again = run_job(hosts.here, "push", place.source, f"box:{destination}")
        assert again.status == 0, again
        assert_same(place.source, destination)
        assert not our_files(destination)
        healthy(hosts.here, hosts.there)
        hosts.there.ok("stop")  # it watches the root


def progress(out: bytes) -> list[dict[str, Any]]:
    """Lines that say how far it is."""
    lines = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    return [line for line in lines if line["t"] == "progress"]
