"""The control socket: takes requests of CLIs and editors, answers them, and ends their jobs when they go away."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Protocol

import trio

from agentd.control.channel import Channel, open_channel
from agentd.control.events import EventLog
from agentd.control.jobs import Jobs, Record
from agentd.control.outbox import Room
from agentd.control.requests import LINGER_S, Requests
from agentd.wire import ConnectionLost
from proto import control, limits
from proto.errors import RemoteProtocolError, SyncError
from proto.job import format_location
from proto.peercred import peer_uid, trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentd.config import ConfigFile
    from agentd.control.tidying import Trashes
    from agentd.pairs import Pair
    from agentd.watch.turns import Runner
    from agentd.watch.watchers import Watchers
    from proto.hello import Hello

_LOOK_S = 0.5

_log = logging.getLogger(__name__)


class LinkStatus(Protocol):
    """What status says of a link."""

    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def transport(self) -> str | None: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def rtt_s(self) -> float | None: ...  # noqa: D102
    @property
    def version(self) -> str | None: ...  # noqa: D102
    @property
    def error(self) -> str | None: ...  # noqa: D102


class LinkView(Protocol):
    """The links, as far as status shows them."""

    def statuses(self) -> Sequence[LinkStatus]:
        """One for each."""


class ControlServer:
    """Serves the control socket.

    ``run()`` has to be running: detached jobs live in it.  ``stop`` begins the end of the agent.  ``events`` is where
    the rest of the agent says what happens.
    """

    def __init__(
        self,
        *,
        identity: Callable[[], Hello],
        sessions: Runner,
        links: LinkView,
        config: ConfigFile,
        watchers: Watchers,
        stop: Callable[[], None],
        trashes: Trashes,
        sockets: Sequence[str] = (),
        landlock: tuple[str, int] = ("absent", 0),
        overflows: Callable[[], int] = lambda: 0,
    ) -> None:
        self.events = EventLog()
        self.room = Room()
        self.config = config
        self.links = links
        self.watchers = watchers
        watchers.publish = self.events.publish
        self.jobs = Jobs(sessions, self.events, watchers.turns, watchers.catch_up)
        self.stop = stop
        self.trashes = trashes
        self.sockets = list(sockets)
        self.landlock = landlock
        self.overflows = overflows
        self.identity = identity
        self._open = 0
        self._started = trio.current_time()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the detached jobs and watch for what events tell; until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._watch()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one accepted connection until its end; closes it.  Raises nothing but cancellation."""
        self._open += 1
        crowded = self._open > limits.CONNECTIONS_MAX
        try:
            async with stream:
                if not trusted(_uid_of(stream), os.geteuid()):
                    _log.warning("refused a control connection of another user")
                    return
                channel = await open_channel(stream)
                await self._serve(channel, crowded=crowded)
        except (ConnectionLost, trio.ClosedResourceError):
            pass
        except RemoteProtocolError as e:
            _log.info("a control connection broke the protocol: %s", e)
        except Exception:  # noqa: BLE001 - a defect in one connection is not the end of the agent
            _log.exception("a control connection failed by a defect")
        finally:
            self._open -= 1

    async def _serve(self, channel: Channel, *, crowded: bool) -> None:
        try:
            theirs = await channel.greet(self.identity())
            if theirs.role != "cli":
                raise RemoteProtocolError("this is the socket for CLIs and editors")
            if crowded:
                raise SyncError("agent-busy", f"the agent serves {limits.CONNECTIONS_MAX} commands already")
        except RemoteProtocolError as e:
            await _say(channel, control.Error(0, "protocol", str(e)))
            raise
        except SyncError as e:
            await _say(channel, control.Error(0, e.code, e.message, e.hint))
            return
        await Requests(self, channel).run()

    def start_detached(self, records: Sequence[Record], environ: Mapping[str, str], timeout_s: float | None) -> None:
        """Run jobs that outlive their connection, one after the other."""
        if self._nursery is None:
            raise SyncError("agent-stopping", "the agent is not running")
        self._nursery.start_soon(self._run_detached, records, environ, timeout_s)

    def status(self, request: int) -> list[control.AgentInfo | control.LinkInfo | control.PairInfo | control.JobInfo]:
        """The rows of STATUS."""
        config = self.config.current()
        error = self.config.error
        now = trio.current_time()
        agent = control.AgentInfo(
            request, os.getpid(), self.identity().version, int(now - self._started), _rss_kib(), config.path,
            self.sockets, None if error is None else error.message[: limits.TEXT_MAX], *self.landlock,
            self.overflows(),
        )  # fmt: skip
        return [
            agent,
            *(_link_info(request, link) for link in self.links.statuses()),
            *self.pairs(request),
            *(_job_info(request, record, now) for record in self.jobs.records()),
        ]

    def pairs(self, request: int) -> list[control.PairInfo]:
        """The rows of LIST-PAIRS."""
        return [self._pair_info(request, pair) for pair in self.config.current().pairs.values()]

    def _pair_info(self, request: int, pair: Pair) -> control.PairInfo:
        info = control.PairInfo(
            request, pair.name, pair.source_text, pair.destination_text, pair.mirror, list(pair.exclude), pair.watch,
            pair.on_conflict,
        )  # fmt: skip
        now = self.watchers.condition(pair.name)
        if now is None:
            return info
        why = None if now.why is None else now.why[: limits.TEXT_MAX]
        return info._replace(state=now.state, why=why, problem_count=now.problem_count, synced_ms=now.synced_ms)

    async def _run_detached(
        self, records: Sequence[Record], environ: Mapping[str, str], timeout_s: float | None
    ) -> None:
        for record in records:
            try:
                await self.jobs.run(record, environ, timeout_s, lambda _: None)
            except SyncError as e:
                _log.warning("job %d: %s", record.number, e.message)

    async def _watch(self) -> None:
        """Tell of links and of the configuration, while somebody listens."""
        links = {link.host: link.state for link in self.links.statuses()}
        config, error = self.config.current(), self.config.error
        while True:
            await self.events.wait_listened()
            for link in self.links.statuses():
                if links.get(link.host) != link.state:
                    links[link.host] = link.state
                    text = f"{link.state} ({link.error})" if link.error else link.state
                    self.events.publish("link", text, host=link.host)
            current = self.config.current()
            if self.config.error is not error:
                error = self.config.error
                if error is not None:
                    self.events.publish("config-refused", error.message, code=error.code)
            if current is not config:
                config = current
                self.events.publish("config", f"{config.path} was read again")
            await trio.sleep(_LOOK_S)


async def _say(channel: Channel, message: control.Error) -> None:
    """A last word before the connection is closed."""
    try:
        with trio.move_on_after(LINGER_S):
            await channel.send(message)
    except (ConnectionLost, trio.ClosedResourceError):
        pass


def _link_info(request: int, link: LinkStatus) -> control.LinkInfo:
    rtt_us = None if link.rtt_s is None else int(link.rtt_s * 1e6)
    error = None if link.error is None else link.error[: limits.TEXT_MAX]
    return control.LinkInfo(request, link.host, link.state, link.transport, rtt_us, link.version, error)


def _job_info(request: int, record: Record, now: float) -> control.JobInfo:
    wanted = record.job
    return control.JobInfo(
        request, record.number, record.state, format_location(wanted.source), format_location(wanted.destination),
        int((now if record.ended is None else record.ended) * 1000 - record.started * 1000), record.phase,
        record.counters, record.problem_count, record.detached, wanted.pair,
        None if record.error is None else record.error[: limits.TEXT_MAX],
    )  # fmt: skip


def _uid_of(stream: trio.SocketStream) -> int | None:
    return peer_uid(stream.socket, sys.platform)


def _rss_kib() -> int:
    """Resident memory; where /proc is missing, the most there ever was."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
