"""Links over a real sshd: shared, warm, noticed when dead, made again; each failure by its own name.

The far side is an agent that only greets and answers pings.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentd.config import Config, Host, Ssh
from agentd.links.destination import parse_destination
from agentd.links.links import Links
from agentd.links.settings import Settings
from agentd.links.ssh import find_ssh, ssh_argv
from agentd.wire import ConnectionLost
from proto.errors import SyncError
from proto.hello import Hello
from tests.helpers.sshd import SSHD, Sshd, command_of, descendants

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from agentd.links.link import Link

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")

ROOT = Path(__file__).parents[2]
FAR_AGENT = shlex.join([sys.executable, str(ROOT / "tests/helpers/wire_agent.py")])
ENVIRON: Mapping[str, str] = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def ours() -> Hello:
    return Hello("agent", 1, 1, "0.1.0", b"near agent id 16")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path / "server") as running:
        yield running


@asynccontextmanager
async def running_links(directory: Path, server: Sshd, **ssh: Any) -> AsyncIterator[Links]:
    """Links that know the server as ``box``; no child process and no socket is left of them."""
    runtime = directory / "run"
    runtime.mkdir(exist_ok=True)
    config = Config("config.toml", Ssh(config_file=str(server.client_config), **ssh), {"box": Host(FAR_AGENT)})
    links = Links(config, ours, str(runtime))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: links.run(task_status=task_status))
        yield links
        nursery.cancel_scope.cancel()
    assert [what for pid in descendants(os.getpid()) if "ServerAlive" in (what := command_of(pid))] == []
    assert list(runtime.iterdir()) == []


async def refused(links: Links, host: str = "box", environ: Mapping[str, str] = ENVIRON) -> SyncError:
    with pytest.raises(SyncError) as caught:
        await links.link(host, environ)
    return caught.value


def only(links: Links) -> Any:
    (status,) = links.statuses()
    return status


async def wait_state(links: Links, state: str) -> None:
    """States have no event: they are for people."""
    with trio.fail_after(10):
        while only(links).state != state:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def wait_connections(link: Link, count: int) -> None:
    """Spares are refilled in the background."""
    with trio.fail_after(10):
        while link.connections < count:  # noqa: ASYNC110
            await trio.sleep(0.01)


def far_agents(server: Sshd) -> list[int]:
    return [pid for pid in descendants(server.pid) if command_of(pid).startswith(sys.executable)]


async def test_callers_share_one_attempt_and_one_link(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        found: list[Any] = []

        async def ask() -> None:
            found.append(await links.link("box", ENVIRON))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert len({id(link) for link in found}) == 1
        assert server.authentications() == 1
        status = only(links)
        assert (status.host, status.state, status.transport, status.version) == ("box", "up", "openssh", "0.1.0")


async def test_connections_are_greeted_spares_and_come_back(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        link = await links.link("box", ENVIRON)
        taken = [await link.connection() for _ in range(16)]
        assert len(set(taken)) == 16
        assert all(connection.agreement is not None for connection in taken)
        await wait_connections(link, 16 + 1 + 2)
        for connection in taken:
            link.give_back(connection)
        assert link.connections <= 16 + 1 + 4
        assert server.authentications() == 1
        assert link.rtt_s is not None
        assert link.rtt_s < 1


async def test_a_spare_that_the_far_side_closed_is_not_handed_out(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        link = await links.link("box", ENVIRON)
        connection = await link.connection()
        stream = link._streams[connection]
        assert isinstance(stream, trio.SocketStream)
        await stream.send_eof()
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(stream.socket)
        link.give_back(connection)
        others = [await link.connection() for _ in range(4)]
        assert connection not in others


async def test_a_lost_link_closes_its_connections_and_comes_back(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        link = await links.link("box", ENVIRON)
        connection = await link.connection()
        server.kill_sessions()
        with trio.fail_after(3):
            assert (await link.wait_lost()).code == "link-lost"
        with pytest.raises((ConnectionLost, trio.ClosedResourceError)):
            await connection.receive()
        with pytest.raises(SyncError) as caught:
            await link.connection()
        assert caught.value.code == "link-lost"
        link.give_back(connection)
        assert await links.link("box", ENVIRON) is not link


@pytest.mark.fault("F1")
async def test_a_warm_link_comes_back_by_itself(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        link = await links.link("box", ENVIRON)
        server.kill_sessions()
        await link.wait_lost()
        await wait_state(links, "up")
        assert server.authentications() == 2


async def test_an_agent_that_ended_is_not_started_again_unasked(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        link = await links.link("box", ENVIRON)
        for pid in far_agents(server):
            os.kill(pid, signal.SIGTERM)
        with trio.fail_after(3):
            assert (await link.wait_lost()).code == "link-lost"
        await wait_state(links, "idle")
        assert server.authentications() == 1
        await links.link("box", ENVIRON)
        assert server.authentications() == 2


@pytest.mark.fault("F2")
async def test_silence_is_noticed(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server, dead_after_s=1.5) as links:
        link = await links.link("box", ENVIRON)
        stopped = far_agents(server)
        assert stopped
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        begin = trio.current_time()
        try:
            with trio.fail_after(5):
                error = await link.wait_lost()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
        assert error.code == "link-lost"
        assert "nothing was heard" in error.message
        assert 0.5 < trio.current_time() - begin < 3


async def test_after_a_sleep_the_link_is_proved_before_it_is_used(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        link = await links.link("box", ENVIRON)
        link._asleep_s -= 100
        with trio.fail_after(2):
            connection = await link.connection()
        assert connection.agreement is not None
        assert not link._has_slept()
        await wait_connections(link, 1 + 1 + 2)
        stopped = far_agents(server)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        link._asleep_s -= 100
        try:
            with trio.fail_after(8), pytest.raises(SyncError) as caught:
                await link.connection()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
        assert caught.value.code == "link-lost"


async def test_a_refused_key_stops_and_the_newest_environment_is_used(server: Sshd, tmp_path: Path) -> None:
    config = server.client_config.read_text().replace(f'IdentityFile "{server.client_key}"', "IdentityFile none")
    server.client_config.write_text(config.replace("IdentitiesOnly yes", "IdentitiesOnly no"))
    auth_sock = str(tmp_path / "agent.sock")
    with subprocess.Popen(["ssh-agent", "-D", "-a", auth_sock], stdout=subprocess.DEVNULL) as ssh_agent:  # noqa: ASYNC220
        try:
            with trio.fail_after(5):
                while not os.path.exists(auth_sock):  # noqa: ASYNC110, ASYNC240 - another process's doing
                    await trio.sleep(0.02)
            with_agent = {**ENVIRON, "SSH_AUTH_SOCK": auth_sock}
            await trio.run_process(["ssh-add", "-q", str(server.client_key)], env={**os.environ, **with_agent})
            async with running_links(tmp_path, server) as links:
                error = await refused(links)
                assert error.code == "auth-refused"
                assert "SSH_AUTH_SOCK is not set" in error.message
                assert only(links).state == "failed"
                gone = {**ENVIRON, "SSH_AUTH_SOCK": str(tmp_path / "gone")}
                assert "does not answer" in (await refused(links, environ=gone)).message
                link = await links.link("box", with_agent)
                # a later request from where there is no agent does not take the key away
                await links.link("box", ENVIRON)
                server.kill_sessions()
                await link.wait_lost()
                await links.link("box", ENVIRON)
        finally:
            ssh_agent.terminate()


async def test_a_passphrase_is_asked_for_by_the_persons_askpass(server: Sshd, tmp_path: Path) -> None:
    await trio.run_process(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", server.client_key])
    askpass = tmp_path / "askpass"
    askpass.write_text("#!/bin/sh\necho open sesame\n")
    askpass.chmod(0o700)
    async with running_links(tmp_path, server) as links:
        assert (await refused(links)).code == "auth-refused"
        await links.link("box", {**ENVIRON, "SSH_ASKPASS": str(askpass)})


@pytest.mark.fault("F13")
@pytest.mark.parametrize("transport", ["auto", "openssh", "asyncssh", "stdio"])
async def test_where_forwarding_is_denied(transport: str, tmp_path: Path) -> None:
    options = {"DisableForwarding": "yes", "MaxSessions": "1"}
    with Sshd(tmp_path / "server", options=options) as server:
        async with running_links(tmp_path, server, transport=transport) as links:
            if transport in ("openssh", "asyncssh"):
                assert (await refused(links)).code == "forwarding-denied"
                assert only(links).state == "failed"
                return
            link = await links.link("box", ENVIRON)
            assert only(links).transport == "stdio"
            connections = [await link.connection() for _ in range(16)]
            assert len(set(connections)) == 16
            before = server.authentications()
            server.kill_sessions()
            await link.wait_lost()
            await links.link("box", ENVIRON)
            # it is remembered: no second attempt to forward
            assert server.authentications() == before + 1


async def test_without_an_ssh_binary(server: Sshd, tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path)}
    async with running_links(tmp_path, server) as links:
        await links.link("box", nothing)
        assert only(links).transport == "asyncssh"
    async with running_links(tmp_path, server, transport="openssh") as links:
        assert (await refused(links, environ=nothing)).code == "ssh-missing"
    async with running_links(tmp_path, server, transport="stdio") as links:
        await links.link("box", nothing)
        assert only(links).transport == "stdio"


@pytest.mark.fault("F9")
async def test_host_key_trouble_stops(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        server.change_host_key()
        assert (await refused(links)).code == "host-key-changed"
        server.forget_host_key()
        assert (await refused(links)).code == "host-key-unknown"
        assert only(links).state == "failed"
        assert "known_hosts" in only(links).error
        server.write_client_side()
        await links.link("box", ENVIRON)


@pytest.mark.fault("F9")
@pytest.mark.parametrize("transport", ["openssh", "asyncssh"])
async def test_a_revoked_key_and_a_server_that_wants_a_password(transport: str, tmp_path: Path) -> None:
    """Each by its name, and asked once: nothing gets better by trying again."""
    options = {"PubkeyAuthentication": "no", "PasswordAuthentication": "yes"}
    with Sshd(tmp_path / "server", options=options) as server:
        async with running_links(tmp_path, server, transport=transport) as links:
            assert (await refused(links)).code == "auth-refused"
            revoked = "@revoked " + server.known_hosts.read_text()
            server.change_host_key()
            server.known_hosts.write_text(revoked + server.known_hosts.read_text())
            error = await refused(links)
            assert error.code == "host-key-changed", error.message
            assert only(links).state == "failed"
            await trio.sleep(1)  # four times the first pause before another attempt
            connections = server.log.read_text().count("[preauth]")
            await trio.sleep(1)
            assert server.log.read_text().count("[preauth]") == connections


@pytest.mark.fault("F1")
async def test_what_may_get_better_is_tried_again_for_a_while(server: Sshd, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    proxy = tmp_path / "proxy"
    proxy.write_text(f"#!/bin/sh\necho x >> {tries}\nexit 1\n")
    proxy.chmod(0o700)
    server.client_config.write_text(f"ProxyCommand {proxy}\n" + server.client_config.read_text())
    async with running_links(tmp_path, server) as links:
        assert (await refused(links)).code == "unreachable"
        assert len(tries.read_text().split()) == 1
        with pytest.raises(SyncError):
            await links.link("box", ENVIRON, retry_s=3)
        assert len(tries.read_text().split()) > 2


def no_descriptors(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_trouble_of_this_machine_ends_no_more_than_the_attempt(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_links(tmp_path, server) as links:
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", no_descriptors)
            error = await refused(links)
        assert error.code == "unreachable"
        assert "Too many open files" in error.message
        await links.link("box", ENVIRON)
    assert (await refused(links)).code == "agent-stopping"


async def test_hosts_that_ssh_may_not_be_given(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        for host in ("-oProxyCommand=touch x", "a b", "x\ny"):
            assert (await refused(links, host)).code == "usage"
        assert links.statuses() == []


async def test_callers_hear_when_the_agent_stops(server: Sshd, tmp_path: Path) -> None:
    server.client_config.write_text("ProxyCommand grep -c nothing\n" + server.client_config.read_text())
    heard: list[str] = []
    async with trio.open_nursery() as callers:
        async with running_links(tmp_path, server) as links:

            async def ask() -> None:
                heard.append((await refused(links)).code)

            callers.start_soon(ask)
            with trio.fail_after(10):
                while not any(command_of(pid).startswith("grep -c") for pid in descendants(os.getpid())):  # noqa: ASYNC110
                    await trio.sleep(0.02)
        assert heard in ([], ["agent-stopping"])
    assert heard == ["agent-stopping"]


async def test_a_killed_predecessors_sockets_are_removed(server: Sshd, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    for name in ("link-1.c", "link-1.s", "link-1.c.Xy12Zw34Ab56Cd78"):
        (runtime / name).touch()
    async with running_links(tmp_path, server) as links:
        await links.link("box", ENVIRON)


async def test_the_persons_ciphers_win(server: Sshd, tmp_path: Path) -> None:
    binary = await find_ssh(ENVIRON)
    assert binary is not None
    settings = Settings("box", parse_destination("box"), config_file=str(server.client_config))
    assert "Ciphers=^aes128-gcm@openssh.com" in await ssh_argv(binary, settings, ENVIRON)
    server.client_config.write_text("Host b*\n  Ciphers aes256-ctr\n" + server.client_config.read_text())
    assert not any("Ciphers" in word for word in await ssh_argv(binary, settings, ENVIRON))


async def test_a_bad_ssh_configuration_is_named(server: Sshd, tmp_path: Path) -> None:
    server.client_config.write_text("Frobnicate yes\n" + server.client_config.read_text())
    async with running_links(tmp_path, server) as links:
        error = await refused(links)
        assert error.code == "config"
        assert "frobnicate" in error.message.lower()


async def test_sessions_that_take_and_give_grow_nothing(server: Sshd, tmp_path: Path) -> None:
    async with running_links(tmp_path, server) as links:
        link = await links.link("box", ENVIRON)
        fds = 0
        for n in range(200):
            link = await links.link("box", ENVIRON)
            connection = await link.connection()
            if n % 3:
                link.give_back(connection)
            else:
                await connection.aclose()
            if n == 50:
                fds = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) <= fds + 4
        assert server.authentications() == 1
