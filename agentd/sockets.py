"""The agent's two listening sockets: bound where nobody else can reach, made again when they vanish."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import trio

from agentd.paths import private_directory
from proto.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_BACKLOG = 128


class Listening:
    """One socket at ``path``.  ``passed`` came from a service manager: it is neither made again nor unlinked."""

    def __init__(
        self, path: str, handler: Callable[[trio.SocketStream], Awaitable[None]], passed: socket.socket | None
    ) -> None:
        self.path = path
        self._handler = handler
        self._socket = passed
        self._passed = passed is not None
        self._inode: int | None = None
        self._accepting = trio.CancelScope()

    async def serve(
        self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until cancelled; connections are handled in ``nursery`` and outlive a socket that vanished.

        Raises SyncError when the socket cannot be made.
        """
        if self._socket is None:
            self._bind(self.path)
        status: trio.TaskStatus[object] = task_status  # type: ignore[assignment]
        while self._socket is not None:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
            self._socket = None
            with trio.CancelScope() as self._accepting:
                await trio.serve_listeners(self._handler, [listener], handler_nursery=nursery, task_status=status)
            status = trio.TASK_STATUS_IGNORED

    def mend(self, path: str) -> bool:
        """Listen anew, at ``path``, if the name no longer leads to us; whether it did not.  Raises SyncError."""
        if self._passed or self._named_us():
            return False
        self._bind(path)
        self._accepting.cancel()
        return True

    def remove(self) -> None:
        """Take the name away, if it is still ours.  Only while the lock is held."""
        if not self._passed and self._named_us():
            os.unlink(self.path)

    def _named_us(self) -> bool:
        try:
            return os.lstat(self.path).st_ino == self._inode
        except OSError:
            return False

    def _bind(self, path: str) -> None:
        """A fresh socket; a stale one of a killed predecessor goes, which the caller's lock makes safe."""
        private_directory(os.path.dirname(path))
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)  # the socket is never open to others, not even between bind and chmod
        try:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            made.bind(path)
            made.listen(_BACKLOG)
            self._inode = os.lstat(path).st_ino
        except OSError as e:
            made.close()
            raise SyncError("no-agent", f"cannot listen on {path}: {e.strerror or e}", "set SYNCCTL_HOME") from None
        finally:
            os.umask(umask)
        self.path = path
        self._socket = made
