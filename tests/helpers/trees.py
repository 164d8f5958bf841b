"""Trees to sync: seeded, with everything a name, a mode, a time and a link can be."""

from __future__ import annotations

import os
import random
import shutil
import stat
from typing import Self

FAR_PAST_NS = -86_400_000_000_000
"""The day before 1970."""

_EPOCH_NS = 1_600_000_000_000_000_000
_SIZES = (0, 1, 3, 700, 4095, 4096, 4097, 40_000, 131_072)
_MODES = (0o644, 0o600, 0o755, 0o640, 0o444, 0o666, 0o711)
_WORDS = (
    b"alpha", b"beta", b"gamma", b"with space", b"new\nline", b"tab\t", b"-dash", b"~", b"#hash#", b".dot", b"a:b",
    b"\xff\xfe", b"caf\xc3\xa9", b"cafe\xcc\x81", b"back\\slash", b"\\#012", b"*?[x]", b"'quote\"",
)  # fmt: skip


class TreeBuilder:
    """Builds below ``root``, which is made.  The same seed makes the same tree, times included.

    Paths are bytes relative to the root.  ``settle()`` (or leaving the ``with`` block) gives directories their modes
    and times, which building inside of them would change.
    """

    def __init__(self, root: str | bytes | os.PathLike[str], seed: int = 0) -> None:
        self.root = os.fsencode(root)
        self.random = random.Random(seed)
        self._dirs: dict[bytes, tuple[int, int]] = {}
        os.makedirs(self.root, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()

    def at(self, path: bytes) -> bytes:
        """The absolute path."""
        return os.path.join(self.root, path) if path else self.root

    def mtime_ns(self) -> int:
        """Some time, to the nanosecond."""
        return _EPOCH_NS + self.random.randrange(100_000_000 * 10**9)

    def noise(self, size: int) -> bytes:
        """``size`` bytes that do not compress."""
        return self.random.randbytes(size)

    def dir(self, path: bytes, *, mode: int = 0o755, mtime_ns: int | None = None) -> bytes:
        """A directory, with those above it; its path."""
        os.makedirs(self.at(path), exist_ok=True)
        self._dirs[path] = (mode, self.mtime_ns() if mtime_ns is None else mtime_ns)
        return path

    def file(
        self, path: bytes, content: bytes | None = None, *, mode: int = 0o644, mtime_ns: int | None = None
    ) -> bytes:
        """A file, with the directories above it; its path."""
        at = self.at(path)
        os.makedirs(os.path.dirname(at), exist_ok=True)
        with open(at, "wb") as file:
            file.write(self.noise(self.random.choice(_SIZES)) if content is None else content)
        os.chmod(at, mode)
        self._touch(at, mtime_ns)
        return path

    def symlink(self, path: bytes, target: bytes, *, mtime_ns: int | None = None) -> bytes:
        """A symlink; its path."""
        at = self.at(path)
        os.makedirs(os.path.dirname(at), exist_ok=True)
        os.symlink(target, at)
        self._touch(at, mtime_ns)
        return path

    def populate(self, files: int = 60, dirs: int = 12) -> Self:
        """An ordinary tree at random: directories in directories, files, some links."""
        places = [b""]
        for number in range(dirs):
            places.append(self.dir(self._name(places, number) + b".d", mode=self.random.choice((0o755, 0o700, 0o775))))
        for number in range(files):
            self.file(self._name(places, number), mode=self.random.choice(_MODES))
        for number in range(files // 10):
            self.symlink(self._name(places, number) + b".link", self.random.choice(_WORDS))
        return self

    def awkward(self) -> Self:
        """Every odd thing that a tree may hold and an account without privileges may make and read."""
        for word in _WORDS:
            self.file(b"names/" + word)
            self.file(b"names/dir " + word + b"/inner")
        self.file(b"names/" + b"n" * 255)
        self.file(b"names/" + b"\xe2\x82\xac" * 85)
        self.file(b"/".join([b"deep"] * 60) + b"/bottom")
        self.file(b"/".join([b"l" * 200] * 6) + b"/long")
        self.dir(b"empty")
        self.dir(b"empty/nested", mode=0o700)
        self.dir(b"locked", mode=0o555)
        self.file(b"locked/inside", mode=0o444)
        self.file(b"zero", b"")
        self.file(b"modes/set-id", mode=0o755)
        self.dir(b"modes/sticky", mode=0o1777)
        self.file(b"times/epoch", mtime_ns=0)
        self.file(b"times/before", mtime_ns=FAR_PAST_NS)
        self.file(b"times/after", mtime_ns=4_102_444_800_123_456_789)
        self.file(b"times/last nanosecond", mtime_ns=_EPOCH_NS + 999_999_999)
        self.symlink(b"links/dangling", b"nowhere/at/all")
        self.symlink(b"links/loop", b"loop")
        self.symlink(b"links/absolute", b"/etc/hostname")
        self.symlink(b"links/upwards", b"../../../../../..")
        self.symlink(b"links/to a directory", b"../names")
        self.symlink(b"links/to a file", b"../zero")
        self.symlink(b"links/long", b"t" * 1000)
        self.symlink(b"links/odd \xff", b"\xff\xfe")
        return self

    def settle(self) -> None:
        """Directories get their modes and times."""
        for path, (mode, mtime_ns) in self._dirs.items():
            os.chmod(self.at(path), mode)
            self._touch(self.at(path), mtime_ns)

    def _name(self, places: list[bytes], number: int) -> bytes:
        name = self.random.choice(_WORDS) + b"%d" % number
        place = self.random.choice(places)
        return place + b"/" + name if place else name

    def _touch(self, at: bytes, mtime_ns: int | None) -> None:
        when = self.mtime_ns() if mtime_ns is None else mtime_ns
        os.utime(at, ns=(when, when), follow_symlinks=False)


def remove(path: str | bytes | os.PathLike[str]) -> None:
    """Remove a tree, whatever its modes are."""
    at = os.fsencode(path)
    if not os.path.isdir(at) or os.path.islink(at):
        if os.path.lexists(at):
            os.unlink(at)
        return
    if os.geteuid() != 0:
        for directory, _, _ in os.walk(at):
            os.chmod(directory, 0o700)
            for name in os.listdir(directory):
                inner = os.path.join(directory, name)
                if stat.S_ISDIR(os.lstat(inner).st_mode):
                    os.chmod(inner, 0o700)
    shutil.rmtree(at)


def give(path: str | bytes | os.PathLike[str], uid: int, gid: int) -> None:
    """Give a whole tree to an account."""
    at = os.fsencode(path)
    os.chown(at, uid, gid, follow_symlinks=False)
    for directory, dirs, files in os.walk(at):
        for name in (*dirs, *files):
            inner = os.path.join(directory, name)
            status = os.lstat(inner)
            os.chown(inner, uid, gid, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(inner, stat.S_IMODE(status.st_mode))  # a change of owner takes the set-id bits away
