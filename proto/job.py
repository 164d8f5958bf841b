"""What a person asks for, and what comes of it: locations, options, jobs, and the events of one.

Shared by the CLI that asks, the agent's control room that takes it in, and the sessions that do it.
"""

from __future__ import annotations

from proto import limits
from proto.errors import SyncError
from proto.record import TYPE_CHECKING, NamedTuple
from proto.text import shown as shown

if TYPE_CHECKING:
    from proto.schema import Profile

HOST_MAX = 255
EXCLUDE_MAX = limits.TEXT_MAX

ENVIRONMENT = ("PWD", "SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY", "WAYLAND_DISPLAY", "KRB5CCNAME", "PATH")
"""The part of the person's environment that travels with each request; PWD is the directory they are in."""

PROBLEMS: dict[str, str] = {
    "vanished": "vanished before it could be read",
    "changed": "changed while it was read; sync again",
    "unreadable": "could not be read",
    "unreadable-directory": "directory could not be read; its destination is left as it is",
    "write": "could not be written",
    "verify": "did not verify; the destination keeps its old content",
    "in-the-way": "something that may not be replaced is in its way",
    "not-deleted": "could not be deleted",
    "metadata": "mode, times or owner could not be set",
    "name": "its name is not possible at the destination",
    "special": "special file, skipped",
    "changed-here": "changed at the destination meanwhile; left as it is",
    "held": "deletions are held: the source is another directory than when they were last made; --force makes them",
    "twin": "the destination's file system takes it and {other} for one name, and has that one; rename one of them",
}
"""Problem code -> what happened, for people.  The numbers on the peer's wire are in docs/protocol.md, in this order."""


class Location(NamedTuple):
    """A root: a path on this machine (host None), or on an SSH destination.

    A remote path that is not absolute is relative to the remote home; a ``~`` before it is left to the far side.
    """

    host: str | None
    path: bytes

    def __str__(self) -> str:
        """For people and logs: control bytes escaped."""
        return shown(format_location(self))


COMPRESS = ("auto", "never", "always")
"""When payloads are packed: where the link is slower than the processor, never, whatever the link."""

ON_CONFLICT = ("overwrite", "stop", "keep-both")
"""What becomes of a file that someone else changed at the destination since the last sync: it is replaced, it stays and
is a problem, or it stays beside the source's under another name."""


FSYNC = ("never", "batch", "always")
"""When what was applied is on disk: when the kernel likes, or before it is acknowledged, many files at once or each by
itself."""


class Options(NamedTuple):
    """How a job goes about it."""

    delete: bool = False
    checksum: bool = False
    dry_run: bool = False
    itemize: bool = False
    owner: bool = False
    group: bool = False
    hard_links: bool = True
    force: bool = False
    profile: bool = False
    max_delete: int | None = None
    excludes: tuple[bytes, ...] = ()
    compress: str = "auto"
    """One of COMPRESS."""
    reread: bool = False
    """Nothing that is remembered of either root is trusted."""
    fsync: str = "batch"
    """One of FSYNC."""
    trash: int = 0
    """Seconds that what is deleted and overwritten is kept at the destination; 0: not at all."""


class Job(NamedTuple):
    """One sync of one root to another; at most one of them is remote."""

    source: Location
    destination: Location
    options: Options = Options()
    pair: str | None = None
    scope: bytes | None = None
    """Looks (docs/protocol.md, LOOK): only these paths of the source are synced; None: all of it."""
    on_conflict: str = "overwrite"
    """One of ON_CONFLICT."""
    hold: bool = False
    """What is being written in the source stays for the next job, as far as that is known."""


class Progress(NamedTuple):
    """How far a job is: a phase's name and monotonic counters."""

    phase: str
    counters: dict[str, int]


class Items(NamedTuple):
    """Itemized changes: ``%i %n%L`` lines, each ended by NUL."""

    payload: bytes


class Problems(NamedTuple):
    """Paths that did not make it: (path, code, errno or 0).  Of a ``twin`` both paths, with a NUL between."""

    problems: list[tuple[bytes, str, int]]


class Notice(NamedTuple):
    """Something worth a line to the person, such as a link that was lost and is being made again."""

    text: str


JobEvent = Progress | Items | Problems | Notice


class Outcome(NamedTuple):
    """A finished job.  ``problems`` may be cut short, ``problem_count`` never is."""

    stats: dict[str, int]
    problems: list[tuple[bytes, str, int]]
    problem_count: int
    epochs: int
    wire_sent: int
    wire_received: int
    seconds: float
    profile: dict[str, Profile] | None = None
    """By end, "here" and "there", where the time of the last epoch went, when that was asked for."""


_UNITS_S = {"h": 3600, "d": 86400, "w": 604800}


def parse_age(text: str) -> int:
    """``30d``, ``12h`` or ``2w`` in seconds; ``0`` is none.  Raises SyncError ``usage``."""
    number, unit = text[:-1], text[-1:]
    if text == "0":
        return 0
    if not (number.isascii() and number.isdigit() and len(number) < 6 and unit in _UNITS_S and int(number)):
        raise SyncError("usage", f"not an age: {shown(text.encode())}", "a number and a unit: 12h, 30d, 4w")
    seconds = int(number) * _UNITS_S[unit]
    if seconds > limits.U32:
        raise SyncError("usage", f"{text}: longer than 7000 weeks")
    return seconds


def parse_location(text: bytes) -> Location:
    """``HOST:path``, ``user@host:path``, ``[v6]:path``, ``ssh://user@host:port/path``, or else a local path.

    A colon after a slash is part of a path, so ``./a:b`` is local.  Trailing slashes are dropped.  ``host`` is in the
    form that ssh takes as its destination.  Raises SyncError ``usage``.
    """
    if b"\0" in text:
        raise SyncError("usage", f"a path cannot hold a NUL byte: {shown(text)}")
    if text.startswith(b"ssh://"):
        return _parse_url(text)
    host, path = _split_host(text)
    if host is None:
        if not path:
            raise SyncError("usage", "an empty path names nothing", "use . for the current directory")
        return Location(None, _root(path, text))
    if path.startswith(b":"):
        raise SyncError("usage", f"{shown(text)}: rsync daemon modules are not supported", "use HOST:path, over ssh")
    return Location(_host(host, text), _root(path, text))


def format_location(location: Location) -> bytes:
    """The text that parse_location() turns into ``location`` again."""
    host, path = location
    if host is None:
        remote = path.startswith(b"ssh://") or _split_host(path)[0] is not None
        return b"./" + path if remote else path
    if host.startswith("ssh://"):
        return host.encode() + (path if path.startswith(b"/") else b"/" + path)
    user, at, name = host.rpartition("@")
    return f"{user}{at}[{name}]:".encode() + path if ":" in name else f"{host}:".encode() + path


def _split_host(text: bytes) -> tuple[bytes | None, bytes]:
    """``text`` as (host or None, path); a v6 host keeps its brackets."""
    head = text.split(b"/", 1)[0]
    user, at, rest = head.partition(b"@")
    start = len(user) + 1 if at and rest.startswith(b"[") else 0
    if head[start : start + 1] == b"[":
        end = text.find(b"]:", start)
        if end > start and b"/" not in text[:end]:
            return text[: end + 1], text[end + 2 :]
        return None, text
    host, colon, _ = head.partition(b":")
    return (host, text[len(host) + 1 :]) if colon else (None, text)


def _parse_url(text: bytes) -> Location:
    authority, slash, path = text[len(b"ssh://") :].partition(b"/")
    if not slash or not path:
        raise SyncError("usage", f"{shown(text)}: names no path", "use ssh://HOST/path, or ssh://HOST/~/path")
    user, at, name = authority.rpartition(b"@")
    if name.startswith(b"["):
        end = name.find(b"]")
        name, port = (name[: end + 1], name[end + 1 :]) if end > 0 else (name, b"")
        if port and not port.startswith(b":"):
            raise SyncError("usage", f"{shown(text)}: ':' and a port may follow the address")
        port = port[1:]
    else:
        name, _, port = name.partition(b":")
    host = _host(user + at + name, text)
    if port:
        if not (port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
            raise SyncError("usage", f"{shown(text)}: the port is not a number from 1 to 65535")
        host = f"ssh://{(user + at + name).decode()}:{int(port)}"
    if path.startswith(b"~"):
        return Location(host, _root(path, text))
    return Location(host, _root(b"/" + path, text))


_NOT_IN_HOSTS = frozenset("'\"`$\\;&<>|(){}*?!#,/")


def _host(host: bytes, text: bytes) -> str:
    """The SSH destination, checked: it becomes an argument of ssh and a word in its configuration."""
    try:
        name = host.decode()
    except UnicodeDecodeError:
        raise SyncError("usage", f"{shown(text)}: a host's name is UTF-8") from None
    user, at, address = name.rpartition("@")
    if not address or (at and not user):
        raise SyncError("usage", f"{shown(text)}: the host is missing", "use HOST:path, or ./path for a local one")
    if len(name) > HOST_MAX:
        raise SyncError("usage", f"{shown(text)}: the host is longer than {HOST_MAX} characters")
    if address.startswith("["):
        address = address[1:-1]
        if not address or not all(c in "0123456789abcdefABCDEF:." for c in address.partition("%")[0]):
            raise SyncError("usage", f"{shown(text)}: between [ and ] belongs an IPv6 address")
        if ":" not in address:
            raise SyncError("usage", f"{shown(text)}: between [ and ] belongs an IPv6 address")
    for part in (user, address):
        bad = part.startswith("-") or any(
            not c.isprintable() or c.isspace() or c in _NOT_IN_HOSTS or c in "[]" for c in part
        )
        if bad:
            raise SyncError("usage", f"{shown(text)}: not a host's name", "a local path with a colon is ./a:b")
    return user + at + address


def _root(path: bytes, text: bytes) -> bytes:
    stripped = path.rstrip(b"/") or path[:1]
    if stripped.startswith(b"//"):
        stripped = b"/" + stripped.lstrip(b"/")
    if not stripped:
        raise SyncError("usage", f"{shown(text)}: names no path", "HOST:~ is the home itself")
    if len(stripped) > limits.ROOT_MAX:
        raise SyncError("usage", f"a path of {len(stripped)} bytes is too long, the limit is {limits.ROOT_MAX}")
    return stripped
