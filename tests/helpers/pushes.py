"""Steps that the end-to-end tests share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts, Ran


def push(hosts: Hosts, source: Path, destination: Path, *options: str) -> str:
    """Push, expect success; what it printed."""
    return hosts.here.ok("push", *options, source, hosts.remote(destination))


def try_push(hosts: Hosts, source: Path, destination: Path, *options: str) -> Ran:
    """Push; how it ended."""
    return hosts.here.run("push", *options, source, hosts.remote(destination))


def pull(hosts: Hosts, source: Path, destination: Path, *options: str) -> str:
    """Pull, expect success; what it printed."""
    return hosts.here.ok("pull", *options, hosts.remote(source), destination)


def build(hosts: Hosts, path: Path, seed: int = 0, *, awkward: bool = False) -> TreeBuilder:
    """A tree of the account's."""
    with TreeBuilder(path, seed) as tree:
        tree.populate()
        if awkward:
            tree.awkward()
    hosts.account.owns(path)
    return tree


def rows(printed: str) -> list[dict[str, Any]]:
    """What --json printed."""
    return [json.loads(line) for line in printed.splitlines()]


def result(printed: str) -> dict[str, Any]:
    """The result in what --json printed."""
    return next(row for row in rows(printed) if row["t"] == "result")


def link_rtt_us(hosts: Hosts) -> int | None:
    """How long the link to ``box`` is, once that was measured."""
    links = [row for row in rows(hosts.here.ok("status", "--json"))[0]["links"] if row["host"] == "box"]
    found = links[0].get("rtt_us") if links else None
    assert found is None or isinstance(found, int)
    return found
