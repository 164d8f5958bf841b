"""The ``stdio`` transport: one exec channel runs ``syncctl relay``, and the multiplexer carries every stream over it.

For hosts whose sshd forwards nothing; works with MaxSessions 1.  What runs ssh is any command that connects its stdin
and stdout to the remote command: the system's ssh, or our asyncssh child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentd.links.child import Child
from agentd.links.destination import remote_shell_command
from agentd.links.mux import MuxStreams
from agentd.links.settings import child_environ
from agentd.links.ssh import ssh_argv
from agentd.links.transport import SSH_FAILED, explain_loss, wait_ready
from proto.errors import SyncError
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentd.links.mux import MuxStream
    from agentd.links.settings import Settings
    from agentd.links.ssh import Binary
    from proto.hold import Ready


class StdioTransport:
    """``argv()`` makes the command that runs its last argument on the other host."""

    name = "stdio"

    def __init__(
        self,
        argv: Callable[[str], Awaitable[list[str]]],
        settings: Settings,
        environ: Mapping[str, str],
        nursery: trio.Nursery,
    ) -> None:
        self.ready: Ready | None = None
        self.lost = trio.Event()
        self._argv = argv
        self._settings = settings
        self._environ = environ
        self._nursery = nursery
        self._child: Child | None = None
        self._streams: MuxStreams | None = None
        self._why = ""

    async def connect(self) -> None:
        """Start the relay."""
        argv = await self._argv(remote_shell_command("relay", self._settings.remote_command))
        child = self._child = Child(argv, child_environ(self._environ))
        self._nursery.start_soon(child.serve)
        self.ready, rest = await wait_ready(child, self._settings, self._environ)
        self._streams = MuxStreams(child.stdout, child.stdin, rest)
        self._nursery.start_soon(self._serve, child, self._streams)

    async def open_stream(self) -> MuxStream:
        """A stream of the multiplexer."""
        await trio.lowlevel.checkpoint()
        if self._streams is None or self.lost.is_set():
            raise self.why_lost()
        try:
            return self._streams.open()
        except trio.BrokenResourceError as e:
            raise SyncError("link-lost", f"the link to {escape_text(self._settings.host)}: {e}") from None

    async def why_refused(self, *, first: bool) -> SyncError:
        """The relay refuses when the agent's socket does."""
        del first
        with trio.move_on_after(0.2):
            await self.lost.wait()
            return self.why_lost()
        host = escape_text(self._settings.host)
        return SyncError("remote-failed", f"{host}: the agent there does not accept connections")

    def why_lost(self) -> SyncError:
        """From ssh's last words, or what the multiplexer found wrong."""
        if self._child is None:
            raise AssertionError("never connected")
        error = explain_loss(self._settings.host, self._child)
        if self._why and not self._child.stderr:
            error = SyncError(error.code, f"{error.message} ({self._why})")
        return error

    @property
    def retry(self) -> bool:
        """Not when the relay itself ended: the agent there was told to stop."""
        return self._child is None or self._child.returncode is None or not 0 <= self._child.returncode < SSH_FAILED

    def pids(self) -> list[int]:
        """ssh's."""
        return [] if self._child is None else [self._child.pid]

    async def aclose(self) -> None:
        """End it."""
        if self._child is not None:
            await self._child.aclose()

    async def _serve(self, child: Child, streams: MuxStreams) -> None:
        self._why = await streams.serve()
        with trio.move_on_after(0.5):
            await child.exited.wait()
        self.lost.set()


def over_ssh(binary: Binary, settings: Settings, environ: Mapping[str, str]) -> Callable[[str], Awaitable[list[str]]]:
    """The system's ssh, with a connection of its own: the person's master may have been told not to multiplex."""

    async def argv(command: str) -> list[str]:
        alone = ("-o", "ControlMaster=no", "-o", "ControlPath=none")
        return [*await ssh_argv(binary, settings, environ, *alone), command]

    return argv
