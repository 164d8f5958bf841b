"""config.toml: read, checked with file, line and key in every error, and edited without touching what else is in it."""

from __future__ import annotations

import os
import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from proto.errors import SyncError
from proto.job import COMPRESS, EXCLUDE_MAX, Location, parse_location
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRANSPORTS = ("auto", "openssh", "asyncssh", "stdio")
CONFIG_MAX = 1 << 20
"""Bytes; a configuration is written by people."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


class Ssh(NamedTuple):
    """``[ssh]``: what holds for every host."""

    config_file: str | None = None
    transport: str = "auto"
    dead_after_s: float = 15.0


class Host(NamedTuple):
    """``[host.NAME]``: what differs for one; None is the general setting."""

    remote_command: str | None = None
    transport: str | None = None


class Pair(NamedTuple):
    """``[pair.NAME]``: roots as locations (local ones absolute), and as the file has them."""

    name: str
    source: Location
    destination: Location
    mirror: bool
    exclude: tuple[str, ...]
    source_text: str
    destination_text: str
    compress: str = "auto"
    hard_links: bool = True


class Config(NamedTuple):
    """One state of the file; an absent file is the default of everything."""

    path: str
    ssh: Ssh = Ssh()
    hosts: Mapping[str, Host] = {}
    pairs: Mapping[str, Pair] = {}

    def host(self, destination: str) -> Host:
        """The settings of an SSH destination: by its whole text, or else without user and port."""
        name = destination.removeprefix("ssh://")
        bare = name.rpartition("@")[2]
        unported = bare.partition(":")[0] if destination.startswith("ssh://") and not bare.startswith("[") else bare
        for key in (destination, name, bare, unported):
            if key in self.hosts:
                return self.hosts[key]
        return Host()

    def transport(self, destination: str) -> str:
        """One of TRANSPORTS."""
        return self.host(destination).transport or self.ssh.transport


def load(path: str) -> Config:
    """The configuration in ``path``.  Raises SyncError ``config`` naming file, line, key and what is allowed."""
    return parse(path, _read(path))


def parse(path: str, text: str) -> Config:
    """The configuration in ``text``; ``path`` names it in errors.  Raises SyncError ``config``."""
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # ValueError: also a number of thousands of digits
        said = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(e), re.DOTALL)
        line, what = (int(said[2]), said[1]) if said else (text.count("\n") + 1, str(e))
        raise SyncError("config", f"{path}:{line}: {escape_text(what)}", "this is not valid TOML") from None
    return _Reader(path, text).config(raw)


def add_pair(path: str, name: str, source: str, destination: str, *, mirror: bool, exclude: list[str]) -> Config:
    """Append a pair to the file, which is replaced whole.  Raises SyncError ``config`` or ``usage``."""
    text = _read(path)
    before = parse(path, text)
    if not _NAME.fullmatch(name):
        raise SyncError(
            "usage", f"{escape_text(name)}: not a pair's name", "letters, digits, - and _, at most 64 of them"
        )
    if name in before.pairs:
        raise SyncError(
            "usage", f"there is a pair {name} already", f"'syncctl remove {name}' first, or use another name"
        )
    for word in (source, destination, *exclude):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise SyncError("usage", f"{escape_text(word)}: a pair's paths are UTF-8 text") from None
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = [f"[pair.{name}]", f"source = {_quote(source)}", f"destination = {_quote(destination)}"]
    if mirror:
        lines.append("mirror = true")
    if exclude:
        lines.append(f"exclude = [{', '.join(map(_quote, exclude))}]")
    gap = "" if not text else newline if text.endswith("\n") else newline * 2
    changed = text + gap + newline.join([*lines, ""])
    try:
        after = parse(path, changed)
    except SyncError as e:
        said = e.message.partition(f"[pair.{name}] ")[2] or e.message
        raise SyncError("usage", said, "'syncctl add --help' shows the forms") from None
    _replace(path, changed)
    return after


def remove_pair(path: str, name: str) -> Config:
    """Take a pair's table out of the file.  Raises SyncError ``no-such-pair`` or ``config``."""
    text = _read(path)
    before = parse(path, text)
    if name not in before.pairs:
        raise SyncError("no-such-pair", f"there is no pair {escape_text(name)}")
    lines = _split(text)
    cut = _table_span(lines, ("pair", name))
    if cut is not None:
        start, end = cut
        if start and not lines[start - 1].strip():
            start -= 1
        changed = "".join(lines[:start] + lines[end:])
        try:
            after = parse(path, changed)
        except SyncError:
            after = before
        # the reading of lines above is no TOML parser; that exactly the pair is gone is checked, not assumed
        if after == before._replace(pairs={key: pair for key, pair in before.pairs.items() if key != name}):
            _replace(path, changed)
            return after
    raise SyncError("config", f"{path}: pair {name} is not written as a [pair.{name}] table", "remove it there by hand")


class ConfigFile:
    """The file as it is now: read again when its stat changes.

    A change that does not parse leaves the last good state in force; ``error`` then says what is wrong with it.
    ``changed`` is called with each new state.
    """

    def __init__(self, path: str, changed: Callable[[Config], None] = lambda _: None) -> None:
        """Raises SyncError ``config`` when the file is bad already."""
        self.path = path
        self.changed = changed
        self.error: SyncError | None = None
        self._seen = _fingerprint(path)
        self._config = load(path)

    def current(self) -> Config:
        """The configuration in force; costs one stat when nothing changed."""
        seen = _fingerprint(self.path)
        if seen != self._seen:
            try:
                self._take(load(self.path), seen)
            except SyncError as e:
                self._seen, self.error = seen, e
        return self._config

    def add_pair(self, name: str, source: str, destination: str, *, mirror: bool, exclude: list[str]) -> Pair:
        """See add_pair()."""
        config = add_pair(self.path, name, source, destination, mirror=mirror, exclude=exclude)
        self._take(config, _fingerprint(self.path))
        return config.pairs[name]

    def remove_pair(self, name: str) -> None:
        """See remove_pair()."""
        self._take(remove_pair(self.path, name), _fingerprint(self.path))

    def _take(self, config: Config, seen: tuple[int, ...]) -> None:
        self._seen, self.error, self._config = seen, None, config
        self.changed(config)


def contains(outer: bytes, inner: bytes) -> bool:
    """Whether the path ``inner`` is ``outer`` or below it, symlinks resolved as far as they exist."""
    outer, inner = os.path.realpath(outer), os.path.realpath(inner)
    return inner == outer or inner.startswith(outer.rstrip(b"/") + b"/")


class _Reader:
    """Checks a parsed file; finds the line of what it objects to."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._lines = _split(text)

    def config(self, raw: dict[str, Any]) -> Config:
        self._known((), raw, ("ssh", "host", "pair"))
        hosts = {name: self._host(name, table) for name, table in self._tables(raw, "host").items()}
        pairs: dict[str, Pair] = {}
        for name, table in self._tables(raw, "pair").items():
            pairs[name] = self._pair(name, table, pairs)
        return Config(self._path, self._ssh(self._table((), raw, "ssh")), hosts, pairs)

    def _ssh(self, table: dict[str, Any]) -> Ssh:
        at = ("ssh",)
        self._known(at, table, Ssh._fields)
        config_file = self._text(at, table, "config_file")
        dead_after = table.get("dead_after_s", 15.0)
        if type(dead_after) not in (int, float) or not 1 <= dead_after <= 3600:
            raise self._error(at, "dead_after_s", "a number of seconds from 1 to 3600 is allowed")
        return Ssh(
            os.path.expanduser(config_file) if config_file else None,
            self._choice(at, table, "transport", TRANSPORTS) or "auto",
            float(dead_after),
        )

    def _host(self, name: str, table: dict[str, Any]) -> Host:
        at = ("host", name)
        self._known(at, table, Host._fields)
        return Host(self._text(at, table, "remote_command"), self._choice(at, table, "transport", TRANSPORTS))

    def _pair(self, name: str, table: dict[str, Any], others: dict[str, Pair]) -> Pair:
        at = ("pair", name)
        if not _NAME.fullmatch(name):
            raise self._error(at, None, "a pair's name is letters, digits, - and _, at most 64 of them")
        self._known(at, table, ("source", "destination", "mirror", "exclude", "compress", "hard_links"))
        source, source_text = self._location(at, table, "source")
        destination, destination_text = self._location(at, table, "destination")
        if source.host is not None and destination.host is not None:
            raise self._error(at, "destination", "source and destination are both on other hosts; one has to be here")
        if (
            source.host is None
            and destination.host is None
            and (contains(source.path, destination.path) or contains(destination.path, source.path))
        ):
            raise self._error(at, "destination", "source and destination contain each other")
        for other in others.values():
            if other.destination == destination:
                raise self._error(at, "destination", f"pair {other.name} has this destination already")
        mirror = self._flag(at, table, "mirror", default=False)
        hard_links = self._flag(at, table, "hard_links", default=True)
        exclude = table.get("exclude", [])
        if type(exclude) is not list or not all(type(p) is str and _is_pattern(p) for p in exclude):
            raise self._error(at, "exclude", f"a list of patterns is allowed, each of 1 to {EXCLUDE_MAX} bytes")
        compress = self._choice(at, table, "compress", COMPRESS) or "auto"
        texts = (source_text, destination_text)
        return Pair(name, source, destination, mirror, tuple(exclude), *texts, compress, hard_links)

    def _location(self, at: tuple[str, ...], table: dict[str, Any], key: str) -> tuple[Location, str]:
        text = self._text(at, table, key)
        if text is None:
            raise self._error(at, None, f"{key} is missing")
        try:
            location = parse_location(text.encode())
        except SyncError as e:
            raise self._error(at, key, e.message) from None
        if location.host is None:
            path = os.path.expanduser(location.path)
            if not path.startswith(b"/"):
                raise self._error(at, key, "a local path is absolute or begins with ~/")
            location = Location(None, path)
        return location, text

    def _tables(self, raw: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
        tables = self._table((), raw, key)
        return {name: self._table((key,), tables, name) for name in tables}

    def _table(self, at: tuple[str, ...], raw: dict[str, Any], key: str) -> dict[str, Any]:
        table = raw.get(key, {})
        if type(table) is not dict:
            raise self._error(at, key, "a table is allowed")
        return table

    def _known(self, at: tuple[str, ...], table: dict[str, Any], allowed: tuple[str, ...]) -> None:
        for key in table:
            if key not in allowed:
                raise self._error(at, key, f"unknown; known here: {', '.join(allowed)}")

    def _text(self, at: tuple[str, ...], table: dict[str, Any], key: str) -> str | None:
        value = table.get(key)
        if value is not None and (type(value) is not str or not value or "\0" in value):
            raise self._error(at, key, "a non-empty text is allowed")
        return value

    def _flag(self, at: tuple[str, ...], table: dict[str, Any], key: str, *, default: bool) -> bool:
        value = table.get(key, default)
        if type(value) is not bool:
            raise self._error(at, key, "true or false is allowed")
        return value

    def _choice(self, at: tuple[str, ...], table: dict[str, Any], key: str, choices: tuple[str, ...]) -> str | None:
        value = table.get(key)
        if value is not None and value not in choices:
            raise self._error(at, key, f"{', '.join(choices)} are allowed")
        return value

    def _error(self, at: tuple[str, ...], key: str | None, message: str) -> SyncError:
        where = f"[{'.'.join(map(escape_text, at))}] " if at else ""
        what = f"{escape_text(key)}: " if key else ""
        line = self._line(at, key)
        return SyncError(
            "config",
            f"{self._path}:{line}: {where}{what}{message}" if line else f"{self._path}: {where}{what}{message}",
        )

    def _line(self, at: tuple[str, ...], key: str | None) -> int:
        """The line, counted from 1, of a key or else of its table; 0 when it is written in an unusual way."""
        table: tuple[str, ...] = ()
        found = 0
        for number, line in enumerate(self._lines, 1):
            header = _header(line)
            if header is not None:
                table = header
                if table in (at, (*at, key)):
                    found = found or number
            elif key is not None and table == at and _key(line) == key:
                return number
        return found


def _split(text: str) -> list[str]:
    """Lines as TOML counts them, each with its end: nothing but a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _header(line: str) -> tuple[str, ...] | None:
    """The table that a line opens; None when it opens none.  TOML itself takes the quoting apart."""
    if not line.lstrip().startswith("["):
        return None
    try:
        value: Any = tomllib.loads(line.strip())
    except (ValueError, RecursionError):
        return None
    path: list[str] = []
    while isinstance(value, list) or value:
        if isinstance(value, list):
            value = value[0]
            continue
        key, value = next(iter(value.items()))
        path.append(key)
    return tuple(path)


def _key(line: str) -> str | None:
    match = re.match(r"""\s*(?:([A-Za-z0-9_-]+)|"([^"]*)"|'([^']*)')\s*(?:\.|=)""", line)
    return next((group for group in match.groups() if group is not None), None) if match else None


def _table_span(lines: list[str], table: tuple[str, ...]) -> tuple[int, int] | None:
    """The lines of a table, from its header to its last one that is neither empty nor a comment."""
    headers = [(i, header) for i, line in enumerate(lines) if (header := _header(line)) is not None]
    for n, (start, header) in enumerate(headers):
        if header == table:
            end = headers[n + 1][0] if n + 1 < len(headers) else len(lines)
            while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
                end -= 1
            return start, end
    return None


def _is_pattern(pattern: str) -> bool:
    return 0 < len(pattern.encode()) <= EXCLUDE_MAX and "\0" not in pattern


def _quote(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if " " <= c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_MAX + 1)
    except FileNotFoundError:
        return ""
    except OSError as e:
        raise SyncError("config", f"{path}: {e.strerror}") from None
    if len(data) > CONFIG_MAX:
        raise SyncError("config", f"{path}: more than {CONFIG_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise SyncError("config", f"{path}:{line}: not UTF-8") from None


def _replace(path: str, text: str) -> None:
    """Put ``text`` in the file's place at once; through a symlink, the file that it names."""
    target = os.path.realpath(path)
    temp = f"{target}.{os.getpid()}.new"
    try:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        mode = os.stat(target).st_mode & 0o777 if os.path.exists(target) else 0o600
        with open(temp, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
            os.fchmod(file.fileno(), mode)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, target)
        folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        try:
            os.unlink(temp)
        except OSError:
            pass
        raise SyncError("config", f"{path}: could not be changed: {e.strerror}", "check its folder") from None


def _fingerprint(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as e:
        return (e.errno or 0,)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
