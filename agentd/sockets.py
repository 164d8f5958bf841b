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
        self._path = path
        self._handler = handler
        self._passed = passed
        self._inode: int | None = None
        self._accepting = trio.CancelScope()

    async def serve(
        self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until cancelled; connections are handled in ``nursery`` and outlive a socket that vanished.

        Raises SyncError when the socket cannot be made.
        """
        status: trio.TaskStatus[object] = task_status  # type: ignore[assignment]
        while True:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._passed or self._bind()))
            with trio.CancelScope() as self._accepting:
                await trio.serve_listeners(self._handler, [listener], handler_nursery=nursery, task_status=status)
            status = trio.TASK_STATUS_IGNORED

    def mend(self) -> bool:
        """Listen anew if the name no longer leads to us; whether it did not."""
        if self._inode is None or self._named_us():
            return False
        self._inode = None
        self._accepting.cancel()
        return True

    def remove(self) -> None:
        """Take the name away, if it is still ours.  Only while the lock is held."""
        if self._inode is not None and self._named_us():
            os.unlink(self._path)

    def _named_us(self) -> bool:
        try:
            return os.lstat(self._path).st_ino == self._inode
        except OSError:
            return False

    def _bind(self) -> socket.socket:
        """A fresh socket; a stale one of a killed predecessor goes, which the caller's lock makes safe."""
        private_directory(os.path.dirname(self._path))
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)  # the socket is never open to others, not even between bind and chmod
        try:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
            made.bind(self._path)
            made.listen(_BACKLOG)
            self._inode = os.lstat(self._path).st_ino
        except OSError as e:
            made.close()
            raise SyncError(
                "no-agent", f"cannot listen on {self._path}: {e.strerror or e}", "set SYNCCTL_HOME"
            ) from None
        finally:
            os.umask(umask)
        return made
