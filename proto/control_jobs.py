"""The messages of the control socket that ask for a job, and that tell how it goes."""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

from proto import limits
from proto.control_ends import LOCATION_MAX, NAME_MAX, TARGETS_MAX, check_ids
from proto.errors import RemoteProtocolError
from proto.job import COMPRESS, ENVIRONMENT, EXCLUDE_MAX, FSYNC, PROBLEMS, shown
from proto.record import NamedTuple
from proto.schema import (
    Profile,
    check_bool,
    check_bytes,
    check_choice,
    check_counters,
    check_list,
    check_path,
    check_profile,
    check_text,
    check_uint,
)

EXCLUDES_MAX = limits.FILTERS_MAX

PATHS_TIMEOUT_MS = 10_000
"""An editor that waits for a save waits no longer."""

FATES = ("landed", "held", "failed", "open", "excluded")
"""Of a path: the far end has it as it is here; the far end's was changed by someone else, and stays; a problem names
what of it did not make it; the job ended before it was known; the pair leaves it out."""

# defaults of fields, never mutated
_NO_BYTES: list[bytes] = []
_NO_TEXT: list[str] = []
_NO_ENV: dict[str, str] = {}

_PROBLEM = Struct(">iBI")


class Run(NamedTuple):
    """Sync one root to another.  Locations are in the forms of a command line, local ones absolute or below ``~``."""

    id: int
    source: bytes
    destination: bytes
    env: dict[str, str] = _NO_ENV
    """Of the names in proto.job.ENVIRONMENT."""
    delete: bool = False
    checksum: bool = False
    dry_run: bool = False
    itemize: bool = False
    owner: bool = False
    group: bool = False
    hard_links: bool | None = None
    """None: on."""
    force: bool = False
    profile: bool = False
    max_delete: int | None = None
    excludes: list[bytes] = _NO_BYTES
    timeout_ms: int | None = None
    detach: bool = False
    compress: str | None = None
    """One of proto.job.COMPRESS; without it what the pair says, or else auto."""
    fsync: str | None = None
    """One of proto.job.FSYNC; without it what the pair says, or else batch."""
    trash: int | None = None
    """Seconds that what is deleted and overwritten is kept; 0: not at all; without it what the pair says, or else 0."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_path("source", self.source, LOCATION_MAX)
        check_path("destination", self.destination, LOCATION_MAX)
        _check_job(self)


class Sync(NamedTuple):
    """Sync pairs: a target is a pair's name, or a path in a pair's source; none means PWD's pair.

    Of a path, that path is synced, with everything below it; of a source itself, and with ``whole``, the pair.
    """

    id: int
    targets: list[bytes] = _NO_BYTES
    env: dict[str, str] = _NO_ENV
    delete: bool = False
    checksum: bool = False
    dry_run: bool = False
    itemize: bool = False
    owner: bool = False
    group: bool = False
    hard_links: bool | None = None
    """None: as the pair has it."""
    force: bool = False
    profile: bool = False
    max_delete: int | None = None
    excludes: list[bytes] = _NO_BYTES
    """Besides the pair's own."""
    timeout_ms: int | None = None
    """For each pair; paths share one, which is PATHS_TIMEOUT_MS when none is given."""
    detach: bool = False
    compress: str | None = None
    whole: bool = False
    reread: bool = False
    """Trust nothing that is remembered of either end: with ``checksum``, every file is read again."""
    fsync: str | None = None
    trash: int | None = None
    """Seconds that what is deleted and overwritten is kept; 0: not at all; without it what the pair says, or else 0."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_list("targets", self.targets, TARGETS_MAX)
        for target in self.targets:
            check_path("targets", target, limits.ROOT_MAX)
        check_bool("whole", self.whole)
        check_bool("reread", self.reread)
        _check_job(self)


class Flush(NamedTuple):
    """Bring watched pairs up to date now, without settling or holding; answered as SYNC is.

    When its last answer has come, what had changed before the request is at the far end, or was named.
    """

    id: int
    names: list[str] = _NO_TEXT
    """Watched pairs; none: all of them."""
    env: dict[str, str] = _NO_ENV
    timeout_ms: int | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_list("names", self.names, TARGETS_MAX)
        for name in self.names:
            check_text("names", name, NAME_MAX)
        check_environment(self.env)
        if self.timeout_ms is not None:
            check_uint("timeout_ms", self.timeout_ms, limits.U32, 1)


class Cancel(NamedTuple):
    """Stop a job; what it applied is kept.  The job's own request then ends with ERROR ``cancelled``."""

    id: int
    job: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_uint("job", self.job)


class Accepted(NamedTuple):
    """A job was made; ``remaining`` more will follow for this request."""

    id: int
    job: int
    source: bytes
    destination: bytes
    pair: str | None = None
    remaining: int = 0

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)
        check_path("source", self.source, LOCATION_MAX)
        check_path("destination", self.destination, LOCATION_MAX)
        if self.pair is not None:
            check_text("pair", self.pair, NAME_MAX)
        check_uint("remaining", self.remaining, TARGETS_MAX)


class Progress(NamedTuple):
    """How far a job is.  Only the newest is kept for a reader that lags."""

    id: int
    job: int
    phase: str
    counters: dict[str, int]

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)
        check_text("phase", self.phase, 32)
        check_counters("counters", self.counters)


class Items(NamedTuple):
    """Itemized changes (payload: ``%i %n%L`` lines, each ended by NUL)."""

    id: int
    job: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)


class Problems(NamedTuple):
    """Paths that did not make it (payload: packed problems)."""

    id: int
    job: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)


class Paths(NamedTuple):
    """What became of a job's paths, as its request named them; one for each fate, before the job's last answer."""

    id: int
    job: int
    fate: str
    """One of FATES."""
    paths: list[bytes]

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)
        check_choice("fate", self.fate, FATES)
        check_list("paths", self.paths, TARGETS_MAX)
        for path in self.paths:
            check_path("paths", path, limits.ROOT_MAX)


class Notice(NamedTuple):
    """A line for the person."""

    id: int
    job: int
    text: str

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)
        check_text("text", self.text)


class Result(NamedTuple):
    """A job is done; with problems when ``problem_count`` is not 0.  The wire counts are of its peer connections."""

    id: int
    job: int
    stats: dict[str, int]
    problem_count: int
    epochs: int
    wire_sent: int
    wire_received: int
    duration_us: int
    remaining: int = 0
    profile: dict[str, Profile] | None = None
    """By end, "here" and "there", where the time went, when that was asked for."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_ids(self.id, self.job)
        check_counters("stats", self.stats)
        for name in ("problem_count", "epochs", "wire_sent", "wire_received", "duration_us"):
            check_uint(name, getattr(self, name))
        check_uint("remaining", self.remaining, TARGETS_MAX)
        if self.profile is not None:
            if type(self.profile) is not dict or not self.profile.keys() <= {"here", "there"}:
                raise RemoteProtocolError("profile: not a map of here and there")
            for end, profile in self.profile.items():
                check_profile(f"profile.{end}", profile)


def pack_problems(problems: list[tuple[bytes, str, int]]) -> bytes:
    """PROBLEMS' payload: { i32 errno, u8 code_len, u32 path_len, code, path }, big-endian."""
    parts: list[bytes] = []
    for path, code, errno in problems:
        name = code.encode()
        parts += (_PROBLEM.pack(errno, len(name), len(path)), name, path)
    return b"".join(parts)


def unpack_problems_untrusted(payload: bytes | bytearray | memoryview) -> list[tuple[bytes, str, int]]:
    """PROBLEMS' payload as (path, code, errno) triples.  Raises RemoteProtocolError only."""
    data = bytes(payload)
    at = 0
    problems: list[tuple[bytes, str, int]] = []
    try:
        while at < len(data):
            errno, code_len, path_len = _PROBLEM.unpack_from(data, at)
            start = at + _PROBLEM.size
            at = start + code_len + path_len
            if at > len(data):
                raise RemoteProtocolError("problems: a record passes the end")
            problems.append((data[start + code_len : at], data[start : start + code_len].decode("ascii"), errno))
    except (struct_error, UnicodeDecodeError):
        raise RemoteProtocolError("problems: malformed record") from None
    return problems


def known_problem(path: bytes, code: str) -> tuple[bytes, str]:
    """A problem's own path, and what its code means, for people; a code of a newer agent speaks for itself."""
    path, _, other = path.partition(b"\0")
    return path, PROBLEMS.get(code, code).replace("{other}", shown(other))


def check_environment(env: object) -> None:
    """What of the asking side's environment travels with a request."""
    if type(env) is not dict or len(env) > len(ENVIRONMENT):
        raise RemoteProtocolError("env: not a map of a few variables")
    for name, value in env.items():
        if name not in ENVIRONMENT:
            raise RemoteProtocolError(f"env: only {', '.join(ENVIRONMENT)} travel")
        check_text(name, value, 8 * limits.TEXT_MAX)
        if "\0" in value:
            raise RemoteProtocolError(f"{name}: a variable cannot hold a NUL")


def _check_job(message: Run | Sync) -> None:
    """What RUN and SYNC share."""
    check_uint("id", message.id, limits.U32)
    check_environment(message.env)
    for name in ("delete", "checksum", "dry_run", "itemize", "owner", "group", "force", "profile", "detach"):
        check_bool(name, getattr(message, name))
    if message.hard_links is not None:
        check_bool("hard_links", message.hard_links)
    if message.max_delete is not None:
        check_uint("max_delete", message.max_delete)
    if message.timeout_ms is not None:
        check_uint("timeout_ms", message.timeout_ms, limits.U32, 1)
    if message.trash is not None:
        check_uint("trash", message.trash, limits.U32)
    if message.compress is not None:
        check_choice("compress", message.compress, COMPRESS)
    if message.fsync is not None:
        check_choice("fsync", message.fsync, FSYNC)
    check_list("excludes", message.excludes, EXCLUDES_MAX)
    for pattern in message.excludes:
        check_bytes("excludes", pattern, EXCLUDE_MAX, 1)
        if b"\0" in pattern:
            raise RemoteProtocolError("excludes: a pattern cannot hold a NUL byte")
