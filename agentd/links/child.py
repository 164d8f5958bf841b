"""Child processes that do not outlive the agent, however it ends.

On Linux the kernel sends the child SIGTERM when its parent dies.  Elsewhere, and besides, its stdin ends with us, which
every command that is run here takes as its end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STDERR_MAX = 4 << 10
"""What is kept of a child's stderr: its end, where errors stand.  A host's greeting may come before them."""

_TERM_GRACE_S = 1.0

# A program of its own and not a preexec_fn: Python code between fork and exec of a process with threads can deadlock.
# The parent is looked at after the request: it may have died before.
_LEASH = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """A running command with pipes on its three standard streams.

    Must be made on the thread that runs trio: the kernel's notion of a parent is a thread.  ``serve()`` has to run for
    as long as the child does; ``exited`` is set when it has ended and ``stderr`` holds all that it said.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        leash: tuple[str, ...] = ()
        if sys.platform == "linux":
            leash = (sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()))
        self._process = subprocess.Popen(
            [*leash, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(environ),
            start_new_session=True,  # not in the reach of Ctrl-C on a foreground agent, which ends it in order
        )
        self.pid = self._process.pid
        try:
            self.stdin, self.stdout, self._stderr = (
                trio.lowlevel.FdStream(_taken(pipe))
                for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
            )
        except OSError:
            self._signal(signal.SIGKILL)
            self._process.wait()
            raise
        self.exited = trio.Event()
        self.stderr = b""
        self.stderr_grew = trio.Event()

    @property
    def returncode(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._process.returncode

    async def serve(self) -> None:
        """Collect what it says on stderr, and wait for its end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect)
            await self._wait_exit()
            # whatever inherited its stderr may live on
            nursery.cancel_scope.deadline = trio.current_time() + 0.2
        self.exited.set()

    async def aclose(self) -> None:
        """End it, its own children too: the end of stdin, SIGTERM, and after a second SIGKILL."""
        with trio.CancelScope(shield=True):
            for stream in (self.stdin, self.stdout):
                await stream.aclose()
            if self._process.poll() is None:
                self._signal(signal.SIGTERM)
                with trio.move_on_after(_TERM_GRACE_S):
                    await self._wait_exit()
            self._signal(signal.SIGKILL)
            await self._wait_exit()
            await self._stderr.aclose()

    def _signal(self, number: int) -> None:
        # the group is its own; its number is not reused while a member or the unreaped leader is left
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def _collect(self) -> None:
        with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            async for data in self._stderr:
                self.stderr = (self.stderr + bytes(data))[-STDERR_MAX:]
                self.stderr_grew.set()
                self.stderr_grew = trio.Event()

    async def _wait_exit(self) -> None:
        if self._process.poll() is not None:
            return
        if sys.platform == "linux":
            pidfd = os.pidfd_open(self.pid)
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
        else:
            await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
        self._process.wait()


def _taken(pipe: object) -> int:
    """The descriptor of a pipe that Popen made, as our own."""
    with pipe:  # type: ignore[attr-defined]
        return os.dup(pipe.fileno())  # type: ignore[attr-defined]
