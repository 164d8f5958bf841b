"""Starts the agent from the command line: in the background with the person's environment, or in its place."""

from __future__ import annotations

import os
import select
from time import monotonic

from ctl.command import agent_command
from proto.errors import SyncError
from proto.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

_READY_S = 20.0
"""A cold disk on a slow machine; the usual start takes a quarter of a second."""

_READY_FD = 3


def start_agent(environ: Mapping[str, str]) -> str:
    """Start the agent and return its control socket's path when it answers; also when another call was faster.

    Raises SyncError with what the agent said when it could not start.
    """
    command = agent_command()
    said, says = os.pipe()
    null = os.devnull
    try:
        os.posix_spawn(
            command[0],
            [*command, "--quiet", "--ready-fd", str(_READY_FD)],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, says, _READY_FD),
            ],
            setsid=True,
        )
        os.close(says)
        says = -1
        return _understand(_first_line(said))
    except OSError as e:
        raise SyncError("no-agent", f"cannot start {command[0]}: {e.strerror}", "reinstall syncctl") from None
    finally:
        os.close(said)
        if says >= 0:
            os.close(says)


def foreground(environ: Mapping[str, str]) -> NoReturn:
    """Become the agent."""
    command = agent_command()
    os.execve(command[0], command, dict(environ))  # noqa: S606 - argv, no shell


def _first_line(fd: int) -> str:
    """What the agent says first; "" when it ends or says nothing in time."""
    deadline = monotonic() + _READY_S
    data = b""
    while b"\n" not in data:
        remaining = deadline - monotonic()
        if remaining <= 0 or not select.select([fd], [], [], remaining)[0]:
            break
        more = os.read(fd, 8192)
        if not more:
            break
        data += more
    return os.fsdecode(data.partition(b"\n")[0])


def _understand(line: str) -> str:
    kind, *rest = line.split("\t")
    if kind in ("ready", "running") and len(rest) == 1:
        return rest[0]
    if kind == "error" and len(rest) == 3:
        raise SyncError.from_wire(*rest)
    raise SyncError("no-agent", "the agent ended while it started", "run 'syncctl start --foreground' to see why")
