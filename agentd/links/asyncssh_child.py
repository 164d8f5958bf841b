"""The process of the asyncssh transport; asyncio lives here and nowhere else.

Its argument is a JSON object (see ``asyncssh_link.child_argv``).  With a ``socket`` it holds the remote command,
forwards the socket to the one that the command names, passes the marked line on, and ends with its stdin, the command,
or the connection.  Without one it connects its stdin and stdout to the remote command.  Failures before the marked line
are told in a marked line of its own; the exit status is the remote command's, or 255 when the connection was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any, cast

import asyncssh

from proto.errors import ProtocolError, SyncError
from proto.hold import Failed, LineScanner, Ready, encode_line
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Sequence

LOST = 255

CONNECT_TIMEOUT_S = 15
_LOGIN_TIMEOUT_S = 30
_FAST_CIPHER = "^aes128-gcm@openssh.com"
_CHUNK = 64 << 10

_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


class _Client(asyncssh.SSHClient):
    """Says whether an untrusted host key is a new one or a changed one, and accepts neither."""

    def __init__(self, known_hosts: list[str] | bytes, alias: str | None) -> None:
        self.verdict = "host-key-unknown"
        self._known_hosts = known_hosts
        self._alias = alias

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a key that known_hosts does not trust."""
        del key
        known = asyncssh.match_known_hosts(
            self._known_hosts, self._alias or host, addr, port if port != asyncssh.DEFAULT_PORT else None
        )
        if known[0]:
            self.verdict = "host-key-changed"
        return False


async def _connect(request: dict[str, Any]) -> asyncssh.SSHClientConnection:
    """A connection that trusts what known_hosts trusts.  Raises SyncError."""
    host = escape_text(request["shown"])
    clients: list[_Client] = []
    try:
        options = _options(request)
        # never None, which would be no check at all: 'UserKnownHostsFile none' is an empty file
        known_hosts = _known_hosts(options)
        alias = options.host_key_alias

        def client() -> _Client:
            clients.append(_Client(known_hosts, alias))
            return clients[-1]

        extra: dict[str, Any] = {"known_hosts": known_hosts, "client_factory": client}
        if not options.config.get("Ciphers"):
            extra["encryption_algs"] = _FAST_CIPHER
        return await asyncssh.connect(request["host"], options=asyncssh.SSHClientConnectionOptions(options, **extra))
    except asyncssh.ConfigParseError as e:
        raise SyncError("config", f"{host}: its ssh configuration: {escape_text(str(e))}") from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as e:
        raise SyncError("auth-refused", f"{host}: a key cannot be used: {escape_text(str(e))}") from None
    except asyncssh.PermissionDenied as e:
        refused = f"{host}: it refused every key ({request['agent']}): {escape_text(e.reason)}"
        raise SyncError("auth-refused", refused) from None
    except asyncssh.HostKeyNotVerifiable as e:
        code = clients[-1].verdict if clients else "host-key-unknown"
        if "revoked" in e.reason.lower():
            code = "host-key-changed"
        raise SyncError(code, f"{host}: {escape_text(e.reason)}") from None
    except (OSError, asyncssh.Error, TimeoutError) as e:
        why = getattr(e, "reason", "") or getattr(e, "strerror", "") or str(e) or "no answer in time"
        raise SyncError("unreachable", f"{host}: could not connect: {escape_text(why[:300])}") from None


def _options(request: dict[str, Any]) -> asyncssh.SSHClientConnectionOptions:
    given: dict[str, Any] = {name: request[name] for name in ("user", "port") if request[name]}
    if "user" in given:
        given["username"] = given.pop("user")
    if request["config_file"]:
        given["config"] = [request["config_file"]]
    return asyncssh.SSHClientConnectionOptions(
        host=request["host"],
        agent_forwarding=False,
        x11_forwarding=False,
        compression_algs=None,
        command=None,
        request_pty=False,
        ignore_encrypted=True,
        password_auth=False,
        kbdint_auth=False,
        keepalive_interval=max(1, math.ceil(request["dead_after_s"] / 3)),
        keepalive_count_max=3,
        connect_timeout=CONNECT_TIMEOUT_S,
        login_timeout=_LOGIN_TIMEOUT_S,
        **given,
    )


def _known_hosts(options: asyncssh.SSHClientConnectionOptions) -> list[str] | bytes:
    """The files that there are, as ssh would read them; empty bytes when there are none."""
    config = options.config
    named: list[str] = [
        *cast("Sequence[str]", config.get("UserKnownHostsFile", _KNOWN_HOSTS)),
        *cast("Sequence[str]", config.get("GlobalKnownHostsFile", _GLOBAL_KNOWN_HOSTS)),
    ]
    paths = [os.path.expanduser(path) for path in named]
    return [path for path in paths if os.path.isfile(path) and os.access(path, os.R_OK)] or b""


async def _hold(connection: asyncssh.SSHClientConnection, request: dict[str, Any]) -> int:
    """Run the held command, forward the socket, stay; the exit status."""
    process = await connection.create_process(request["command"], encoding=None, stderr=asyncssh.DEVNULL)
    ready = await _wait_ready(process, request)
    if ready is None:
        return process.exit_status or 0
    where = os.fsdecode(ready.socket)
    await _try_forwarding(connection, where, request)
    os.umask(0o177)
    await connection.forward_local_path(request["socket"], where)
    _say(ready)
    ends = [asyncio.ensure_future(end) for end in (_stdin_end(), process.wait_closed(), connection.wait_closed())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if ends[0].done():
        return 0
    # a lost connection closes the process as well, without an exit status
    return LOST if process.exit_status is None else process.exit_status


async def _wait_ready(process: asyncssh.SSHClientProcess[bytes], request: dict[str, Any]) -> Ready | None:
    """The marked line; None when the far end reported a failure, which is passed on.  Raises SyncError."""
    scanner = LineScanner()
    host = escape_text(request["shown"])
    try:
        while data := await process.stdout.read(_CHUNK):
            message = scanner.feed_untrusted(data)
            if isinstance(message, Ready):
                return message
            if message is not None:
                _say(message)
                await process.wait_closed()
                return None
    except ProtocolError as e:
        raise SyncError("noisy-shell", f"{host}: {e}") from None
    if scanner.noise.strip():
        head = escape_text(scanner.noise.strip().split(b"\n")[0][:80])
        raise SyncError("noisy-shell", f"{host}: the login shell there prints, and syncctl's answer was lost: {head}")
    await process.wait_closed()
    raise SyncError("remote-failed", f"{host}: syncctl there ended with status {process.exit_status}")


async def _try_forwarding(connection: asyncssh.SSHClientConnection, path: str, request: dict[str, Any]) -> None:
    """Open one channel: a listener alone would accept and then close.  Raises SyncError.

    Whatever the reason is called: the held command has just connected to that socket itself.
    """
    host = escape_text(request["shown"])
    try:
        _, writer = await connection.open_unix_connection(path)
    except asyncssh.ChannelOpenError:
        raise SyncError("forwarding-denied", f"{host}: its sshd does not forward to a Unix socket") from None
    writer.close()


async def _stdin_end() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(_CHUNK):
        pass


async def _pipe_through(connection: asyncssh.SSHClientConnection, request: dict[str, Any]) -> int:
    """Connect stdin and stdout to the remote command; its exit status."""
    process = await connection.create_process(
        request["command"],
        encoding=None,
        stdin=os.dup(0),
        stdout=os.dup(1),
        stderr=asyncssh.DEVNULL,
    )
    await process.wait_closed()
    return LOST if process.exit_status is None else process.exit_status


async def _serve(request: dict[str, Any]) -> int:
    try:
        connection = await _connect(request)
        with contextlib.closing(connection):
            return await (_hold if request["socket"] else _pipe_through)(connection, request)
    except SyncError as e:
        _say(Failed(e.code, e.message.removeprefix(escape_text(request["shown"]) + ": "), None))
        return LOST
    except (OSError, asyncssh.Error) as e:
        # the connection went away under one of the steps
        _say(Failed("unreachable", f"the connection was lost: {escape_text(str(e)[:300])}"))
        return LOST


def _say(message: Ready | Failed) -> None:
    sys.stdout.buffer.write(encode_line(message))
    sys.stdout.buffer.flush()


def main() -> None:
    """Run the request in the last argument."""
    status = asyncio.run(_serve(json.loads(sys.argv[-1])))
    # not by way of a shutdown that waits for a peer
    os._exit(status)


if __name__ == "__main__":
    main()
