"""Destinations that are full or read-only: old content stays, one error says why, and a run after that converges."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.helpers.hosts import Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import MIB, Result, contents, healthy, run_job, torn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]

SIZE_MIB = 12
PARTIAL_MIN = MIB


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def small() -> Iterator[Path]:
    """A small file system."""
    with short_directory() as directory:
        mounted = directory / "mnt"
        mounted.mkdir()
        with mounted_at(mounted, "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs"):
            yield mounted


@contextlib.contextmanager
def mounted_at(at: Path, *words: str | Path) -> Iterator[None]:
    """Skips where nothing can be mounted."""
    made = subprocess.run(["mount", *words, at], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount here: {os.fsdecode(made.stderr).strip()}")
    try:
        yield
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", at], check=True, capture_output=True)
        if os.path.ismount(at):
            subprocess.run(["umount", "-l", at], check=True)


@pytest.fixture
def source() -> Iterator[Path]:
    with short_directory() as directory:
        with TreeBuilder(directory / "src", 3) as tree:
            for number in range(8):
                tree.file(b"small/file%d" % number, tree.noise(2000))
        yield directory / "src"


def run(hosts: Hosts, verb: str, source: Path, destination: Path, *more: str) -> Result:
    """Bring it there."""
    pair = (source, f"box:{destination}") if verb == "push" else (f"box:{source}", destination)
    return run_job(hosts.here, verb, *pair, *more)


@pytest.mark.fault("C1")
@pytest.mark.parametrize("verb", ["push", "pull"])
@pytest.mark.parametrize("kind", ["small files", "a large one"])
def test_full(hosts: Hosts, source: Path, small: Path, verb: str, kind: str) -> None:
    destination = small / "dst"
    first = run(hosts, verb, source, destination)
    assert first.status == 0, first
    ballast = small / "ballast"
    ballast.write_bytes(bytes(4 * MIB))
    old = contents(destination)
    with TreeBuilder(source, 4) as tree:
        for number in range(8):
            tree.file(b"small/file%d" % number, tree.noise(3000))
        if kind == "small files":
            for number in range(100):
                tree.file(b"many/file%03d" % number, tree.noise(100_000))
        else:
            tree.file(b"large", tree.noise(10 * MIB))
    new = contents(source)

    full = run(hosts, verb, source, destination)
    assert (full.status, full.code) == (6, "destination-full"), full
    assert re.fullmatch(
        rf"[\d.]+ MiB more are needed and [\d.]+ (bytes|[KM]iB) are free in {destination}: No space left on device",
        full.error["message"],
    ), full
    assert not full.problems, "one error, not one for each file"
    now = contents(destination)
    assert not torn(now, old, new)
    assert set(old) <= set(now)
    assert all(os.path.getsize(path) >= PARTIAL_MIN for path in our_files(destination))
    healthy(hosts.here, hosts.there)

    ballast.unlink()
    again = run(hosts, verb, source, destination)
    assert again.status == 0, again
    assert_same(source, destination)
    assert not our_files(destination)


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_room_made_by_deletions(hosts: Hosts, source: Path, small: Path, verb: str) -> None:
    destination = small / "dst"
    with TreeBuilder(source, 5) as tree:
        tree.file(b"old", tree.noise(8 * MIB))
    first = run(hosts, verb, source, destination, "--delete")
    assert first.status == 0, first
    (source / "old").unlink()
    with TreeBuilder(source, 6) as tree:
        tree.file(b"new", tree.noise(9 * MIB))
    runs = [run(hosts, verb, source, destination, "--delete") for _ in range(2)]
    assert runs[0].status == 0 or runs[0].code == "destination-full", runs
    assert runs[-1].status == 0, runs
    assert_same(source, destination)
    assert not our_files(destination)


@pytest.mark.fault("C4")
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_read_only(hosts: Hosts, source: Path, small: Path, verb: str) -> None:
    destination = small / "dst"
    assert run(hosts, verb, source, destination).status == 0
    with TreeBuilder(source, 4) as tree:
        for number in range(8):
            tree.file(b"small/file%d" % number)
    old = contents(destination)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    for _ in range(2):
        refused = run(hosts, verb, source, destination, "--delete")
        assert (refused.status, refused.code) == (6, "destination-read-only"), refused
        assert not refused.result.get("problem_count")
    assert contents(destination) == old
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    assert run(hosts, verb, source, destination, "--delete").status == 0
    assert_same(source, destination)


def test_read_only_and_nothing_to_do(hosts: Hosts, source: Path, small: Path) -> None:
    """A mirror that is up to date needs no writing."""
    destination = small / "dst"
    assert run(hosts, "push", source, destination, "--delete").status == 0
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    ended = run(hosts, "push", source, destination, "--delete")
    assert ended.status in (0, 6), ended
    assert ended.status == 0 or ended.code == "destination-read-only"


@pytest.mark.fault("C2")
def test_no_more_inodes(hosts: Hosts, source: Path, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=40", small], check=True)
    destination = small / "dst"
    assert run(hosts, "push", source, destination).status == 0
    old = contents(destination)
    with TreeBuilder(source, 4) as tree:
        for number in range(60):
            tree.file(b"many/file%d" % number, b"1")
        tree.file(b"small/file0", b"edited")
    full = run(hosts, "push", source, destination)
    assert (full.status, full.code) == (6, "destination-full"), full
    assert full.error["message"] == f"no inode is free for another file in {destination}: No space left on device"
    assert not full.problems
    assert not torn(contents(destination), old, contents(source))
    assert not our_files(destination)
    healthy(hosts.here, hosts.there)
    subprocess.run(["mount", "-o", "remount,nr_inodes=400", small], check=True)
    assert run(hosts, "push", source, destination).status == 0
    assert_same(source, destination)


@pytest.mark.fault("C3")
def test_a_quota_is_used_up(hosts: Hosts, source: Path) -> None:
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("btrfs-progs are not installed")
    with short_directory() as directory:
        image, at = directory / "image", directory / "mnt"
        at.mkdir()
        with image.open("wb") as file:
            file.truncate(128 * MIB)
        subprocess.run(["mkfs.btrfs", "-q", image], check=True)
        with mounted_at(at, "-o", "loop", image):
            destination = at / "dst"
            subprocess.run(["btrfs", "subvolume", "create", destination], check=True, capture_output=True)
            for words in (("quota", "enable", at), ("qgroup", "limit", "4M", destination)):
                if subprocess.run(["btrfs", *words], capture_output=True, check=False).returncode:
                    pytest.skip("btrfs has no quota here")
            assert run(hosts, "push", source, destination).status == 0
            old = contents(destination)
            with TreeBuilder(source, 4) as tree:
                tree.file(b"large", tree.noise(8 * MIB))
                tree.file(b"small/file0", b"edited")
            full = run(hosts, "push", source, destination)
            assert (full.status, full.code) == (6, "destination-full"), full
            assert "than the quota leaves" in full.error["message"]
            assert "quota exceeded" in full.error["message"]
            assert not full.problems
            assert not torn(contents(destination), old, contents(source))
            healthy(hosts.here, hosts.there)
            subprocess.run(["btrfs", "qgroup", "limit", "none", destination], check=True)
            assert run(hosts, "push", source, destination).status == 0
            assert_same(source, destination)
            assert not our_files(destination)


@pytest.mark.fault("C11")
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_another_file_system_is_mounted_within(hosts: Hosts, source: Path, small: Path, kind: str) -> None:
    """It is part of the destination; nothing is moved across its edge half way."""
    destination = small / "dst"
    with TreeBuilder(source, 2) as tree:
        tree.file(b"d/one", b"1")
        tree.file(b"d/below/two", b"2")
    assert run(hosts, "push", source, destination, "--delete").status == 0
    other = small / "other"
    other.mkdir()
    words = ("-t", "tmpfs", "tmpfs") if kind == "tmpfs" else ("--bind", other)
    with mounted_at(destination / "d", *words):
        (source / "d").rename(source / "moved")
        with TreeBuilder(source, 6) as tree:
            tree.file(b"d/one", b"edited")
        old = contents(destination)
        ended = run(hosts, "push", source, destination)
        assert ended.status in (0, 1), ended
        assert not torn(contents(destination), old, contents(source))
        assert (destination / "d/one").read_bytes() == b"edited"
        assert not our_files(destination)
    assert run(hosts, "push", source, destination, "--delete").status == 0
    assert_same(source, destination)
    healthy(hosts.here, hosts.there)


def test_full_where_the_agent_keeps_its_state(source: Path, small: Path) -> None:
    """An agent whose own place has filled up still syncs to others."""
    with short_directory() as directory, two_hosts(this_account(), directory) as hosts:
        state = hosts.there.home / "state"
        state.mkdir(mode=0o700)
        subprocess.run(["mount", "--bind", small, state], check=True)
        try:
            state.chmod(0o700)
            assert run(hosts, "push", source, directory / "dst").status == 0
            with contextlib.suppress(OSError):
                (state / "ballast").write_bytes(bytes(2 * SIZE_MIB * MIB))
            with TreeBuilder(source, 4) as tree:
                tree.file(b"another")
            ended = run(hosts, "push", source, directory / "dst")
            assert ended.status == 0, ended
            assert_same(source, directory / "dst")
            hosts.stop()
        finally:
            subprocess.run(["umount", "-l", state], check=True)
