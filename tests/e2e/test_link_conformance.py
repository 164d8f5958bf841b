"""One contract, three transports: against a real OpenSSH server, and asyncssh against the embedded one too.

An echo server stands in place of the remote agent, so that what is tested is the way there and nothing else.
SYNCCTL_TEST_BULK_MIB sets how much is carried each way (64 unless it is set).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentd.links.asyncssh_link import AsyncsshTransport, over_asyncssh
from agentd.links.destination import parse_destination
from agentd.links.openssh import OpensshTransport
from agentd.links.settings import Settings
from agentd.links.ssh import find_ssh
from agentd.links.stdio import StdioTransport, over_ssh
from proto.errors import SyncError
from proto.hold import Failed, encode_line
from tests.helpers.embedded_ssh import EmbeddedSshd
from tests.helpers.sshd import SSHD, Sshd, command_of, descendants

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from agentd.links.transport import Transport
    from tests.helpers.sshd import ServerFiles

BULK = int(os.environ.get("SYNCCTL_TEST_BULK_MIB", "64")) << 20
ROOT = Path(__file__).parents[2]
ECHO = shlex.join([sys.executable, str(ROOT / "tests/helpers/echo_agent.py")])
ENVIRON = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
BLOCK = bytes(range(256)) * 4096

REAL = [
    pytest.param((kind, "sshd"), id=kind, marks=pytest.mark.skipif(SSHD is None, reason="sshd is not installed"))
    for kind in ("openssh", "asyncssh", "stdio", "stdio-asyncssh")
]
EVERY = [*REAL, pytest.param(("asyncssh", "embedded"), id="asyncssh-embedded")]

Way = tuple[str, str]


@contextlib.contextmanager
def server_for(way: Way, directory: Path, **options: str) -> Iterator[Any]:
    """The server of ``way``; MaxSessions 1 is enough for every transport."""
    if way[1] == "embedded":
        with EmbeddedSshd(directory, forwarding="DisableForwarding" not in options) as server:
            yield server
    else:
        with Sshd(directory, options={"MaxSessions": "1", **options}) as server:
            yield server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The plain servers, shared: no test here changes them."""
    with contextlib.ExitStack() as stack:
        running = {"embedded": stack.enter_context(server_for(("", "embedded"), tmp_path_factory.mktemp("embedded")))}
        if SSHD is not None:
            running["sshd"] = stack.enter_context(server_for(("", "sshd"), tmp_path_factory.mktemp("sshd")))
        yield running


async def make(way: Way, server: ServerFiles, directory: Path, nursery: trio.Nursery, **changed: Any) -> Transport:
    """An unconnected transport to ``server``."""
    plain = Settings("box", parse_destination("box"), way[0], str(server.client_config), ECHO)
    settings = plain._replace(**changed)
    sockets = str(directory / "l")
    if way[0] == "asyncssh":
        return AsyncsshTransport(settings, ENVIRON, sockets, nursery)
    if way[0] == "stdio-asyncssh":
        return StdioTransport(over_asyncssh(settings, ENVIRON), settings, ENVIRON, nursery)
    binary = await find_ssh(ENVIRON)
    assert binary is not None
    if way[0] == "openssh":
        return OpensshTransport(binary, settings, ENVIRON, sockets, nursery)
    return StdioTransport(over_ssh(binary, settings, ENVIRON), settings, ENVIRON, nursery)


@asynccontextmanager
async def connected(way: Way, server: ServerFiles, directory: Path, **changed: Any) -> AsyncIterator[Transport]:
    """A connected transport; ended, and nothing left of it, afterwards."""
    async with trio.open_nursery() as nursery:
        transport = await make(way, server, directory, nursery, **changed)
        try:
            await transport.connect()
            yield transport
        finally:
            pids = transport.pids()
            await transport.aclose()
            nursery.cancel_scope.cancel()
            assert not any(command_of(pid) for pid in pids)
            assert not any(name.startswith("l.") for name in os.listdir(directory))


async def failure(way: Way, server: ServerFiles, directory: Path, **changed: Any) -> SyncError:
    """What connecting fails with."""
    async with trio.open_nursery() as nursery:
        transport = await make(way, server, directory, nursery, **changed)
        try:
            with pytest.raises(SyncError) as caught:
                await transport.connect()
        finally:
            await transport.aclose()
            nursery.cancel_scope.cancel()
    assert caught.value.message.isprintable()
    assert caught.value.message.startswith("box: ")
    assert caught.value.hint
    return caught.value


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        assert part, f"the stream ended after {len(data)} of {count} bytes"
        data += part
    return bytes(data)


async def open_with(transport: Transport, order: bytes) -> trio.abc.HalfCloseableStream:
    stream = await transport.open_stream()
    await stream.send_all(order)
    return stream


async def echo_some(transport: Transport, seed: int, count: int) -> None:
    """Send random messages and read them back, at the same time."""
    rng = random.Random(seed)
    messages = [rng.randbytes(rng.choice((1, 10, 1000, 100_000))) for _ in range(count)]
    async with await open_with(transport, b"e") as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            for message in messages:
                await stream.send_all(message)
            await stream.send_eof()

        nursery.start_soon(send)
        for message in messages:
            assert await receive_exactly(stream, len(message)) == message
        assert await stream.receive_some(1) == b""


@pytest.mark.parametrize("way", EVERY)
async def test_echo_in_order(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    async with connected(way, servers[way[1]], tmp_path) as transport:
        assert transport.ready is not None
        assert transport.ready.agent == b"echo" * 4
        await echo_some(transport, 1, 100)


@pytest.mark.parametrize("way", EVERY)
async def test_sixteen_at_once(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    async with connected(way, servers[way[1]], tmp_path) as transport:
        before = servers[way[1]].authentications()
        async with trio.open_nursery() as nursery:
            for seed in range(16):
                nursery.start_soon(echo_some, transport, seed, 20)
        assert servers[way[1]].authentications() == before


@pytest.mark.parametrize("way", EVERY)
async def test_half_close_both_ways(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    async with connected(way, servers[way[1]], tmp_path) as transport:
        async with await open_with(transport, b"s" + bytes(100_000)) as stream:
            await stream.send_eof()
            assert int.from_bytes(await receive_exactly(stream, 8), "big") == 100_000
            assert await stream.receive_some(1) == b""
        async with await open_with(transport, b"g" + (5).to_bytes(8, "big")) as stream:
            assert await receive_exactly(stream, 5) == BLOCK[:5]
            assert await stream.receive_some(1) == b""


@pytest.mark.parametrize("way", EVERY)
@pytest.mark.timeout(600)
async def test_bulk_each_way(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    async with connected(way, servers[way[1]], tmp_path) as transport:
        begin = time.perf_counter()
        async with await open_with(transport, b"s") as stream:
            for _ in range(BULK // len(BLOCK)):
                await stream.send_all(BLOCK)
            await stream.send_eof()
            assert int.from_bytes(await receive_exactly(stream, 8), "big") == BULK
        up = time.perf_counter() - begin
        begin = time.perf_counter()
        got, digest = 0, hashlib.sha1(usedforsecurity=False)
        async with await open_with(transport, b"g" + BULK.to_bytes(8, "big")) as stream:
            while data := await stream.receive_some(256 << 10):
                got += len(data)
                digest.update(data)
        down = time.perf_counter() - begin
        assert got == BULK
        expected = hashlib.sha1(usedforsecurity=False)
        for _ in range(BULK // len(BLOCK)):
            expected.update(BLOCK)
        assert digest.digest() == expected.digest()
        print(f"{way[0]}/{way[1]}: {BULK / up / 1e6:.0f} MB/s up, {BULK / down / 1e6:.0f} MB/s down")


@pytest.mark.parametrize("way", EVERY)
async def test_a_stalled_stream_stops_no_other(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    """Of two stalled ones, the first is not read here, the second not on the far side."""
    async with (
        connected(way, servers[way[1]], tmp_path) as transport,
        await open_with(transport, b"g" + (64 << 20).to_bytes(8, "big")) as unread,
        await open_with(transport, b"h") as stuck,
        trio.open_nursery() as nursery,
    ):

        async def push() -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await stuck.send_all(BLOCK)

        nursery.start_soon(push)
        await receive_exactly(unread, 1)
        for seed in range(3):
            with trio.fail_after(20):
                await echo_some(transport, seed, 20)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", EVERY)
async def test_small_replies_do_not_wait(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    """Three replies 1 ms apart within 10 ms: Nagle's algorithm would hold the second one for 40."""
    async with connected(way, servers[way[1]], tmp_path) as transport:
        times = []
        async with await open_with(transport, b"t") as stream:
            for _ in range(15):
                begin = time.perf_counter()
                await stream.send_all(b"?")
                assert await receive_exactly(stream, 3) == b"123"
                times.append(time.perf_counter() - begin)
        assert statistics.median(times) < 0.010, times


@pytest.mark.fault("F11")
@pytest.mark.parametrize("way", EVERY)
@pytest.mark.parametrize("command", ["/nowhere/syncctl", "/etc/passwd", "its Python is missing"])
async def test_the_far_agent_is_missing(way: Way, command: str, servers: dict[str, Any], tmp_path: Path) -> None:
    if " " in command:
        script = tmp_path / "syncctl"
        script.write_text("#!/nowhere/bin/python\n")
        script.chmod(0o755)
        command = str(script)
    error = await failure(way, servers[way[1]], tmp_path, remote_command=command)
    assert error.code == "remote-missing"


@pytest.mark.fault("F11")
@pytest.mark.parametrize("way", EVERY)
async def test_the_far_agent_fails(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    line = encode_line(Failed("destination-full", "no room for \x1b[2J the log", "make room")).decode().strip()
    error = await failure(way, servers[way[1]], tmp_path, remote_command=f"echo {line}; exit 6 #")
    assert error.code == "destination-full"
    assert "no room" in error.message
    assert error.hint == "make room"
    error = await failure(way, servers[way[1]], tmp_path, remote_command="echo out of luck >&2; exit 3 #")
    assert error.code == "remote-failed"
    assert "status 3" in error.message


@pytest.mark.fault("F10")
@pytest.mark.parametrize("way", EVERY)
async def test_a_shell_that_prints(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    async with connected(
        way, servers[way[1]], tmp_path, remote_command=f"printf 'Hello \\033[1m'; {ECHO}"
    ) as transport:
        await echo_some(transport, 1, 3)
    loud = f"head -c 100000 /dev/zero; {ECHO}"
    assert (await failure(way, servers[way[1]], tmp_path, remote_command=loud)).code == "noisy-shell"
    instead = "echo This account is closed; exit 1 #"
    assert (await failure(way, servers[way[1]], tmp_path, remote_command=instead)).code == "noisy-shell"


@pytest.mark.fault("F10")
@pytest.mark.parametrize("way", EVERY)
async def test_a_flood_on_stderr_and_an_odd_status(way: Way, servers: dict[str, Any], tmp_path: Path) -> None:
    flood = "head -c 8000000 /dev/zero | tr '\\000' '\\033' >&2; exit 77 #"
    error = await failure(way, servers[way[1]], tmp_path, remote_command=flood)
    assert error.code == "remote-failed"
    assert "status 77" in error.message
    assert error.message.isprintable()
    assert len(error.message) < 2000


@pytest.mark.fault("F13")
@pytest.mark.parametrize("option", ["DisableForwarding yes", "AllowStreamLocalForwarding no"])
@pytest.mark.parametrize("way", EVERY)
async def test_forwarding_denied(way: Way, option: str, tmp_path: Path) -> None:
    name, value = option.split()
    if way[1] == "embedded":
        name = "DisableForwarding"  # its one way of saying no
    with server_for(way, tmp_path / "server", **{name: value}) as server:
        if way[0].startswith("stdio"):
            async with connected(way, server, tmp_path) as transport:
                await echo_some(transport, 1, 3)
        elif way[0] == "asyncssh":
            assert (await failure(way, server, tmp_path)).code == "forwarding-denied"
        else:
            async with connected(way, server, tmp_path) as transport:
                async with await transport.open_stream() as stream:
                    assert await stream.receive_some(1) == b""
                assert (await transport.why_refused(first=True)).code == "forwarding-denied"


@pytest.mark.fault("F9")
@pytest.mark.parametrize("way", EVERY)
async def test_host_keys(way: Way, tmp_path: Path) -> None:
    with server_for(way, tmp_path / "server") as server:
        server.forget_host_key()
        assert (await failure(way, server, tmp_path)).code == "host-key-unknown"
        assert server.known_hosts.read_text() == ""
        server.change_host_key()
        assert (await failure(way, server, tmp_path)).code == "host-key-changed"
        # no configuration turns the check off
        config = server.client_config.read_text()
        for off in ("StrictHostKeyChecking no", "StrictHostKeyChecking accept-new", "UserKnownHostsFile none"):
            server.client_config.write_text(f"{off}\n{config}")
            server.forget_host_key()
            assert (await failure(way, server, tmp_path)).code == "host-key-unknown"
        assert server.authentications() == 0


@pytest.mark.fault("F9")
@pytest.mark.parametrize("way", EVERY)
async def test_a_refused_key_and_a_closed_port(way: Way, tmp_path: Path) -> None:
    with server_for(way, tmp_path / "server") as server:
        server.make_key(server.client_key)
        error = await failure(way, server, tmp_path)
        assert error.code == "auth-refused", error.message
        assert "SSH_AUTH_SOCK is not set" in error.message
    assert (await failure(way, server, tmp_path)).code == "unreachable"


@pytest.mark.fault("F1")
@pytest.mark.parametrize("victim", ["ssh", "sshd", "held command"])
@pytest.mark.parametrize("way", EVERY)
async def test_kill_of_each_process(way: Way, victim: str, tmp_path: Path) -> None:
    with server_for(way, tmp_path / "server") as server:
        async with connected(way, server, tmp_path) as transport, await open_with(transport, b"e1") as stream:
            assert await stream.receive_some(1) == b"1"
            if victim == "ssh":
                for pid in transport.pids():
                    os.kill(pid, signal.SIGKILL)
            elif victim == "sshd":
                server.kill_sessions()
            else:
                below = [pid for pid in descendants(server.pid) if "echo_agent.py" in command_of(pid)]
                assert below
                for pid in below:
                    os.kill(pid, signal.SIGKILL)
            with trio.fail_after(3):
                await transport.lost.wait()
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await stream.receive_some(1) == b""
            assert transport.why_lost().code == "link-lost"
            with pytest.raises((SyncError, trio.BrokenResourceError)):
                await transport.open_stream()


AGENT = """
import sys, trio
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.e2e.test_link_conformance import make
from tests.helpers.sshd import ServerFiles

class Server:
    client_config = {config!r}

async def main():
    async with trio.open_nursery() as nursery:
        transport = await make({way!r}, Server, Path({directory!r}), nursery)
        if {hang}:
            nursery.start_soon(transport.connect)
            while not transport.pids():
                await trio.sleep(0.01)
        else:
            await transport.connect()
            stream = await transport.open_stream()
            await stream.send_all(b"e1")
            await stream.receive_some(1)
        print("up", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("hang", [False, True], ids=["connected", "connecting"])
@pytest.mark.parametrize("way", EVERY)
def test_no_ssh_outlives_a_killed_agent(way: Way, hang: bool, servers: dict[str, Any], tmp_path: Path) -> None:
    server = servers[way[1]]
    config = tmp_path / "config"
    proxy = "    ProxyCommand grep -c nothing\n" if hang else ""
    config.write_text(server.client_config.read_text().replace("Host box\n", f"Host box\n{proxy}"))
    script = AGENT.format(root=str(ROOT), config=str(config), way=way, directory=str(tmp_path), hang=hang)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline() == b"up\n"
            if hang:
                wait_until(lambda: any(command_of(pid).startswith("grep -c") for pid in descendants(agent.pid)), 10)
            children = descendants(agent.pid)
            assert children
        finally:
            agent.kill()
    wait_until(lambda: not any(command_of(pid) for pid in children), 2)


def wait_until(condition: Any, seconds: float) -> None:
    """What other processes do has no event to wait for."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_the_asyncssh_child_loads_no_trio() -> None:
    code = "import sys, agentd.links.asyncssh_child; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
