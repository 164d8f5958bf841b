"""What outlives the agent: its id, which roots a session was writing to when it was killed, and which directories
sources were.

SQLite with WAL.  State that is damaged, of a future version or not writable is never a reason not to start: it is
moved aside and begun anew, or kept in memory, and a notice says so.  The worst that its loss costs is a sweep, and that
a source which was replaced meanwhile is taken for the one that it was.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LAYOUT = 1
_SOURCES_KEPT_DAYS = 400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (agent BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (session BLOB PRIMARY KEY, root BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (key BLOB PRIMARY KEY, identity BLOB NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID;
"""


class Store:
    """``notice(text)`` is told when something had to be begun anew."""

    def __init__(self, path: str, notice: Callable[[str], None]) -> None:
        self._path = path
        self._notice = notice
        self._db = _open(path, notice)
        self.agent = self._identity()

    def begin(self, session: bytes, root: bytes) -> None:
        """A session is about to write below ``root``."""
        self._do("INSERT OR REPLACE INTO sessions VALUES (?, ?)", session, root)

    def end(self, session: bytes) -> None:
        """It has cleared up after itself."""
        self._do("DELETE FROM sessions WHERE session = ?", session)

    def unfinished(self) -> list[tuple[bytes, bytes]]:
        """(session, root) of those that never ended."""
        try:
            rows = self._db.execute("SELECT session, root FROM sessions").fetchall()
        except sqlite3.DatabaseError as e:
            self._begin_anew(e)
            return []
        return [(session, root) for session, root in rows if type(session) is type(root) is bytes]

    def source(self, key: bytes) -> bytes | None:
        """What was remembered last under ``key``."""
        try:
            row = self._db.execute("SELECT identity FROM sources WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as e:
            self._begin_anew(e)
            return None
        return row[0] if row is not None and type(row[0]) is bytes else None

    def remember_source(self, key: bytes, identity: bytes) -> None:
        """Which directory a source is."""
        today = int(time.time() / 86400)
        self._do("DELETE FROM sources WHERE day < ?", today - _SOURCES_KEPT_DAYS)
        self._do("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", key, identity, today)

    def close(self) -> None:
        """No more calls."""
        self._db.close()

    def _do(self, statement: str, *values: bytes | int) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.OperationalError:
            # A disk that filled up since the start: the sweep after a crash is lost, the sync is not.
            pass
        except sqlite3.DatabaseError as e:
            self._begin_anew(e)
            with contextlib.suppress(sqlite3.DatabaseError):
                self._db.execute(statement, values)

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        """The file was damaged while we had it open: the same agent goes on with another."""
        self._db.close()
        self._db = _open(self._path, self._notice, error)
        self._identify(self.agent)

    def _identity(self) -> bytes:
        row = self._db.execute("SELECT agent FROM identity").fetchone()
        if row is not None and type(row[0]) is bytes and len(row[0]) == 16:
            return row[0]
        agent = os.urandom(16)
        self._identify(agent)
        return agent

    def _identify(self, agent: bytes) -> None:
        with contextlib.suppress(sqlite3.DatabaseError):
            self._db.execute("DELETE FROM identity")
            self._db.execute("INSERT INTO identity VALUES (?)", (agent,))


def _open(path: str, notice: Callable[[str], None], known: sqlite3.DatabaseError | None = None) -> sqlite3.Connection:
    """``known`` is what is wrong with it."""
    try:
        if known is not None:
            raise known
        return _open_one(path)
    except sqlite3.DatabaseError as e:
        unusable = f"{path}.unusable"
        try:
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(path + suffix):
                    os.replace(path + suffix, unusable + suffix)
            fresh = _open_one(path)
        except (OSError, sqlite3.DatabaseError) as again:
            notice(f"{path} cannot be used ({again}): state is kept in memory only")
            return _open_one(":memory:")
        notice(f"{path} was unusable ({e}): begun anew, the old one is {unusable}")
        return fresh


def _open_one(path: str) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError when it is damaged, of another layout, or cannot be written."""
    if path != ":memory:" and not os.path.exists(path):
        os.close(_create(path))
    db = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        (layout,) = db.execute("PRAGMA user_version").fetchone()
        if layout not in (0, _LAYOUT):
            raise sqlite3.DatabaseError(f"layout {layout} is of another version")
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("damaged")
        db.executescript(_SCHEMA)
        db.execute("SELECT agent FROM identity").fetchone()
        db.execute("SELECT session, root FROM sessions").fetchone()
        db.execute(f"PRAGMA user_version = {_LAYOUT}")
    except BaseException:
        db.close()
        raise
    return db


def _create(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise sqlite3.OperationalError(str(e)) from None
