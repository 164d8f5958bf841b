"""The trees that are synced, and what happens to them between two syncs.

Contents do not compress unless a tree says so, and neither program knows a name or a size in advance.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

from bench import installed
from tests.helpers import collide

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

APPENDED_FILES = 100
LINE = b"one more line\n"
CHANGES = 160
CHANGE_BYTES = 64 * KIB
INSERTED = b"fifteen bytes.\n"
PIECE_EVERY = 8


class Tree(NamedTuple):
    """A kind of source."""

    name: str
    what: str
    build: Callable[[Path], str | None]
    """Make it at a path that is not there.  Says why it cannot be made on this machine."""
    each_bytes: int
    """What one copy of it takes on tmpfs, with a copy that is being written."""
    each_inodes: int
    twins: bool = False
    """It has two parts: ``crafted``, which is synced, and ``random``, which it is compared with."""
    links: bool = False
    """Hard links are to be kept."""
    sparse: bool = False
    """Holes are to be kept."""


def small_files(root: Path, *, directories: int, each: int, size: int = 4 * KIB) -> None:
    """``directories`` of ``each`` files."""
    for directory in range(directories):
        at = root / f"d{directory:03}"
        at.mkdir(parents=True)
        noise = os.urandom(each * size)
        here = os.open(at, os.O_DIRECTORY)
        for number in range(each):
            file = os.open(f"f{number:05}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=here)
            os.write(file, noise[number * size : (number + 1) * size])
            os.close(file)
        os.close(here)


def large_file(path: Path, mib: int) -> None:
    """A file of that size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))


def append_lines(root: Path, rng: random.Random) -> None:
    """A line at the end of 100 of the small files."""
    for path in rng.sample(sorted(root.glob("d*/f*")), APPENDED_FILES):
        with path.open("ab") as file:
            file.write(LINE)


def new_file(root: Path, rng: random.Random) -> None:
    """One more of the small files."""
    directory = rng.choice(sorted(root.glob("d*")))
    (directory / f"new{rng.randrange(1 << 60):015x}").write_bytes(os.urandom(4 * KIB))


def edit_file(root: Path, rng: random.Random) -> None:
    """One of the small files has new content."""
    directory = rng.choice(sorted(root.glob("d*")))
    rng.choice(sorted(directory.glob("f*"))).write_bytes(os.urandom(4 * KIB))


def extra_files(destination: Path) -> None:
    """20,000 files of the destination's own: some in a directory of theirs, some in one that is synced."""
    small_files(destination / "extra", directories=10, each=1900, size=64)
    shared = min(path for path in destination.iterdir() if path.is_dir())
    for number in range(1000):
        (shared / f"extra{number:05}").write_bytes(b"extra")


def edit_line(root: Path, rng: random.Random) -> None:
    """A line in the middle is another one, of another length."""
    path = root / "text"
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as text:
        begin = text.find(b"\n", size // 2) + 1
        end = text.find(b"\n", begin)
        tail = text[end:]
    line = os.urandom(rng.randrange(20, 60)).hex().encode()
    with path.open("r+b") as file:  # as an editor does that writes in place
        file.seek(begin)
        file.write(line + tail)
        file.truncate()


def rename_directory(root: Path, rng: random.Random) -> None:
    """The directory has another name."""
    [directory] = (path for path in root.iterdir() if path.name.startswith("moved"))
    directory.rename(root / f"moved{rng.randrange(1 << 60):015x}")


def overwrite_pieces(root: Path, rng: random.Random) -> None:
    """160 new pieces of 64 KiB each, at any byte of the file."""
    with (root / "large").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for _ in range(CHANGES):
            file.seek(rng.randrange(size - CHANGE_BYTES + 1))
            file.write(os.urandom(CHANGE_BYTES))


def insert_at_front(root: Path, _: random.Random) -> None:
    """15 bytes before everything."""
    _insert(root / "large", INSERTED)


def shift_by_one(root: Path, rng: random.Random) -> None:
    """One byte before everything, in both twins."""
    for part in ("crafted", "random"):
        _insert(root / part / "large", rng.choice((b"b", b"c")))


def collide_before(root: Path, _: random.Random) -> None:
    """Blocks that differ and have one weak checksum; beside it a random file."""
    collide.write(root / "crafted/large", collide.numbered(COLLIDING_MIB * MIB))
    large_file(root / "random/large", COLLIDING_MIB)


def collide_after(root: Path, _: random.Random) -> None:
    """The same weak checksum at every byte, and no block of what was there before; beside it another random file."""
    collide.write(root / "crafted/large", collide.filled(COLLIDING_MIB * MIB))
    large_file(root / "random/large", COLLIDING_MIB)


COLLIDING_MIB = 256


def _insert(path: Path, new: bytes) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.truncate(size + len(new))
        with mmap.mmap(file.fileno(), 0) as bytes_of_it:
            bytes_of_it.move(len(new), 0, size)
            bytes_of_it[: len(new)] = new
        os.utime(file.fileno())


def _build_small(root: Path) -> None:
    small_files(root, directories=10, each=100)
    for number in range(8):
        large_file(root / f"large{number}", 2)


def _build_many(root: Path) -> None:
    small_files(root, directories=100, each=1000)


def _build_million(root: Path) -> None:
    small_files(root, directories=1000, each=1000, size=16)


def _build_line(root: Path) -> None:
    root.mkdir()
    with (root / "text").open("wb") as file:
        for _ in range(64):
            noise = os.urandom(MIB // 2).hex().encode()
            file.write(b"\n".join(noise[at : at + 79] for at in range(0, len(noise), 79))[: MIB - 1] + b"\n")


def _build_moved(root: Path) -> None:
    small_files(root / "moved", directories=20, each=500)
    small_files(root / "still", directories=2, each=500)


def _build_large(root: Path) -> None:
    large_file(root / "large", 1024)


def _build_half(root: Path) -> None:
    large_file(root / "large", 512)


def _build_links(root: Path) -> None:
    small_files(root, directories=10, each=1000)
    for directory in range(10):
        at = root / f"links{directory:03}"
        at.mkdir()
        for number in range(1000):
            other = root / f"d{(directory + number) % 10:03}" / f"f{number:05}"
            os.link(other, at / f"l{number:05}")


def _build_repeated(root: Path) -> None:
    for part in ("crafted", "random"):
        (root / part).mkdir(parents=True)
    with (root / "crafted/large").open("wb") as file:
        for _ in range(1024):
            file.write(b"a" * MIB)
    large_file(root / "random/large", 1024)


def _build_colliding(root: Path) -> None:
    for part in ("crafted", "random"):
        (root / part).mkdir(parents=True)


def _build_sparse(root: Path) -> None:
    """8 GiB, of which every eighth MiB holds data."""
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        for number in range(1024):
            file.seek(number * PIECE_EVERY * MIB)
            file.write(os.urandom(MIB))
        file.truncate(1024 * PIECE_EVERY * MIB)


TREES = {
    tree.name: tree
    for tree in (
        Tree("small", "1,000 files of 4 KiB, 8 of 2 MiB", _build_small, 32 * MIB, 1100),
        Tree("many", "100,000 files of 4 KiB", _build_many, 512 * MIB, 100_200),
        Tree("million", "1,000,000 files of 16 B", _build_million, 5 * GIB, 1_001_100),
        Tree("real", "Python's and Rust's installed trees", installed.build, 2 * GIB, 70_000),
        Tree("sources", "source text as it is installed", installed.build_sources, 256 * MIB, 12_000),
        Tree("large", "one file of 1 GiB", _build_large, GIB + 256 * MIB, 10),
        Tree("line", "one text of 64 MiB", _build_line, 192 * MIB, 10),
        Tree("moved", "a directory of 10,000 files", _build_moved, 64 * MIB, 11_100),
        Tree("half", "one file of 512 MiB", _build_half, 640 * MIB, 10),
        Tree("links", "20,000 files, half of them hard links", _build_links, 128 * MIB, 21_000, links=True),
        Tree("repeated", "1 GiB of one byte", _build_repeated, GIB + 256 * MIB, 10, twins=True),
        Tree("colliding", "256 MiB of colliding weak checksums", _build_colliding, 320 * MIB, 10, twins=True),
        Tree("sparse", "8 GiB with 1 GiB of data", _build_sparse, 3 * GIB, 10, sparse=True),
    )
}
