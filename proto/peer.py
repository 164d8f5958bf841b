"""The messages between two agents.

A greeted connection is a spare until OPEN makes it a session's own (or JOIN a further data connection of one); when
the session has ended on it in order, it is a spare again.  Sender and receiver are roles of a session, initiator and
responder of its connection: push has the initiator send, pull has it receive.  ``docs/protocol.md`` holds the layout
of every payload; the crate makes and checks them.
"""

from __future__ import annotations

from proto import limits
from proto.errors import RemoteProtocolError
from proto.job import COMPRESS, FSYNC, ON_CONFLICT
from proto.record import NamedTuple
from proto.schema import (
    Message,
    Profile,
    Registry,
    check_bool,
    check_bytes,
    check_choice,
    check_counters,
    check_list,
    check_path,
    check_profile,
    check_text,
    check_uint,
    registry,
)

SIDES = ("sender", "receiver")
ROOT_STATES = ("missing", "empty", "directory", "file")


class Ping(NamedTuple):
    """Keepalive and round-trip probe, on a spare; answered at once."""

    n: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("n", self.n)


class Pong(NamedTuple):
    """The answer to PING n."""

    n: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("n", self.n)


class Open(NamedTuple):
    """Begin a session, or take one up again under a higher epoch.

    ``side`` is what the *responder* is to be.  ``ancestry`` is the initiator's root and its ancestors as
    (device, inode) pairs, (0, 0) for a root that does not exist; by it a responder on the same machine finds roots that
    contain each other.
    """

    session: bytes
    epoch: int
    side: str
    root: bytes
    list_window: int
    """Bytes of unresolved file list that the receiver grants at first (an initiating receiver's; else 0)."""
    data_window: int
    delete: bool = False
    checksum: bool = False
    dry_run: bool = False
    itemize: bool = False
    owner: bool = False
    group: bool = False
    hard_links: bool = True
    force: bool = False
    profile: bool = False
    """The responder's last message, DONE or CLOSED, is to tell where its time went."""
    max_delete: int | None = None
    state: str | None = None
    """The root of an initiating receiver before the session: one that is missing or empty wants everything, and its
    sender calls ``want_all`` without further word, as it does when OPENED says so."""
    filters: list[bytes] = []  # noqa: RUF012 - a NamedTuple's default, never mutated
    ancestry: list[list[int]] = []  # noqa: RUF012
    compress: str = "auto"
    """What the user asked for.  How hard a sender works at it is its own affair."""
    rtt_us: int | None = None
    """The link's round trip where the initiator has measured it: a hint to a sender that has not."""
    baselines: list[bytes] = []  # noqa: RUF012
    """Agreed states that the initiator knows what changed since, newest first; a sender names one, and lists at once
    what changed, a receiver leaves its sender the choice."""
    scoped: bool = False
    """The list is about some paths only, whatever was agreed before; none is agreed afterwards."""
    on_conflict: str = "overwrite"
    origin: bytes = bytes(16)
    """A digest of the initiator's root: the responder tells by it whose baselines are whose."""
    reread: bool = False
    """Nothing that is remembered of either root is trusted."""
    brief: bool = False
    """Somebody waits for a save: of what no event tells, a receiver looks at little before the session, and at the rest
    behind it."""
    fsync: str = "batch"
    """When the receiver has to have on disk what it applied: one of FSYNC."""
    hold: bool = False
    """The initiator's source is another directory than when its deletions were last carried out: the receiver tells
    how many there would be, and deletes nothing."""
    trash: int = 0
    """Seconds that the receiver keeps what it deletes and overwrites in ``.syncctl-trash`` of its root; 0: none."""
    inside: list[bytes] = []  # noqa: RUF012
    """Of an initiator on the responder's machine: its file system's device number and its root's path within that, as
    the mount table has them.  Ancestors do not tell of bind mounts."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_bytes("session", self.session, 16, 16)
        check_uint("epoch", self.epoch, limits.U32)
        check_choice("side", self.side, SIDES)
        check_path("root", self.root, limits.PATH_MAX_BYTES)
        check_uint("list_window", self.list_window)
        check_uint("data_window", self.data_window)
        flags = ("delete", "checksum", "dry_run", "itemize", "owner", "group", "hard_links", "force", "profile")
        for name in flags:
            check_bool(name, getattr(self, name))
        if self.max_delete is not None:
            check_uint("max_delete", self.max_delete)
        if self.state is not None:
            check_choice("state", self.state, ROOT_STATES)
        check_choice("compress", self.compress, COMPRESS)
        check_choice("on_conflict", self.on_conflict, ON_CONFLICT)
        check_choice("fsync", self.fsync, FSYNC)
        check_bool("scoped", self.scoped)
        check_bool("reread", self.reread)
        check_bool("brief", self.brief)
        check_bool("hold", self.hold)
        check_uint("trash", self.trash, limits.U32)
        check_list("inside", self.inside, 2)
        for part in self.inside:
            check_bytes("inside", part, 2 * limits.PATH_MAX_BYTES)
        if len(self.inside) == 1:
            raise RemoteProtocolError("inside: not a device and a path")
        check_bytes("origin", self.origin, 16, 16)
        check_list("baselines", self.baselines, limits.BASELINES_MAX)
        for baseline in self.baselines:
            check_bytes("baselines", baseline, 16, 16)
        if self.rtt_us is not None:
            check_uint("rtt_us", self.rtt_us)
        check_list("filters", self.filters, limits.FILTERS_MAX)
        for pattern in self.filters:
            check_path("filters", pattern, limits.TEXT_MAX)
        check_list("ancestry", self.ancestry, limits.DEPTH_MAX)
        for pair in self.ancestry:
            check_list("ancestry", pair, 2)
            if len(pair) != 2:
                raise RemoteProtocolError("ancestry: not pairs of device and inode")
            for number in pair:
                check_uint("ancestry", number)


class Opened(NamedTuple):
    """The responder took the session.  ``state`` is the receiver's root before it (empty from a sender).

    ``baseline`` is the one of OPEN's that the responder holds too: what did not change since is not listed.
    """

    session: bytes
    epoch: int
    list_window: int
    data_window: int
    state: str | None = None
    baseline: bytes | None = None
    hold: bool = False
    """From a sender: as in OPEN."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_bool("hold", self.hold)
        check_bytes("session", self.session, 16, 16)
        check_uint("epoch", self.epoch, limits.U32)
        check_uint("list_window", self.list_window)
        check_uint("data_window", self.data_window)
        if self.state is not None:
            check_choice("state", self.state, ROOT_STATES)
        if self.baseline is not None:
            check_bytes("baseline", self.baseline, 16, 16)


class Join(NamedTuple):
    """Make this spare a further data connection of a session that is open on another one."""

    session: bytes
    epoch: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_bytes("session", self.session, 16, 16)
        check_uint("epoch", self.epoch, limits.U32)


class List(NamedTuple):
    """Sender: file-list chunk ``n`` (payload: packed columns), counted from 0 without gaps."""

    n: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("n", self.n, limits.U32)


class ListEnd(NamedTuple):
    """Sender: the list is complete: so many chunks and entries, BLAKE3 over all chunk payloads in order.

    Every LOOK makes one more of them due, which counts and hashes from the beginning too.
    """

    chunks: int
    entries: int
    hash: bytes

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("chunks", self.chunks, limits.U32)
        check_uint("entries", self.entries)
        check_bytes("hash", self.hash, 32, 32)


class Want(NamedTuple):
    """Receiver: which entries of chunk ``n`` to send (payload: two bitmaps, see docs)."""

    n: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("n", self.n, limits.U32)


class Look(NamedTuple):
    """Receiver: list these paths too, since they changed here (payload: paths)."""

    def validate(self) -> None:
        """Nothing but its payload."""


class Basis(NamedTuple):
    """Receiver: what it holds of one wanted file (payload: a signature, or hashes of a partial's pieces)."""

    def validate(self) -> None:
        """Nothing but its payload."""


class Again(NamedTuple):
    """Receiver: wanted files that came wrong; send them once more, whole (payload: their places in the list)."""

    def validate(self) -> None:
        """Nothing but its payload."""


class Data(NamedTuple):
    """Sender: a batch of file data (payload: records), on any connection of the session."""

    def validate(self) -> None:
        """Nothing but its payload."""


class Ack(NamedTuple):
    """Receiver: what was applied since, credits, and chunks to forget (payload: packed counters)."""

    def validate(self) -> None:
        """Nothing but its payload."""


class Got(NamedTuple):
    """Receiver: so many bytes of this session's connections have arrived since it was opened.

    Said once a second: the link lives, however long a ping waits behind data.  Over a long one about every 128 KiB: its
    sender keeps no more under way than keeps the link busy.
    """

    total: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("total", self.total)


class Problems(NamedTuple):
    """Receiver: paths that did not make it (payload: packed problems)."""

    def validate(self) -> None:
        """Nothing but its payload."""


class Items(NamedTuple):
    """Receiver: itemized changes in rsync's format (payload: lines ended by NUL)."""

    def validate(self) -> None:
        """Nothing but its payload."""


class Done(NamedTuple):
    """Receiver: everything that will be applied is applied, deletions and directory times included."""

    stats: dict[str, int]
    profile: Profile | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_counters("stats", self.stats)
        if self.profile is not None:
            check_profile("profile", self.profile)


class Closed(NamedTuple):
    """Sender: its answer to DONE, with its own counters; the connection is a spare again."""

    stats: dict[str, int]
    profile: Profile | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_counters("stats", self.stats)
        if self.profile is not None:
            check_profile("profile", self.profile)


class Cancel(NamedTuple):
    """Either side, instead of going on: stop, keep what is applied.  Answered by ERROR ``cancelled``."""

    def validate(self) -> None:
        """It has no fields."""


class Error(NamedTuple):
    """Either side: this ends the session (or refuses it).  The connection is closed behind it."""

    code: str
    message: str
    hint: str | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_text("code", self.code, 32)
        check_text("message", self.message)
        if self.hint is not None:
            check_text("hint", self.hint)


PEER_MESSAGES: Registry = registry(
    Ping, Pong, Open, Opened, Join, List, ListEnd, Want, Look, Basis, Again, Data, Ack, Got, Problems, Items, Done,
    Closed, Cancel, Error,
)  # fmt: skip

PeerMessage = Message
