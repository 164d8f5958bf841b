"""``syncctl start --hold``: the far end of a link.

Run over ssh by another host's agent.  It finds or starts the agent here, says in one marked line where it listens, and
stays until its stdin ends (the link is down) or the agent does (whose end is then noticed there at once).
"""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import TYPE_CHECKING

from proto import limits
from proto.errors import EXIT_DONE, EXIT_NO_AGENT, ProtocolError, SyncError
from proto.frame import FrameReader, encode_frame
from proto.hello import Hello, agree
from proto.hold import Failed, Ready, encode_line
from proto.peercred import peer_uid, trusted
from proto.schema import from_head_untrusted, registry, to_head

if TYPE_CHECKING:
    from collections.abc import Callable


def hold(control_socket: str, peer_socket: str, start: Callable[[], object], ours: Hello) -> int:
    """Serve until stdin or the agent ends; the exit status.

    ``start()`` starts the agent and returns when its control socket answers, or raises SyncError.
    """
    agent = introduce(control_socket, peer_socket, start, ours)
    if isinstance(agent, int):
        return agent
    with agent:
        return _wait_end(agent)


def introduce(control_socket: str, peer_socket: str, start: Callable[[], object], ours: Hello) -> socket.socket | int:
    """Find or start the agent and say so; a connection that ends with it, or the exit status when there is none."""
    try:
        agent, theirs = _reach(control_socket, start, ours)
        _try_peer_socket(peer_socket)
    except SyncError as e:
        say(encode_line(Failed(e.code, e.message, e.hint)))
        return e.exit_status
    say(encode_line(Ready(theirs.version, theirs.agent, os.fsencode(peer_socket))))
    return agent


def _try_peer_socket(path: str) -> None:
    """So that whoever cannot reach it through ssh knows that ssh is why.  Raises SyncError."""
    peer = _connect(path)
    if peer is None:
        raise SyncError("remote-failed", f"the agent there does not listen at {path}", "restart it there")
    peer.close()


def _reach(control_socket: str, start: Callable[[], object], ours: Hello) -> tuple[socket.socket, Hello]:
    """A greeted connection to the agent here, started if need be, and its hello.  Raises SyncError."""
    agent = _connect(control_socket)
    if agent is None:
        start()
        agent = _connect(control_socket)
    if agent is None:
        raise SyncError("remote-failed", "the agent was started and does not answer", "look into its log there")
    try:
        return agent, _greet(agent, ours)
    except (OSError, ProtocolError) as e:
        agent.close()
        raise SyncError("remote-failed", f"the agent there does not greet: {e}", "look into its log there") from None
    except BaseException:
        agent.close()
        raise


def _connect(path: str) -> socket.socket | None:
    """A connection to the agent, None when none listens.  Raises SyncError for a socket of somebody else's."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(limits.HELLO_DEADLINE_S)
        sock.connect(path)
        uid = peer_uid(sock, sys.platform)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as e:
        sock.close()
        raise SyncError("remote-failed", f"{path}: {e.strerror or e}") from None
    if not trusted(uid, os.geteuid()):
        sock.close()
        raise SyncError("not-permitted", f"{path}: the agent there is user {uid}'s", "set SYNCCTL_HOME to your own")
    return sock


def _greet(agent: socket.socket, ours: Hello) -> Hello:
    agent.settimeout(limits.HELLO_DEADLINE_S)
    agent.sendall(encode_frame(to_head(ours)))
    reader = FrameReader(0)
    while (frame := reader.next_frame_untrusted()) is None:
        count = agent.recv_into(reader.get_buffer())
        if count == 0:
            raise ConnectionError("it closed the connection")
        reader.buffer_updated(count)
    theirs: Hello = from_head_untrusted(registry(Hello), frame.head)
    agree(ours, theirs)
    agent.settimeout(None)
    return theirs


def _wait_end(agent: socket.socket) -> int:
    """Wait for the end of stdin, or of the agent."""
    while True:
        readable, _, _ = select.select([0, agent.fileno()], [], [])
        if agent.fileno() in readable and not _alive(agent):
            return EXIT_NO_AGENT
        if 0 in readable and not os.read(0, 4096):
            return EXIT_DONE


def _alive(agent: socket.socket) -> bool:
    try:
        return bool(agent.recv(4096))
    except OSError:
        return False


def say(line: bytes) -> None:
    """To stdout, unbuffered and whole; when nobody listens any more, stdin has ended too."""
    try:
        while line:
            line = line[os.write(1, line) :]
    except BrokenPipeError:
        pass
