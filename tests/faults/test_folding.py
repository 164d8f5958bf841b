"""Destinations that take different names for one, by their case or by their normal form: nothing is lost or overwritten
there, what cannot be there is named, and syncs come to rest.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.fault_case import FaultCase
from tests.helpers.faulty_fs import faulty_fs
from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.pairs import Pair, pair_of
from tests.helpers.sshd import SSHD
from tests.helpers.trouble import Result, run_job

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
IMAGE_MIB = 64


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as made:
        yield made


@contextlib.contextmanager
def disk(place: Path) -> Iterator[Path]:
    """A directory that ignores case, on an ext4 of this kernel's."""
    image, mount = place / "image", place / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    with contextlib.ExitStack() as undo:
        commands = ["mkfs.ext4", "-q", "-O", "casefold", str(image)], ["mount", "-o", "loop", str(image), str(mount)]
        for argv in commands:
            try:
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
            except FileNotFoundError:
                pytest.skip(f"no {argv[0]} here")
            if done.returncode:
                pytest.skip(f"no ext4 here that ignores case: {done.stderr.strip()[:200]}")
        undo.callback(lambda: subprocess.run(["umount", mount], check=True))
        at = mount / "folds"
        at.mkdir()
        subprocess.run(["chattr", "+F", at], check=True)
        yield at


@pytest.fixture(params=["fold", "still", "ext4"])
def folding(request: pytest.FixtureRequest, hosts: Hosts, place: Path) -> Iterator[FaultCase]:
    """A case with a destination that ignores case."""
    with contextlib.ExitStack() as stack:
        if request.param != "ext4":
            fs = stack.enter_context(faulty_fs(place, names=request.param))
            case = FaultCase(hosts, place, destination=fs.mount / "destination")
            case.destination_behind = fs.backing / "destination"
        else:
            case = FaultCase(hosts, place, destination=stack.enter_context(disk(place)) / "destination")
        yield case


@pytest.fixture
def decomposing(hosts: Hosts, place: Path) -> Iterator[FaultCase]:
    """A case with a destination that decomposes names."""
    with faulty_fs(place, names="nfd") as fs:
        case = FaultCase(hosts, place, destination=fs.mount / "destination")
        case.destination_behind = fs.backing / "destination"
        yield case


def there(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file as its directory shows it: inode and content; symlinks with their targets."""
    found = {}
    for at, _, names in os.walk(root):
        for name in names:
            path = os.path.join(at, name)
            content = os.readlink(path).encode() if os.path.islink(path) else Path(path).read_bytes()
            found[os.path.relpath(path, root)] = (os.lstat(path).st_ino, content)
    return found


def run(case: FaultCase) -> Result:
    """A push; O1 cannot be asked where names come back in another form."""
    pair = (case.source, f"box:{case.destination}")
    ended = run_job(case.hosts.here, "push", *pair, "--delete")
    print(ended)
    return ended


def twins(ended: Result) -> set[str]:
    """The paths that could not be there, each told with its other one and what to do."""
    assert ended.status == 1, ended
    assert {problem["code"] for problem in ended.problems} == {"twin"}, ended
    for problem in ended.problems:
        assert "one name" in problem["text"], problem
        assert "rename one of them" in problem["text"], problem
        other = problem["text"].split(" and ", 1)[1].split(" for one name", 1)[0]
        assert other.casefold() == problem["path"].casefold(), problem
        assert other != problem["path"], problem
    return {problem["path"] for problem in ended.problems}


@pytest.mark.fault("B6")
def test_a_change_of_case_alone(folding: FaultCase) -> None:
    case = folding
    case.build({"readme": os.urandom(200_000), "dir/inner": b"1", "dir/more": b"2", "other": b"3"})
    (case.source / "link").symlink_to("other")
    case.converges("--delete")
    inode = os.lstat(case.destination / "readme").st_ino
    for old, new in (("readme", "README"), ("dir/inner", "dir/Inner"), ("dir", "Dir"), ("link", "Link")):
        (case.source / old).rename(case.source / new)
    ended = case.push("--delete")
    assert ended.status == 0, ended
    assert (ended.result["stats"]["files"], ended.result["stats"]["deleted"], ended.result["stats"]["moved"]) == (
        0,
        0,
        4,
    ), ended.result["stats"]
    assert sorted(os.listdir(case.destination)) == ["Dir", "Link", "README", "other"]
    assert sorted(os.listdir(case.destination / "Dir")) == ["Inner", "more"]
    assert os.lstat(case.destination / "README").st_ino == inode, "it is the same file"
    # And with a new content at once, where nothing is deleted.
    (case.source / "README").rename(case.source / "ReadMe")
    case.build({"ReadMe": b"another"})
    ended = case.push()
    assert ended.status == 0, ended
    assert "ReadMe" in os.listdir(case.destination)
    assert (case.destination / "ReadMe").read_bytes() == b"another"
    case.converges("--delete")
    case.finish()


@pytest.mark.fault("B5")
@pytest.mark.parametrize("first", [True, False], ids=["anew", "one-is-there"])
def test_names_that_case_alone_tells_apart(folding: FaultCase, first: bool) -> None:
    """One of them is there, the other is a problem; it stays so."""
    case = folding
    files = {"A": b"upper", "a": b"lower", "d/Same": b"one", "d/same": b"two", "fine": b"1"}
    files |= {f"D/{n}": b"%d" % n for n in range(6)}
    if not first:
        case.build({"a": b"lower", "d/same": b"two"})
        case.converges("--delete")
    case.build(files)
    os.symlink("nowhere", case.source / "FINE")
    paths: set[str] = set()
    before = None
    for _ in range(3):
        ended = case.push("--delete")
        assert twins(ended) & {"D", "d"}
        assert twins(ended) & {"A", "a"}
        assert twins(ended) & {"FINE", "fine"}
        assert ended.result["stats"]["deleted"] == 0
        found = there(case.destination)
        if before is not None:
            assert found == before
            assert twins(ended) == paths
            assert ended.result["stats"]["wanted_files"] == 0, "nothing is sent again"
        before, paths = found, twins(ended)
    if not first:
        assert {"A", "D"} <= paths, "what was there stays"
    # The one that is there goes: the other gets its place.
    gone = "a" if (case.destination / "a").read_bytes() == b"lower" else "A"
    (case.source / gone).unlink()
    assert case.push("--delete").status == 1
    assert (case.destination / "a").read_bytes() == (b"upper" if gone == "a" else b"lower")
    assert ("A" if gone == "a" else "a") in os.listdir(case.destination)
    for name in ("FINE", "d/Same", "d/same"):
        (case.source / name).unlink()
    (case.source / "d").rmdir()
    case.converges("--delete")
    case.finish()


@contextlib.contextmanager
def watched(case: FaultCase, place: Path) -> Iterator[Pair]:
    """Its roots as a pair that is watched, up to date or with problems."""
    options = ("--watch",)
    with pair_of(case.hosts.here, place, *options, source=case.source, destination=case.destination) as pair:
        pair.wait_state("up-to-date", "problems")
        yield pair


@pytest.mark.fault("B5", "B6")
def test_saves_of_twins_while_they_are_watched(folding: FaultCase, place: Path) -> None:
    case = folding
    case.build({"A": b"upper", "a": b"lower", "fine": b"1"})
    with watched(case, place) as pair:
        had = there(case.destination)
        name = "A" if had.get("A") else "a"
        other = "a" if name == "A" else "A"
        for turn in range(2):
            (case.source / other).write_bytes(b"saved %d" % turn)
            (case.source / "fine").write_bytes(b"seen %d" % turn)
            pair.agent.run("flush", pair.name, "--timeout", "20")
            now = there(case.destination)
            assert now["fine"][1] == b"seen %d" % turn
            assert now[name] == had[name], "the other one's content"
            assert other not in now
        (case.source / name).write_bytes(b"its own")
        pair.agent.run("flush", pair.name, "--timeout", "20")
        assert there(case.destination)[name][1] == b"its own"
        # Once it is renamed at the source, both are there.
        (case.source / other).rename(case.source / "b")
        (case.source / "fine").rename(case.source / "Fine")
        pair.flush()
        pair.wait_state("up-to-date")
        assert sorted(os.listdir(case.destination)) == sorted([name, "b", "Fine"])
        pair.same()
    case.converges("--delete")
    case.finish()


@pytest.mark.fault("B4")
def test_names_come_back_decomposed(decomposing: FaultCase) -> None:
    """They are not deleted as if they were extra, nor sent again."""
    case = decomposing
    case.build({COMPOSED: b"1", f"d{COMPOSED}/inner{COMPOSED}": b"1", "fine": b"1"})
    case.version()
    for content, sent in ((b"1", 3), (b"1", 0), (b"22", 1), (b"22", 0)):
        if content != (case.source / COMPOSED).read_bytes():
            case.build({COMPOSED: content})
        ended = run(case)
        assert ended.status == 0, ended
        assert (ended.result["stats"]["files"], ended.result["stats"]["deleted"]) == (sent, 0), ended.result["stats"]
        assert sorted(os.listdir(case.destination)) == sorted([DECOMPOSED, f"d{DECOMPOSED}", "fine"])
        assert (case.destination / COMPOSED).read_bytes() == content
    (case.source / COMPOSED).unlink()
    ended = run(case)
    assert (ended.status, ended.result["stats"]["deleted"]) == (0, 1), ended
    (case.source / f"d{COMPOSED}/inner{COMPOSED}").unlink()
    (case.source / f"d{COMPOSED}").rmdir()
    case.converges("--delete")
    case.finish()


@pytest.mark.fault("B4")
def test_both_forms_of_a_name(decomposing: FaultCase) -> None:
    case = decomposing
    case.build({COMPOSED: b"composed", DECOMPOSED: b"decomposed", "fine": b"1"})
    before = None
    for _ in range(3):
        ended = run(case)
        assert ended.status == 1, ended
        assert [problem["code"] for problem in ended.problems] == ["twin"]
        found = there(case.destination)
        assert before in (None, found), "one of them is there, and stays"
        before = found
    (case.source / COMPOSED).unlink()
    case.converges("--delete")
    case.finish()


@pytest.mark.fault("B5")
def test_the_trash_in_another_case(folding: FaultCase) -> None:
    """No list may name it; spelled otherwise it is not written to either."""
    case = folding
    case.build({"fine": b"1"})
    case.converges()
    trash = case.destination / ".syncctl-trash"
    (trash / "kept").mkdir(parents=True)
    (trash / "kept/file").write_bytes(b"old")
    case.build({".SYNCCTL-TRASH/kept/file": b"new", "fine": b"2"})
    ended = run(case)
    assert twins(ended) == {".SYNCCTL-TRASH"}
    assert (trash / "kept/file").read_bytes() == b"old"
    assert (case.destination / "fine").read_bytes() == b"2"
