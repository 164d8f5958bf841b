"""A slow network between the two hosts: every SSH connection goes through ``wan_proxy``."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from bench import wan_proxy
from tests.helpers.sshd import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.sshd import Sshd


class Wan(NamedTuple):
    """A network."""

    rtt_ms: int
    mbit: int

    @property
    def what(self) -> str:
        """For people."""
        rate = f"{self.mbit // 1000} Gbit/s" if self.mbit >= 1000 else f"{self.mbit} Mbit/s"
        return f"{self.rtt_ms} ms RTT, {rate}"


class Wire:
    """Counts what the proxy carried."""

    def __init__(self, stats: Path) -> None:
        self._stats = stats

    def carried(self) -> tuple[int, int]:
        """Bytes from and to the near side since the start, at most 50 ms old."""
        try:
            found = json.loads(self._stats.read_text())
        except FileNotFoundError:
            return 0, 0
        return found["up"], found["down"]


@contextlib.contextmanager
def between(sshd: Sshd, wan: Wan, directory: Path) -> Iterator[Wire]:
    """Put the network in front of the server: its client configuration leads through the proxy from now on."""
    stats = directory / "carried.json"
    port = free_port()
    words = ["--listen", port, "--to", sshd.port, "--rtt-ms", wan.rtt_ms, "--mbit", wan.mbit, "--stats", stats]
    process = subprocess.Popen([sys.executable, wan_proxy.__file__, *map(str, words)], stdout=subprocess.PIPE)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError("the proxy did not start")
        sshd.port = port
        sshd.write_client_side()
        yield Wire(stats)
    finally:
        process.kill()
        process.communicate()
