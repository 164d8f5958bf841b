"""The responder: an accepted session, from OPEN to its end."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import trio

from agentd.sync import roots
from agentd.sync.common import greeted, on_one_machine, refuse, temp_tag
from agentd.sync.endpoints import Endpoint, ReceiverEndpoint, SenderEndpoint
from agentd.sync.engines import Knowing
from agentd.sync.memory import EVERYTHING, LOOK_MAX, Memory, remembering
from agentd.sync.meter import Meter
from agentd.sync.provenance import Provenance
from agentd.sync.pump import Pump
from agentd.wake import Wake
from agentd.wire import ConnectionLost
from proto.errors import ProtocolError, SyncError, broken
from proto.job import shown
from proto.peer import Error, Open, Opened
from proto.session import ReceiverSession, SenderSession

if TYPE_CHECKING:
    from agentd.sync.common import Workshop
    from agentd.sync.totals import Totals
    from agentd.wire import Connection

_STOPPING = Error("agent-stopping", "the agent there is stopping", "run the command again")


class Served:
    """A session's epoch that is being served here."""

    def __init__(self, connection: Connection, epoch: int, totals: Totals) -> None:
        self.connection = connection
        self.epoch = epoch
        self.totals = totals
        self.pump: Pump | None = None
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def join(self) -> None:
        """End it, and wait until nothing of it is left: a newer epoch takes its place."""
        with trio.CancelScope(shield=True):
            await self.connection.aclose()
            self.scope.cancel()
            await self.ended.wait()


async def respond(shop: Workshop, served: Served, opening: Open) -> bool:
    """Run the session that ``opening`` asks for; whether its connection is a spare again."""
    connection = served.connection
    try:
        if opening.side == "receiver":
            return await _receive(shop, served, opening)
        return await _send(shop, served, opening)
    except ConnectionLost:
        return False  # what is applied stays, partials too; the initiator comes again under the next epoch
    except ProtocolError as e:
        error = broken(f"on {os.uname().nodename}", e)
    except SyncError as e:
        error = e
    if served.pump is None or not served.pump.refused:
        await refuse(connection, error)
    return False


async def _receive(shop: Workshop, served: Served, opening: Open) -> bool:
    path = roots.absolute(opening.root)
    root = await shop.blocking(roots.destination_root, path)
    _guard_overlap(shop, served.connection, root, opening)
    who = greeted(served.connection)
    session = ReceiverSession(**shop.tuning.first_windows)
    session.receive_untrusted(opening)
    meter = Meter() if opening.profile else None
    arrow = ">" if who.agent == shop.identity().agent else "<"
    holder = f"agent {who.agent.hex()[:8]} (session {opening.session.hex()[:8]})"
    failed = partial(roots.destination_error, path)
    if opening.delete and not opening.force:
        roots.check_precious(root)
    async with (
        shop.writing(
            opening.session,
            root,
            holder,
            dry_run=opening.dry_run,
            trash=opening.trash,
            peer=who.agent,
            scoped=opening.scoped,
        ),  # fmt: skip
        remembering(
            None if opening.reread else shop.trees,
            root,
            opening,
            side="receiver",
            peer=who.agent,
            initiating=False,
            failed=failed,
        ) as memory,
    ):
        baseline = memory.common(opening.baselines)
        looks = None
        if opening.baselines:
            if baseline is not None:
                await memory.refresh(baseline, LOOK_MAX)
                looks = await memory.changes(baseline, LOOK_MAX)
            baseline = None if looks is None else baseline
        elif opening.scoped:
            await memory.renew()
        with Wake() as wake:
            async with memory.engaged(fills=not opening.dry_run) as tree:
                missed = bool(opening.baselines) and baseline is None
                knowing = Knowing(
                    None if opening.dry_run else tree, memory.since, bool(opening.baselines) or opening.scoped, missed
                )
                make = partial(
                    shop.engines.receiver, arrow=arrow, temp_tag=temp_tag(shop.identity(), scoped=opening.scoped)
                )
                try:
                    engine = await shop.blocking(make, root.path, opening, wake.write_fd, knowing)
                except OSError as e:
                    raise failed(e) from None
                endpoint = ReceiverEndpoint(session, engine, final=served.totals.of_all_epochs, meter=meter)
                if opening.hold:
                    endpoint.hold()
                if opening.baselines:
                    endpoint.look(EVERYTHING if looks is None else looks)
                opened = Opened(opening.session, opening.epoch, *shop.tuning.windows, engine.state, baseline)
                del engine  # the endpoint alone refers to it
                return await _run(shop, served, endpoint, opened, wake, memory)


async def _send(shop: Workshop, served: Served, opening: Open) -> bool:
    path = roots.absolute(opening.root)
    root = await shop.blocking(roots.source_root, path)
    _guard_overlap(shop, served.connection, root, opening)
    who = greeted(served.connection)
    session = SenderSession(**shop.tuning.first_windows)
    session.receive_untrusted(opening)
    meter = Meter() if opening.profile else None
    failed = partial(roots.source_error, path)
    source = Provenance(shop.journal, root, opening, who.agent, initiating=False)
    async with remembering(
        None if opening.reread else shop.trees,
        root,
        opening,
        side="sender",
        peer=who.agent,
        initiating=False,
        failed=failed,
    ) as memory:
        baseline = None if source.held else memory.common(opening.baselines)
        looks = await memory.changes_of_sender(baseline)
        baseline = None if looks is None else baseline
        with Wake() as wake:
            async with memory.engaged(fills=memory.new) as tree:
                make = partial(shop.engines.sender, tree=tree, looks=looks, since=memory.since)
                try:
                    engine = await shop.blocking(make, path, opening, wake.write_fd)
                except OSError as e:
                    raise failed(e) from None
                guarded = opening.delete and not opening.force and looks is None
                endpoint = SenderEndpoint(session, engine, guarded=guarded, meter=meter)
                endpoint.begin(
                    want_all=opening.state in ("missing", "empty"),
                    list_window=opening.list_window,
                    data_window=opening.data_window,
                )
                engine.start()
                del engine  # the endpoint alone refers to it
                opened = Opened(opening.session, opening.epoch, 0, 0, None, baseline, source.held)
                return await _run(shop, served, endpoint, opened, wake, memory, source)


async def _run(
    shop: Workshop,
    served: Served,
    endpoint: Endpoint,
    opened: Opened,
    wake: Wake,
    memory: Memory,
    source: Provenance | None = None,
) -> bool:
    finished = False
    try:
        endpoint.session.send(opened)
        await served.connection.send(opened)
        served.pump = Pump(served.connection, endpoint, wake, farewell=_STOPPING)
        await served.pump.run()
        finished = endpoint.finished
        if finished and source is not None:
            source.settle(endpoint.receiver_stats)
        return served.pump.reusable
    finally:
        await memory.conclude(shop, endpoint, finished=finished)
        if not endpoint.session.closed:  # DONE may not have arrived
            served.totals.lose_epoch(endpoint.counters())


def _guard_overlap(shop: Workshop, connection: Connection, root: roots.Root, opening: Open) -> None:
    if not on_one_machine(shop.identity(), greeted(connection)):
        return
    if roots.overlaps_untrusted(root, opening.ancestry, opening.inside):
        raise SyncError("overlap", f"source and destination are one place or contain each other: {shown(root.path)}")
