"""Whether git is at work in a tree: what it changes then leaves as one batch, when it is done.

``index.lock`` is there while a command rewrites index and tree, ``HEAD.lock`` while it moves on.  Between the steps of
a rebase, or of a cherry-pick of several commits, neither is; a directory is, but that one is also there while git waits
for a person.  What only ever waits for a person (MERGE_HEAD, CHERRY_PICK_HEAD, BISECT_LOG) holds nothing: the command
that leaves it behind, and the one that takes it up, hold the lock.  Everything here may block.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from proto.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCKS = (b"index.lock", b"HEAD.lock")
STEPS = (b"rebase-merge", b"rebase-apply", b"sequencer")

QUIET_S = 2.0
"""When neither the tree nor the git directory has changed for so long, git's steps wait for a person."""

STALE_S = 10.0
"""And a lock that is as old is a dead process's, or that of a commit whose message is being written."""

_DIRECTORIES_MAX = 1000
_GITFILE_MAX = 4096 + 8


class GitWork:
    """The repositories that a root lies in or holds."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._around = _enclosing(root)
        self._found: set[bytes] = set()

    def touch(self, looks: Iterable[tuple[bytes, bool]]) -> None:
        """What they name changed: the repositories it is in are looked at from now on, until ``forget()``."""
        seen: set[bytes] = set()
        for path, deep in looks:
            directory = path if deep else os.path.dirname(path)
            while directory not in seen and len(seen) < _DIRECTORIES_MAX:
                seen.add(directory)
                found = git_directory(os.path.join(self._root, directory) if directory else self._root)
                if found is not None:
                    self._found.add(found)
                directory = os.path.dirname(directory)

    def forget(self) -> None:
        """The batch has left."""
        self._found.clear()

    def under_way(self, now: float, quiet_s: float) -> str | None:
        """What git does at ``now`` (Unix time), for a person; None: nothing.  ``quiet_s``: since the last change."""
        directories = {*self._found, *([self._around] if self._around else ())}
        for directory in sorted(directories):
            changed = _mtime(directory)
            if changed is None:
                continue
            quiet = min(quiet_s, now - changed) >= QUIET_S
            for name in LOCKS:
                made = _mtime(os.path.join(directory, name))
                if made is not None and not (quiet and now - made >= STALE_S):
                    return f"git is at work: {shown(os.path.join(directory, name))}"
            for name in STEPS:
                if not quiet and _mtime(os.path.join(directory, name)) is not None:
                    return f"git is at work: {shown(os.path.join(directory, name))}"
        return None


def git_directory(directory: bytes) -> bytes | None:
    """Where the repository whose work tree ``directory`` is keeps its locks; None when it is no work tree.

    That of a linked work tree, or of a submodule, is named by a file: ``gitdir: PATH``.
    """
    path = os.path.join(directory, b".git")
    try:
        with open(path, "rb") as file:
            line = file.read(_GITFILE_MAX)
    except IsADirectoryError:
        return path
    except OSError:
        return None
    if not line.startswith(b"gitdir:"):
        return None
    return os.path.normpath(os.path.join(directory, line[len(b"gitdir:") :].strip()))


def _enclosing(root: bytes) -> bytes | None:
    """The git directory of the innermost work tree that holds ``root``."""
    directory = os.path.realpath(root)
    while True:
        found = git_directory(directory)
        if found is not None or directory == b"/":
            return found
        directory = os.path.dirname(directory)


def _mtime(path: bytes) -> float | None:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return None
