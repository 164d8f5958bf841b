"""Watches that cannot tell everything, and roots that are not what they were: the right tree or a pause, and nothing
is deleted that should not be.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.helpers.churn import Churn
from tests.helpers.editor import Editor
from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.pairs import Pair, pair_of
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder, remove
from tests.helpers.trouble import agent_pid, contents, healthy, seeds, strike

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(180)]

OPERATIONS = 50_000
"""More than fit into inotify's queue (fs.inotify.max_queued_events, 16,384)."""

WATCHES = 100


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as made:
        with TreeBuilder(made / "source", 9) as tree:
            tree.populate(150, 30)
        yield made


def operate(root: Path) -> None:
    """So many operations, in a few directories that are new; most of them leave no trace."""
    chosen = random.Random(1)
    tops = [os.path.join(os.fsencode(root), b"busy%d" % number) for number in range(20)]
    for top in tops:
        os.mkdir(top)
    names = [b"%s/f%d" % (top, number) for top in tops for number in range(40)]
    for number, path in enumerate(chosen.choices(names, k=OPERATIONS)):
        try:
            if number % 10 == 0:
                os.unlink(path)
            elif number % 10 == 1:
                os.rename(path, names[number % len(names)])
            else:
                os.chmod(path, 0o600 + number % 64)
        except FileNotFoundError:
            with open(path, "wb", buffering=0) as file:
                file.write(b"%d" % number)


@pytest.mark.fault("W1")
def test_the_queue_of_events_overflows(hosts: Hosts, place: Path) -> None:
    with open("/proc/sys/fs/inotify/max_queued_events", "rb") as file:
        if int(file.read()) > OPERATIONS:
            pytest.skip("the queue of events is too long to be overrun")
    with pair_of(hosts.here, place, "--mirror", "--watch") as pair:
        pair.flush()
        pid = agent_pid(hosts.here)
        strike([pid], signal.SIGSTOP)
        try:
            operate(pair.source)
        finally:
            strike([pid], signal.SIGCONT)
        pair.flush()
        pair.same()
        (pair.source / "busy0/after").write_bytes(b"it")
        pair.flush()
        pair.same()
    healthy(hosts.here, hosts.there)


@pytest.mark.fault("W3")
def test_directories_move_while_nobody_looks(hosts: Hosts, place: Path) -> None:
    """One becomes a link to its new name, others come in from outside, go there, and replace each other."""
    for name in ("a", "b2", "leaves", "over", "below/inner"):
        (place / "source" / name).mkdir(parents=True)
        (place / "source" / name / "file").write_bytes(name.encode())
    (place / "comes").mkdir()
    (place / "comes/file").write_bytes(b"from outside")
    with pair_of(hosts.here, place, "--mirror", "--watch") as pair:
        pair.flush()
        source, pid = pair.source, agent_pid(hosts.here)
        for _ in range(3):
            strike([pid], signal.SIGSTOP)
            try:
                (source / "a").rename(source / "b")
                (source / "a").symlink_to("b")
                (source / "leaves").rename(place / "left")
                (place / "comes").rename(source / "came")
                (source / "over/file").unlink()
                (source / "b2").rename(source / "over")
                (source / "below/inner").rename(source / "inner")
            finally:
                strike([pid], signal.SIGCONT)
            pair.flush()
            pair.same()
            (source / "a").unlink()
            (source / "b").rename(source / "a")
            (place / "left").rename(source / "leaves")
            (source / "came").rename(place / "comes")
            (source / "over").rename(source / "b2")
            (source / "over").mkdir()
            (source / "over/file").write_bytes(b"again")
            (source / "inner").rename(source / "below/inner")
            pair.flush()
            pair.same()
    healthy(hosts.here, hosts.there)


@pytest.mark.fault("W4")
def test_directories_are_filled_as_soon_as_they_are_made(hosts: Hosts, place: Path) -> None:
    """What is written before anyone can watch them is not missed."""
    bursts = int(os.environ.get("SYNCCTL_BURSTS", "100"))
    with pair_of(hosts.here, place, "--mirror", "--watch") as pair:
        pair.flush()
        for number in range(bursts):
            deep = pair.source / f"new{number}/below/and/deeper"
            deep.mkdir(parents=True)
            for name in ("one", "two", "three"):
                (deep / name).write_bytes(b"%d" % number)
            (deep.parent / "beside").write_bytes(b"%d" % number)
            if number % 25 == 24:
                pair.flush()
                pair.same()
        pair.flush()
        pair.same()
    healthy(hosts.here, hosts.there)


@pytest.fixture(scope="module")
def short_of_watches() -> Iterator[Hosts]:
    """Agents that may have so many watches only: in a user namespace, which has a limit of its own."""
    script = (
        f"echo {WATCHES} > /proc/sys/user/max_inotify_watches && echo {WATCHES} > $0/watches && "
        'mount --bind "$0/watches" /proc/sys/fs/inotify/max_user_watches && exec "$@"'
    )
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        for agent in (made.here, made.there):
            agent.home.joinpath("watches").touch()
            wrapped = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(agent.home)]
            plain, agent.argv = agent.argv, [*wrapped, *agent.argv]
            try:
                ended = agent.run("start")
            except FileNotFoundError:
                pytest.skip("there is no unshare")
            finally:
                agent.argv = plain
            if ended.status:
                pytest.skip(f"no namespace can be made: {ended.err}")
        yield made


@pytest.mark.fault("W2")
def test_no_more_directories_can_be_watched(short_of_watches: Hosts, place: Path) -> None:
    hosts = short_of_watches
    for number in range(3 * WATCHES):
        (place / f"source/dir{number}/below").mkdir(parents=True)
        (place / f"source/dir{number}/below/file").write_bytes(b"first")
    with pair_of(hosts.here, place, "--mirror", "--watch") as pair:
        pair.flush()
        pair.same()
        for turn in range(3):
            for number in range(turn, 3 * WATCHES, 7):
                (place / f"source/dir{number}/below/file").write_bytes(b"turn %d" % turn)
            (place / f"source/dir{turn}").rename(place / f"source/moved{turn}")
            shutil.rmtree(place / f"source/dir{turn + 10}")
            (place / f"destination/dir{turn + 20}/below/file").write_bytes(b"by hand")
            pair.flush()
            pair.same()
        with Editor(hosts.here) as editor:
            said = [event["text"] for event in editor.events() if event.get("pair") == pair.name]
        assert any("fs.inotify.max_user_watches" in text for text in said), said
    healthy(hosts.here, hosts.there)


@pytest.mark.parametrize("seed", seeds(1))
def test_churn_where_little_is_watched(short_of_watches: Hosts, place: Path, seed: int) -> None:
    hosts = short_of_watches
    for number in range(WATCHES):
        (place / f"source/dir{number}").mkdir()
    with pair_of(hosts.here, place, "--mirror", "--watch") as pair:
        churn = Churn(pair.source, seed)
        for _ in range(4):
            churn.run(200, pause_s=0.05)
            pair.flush()
            pair.same()
    healthy(hosts.here, hosts.there)


def mount(*words: str | Path) -> None:
    ended = subprocess.run(["mount", *words], capture_output=True, check=False)
    if ended.returncode:
        pytest.skip(f"nothing can be mounted: {os.fsdecode(ended.stderr)}")


def unmount(at: Path) -> None:
    """An idle agent keeps no file system busy."""
    subprocess.run(["umount", at], check=True)


@contextlib.contextmanager
def unmounted_after_all(at: Path) -> Iterator[None]:
    try:
        yield
    finally:
        while subprocess.run(["umount", "-l", at], capture_output=True, check=False).returncode == 0:
            pass


def refused(pair: Pair) -> None:
    """A sync of it ends without having deleted anything, and says why."""
    before = contents(pair.destination)
    ended = pair.sync()
    assert ended.status != 0, ended
    assert ended.error["message"], ended
    assert contents(pair.destination) == before


@pytest.mark.fault("W5")
@pytest.mark.parametrize("watched", [False, True], ids=["", "watched"])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_source_is_unmounted(hosts: Hosts, place: Path, kind: str, watched: bool) -> None:
    root, data = place / "root", place / "source"
    root.mkdir()
    with unmounted_after_all(root):
        mount(*(["-t", "tmpfs", "tmpfs"] if kind == "tmpfs" else ["--bind", data]), root)
        if kind == "tmpfs":
            shutil.copytree(data, root, symlinks=True, dirs_exist_ok=True)
        with pair_of(hosts.here, place, "--mirror", *(["--watch"] if watched else []), source=root) as pair:
            assert pair.sync().status == 0
            pair.same()
            unmount(root)
            refused(pair)
            mount("-t", "tmpfs", "tmpfs", root)
            refused(pair)
            if watched:
                assert pair.wait_state("paused")
            if kind == "tmpfs":
                shutil.copytree(data, root, symlinks=True, dirs_exist_ok=True)
            else:
                unmount(root)
                mount("--bind", data, root)
            (root / "changed meanwhile").write_bytes(b"1")
            if watched:
                hosts.here.ok("resume", pair.name)
            assert pair.sync().status == 0
            pair.same()
            unmount(root)
    healthy(hosts.here, hosts.there)


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_destination_is_unmounted(hosts: Hosts, place: Path, kind: str) -> None:
    """It is filled where it is now, and again where it was; or nothing is written to where it should not be."""
    root, data = place / "destination", place / "data"
    root.mkdir()
    data.mkdir()
    with unmounted_after_all(root):
        mount(*(["-t", "tmpfs", "tmpfs"] if kind == "tmpfs" else ["--bind", data]), root)
        with pair_of(hosts.here, place, "--mirror") as pair:
            for _ in range(3):
                assert pair.sync().status == 0
            pair.same()
            unmount(root)
            for edit in (b"1", b"2"):
                (pair.source / "edited").write_bytes(edit)
                ended = pair.sync()
                if ended.status == 0:
                    pair.same()
                elif edit == b"2":
                    assert not os.listdir(root)
            mount(*(["-t", "tmpfs", "tmpfs"] if kind == "tmpfs" else ["--bind", data]), root)
            assert pair.sync().status == 0
            pair.same()
            unmount(root)
    healthy(hosts.here, hosts.there)


@pytest.mark.fault("W5")
@pytest.mark.parametrize("watched", [False, True], ids=["", "watched"])
def test_a_source_is_deleted_and_comes_back(hosts: Hosts, place: Path, watched: bool) -> None:
    with pair_of(hosts.here, place, "--mirror", *(["--watch"] if watched else [])) as pair:
        assert pair.sync().status == 0
        aside = place / "aside"
        pair.source.rename(aside)
        refused(pair)
        pair.source.mkdir()
        refused(pair)
        if watched:
            assert pair.wait_state("paused")
            refused(pair)
        pair.source.rmdir()
        aside.rename(pair.source)
        (pair.source / "changed meanwhile").write_bytes(b"1")
        if watched:
            hosts.here.ok("resume", pair.name)
        assert pair.sync().status == 0
        pair.same()
    healthy(hosts.here, hosts.there)


def test_a_source_is_deleted_file_by_file(hosts: Hosts, place: Path) -> None:
    """Nobody watches, so nobody sees the half of it."""
    with pair_of(hosts.here, place, "--mirror") as pair:
        assert pair.sync().status == 0
        remove(pair.source)
        refused(pair)
        pair.source.mkdir()
        refused(pair)


@pytest.mark.fault("W5")
@pytest.mark.parametrize("watched", [False, True], ids=["", "watched"])
def test_a_source_is_replaced_by_another_directory(hosts: Hosts, place: Path, watched: bool) -> None:
    """What it has is brought; what it lacks goes when somebody says that it is meant."""
    with pair_of(hosts.here, place, "--mirror", *(["--watch"] if watched else [])) as pair:
        assert pair.sync().status == 0
        before = contents(pair.destination)
        pair.source.rename(place / "aside")
        with TreeBuilder(place / "other", 77) as tree:
            tree.populate(40, 5)
        (place / "other").rename(pair.source)
        assert pair.sync().status == 1
        assert set(before) <= set(contents(pair.destination))
        assert pair.sync("--force").status == 0
        pair.same()
        if watched:
            pair.wait_state("up-to-date")
    healthy(hosts.here, hosts.there)


def test_a_destination_is_deleted_or_replaced(hosts: Hosts, place: Path) -> None:
    with pair_of(hosts.here, place, "--mirror", "--watch") as pair:
        pair.flush()
        remove(pair.destination)
        (pair.source / "one").write_bytes(b"1")
        pair.flush()
        pair.same()
        pair.destination.rename(place / "aside")
        with TreeBuilder(pair.destination, 78) as tree:
            tree.populate(40, 5)
        (pair.source / "two").write_bytes(b"2")
        pair.flush()
        pair.same()
        assert (place / "aside/one").exists()
        assert not (place / "aside/two").exists()
    healthy(hosts.here, hosts.there)
