"""Files with several names: whatever stood at the destination, its names are of one file where the source's are.

rsync -H is the oracle for the tree that results; which names are of one file is held to the source's, exactly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.joined import sync
from tests.helpers.oracle import RSYNC

NAMES = ("a", "b", "c", "d/a", "d/b", "e/f/a", "e/f/b", "z")
OLD = 10**18

Files = dict[str, tuple[int, str, int, int]]
"""name -> (which inode, and of that: content, mode, mtime_ns); a content that begins with -> is a symlink's."""

nodes = st.tuples(
    st.sampled_from(["x", "yy", "longer", "->t"]), st.sampled_from([0o644, 0o600]), st.sampled_from([OLD, OLD + 10**9])
)


@st.composite
def trees(draw: st.DrawFn) -> Files:
    """Names that share a few inodes."""
    inodes = draw(st.lists(nodes, min_size=1, max_size=4))
    chosen = draw(st.dictionaries(st.sampled_from(NAMES), st.integers(0, len(inodes) - 1), max_size=len(NAMES)))
    return {name: (number, *inodes[number]) for name, number in chosen.items()}


def plant(root: Path, files: Files, outside: Path) -> None:
    """Makes a tree; of each inode but those of ``yy`` one more name is ``outside``: what is done through it is seen."""
    outside.mkdir()
    for directory in ("d", "e/f"):
        (root / directory).mkdir(parents=True)
    for name, (number, content, mode, mtime_ns) in files.items():
        first = outside / str(number)
        if not os.path.lexists(first):
            if content.startswith("->"):
                first.symlink_to(content[2:])
            else:
                first.write_text(content)
                first.chmod(mode)
            os.utime(first, ns=(0, mtime_ns), follow_symlinks=False)
        os.link(first, root / name, follow_symlinks=False)
    for first in outside.iterdir():
        if not first.is_symlink() and first.read_text() == "yy":
            first.unlink()
    for path in (root, root / "d", root / "e", root / "e/f"):
        os.utime(path, ns=(0, OLD))


def partition(root: Path) -> set[frozenset[str]]:
    """Which names are of one file."""
    found: dict[int, set[str]] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            found.setdefault(os.lstat(path).st_ino, set()).add(os.path.relpath(path, root))
    return {frozenset(names) for names in found.values()}


def seen(outside: Path) -> list[tuple[Any, ...]]:
    """The inodes of a tree, by their names outside of it."""
    rows: list[tuple[Any, ...]] = []
    for path in sorted(outside.iterdir()):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text()
        rows.append((path.name, content, status.st_mode, status.st_mtime_ns))
    return rows


def rsync_finds(source: Path, destination: Path, *options: str) -> list[str]:
    """What rsync -H would still do."""
    assert RSYNC is not None
    ended = subprocess.run(
        [RSYNC, "-rlptnciH", *options, f"{source}/", f"{destination}/"], capture_output=True, check=True, text=True
    )
    return ended.stdout.splitlines()


@pytest.mark.skipif(RSYNC is None, reason="needs rsync to compare with")
@settings(max_examples=200, deadline=None)
@given(
    source=trees(),
    destination=st.none() | trees(),
    delete=st.booleans(),
    checksum=st.booleans(),
    dry_run=st.booleans(),
    window=st.sampled_from([1, 1 << 20]),
)
def test_names_of_one_file_are_that_at_the_destination_too(
    source: Files, destination: Files | None, *, delete: bool, checksum: bool, dry_run: bool, window: int
) -> None:
    base = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        src, dst = base / "src", base / "dst"
        plant(src, source, base / "outside-src")
        if destination is not None:
            plant(dst, destination, base / "outside-dst")
        before = seen(base / "outside-dst") if destination is not None else []
        there = partition(dst)
        done = sync(
            str(src), str(dst), delete=delete, hashes=checksum, dry_run=dry_run, list_window=window, data_window=window
        )
        assert done.failure is None
        assert not done.problems
        assert before == (seen(base / "outside-dst") if destination is not None else [])
        if dry_run:
            assert partition(dst) == there
            return
        assert rsync_finds(src, dst, *(["--delete"] if delete else [])) == []
        assert {frozenset(names & source.keys()) for names in partition(dst)} - {frozenset()} == partition(src)
        assert not [name for name in os.listdir(dst) if name.endswith("~")]
        again = sync(str(src), str(dst), delete=delete, hashes=checksum)
        assert (again.items, again.problems, again.failure) == ([], [], None)
        # Nothing is sent twice.
        regular = {number for number, content, *_ in source.values() if not content.startswith("->")}
        assert done.counters["files"] <= len(regular)
    finally:
        shutil.rmtree(base)
