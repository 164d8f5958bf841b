"""A FUSE file system that passes everything through to a directory, but for the faults that a test asks for.

Meant for root, as tests that mount are.  As a program: ``python faulty_fs.py BACKING MOUNTPOINT CONTROL``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_STAT = (
    *("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks"),
    *("st_atime_ns", "st_mtime_ns", "st_ctime_ns"),
)
_STATFS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")
MOUNT_S = 20.0


class FaultyFs(NamedTuple):
    """One that is mounted."""

    mount: Path
    backing: Path
    """The same tree without faults."""
    control: Path

    def fail(self, op: str, number: int, path: str = "", *, after: int = 0, times: int = -1) -> None:
        """Add a fault: ``op`` (a method of ``_Passthrough``) on paths that hold the regular expression ``path`` gives
        the errno ``number``, but for its first ``after`` calls, at most ``times`` times (-1: always).
        """
        self._add(op=op, errno=number, path=path, after=after, times=times, until="")

    def hold(self, op: str, path: str, until: Path) -> None:
        """Add a delay: ``op`` waits until the file ``until`` is there, once."""
        self._add(op=op, errno=0, path=path, after=0, times=1, until=str(until))

    def heal(self) -> None:
        """Remove all faults, and forget what fired."""
        self._write([])
        self.control.with_suffix(".fired").write_text("")

    def _add(self, **rule: Any) -> None:
        self._write([*json.loads(self.control.read_text()), {"id": time.monotonic_ns(), **rule}])

    def _write(self, rules: list[dict[str, Any]]) -> None:
        fresh = self.control.with_suffix(".new")
        fresh.write_text(json.dumps(rules))
        fresh.rename(self.control)

    def fired(self) -> list[str]:
        """``op path`` of each fault that was delivered, and of each delay that has begun."""
        return self.control.with_suffix(".fired").read_text().splitlines()


@contextlib.contextmanager
def faulty_fs(directory: Path, *, names: str = "", name_max: int = 255) -> Iterator[FaultyFs]:
    """One that is mounted at ``directory/mnt``.  Skips where it cannot be mounted.

    ``names`` is "fold" where case does not tell names apart, "still" where a change of it alone does nothing besides,
    or "nfd" where names are kept decomposed; none may be longer than ``name_max`` bytes.
    """
    import pytest

    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("no FUSE here: it takes root and /dev/fuse")
    made = FaultyFs(directory / "mnt", directory / "backing", directory / "faults.json")
    made.mount.mkdir()
    made.backing.mkdir()
    made.heal()
    said = directory / "fuse.log"
    with said.open("wb") as log:
        argv = [sys.executable, "-P", __file__, *map(str, (made.backing, made.mount, made.control, names, name_max))]
        process = subprocess.Popen(argv, stderr=log, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"mounted\n":
            process.kill()
            pytest.skip(f"FUSE cannot be mounted here: {said.read_text()[-300:]}")
        yield made
    finally:
        made.heal()
        subprocess.run(["umount", "-l", made.mount], check=False, capture_output=True)
        try:
            process.communicate(timeout=MOUNT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


class _Passthrough:
    """What mfusepy calls; paths are text with surrogate escapes, from the mount point."""

    use_ns = True

    def __init__(self, backing: str, control: str, names: str, name_max: int) -> None:
        self.backing, self.control, self.names, self.name_max = backing, Path(control), names, name_max
        self.lock = threading.Lock()
        self.version = (0, 0)
        self.rules: list[dict[str, Any]] = []

    def init(self, _path: str) -> None:
        """The kernel has it."""
        print("mounted", flush=True)

    def fault(self, op: str, path: str) -> None:
        """Fail or wait, if the test wants that here."""
        with self.lock:
            seen = self.control.stat()
            if (seen.st_ino, seen.st_mtime_ns) != self.version:
                self.version = (seen.st_ino, seen.st_mtime_ns)
                counted = {rule["id"]: rule for rule in self.rules}
                self.rules = [counted.get(rule["id"], rule) for rule in json.loads(self.control.read_text())]
            for rule in self.rules:
                if rule["op"] != op or not re.search(rule["path"], path) or rule["times"] == 0:
                    continue
                if rule["after"] > 0:
                    rule["after"] -= 1
                    continue
                rule["times"] -= 1
                with self.control.with_suffix(".fired").open("a", errors="surrogateescape") as file:
                    file.write(f"{op} {path}\n")
                break
            else:
                return
        if rule["errno"]:
            raise OSError(rule["errno"], os.strerror(rule["errno"]))
        _wait_for(rule["until"])

    def at(self, op: str, path: str) -> str:
        """The path in the backing directory."""
        self.fault(op, path)
        found = self.backing
        for name in filter(None, path.split("/")):
            if len(os.fsencode(name)) > self.name_max:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            found += "/" + self.stored(found, name)
        return found

    def stored(self, directory: str, name: str) -> str:
        """The name as it is kept."""
        if self.names == "nfd":
            return unicodedata.normalize("NFD", name)
        if self.names in ("fold", "still") and not os.path.lexists(f"{directory}/{name}"):
            with contextlib.suppress(OSError):
                return next((had for had in os.listdir(directory) if had.casefold() == name.casefold()), name)
        return name

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        return _fields(os.fstat(fh) if fh else os.lstat(self.at("getattr", path)))

    def statfs(self, path: str) -> dict[str, int]:
        seen = os.statvfs(self.at("statfs", path))
        return {name: getattr(seen, name) for name in _STATFS}

    def readdir(self, path: str, _fh: int) -> list[tuple[str, dict[str, int], int]]:
        at = self.at("readdir", path)
        names = [".", "..", *os.listdir(at)]
        return [(name, _fields(os.lstat(f"{at}/{name}")), 0) for name in names]

    def readlink(self, path: str) -> str:
        return os.readlink(self.at("readlink", path))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at("mkdir", path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at("rmdir", path))

    def unlink(self, path: str) -> None:
        os.unlink(self.at("unlink", path))

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self.at("symlink", path))

    def link(self, path: str, existing: str) -> None:
        os.link(self.at("linked", existing), self.at("link", path), follow_symlinks=False)

    def rename(self, old: str, new: str, flags: int) -> None:
        source, target = self.at("renamed", old), self.at("rename", new)
        if self.names == "fold" and source == target:
            target = os.path.join(os.path.dirname(target), os.path.basename(new))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at("chmod", path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        keep = 0xFFFFFFFF
        os.lchown(self.at("chown", path), -1 if uid == keep else uid, -1 if gid == keep else gid)

    def utimens(self, path: str, times: tuple[int, int] = (0, 0)) -> None:
        os.utime(self.at("utimens", path), ns=times, follow_symlinks=False)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(fh or self.at("truncate", path), length)

    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self.at("create", path), flags | os.O_CREAT, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self.at("open", path), flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self.fault("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.fault("write", path)
        return os.pwrite(fh, data, offset)

    def flush(self, path: str, _fh: int) -> None:
        self.fault("flush", path)

    def fsync(self, path: str, _datasync: int, fh: int) -> None:
        self.fault("fsync", path)
        os.fsync(fh)

    def fsyncdir(self, path: str, _datasync: int, _fh: int) -> None:
        self.fault("fsyncdir", path)

    def release(self, _path: str, fh: int) -> None:
        os.close(fh)

    def listxattr(self, path: str) -> list[str]:
        return os.listxattr(self.at("listxattr", path), follow_symlinks=False)

    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        return os.getxattr(self.at("getxattr", path), name, follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, options: int, _position: int = 0) -> None:
        os.setxattr(self.at("setxattr", path), name, value, options, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.at("removexattr", path), name, follow_symlinks=False)


def _fields(seen: os.stat_result) -> dict[str, int]:
    return {name.removesuffix("_ns"): getattr(seen, name) for name in _STAT}


def _wait_for(path: str) -> None:
    give_up = time.monotonic() + MOUNT_S
    while not os.path.exists(path) and time.monotonic() < give_up:
        time.sleep(0.005)


def _serve(backing: str, mount: str, control: str, names: str, name_max: str) -> None:
    import mfusepy  # type: ignore[import-untyped]

    class Fuse(mfusepy.FUSE):  # type: ignore[misc]
        """mfusepy drops the flags of renameat2, so that an exchange would lose a file."""

        def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
            self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags)
            return 0

    Fuse(
        _Passthrough(backing, control, names, int(name_max)),
        mount,
        foreground=True,
        fsname="faulty",
        use_ino=True,
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        allow_other=True,
        default_permissions=True,
    )


if __name__ == "__main__":
    _serve(*sys.argv[1:])
