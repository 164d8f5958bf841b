"""A directory at the destination turns into a symlink and back all the time: nothing is ever written through it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.canary import Canary, flipping
from tests.helpers.hosts import our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import agent_pid, healthy, run_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Hosts

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2"),
]

RACE_S = float(os.environ.get("SYNCCTL_RACE_S", "1"))
PLACES = ("sub", "sub/inner", "sub/inner/most")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


def build(top: Path, version: int, *, extra: bool) -> None:
    """Same names in every version; ``extra`` ones would be deleted."""
    with TreeBuilder(top, version) as tree:
        for place in PLACES:
            for number in range(12):
                tree.file(f"{place}/file{number}".encode(), tree.noise(3000))
            if version % 2 or extra:
                tree.file(f"{place}/now and then{version % 2}".encode())
                tree.dir(f"{place}/dir{version % 2}".encode())
            tree.dir(place.encode(), mode=0o755 if version % 2 else 0o750)


@pytest.mark.fault("D1", "D2", "D3", "D4")
@pytest.mark.parametrize("component", PLACES)
def test_nothing_goes_through(hosts: Hosts, component: str) -> None:
    with short_directory() as directory:
        sources = [directory / "src0", directory / "src1"]
        for version, source in enumerate(sources):
            build(source, version, extra=False)
        destination, outside = directory / "dst", directory / "outside"
        build(outside, 7, extra=True)
        first = run_job(hosts.here, "push", sources[0], f"box:{destination}")
        assert first.status == 0, first
        pids = agent_pid(hosts.here), agent_pid(hosts.there)
        link = directory / "link"
        link.symlink_to(outside / component)
        canary = Canary(outside)
        statuses: list[int] = []
        with flipping(destination / component, link, outside / component):
            until = time.monotonic() + RACE_S
            while time.monotonic() < until:
                for source in sources[::-1]:
                    ended = run_job(hosts.here, "push", source, f"box:{destination}", "--delete", timeout=30)
                    assert ended.status in (0, 1, 6), ended
                    statuses.append(ended.status)
        print(f"{len(statuses)} pushes, statuses {sorted(set(statuses))}")
        assert (agent_pid(hosts.here), agent_pid(hosts.there)) == pids
        healthy(hosts.here, hosts.there)
        # Either of the two may stand at the name by now; the next run puts it right.
        for _ in range(2):
            last = run_job(hosts.here, "push", sources[0], f"box:{destination}", "--delete")
        assert last.status == 0, last
        assert_same(sources[0], destination)
        assert not our_files(destination)
        canary.check()
