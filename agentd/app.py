"""The composition root: builds everything, and owns the nursery that everything runs in."""

from __future__ import annotations

import logging
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import trio

from agentd import _core
from agentd.config import Config, ConfigFile
from agentd.control.server import ControlServer
from agentd.links.links import Links
from agentd.machine import machine_id
from agentd.service import Notifier, passed_sockets
from agentd.sockets import Listening
from agentd.store import Store
from agentd.sync.common import temp_tag
from agentd.sync.engines import Tuning
from agentd.sync.service import Sessions
from agentd.tree.trees import Trees
from agentd.watch.watchers import Watchers
from agentd.wire import Connection, ConnectionLost, greet
from proto import limits
from proto.errors import ProtocolError, SyncError
from proto.hello import Hello
from proto.job import ENVIRONMENT
from proto.peercred import peer_uid, trusted
from proto.places import places as find_places
from proto.version import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from agentd.paths import Lock
    from proto.places import Places

log = logging.getLogger(__name__)

_STOP_S = 5.0
"""How long what is in flight may take to end cleanly."""

_LOOK_S = 10.0
"""How often it is checked that the sockets' names still lead to us; SIGURG asks at once."""

_WATCHDOG_SHARE = 0.4
"""The watchdog hears of us this many times as often as it insists on, inverted."""


class App:
    """One agent.  ``run()`` it once, with the lock held.  Raises SyncError ``config`` when the configuration is bad."""

    def __init__(self, places: Places, lock: Lock, platform: str) -> None:
        self._places = places
        self._lock = lock
        self._platform = platform
        self._notify = Notifier(os.environ)
        passed = passed_sockets(os.environ)
        self._store = Store(os.path.join(places.state, "state.sqlite"), partial(log.warning, "%s"))
        self._config = ConfigFile(places.config, self._reconfigure)
        self._landlock = _landlock(self._config.current(), os.environ)
        self._tuning = Tuning(confine=self._landlock[0] == "on")
        self._links = Links(self._config.current(), self.identity, places.runtime)
        self._roots = _local_roots(self._config.current())
        self._trees = Trees(
            os.path.join(places.state, "index"), threads=self._tuning.threads, pinned=lambda root: root in self._roots
        )
        self._sessions = Sessions(
            identity=self.identity, links=self._links, journal=self._store, tuning=self._tuning, trees=self._trees
        )
        environ = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ and name != "PWD"}
        self._watchers = Watchers(
            trees=self._trees, runner=self._sessions, config=self._config.current(), environ=environ
        )
        self._stopping = trio.Event()
        self._control_socket = Listening(places.control_socket, self._serve_control, passed.get("control"))
        self._peer_socket = Listening(places.peer_socket, self._serve_peer, passed.get("peer"))
        self._control: ControlServer | None = None
        self._hello = Hello(
            "agent", limits.PROTOCOL_MIN, limits.PROTOCOL_MAX, VERSION, self._store.agent, machine_id(), []
        )
        self._peers = 0
        self._mend_trouble = ""

    def identity(self) -> Hello:
        """Who we are, as every connection begins."""
        return self._hello

    async def run(self, ready: Callable[[], None]) -> None:
        """Until a signal or ``syncctl stop``.  ``ready()`` is called when both sockets answer.  Raises SyncError."""
        self._control = ControlServer(
            identity=self.identity,
            sessions=self._sessions,
            links=self._links,
            config=self._config,
            watchers=self._watchers,
            stop=self._stopping.set,
            trashes=self._sessions,
            sockets=(self._places.control_socket, self._places.peer_socket),
            landlock=self._landlock,
            overflows=self._trees.overflows,
        )
        try:
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as ends, \
                     trio.open_signal_receiver(signal.SIGHUP) as reloads, \
                     trio.open_signal_receiver(signal.SIGURG) as looks:  # fmt: skip
                    nursery.start_soon(self._watch_ends, ends)
                    nursery.start_soon(self._watch_reloads, reloads)
                    nursery.start_soon(self._watch_sockets, looks)
                    nursery.start_soon(self._look_regularly)
                    if self._notify.watchdog_s is not None:
                        nursery.start_soon(self._reassure, self._notify.watchdog_s * _WATCHDOG_SHARE)
                    runs = (self._links.run, self._trees.run, self._sessions.run, self._control.run, self._watchers.run)
                    for service in runs:
                        await nursery.start(service)
                    for listening in (self._control_socket, self._peer_socket):
                        await nursery.start(listening.serve, nursery)
                    # before ready(): who waited for it may read the log at once
                    log.info("ready", extra={"version": VERSION, "socket": self._places.control_socket})
                    ready()
                    self._notify("READY=1")
                    nursery.start_soon(self._sessions.sweep, self._clear)
                    await self._stopping.wait()
                    log.info("stopping")
                    self._notify("STOPPING=1")
                    signal.alarm(int(_STOP_S) + 1)  # its default action ends us, should anything hang
                    nursery.cancel_scope.cancel()
        finally:
            self._control_socket.remove()
            self._peer_socket.remove()
            self._store.close()

    async def _watch_ends(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            if self._stopping.is_set():
                os._exit(1)  # asked twice: whoever asks knows that something is in flight
            self._stopping.set()

    async def _watch_reloads(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self._config.current()
            if self._config.error is not None:
                log.error("the configuration is bad; the last good one holds: %s", self._config.error)
            else:
                log.info("read the configuration again")

    async def _watch_sockets(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self._mend()

    async def _look_regularly(self) -> None:
        while True:
            await trio.sleep(_LOOK_S)
            self._mend()

    def _mend(self) -> None:
        """Make sockets again whose names were taken away, where they belong now: the directory may be gone for good."""
        if not self._lock.held():
            # Removed with the whole home, and another agent may have begun a new one: its sockets are not ours to take.
            log.error("the lock is gone: this agent ends", extra={"lock": self._lock.path})
            self._stopping.set()
            return
        here = find_places(os.environ, os.geteuid(), self._platform)
        try:
            mended = [self._control_socket.mend(here.control_socket), self._peer_socket.mend(here.peer_socket)]
        except SyncError as e:
            if self._mend_trouble != e.message:
                log.warning("a socket vanished and cannot be made again: %s", e.message)
            self._mend_trouble = e.message
            return
        self._mend_trouble = ""
        if any(mended):
            self._links.runtime_dir = here.runtime
            control, peer = self._control_socket.path, self._peer_socket.path
            self._lock.record(here._replace(control_socket=control, peer_socket=peer))
            log.warning("a socket had vanished and is made again", extra={"runtime": here.runtime})

    async def _reassure(self, every_s: float) -> None:
        while True:
            self._notify("WATCHDOG=1")
            await trio.sleep(every_s)

    def _clear(self, root: bytes) -> int:
        """Temporary files go, what was moved aside comes back; partials stay, to be continued."""
        tags = [temp_tag(self.identity(), scoped=scoped) for scoped in (False, True)]
        return sum(_core.sweep(root, tag, self._tuning.partial_min) for tag in tags)

    async def _serve_control(self, stream: trio.SocketStream) -> None:
        if self._control is None:
            raise AssertionError("a control connection before the control server")
        try:
            await self._control.serve(stream)
        except Exception:
            log.exception("a control connection failed")

    async def _serve_peer(self, stream: trio.SocketStream) -> None:
        """An agent's connection, which came over a link of that agent's: sshd connects to us as this user."""
        connection = Connection(stream)
        self._peers += 1
        try:
            if not trusted(peer_uid(stream.socket, self._platform), os.geteuid()):
                log.warning("refused a peer connection of another user")
            elif self._peers > limits.CONNECTIONS_TOTAL:
                log.warning("refused a peer connection: too many")
            elif (await greet(connection, self._hello)).peer.role == "agent":
                await self._sessions.serve(connection)
        except (ConnectionLost, trio.ClosedResourceError):
            pass
        except (ProtocolError, SyncError, trio.TooSlowError) as e:
            log.warning("a peer connection was refused", extra={"reason": str(e)})
        except Exception:
            log.exception("a peer connection failed")
        finally:
            self._peers -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await connection.aclose()

    def _reconfigure(self, config: Config) -> None:
        self._links.config = config
        self._watchers.reconfigure(config)
        self._roots = _local_roots(config)


def _landlock(config: Config, environ: Mapping[str, str]) -> tuple[str, int]:
    """Whether engines hold their threads to their roots, and the kernel's Landlock ABI: SYNCCTL_LANDLOCK, or else
    the configuration."""
    abi = _core.landlock_abi()
    wanted = environ.get("SYNCCTL_LANDLOCK") != "off" and config.agent.landlock
    return "absent" if abi == 0 else "on" if wanted else "off", abi


def _local_roots(config: Config) -> frozenset[bytes]:
    """The roots of pairs that are on this machine, as sessions find them."""
    ends = (end for pair in config.pairs.values() for end in (pair.source, pair.destination))
    return frozenset(os.path.realpath(end.path) for end in ends if end.host is None)
