"""Who is at the other end of a Unix socket: the one check that holds even where a socket's mode does not."""

from __future__ import annotations

from struct import calcsize, unpack_from

from proto.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    class Socket(Protocol):
        """The one method that is needed of a socket."""

        def getsockopt(self, level: int, option: int, buflen: int, /) -> bytes:
            """See the socket module."""


_LINUX = (1, 17, "3i", 1)  # SOL_SOCKET, SO_PEERCRED, struct ucred {pid, uid, gid}
_DARWIN = (0, 1, "2I", 1)  # SOL_LOCAL, LOCAL_PEERCRED, struct xucred {version, uid, ...}


def peer_uid(socket: Socket, platform: str) -> int | None:
    """The peer's user id as the kernel knows it; None on a ``platform`` (``sys.platform``) that cannot say."""
    if platform == "linux":
        level, option, layout, field = _LINUX
    elif platform == "darwin":
        level, option, layout, field = _DARWIN
    else:
        return None
    data = socket.getsockopt(level, option, 128)
    return int(unpack_from(layout, data)[field]) if len(data) >= calcsize(layout) else None


def peer_pid(socket: Socket, platform: str) -> int | None:
    """The process that listens, where the kernel tells."""
    if platform != "linux":
        return None
    level, option, layout, _ = _LINUX
    return int(unpack_from(layout, socket.getsockopt(level, option, 128))[0])


def trusted(uid: int | None, ours: int) -> bool:
    """Whether a peer of that user may act for us: ourselves, or root, who can anyway."""
    return uid is None or uid in (ours, 0)
