"""State that an agent finds damaged, foreign or of another day: it looks again, says so, and deletes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.helpers.hosts import Agent, one_host, short_directory, this_account
from tests.helpers.trouble import contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = 40


class Known:
    """An agent that knows a source and its destination."""

    def __init__(self, agent: Agent, top: Path) -> None:
        self.agent, self.top = agent, top
        self.source, self.destination = top / "source", top / "destination"
        for n in range(FILES):
            path = self.source / f"d{n % 4}" / f"f{n}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(n))
        self.sync()
        self.sync()

    def sync(self) -> None:
        """Equal afterwards."""
        self.agent.ok("push", self.source, self.destination, "--delete")
        assert contents(self.source) == contents(self.destination)

    @property
    def state(self) -> Path:
        return self.agent.home / "state"

    def indexes(self) -> list[Path]:
        return [path for path in self.state.joinpath("index").iterdir() if path.is_file()]


@pytest.fixture(scope="module")
def known() -> Iterator[Known]:
    with short_directory() as directory, one_host(this_account(), directory) as agent:
        agent.ok("start")
        yield Known(agent, directory)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def from_the_future(path: Path) -> None:
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
    else:
        data = bytearray(path.read_bytes())
        data[8] = 99
        path.write_bytes(data)


@pytest.mark.fault("C13")
@pytest.mark.parametrize("spoil", [garbage, cut, empty, flip, from_the_future])
def test_spoilt_state_is_a_look_at_everything(known: Known, spoil: Callable[[Path], None]) -> None:
    known.agent.stop()
    indexes = known.indexes()
    assert indexes
    for path in (*indexes, known.state / "state.sqlite"):
        spoil(path)
    (known.source / "new").write_text(spoil.__name__)
    known.agent.ok("start")
    known.sync()
    known.sync()
    log = known.agent.log_tail()
    assert "is not used" in log
    assert spoil in (empty, flip) or "begun anew" in log
    assert "Traceback" not in log


@pytest.mark.fault("C13", "E5")
def test_state_of_yesterday_is_a_look_at_everything(known: Known) -> None:
    """What it says is there was deleted, and what it does not know of was made since."""
    agent, old = known.agent, known.top / "yesterday"
    (known.source / "gone tomorrow").write_text("x")
    known.sync()
    agent.stop()
    shutil.copytree(known.state, old)
    agent.ok("start")
    (known.source / "gone tomorrow").unlink()
    (known.source / "d0/f0").write_text("changed since")
    (known.source / "made since").mkdir()
    (known.source / "made since/file").write_text("y")
    known.sync()
    agent.stop()
    shutil.rmtree(known.state)
    old.rename(known.state)
    agent.ok("start")
    before = contents(known.destination)
    known.sync()
    assert contents(known.destination) == before
    (known.source / "made since/file").write_text("z")
    known.sync()
