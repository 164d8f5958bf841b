"""Sessions: which message is legal when, whose turn it is, and how much may be under way.

One machine per side of a session and epoch.  Everything that is legal is a row of a table below; the diagrams in
``docs/protocol.md`` are drawn from the tables.  A machine is told of each message *before* it is sent (``send``) and
when it was received (``receive_untrusted``), with the length of its payload; it neither keeps payloads nor waits.
Any breach moves it to FAILED, where it stays.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from proto import limits
from proto.errors import LocalProtocolError, RemoteProtocolError
from proto.peer import Ack, Closed, Data, Done, List, ListEnd, Look, Open, Opened, Want
from proto.schema import tag_of

if TYPE_CHECKING:
    from proto.schema import Message


class State(enum.Enum):
    """Where one side of a session is."""

    IDLE = "idle"
    ASKED = "asked"
    """OPEN came; OPENED has not been sent."""
    OPENING = "opening"
    """OPEN was sent; OPENED has not come.  A sender may list meanwhile, and send what comes unasked, within the first
    windows."""
    LISTED_EARLY = "listed early"
    """An opening sender whose whole list is out already."""
    LISTING = "listing"
    FLOWING = "flowing"
    """The list is complete; data and answers flow on, unless a LOOK asks for more of the list."""
    DONE = "done"
    """DONE went from the receiver to the sender; CLOSED is the only thing left."""
    CANCELLING = "cancelling"
    """CANCEL was sent; whatever was under way is let pass until ERROR answers it."""
    CANCELLED = "cancelled"
    """CANCEL came; ERROR answers it."""
    CLOSED = "closed"
    """Over in order: the connection is a spare again."""
    FAILED = "failed"
    """Over; the connection is not used again."""


class Row(NamedTuple):
    """In ``state``, the side that owns the table sends (``>``) or receives (``<``) ``tags`` and is in ``after``.

    The LIST-ENDs due are counted on top: one that is not the last leaves LISTING as it is.
    """

    state: State
    way: str
    tags: str
    after: State


_S = State

SENDER_ROWS = (
    Row(_S.IDLE, ">", "open", _S.OPENING),
    Row(_S.IDLE, "<", "open", _S.ASKED),
    Row(_S.ASKED, ">", "opened", _S.LISTING),
    Row(_S.OPENING, ">", "list data", _S.OPENING),
    Row(_S.OPENING, ">", "list-end", _S.LISTED_EARLY),
    Row(_S.OPENING, "<", "opened", _S.LISTING),
    Row(_S.LISTED_EARLY, ">", "data", _S.LISTED_EARLY),
    Row(_S.LISTED_EARLY, "<", "opened", _S.FLOWING),
    Row(_S.LISTING, ">", "list data", _S.LISTING),
    Row(_S.LISTING, "<", "want look basis again ack got problems items", _S.LISTING),
    Row(_S.LISTING, ">", "list-end", _S.FLOWING),
    Row(_S.FLOWING, ">", "data", _S.FLOWING),
    Row(_S.FLOWING, "<", "want basis again ack got problems items", _S.FLOWING),
    Row(_S.FLOWING, "<", "look", _S.LISTING),
    Row(_S.FLOWING, "<", "done", _S.DONE),
    Row(_S.DONE, ">", "closed", _S.CLOSED),
    Row(_S.CANCELLING, "<", "opened want look basis again ack got problems items done", _S.CANCELLING),
)

RECEIVER_ROWS = (
    Row(_S.IDLE, ">", "open", _S.OPENING),
    Row(_S.IDLE, "<", "open", _S.ASKED),
    Row(_S.ASKED, ">", "opened", _S.LISTING),
    Row(_S.OPENING, "<", "opened", _S.LISTING),
    Row(_S.LISTING, "<", "list data", _S.LISTING),
    Row(_S.LISTING, ">", "want look basis again ack got problems items", _S.LISTING),
    Row(_S.LISTING, "<", "list-end", _S.FLOWING),
    Row(_S.FLOWING, "<", "data", _S.FLOWING),
    Row(_S.FLOWING, ">", "want basis again ack got problems items", _S.FLOWING),
    Row(_S.FLOWING, ">", "look", _S.LISTING),
    Row(_S.FLOWING, ">", "done", _S.DONE),
    Row(_S.DONE, "<", "closed", _S.CLOSED),
    Row(_S.CANCELLING, "<", "opened list list-end data closed", _S.CANCELLING),
)

_UNDER_WAY = (_S.ASKED, _S.OPENING, _S.LISTED_EARLY, _S.LISTING, _S.FLOWING, _S.DONE)

ENDING_ROWS = (
    *(Row(state, way, "error", _S.FAILED) for state in (*_UNDER_WAY, _S.CANCELLING) for way in "<>"),
    *(Row(state, ">", "cancel", _S.CANCELLING) for state in _UNDER_WAY),
    *(Row(state, "<", "cancel", _S.CANCELLED) for state in _UNDER_WAY),
    Row(_S.CANCELLING, "<", "cancel", _S.CANCELLED),  # both at once: both answer
    Row(_S.CANCELLED, ">", "error", _S.FAILED),
    Row(_S.CANCELLED, "<", "error", _S.FAILED),
)
"""Common to both sides: ERROR ends a session from anywhere, CANCEL asks for that."""

Table = dict[tuple[State, str, str], State]


def table(*rows: Row) -> Table:
    """``rows`` by (state, way, tag)."""
    return {(row.state, row.way, tag): row.after for row in rows for tag in row.tags.split()}


SENDER_TABLE = table(*SENDER_ROWS, *ENDING_ROWS)
RECEIVER_TABLE = table(*RECEIVER_ROWS, *ENDING_ROWS)

#: Whether a message carries a payload; "want" has none when its chunk has no entries, so it is in neither set.
WITH_PAYLOAD = frozenset(("list", "look", "basis", "again", "data", "ack", "problems", "items"))
WITHOUT_PAYLOAD = frozenset(("open", "opened", "join", "list-end", "got", "done", "closed", "cancel", "error"))

_WANT_ALL = ("missing", "empty")
"""States of a receiver's root in which everything is wanted."""

_GRANTS = struct.Struct("<QQ")
_PACKED = struct.Struct("<H2xI4x")


def _unpacked_size(payload: Any) -> int:
    """How long a chunk is that may be packed; the crate holds a peer to what its packing says."""
    if len(payload) >= _PACKED.size:
        kind, size = _PACKED.unpack_from(payload)
        if kind == 0:
            return max(int(size), len(payload))
    return len(payload)


class _Window:
    """Cumulative bytes granted and used.  A frame may begin while less than the grant is used."""

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.used = 0

    def take(self, size: int, slack: int = 0) -> bool:
        """Count a frame; False when it began with the window used up."""
        fits = self.used < self.granted + slack
        self.used += size
        return fits


class Session:
    """What both sides share.  ``joined`` is how many further data connections the session has."""

    _table: Table

    def __init__(
        self,
        *,
        first_list_window: int = limits.FIRST_LIST_WINDOW,
        first_data_window: int = limits.FIRST_DATA_WINDOW,
    ) -> None:
        self.state = State.IDLE
        self.open: Open | None = None
        self.joined = 0
        self.initiator = False
        self.chunks = 0
        """LIST chunks so far."""
        self.wants = 0
        """WANTs so far."""
        self.looks = 0
        """LOOKs so far."""
        self.ends_due = 1
        """LIST-ENDs that are still to come: one, and one for each LOOK."""
        self.baseline: bytes | None = None
        self.hold = False
        """Deletions are counted, and not made."""
        """The agreed state that both ends hold, once OPENED named it: the list is what changed since."""
        self.want_all = False
        """The receiver's root was missing or empty: everything is wanted, and no WANT comes."""
        self._first_windows = first_list_window, first_data_window
        self._list = _Window(0)
        self._data = _Window(0)

    @property
    def over(self) -> bool:
        """Nothing more will be said in this session."""
        return self.state in (State.CLOSED, State.FAILED)

    @property
    def closed(self) -> bool:
        """It ended in order."""
        return self.state is State.CLOSED

    @property
    def finished(self) -> bool:
        """DONE was said: everything that will be applied is applied."""
        return self.state in (State.DONE, State.CLOSED)

    @property
    def window_used_up(self) -> bool:
        """No DATA may begin before the receiver grants more."""
        return self._data.used >= self._data.granted

    @property
    def heard_all(self) -> bool:
        """The peer has nothing more to say in this session; what comes next on the connection is another matter."""
        return self.over

    def send(self, message: Message, payload: Any = b"") -> None:
        """We are about to send ``message``.  Raises LocalProtocolError when that is not legal now."""
        self._step(">", message, payload, LocalProtocolError)

    def receive_untrusted(self, message: Message, payload: Any = b"", *, joined: bool = False) -> None:
        """The peer sent ``message`` (on a joined data connection?).  Raises RemoteProtocolError when it may not."""
        if joined and type(message) is not Data:
            self.state = State.FAILED
            raise RemoteProtocolError(f"{tag_of(type(message))} on a data connection")
        self._step("<", message, payload, RemoteProtocolError)

    def _step(self, way: str, message: Message, payload: Any, error: type[Exception]) -> None:
        tag = tag_of(type(message))
        size = len(payload)
        before = self.state
        after = self._table.get((before, way, tag))
        self.state = State.FAILED
        if after is None:
            raise error(f"{tag} is out of order ({before.value})")
        if (size == 0 and tag in WITH_PAYLOAD) or (size != 0 and tag in WITHOUT_PAYLOAD):
            raise error(f"{tag} with a payload of {size} bytes")
        if before is not State.CANCELLING and (check := self._CHECKS.get(tag)) is not None:
            wrong = check(self, message, payload)
            if wrong is not None:
                raise error(f"{tag}: {wrong}")
        if tag == "open":
            self.initiator = way == ">"
        self.state = State.LISTING if after is State.FLOWING and self.ends_due else after

    def _check_open(self, message: Open, _payload: Any) -> str | None:
        receiver_opens = message.side == "sender"
        if (message.state is None) == receiver_opens:
            return "the receiver, and it alone, says the state of its root"
        if message.scoped and receiver_opens:
            return "the sender alone has a scope"
        if message.hold and (receiver_opens or message.baselines):
            return "a hold that is not the sender's, or of what was agreed"
        if message.baselines and (message.scoped or (not receiver_opens and len(message.baselines) > 1)):
            return "more baselines than it can be about"
        if message.baselines and message.state in _WANT_ALL:
            return "part of the list for a root that has nothing"
        if not receiver_opens:  # the list leaves before OPENED says the windows
            self._list.granted, self._data.granted = self._first_windows
        self.open = message
        return None

    def _check_opened(self, message: Opened, _payload: Any) -> str | None:
        if self.open is None or (message.session, message.epoch) != (self.open.session, self.open.epoch):
            return "of another session or epoch"
        receiver_opens = self.open.side == "sender"
        if (message.state is None) != receiver_opens:
            return "the receiver, and it alone, says the state of its root"
        if message.hold and (not receiver_opens or message.baseline is not None):
            return "a hold that is not the sender's, or of what was agreed"
        self.hold = self.open.hold or message.hold
        receiver = self.open if receiver_opens else message
        self.want_all = receiver.state in _WANT_ALL
        if self.want_all and (self.open.baselines or self.open.scoped):
            return "part of the list for a root that has nothing"
        if message.baseline is not None and message.baseline not in self.open.baselines:
            return "a baseline that was not named"
        self.baseline = message.baseline
        self._list.granted = max(self._list.granted, receiver.list_window)
        self._data.granted = max(self._data.granted, receiver.data_window)
        return None

    def _check_list(self, message: List, payload: Any) -> str | None:
        if message.n != self.chunks:
            return f"chunk {message.n} instead of {self.chunks}"
        self.chunks += 1
        return None if self._list.take(_unpacked_size(payload)) else "beyond the list window"

    def _check_list_end(self, message: ListEnd, _payload: Any) -> str | None:
        self.ends_due -= 1
        return None if message.chunks == self.chunks else f"{message.chunks} chunks instead of {self.chunks}"

    def _check_look(self, _message: Look, _payload: Any) -> str | None:
        # A pushing sender listed by the baseline that it named before it knew whether its receiver holds it.
        if self.open is None or not self.open.baselines or (self.open.side == "sender" and self.baseline is None):
            return "everything is listed already"
        self.looks += 1
        self.ends_due += 1
        return None if self.looks <= limits.LOOKS_MAX else f"more than {limits.LOOKS_MAX}"

    def _check_want(self, message: Want, _payload: Any) -> str | None:
        if self.want_all:
            return "everything is wanted already"
        if message.n != self.wants or message.n >= self.chunks:
            return f"chunk {message.n} instead of {self.wants} of {self.chunks}"
        self.wants += 1
        return None

    def _check_basis(self, _message: Message, _payload: Any) -> str | None:
        return None if self.wants else "nothing was wanted"

    def _check_again(self, _message: Message, _payload: Any) -> str | None:
        return None if self.wants or (self.want_all and self.chunks) else "nothing was wanted"

    def _check_data(self, _message: Data, payload: Any) -> str | None:
        if not self.chunks:  # what comes unasked, and what was asked for, the engines know
            return "nothing was listed"
        # Frames on several connections overtake each other, one payload for each further connection at the most.
        return None if self._data.take(len(payload), self.joined * limits.PAYLOAD_MAX) else "beyond the data window"

    def _check_ack(self, _message: Ack, payload: Any) -> str | None:
        if len(payload) < _GRANTS.size:
            return "cut short"
        list_window, data_window = _GRANTS.unpack_from(payload)
        if list_window < self._list.granted or data_window < self._data.granted:
            return "a grant is taken back"
        self._list.granted, self._data.granted = list_window, data_window
        return None

    def _check_done(self, message: Done, _payload: Any) -> str | None:
        if not self.want_all and self.wants != self.chunks:
            return "before every chunk was answered"
        return self._check_profile(message, "receiver")

    def _check_closed(self, message: Closed, _payload: Any) -> str | None:
        return self._check_profile(message, "sender")

    def _check_profile(self, message: Done | Closed, side: str) -> str | None:
        asked = self.open is not None and self.open.profile and self.open.side == side
        return None if (message.profile is not None) == asked else "the responder, when asked, has a profile"

    _CHECKS: ClassVar[dict[str, Any]] = {
        "open": _check_open, "opened": _check_opened, "list": _check_list, "list-end": _check_list_end,
        "want": _check_want, "look": _check_look, "basis": _check_basis, "again": _check_again,
        "data": _check_data, "ack": _check_ack, "done": _check_done,
        "closed": _check_closed,
    }  # fmt: skip


class SenderSession(Session):
    """The side that holds the source."""

    _table = SENDER_TABLE

    @property
    def heard_all(self) -> bool:
        """DONE was the peer's last word; it may already ask for the next session behind it."""
        return self.over or self.state is State.DONE


class ReceiverSession(Session):
    """The side that holds the destination."""

    _table = RECEIVER_TABLE


def diagram(name: str, rows: tuple[Row, ...]) -> str:
    """``rows`` as a Mermaid diagram; ENDING_ROWS go without saying."""
    lines = ["stateDiagram-v2", f"    %% {name}"]
    for row in rows:
        before, after = (state.value.replace(" ", "_") for state in (row.state, row.after))
        way = "sends" if row.way == ">" else "hears"
        lines.append(f"    {before} --> {after}: {way} {row.tags.upper().replace(' ', ', ')}")
    return "\n".join(lines) + "\n"
