"""Watched pairs and single paths over real agents: what is saved here is there, whole, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.agents import eventually
from tests.helpers.oracle import assert_same
from tests.helpers.pushes import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Agent, Hosts


class Pair:
    """A pair here, watched or not, with both its trees."""

    def __init__(self, hosts: Hosts, place: Path, *options: str) -> None:
        self.here: Agent = hosts.here
        self.hosts = hosts
        self.source, self.there = place / "source", place / "there"
        self.name = f"w{place.name.replace('.', '-')}"[-60:]
        self.here.ok("add", self.name, self.source, hosts.remote(self.there), *options)

    def flush(self) -> None:
        self.here.ok("flush", self.name)
        assert_same(self.source, self.there)

    def flush_but(self, excluded: str) -> None:
        """The same where the pair excludes something."""
        self.here.ok("flush", self.name)
        assert not (self.there / excluded).exists()
        shutil.rmtree(self.source / excluded)
        self.here.ok("flush", self.name)  # what it was in has another time now
        assert_same(self.source, self.there)

    @contextlib.contextmanager
    def batches(self) -> Iterator[list[dict[str, int]]]:
        """Counters of the batches that leave while the body runs, and until it is calm."""
        process = self.here.popen("watch", self.name, "--json")
        assert process.stdout is not None
        found: list[dict[str, int]] = []
        try:
            process.stdout.readline()  # it listens
            yield found
            eventually("it is calm", lambda: self.state() == "up-to-date")
            self.here.ok("pause", self.name)
            while not (event := json.loads(process.stdout.readline())).get("text", "").startswith("paused"):
                if event.get("kind") == "synced":
                    found.append(event["counters"])
        finally:
            process.kill()
            process.communicate()
            self.here.ok("resume", self.name)

    def state(self) -> str:
        return self.here.ok("status", "--porcelain", self.name).split("\t")[1]

    def write(self, name: str, text: str) -> Path:
        path = self.source / name
        path.write_text(text)
        self.hosts.account.owns(path)
        return path

    def has(self, name: str, text: str) -> None:
        def arrived() -> bool:
            try:
                return (self.there / name).read_text() == text
            except OSError:
                return False

        eventually(f"{name} is there", arrived)


@pytest.fixture
def tree(hosts: Hosts, place: Path) -> Path:
    build(hosts, place / "source")
    return place / "source"


@pytest.fixture
def watched(hosts: Hosts, place: Path, tree: Path) -> Iterator[Pair]:
    pair = Pair(hosts, place, "--mirror", "--watch", "--exclude", ".git/")
    pair.flush()
    yield pair
    hosts.here.ok("remove", pair.name)


@pytest.mark.fault("W7")
def test_saves_of_all_kinds_arrive_by_themselves(watched: Pair) -> None:
    path = watched.write("plain", "1")
    watched.has("plain", "1")
    with path.open("w") as file:  # cut and written again
        file.write("2")
    watched.has("plain", "2")
    watched.write("plain.tmp", "3")
    os.replace(watched.source / "plain.tmp", path)
    watched.has("plain", "3")
    os.rename(path, watched.source / "plain~")  # as vim does
    watched.write("plain", "4")
    (watched.source / "plain~").unlink()
    watched.has("plain", "4")
    new = watched.source / "new/deep"
    new.mkdir(parents=True)
    watched.hosts.account.owns(watched.source / "new")
    watched.write("new/deep/file", "5")
    watched.has("new/deep/file", "5")
    shutil.rmtree(watched.source / "new")
    eventually("it is gone there", lambda: not (watched.there / "new").exists())
    watched.flush()


@pytest.mark.fault("W7")
def test_a_file_that_is_cut_and_written_again_never_shows_empty(watched: Pair) -> None:
    path = watched.write("page", "0" * 1000)
    watched.has("page", "0" * 1000)
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(os.stat(watched.there / "page").st_size)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for number in range(30):
            with path.open("w") as file:
                file.flush()
                time.sleep(0.02 * (number % 8))  # an editor that takes its time: this is what is tested
                file.write(str(number % 10) * 1000)
        watched.has("page", "9" * 1000)
    finally:
        over.set()
        looking.join()
    assert seen == {1000}


def test_a_vanished_name_that_comes_back_is_never_missed_there(watched: Pair) -> None:
    watched.write("kept", "first")
    watched.has("kept", "first")
    missing = threading.Event()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            if not (watched.there / "kept").exists():
                missing.set()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for number in range(30):
            os.rename(watched.source / "kept", watched.source / "kept~")
            watched.write("kept", str(number))
            (watched.source / "kept~").unlink()
            watched.has("kept", str(number))
    finally:
        over.set()
        looking.join()
    assert not missing.is_set()


def test_pause_resume_and_flush(watched: Pair) -> None:
    watched.here.ok("pause", watched.name)
    watched.write("paused", "1")
    ended = watched.here.run("flush", watched.name)
    assert ended.status == 6, ended
    assert not (watched.there / "paused").exists()
    watched.here.ok("resume", watched.name)
    watched.has("paused", "1")
    for number in range(200):
        watched.write(f"many{number}", str(number))
    watched.flush()
    assert watched.here.run("verify", watched.name).status == 0
    (watched.there / "plain9").write_text("not ours")
    assert watched.here.run("verify", watched.name).status == 1
    watched.here.ok("verify", watched.name, "--repair")
    assert_same(watched.source, watched.there)


@pytest.mark.fault("W5")
def test_a_removed_source_pauses_and_deletes_nothing(watched: Pair) -> None:
    aside = watched.source.with_name("aside")
    os.rename(watched.source, aside)
    eventually("it is paused", lambda: watched.state() == "paused")
    watched.source.mkdir()
    watched.hosts.account.owns(watched.source)
    watched.here.run("resume", watched.name)
    eventually("it is paused again", lambda: watched.state() == "paused")
    assert_same(aside, watched.there)
    watched.source.rmdir()
    os.rename(aside, watched.source)
    watched.here.ok("resume", watched.name)
    watched.flush()


def test_a_restarted_agent_watches_again(watched: Pair) -> None:
    watched.here.stop()
    watched.write("meanwhile", "1")
    watched.here.ok("start")
    watched.has("meanwhile", "1")
    watched.write("then", "2")
    watched.has("then", "2")


def test_a_lost_link_is_made_again(watched: Pair) -> None:
    watched.hosts.there.kill()
    watched.write("after", "1")
    watched.has("after", "1")
    watched.flush()


@pytest.mark.fault("W7")
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_is_one_batch(watched: Pair) -> None:
    source = watched.source

    def git(*words: str) -> None:
        names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*", "-c", "gc.auto=0")
        subprocess.run(["git", *names, *words], cwd=source, check=True, capture_output=True)

    watched.here.ok("pause", watched.name)
    git("init", "-q", "-b", "main")
    for version in ("one", "two"):
        for number in range(600):
            path = source / f"src/{number % 20}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{version} {number}\n" * 20)
        git("add", "-A")
        git("commit", "-q", "-m", version)
        git("tag", version)
    watched.hosts.account.owns(source)
    watched.here.ok("resume", watched.name)
    eventually("it is calm", lambda: watched.state() == "up-to-date")
    with watched.batches() as batches:
        git("checkout", "-q", "one")
        watched.has("src/19/599", "one 599\n" * 20)
    assert [batch["files"] for batch in batches if batch.get("files")] == [600]
    watched.flush_but(".git")


def test_single_paths(hosts: Hosts, place: Path, tree: Path) -> None:
    pair = Pair(hosts, place, "--mirror", "--exclude", "*.o")
    file = pair.write("file", "1")
    hosts.here.ok("sync", file)  # nothing is there yet
    pair.has("file", "1")
    hosts.here.ok("sync", pair.name)
    assert_same(tree, pair.there)
    pair.write("file", "2")
    pair.write("other", "not asked for")
    (tree / "new").mkdir()
    hosts.account.owns(tree / "new")
    pair.write("new/inside", "3")
    hosts.here.ok("sync", file, tree / "new")
    pair.has("file", "2")
    pair.has("new/inside", "3")
    assert not (pair.there / "other").exists()
    shutil.rmtree(tree / "new")
    file.unlink()
    hosts.here.ok("sync", tree / "new/inside", "./file", cwd=tree)
    assert not (pair.there / "new").exists()
    assert not (pair.there / "file").exists()
    pair.write("main.o", "x")
    ended = hosts.here.run("sync", tree / "main.o")
    assert (ended.status, "excludes it" in ended.err) == (0, True)
    assert hosts.here.run("sync", place / "elsewhere").status == 2
    hosts.here.ok("sync", pair.name)
    hosts.here.ok("remove", pair.name)


def test_a_path_that_cannot_land_is_said_in_time(hosts: Hosts, place: Path, tree: Path) -> None:
    pair = Pair(hosts, place)
    hosts.here.ok("sync", pair.name)
    path = pair.write("blocked", "x")
    (pair.there / "blocked").mkdir()
    (pair.there / "blocked/full").touch()
    hosts.account.owns(pair.there)
    said = hosts.here.run("sync", path, "--json")
    assert said.status == 1, said
    rows = {row["t"]: row for row in map(json.loads, said.out.splitlines())}
    assert (rows["paths"]["fate"], rows["problems"]["problems"][0]["code"]) == ("failed", "in-the-way")
    with _stopped(hosts.there.pid):
        began = time.monotonic()
        said = hosts.here.run("sync", path, "--timeout", "0.5")
        assert time.monotonic() - began < 5
        assert said.status == 5, said
        assert f"{path}: not done" in said.err
    hosts.here.ok("remove", pair.name)


def test_a_path_lands_while_its_pair_is_under_way(hosts: Hosts, place: Path, tree: Path) -> None:
    pair = Pair(hosts, place, "--mirror")
    hosts.here.ok("sync", pair.name)
    for number in range(4):
        (tree / f"large{number}").write_bytes(os.urandom(24 << 20))
    hosts.account.owns(tree)
    pushing = hosts.here.popen("sync", pair.name)
    try:
        eventually("the push is under way", lambda: "running" in hosts.here.ok("status"))
        for number in range(5):
            hosts.here.ok("sync", pair.write(f"saved{number}", str(number)))
            pair.has(f"saved{number}", str(number))
    finally:
        assert pushing.wait(60) == 0, pushing.communicate()
        pushing.communicate()
    assert_same(tree, pair.there)
    hosts.here.ok("remove", pair.name)


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Frozen, as a far host that is busy or asleep."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
