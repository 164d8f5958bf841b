"""The crate: the work per file and per byte.  It decides nothing and speaks to no network.

Every call releases the GIL.  Paths are bytes.  Functions and methods ending in ``_untrusted`` take a peer's bytes and
raise ``PeerViolation`` when these break the protocol; the engine is then closed.  Operating-system trouble with a
*root* raises OSError; trouble with one path in it is a problem, reported as data.

Both engines work on threads of their own and never block the caller.  ``wake_fd`` is the write end of a pipe (or an
eventfd): eight bytes are written to it when there is something new to take; the reader drains it *before* taking.
Payload layouts: docs/protocol.md.
"""

from typing import Any, final

@final
class Buffer:
    """Pooled, writable memory with the buffer protocol; what it holds at first is to be overwritten.

    An engine that is handed one takes its memory (no copy) and leaves it empty; that fails with BufferError while a
    memoryview of it is alive.
    """

    def __init__(self, size: int) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class PeerViolation(Exception):  # noqa: N818 - it says who did it
    """The peer broke the protocol; the text says how, without raw bytes of its own."""

class EngineClosed(Exception):  # noqa: N818
    """The engine was closed, or failed before; ``failure()`` says why."""

Event = tuple[str, int, Buffer | None]
"""(message tag of proto.peer in its wire form, its number ``n`` or 0, payload)."""

Failure = tuple[str, bytes, int, str]
"""(code of proto.errors.CODES, path, errno or 0, what was being done) of the error that ended an engine."""

@final
class Signatures:
    """What is remembered of files that were sent from one root: signatures of what their receivers hold since.

    Kept by whoever knows the root, for one sender after another; at most ``bytes_max`` bytes of it.
    """

    def __init__(self, bytes_max: int = ...) -> None: ...
    def bytes(self) -> int:
        """Bytes taken."""

@final
class Sender:
    """Lists one source tree, and sends what the receiver wants of it.

    ``root`` is an absolute path of a directory or a regular file.  Raises OSError when it cannot be opened.
    ``filters`` are rsync exclude patterns.  ``hashes`` adds a content hash to every regular file's entry
    (``--checksum``); ``owners`` adds numeric owners; ``hard_links`` says which entries are names of one file, and
    sends that once.  ``threads`` bounds walkers and readers, each: one begins,
    another is added while directories wait, or while the link has taken all that was read and more waits to be.
    Windows are in bytes, cumulative grants as ``grant`` gives them.
    ``compress`` is "never", "auto" (where the link turns out slower than packing; a ``far`` one is taken for slow until
    it is measured) or "always"; what a sample shows not to shrink goes as it is.
    ``looks`` (docs/protocol.md, LOOK; a Buffer is left as it is) are the paths to list, in PARTIAL groups: each is
    looked at afresh, with the directories on the way to it; what is excluded is passed over.  When none is left the
    list has no chunk.  None: everything.  A root that is one file is listed in any case.  Raises ValueError.
    ``signatures``: files that change again and again are remembered there, so that a receiver that holds them as they
    were sent need not sign them.
    """

    def __init__(
        self,
        root: bytes,
        *,
        filters: list[bytes],
        hashes: bool,
        owners: bool,
        hard_links: bool,
        threads: int,
        batch_max: int,
        list_window: int,
        data_window: int,
        compress: str,
        far: bool,
        wake_fd: int,
        profile: bool = False,
        looks: Buffer | bytes | None = None,
        signatures: Signatures | None = None,
    ) -> None: ...
    def start(self) -> None:
        """Begin to list.  Once."""

    def look_untrusted(self, payload: Buffer) -> None:
        """The receiver's LOOK: list these paths too, but not again what was listed by name or with what is above it,
        and then one more "list-end".  The root with everything below it is listed again."""

    def next_control(self) -> Event | None:
        """The next "list" event, in order, or ("list-end", 0, None), once and for each LOOK; None: none is there."""

    def next_data(self) -> Event | None:
        """The next ("data", 0, payload); None while there is none or the receiver's data window is used up."""

    def list_total(self) -> tuple[int, int, bytes]:
        """(chunks, entries, hash) of the list up to the "list-end" that came out last."""

    def want_all(self) -> None:
        """The receiver's root is missing or empty: take every regular file of every chunk as wanted, without WANT; of
        the names of one file, the first."""

    def want_untrusted(self, n: int, payload: Buffer) -> None:
        """The receiver's WANT for chunk ``n``."""

    def basis_untrusted(self, payload: Buffer) -> None:
        """The receiver's BASIS for one wanted file, or for a name that is wanted since it cannot be linked."""

    def again_untrusted(self, payload: Buffer) -> None:
        """The receiver's AGAIN: wanted files that came wrong are read afresh and sent once more, without a basis."""

    def ack_untrusted(self, payload: Buffer) -> None:
        """The receiver's ACK: counters, credits, chunks to forget."""

    def grant(self, list_window: int, data_window: int) -> None:
        """Raise the first grants (OPENED brings them when this side initiated)."""

    def counters(self) -> dict[str, int]:
        """Monotonic: listed, entries_bytes, files_sent, literal, matched, data_bytes, acked_files, acked_bytes,
        wanted_files, wanted_bytes, list_done (0 or 1); and busy, how many readers are at work now."""

    def profile(self) -> dict[str, tuple[int, int, int]]:
        """Where the time went, with ``profile=True``: by stage, ns that the engine's threads spent in it, and its first
        and last moment in ns since the engine was made.  On one thread stages do not overlap.  See core/src/profile.rs.
        """

    def failure(self) -> Failure | None:
        """Why the engine ended by itself."""

    def close(self) -> None:
        """Stop and join its threads (at most one block's work); idempotent.  Call it off the event loop."""

@final
class Receiver:
    """Compares a file list with one destination tree, asks for what differs, and applies it.

    ``root`` is an absolute path; its parent must exist.  Nothing is changed before the first list chunk is compared.
    ``temp_tag`` (8 lowercase hex digits) marks this agent's temporary files: ``.NAME.TAG+8 hex.sync~``; foreign
    ones are left alone, its own are swept where they are met unless they hold a partial that fits.
    ``threads`` bounds workers: one begins, another is added while jobs wait.
    ``delta_min`` is the size from which a file with a basis is asked for by signature.
    ``arrow`` is the first character of an itemized transfer: "<" sent, ">" received.
    ``hard_links`` makes what the list says are names of one file names of one file here too, and of no other.
    ``partial``: the list may tell of single names (PARTIAL groups), and be asked for more (``look``); the root is never
    "missing" or "empty", and is made when it is missing.  ``skip_first``: what comes before the first LIST-END is
    checked and not wanted.
    ``since``: the tree's tick at the baseline.  What the tree says was changed here later, and is to change again, is a
    conflict: with ``on_conflict`` "overwrite" it is replaced, and counted; with "stop" it is left, as the problem
    "changed-here"; with "keep-both" a file or symlink that makes room gets the name
    ``NAME.conflict-YYYYMMDD-HHMMSS`` (UTC; a count behind it where that is taken), and is counted.  Of what was to be
    deleted, and of directories that were to make room, the latter two leave what was changed.
    """

    def __init__(
        self,
        root: bytes,
        *,
        filters: list[bytes],
        delete: bool,
        hashes: bool,
        owner: bool,
        group: bool,
        hard_links: bool,
        dry_run: bool,
        itemize: bool,
        force: bool,
        max_delete: int | None,
        arrow: str,
        threads: int,
        delta_min: int,
        partial_min: int,
        list_window: int,
        data_window: int,
        temp_tag: str,
        wake_fd: int,
        profile: bool = False,
        since: int | None = None,
        partial: bool = False,
        skip_first: bool = False,
        on_conflict: str = "overwrite",
    ) -> None: ...

    state: str
    """What to tell the sender of the root as it was before: "missing" or "empty" (everything is wanted, and no WANT is
    sent), "directory" or "file".  A dry run and a single file with a partial say "directory"."""

    def list_untrusted(self, n: int, payload: Buffer) -> None:
        """LIST chunk ``n``."""

    def list_end_untrusted(self, chunks: int, entries: int, hash: bytes) -> None:  # noqa: A002
        """LIST-END: chunk count, entry count and BLAKE3 over the chunks in order, all of them so far."""

    def look(self, payload: Buffer | bytes) -> None:
        """Ask for these paths (docs/protocol.md, LOOK; a Buffer is left as it is): emits ("look", 0, payload) and
        expects one more LIST-END.  With ``partial``, before the first LIST-END is handed in; else ValueError."""

    def data_untrusted(self, payload: Buffer) -> None:
        """A DATA batch, from any connection."""

    def next_control(self) -> Event | None:
        """The next "want", "look", "basis", "again", "ack", "problems" or "items" event; last ("done", 0, None)."""

    def counters(self) -> dict[str, int]:
        """Monotonic: listed, listed_bytes, compared, wanted_files, wanted_bytes, files, bytes (of files applied),
        literal, matched, created, updated, dirs, symlinks, linked (names; of files created or updated, too), meta,
        deleted, problems, skipped, conflicts (entries that someone else changed, replaced or kept), data_bytes,
        list_done."""

    def profile(self) -> dict[str, tuple[int, int, int]]:
        """Where the time went, with ``profile=True``: by stage, ns that the engine's threads spent in it, and its first
        and last moment in ns since the engine was made.  On one thread stages do not overlap.  See core/src/profile.rs.
        """

    def failure(self) -> Failure | None:
        """Why the engine ended by itself."""

    def close(self) -> None:
        """Stop and join its threads, remove temporary files, keep partials of at least ``partial_min`` bytes and
        put back what was moved aside; idempotent.  Call it off the event loop."""

def unpack_problems_untrusted(payload: Buffer | bytes) -> list[tuple[bytes, str, int]]:
    """PROBLEMS as (path, code, errno) triples; a Buffer is left empty.

    Codes: "vanished", "changed", "unreadable", "unreadable-directory", "write", "verify", "in-the-way",
    "not-deleted", "metadata", "name", "special", "changed-here".
    """

def sweep(root: bytes, temp_tag: str, partial_min: int) -> int:
    """Clear up below ``root`` (or beside it, when it is a file) after this agent's killed sessions.

    Temporary files go, partials of at least ``partial_min`` bytes stay, what was moved aside is put back where its
    place is free.  How many names were dealt with.  Raises OSError when the root cannot be opened.
    """

def hash_file(path: bytes) -> bytes:
    """BLAKE3 of a regular file."""

def version() -> str:
    """The crate's version; equal to the package's, or the build is stale."""

def _selftest(what: str, data: Buffer | bytes, extra: dict[str, Any]) -> Any:
    """Narrow seams for tests of the crate's pure parts: see core/src/selftest.rs."""
