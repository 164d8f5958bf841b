"""Whether git is at work."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from agentd.watch.git import QUIET_S, STALE_S, GitWork, git_directory

if TYPE_CHECKING:
    from pathlib import Path


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def work(root: Path) -> GitWork:
    return GitWork(os.fsencode(root))


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock"])
def test_a_lock_holds_until_it_is_gone(tmp_path: Path, lock: str) -> None:
    (tmp_path / ".git").mkdir()
    git = work(tmp_path)
    assert git.under_way(time.time(), 0.0) is None
    (tmp_path / ".git" / lock).touch()
    assert lock in (git.under_way(time.time(), 0.0) or "")
    assert git.under_way(time.time(), 60.0), "a fresh lock, however quiet the tree is"
    (tmp_path / ".git" / lock).unlink()
    assert git.under_way(time.time(), 0.0) is None


def test_a_stale_lock_holds_nothing_for_long(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/index.lock").touch()
    age(tmp_path / ".git/index.lock", STALE_S + 1)
    age(tmp_path / ".git", STALE_S + 1)
    assert work(tmp_path).under_way(time.time(), QUIET_S / 2), "the tree is changing still"
    assert work(tmp_path).under_way(time.time(), QUIET_S + 1) is None


@pytest.mark.parametrize("steps", ["rebase-merge", "rebase-apply", "sequencer"])
def test_between_the_steps_of_a_rebase(tmp_path: Path, steps: str) -> None:
    (tmp_path / f".git/{steps}").mkdir(parents=True)
    git = work(tmp_path)
    assert steps in (git.under_way(time.time(), 0.1) or "")
    age(tmp_path / ".git", QUIET_S + 1)
    assert git.under_way(time.time(), QUIET_S + 1) is None, "it waits for a person, who wants to try what is there"


@pytest.mark.parametrize("name", ["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG", "COMMIT_EDITMSG"])
def test_what_waits_for_a_person_holds_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / name).touch()
    assert work(tmp_path).under_way(time.time(), 0.0) is None


def test_a_root_within_a_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / ".git/index.lock").touch()
    assert work(tmp_path / "a/b").under_way(time.time(), 0.0)


def test_a_linked_work_tree_has_its_own_locks(tmp_path: Path) -> None:
    own = tmp_path / "main/.git/worktrees/side"
    own.mkdir(parents=True)
    side = tmp_path / "side"
    side.mkdir()
    (side / ".git").write_text(f"gitdir: {own}\n")
    (tmp_path / "main/.git/index.lock").touch()
    git = work(side)
    assert git.under_way(time.time(), 0.0) is None
    (own / "index.lock").touch()
    assert git.under_way(time.time(), 0.0)


def test_a_submodule_is_named_relatively(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/.git").write_text("gitdir: ../.git/modules/sub\n")
    assert git_directory(os.fsencode(tmp_path / "sub")) == os.fsencode(tmp_path / ".git/modules/sub")


def test_repositories_below_the_root_are_found_by_what_changed(tmp_path: Path) -> None:
    (tmp_path / "one/.git").mkdir(parents=True)
    (tmp_path / "two/.git").mkdir(parents=True)
    (tmp_path / "one/.git/index.lock").touch()
    git = work(tmp_path)
    git.touch([(b"two/src/file", False)])
    assert git.under_way(time.time(), 0.0) is None
    git.touch([(b"one/src/deep/file", False)])
    assert git.under_way(time.time(), 0.0)
    git.forget()
    assert git.under_way(time.time(), 0.0) is None
    git.touch([(b"one", True)])
    assert git.under_way(time.time(), 0.0), "cloned as a whole"


def test_odd_git_files_are_no_repositories(tmp_path: Path) -> None:
    (tmp_path / ".git").write_bytes(b"\xff" * 10_000)
    assert git_directory(os.fsencode(tmp_path)) is None
    assert git_directory(os.fsencode(tmp_path / "nothing")) is None
