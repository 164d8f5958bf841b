"""Who syncs: syncctl, rsync, other programs of the field; and the floors, which show what the machine lets them do."""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.hosts import Hosts

AES = "aes128-gcm@openssh.com"
START_S = 20.0


class Job(NamedTuple):
    """What a contender is to do."""

    source: Path
    destination: Path
    pull: bool
    """``source`` is the far side's."""
    delete: bool
    """What the source does not have goes."""
    stats: bool
    """Say how much literal data there was."""
    rsync: tuple[str, ...]
    """Options for rsync beyond ``-a`` and ``--delete``."""
    syncctl: tuple[str, ...] = ()
    """Options for syncctl beyond ``--delete``."""

    def operands(self) -> list[str]:
        """Both places, as rsync and its like have them."""
        far, near = ("box:", "") if self.pull else ("", "box:")
        return [f"{far}{self.source}/", f"{near}{self.destination}/"]


class Command(NamedTuple):
    """What is timed."""

    argv: list[str]
    stdin: Path | None = None


class Contender(abc.ABC):
    """Runs a job."""

    name: str
    checks: tuple[str, ...] | None = ()
    """Options for the check of what comes out; None: nothing comes out."""
    part = "crafted"
    """Of a tree of twins."""

    def lacks(self) -> str | None:
        """What this machine does not have for it."""
        return None

    @abc.abstractmethod
    def command(self, hosts: Hosts, job: Job) -> contextlib.AbstractContextManager[Command]:
        """Get ready, outside of the time; the end of the context cleans up."""

    def literal(self, said: str) -> int | None:
        """Bytes of literal data, from what ``stats`` made it say."""
        found = re.search(r"^\s*literal data:\s*([\d,]+)", said, re.MULTILINE | re.IGNORECASE)
        return int(found[1].replace(",", "")) if found else None


class Program(Contender):
    """One for which nothing has to be got ready."""

    def command(self, hosts: Hosts, job: Job) -> contextlib.AbstractContextManager[Command]:
        """Its command line."""
        return contextlib.nullcontext(Command(self.argv(hosts, job)))

    @abc.abstractmethod
    def argv(self, hosts: Hosts, job: Job) -> list[str]:
        """The command line."""


class Syncctl(Program):
    """The program that this is all about."""

    def __init__(self, name: str = "syncctl", part: str = "crafted") -> None:
        self.name = name
        self.part = part

    def argv(self, hosts: Hosts, job: Job) -> list[str]:  # noqa: D102
        words = [*map(os.fsdecode, hosts.here.argv), "pull" if job.pull else "push"]
        words += [*(("--delete",) if job.delete else ()), *(("--stats",) if job.stats else ())]
        return [*words, *job.syncctl, *job.operands()]


class Rsync(Program):
    """rsync over ssh, with options for ssh."""

    def __init__(self, name: str, *ssh: str) -> None:
        self.name = name
        self._ssh = ssh

    def argv(self, hosts: Hosts, job: Job) -> list[str]:  # noqa: D102
        stats = ("--stats", "--no-human-readable") if job.stats else ()
        shell = shlex.join([*hosts.ssh, *self._ssh])
        delete = ("--delete",) if job.delete else ()
        return ["rsync", "-a", *delete, *job.rsync, *stats, "-e", shell, *job.operands()]


class Sy(Program):
    """sy (github.com/nijaru/sy), where it is installed; it reads the person's own ssh configuration."""

    name = "sy"

    def lacks(self) -> str | None:  # noqa: D102
        return None if shutil.which("sy") else "sy is not on PATH"

    def argv(self, hosts: Hosts, job: Job) -> list[str]:  # noqa: D102
        config = hosts.here.home / ".ssh/config"
        if not config.exists():
            config.parent.mkdir(mode=0o700)
            config.write_text(f"Include {hosts.sshd.client_config}\n")
        return ["sy", "-a", *(("--delete",) if job.delete else ()), "--quiet", *job.operands()]


class Status(Program):
    """The floor of a sync that finds nothing to do: the start of ``syncctl`` and a question to its agent."""

    name = "floor: syncctl status"
    checks = None

    def argv(self, hosts: Hosts, _: Job) -> list[str]:  # noqa: D102
        return [*map(os.fsdecode, hosts.here.argv), "status"]


class SshCat(Contender):
    """The floor of one large file: ``ssh -c aes128-gcm box 'cat > f' < f``.  It keeps no time."""

    name = "floor: ssh cat"
    checks = ("--no-times", "--no-perms")

    @contextlib.contextmanager
    def command(self, hosts: Hosts, job: Job) -> Iterator[Command]:  # noqa: D102
        job.destination.mkdir(exist_ok=True)
        [file] = job.source.iterdir()
        to = shlex.quote(str(job.destination / file.name))
        yield Command([*hosts.ssh, "-c", AES, "box", f"cat > {to}"], file)


class FloorTree(Contender):
    """The floor of a tree: ``floor.c`` through a socket that ssh forwards.  It gives directories no times."""

    name = "floor: floor.c"
    checks = ("--omit-dir-times",)

    def lacks(self) -> str | None:  # noqa: D102
        return None if shutil.which("cc") else "cc is not installed, and floor.c has to be compiled"

    @contextlib.contextmanager
    def command(self, hosts: Hosts, job: Job) -> Iterator[Command]:  # noqa: D102
        program = hosts.directory / "floor"
        near, far = hosts.directory / "near.sock", hosts.directory / "far.sock"
        if not program.exists():
            subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_name("floor.c")], check=True)
        forward = ["-R", f"{far}:{near}"] if job.pull else ["-L", f"{near}:{far}"]
        listens, connects = (near, far) if job.pull else (far, near)
        job.destination.mkdir()
        with _forwarding(hosts, forward), contextlib.ExitStack() as stack:
            receiver = stack.enter_context(subprocess.Popen([program, "receive", listens, job.destination]))
            stack.callback(receiver.kill)
            _wait(listens)
            _wait(connects)
            hosts.settle()
            yield Command([str(program), "send", str(connects), str(job.source)])


OURS, RSYNC, RSYNC_AES = Syncctl(), Rsync("rsync"), Rsync("rsync, aes128-gcm", "-c", AES)
OURS_ON_RANDOM = Syncctl("syncctl, random content", "random")
STATUS, SSH_CAT, FLOOR_TREE = Status(), SshCat(), FloorTree()
PEERS: dict[str, Contender] = {"sy": Sy()}
"""Other programs, on request."""


@contextlib.contextmanager
def _forwarding(hosts: Hosts, forward: list[str]) -> Iterator[None]:
    """A connection of the same kind as the agents' own, with the same cipher, forwards a socket."""
    control = hosts.directory / "floor.ctl"
    base = [*hosts.ssh, "-S", str(control), "-o", "ControlPersist=no"]
    with subprocess.Popen([*base, "-M", "-c", AES, "box", "cat >/dev/null"], stdin=subprocess.PIPE) as master:
        try:
            _wait(control)
            subprocess.run([*base, "-O", "forward", *forward, "box"], check=True)
            yield
        finally:
            master.kill()
    for name in ("floor.ctl", "near.sock", "far.sock"):
        hosts.directory.joinpath(name).unlink(missing_ok=True)


def _wait(path: Path) -> None:
    """Until it is there."""
    give_up_at = time.monotonic() + START_S
    while not path.exists():
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{path} did not appear")
        time.sleep(0.005)
