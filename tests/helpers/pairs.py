"""Pairs of an agent's configuration, watched or not, and how they are."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.helpers.oracle import assert_same
from tests.helpers.trouble import Result, read_result, run_job, within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Agent

STATE_S = 20.0
FLUSH_S = 60.0


class Pair(NamedTuple):
    """One pair of ``agent``'s; its destination is on this machine, too, whatever host serves it."""

    agent: Agent
    name: str
    source: Path
    destination: Path

    def sync(self, *options: str) -> Result:
        """``syncctl sync NAME``, however it ends."""
        return run_job(self.agent, "sync", self.name, *options)

    def flush(self) -> None:
        """What changed before the call is at the far end, or the test fails."""
        ended = self.agent.run("flush", self.name, "--timeout", f"{FLUSH_S:.0f}", "--json", timeout=2 * FLUSH_S)
        found = read_result(*ended)
        assert found.status == 0, f"{ended}\n{self.agent.log_tail()}"

    def info(self) -> dict[str, Any]:
        """What ``status`` says of it."""
        pairs = json.loads(self.agent.ok("status", "--json"))["pairs"]
        found: dict[str, Any] = next(pair for pair in pairs if pair["name"] == self.name)
        return found

    def wait_state(self, *states: str) -> str:
        """Wait until it is in one of these states; why it is."""
        within(STATE_S, lambda: self.info()["state"] in states, lambda: f"{self.info()}\n{self.agent.log_tail()}")
        return str(self.info().get("why", ""))

    def same(self) -> None:
        """Both ends are equal, by all opinions."""
        assert_same(self.source, self.destination)


@contextlib.contextmanager
def pair_of(
    agent: Agent,
    place: Path,
    *options: str,
    host: str = "box:",
    name: str = "pair",
    source: Path | None = None,
    destination: Path | None = None,
) -> Iterator[Pair]:
    """A pair of a source and a destination, below ``place`` where they are not given; its source exists."""
    pair = Pair(agent, name, source or place / "source", destination or place / "destination")
    pair.source.mkdir(exist_ok=True)
    agent.account.owns(pair.source)
    agent.ok("add", name, pair.source, f"{host}{pair.destination}", *options)
    try:
        yield pair
    finally:
        agent.run("remove", name)
