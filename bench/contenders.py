"""Who is measured: syncctl over its warm link, and rsync over ssh to the same sshd, as it comes and with AES-GCM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.helpers.hosts import Hosts

_RUN_S = 600


class Contender(NamedTuple):
    """A name, and the command that brings SRC's state to DST, deletions included."""

    name: str
    before: list[str]
    slash: str
    environ: dict[str, str]

    def command(self, source: str, destination: str) -> list[str]:
        """The whole argv."""
        return [*self.before, source + self.slash, f"box:{destination}{self.slash}"]


def contenders(hosts: Hosts) -> list[Contender]:
    """In the order in which they take turns."""
    ssh = ["ssh", "-F", str(hosts.sshd.client_config)]
    gcm = [*ssh, "-c", "aes128-gcm@openssh.com"]
    return [
        Contender("syncctl", [*syncctl_argv(), "push", "--delete"], "", hosts.here.environ),
        Contender("rsync", ["rsync", "-a", "--delete", "-e", shlex.join(ssh)], "/", dict(os.environ)),
        Contender("rsync, aes128-gcm", ["rsync", "-a", "--delete", "-e", shlex.join(gcm)], "/", dict(os.environ)),
    ]


def syncctl_argv() -> list[str]:
    """``syncctl`` as it is installed beside this Python, or else as a module."""
    installed = os.path.join(os.path.dirname(sys.executable), "syncctl")
    return [installed] if os.path.exists(installed) else [sys.executable, "-P", "-m", "ctl"]


def timed(argv: list[str], environ: dict[str, str]) -> float:
    """Seconds of the whole process.  Raises CalledProcessError when it fails."""
    began = time.perf_counter()
    ended = subprocess.run(
        argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_RUN_S
    )
    seconds = time.perf_counter() - began
    if ended.returncode:
        sys.stderr.write(os.fsdecode(ended.stdout + ended.stderr))
        raise subprocess.CalledProcessError(ended.returncode, argv)
    return seconds


def pss_kib(pids: list[int]) -> int:
    """Proportional memory of processes together."""
    total = 0
    for pid in pids:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total
