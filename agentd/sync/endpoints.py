"""Endpoints: a session machine and the engine behind it, joined.

What the pump moves between an endpoint and the wire are messages with payloads; the payloads are the crate's.  Nothing
here waits: engines work on threads of their own, and say through a descriptor when there is something to take.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentd import _core
from agentd.sync.memory import source_empty
from agentd.wire import allocate
from proto import peer
from proto.errors import LocalProtocolError, RemoteProtocolError, SyncError
from proto.job import shown
from proto.session import ReceiverSession, SenderSession, Session, State

if TYPE_CHECKING:
    from agentd.sync.meter import Meter, Rows
    from proto.frame import Payload
    from proto.schema import Message, Profile

Outgoing = tuple[peer.PeerMessage, Any]
"""A message to send and its payload or None."""

_SENDING = frozenset((State.OPENING, State.LISTED_EARLY, State.LISTING, State.FLOWING))
"""In which data may go out: before OPENED, what goes ahead with the list."""

Observer = Callable[[str, Any], None]
"""Called with "items" or "problems" and the payload, at the side that shows them to a person."""

_FLAGS_AT, _SINGLE = 2, 1
"""Where a list chunk has its flags, and the one that says that the source is one file."""


class Engine(Protocol):
    """What every engine of the crate offers: see ``_core.pyi``."""

    def next_control(self) -> tuple[str, int, Payload | None] | None: ...  # noqa: D102
    def counters(self) -> dict[str, int]: ...  # noqa: D102
    def profile(self) -> Rows: ...  # noqa: D102
    def failure(self) -> tuple[str, bytes, int, str] | None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class SenderEngine(Engine, Protocol):
    """The crate's Sender."""

    def start(self) -> None: ...  # noqa: D102
    def next_data(self) -> tuple[str, int, Payload | None] | None: ...  # noqa: D102
    def list_total(self) -> tuple[int, int, bytes]: ...  # noqa: D102
    def want_all(self) -> None: ...  # noqa: D102
    def want_untrusted(self, n: int, payload: Any) -> None: ...  # noqa: D102
    def look_untrusted(self, payload: Any) -> None: ...  # noqa: D102
    def basis_untrusted(self, payload: Any) -> None: ...  # noqa: D102
    def again_untrusted(self, payload: Any) -> None: ...  # noqa: D102
    def ack_untrusted(self, payload: Any) -> None: ...  # noqa: D102
    def grant(self, list_window: int, data_window: int) -> None: ...  # noqa: D102


class ReceiverEngine(Engine, Protocol):
    """The crate's Receiver."""

    @property
    def state(self) -> str: ...  # noqa: D102
    def list_untrusted(self, n: int, payload: Any) -> None: ...  # noqa: D102
    def look(self, payload: Any) -> None: ...  # noqa: D102
    def list_end_untrusted(self, chunks: int, entries: int, hash: bytes) -> None: ...  # noqa: A002, D102
    def data_untrusted(self, payload: Any) -> None: ...  # noqa: D102
    def hold(self) -> None: ...  # noqa: D102


class Endpoint(ABC):
    """One side of a session.  ``take_*`` give what is to be sent now, already passed by the machine.

    With a ``meter``, whose session's OPEN then says ``profile``, there is a profile of this end.
    """

    def __init__(self, session: Session, engine: Engine, meter: Meter | None = None) -> None:
        self.session = session
        self.meter = meter
        self.peer_stats: dict[str, int] = {}
        """The other side's counters, once DONE or CLOSED brought them."""
        self.peer_profile: Profile | None = None
        """Likewise, where its time went, if this side asked."""
        self._engine = engine

    @abstractmethod
    def take_control(self) -> Outgoing | None:
        """The next control message; None while there is none.  Raises SyncError when the engine failed."""

    def take_data(self) -> Outgoing | None:
        """The next DATA, for any connection of the session; None while there is none."""
        return None

    def receive_untrusted(self, message: Message, payload: Payload | None, *, joined: bool = False) -> None:
        """A message from the peer.  Raises RemoteProtocolError, or SyncError when the engine failed."""
        self.session.receive_untrusted(message, b"" if payload is None else payload, joined=joined)
        if self.session.state is State.CANCELLING:
            return
        with self._engine_errors():
            self._receive_untrusted(message, allocate(0) if payload is None else payload)

    @abstractmethod
    def _receive_untrusted(self, message: Any, payload: Payload) -> None:
        """Hand what the machine has passed to the engine."""

    def _sending(self, message: Message, payload: Payload | None = None) -> Outgoing:
        self.session.send(message, b"" if payload is None else payload)
        return message, payload

    def check(self) -> None:
        """Raise what the engine ended with, if it did: SyncError, or RemoteProtocolError for what the peer did."""
        failure = self._engine.failure()
        if failure is not None:
            code, path, number, doing = failure
            reason = f": {os.strerror(number)}" if number else ""
            where = f" {shown(path)}" if path else ""
            if code == "protocol":
                self.session.state = State.FAILED
                raise RemoteProtocolError(f"{doing}{where}{reason}")
            raise SyncError.from_wire(code, f"{doing}{where}{reason}")

    def counters(self) -> dict[str, int]:
        """The engine's counters."""
        return self._engine.counters()

    def profile(self) -> Profile | None:
        """Where the time went so far, when that is measured."""
        return None if self.meter is None else self.meter.profile(self._engine.profile())

    def waits_for_peer(self) -> bool:
        """Whether nothing can be sent, and none of our own work will change that."""
        return False

    def _profile_for_peer(self) -> Profile | None:
        return None if self.session.initiator else self.profile()

    @property
    def finished(self) -> bool:
        """Whether everything that will be applied is applied."""
        return self.session.finished

    def applied(self) -> dict[str, int]:
        """Counters of what is known to be applied; after ``close()`` they are final."""
        return self.counters()

    @property
    def receiver_stats(self) -> dict[str, int]:
        """The receiver's counters, once it is done."""
        return self.counters()

    def progress(self) -> tuple[str, dict[str, int]]:
        """(phase, counters) for a person, in the receiver's words: files and bytes are those applied."""
        counters = self.applied()
        if not counters.get("list_done"):
            return "listing" if not counters.get("wanted_files") else "syncing", counters
        return "syncing" if counters.get("files", 0) < counters.get("wanted_files", 0) else "finishing", counters

    def close(self) -> None:
        """End the engine.  It blocks: not for the event loop.

        The engine is let go of: what outlives the session, such as a traceback, keeps no directory open by it.
        """
        engine = self._engine
        engine.close()
        self._engine = _Ended(engine)

    @contextlib.contextmanager
    def _engine_errors(self) -> Iterator[None]:
        try:
            yield
        except _core.PeerViolation as e:
            self.session.state = State.FAILED
            raise RemoteProtocolError(str(e)) from None
        except _core.EngineClosed as e:
            self.check()
            raise LocalProtocolError(f"the engine was closed: {e}") from None


class _Ended:
    """What is left of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._counters = engine.counters()
        self._profile = engine.profile()
        self._failure = engine.failure()

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def profile(self) -> Rows:
        return self._profile

    def failure(self) -> tuple[str, bytes, int, str] | None:
        return self._failure

    def close(self) -> None:
        pass

    def next_control(self) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        raise _core.EngineClosed(f"{name} after the end")


class SenderEndpoint(Endpoint):
    """The side that holds the source.

    With ``guarded`` nothing of the list leaves before it is known that the source has an entry: a receiver with
    ``--delete`` would take an empty list for an order to empty its root.
    """

    def __init__(
        self,
        session: SenderSession,
        engine: SenderEngine,
        *,
        guarded: bool = False,
        observe: Observer | None = None,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(session, engine, meter)
        self._guarded = guarded
        self._observe = observe
        self._held: deque[tuple[str, int, Any]] = deque()

    @property
    def _sender(self) -> SenderEngine:
        return cast("SenderEngine", self._engine)

    def take_control(self) -> Outgoing | None:
        """LIST chunks, LIST-END, at last CLOSED."""
        state = self.session.state
        if state is State.DONE:
            return self._sending(peer.Closed(self.counters(), self._profile_for_peer()))
        if state not in (State.OPENING, State.LISTING):
            return None
        with self._engine_errors():
            event = self._guarded_list() if self._guarded or self._held else self._sender.next_control()
        if event is None:
            return None
        tag, n, payload = event
        if tag == "list":
            return self._sending(peer.List(n), payload)
        return self._sending(peer.ListEnd(*self._sender.list_total()))

    def take_data(self) -> Outgoing | None:
        """Wanted file data, as far as the receiver's window goes."""
        if self.session.state not in _SENDING:
            return None
        with self._engine_errors():
            event = self._sender.next_data()
        return None if event is None else self._sending(peer.Data(), event[2])

    def applied(self) -> dict[str, int]:
        """As far as the receiver acknowledged it."""
        counters = self.counters()
        return {**counters, "files": counters.get("acked_files", 0), "bytes": counters.get("acked_bytes", 0)}

    @property
    def receiver_stats(self) -> dict[str, int]:
        """As DONE brought them."""
        return self.peer_stats

    def waits_for_peer(self) -> bool:
        """For a window, or for a wish: all that is wanted is out."""
        counters = self.counters()
        return self.session.window_used_up or bool(counters.get("list_done") and not counters.get("busy"))

    def begin(self, *, want_all: bool, list_window: int = 0, data_window: int = 0) -> None:
        """The session is open: both sides' first grants are known, and whether WANTs will come."""
        with self._engine_errors():
            self._sender.grant(list_window, data_window)
            if want_all:
                self._sender.want_all()

    def _guarded_list(self) -> tuple[str, int, Any] | None:
        while self._guarded and (event := self._sender.next_control()) is not None:
            self._held.append(event)
            if event[0] == "list-end" or self._sender.counters()["listed"] > 1:
                self._guarded = False
                self._refuse_empty()
        return None if self._guarded or not self._held else self._held.popleft()

    def _refuse_empty(self) -> None:
        if self._held[-1][0] != "list-end" or self._sender.list_total()[1] > 1:
            return
        first, _, payload = self._held[0]
        if first == "list":
            with memoryview(payload) as view:
                if view[_FLAGS_AT] & _SINGLE:
                    return
        raise source_empty()

    def _receive_untrusted(self, message: Any, payload: Payload) -> None:
        match message:
            case peer.Want():
                self._sender.want_untrusted(message.n, payload)
            case peer.Look():
                self._sender.look_untrusted(payload)
            case peer.Basis():
                self._sender.basis_untrusted(payload)
            case peer.Again():
                self._sender.again_untrusted(payload)
            case peer.Ack():
                self._sender.ack_untrusted(payload)
            case peer.Opened():
                self.begin(
                    want_all=self.session.want_all, list_window=message.list_window, data_window=message.data_window
                )
            case peer.Problems() if self._observe is not None:
                self._observe("problems", payload)
            case peer.Items() if self._observe is not None:
                self._observe("items", payload)
            case peer.Done():
                self.peer_stats, self.peer_profile = message
            case _:
                pass  # what only the machine is interested in


class ReceiverEndpoint(Endpoint):
    """The side that holds the destination.

    Items and problems go to ``observe``, or to the peer without one; ``final`` makes DONE's counters of the engine's.
    """

    def __init__(
        self,
        session: ReceiverSession,
        engine: ReceiverEngine,
        *,
        observe: Observer | None = None,
        final: Callable[[dict[str, int]], dict[str, int]] = dict,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(session, engine, meter)
        self._final = final
        self._observe = observe

    @property
    def _receiver(self) -> ReceiverEngine:
        return cast("ReceiverEngine", self._engine)

    def hold(self) -> None:
        """Count deletions, and make none; before the list is received."""
        self._receiver.hold()

    def look(self, looks: Any) -> None:
        """Ask the sender to list these too, if there are any."""
        if len(looks):
            self._receiver.look(looks)

    def take_control(self) -> Outgoing | None:
        """WANT, LOOK, BASIS, AGAIN, ACK, PROBLEMS, ITEMS, at last DONE."""
        if self.session.state not in (State.LISTING, State.FLOWING):
            return None
        while True:
            with self._engine_errors():
                event = self._receiver.next_control()
            if event is None:
                return None
            tag, n, payload = event
            if tag in ("items", "problems") and self._observe is not None:
                self._observe(tag, payload)
                continue
            if tag == "want":
                return self._sending(peer.Want(n), payload)
            if tag == "done":
                return self._sending(peer.Done(self._final(self.counters()), self._profile_for_peer()))
            return self._sending(_PLAIN[tag], payload)

    def _receive_untrusted(self, message: Any, payload: Payload) -> None:
        match message:
            case peer.List():
                self._receiver.list_untrusted(message.n, payload)
            case peer.Data():
                self._receiver.data_untrusted(payload)
            case peer.ListEnd():
                self._receiver.list_end_untrusted(message.chunks, message.entries, message.hash)
            case peer.Opened() if message.hold:
                self.hold()
            case peer.Closed():
                self.peer_stats, self.peer_profile = message
            case _:
                pass  # what only the machine is interested in


_PLAIN: dict[str, peer.PeerMessage] = {
    "look": peer.Look(), "basis": peer.Basis(), "again": peer.Again(), "ack": peer.Ack(), "problems": peer.Problems(),
    "items": peer.Items(),
}  # fmt: skip
