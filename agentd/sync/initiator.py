"""The initiator: one job, over as many epochs of its session as the link needs."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from agentd.sync import roots
from agentd.sync.common import Workshop, beside, close_now, refuse
from agentd.sync.endpoints import Endpoint, ReceiverEndpoint, SenderEndpoint
from agentd.sync.meter import Meter
from agentd.sync.pump import Pump, Wake
from agentd.sync.stripes import Stripes
from agentd.sync.totals import Totals
from agentd.wire import Connection, ConnectionLost
from proto.errors import ProtocolError, SyncError
from proto.job import Items, Job, JobEvent, Notice, Outcome, Progress
from proto.peer import Join, Open
from proto.session import ReceiverSession, SenderSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentd.sync.abandoned import Abandoned
    from agentd.sync.roots import Root
    from agentd.sync.routes import Route
    from proto.schema import Profile

    Linger = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]

PROGRESS_S = 0.1

FRUITLESS_MAX = 3
"""Epochs in a row that moved nothing, or attempts in a row to make the link again."""

PAUSES_S = (0.1, 1.0, 3.0)

RETRYABLE = frozenset(("unreachable", "link-lost", "remote-failed"))
"""What may get better by itself once a session was under way."""

CLOSED_PATIENCE_S = 10.0


class Initiator:
    """Runs ``job``.  ``linger`` takes what may happen after the result is known; ``abandoned`` outlives it."""

    def __init__(
        self,
        shop: Workshop,
        job: Job,
        environ: Mapping[str, str],
        report: Callable[[JobEvent], None],
        linger: Linger,
        abandoned: Abandoned,
    ) -> None:
        self._shop = shop
        self._abandoned = abandoned
        self._job = job
        self._report = report
        self._linger = linger
        self._base = os.fsencode(environ.get("PWD", ""))
        self._session = os.urandom(16)
        self._left: Open | None = None
        self._totals = Totals()
        self._profile: dict[str, Profile] | None = None
        self._wires: list[tuple[Connection, int, int]] = []
        self._pushing = job.source.host is None

    async def run(self, route: Route) -> Outcome:
        """Raises SyncError."""
        begun = trio.current_time()
        job = self._job
        near = job.source if self._pushing else job.destination
        path = roots.absolute(near.path, self._base)
        find = roots.source_root if self._pushing else roots.destination_root
        root = await self._shop.blocking(find, path)
        if job.source.host is None and job.destination.host is None:
            far = roots.absolute(job.destination.path, self._base)
            if roots.overlap(root, await self._shop.blocking(roots.destination_root, far)):
                raise SyncError("overlap", f"{job.source} and {job.destination} are one or contain each other")
        writing: contextlib.AbstractAsyncContextManager[None] = contextlib.nullcontext()
        if not self._pushing:
            writing = self._shop.writing(self._session, root, str(job.source), dry_run=job.options.dry_run)
        async with writing:
            try:
                stats, epochs = await self._epochs(route, root, path)
            finally:
                if self._left is not None and job.destination.host is not None:
                    self._abandoned.add(job.destination.host, self._left)
        return Outcome(
            stats,
            self._totals.problems,
            self._totals.problem_count,
            epochs,
            sum(connection.sent - sent for connection, sent, _ in self._wires),
            sum(connection.received - received for connection, _, received in self._wires),
            trio.current_time() - begun,
            self._profile,
        )

    async def _epochs(self, route: Route, root: Root, path: bytes) -> tuple[dict[str, int], int]:
        fruitless, opened = 0, False
        for epoch in itertools.count():
            self._totals.begin_epoch()
            one = _Epoch(self._shop, route, self._totals, self._report, self._wires)
            self._report(Progress("connecting" if epoch == 0 else "resuming", self._totals.with_earlier({})))
            opening, host = self._opening(root, epoch), self._job.destination.host
            try:
                if host is not None:
                    await self._abandoned.release(host, route)
                stats = await one.run(opening, root, path, self._linger)
                self._profile = one.profile
                return self._totals.final(stats, epoch + 1), epoch + 1
            except ConnectionLost as e:
                lost = await route.why_lost(e)
            except SyncError as e:
                if e.code not in RETRYABLE or not opened:
                    raise
                lost = e
            finally:
                if one.begun:
                    self._left = None if one.ended else opening
            opened = opened or one.begun
            fruitless = 0 if one.moved else fruitless + 1
            if fruitless >= FRUITLESS_MAX or lost.code not in RETRYABLE:
                raise lost
            self._report(Notice(f"{lost.message}; going on"))
            await trio.sleep(PAUSES_S[fruitless] * random.uniform(0.5, 1.0))  # noqa: S311
        raise AssertionError("unreachable")

    def _opening(self, root: Root, epoch: int) -> Open:
        options = self._job.options
        far = self._job.destination if self._pushing else self._job.source
        far_path = far.path
        if far.host is None:
            far_path = roots.absolute(far_path, self._base)
        tuning = self._shop.tuning
        return Open(
            session=self._session,
            epoch=epoch,
            side="receiver" if self._pushing else "sender",
            root=far_path,
            list_window=0 if self._pushing else max(tuning.list_window, tuning.first_list_window),
            data_window=0 if self._pushing else tuning.data_window,
            delete=options.delete,
            checksum=options.checksum,
            dry_run=options.dry_run,
            itemize=options.itemize,
            owner=options.owner,
            group=options.group,
            hard_links=options.hard_links,
            force=options.force,
            profile=options.profile,
            max_delete=options.max_delete,
            filters=list(options.excludes),
            ancestry=root.ancestry,
            compress="never" if far.host is None and options.compress == "auto" else options.compress,
        )


class _Epoch:
    """One attempt, on one connection."""

    def __init__(
        self,
        shop: Workshop,
        route: Route,
        totals: Totals,
        report: Callable[[JobEvent], None],
        wires: list[tuple[Connection, int, int]],
    ) -> None:
        self.begun = False
        """Whether a connection was made and the session opened on it."""
        self.ended = False
        """Whether it is known that the other side has nothing of it left."""
        self.moved = False
        """Whether it got anything done that the next one need not do again."""
        self.profile: dict[str, Profile] | None = None
        """By end, where the time went, when that was asked for."""
        self._shop = shop
        self._route = route
        self._totals = totals
        self._report = report
        self._wires = wires

    async def run(self, opening: Open, root: Root, path: bytes, linger: Linger) -> dict[str, int]:
        """The receiver's counters.  Raises ConnectionLost or SyncError."""
        connection = await self._connect()
        if (rtt_s := self._route.rtt_s) is not None:
            opening = opening._replace(rtt_us=round(rtt_s * 1e6))
        kept = False
        try:
            with Wake() as wake:
                endpoint, opening = await self._endpoint(opening, root, path, wake)
                pump = Pump(connection, endpoint, wake)
                try:
                    await self._run(pump, connection, opening)
                finally:
                    self.ended = pump.refused or endpoint.finished
                    await self._shop.close(endpoint)
                    self._take_profile(endpoint)
                    counters = endpoint.counters()
                    self.moved = counters.get("data_bytes", 0) > 0
                    if not endpoint.finished:
                        self._totals.lose_epoch(endpoint.applied())
            if pump.reusable:
                kept = True
                await self._route.give_back(connection)
            elif not endpoint.session.over:
                kept = True
                await linger(partial(self._wait_closed, connection, endpoint))
            return endpoint.peer_stats if opening.side == "receiver" else counters
        finally:
            if not kept:
                await close_now(connection)

    def _take_profile(self, endpoint: Endpoint) -> None:
        ends = {"here": endpoint.profile(), "there": endpoint.peer_profile}
        self.profile = {end: profile for end, profile in ends.items() if profile is not None} or None

    async def _connect(self) -> Connection:
        connection = await self._route.connection()
        self._wires.append((connection, connection.sent, connection.received))
        return connection

    async def _endpoint(self, opening: Open, root: Root, path: bytes, wake: Wake) -> tuple[Endpoint, Open]:
        engines, tuning = self._shop.engines, self._shop.tuning
        meter = Meter() if opening.profile else None
        if opening.side == "receiver":
            try:
                sender = await self._shop.blocking(engines.sender, path, opening, wake.write_fd)
            except OSError as e:
                raise roots.source_error(path, e) from None
            session = SenderSession(first_list_window=tuning.first_list_window)
            guarded = opening.delete and not opening.force
            sender.start()
            return SenderEndpoint(session, sender, guarded=guarded, observe=self._observe, meter=meter), opening
        make = partial(engines.receiver, arrow=">", temp_tag=self._shop.identity().agent[:4].hex())
        try:
            receiver = await self._shop.blocking(make, root.path, opening, wake.write_fd)
        except OSError as e:
            raise roots.destination_error(path, e) from None
        endpoint = ReceiverEndpoint(
            ReceiverSession(first_list_window=tuning.first_list_window), receiver, observe=self._observe, meter=meter
        )
        return endpoint, opening._replace(state=receiver.state)

    async def _run(self, pump: Pump, connection: Connection, opening: Open) -> None:
        try:
            pump.endpoint.session.send(opening)
            await connection.send(opening)
            self.begun = True
            async with beside(self._watch, pump, opening):
                await pump.run()
        except ProtocolError as e:
            error = SyncError("protocol", f"the session broke off: {e}")
            await refuse(connection, error)
            raise error from e
        except trio.ClosedResourceError:
            raise ConnectionLost("the link is gone") from None
        except SyncError as e:
            if not pump.refused:
                await refuse(connection, e)
            raise

    async def _watch(self, pump: Pump, opening: Open) -> None:
        """Report progress; put more connections to work when there is much to move over a long link."""
        stripes = Stripes(self._shop.tuning)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(PROGRESS_S)
                phase, counters = pump.endpoint.progress()
                self._report(Progress(phase, self._totals.with_earlier(counters)))
                moved = sum(connection.sent + connection.received for connection, _, _ in self._wires)
                left = counters.get("wanted_bytes", 0) - counters.get("bytes", 0)
                for _ in range(stripes.more(trio.current_time(), moved, left, self._route.rtt_s)):
                    nursery.start_soon(self._stripe, pump, opening)

    async def _stripe(self, pump: Pump, opening: Open) -> None:
        """Carry data over a further connection; that there is none is no reason to end."""
        try:
            connection = await self._connect()
        except (SyncError, ConnectionLost):
            return
        try:
            await connection.send(Join(opening.session, opening.epoch))
            await pump.carry(connection)
        except (ConnectionLost, trio.ClosedResourceError, ProtocolError):
            return
        finally:
            await close_now(connection)

    async def _wait_closed(self, connection: Connection, endpoint: Endpoint) -> None:
        """The sender's last word; the result does not wait for it, the connection's next use does."""
        try:
            with trio.move_on_after(CLOSED_PATIENCE_S):
                message, payload = await connection.receive()
                endpoint.receive_untrusted(message, payload)
        except (ConnectionLost, trio.ClosedResourceError, ProtocolError):
            pass
        finally:
            if endpoint.session.closed:
                await self._route.give_back(connection)
            else:
                await close_now(connection)

    def _observe(self, kind: str, payload: Any) -> None:
        if kind == "items":
            self._report(Items(bytes(payload)))
        elif (event := self._totals.add_problems(self._shop.engines.problems_untrusted(payload))) is not None:
            self._report(event)
