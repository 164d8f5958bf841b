"""The relay as a process, between a multiplexer's frames and a peer socket."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proto.errors import EXIT_DONE, EXIT_NO_AGENT, EXIT_UNREACHABLE
from proto.mux import DATA, END, OPEN, RESET, Ended, Mux, Received, WasReset

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CODE = "import sys; from ctl.relay import relay; sys.exit(relay(0, 1, sys.argv[1], int(sys.argv[2]) or None))"
DEADLINE_S = 10


class Relay:
    """A relay process, our side of its multiplexer, and the peer's listener."""

    def __init__(self, directory: Path, watched: int = 0) -> None:
        self.path = str(directory / "peer.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(DEADLINE_S)
        self.listener.bind(self.path)
        self.listener.listen()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, self.path, str(watched)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[watched] if watched else [],
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.mux = Mux(opens=True)

    def send(self, data: bytes = b"") -> None:
        """What our multiplexer has to say, and ``data``."""
        self.stdin.write(self.mux.data_to_send(1 << 20) + data)

    def receive(self) -> list[object]:
        """The next events."""
        while select.select([self.stdout], [], [], DEADLINE_S)[0]:
            data = self.stdout.read(1 << 16)
            assert data, "the relay ended"
            events = self.mux.receive_data_untrusted(data)
            if events:
                return list(events)
        raise AssertionError("nothing came")

    def open(self) -> tuple[int, socket.socket]:
        """A stream and the peer's end of it."""
        stream = self.mux.open()
        self.send()
        sock, _ = self.listener.accept()
        sock.settimeout(DEADLINE_S)
        return stream, sock

    def wait_asleep(self) -> None:
        """Until it has read everything and waits in poll()."""
        give_up_at = time.monotonic() + DEADLINE_S
        unread = array.array("i", [1])
        while unread[0] or Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
            fcntl.ioctl(self.stdin, termios.FIONREAD, unread)

    def end(self) -> int:
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def running(directory: Path, watched: int = 0) -> Iterator[Relay]:
    relay = Relay(directory, watched)
    try:
        yield relay
    finally:
        relay.listener.close()
        relay.process.kill()
        relay.process.wait()
        for pipe in (relay.process.stdin, relay.process.stdout, relay.process.stderr):
            if pipe is not None:
                pipe.close()


def test_both_directions_and_their_ends(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        stream, sock = relay.open()
        with sock:
            relay.mux.send(stream, b"question")
            relay.mux.send_end(stream)
            relay.send()
            assert sock.recv(100) == b"question"
            assert sock.recv(100) == b""
            sock.sendall(b"answer")
            assert relay.receive() == [Received(stream, b"answer")]
        assert relay.receive() == [Ended(stream)]
        relay.stdin.close()
        assert relay.end() == EXIT_DONE


def test_a_connection_that_ends_as_the_wire_ends_it(tmp_path: Path) -> None:
    """Both events in one look of poll(): the second one's descriptor is gone by then."""
    with running(tmp_path) as relay:
        stream, sock = relay.open()
        other, other_sock = relay.open()
        with other_sock:
            with sock:
                sock.shutdown(socket.SHUT_WR)
                assert relay.receive() == [Ended(stream)]
                relay.mux.send(stream, bytes(1 << 20))
                relay.send()
                relay.wait_asleep()
                os.kill(relay.process.pid, signal.SIGSTOP)
                relay.mux.close(stream)
                relay.send()
            os.kill(relay.process.pid, signal.SIGCONT)
            relay.mux.send(other, b"still there")
            relay.send()
            assert other_sock.recv(100) == b"still there"


def test_a_stream_to_nobody_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        os.unlink(relay.path)
        stream = relay.mux.open()
        relay.send()
        assert relay.receive() == [WasReset(stream)]


def test_what_was_sent_before_a_close_arrives(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        stream, sock = relay.open()
        with sock:
            relay.mux.send(stream, b"last words")
            relay.mux.close(stream)
            relay.send()
            assert sock.recv(100) == b"last words"
            assert sock.recv(100) == b""


@pytest.mark.parametrize(
    "wire",
    [struct.pack(">BII", DATA, 7, 1), struct.pack(">BII", END, 1, 0), struct.pack(">BII", RESET, 1, 0), b"\xff" * 9],
)
def test_a_wire_that_breaks_the_rules_ends_it(wire: bytes, tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        relay.send(wire)
        assert relay.end() == EXIT_UNREACHABLE
        assert relay.process.stderr is not None
        assert b"syncctl relay: multiplexer" in relay.process.stderr.read()


def test_opening_the_same_stream_twice_ends_it(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        _, sock = relay.open()
        with sock:
            relay.send(struct.pack(">BII", OPEN, 1, 0))
            assert relay.end() == EXIT_UNREACHABLE
            assert sock.recv(1) == b""


def test_it_ends_with_the_agent(tmp_path: Path) -> None:
    agent, watched = socket.socketpair()
    with agent, watched, running(tmp_path, watched.fileno()) as relay:
        agent.close()
        assert relay.end() == EXIT_NO_AGENT
