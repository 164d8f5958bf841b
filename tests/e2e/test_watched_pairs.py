"""Watched pairs as a person sees them: what an editor does, pairs that share a root, and pairs in a row.

SYNCCTL_TRUNCATIONS sets how often a file is emptied and written again (100 times unless it is set).
"""

from __future__ import annotations

import fnmatch
import os
import random
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.churn import Churn
from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.pairs import pair_of
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRUNCATIONS = int(os.environ.get("SYNCCTL_TRUNCATIONS", 100))
FILES = 10
"""That are emptied side by side."""

EMPTY_S = 0.2
"""A file is empty for at most so long."""

ARRIVES_S = 20.0

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.timeout(120 + TRUNCATIONS),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as made:
        with TreeBuilder(made / "source", 5) as tree:
            tree.populate(60, 12)
        yield made


class Reader(threading.Thread):
    """Reads files again and again, and remembers each that it saw empty."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self.paths = paths
        self.seen: dict[Path, set[bytes]] = {path: set() for path in paths}
        self.empty: list[Path] = []
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.is_set():
            for path in self.paths:
                content = path.read_bytes()
                self.seen[path].add(content[:9])
                if not content:
                    self.empty.append(path)

    def stop(self) -> None:
        self._done.set()
        self.join()


def save(path: Path, content: bytes, how: random.Random) -> None:
    """Empty it, and write it a moment later: through the same handle, or through another one."""
    if how.random() < 0.5:
        with path.open("wb", buffering=0) as file:
            time.sleep(how.uniform(0, EMPTY_S))
            file.write(content)
    else:
        os.truncate(path, 0)
        time.sleep(how.uniform(0, EMPTY_S))
        with path.open("r+b", buffering=0) as file:
            file.write(content)


def test_a_file_that_is_emptied_and_written_again_is_never_empty_there(hosts: Hosts, place: Path) -> None:
    names = [f"saved{number}" for number in range(FILES)]
    for name in names:
        (place / "source" / name).write_bytes(b"000000000" * 500)
    with pair_of(hosts.here, place, "--mirror", "--watch") as pair:
        pair.flush()

        def edit(name: str) -> None:
            how = random.Random(name)
            for number in range(1, TRUNCATIONS // FILES + 1):
                content = b"%09d" % number * how.choice((1, 500))
                save(pair.source / name, content, how)
                # Sometimes the next save comes before this one has left.
                if how.random() < 0.7:
                    arrived = lambda name=name, content=content: (pair.destination / name).read_bytes() == content  # noqa: E731
                    within(ARRIVES_S, arrived, lambda: pair.info())

        reader = Reader([pair.destination / name for name in names])
        editors = [threading.Thread(target=edit, args=(name,)) for name in names]
        reader.start()
        for editor in editors:
            editor.start()
        for editor in editors:
            editor.join()
        pair.flush()
        reader.stop()
        assert reader.empty == []
        assert all(len(seen) > 1 for seen in reader.seen.values()), "nothing arrived meanwhile"
        pair.same()


def test_two_pairs_of_one_source_with_filters_of_their_own(hosts: Hosts, place: Path) -> None:
    with (
        pair_of(hosts.here, place, "--mirror", "--watch", "--exclude", "*.o", name="one") as one,
        pair_of(
            hosts.here, place, "--mirror", "--watch", "--exclude", "d*/", name="two", destination=place / "other"
        ) as two,
    ):
        churn = Churn(one.source, 1)
        for number in range(5):
            churn.run(60)
            (one.source / f"{number}.o").write_bytes(b"object")
            (one.source / "d1").mkdir(exist_ok=True)
            (one.source / "d1" / str(number)).write_bytes(b"below")
            one.flush()
            two.flush()
            for pair, left_out in ((one, "*.o"), (two, "d*")):
                expected = place / f"expected {pair.name}"
                shutil.rmtree(expected, ignore_errors=True)
                copied(pair.source, expected, left_out, directories=left_out == "d*")
                assert_same(expected, pair.destination)


def copied(source: Path, destination: Path, left_out: str, *, directories: bool) -> None:
    """A copy, times and modes too, without names that match."""

    def ignore(top: str, names: list[str]) -> list[str]:
        matching = fnmatch.filter(names, left_out)
        if not directories:
            return matching
        return [
            name
            for name in matching
            if os.path.isdir(os.path.join(top, name)) and not os.path.islink(os.path.join(top, name))
        ]

    shutil.copytree(source, destination, symlinks=True, ignore=ignore)


def test_pairs_in_a_row(hosts: Hosts, place: Path) -> None:
    """What one pair's session writes is a change to the next pair."""
    with (
        pair_of(hosts.here, place, "--mirror", "--watch", host="", name="first", destination=place / "b") as first,
        pair_of(
            hosts.here,
            place,
            "--mirror",
            "--watch",
            host="",
            name="second",
            source=place / "b",
            destination=place / "c",
        ) as second,
    ):
        churn = Churn(first.source, 2)
        for _ in range(5):
            churn.run(60)
            first.flush()
            second.flush()
            assert_same(first.source, second.destination)
        (first.source / "by itself").write_bytes(b"through both")
        last = second.destination / "by itself"
        within(ARRIVES_S, lambda: last.exists() and last.read_bytes() == b"through both", lambda: second.info())
