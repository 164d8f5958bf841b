"""Makes and checks the directories of ``proto.places``, and holds the lock that makes an agent the only one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from proto.errors import SyncError
from proto.places import lock_path

if TYPE_CHECKING:
    from proto.places import Places


class Holder(NamedTuple):
    """Who holds the lock, as far as it says."""

    pid: int
    control_socket: str


def private_directory(path: str) -> None:
    """Make ``path`` (and its parents) a directory of ours that nobody else can enter.  Raises SyncError.

    A directory that is there is not mended but refused: somebody else may have made it, and holds it open.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(path)
    except OSError as e:
        raise SyncError("no-agent", f"cannot make {path}: {e.strerror}", "make it, or set SYNCCTL_HOME") from None
    wrong = None
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is not a directory" if not stat.S_ISLNK(found.st_mode) else "is a symlink"
    elif found.st_uid != os.geteuid():
        wrong = f"belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        wrong = f"has mode {stat.S_IMODE(found.st_mode):04o}: others could enter it"
    if wrong:
        raise SyncError("no-agent", f"{path} {wrong}", "remove it, or make it yours with mode 0700")


class Lock:
    """The one agent of a home on this machine.  Held until the process ends, however it ends."""

    def __init__(self, places: Places) -> None:
        self.path = lock_path(places.state)
        self._places = places
        self._fd = -1

    def take(self) -> Holder | None:
        """Take it and say who we are; or who has it.  Raises SyncError when it cannot be made."""
        try:
            self._fd = self._open()
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._holder()
        except OSError as e:
            raise SyncError("no-agent", f"cannot lock {self.path}: {e.strerror}", "set SYNCCTL_HOME") from None
        self.record(self._places)
        return None

    def held(self) -> bool:
        """Whether the lock is still the one that others would find: a home that was removed is no longer ours."""
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        ours = os.fstat(self._fd)
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)

    def record(self, places: Places) -> None:
        """Say who we are and where our sockets are.  A disk that is full or read-only is no trouble: the lock holds."""
        sockets = {"control_socket": places.control_socket, "peer_socket": places.peer_socket}
        said = json.dumps({"pid": os.getpid(), **sockets}).encode()
        try:
            # the new text before the old one's rest goes: a reader finds either, or none that parses
            os.pwrite(self._fd, said, 0)
            os.ftruncate(self._fd, len(said))
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EBADF):
                raise

    def _open(self) -> int:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | flags, 0o600)
        except OSError as e:
            if e.errno not in (errno.EROFS, errno.EACCES):
                raise
        # a file system that became read-only is no reason not to start: the lock that is there can be held
        return os.open(self.path, os.O_RDONLY | flags)

    def _holder(self) -> Holder:
        try:
            said = json.loads(os.pread(self._fd, 4096, 0))
            return Holder(int(said["pid"]), str(said["control_socket"]))
        except (ValueError, KeyError, TypeError):
            return Holder(0, "")
        finally:
            os.close(self._fd)
            self._fd = -1
