"""One established link: greeted connections over a transport, for as long as both live."""

from __future__ import annotations

import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

import trio

from agentd.wire import Connection, ConnectionLost, greet
from proto.errors import RemoteProtocolError, SyncError, broken
from proto.keepalive import WAKE_GRACE_S, Dead, Keepalive, SendPing
from proto.peer import PEER_MESSAGES, Ping, Pong
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.links.transport import Transport
    from proto.hello import Hello

SPARES = 2
"""Greeted connections held ready: a session's, and the next one's."""

SPARES_MAX = 4
"""More than these are not kept when sessions give theirs back."""

_SLEEP_JUMP_S = 2.0


class Link:
    """The warm way to one host.  Made by Links; dead once ``wait_lost()`` has returned."""

    def __init__(self, host: str, transport: Transport, identity: Callable[[], Hello], dead_after_s: float) -> None:
        self.host = host
        self.transport = transport
        self.used_at = self.since = trio.current_time()
        self._identity = identity
        self._keepalive = Keepalive(dead_after_s, trio.current_time())
        self._control: Connection | None = None
        self._spares: deque[Connection] = deque()
        # weak: a session that closes its connection need not tell
        self._streams: weakref.WeakKeyDictionary[Connection, trio.abc.HalfCloseableStream] = weakref.WeakKeyDictionary()
        self._refill = trio.Event()
        self._woken = trio.Event()
        self._answered = trio.Event()
        self._asleep_s = _suspended_s()
        self._error: SyncError | None = None
        self._ending = False
        """The agent there closed the control connection; it will be known in a moment why."""
        self._lost = trio.Event()

    @property
    def rtt_s(self) -> float | None:
        """The shortest of the latest round trips, seconds; None before the first."""
        return self._keepalive.rtt_s

    @property
    def is_lost(self) -> bool:
        """Whether it is of no more use."""
        return self._lost.is_set()

    @property
    def connections(self) -> int:
        """How many there are: sessions', spares, and the control connection."""
        return len(self._streams)

    async def connection(self) -> Connection:
        """A greeted connection: a spare if there is one, or a new one.

        It is the caller's until ``give_back()`` or its ``aclose()``.  Raises SyncError.
        """
        self.used_at = trio.current_time()
        if self._has_slept():
            await self._prove_alive()
        while self._spares:
            connection = self._spares.popleft()
            self._refill.set()
            if not _ended(self._streams[connection]):
                return connection
            await connection.aclose()
        return await self._open()

    def give_back(self, connection: Connection) -> None:
        """The session on it ended in order: it is a spare again."""
        stream = self._streams.get(connection)
        if stream is None:
            return
        if self.is_lost or len(self._spares) >= SPARES_MAX or _ended(stream):
            _close_now(stream)
        else:
            self._spares.append(connection)

    async def wait_lost(self) -> SyncError:
        """Wait for its end; why it came."""
        await self._lost.wait()
        if self._error is None:
            raise AssertionError("lost without a reason")
        return self._error

    async def greet(self) -> None:
        """Open the control connection, which shows that streams get through.  Raises SyncError."""
        self._control = await self._open()

    async def serve(self) -> SyncError:
        """Keep it alive and its spares filled; returns why it was lost, all connections closed."""
        if self._control is None:
            raise AssertionError("not greeted")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive_pongs, self._control)
                nursery.start_soon(self._send_pings, self._control, nursery)
                nursery.start_soon(self._fill_spares)
                nursery.start_soon(self._watch_transport)
                await self._lost.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.lose(SyncError("agent-stopping", "the agent is stopping"))
        return await self.wait_lost()

    def lose(self, error: SyncError) -> None:
        """It is of no more use: close everything on it, once."""
        if self._error is None:
            self._error = error
            self._lost.set()
            for stream in list(self._streams.values()):
                _close_now(stream)
            self._spares.clear()

    async def _open(self) -> Connection:
        if self.is_lost or self._ending:
            raise await self.wait_lost()
        stream = await self.transport.open_stream()
        connection = Connection(stream)
        try:
            await greet(connection, self._identity())
        except ConnectionLost:
            _close_now(stream)
            refused = await self.transport.why_refused(first=self._control is None)
            if self._ending:
                raise await self.wait_lost() from None
            raise refused from None
        except trio.ClosedResourceError:
            raise await self.wait_lost() from None
        except RemoteProtocolError as e:
            _close_now(stream)
            raise broken(escape_text(self.host), e) from None
        except BaseException:
            _close_now(stream)
            raise
        if self._lost.is_set():  # meanwhile
            _close_now(stream)
            raise await self.wait_lost()
        self._streams[connection] = stream
        return connection

    async def _fill_spares(self) -> None:
        while True:
            self._refill = trio.Event()
            while len(self._spares) < SPARES:
                try:
                    self._spares.append(await self._open())
                except SyncError:
                    # the link as a whole is judged by its control connection; the next need tries again
                    break
            await self._refill.wait()

    async def _watch_transport(self) -> None:
        await self.transport.lost.wait()
        self.lose(self.transport.why_lost())

    async def _receive_pongs(self, control: Connection) -> None:
        try:
            while True:
                message, _ = await control.receive(PEER_MESSAGES)
                if not isinstance(message, Pong):
                    raise RemoteProtocolError("not a pong on the control connection")
                self._keepalive.pong_untrusted(message.n, trio.current_time())
                self._answered.set()
                self._answered = trio.Event()
        except RemoteProtocolError as e:
            self.lose(broken(escape_text(self.host), e))
        except (ConnectionLost, trio.ClosedResourceError):
            self._ending = True
            with trio.move_on_after(0.5):
                await self.transport.lost.wait()
                self.lose(self.transport.why_lost())
            self.lose(SyncError("link-lost", f"the agent on {escape_text(self.host)} closed the link"))

    async def _send_pings(self, control: Connection, nursery: trio.Nursery) -> None:
        heard = 0
        while True:
            now = trio.current_time()
            total = sum(connection.received for connection in list(self._streams))
            if total > heard:
                self._keepalive.heard(now)
            heard = total
            if self._has_slept():
                self._keepalive.slept(now)
                self._asleep_s = _suspended_s()
            action = self._keepalive.next_action(now)
            if isinstance(action, Dead):
                silent = f"nothing was heard from {escape_text(self.host)} for {action.silent_s:.0f} s"
                self.lose(SyncError("link-lost", silent))
                return
            if isinstance(action, SendPing):
                nursery.start_soon(_send_ping, control, action.n)
                continue
            self._woken = trio.Event()
            with trio.move_on_after(action.seconds):
                await self._woken.wait()

    def _has_slept(self) -> bool:
        return _suspended_s() - self._asleep_s > _SLEEP_JUMP_S

    async def _prove_alive(self) -> None:
        """After a sleep a spare may be long dead; one answered ping is cheaper than a session that hangs."""
        answered = self._answered
        self._woken.set()
        with trio.move_on_after(WAKE_GRACE_S + 1):
            async with trio.open_nursery() as nursery:

                async def lost() -> None:
                    await self._lost.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(lost)
                await answered.wait()
                nursery.cancel_scope.cancel()


async def _send_ping(control: Connection, n: int) -> None:
    try:
        await control.send(Ping(n))
    except (ConnectionLost, trio.ClosedResourceError):
        pass  # the receiving task sees the same and says why


def _suspended_s() -> float:
    """How long this machine has been suspended since it was booted, seconds; only differences mean something."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    if hasattr(time, "CLOCK_UPTIME_RAW"):  # macOS: its CLOCK_MONOTONIC goes on while it sleeps
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0


def _ended(stream: trio.abc.HalfCloseableStream) -> bool:
    """Whether an idle stream has ended.  Between sessions nothing is to be read, so whatever shows is the end."""
    if isinstance(stream, trio.SocketStream):
        return stream.socket.fileno() < 0 or stream.socket.is_readable()
    return bool(getattr(stream, "is_readable", bool)())


def _close_now(stream: trio.abc.HalfCloseableStream) -> None:
    """Close without waiting, from anywhere; the other end sees the end of the stream."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        stream.close()  # type: ignore[attr-defined]
