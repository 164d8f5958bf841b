"""Hosts to sync between: agents with homes of their own on this machine, as any account, joined by a private sshd."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.helpers.agents import ROOT, eventually
from tests.helpers.embedded_ssh import EmbeddedSshd
from tests.helpers.sshd import Sshd
from tests.helpers.trees import give, remove
from tests.helpers.tun import FAR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.helpers.tun import Network

RUN_S = 60.0


class Ran(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Account(NamedTuple):
    """Somebody who runs agents, and what Python runs them: another account may not be able to read this one's."""

    name: str
    uid: int
    gid: int
    python: str
    packages: str
    """A PYTHONPATH."""

    @property
    def other(self) -> bool:
        """Whether it is not the account that the tests run as."""
        return self.uid != os.geteuid()

    def popen(self, argv: list[str | bytes], **options: object) -> subprocess.Popen[bytes]:
        """Start a process as this account."""
        if self.other:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.Popen(argv, **options)  # type: ignore[call-overload,no-any-return]

    def owns(self, path: Path | bytes) -> None:
        """Give a tree to it."""
        if self.other:
            give(path, self.uid, self.gid)


def this_account() -> Account:
    """The one that runs the tests."""
    entry = pwd.getpwuid(os.geteuid())
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, sys.executable, str(ROOT))


@contextlib.contextmanager
def ordinary_account() -> Iterator[Account | None]:
    """An account without privileges, made for the occasion; None where that or a Python for it is not possible."""
    python = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    if os.geteuid() != 0 or not shutil.which("useradd") or not os.access(python, os.X_OK):
        yield None
        return
    name = f"synctest{os.getpid()}"
    with short_directory() as directory:
        packages = directory / "packages"
        _copy_packages(packages, python)
        subprocess.run(
            ["useradd", "--system", "--password", "*", "--home-dir", directory, "--shell", "/bin/sh", name], check=True
        )
        try:
            entry = pwd.getpwnam(name)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
            yield Account(name, entry.pw_uid, entry.pw_gid, python, str(packages))
        finally:
            _kill_all_of(entry.pw_uid)
            subprocess.run(["userdel", name], check=True, capture_output=True)


@contextlib.contextmanager
def short_directory(account: Account | None = None) -> Iterator[Path]:
    """A directory with a path short enough for sockets, readable by any account; removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    try:
        path.chmod(0o755)
        if account is not None:
            account.owns(path)
        yield path
    finally:
        remove(path)


class Agent:
    """One agent's home, and ``syncctl`` as its person runs it."""

    def __init__(self, account: Account, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.account = account
        self.home = home
        home.mkdir(mode=0o700)
        account.owns(home)
        self.environ = {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": account.packages,
            "SYNCCTL_HOME": str(home),
            "USER": account.name,
            **(environ or {}),
        }
        self.argv: list[str | bytes] = [account.python, "-P", "-m", "ctl"]

    def configure(self, text: str) -> None:
        """Write config.toml."""
        path = self.home / "config.toml"
        path.write_text(text)
        self.account.owns(path)

    def popen(self, *words: str | bytes | Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start ``syncctl WORDS``, its output in pipes."""
        return self.account.popen(
            [*self.argv, *(word if isinstance(word, bytes) else str(word) for word in words)],
            env=self.environ,
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str | bytes | Path, cwd: Path | None = None, timeout: float = RUN_S) -> Ran:
        """Run ``syncctl WORDS`` to its end."""
        process = self.popen(*words, cwd=cwd)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            if process.returncode is None:
                process.kill()
                process.communicate()
        return Ran(process.returncode, os.fsdecode(out), os.fsdecode(err))

    def ok(self, *words: str | bytes | Path, cwd: Path | None = None) -> str:
        """Run it, expect status 0; what it printed."""
        ended = self.run(*words, cwd=cwd)
        assert ended.status == 0, f"{words}: {ended}\n{self.log_tail()}"
        return ended.out

    @property
    def pid(self) -> int:
        """The running agent's."""
        found = re.search(r"\bpid (\d+)", self.ok("status"))
        assert found is not None
        return int(found[1])

    def processes(self) -> list[int]:
        """Whatever runs with this home in its environment."""
        mark = os.fsencode(f"SYNCCTL_HOME={self.home}") + b"\0"
        return [pid for pid in all_pids() if mark in _environ_of(pid)]

    def log_tail(self, lines: int = 30) -> str:
        """The end of the agent's log."""
        try:
            text = (self.home / "state/agentd.log").read_text(errors="backslashreplace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def log_size(self) -> int:
        """Of the agent's log, in bytes."""
        path = self.home / "state/agentd.log"
        return path.stat().st_size if path.exists() else 0

    def log_since(self, size: int) -> str:
        """What was logged since it had this size."""
        return (self.home / "state/agentd.log").read_bytes()[size:].decode(errors="backslashreplace")

    def stop(self) -> None:
        """Stop it, and see that it leaves neither processes nor sockets behind."""
        ended = self.run("stop")
        assert ended.status in (0, 3), f"{ended}\n{self.log_tail()}"
        eventually(f"no process of {self.home} is left", lambda: not self.processes())
        sockets = [path for path in self.home.rglob("*") if path.is_socket()]
        assert not sockets, f"sockets are left: {sockets}"

    def kill(self) -> None:
        """End whatever is left, for a test that failed."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Hosts:
    """Two agents: ``here``, and ``there`` behind the host alias ``box``."""

    def __init__(self, here: Agent, there: Agent, sshd: Sshd | EmbeddedSshd) -> None:
        self.here = here
        self.there = there
        self.sshd = sshd
        self.account = here.account

    @staticmethod
    def remote(path: Path) -> str:
        """A path there, as an operand."""
        return f"box:{path}"

    def stop(self) -> None:
        """Both, here first."""
        self.here.stop()
        self.there.stop()


@contextlib.contextmanager
def one_host(account: Account, directory: Path) -> Iterator[Agent]:
    """An agent with a home below ``directory``; not started yet."""
    agent = Agent(account, directory / "home")
    try:
        yield agent
        agent.stop()
    finally:
        agent.kill()


@contextlib.contextmanager
def two_hosts(
    account: Account,
    directory: Path,
    *,
    ssh: str = "",
    transport: str = "auto",
    far: Account | None = None,
    embedded: bool = False,
    network: Network | None = None,
) -> Iterator[Hosts]:
    """Two agents with homes below ``directory``, joined by an sshd, or by the embedded server; not started yet.

    ``ssh`` is added to the table [ssh] of config.toml.  ``far`` is the same person with another installation.
    ``network`` is between them.
    """
    here, there = Agent(account, directory / "here"), Agent(far or account, directory / "there")
    launcher = write_launcher(there, directory / "syncctl")
    place: dict[str, Any] = {}
    if network is not None:
        here.argv = [*network.near.enter, *here.argv]
        place = {"address": FAR, "enter": network.far.enter}
    server = EmbeddedSshd(directory / "ssh") if embedded else Sshd(directory / "ssh", account=account.name, **place)
    with server as sshd:
        here.configure(
            f'[ssh]\nconfig_file = "{sshd.client_config}"\ntransport = "{transport}"\n{ssh}\n'
            f'[host.box]\nremote_command = "{launcher}"\n'
        )
        hosts = Hosts(here, there, sshd)
        try:
            yield hosts
            hosts.stop()
        finally:
            here.kill()
            there.kill()


def write_launcher(agent: Agent, path: Path) -> Path:
    """A ``syncctl`` for ``agent``'s home, whatever environment it is started with."""
    words = shlex.join([*(f"{name}={value}" for name, value in agent.environ.items()), *map(os.fsdecode, agent.argv)])
    path.write_text(f'#!/bin/sh\nexec env {words} "$@"\n')
    path.chmod(0o755)
    return path


def our_files(*roots: Path) -> list[bytes]:
    """Temporary files and entries moved aside that are left below ``roots``."""
    return [
        os.path.join(directory, name)
        for root in roots
        for directory, dirs, files in os.walk(os.fsencode(root))
        for name in (*dirs, *files)
        if name.endswith((b".sync~", b".aside~", b".new~"))
    ]


def all_pids() -> list[int]:
    """Every process of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environ_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _kill_all_of(uid: int) -> None:
    for pid in all_pids():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == uid:
                os.kill(pid, signal.SIGKILL)


def _copy_packages(into: Path, python: str) -> None:
    """What the agent imports, where any account can read it; compiled, as what is installed is: nobody else can."""
    into.mkdir()
    for name in ("agentd", "ctl", "proto"):
        shutil.copytree(ROOT / name, into / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([python, "-m", "compileall", "-q", into], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo, done = [_name_of(wanted) for wanted in project["dependencies"]], set()
    site = Path(sysconfig.get_path("platlib"))
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if (site / top).is_dir():
                shutil.copytree(site / top, into / top, dirs_exist_ok=True)
            elif (site / top).is_file():
                shutil.copy(site / top, into / top)
        for wanted in distribution.requires or []:
            if "extra ==" not in wanted and _installed(_name_of(wanted)):
                todo.append(_name_of(wanted))


def _name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


FDS_OF_A_TREE = 3
"""An inotify instance, and an eventfd each to wake the agent and to end the thread."""


def fd_targets(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


class Held:
    """What a process holds, for tests of growth; without what it holds for trees, which stay watched for an hour."""

    def __init__(self, pid: int) -> None:
        targets = fd_targets(pid)
        self.trees = targets.count("anon_inode:inotify")
        self.fds = len(targets) - FDS_OF_A_TREE * self.trees
        self.threads = len(os.listdir(f"/proc/{pid}/task")) - self.trees
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
        self.rss_kib = int(found[1]) if found else 0
