"""Bulk over a long and fast link: several connections, each paced, and none of them waits for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import wan
from tests.helpers.agents import eventually
from tests.helpers.hosts import short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.pushes import link_rtt_us, pull, push
from tests.helpers.sshd import SSHD, Sshd
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Hosts

MIB = 1 << 20
ROUNDS = 4


@pytest.fixture(scope="module")
def far_hosts() -> Iterator[tuple[Hosts, Path]]:
    if SSHD is None:
        pytest.skip("sshd is not installed")
    with short_directory() as directory, two_hosts(this_account(), directory) as hosts:
        assert isinstance(hosts.sshd, Sshd)
        with wan.between(hosts.sshd, wan.Wan(40, 1000), directory):
            (directory / "warm").mkdir()
            push(hosts, directory / "warm", directory / "up")
            eventually("the link is measured", lambda: (link_rtt_us(hosts) or 0) > 10_000)
            yield hosts, directory
            hosts.stop()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", ["push", "pull"])
def test_it_arrives(far_hosts: tuple[Hosts, Path], way: str) -> None:
    hosts, directory = far_hosts
    run = push if way == "push" else pull
    source = directory / f"source of {way}"
    with TreeBuilder(source) as tree:
        for number in range(9):
            tree.file(b"large%d" % number, tree.noise(2 * MIB))
        for number in range(200):
            tree.file(b"%d/small%d" % (number % 7, number), tree.noise(4096))
    for number in range(ROUNDS):
        destination = directory / f"{way} {number}"
        run(hosts, source, destination)
        assert_same(source, destination)
