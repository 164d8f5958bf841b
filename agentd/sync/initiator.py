"""The initiator: one job, over as many epochs of its session as the link needs."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from agentd.sync import roots
from agentd.sync.common import Workshop, beside, close_now, greeted, on_one_machine, refuse, temp_tag
from agentd.sync.endpoints import Endpoint, ReceiverEndpoint, SenderEndpoint
from agentd.sync.engines import Knowing
from agentd.sync.memory import EVERYTHING, LOOK_MAX, Memory, remembering
from agentd.sync.meter import Meter
from agentd.sync.provenance import Provenance
from agentd.sync.pump import Pump
from agentd.sync.stripes import Stripes
from agentd.sync.totals import Totals
from agentd.tree.baselines import origin
from agentd.wake import Wake
from agentd.wire import Connection, ConnectionLost
from proto import limits
from proto.errors import ProtocolError, SyncError, broken
from proto.job import Items, Job, JobEvent, Notice, Outcome, Progress
from proto.peer import Cancel, Error, Join, Open
from proto.session import ReceiverSession, SenderSession, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from agentd.sync.abandoned import Abandoned
    from agentd.sync.roots import Root
    from agentd.sync.routes import Route
    from proto.schema import Profile

    Linger = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]

log = logging.getLogger(__name__)

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
        if job.scope is not None and not self._pushing:
            raise SyncError("usage", f"{job.source}: single paths are synced from here only")
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
            if job.options.delete and not job.options.force:
                roots.check_precious(root)
            options = job.options
            writing = self._shop.writing(
                self._session, root, str(job.source), dry_run=options.dry_run, trash=options.trash
            )
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
            *self._wire(),
            trio.current_time() - begun,
            self._profile,
        )

    async def _epochs(self, route: Route, root: Root, path: bytes) -> tuple[dict[str, int], int]:
        fruitless, opened = 0, False
        for epoch in itertools.count():
            self._totals.begin_epoch()
            one = _Epoch(self._shop, route, self._totals, self._report, self._wires, self._job)
            self._report(Progress("connecting" if epoch == 0 else "resuming", self._totals.with_earlier({})))
            opening, host = self._opening(root, epoch), self._job.destination.host
            try:
                if host is not None:
                    await self._abandoned.release(host, route)
                stats = await one.run(opening, root, path, self._linger)
                self._say(stats)
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
            sent, received = self._wire()
            log.info("going on", extra={"lost": lost.message, "epoch": epoch, "sent": sent, "received": received})
            await trio.sleep(PAUSES_S[fruitless] * random.uniform(0.5, 1.0))  # noqa: S311
        raise AssertionError("unreachable")

    def _wire(self) -> tuple[int, int]:
        """Bytes (sent, received) by all epochs so far."""
        return (
            sum(connection.sent - sent for connection, sent, _ in self._wires),
            sum(connection.received - received for connection, _, received in self._wires),
        )

    def _say(self, stats: dict[str, int]) -> None:
        """What the counters tell that a person should know."""
        if held := stats.get("held", 0):
            source = self._job.source
            self._report(Notice(f"{held} deletions held: {source} is another directory than when they were last made"))
        if kept := stats.get("kept_dirs", 0):
            self._report(Notice(f"{kept} directories that are gone at the source stay: excluded entries are in them"))

    def _opening(self, root: Root, epoch: int) -> Open:
        options = self._job.options
        far = self._job.destination if self._pushing else self._job.source
        far_path = far.path
        if far.host is None:
            far_path = roots.absolute(far_path, self._base)
        list_window, data_window = (0, 0) if self._pushing else self._shop.tuning.windows
        return Open(
            session=self._session,
            epoch=epoch,
            side="receiver" if self._pushing else "sender",
            root=far_path,
            list_window=list_window,
            data_window=data_window,
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
            scoped=self._pushing and self._job.scope is not None,
            on_conflict=self._job.on_conflict,
            reread=options.reread,
            brief=self._job.scope is not None or self._job.hold,
            fsync=options.fsync,
            origin=origin(root.path),
            trash=options.trash,
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
        job: Job,
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
        self._scope = job.scope
        self._hold = job.hold
        self._refused = False

    async def run(self, opening: Open, root: Root, path: bytes, linger: Linger) -> dict[str, int]:
        """The receiver's counters.  Raises ConnectionLost or SyncError."""
        connection = await self._connect()
        if (rtt_s := self._route.rtt_s) is not None:
            opening = opening._replace(rtt_us=round(rtt_s * 1e6))
        if root.inside is not None and on_one_machine(self._shop.identity(), greeted(connection)):
            opening = opening._replace(inside=list(root.inside))
        kept = False
        try:
            async with self._remembering(connection, opening, root, path) as memory:
                end = self._send if opening.side == "receiver" else self._receive
                pump = await end(memory, connection, opening, root, path)
                endpoint = pump.endpoint
                stats = endpoint.peer_stats if opening.side == "receiver" else endpoint.counters()
            if pump.reusable:
                kept = True
                await self._route.give_back(connection)
            elif not endpoint.session.over:
                kept = True
                await linger(partial(self._wait_closed, connection, endpoint))
            return stats
        finally:
            if not kept:
                await close_now(connection)

    def _remembering(
        self, connection: Connection, opening: Open, root: Root, path: bytes
    ) -> contextlib.AbstractAsyncContextManager[Memory]:
        pushing = opening.side == "receiver"
        return remembering(
            None if opening.reread else self._shop.trees,
            root,
            opening,
            side="sender" if pushing else "receiver",
            peer=greeted(connection).agent,
            initiating=True,
            failed=partial(roots.source_error if pushing else roots.destination_error, path),
        )

    async def _send(self, memory: Memory, connection: Connection, opening: Open, root: Root, path: bytes) -> Pump:
        """Push: the list of what changed follows OPEN at once, as soon as that is known here."""
        if opening.delete and opening.epoch:  # some time has passed
            root = await self._shop.blocking(roots.identified, root)
        source = Provenance(self._shop.journal, root, opening, greeted(connection).agent, initiating=True)
        engines, session = self._shop.engines, SenderSession(**self._shop.tuning.first_windows)
        meter = Meter() if opening.profile else None
        memory.hold = self._hold
        opening = opening._replace(hold=source.held, baselines=[] if source.held else memory.offers(1))
        async with self._broken_off(connection):
            looks: Any | None = self._scope
            if opening.baselines or opening.scoped:  # the other end finds out what changed there, while we do here
                await self._open(session, connection, opening)
            if opening.baselines:
                looks = await memory.changes_of_sender(opening.baselines[0])
                looks = EVERYTHING if looks is None else looks
            elif not opening.scoped:
                await memory.changes_of_sender(None)
            await self._say_news(memory)
            with Wake() as wake:
                async with memory.engaged(fills=memory.new and looks is None) as tree:
                    make = partial(engines.sender, tree=tree, looks=looks, since=memory.since)
                    try:
                        sender = await self._shop.blocking(make, path, opening, wake.write_fd)
                    except OSError as e:
                        raise roots.source_error(path, e) from None
                    guarded = opening.delete and not opening.force and (looks is None or looks is EVERYTHING)
                    sender.start()
                    endpoint = SenderEndpoint(session, sender, guarded=guarded, observe=self._observe, meter=meter)
                    del sender  # the endpoint alone refers to it
                    return await self._run(Pump(connection, endpoint, wake), memory, connection, opening, source)

    async def _receive(self, memory: Memory, connection: Connection, opening: Open, root: Root, path: bytes) -> Pump:
        """Pull: the sender may know since when there is something to list."""
        session = ReceiverSession(**self._shop.tuning.first_windows)
        meter = Meter() if opening.profile else None
        make = partial(self._shop.engines.receiver, arrow=">", temp_tag=temp_tag(self._shop.identity(), scoped=False))
        offers = memory.offers(limits.BASELINES_MAX) if root.kind == "directory" else []
        opening = opening._replace(baselines=offers)
        looks: Any | None = None
        async with self._broken_off(connection):
            if offers:
                opening = opening._replace(state="directory")
                await self._open(session, connection, opening)
                await memory.refresh(offers[0], LOOK_MAX)
                await self._hear_opened(session, connection)
                if session.baseline is not None:
                    looks = await memory.changes(session.baseline, LOOK_MAX)
                    looks = EVERYTHING if looks is None else looks
            await self._say_news(memory)
            with Wake() as wake:
                async with memory.engaged(fills=not opening.dry_run) as tree:
                    knowing = Knowing(None if opening.dry_run else tree, memory.since, session.baseline is not None)
                    try:
                        receiver = await self._shop.blocking(make, root.path, opening, wake.write_fd, knowing)
                    except OSError as e:
                        raise roots.destination_error(path, e) from None
                    endpoint = ReceiverEndpoint(session, receiver, observe=self._observe, meter=meter)
                    if session.hold:
                        endpoint.hold()
                    if looks is not None:
                        endpoint.look(looks)
                    if not offers:
                        opening = opening._replace(state=receiver.state)
                    del receiver  # the endpoint alone refers to it
                    return await self._run(Pump(connection, endpoint, wake), memory, connection, opening)

    def _take_profile(self, endpoint: Endpoint) -> None:
        ends = {"here": endpoint.profile(), "there": endpoint.peer_profile}
        self.profile = {end: profile for end, profile in ends.items() if profile is not None} or None

    async def _connect(self) -> Connection:
        connection = await self._route.connection()
        self._wires.append((connection, connection.sent, connection.received))
        return connection

    async def _open(self, session: Session, connection: Connection, opening: Open) -> None:
        session.send(opening)
        await connection.send(opening)
        self.begun = True

    async def _hear_opened(self, session: Session, connection: Connection) -> None:
        """What comes of OPEN, where that has to be known before there is an engine."""
        message, payload = await connection.receive()
        session.receive_untrusted(message, b"" if payload is None else payload)
        if isinstance(message, Error):
            self._refused = True
            raise SyncError.from_wire(*message)
        if isinstance(message, Cancel):
            raise SyncError("cancelled", "the other side cancelled it")

    async def _run(
        self, pump: Pump, memory: Memory, connection: Connection, opening: Open, source: Provenance | None = None
    ) -> Pump:
        """The session on its engine, which is closed then, however it ends."""
        endpoint, finished = pump.endpoint, False
        try:
            if not self.begun:
                await self._open(endpoint.session, connection, opening)
            async with beside(self._watch, pump, opening):
                await pump.run()
            finished = endpoint.finished
            if finished and source is not None:
                source.settle(endpoint.receiver_stats)
            return pump
        finally:
            self._refused = self._refused or pump.refused
            self.ended = pump.refused or endpoint.finished
            await memory.conclude(self._shop, endpoint, finished=finished)
            self._take_profile(endpoint)
            self.moved = endpoint.counters().get("data_bytes", 0) > 0
            if not endpoint.finished:
                self._totals.lose_epoch(endpoint.applied())

    @contextlib.asynccontextmanager
    async def _broken_off(self, connection: Connection) -> AsyncIterator[None]:
        """Tell the other side what ends the session, once it has heard of it."""
        try:
            yield
        except ProtocolError as e:
            error = broken("the session broke off", e)
            await refuse(connection, error)
            raise error from e
        except trio.ClosedResourceError:
            raise ConnectionLost("the link is gone") from None
        except SyncError as e:
            if self.begun and not self._refused:
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

    async def _say_news(self, memory: Memory) -> None:
        if news := await memory.news():
            self._report(Notice(news))

    def _observe(self, kind: str, payload: Any) -> None:
        if kind == "items":
            self._report(Items(bytes(payload)))
        elif (event := self._totals.add_problems(self._shop.engines.problems_untrusted(payload))) is not None:
            self._report(event)
