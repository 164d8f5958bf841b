"""The messages of the control socket that ask for the agent's state, a row a message."""

from __future__ import annotations

from proto import limits
from proto.control_ends import LOCATION_MAX, NAME_MAX, check_ids
from proto.job import ON_CONFLICT
from proto.record import TYPE_CHECKING, NamedTuple
from proto.schema import (
    check_bool,
    check_choice,
    check_counters,
    check_list,
    check_path,
    check_text,
    check_uint,
)

if TYPE_CHECKING:
    from typing import Any

WATCH_STATES = ("starting", "up-to-date", "settling", "syncing", "held", "waiting", "problems", "paused")
"""Of a watched pair: nothing is known yet; nothing is to be done; changes are let come to an end; a batch is under way;
git works in it; for the link, or for its turn; as up-to-date, but for some paths; until somebody resumes it."""


class Status(NamedTuple):
    """Ask for AGENT-INFO and a row for each link, pair and job."""

    id: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)


class ListPairs(NamedTuple):
    """Ask for a PAIR-INFO row for each pair."""

    id: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)


_LANDLOCK = ("on", "off", "absent")


class AgentInfo(NamedTuple):
    """The agent itself.  ``config_error`` is set while a changed config.toml is refused and the old one holds.

    ``landlock``: whether its engines are held to their roots by the kernel; "absent" where that has no Landlock of a
    usable ABI.  ``overflows``: how often the kernel lost events of the trees that are watched now, which were then read
    once more.
    """

    id: int
    pid: int
    version: str
    uptime_s: int
    rss_kib: int
    config: str
    sockets: list[str]
    config_error: str | None = None
    landlock: str = "absent"
    landlock_abi: int = 0
    overflows: int = 0

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_uint("pid", self.pid, limits.U32)
        check_text("version", self.version, 64)
        check_uint("uptime_s", self.uptime_s)
        check_uint("rss_kib", self.rss_kib)
        check_text("config", self.config)
        check_list("sockets", self.sockets, 16)
        for socket in self.sockets:
            check_text("sockets", socket)
        if self.config_error is not None:
            check_text("config_error", self.config_error)
        check_choice("landlock", self.landlock, _LANDLOCK)
        check_uint("landlock_abi", self.landlock_abi, limits.U32)
        check_uint("overflows", self.overflows)


class LinkInfo(NamedTuple):
    """A link: ``state`` and ``transport`` in the words of the agent's links."""

    id: int
    host: str
    state: str
    transport: str | None = None
    rtt_us: int | None = None
    version: str | None = None
    """Of the agent there."""
    error: str | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("host", self.host, 512)
        check_text("state", self.state, 32)
        if self.rtt_us is not None:
            check_uint("rtt_us", self.rtt_us)
        for name in ("transport", "version", "error"):
            value = getattr(self, name)
            if value is not None:
                check_text(name, value)


class PairInfo(NamedTuple):
    """A pair, as config.toml has it, and how it is when it is watched."""

    id: int
    name: str
    source: str
    destination: str
    mirror: bool
    excludes: list[str]
    watch: bool = False
    on_conflict: str = "overwrite"
    state: str | None = None
    """One of WATCH_STATES; None: it is not watched."""
    why: str | None = None
    """What it is held or paused for, or what it waits for."""
    problem_count: int = 0
    """Of the last batch."""
    synced_ms: int | None = None
    """When the last batch was done, Unix time."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_pair(self)
        if self.state is not None:
            check_choice("state", self.state, WATCH_STATES)
        if self.why is not None:
            check_text("why", self.why)
        check_uint("problem_count", self.problem_count)
        if self.synced_ms is not None:
            check_uint("synced_ms", self.synced_ms)


class JobInfo(NamedTuple):
    """A job under way, or lately ended (then ``state`` is done, failed or cancelled)."""

    id: int
    job: int
    state: str
    source: bytes
    destination: bytes
    age_ms: int
    phase: str
    counters: dict[str, int]
    problem_count: int
    detached: bool
    pair: str | None = None
    error: str | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)
        check_path("source", self.source, LOCATION_MAX)
        check_path("destination", self.destination, LOCATION_MAX)
        if self.pair is not None:
            check_text("pair", self.pair, NAME_MAX)
        check_text("state", self.state, 32)
        check_uint("age_ms", self.age_ms)
        check_text("phase", self.phase, 32)
        check_counters("counters", self.counters)
        check_uint("problem_count", self.problem_count)
        check_bool("detached", self.detached)
        if self.error is not None:
            check_text("error", self.error)


def check_pair(pair: Any) -> None:
    """What PAIR-INFO and ADD-PAIR share."""
    check_uint("id", pair.id, limits.U32)
    check_text("name", pair.name, NAME_MAX)
    check_text("source", pair.source, LOCATION_MAX)
    check_text("destination", pair.destination, LOCATION_MAX)
    check_bool("mirror", pair.mirror)
    check_list("excludes", pair.excludes, limits.FILTERS_MAX)
    for pattern in pair.excludes:
        check_text("excludes", pattern)
    check_bool("watch", pair.watch)
    check_choice("on_conflict", pair.on_conflict, ON_CONFLICT)
