"""Routes: where an initiator's connections come from."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

import trio

from agentd.sync.common import close_now
from agentd.wire import Connection, ConnectionLost, greet
from proto.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from proto.hello import Hello


_REASON_PATIENCE_S = 0.2
"""A connection's end is often seen before its link's."""


class Link(Protocol):
    """What is needed of ``agentd.links.Link``."""

    @property
    def rtt_s(self) -> float | None: ...  # noqa: D102
    async def connection(self) -> Connection: ...  # noqa: D102
    def give_back(self, connection: Connection) -> None: ...  # noqa: D102
    async def wait_lost(self) -> SyncError: ...  # noqa: D102


class Links(Protocol):
    """What is needed of ``agentd.links.Links``."""

    async def link(self, host: str, environ: Mapping[str, str]) -> Link: ...  # noqa: D102


class Route(Protocol):
    """The way to the other root's agent."""

    @property
    def rtt_s(self) -> float | None: ...  # noqa: D102
    async def connection(self) -> Connection:
        """A greeted connection of its caller's own.  Raises SyncError."""

    async def give_back(self, connection: Connection) -> None:
        """The session on it ended in order."""

    async def why_lost(self, lost: ConnectionLost) -> SyncError:
        """The same for a person."""


class LinkRoute:
    """Over the warm link to a host, made again when it was lost."""

    def __init__(self, links: Links, host: str, environ: Mapping[str, str]) -> None:
        self._links = links
        self._host = host
        self._environ = environ
        self._link: Link | None = None

    @property
    def rtt_s(self) -> float | None:
        """The link's, seconds."""
        return None if self._link is None else self._link.rtt_s

    async def connection(self) -> Connection:
        """A greeted one.  Raises SyncError."""
        try:
            return await self._connection()
        except SyncError as e:
            if e.code != "link-lost":
                raise
        # the one there was had ended, as with an agent that was stopped a moment ago
        return await self._connection()

    async def _connection(self) -> Connection:
        self._link = await self._links.link(self._host, self._environ)
        return await self._link.connection()

    async def give_back(self, connection: Connection) -> None:
        """The session on it ended in order."""
        if self._link is None:
            await close_now(connection)
        else:
            self._link.give_back(connection)

    async def why_lost(self, lost: ConnectionLost) -> SyncError:
        """``lost`` for a person."""
        if self._link is not None:
            with trio.move_on_after(_REASON_PATIENCE_S):
                return await self._link.wait_lost()
        return SyncError("link-lost", f"the connection to {self._host} was lost ({lost})")


class HereRoute:
    """To this agent itself, over a socket pair: from here to here is a session like any other."""

    rtt_s = None

    def __init__(
        self, serve: Callable[[Connection], Awaitable[None]], identity: Callable[[], Hello], nursery: trio.Nursery
    ) -> None:
        self._serve = serve
        self._identity = identity
        self._nursery = nursery

    async def connection(self) -> Connection:
        """A greeted one.  Raises SyncError."""
        ours, theirs = (
            Connection(trio.SocketStream(trio.socket.from_stdlib_socket(end))) for end in socket.socketpair()
        )
        try:
            self._nursery.start_soon(self._answer, theirs)
            await greet(ours, self._identity())
        except BaseException:
            await close_now(ours)
            raise
        return ours

    async def _answer(self, connection: Connection) -> None:
        try:
            await greet(connection, self._identity())
            await self._serve(connection)
        except ConnectionLost:
            pass  # the asking half was cancelled
        finally:
            await close_now(connection)

    async def give_back(self, connection: Connection) -> None:
        """The session on it ended in order."""
        await close_now(connection)

    async def why_lost(self, lost: ConnectionLost) -> SyncError:
        """``lost`` for a person."""
        return SyncError("internal", f"the agent's own session broke off ({lost})")
