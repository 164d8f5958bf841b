"""The requests of one control connection, and the jobs that end with it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from agentd.control.channel import BadRequest, Channel
from agentd.control.jobs import Record, batches, job_of, jobs_of
from agentd.control.outbox import Outbox
from agentd.wire import ConnectionLost
from proto import control, job, limits
from proto.errors import RemoteProtocolError, SyncError
from proto.job import format_location

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.control.server import ControlServer
    from proto.job import Job, JobEvent, Outcome

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
        self._outbox = Outbox(channel)
        self._busy: set[int] = set()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Until the connection ends."""
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
                await self._on_jobs(message, [job_of(message)])
            case control.Sync():
                await self._on_jobs(message, jobs_of(message, self._server.config.current()))
            case control.Events():
                await self._on_events(message)
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
            case control.AddPair(_, name, source, destination, mirror, exclude):
                server.config.add_pair(name, source, destination, mirror=mirror, exclude=exclude)
                server.events.publish("pair-added", f"{source} to {destination}", pair=name)
            case control.RemovePair(_, name):
                server.config.remove_pair(name)
                server.events.publish("pair-removed", "its trees stay as they are", pair=name)

    async def _on_jobs(self, message: control.Run | control.Sync, jobs: list[Job]) -> None:
        server, post = self._server, self._outbox.post
        timeout_s = None if message.timeout_ms is None else message.timeout_ms / 1000
        records = [server.jobs.add(job_, detached=message.detach) for job_ in jobs]
        try:
            for left, record in zip(range(len(records) - 1, -1, -1), records, strict=True):
                post(_accepted(message.id, record, left))
                if server.config.error is not None:
                    text = f"an older state of the configuration is in force: {server.config.error.message}"
                    post(control.Notice(message.id, record.number, text[: limits.TEXT_MAX]))
                if not message.detach:
                    await self._run_job(message.id, record, message.env, timeout_s, left)
            if message.detach:
                server.start_detached(records, message.env, timeout_s)
        finally:
            if not message.detach:
                for record in records:
                    server.jobs.drop(record)

    async def _run_job(
        self, request: int, record: Record, environ: Mapping[str, str], timeout_s: float | None, left: int
    ) -> None:
        number, outbox = record.number, self._outbox
        reported = 0

        def report(event: JobEvent) -> None:
            nonlocal reported
            if isinstance(event, job.Progress):
                outbox.post(control.Progress(request, number, event.phase, event.counters))
            elif isinstance(event, job.Notice):
                outbox.post(control.Notice(request, number, event.text[: limits.TEXT_MAX]))
            else:
                for part in batches(event, limits.CONTROL_PAYLOAD_MAX):
                    if isinstance(part, job.Items):
                        outbox.post(control.Items(request, number), part.payload)
                    else:
                        reported += len(part.problems)
                        outbox.post(control.Problems(request, number), control.pack_problems(part.problems))

        try:
            outcome = await self._server.jobs.run(record, environ, timeout_s, report)
        except SyncError as e:
            outbox.close_job(request, number)
            outbox.post(control.Error(request, e.code, e.message, e.hint, number, left))
        else:
            # an outcome holds the problems in the order of the reports; what was not reported comes now
            report(job.Problems(outcome.problems[reported:]))
            outbox.close_job(request, number)
            outbox.post(_result(request, number, outcome, left))

    async def _on_stop(self, message: control.Stop) -> None:
        self._outbox.post(control.End(message.id))
        with trio.move_on_after(LINGER_S):
            await self._outbox.wait_idle()
        self._server.stop()

    async def _on_events(self, message: control.Events) -> None:
        events, outbox = self._server.events, self._outbox

        def tell(event: control.Event) -> None:
            outbox.post(event._replace(id=message.id))
            if outbox.overflowed:
                _log.warning("a reader of events does not read; disconnected")
                self._scope.cancel()

        outbox.post(control.Heartbeat(message.id, events.seq))
        events.listen(tell, message.after)
        try:
            while True:
                await trio.sleep(HEARTBEAT_S)
                if not outbox.backlog:
                    outbox.post(control.Heartbeat(message.id, events.seq))
        finally:
            events.forget(tell)


def _accepted(request: int, record: Record, left: int) -> control.Accepted:
    wanted = record.job
    return control.Accepted(
        request, record.number, format_location(wanted.source), format_location(wanted.destination), wanted.pair, left
    )


def _result(request: int, number: int, outcome: Outcome, left: int) -> control.Result:
    return control.Result(
        request, number, outcome.stats, outcome.problem_count, outcome.epochs, outcome.wire_sent,
        outcome.wire_received, int(outcome.seconds * 1e6), left, outcome.profile,
    )  # fmt: skip
