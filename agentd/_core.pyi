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
    ``tree`` is the root's, with the same filters.  A new one is filled by a list of everything.  The signatures of
    files that change are remembered there, so that a receiver that holds one as it was sent need not sign it.  With
    ``hashes`` what it remembers is not read again; with ``hard_links`` it knows the other names of what ``looks`` name
    one of, and these are listed, too.  ``since``: the tick of ``tree`` at the state that the receiver has; entries
    that were moved after it say where they were.
    ``confine``: each of its threads restricts itself, by Landlock, to reading below ``root`` (below the directory of a
    root that is one file) before it opens a path that the receiver named, where ``landlock_abi()`` is not 0.
    ``ahead``: where the first chunk of ``looks`` names a few small files and nothing else, their content goes out with
    it, at most 64 KiB; ``data_window`` has to have room for that.
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
        tree: Tree | None = None,
        looks: Buffer | bytes | None = None,
        since: int | None = None,
        confine: bool = True,
        ahead: bool = False,
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
    ``tree`` (of this root and these filters) is told what entries are to become, dry runs and single files excepted,
    and remembers the hashes that ``hashes`` asks for.
    ``max_delete`` is what may be deleted without ``force``.  ``delete_few``: more deletions than these, and than half
    of what is there, need it too; what is renamed here does not count.
    ``trash`` names a batch (see ``trash_list``): what is deleted or overwritten is kept in it, by one rename or link.
    ``since``: the tree's tick at the baseline.  What the tree says was changed here later, and is to change again, is a
    conflict: with ``on_conflict`` "overwrite" it is replaced, and counted; with "stop" it is left, as the problem
    "changed-here"; with "keep-both" a file or symlink that makes room gets the name
    ``NAME.conflict-YYYYMMDD-HHMMSS`` (UTC; a count behind it where that is taken), and is counted.  Of what was to be
    deleted, and of directories that were to make room, the latter two leave what was changed.  The same goes for a file
    that is not what it was when it was compared, at the moment in which it is to be replaced.
    ``fsync``: with "batch" and "always", what "ack" counts, and what "done" stands for, is on disk; "always" syncs each
    file by itself (core/src/receiver/batch.rs).  Nothing is synced on a file system without a disk, and when nothing
    was changed.
    ``confine``: the same as with Sender, to reading and writing below ``root``, once the first list chunk is here.
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
        tree: Tree | None = None,
        since: int | None = None,
        partial: bool = False,
        skip_first: bool = False,
        on_conflict: str = "overwrite",
        confine: bool = True,
        fsync: str = "never",
        delete_few: int | None = None,
        trash: bytes | None = None,
    ) -> None: ...

    state: str
    """What to tell the sender of the root as it was before: "missing" or "empty" (everything is wanted, and no WANT is
    sent), "directory" or "file".  A dry run and a single file with a partial say "directory"."""

    def hold(self) -> None:
        """Delete nothing: what would go is counted (held), and a problem of the root.  Before the first LIST."""

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
        deleted, moved (names that were renamed or copied here, not sent; the old ones are among the deleted), problems,
        skipped, held (deletions that were not made), kept_dirs (that stay for what a filter protects in them),
        conflicts (entries that someone else changed, replaced or kept), data_bytes, list_done."""

    def profile(self) -> dict[str, tuple[int, int, int]]:
        """Where the time went, with ``profile=True``: by stage, ns that the engine's threads spent in it, and its first
        and last moment in ns since the engine was made.  On one thread stages do not overlap.  See core/src/profile.rs.
        """

    def failure(self) -> Failure | None:
        """Why the engine ended by itself."""

    def close(self) -> None:
        """Stop and join its threads, remove temporary files, keep partials of at least ``partial_min`` bytes and
        put back what was moved aside; idempotent.  Call it off the event loop."""

class TreePaused(OSError):  # noqa: N818
    """A tree's root is gone (errno ENOENT), or was replaced by an empty directory, as an unmounted file system leaves
    one (errno 0): to go on would be to delete.  The text is the reason.

    A later ``refresh`` looks again: it goes on when the root is back, and begins anew when another, non-empty one is
    there.  That the empty one is meant is said by a new Tree with ``index=None``.
    """

@final
class Tree:
    """What is known about one root, under one filter set, without looking again: an index, a watch, and baselines.

    It advises which paths to look at and proves nothing: what is listed or replaced is looked at first.  One tree
    serves every session of its root and filters.  What the filters exclude is neither indexed nor watched.

    ``root`` is an absolute path of a directory; it need not be there yet.  ``index`` is the path of a saved index; one
    that does not fit (another root by file system, inode and birth time; other filters; another layout; damage) is not
    used, and ``notice()`` says why.  ``threads`` bounds the walkers of a full rescan.  ``watches_max`` bounds watches,
    of which each directory takes one (walkers that ask at once may take one more each); directories beyond it, or
    beyond the kernel's own limit, are read by every refresh, as are those of file systems that another machine can
    write.  To ``wake_fd`` (negative: none) 8 bytes are written when something becomes dirty for the first time
    since the last refresh.  While nothing happens no thread wakes up.

    Files with several names are looked at by every refresh.  That a file was given another name outside the root raises
    no event: a refresh (without ``hold``) also looks at ``sweep`` other files, about a microsecond each, and the next
    one at those behind them.
    """

    def __init__(
        self,
        root: bytes,
        *,
        filters: list[bytes],
        index: bytes | None,
        threads: int,
        watches_max: int,
        wake_fd: int,
    ) -> None: ...
    def is_new(self) -> bool:
        """Nothing is known yet: a sender's walk of everything, or the next refresh, fills it."""

    def refresh(self, *, hold: bool = False, sweep: int = 2048) -> bool:
        """Make the index true as of the call, by looking at what events named and at what none can name (files with
        several names, directories without a watch).  Blocks: call it off the event loop.

        A new tree, one from a saved index, and one that lost events is walked whole, once; nothing is hashed.
        With ``hold`` files that are being written are left as they were known, and dirty: those modified and not closed
        that were not quiet for 2 s (nor written for 10), and those emptied within 300 ms.
        False: directories are moved about faster than they can be read.  Raises TreePaused, OSError when the root
        cannot be looked at, EngineClosed after ``close``.
        """

    def at_rest(self) -> bool:
        """Whether all that events named since the last refresh is a few files that were known and are closed again, or
        names that came and went: nothing that an editor's way of saving would follow with more.  Waits for nobody;
        false while it cannot be told."""

    def tick(self) -> int:
        """The index's clock; it grows with each change found or expected."""

    def changes(self, since: int, limit: int) -> Buffer | None:
        """Looks (docs/protocol.md, LOOK) at all that changed after the tick ``since``; None: over ``limit`` bytes."""

    def commit(self, key: bytes, id: bytes, tick: int) -> None:  # noqa: A002
        """A session is finished: what the index said at ``tick`` is agreed.  ``key`` (16 bytes) says with whom and on
        what terms, ``id`` (16 bytes) is the session's.  The last two ids of a key are kept."""

    def baselines(self, key: bytes) -> list[tuple[bytes, int]]:
        """(id, tick) of what is agreed under ``key``, newest first."""

    def recall(self, key: bytes) -> tuple[bool, int, list[tuple[bytes, int]]] | None:
        """``is_new()``, ``tick()`` and ``baselines(key)`` of one moment.  Never blocks: None, if it would have to."""

    def save(self, path: bytes) -> None:
        """Write index and baselines to ``path`` in one step, for its owner alone; nothing, if the root was never seen.
        Raises OSError."""

    def notice(self) -> str:
        """The last thing a person should know, with the next step; "" for nothing."""

    def held(self) -> float | None:
        """Seconds until the first file that a refresh held is due; None: none is held."""

    def overflows(self) -> int:
        """How often the kernel's queue of events ran over.  Waits for no refresh."""

    def counters(self) -> dict[str, int]:
        """Now: entries, dirs, bytes (of memory), remembered (bytes of signatures of files that were sent), watches,
        unwatched (directories read by every refresh).  Monotonic: overflows (of the kernel's queue), rescans,
        refreshes, looked (names and directories)."""

    def close(self) -> None:
        """End the watch, and a refresh that is at work; idempotent.  Call it off the event loop.

        Its memory and handles go with it, or with the last engine that uses it; calls raise EngineClosed then,
        and engines made with it do without.
        """

def release_memory() -> None:
    """Give pooled payload memory, and what the allocator keeps in reserve, back to the system.  A millisecond or so;
    what is allocated next is taken from the system again."""

def unpack_problems_untrusted(payload: Buffer | bytes) -> list[tuple[bytes, str, int]]:
    """PROBLEMS as (path, code, errno) triples; a Buffer is left empty.

    Codes: "vanished", "changed", "unreadable", "unreadable-directory", "write", "verify", "in-the-way",
    "not-deleted", "metadata", "name", "special", "changed-here", "held", "twin"; the path of the last
    is two, with a NUL between.
    """

def landlock_abi() -> int:
    """The ABI of the kernel's Landlock, 2 or later; 0 where there is none, or where a thread that restricted itself was
    refused nothing.  Tried once in a process, by a thread that ends with the first call."""

def sweep(root: bytes, temp_tag: str, partial_min: int) -> int:
    """Clear up below ``root`` (or beside it, when it is a file) after this agent's killed sessions.

    Temporary files go, partials of at least ``partial_min`` bytes stay, what was moved aside is put back where its
    place is free.  How many names were dealt with.  Raises OSError when the root cannot be opened, and where its file
    system fails or may not be written: it is not done then.
    """

def root_identity(path: bytes) -> bytes:
    """What the directory at ``path`` is known by as long as it is the same one, 28 bytes, little-endian: the file
    system's id (8; its device where it has none), inode (8), time of birth (seconds 8, ns 4; 0 where that is not kept).
    Raises OSError."""

def trash_list(root: bytes, limit: int) -> list[tuple[bytes, bytes, int, bool]]:
    """What is in the trash of ``root``, newest batch first, at most ``limit``: (batch, path below the root, bytes,
    whether it is a directory, which has nothing in it then).  A batch is one session's, ``YYYYMMDD-HHMMSS-XXXXXXXX``.
    Raises OSError."""

def trash_restore(root: bytes, path: bytes, batch: bytes) -> tuple[int, list[bytes]]:
    """Move ``path`` back to where it was, with all below it; from ``batch``, or without one from the newest with it.

    How much was moved (what goes whole counts once; 0: there is no such path), and what was not since its place is
    taken.  Raises OSError, and ValueError for what is no path."""

def trash_empty(root: bytes, before: bytes, limit: int) -> tuple[int, bool]:
    """Remove batches for good: those whose names are less than ``before``, or all if that is empty; no more than
    ``limit`` entries.  How many were removed, and whether that was all.  Raises OSError."""

def excluded(filters: list[bytes], path: bytes, directory: bool) -> bool:
    """Whether ``filters`` leave out ``path`` (from the root), or a directory that it is in.  Raises ValueError."""

def hash_file(path: bytes) -> bytes:
    """BLAKE3 of a regular file."""

def version() -> str:
    """The crate's version; equal to the package's, or the build is stale."""

def _selftest(what: str, data: Buffer | bytes, extra: dict[str, Any]) -> Any:
    """Narrow seams for tests of the crate's pure parts: see core/src/selftest.rs."""
