"""Syncs after the first: what did not change at either end is neither listed nor forgotten."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.agents import eventually
from tests.helpers.oracle import assert_same, rsync_finds
from tests.helpers.pushes import result
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.hosts import Agent, Hosts

FILES = 300
WIRE_MAX = 2000
"""Bytes both ways of a session that lists nothing; the list alone takes a multiple."""


class Pair:
    """A source, a destination, and the way between them."""

    def __init__(self, hosts: Hosts, place: Path, *, pulling: bool, options: tuple[str, ...] = ("--delete",)) -> None:
        self.hosts = hosts
        self.options = options
        self.source, self.destination = place / "source", place / "destination"
        ends = (hosts.remote(self.source), self.destination) if pulling else (
            self.source, hosts.remote(self.destination),
        )  # fmt: skip
        self.words: list[Any] = ["pull" if pulling else "push", *ends, "--json"]
        self.sender, self.receiver = (hosts.there, hosts.here) if pulling else (hosts.here, hosts.there)
        with TreeBuilder(self.source, 1) as tree:
            tree.populate(FILES)
        hosts.account.owns(self.source)
        self.paths = sorted(
            os.path.relpath(os.path.join(where, name), os.fsencode(self.source))
            for where, _, names in os.walk(os.fsencode(self.source))
            for name in names
        )

    def sync(self, *options: str) -> dict[str, Any]:
        """Once more; the result."""
        return result(self.hosts.here.ok(*self.words, *self.options, *options))

    def until_warm(self) -> None:
        """What a first sync writes is looked at behind it; then nothing is left to tell."""
        for _ in range(5):
            if self.is_warm(self.sync()):
                return
        raise AssertionError(f"never warm: {self.sync()}\n{self.receiver.log_tail()}")

    @staticmethod
    def is_warm(said: dict[str, Any]) -> bool:
        return not said["stats"]["listed"] and int(said["wire_sent"] + said["wire_received"]) < WIRE_MAX

    def at(self, end: Path, n: int) -> bytes:
        """One of the files, at one end."""
        return os.path.join(os.fsencode(end), self.paths[n])

    def same(self) -> None:
        assert_same(self.source, self.destination)


@pytest.fixture(params=["push", "pull"])
def pair(hosts: Hosts, place: Path, request: pytest.FixtureRequest) -> Pair:
    made = Pair(hosts, place, pulling=request.param == "pull")
    made.sync()
    made.same()
    return made


def write(hosts: Hosts, path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
    hosts.account.owns(path)


def test_the_second_sync_lists_nothing(pair: Pair) -> None:
    said = pair.sync()
    assert Pair.is_warm(said), said
    pair.same()


def both_ends(pair: Pair) -> None:
    os.unlink(pair.at(pair.source, 15))
    write(pair.hosts, pair.at(pair.destination, 15), b"other")


CHANGES: dict[str, Callable[[Pair], None]] = {
    "the source edited": lambda pair: write(pair.hosts, pair.at(pair.source, 5), b"edited"),
    "a new file": lambda pair: write(pair.hosts, os.path.join(os.fsencode(pair.source), b"new"), b"new"),
    "the source deleted one": lambda pair: os.unlink(pair.at(pair.source, 7)),
    "only the mode": lambda pair: os.chmod(pair.at(pair.source, 9), 0o600),
    "the destination edited": lambda pair: write(pair.hosts, pair.at(pair.destination, 11), b"by hand"),
    "the destination deleted one": lambda pair: os.unlink(pair.at(pair.destination, 13)),
    "the destination has an extra": lambda pair: write(
        pair.hosts, os.path.join(os.fsencode(pair.destination), b"extra"), b"extra"
    ),
    "both ends": both_ends,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_at_either_end_and_nothing_else(pair: Pair, change: str) -> None:
    pair.until_warm()
    CHANGES[change](pair)
    said = pair.sync()
    pair.same()
    assert said["stats"]["listed"] < 20, said
    pair.until_warm()
    pair.same()


def test_an_edit_of_a_large_file_sends_neither_it_nor_its_signature(pair: Pair) -> None:
    pair.until_warm()
    content = bytearray(os.urandom(8 << 20))
    path = os.path.join(os.fsencode(pair.source), b"large")
    for number in range(3):
        content[number << 20 : (number << 20) + 5] = b"edit %d." % number
        write(pair.hosts, path, bytes(content))
        said = pair.sync()
        pair.same()
        if number:  # the signature alone would be 40 KiB
            assert said["wire_sent"] + said["wire_received"] < 30_000, said


def test_a_directory_moved_at_the_source(pair: Pair) -> None:
    pair.until_warm()
    directory = next(entry for entry in sorted(pair.source.iterdir()) if entry.is_dir())
    directory.rename(pair.source / "elsewhere")
    pair.sync()
    pair.same()
    pair.until_warm()


@pytest.mark.parametrize("pulling", [False, True])
def test_extras_stay_and_cost_nothing(hosts: Hosts, place: Path, pulling: bool) -> None:
    pair = Pair(hosts, place, pulling=pulling, options=())
    with TreeBuilder(pair.destination, 7) as extras:
        for n in range(50):
            extras.file(b"extra dir/%d" % n, b"kept")
    hosts.account.owns(pair.destination)
    pair.sync()
    pair.until_warm()
    assert len(list((pair.destination / "extra dir").iterdir())) == 50


def test_a_file_that_cannot_be_read_is_told_each_time(hosts: Hosts, place: Path) -> None:
    if hosts.account.uid == 0:
        pytest.skip("root reads everything")
    pair = Pair(hosts, place, pulling=False)
    os.chmod(pair.at(pair.source, 3), 0)
    for _ in range(4):
        ended = hosts.here.run(*pair.words, *pair.options)
        assert ended.status == 1, ended
        said = result(ended.out)
        assert said["problem_count"] == 1, said
    assert said["stats"]["listed"] < 20, said


def ended(agent: Agent, pid: int, number: int) -> None:
    os.kill(pid, number)
    eventually(f"{pid} has ended", lambda: pid not in agent.processes())


def test_after_a_restart_of_both(pair: Pair) -> None:
    pair.until_warm()
    pair.hosts.stop()
    os.utime(pair.at(pair.destination, 4), ns=(1, 1))  # while nobody watched
    write(pair.hosts, pair.at(pair.source, 6), b"edited while nobody watched")
    said = pair.sync()
    pair.same()
    assert said["stats"]["listed"] < 20, said
    pair.until_warm()


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_an_agent_that_was_killed_costs_a_list_at_most(pair: Pair, end: str) -> None:
    pair.until_warm()
    agent: Agent = getattr(pair, end)
    pid = pair.hosts.here.pid if agent is pair.hosts.here else agent.pid
    ended(agent, pid, signal.SIGKILL)
    pair.hosts.here.run("stop")  # with it the link that leads to the one that is gone
    write(pair.hosts, pair.at(pair.source, 6), b"edited meanwhile")
    pair.sync()
    pair.same()
    pair.until_warm()


def test_a_destination_that_is_gone_is_filled_again(pair: Pair) -> None:
    pair.until_warm()
    shutil.rmtree(pair.destination)
    pair.sync()
    pair.same()
    pair.until_warm()
    shutil.rmtree(pair.destination)
    pair.destination.mkdir()
    pair.hosts.account.owns(pair.destination)
    pair.sync()
    pair.same()
    pair.until_warm()


def test_state_that_is_gone(pair: Pair) -> None:
    pair.until_warm()
    pair.hosts.stop()
    shutil.rmtree(pair.receiver.home / "state/index")
    write(pair.hosts, pair.at(pair.destination, 2), b"by hand")
    pair.sync()
    pair.same()
    pair.until_warm()


def test_a_source_that_lost_everything_deletes_nothing(pair: Pair) -> None:
    pair.until_warm()
    before = len(list(pair.destination.rglob("*")))
    for entry in pair.source.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    ended = pair.hosts.here.run(*pair.words, *pair.options)
    assert ended.status != 0
    assert "source" in ended.err
    assert len(list(pair.destination.rglob("*"))) == before
    pair.sync("--force")
    pair.same()


def test_a_source_made_anew(pair: Pair) -> None:
    """As a build does that begins with removing its output: what it has is synced, what it lacks waits for --force."""
    pair.until_warm()
    shutil.move(pair.source, pair.source.with_name("before"))
    shutil.copytree(pair.source.with_name("before"), pair.source, symlinks=True)
    os.unlink(pair.at(pair.source, 1))
    write(pair.hosts, pair.at(pair.source, 2), b"built anew")
    pair.hosts.account.owns(pair.source)
    ended = pair.hosts.here.run(*pair.words, *pair.options)
    assert ended.status == 1, ended
    assert "deletions held" in ended.out
    with open(pair.at(pair.destination, 2), "rb") as file:
        assert file.read() == b"built anew"
    assert os.path.lexists(pair.at(pair.destination, 1))
    pair.sync("--force")
    pair.same()
    pair.until_warm()


def test_here_to_here(hosts: Hosts, place: Path) -> None:
    pair = Pair(hosts, place, pulling=False)
    pair.words[2] = pair.destination
    pair.until_warm()
    write(hosts, pair.at(pair.destination, 3), b"by hand")
    os.unlink(pair.at(pair.source, 4))
    assert pair.sync()["stats"]["listed"] < 20
    pair.same()


def test_a_dry_run_agrees_on_nothing(pair: Pair) -> None:
    pair.until_warm()
    write(pair.hosts, pair.at(pair.source, 8), b"edited")
    said = pair.sync("--dry-run")
    assert 0 < said["stats"]["listed"] < 20, said
    again = pair.sync("--dry-run")
    assert again["stats"]["listed"] == said["stats"]["listed"]
    pair.sync()
    pair.same()


def test_other_options_are_another_agreement(pair: Pair) -> None:
    pair.until_warm()
    write(pair.hosts, os.path.join(os.fsencode(pair.destination), b"extra"), b"extra")
    pair.options = ()
    assert pair.sync()["stats"]["listed"] > FILES
    pair.options = ("--delete",)
    pair.sync()
    pair.same()


def test_another_source_of_the_same_destination(hosts: Hosts, place: Path) -> None:
    """What one session wrote is news to the peers of all others."""
    one = Pair(hosts, place, pulling=False, options=())
    one.sync()
    one.until_warm()
    (place / "two").mkdir()
    other = Pair(hosts, place / "two", pulling=False, options=())
    other.destination = one.destination
    other.words[2] = hosts.remote(one.destination)
    write(hosts, other.at(other.source, 1), b"from the other one")
    other.sync()
    one.sync()
    assert not [line for line in differing(one) if not line.startswith("*deleting")]


def differing(pair: Pair) -> list[str]:
    return rsync_finds(pair.source, pair.destination)


def test_on_from_a_destination(hosts: Hosts, place: Path) -> None:
    """A root that is written by one session and sent by the next."""
    first = Pair(hosts, place, pulling=True)
    first.sync()
    (place / "on").mkdir()
    hosts.account.owns(place / "on")
    second: list[Any] = ["push", first.destination, hosts.remote(place / "on/it"), "--delete", "--json"]
    result(hosts.here.ok(*second))
    for n in range(3):
        write(hosts, first.at(first.source, n), b"edit %d" % n)
        first.sync()
        result(hosts.here.ok(*second))
        assert_same(first.source, place / "on/it")
