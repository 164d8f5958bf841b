"""The CLI's end of the control socket: one connection, one request, its answers."""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, MSG_NOSIGNAL, SOCK_STREAM, socket  # the socket module costs 7 ms, for its enums
from time import monotonic

from proto import limits
from proto.control_ends import End, Error
from proto.errors import ProtocolError, SyncError
from proto.frame import FrameReader, encode_frame
from proto.hello import Hello, agree
from proto.peercred import peer_pid, peer_uid, trusted
from proto.record import TYPE_CHECKING
from proto.schema import from_head_untrusted, registry, to_head
from proto.version import VERSION

if TYPE_CHECKING:
    from typing import Any

    from proto.schema import Message, Registry

ANSWER_S = 20.0
"""How long an agent that is well may take to answer what needs no work."""

GREET_S = 4.0
"""An agent that has not greeted by then is looked at: one that somebody stopped never will."""

_HELLO = registry(Hello)


class Client:
    """A connection to the agent.  Raises SyncError ``no-agent`` when there is none, other codes when it is no good."""

    def __init__(self, path: str, replies: Registry) -> None:
        self._replies = replies
        self._greeted = False
        self._reader = FrameReader(limits.CONTROL_PAYLOAD_MAX)
        self._socket = socket(AF_UNIX, SOCK_STREAM)
        try:
            self._connect(path)
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: str) -> None:
        try:
            self._socket.settimeout(ANSWER_S)
            self._socket.connect(path)
            uid = peer_uid(self._socket, sys.platform)
        except (FileNotFoundError, ConnectionRefusedError):
            raise SyncError("no-agent", "no agent is running here") from None
        except BlockingIOError:
            raise SyncError("agent-busy", "the agent does not take any more commands") from None
        except OSError as e:
            raise SyncError("no-agent", f"{path}: {e.strerror or e}") from None
        if not trusted(uid, os.geteuid()):
            raise SyncError("not-permitted", f"{path}: the agent there is user {uid}'s", "set SYNCCTL_HOME to your own")

    def ask(self, request: Message) -> None:
        """Send a request; the first time with the hello before it, in one write."""
        data = encode_frame(to_head(request))
        if not self._greeted:
            ours = Hello("cli", limits.PROTOCOL_MIN, limits.PROTOCOL_MAX, VERSION)
            data = encode_frame(to_head(ours)) + data
        try:
            self._socket.settimeout(ANSWER_S)
            self._socket.sendall(data, MSG_NOSIGNAL)
        except OSError:
            pass  # an agent that refused has said why before it closed

    def receive(self, timeout_s: float | None = ANSWER_S) -> tuple[Any, Any] | None:
        """The next answer and its payload; None when none came in time.

        Raises SyncError: what the connection itself was refused for, or its end.
        """
        deadline = None if timeout_s is None else monotonic() + timeout_s
        try:
            while True:
                frame = self._reader.next_frame_untrusted()
                if frame is None:
                    if not self._fill(deadline):
                        return None
                    continue
                if not self._greeted:
                    ours = Hello("cli", limits.PROTOCOL_MIN, limits.PROTOCOL_MAX, VERSION)
                    agree(ours, from_head_untrusted(_HELLO, frame.head))
                    self._greeted = True
                    continue
                message = from_head_untrusted(self._replies, frame.head)
                if type(message) is Error and message.id == 0:
                    raise SyncError.from_wire(message.code, message.message, message.hint)
                return message, frame.payload
        except ProtocolError as e:
            raise SyncError(
                "protocol", f"the agent's answer breaks the protocol: {e}", "'syncctl restart', after an upgrade"
            ) from None

    def answer(self) -> tuple[Any, Any]:
        """The next answer, which an agent that is well gives at once.  Raises SyncError."""
        found = self.receive()
        if found is None:
            raise SyncError("no-agent", f"the agent does not answer within {ANSWER_S:g} s", "'syncctl restart'")
        return found

    def wait_end(self, timeout_s: float) -> None:
        """Until the agent closes the connection, or the time is up."""
        deadline = monotonic() + timeout_s
        try:
            while self.receive(max(0.0, deadline - monotonic())) is not None:
                pass
        except SyncError:
            pass

    def close(self) -> None:
        """End the connection, and with it a job that is not detached."""
        self._socket.close()

    def _fill(self, deadline: float | None) -> bool:
        """Receive some bytes; False when the deadline came first."""
        remaining = None if deadline is None else deadline - monotonic()
        if remaining is not None and remaining <= 0:
            return False
        if not self._greeted:
            remaining = GREET_S if remaining is None else min(GREET_S, remaining)
        self._socket.settimeout(remaining)
        try:
            count = self._socket.recv_into(self._reader.get_buffer())
        except TimeoutError:
            if not self._greeted:
                self._refuse_stopped()
            return deadline is None or monotonic() < deadline
        except OSError:
            count = 0
        if not count:
            raise SyncError("agent-stopping", "the agent ended before the command did")
        self._reader.buffer_updated(count)
        return True

    def _refuse_stopped(self) -> None:
        pid = peer_pid(self._socket, sys.platform)
        if pid and _is_stopped(pid):
            raise SyncError(
                "no-agent",
                f"the agent (pid {pid}) was stopped by a signal",
                f"'kill -CONT {pid}' lets it go on; 'kill -KILL {pid}', then 'syncctl start', begins anew",
            )


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def socket_paths() -> tuple[str, str]:
    """Where this home's agent listens: its control and its peer socket.

    An agent that was started with another environment may have them elsewhere, and has written down where.
    """
    from proto.places import places, recorded_sockets

    here = places(os.environ, os.geteuid(), sys.platform)
    if os.path.exists(here.control_socket):
        return here.control_socket, here.peer_socket
    return recorded_sockets(here) or (here.control_socket, here.peer_socket)


def connect(*rows: type[Any], start: bool) -> Client:
    """A connection to this home's agent, which is started when there is none and ``start``.  Raises SyncError.

    ``rows`` are the messages that may come, besides END and ERROR.
    """
    replies = registry(End, Error, *rows)
    try:
        return Client(socket_paths()[0], replies)
    except SyncError as e:
        if e.code != "no-agent" or not start:
            raise
    from ctl.spawn import start_agent

    return Client(start_agent(os.environ), replies)


def environment() -> dict[str, str]:
    """What of the person's environment travels with a request.  What is not text does not."""
    from proto.job import ENVIRONMENT

    found: dict[str, str] = {}
    for name in ENVIRONMENT:
        value = os.environ.get(name)
        if name == "PWD":
            try:
                value = os.getcwd()
            except OSError:
                value = None
        if value is not None and value.isprintable() and len(value) <= 8 * limits.TEXT_MAX:
            found[name] = value
    return found
