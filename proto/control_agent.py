"""The messages of the control socket that change the agent's pairs, end it, or listen to it."""

from __future__ import annotations

from proto import limits
from proto.control_ends import NAME_MAX
from proto.control_state import check_pair
from proto.record import NamedTuple
from proto.schema import (
    check_counters,
    check_text,
    check_uint,
)

_NO_TEXT: list[str] = []


class AddPair(NamedTuple):
    """Add a pair to config.toml.  A pair is text: what TOML can hold."""

    id: int
    name: str
    source: str
    destination: str
    mirror: bool = False
    excludes: list[str] = _NO_TEXT
    watch: bool = False
    on_conflict: str = "overwrite"
    trash: str = ""
    """How long what is deleted and overwritten is kept, such as ``30d``; empty: not at all."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_pair(self)
        check_text("trash", self.trash, 16)


class RemovePair(NamedTuple):
    """Remove a pair from config.toml; both its trees stay."""

    id: int
    name: str

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("name", self.name, NAME_MAX)


class Stop(NamedTuple):
    """End the agent.  END says that it begins to; the end of the connection, that it is done."""

    id: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)


class Events(NamedTuple):
    """Subscribe, from the event behind ``after`` on when it is still held; None: from now on."""

    id: int
    after: int | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        if self.after is not None:
            check_uint("after", self.after)


class Event(NamedTuple):
    """Something happened.  ``seq`` counts without gaps; the first one after a gap has kind ``missed``."""

    id: int
    seq: int
    at_ms: int
    """Unix time."""
    kind: str
    text: str
    job: int | None = None
    pair: str | None = None
    host: str | None = None
    code: str | None = None
    counters: dict[str, int] | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_uint("seq", self.seq)
        check_uint("at_ms", self.at_ms)
        check_text("kind", self.kind, 32)
        check_text("text", self.text, 4 * limits.TEXT_MAX)
        if self.job is not None:
            check_uint("job", self.job)
        for name in ("pair", "host", "code"):
            value = getattr(self, name)
            if value is not None:
                check_text(name, value, 512)
        if self.counters is not None:
            check_counters("counters", self.counters)


class Heartbeat(NamedTuple):
    """Nothing happened since event ``seq``, and the agent is well."""

    id: int
    seq: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_uint("seq", self.seq)
