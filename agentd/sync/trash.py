"""The trash of a destination: what its batches are called, when they go, and what a person does with it.

The crate moves and removes: see ``_core.trash_list``.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from agentd import _core
from agentd.sync import roots
from proto.control_ends import TARGETS_MAX
from proto.errors import SyncError
from proto.job import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentd.sync.common import Workshop

log = logging.getLogger(__name__)

REMOVED_MAX = 200_000
"""Entries of old batches that are removed behind one session at most; a later one goes on."""

EXPIRE_EVERY_S = 3600.0
"""Ages are days: a root is not looked at more often."""

_ROOTS_MAX = 1000

ROWS_MAX = 100_000

HOLDER = "somebody who tidies its trash"


def batch(session: bytes, now: float | None = None) -> bytes:
    """The name of what a session puts there, which sorts by time."""
    return _stamp(time.time() if now is None else now) + b"-" + session[:4].hex().encode()


class Expiry:
    """Removes what is older than was asked for, behind sessions and not more often than it has to."""

    def __init__(self, threads: trio.CapacityLimiter) -> None:
        self.nursery: trio.Nursery | None = None
        """Where that is done; without one it is not."""
        self._threads = threads
        self._due: dict[bytes, float] = {}

    def soon(self, root: bytes, keep_s: int) -> None:
        """Look at ``root``, if it is time to."""
        now = trio.current_time()
        if self.nursery is None or now < self._due.get(root, now):
            return
        if len(self._due) >= _ROOTS_MAX:
            self._due.clear()
        self._due[root] = now + EXPIRE_EVERY_S
        self.nursery.start_soon(self._expire, root, keep_s)

    async def _expire(self, root: bytes, keep_s: int) -> None:
        try:
            gone = await trio.to_thread.run_sync(expire, root, keep_s, limiter=self._threads)
        except OSError as e:
            log.warning("old trash was not removed", extra={"root": os.fsdecode(root), "reason": str(e)})
        else:
            if gone:
                log.info("old trash was removed", extra={"root": os.fsdecode(root), "entries": gone})


def expire(root: bytes, keep_s: int, now: float | None = None) -> int:
    """Remove what is older; how many entries.  It blocks.  Raises OSError."""
    before = _stamp(max(0.0, (time.time() if now is None else now) - keep_s))
    return _core.trash_empty(_holder(root), before, REMOVED_MAX)[0]


class Put(NamedTuple):
    """What became of it."""

    entries: int
    taken: list[bytes]
    missing: list[bytes]


async def listed(shop: Workshop, path: bytes) -> list[tuple[bytes, bytes, int, bool]]:
    """What is in the trash of the root at ``path``.  Raises SyncError."""
    root = await _root(shop, path)
    rows: list[tuple[bytes, bytes, int, bool]] = await _do(shop, root.path, _core.trash_list, ROWS_MAX)
    return rows


async def restored(shop: Workshop, path: bytes, paths: Sequence[bytes], from_batch: bytes) -> Put:
    """Put ``paths``, from the root, back where they were, but over nothing.  Raises SyncError."""
    root = await _root(shop, path)
    put = Put(0, [], [])
    async with shop.leases.lease(root, HOLDER):
        for wanted in paths:
            try:
                count, taken = await _do(shop, root.path, _core.trash_restore, wanted, from_batch)
            except ValueError:
                raise SyncError("usage", f"{shown(wanted)}: not a path below the root, or not a batch") from None
            put = Put(put.entries + count, put.taken + taken, put.missing if count or taken else [*put.missing, wanted])
    return put._replace(taken=put.taken[:TARGETS_MAX])


async def emptied(shop: Workshop, path: bytes) -> Put:
    """Remove everything for good.  Raises SyncError."""
    root = await _root(shop, path)
    count, whole = 0, False
    async with shop.leases.lease(root, HOLDER):
        while not whole:
            some, whole = await _do(shop, root.path, _core.trash_empty, b"", REMOVED_MAX)
            count += some
    return Put(count, [], [])


async def _root(shop: Workshop, path: bytes) -> roots.Root:
    root: roots.Root = await shop.blocking(roots.destination_root, path)
    if root.kind == "missing":
        raise SyncError("destination-missing", f"{shown(path)} does not exist", "check the path")
    return root


async def _do(shop: Workshop, root: bytes, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return await shop.blocking(function, _holder(root), *args)
    except OSError as e:
        raise roots.destination_error(root, e) from None


def _holder(root: bytes) -> bytes:
    """The directory that has the trash: of a root that is one file, the one that it is in."""
    return root if os.path.isdir(root) else os.path.dirname(root)


def _stamp(seconds: float) -> bytes:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds)).encode()
