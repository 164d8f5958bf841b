"""What a service manager says in the environment, taken at its word only when it is meant for us."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from agentd.service import Notifier, passed_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def listen(**variables: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), **variables}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        listen(LISTEN_FDS="0"),
        listen(LISTEN_FDS="-1"),
        listen(LISTEN_FDS="x"),
        listen(LISTEN_FDS="\N{SUPERSCRIPT TWO}"),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="launchd is asked there")
def test_nothing_for_us(environ: dict[str, str]) -> None:
    assert passed_sockets(environ) == {}
    assert environ == {}  # and no child takes it for its own


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(10)
        yield made


def test_states_are_told_one_a_datagram(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "30000000"}
    notify = Notifier(environ)
    assert (notify.watchdog_s, environ) == (30.0, {})
    notify("READY=1")
    notify("STOPPING=1")
    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_an_abstract_name() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0syncctl-test-{os.getpid()}")
        manager.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@syncctl-test-{os.getpid()}"})("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nonexistent/x"}, {"NOTIFY_SOCKET": "x" * 300}])
def test_a_manager_that_is_not_there_is_no_trouble(environ: dict[str, str]) -> None:
    Notifier(environ)("READY=1")


@pytest.mark.parametrize("environ", [{"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours(environ: dict[str, str]) -> None:
    assert Notifier(environ).watchdog_s is None
