"""config.toml: read, checked with file, line and key in every error, and edited without touching what else is in it."""

from __future__ import annotations

import os
import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from agentd.pairs import NewPair, Pair, read_pair
from agentd.tables import Tables, split_lines, table_span
from proto.errors import SyncError
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRANSPORTS = ("auto", "openssh", "asyncssh", "stdio")
CONFIG_MAX = 1 << 20
"""Bytes; a configuration is written by people."""


class Ssh(NamedTuple):
    """``[ssh]``: what holds for every host."""

    config_file: str | None = None
    transport: str = "auto"
    dead_after_s: float = 15.0


class Agent(NamedTuple):
    """``[agent]``: this agent itself; read when it starts."""

    landlock: bool = True
    """Threads that work below a root are held to it by the kernel, where that can."""


class Host(NamedTuple):
    """``[host.NAME]``: what differs for one; None is the general setting."""

    remote_command: str | None = None
    transport: str | None = None


class Config(NamedTuple):
    """One state of the file; an absent file is the default of everything."""

    path: str
    ssh: Ssh = Ssh()
    hosts: Mapping[str, Host] = {}
    pairs: Mapping[str, Pair] = {}
    agent: Agent = Agent()

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
    return _read_config(path, Tables(path, text), raw)


def add_pair(path: str, pair: NewPair) -> Config:
    """Append a pair to the file, which is replaced whole.  Raises SyncError ``config`` or ``usage``."""
    text = _read(path)
    before = parse(path, text)
    lines = pair.lines()
    if pair.name in before.pairs:
        raise SyncError(
            "usage", f"there is a pair {pair.name} already", f"'syncctl remove {pair.name}' first, or use another name"
        )
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text else newline if text.endswith("\n") else newline * 2
    changed = text + gap + newline.join([*lines, ""])
    try:
        after = parse(path, changed)
    except SyncError as e:
        said = e.message.partition(f"[pair.{pair.name}] ")[2] or e.message
        raise SyncError("usage", said, "'syncctl add --help' shows the forms") from None
    _replace(path, changed)
    return after


def remove_pair(path: str, name: str) -> Config:
    """Take a pair's table out of the file.  Raises SyncError ``no-such-pair`` or ``config``."""
    text = _read(path)
    before = parse(path, text)
    if name not in before.pairs:
        raise SyncError("no-such-pair", f"there is no pair {escape_text(name)}")
    lines = split_lines(text)
    cut = table_span(lines, ("pair", name))
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

    def add_pair(self, pair: NewPair) -> Pair:
        """See add_pair()."""
        config = add_pair(self.path, pair)
        self._take(config, _fingerprint(self.path))
        return config.pairs[pair.name]

    def remove_pair(self, name: str) -> None:
        """See remove_pair()."""
        self._take(remove_pair(self.path, name), _fingerprint(self.path))

    def _take(self, config: Config, seen: tuple[int, ...]) -> None:
        self._seen, self.error, self._config = seen, None, config
        self.changed(config)


def _read_config(path: str, tables: Tables, raw: dict[str, Any]) -> Config:
    tables.known((), raw, ("agent", "ssh", "host", "pair"))
    hosts = {name: _host(tables, name, table) for name, table in tables.within(raw, "host").items()}
    pairs: dict[str, Pair] = {}
    for name, table in tables.within(raw, "pair").items():
        pairs[name] = read_pair(tables, name, table, pairs.values())
    ssh, agent = (tables.table((), raw, name) for name in ("ssh", "agent"))
    return Config(path, _ssh(tables, ssh), hosts, pairs, _agent(tables, agent))


def _agent(tables: Tables, table: dict[str, Any]) -> Agent:
    at = ("agent",)
    tables.known(at, table, Agent._fields)
    return Agent(tables.flag(at, table, "landlock", default=True))


def _ssh(tables: Tables, table: dict[str, Any]) -> Ssh:
    at = ("ssh",)
    tables.known(at, table, Ssh._fields)
    config_file = tables.text(at, table, "config_file")
    dead_after = table.get("dead_after_s", 15.0)
    if type(dead_after) not in (int, float) or not 1 <= dead_after <= 3600:
        raise tables.error(at, "dead_after_s", "a number of seconds from 1 to 3600 is allowed")
    return Ssh(
        os.path.expanduser(config_file) if config_file else None,
        tables.choice(at, table, "transport", TRANSPORTS) or "auto",
        float(dead_after),
    )


def _host(tables: Tables, name: str, table: dict[str, Any]) -> Host:
    at = ("host", name)
    tables.known(at, table, Host._fields)
    return Host(tables.text(at, table, "remote_command"), tables.choice(at, table, "transport", TRANSPORTS))


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
