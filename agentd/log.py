"""The agent's log: a rotating file, or the journal's prefixes on stderr; as text or as JSON lines."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys

from proto.text import escape_text

_BYTES = 2 << 20
_FILES = 3
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """One line a record, ``key=value`` extras behind it.  Whatever a peer named is escaped."""

    def __init__(self, *, priorities: bool = False, as_json: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._priorities = priorities
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line (several for a traceback, which only defects have)."""
        extras = {key: value for key, value in vars(record).items() if key not in _KNOWN}
        if self._json:
            entry = {"time": record.created, "level": record.levelname.lower(), "logger": record.name}
            entry |= {"message": record.getMessage()} | {key: str(value) for key, value in extras.items()}
            if record.exc_info:
                entry["traceback"] = self.formatException(record.exc_info)
            return json.dumps(entry)
        message = escape_text(record.getMessage()) + "".join(
            f" {key}={escape_text(str(value))}" for key, value in extras.items()
        )
        if record.exc_info:
            # an exception may quote what a peer named
            message += "".join("\n" + escape_text(line) for line in self.formatException(record.exc_info).split("\n"))
        if self._priorities:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{record.name}: {message}"
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {message}"


def _is_journal(fd: int) -> bool:
    """Whether ``fd`` leads to the journal.  The variable alone proves nothing: a terminal's children inherit it."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def start(path: str, *, foreground: bool, as_json: bool) -> None:
    """Log to ``path``, or to stderr under a service manager; in the foreground to both.  A full disk stops nothing."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    logging.raiseExceptions = False
    journal = _is_journal(2)
    if foreground or journal:
        stream = logging.StreamHandler(sys.stderr)
        stream.setFormatter(LineFormatter(priorities=journal, as_json=as_json))
        root.addHandler(stream)
    if not journal:
        try:
            file = logging.handlers.RotatingFileHandler(path, maxBytes=_BYTES, backupCount=_FILES, delay=False)
        except OSError as e:
            logging.getLogger(__name__).warning("no log file", extra={"path": path, "reason": e.strerror})
            return
        file.setFormatter(LineFormatter(as_json=as_json))
        root.addHandler(file)
