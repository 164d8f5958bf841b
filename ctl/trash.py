"""trash: what a destination kept of what was deleted and overwritten in it."""

from __future__ import annotations

import os
import sys
from typing import Any

from ctl import argv
from ctl.client import connect, environment
from ctl.render import size
from proto.control_ends import End, Error
from proto.control_trash import TRASH_ACTIONS, Trash, Trashed, TrashEntry
from proto.errors import EXIT_DONE, EXIT_PROBLEMS, SyncError
from proto.job import format_location
from proto.text import escape_text, shown

_ID = 1
_PATIENCE_S = 600.0


def run(operands: list[str], values: argv.Values) -> int:
    """Carry the verb out; the exit status.  Raises SyncError."""
    action, target, paths = operands[0], operands[1], operands[2:]
    if action not in TRASH_ACTIONS:
        raise SyncError("usage", f"trash: {escape_text(action)} is none of {', '.join(TRASH_ACTIONS)}")
    if bool(paths) != (action == "restore"):
        raise SyncError("usage", "trash: paths are what 'restore' takes", "see 'syncctl trash --help'")
    request = Trash(
        _ID, action, _target(target), [os.fsencode(path) for path in paths], values.get("batch", ""), environment()
    )
    request.validate()
    rows = _ask(request)
    if action == "list":
        return _list(rows, json=bool(values.get("json")))
    [done] = rows
    word, did = "entry" if done.entries == 1 else "entries", "put back" if action == "restore" else "removed"
    sys.stdout.write(f"{done.entries:,} {word} {did}\n")
    for path in done.taken:
        sys.stderr.write(f"syncctl: {shown(path)}: something else is there now; it stays in the trash\n")
    for path in done.missing:
        sys.stderr.write(f"syncctl: {shown(path)}: not in the trash\n")
    return EXIT_PROBLEMS if done.taken or done.missing else EXIT_DONE


def _ask(request: Trash) -> list[Any]:
    """Its answers, which may take as long as so many entries do."""
    client = connect(TrashEntry, Trashed, start=True)
    try:
        client.ask(request)
        rows: list[Any] = []
        while (found := client.receive(_PATIENCE_S)) is not None:
            message = found[0]
            if type(message) is End:
                return rows
            if type(message) is Error:
                raise SyncError.from_wire(message.code, message.message, message.hint)
            rows.append(message)
        raise SyncError("timeout", f"the agent was not done within {_PATIENCE_S:g} s", "it goes on with it")
    finally:
        client.close()


def _target(word: str) -> bytes:
    """A pair's name as it is; a location with a local path made absolute."""
    plain = os.fsencode(word)
    path = b"/" in plain or b":" in plain or plain in (b".", b"..") or plain.startswith(b"~")
    return format_location(argv.location(word)) if path else plain


def _list(rows: list[Any], *, json: bool) -> int:
    if json:
        from proto.jsonl import dump_line, to_json

        for row in rows:
            fields = {name: field for name, field in to_json(row).items() if name not in ("t", "id")}
            sys.stdout.write(dump_line(fields).decode())
        return EXIT_DONE
    for row in rows:
        end = "/" if row.directory else ""
        sys.stdout.write(f"{escape_text(row.batch)}  {size(row.size):>8}  {shown(row.path)}{end}\n")
    if not rows:
        sys.stderr.write("there is nothing in the trash\n")
    return EXIT_DONE
