"""The sessions of this agent: those that people here ask for, and those that other agents do."""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

import trio

from agentd.sync import roots
from agentd.sync import trash as trashes
from agentd.sync.abandoned import Abandoned
from agentd.sync.common import Journal, Workshop, close_now, greeted, refuse
from agentd.sync.engines import CrateEngines, Engines, Tuning
from agentd.sync.initiator import Initiator
from agentd.sync.leases import SWEEP, Leases
from agentd.sync.responder import Served, respond
from agentd.sync.rest import Rest
from agentd.sync.routes import HereRoute, LinkRoute, Links, Route
from agentd.sync.totals import Totals
from agentd.sync.trash import Expiry
from agentd.wire import Connection, ConnectionLost
from proto import limits, peer
from proto.errors import ProtocolError, RemoteProtocolError, SyncError, broken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agentd.sync.memory import Trees
    from proto.hello import Hello
    from proto.job import Job, JobEvent, Outcome

__all__ = ["Journal", "Sessions", "Tuning"]

log = logging.getLogger(__name__)

_ANSWER_PATIENCE_S = 5.0

Key = tuple[bytes, bytes]
"""(agent, session): nobody's session can be taken up by another agent."""


class Sessions:
    """Runs jobs, and serves other agents' sessions.  ``engines`` are the crate's unless given; without ``trees`` every
    session lists everything."""

    def __init__(
        self,
        *,
        identity: Callable[[], Hello],
        links: Links,
        journal: Journal,
        tuning: Tuning | None = None,
        engines: Engines | None = None,
        trees: Trees | None = None,
    ) -> None:
        self._links = links
        tuning = tuning or Tuning()
        threads = trio.CapacityLimiter(16)
        self._shop = Workshop(
            identity, journal, tuning, engines or CrateEngines(tuning), Leases(), threads, Expiry(threads), trees
        )
        self._served: dict[Key, Served] = {}
        self._epochs: OrderedDict[Key, tuple[int, Totals]] = OrderedDict()
        self._abandoned = Abandoned()
        self._serving: Counter[bytes] = Counter()
        self._rest = Rest()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Optional: where what a finished job leaves to do is done.  Without it, jobs end when that is done."""
        async with trio.open_nursery() as nursery:
            self._nursery = self._shop.expiry.nursery = nursery
            nursery.start_soon(self._rest.run)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = self._shop.expiry.nursery = None

    async def trash(self, path: bytes) -> list[tuple[bytes, bytes, int, bool]]:
        """What is in the trash of the root at ``path``: see ``_core.trash_list``.  Raises SyncError."""
        return await trashes.listed(self._shop, path)

    async def restore(self, path: bytes, paths: Sequence[bytes], batch: bytes) -> trashes.Put:
        """Put some of it back, but over nothing.  Raises SyncError."""
        return await trashes.restored(self._shop, path, paths, batch)

    async def empty_trash(self, path: bytes) -> trashes.Put:
        """Remove all of it.  Raises SyncError."""
        return await trashes.emptied(self._shop, path)

    async def run_job(self, job: Job, environ: Mapping[str, str], report: Callable[[JobEvent], None]) -> Outcome:
        """Sync once.  Raises SyncError; when cancelled, the session is cancelled at both ends."""
        initiator = Initiator(self._shop, job, environ, report, self._linger, self._abandoned)
        host = job.source.host or job.destination.host
        with self._rest.session():
            if host is not None:
                return await initiator.run(LinkRoute(self._links, host, environ))
            return await self._run_here(initiator)

    async def serve(self, connection: Connection) -> None:
        """Serve a greeted connection of another agent until it ends; then it is closed."""
        who = greeted(connection).agent
        self._serving[who] += 1
        try:
            if self._serving[who] > limits.CONNECTIONS_MAX:
                raise SyncError("agent-busy", f"more than {limits.CONNECTIONS_MAX} connections of one agent")
            while await self._serve_one(connection):
                pass
        except (ConnectionLost, trio.ClosedResourceError):
            pass
        except ProtocolError as e:
            log.warning("peer agent broke the protocol", extra={"reason": str(e)})
            await refuse(connection, broken(f"on {os.uname().nodename}", e))
        except SyncError as e:
            await refuse(connection, e)
        except Exception:
            log.exception("a session failed")
            await refuse(connection, SyncError("internal", "the agent there failed in this session"))
        finally:
            self._serving[who] -= 1
            if not self._serving[who]:
                del self._serving[who]
            await close_now(connection)

    async def sweep(self, clear: Callable[[bytes], int]) -> None:
        """Clear up after sessions that a predecessor was killed in; ``clear(root)`` blocks, and says how much it was.

        Temporary names do not tell whose they are, so a root that is written to again is left to its session, which
        clears up where it comes by.
        """
        journal = self._shop.journal
        for session, path in journal.unfinished():
            try:
                root = await self._shop.blocking(roots.destination_root, path)
                async with self._shop.leases.lease(root, SWEEP):
                    if (session, path) not in journal.unfinished():
                        continue  # it was taken up again and has ended
                    swept = await self._shop.blocking(clear, path)
                    journal.end(session)
            except FileNotFoundError:
                journal.end(session)
            except (OSError, SyncError) as e:
                if isinstance(e, SyncError) and e.code in ("destination-missing", "destination-type"):
                    journal.end(session)
                log.warning("not swept", extra={"root": os.fsdecode(path), "reason": str(e)})
            else:
                if swept:
                    log.info("swept after a killed session", extra={"root": os.fsdecode(path), "names": swept})

    async def _serve_one(self, connection: Connection) -> bool:
        """Answer one message of a spare; whether it still is one."""
        message, payload = await connection.receive()
        if payload is not None:
            raise RemoteProtocolError("a payload outside of a session")
        match message:
            case peer.Ping():
                await connection.send(peer.Pong(message.n))
                return True
            case peer.Open():
                return await self._serve_session(connection, message)
            case peer.Join():
                served = self._served.get((greeted(connection).agent, message.session))
                if served is None or served.epoch != message.epoch or served.pump is None:
                    raise RemoteProtocolError("JOIN of a session or epoch that is not open")
                if served.pump.connections >= limits.STRIPES_MAX:
                    raise RemoteProtocolError(f"more than {limits.STRIPES_MAX} connections for one session")
                await served.pump.carry(connection)
                return False
            case peer.Cancel():
                raise SyncError("cancelled", "the session had ended before it was cancelled")
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} outside of a session")

    async def _serve_session(self, connection: Connection, opening: peer.Open) -> bool:
        key = (greeted(connection).agent, opening.session)
        latest, totals = self._epochs.get(key) or (-1, Totals())
        if opening.epoch <= latest:
            raise RemoteProtocolError(f"epoch {opening.epoch} of this session is over")
        self._epochs[key] = opening.epoch, totals
        self._epochs.move_to_end(key)
        while len(self._epochs) > limits.EPOCHS_KEPT:
            self._epochs.popitem(last=False)
        older = self._served.get(key)
        served = self._served[key] = Served(connection, opening.epoch, totals)
        try:
            if older is not None:
                await older.join()
            with served.scope, self._rest.session():
                return await respond(self._shop, served, opening)
            return False
        finally:
            if self._served.get(key) is served:
                del self._served[key]
            served.ended.set()

    async def _run_here(self, initiator: Initiator) -> Outcome:
        result: Outcome | Exception | None = None
        async with trio.open_nursery() as nursery:
            route: Route = HereRoute(self.serve, self._shop.identity, nursery)
            try:
                result = await initiator.run(route)
            except Exception as e:  # noqa: BLE001 - raised again outside of the nursery, which would wrap it
                result = e
            # The answering half ends by itself when it sees the end of the connection.
            nursery.cancel_scope.deadline = trio.current_time() + _ANSWER_PATIENCE_S
        if isinstance(result, Exception):
            raise result
        if result is None:
            raise AssertionError("neither a result nor an exception")
        return result

    async def _linger(self, rest: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            await rest()
        else:
            self._nursery.start_soon(rest)
