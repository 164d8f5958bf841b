"""Connections that break the frames, stall, crowd, or are another user's: ended, and nobody else is kept waiting."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import cbor2
import pytest
import trio

from agentd.wire import HELLO, Connection, ConnectionLost, greet
from proto import limits, peer
from proto.frame import encode_frame
from proto.schema import to_head
from tests.helpers.hostile import (
    ANSWER_S,
    MINE,
    PLAIN,
    connected,
    end_of,
    greeted,
    opened,
    root_group,
    say,
)
from tests.helpers.payloads import FIRST, SYMLINK, WHOLE, Entry, pack_list, pack_record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Agent

NOBODY = 65534


def frame(length: int, head_len: int, body: bytes = b"") -> bytes:
    return struct.pack(">II", length, head_len) + body


PING = cbor2.dumps(to_head(peer.Ping(1)))
FRAMES: dict[str, bytes] = {
    "length 0": frame(0, 0),
    "zip of frames of length 0": frame(0, 0) * 1000,
    "length 4, no head": frame(4, 0),
    "head longer than the frame": frame(10, 100, bytes(100)),
    "head beyond its cap": frame(4 + limits.HEAD_MAX + 1, limits.HEAD_MAX + 1, bytes(limits.HEAD_MAX + 1)),
    "head of its cap": frame(4 + limits.HEAD_MAX, limits.HEAD_MAX, bytes(limits.HEAD_MAX)),
    "payload of its cap": frame(4 + len(PING) + limits.PAYLOAD_MAX, len(PING), PING + bytes(limits.PAYLOAD_MAX)),
    "payload beyond its cap": frame(4 + len(PING) + limits.PAYLOAD_MAX + 1, len(PING), PING),
    "largest lengths": frame(2**32 - 1, 2**32 - 1),
    "not CBOR": frame(8, 4, b"\xff\xff\xff\xff"),
    "not a map": frame(5, 1, b"\x01"),
    "nested": frame(4 + 5000, 5000, b"\x81" * 5000),
    "unknown message": encode_frame({"t": "frob"}),
    "no type": encode_frame({"n": 1}),
    "unknown field": encode_frame({**to_head(peer.Ping(1)), "x": 1}),
    "missing field": encode_frame({"t": "ping"}),
    "wrong type": encode_frame({"t": "ping", "n": "1"}),
    "negative": encode_frame({"t": "ping", "n": -1}),
    "beyond 64 bits": encode_frame({"t": "ping", "n": 2**64}),
    "duplicate key": frame(4 + 9, 9, b"\xa2\x61t\x61x\x61t\x61x"),
    "a session's message": encode_frame(to_head(peer.ListEnd(0, 0, bytes(32)))),
    "join of nothing": encode_frame(to_head(peer.Join(bytes(16), 0))),
    "hello again": encode_frame(to_head(MINE)),
}


@pytest.mark.fault("G3")
@pytest.mark.usefixtures("precious")
@pytest.mark.parametrize("when", ["first", "after hello"])
@pytest.mark.parametrize("case", FRAMES)
async def test_frames(victim: Agent, case: str, when: str) -> None:
    async with connected(victim) as stream:
        connection = Connection(stream)
        if when == "after hello":
            await greet(connection, MINE)
        elif case == "hello again":
            await stream.send_all(FRAMES[case])  # the first one is what is expected
        try:
            await stream.send_all(FRAMES[case])
        except trio.BrokenResourceError:
            return
        assert await raw_end(stream) in ("protocol", "closed")


async def raw_end(stream: trio.SocketStream) -> str:
    """The end of a connection that may not have been greeted."""
    connection = Connection(stream)
    try:
        await _receive_hello(connection)
        return await end_of(connection)
    except ConnectionLost:
        return "closed"


async def _receive_hello(connection: Connection) -> None:
    """The agent's, when it has not come yet."""
    with trio.fail_after(ANSWER_S):
        message, _ = await connection.receive({**HELLO, **peer.PEER_MESSAGES})
        if isinstance(message, peer.Error):
            raise ConnectionLost("refused")


@pytest.mark.fault("G3")
async def test_cut_and_flipped(victim: Agent, precious: Path) -> None:
    """A whole exchange, cut short or with one bit flipped, 150 of each at random."""
    seed = 20
    print(f"seed {seed}")
    rng = random.Random(seed)
    opening = peer.Open(bytes(16), 0, "receiver", os.fsencode(precious), 0, 0)
    listed = to_head(peer.List(0))
    good = b"".join(
        (
            encode_frame(to_head(MINE)),
            encode_frame(to_head(opening)),
            encode_frame(listed, len(PLAIN)) + PLAIN,
            encode_frame(to_head(peer.Data()), 80) + pack_record(WHOLE, 0, 0, b"evil", size=4)[:80],
        )
    )
    for number in range(300):
        bad = bytearray(good)
        if number % 2:
            at = rng.randrange(len(bad) * 8)
            bad[at // 8] ^= 1 << at % 8
        else:
            del bad[rng.randrange(len(bad)) :]
        async with connected(victim) as stream:
            try:
                await stream.send_all(bytes(bad))
                await stream.send_eof()
                with trio.fail_after(ANSWER_S):
                    while await stream.receive_some(65536):
                        pass
            except trio.BrokenResourceError:
                pass


@pytest.mark.fault("F7")
async def test_half_a_hello_then_silence(victim: Agent, precious: Path) -> None:
    """It is given up, and others are served meanwhile."""
    async with connected(victim) as silent, connected(victim) as mute:
        await silent.send_all(encode_frame(to_head(MINE))[:9])
        async with greeted(victim) as connection:
            await connection.send(peer.Ping(4))
            message, _ = await connection.receive()
            assert message == peer.Pong(4)
            await opened(connection, precious, "sender", delete=False)
        with trio.fail_after(limits.HELLO_DEADLINE_S + ANSWER_S):
            for stream in (silent, mute):
                assert await raw_end(stream) == "closed"


@pytest.mark.fault("F7")
async def test_half_a_frame_in_a_session(victim: Agent, precious: Path) -> None:
    """It holds its own connection and nothing else."""
    async with connected(victim) as stream:
        connection = Connection(stream)
        await greet(connection, MINE)
        await opened(connection, precious, "receiver")
        await stream.send_all((encode_frame(to_head(peer.List(0)), len(PLAIN)) + PLAIN)[:40])
        async with greeted(victim) as other:
            await opened(other, precious, "sender", delete=False)
        assert (await trio.to_thread.run_sync(victim.run, "status")).status == 0


@pytest.mark.fault("G9")
@pytest.mark.usefixtures("precious")
async def test_more_connections_than_allowed(victim: Agent) -> None:
    streams: list[trio.SocketStream] = []
    try:
        for n in range(500):
            streams.append(await trio.open_unix_socket(str(victim.home / "run/peer.sock")))
            if n < limits.CONNECTIONS_MAX // 2:
                streams.append(await trio.open_unix_socket(str(victim.home / "run/control.sock")))
        assert (await trio.to_thread.run_sync(victim.run, "status")).status == 0
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)
    with trio.fail_after(ANSWER_S):
        async with greeted(victim) as connection:
            await connection.send(peer.Ping(1))
            await connection.receive()


@pytest.mark.fault("G9")
@pytest.mark.usefixtures("precious")
async def test_one_peer_that_takes_all_it_may_keeps_no_other_out(victim: Agent) -> None:
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(greeted(victim)) for _ in range(limits.CONNECTIONS_MAX)]
        for connection in held:  # each is being served
            await connection.send(peer.Ping(1))
            await connection.receive()
        async with greeted(victim) as connection:
            assert await end_of(connection) == "agent-busy"
        async with connected(victim) as stream:
            connection = Connection(stream)
            await greet(connection, MINE._replace(agent=b"an honest peer!!"))
            await connection.send(peer.Ping(2))
            assert (await connection.receive())[0] == peer.Pong(2)


@pytest.mark.fault("G9")
@pytest.mark.usefixtures("precious")
@pytest.mark.parametrize("name", ["peer.sock", "control.sock"])
def test_connecting_and_closing_again_and_again(victim: Agent, name: str) -> None:
    """SYNCCTL_CONNECTS times, with and without a word."""
    hello = encode_frame(to_head(MINE))
    times = int(os.environ.get("SYNCCTL_CONNECTS", "500"))
    before = rss_kib(victim)
    for n in range(times):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ANSWER_S)
            while sock.connect_ex(str(victim.home / "run" / name)) == errno.EAGAIN:  # its backlog is full
                time.sleep(0.002)
            if n % 3:
                sock.sendall(hello[: n % len(hello)])
    assert victim.run("status").status == 0
    assert rss_kib(victim) < before + 8192


def rss_kib(agent: Agent) -> int:
    """As the agent itself says."""
    return int(json.loads(agent.ok("status", "--json"))["agent"]["rss_kib"])


@pytest.mark.fault("G7")
async def test_a_window_that_is_used_up(victim: Agent, precious: Path) -> None:
    """A sender that sends more list than was granted."""
    async with greeted(victim) as connection:
        granted = (await opened(connection, precious, "receiver", delete=False)).list_window
        padding = Entry(b"x" * 200, kind=SYMLINK, target=b"t" * 4000)
        sent = 0
        for n in range(1000):
            names = [padding._replace(name=b"%0200d" % (n * 400 + i)) for i in range(400)]
            chunk = pack_list([root_group(*names, flags=FIRST if n == 0 else 0)])
            await say(connection, peer.List(n), chunk)
            sent += len(chunk)
            if sent > granted + 4 * len(chunk):
                break
        assert await end_of(connection) in ("protocol", "closed", "done")


@pytest.mark.fault("G7", "G9")
async def test_a_receiver_with_endless_windows_that_does_not_read(victim: Agent, precious: Path) -> None:
    """What waits for it is bounded by us, whatever it grants."""
    big = os.urandom(1 << 20)
    for n in range(96):
        (precious / f"big {n}").write_bytes(big)
    before = await trio.to_thread.run_sync(rss_kib, victim)
    async with greeted(victim) as connection:
        endless = 1 << 62
        await opened(
            connection, precious, "sender", delete=False, state="empty", list_window=endless, data_window=endless
        )
        await trio.sleep(1)  # until it has read as far ahead as it likes
        assert await trio.to_thread.run_sync(rss_kib, victim) < before + (48 << 10)


CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
try:
    sock.connect(sys.argv[1])
    sock.sendall(bytes.fromhex(sys.argv[2]))
    sys.exit(0 if sock.recv(1) == b"" else 9)
except (PermissionError, ConnectionResetError, BrokenPipeError):
    sys.exit(0)
"""


@pytest.mark.fault("G9")
@pytest.mark.usefixtures("precious")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["peer.sock", "control.sock"])
@pytest.mark.parametrize("guarded", [True, False], ids=["behind its directory", "with its directory open"])
def test_another_user(victim: Agent, name: str, guarded: bool) -> None:
    path = victim.home / "run" / name
    role = "agent" if name == "peer.sock" else "cli"
    hello = encode_frame(to_head(MINE._replace(role=role, agent=MINE.agent if role == "agent" else b"")))
    before = {at: at.stat().st_mode for at in (path, path.parent, victim.home)}
    try:
        if not guarded:
            for at in before:
                at.chmod(0o777)
        ended = subprocess.run(
            [find_python(), "-I", "-S", "-c", CONNECT, str(path), hello.hex()],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        for at, mode in before.items():
            at.chmod(stat.S_IMODE(mode))
    assert ended.returncode == 0, ended


def find_python() -> str:
    """One that another user may run."""
    real = os.path.realpath(sys.executable)
    system = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    return system if os.access(system, os.X_OK) else real
