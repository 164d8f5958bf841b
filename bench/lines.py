"""JSON lines on an agent's control socket."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from bench.hosts import Hosts

GIVE_UP_S = 30.0


class Lines:
    """JSON lines on the control socket, as an editor speaks them."""

    def __init__(self, hosts: Hosts) -> None:
        [self._path, *_] = json.loads(hosts.here.ok("status", "--json"))["agent"]["sockets"]
        self._socket = socket.socket(socket.AF_UNIX)
        self._read = b""

    def __enter__(self) -> Self:
        self._socket.connect(self._path)
        self.send({"t": "hello", "role": "cli", "protocol_min": 1, "protocol_max": 1, "version": "bench"})
        self._line()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its last answer, which has to be a result without problems."""
        self.send(request)
        while True:
            answer = self._line()
            if answer["t"] in ("result", "error") and answer["id"] == request["id"]:
                if answer["t"] == "error" or answer["problem_count"]:
                    raise RuntimeError(f"{request}: {answer}")
                return answer

    def send(self, message: dict[str, Any]) -> None:
        """Ask for something; its answers are read by who asked."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def next(self, within_s: float) -> dict[str, Any] | None:
        """The next answer, whatever it is; None: there is none in time."""
        give_up_at = time.monotonic() + within_s
        while b"\n" not in self._read:
            if not select.select([self._socket], [], [], max(0.0, give_up_at - time.monotonic()))[0]:
                return None
            read = self._socket.recv(1 << 16)
            if not read:
                raise RuntimeError("the agent hung up")
            self._read += read
        line, self._read = self._read.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def _line(self) -> dict[str, Any]:
        answer = self.next(GIVE_UP_S)
        if answer is None:
            raise RuntimeError("the agent does not answer")
        return answer
