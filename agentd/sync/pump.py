"""The pump: moves messages between one endpoint and the connections of its session.

Every reader always reads, and nothing that it does waits for a writer: engines only queue what they are handed, and
what they may be handed is bounded by credits.  So two pumps cannot wait for each other, however small the windows are.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from agentd.sync.pace import Arrivals, Pace
from agentd.wire import ConnectionLost
from proto import peer
from proto.errors import LocalProtocolError, ProtocolError, SyncError
from proto.limits import FAR_RTT_US
from proto.session import SenderSession, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd.sync.endpoints import Endpoint, Outgoing
    from agentd.wake import Wake
    from agentd.wire import Connection

CANCEL_PATIENCE_S = 2.0
"""How long a cancelled session waits for the other side to agree."""

FRAME_GRACE_S = 2.0
"""How long a session that ends lets a frame go out that was begun: behind half a frame no ERROR can be sent."""


LAST_WORDS_S = 1.0
"""How long a connection that cannot be written to is still read."""

_CANCEL = peer.Cancel()


class Pump:
    """One epoch of a session, from OPEN/OPENED (sent by its owner) to its end.  ``run()`` it once.

    ``farewell`` is what it says when it is cancelled: CANCEL, which the peer answers, or an ERROR.
    """

    def __init__(
        self,
        connection: Connection,
        endpoint: Endpoint,
        wake: Wake,
        *,
        farewell: peer.PeerMessage = _CANCEL,
    ) -> None:
        self.endpoint = endpoint
        self.reusable = False
        """Whether the connection is a spare again after ``run()``."""
        self.refused = False
        """Whether the peer's ERROR ended it, so that none of ours has to."""
        self._session = endpoint.session
        self._connection = connection
        self._wake = wake
        self._woken = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._patience = trio.CancelScope()
        self._lost: ConnectionLost | None = None
        self._ended = trio.Event()
        self._error: BaseException | None = None
        self._sending = 0
        self._idle = trio.Event()
        self._farewell = farewell
        self._farewell_due = False
        self._pace: Pace | None = None
        self._arrivals: Arrivals | None = None

    async def run(self) -> None:
        """Until CLOSED; an initiating receiver's ends when DONE went out, and CLOSED is still to be read, unless CLOSED
        is to bring a profile.

        Raises ConnectionLost, RemoteProtocolError (the peer's breach), LocalProtocolError (ours), or SyncError: what
        the engine failed with, what the peer's ERROR said, ``cancelled`` when the peer sent CANCEL.
        """
        opening = self._session.open
        rtt_us = 0 if opening is None else opening.rtt_us or 0
        if not isinstance(self._session, SenderSession):
            self._arrivals = Arrivals(trio.current_time(), far=rtt_us >= FAR_RTT_US)
        elif rtt_us >= FAR_RTT_US:
            self._pace = Pace(rtt_us / 1e6)
        async with trio.open_nursery() as outer:
            outer.start_soon(self._watch_cancelled)
            with trio.CancelScope(shield=True), self._metered(self._connection):
                await self._run()
            outer.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._error is not None:
            raise self._error

    async def carry(self, connection: Connection) -> None:
        """Use a further data connection until the session ends; then close it."""
        if self._nursery is None or self._ended.is_set():
            raise LocalProtocolError("the session is not running")
        self._session.joined += 1
        self._nursery.start_soon(self._read, connection, True)
        if isinstance(self._session, SenderSession):
            self._nursery.start_soon(self._write, connection, True)
        with self._metered(connection):
            await self._ended.wait()

    @property
    def connections(self) -> int:
        """How many the session had so far."""
        return 1 + self._session.joined

    def end(self, error: BaseException | None) -> None:
        """The session is over, from whichever task learned it first."""
        if not self._ended.is_set():
            self._error = error
            self._ended.set()
            if self._pace is not None:
                self._pace.stop()
            self._stir()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._read, self._connection, False)
            nursery.start_soon(self._write, self._connection, False)
            nursery.start_soon(self._watch_engine)
            with self._patience:
                await self._ended.wait()
            self.end(self._lost)
            with trio.move_on_after(FRAME_GRACE_S):
                while self._sending:
                    self._idle = trio.Event()
                    await self._idle.wait()
            nursery.cancel_scope.cancel()
        self._nursery = None
        self.reusable = self._session.state is State.CLOSED and self._error is None and self.reusable

    async def _watch_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not self._ended.is_set() and not self._session.over:
                self._farewell_due = True
                self._patience.deadline = trio.current_time() + CANCEL_PATIENCE_S
                self._stir()

    async def _watch_engine(self) -> None:
        while True:
            await self._wake.wait()
            self._stir()

    @contextlib.contextmanager
    def _metered(self, connection: Connection) -> Iterator[None]:
        connection.timed = None if self.endpoint.meter is None else self._timed
        connection.pace = None if self._pace is None else self._pace.wait
        if self._arrivals is not None:
            connection.arrived = self._arrived
            # What came in one piece with OPEN, OPENED or JOIN counts too: its sender waits to hear of every byte.
            self._arrived(connection.ahead)
        try:
            yield
        finally:
            connection.timed = connection.pace = connection.arrived = None

    def _arrived(self, count: int) -> None:
        if self._arrivals is not None and self._arrivals.add(count, trio.current_time()):
            self._stir()

    def _timed(self, stage: str, since: int) -> None:
        """The wire spent time.  A sender hears of every batch that arrived: its waits are those of its writer."""
        meter = self.endpoint.meter
        if meter is not None and (
            stage == "socket" or not (isinstance(self._session, SenderSession) or self._session.finished)
        ):
            meter.add(stage, since)

    async def _wait_woken(self, woken: trio.Event) -> None:
        meter = self.endpoint.meter
        if meter is not None and self.endpoint.waits_for_peer():
            with meter.time("wait"):
                await woken.wait()
        else:
            await woken.wait()

    def _stir(self) -> None:
        """Let the writers look again."""
        self._woken.set()
        self._woken = trio.Event()

    async def _read(self, connection: Connection, joined: bool) -> None:
        session = self._session
        try:
            while not session.heard_all:
                message, payload = await connection.receive()
                self.endpoint.receive_untrusted(message, payload, joined=joined)
                del payload
                if isinstance(message, peer.Got):
                    if self._pace is not None:
                        self._pace.got(message.total, trio.current_time())
                elif isinstance(message, (peer.Opened, peer.Done)):
                    self._stir()
                elif isinstance(message, peer.Error):
                    self.refused = True
                    raise SyncError.from_wire(*message)
                elif isinstance(message, peer.Cancel):
                    raise SyncError("cancelled", "the other side cancelled it")
        except trio.ClosedResourceError:
            self._fail(ConnectionLost("the link is gone"))
        except (ConnectionLost, ProtocolError, SyncError) as e:
            self._fail(e)
        else:
            if session.state is State.CLOSED:
                self.reusable = True
                self.end(None)

    async def _write(self, connection: Connection, joined: bool) -> None:
        try:
            while not self._ended.is_set():
                woken = self._woken
                outgoing = self.endpoint.take_data() if joined else self._next()
                if outgoing is None:
                    self.endpoint.check()
                    await self._wait_woken(woken)
                else:
                    await self._send(connection, outgoing)
        except (ConnectionLost, trio.ClosedResourceError):
            if self._session.finished:
                self.end(None)
                return
            # The other side may have said why before it went: what it sent can still be read.
            self._lost = ConnectionLost("the connection broke")
            self._patience.deadline = min(self._patience.deadline, trio.current_time() + LAST_WORDS_S)
        except (ProtocolError, SyncError) as e:
            self._fail(e)

    def _next(self) -> Outgoing | None:
        if self._session.state is State.CANCELLING:
            return None
        if self._farewell_due:
            self._session.send(self._farewell)
            return self._farewell, None
        return self._take_got() or self.endpoint.take_control() or self.endpoint.take_data()

    def _take_got(self) -> Outgoing | None:
        """What has arrived, while that is of interest."""
        if self._arrivals is None or self._session.state not in (State.LISTING, State.FLOWING):
            return None
        count = self._arrivals.take(trio.current_time())
        if count is None:
            return None
        message = peer.Got(count)
        self._session.send(message)
        return message, None

    async def _send(self, connection: Connection, outgoing: Outgoing) -> None:
        message, payload = outgoing
        self._sending += 1
        try:
            await connection.send(message, payload)
        finally:
            self._sending -= 1
            self._idle.set()
        if isinstance(message, peer.Closed):
            self.reusable = True
            self.end(None)
        elif isinstance(message, peer.Error) or (isinstance(message, peer.Done) and self._ends_with_done):
            self.end(None)

    @property
    def _ends_with_done(self) -> bool:
        return self._session.initiator and self.endpoint.meter is None

    def _fail(self, error: Exception) -> None:
        # After DONE everything is applied: a connection that is lost then is no loss to the session.
        done = self._session.state in (State.DONE, State.CLOSED) and isinstance(error, ConnectionLost)
        self.end(None if done else error)
