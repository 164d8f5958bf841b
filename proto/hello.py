"""The first message of every connection, in both directions, and what the two sides make of it."""

from __future__ import annotations

from proto import limits
from proto.errors import RemoteProtocolError, SyncError
from proto.record import NamedTuple
from proto.schema import check_bytes, check_choice, check_list, check_text, check_uint

ROLES = ("cli", "agent")


class Hello(NamedTuple):
    """Who is there and what it speaks.  Each side sends one before anything else; neither waits for the other's."""

    role: str
    protocol_min: int
    protocol_max: int
    version: str
    """For people: shown when the two do not fit."""
    agent: bytes = b""
    """16 random bytes made once per home, by which an agent recognises itself; empty for a CLI."""
    machine: bytes = b""
    """16 bytes that two agents of one running machine share (from its boot id); empty when unknown."""
    features: list[str] = []  # noqa: RUF012 - a NamedTuple's default, never mutated
    """Only fields of features that both named are sent."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_choice("role", self.role, ROLES)
        check_uint("protocol_min", self.protocol_min, limits.U16, 1)
        check_uint("protocol_max", self.protocol_max, limits.U16, self.protocol_min)
        check_text("version", self.version, 64)
        check_bytes("agent", self.agent, 16)
        check_bytes("machine", self.machine, 16)
        check_list("features", self.features, limits.FEATURES_MAX)
        for feature in self.features:
            check_text("features", feature, 32)
        if self.role == "agent" and len(self.agent) != 16:
            raise RemoteProtocolError("agent: an agent has an id of 16 bytes")


class Agreement(NamedTuple):
    """What both sides of a greeted connection may use."""

    protocol: int
    features: frozenset[str]
    peer: Hello


def agree(ours: Hello, theirs: Hello) -> Agreement:
    """The highest protocol that both speak.  Raises SyncError ``incompatible`` naming the side to upgrade."""
    protocol = min(ours.protocol_max, theirs.protocol_max)
    if protocol < ours.protocol_min:
        raise SyncError("incompatible", f"the other side (syncctl {theirs.version}) is too old for {ours.version} here")
    if protocol < theirs.protocol_min:
        raise SyncError("incompatible", f"syncctl {ours.version} here is too old for the other side ({theirs.version})")
    return Agreement(protocol, frozenset(ours.features) & frozenset(theirs.features), theirs)
