"""An SSH server by asyncssh in a process of its own, with the face of ``Sshd``: for machines that have no sshd.

It runs each exec request by ``sh -c`` with a given environment, forwards to Unix sockets, and passes half-closes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncssh

if __package__:
    from tests.helpers.sshd import ServerFiles, free_port, wait_banner
else:  # as the server's process
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from tests.helpers.sshd import ServerFiles, free_port, wait_banner

if TYPE_CHECKING:
    from collections.abc import Mapping


class EmbeddedSshd(ServerFiles):
    """A context manager: the server runs within it, as this user.

    ``environ`` is added to a small environment of every command; ``forwarding`` is whether it forwards at all.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        forwarding: bool = True,
    ) -> None:
        super().__init__(directory)
        self.log = self.directory / "sshd.log"
        self._environ = dict(environ or {})
        self._forwarding = forwarding
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for _ in range(5):  # another process may take the port in between
            self.port = free_port()
            self.write_client_side()
            self.log.touch()
            if self._start():
                return self
        raise RuntimeError(f"the embedded server does not start: {self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's."""
        if self._process is None:
            raise RuntimeError("not running")
        return self._process.pid

    def kill_sessions(self) -> None:
        """Cut every connection; the listener stays."""
        os.kill(self.pid, signal.SIGUSR1)

    def authentications(self) -> int:
        """How many logins there were."""
        return self.log.read_text().count("Accepted publickey")

    def stop(self) -> None:
        """End it, with the commands that it runs."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _start(self) -> bool:
        request = {
            "port": self.port,
            "host_key": str(self.host_key),
            "authorized_keys": str(self.authorized_keys),
            "environ": self._environ,
            "forwarding": self._forwarding,
            "log": str(self.log),
        }
        self._process = subprocess.Popen([sys.executable, __file__, json.dumps(request)], stdin=subprocess.PIPE)
        if wait_banner(self.port, self._process):
            return True
        self.stop()
        return False


class _Server(asyncssh.SSHServer):
    def __init__(self, request: dict[str, Any], connections: set[asyncssh.SSHServerConnection]) -> None:
        self._request = request
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._connection is not None:
            self._connections.discard(self._connection)

    def auth_completed(self) -> None:
        with Path(self._request["log"]).open("a") as log:
            log.write("Accepted publickey\n")

    def unix_connection_requested(self, dest_path: str) -> bool:
        del dest_path
        return bool(self._request["forwarding"])


async def _carry(source: Any, target: Any, *, close: bool = False) -> None:
    """Copy until either end goes; asyncssh's own redirection loses the tail of a command that ends at once."""
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    except (OSError, asyncssh.Error):
        pass
    if close:
        target.close()


async def _serve(request: dict[str, Any]) -> None:
    connections: set[asyncssh.SSHServerConnection] = set()
    commands: set[asyncio.subprocess.Process] = set()
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LANG") if name in os.environ}
    environ.update(request["environ"])

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = await asyncio.create_subprocess_exec(
            *("sh", "-c", process.command or "exit 1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=environ.get("HOME", "/"),
            start_new_session=True,
        )
        commands.add(command)
        feeding = asyncio.create_task(_carry(process.stdin, command.stdin, close=True))
        try:
            await asyncio.gather(_carry(command.stdout, process.stdout), _carry(command.stderr, process.stderr))
            status = await command.wait()
            process.exit(status if status >= 0 else 128 - status)
        finally:
            feeding.cancel()
            commands.discard(command)

    await asyncssh.listen(
        "127.0.0.1",
        request["port"],
        server_factory=lambda: _Server(request, connections),
        server_host_keys=[request["host_key"]],
        authorized_client_keys=request["authorized_keys"],
        process_factory=run,
        encoding=None,
        compression_algs=None,
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, _abort_all, connections)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    for command in commands:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)


def _abort_all(connections: set[asyncssh.SSHServerConnection]) -> None:
    for connection in list(connections):
        connection.abort()


def main() -> None:
    """Serve until stdin ends."""
    asyncio.run(_serve(json.loads(sys.argv[1])))
    os._exit(0)


if __name__ == "__main__":
    main()
