"""Where an agent keeps what: one rule, known to the agent and to the CLI, which cannot afford platformdirs' import.

``SYNCCTL_HOME`` puts everything below one folder.  Otherwise the places are platformdirs' (a test holds them to that),
but for the runtime directory: both ends of a socket must find the same one from an ssh session, a desktop and a cron
job, so where there is no ``XDG_RUNTIME_DIR`` it is ``/run/user/UID``, and where that is not there, below the state.  An
agent whose sockets are elsewhere nonetheless is found by what its lock file says.
"""

from __future__ import annotations

import os
from binascii import crc32

from proto.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SUN_PATH_MAX = {"linux": 107}
"""Bytes of a socket's path without its NUL; 103 on macOS and the BSDs."""

_LONGEST_NAME = 40
"""A link's socket with the random suffix that ssh binds first."""


class Places(NamedTuple):
    """Absolute paths.  Nothing here says that they exist."""

    config: str
    """config.toml"""
    state: str
    """Directory: the store, the lock, the log."""
    runtime: str
    """Directory, 0700: sockets."""
    control_socket: str
    peer_socket: str
    log: str


def places(
    environ: Mapping[str, str], uid: int, platform: str, is_dir: Callable[[str], bool] = os.path.isdir
) -> Places:
    """The places of user ``uid`` on ``platform`` (``sys.platform``).  Looks at no file but by ``is_dir``."""
    home = environ.get("SYNCCTL_HOME")
    if home:
        home = os.path.abspath(home)
        config, state, runtime = home, f"{home}/state", f"{home}/run"
    else:
        user = environ.get("HOME") or os.path.expanduser("~")
        support = f"{user}/Library/Application Support/syncctl" if platform == "darwin" else None
        config = _xdg(environ, "XDG_CONFIG_HOME", support or f"{user}/.config/syncctl")
        state = _xdg(environ, "XDG_STATE_HOME", support or f"{user}/.local/state/syncctl")
        runtime = _xdg(environ, "XDG_RUNTIME_DIR", "")
        if not runtime or not is_dir(os.path.dirname(runtime)):
            runtime = f"/run/user/{uid}/syncctl" if is_dir(f"/run/user/{uid}") else f"{state}/run"
    if len(os.fsencode(runtime)) + 1 + _LONGEST_NAME > SUN_PATH_MAX.get(platform, 103):
        path = os.fsencode(runtime)
        runtime = f"/tmp/syncctl-{uid}-{crc32(path):08x}{crc32(path[::-1]):08x}"  # noqa: S108 - made 0700 and checked
    return Places(
        f"{config}/config.toml",
        state,
        runtime,
        f"{runtime}/control.sock",
        f"{runtime}/peer.sock",
        f"{state}/agentd.log",
    )


def lock_path(state: str) -> str:
    """The lock of the one agent of a home on this machine: a home may be shared by several over a network."""
    return f"{state}/agent-{os.uname().nodename}.lock"


def recorded_sockets(here: Places) -> tuple[str, str] | None:
    """The control and the peer socket that an agent wrote into its lock file, alive or not."""
    from json import loads

    try:
        with open(lock_path(here.state), "rb") as file:
            said = loads(file.read(1 << 16))
        return str(said["control_socket"]), str(said["peer_socket"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _xdg(environ: Mapping[str, str], name: str, default: str) -> str:
    value = environ.get(name, "")
    return f"{value}/syncctl" if value.startswith("/") else default
