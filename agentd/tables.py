"""The tables of a TOML file, read by key, with file, line and key in every error."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from proto.errors import SyncError
from proto.text import escape_text

At = tuple[str, ...]
"""A table's name, part by part; () is the whole file."""


class Tables:
    """Checks what stands in a parsed file; finds the line of what it objects to.  All raise SyncError ``config``."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._lines = split_lines(text)

    def within(self, raw: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
        """The tables in the table ``key``, by name."""
        tables = self.table((), raw, key)
        return {name: self.table((key,), tables, name) for name in tables}

    def table(self, at: At, raw: dict[str, Any], key: str) -> dict[str, Any]:
        """The table at ``key``; an absent one is empty."""
        table = raw.get(key, {})
        if type(table) is not dict:
            raise self.error(at, key, "a table is allowed")
        return table

    def known(self, at: At, table: dict[str, Any], allowed: tuple[str, ...]) -> None:
        """Nothing but ``allowed`` is in it."""
        for key in table:
            if key not in allowed:
                raise self.error(at, key, f"unknown; known here: {', '.join(allowed)}")

    def text(self, at: At, table: dict[str, Any], key: str) -> str | None:
        """A text that is not empty; None when there is none."""
        value = table.get(key)
        if value is not None and (type(value) is not str or not value or "\0" in value):
            raise self.error(at, key, "a non-empty text is allowed")
        return value

    def flag(self, at: At, table: dict[str, Any], key: str, *, default: bool) -> bool:
        """true or false."""
        value = table.get(key, default)
        if type(value) is not bool:
            raise self.error(at, key, "true or false is allowed")
        return value

    def choice(self, at: At, table: dict[str, Any], key: str, choices: tuple[str, ...]) -> str | None:
        """One of ``choices``; None when there is none."""
        value = table.get(key)
        if value is not None and value not in choices:
            raise self.error(at, key, f"{', '.join(choices)} are allowed")
        return value

    def error(self, at: At, key: str | None, message: str) -> SyncError:
        """What is wrong with a key, or with the whole table."""
        where = f"[{'.'.join(map(escape_text, at))}] " if at else ""
        what = f"{escape_text(key)}: " if key else ""
        line = self._line(at, key)
        return SyncError(
            "config",
            f"{self._path}:{line}: {where}{what}{message}" if line else f"{self._path}: {where}{what}{message}",
        )

    def _line(self, at: At, key: str | None) -> int:
        """The line, counted from 1, of a key or else of its table; 0 when it is written in an unusual way."""
        table: At = ()
        found = 0
        for number, line in enumerate(self._lines, 1):
            header = header_of(line)
            if header is not None:
                table = header
                if table in (at, (*at, key)):
                    found = found or number
            elif key is not None and table == at and _key(line) == key:
                return number
        return found


def split_lines(text: str) -> list[str]:
    """Lines as TOML counts them, each with its end: nothing but a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def header_of(line: str) -> At | None:
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


def table_span(lines: list[str], table: At) -> tuple[int, int] | None:
    """The lines of a table, from its header to its last one that is neither empty nor a comment."""
    headers = [(i, header) for i, line in enumerate(lines) if (header := header_of(line)) is not None]
    for n, (start, header) in enumerate(headers):
        if header == table:
            end = headers[n + 1][0] if n + 1 < len(headers) else len(lines)
            while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
                end -= 1
            return start, end
    return None


def quote(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if " " <= c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _key(line: str) -> str | None:
    match = re.match(r"""\s*(?:([A-Za-z0-9_-]+)|"([^"]*)"|'([^']*)')\s*(?:\.|=)""", line)
    return next((group for group in match.groups() if group is not None), None) if match else None
