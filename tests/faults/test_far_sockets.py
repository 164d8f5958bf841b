"""The far agent's socket is missing, or somebody else answers there: a forwarded connection succeeds all the same."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.fault_case import FaultCase
from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.sshd import SSHD
from tests.helpers.trouble import agent_pid, strike, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")

ENDS_S = 20.0
"""O7: a handshake that nobody answers, and the attempts after it."""

MENDED_S = 5.0
"""An agent looks for its sockets every 10 s, and when it is asked to."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def case(hosts: Hosts) -> Iterator[FaultCase]:
    with short_directory() as place:
        made = FaultCase(hosts, place)
        made.build({"file": b"1", "d/other": b"1"})
        yield made
        made.finish()


@contextlib.contextmanager
def silent(path: Path) -> Iterator[None]:
    """A listener whose connections succeed, and are never answered."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(64)
        yield


@contextlib.contextmanager
def nobody(path: Path) -> Iterator[None]:
    """A socket that was left by somebody who is gone."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    yield


WAYS: dict[str, Callable[[Path], contextlib.AbstractContextManager[object]]] = {
    "missing": contextlib.nullcontext,
    "left": nobody,
    "silent": silent,
}


@pytest.mark.fault("F12")
@pytest.mark.parametrize("way", WAYS)
def test_the_far_socket(hosts: Hosts, case: FaultCase, way: str) -> None:
    """A clear word in time, or the agent there has mended it meanwhile; then it is as if nothing had been."""
    case.converges()
    case.build({"file": b"22", "new": b"22"})
    peer = hosts.there.home / "run/peer.sock"
    logged = hosts.there.log_size()
    hosts.here.ok("stop")
    peer.unlink()
    with WAYS[way](peer):
        begun = time.monotonic()
        ended = case.push()
        took = time.monotonic() - begun
        print(f"{way}: {took:.1f} s, {ended.status} {ended.error.get('message')}")
        assert took < ENDS_S
        assert ended.status in (0, 4), ended
        strike([agent_pid(hosts.there)], signal.SIGURG)
        within(MENDED_S, lambda: "is made again" in hosts.there.log_since(logged), hosts.there.log_tail)
    case.agents_are_new()
    case.converges()
