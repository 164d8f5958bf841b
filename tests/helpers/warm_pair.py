"""Two roots with their trees, synced by a Sender and a Receiver of which each looks only at what changed."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from agentd import _core

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

EVERYTHING = b"\x01\0" + bytes(4)
PLENTY = 1 << 20
DEADLINE_S = 30.0


class Pair:
    """A source, a destination, their trees, and the baseline of the last session."""

    def __init__(self, source: Path, destination: Path) -> None:
        self.source, self.destination = source, destination
        self.baseline: tuple[int, int] | None = None
        self.items: list[bytes] = []
        self.problems: list[tuple[bytes, str, int]] = []
        """What the last session said."""
        self._read, self._wake = os.pipe()
        os.set_blocking(self._read, False)
        self._trees: dict[tuple[bytes, ...], list[_core.Tree]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        for trees in self._trees.values():
            for tree in trees:
                tree.close()
        os.close(self._read)
        os.close(self._wake)

    def trees(self, filters: list[bytes]) -> list[_core.Tree]:
        """Those of the source and the destination under these filters."""
        if tuple(filters) not in self._trees:
            self._trees[tuple(filters)] = [
                _core.Tree(os.fsencode(root), filters=filters, index=None, threads=2, watches_max=1000, wake_fd=-1)
                for root in (self.source, self.destination)
            ]
        return self._trees[tuple(filters)]

    def sync(self, *, forgotten: bool = False, filters: list[bytes] | None = None, **options: Any) -> dict[str, int]:
        """One session; a baseline that is ``forgotten`` is the sender's alone."""
        here, there = self.trees(filters or [])
        for tree in (here, there):
            while not tree.refresh():
                pass
        mine, theirs = self.baseline or (0, 0)
        tick = here.tick()
        agreed = self.baseline is not None and not forgotten
        settings: dict[str, Any] = {
            "filters": filters or [], "hashes": options.pop("hashes", False), "threads": 2,
            "hard_links": options.pop("hard_links", True), "list_window": 1 << 20, "data_window": 1 << 24,
            "wake_fd": self._wake,
        }  # fmt: skip
        choices: dict[str, Any] = {
            "delete": True, "dry_run": False, "itemize": False, "force": True, "max_delete": None, "delta_min": 1 << 16,
        }  # fmt: skip
        receiver = _core.Receiver(
            os.fsencode(self.destination), owner=False, group=False, arrow=">", partial_min=1 << 20,
            temp_tag="00c0ffee", tree=None if options.get("dry_run") else there, since=theirs if agreed else None,
            partial=True, skip_first=not agreed, **(choices | options), **settings,
        )  # fmt: skip
        sender = _core.Sender(
            os.fsencode(self.source), owners=False, batch_max=1 << 20, compress="never", far=False, tree=here,
            looks=here.changes(mine, PLENTY), since=mine if self.baseline else None,
            ahead=not options.get("dry_run"), **settings,
        )  # fmt: skip
        try:
            looks = there.changes(theirs, PLENTY) if agreed else EVERYTHING
            assert looks is not None
            if len(looks):
                receiver.look(looks)
            sender.start()
            self._pump(sender, receiver)
            if not options.get("dry_run"):
                self.baseline = (tick, there.tick())
            return receiver.counters() | {"sent_" + name: n for name, n in sender.counters().items()}
        finally:
            sender.close()
            receiver.close()

    def _pump(self, sender: _core.Sender, receiver: _core.Receiver) -> None:
        """Hand what each says to the other, until DONE."""
        self.items, self.problems = [], []
        give_up = time.monotonic() + DEADLINE_S
        while True:
            failure = sender.failure() or receiver.failure()
            assert failure is None, failure
            event, data = sender.next_control(), sender.next_data()
            if event is not None and event[2] is not None:
                receiver.list_untrusted(event[1], event[2])
            elif event is not None:
                receiver.list_end_untrusted(*sender.list_total())
            if data is not None and data[2] is not None:
                receiver.data_untrusted(data[2])
            answer = receiver.next_control()
            match answer:
                case ("done", _, _):
                    return
                case ("want", n, payload) if payload is not None:
                    sender.want_untrusted(n, payload)
                case ("items", _, payload) if payload is not None:
                    self.items += bytes(payload).split(b"\0")[:-1]
                case ("problems", _, payload) if payload is not None:
                    self.problems += _core.unpack_problems_untrusted(payload)
                case (tag, _, payload) if payload is not None:
                    getattr(sender, f"{tag}_untrusted")(payload)
            if event is None and data is None and answer is None:
                assert time.monotonic() < give_up, "stalled"
                select.select([self._read], [], [], 1)
                with suppress(BlockingIOError):
                    os.read(self._read, 4096)
