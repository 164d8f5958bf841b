"""Reads, writes and names that a file system refuses, injected by FUSE: one file's trouble stays one file's."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from agentd import _core
from tests.helpers.fault_case import FaultCase
from tests.helpers.faulty_fs import FaultyFs, faulty_fs
from tests.helpers.hosts import Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.sshd import SSHD
from tests.helpers.trouble import MIB, agent_pid, run_job, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")

BIG = 6 * MIB


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as made:
        yield made


@pytest.fixture
def fs(place: Path) -> Iterator[FaultyFs]:
    with faulty_fs(place) as made:
        yield made


@pytest.fixture
def reading(hosts: Hosts, place: Path, fs: FaultyFs) -> Iterator[FaultCase]:
    """A case whose source is on the faulty file system."""
    made = FaultCase(hosts, place, source=fs.mount)
    made.source_behind = fs.backing
    yield made
    made.finish()


@pytest.fixture
def writing(hosts: Hosts, place: Path, fs: FaultyFs) -> Iterator[FaultCase]:
    """A case whose destination is there."""
    made = FaultCase(hosts, place, destination=fs.mount / "destination")
    made.destination_behind = fs.backing / "destination"
    yield made
    made.finish()


def during(fs: FaultyFs, then: Callable[[], None], go: Path) -> threading.Thread:
    """Once the delay has begun, do ``then`` and let it end."""

    def act() -> None:
        try:
            within(20, lambda: bool(fs.fired()), lambda: "nothing was ever held")
            then()
        finally:
            go.touch()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.mark.fault("A1", "A2")
@pytest.mark.parametrize("size", [BIG + MIB, BIG - MIB, 0], ids=["grows", "shrinks", "is emptied"])
def test_a_file_changes_while_it_is_read(reading: FaultCase, fs: FaultyFs, place: Path, size: int) -> None:
    reading.build({"big": os.urandom(BIG), "other": b"1"})
    content = (os.urandom(BIG) + os.urandom(MIB))[:size]
    fs.hold("read", "/big$", place / "go")

    def change() -> None:
        with (fs.backing / "big").open("wb") as file:
            file.write(content)
        reading.version()

    thread = during(fs, change, place / "go")
    ended = reading.push()
    thread.join()
    assert ended.status in (0, 1)
    assert {problem["path"] for problem in ended.problems} <= {"big"}
    assert (reading.destination / "other").read_bytes() == b"1"
    reading.converges()


@pytest.mark.fault("A3")
def test_a_file_vanishes_before_it_is_read(reading: FaultCase, fs: FaultyFs, place: Path) -> None:
    reading.build({"gone": b"1", "stays": b"1"})
    reading.converges()
    reading.build({"gone": b"22", "stays": b"22"})
    fs.hold("open", "^/gone$", place / "go")
    thread = during(fs, (fs.backing / "gone").unlink, place / "go")
    ended = reading.push("--delete")
    thread.join()
    assert [(problem["code"], problem["path"]) for problem in ended.problems] in ([], [("vanished", "gone")])
    if (reading.destination / "gone").exists():
        reading.kept("gone")
    assert (reading.destination / "stays").read_bytes() == b"22"
    reading.converges("--delete")


@pytest.mark.fault("A6")
def test_a_read_that_fails_always(reading: FaultCase, fs: FaultyFs) -> None:
    """Its place there keeps what it has, under --delete too; the problem is told each time until it is gone."""
    reading.build({"bad": os.urandom(BIG), "bad small": b"1", "fine": b"1", "d/bad": b"1"})
    reading.converges()
    reading.build({"bad": os.urandom(BIG), "bad small": b"22", "fine": b"22", "d/bad": b"22"})
    fs.fail("read", errno.EIO, "^/bad$", after=2)
    fs.fail("read", errno.EIO, "^/(bad small|d/bad)$")
    for _ in range(2):
        ended = reading.push("--delete")
        assert ended.status == 1, ended
        assert {problem["path"] for problem in ended.problems} == {"bad", "bad small", "d/bad"}, (ended, fs.fired())
        assert {(problem["code"], problem["errno"]) for problem in ended.problems} == {("unreadable", errno.EIO)}
        assert (reading.destination / "fine").read_bytes() == b"22"
    reading.kept("bad", "bad small", "d/bad")
    fs.heal()
    reading.converges("--delete")


@pytest.mark.fault("A6")
def test_a_directory_that_fails(reading: FaultCase, fs: FaultyFs) -> None:
    """Nothing below it is deleted."""
    reading.build({"d/one": b"1", "d/below/two": b"1", "e/three": b"1"})
    reading.converges()
    (reading.source / "e/three").unlink()
    fs.fail("readdir", errno.EIO, "^/d$")
    ended = reading.push("--delete")
    assert [problem["path"] for problem in ended.problems] == ["d"], ended
    reading.kept("d/one", "d/below/two")
    assert not (reading.destination / "e/three").exists()
    fs.heal()
    reading.converges("--delete")


@pytest.mark.fault("A6")
def test_a_read_that_fails_once(reading: FaultCase, fs: FaultyFs) -> None:
    reading.build({"bad": os.urandom(BIG), "fine": b"1"})
    fs.fail("read", errno.EIO, "bad", after=1, times=1)
    ended = reading.push()
    assert fs.fired()
    assert ended.status in (0, 1)
    reading.converges()


FAILING = {
    "write": ("write", errno.EIO, 1),
    "first write": ("write", errno.EIO, 0),
    "rename": ("rename", errno.EIO, 0),
    "create": ("create", errno.EACCES, 0),
    "chmod": ("chmod", errno.EIO, 0),
}


@pytest.mark.fault("C5")
@pytest.mark.parametrize("kind", FAILING)
def test_a_write_that_fails(writing: FaultCase, fs: FaultyFs, kind: str) -> None:
    """What was there stays, the file is never said to be done, and others go on."""
    op, number, after = FAILING[kind]
    writing.build({"bad": os.urandom(BIG), "fine": b"1"})
    writing.converges()
    writing.build({"bad": os.urandom(BIG + 1), "fine": b"22"})
    fs.fail(op, number, r"/destination/\.?bad", after=after)
    ended = writing.push()
    assert fs.fired()
    assert ended.status == 1, ended
    assert {problem["path"] for problem in ended.problems} == {"bad"}
    assert {problem["errno"] for problem in ended.problems} == {number}
    if kind != "chmod":
        writing.kept("bad")
    assert (writing.destination / "fine").read_bytes() == b"22"
    assert all(b".sync~" not in path or os.path.getsize(path) >= MIB for path in our_files(writing.destination))
    fs.heal()
    writing.converges()


@pytest.mark.fault("C5")
def test_a_sync_that_fails(writing: FaultCase, fs: FaultyFs) -> None:
    """It is not tried again, which would succeed without the data: what was written goes, and comes again."""
    writing.build({"bad": os.urandom(BIG)})
    writing.converges()
    writing.build({"bad": os.urandom(BIG + 1)})
    fs.fail("fsync", errno.EIO, r"/destination/\.bad", times=1)
    ended = writing.push()
    assert fs.fired()
    assert ended.status == 0, ended
    assert ended.result["wire_sent"] > 2 * BIG
    writing.converges()


@pytest.mark.fault("C5")
def test_everything_fails(writing: FaultCase, fs: FaultyFs) -> None:
    writing.build({f"file{number}": b"1" for number in range(50)})
    writing.converges()
    writing.build({f"file{number}": b"22" for number in range(50)})
    fs.fail("write", errno.EIO, "/destination/")
    ended = writing.push()
    assert ended.status == 1
    writing.kept(*(f"file{number}" for number in range(50)))
    fs.heal()
    writing.converges()


@pytest.mark.fault("C5")
@pytest.mark.parametrize("op", ["unlink", "readdir"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_what_cannot_be_swept_is_not_forgotten(fs: FaultyFs, op: str, number: int) -> None:
    """A killed session's temporary file is on a file system that fails at the next start: the one after it sweeps."""
    left = fs.backing / "d/.name.0123abcd00000000.sync~"
    left.parent.mkdir()
    left.write_bytes(b"half")
    fs.fail(op, number, "/d")
    with pytest.raises(OSError, match=os.strerror(number)):
        _core.sweep(os.fsencode(fs.mount), "0123abcd", MIB)
    assert left.exists()
    fs.heal()
    assert _core.sweep(os.fsencode(fs.mount), "0123abcd", MIB) == 1
    assert not left.exists()


@pytest.mark.fault("C4")
def test_it_becomes_read_only_meanwhile(hosts: Hosts, writing: FaultCase, fs: FaultyFs) -> None:
    """One error for the root, not one for each file."""
    writing.build({f"file{number}": b"1" for number in range(300)})
    writing.converges()
    writing.build({f"file{number}": b"22" for number in range(300)})
    pids = [agent_pid(agent) for agent in writing.agents]
    for op in ("create", "write", "rename", "unlink", "mkdir", "chmod", "utimens"):
        fs.fail(op, errno.EROFS, "", after=40 if op == "rename" else 0 if op != "create" else 50)
    ended = writing.push()
    assert (ended.status, ended.code) == (6, "destination-read-only"), ended
    assert str(writing.destination) in ended.error["message"]
    assert not ended.problems, ended
    fs.heal()
    assert pids == [agent_pid(agent) for agent in writing.agents]
    hosts.there.ok("restart")  # what could not be removed is swept then
    writing.agents_are_new()
    within(10, lambda: not our_files(writing.destination_behind), lambda: our_files(writing.destination_behind))
    writing.converges()


@pytest.mark.fault("A10")
def test_no_attributes_beside_the_mode(writing: FaultCase, fs: FaultyFs) -> None:
    """Extended attributes and access control lists are not synced: where none can be kept, nothing is missed."""
    writing.build({"attributes": b"1", "list": b"1"})
    os.setxattr(writing.source / "attributes", "user.colour", b"blue")
    subprocess.run(["setfacl", "-m", "u:65534:r", writing.source / "list"], check=False, capture_output=True)
    for op in ("setxattr", "getxattr", "listxattr", "removexattr"):
        fs.fail(op, errno.ENOTSUP)
    writing.converges()


@pytest.mark.fault("C10")
@pytest.mark.parametrize("way", ["overwrite", "stop"])
def test_somebody_else_edits_between_the_look_and_the_rename(
    hosts: Hosts, writing: FaultCase, fs: FaultyFs, place: Path, way: str
) -> None:
    writing.build({"edited": b"old", "other": b"old"})
    hosts.here.ok("add", "kept", writing.source, f"box:{writing.destination}", "--on-conflict", way)
    try:
        first = hosts.here.run("sync", "kept")
        assert first.status == 0, first
        writing.version()
        writing.build({"edited": b"newer", "other": b"newer"})
        fs.hold("write", r"/\.edited", place / "go")
        theirs = fs.mount / "destination/edited"
        thread = during(fs, lambda: (theirs.write_bytes(b"by somebody else"), None)[1], place / "go")
        ended = run_job(hosts.here, "sync", "kept")
        thread.join()
        assert fs.fired()
        assert theirs.read_bytes() == (b"by somebody else" if way == "stop" else b"newer"), ended
        assert [problem["path"] for problem in ended.problems] == (["edited"] if way == "stop" else [])
    finally:
        hosts.here.run("remove", "kept")
    writing.converges("--force")


@pytest.mark.fault("B11")
def test_names_are_shorter_there(hosts: Hosts, place: Path) -> None:
    with faulty_fs(place, name_max=143) as fs:
        case = FaultCase(hosts, place, destination=fs.mount / "destination")
        long = "n" * 200
        case.build({long: b"1", f"d/{long}": b"1", f"{long}d/inner": b"1", "n" * 100: b"1", "fine": b"1"})
        ended = case.push()
        assert ended.status == 1
        assert {problem["path"] for problem in ended.problems} >= {long, f"d/{long}", f"{long}d"}, ended.problems
        assert {problem["code"] for problem in ended.problems} == {"name"}
        assert (case.destination / ("n" * 100)).read_bytes() == b"1"
        for name in (long, f"d/{long}", f"{long}d/inner"):
            (case.source / name).unlink()
        (case.source / f"{long}d").rmdir()
        case.converges("--delete")
        case.finish()
