"""``agentd``: starts the agent.  People use ``syncctl start``; service managers start this."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import socket
import sys
from functools import partial
from time import monotonic, sleep

import trio

from agentd import log
from agentd.app import App
from agentd.paths import Holder, Lock, private_directory
from proto.errors import EXIT_DONE, EXIT_NO_AGENT, SyncError
from proto.places import places
from proto.text import escape_text
from proto.version import VERSION

_HELD_S = 10.0
"""A predecessor that ends takes less: it is bounded, and then killed by its own alarm."""

_LOOK_S = 0.05

_FILES = 65536
"""Descriptors: no session comes near it, and it is what most systems let anyone have."""


def main() -> int:
    """Run the agent; the exit status."""
    parser = argparse.ArgumentParser(prog="agentd", description="The resident agent of syncctl, in the foreground.")
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--quiet", action="store_true", help="log to the file alone")
    parser.add_argument("--log-json", action="store_true", help="log JSON lines")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ready_fd is not None:
        # started by a command: whatever else that had open and passed on unasked would stay open for as long as we run
        os.closerange(arguments.ready_fd + 1, os.sysconf("SC_OPEN_MAX"))
    answer = partial(_answer, arguments.ready_fd)
    try:
        held = _run(arguments, answer)
    except SyncError as e:
        answer(f"error\t{e.code}\t{e.message}\t{e.hint}")
        sys.stderr.write(f"agentd: {escape_text(e.message)}\n  {escape_text(e.hint)}\n")
        return EXIT_NO_AGENT
    return EXIT_NO_AGENT if held else EXIT_DONE


def _run(arguments: argparse.Namespace, answer: partial[None]) -> bool:
    """Whether another agent was running.  Raises SyncError."""
    here = places(os.environ, os.geteuid(), sys.platform)
    private_directory(here.state)
    lock = Lock(here)
    holder = _take(lock)
    if holder is not None:
        answer(f"running\t{holder.control_socket}")
        sys.stderr.write(f"agentd: another agent is running (pid {holder.pid})\n")
        return True
    private_directory(here.runtime)
    os.umask(0o077)
    log.start(here.log, foreground=not arguments.quiet, as_json=arguments.log_json)
    if os.environ.get("SYNCCTL_HOME"):
        os.environ["SYNCCTL_HOME"] = os.path.abspath(os.environ["SYNCCTL_HOME"])
    os.chdir("/")
    _allow_files()
    ready = partial(answer, f"ready\t{here.control_socket}")
    try:
        trio.run(App(here, lock, sys.platform).run, ready)
    except* SyncError as group:
        raise _first(group) from None
    return False


def _allow_files() -> None:
    """As many descriptors as we may have: each session holds directories and bases open, each link its connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    with contextlib.suppress(ValueError, OSError):  # some systems promise more than they allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _take(lock: Lock) -> Holder | None:
    """Take the lock; or who has it and can be reached.  One that is ending is waited for.  Raises SyncError."""
    deadline = monotonic() + _HELD_S
    asked = False
    while (holder := lock.take()) is not None:
        if _answers(holder.control_socket):
            return holder
        if monotonic() > deadline:
            raise SyncError(
                "no-agent", f"another agent (pid {holder.pid}) runs and cannot be reached", "end it, and start again"
            )
        if holder.pid and not asked:
            # It may not have noticed yet that its sockets vanished.  Ignored by default, so harmless early.
            asked = True
            _ask_to_look(holder.pid)
        sleep(_LOOK_S)
    return None


def _ask_to_look(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGURG)
    except OSError:
        pass


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except TimeoutError:
            return True  # its backlog is full: there, and busy
        except OSError:
            return False
        return True


def _first(group: BaseExceptionGroup[SyncError]) -> SyncError:
    """One of several: the person can mend one thing at a time."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _answer(fd: int | None, line: str) -> None:
    """Tell whoever started us, who may be gone.  Once."""
    if fd is not None:
        try:
            os.write(fd, os.fsencode(line.replace("\n", " ") + "\n"))
            os.close(fd)
        except OSError:
            pass


if __name__ == "__main__":
    sys.exit(main())
