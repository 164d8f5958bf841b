"""What can go wrong with two hosts: their processes by role, and trees in two versions to be caught between."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import re
import shutil
import signal
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.helpers.hosts import Agent, Held, Hosts, fd_targets, our_files
from tests.helpers.sshd import Sshd, command_of, descendants
from tests.helpers.trees import TreeBuilder, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

MIB = 1 << 20
STATUSES = {0: "done", 1: "problems", 2: "usage", 3: "no agent", 4: "unreachable", 5: "timeout", 6: "guard"}


def seeds(default: int) -> range:
    """SYNCCTL_SEEDS of them; ``default`` unless it is set."""
    return range(int(os.environ.get("SYNCCTL_SEEDS", default)))


def agent_pid(agent: Agent) -> int:
    """The running agent's, by what its lock says: a command would take too long for a moment in a session."""
    (lock,) = (agent.home / "state").glob("agent-*.lock")
    return int(json.loads(lock.read_bytes())["pid"])


def ssh_children(agent: Agent) -> list[int]:
    """Its ssh processes."""
    return [
        pid for pid in descendants(agent_pid(agent)) if os.path.basename(command_of(pid).partition(" ")[0]) == "ssh"
    ]


def victims(hosts: Hosts, role: str) -> list[int]:
    """The processes of a role: ``ssh``, ``sshd``, ``there`` or ``here``."""
    if role == "ssh":
        return ssh_children(hosts.here)
    if role == "sshd":
        assert isinstance(hosts.sshd, Sshd)
        return hosts.sshd.session_pids()
    return [agent_pid(hosts.here if role == "here" else hosts.there)]


def strike(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def within(seconds: float, true: Callable[[], bool], otherwise: Callable[[], object]) -> float:
    """Wait until it is true of another process; how long that took.  Fails with ``otherwise()``."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + seconds, otherwise()
        time.sleep(0.01)
    return time.monotonic() - begun


class Result(NamedTuple):
    """How a job ended, by its --json."""

    status: int
    result: dict[str, Any]
    """The last line of the kind ``result``; empty when there was none."""
    error: dict[str, Any]
    err: str
    problems: list[dict[str, Any]]

    @property
    def code(self) -> str:
        """Of the error; empty without one."""
        return str(self.error.get("code", ""))


def read_result(status: int, out: bytes | str, err: bytes | str) -> Result:
    """From what the process printed."""
    lines = [json.loads(line) for line in os.fsdecode(out).splitlines() if line.startswith("{")]
    last: dict[str, dict[str, Any]] = {line["t"]: line for line in lines}
    problems = [problem for line in lines if line["t"] == "problems" for problem in line["problems"]]
    return Result(status, last.get("result", {}), last.get("error", {}), os.fsdecode(err), problems)


def run_job(agent: Agent, *words: str | bytes | Path, timeout: float = 60.0) -> Result:
    """``syncctl WORDS --json`` to its end."""
    return read_result(*agent.run(*words, "--json", timeout=timeout))


def healthy(*agents: Agent) -> None:
    """They answer, and none of them has logged a defect of its own."""
    for agent in agents:
        ended = agent.run("status", timeout=20)
        assert ended.status == 0, f"{ended}\n{agent.log_tail()}"
        log = agent.home / "state/agentd.log"
        text = log.read_text(errors="backslashreplace") if log.exists() else ""
        assert "Traceback" not in text, text[-4000:]


STEADY_S = 0.05


class Baseline:
    """What an agent held before; ``wait_back`` when it should hold no more."""

    def __init__(self, agent: Agent) -> None:
        self._pid = agent_pid(agent)
        self._before = Held(self._pid)
        within(10, self._steady, lambda: vars(self._before))  # trees beyond their number may be closing

    def _steady(self) -> bool:
        time.sleep(STEADY_S)
        before, self._before = self._before, Held(self._pid)
        return (before.trees, before.fds, before.threads) == (
            self._before.trees,
            self._before.fds,
            self._before.threads,
        )

    def wait_back(self, *, fds: int = 0, threads: int = 2) -> None:
        """Threads of trio's cache may come and go."""

        def back() -> bool:
            now = Held(self._pid)
            return now.fds <= self._before.fds + fds and now.threads <= self._before.threads + threads

        within(5, back, lambda: (vars(Held(self._pid)), vars(self._before), sorted(fd_targets(self._pid))))


Content = dict[bytes, tuple[str, bytes]]
"""Path -> (kind, hash or target)."""


def contents(root: Path | bytes) -> Content:
    """Files, links and directories below ``root``, but for names of our own.  Others may be changing it meanwhile."""
    top = os.fsencode(root)
    found: Content = {}
    for directory, dirs, files in os.walk(top):
        # A directory that has no name yet may hold half a file, as a temporary file may be one.
        dirs[:] = [name for name in dirs if not name.endswith(b".new~")]
        for name in (*dirs, *files):
            path = os.path.join(directory, name)
            if name.endswith((b".sync~", b".aside~")):
                continue
            with contextlib.suppress(FileNotFoundError):
                found[os.path.relpath(path, top)] = _content(path)
    return found


def _content(path: bytes) -> tuple[str, bytes]:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(mode):
        return "dir", b""
    if not stat.S_ISREG(mode):
        return "special", b""
    with open(path, "rb") as file:
        return "file", hashlib.file_digest(file, "sha256").digest()


def torn(now: Content, *versions: Content) -> list[str]:
    """What is of none of the versions, and what is missing though all of them have it."""
    wrong = [f"{path!r}: {seen}" for path, seen in now.items() if all(v.get(path) != seen for v in versions)]
    first, *others = versions
    for path in set(first).intersection(*others) - set(now):
        wrong.append(f"{path!r}: gone")
    return wrong


class TwoVersions:
    """A seeded tree in versions v1 and v2, and a destination that is reset to v1."""

    def __init__(self, top: Path, seed: int = 0, *, small: int = 160, large_mib: int = 21) -> None:
        self.v1, self.v2, self.destination = top / "v1", top / "v2", top / "dst"
        random_ = random.Random(seed)
        with TreeBuilder(self.v1, seed) as tree:
            tree.populate(files=small, dirs=14)
            for name in (b"large/edited", b"large/replaced", b"large/kept"):
                tree.file(name, tree.noise(large_mib * MIB + 12_345))
            tree.file(b"gone/file", b"only in the first")
            tree.symlink(b"large/link", b"edited")
        shutil.copytree(self.v1, self.v2, symlinks=True)
        with TreeBuilder(self.v2, seed + 1) as tree:
            for path, (kind, _) in contents(self.v1).items():
                if kind == "file" and not path.startswith(b"large/") and random_.random() < 0.6:
                    tree.file(path)
            edited = bytearray((self.v1 / "large/edited").read_bytes())
            for _ in range(8):
                at = random_.randrange(len(edited) - 5000)
                edited[at : at + 4096] = random_.randbytes(4096)
            tree.file(b"large/edited", bytes(edited))
            tree.file(b"large/replaced", tree.noise(large_mib * MIB + 54_321))
            tree.file(b"large/new", tree.noise(large_mib * MIB + 1))
            for number in range(30):
                tree.file(b"new/sub%d/file%d" % (number % 3, number))
            remove(self.v2 / "gone")
            (self.v2 / "large/link").unlink()
            tree.symlink(b"large/link", b"replaced")
        self.old, self.new = contents(self.v1), contents(self.v2)

    def reset(self) -> None:
        """The destination is v1, as a sync had left it."""
        remove(self.destination)
        shutil.copytree(self.v1, self.destination, symlinks=True)
        os.chmod(self.destination, 0o755)

    def check(self) -> None:
        """Nothing at the destination is torn."""
        wrong = torn(contents(self.destination), self.old, self.new)
        assert not wrong, "\n".join(wrong[:20])

    def remaining(self) -> int:
        """Bytes of the new content that the destination does not hold: neither a file in its place, nor a whole piece
        in its place in a partial.  Of ``large/edited``, which goes as a delta, nothing is counted.
        """
        now = contents(self.destination)
        missing = [
            path
            for path, seen in self.new.items()
            if seen[0] == "file" and now.get(path) != seen and path != b"large/edited"
        ]
        size = sum(os.path.getsize(os.path.join(os.fsencode(self.v2), path)) for path in missing)
        return size - sum(self._held(path) for path in missing)

    def _held(self, path: bytes) -> int:
        """Bytes of whole pieces of the new content that a partial of it has."""
        directory, name = os.path.split(os.path.join(os.fsencode(self.destination), path))
        ours = re.compile(rb"\.%s\.[0-9a-f]{16}\.sync~" % re.escape(name))
        partials = (
            [found for found in os.listdir(directory) if ours.fullmatch(found)] if os.path.isdir(directory) else []
        )
        most = 0
        for found in partials:
            with open(os.path.join(directory, found), "rb") as kept, open(self.v2 / os.fsdecode(path), "rb") as new:
                pieces = zip(
                    iter(functools.partial(kept.read, MIB), b""),
                    iter(functools.partial(new.read, MIB), b""),
                    strict=False,
                )
                most = max(most, sum(len(wanted) for here, wanted in pieces if here == wanted))
        return most if most >= MIB else 0

    def leftovers(self) -> list[bytes]:
        """Names of our own at the destination."""
        return our_files(self.destination)
