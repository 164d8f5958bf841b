"""Whether two trees are equal: rsync's word where it is installed, and a comparison of our own everywhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from typing import NamedTuple

RSYNC = shutil.which("rsync")

Root = str | bytes | os.PathLike[str]


class Seen(NamedTuple):
    """One entry as a sync is to keep it."""

    kind: str
    mode: int
    mtime_ns: int
    content: bytes
    """A file's hash, a link's target."""
    owner: tuple[int, int]


def snapshot(root: Root) -> dict[bytes, Seen]:
    """Everything below ``root``, itself included as b""."""
    top = os.fsencode(root)
    found = {b"": _seen(top)}
    for directory, dirs, files in os.walk(top):
        for name in (*dirs, *files):
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = _seen(path)
    return found


def differences(source: Root, destination: Root, *, owners: bool = False) -> list[str]:
    """What differs, a line each; empty when nothing does.  Special files of the source do not count."""
    ours, theirs = snapshot(source), snapshot(destination)
    lines = [f"missing: {path!r}" for path, seen in ours.items() if path not in theirs and seen.kind != "special"]
    lines += [f"extra: {path!r}" for path in theirs if path not in ours]
    for path, a in ours.items():
        b = theirs.get(path)
        if b is None or a.kind == "special":
            continue
        for field in Seen._fields:
            if (field != "owner" or owners) and getattr(a, field) != getattr(b, field):
                lines.append(f"{field} of {path!r}: {getattr(a, field)!r}, there {getattr(b, field)!r}")
    return lines


def rsync_finds(source: Root, destination: Root, *, owners: bool = False) -> list[str]:
    """What rsync would change to mirror ``source``; nothing when it is not installed."""
    if RSYNC is None:
        return []
    slash = b"/" if os.path.isdir(os.fsencode(source)) else b""
    ended = subprocess.run(
        [
            *(RSYNC, "-rlptnci", "--delete", *(("-og",) if owners else ()), "--"),
            *(os.fsencode(source) + slash, os.fsencode(destination) + slash),
        ],
        capture_output=True,
        check=False,
    )
    lines = os.fsdecode(ended.stdout).splitlines()
    lines = [line for line in lines if not line.startswith("skipping non-regular file")]
    return lines if ended.returncode == 0 else [*lines, f"rsync: status {ended.returncode}: {ended.stderr!r}"]


def unequal(source: Root, destination: Root, *, owners: bool = False) -> list[str]:
    """Both opinions, together."""
    return differences(source, destination, owners=owners) + rsync_finds(source, destination, owners=owners)


def assert_same(source: Root, destination: Root, *, owners: bool = False) -> None:
    """Fail, and say where they differ."""
    found = unequal(source, destination, owners=owners)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:30])


def _seen(path: bytes) -> Seen:
    status = os.lstat(path)
    mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return Seen("file", mode, status.st_mtime_ns, hashlib.file_digest(file, "blake2b").digest(), owner)
    if stat.S_ISLNK(status.st_mode):
        return Seen("link", 0, status.st_mtime_ns, os.readlink(path), owner)
    return Seen("dir" if stat.S_ISDIR(status.st_mode) else "special", mode, status.st_mtime_ns, b"", owner)
