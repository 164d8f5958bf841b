"""Sparse files over a real link."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.pushes import pull, push, result
from tests.helpers.sparse import MIB, held, make, same

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts


@pytest.mark.fault("A7")
def test_holes_cross_the_link_as_holes(hosts: Hosts, place: Path) -> None:
    there, back = place / "there", place / "back"
    source = place / "source"
    source.mkdir()
    make(source / "huge", 1 << 40, {0: os.urandom(MIB), (1 << 39) + 77: b"middle", (1 << 40) - 9: b"the end"})
    make(source / "small", MIB, {500_000: b"middle"})
    hosts.account.owns(source)
    printed = result(push(hosts, source, there, "--json"))
    assert printed["wire_sent"] < 2 * MIB
    pull(hosts, there, back)
    for copy in (there, back):
        for name in ("huge", "small"):
            assert same(source / name, copy / name)
            assert held(copy / name) <= held(source / name) + (64 << 10)
