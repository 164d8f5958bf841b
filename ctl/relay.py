"""``syncctl relay``: the far end of the stdio transport.

Run over ssh where sshd forwards nothing.  Stdin and stdout carry the multiplexer's frames (proto/mux.py); each of its
streams becomes a connection to the agent's peer socket.  One loop over poll(): nothing in it waits.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from ctl.hold import introduce
from proto.errors import EXIT_DONE, EXIT_NO_AGENT, EXIT_UNREACHABLE, RemoteProtocolError
from proto.mux import Ended, Mux, Opened, Received, WasReset

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.hello import Hello
    from proto.mux import Event

_CHUNK = 256 << 10
_QUEUE_MAX = 256 << 10
"""Bytes taken from the agent ahead of the wire, per stream."""

_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def relay_agent(control_socket: str, peer_socket: str, start: Callable[[], object], ours: Hello) -> int:
    """Find or start the agent, say so, and relay until stdin or the agent ends; the exit status."""
    agent = introduce(control_socket, peer_socket, start, ours)
    if isinstance(agent, int):
        return agent
    with agent:
        return relay(0, 1, peer_socket, agent.fileno())


def relay(stdin: int, stdout: int, peer_socket: str, watched: int | None = None) -> int:
    """Relay between two descriptors and ``peer_socket``, until ``stdin`` or ``watched`` ends; the exit status."""
    return _Relay(stdin, stdout, peer_socket, watched).run()


class _Connection:
    """A stream's connection to the agent."""

    __slots__ = ("interest", "pending", "receiving", "sending", "sock", "stream")

    def __init__(self, stream: int, sock: socket.socket) -> None:
        self.stream = stream
        self.sock = sock
        self.pending: deque[memoryview] = deque()  # from the wire, for the agent
        self.sending = True  # the wire has not ended this direction
        self.receiving = True  # nor the agent the other
        self.interest = 0


class _Relay:
    def __init__(self, stdin: int, stdout: int, peer_socket: str, watched: int | None) -> None:
        self._stdin, self._stdout, self._watched = stdin, stdout, watched
        self._peer_socket = peer_socket
        self._mux = Mux(opens=False)
        self._poll = select.poll()
        self._by_fd: dict[int, _Connection] = {}
        self._by_stream: dict[int, _Connection] = {}
        self._out = memoryview(b"")
        self._status: int | None = None

    def run(self) -> int:
        for fd in (self._stdin, self._stdout):
            os.set_blocking(fd, False)
        self._poll.register(self._stdin, select.POLLIN)
        if self._watched is not None:
            self._poll.register(self._watched, select.POLLIN)
        writing = False
        while self._status is None:
            self._write_out()
            if writing != bool(self._out):
                writing = not writing
                if writing:
                    self._poll.register(self._stdout, select.POLLOUT)
                else:
                    self._poll.unregister(self._stdout)
            for connection in self._by_fd.values():
                self._update_interest(connection)
            for fd, ready in self._poll.poll():
                self._handle(fd, ready)
        for connection in list(self._by_fd.values()):
            self._close(connection)
        return self._status

    def _handle(self, fd: int, ready: int) -> None:
        connection = self._by_fd.get(fd)
        if connection is not None:
            if ready & (select.POLLOUT | _GONE):
                self._write(connection)
            if ready & (select.POLLIN | _GONE) and fd in self._by_fd:
                self._read(connection)
        elif fd == self._stdin:
            self._read_in()
        elif fd == self._watched:
            # the control connection says nothing unasked: this is its end
            self._status = EXIT_NO_AGENT
        elif fd == self._stdout and ready & _GONE:
            self._status = EXIT_DONE
        # else a connection that was closed since poll() looked

    # the wire

    def _read_in(self) -> None:
        try:
            data = os.read(self._stdin, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._status = EXIT_DONE
            return
        try:
            for event in self._mux.receive_data_untrusted(data):
                self._take(event)
        except RemoteProtocolError as e:
            os.write(2, f"syncctl relay: {e}\n".encode())
            self._status = EXIT_UNREACHABLE

    def _write_out(self) -> None:
        """Everything that can be written now; the rest stays in ``_out``."""
        try:
            while self._status is None:
                if not self._out:
                    self._out = memoryview(self._mux.data_to_send(_CHUNK))
                    if not self._out:
                        return
                self._out = self._out[os.write(self._stdout, self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._status = EXIT_DONE

    def _take(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._open(event.stream)
            return
        connection = self._by_stream.get(event.stream)
        if connection is None:
            return
        if isinstance(event, Received):
            connection.pending.append(memoryview(event.data))
        elif isinstance(event, Ended):
            connection.sending = False
        elif isinstance(event, WasReset):
            connection.sending = connection.receiving = False
        self._write(connection)

    # the agent

    def _open(self, stream: int) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(self._peer_socket)
        except OSError:
            sock.close()
            self._mux.close(stream)
            return
        connection = _Connection(stream, sock)
        self._by_fd[sock.fileno()] = self._by_stream[stream] = connection

    def _write(self, connection: _Connection) -> None:
        """What the wire brought, and its end behind that."""
        sock, pending = connection.sock, connection.pending
        sent = 0
        try:
            while pending:
                count = sock.send(pending[0])
                sent += count
                if count == len(pending[0]):
                    pending.popleft()
                else:
                    pending[0] = pending[0][count:]
            if not connection.sending:
                sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._mux.close(connection.stream)
            self._close(connection)
            return
        self._mux.consumed(connection.stream, sent)
        self._close_if_over(connection)

    def _read(self, connection: _Connection) -> None:
        if connection.receiving:
            try:
                data = connection.sock.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                self._mux.close(connection.stream)
                self._close(connection)
                return
            if data:
                self._mux.send(connection.stream, data)
                return
            connection.receiving = False
            self._mux.send_end(connection.stream)
        self._close_if_over(connection)

    def _close_if_over(self, connection: _Connection) -> None:
        if not connection.receiving and not connection.sending and not connection.pending:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._by_fd.pop(fd, None) is not None:
            del self._by_stream[connection.stream]
            if connection.interest:
                self._poll.unregister(fd)
            connection.sock.close()

    def _update_interest(self, connection: _Connection) -> None:
        reads = connection.receiving and self._mux.queued(connection.stream) < _QUEUE_MAX
        interest = (select.POLLIN if reads else 0) | (select.POLLOUT if connection.pending else 0)
        if interest != connection.interest:
            if interest:
                self._poll.register(connection.sock, interest)
            else:
                self._poll.unregister(connection.sock)
            connection.interest = interest
