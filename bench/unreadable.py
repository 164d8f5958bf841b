"""A tree with a file that its owner's agent may not read: what was agreed on the rest still counts."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from bench import trees
from bench.case import AGAIN, PAIR, Case, time
from bench.contenders import OURS, RSYNC, Job
from bench.figures import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.contenders import Contender
    from bench.hosts import Hosts

ROUNDS = 7
LIMIT_S = 900.0
ENDS = {OURS.name: 1, RSYNC.name: 23}
"""How each says that one file did not make it."""


def nothing_changed(hosts: Hosts, place: Path) -> Iterator[Run]:
    """100,000 files, one of them unreadable, by an ordinary account; again and again."""
    own = place / "own"
    source = own / "source"
    trees.small_files(source, directories=100, each=1000)
    unreadable = source / "d050" / "f00500"
    unreadable.chmod(0)
    hosts.here.account.owns(own)
    turns: list[Contender] = [OURS, RSYNC]
    for number in range(-1, ROUNDS + 1):  # the first syncs, the warm-up, the rounds
        for contender in turns:
            destination = own / f"of {contender.name}"
            job = Job(source, destination, pull=False, delete=True, stats=False, rsync=())
            with contender.command(hosts, job) as command:
                ran = hosts.run(command.argv, LIMIT_S)
            if ran.status != ENDS[contender.name]:
                raise RuntimeError(f"{contender.name}: status {ran.status}: {ran.said}")
            _check(source, destination, unreadable)
            if number >= 0:
                yield Run(contender.name, number, ran.cost)
        turns.reverse()


def _check(source: Path, destination: Path, unreadable: Path) -> None:
    """Everything but the one file is there.  Raises RuntimeError."""
    words = ["rsync", "-rlptnci", "--delete", "--omit-dir-times", f"{source}/", f"{destination}/"]
    found = subprocess.run(words, capture_output=True, check=True).stdout.splitlines()
    if len(found) != 1 or not found[0].endswith(bytes(unreadable.relative_to(source))):
        raise RuntimeError(f"{destination.name}: {len(found)} differences, such as {found[:1]}")


CASES: tuple[Case, ...] = (
    Case(
        "many-unreadable",
        "100,000x4 KiB, one file unreadable, as an ordinary user: nothing changed",
        None,
        AGAIN,
        (time(0.05),),
        PAIR,
        ordinary=True,
        live=nothing_changed,
    ),
)
