"""The messages of the control socket, between a CLI or an editor and its agent.

The asking side sends its Hello and a request in one write.  Every answer carries its request's ``id``, so several can
be under way on one connection.  A request's last answer is END, or the RESULT, ERROR or (detached) ACCEPTED whose
``remaining`` is 0.  Rows of a list are messages of their own: no answer outgrows a frame.
"""

# annotations are evaluated at once here, not kept as text: typing compiles each text, and twenty classes cost 2 ms more

from struct import Struct
from struct import error as struct_error
from typing import NamedTuple

from proto import limits
from proto.errors import CODES, RemoteProtocolError
from proto.job import ENVIRONMENT, EXCLUDE_MAX, PROBLEMS, ROOT_MAX
from proto.schema import (
    Registry,
    check_bool,
    check_bytes,
    check_counters,
    check_list,
    check_path,
    check_text,
    check_uint,
    registry,
)

LOCATION_MAX = ROOT_MAX + 1024
NAME_MAX = 64
TARGETS_MAX = 1024
EXCLUDES_MAX = limits.FILTERS_MAX

# defaults of fields, never mutated
_NO_BYTES: list[bytes] = []
_NO_TEXT: list[str] = []
_NO_ENV: dict[str, str] = {}


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
    force: bool = False
    max_delete: int | None = None
    excludes: list[bytes] = _NO_BYTES
    timeout_ms: int | None = None
    detach: bool = False

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_path("source", self.source, LOCATION_MAX)
        check_path("destination", self.destination, LOCATION_MAX)
        _check_job(self)


class Sync(NamedTuple):
    """Sync pairs: each target is a pair's name or a path that a pair's source holds; none means PWD's pair."""

    id: int
    targets: list[bytes] = _NO_BYTES
    env: dict[str, str] = _NO_ENV
    delete: bool = False
    checksum: bool = False
    dry_run: bool = False
    itemize: bool = False
    owner: bool = False
    group: bool = False
    force: bool = False
    max_delete: int | None = None
    excludes: list[bytes] = _NO_BYTES
    """Besides the pair's own."""
    timeout_ms: int | None = None
    detach: bool = False

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_list("targets", self.targets, TARGETS_MAX)
        for target in self.targets:
            check_path("targets", target, ROOT_MAX)
        _check_job(self)


class Cancel(NamedTuple):
    """Stop a job; what it applied is kept.  The job's own request then ends with ERROR ``cancelled``."""

    id: int
    job: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_uint("job", self.job)


class Status(NamedTuple):
    """Ask for AGENT-INFO and a row for each link, pair and job."""

    id: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)


class Stop(NamedTuple):
    """End the agent.  END says that it begins to; the end of the connection, that it is done."""

    id: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)


class AddPair(NamedTuple):
    """Add a pair to config.toml.  A pair is text: what TOML can hold."""

    id: int
    name: str
    source: str
    destination: str
    mirror: bool = False
    excludes: list[str] = _NO_TEXT

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("name", self.name, NAME_MAX)
        check_text("source", self.source, LOCATION_MAX)
        check_text("destination", self.destination, LOCATION_MAX)
        check_bool("mirror", self.mirror)
        check_list("excludes", self.excludes, EXCLUDES_MAX)
        for pattern in self.excludes:
            check_text("excludes", pattern, EXCLUDE_MAX)


class RemovePair(NamedTuple):
    """Remove a pair from config.toml; both its trees stay."""

    id: int
    name: str

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("name", self.name, NAME_MAX)


class ListPairs(NamedTuple):
    """Ask for a PAIR-INFO row for each pair."""

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
        _check_ids(self.id, self.job)
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
        _check_ids(self.id, self.job)
        check_text("phase", self.phase, 32)
        check_counters("counters", self.counters)


class Items(NamedTuple):
    """Itemized changes (payload: ``%i %n%L`` lines, each ended by NUL)."""

    id: int
    job: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        _check_ids(self.id, self.job)


class Problems(NamedTuple):
    """Paths that did not make it (payload: packed problems)."""

    id: int
    job: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        _check_ids(self.id, self.job)


class Notice(NamedTuple):
    """A line for the person."""

    id: int
    job: int
    text: str

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        _check_ids(self.id, self.job)
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

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        _check_ids(self.id, self.job)
        check_counters("stats", self.stats)
        for name in ("problem_count", "epochs", "wire_sent", "wire_received", "duration_us"):
            check_uint(name, getattr(self, name))
        check_uint("remaining", self.remaining, TARGETS_MAX)


class Error(NamedTuple):
    """The request, or one job of it, ended by an error.  ``id`` 0: the connection did."""

    id: int
    code: str
    message: str
    hint: str | None = None
    job: int | None = None
    remaining: int = 0

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("code", self.code, 32)
        check_text("message", self.message, 4 * limits.TEXT_MAX)
        if self.hint is not None:
            check_text("hint", self.hint)
        if self.job is not None:
            check_uint("job", self.job)
        check_uint("remaining", self.remaining, TARGETS_MAX)


class AgentInfo(NamedTuple):
    """The agent itself.  ``config_error`` is set while a changed config.toml is refused and the old one holds."""

    id: int
    pid: int
    version: str
    uptime_s: int
    rss_kib: int
    config: str
    sockets: list[str]
    config_error: str | None = None

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
    """A pair, as config.toml has it."""

    id: int
    name: str
    source: str
    destination: str
    mirror: bool
    excludes: list[str]

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        AddPair(*self).validate()


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
        Accepted(self.id, self.job, self.source, self.destination, self.pair).validate()
        check_text("state", self.state, 32)
        check_uint("age_ms", self.age_ms)
        check_text("phase", self.phase, 32)
        check_counters("counters", self.counters)
        check_uint("problem_count", self.problem_count)
        check_bool("detached", self.detached)
        if self.error is not None:
            check_text("error", self.error)


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


class End(NamedTuple):
    """The request was carried out; nothing more comes for it."""

    id: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)


Request = Run | Sync | Cancel | Status | Stop | AddPair | RemovePair | ListPairs | Events
CONTROL_REQUESTS: Registry = registry(Run, Sync, Cancel, Status, Stop, AddPair, RemovePair, ListPairs, Events)
CONTROL_REPLIES: Registry = registry(
    Accepted, Progress, Items, Problems, Notice, Result, Error,
    AgentInfo, LinkInfo, PairInfo, JobInfo, Event, Heartbeat, End,
)  # fmt: skip

_PROBLEM = Struct(">iBI")


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


def known_problem(code: str) -> str:
    """What a problem's code means, for people; a code of a newer agent speaks for itself."""
    return PROBLEMS.get(code, code)


def known_error(code: str) -> bool:
    """Whether this version has the error code."""
    return code in CODES


def _check_ids(request: int, job: int) -> None:
    check_uint("id", request, limits.U32)
    check_uint("job", job)


def _check_job(message: Run | Sync) -> None:
    """What RUN and SYNC share."""
    check_uint("id", message.id, limits.U32)
    if type(message.env) is not dict or len(message.env) > len(ENVIRONMENT):
        raise RemoteProtocolError("env: not a map of a few variables")
    for name, value in message.env.items():
        if name not in ENVIRONMENT:
            raise RemoteProtocolError(f"env: only {', '.join(ENVIRONMENT)} travel")
        check_text(name, value, 8 * limits.TEXT_MAX)
        if "\0" in value:
            raise RemoteProtocolError(f"{name}: a variable cannot hold a NUL")
    for name in ("delete", "checksum", "dry_run", "itemize", "owner", "group", "force", "detach"):
        check_bool(name, getattr(message, name))
    if message.max_delete is not None:
        check_uint("max_delete", message.max_delete)
    if message.timeout_ms is not None:
        check_uint("timeout_ms", message.timeout_ms, limits.U32, 1)
    check_list("excludes", message.excludes, EXCLUDES_MAX)
    for pattern in message.excludes:
        check_bytes("excludes", pattern, EXCLUDE_MAX, 1)
        if b"\0" in pattern:
            raise RemoteProtocolError("excludes: a pattern cannot hold a NUL byte")
