"""Hard links over a real link: sent once, linked at the other end, and switched off by a word."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import RSYNC
from tests.helpers.pushes import build, pull, push, result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.hosts import Hosts

SIZE = 300_000


def rsync_finds(source: Path, destination: Path) -> str:
    """What rsync -H would still do; nothing without it."""
    if RSYNC is None:
        return ""
    command = [RSYNC, "-rlptnciH", "--delete", f"{source}/", f"{destination}/"]
    ended = subprocess.run(command, capture_output=True, check=True, text=True)
    return "".join(line for line in ended.stdout.splitlines(keepends=True) if not line.startswith("skipping"))


@pytest.mark.fault("A8")
@pytest.mark.parametrize("run", [push, pull])
def test_content_is_sent_once(hosts: Hosts, place: Path, run: Callable[..., str]) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 200)
    tree.file(b"a/file", tree.noise(SIZE))
    for number in range(5):
        os.link(tree.at(b"a/file"), tree.at(b"name%d" % number))
    hosts.account.owns(source)
    told = result(run(hosts, source, destination, "--json"))
    assert told["stats"]["linked"] == 5
    assert rsync_finds(source, destination) == ""
    assert os.stat(destination / "name0").st_nlink == 6
    assert run(hosts, source, destination).startswith("up to date")
    # One name becomes a file of its own, the others' content changes.
    os.unlink(tree.at(b"name0"))
    tree.file(b"name0", b"split")
    with open(tree.at(b"a/file"), "ab") as file:
        file.write(b"more")
    hosts.account.owns(source)
    assert "4 linked" in run(hosts, source, destination, "--delete")
    assert rsync_finds(source, destination) == ""


def test_a_word_switches_it_off(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    tree = build(hosts, source, 201)
    tree.file(b"one", b"x")
    os.link(tree.at(b"one"), tree.at(b"two"))
    hosts.account.owns(source)
    push(hosts, source, destination, "--no-hard-links")
    assert os.stat(destination / "one").st_nlink == 1
    push(hosts, source, destination, "-H")
    assert os.path.samefile(destination / "one", destination / "two")
