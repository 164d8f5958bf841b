"""A large pair: what a sync costs does not grow with it.  SYNCCTL_LARGE is how many files (100000, say); unset, it is
left out.
"""

from __future__ import annotations

import os
import random
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.pairs import Pair, pair_of
from tests.helpers.sshd import SSHD
from tests.helpers.trouble import healthy, within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = int(os.environ.get("SYNCCTL_LARGE", 0))
EACH = 100
"""Files in a directory."""

WIRE_MAX = 8_000
RESTARTED_MAX = 200_000
"""Bytes both ways: of a sync of one change, and of the first one after both agents were restarted."""

ARRIVES_S = 20.0

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(not LARGE, reason="SYNCCTL_LARGE is not set"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture(scope="module")
def pair(hosts: Hosts) -> Iterator[Pair]:
    with short_directory() as place:
        for number in range(LARGE // EACH):
            directory = place / f"source/d{number // EACH}/e{number}"
            directory.mkdir(parents=True)
            for name in range(EACH):
                (directory / f"f{name}").write_bytes(b"%d" % name * 10)
        with pair_of(hosts.here, place, "--mirror", "--watch") as made:
            made.flush()
            yield made


def has(path: Path, content: bytes) -> bool:
    """Whether that is in it."""
    return path.read_bytes() == content


def wire(pair: Pair) -> int:
    """Bytes of one sync, both ways."""
    ended = pair.sync()
    assert ended.status == 0, ended
    return int(ended.result["wire_sent"]) + int(ended.result["wire_received"])


def test_one_change_costs_one_change(hosts: Hosts, pair: Pair) -> None:
    chosen = random.Random(1)
    directories = sorted(pair.source.glob("*/*"))
    pair.flush()
    assert wire(pair) < WIRE_MAX
    for number in range(20):
        path = chosen.choice(directories) / f"f{chosen.randrange(EACH)}"
        path.write_bytes(b"edit %d" % number)
        there = pair.destination / path.relative_to(pair.source)
        within(ARRIVES_S, partial(has, there, b"edit %d" % number), pair.info)
        there.write_bytes(b"by hand")
        assert wire(pair) < WIRE_MAX
    chosen.choice(directories).rename(pair.source / "moved")
    shutil.rmtree(chosen.choice(directories[:5]))
    assert wire(pair) < WIRE_MAX
    pair.same()
    healthy(hosts.here, hosts.there)


def test_agents_that_are_restarted(hosts: Hosts, pair: Pair) -> None:
    pair.flush()
    hosts.stop()
    first = min(pair.source.glob("*/*"))
    (first / "new").write_bytes(b"while nobody watched")
    hosts.here.ok("start")
    took = wire(pair)
    print(f"{took} bytes")
    pair.same()
    assert took < RESTARTED_MAX
