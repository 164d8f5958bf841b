"""What a person does with the trash of a destination."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from agentd.control.targets import located
from proto import control
from proto.errors import SyncError
from proto.job import format_location, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentd.config import Config
    from agentd.control.outbox import Outbox


class Put(Protocol):
    """What became of it."""

    @property
    def entries(self) -> int: ...  # noqa: D102
    @property
    def taken(self) -> list[bytes]: ...  # noqa: D102
    @property
    def missing(self) -> list[bytes]: ...  # noqa: D102


class Trashes(Protocol):
    """What is asked of the sessions: see agentd.sync.service."""

    async def trash(self, path: bytes) -> list[tuple[bytes, bytes, int, bool]]: ...  # noqa: D102
    async def restore(self, path: bytes, paths: Sequence[bytes], batch: bytes) -> Put: ...  # noqa: D102
    async def empty_trash(self, path: bytes) -> Put: ...  # noqa: D102


_ROWS_AT_ONCE = 1000


async def tidy(trashes: Trashes, message: control.Trash, config: Config, outbox: Outbox) -> None:
    """Do what TRASH asks for, and answer.  Raises SyncError."""
    root = _root(message, config)
    if message.action == "list":
        for number, (batch, path, size, directory) in enumerate(await trashes.trash(root)):
            if number % _ROWS_AT_ONCE == 0:
                await outbox.wait_idle()
            outbox.post(control.TrashEntry(message.id, batch.decode(), path, size, directory))
        return
    if message.action == "restore":
        paths = [_below(root, path) for path in message.paths]
        put = await trashes.restore(root, paths, message.batch.encode())
    else:
        put = await trashes.empty_trash(root)
    outbox.post(control.Trashed(message.id, put.entries, put.taken, put.missing))


def _root(message: control.Trash, config: Config) -> bytes:
    pair = config.pairs.get(message.target.decode("utf-8", "replace"))
    location = pair.destination if pair is not None else located(message.target, message.env)
    if location.host is not None:
        there = shown(format_location(location._replace(host=None)))
        raise SyncError(
            "usage", f"the trash of {location} is on that host", f"run there: syncctl trash {message.action} {there}"
        )
    return location.path


def _below(root: bytes, path: bytes) -> bytes:
    """A path as it is in the trash, from the root; one that is absolute is below it."""
    for above in (root, os.path.realpath(root)):
        if path.startswith(above.rstrip(b"/") + b"/"):
            path = path[len(above.rstrip(b"/")) :]
    return os.path.normpath(path.strip(b"/"))
