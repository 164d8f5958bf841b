"""Command lines, taken apart by hand: argparse alone would cost as much as a whole warm ``syncctl status``."""

from __future__ import annotations

import os

from proto.errors import SyncError
from proto.record import TYPE_CHECKING
from proto.text import shown

if TYPE_CHECKING:
    from typing import Any

    from proto.job import Location

    Values = dict[str, Any]
    """Options by their names, ``-`` as ``_``: True (False of a ``no-``), a text, a number, or a list of bytes."""

JOB_OPTIONS = {
    "delete": "flag", "checksum": "flag", "dry-run": "flag", "itemize": "flag", "stats": "flag", "profile": "flag",
    "json": "flag", "owner": "flag", "group": "flag", "hard-links": "flag", "no-hard-links": "flag", "force": "flag",
    "detach": "flag", "exclude": "bytes", "max-delete": "count", "timeout": "seconds", "compress": "choice",
    "fsync": "choice", "trash": "age", "no-trash": "flag",
}  # fmt: skip

#: verb -> (its options, the fewest and the most operands)
VERBS: dict[str, tuple[dict[str, str], int, int | None]] = {
    "push": (JOB_OPTIONS, 2, 2),
    "pull": (JOB_OPTIONS, 2, 2),
    "sync": (JOB_OPTIONS, 0, None),
    "watch": ({"json": "flag"}, 1, 1),
    "pause": ({}, 1, 1),
    "resume": ({}, 1, 1),
    "flush": ({"timeout": "seconds", "stats": "flag", "json": "flag"}, 0, None),
    "verify": ({"repair": "flag", "timeout": "seconds", "stats": "flag", "json": "flag"}, 1, None),
    "status": ({"json": "flag", "porcelain": "flag"}, 0, None),
    "trash": ({"batch": "word", "json": "flag"}, 2, None),
    "start": ({"foreground": "flag", "hold": "flag"}, 0, 0),
    "stop": ({}, 0, 0),
    "restart": ({}, 0, 0),
    "add": ({"mirror": "flag", "exclude": "bytes", "watch": "flag", "on-conflict": "choice", "trash": "text"}, 3, 3),
    "list": ({"json": "flag"}, 0, 0),
    "remove": ({}, 1, 1),
    "events": ({"json": "flag"}, 0, 0),
    "relay": ({}, 0, 0),
    "enable": ({}, 0, 0),
    "disable": ({}, 0, 0),
    "version": ({}, 0, 0),
    "help": ({}, 0, 1),
}
_SHORT = {
    "-n": "--dry-run", "-i": "--itemize", "-z": "--compress=always", "--no-compress": "--compress=never",
    "-H": "--hard-links",
}  # fmt: skip
_TIMEOUT_MAX_S = 4_000_000


def parse(verb: str, words: list[str]) -> tuple[list[str], Values]:
    """The operands and options behind a verb.  Raises SyncError ``usage``."""
    known, fewest, most = VERBS[verb]
    operands: list[str] = []
    values: Values = {}
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            operands += words[at:]
            break
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        name, equals, value = _SHORT.get(word, word).partition("=")
        kind = known.get(name[2:]) if name.startswith("--") else None
        if kind is None:
            raise _usage(verb, f"unknown option {shown(os.fsencode(name))}", _alike(name, ["--" + k for k in known]))
        if kind == "flag":
            if equals:
                raise _usage(verb, f"{name} takes no value")
            values[name[2:].removeprefix("no-").replace("-", "_")] = not name.startswith("--no-")
            continue
        if not equals:
            if at == len(words):
                raise _usage(verb, f"{name} wants a value")
            value = words[at]
            at += 1
        _set(verb, values, name[2:], kind, value)
    if len(operands) < fewest:
        raise _usage(verb, "an operand is missing" if operands else "operands are missing")
    if most is not None and len(operands) > most:
        raise _usage(verb, f"unexpected operand {shown(os.fsencode(operands[most]))}")
    return operands, values


def unknown_verb(verb: str) -> SyncError:
    """The error for a word that is none of VERBS."""
    return SyncError("usage", f"unknown command {shown(os.fsencode(verb))}", _alike(verb, list(VERBS)))


def location(word: str) -> Location:
    """A command line's location, a local path made absolute.  Raises SyncError ``usage``."""
    from proto.job import Location, parse_location

    found = parse_location(os.fsencode(word))
    return found if found.host is not None else Location(None, absolute(found.path))


def absolute(path: bytes) -> bytes:
    """``path`` from the home or the current directory; ``..`` stays, since a symlink may be before it."""
    if path.startswith(b"~"):
        path = os.path.expanduser(path)
    if path.startswith(b"/"):
        return path
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    try:
        here = os.getcwdb()
    except OSError as e:
        raise SyncError("usage", f"the current directory is gone: {e.strerror}", "give absolute paths") from None
    return here if path in (b"", b".") else here.rstrip(b"/") + b"/" + path


def _set(verb: str, values: Values, name: str, kind: str, value: str) -> None:
    key = name.replace("-", "_")
    if kind == "bytes":
        if not value:
            raise _usage(verb, f"--{name} wants a pattern")
        values.setdefault(key, []).append(os.fsencode(value))
    elif kind == "choice":
        from proto.job import COMPRESS, FSYNC, ON_CONFLICT

        choices = {"compress": COMPRESS, "fsync": FSYNC, "on-conflict": ON_CONFLICT}[name]
        if value not in choices:
            raise _usage(verb, f"--{name} is {', '.join(choices)}, not {shown(os.fsencode(value))}")
        values[key] = value
    elif kind == "word":
        values[key] = value
    elif kind in ("age", "text"):
        from proto.job import parse_age

        age = parse_age(value)
        values[key] = age if kind == "age" else value
    elif kind == "count":
        if not (value.isascii() and value.isdigit() and len(value) < 19):
            raise _usage(verb, f"--{name} wants a number, not {shown(os.fsencode(value))}")
        values[key] = int(value)
    else:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0.001 <= seconds <= _TIMEOUT_MAX_S:
            raise _usage(verb, f"--{name} wants a number of seconds, not {shown(os.fsencode(value))}")
        values[key] = seconds


def _usage(verb: str, message: str, hint: str | None = None) -> SyncError:
    return SyncError("usage", f"{verb}: {message}", hint or f"see 'syncctl {verb} --help'")


def _alike(word: str, known: list[str]) -> str | None:
    """A hint that names what was meant, if that can be guessed."""
    import difflib

    found = difflib.get_close_matches(word, known, 1, 0.6)
    return f"did you mean {found[0]}?" if found else None
