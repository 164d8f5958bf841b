"""Where a link leads, and the command that is run there."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from proto.errors import SyncError
from proto.hold import Failed, encode_line
from proto.text import escape_text

_FORBIDDEN = frozenset("'\"`$\\;&<>|(){}*?!#")
"""A host or user name never holds them; a ProxyCommand of the person's may hand the name to a shell."""

_PLACES = (
    "$HOME/.local/bin",
    "${PIPX_BIN_DIR:-$HOME/.local/bin}",
    "${UV_TOOL_BIN_DIR:-${XDG_BIN_HOME:-$HOME/.local/bin}}",
    "$HOME/.local/share/pipx/venvs/syncctl/bin",
    "$HOME/.local/pipx/venvs/syncctl/bin",
    "$HOME/.local/share/uv/tools/syncctl/bin",
    "$HOME/bin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
)


class Destination(NamedTuple):
    """What ssh needs to know; what is None is left to the person's ssh configuration."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_destination(text: str) -> Destination:
    """``host``, ``user@host``, ``[v6]`` or ``ssh://user@host:port``.  Raises SyncError ``usage``."""
    rest, port = text, None
    if text.startswith("ssh://"):
        rest = text[len("ssh://") :].rstrip("/")
        head, colon, tail = rest.rpartition(":")
        if colon and "]" not in tail:
            rest, port = head, _port(text, tail)
    user, at, host = rest.rpartition("@")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    for part in (host, user) if at else (host,):
        if not part or part.startswith("-") or any(c in _FORBIDDEN or c.isspace() or not c.isprintable() for c in part):
            raise SyncError("usage", f"'{escape_text(text)}' is not a host that ssh can be given")
    return Destination(host, user if at else None, port)


def _port(text: str, digits: str) -> int:
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits[:6]) < 65536:
        raise SyncError("usage", f"'{escape_text(text)}': the port is a number from 1 to 65535")
    return int(digits)


def remote_shell_command(verb: str, remote_command: str | None = None) -> str:
    """What ssh runs: ``syncctl VERB``, found by ``sh`` whatever the login shell is.

    ``remote_command`` is a shell command that stands for ``syncctl``.  The login shell sees one word in single quotes,
    free of what csh or fish would still change in it.
    """
    missing = encode_line(Failed("remote-missing", "syncctl was not found there")).decode().strip()
    if remote_command is not None:
        script = f'{remote_command} {verb}; s=$?; case $s in 126|127) echo "{missing}";; esac; exit $s'
    else:
        places = ":".join(_PLACES)
        script = (
            f'PATH="$PATH:{places}"; export PATH; '
            f'if command -v syncctl >/dev/null 2>&1; then exec syncctl {verb}; fi; echo "{missing}"; exit 127'
        )
    return f"exec sh -c {shlex.quote(script)}"
