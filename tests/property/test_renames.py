"""What was renamed at the source is renamed at the destination: nothing of it is sent, and the trees are equal."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import RSYNC, differences
from tests.helpers.rsync import itemized_by_rsync
from tests.helpers.warm_pair import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LARGE = 300_000


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    for path in ("a/f", "a/g", "a/sub/deep/h", "b/i", "c/j", "other", "Name"):
        file = tmp_path / "src" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode() * 7)
    (tmp_path / "src" / "a" / "ln").symlink_to("f")
    (tmp_path / "src" / "large").write_bytes(random.Random(1).randbytes(LARGE))
    (tmp_path / "src" / "empty").mkdir()
    (tmp_path / "dst").mkdir()
    # rsync compares seconds.  Entries are told apart by theirs.
    for second, entry in enumerate(sorted((tmp_path / "src").rglob("*"), reverse=True)):
        os.utime(entry, ns=(0, (10**9 + second) * 10**9), follow_symlinks=False)
    os.utime(tmp_path / "src", ns=(0, 10**18))
    with Pair(tmp_path / "src", tmp_path / "dst") as pair:
        pair.sync()
        assert differences(pair.source, pair.destination) == []
        yield pair


def move(root: Path, *moves: tuple[str, str]) -> None:
    for old, new in moves:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        os.rename(root / old, root / new)


def swap(root: Path) -> None:
    move(root, ("a", "tmp"), ("b", "a"), ("tmp", "b"))


def edit_inside(root: Path) -> None:
    move(root, ("a", "z"))
    (root / "z" / "f").write_bytes(b"edited")
    (root / "z" / "g").unlink()
    (root / "z" / "new").write_bytes(b"new")
    (root / "z" / "sub").chmod(0o700)


def recreate(root: Path) -> None:
    move(root, ("a", "z"))
    (root / "a").mkdir()
    (root / "a" / "f").write_bytes(b"another")


def move_over(root: Path) -> None:
    shutil.rmtree(root / "b")
    move(root, ("a", "b"))


def move_out_and_on(root: Path) -> None:
    move(root, ("a/f", "b/f"), ("a/sub", "c/sub"), ("a", "z"))


def nested(root: Path) -> None:
    move(root, ("a/sub/deep", "deep"), ("a/sub", "deep/sub"), ("a", "deep/sub/a"))


def to_a_file(root: Path) -> None:
    move(root, ("a", "z"))
    (root / "a").write_bytes(b"a file now")


MOVES: list[tuple[str, Callable[[Path], None], int, int]] = [
    # name, what is done, names that are moved, files that are sent
    ("a file", lambda root: move(root, ("a/f", "a/z")), 1, 0),
    ("a file to another directory", lambda root: move(root, ("a/f", "b/z")), 1, 0),
    ("a file to a new directory", lambda root: move(root, ("a/f", "new/dir/f")), 1, 0),
    (
        "many files to a new directory",
        lambda r: move(r, *((f, f"n/{f[-1]}") for f in ("a/f", "a/g", "b/i", "c/j"))),
        4,
        0,
    ),
    ("a directory", lambda root: move(root, ("a", "z")), 7, 0),
    ("a directory into its sibling", lambda root: move(root, ("a", "b/a")), 7, 0),
    ("a directory into a new one", lambda root: move(root, ("a", "new/dir/a")), 7, 0),
    ("an empty directory", lambda root: move(root, ("empty", "b/hollow")), 1, 0),
    ("two directories", lambda root: move(root, ("a", "z"), ("b", "z/b")), 9, 0),
    ("a chain", lambda root: move(root, ("a", "y"), ("y", "x"), ("x", "z"), ("other", "o"), ("o", "p")), 8, 0),
    ("case", lambda root: move(root, ("Name", "name"), ("a", "A")), 8, 0),
    ("files before their directory goes on", move_out_and_on, 7, 2),
    ("turned inside out", nested, 7, 1),
    ("edits inside", edit_inside, 7, 2),
    ("a swap", swap, 0, 4),
    ("another in its place", recreate, 0, 4),
    ("over another", move_over, 0, 3),
    ("a file in its place", to_a_file, 0, 4),
]


@pytest.mark.parametrize(("change", "moved", "sent"), [m[1:] for m in MOVES], ids=[m[0] for m in MOVES])
def test_what_was_renamed_is_not_sent(pair: Pair, change: Callable[[Path], None], moved: int, sent: int) -> None:
    change(pair.source)
    counters = pair.sync()
    assert (differences(pair.source, pair.destination), pair.problems) == ([], [])
    assert (counters["moved"], counters["wanted_files"]) == (moved, sent)
    again = pair.sync()
    assert (again["moved"], again["wanted_files"], again["deleted"]) == (0, 0, 0)
    assert pair.sync()["listed"] == 0


@pytest.mark.skipif(RSYNC is None, reason="rsync is not installed")
@pytest.mark.parametrize("change", [m[1] for m in MOVES], ids=[m[0] for m in MOVES])
def test_it_is_told_as_rsync_tells_it(pair: Pair, change: Callable[[Path], None]) -> None:
    change(pair.source)
    expected = sorted(itemized_by_rsync(pair.source, pair.destination))
    pair.sync(dry_run=True, itemize=True)
    assert sorted(map(os.fsdecode, pair.items)) == expected
    pair.sync(itemize=True)
    assert sorted(map(os.fsdecode, pair.items)) == expected


def test_without_delete_a_file_is_copied_here(pair: Pair) -> None:
    move(pair.source, ("large", "b/large"), ("a", "z"))
    counters = pair.sync(delete=False)
    assert (counters["moved"], counters["wanted_files"], counters["deleted"]) == (1, 3, 0)
    kept = ["a", "a/f", "a/g", "a/ln", "a/sub", "a/sub/deep", "a/sub/deep/h", "large"]
    assert sorted(differences(pair.source, pair.destination)) == [f"extra: {path.encode()!r}" for path in kept]
    assert (pair.destination / "large").stat().st_nlink == 1


@pytest.mark.parametrize("hard_links", [False, True])
def test_a_file_with_other_names_is_copied(pair: Pair, hard_links: bool) -> None:
    os.link(pair.destination / "large", pair.destination.parent / "outside")
    move(pair.source, ("large", "b/large"))
    (pair.source / "b" / "large").chmod(0o600)
    counters = pair.sync(hard_links=hard_links)
    assert differences(pair.source, pair.destination) == []
    assert (counters["moved"], counters["wanted_files"]) == (1, 0)
    outside = (pair.destination.parent / "outside").stat()
    assert (outside.st_nlink, outside.st_mode & 0o777) == (1, 0o644)


def test_a_file_that_was_edited_too_is_made_from_what_it_was(pair: Pair) -> None:
    move(pair.source, ("large", "b/larger"))
    with open(pair.source / "b" / "larger", "ab") as file:
        file.write(b"more")
    counters = pair.sync()
    assert differences(pair.source, pair.destination) == []
    assert (counters["moved"], counters["wanted_files"]) == (0, 1)
    assert counters["matched"] > LARGE * 0.9


def test_another_file_with_its_inode_is_another_file(pair: Pair) -> None:
    """An inode's number is given away again at once; size and time may be the same, too."""
    old = (pair.source / "other").stat()
    (pair.source / "other").unlink()
    names = []
    for i in range(1000):  # until the number comes
        names.append(pair.source / f"new{i}")
        names[-1].write_bytes(b"OTHER" * 7)
        if names[-1].stat().st_ino == old.st_ino:
            break
    for name in names:
        os.utime(name, ns=(0, old.st_mtime_ns))
    counters = pair.sync()
    assert differences(pair.source, pair.destination) == []
    assert (counters["moved"], counters["wanted_files"]) == (0, len(names))


def test_what_is_excluded_is_not_moved(pair: Pair) -> None:
    filters = [b"/a/sub/", b"*.keep"]
    pair.baseline = None
    pair.sync(filters=filters)
    (pair.destination / "b" / "mine.keep").write_bytes(b"mine")
    move(pair.source, ("a/sub", "sub"), ("b", "y"), ("c", "z"))
    counters = pair.sync(filters=filters)
    assert (counters["moved"], counters["wanted_files"]) == (2, 2)
    assert sorted(differences(pair.source, pair.destination)) == [
        f"extra: {path!r}" for path in (b"a/sub", b"a/sub/deep", b"a/sub/deep/h", b"b", b"b/mine.keep")
    ]
    assert [path for path, _, _ in pair.problems] == []


@pytest.mark.parametrize("choice", ["overwrite", "stop", "keep-both"])
def test_what_someone_changed_at_the_destination_is_not_moved(pair: Pair, choice: str) -> None:
    pair.sync()
    for path in ("a/f", "other"):
        old = (pair.destination / path).stat()
        (pair.destination / path).write_bytes(path.upper().encode() * 7)
        os.utime(pair.destination / path, ns=(0, old.st_mtime_ns))
    move(pair.source, ("a", "z"), ("other", "another"), ("b", "y"))
    counters = pair.sync(on_conflict=choice)
    assert (counters["moved"], counters["wanted_files"]) == (2, 4)
    kept = [] if choice == "overwrite" else [b"a", b"a/f", b"other"]
    assert sorted(differences(pair.source, pair.destination)) == [f"extra: {path!r}" for path in kept]
    assert (pair.destination / "z" / "f").read_bytes() == b"a/f" * 7
    told = [(b"a/f", "changed-here"), (b"other", "changed-here")] if choice == "stop" else []
    assert [(path, code) for path, code, _ in sorted(pair.problems)] == told


def test_what_is_renamed_counts_as_deleted(pair: Pair) -> None:
    move(pair.source, ("a", "z"), ("b", "y"))
    counters = pair.sync(force=False, max_delete=9)
    assert (counters["moved"], counters["deleted"]) == (9, 9)
    move(pair.source, ("z", "a"), ("y", "b"))
    with pytest.raises(AssertionError, match="9 entries would be deleted, more than 8"):
        pair.sync(force=False, max_delete=8)
    pair.sync(force=False, max_delete=9)
    assert differences(pair.source, pair.destination) == []


def test_content_is_compared_where_that_is_asked_for(pair: Pair) -> None:
    old = (pair.destination / "other").stat()
    (pair.destination / "other").write_bytes(b"OTHER" * 7)
    os.utime(pair.destination / "other", ns=(0, old.st_mtime_ns))
    # Agreed to be so, which no list shows that has no hashes.
    pair.sync()
    move(pair.source, ("other", "another"), ("large", "larger"))
    counters = pair.sync(hashes=True)
    assert (counters["moved"], counters["wanted_files"]) == (1, 1)
    assert differences(pair.source, pair.destination) == []


def shuffle(root: Path, chance: random.Random, count: int) -> None:
    """Moves, mostly, of what is below ``root``; each new file differs from all others."""
    for _ in range(count):
        paths = sorted(root.rglob("*"))
        directories = [root, *(path for path in paths if path.is_dir())]
        here = chance.choice(paths or [root / "x"])
        there = chance.choice(directories) / chance.choice("abcde")
        with suppress(OSError):
            match chance.randrange(16):
                case 0 | 3 | 4:
                    there.write_bytes(chance.randbytes(chance.randrange(8, 3000)))
                case 1:
                    there.mkdir()
                case 2:
                    shutil.rmtree(here) if here.is_dir() else here.unlink()
                case _:
                    os.rename(here, there)


@pytest.mark.parametrize("seed", range(20))
def test_any_moves_end_in_equal_trees(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    source, destination = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    destination.mkdir()
    shuffle(source, chance, 120)
    with Pair(source, destination) as pair:
        pair.sync()
        moved = 0
        for turn in range(15):
            for _ in range(chance.randrange(1, 4)):  # the tree sees what is between, too
                shuffle(source, chance, chance.randrange(1, 6))
                pair.trees([])[0].refresh()
            if chance.random() < 0.3:
                shuffle(destination, chance, 2)
            counters = pair.sync(forgotten=chance.random() < 0.1)
            assert (differences(source, destination), pair.problems) == ([], []), turn
            moved += counters["moved"]
            counters = pair.sync()
            assert (counters["moved"], counters["wanted_files"], counters["deleted"]) == (0, 0, 0), turn
        assert moved > 0
