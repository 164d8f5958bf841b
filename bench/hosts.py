"""Two agents with homes of their own joined by a private sshd, and the programs that are compared over it."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.helpers.agents import ROOT
from tests.helpers.hosts import Agent, short_directory, this_account, write_launcher
from tests.helpers.sshd import Sshd, descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS, RSYNC, RSYNC_AES = "syncctl", "rsync", "rsync, aes128-gcm"
CONTENDERS = [OURS, RSYNC, RSYNC_AES]
"""syncctl; rsync as it comes; rsync with the cipher that syncctl's link asks for."""

AES = "aes128-gcm@openssh.com"
RUN_S = 900
SAMPLE_S = 0.05
QUIET_SAMPLES = 4
SETTLE_S = 20.0
IDLE_SHARE = 0.9
"""Of all cores' time, when the machine counts as idle."""


class Installed(NamedTuple):
    """How ``syncctl`` is run."""

    argv: list[str]
    python_path: str
    """A PYTHONPATH; empty when the package is installed."""
    how: str


def find_syncctl() -> Installed:
    """As somebody has it who installed the package; else by module, else from the source tree.

    The console script's first line cannot hold every folder's name.
    """
    script = str(Path(sys.executable).with_name("syncctl"))
    module = [sys.executable, "-P", "-m", "ctl"]
    for found in (
        Installed([script], "", "console script"),
        Installed(module, "", "python -P -m ctl, installed"),
        Installed(module, str(ROOT), "python -P -m ctl, from the source tree"),
    ):
        environ = {**os.environ, "PYTHONPATH": found.python_path}
        with contextlib.suppress(OSError):
            if subprocess.run([*found.argv, "version"], env=environ, cwd="/", capture_output=True).returncode == 0:
                return found
    raise SystemExit("bench: syncctl does not run; see `make wheel`")


class Ran(NamedTuple):
    """A whole process, from before its start to after its end."""

    seconds: float
    status: int
    said: str
    machine_cpu_s: float
    """CPU time of everything on the machine meanwhile."""


class Hosts:
    """``here`` and ``there``, the host ``box``; running."""

    def __init__(self, here: Agent, there: Agent, sshd: Sshd) -> None:
        self.here = here
        self.there = there
        self.sshd = sshd
        shell = ["ssh", "-F", str(sshd.client_config)]
        rsync = ["rsync", "-a", "--delete", "-e"]
        self.contenders: dict[str, list[str]] = {
            OURS: [*map(os.fsdecode, here.argv), "push", "--delete"],
            RSYNC: [*rsync, shlex.join(shell)],
            RSYNC_AES: [*rsync, shlex.join([*shell, "-c", AES])],
        }

    def sync(self, contender: str, source: Path, destination: Path) -> Ran:
        """Mirror ``source`` to ``destination`` over SSH."""
        return self.run([*self.contenders[contender], f"{source}/", f"box:{destination}/"])

    def syncctl(self, *words: str) -> Ran:
        """Run it here."""
        return self.run([*map(os.fsdecode, self.here.argv), *words])

    def run(self, argv: list[str]) -> Ran:
        """Run a command in the environment that all of them have."""
        idle, total = _machine_ticks()
        begun = time.perf_counter()
        ended = subprocess.run(
            argv, env=self.here.environ, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S
        )
        seconds = time.perf_counter() - begun
        later_idle, later_total = _machine_ticks()
        busy = (later_total - later_idle - total + idle) / os.sysconf("SC_CLK_TCK")
        return Ran(seconds, ended.returncode, os.fsdecode(ended.stdout + ended.stderr).strip(), busy)

    def settle(self) -> float:
        """Wait until both agents and the server are idle, so that nobody pays for another's run.

        Returns the seconds of CPU time that the agents took meanwhile: what a command left to be done after its end.
        """
        os.sync()
        begun = last = self._ticks()
        quiet, give_up_at = 0, time.monotonic() + SETTLE_S
        while quiet < QUIET_SAMPLES and time.monotonic() < give_up_at:
            time.sleep(SAMPLE_S)
            now = self._ticks()
            quiet = quiet + 1 if now == last else 0
            last = now
        return (last[0] - begun[0]) / os.sysconf("SC_CLK_TCK")

    def wait_idle(self, patience_s: float) -> None:
        """Wait until nobody else uses the machine, but no longer than that."""
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            idle, total = _machine_ticks()
            time.sleep(SAMPLE_S * QUIET_SAMPLES)
            later_idle, later_total = _machine_ticks()
            if later_idle - idle >= IDLE_SHARE * (later_total - total):
                break

    def agent_pss_kib(self) -> dict[str, int]:
        """Of the near agent and each of its children, by command and pid."""
        top = self.here.pid
        return {f"{_command(pid)} {pid}": _pss_kib(pid) for pid in (top, *descendants(top))}

    def _ticks(self) -> tuple[int, int]:
        agents = {*self.here.processes(), *self.there.processes()}
        server = {self.sshd.pid, *descendants(self.sshd.pid)} - agents
        return sum(map(_ticks_of, agents)), sum(map(_ticks_of, server))


@contextlib.contextmanager
def two_hosts(installed: Installed) -> Iterator[Hosts]:
    """Start them; nothing of them is left afterwards."""
    account = this_account()._replace(packages=installed.python_path)
    with short_directory() as directory, contextlib.ExitStack() as stack:
        agents = []
        for name in ("here", "there"):
            agent = Agent(account, directory / name)
            agent.argv = list(installed.argv)
            stack.callback(agent.kill)
            agents.append(agent)
        here, there = agents
        sshd = stack.enter_context(Sshd(directory / "ssh"))
        launcher = write_launcher(there, directory / "syncctl")
        here.configure(
            f'[ssh]\nconfig_file = "{sshd.client_config}"\ntransport = "openssh"\n'
            f'[host.box]\nremote_command = "{launcher}"\n'
        )
        here.ok("start")
        yield Hosts(here, there, sshd)
        here.stop()
        there.stop()


def _ticks_of(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _machine_ticks() -> tuple[int, int]:
    """Of all cores since boot: idle, total."""
    with open("/proc/stat") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
