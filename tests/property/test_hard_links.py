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

from tests.helpers.effort import examples
from tests.helpers.joined import sync
from tests.helpers.oracle import RSYNC
from tests.helpers.payloads import DIRECTORY, LINKS, PROBLEM, SYMLINK, Entry, Group, pack_record
from tests.helpers.receiving import ROOT, leftovers, receiving, whole

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
@settings(max_examples=examples(80), deadline=None)
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


def put(path: Path, content: str, *, mode: int = 0o644, mtime_ns: int = OLD) -> None:
    path.write_text(content)
    path.chmod(mode)
    os.utime(path, ns=(0, mtime_ns))


@pytest.mark.skipif(RSYNC is None, reason="needs rsync to compare with")
@pytest.mark.parametrize("dry_run", [True, False])
def test_lines_are_those_of_rsync(tmp_path: Path, dry_run: bool) -> None:
    src, ours, theirs = tmp_path / "src", tmp_path / "ours", tmp_path / "theirs"
    for root in (src, ours, theirs):
        root.mkdir()
        put(root / "a", "hello")
    for name in ("absent", "linked", "separate", "older", "symlink", "directory"):
        os.link(src / "a", src / name)
    for root in (ours, theirs):
        os.link(root / "a", root / "linked")
        put(root / "separate", "hello", mode=0o600)
        put(root / "older", "others", mtime_ns=OLD - 10**10)
        (root / "symlink").symlink_to("x")
        (root / "directory").mkdir()
    for root in (src, ours, theirs):
        os.utime(root, ns=(0, OLD))
    (ours / "separate").write_text("no basis")  # else it might lead: which name does is the list's order here
    (theirs / "separate").write_text("no basis")
    done = sync(str(src), str(ours), dry_run=dry_run, delete=True)
    lines = subprocess.run(
        [str(RSYNC), "-rlptiH", "--delete", *(["-n"] if dry_run else []), f"{src}/", f"{theirs}/"],
        capture_output=True, check=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    items = [line.decode().replace("=> linked", "=> a") for line in done.items]  # either is listed first
    assert sorted(items) == sorted(lines)
    if not dry_run:
        assert len(partition(ours)) == 1


NAMES_OF_ONE = [ROOT, *(Entry(name, size=1, link=0) for name in (b"a", b"b", b"c"))]


@pytest.mark.parametrize("asked", [False, True])
def test_a_first_name_that_vanished_is_replaced_by_the_next(tmp_path: Path, asked: bool) -> None:
    if asked:
        (tmp_path / "other").touch()
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", NAMES_OF_ONE)], flags=LINKS).end_list()
        driver.data(pack_record(PROBLEM, 0, 1, code=1, errno=2))
        driver.run(lambda: len(driver.bases) == 1)
        assert driver.bases == [bytes([0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0])]
        driver.data(whole(0, 2, b"x")).run()
        assert driver.done
        assert driver.problems == [(b"a", "vanished", 2)]
    assert not (tmp_path / "a").exists()
    assert os.path.samefile(tmp_path / "b", tmp_path / "c")


def test_what_cannot_be_read_is_a_problem_of_each_name_at_once(tmp_path: Path) -> None:
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", NAMES_OF_ONE)], flags=LINKS).end_list()
        driver.data(pack_record(PROBLEM, 0, 1, code=3, errno=13))
        answers: list[int] = []
        while not driver.run(lambda: len(driver.bases) > len(answers)).done:  # of names that did not wait yet
            answers.append(driver.bases[len(answers)][4])
            driver.data(pack_record(PROBLEM, 0, answers[-1], code=3, errno=13))
        assert driver.done
        assert sorted(driver.problems) == [(name, "unreadable", 13) for name in (b"a", b"b", b"c")]
    assert os.listdir(tmp_path) == []


def test_what_fails_its_hash_is_no_file_to_link_to(tmp_path: Path) -> None:
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", NAMES_OF_ONE)], flags=LINKS).end_list()
        driver.data(whole(0, 1, b"x")[:-1] + b"y").run(lambda: bool(driver.again))
        driver.data(whole(0, 1, b"x")[:-1] + b"z").run(lambda: bool(driver.bases))
        driver.data(whole(0, 2, b"x")).run()
        assert driver.done
        assert driver.problems == [(b"a", "verify", 0)]
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


LIES = {
    "a number with a gap": [ROOT, Entry(b"a", link=1)],
    "two types in one group": [ROOT, Entry(b"a", link=0), Entry(b"b", SYMLINK, target=b"t", link=0)],
    "a directory": [ROOT, Entry(b"a", DIRECTORY, link=0)],
    "no link at all": [ROOT, Entry(b"a")],
}


@pytest.mark.parametrize("lie", LIES)
def test_groups_that_cannot_be_are_violations(tmp_path: Path, lie: str) -> None:
    with receiving(tmp_path) as driver:
        assert driver.send_list([Group(b"", LIES[lie])], flags=LINKS).failed == "protocol"
    assert os.listdir(tmp_path) == []


def test_links_that_nobody_asked_for_are_a_violation(tmp_path: Path) -> None:
    with receiving(tmp_path, hard_links=False) as driver:
        assert driver.send_list([Group(b"", NAMES_OF_ONE)], flags=LINKS).failed == "protocol"


def test_without_links_each_name_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    put(tmp_path / "src/a", "x")
    os.link(tmp_path / "src/a", tmp_path / "src/b")
    done = sync(str(tmp_path / "src"), str(tmp_path / "dst"), hard_links=False)
    assert done.counters["files"] == 2
    assert len(partition(tmp_path / "dst")) == 2
    assert not leftovers(tmp_path)


def test_a_packed_list_has_links_too(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"a-file-whose-name-packs-well-{number}").write_bytes(b"x")
    os.link(source / "a-file-whose-name-packs-well-7", source / "another name")
    outcome = sync(str(source), str(tmp_path / "made"), compress="always")
    assert (outcome.failure, outcome.problems) == (None, [])
    assert (tmp_path / "made/another name").samefile(tmp_path / "made/a-file-whose-name-packs-well-7")
