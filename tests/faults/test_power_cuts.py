"""The power goes in the middle of a sync: what was acknowledged is there afterwards, all else is as it was or is new.

SYNCCTL_SEEDS sets how many moments are tried on each file system (2 unless it is set).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.helpers import disks, joined
from tests.helpers.oracle import assert_same
from tests.helpers.payloads import unpack_list
from tests.helpers.trouble import seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(120)

DIRECTORIES, FILES = 18, 130
OLD_S, NEW_S = 1_600_000_000, 1_700_000_000
LARGE = 3 << 20
OUR_NAMES = ("sync~", "aside~", "new~")


class Ground(NamedTuple):
    """A source, and an image that has its older version at ``to``."""

    kind: str
    base: Path
    source: Path
    image: Path
    old: dict[str, bytes]
    new: dict[str, bytes]
    seconds: float

    @property
    def at(self) -> Path:
        """Where images are mounted."""
        return self.base / "mnt"


class Heard:
    """What a receiver said that it has applied."""

    def __init__(self, begun: Callable[[], None] | None = None) -> None:
        """``begun`` is called when the first files were acknowledged."""
        self._begun = begun
        self.chunks: dict[int, list[str]] = {}
        self.forgotten: list[int] = []
        self.files = 0
        self.done = False

    def __call__(self, tag: str, n: int, payload: memoryview) -> None:
        if tag == "list":
            _, groups = unpack_list(bytes(payload))
            names = [
                os.fsdecode(os.path.join(group.path, entry.name))
                for group in groups
                for entry in group.entries
                if entry.kind == 1
            ]
            self.chunks[n] = names
        elif tag == "ack":
            self.files = int.from_bytes(payload[16:24], "little")
            count = int.from_bytes(payload[32:36], "little")
            self.forgotten += [int.from_bytes(payload[36 + 4 * i : 40 + 4 * i], "little") for i in range(count)]
            if self.files and self._begun is not None:
                self._begun()
                self._begun = None
        elif tag == "done":
            self.done = True

    def applied(self, problems: set[str]) -> list[str]:
        """Files of chunks of which nothing more is wanted; not those with a problem, or in something with one."""
        names = (name for n in self.forgotten for name in self.chunks[n])
        return [name for name in names if not problems & {"", name, os.path.dirname(name)}]


def contents(root: Path) -> dict[str, bytes]:
    """Regular files by path; none of ours."""
    found = {}
    for directory, directories, names in os.walk(root):
        directories[:] = [name for name in directories if not name.endswith(OUR_NAMES)]
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path) and not name.endswith(OUR_NAMES):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = file.read()
    return found


def leftovers(root: Path) -> list[str]:
    return [
        os.path.join(directory, name)
        for directory, directories, names in os.walk(root)
        for name in (*directories, *names)
        if name.endswith(OUR_NAMES)
    ]


def build(source: Path, older: Path) -> None:
    """New directories, files that change, grow, go, or are new among others; links; large ones."""
    chance = random.Random(5)
    for d in range(DIRECTORIES):
        new, old = source / f"d{d:02}", older / f"d{d:02}"
        new.mkdir(parents=True)
        fresh = d % 3 == 0
        if not fresh:
            old.mkdir(parents=True)
        for f in range(FILES):
            name = f"file-{d:02}-{f:03}"
            (new / name).write_bytes(chance.randbytes(chance.randrange(1, 3_000)))
            os.utime(new / name, (NEW_S, NEW_S))
            if not fresh and f % 4:
                (old / name).write_bytes(chance.randbytes(chance.randrange(1, 3_000)))
                os.utime(old / name, (OLD_S, OLD_S))
        if not fresh:
            (old / "extra").write_bytes(b"extra")
        if d % 6 == 1:
            (new / "large").write_bytes(chance.randbytes(LARGE))
            (old / "large").write_bytes(chance.randbytes(LARGE))
            os.utime(old / "large", (OLD_S, OLD_S))
        if d % 6 == 2:
            os.link(new / "file-02-000" if d == 2 else new / f"file-{d:02}-000", new / "linked")
            (new / "symlink").symlink_to("linked")


@pytest.fixture(scope="module", params=sorted(disks.KINDS))
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    kind = request.param
    with tempfile.TemporaryDirectory(prefix="syncctl-power-", dir="/dev/shm") as directory:
        base = Path(directory)
        source, image = base / "source", base / "image"
        build(source, base / "older")
        disks.make(kind, image)
        made = Ground(kind, base, source, image, contents(base / "older"), contents(source), 0.0)
        with disks.mounted(image, made.at):
            shutil.copytree(base / "older", made.at / "to", symlinks=True)
        begun = time.monotonic()
        with disks.mounted(disks.copy(image, base / "clean"), made.at):
            begun = time.monotonic()
            said = sync(made, Heard())
            seconds = time.monotonic() - begun
            assert (said.failure, said.problems) == (None, [])
            assert_same(source, made.at / "to")
        yield made._replace(seconds=seconds)


def sync(ground: Ground, heard: Heard, fsync: str = "batch") -> joined.Outcome:
    return joined.sync(
        str(ground.source), str(ground.at / "to"), hearing=heard, compress="never", delete=True, fsync=fsync
    )


def check(ground: Ground, heard: Heard, said: joined.Outcome) -> str:
    """The file system is mounted again.  What was acknowledged is new; nothing is neither old nor new."""
    found = contents(ground.at / "to")
    torn = [name for name, is_ in found.items() if is_ not in (ground.old.get(name), ground.new.get(name))]
    assert not torn, f"neither old nor new: {torn[:5]}"
    gone = [name for name in ground.old if name in ground.new and name not in found]
    assert not gone, f"neither old nor new, but gone: {gone[:5]}"
    problems = {os.fsdecode(path) for path, _, _ in said.problems}
    lost = [name for name in heard.applied(problems) if found.get(name) != ground.new[name]]
    assert not lost, f"acknowledged, and not there: {lost[:5]} of {len(lost)}"
    landed = sum(found.get(name) == ground.new[name] != ground.old.get(name) for name in ground.new)
    assert landed >= heard.files, f"{heard.files} were acknowledged, {landed} are there"
    if heard.done and not problems:
        assert_same(ground.source, ground.at / "to")
    left = leftovers(ground.at / "to")
    again = sync(ground, Heard())
    assert (again.failure, again.problems) == (None, [])
    assert_same(ground.source, ground.at / "to")
    assert not leftovers(ground.at / "to")
    return f"acknowledged {heard.files}, new {landed} of {len(ground.new)}, done {heard.done}, temporary {len(left)}"


class Moment:
    """When the power goes: so long after the beginning, or after the first files were acknowledged."""

    def __init__(self, ground: Ground, seed: int, strike: Callable[[], None]) -> None:
        chance = random.Random(seed)
        late = seed % 2 == 1
        self._timer = threading.Timer(chance.uniform(0.0, 0.5) * ground.seconds, strike)
        self._strike = strike
        self.heard = Heard(self._timer.start if late else None)
        if not late:
            self._timer = threading.Timer(chance.uniform(0.02, 1.1) * ground.seconds, strike)
            self._timer.start()

    def come(self) -> None:
        """The sync has ended: it is now, if it was not before."""
        if self._timer.ident is None:
            self._strike()
        else:
            self._timer.join()


@pytest.mark.fault("E3")
@pytest.mark.parametrize("seed", seeds(2))
def test_the_file_system_stops(ground: Ground, seed: int) -> None:
    fsync = ("batch", "batch", "always")[seed % 3]
    image = ground.base / "cut"
    disks.copy(ground.image, image)
    with disks.mounted(image, ground.at):
        if not disks.can_shut_down(ground.at):
            pytest.skip(f"{ground.kind} of this kernel has no FS_IOC_SHUTDOWN; E4 copies its image")
        fd = os.open(ground.at, os.O_RDONLY)
        moment = Moment(ground, seed, lambda: disks.cut_power(fd))
        heard = moment.heard
        try:
            said = sync(ground, heard, fsync)
        finally:
            moment.come()
            os.close(fd)
    if not heard.done:
        assert said.failure or said.problems, "it ended without a word"
    with disks.mounted(image, ground.at):
        print(f"{ground.kind}, seed {seed}, {fsync}: {check(ground, heard, said)}")


@pytest.mark.fault("E4")
@pytest.mark.parametrize("seed", seeds(2))
def test_the_image_as_it_was(ground: Ground, outer: Path, seed: int) -> None:
    """All that the disk was given until a moment, and nothing of what came later."""
    image, taken = outer / "cut", outer / "taken"
    disks.copy(ground.image, image)
    before = Heard()

    def take() -> None:
        # What is heard while the copy is made may be in it or not.
        heard = moment.heard
        before.files, before.done = heard.files, heard.done
        before.forgotten = list(heard.forgotten)
        disks.clone(image, taken)

    with disks.mounted(image, ground.at):
        moment = Moment(ground, seed, take)
        try:
            said = sync(ground, moment.heard)
        finally:
            moment.come()
        assert (said.failure, said.problems) == (None, [])
    before.chunks = moment.heard.chunks
    with disks.mounted(taken, ground.at):
        print(f"{ground.kind}, seed {seed}: {check(ground, before, said)}")


@pytest.fixture(scope="module")
def outer() -> Iterator[Path]:
    """Where a file can be cloned in one step."""
    with tempfile.TemporaryDirectory(prefix="syncctl-outer-", dir="/dev/shm") as directory:
        base = Path(directory)
        disks.make("xfs", base / "image", 1 << 30)
        with disks.mounted(base / "image", base / "outer") as at:
            yield at
