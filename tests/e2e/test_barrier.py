"""A sync is a barrier: what was written before it was asked for is at the far end when it answers.

SYNCCTL_BARRIER sets how many times that is tried in each way (80 unless it is set).
"""

from __future__ import annotations

import os
import random
import statistics
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.editor import Editor
from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.pairs import Pair, pair_of
from tests.helpers.sshd import SSHD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMES = int(os.environ.get("SYNCCTL_BARRIER", 80))
FILES, DIRECTORIES = 200, 20

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(60 + TIMES)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


class Writer:
    """Changes one file or a few at a time, in the ways of editors."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._random = random.Random(seed)
        for number in range(FILES):
            path = self._path(number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"first")

    def change(self, number: int) -> dict[Path, bytes]:
        """Files, by path from the root, and what is in them now."""
        written = {}
        for _ in range(self._random.choice((1, 1, 1, 3))):
            path = self._path(self._random.randrange(FILES))
            # Sizes repeat, so that some are found by their time alone.
            content = b"%06d" % number + bytes(self._random.choice((0, 0, 9, 5000)))
            self._random.choice((self._in_place, self._by_rename, self._anew))(path, content)
            written[path.relative_to(self._root)] = content
        return written

    def _path(self, number: int) -> Path:
        return self._root / f"d{number % DIRECTORIES}" / f"f{number}"

    def _in_place(self, path: Path, content: bytes) -> None:
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()

    def _by_rename(self, path: Path, content: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)

    def _anew(self, path: Path, content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)


def misses(pair: Pair, editor: Editor, writer: Writer, *, whole: bool) -> list[str]:
    """What was not there when the answer was."""
    missed, took = [], []
    for number in range(TIMES):
        written = writer.change(number)
        begun = time.perf_counter()
        answer = editor.sync(*([pair.name] if whole else [pair.source / path for path in written]))
        took.append(time.perf_counter() - begun)
        assert answer.ok, (number, answer)
        for path, content in written.items():
            if (pair.destination / path).read_bytes() != content:
                missed.append(f"{number}: {path}")
    print(f"{TIMES} times: {1000 * statistics.median(took):.1f} ms each, the longest {1000 * max(took):.0f} ms")
    return missed


@pytest.mark.fault("W8")
@pytest.mark.parametrize("watched", [False, True], ids=["", "watched"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "paths"])
def test_what_was_written_is_there(hosts: Hosts, place: Path, whole: bool, watched: bool) -> None:
    with pair_of(hosts.here, place, "--mirror", *(["--watch"] if watched else [])) as pair:
        writer = Writer(pair.source, seed=whole + 2 * watched)
        with Editor(hosts.here) as editor:
            assert editor.sync(pair.name).ok
            assert misses(pair, editor, writer, whole=whole) == []
            assert editor.sync(pair.name).ok
        pair.same()
