"""The command line of the system's ssh.

The person's own configuration stays in charge of how to get there (names, keys, jump hosts, proxies); what a link's
safety and its plain byte stream need is said on the command line, which wins over every file.
"""

from __future__ import annotations

import math
import shutil
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from agentd.links.diagnose import explain_ssh
from agentd.links.settings import child_environ, may_ask
from proto.errors import SyncError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from agentd.links.settings import Settings

CONNECT_TIMEOUT_S = 15

_FAST_CIPHER = "^aes128-gcm@openssh.com"

_FIXED = (
    "StrictHostKeyChecking=yes",
    "VerifyHostKeyDNS=no",
    "UpdateHostKeys=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "Tunnel=no",
    "Compression=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "EscapeChar=none",
    "ControlPersist=no",
    "StreamLocalBindUnlink=yes",
    "StreamLocalBindMask=0177",
    # at INFO, refused channels are named on stderr
    "LogLevel=INFO",
)

# since OpenSSH 8.7; before, they cannot stand in the person's configuration either
_FIXED_SINCE_8_7 = ("SessionType=default", "StdinNull=no", "ForkAfterAuthentication=no")


class Binary(NamedTuple):
    """An ssh and what there is to know of it."""

    path: str
    ciphers: str
    """Its default order."""
    fixed: tuple[str, ...]


_binaries: dict[str, Binary] = {}


async def find_ssh(environ: Mapping[str, str]) -> Binary | None:
    """The ssh on the person's PATH, looked at once per path; None when there is none that works."""
    path = shutil.which("ssh", path=child_environ(environ).get("PATH"))
    if path is None:
        return None
    if path not in _binaries:
        for fixed in (_FIXED + _FIXED_SINCE_8_7, _FIXED):
            done = await _run(path, "-G", "-F", "none", *_options(fixed), "x", environ=environ)
            if done.returncode == 0:
                _binaries[path] = Binary(path, _ciphers(done.stdout), fixed)
                break
    return _binaries.get(path)


async def ssh_argv(binary: Binary, settings: Settings, environ: Mapping[str, str], *mode: str) -> list[str]:
    """ssh with everything but the remote command, which goes behind it.  Raises SyncError ``config``.

    AES-GCM goes first, at twice the speed of the default order, unless the configuration says anything on ciphers.
    """
    alive_s = max(1, math.ceil(settings.dead_after_s / 3))
    options = [
        *binary.fixed,
        f"BatchMode={'no' if may_ask(environ) else 'yes'}",
        f"ConnectTimeout={CONNECT_TIMEOUT_S}",
        f"ServerAliveInterval={alive_s}",
        "ServerAliveCountMax=3",
    ]
    config = ["-F", settings.config_file] if settings.config_file is not None else []
    host, user, port = settings.destination
    where = [*(("-l", user) if user else ()), *(("-p", str(port)) if port else ()), "--", host]
    done = await _run(binary.path, "-G", *config, *_options(options), *where, environ=environ)
    if done.returncode != 0:
        error = explain_ssh(settings.host, done.stderr, environ)
        raise error if error.code == "config" else SyncError("config", error.message)
    if _ciphers(done.stdout) == binary.ciphers:
        options.append(f"Ciphers={_FAST_CIPHER}")
    return [binary.path, *config, *mode, *_options(options), *where]


async def control(binary: Binary, path: str, *request: str, environ: Mapping[str, str]) -> tuple[int, bytes]:
    """Ask the master behind the control socket ``path``; exit status and stderr.

    Without any configuration: the client would ask for the forwardings in the person's again.
    """
    done = await _run(binary.path, "-F", "none", "-S", path, *request, "--", "x", environ=environ)
    return done.returncode, done.stderr


def _options(options: tuple[str, ...] | list[str]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def _ciphers(output: bytes) -> str:
    for line in output.decode("utf-8", "replace").splitlines():
        if line.startswith("ciphers "):
            return line
    return ""


async def _run(*argv: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    """A short command; its stderr is capped by what it is."""
    with trio.move_on_after(CONNECT_TIMEOUT_S):
        run = partial(
            trio.run_process, argv, capture_stdout=True, capture_stderr=True, check=False, env=child_environ(environ)
        )
        return await run()
    raise SyncError("config", f"'{argv[0]} {argv[1]}' does not end; look for a Match exec in ssh's configuration")
