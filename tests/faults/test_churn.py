"""Random operations in a watched pair, and agents killed meanwhile: trees are equal after a flush.

SYNCCTL_SEEDS sets how many seeds are tried (3, and 2 with kills, unless it is set).
"""

from __future__ import annotations

import os
import random
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.helpers.churn import Churn
from tests.helpers.hosts import Agent, Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.pairs import Pair, pair_of
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import agent_pid, healthy, seeds, strike, victims

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(180)]

STEPS, ROUNDS = 1500, 3
"""Operations of a seed, and how often the trees are held against each other meanwhile."""

KILLS = 4
"""Of one seed."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def pair(hosts: Hosts) -> Iterator[Pair]:
    """Watched, and something in it."""
    with short_directory() as place:
        with TreeBuilder(place / "source", 1) as tree:
            tree.populate(100, 20)
        with pair_of(hosts.here, place, "--mirror", "--watch") as made:
            unguarded(hosts.here)
            made.flush()
            yield made


def unguarded(agent: Agent) -> None:
    """More than half of the newest pair may go at once, as it does when a large directory is moved out."""
    with (agent.home / "config.toml").open("a") as config:
        config.write("max_delete = 1000000\n")


def linked(root: Path) -> list[list[str]]:
    """Names below ``root`` that are one file, together."""
    found = defaultdict(list)
    for top, _, names in os.walk(root):
        for name in names:
            path = os.path.join(top, name)
            found[os.lstat(path).st_ino].append(os.path.relpath(path, root))
    return sorted(sorted(names) for names in found.values() if len(names) > 1)


def equal(pair: Pair, seed: int) -> None:
    pair.flush()
    try:
        pair.same()
        assert linked(pair.source) == linked(pair.destination)
        assert not our_files(pair.destination)
    except AssertionError:
        print(f"seed {seed}\n{pair.info()}\n{pair.agent.log_tail()}")
        raise


@pytest.mark.fault("W6")
@pytest.mark.parametrize("seed", seeds(3))
def test_churn(hosts: Hosts, pair: Pair, seed: int) -> None:
    churn = Churn(pair.source, seed)
    for _ in range(ROUNDS):
        churn.run(STEPS // ROUNDS, pause_s=0.05)
        equal(pair, seed)
    healthy(hosts.here, hosts.there)


@pytest.mark.parametrize("seed", seeds(1))
def test_churn_at_both_ends(hosts: Hosts, seed: int) -> None:
    """What somebody did to the destination is undone by the next sync."""
    with short_directory() as place:
        with TreeBuilder(place / "source", 1) as tree:
            tree.populate(100, 20)
        with pair_of(hosts.here, place, "--mirror") as pair:
            unguarded(hosts.here)
            assert pair.sync().status == 0
            churn, there = Churn(pair.source, seed), Churn(pair.destination, seed + 1, place / "there")
            for _ in range(2 * ROUNDS):
                churn.run(20)
                there.run(60)
                ended = pair.sync()
                assert ended.status == 0, f"seed {seed}: {ended}"
                pair.same()
    healthy(hosts.here, hosts.there)


@pytest.mark.parametrize("seed", seeds(2))
def test_churn_and_agents_that_are_killed(hosts: Hosts, pair: Pair, seed: int) -> None:
    """Each comes back by itself, or by the next command, and knows what it does not know."""
    churn, moments = Churn(pair.source, seed), random.Random(seed)
    working = threading.Thread(target=churn.run, args=(STEPS, 0.05))
    working.start()
    try:
        for _ in range(KILLS):
            threading.Event().wait(moments.uniform(0.05, 0.6))
            role = moments.choice(("here", "there"))
            print(f"seed {seed}: kill {role} {agent_pid(hosts.here)}")
            strike(victims(hosts, role))
            hosts.here.ok("start")
    finally:
        working.join()
    equal(pair, seed)
    healthy(hosts.here, hosts.there)
