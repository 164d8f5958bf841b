"""The contract of a link's transport, and the part that every one begins with: waiting for the marked line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from agentd.links.diagnose import explain_silence, explain_ssh, from_far_end
from agentd.links.settings import may_ask
from proto.errors import RemoteProtocolError, SyncError
from proto.hold import LineScanner, Ready
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.links.child import Child
    from agentd.links.settings import Settings

READY_DEADLINE_S = 45.0
"""From the start of ssh to the marked line: name, TCP, key exchange, login shell, and the start of an agent there."""

ASKING_DEADLINE_S = 180.0
"""The same when a person may have to type a passphrase or touch a key."""

SSH_FAILED = 255


class Transport(Protocol):
    """Given an SSH destination: find or start the remote agent, and forward streams to its peer socket.

    ``connect()`` comes first and once, ``aclose()`` last, whatever happened; in between any number of streams.
    """

    name: str
    ready: Ready | None
    """What the far end said of itself, once connected."""
    lost: trio.Event
    """Set when the way there is gone."""

    async def connect(self) -> None:
        """Raises SyncError, every cause with a code of its own."""

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        """A new stream to the remote agent's peer socket.

        Raises SyncError ``link-lost``.  That the far end accepts it shows in its first byte only.
        """

    async def why_refused(self, *, first: bool) -> SyncError:
        """Asked when a new stream ended before its first byte: why.  ``first`` is whether none was accepted yet."""

    def why_lost(self) -> SyncError:
        """Asked when ``lost`` is set."""

    @property
    def retry(self) -> bool:
        """Asked when ``lost`` is set: whether the network did it, so that another attempt may help by itself."""

    def pids(self) -> list[int]:
        """The child processes."""

    async def aclose(self) -> None:
        """End everything; no child process is left behind."""


async def wait_ready(child: Child, settings: Settings, environ: Mapping[str, str]) -> tuple[Ready, bytes]:
    """Read the child's stdout up to the marked line; also what came behind it.

    Raises SyncError: what the far end reported, or what ssh's end or silence means.
    """
    scanner = LineScanner()
    host = settings.host
    with trio.move_on_after(ASKING_DEADLINE_S if may_ask(environ) else READY_DEADLINE_S):
        try:
            async for data in child.stdout:
                message = scanner.feed_untrusted(bytes(data))
                if isinstance(message, Ready):
                    return message, scanner.rest
                if message is not None:
                    raise from_far_end(host, message)
        except RemoteProtocolError as e:
            raise SyncError("noisy-shell", f"{escape_text(host)}: {e}") from None
        with trio.move_on_after(5):
            await child.exited.wait()
            if child.returncode == SSH_FAILED and not scanner.noise:
                raise explain_ssh(host, child.stderr, environ)
    raise explain_silence(host, child.returncode, scanner.noise, child.stderr)


def explain_loss(host: str, child: Child) -> SyncError:
    """What ended an established link."""
    lines = [line for line in child.stderr.replace(b"\r", b"\n").split(b"\n") if line.strip()]
    said = f" ({escape_text(lines[-1][:300])})" if lines else ""
    if child.returncode is not None and 0 <= child.returncode < SSH_FAILED:
        return SyncError("link-lost", f"the agent on {escape_text(host)} ended{said}")
    return SyncError("link-lost", f"the link to {escape_text(host)} was lost{said}")
