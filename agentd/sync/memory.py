"""What one end of a session remembers: the tree of its root, and the states that were agreed with the other end.

Without a tree (a root that is one file, or a dry run's missing one) nothing is remembered, and everything is listed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

from agentd import _core
from agentd.tree.baselines import key
from agentd.tree.known import SWEEP
from proto import limits
from proto.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from agentd.sync.common import Workshop
    from agentd.sync.endpoints import Endpoint
    from agentd.sync.roots import Root
    from agentd.tree.known import CrateTree, Filling, Known
    from proto.peer import Open

EVERYTHING = b"\x01\x00\x00\x00\x00\x00"
"""The looks that are the root with everything below it."""

LOOKS_MAX = 8 << 20
"""Bytes of a sender's own looks; beyond, listing everything is no more work."""

BRIEF_SWEEP = 256
"""Files that no event tells of, looked at before a save; before some paths only none are: their receiver looks at them.
The others follow behind it."""

LOOK_MAX = limits.PAYLOAD_MAX // 2
"""Bytes of one LOOK."""


class Trees(Protocol):
    """What is needed of ``agentd.tree.trees.Trees``."""

    def use(self, root: bytes, filters: Sequence[bytes]) -> contextlib.AbstractAsyncContextManager[Known | None]: ...  # noqa: D102
    def verify(self, root: bytes, filters: Sequence[bytes], *, brief: bool) -> None: ...  # noqa: D102


class _Survey(NamedTuple):
    """What a refreshed tree said."""

    true: bool
    new: bool
    tick: int
    held: list[tuple[bytes, int]]
    looks: Any | None
    emptied: bool
    """It has nothing in it, and that would delete everything at the other end."""
    notice: str


class Memory:
    """For one epoch.  ``failed`` makes of an OSError about the root what a person is told."""

    def __init__(
        self,
        known: Known | None,
        key_: bytes,
        opening: Open,
        *,
        sends: bool,
        failed: Callable[[OSError], SyncError],
    ) -> None:
        self.since: int | None = None
        """Up to where own changes are agreed, by the tree's ticks."""
        self.hold = False
        """Files that are being written count as unchanged."""
        self.new = False
        """The tree knows nothing, and a list of everything fills it."""
        self._known = known
        self._key = key_
        self._opening = opening
        self._sends = sends
        self._failed = failed
        self._held: list[tuple[bytes, int]] = []
        self._now = 0
        self._tick: int | None = None
        self._agreed: bytes | None = None
        self._filling: Filling | None = None
        self._sweep = SWEEP if not opening.brief else 0 if opening.scoped else BRIEF_SWEEP
        self._survey: _Survey | None = None
        self._surveyed: bytes | None = None

    async def recall(self, *, missing: bool) -> None:
        """Find out which baselines there are; of a root that is not there, none."""
        known = self._known
        if known is not None:
            self.new, self._now, self._held = await known.recall(self._key)
            if self._opening.checksum:
                self._held = []
            if missing and not self.new:
                await self._forget(known)

    def offers(self, count: int) -> list[bytes]:
        """The newest baselines, for OPEN."""
        return [] if self._opening.scoped else [id_ for id_, _ in self._held[:count]]

    def common(self, baselines: list[bytes]) -> bytes | None:
        """The first of an OPEN's that is held here too."""
        held = dict(self._held)
        return next((id_ for id_ in baselines if id_ in held), None)

    async def refresh(self, baseline: bytes | None = None, limit: int = 0) -> None:
        """Make the tree true as of now, which is where what this session agrees on begins.  Raises SyncError.

        What ``changes(baseline, limit)`` will ask for is found out in the same visit to a thread.
        """
        known, held = self._known, not self._opening.checksum
        guarded = self._sends and self._opening.delete and not self._opening.force
        if known is None:
            return

        def look(tree: CrateTree, true: bool) -> _Survey:
            baselines = tree.baselines(self._key) if held else []
            since = dict(baselines).get(baseline or b"")
            looks = None if since is None or not true else tree.changes(since, limit)
            emptied = guarded and looks is not None and not tree.counters()["entries"]
            return _Survey(true, tree.is_new(), tree.tick(), baselines, looks, emptied, tree.notice())

        try:
            survey = await known.survey(look, hold=self.hold, sweep=self._sweep)
        except _core.TreePaused as e:
            await self._take_pause(known, e)
            return
        except OSError as e:
            raise self._failed(e) from None
        self.new, self._now, self._held = survey.new, survey.tick, survey.held
        self._tick = survey.tick if survey.true else None
        self._survey, self._surveyed = survey, baseline

    async def changes(self, baseline: bytes | None, limit: int) -> Any | None:
        """Looks at what changed here since ``baseline`` was agreed, up to ``refresh()``; None: it cannot be told."""
        known, since = self._known, dict(self._held).get(baseline or b"")
        if known is None or since is None or self._tick is None:
            return None
        if self._survey is not None and self._surveyed == baseline:
            looks = self._survey.looks
        else:
            looks = await known.call(lambda tree: tree.changes(since, limit))
        self.since = None if looks is None else since
        return looks

    async def _take_pause(self, known: Known, pause: OSError) -> None:
        """The root is gone, or an empty one took its place: a receiver fills it again, a sender may be about to delete.

        What is forgotten then is what was agreed about the other one.
        """
        deleting = self._opening.delete and not self._opening.force
        if self._sends and (pause.errno or deleting):
            if pause.errno:
                raise self._failed(pause)
            said = self._failed(OSError(pause.args[1])).message
            raise SyncError("source-empty", said, "--force says that it is meant")
        await self._forget(known)

    async def _forget(self, known: Known) -> None:
        await known.renew()
        self._survey = None
        await self.recall(missing=False)

    async def changes_of_sender(self, baseline: bytes | None) -> Any | None:
        """The same for the end that lists: a source that lost all it had is refused, where that deletes everything."""
        if self._known is None or self.new:
            return None  # its walk fills the tree
        await self.refresh(baseline, LOOKS_MAX)
        looks = await self.changes(baseline, LOOKS_MAX)
        if self._survey is not None and self._survey.emptied:
            raise source_empty()
        return looks

    async def renew(self) -> None:
        """For a scoped session's receiver: where nothing else changed here, what was agreed last stays so behind it."""
        if self._known is not None and self._known.learning:
            self._known = None  # from the long session beside this one: it is not waited for
        newest = self._held[0][0] if self._held and self._known is not None else None
        if newest is None:
            return
        await self.refresh(newest, LOOK_MAX)
        looks = await self.changes(newest, LOOK_MAX)
        if looks is not None and not len(looks):
            self._agreed = newest
        if self.since is None and self._held:
            self.since = self._held[0][1]

    @contextlib.asynccontextmanager
    async def engaged(self, *, fills: bool) -> AsyncIterator[CrateTree | None]:
        """The tree for an engine, while the body runs; ``fills``: it learns from what the engine lists or writes."""
        if self._known is None:
            yield None
        elif not fills:
            yield self._known.tree
        else:
            async with self._known.filling() as self._filling:
                if self._filling is not None and self._survey is not None:
                    # What another refresh has found since ours is in none of this session's looks: not to be agreed on.
                    _, tick, _ = await self._known.recall(self._key)
                    self._filling.disturbed |= tick != self._survey.tick
                yield None if self._filling is None else self._known.tree
                self._filling = None

    async def conclude(self, shop: Workshop, endpoint: Endpoint, *, finished: bool) -> None:
        """Close the engine, whatever happens meanwhile, and if the session ``finished`` keep what is agreed now.

        In one visit to a thread, before the tree is let go of.
        """
        held = endpoint.receiver_stats.get("held")  # what was to go is there still: that is nothing to agree on
        commit = self._commitment() if finished and not held else None

        def ends() -> None:
            endpoint.close()
            if commit is not None:
                commit()

        with trio.CancelScope(shield=True):
            await shop.blocking(ends)
        if commit is not None and self._known is not None:
            self._known.unsaved()

    def _commitment(self) -> Callable[[], None] | None:
        known, opening, filling = self._known, self._opening, self._filling
        if known is None or opening.dry_run or opening.checksum:
            return None
        tree, key_, id_, tick = known.tree, self._key, opening.session, self._tick
        if opening.scoped:
            if self._agreed is None or filling is None:
                return None
            id_, tick = self._agreed, None
        elif filling is not None and not self._sends:
            tick = None
        elif not self._sends or (tick is None and filling is None):
            return None  # a receiver's writes are not known for its own

        def commit() -> None:
            # nothing but the session's own work was found since it began: a refresh would have disturbed it
            if filling is None or not filling.disturbed:
                tree.commit(key_, id_, tree.tick() if tick is None else tick)

        return commit

    async def news(self) -> str:
        """What a person should know about the tree; who waits for some paths is not kept waiting for it."""
        if self._known is None or self._opening.scoped:
            return ""
        return await self._known.news(None if self._survey is None else self._survey.notice)


def source_empty() -> SyncError:
    """A source without an entry would delete everything."""
    return SyncError("source-empty", "the source has nothing to sync, and --delete was given")


@contextlib.asynccontextmanager
async def remembering(
    trees: Trees | None,
    root: Root,
    opening: Open,
    *,
    side: str,
    peer: bytes,
    initiating: bool,
    failed: Callable[[OSError], SyncError],
) -> AsyncIterator[Memory]:
    """The memory of one end, ``side``, in a session with the agent ``peer``.

    What a receiver wrote is verified behind it.
    """
    key_ = key(peer, side, opening, initiating=initiating)
    sends = side == "sender"
    writing = not sends and not opening.dry_run
    if trees is None or root.kind not in ("directory", "missing") or (root.kind == "missing" and not writing):
        yield Memory(None, key_, opening, sends=sends, failed=failed)
        return
    async with trees.use(root.path, opening.filters) as known:
        memory = Memory(known, key_, opening, sends=sends, failed=failed)
        await memory.recall(missing=root.kind == "missing")
        yield memory
        if known is not None and writing:
            trees.verify(root.path, opening.filters, brief=opening.brief)
