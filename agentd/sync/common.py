"""What both ends of a session need of the agent, and the ways they share."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

from proto.errors import LocalProtocolError, ProtocolError, SyncError
from proto.limits import TEXT_MAX
from proto.peer import Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentd.sync.engines import Engines, Tuning
    from agentd.sync.leases import Leases
    from agentd.sync.memory import Trees
    from agentd.sync.roots import Root
    from agentd.sync.trash import Expiry
    from agentd.wire import Connection
    from proto.hello import Hello

ERROR_PATIENCE_S = 2.0
"""How long the last word of a session may take."""


class Journal(Protocol):
    """Which roots have a writing session under way, for the sweep after a crash.  Called on the event loop."""

    def begin(self, session: bytes, root: bytes) -> None:
        """A session is about to write below ``root``."""

    def end(self, session: bytes) -> None:
        """It left nothing behind that needs sweeping."""

    def unfinished(self) -> list[tuple[bytes, bytes]]:
        """(session, root) of those that began and did not end."""

    def source(self, key: bytes) -> bytes | None:
        """The identity that was remembered under ``key``."""

    def remember_source(self, key: bytes, identity: bytes) -> None:
        """Which directory a source is: see agentd.sync.provenance."""


class Workshop(NamedTuple):
    """What the sessions of one agent share."""

    identity: Callable[[], Hello]
    journal: Journal
    tuning: Tuning
    engines: Engines
    leases: Leases
    threads: trio.CapacityLimiter
    """For what may block: finding roots, making engines and closing them."""
    expiry: Expiry
    trees: Trees | None = None
    """What is known of roots from earlier sessions; without it every session lists everything."""

    async def blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)`` in a thread; it is not abandoned when cancelled."""
        return await trio.to_thread.run_sync(function, *args, limiter=self.threads)

    @contextlib.asynccontextmanager
    async def writing(
        self, session: bytes, root: Root, holder: str, *, dry_run: bool, trash: int = 0, peer: bytes | None = None,
        scoped: bool = False,
    ) -> AsyncIterator[None]:  # fmt: skip
        """Hold the right to write below ``root``, and have it on record.  Raises SyncError ``root-busy``.

        Behind it, what is in the trash for longer than ``trash`` seconds may go.
        """
        if dry_run:
            yield
            return
        async with self.leases.lease(root, holder, peer=peer, scoped=scoped):
            self.journal.begin(session, root.path)
            cleared = True  # the engine is closed and has cleaned up, however it ended
            try:
                yield
            except SyncError as e:
                cleared = e.code != "destination-read-only"  # but there: that is left to the sweep at the next start
                raise
            finally:
                if cleared:
                    self.journal.end(session)
        if trash:
            self.expiry.soon(root.path, trash)


@contextlib.asynccontextmanager
async def beside(function: Callable[..., Awaitable[None]], *args: Any) -> AsyncIterator[None]:
    """Run ``function`` while the body runs; the body's exception comes out as it is, not in a group."""
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function, *args)
        try:
            yield
        except Exception as e:  # noqa: BLE001 - raised again below
            error = e
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


async def refuse(connection: Connection, error: SyncError) -> None:
    """Tell the peer what ends the session, as far as it still can be told."""
    gone = contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError)
    with trio.CancelScope(shield=True), trio.move_on_after(ERROR_PATIENCE_S), gone:
        await connection.send(Error(error.code, error.message[:TEXT_MAX], error.hint[:TEXT_MAX]))


def temp_tag(identity: Hello, *, scoped: bool) -> str:
    """What temporary names are known by: a session about some paths leaves alone what one about all has under way."""
    return (identity.agent[4:8] if scoped else identity.agent[:4]).hex()


def on_one_machine(ours: Hello, theirs: Hello) -> bool:
    """Whether inodes and devices mean the same to both: to two agents of one running machine."""
    return ours.agent == theirs.agent or bool(ours.machine and ours.machine == theirs.machine)


def greeted(connection: Connection) -> Hello:
    """Who is at the other end."""
    if connection.agreement is None:
        raise LocalProtocolError("a connection that was not greeted")
    return connection.agreement.peer


async def close_now(connection: Connection) -> None:
    """Close without waiting, also when cancelled."""
    with trio.CancelScope(shield=True):
        await connection.aclose()
