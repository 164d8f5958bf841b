"""The trees of this agent, by root and filters: opened when first used, kept while they may be of use again."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import trio

from agentd import _core
from agentd.tree.baselines import digest
from agentd.tree.known import CrateTree, Known
from agentd.wake import Wake

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

log = logging.getLogger(__name__)

Key = tuple[bytes, tuple[bytes, ...]]
"""(absolute path of the root, filters)."""

IDLE_S = 3600.0
"""A root that is no pair's is watched for this long after it was last used."""

SWEEP_S = 60.0

VERIFY_AFTER_S = 0.25
"""Behind a save: the next one does not wait for what is looked at behind this one."""

STOP_S = 3.0
"""What saving may take when the agent stops, which has 5 s for everything."""

KEPT_S = 30 * 86400
"""A saved index that nobody used for this long is of a root that was synced once."""

WATCHES = "/proc/sys/fs/inotify/max_user_watches"


class Bounds(NamedTuple):
    """How much of this machine trees may use whose roots are no pair's."""

    trees: int = 32
    """inotify instances: a user has 128."""
    entries: int = 2_000_000
    """About 220 MB."""
    watches_share: float = 0.5
    """Of what the system allows this user; the rest is for pairs, and for other programs."""


def watches_max() -> int:
    """How many watches the system allows one user."""
    try:
        with open(WATCHES, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1 << 16


def open_tree(
    root: bytes, *, filters: list[bytes], index: bytes | None, threads: int, watches_max: int, wake_fd: int
) -> CrateTree:
    """The crate's.  Raises OSError."""
    core: Any = _core
    return cast(
        "CrateTree",
        core.Tree(root, filters=filters, index=index, threads=threads, watches_max=watches_max, wake_fd=wake_fd),
    )


class _Slot:
    """A place in the registry; ``lock`` is held while its tree is opened or closed."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.known: Known | None = None
        self.users = 0
        self.used = 0.0
        self.scope = trio.CancelScope()


class Trees:
    """``place`` is a directory for saved indexes; ``pinned(root)`` says that a root is a pair's.

    Without ``run()`` there are none.
    """

    def __init__(
        self,
        place: str,
        *,
        threads: int,
        pinned: Callable[[bytes], bool] = lambda _: False,
        bounds: Bounds = Bounds(),  # noqa: B008 - immutable
        open_tree: Callable[..., CrateTree] = open_tree,
    ) -> None:
        self._place = os.fsencode(place)
        self._threads = threads
        self._pinned = pinned
        self._bounds = bounds
        self._open_tree = open_tree
        self._slots: dict[Key, _Slot] = {}
        self._nursery: trio.Nursery | None = None
        self._limiter = trio.CapacityLimiter(8)
        self._verifying: set[Key] = set()
        """Those that a refresh is due for."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them, and let go of those that are of no use any more, until cancelled; then all are saved."""
        await trio.to_thread.run_sync(self._clear_place)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await trio.sleep(SWEEP_S)
                    await self._let_go()
            finally:
                self._nursery = None
                with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S):
                    async with trio.open_nursery() as closing:
                        for key in list(self._slots):
                            closing.start_soon(self._close, key)

    @contextlib.asynccontextmanager
    async def use(self, root: bytes, filters: Sequence[bytes]) -> AsyncIterator[Known | None]:
        """The tree of ``root``, an absolute path, under ``filters``, for as long as the body runs.

        None: there cannot be one, and what is done is done without.
        """
        if self._nursery is None:
            yield None
            return
        key = root, tuple(filters)
        slot = self._slots.setdefault(key, _Slot())
        slot.users += 1
        try:
            async with slot.lock:
                if slot.known is None:
                    await self._open(key, slot)
            yield slot.known
        finally:
            slot.users -= 1
            slot.used = trio.current_time()
            if slot.known is None and not slot.users and self._slots.get(key) is slot:
                del self._slots[key]

    def overflows(self) -> int:
        """How often the kernel lost events of the trees that are open."""
        return sum(slot.known.tree.overflows() for slot in self._slots.values() if slot.known is not None)

    def verify(self, root: bytes, filters: Sequence[bytes], *, brief: bool = False) -> None:
        """Refresh the tree behind a session that wrote there; behind a ``brief`` one, when no other follows at once."""
        key = root, tuple(filters)
        if self._nursery is not None and not (brief and key in self._verifying):
            self._nursery.start_soon(self._verify, key, brief)

    async def _verify(self, key: Key, brief: bool) -> None:
        if brief:
            self._verifying.add(key)
            await trio.sleep(VERIFY_AFTER_S)
            self._verifying.discard(key)
        async with self.use(*key) as known:
            if known is not None:
                with contextlib.suppress(OSError, _core.EngineClosed):  # the next session is told
                    await known.refresh()

    async def _open(self, key: Key, slot: _Slot) -> None:
        await self._let_go(opening=not self._pinned(key[0]))
        nursery = self._nursery
        if nursery is None:
            return
        wake = Wake()
        index = os.path.join(self._place, digest([key[0], *key[1]]).hex().encode() + b".idx")
        watches = await self._watches(key)

        def make(index: bytes | None) -> CrateTree:
            return self._open_tree(
                key[0], filters=list(key[1]), index=index, threads=self._threads, watches_max=watches,
                wake_fd=wake.write_fd,
            )  # fmt: skip

        try:
            slot.known = await trio.to_thread.run_sync(Known, make, wake, index, self._limiter, limiter=self._limiter)
        except (OSError, ValueError) as e:
            wake.close()
            log.info("no tree is kept", extra={"root": os.fsdecode(key[0]), "reason": str(e)})
            return
        except BaseException:
            wake.close()
            raise
        slot.scope = trio.CancelScope()
        nursery.start_soon(self._keep, key, slot)

    async def _keep(self, key: Key, slot: _Slot) -> None:
        with slot.scope:
            while slot.known is not None:
                try:
                    await slot.known.run()
                except* OSError as group:
                    reason = group.exceptions[0]
                    log.warning("an index was not saved", extra={"root": os.fsdecode(key[0]), "reason": str(reason)})
                await trio.sleep(SWEEP_S)

    async def _close(self, key: Key) -> None:
        """Save and close one that is in nobody's use, or all of whose users are being cancelled."""
        slot = self._slots[key]
        async with slot.lock:
            known = slot.known
            if known is None or (slot.users and self._nursery is not None):
                return
            slot.known = None
            slot.scope.cancel()
            try:
                await known.save()
            except OSError as e:
                log.warning("an index was not saved", extra={"root": os.fsdecode(key[0]), "reason": str(e)})
            await trio.to_thread.run_sync(known.close, limiter=self._limiter)
        if not slot.users and self._slots.get(key) is slot:
            del self._slots[key]

    async def _let_go(self, *, opening: bool = False) -> None:
        """Close what was idle for long, and the longest unused of what is beyond the bounds."""
        adhoc = [(slot.used, key) for key, slot in self._slots.items() if slot.known and not self._pinned(key[0])]
        adhoc.sort()
        now, entries, watches = trio.current_time(), 0, 0
        counted = {key: await self._counters(key) for _, key in adhoc}
        entries = sum(counters.get("entries", 0) for counters in counted.values())
        watches = sum(counters.get("watches", 0) for counters in counted.values())
        room = watches_max() * self._bounds.watches_share * (0.75 if opening else 1)
        for n, (used, key) in enumerate(adhoc):
            slot = self._slots.get(key)
            if slot is None or slot.users:
                continue
            beyond = len(adhoc) - n + opening > self._bounds.trees or entries > self._bounds.entries or watches > room
            if beyond or now - used > IDLE_S:
                entries -= counted[key].get("entries", 0)
                watches -= counted[key].get("watches", 0)
                await self._close(key)

    async def _watches(self, key: Key) -> int:
        allowed = watches_max()
        if self._pinned(key[0]):
            return allowed
        used = 0
        for other, slot in list(self._slots.items()):
            if slot.known is not None and not self._pinned(other[0]):
                used += (await self._counters(other)).get("watches", 0)
        return max(0, int(allowed * self._bounds.watches_share) - used)

    async def _counters(self, key: Key) -> dict[str, int]:
        slot = self._slots.get(key)
        if slot is None or slot.known is None:
            return {}
        try:
            return await slot.known.call(lambda tree: tree.counters())
        except _core.EngineClosed:  # another task let go of it meanwhile
            return {}

    def _clear_place(self) -> None:
        os.makedirs(self._place, mode=0o700, exist_ok=True)
        for entry in os.scandir(self._place):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - KEPT_S:
                    os.unlink(entry.path)
