"""Roots: where a path leads, and whether two roots contain each other.  Everything here may block."""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import NamedTuple

from agentd import _core
from proto.errors import SyncError
from proto.job import shown

Inode = tuple[int, int]
"""(device, inode)."""


_LINKS_MAX = 40
"""Symlinks that one path may lead through, as in the kernel."""


class Root(NamedTuple):
    """A root as it was found."""

    path: bytes
    """Absolute, without symlinks as far as it exists."""
    kind: str
    """"missing", "directory", "file" or "other"."""
    chain: tuple[Inode, ...]
    """The root, or its nearest existing ancestor, then every directory above it up to "/"."""
    missing: tuple[bytes, ...]
    """The components below ``chain[0]`` that do not exist."""
    inside: tuple[bytes, bytes] | None
    """(device number, path within that file system): one place seen through bind mounts has one of these."""
    identity: bytes = b""
    """Of a source that is a directory: what it is known by.  See ``_core.root_identity``."""

    @property
    def ancestry(self) -> list[list[int]]:
        """``chain`` as OPEN carries it, behind a place that is nobody's when the root itself does not exist."""
        return [[0, 0]] * bool(self.missing) + [list(pair) for pair in self.chain]


def absolute(path: bytes, base: bytes | None = None) -> bytes:
    """``path`` made absolute: a leading ``~`` is a home directory, anything else relative is below ``base`` or home.

    Raises SyncError ``usage`` for an unknown user's home.
    """
    if path.startswith(b"~"):
        expanded = os.path.expanduser(path)
        if expanded.startswith(b"~"):
            raise SyncError("usage", f"{shown(path)}: no such user", "a name that begins with ~ is written ./~name")
        path = expanded
    return os.path.join(base or os.path.expanduser(b"~"), path)


def locate(path: bytes) -> Root:
    """What is at the absolute ``path``.  Raises OSError when that cannot be found out, or is not to be."""
    real = _real(path)
    missing: list[bytes] = []
    where = real
    while True:
        try:
            found = os.stat(where)
            break
        except FileNotFoundError:
            where, name = os.path.split(where)
            missing.insert(0, name)
    kind = "missing"
    if not missing:
        kind = "directory" if stat.S_ISDIR(found.st_mode) else "file" if stat.S_ISREG(found.st_mode) else "other"
    chain = [(found.st_dev, found.st_ino)]
    above = where
    while above != b"/":
        above = os.path.dirname(above)
        status = os.stat(above)
        chain.append((status.st_dev, status.st_ino))
    return Root(real, kind, tuple(chain), tuple(missing), _inside(real))


def _real(path: bytes) -> bytes:
    """``path`` without symlinks, as far as it exists.  Raises OSError for a symlink of another user, who could make it
    lead elsewhere a moment later; the crate holds to the same rule when it opens a root."""
    real, links = b"", 0
    rest = path.split(b"/")[::-1]
    while rest:
        name = rest.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            real = real.rpartition(b"/")[0]
            continue
        at = real + b"/" + name
        try:
            found = os.lstat(at)
            target = os.readlink(at) if stat.S_ISLNK(found.st_mode) else None
        except OSError:
            target = None  # what is there, and whether it is wrong, locate() finds
        if target is None:
            real = at
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if found.st_uid not in (0, os.geteuid()):
            raise OSError(f"{shown(at)} is a symlink of another user: name the place that it leads to")
        if target.startswith(b"/"):
            real = b""
        rest += target.split(b"/")[::-1]
    return real or b"/"


def source_root(path: bytes) -> Root:
    """The source at ``path``.  Raises SyncError when it cannot be one."""
    try:
        root = locate(path)
        readable = os.access(root.path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
    except OSError as e:
        raise source_error(path, e) from None
    if root.kind == "missing":
        raise SyncError("source-missing", f"source {shown(path)} does not exist")
    if root.kind == "other":
        raise SyncError("source-type", f"source {shown(path)} is neither a directory nor a regular file")
    if not readable:
        raise source_error(path, PermissionError(errno.EACCES, ""))
    return identified(root)


def identified(root: Root) -> Root:
    """The same with the identity that its path has now.  Raises SyncError when it cannot be read."""
    if root.kind != "directory":
        return root
    try:
        return root._replace(identity=_core.root_identity(root.path))
    except OSError as e:
        raise source_error(root.path, e) from None


def same(known: bytes, found: bytes) -> bool:
    """Whether two identities are of one directory.

    The ids of some file systems (XFS) are device numbers, which may change at boot: inode and time of birth to the
    nanosecond do instead.
    """
    return known == found or (known[8:] == found[8:] and found[24:28] != bytes(4))


def destination_root(path: bytes) -> Root:
    """The destination at ``path``; its last component may be missing.  Raises SyncError when it cannot be one."""
    try:
        root = locate(path)
    except OSError as e:
        raise destination_error(path, e) from None
    if root.kind == "other":
        raise SyncError("destination-type", f"destination {shown(path)} is neither a directory nor a regular file")
    if len(root.missing) > 1:
        parent = os.path.dirname(root.path)
        raise SyncError("destination-missing", f"destination {shown(path)}: its parent {shown(parent)} does not exist")
    return root


def check_precious(root: Root) -> None:
    """Raise SyncError for a destination that ``--delete`` without ``--force`` is refused for: a home, or above one."""
    home = _home()
    if _below(root.path, home):
        what = "holds whole file systems" if root.path == b"/" else "is a home" if root.path == home else "holds homes"
        raise SyncError("destination-precious", f"destination {shown(root.path)} {what}: --delete would empty it")


@functools.cache
def _home() -> bytes:
    return os.path.realpath(os.path.expanduser(b"~"))


def source_error(path: bytes, error: OSError) -> SyncError:
    """What an OSError about a source root means to a person."""
    code = "source-missing" if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) else "source-unreadable"
    return SyncError(code, f"source {shown(path)}: {_reason(error)}")


_DESTINATION_CODES = {
    errno.ENOENT: "destination-missing", errno.ENOTDIR: "destination-type", errno.EISDIR: "destination-type",
    errno.EROFS: "destination-read-only", errno.ENOSPC: "destination-full", errno.EDQUOT: "destination-full",
}  # fmt: skip


def destination_error(path: bytes, error: OSError) -> SyncError:
    """What an OSError about a destination root means to a person."""
    code = _DESTINATION_CODES.get(error.errno or 0, "destination-unwritable")
    return SyncError(code, f"destination {shown(path)}: {_reason(error)}")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def overlap(a: Root, b: Root) -> bool:
    """Whether one of two roots of this machine is the other or lies within it."""
    return _contains(a, b) or _contains(b, a)


def overlaps_untrusted(root: Root, ancestry: list[list[int]], inside: list[bytes]) -> bool:
    """The same for a root that another agent of this machine names by its ancestry and its place (see Open)."""
    if root.inside is not None and inside and root.inside[0] == inside[0]:
        ours, theirs = root.inside[1], inside[1]
        if _below(ours, theirs) or _below(theirs, ours):
            return True
    chain = [tuple(pair) for pair in ancestry]
    if not chain:
        return False
    if root.kind != "missing" and root.chain[0] in chain:
        return True
    return chain[0] in root.chain


def _contains(outer: Root, inner: Root) -> bool:
    if outer.kind != "missing":
        if outer.chain[0] in inner.chain:
            return True
    elif outer.chain[0] == inner.chain[0] and inner.missing[: len(outer.missing)] == outer.missing:
        return True
    if _below(outer.path, inner.path):
        return True
    if outer.inside is None or inner.inside is None or outer.inside[0] != inner.inside[0]:
        return False
    return _below(outer.inside[1], inner.inside[1])


def _below(above: bytes, path: bytes) -> bool:
    above = above.rstrip(b"/")
    return path == above or path.startswith(above + b"/")


def _inside(path: bytes) -> tuple[bytes, bytes] | None:
    """The place of ``path`` within its file system, by the mount table; None where there is no such table."""
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            lines = table.readlines()
    except OSError:
        return None
    best: tuple[bytes, bytes, bytes] | None = None
    for line in lines:
        fields = line.split(b" ", 5)
        device, within, mounted = fields[2], _unescaped(fields[3]), _unescaped(fields[4])
        if _below(mounted, path) and (best is None or len(mounted) >= len(best[2])):
            best = device, within, mounted
    if best is None:
        return None
    return best[0], best[1].rstrip(b"/") + path[len(best[2].rstrip(b"/")) :]


def _unescaped(field: bytes) -> bytes:
    """A path of the mount table: blanks and backslashes are written in octal."""
    if b"\\" not in field:
        return field
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)
