"""How the crate's threads wake the event loop."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Wake:
    """The descriptor by which threads of the crate wake a task.  Close it after what writes to it."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self.write_fd = self._read_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read_fd, self.write_fd = os.pipe()
            os.set_blocking(self._read_fd, False)
            os.set_blocking(self.write_fd, False)

    async def wait(self) -> None:
        """Wait until it was written to, and drain it."""
        await trio.lowlevel.wait_readable(self._read_fd)
        try:
            os.read(self._read_fd, 512)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """No task waits for it any more."""
        os.close(self._read_fd)
        if self.write_fd != self._read_fd:
            os.close(self.write_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()
