"""Two agents' session services joined without a link: real ones, over fake engines and socket pairs."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from agentd.sync.engines import Tuning
from agentd.sync.service import Sessions
from agentd.wire import Connection, greet
from proto.hello import Hello
from tests.helpers.fake_engine import FakeReceiver, FakeSender, Tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from agentd.sync.engines import Knowing
    from proto.errors import SyncError
    from proto.peer import Open


class FakeEngines:
    """Trees by root; the directories are real, so that the guards have something to look at."""

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.trees: dict[bytes, Tree] = {}
        self.made: list[FakeSender | FakeReceiver] = []
        self.hold = trio.Event()
        """Set: senders start to list; a test that wants a session to hang clears it."""
        self.refuse: OSError | None = None

    def sender(
        self,
        root: bytes,
        open: Open,  # noqa: A002
        wake_fd: int,
        *,
        tree: Any = None,
        looks: Any = None,
        since: int | None = None,
    ) -> FakeSender:
        if self.refuse is not None:
            raise self.refuse
        pushing = open.side == "receiver"
        window = self.tuning.first_list_window if pushing else open.list_window
        engine = FakeSender(
            self.trees[root],
            list_window=window,
            data_window=0 if pushing else open.data_window,
            wake_fd=wake_fd,
            looks=None if looks is None else bytes(looks),
        )
        self.made.append(engine)
        return engine

    def receiver(
        self,
        root: bytes,
        open: Open,  # noqa: A002
        wake_fd: int,
        knowing: Knowing,
        *,
        arrow: str,
        temp_tag: str,
    ) -> FakeReceiver:
        assert arrow in "<>"
        assert len(temp_tag) == 8
        before = self.trees.get(root)
        tree = self.trees[root] = {}
        engine = FakeReceiver(
            before,
            tree,
            delete=open.delete,
            list_window=self.tuning.windows[0],
            data_window=self.tuning.windows[1],
            wake_fd=wake_fd,
            partial=knowing.partial,
            skip_first=knowing.skip_first,
        )
        self.made.append(engine)
        return engine

    def problems_untrusted(self, payload: Any) -> list[tuple[bytes, str, int]]:
        return [(line, "vanished", 2) for line in bytes(payload).split(b"\0") if line]


class FakeJournal:
    def __init__(self) -> None:
        self.open: dict[bytes, bytes] = {}
        self.begun = 0
        self.sources: dict[bytes, bytes] = {}

    def begin(self, session: bytes, root: bytes) -> None:
        self.open[session] = root
        self.begun += 1

    def end(self, session: bytes) -> None:
        del self.open[session]

    def unfinished(self) -> list[tuple[bytes, bytes]]:
        return list(self.open.items())

    def source(self, key: bytes) -> bytes | None:
        return self.sources.get(key)

    def remember_source(self, key: bytes, identity: bytes) -> None:
        self.sources[key] = identity


class FakeLink:
    """Connections are socket pairs to ``answer``; ``rtt_s`` is whatever a test says."""

    def __init__(self, identity: Hello, answer: Callable[[Connection], Awaitable[None]], nursery: trio.Nursery) -> None:
        self.rtt_s: float | None = None
        self.made: list[Connection] = []
        self.all: list[Connection] = []
        self.spares: list[Connection] = []
        self._identity = identity
        self._answer = answer
        self._nursery = nursery

    async def connection(self) -> Connection:
        if self.spares:
            return self.spares.pop()
        near, far = (Connection(trio.SocketStream(trio.socket.from_stdlib_socket(s))) for s in socket.socketpair())
        self.all += [near, far]
        self._nursery.start_soon(self._answer, far)
        await greet(near, self._identity)
        self.made.append(near)
        return near

    def give_back(self, connection: Connection) -> None:
        self.spares.append(connection)

    async def wait_lost(self) -> SyncError:
        await trio.sleep_forever()
        raise AssertionError


class FakeLinks:
    def __init__(self, link: FakeLink) -> None:
        self.the_link = link
        self.asked = 0
        self.errors: list[SyncError] = []

    async def link(self, host: str, environ: Mapping[str, str]) -> FakeLink:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.the_link


class Agent:
    """One agent's services."""

    def __init__(self, number: int, tuning: Tuning, machine: bytes = b"") -> None:
        self.hello = Hello("agent", 1, 1, "0.1.0", agent=bytes([number]) * 16, machine=machine)
        self.engines = FakeEngines(tuning)
        self.journal = FakeJournal()
        self.tuning = tuning
        self.sessions: Sessions

    def settle(self, links: Any) -> None:
        self.sessions = Sessions(
            identity=lambda: self.hello,
            links=links,
            journal=self.journal,
            tuning=self.tuning,
            engines=self.engines,
        )

    async def answer(self, connection: Connection) -> None:
        await greet(connection, self.hello)
        await self.sessions.serve(connection)


@asynccontextmanager
async def open_joined(tuning: Tuning | None = None, machine: bytes = b"") -> AsyncIterator[Joined]:
    """Two joined agents; what is left of them is ended."""
    async with trio.open_nursery() as nursery:
        joined = Joined(nursery, tuning, machine)
        await nursery.start(joined.here.sessions.run)
        yield joined
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for connection in joined.link.all:
                await connection.aclose()


class Joined:
    """``here`` asks, ``there`` answers."""

    def __init__(self, nursery: trio.Nursery, tuning: Tuning | None = None, machine: bytes = b"") -> None:
        tuning = tuning or Tuning(threads=1)
        self.here, self.there = Agent(1, tuning, machine), Agent(2, tuning, machine)
        self.link = FakeLink(self.here.hello, self.there.answer, nursery)
        self.links = FakeLinks(self.link)
        self.here.settle(self.links)
        self.there.settle(None)
        self.events: list[Any] = []
        self.run_job = partial(self.here.sessions.run_job, environ={}, report=self.events.append)

    @property
    def engines(self) -> list[FakeSender | FakeReceiver]:
        return [*self.here.engines.made, *self.there.engines.made]
