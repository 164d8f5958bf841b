"""Whether a tree came out right."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.trees import Tree

BLOCK = 512
SPARSE_SHARE, SPARSE_SLACK = 1.05, 1 << 20


def differences(
    source: Path, destination: Path, tree: Tree | None, options: tuple[str, ...] = (), *, delete: bool = True
) -> list[str]:
    """What is not as it has to be, a line each: rsync's word, and where the tree has them, hard links and holes.

    Without ``delete`` the destination may have more, and other times of directories with it.
    """
    links = tree is not None and tree.links
    whole = ("--delete",) if delete else ("--omit-dir-times",)
    argv = ["rsync", "-rlptnci", *whole, *(("-H",) if links else ()), *options]
    ended = subprocess.run([*argv, f"{source}/", f"{destination}/"], capture_output=True)
    found = os.fsdecode(ended.stdout).splitlines()
    if ended.returncode:
        found.append(f"rsync: status {ended.returncode}: {os.fsdecode(ended.stderr).strip()}")
    if links and link_groups(source) != link_groups(destination):
        found.append("names that are one file at the source are not, or the other way round")
    if tree is not None and tree.sparse:
        ours, theirs = allocated(source), allocated(destination)
        if theirs > ours * SPARSE_SHARE + SPARSE_SLACK:
            found.append(f"{theirs:,} bytes are allocated where the source has {ours:,}: holes were filled")
    return found


def link_groups(root: Path) -> set[frozenset[str]]:
    """The names that are one file, by files with more than one name."""
    groups: dict[int, list[str]] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if status.st_nlink > 1:
                groups.setdefault(status.st_ino, []).append(os.path.relpath(path, root))
    return {frozenset(group) for group in groups.values()}


def allocated(root: Path) -> int:
    """Bytes of all files that the file system has given room to."""
    return sum(
        os.lstat(os.path.join(directory, name)).st_blocks * BLOCK
        for directory, _, names in os.walk(root)
        for name in names
    )
