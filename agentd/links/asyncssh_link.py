"""The ``asyncssh`` transport: a child process that does what ssh would, for hosts without one, or on request.

asyncio lives in that process alone (asyncssh_child.py); from here it looks like an ssh whose errors are spelled out.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import trio

from agentd.links.child import Child
from agentd.links.destination import remote_shell_command
from agentd.links.settings import child_environ, describe_agent
from agentd.links.transport import explain_loss, wait_ready
from proto.errors import SyncError
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentd.links.settings import Settings
    from proto.hold import Ready


_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from agentd.links.asyncssh_child import main; main()"
_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class AsyncsshTransport:
    """``sockets`` is a path prefix of our own: PREFIX.s is the forwarded socket."""

    name = "asyncssh"

    def __init__(self, settings: Settings, environ: Mapping[str, str], sockets: str, nursery: trio.Nursery) -> None:
        self.ready: Ready | None = None
        self.lost = trio.Event()
        self._settings = settings
        self._environ = environ
        self._socket = sockets + ".s"
        self._nursery = nursery
        self._child: Child | None = None

    async def connect(self) -> None:
        """Start the child; its marked line comes when its socket listens."""
        command = remote_shell_command("start --hold", self._settings.remote_command)
        argv = child_argv(self._settings, self._environ, command, self._socket)
        child = self._child = Child(argv, child_environ(self._environ))
        self._nursery.start_soon(child.serve)
        self.ready, _ = await wait_ready(child, self._settings, self._environ)
        self._nursery.start_soon(self._watch, child)

    async def open_stream(self) -> trio.SocketStream:
        """A connection through the forwarded socket."""
        if self.lost.is_set():
            raise self.why_lost()
        try:
            return await trio.open_unix_socket(self._socket)
        except OSError as e:
            if self.lost.is_set():
                raise self.why_lost() from None
            host = escape_text(self._settings.host)
            raise SyncError("link-lost", f"the link to {host} was lost ({e.strerror or e})") from None

    async def why_refused(self, *, first: bool) -> SyncError:
        """Forwarding was tried when it was made, so it is the agent's doing."""
        del first
        with trio.move_on_after(0.2):
            await self.lost.wait()
            return self.why_lost()
        host = escape_text(self._settings.host)
        return SyncError("remote-failed", f"{host}: the agent there does not accept connections")

    def why_lost(self) -> SyncError:
        """From the child's last words."""
        if self._child is None:
            raise AssertionError("never connected")
        return explain_loss(self._settings.host, self._child)

    @property
    def retry(self) -> bool:
        """Not when the held command ended: the agent there was told to stop."""
        return self._child is None or self._child.returncode != 0

    def pids(self) -> list[int]:
        """The child's."""
        return [] if self._child is None else [self._child.pid]

    async def aclose(self) -> None:
        """End the child and remove its socket."""
        if self._child is not None:
            await self._child.aclose()
        try:
            os.unlink(self._socket)
        except FileNotFoundError:
            pass

    async def _watch(self, child: Child) -> None:
        await child.exited.wait()
        self.lost.set()


def child_argv(settings: Settings, environ: Mapping[str, str], command: str, socket: str | None) -> list[str]:
    """The child's command line.  Without ``socket`` it connects its stdin and stdout to the remote command."""
    host, user, port = settings.destination
    request = {
        "shown": settings.host,
        "host": host,
        "user": user,
        "port": port,
        "config_file": settings.config_file,
        "dead_after_s": settings.dead_after_s,
        "agent": describe_agent(environ),
        "command": command,
        "socket": socket,
    }
    return [sys.executable, "-P", "-c", _BOOT, _PACKAGES, json.dumps(request)]


def over_asyncssh(settings: Settings, environ: Mapping[str, str]) -> Callable[[str], Awaitable[list[str]]]:
    """For the stdio transport."""

    async def argv(command: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        return child_argv(settings, environ, command, None)

    return argv
