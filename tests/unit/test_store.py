"""State that outlives the agent, and what becomes of it when it is damaged, from the future, or not writable."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentd.store import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.sqlite")


def open_quietly(path: str) -> Store:
    notices: list[str] = []
    store = Store(path, notices.append)
    assert notices == []
    return store


def test_an_id_is_made_once(path: str) -> None:
    with closing(open_quietly(path)) as store:
        agent = store.agent
        assert len(agent) == 16
    with closing(open_quietly(path)) as store:
        assert store.agent == agent
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_unfinished_sessions_survive_and_finished_ones_do_not(path: str) -> None:
    with closing(open_quietly(path)) as store:
        store.begin(b"a" * 16, b"/root/\xff")
        store.begin(b"b" * 16, b"/other")
        store.begin(b"a" * 16, b"/root/\xff")  # a further epoch
        store.end(b"b" * 16)
        store.end(b"c" * 16)
    with closing(open_quietly(path)) as store:
        assert store.unfinished() == [(b"a" * 16, b"/root/\xff")]


def spoil_header(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"spoilt" * 20)


def spoil_page(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


def from_the_future(path: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def of_another_shape(path: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE identity; CREATE TABLE identity (name TEXT)")


def cut(path: str) -> None:
    os.truncate(path, 5000)


@pytest.mark.fault("C13")
@pytest.mark.parametrize("spoil", [spoil_header, spoil_page, from_the_future, of_another_shape, cut])
def test_what_cannot_be_used_is_moved_aside(path: str, spoil: object) -> None:
    with closing(open_quietly(path)) as store:
        old = store.agent
    assert callable(spoil)
    spoil(path)
    notices: list[str] = []
    with closing(Store(path, notices.append)) as store:
        assert store.agent != old
        store.begin(b"a" * 16, b"/r")
    assert len(notices) == 1
    assert f"the old one is {path}.unusable" in notices[0]
    assert os.path.exists(f"{path}.unusable")
    with closing(open_quietly(path)) as store:
        assert store.unfinished() == [(b"a" * 16, b"/r")]


@pytest.mark.fault("C13")
def test_without_a_place_to_write_it_is_kept_in_memory(tmp_path: Path) -> None:
    notices: list[str] = []
    with closing(Store(str(tmp_path / "missing/state.sqlite"), notices.append)) as store:
        store.begin(b"a" * 16, b"/r")
        assert store.unfinished() == [(b"a" * 16, b"/r")]
        assert len(store.agent) == 16
    assert "in memory only" in notices[0]


def test_a_symlink_is_not_followed_to_make_it(tmp_path: Path, path: str) -> None:
    os.symlink(tmp_path / "elsewhere", path)
    notices: list[str] = []
    Store(path, notices.append).close()
    assert notices
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.fault("C13")
def test_what_holds_other_values_than_ours_is_passed_over(path: str) -> None:
    open_quietly(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE identity SET agent = 5")
        db.execute("INSERT INTO sessions VALUES ('text', 7)")
    with closing(open_quietly(path)) as store:
        assert len(store.agent) == 16
        assert store.unfinished() == []


@pytest.mark.fault("C13")
def test_damage_while_it_is_open_is_survived(path: str) -> None:
    notices: list[str] = []
    with closing(Store(path, notices.append)) as store:
        agent = store.agent
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with open(path, "r+b") as file:
            file.write(b"spoilt" * 3000)
        store.begin(b"a" * 16, b"/r")
        assert store.unfinished() == [(b"a" * 16, b"/r")]
        assert "begun anew" in notices[0]
    with closing(open_quietly(path)) as store:
        assert store.agent == agent
        assert store.unfinished() == [(b"a" * 16, b"/r")]


@pytest.mark.fault("C13")
@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everything")
def test_what_cannot_be_written_is_begun_anew(path: str) -> None:
    open_quietly(path).close()
    os.chmod(path, 0o400)
    notices: list[str] = []
    with closing(Store(path, notices.append)) as store:
        store.begin(b"a" * 16, b"/r")
        assert store.unfinished() == [(b"a" * 16, b"/r")]
    assert notices
