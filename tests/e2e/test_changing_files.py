"""A file that changes while it crosses a real link."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import assert_same
from tests.helpers.pushes import push, result

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.hosts import Hosts

DEADLINE_S = 60.0


@pytest.mark.fault("A2")
def test_a_file_that_is_cut_while_it_is_sent_arrives_as_it_became(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    source.mkdir()
    for name in ("changing", "other"):
        (source / name).write_bytes(os.urandom(1 << 20) * (256 if name == "changing" else 1))
    hosts.account.owns(source)
    cut = threading.Event()

    def cut_when_begun() -> None:
        give_up = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up:
            if destination.exists() and any(name.startswith(".changing.") for name in os.listdir(destination)):
                os.truncate(source / "changing", 3 << 20)
                cut.set()
                return

    watcher = threading.Thread(target=cut_when_begun)
    watcher.start()
    try:
        printed = result(push(hosts, source, destination, "--json", "--no-compress"))
    finally:
        watcher.join()
    assert cut.is_set()
    assert printed["problem_count"] == 0
    assert (destination / "changing").read_bytes() == (source / "changing").read_bytes()
    # While ext4 cuts a file, it has its new size and still its old time: the next sync may have that to mend.
    result(push(hosts, source, destination, "--json"))
    assert_same(source, destination)
    assert sorted(os.listdir(destination)) == ["changing", "other"]
