"""add, remove and list, the pairs of config.toml; watch, pause and resume; and events, what happens to them."""

from __future__ import annotations

import os
import sys
import time

from ctl import argv
from ctl.client import connect, environment
from ctl.status import ask_rows, pair
from proto import control_agent as control
from proto.control_ends import Error
from proto.control_state import ListPairs, PairInfo
from proto.control_watch import Pause, Resume, Watch
from proto.errors import EXIT_DONE, SyncError
from proto.job import format_location
from proto.record import TYPE_CHECKING
from proto.text import escape_text, shown

if TYPE_CHECKING:
    from typing import Any

_ID = 1
_SILENCE_S = 60.0
"""Several heartbeats: an agent that says nothing for so long is not well."""


def run(verb: str, operands: list[str], values: argv.Values) -> int:
    """Carry the verb out; the exit status.  Raises SyncError."""
    if verb == "add":
        return _add(operands, values)
    if verb == "remove":
        ask_rows(control.RemovePair(_ID, operands[0]), start=True)
        sys.stdout.write(f"removed pair {escape_text(operands[0])}; both its trees stay as they are\n")
        return EXIT_DONE
    if verb in ("pause", "resume"):
        ask_rows((Pause if verb == "pause" else Resume)(_ID, operands[0]), start=True)
        return EXIT_DONE
    json = bool(values.get("json"))
    if verb == "list":
        return _list(json=json)
    return _events(Watch(_ID, operands[0], environment()) if verb == "watch" else control.Events(_ID), json=json)


def _add(operands: list[str], values: argv.Values) -> int:
    name, source, destination = operands[0], _text(operands[1]), _text(operands[2])
    excludes = [os.fsdecode(pattern) for pattern in values.get("exclude", [])]
    request = control.AddPair(
        _ID, name, source, destination, bool(values.get("mirror")), excludes, bool(values.get("watch")),
        values.get("on_conflict", "overwrite"), values.get("trash", ""),
    )  # fmt: skip
    for word in (name, source, destination, *excludes):
        if not _is_text(word):
            raise SyncError("usage", f"add: {shown(os.fsencode(word))} is not UTF-8, as a configuration has to be")
    request.validate()
    ask_rows(request, start=True)
    sys.stdout.write(escape_text(f"added pair {name}: {source} -> {destination}") + "\n")
    return EXIT_DONE


def _list(*, json: bool) -> int:
    rows = ask_rows(ListPairs(_ID), PairInfo, start=True)
    if json:
        from proto.jsonl import dump_line, to_json

        for row in rows:
            fields = {name: field for name, field in to_json(row).items() if name not in ("t", "id")}
            sys.stdout.write(dump_line(fields).decode())
    else:
        sys.stdout.write("".join(pair(row) + "\n" for row in rows))
        if not rows:
            sys.stderr.write("there are no pairs; 'syncctl add NAME SRC DST' makes one\n")
    return EXIT_DONE


def _events(request: control.Events | Watch, *, json: bool) -> int:
    client = connect(control.Event, control.Heartbeat, start=True)
    try:
        client.ask(request)
        while True:
            found = client.receive(_SILENCE_S)
            if found is None:
                raise SyncError("no-agent", f"the agent said nothing for {_SILENCE_S:g} s", "'syncctl restart'")
            message = found[0]
            if type(message) is Error:
                raise SyncError.from_wire(message.code, message.message, message.hint)
            line = _json_event(message) if json else _event(message)
            if line:
                sys.stdout.write(line)
                sys.stdout.flush()
    finally:
        client.close()


def _event(message: Any) -> str:
    if type(message) is not control.Event:
        return ""
    at = time.strftime("%H:%M:%S", time.localtime(message.at_ms // 1000))
    who = [f"job {message.job}"] if message.job is not None else []
    who += [word for word in (message.pair, message.host) if word]
    return escape_text(f"{at}  {message.kind:<12} {' '.join(who)}{': ' if who else ''}{message.text}") + "\n"


def _json_event(message: Any) -> str:
    from proto.jsonl import dump_line, to_json

    return dump_line({name: field for name, field in to_json(message).items() if name != "id"}).decode()


def _text(word: str) -> str:
    """A location as the configuration is to have it: as typed, a local path absolute."""
    found = argv.location(word)
    return os.fsdecode(format_location(found))


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
