"""One watched pair: waits for changes, lets them settle, and runs one job of the pair after the other."""

from __future__ import annotations

import logging
import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import trio

from agentd.watch.git import GitWork
from agentd.watch.settle import FEW, PATTERN_S, Found, Settle
from proto.errors import SyncError
from proto.job import Problems, shown
from proto.looks import unpack_looks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from agentd.pairs import Pair
    from agentd.watch.turns import Runner, Turns
    from proto.job import JobEvent, Outcome

_log = logging.getLogger(__name__)

T = TypeVar("T")

LOOKS_MAX = 1 << 20
"""Bytes of looks that are taken apart; more of them are a burst, wherever they are."""

GIT_LOOK_S = 0.05
"""How often it is looked whether git is done; and after it seems to be, once more: its locks follow each other."""

TRANSIENT = frozenset((
    "unreachable", "link-lost", "remote-failed", "agent-stopping", "agent-busy", "root-busy", "timeout", "cancelled",
    "internal",
))  # fmt: skip
"""What may get better by itself.  Everything else pauses the pair, since it would only happen again."""

RETRY_MAX_S = 60.0
PROBLEMS_RETRY_S, PROBLEMS_RETRY_MAX_S = 30.0, 1800.0
"""When paths that had problems are tried again although nothing changed here."""

SAVE_LOOK_S = 0.0005
"""How often it is looked whether a save that began is complete."""

HELD_MIN_S = 0.002
"""A file that is due this very moment may be an instant late."""

POLL_SHARE, POLL_MIN_S, POLL_MAX_S = 20.0, 2.0, 300.0
"""What cannot be watched is looked at so that it takes at most one part in so many of the time."""

ROOT_LOOK_S = 5.0
"""How often it is looked whether the root is where it was: of a directory above it that is moved, or of a mount that
goes, no event tells."""

PROBLEMS_TOLD = 10
"""Of one batch, in events."""

_NOT_TOLD = frozenset(("settling", "syncing"))
"""States too short-lived to be an event."""


class CrateTree(Protocol):
    """What is asked of ``_core.Tree``."""

    def is_new(self) -> bool: ...  # noqa: D102
    def tick(self) -> int: ...  # noqa: D102
    def changes(self, since: int, limit: int) -> Any | None: ...  # noqa: D102
    def held(self) -> float | None: ...  # noqa: D102
    def counters(self) -> dict[str, int]: ...  # noqa: D102


class Tree(Protocol):
    """What is known about a root, and watched: see agentd.tree.known.Known."""

    @property
    def wakes(self) -> int: ...  # noqa: D102
    async def wait_dirty(self, seen: int) -> int: ...  # noqa: D102
    def at_rest(self) -> bool: ...  # noqa: D102
    async def refresh(self, *, hold: bool) -> bool: ...  # noqa: D102
    async def survey(self, then: Callable[[Any, bool], T], *, hold: bool) -> T: ...  # noqa: D102
    async def call(self, function: Callable[[Any], T]) -> T: ...  # noqa: D102
    async def news(self) -> str: ...  # noqa: D102


class Trees(Protocol):
    """Where trees are had: see agentd.tree.trees.Trees."""

    def use(self, root: bytes, filters: Sequence[bytes]) -> AbstractAsyncContextManager[Tree | None]: ...  # noqa: D102


class Look(NamedTuple):
    """What a look at a tree showed."""

    wakes: int
    """As counted before it."""
    tick: int
    """The tree's."""
    found: Found | None
    """What changed since the last one."""
    unwatched: bool
    """Whether parts of the tree have to be looked at again without an event."""
    held_s: float | None
    """Until the first file that is being written may be looked at."""
    git: str | None
    """What git does in it."""


class Publish(Protocol):
    """Where events go: see EventLog."""

    def __call__(
        self,
        kind: str,
        text: str,
        *,
        pair: str | None = None,
        code: str | None = None,
        counters: dict[str, int] | None = None,
    ) -> None:
        """Number it, keep it, tell everyone."""


class Condition(NamedTuple):
    """How a watched pair is: see WATCH_STATES."""

    state: str = "starting"
    why: str | None = None
    problem_count: int = 0
    synced_ms: int | None = None


class Watcher:
    """``run()`` it once.  ``environ`` may be replaced: a new link is made with what is newest."""

    def __init__(
        self,
        pair: Pair,
        trees: Trees,
        runner: Runner,
        turns: Turns,
        publish: Publish,
        environ: Mapping[str, str],
        *,
        paused: str | None = None,
    ) -> None:
        self.pair = pair
        self.environ = environ
        self.condition = Condition("paused", paused) if paused else Condition()
        self._trees = trees
        self._runner = runner
        self._turns = turns
        self._publish = publish
        self._root = os.path.realpath(pair.source.path)
        self._settle = Settle()
        self._git = GitWork(self._root)
        self._place: tuple[int, int] | None = None
        self._seen = 0
        self._replaced = False
        self._changed_at = self._looked_at = self._look_s = 0.0
        self._retry_at = float("inf")
        self._retry_s = PROBLEMS_RETRY_S
        self._held = 0
        self._hurry = trio.Event()
        self._resumed = trio.Event()
        self._scope = trio.CancelScope()
        self._waiting = trio.CancelScope()
        self._told: tuple[str, str | None] = (self.condition.state, self.condition.why)

    def pause(self, why: str) -> None:
        """Leave it alone until ``resume()``; a batch under way is cancelled."""
        self._enter("paused", why)
        self._scope.cancel()

    def resume(self) -> None:
        """Go on, by bringing it up to date; also what waits for a link does so now."""
        if self.condition.state == "paused":
            self._enter("starting")
        self._resumed.set()
        self._hurry.set()
        self._waiting.cancel()

    def catch_up(self) -> None:
        """A job that somebody asked for brought the pair up to date: what stood in the way does so no more."""
        if self.condition.state in ("paused", "problems"):
            self.resume()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while self.condition.state == "paused":
                self._resumed = trio.Event()
                await self._resumed.wait()
            with trio.CancelScope() as self._scope:
                try:
                    await self._follow()
                except SyncError as e:
                    self._enter("paused", e.message, code=e.code)
                except OSError as e:
                    self._enter("paused", f"source {shown(self._root)}: {e.strerror or e}", code="source-unreadable")
                except Exception as e:  # noqa: BLE001 - a defect here is not the end of the agent
                    _log.exception("watching %s failed by a defect", self.pair.name)
                    self._enter("paused", f"a defect: {type(e).__name__}: {e}", code="internal")

    async def _follow(self) -> None:
        """Bring the pair up to date, and keep it so.  Raises SyncError for what only a person can mend."""
        async with self._trees.use(self._root, self.pair.filters) as tree:
            if tree is None:
                await self._sync(first=True)
                raise SyncError("source-unreadable", f"source {shown(self._root)} cannot be watched")
            await tree.call(self._is_elsewhere)
            if known := not await tree.call(lambda crate: crate.is_new()):
                await tree.refresh(hold=True)
                await tree.call(self._mark)
            await self._sync(first=True)
            if not known:  # the sync filled it
                await tree.call(self._mark)
            while True:
                if said := await tree.news():
                    self._publish("watch", said, pair=self.pair.name)
                await self._wait_due(tree)
                await self._sync(first=False)
                self._settle.arrived(trio.current_time())

    async def _sync(self, *, first: bool) -> None:
        """Run one job, as often as what is transient demands."""
        failures = 0
        while True:
            problems: list[tuple[bytes, str, int]] = []
            try:
                outcome = await self._turns.run(
                    self._runner,
                    self.pair.job()._replace(hold=True),
                    self.environ,
                    partial(_collect, problems),
                    partial(self._enter, "syncing"),
                )
            except SyncError as e:
                if e.code not in TRANSIENT:
                    raise
                self._enter("waiting", e.message, code=e.code)
            else:
                self._done(outcome, problems or outcome.problems, first=first)
                return
            self._hurry = trio.Event()
            with trio.move_on_after(min(2**failures, RETRY_MAX_S) * random.uniform(0.5, 1.0)):  # noqa: S311
                await self._hurry.wait()
            failures += 1

    def _done(self, outcome: Outcome, problems: list[tuple[bytes, str, int]], *, first: bool) -> None:
        count = outcome.problem_count
        self._held = outcome.stats.get("held", 0)
        self._retry_at = trio.current_time() + self._retry_s if count else float("inf")
        self._retry_s = min(2 * self._retry_s, PROBLEMS_RETRY_MAX_S) if count else PROBLEMS_RETRY_S
        self.condition = self.condition._replace(problem_count=count, synced_ms=time.time_ns() // 1_000_000)
        done = _summary(outcome.stats)
        if done or first:
            self._publish("synced", done or "up to date", pair=self.pair.name, counters=outcome.stats)
        if count:
            for path, code, _ in problems[:PROBLEMS_TOLD]:
                own, _, _ = path.partition(b"\0")
                self._publish("problem", f"{shown(own)}: {code}", pair=self.pair.name, code=code)
        self._rest()

    def _rest(self) -> None:
        """Nothing is to be done."""
        count = self.condition.problem_count
        if self._held:
            held = f"{self._held} deletion{'s' * (self._held > 1)} held: the source is another directory than before"
            self._enter("problems", f"{held}; 'syncctl sync --force {self.pair.name}' makes them", code="root-changed")
        elif count:
            self._enter("problems", f"{count} path{'s' * (count > 1)} did not make it")
        else:
            self._enter("up-to-date")

    async def _wait_due(self, tree: Tree) -> None:
        """Until a batch is due."""
        held = False
        self._hurry = trio.Event()
        while True:
            look = await self._look(tree)
            now = trio.current_time()
            self._settle.looked(look.found, now)
            if look.found is not None and not held:
                self._enter("settling")
            if self._settle.due <= now:
                if look.git is None and not held:
                    break
                held = look.git is not None
                if look.git is not None:
                    self._enter("held", look.git)
                await trio.sleep(GIT_LOOK_S)
            elif self._hurry.is_set() or now >= self._retry_at:
                break
            else:
                await self._wait_more(tree, look)
        self._settle.left(now)
        self._git.forget()

    async def _wait_more(self, tree: Tree, look: Look) -> None:
        """Until it is worthwhile to look again."""
        settle = self._settle
        until = min(settle.due, self._retry_at)
        if look.unwatched:
            until = min(until, self._looked_at + min(max(POLL_SHARE * self._look_s, POLL_MIN_S), POLL_MAX_S))
        if look.held_s is not None:
            until = min(until, self._looked_at + max(look.held_s, HELD_MIN_S))
        with trio.move_on_at(until) as self._waiting:
            if settle.bursting:
                await trio.sleep_forever()
            await self._disturbed(tree, look.wakes)
        if not self._waiting.cancelled_caught:
            await self._let_save(tree)

    async def _let_save(self, tree: Tree) -> None:
        """Until an editor's way of saving is over, which it is at once when a file was rewritten and closed."""
        until = self._settle.first_look(trio.current_time())
        await trio.sleep_until(until - PATTERN_S)
        while (left := until - trio.current_time()) > 0 and not tree.at_rest():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(min(left, SAVE_LOOK_S))

    async def _disturbed(self, tree: Tree, wakes: int) -> None:
        """Until there is an event, or the root is another one."""
        while True:
            with trio.move_on_after(ROOT_LOOK_S):
                await tree.wait_dirty(wakes)
                return
            if await tree.call(self._is_elsewhere):
                return

    def _is_elsewhere(self, _: CrateTree) -> bool:
        """Whether the root is not the directory that it was when this was asked before."""
        before, self._place = self._place, _place(self._root)
        self._replaced |= before != self._place
        return before != self._place

    async def _look(self, tree: Tree) -> Look:
        """Look what changed since the last time.  Raises SyncError, or OSError, when that cannot be seen any more."""
        began, wakes = trio.current_time(), tree.wakes
        look = await tree.survey(partial(self._examine, wakes, began), hold=True)
        self._seen = look.tick
        self._looked_at = trio.current_time()
        self._look_s = self._looked_at - began
        if look.found is not None:
            self._changed_at = self._looked_at
        return look

    def _examine(self, wakes: int, now: float, crate: CrateTree, _true: bool) -> Look:
        """What the tree knows now, in a thread that is abandoned when nobody waits for it."""
        tick = crate.tick()
        found = None
        self._is_elsewhere(crate)
        if self._replaced:  # what is known begins anew, and with it the ticks
            found = Found(None, gone=False)
            self._mark(crate)
        elif tick != self._seen:
            payload = crate.changes(self._seen, LOOKS_MAX)
            looks = [] if payload is None else unpack_looks(payload)
            self._git.touch(looks)
            if payload is None or len(looks) > FEW:
                found = Found(None, gone=False)
            else:
                gone = not all(os.path.lexists(os.path.join(self._root, path)) for path, _ in looks)
                found = Found(frozenset(path for path, _ in looks), gone)
        quiet_s = 0.0 if found is not None else now - self._changed_at
        git = self._git.under_way(time.time(), quiet_s)
        return Look(wakes, tick, found, crate.counters().get("unwatched", 0) > 0, crate.held(), git)

    def _mark(self, crate: CrateTree) -> None:
        """What is found from now on is new."""
        self._seen = crate.tick()
        self._replaced = False

    def _enter(self, state: str, why: str | None = None, code: str | None = None) -> None:
        self.condition = self.condition._replace(state=state, why=why)
        if state not in _NOT_TOLD and self._told != (state, why):
            self._told = state, why
            self._publish("watch", f"{state}: {why}" if why else state, pair=self.pair.name, code=code)


def _place(root: bytes) -> tuple[int, int] | None:
    """The directory that a path leads to: device and inode."""
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _collect(problems: list[tuple[bytes, str, int]], event: JobEvent) -> None:
    if isinstance(event, Problems) and len(problems) < PROBLEMS_TOLD:
        problems += event.problems


_COUNTED = (
    ("files", "file", "files"), ("dirs", "directory", "directories"), ("symlinks", "symlink", "symlinks"),
    ("linked", "hard link", "hard links"), ("moved", "renamed", "renamed"), ("meta", "attribute", "attributes"),
    ("deleted", "deleted", "deleted"),
)  # fmt: skip


def _summary(stats: Mapping[str, int]) -> str:
    """What a batch did; empty when that was nothing."""
    counted = ((stats.get(key, 0), one, many) for key, one, many in _COUNTED)
    return ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in counted if count)
