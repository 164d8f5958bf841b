"""All watched pairs: those of the configuration, and those that a request watches for as long as it lasts."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from agentd.pairs import UNWATCHABLE
from agentd.watch.turns import Turns
from agentd.watch.watcher import Watcher
from proto.errors import SyncError
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentd.config import Config
    from agentd.pairs import Pair
    from agentd.watch.turns import Runner
    from agentd.watch.watcher import Condition, Publish, Trees

PAUSED_BY_HAND = "by 'syncctl pause'"


class Watchers:
    """``run()`` has to be running.  ``publish`` is where they say what happens; it is set before that."""

    publish: Publish

    def __init__(self, *, trees: Trees, runner: Runner, config: Config, environ: Mapping[str, str]) -> None:
        self.turns = Turns()
        self._trees = trees
        self._runner = runner
        self._config = config
        self._environ = environ
        self._wanted: Counter[str] = Counter()
        self._running: dict[str, tuple[Watcher, trio.CancelScope]] = {}
        self._paused: set[str] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                self.reconfigure(self._config)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def reconfigure(self, config: Config) -> None:
        """Watch what the configuration says now: a pair that changed is begun anew."""
        self._config = config
        self._paused &= config.pairs.keys()
        for name, (watcher, scope) in list(self._running.items()):
            pair = config.pairs.get(name)
            if pair is None or not self._is_wanted(pair) or pair._replace(watch=watcher.pair.watch) != watcher.pair:
                scope.cancel()
                del self._running[name]
        if self._nursery is not None:
            for name, pair in config.pairs.items():
                if name not in self._running and self._is_wanted(pair):
                    self._start(self._nursery, pair)

    @contextmanager
    def watching(self, name: str, environ: Mapping[str, str]) -> Iterator[None]:
        """Watch a pair meanwhile.  Raises SyncError ``no-such-pair``, or ``usage`` when it cannot be."""
        pair = self._config.pairs.get(name)
        if pair is None:
            raise SyncError("no-such-pair", f"there is no pair {escape_text(name)}")
        if pair.source.host is not None:
            raise SyncError("usage", f"pair {name}: {UNWATCHABLE}", "run 'syncctl watch' there, on a pair that pushes")
        self._wanted[name] += 1
        try:
            self.reconfigure(self._config)
            self._running[name][0].environ = environ
            yield
        finally:
            self._wanted[name] -= 1
            self.reconfigure(self._config)

    def pause(self, name: str) -> None:
        """Leave a watched pair alone until ``resume()``, or until the agent ends.  Raises SyncError."""
        self._watcher(name).pause(PAUSED_BY_HAND)
        self._paused.add(name)

    def resume(self, name: str) -> None:
        """Go on with it.  Raises SyncError."""
        watcher = self._watcher(name)
        self._paused.discard(name)
        watcher.resume()

    def catch_up(self, name: str) -> None:
        """A job that somebody asked for brought this pair up to date: it goes on, unless it was paused by hand."""
        found = self._running.get(name)
        if found is not None and name not in self._paused:
            found[0].catch_up()

    def to_flush(self, names: list[str]) -> tuple[list[Pair], list[SyncError]]:
        """The watched pairs of these names, or all; and what to say of those that are paused.  Raises SyncError."""
        pairs, refused = [], []
        for watcher in [self._watcher(name) for name in names] or [watcher for watcher, _ in self._running.values()]:
            if watcher.condition.state == "paused":
                refused.append(SyncError("paused", f"pair {watcher.pair.name} is paused: {watcher.condition.why}"))
            else:
                pairs.append(watcher.pair)
        return pairs, refused

    def condition(self, name: str) -> Condition | None:
        """How a pair is; None when it is not watched."""
        found = self._running.get(name)
        return None if found is None else found[0].condition

    def _is_wanted(self, pair: Pair) -> bool:
        return pair.watch or self._wanted[pair.name] > 0

    def _watcher(self, name: str) -> Watcher:
        found = self._running.get(name)
        if found is not None:
            return found[0]
        if name not in self._config.pairs:
            raise SyncError("no-such-pair", f"there is no pair {escape_text(name)}")
        raise SyncError(
            "usage", f"pair {name} is not watched", "set watch = true in its table, or 'syncctl watch NAME'"
        )

    def _start(self, nursery: trio.Nursery, pair: Pair) -> None:
        paused = PAUSED_BY_HAND if pair.name in self._paused else None
        watcher = Watcher(pair, self._trees, self._runner, self.turns, self.publish, self._environ, paused=paused)
        scope = trio.CancelScope()
        self._running[pair.name] = watcher, scope
        nursery.start_soon(_run, watcher, scope)


async def _run(watcher: Watcher, scope: trio.CancelScope) -> None:
    with scope:
        await watcher.run()
