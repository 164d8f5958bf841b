"""Two agents with homes of their own, joined by a private sshd, and what running a command there costs."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from bench import proc
from bench.wan import between
from tests.helpers.agents import ROOT
from tests.helpers.hosts import Agent, short_directory, this_account, write_launcher
from tests.helpers.sshd import Sshd, descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.wan import Wan, Wire
    from tests.helpers.hosts import Account

SAMPLE_S = 0.05
QUIET_SAMPLES = 4
SETTLE_S = 20.0
IDLE_SHARE = 0.9
"""Of all cores' time, when the machine counts as idle."""
LOOK_S = 0.001
TEMPORARY = (b".sync~", b".aside~", b".floor")


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

    status: int | None
    """None: it did not end in time."""
    said: str
    cost: dict[str, float]
    """By the names of ``bench.figures.METRICS``."""


class Hosts:
    """``here`` and ``there``, the host ``box``; running."""

    def __init__(self, here: Agent, there: Agent, sshd: Sshd, directory: Path, stack: contextlib.ExitStack) -> None:
        self.here = here
        self.there = there
        self.sshd = sshd
        self.directory = directory
        """For sockets: its path is short."""
        self.stack = stack
        """Ends before the hosts do."""
        self.wire: Wire | None = None
        self.ssh = ["ssh", "-F", str(sshd.client_config)]
        account = here.account
        self._who: dict[str, Any] = {}
        if account.other:
            self._who = {"user": account.uid, "group": account.gid, "extra_groups": []}

    def run(self, argv: list[str], limit_s: float, *, stdin: Path | None = None, appears: Path | None = None) -> Ran:
        """Run a command in the environment that all of them have, and wait until its traces have settled.

        ``appears`` is the tree in which the first file is waited for.
        """
        agents = self.here_pid, self.there_pid
        for pid in agents:
            proc.forget_peak(pid)
        pids = self.pids()
        cpu, carried = proc.cpu_s(pids) + _children_s(), self.wire.carried() if self.wire else (0, 0)
        idle, total = proc.machine_s()
        with _Watch(appears) as watch, open(stdin or os.devnull, "rb") as file:
            begun = time.perf_counter()
            try:
                ended = subprocess.run(
                    argv, env=self.here.environ, cwd="/", stdin=file, capture_output=True, timeout=limit_s, **self._who
                )
                status, said = ended.returncode, os.fsdecode(ended.stdout + ended.stderr).strip()
            except subprocess.TimeoutExpired:
                status, said = None, f"not ended after {limit_s:.0f} s"
            seconds = time.perf_counter() - begun
        later_idle, later_total = proc.machine_s()
        cost = {
            "seconds": seconds,
            "machine_cpu_s": later_total - later_idle - total + idle,
            "after_cpu_s": self.settle(),
            "cpu_s": proc.cpu_s(pids | self.pids()) + _children_s() - cpu,
            "rss_here_mb": proc.peak_rss_mb(self.here_pid),
            "rss_there_mb": proc.peak_rss_mb(self.there_pid),
        }
        cost["rss_mb"] = max(cost["rss_here_mb"], cost["rss_there_mb"])
        if watch.seen_at is not None:
            cost["first_file_s"] = watch.seen_at - begun
        if self.wire:
            up, down = self.wire.carried()
            cost |= {"wire_up": up - carried[0], "wire_down": down - carried[1]}
            cost["wire"] = cost["wire_up"] + cost["wire_down"]
        return Ran(status, said, cost)

    def settle(self) -> float:
        """Wait until both agents and the server are idle, so that nobody pays for another's run.

        Returns the seconds of CPU time that they took meanwhile: what a command left to be done after its end.
        """
        begun = last = proc.cpu_s(self.pids())
        quiet, give_up_at = 0, time.monotonic() + SETTLE_S
        while quiet < QUIET_SAMPLES and time.monotonic() < give_up_at:
            time.sleep(SAMPLE_S)
            now = proc.cpu_s(self.pids())
            quiet = quiet + 1 if now == last else 0
            last = now
        return max(0.0, last - begun)

    def wait_idle(self, patience_s: float) -> None:
        """Wait until nobody else uses the machine, but no longer than that."""
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            idle, total = proc.machine_s()
            time.sleep(SAMPLE_S * QUIET_SAMPLES)
            later_idle, later_total = proc.machine_s()
            if later_idle - idle >= IDLE_SHARE * (later_total - total):
                break

    def agent_pss_kib(self) -> dict[str, int]:
        """Of the near agent and each of its children, by command and pid."""
        top = self.here_pid
        return {f"{proc.command(pid)} {pid}": proc.pss_kib(pid) for pid in (top, *descendants(top))}

    def pids(self) -> set[int]:
        """Both agents with what they started, and the server with its sessions."""
        return {
            *self.here.processes(),
            *self.there.processes(),
            self.sshd.pid,
            *descendants(self.sshd.pid),
        }

    def restart(self) -> None:
        """Stop both agents, start them anew, and link them, by a push of a file of their own."""
        for agent in (self.here, self.there):
            agent.stop()
        for agent in (self.there, self.here):
            agent.ok("start")
        self.__dict__.pop("here_pid", None)
        self.__dict__.pop("there_pid", None)
        file = self.directory / "linked"
        file.write_bytes(b"")
        self.here.ok("push", file, f"box:{self.directory}/linked.there")
        self.settle()

    @cached_property
    def here_pid(self) -> int:
        """The near agent's."""
        return self.here.pid

    @cached_property
    def there_pid(self) -> int:
        """The far agent's."""
        return self.there.pid


@contextlib.contextmanager
def two_hosts(installed: Installed, wan: Wan | None = None, other: Account | None = None) -> Iterator[Hosts]:
    """Start them, as this account or as the ``other`` one; nothing of them is left afterwards."""
    account = this_account()._replace(packages=installed.python_path) if other is None else other
    with short_directory(other) as directory, contextlib.ExitStack() as stack:
        agents = []
        for name in ("here", "there"):
            agent = Agent(account, directory / name)
            if other is None:
                agent.argv = list(installed.argv)
            stack.callback(agent.kill)
            agents.append(agent)
        here, there = agents
        sshd = stack.enter_context(Sshd(directory / "ssh", account=other and other.name))
        launcher = write_launcher(there, directory / "syncctl")
        here.configure(
            f'[ssh]\nconfig_file = "{sshd.client_config}"\ntransport = "openssh"\n'
            f'[host.box]\nremote_command = "{launcher}"\n'
        )
        inner = stack.enter_context(contextlib.ExitStack())
        hosts = Hosts(here, there, sshd, directory, inner)
        if wan is not None:
            hosts.wire = inner.enter_context(between(sshd, wan, directory))
        there.ok("start")
        here.ok("start")
        yield hosts
        here.stop()
        there.stop()


class _Watch:
    """Looks for the first regular file of a tree that a person would see there.  Says when that was."""

    def __init__(self, root: Path | None) -> None:
        self.seen_at: float | None = None
        self._root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        if self._root is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._root is not None:
            self._thread.join()

    def _look(self) -> None:
        root = os.fsencode(self._root or "")
        while not self._over.wait(LOOK_S):
            for _, directories, files in os.walk(root):
                directories[:] = [name for name in directories if not name.endswith(TEMPORARY)]
                if any(not name.startswith(b".") and not name.endswith(TEMPORARY) for name in files):
                    self.seen_at = time.perf_counter()
                    return


def _children_s() -> float:
    """Seconds of CPU time of the commands that were run, with what they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
