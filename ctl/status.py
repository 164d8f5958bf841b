"""``syncctl status``: what the agent says of itself, its links, pairs and jobs."""

from __future__ import annotations

import sys

from ctl import render
from ctl.client import connect
from proto import control_state as control
from proto.control_ends import End, Error
from proto.errors import EXIT_DONE, SyncError
from proto.record import TYPE_CHECKING
from proto.text import escape_text, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctl import argv

_ID = 1
_ROWS = (control.AgentInfo, control.LinkInfo, control.PairInfo, control.JobInfo)


_STATES = ("paused", "problems", "waiting", "held", "syncing", "starting", "settling", "up-to-date")
"""Of several pairs, the first of these that one is in is the state of all."""


def status(operands: list[str], values: argv.Values) -> int:
    """Print it; never starts an agent.  Raises SyncError, ``no-agent`` when there is none."""
    if values.get("porcelain"):
        return _porcelain(operands)
    rows = ask_rows(control.Status(_ID), *_ROWS, start=False)
    if operands:
        pairs = {row.name: row for row in rows if type(row) is control.PairInfo}
        rows = [_named(pairs, name) for name in operands]
    sys.stdout.write(_json(rows) if values.get("json") else text(rows))
    return EXIT_DONE


def _porcelain(names: list[str]) -> int:
    """A line for each of these pairs, or one for all, of fields between tabs: docs/cli.md."""
    try:
        rows = ask_rows(control.ListPairs(_ID), control.PairInfo, start=False)
    except SyncError as e:
        if e.code != "no-agent":
            raise
        sys.stdout.write("".join(f"{name}\tdown\t0\t-\t\n" for name in map(escape_text, names or ["agent"])))
        return e.exit_status
    if names:
        pairs = {row.name: row for row in rows}
        sys.stdout.write("".join(_line(_named(pairs, name)) for name in names))
        return EXIT_DONE
    watched = [row for row in rows if row.state is not None]
    worst = min(watched, key=lambda row: _STATES.index(row.state), default=None)
    if worst is None:
        sys.stdout.write("agent\tidle\t0\t-\t\n")
        return EXIT_DONE
    why = f"{worst.name}: {worst.why}" if worst.why else ""
    synced = [row.synced_ms for row in watched]
    oldest = None if None in synced else min(synced)
    count = sum(row.problem_count for row in watched)
    sys.stdout.write(_line(worst._replace(name="agent", why=why, problem_count=count, synced_ms=oldest)))
    return EXIT_DONE


def _line(row: control.PairInfo) -> str:
    synced = "-" if row.synced_ms is None else str(row.synced_ms // 1000)
    return "\t".join([row.name, row.state or "idle", str(row.problem_count), synced, escape_text(row.why or "")]) + "\n"


def _named(pairs: dict[str, control.PairInfo], name: str) -> control.PairInfo:
    found = pairs.get(name)
    if found is None:
        raise SyncError("no-such-pair", f"there is no pair {escape_text(name)}")
    return found


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
        word
        for word, given in (
            ("mirror", row.mirror),
            ("watch", row.watch),
            (f"on conflict {row.on_conflict}", row.on_conflict != "overwrite"),
            ("exclude " + " ".join(row.excludes), row.excludes),
        )
        if given
    ]
    state = ""
    if row.state is not None:
        state = f"  {row.state}: {row.why}" if row.why else f"  {row.state}"
    options = "".join(f"  [{word}]" for word in extra)
    return escape_text(f"{row.name:<12} {row.source} -> {row.destination}{options}{state}")


_LANDLOCK = {
    "on": "Landlock is on (ABI {abi}): sessions are held to their roots by the kernel",
    "off": "Landlock is off, by SYNCCTL_LANDLOCK or config.toml (the kernel has ABI {abi})",
    "absent": "Landlock is not there: sessions are held to their roots by how they open paths alone",
}


def _agent(row: control.AgentInfo) -> str:
    minutes, seconds = divmod(row.uptime_s, 60)
    hours, minutes = divmod(minutes, 60)
    up = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    lines = [f"agentd {row.version}, pid {row.pid}, up {up}, {render.size(row.rss_kib * 1024)} of memory"]
    lines += [f"  {socket}" for socket in row.sockets]
    lines.append(f"  {row.config}")
    lines.append(f"  {_LANDLOCK[row.landlock].format(abi=row.landlock_abi)}")
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
