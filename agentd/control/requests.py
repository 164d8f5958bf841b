"""The requests of one control connection, and the jobs that end with it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from agentd.control.answers import Answers, accepted
from agentd.control.channel import BadRequest, Channel
from agentd.control.outbox import Outbox
from agentd.control.targets import Asked, job_of, jobs_of
from agentd.control.tidying import tidy
from agentd.pairs import NewPair
from agentd.wire import ConnectionLost
from proto import control, limits
from proto.errors import RemoteProtocolError, SyncError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentd.control.server import ControlServer

HEARTBEAT_S = 15.0
"""A reader of events hears something at least this often."""

REQUESTS_MAX = 64
"""Requests under way on one connection."""

LINGER_S = 1.0
"""How long a last word may take to be read."""

_log = logging.getLogger(__name__)


class Requests:
    """One connection: its requests, and the jobs that end with it."""

    def __init__(self, server: ControlServer, channel: Channel) -> None:
        self._server = server
        self._channel = channel
        self._outbox = Outbox(channel, server.room)
        self._busy: set[int] = set()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Until the connection ends."""
        try:
            await self._serve()
        finally:
            self._outbox.close()

    async def _serve(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    while True:
                        await self._take(nursery)
                except RemoteProtocolError as e:
                    _log.info("a control connection broke the protocol: %s", e)
                    self._outbox.post(control.Error(0, "protocol", str(e)))
                    with trio.move_on_after(LINGER_S):
                        await self._outbox.wait_idle()
                except (ConnectionLost, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except (ConnectionLost, trio.ClosedResourceError):
            self._scope.cancel()

    async def _take(self, nursery: trio.Nursery) -> None:
        if self._outbox.overflowed:
            # the writer notices should its reader go away instead
            await self._outbox.wait_idle()
        try:
            message = await self._channel.receive()
        except BadRequest as e:
            request, what = e.args
            self._outbox.post(control.Error(request, "protocol", what))
            return
        if message.id in self._busy or len(self._busy) >= REQUESTS_MAX:
            raise RemoteProtocolError(f"request {message.id} is under way already, or {REQUESTS_MAX} others are")
        self._busy.add(message.id)
        nursery.start_soon(self._answer, message)
        await trio.lowlevel.checkpoint()  # what is answered at once is, before the next one is taken

    async def _answer(self, message: control.Request) -> None:
        try:
            await self._handle(message)
        except SyncError as e:
            self._outbox.post(control.Error(message.id, e.code, e.message, e.hint))
        except Exception as e:  # noqa: BLE001 - a defect in one request ends neither the others nor the agent
            _log.exception("a request failed by a defect")
            self._outbox.post(control.Error(message.id, "internal", type(e).__name__))
        finally:
            self._busy.discard(message.id)

    async def _handle(self, message: control.Request) -> None:
        match message:
            case control.Run():
                self._server.config.current()  # the links have to hear of a change now
                await self._on_jobs(message, [Asked(job_of(message))])
            case control.Sync():
                config = self._server.config.current()
                await self._on_jobs(message, await trio.to_thread.run_sync(jobs_of, message, config))
            case control.Flush():
                self._server.config.current()
                pairs, refused = self._server.watchers.to_flush(message.names)
                await self._on_jobs(message, [Asked(pair.job()) for pair in pairs], refused)
            case control.Events():
                await self._on_events(message.id, message.after)
            case control.Watch():
                self._server.config.current()
                with self._server.watchers.watching(message.name, message.env):
                    await self._on_events(message.id, message.after, message.name)
            case control.Trash():
                server = self._server
                await tidy(server.trashes, message, server.config.current(), self._outbox)
                self._outbox.post(control.End(message.id))
            case control.Stop():
                await self._on_stop(message)
            case _:
                self._do(message)
                self._outbox.post(control.End(message.id))

    def _do(self, message: control.Request) -> None:
        """What is done at once; END follows."""
        server = self._server
        match message:
            case control.Cancel(job=number):
                if not server.jobs.cancel(number):
                    raise SyncError("usage", f"there is no job {number} under way", "'syncctl status' shows the jobs")
            case control.Status(id=request):
                for row in server.status(request):
                    self._outbox.post(row)
            case control.ListPairs(id=request):
                for pair in server.pairs(request):
                    self._outbox.post(pair)
            case control.AddPair():
                new = NewPair(*message[1:])
                server.config.add_pair(new)
                server.events.publish("pair-added", f"{new.source} to {new.destination}", pair=new.name)
            case control.Pause(_, name):
                server.watchers.pause(name)
            case control.Resume(_, name):
                server.watchers.resume(name)
            case control.RemovePair(_, name):
                server.config.remove_pair(name)
                server.events.publish("pair-removed", "its trees stay as they are", pair=name)

    async def _on_jobs(
        self, message: control.Run | control.Sync | control.Flush, asked: Sequence[Asked],
        refused: Sequence[SyncError] = (),
    ) -> None:  # fmt: skip
        server = self._server
        timeout_s = None if message.timeout_ms is None else message.timeout_ms / 1000
        notice = None
        if server.config.error is not None:
            text = f"an older state of the configuration is in force: {server.config.error.message}"
            notice = text[: limits.TEXT_MAX]
        if not asked and not refused:
            self._outbox.post(control.End(message.id))
        elif isinstance(message, control.Flush) or not message.detach:
            answers = Answers(server.jobs, self._outbox, message.id, asked, refused, notice)
            await answers.run(message.env, timeout_s)
        else:
            records = [server.jobs.add(one.job, detached=True) for one in asked]
            for left, record in zip(range(len(records) - 1, -1, -1), records, strict=True):
                if notice is not None:
                    self._outbox.post(control.Notice(message.id, record.number, notice))
                self._outbox.post(accepted(message.id, record, left))
            server.start_detached(records, message.env, timeout_s)

    async def _on_stop(self, message: control.Stop) -> None:
        self._outbox.post(control.End(message.id))
        with trio.move_on_after(LINGER_S):
            await self._outbox.wait_idle()
        self._server.stop()

    async def _on_events(self, request: int, after: int | None, pair: str | None = None) -> None:
        """What happens, or what does to one pair."""
        events, outbox = self._server.events, self._outbox

        def tell(event: control.Event) -> None:
            if pair is not None and event.pair != pair and event.kind != "missed":
                return
            outbox.post(event._replace(id=request))
            if outbox.overflowed:
                _log.warning("a reader of events does not read; disconnected")
                self._scope.cancel()

        outbox.post(control.Heartbeat(request, events.seq))
        events.listen(tell, after)
        try:
            while True:
                await trio.sleep(HEARTBEAT_S)
                if not outbox.backlog:
                    outbox.post(control.Heartbeat(request, events.seq))
        finally:
            events.forget(tell)
