"""A client that keeps a connection to an agent's control socket and speaks JSON lines, as an editor does."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Agent

ANSWER_S = 60.0


class Answer(NamedTuple):
    """All that was said to one request."""

    rows: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Rows of this kind."""
        return [row for row in self.rows if row["t"] == kind]

    @property
    def ok(self) -> bool:
        """Whether it is done, without an error and without a problem."""
        return not self.of("error") and not any(row["problem_count"] for row in self.of("result"))

    @property
    def fates(self) -> dict[str, str]:
        """What became of each path."""
        return {path: row["fate"] for row in self.of("paths") for path in row["paths"]}

    @property
    def listed(self) -> int:
        """Entries that were listed, of all pairs."""
        return sum(row["stats"].get("listed", 0) for row in self.of("result"))

    @property
    def wire(self) -> int:
        """Bytes both ways, of all pairs."""
        return sum(row["wire_sent"] + row["wire_received"] for row in self.of("result"))


class Editor:
    """Connected within ``with``; the agent is started when it does not run."""

    def __init__(self, agent: Agent) -> None:
        agent.ok("start")
        [self._path, *_] = json.loads(agent.ok("status", "--json"))["agent"]["sockets"]
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_S)
        self._lines = self._socket.makefile("rb")
        self._id = 0

    def __enter__(self) -> Self:
        self._socket.connect(self._path)
        self._send({"t": "hello", "role": "cli", "protocol_min": 1, "protocol_max": 1, "version": "test"})
        assert self._row()["t"] == "hello"
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, kind: str, **fields: Any) -> Answer:
        """Send a request; all answers to it.  One at a time."""
        self._id += 1
        self._send({"t": kind, "id": self._id, **fields})
        rows = []
        while True:
            row = self._row()
            if row.get("id") != self._id:
                continue
            rows.append(row)
            if row["t"] == "end" or (row["t"] in ("result", "error") and not row.get("remaining")):
                return Answer(rows)

    def sync(self, *targets: str | Path, **options: Any) -> Answer:
        """Sync pairs, or paths of them."""
        return self.ask("sync", targets=[os.fspath(target) for target in targets], **options)

    def events(self) -> list[dict[str, Any]]:
        """Those so far, of all that the agent still has.  The last thing to ask: more of them follow."""
        self._id += 1
        self._send({"t": "events", "id": self._id, "after": 0})
        last = self._row()["seq"]
        found: list[dict[str, Any]] = []
        while not found or found[-1]["seq"] < last:
            found.append(self._row())
        return [row for row in found if row["t"] == "event"]

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _row(self) -> dict[str, Any]:
        line = self._lines.readline()
        assert line, "the agent hung up"
        row: dict[str, Any] = json.loads(line)
        return row
