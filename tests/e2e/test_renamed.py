"""A directory that was renamed between two syncs: no content of it is sent again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import assert_same, rsync_finds
from tests.helpers.pushes import result

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts

DIRECTORIES, EACH = 20, 100


@pytest.mark.parametrize("pulling", [False, True], ids=["push", "pull"])
def test_a_renamed_directory_is_not_sent(hosts: Hosts, place: Path, pulling: bool) -> None:
    source, destination = place / "source", place / "destination"
    for directory in range(DIRECTORIES):
        below = source / "old" / f"d{directory}"
        below.mkdir(parents=True)
        for name in range(EACH):
            (below / f"f{name}").write_bytes(b"%d/%d" % (directory, name))
    (source / "other").write_bytes(b"other")
    hosts.account.owns(source)
    ends = (hosts.remote(source), destination) if pulling else (source, hosts.remote(destination))
    words = ["pull" if pulling else "push", "--delete", "--json", *ends]
    assert result(hosts.here.ok(*words))["stats"]["files"] == DIRECTORIES * EACH + 1

    (source / "new").mkdir()
    hosts.account.owns(source / "new")
    os.rename(source / "old", source / "new" / "place")
    os.rename(source / "other", source / "another")
    said = result(hosts.here.ok(*words))
    names = 1 + DIRECTORIES + DIRECTORIES * EACH + 1
    figures = ("files", "literal", "wanted_files", "moved", "deleted")
    assert [said["stats"][figure] for figure in figures] == [0, 0, 0, names, names]
    assert said["wire_sent"] + said["wire_received"] < 60 * names
    assert_same(source, destination)
    assert rsync_finds(source, destination) == []
    assert result(hosts.here.ok(*words))["stats"]["listed"] == 0
