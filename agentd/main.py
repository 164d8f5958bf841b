"""``agentd``: starts the agent.  People use ``syncctl start``; service managers start this."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial

import trio

from agentd import log
from agentd.app import App
from agentd.paths import Lock, private_directory
from proto.errors import EXIT_DONE, EXIT_NO_AGENT, SyncError
from proto.places import places
from proto.text import escape_text
from proto.version import VERSION


def main() -> int:
    """Run the agent; the exit status."""
    parser = argparse.ArgumentParser(prog="agentd", description="The resident agent of syncctl, in the foreground.")
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--quiet", action="store_true", help="log to the file alone")
    parser.add_argument("--log-json", action="store_true", help="log JSON lines")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
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
    private_directory(here.runtime)
    lock = Lock(here)
    holder = lock.take()
    if holder is not None:
        if holder.pid:
            # It may not have noticed yet that its sockets' directory vanished.  Ignored by default, so harmless early.
            os.kill(holder.pid, signal.SIGURG)
        answer(f"running\t{holder.control_socket}")
        sys.stderr.write(f"agentd: another agent is running (pid {holder.pid})\n")
        return True
    log.start(here.log, foreground=not arguments.quiet, as_json=arguments.log_json)
    os.umask(0o077)
    os.chdir("/")
    trio.run(App(here, lock, sys.platform).run, partial(answer, "ready"))
    return False


def _answer(fd: int | None, line: str) -> None:
    """Tell whoever started us, who may be gone."""
    if fd is not None:
        try:
            os.write(fd, os.fsencode(line.replace("\n", " ") + "\n"))
        except OSError:
            pass


if __name__ == "__main__":
    sys.exit(main())
