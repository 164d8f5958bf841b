"""Any sequence of edits, syncs and faults against a plain model of the source.

At every moment each file of the destination is a version that the source, or somebody's hand, once gave its path, and
what the source always had is there. A sync that ends with status 0 made the trees equal, whatever happened; without a
fault it does end so, and when all faults are gone nothing of them is left. SYNCCTL_SEEDS sets how many seeds are tried
(2 unless it is set), of 50 steps each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import defaultdict
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.helpers.hosts import Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import unequal
from tests.helpers.pairs import Pair
from tests.helpers.sshd import SSHD, Sshd
from tests.helpers.trouble import Result, healthy, read_result, seeds, strike, victims, within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
    pytest.mark.timeout(300),
    pytest.mark.fault("S3"),
]

STEPS = 50

SPACE_MIB = 24
DEAD_AFTER_S = 3
HEALED_S = 60.0

WAITED_S = 1.5
"""How long a person waits for a sync while there is no network."""

NAMES = st.sampled_from(["f", "g", "h", "k.txt", "with blank", "\u00e9"])
PLACES = st.sampled_from(["", "a/", "b/", "a/c/"])
PATHS = st.builds("{}{}".format, PLACES, NAMES)
DIRECTORIES = st.sampled_from(["a", "b", "a/c", "b/d", "m"])
SIZES = st.sampled_from([0, 1, 700, 4096, 70_000, 300_000, 1_500_000])
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o444])


class Node:
    """A file, with all of its names, or a directory (content None)."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content


class Scene(NamedTuple):
    hosts: Hosts
    place: Path
    """Where sources are."""
    mounted: Path
    """A small file system for destinations."""


class Mirror(RuleBasedStateMachine):
    """A mirrored pair; its source is ``files``."""

    scene: ClassVar[Scene]
    steps: ClassVar[int] = 0
    runs: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        name = f"run{self.runs}"
        scene = self.scene
        self.hosts = scene.hosts
        self.pair = Pair(scene.hosts.here, name, scene.place / name, scene.mounted / name)
        self.source, self.destination = self.pair.source, self.pair.destination
        self.files: dict[str, Node] = {}
        self.past: dict[str, set[bytes]] = defaultdict(set)
        self.kept: set[str] = set()
        """What both ends had when they were last equal, and the source has had since."""
        self.count = 0
        self.watched = False
        self.source.mkdir()
        self.partitioned = False
        self.full = False

    @initialize(watched=st.booleans())
    def add(self, watched: bool) -> None:
        """A source with nothing in it is a guard's business: there is always something."""
        self.replace("always", 5)
        self.watched = watched
        words = ("--mirror", "--watch") if watched else ("--mirror",)
        self.hosts.here.ok("add", self.pair.name, self.source, f"box:{self.destination}", *words)

    # -- edits ------------------------------------------------------------------------------------------------------

    def content(self, size: int) -> bytes:
        self.count += 1
        return (b"%d " % self.count * (size // 3 + 1))[:size]

    def put(self, path: str, node: Node) -> None:
        self.files[path] = node
        self.remember()

    def remember(self) -> None:
        for path, node in self.files.items():
            if node.content is not None:
                self.past[path].add(node.content)

    def fits(self, path: str) -> bool:
        """Whether something can be put there; directories on the way are made."""
        parent = os.path.dirname(path)
        if parent and parent not in self.files and self.fits(parent):
            (self.source / parent).mkdir()
            self.files[parent] = Node(None)
        return not parent or (parent in self.files and self.files[parent].content is None)

    def below(self, path: str) -> list[str]:
        return [path, *(name for name in self.files if name.startswith(path + "/"))]

    def drop(self, path: str) -> None:
        for name in self.below(path):
            self.files.pop(name, None)
            self.kept.discard(name)

    def is_file(self, path: str) -> bool:
        return path in self.files and self.files[path].content is not None

    @rule(path=PATHS, size=SIZES)
    def write(self, path: str, size: int) -> None:
        """In place, through every name: what is empty for a moment may be seen so."""
        if not self.fits(path) or (path in self.files and not self.is_file(path)):
            return
        node = self.files.get(path) or Node(b"")
        others = [name for name, other in self.files.items() if other is node]
        content = self.content(size)
        with contextlib.suppress(FileNotFoundError):
            os.chmod(self.source / path, 0o644)
        for name in (path, *others):
            self.past[name] |= {b"", content}
        (self.source / path).write_bytes(content)
        node.content = content
        self.put(path, node)

    @rule(path=PATHS, size=SIZES)
    def replace(self, path: str, size: int) -> None:
        """As editors save: a new file takes the name."""
        if not self.fits(path) or (path in self.files and not self.is_file(path)):
            return
        content = self.content(size)
        self.past[path].add(content)
        beside = self.scene.place / "beside"
        beside.write_bytes(content)
        beside.replace(self.source / path)
        self.put(path, Node(content))

    @rule(path=PATHS, size=SIZES)
    def append(self, path: str, size: int) -> None:
        if not self.is_file(path):
            return
        node = self.files[path]
        more = self.content(size)
        content = (node.content or b"") + more
        for name, other in self.files.items():
            if other is node:
                self.past[name].add(content)
        os.chmod(self.source / path, 0o644)
        with open(self.source / path, "ab", buffering=0) as file:
            file.write(more)
        node.content = content
        self.put(path, node)

    @rule(path=DIRECTORIES)
    def mkdir(self, path: str) -> None:
        if self.fits(path) and path not in self.files:
            (self.source / path).mkdir()
            self.put(path, Node(None))

    @rule(path=st.one_of(PATHS, DIRECTORIES))
    def delete(self, path: str) -> None:
        if path not in self.files:
            return
        if self.is_file(path):
            (self.source / path).unlink()
        else:
            shutil.rmtree(self.source / path)
        self.drop(path)

    @rule(before=st.one_of(PATHS, DIRECTORIES), after=st.one_of(PATHS, DIRECTORIES))
    def rename(self, before: str, after: str) -> None:
        if before not in self.files or (after + "/").startswith(before + "/") or not self.fits(after):
            return
        if after in self.files and not (self.is_file(before) and self.is_file(after)):
            return
        if self.files.get(after) is self.files[before]:
            return  # two names of one file: rename(2) does nothing
        moved = {after + name[len(before) :]: self.files[name] for name in self.below(before)}
        for name, node in moved.items():
            if node.content is not None:
                self.past[name].add(node.content)
        (self.source / before).rename(self.source / after)
        self.drop(after)
        self.drop(before)
        self.files |= moved

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        if self.is_file(path):
            (self.source / path).chmod(mode)

    @rule(path=PATHS, name=PATHS)
    def link(self, path: str, name: str) -> None:
        if self.is_file(path) and self.fits(name) and name not in self.files:
            self.past[name].add(self.files[path].content or b"")
            os.link(self.source / path, self.source / name)
            self.put(name, self.files[path])

    @rule(path=PATHS, size=SIZES)
    def meddle(self, path: str, size: int) -> None:
        """Somebody changes the destination."""
        there = self.destination / path
        if self.full or not there.is_file() or there.is_symlink():
            return
        content = self.content(size)
        same = there.stat().st_ino
        for name in self.past:  # whatever shares the file there
            with contextlib.suppress(OSError):
                if (self.destination / name).stat().st_ino == same:
                    self.past[name] |= {b"", content}
                    self.kept.discard(name)
        there.chmod(0o644)
        there.write_bytes(content)

    # -- syncs ------------------------------------------------------------------------------------------------------

    @rule(verb=st.sampled_from(["sync", "sync", "flush"]))
    def sync(self, verb: str) -> None:
        ended = self.run(verb if self.watched else "sync")
        if not self.partitioned and not self.full and not ended.status:
            assert ended.result, ended
        if ended.status == 0:
            self.equal()
        else:
            assert self.partitioned or self.full, ended
            assert "Traceback" not in ended.err, ended

    def run(self, verb: str) -> Result:
        # what shrank or was deleted less than the source has is a guard's business, and meant here
        force = ["--force"] if verb == "sync" else []
        words = (verb, self.pair.name, *force, "--json")
        if not self.partitioned:
            return read_result(*self.hosts.here.run(*words, timeout=120))
        process = self.hosts.here.popen(*words)
        try:
            out, err = process.communicate(timeout=WAITED_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=HEALED_S)
        return read_result(process.returncode, out, err)

    def equal(self) -> None:
        found = unequal(self.source, self.destination)
        assert not found, found[:20]
        self.kept = set(self.files)

    @rule()
    def look_around(self) -> None:
        """Agents answer, whatever is the matter."""
        assert self.hosts.here.run("status").status in (0, 3)

    # -- faults -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.partitioned)
    @rule(role=st.sampled_from(["here", "there", "ssh", "sshd"]))
    def kill(self, role: str) -> None:
        with contextlib.suppress(ValueError, FileNotFoundError):  # it does not run, or not yet
            strike(victims(self.hosts, role))
        if role == "here":
            self.hosts.here.ok("start")

    @precondition(lambda self: not self.partitioned)
    @rule()
    def part(self) -> None:
        self.partitioned = True
        strike(self.server(), signal.SIGSTOP)

    @precondition(lambda self: self.partitioned)
    @rule()
    def join(self) -> None:
        self.partitioned = False
        strike(self.server(), signal.SIGCONT)

    def server(self) -> list[int]:
        sshd = self.hosts.sshd
        assert isinstance(sshd, Sshd)
        return [sshd.pid, *sshd.session_pids()]

    @precondition(lambda self: not self.full)
    @rule()
    def fill(self) -> None:
        self.full = True
        with contextlib.suppress(OSError), open(self.scene.mounted / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    @precondition(lambda self: self.full)
    @rule()
    def make_room(self) -> None:
        self.full = False
        (self.scene.mounted / "filler").unlink()

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_torn_or_lost(self) -> None:
        type(self).steps += 1
        top = os.fsencode(self.destination)
        for directory, dirs, names in os.walk(top):
            dirs[:] = [name for name in dirs if not name.endswith(b".new~")]
            for name in names:
                path = os.path.join(directory, name)
                if name.endswith((b".sync~", b".aside~")):
                    continue
                try:
                    with open(path, "rb") as file:
                        content = file.read()
                except FileNotFoundError:
                    continue
                shown = os.fsdecode(os.path.relpath(path, top))
                assert content in self.past[shown], f"{shown}: {len(content)} bytes that were never there"
        for kept in self.kept:
            assert os.path.lexists(self.destination / kept), f"{kept} is gone, and was never gone from the source"

    def teardown(self) -> None:
        """Everything heals."""
        if self.partitioned:
            self.join()
        if self.full:
            self.make_room()
        try:
            self.heal()
        finally:
            self.hosts.here.run("remove", self.pair.name)
            shutil.rmtree(self.destination, ignore_errors=True)
            shutil.rmtree(self.source, ignore_errors=True)

    def heal(self) -> None:
        ended: list[Result] = []

        def synced() -> bool:
            ended.append(self.run("sync"))
            return ended[-1].status == 0

        within(HEALED_S, synced, lambda: ended[-1])
        self.equal()
        within(HEALED_S, lambda: not our_files(self.destination), lambda: our_files(self.destination))
        assert linked(self.source) == linked(self.destination)
        healthy(self.hosts.here, self.hosts.there)


def linked(root: Path) -> list[list[str]]:
    """Names below ``root`` that are one file, together."""
    found = defaultdict(list)
    for path in root.rglob("*"):
        if path.is_file():
            found[path.stat().st_ino].append(str(path.relative_to(root)))
    return sorted(sorted(names) for names in found.values() if len(names) > 1)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with (
        short_directory() as directory,
        two_hosts(this_account(), directory, ssh=f"dead_after_s = {DEAD_AFTER_S}") as hosts,
    ):
        mounted, place = directory / "mnt", directory / "src"
        mounted.mkdir()
        place.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SPACE_MIB}m", "tmpfs", mounted], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip(f"cannot mount here: {os.fsdecode(made.stderr).strip()}")
        try:
            yield Scene(hosts, place, mounted)
        finally:
            subprocess.run(["umount", "-l", mounted], check=True)
        print(f"\n{Mirror.steps} steps in {Mirror.runs} runs")


@pytest.mark.parametrize("number", seeds(2))
def test_whatever_happens(scene: Scene, number: int) -> None:
    Mirror.scene = scene
    print(f"seed {number}")
    run_state_machine_as_test(
        hypothesis.seed(number)(Mirror),
        settings=hypothesis.settings(
            max_examples=1,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
