"""The messages of the control socket about the trash of a destination."""

from __future__ import annotations

from proto import limits
from proto.control_ends import LOCATION_MAX, TARGETS_MAX
from proto.control_jobs import check_environment
from proto.record import NamedTuple
from proto.schema import check_bool, check_choice, check_list, check_path, check_text, check_uint

TRASH_ACTIONS = ("list", "restore", "empty")
TRASH_ROWS_MAX = 100_000
"""Entries that a list has at most."""

_NO_BYTES: list[bytes] = []
_NO_ENV: dict[str, str] = {}


class Trash(NamedTuple):
    """List what a destination's trash holds, put some of it back, or remove it all for good."""

    id: int
    action: str
    """One of TRASH_ACTIONS."""
    target: bytes
    """A pair's name, or a destination's location."""
    paths: list[bytes] = _NO_BYTES
    """What is to be put back, from the destination's root."""
    batch: str = ""
    """From where; empty: the newest that has it."""
    env: dict[str, str] = _NO_ENV

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_choice("action", self.action, TRASH_ACTIONS)
        check_path("target", self.target, LOCATION_MAX)
        check_list("paths", self.paths, TARGETS_MAX)
        for path in self.paths:
            check_path("paths", path, limits.PATH_MAX_BYTES)
        check_text("batch", self.batch, 32)
        check_environment(self.env)


class TrashEntry(NamedTuple):
    """Something in the trash; of directories, those alone that nothing is in."""

    id: int
    batch: str
    path: bytes
    size: int
    directory: bool

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("batch", self.batch, 32)
        check_path("path", self.path, limits.PATH_MAX_BYTES)
        check_uint("size", self.size)
        check_bool("directory", self.directory)


class Trashed(NamedTuple):
    """So many entries were put back, or removed."""

    id: int
    entries: int
    taken: list[bytes] = _NO_BYTES
    """What was not put back since something else is in its place by now."""
    missing: list[bytes] = _NO_BYTES
    """What is not there."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_uint("entries", self.entries)
        for name in ("taken", "missing"):
            check_list(name, getattr(self, name), TARGETS_MAX)
            for path in getattr(self, name):
                check_path(name, path, limits.PATH_MAX_BYTES)
