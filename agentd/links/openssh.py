"""The ``openssh`` transport: the system's client forwards a local socket to the remote agent's.

A master of our own holds one remote command, ``syncctl start --hold``, whose stdin stays open for as long as the link
lives.  Not ``-N``: it would ignore the end of stdin and delay small replies by 40 ms (Nagle stays on).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from agentd.links.child import Child
from agentd.links.destination import remote_shell_command
from agentd.links.settings import child_environ
from agentd.links.ssh import control, ssh_argv
from agentd.links.transport import SSH_FAILED, explain_loss, wait_ready
from proto.errors import SyncError
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.links.settings import Settings
    from agentd.links.ssh import Binary
    from proto.hold import Ready

_REFUSAL_WAIT_S = 1.0
"""ssh says why a channel was refused about when it closes the socket; the two come by different ways."""

_DENIED = (b"open failed: administratively prohibited", b"open failed: unknown channel type")
_REFUSED = b"open failed: connect failed"


class OpensshTransport:
    """``sockets`` is a path prefix of our own: PREFIX.c is ssh's control socket, PREFIX.s the forwarded one."""

    name = "openssh"

    def __init__(
        self, binary: Binary, settings: Settings, environ: Mapping[str, str], sockets: str, nursery: trio.Nursery
    ) -> None:
        self.ready: Ready | None = None
        self.lost = trio.Event()
        self._binary = binary
        self._settings = settings
        self._environ = environ
        self._control = sockets + ".c"
        self._socket = sockets + ".s"
        self._nursery = nursery
        self._child: Child | None = None
        self._hold_ended = False

    async def connect(self) -> None:
        """Start the master, wait for the remote agent, forward its socket."""
        argv = await ssh_argv(self._binary, self._settings, self._environ, "-M", "-S", self._control)
        command = remote_shell_command("start --hold", self._settings.remote_command)
        child = self._child = Child([*argv, command], child_environ(self._environ))
        self._nursery.start_soon(self._serve, child)
        self.ready, _ = await wait_ready(child, self._settings, self._environ)
        self._nursery.start_soon(self._watch, child)
        forward = (
            self._socket.encode().replace(b"\\", b"\\\\").replace(b":", b"\\:") + b":" + _quoted(self.ready.socket)
        )
        status, said = await control(
            self._binary, self._control, "-O", "forward", "-L", os.fsdecode(forward), environ=self._environ
        )
        if status != 0:
            if self.lost.is_set():
                raise self.why_lost()
            raise SyncError(
                "forwarding-denied",
                f"{escape_text(self._settings.host)}: ssh cannot forward: {escape_text(said[-200:])}",
            )

    async def open_stream(self) -> trio.SocketStream:
        """A connection through the forwarded socket."""
        if self.lost.is_set():
            raise self.why_lost()
        try:
            return await trio.open_unix_socket(self._socket)
        except OSError as e:
            raise self.why_lost() if self.lost.is_set() else self._gone(e) from None

    async def why_refused(self, *, first: bool) -> SyncError:
        """ssh accepts locally before it asks the far end, and closes when that says no.

        OpenSSH's sshd calls a forwarding that it forbids "connect failed".  But the held command has just connected to
        that socket itself: when not even the first stream gets there, sshd is the one who refuses.
        """
        child = self._child
        host = escape_text(self._settings.host)
        with trio.move_on_after(_REFUSAL_WAIT_S):
            while child is not None and not self.lost.is_set():
                if any(sign in child.stderr for sign in _DENIED) or (first and _REFUSED in child.stderr):
                    return SyncError("forwarding-denied", f"{host}: its sshd does not forward to a Unix socket")
                if _REFUSED in child.stderr:
                    return SyncError("remote-failed", f"{host}: the agent there does not accept connections")
                await child.stderr_grew.wait()
        if self.lost.is_set():
            return self.why_lost()
        return SyncError("remote-failed", f"{host}: the agent there ends new connections")

    def why_lost(self) -> SyncError:
        """From ssh's last words."""
        if self._child is None:
            raise AssertionError("never connected")
        return explain_loss(self._settings.host, self._child)

    @property
    def retry(self) -> bool:
        """Not when the held command ended: the agent there was told to stop."""
        status = None if self._child is None else self._child.returncode
        return not self._hold_ended if status is None else not 0 <= status < SSH_FAILED

    def pids(self) -> list[int]:
        """The master's."""
        return [] if self._child is None else [self._child.pid]

    async def aclose(self) -> None:
        """End the master and remove its sockets."""
        if self._child is not None:
            await self._child.aclose()
        for path in (self._control, self._socket):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def _gone(self, error: OSError) -> SyncError:
        why = error.strerror or str(error)
        return SyncError("link-lost", f"the link to {escape_text(self._settings.host)} was lost ({why})")

    async def _serve(self, child: Child) -> None:
        await child.serve()
        self.lost.set()

    async def _watch(self, child: Child) -> None:
        """The held command says nothing more; its end is the end of the link, even while channels keep ssh alive."""
        try:
            async for _ in child.stdout:
                pass
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return
        self._hold_ended = True
        with trio.move_on_after(0.2):
            await child.exited.wait()
        self.lost.set()


def _quoted(path: bytes) -> bytes:
    """A path within ssh's LISTEN:CONNECT."""
    return path.replace(b"\\", b"\\\\").replace(b":", b"\\:")
