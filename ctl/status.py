"""``syncctl status``: what the agent says of itself, its links, pairs and jobs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ctl import render
from ctl.client import connect
from proto import control_state as control
from proto.control_ends import End, Error
from proto.errors import EXIT_DONE, SyncError
from proto.text import escape_text, shown

if TYPE_CHECKING:
    from collections.abc import Callable

_ID = 1
_ROWS = (control.AgentInfo, control.LinkInfo, control.PairInfo, control.JobInfo)


def status(*, json: bool) -> int:
    """Print it; never starts an agent.  Raises SyncError, ``no-agent`` when there is none."""
    rows = ask_rows(control.Status(_ID), *_ROWS, start=False)
    sys.stdout.write(_json(rows) if json else text(rows))
    return EXIT_DONE


def ask_rows(request: Any, *rows: type[Any], start: bool) -> list[Any]:
    """The answer up to END, of these kinds of rows.  Raises SyncError."""
    client = connect(*rows, start=start)
    try:
        client.ask(request)
        found: list[Any] = []
        while True:
            message, _ = client.answer()
            if type(message) is End:
                return found
            if type(message) is Error:
                raise SyncError.from_wire(message.code, message.message, message.hint)
            found.append(message)
    finally:
        client.close()


def text(rows: list[Any]) -> str:
    """The rows for a person."""
    lines = [_agent(row) for row in rows if type(row) is control.AgentInfo]
    for title, kind, line in _SECTIONS:
        found = ["  " + line(row) for row in rows if type(row) is kind]
        lines += [title, *found] if found else []
    return "\n".join(lines) + "\n"


def pair(row: control.PairInfo) -> str:
    """A pair on a line."""
    extra = [
        word for word, given in (("mirror", row.mirror), ("exclude " + " ".join(row.excludes), row.excludes)) if given
    ]
    return escape_text(f"{row.name:<12} {row.source} -> {row.destination}" + "".join(f"  [{word}]" for word in extra))


def _agent(row: control.AgentInfo) -> str:
    minutes, seconds = divmod(row.uptime_s, 60)
    hours, minutes = divmod(minutes, 60)
    up = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    lines = [f"agentd {row.version}, pid {row.pid}, up {up}, {render.size(row.rss_kib * 1024)} of memory"]
    lines += [f"  {socket}" for socket in row.sockets]
    lines.append(f"  {row.config}")
    if row.config_error is not None:
        lines.append(f"  not in force, an older state is: {row.config_error}")
    return "\n".join(escape_text(line) for line in lines)


def _link(row: control.LinkInfo) -> str:
    rtt = "" if row.rtt_us is None else f"  {row.rtt_us / 1000:.1f} ms"
    error = f"  {row.error}" if row.error else ""
    return escape_text(f"{row.host:<12} {row.state}  {row.transport or '-'}{rtt}{error}")


def _job(row: control.JobInfo) -> str:
    what = f"{row.pair}: " if row.pair else ""
    how = row.state + (", detached" if row.detached else "")
    roots = f"{shown(row.source)} -> {shown(row.destination)}"
    age = render.duration(row.age_ms / 1000)
    more = f"  {render.progress(row.phase, row.counters, 0)}" if row.state == "running" else ""
    if row.problem_count:
        more += f"  {render.plural(row.problem_count, 'problem')}"
    if row.error:
        more += f"  {row.error}"
    return escape_text(f"{row.job:<4} {how}  {what}{roots}  {age}{more}")


_SECTIONS: tuple[tuple[str, type[Any], Callable[[Any], str]], ...] = (
    ("links", control.LinkInfo, _link),
    ("pairs", control.PairInfo, pair),
    ("jobs", control.JobInfo, _job),
)


def _json(rows: list[Any]) -> str:
    from proto.jsonl import dump_line, to_json

    value: dict[str, Any] = {"agent": None, "links": [], "pairs": [], "jobs": []}
    names = {control.LinkInfo: "links", control.PairInfo: "pairs", control.JobInfo: "jobs"}
    for row in rows:
        fields = {name: field for name, field in to_json(row).items() if name not in ("t", "id")}
        if type(row) in names:
            value[names[type(row)]].append(fields)
        else:
            value["agent"] = fields
    return dump_line(value).decode()
