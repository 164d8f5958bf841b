"""Pairs: a named source and destination, as ``[pair.NAME]`` of config.toml has them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from agentd.tables import At, Tables, quote
from proto.errors import SyncError
from proto.job import COMPRESS, EXCLUDE_MAX, FSYNC, ON_CONFLICT, Job, Location, Options, parse_age, parse_location
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")

_KEYS = (
    "source", "destination", "mirror", "exclude", "compress", "hard_links", "watch", "on_conflict", "fsync",
    "max_delete", "trash",
)  # fmt: skip


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
    watch: bool = False
    """The agent syncs it whenever its source changes, for as long as it runs."""
    on_conflict: str = "overwrite"
    """One of ON_CONFLICT."""
    fsync: str = "batch"
    """One of FSYNC."""
    max_delete: int | None = None
    trash: int = 0
    """Seconds."""

    @property
    def filters(self) -> tuple[bytes, ...]:
        """``exclude`` as jobs have it."""
        return tuple(pattern.encode() for pattern in self.exclude)

    def job(self, options: Options | None = None, scope: bytes | None = None) -> Job:
        """Its job, as the pair says unless ``options`` are given."""
        if options is None:
            options = Options(
                delete=self.mirror, excludes=self.filters, compress=self.compress, hard_links=self.hard_links,
                fsync=self.fsync, max_delete=self.max_delete, trash=self.trash,
            )  # fmt: skip
        return Job(self.source, self.destination, options, self.name, scope, self.on_conflict)


class NewPair(NamedTuple):
    """A pair that is to be added, as text."""

    name: str
    source: str
    destination: str
    mirror: bool = False
    exclude: Sequence[str] = ()
    watch: bool = False
    on_conflict: str = "overwrite"
    trash: str = ""

    def lines(self) -> list[str]:
        """Its table.  Raises SyncError ``usage`` when TOML cannot hold it."""
        if not _NAME.fullmatch(self.name):
            raise SyncError(
                "usage", f"{escape_text(self.name)}: not a pair's name", "letters, digits, - and _, at most 64 of them"
            )
        for word in (self.source, self.destination, *self.exclude):
            try:
                word.encode()
            except UnicodeEncodeError:
                raise SyncError("usage", f"{escape_text(word)}: a pair's paths are UTF-8 text") from None
        lines = [f"[pair.{self.name}]", f"source = {quote(self.source)}", f"destination = {quote(self.destination)}"]
        if self.mirror:
            lines.append("mirror = true")
        if self.exclude:
            lines.append(f"exclude = [{', '.join(map(quote, self.exclude))}]")
        if self.watch:
            lines.append("watch = true")
        if self.on_conflict != "overwrite":
            lines.append(f"on_conflict = {quote(self.on_conflict)}")
        if self.trash:
            lines.append(f"trash = {quote(self.trash)}")
        return lines


def read_pair(tables: Tables, name: str, table: dict[str, Any], others: Iterable[Pair]) -> Pair:
    """The pair that ``table`` says, held against those before it.  Raises SyncError ``config``."""
    at = ("pair", name)
    if not _NAME.fullmatch(name):
        raise tables.error(at, None, "a pair's name is letters, digits, - and _, at most 64 of them")
    tables.known(at, table, _KEYS)
    source, source_text = _location(tables, at, table, "source")
    destination, destination_text = _location(tables, at, table, "destination")
    if source.host is not None and destination.host is not None:
        raise tables.error(at, "destination", "source and destination are both on other hosts; one has to be here")
    if (
        source.host is None
        and destination.host is None
        and (contains(source.path, destination.path) or contains(destination.path, source.path))
    ):
        raise tables.error(at, "destination", "source and destination contain each other")
    for other in others:
        if other.destination == destination:
            raise tables.error(at, "destination", f"pair {other.name} has this destination already")
    exclude = table.get("exclude", [])
    if type(exclude) is not list or not all(type(p) is str and _is_pattern(p) for p in exclude):
        raise tables.error(at, "exclude", f"a list of patterns is allowed, each of 1 to {EXCLUDE_MAX} bytes")
    watch = tables.flag(at, table, "watch", default=False)
    if watch and source.host is not None:
        raise tables.error(at, "watch", f"{UNWATCHABLE}; leave it out")
    return Pair(
        name,
        source,
        destination,
        tables.flag(at, table, "mirror", default=False),
        tuple(exclude),
        source_text,
        destination_text,
        tables.choice(at, table, "compress", COMPRESS) or "auto",
        tables.flag(at, table, "hard_links", default=True),
        watch,
        tables.choice(at, table, "on_conflict", ON_CONFLICT) or "overwrite",
        tables.choice(at, table, "fsync", FSYNC) or "batch",
        _max_delete(tables, at, table),
        _trash(tables, at, table),
    )


def _max_delete(tables: Tables, at: At, table: dict[str, Any]) -> int | None:
    value = table.get("max_delete")
    if value is not None and (type(value) is not int or not 0 <= value < 1 << 63):
        raise tables.error(at, "max_delete", "a number of entries is allowed")
    return value


def _trash(tables: Tables, at: At, table: dict[str, Any]) -> int:
    text = tables.text(at, table, "trash")
    if text is None:
        return 0
    try:
        return parse_age(text)
    except SyncError as e:
        raise tables.error(at, "trash", e.message) from None


UNWATCHABLE = "the source is on another host, and only a source here can be watched"
"""A far agent has no reason to run when nobody here asks: watch where the files change, and push from there."""


def contains(outer: bytes, inner: bytes) -> bool:
    """Whether the path ``inner`` is ``outer`` or below it, symlinks resolved as far as they exist."""
    outer, inner = os.path.realpath(outer), os.path.realpath(inner)
    return inner == outer or inner.startswith(outer.rstrip(b"/") + b"/")


def _location(tables: Tables, at: At, table: dict[str, Any], key: str) -> tuple[Location, str]:
    text = tables.text(at, table, key)
    if text is None:
        raise tables.error(at, None, f"{key} is missing")
    try:
        location = parse_location(text.encode())
    except SyncError as e:
        raise tables.error(at, key, e.message) from None
    if location.host is None:
        path = os.path.expanduser(location.path)
        if not path.startswith(b"/"):
            raise tables.error(at, key, "a local path is absolute or begins with ~/")
        location = Location(None, path)
    return location, text


def _is_pattern(pattern: str) -> bool:
    return 0 < len(pattern.encode()) <= EXCLUDE_MAX and "\0" not in pattern
