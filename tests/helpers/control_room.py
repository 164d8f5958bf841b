"""A control server with fakes at its seams, and the far end of connections to it."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from agentd.config import ConfigFile
from agentd.control.server import ControlServer
from agentd.watch.watchers import Watchers
from proto import limits
from proto.control import CONTROL_REPLIES, Trashed
from proto.errors import SyncError
from proto.frame import FrameReader, encode_frame
from proto.hello import Hello
from proto.job import Outcome, Progress
from proto.schema import from_head_untrusted, registry, to_head
from tests.helpers.fake_trees import FakeTrees

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from proto.job import Job, JobEvent
    from proto.schema import Message

AGENT = Hello("agent", 1, 1, "9.9", agent=bytes(range(16)))
CLI = Hello("cli", 1, 1, "9.8")
DONE = Outcome({"files": 2, "bytes": 10}, [], 0, 1, 100, 200, 0.5)


class FakeLink(NamedTuple):
    host: str
    state: str
    transport: str | None = "openssh"
    rtt_s: float | None = 0.001
    version: str | None = "9.9"
    error: str | None = None


class FakeSessions:
    """Jobs that report what a test wants and wait until it lets them end."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.environs: list[Mapping[str, str]] = []
        self.reports: list[JobEvent] = [Progress("listing", {"listed": 3})]
        self.outcome: Outcome | Exception = DONE
        self.started = trio.Event()
        self.cancelled = trio.Event()
        self.go = trio.Event()
        self.report: Callable[[JobEvent], None] | None = None

    async def trash(self, _path: bytes) -> list[tuple[bytes, bytes, int, bool]]:
        return []

    async def restore(self, _path: bytes, paths: Sequence[bytes], _batch: bytes) -> Trashed:
        return Trashed(0, len(paths))

    async def empty_trash(self, _path: bytes) -> Trashed:
        return Trashed(0, 0)

    async def run_job(self, job: Job, environ: Mapping[str, str], report: Callable[[JobEvent], None]) -> Outcome:
        self.jobs.append(job)
        self.environs.append(environ)
        self.report = report
        for event in self.reports:
            report(event)
        self.started.set()
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class FakeLinks:
    def __init__(self) -> None:
        self.rows = [FakeLink("box", "up"), FakeLink("far", "failed", None, None, None, "no route")]

    def statuses(self) -> list[FakeLink]:
        return self.rows


class Far:
    """A client's end, in CBOR."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = FrameReader(limits.CONTROL_PAYLOAD_MAX)
        self._messages = CONTROL_REPLIES | registry(Hello)

    async def send(self, *messages: Message) -> None:
        await self.stream.send_all(b"".join(encode_frame(to_head(message)) for message in messages))

    async def payload(self) -> tuple[Any, Any]:
        while (frame := self._reader.next_frame_untrusted()) is None:
            data = await self.stream.receive_some(len(self._reader.get_buffer()))
            if not data:
                raise EOFError
            self._reader.get_buffer()[: len(data)] = data
            self._reader.buffer_updated(len(data))
        return from_head_untrusted(self._messages, frame.head), frame.payload

    async def receive(self) -> Any:
        return (await self.payload())[0]

    async def until(self, kind: type[Any]) -> list[Any]:
        found: list[Any] = []
        while not found or type(found[-1]) is not kind:
            found.append(await self.receive())
        return found

    async def wait_closed(self) -> None:
        """Take in whatever comes until the server has closed."""
        while await self.stream.receive_some():
            pass

    async def aclose(self) -> None:
        await self.stream.aclose()


class FarLines:
    """A client's end, in JSON lines."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, *values: object) -> None:
        await self.stream.send_all(b"".join(json.dumps(value).encode() + b"\n" for value in values))

    async def receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    async def until(self, tag: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while not found or found[-1]["t"] != tag:
            found.append(await self.receive())
        return found


class Room:
    """A running server."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self.sessions = FakeSessions()
        self.links = FakeLinks()
        self.config_path = path / "config.toml"
        self.stopped = trio.Event()
        self.opened: list[trio.SocketStream] = []
        self._nursery = nursery
        config = ConfigFile(str(self.config_path), lambda config: self.watchers.reconfigure(config))
        self.trees = FakeTrees()
        self.watchers = Watchers(trees=self.trees, runner=self.sessions, config=config.current(), environ={})
        self.server = ControlServer(
            identity=lambda: AGENT,
            sessions=self.sessions,
            links=self.links,
            config=config,
            watchers=self.watchers,
            stop=self.stopped.set,
            trashes=self.sessions,
            sockets=["/run/x"],
        )

    def connect(self) -> trio.SocketStream:
        """A bare connection that the server serves."""
        near, far = socket.socketpair()
        self._nursery.start_soon(self.server.serve, trio.SocketStream(trio.socket.from_stdlib_socket(near)))
        self.opened.append(trio.SocketStream(trio.socket.from_stdlib_socket(far)))
        return self.opened[-1]

    async def open(self, *requests: Message) -> Far:
        """A greeted connection; the requests went out with the hello."""
        far = Far(self.connect())
        await far.send(CLI, *requests)
        assert await far.receive() == AGENT
        return far

    async def open_lines(self) -> FarLines:
        """The same in JSON."""
        far = FarLines(self.connect())
        await far.send({"t": "hello", "role": "cli", "protocol_min": 1, "protocol_max": 1, "version": "ed"})
        hello = await far.receive()
        assert (hello["t"], hello["version"]) == ("hello", "9.9")
        return far


@asynccontextmanager
async def open_room(path: Path) -> AsyncIterator[Room]:
    async with trio.open_nursery() as nursery:
        room = Room(path, nursery)
        await nursery.start(room.server.run)
        await nursery.start(room.watchers.run)
        try:
            yield room
        finally:
            for stream in room.opened:
                stream.socket.close()
            nursery.cancel_scope.cancel()


FAILED = SyncError("unreachable", "box: no route to host", "look")
