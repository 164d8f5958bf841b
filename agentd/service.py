"""The service manager's side: sockets passed by it, readiness, watchdog.  systemd's protocols, and launchd's."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_FIRST_FD = 3
NAMES = ("control", "peer")


def passed_sockets(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Listening sockets by name: sd_listen_fds(3) with names ``control`` and ``peer``, or launchd's.

    A single unnamed one is the control socket.  The variables are removed, so that no child takes them for its own.
    """
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if environ.pop("LISTEN_PID", "") != str(os.getpid()) or not _is_number(count):
        return _launchd() if sys.platform == "darwin" else {}
    found: dict[str, socket.socket] = {}
    for i in range(int(count)):
        fd = _FIRST_FD + i
        os.set_inheritable(fd, False)
        name = names[i] if i < len(names) and names[i] in NAMES else NAMES[min(i, 1)]
        found.setdefault(name, socket.socket(fileno=fd))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _launchd() -> dict[str, socket.socket]:
    """launch_activate_socket(3) for the names in our plist; none when launchd did not start us."""
    library = ctypes.CDLL("/usr/lib/libSystem.dylib")
    found: dict[str, socket.socket] = {}
    for name in NAMES:
        fds, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
        key = name.capitalize().encode()
        if library.launch_activate_socket(key, ctypes.byref(fds), ctypes.byref(count)) == 0 and count.value:
            found[name] = socket.socket(fileno=fds[0])
            library.free(fds)
    return found


class Notifier:
    """sd_notify(3): says how it stands to the manager that asked for it, if one did."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if _is_number(usec) and pid == str(os.getpid()) else None
        """Say ``WATCHDOG=1`` at least this often; None when nobody watches."""

    def __call__(self, state: str) -> None:
        """Say ``state``, as ``READY=1``.  A manager that went away is not our trouble."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as out:
                out.sendto(state.encode(), address)
        except OSError:
            pass
