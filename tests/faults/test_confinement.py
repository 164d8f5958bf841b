"""Nothing leaves a root: not while its directories turn into symlinks, nor by names that lead out of it.

The engines run in this process. Each race is run with both layers, and with each way of opening paths alone:
``SYNCCTL_RACE_S`` seconds each (0.5).
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import stat
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from agentd import _core
from agentd.sync.roots import destination_root, source_root
from proto.errors import SyncError
from tests.helpers.by_user import USER, by_user, open_place
from tests.helpers.canary import Canary, flipping
from tests.helpers.hosts import our_files, short_directory
from tests.helpers.joined import sync
from tests.helpers.oracle import assert_same
from tests.helpers.payloads import DIRECTORY, Entry, Group
from tests.helpers.receiving import ROOT, TAG, receiving, whole
from tests.helpers.sending import Sending, looks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RACE_S = float(os.environ.get("SYNCCTL_RACE_S", "0.5"))
FILES = 24
LAYERS = {"both": (True, True), "openat2": (True, False), "walk": (False, False)}
"""Whether there is an openat2, and Landlock."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")


class Layers(NamedTuple):
    confine: bool


@pytest.fixture(params=LAYERS)
def layers(request: pytest.FixtureRequest) -> Iterator[Layers]:
    openat2, landlock = LAYERS[request.param]
    if landlock and not _core.landlock_abi():
        pytest.skip("the kernel has no Landlock of ABI 2 or later")
    before = _core._selftest("openat2", b"", {"on": openat2})
    try:
        yield Layers(landlock)
    finally:
        assert _core._selftest("openat2", b"", {"on": before}) is openat2


@pytest.fixture
def top() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


def fill(place: Path, content: Callable[[int], bytes], *, mode: int = 0o644, names: str = "file{}") -> None:
    place.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        path = place / names.format(number)
        path.write_bytes(content(number))
        path.chmod(mode)
        os.utime(path, ns=(0, 10**18 + mode * 10**9))


def noise(seed: int, size: int = 3000) -> Callable[[int], bytes]:
    return lambda number: random.Random(seed * 1000 + number).randbytes(size)


def contents(top: Path) -> set[bytes]:
    return {path.read_bytes() for path in top.rglob("*") if path.is_file() and not path.is_symlink()}


def created(one: Path, two: Path) -> dict[str, Any]:
    fill(one / "sub", noise(1), names="a{}")
    fill(two / "sub", noise(2), names="b{}")
    for number in range(4):
        fill(one / f"sub/dir{number}", noise(3))
        (two / f"sub/link{number}").symlink_to("nowhere")
    return {"delete": True}


def renamed(one: Path, two: Path) -> dict[str, Any]:
    fill(one / "sub", noise(1))
    fill(two / "sub", noise(2, 2999))
    return {}


def adorned(one: Path, two: Path) -> dict[str, Any]:
    for place, mode in ((one, 0o600), (two, 0o644)):
        fill(place / "sub", noise(1), mode=mode)
        for number in range(FILES):
            (place / f"sub/dir{number}").mkdir(mode=mode | 0o100)
        (place / "sub").chmod(0o700 if mode == 0o600 else 0o755)
    return {"hashes": True}


def deleted(one: Path, two: Path) -> dict[str, Any]:
    fill(one / "sub", noise(1))
    fill(one / "sub/deep/er", noise(1))
    (two / "sub").mkdir(parents=True)
    return {"delete": True}


def based(one: Path, two: Path) -> dict[str, Any]:
    fill(one / "sub", noise(1, 20_000))
    fill(two / "sub", lambda number: noise(1, 20_000)(number)[:-1] + b"!", mode=0o640)
    return {"delta_min": 4096}


RACES = [
    pytest.param(made, id=name, marks=pytest.mark.fault(case))
    for case, name, made in (
        ("D1", "create", created),
        ("D2", "rename", renamed),
        ("D3", "metadata", adorned),
        ("D4", "delete", deleted),
        ("D6", "basis", based),
    )
]


def rounds() -> Iterator[int]:
    until = time.monotonic() + RACE_S
    for number in itertools.count():
        if number >= 2 and time.monotonic() >= until:
            print(f"{number} sessions")
            return
        yield number


@linux
@pytest.mark.parametrize("made", RACES)
def test_a_destination_directory_flips(top: Path, layers: Layers, made: Callable[[Path, Path], dict[str, Any]]) -> None:
    sources = (top / "one", top / "two")
    options = made(*sources)
    # Names, sizes and modes of both would be to work on, were it looked at.
    for source in sources:
        assert sync(str(source), str(top / "outside"), force=False).failure is None
    for path in (top / "outside/sub").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes()[:-9] + b"precious!")
    assert sync(str(sources[0]), str(top / "dst")).failure is None
    (top / "link").symlink_to(top / "outside/sub")
    canary = Canary(top / "outside")
    with flipping(top / "dst/sub", top / "link", top / "outside/sub"):
        for number in rounds():
            outcome = sync(str(sources[number % 2]), str(top / "dst"), confine=layers.confine, **options)
            assert outcome.failure is None
    canary.check()
    for _ in range(2):  # either of the two may stand at the name by now
        last = sync(str(sources[0]), str(top / "dst"), confine=layers.confine, **(options | {"delete": True}))
    assert (last.failure, last.problems) == (None, [])
    assert_same(sources[0], top / "dst")
    assert not our_files(top / "dst")


@linux
@pytest.mark.fault("D5")
def test_a_source_directory_flips(top: Path, layers: Layers) -> None:
    fill(top / "src/sub", noise(1))
    fill(top / "src/sub/deep", noise(1))
    fill(top / "outside", lambda number: b"secret %d" % number)
    fill(top / "outside/deep", lambda number: b"secret too %d" % number)
    fill(top / "outside/other", lambda number: b"more secret %d" % number)
    ours = contents(top / "src")
    (top / "link").symlink_to(top / "outside")
    canary = Canary(top / "outside")
    with flipping(top / "src/sub", top / "link", top / "outside"):
        for number in rounds():
            destination = top / f"dst{number % 2}"
            outcome = sync(str(top / "src"), str(destination), delete=True, hashes=True, confine=layers.confine)
            assert outcome.failure is None
            assert contents(destination) <= ours
    canary.check()


def threads() -> dict[str, str]:
    """Of this process: the threads' names, and whether each has given up new privileges, as only confined ones do."""
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/status") as status:
                fields = {name: value.strip() for name, _, value in (line.partition(":") for line in status)}
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[f"{fields['Name']} {task}"] = fields["NoNewPrivs"]
    return found


@linux
@pytest.mark.parametrize("confine", [True, False])
def test_engines_confine_their_own_threads_and_no_other(top: Path, *, confine: bool) -> None:
    if confine and not _core.landlock_abi():
        pytest.skip("the kernel has no Landlock of ABI 2 or later")
    fill(top / "src", noise(1, 3 << 20))
    before = threads()
    seen: dict[str, str] = {}

    def passing(_: int) -> None:
        seen.update(threads())
        # The agent's own threads open what they like meanwhile, and so do a second session and a child of theirs.
        assert _core.hash_file(bytes(top / "src/file0"))
        assert os.listdir("/")

    assert sync(str(top / "src"), str(top / "dst"), passing=passing, confine=confine).failure is None
    assert sync(str(top / "dst"), str(top / "second"), confine=confine).failure is None
    assert {name: seen[name] for name in before if name in seen} == before
    # A thread that has nothing to do yet is not confined yet, and a sender's opens what its own walk found.
    found = confined(seen, before)
    assert found >= {"recv-list", "recv-apply"} and "read" not in found if confine else not found
    assert_same(top / "src", top / "second")


def confined(now: dict[str, str], before: dict[str, str]) -> set[str]:
    """Names of new threads that are."""
    return {name.split()[0] for name, value in now.items() if value == "1" and before.get(name) != "1"}


@linux
@pytest.mark.parametrize("asked", [True, False])
def test_a_sender_confines_its_threads_once_its_peer_names_paths(top: Path, *, asked: bool) -> None:
    if not _core.landlock_abi():
        pytest.skip("the kernel has no Landlock of ABI 2 or later")
    fill(top / "src", noise(1))
    before = threads()
    with Sending(top / "src", looks=looks(b"file0")) as running:
        running.list_all()
        if asked:
            running.look(looks(b"file1"))
        running.want(b"file0")
        running.until_resolved(1)
        assert ("read" in confined(threads(), before)) == asked


@pytest.mark.fault("D7")
@as_root
@pytest.mark.parametrize("component", ["theirs", "theirs/inner"])
def test_a_symlink_of_another_user_on_the_way_to_a_root_is_refused_by_name(top: Path, component: str) -> None:
    fill(top / "outside/inner", noise(1))
    (top / "theirs").symlink_to("outside")
    os.chown(top / "theirs", USER, USER, follow_symlinks=False)
    (top / "src").mkdir()
    canary = Canary(top / "outside")
    for root in (source_root, destination_root):
        with pytest.raises(SyncError, match=r"theirs is a symlink of another user"):
            root(bytes(top / component))
    # Nor does the crate follow it, should it come after the agent looked.
    with pytest.raises(OSError, match="symbolic link"):
        sync(str(top / "src"), str(top / component), delete=True)
    canary.check()


@pytest.mark.fault("D7")
def test_a_root_that_is_swapped_after_it_was_opened_is_left_where_it_went(top: Path) -> None:
    fill(top / "outside", noise(1))
    (top / "dst").mkdir()
    (top / "dst/extra").touch()
    canary = Canary(top / "outside")
    with receiving(top / "dst", delete=True, force=True) as driver:
        (top / "dst").rename(top / "away")
        (top / "dst").symlink_to("outside")
        driver.send_list([Group(b"", [ROOT, Entry(b"file0", size=1)])])
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        driver.data(whole(0, 1, b"x"))
        driver.run()
        assert driver.done
    canary.check()
    assert (top / "away/file0").read_bytes() == b"x"


@pytest.mark.fault("D8")
@pytest.mark.parametrize("suffix", ["sync", "aside", "fresh"])
def test_a_temporary_name_that_is_a_symlink_is_never_written_through(top: Path, suffix: str) -> None:
    fill(top / "outside", noise(1))
    fill(top / "src", noise(2))
    (top / "dst").mkdir()
    for number in range(FILES):
        (top / f"dst/.file{number}.{TAG}{number:08x}.{suffix}~").symlink_to(top / f"outside/file{number}")
    canary = Canary(top / "outside")
    for _ in range(2):
        outcome = sync(str(top / "src"), str(top / "dst"), delete=True, temp_tag=TAG)
        assert outcome.failure is None
    _core.sweep(bytes(top / "dst"), TAG, 1 << 20)
    canary.check()
    assert contents(top / "dst") == contents(top / "src")
    assert not our_files(top / "dst")


@pytest.mark.fault("D9", "B10")
def test_links_are_kept_as_they_are_and_never_followed(top: Path) -> None:
    fill(top / "outside/inner", noise(1))
    source = top / "src/a/b"
    source.mkdir(parents=True)
    targets = {
        "up": "../../../outside", "absolute": str(top / "outside/inner"), "by-outside": "../../../outside/../src",
        "slash": "/", "self": "self", "one": "two", "two": "one", "dangling": "nowhere", "dot": ".",
        "long": "x/" * 2047 + "y",
    }  # fmt: skip
    for name, target in targets.items():
        (source / name).symlink_to(target)
    canary = Canary(top / "outside")
    for _ in range(2):
        outcome = sync(str(top / "src"), str(top / "dst"), delete=True)
        assert (outcome.failure, outcome.problems) == (None, [])
    assert {name: os.readlink(top / "dst/a/b" / name) for name in targets} == targets
    # What they lead to is not written to when the source has directories and files of their names,
    for name in targets:
        (source / name).unlink()
    fill(source / "up", noise(2))
    fill(source / "absolute", noise(2))
    (source / "by-outside").write_bytes(b"x")
    outcome = sync(str(top / "src"), str(top / "dst"), delete=True)
    assert (outcome.failure, outcome.problems) == (None, [])
    assert_same(top / "src", top / "dst")
    # nor when what is below one is asked for by name.
    (source / "absolute").rename(source / "was")
    (source / "absolute").symlink_to(top / "outside/inner")
    outcome = sync(str(top / "src"), str(top / "dst"), delete=True)
    assert (outcome.failure, outcome.problems) == (None, [])
    assert_same(top / "src", top / "dst")
    canary.check()


@pytest.mark.fault("D10")
def test_a_hard_link_to_a_foreign_file_is_replaced_and_the_file_is_not_written_to(top: Path) -> None:
    (top / "outside").mkdir()
    (top / "src").mkdir()
    for name, size in (("small", 3000), ("large", 9 << 20)):
        (top / "outside" / name).write_bytes(noise(1, 3000)(0) * (size // 3000))
        (top / "src" / name).write_bytes(noise(1, 3000)(0) * (size // 3000 - 1) + b"new")
    (top / "dst").mkdir()
    before = {}
    for name in ("small", "large"):
        os.link(top / "outside" / name, top / "dst" / name)
        status = (top / "outside" / name).stat()
        before[name] = (status.st_ino, status.st_mode, status.st_mtime_ns, (top / "outside" / name).read_bytes())
    outcome = sync(str(top / "src"), str(top / "dst"), delta_min=4096)
    assert (outcome.failure, outcome.problems) == (None, [])
    assert_same(top / "src", top / "dst")
    for name, expected in before.items():
        status = (top / "outside" / name).stat()
        content = (top / "outside" / name).read_bytes()
        assert (status.st_ino, status.st_mode, status.st_mtime_ns, content) == expected
        assert status.st_nlink == 1


@pytest.mark.fault("A9")
def test_setuid_setgid_and_sticky_bits_are_the_receiving_users() -> None:
    """They are kept, as with rsync -p: they stand for who receives, who owns the file before it has them."""
    with open_place() as base:

        def work() -> None:
            (base / "src/dir").mkdir(parents=True)
            for mode in (0o4755, 0o2755, 0o6711, 0o1644):
                path = base / f"src/dir/{mode:o}"
                path.write_bytes(b"x")
                path.chmod(mode)
            (base / "src/dir").chmod(0o1777)
            # Owners are asked for, and are not this user's to give.
            outcome = sync(str(base / "src"), str(base / "dst"), owners=True)
            assert (outcome.failure, outcome.problems) == (None, [])
            assert_same(base / "src", base / "dst")
            assert all(path.stat().st_uid == os.geteuid() for path in (base / "dst").rglob("*"))

        by_user(work)


@pytest.mark.fault("A11")
def test_what_is_no_file_is_neither_opened_nor_made(top: Path) -> None:
    (top / "src").mkdir()
    (top / "src/file").write_bytes(b"x")
    os.mkfifo(top / "src/fifo")  # an open for reading would wait for ever
    if os.geteuid() == 0:
        os.mknod(top / "src/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top / "src/block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "src/socket"))
        outcome = sync(str(top / "src"), str(top / "dst"), hashes=True, delete=True)
    assert outcome.failure is None
    assert os.listdir(top / "dst") == ["file"]


@pytest.mark.fault("D9")
def test_a_directory_of_the_list_is_not_entered_through_a_link_that_came_meanwhile(top: Path) -> None:
    fill(top / "outside", noise(1))
    (top / "dst/d").mkdir(parents=True)
    canary = Canary(top / "outside")
    with receiving(top / "dst", delete=True, force=True) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"d", DIRECTORY, 0o755)])])
        driver.run(lambda: 0 in driver.wants)
        (top / "dst/d").rmdir()
        (top / "dst/d").symlink_to(top / "outside")
        driver.send_list([Group(b"d", [Entry(b"file0", size=1), Entry(b"in", DIRECTORY, 0o700)]), Group(b"d/in", [])])
        driver.end_list()
        driver.run()
        assert driver.done
        assert driver.problems
    canary.check()
    assert (top / "dst/d").is_symlink()
