"""One host's links, one after the other: connect when somebody needs it, share the attempt, come back when lost."""

from __future__ import annotations

import logging
import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import trio

from agentd.links.link import Link
from agentd.links.settings import agent_answers
from proto.errors import SyncError
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentd.links.transport import Transport
    from proto.hello import Hello

RETRYABLE = frozenset({"unreachable", "link-lost"})
"""What may get better by itself.  A refused key or a strange host key only gets worse by being tried again."""

KEEP_WARM_S = 900.0
"""A link that was used within this time is made again by itself when the network took it."""

BACKOFF_MAX_S = 30.0
_BACKOFF_FIRST_S = 0.25
_STEADY_S = 10.0
"""A link that lived shorter counts as a failure, or it would be made ten times a second."""

_ENVIRONMENTS = 4

_log = logging.getLogger(__name__)


class LinkStatus(NamedTuple):
    """One host's row of ``status``."""

    host: str
    state: str
    """``idle``, ``connecting``, ``up``, ``waiting`` (for the next attempt) or ``failed`` (until somebody asks)."""
    transport: str | None
    rtt_s: float | None
    up_s: float | None
    connections: int
    version: str | None
    """Of the agent there."""
    pids: tuple[int, ...]
    error: str | None
    """What ended the last link or attempt, while there is no link."""


class _Attempt:
    """A connect that any number of callers wait for."""

    def __init__(self) -> None:
        self.environ: Mapping[str, str] = {}
        self.link: Link | None = None
        self.error: SyncError | None = None
        self.done = trio.Event()

    def end(self, outcome: Link | SyncError) -> None:
        if not self.done.is_set():
            if isinstance(outcome, Link):
                self.link = outcome
            else:
                self.error = outcome
            self.done.set()


class Host:
    """Everything about one destination.  ``run()`` is its task.

    ``transports(environ, nursery, denied)`` are those to try, in order; a further one only when forwarding is denied.
    """

    def __init__(
        self,
        host: str,
        identity: Callable[[], Hello],
        dead_after_s: Callable[[], float],
        transports: Callable[[Mapping[str, str], trio.Nursery, bool], Awaitable[list[Transport]]],
    ) -> None:
        self.host = host
        self._identity = identity
        self._dead_after_s = dead_after_s
        self._transports = transports
        self._environs: deque[Mapping[str, str]] = deque(maxlen=_ENVIRONMENTS)
        self._attempt: _Attempt | None = None
        self._wanted = trio.Event()
        self._link: Link | None = None
        self._state = "idle"
        self._error: SyncError | None = None
        self._failures = 0
        self._used_at = trio.current_time()
        self._denied = False

    def remember(self, environ: Mapping[str, str]) -> None:
        """``environ`` came with a request: it is the newest to connect with."""
        with suppress(ValueError):
            self._environs.remove(environ)
        self._environs.append(environ)

    async def up(self) -> Link:
        """The link, made if there is none.  Raises SyncError when the attempt fails."""
        self._used_at = trio.current_time()
        while True:
            if self._link is not None and not self._link.is_lost:
                return self._link
            if self._attempt is None:
                self._attempt = _Attempt()
                self._wanted.set()
            attempt = self._attempt
            await attempt.done.wait()
            if attempt.link is not None:
                return attempt.link
            if attempt.error is None:
                raise AssertionError("an attempt ended without an outcome")
            # it may have begun before this caller came with a better agent socket
            if attempt.error.code != "auth-refused" or attempt.environ == self._environ():
                raise SyncError(attempt.error.code, attempt.error.message, attempt.error.hint)

    def backoff_s(self) -> float:
        """How long to wait before the next attempt, after those that failed in a row."""
        longest = min(BACKOFF_MAX_S, _BACKOFF_FIRST_S * (1 << min(self._failures, 16)))
        return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing

    def status(self) -> LinkStatus:
        """As it is now."""
        link = self._link
        if link is None or link.is_lost:
            error = None if self._error is None else self._error.message
            state = self._state if link is None else "waiting"
            return LinkStatus(self.host, state, None, None, None, 0, None, (), error)
        ready = link.transport.ready
        return LinkStatus(
            self.host,
            self._state,
            link.transport.name,
            link.rtt_s,
            trio.current_time() - link.since,
            link.connections,
            ready.version if ready is not None else None,
            tuple(link.transport.pids()),
            None,
        )

    async def run(self) -> None:
        """Serve until cancelled; then no connection and no child process is left."""
        try:
            while True:
                await self._wanted.wait()
                if self._attempt is None:
                    self._attempt = _Attempt()
                if await self._live_or_fail(self._attempt):
                    self._state = "waiting"
                    with trio.move_on_after(self.backoff_s()):
                        await self._wanted.wait()
                    self._wanted.set()
        finally:
            if self._attempt is not None:
                self._attempt.end(SyncError("agent-stopping", "the agent is stopping"))

    async def _live_or_fail(self, attempt: _Attempt) -> bool:
        """As _live(); a defect in one link fails its callers, and ends neither the other links nor the agent."""
        try:
            return await self._live(attempt)
        except Exception as e:  # noqa: BLE001 - said to whoever waits, and logged
            _log.exception("a link failed by a defect", extra={"host": self.host})
            self._error = SyncError("internal", f"{escape_text(self.host)}: {type(e).__name__} in its link")
            self._state = "failed"
            self._failures += 1
            if self._attempt is attempt:
                self._attempt = None
            attempt.end(self._error)
            return False

    async def _live(self, attempt: _Attempt) -> bool:
        """Connect, and serve until the link is lost; whether to come back without being asked."""
        self._state = "connecting"
        self._wanted = trio.Event()
        came_up: float | None = None
        retry = True
        async with trio.open_nursery() as nursery:
            try:
                attempt.environ = self._environ()
                link = self._link = await self._connect(attempt.environ, nursery)
                self._state, self._error = "up", None
                came_up = link.since
                self._attempt = None
                attempt.end(link)
                error = await link.serve()
                retry = link.transport.retry
                self._used_at = max(self._used_at, link.used_at)
            except SyncError as e:
                error = e
            except (OSError, trio.BrokenResourceError) as e:  # no descriptors, no memory, no process
                error = SyncError("unreachable", f"{escape_text(self.host)}: cannot be tried from here: {e}")
            finally:
                if self._link is not None:
                    await self._link.transport.aclose()
                    self._link = None
                nursery.cancel_scope.cancel()
        now = trio.current_time()
        self._failures = 0 if came_up is not None and now - came_up >= _STEADY_S else self._failures + 1
        self._error = error
        self._state = "idle" if error.code in RETRYABLE else "failed"
        if self._attempt is attempt:
            self._attempt = None
        attempt.end(error)
        return retry and error.code in RETRYABLE and now - self._used_at < KEEP_WARM_S

    async def _connect(self, environ: Mapping[str, str], nursery: trio.Nursery) -> Link:
        transports = await self._transports(environ, nursery, self._denied)
        for transport in transports:
            link = Link(self.host, transport, self._identity, self._dead_after_s())
            try:
                await transport.connect()
                await link.greet()
                return link
            except SyncError as e:
                await transport.aclose()
                if e.code != "forwarding-denied" or transport is transports[-1]:
                    raise
                self._denied = True
            except BaseException:
                await transport.aclose()
                raise
        raise AssertionError("no transport was tried")

    def _environ(self) -> Mapping[str, str]:
        """The newest environment whose SSH agent answers; or else the newest."""
        for environ in reversed(self._environs):
            if agent_answers(environ):
                return environ
        return self._environs[-1] if self._environs else {}
