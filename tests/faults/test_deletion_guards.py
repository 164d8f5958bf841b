"""What has to be in order before anything is deleted: section X of the fault matrix, and E5.

SYNCCTL_SEEDS sets how many trees a dry run is compared on (30 unless it is set).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import blake3
import pytest

from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.inotify import changes
from tests.helpers.joined import sync
from tests.helpers.oracle import assert_same, snapshot
from tests.helpers.pairs import pair_of
from tests.helpers.payloads import DIRECTORY, REGULAR, Entry, Group, pack_list
from tests.helpers.pushes import build, result
from tests.helpers.receiving import ROOT, receiving
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.warm_pair import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Ran

GUARD = 6
WAYS = ["push", "pull", "here"]
SEEDS = int(os.environ.get("SYNCCTL_SEEDS", 30))


def go(hosts: Hosts, way: str, source: Path, destination: Path, *options: str) -> Ran:
    """Mirror by way of a link, or without one."""
    ends: dict[str, tuple[str, str | Path, str | Path]] = {
        "push": ("push", source, hosts.remote(destination)),
        "pull": ("pull", hosts.remote(source), destination),
        "here": ("push", source, destination),
    }
    return hosts.here.run(*ends[way], "--delete", *options)


def mirrored(hosts: Hosts, way: str, place: Path, times: int = 2) -> tuple[Path, Path]:
    """A source, and a destination that was synced so often that the ends know each other."""
    source, destination = place / "source", place / "destination"
    build(hosts, source)
    for _ in range(times):
        ended = go(hosts, way, source, destination)
        assert ended.status == 0, ended
    return source, destination


@pytest.fixture(scope="module")
def mine() -> Iterator[Hosts]:
    """Two hosts of whoever runs the tests, for what no privilege changes."""
    if SSHD is None:
        pytest.skip("sshd is not installed")
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@contextmanager
def mounted(*words: str | Path) -> Iterator[None]:
    """Something else in a directory's place."""
    if subprocess.run(["mount", *words], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", words[-1]], check=True)


@pytest.mark.fault("X1")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trouble", ["emptied", "missing", "closed", "unmounted"])
def test_a_source_that_is_not_there_deletes_nothing(hosts: Hosts, place: Path, way: str, trouble: str) -> None:
    if trouble == "closed" and hosts.account.uid == 0:
        pytest.skip("nothing is closed to root")
    source, destination = mirrored(hosts, way, place)
    before = snapshot(destination)
    if trouble == "emptied":
        subprocess.run(["find", source, "-mindepth", "1", "-delete"], check=True)
        ended = go(hosts, way, source, destination)
    elif trouble == "missing":
        source.rename(place / "elsewhere")
        ended = go(hosts, way, source, destination)
    elif trouble == "closed":
        source.chmod(0)
        ended = go(hosts, way, source, destination)
        source.chmod(0o755)
    else:
        with mounted("-t", "tmpfs", "tmpfs", source):
            ended = go(hosts, way, source, destination)
    assert ended.status == GUARD, ended
    assert "source" in ended.err
    assert snapshot(destination) == before


@pytest.mark.fault("X1")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("times", [1, 2])
def test_deletions_of_another_source_are_held(mine: Hosts, tmp_path: Path, way: str, times: int) -> None:
    source, destination = mirrored(mine, way, tmp_path, times)
    before = snapshot(destination)
    other = tmp_path / "other"
    with TreeBuilder(other, 77) as tree:
        tree.file(b"new/file", b"of the other disk")
    mine.account.owns(other)
    with mounted("--bind", other, source):
        for _ in range(2):  # nothing is forgotten by saying it
            ended = go(mine, way, source, destination)
            assert ended.status == 1, ended
            assert "--force" in ended.err
            assert "deletions held" in ended.err
            after = snapshot(destination)
            assert after.pop(b"new/file").kind == "file"
            assert set(before) <= set(after)
        dry = go(mine, way, source, destination, "--dry-run")
        assert dry.status == 1, dry
        ended = go(mine, way, source, destination, "--force")
        assert ended.status == 0, ended
        assert_same(source, destination)
        assert go(mine, way, source, destination).status == 0
    assert go(mine, way, source, destination).status == 1
    assert go(mine, way, source, destination, "--force").status == 0
    assert_same(source, destination)


@pytest.mark.fault("X1")
def test_another_source_that_has_everything_is_taken_for_it(mine: Hosts, tmp_path: Path) -> None:
    source, destination = mirrored(mine, "push", tmp_path)
    shutil.copytree(source, tmp_path / "copy", symlinks=True)
    source.rename(tmp_path / "before")
    (tmp_path / "copy").rename(source)
    mine.account.owns(source)
    assert go(mine, "push", source, destination).status == 0
    (source / "one more").write_bytes(b"")
    (source / "one more").unlink()
    shutil.rmtree(tmp_path / "before")
    victim = next(path for path in sorted(source.iterdir()) if path.is_file() and not path.is_symlink())
    victim.unlink()
    assert go(mine, "push", source, destination).status == 0
    assert not (destination / victim.name).exists()


@pytest.mark.fault("X1")
def test_what_a_sync_without_delete_saw_is_no_reason_to_delete(mine: Hosts, tmp_path: Path) -> None:
    source, destination = mirrored(mine, "push", tmp_path)
    source.rename(tmp_path / "before")
    build(mine, source, 4)
    assert mine.here.run("push", source, mine.remote(destination)).status == 0
    assert go(mine, "push", source, destination).status == 1


@pytest.mark.fault("X2")
@pytest.mark.parametrize("lying", [False, True])
def test_a_listing_that_is_cut_deletes_nothing(tmp_path: Path, lying: bool) -> None:
    names = [b"d%d" % n for n in range(6)]
    chunks = [[Group(b"", [ROOT, *(Entry(name, DIRECTORY, 0o755, mtime_ns=10**18) for name in names)])]]
    chunks += [[Group(name, [Entry(b"kept", REGULAR, 0o644, size=1, mtime_ns=10**18)])] for name in names]
    for cut in range(len(chunks)):
        root = tmp_path / f"{cut}"
        for name in (b"extra", *names):
            at = root / os.fsdecode(name)
            at.mkdir(parents=True)
            for inner in ("kept", "extra"):
                (at / inner).write_bytes(b"x")
                os.utime(at / inner, ns=(10**18, 10**18))
        before = {path: seen.content for path, seen in snapshot(root).items()}
        with receiving(root, delete=True, force=True) as driver:
            driver.send_list(*chunks[:cut])
            if lying:
                driver.engine.list_end_untrusted(*_end_of(tmp_path, chunks))
                assert driver.failed == "protocol"
            elif cut:
                driver.run(lambda: len(driver.wants) == cut)  # noqa: B023
        assert {path: seen.content for path, seen in snapshot(root).items()} == before, cut


def _end_of(tmp_path: Path, chunks: list[list[Group]]) -> tuple[int, int, bytes]:
    """LIST-END of the whole list."""
    payloads = [pack_list(groups, 0) for groups in chunks]
    entries = sum(len(group.entries) for groups in chunks for group in groups)
    return len(payloads), entries, blake3.blake3(b"".join(payloads)).digest()


def many(path: Path, count: int, name: str = "f") -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (path / f"{name}{number}").write_bytes(b"")


@pytest.mark.fault("X3")
def test_more_than_a_hundred_and_than_half_need_force(mine: Hosts, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    many(source / "a", 150)
    many(source / "b", 100)
    mine.account.owns(source)
    assert go(mine, "push", source, destination).status == 0
    before = snapshot(destination)
    shutil.rmtree(source / "a")
    many(source / "c", 20)
    mine.account.owns(source)
    for options in ((), ("--dry-run",), ("--max-delete", "150")):
        ended = go(mine, "push", source, destination, *options)
        assert ended.status == GUARD, (options, ended)
        assert "151" in ended.err
        assert set(before) <= set(snapshot(destination))
    assert go(mine, "push", source, destination, "--max-delete", "151").status == 0
    assert_same(source, destination)
    shutil.rmtree(source / "c")  # few
    assert go(mine, "push", source, destination).status == 0
    many(source / "d", 400)
    mine.account.owns(source)
    assert go(mine, "push", source, destination).status == 0
    shutil.rmtree(source / "b")  # 101 of 503 are not half
    assert go(mine, "push", source, destination).status == 0
    assert_same(source, destination)


@pytest.mark.fault("X3")
def test_half_is_of_all_that_is_there(mine: Hosts, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    many(source / "a", 150)
    many(source / "b", 300)
    mine.account.owns(source)
    mine.here.ok("push", source, mine.remote(destination))  # so that the next one lists everything
    for path in sorted((source / "a").iterdir())[:120]:
        path.unlink()
    assert go(mine, "push", source, destination).status == 0
    assert_same(source, destination)


@pytest.mark.fault("X3")
def test_what_is_renamed_is_not_lost(tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    many(source / "before", 300)
    many(source, 5, "other")
    destination.mkdir()
    with Pair(source, destination) as pair:
        pair.sync()
        (source / "before").rename(source / "after")
        dry = pair.sync(force=False, delete_few=100, dry_run=True)
        assert dry["deleted"] == 301
        done = pair.sync(force=False, delete_few=100)
        assert done["moved"] == 301
    assert_same(source, destination)


@pytest.mark.fault("X4")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("what", "source", "destination"),
    [("a/sub", "a", "seen"), ("a/sub", "seen", "a"), ("a", "a", "seen"), ("a", "a/sub", "seen/sub/deeper")],
)
def test_one_tree_through_a_bind_mount(
    mine: Hosts, tmp_path: Path, way: str, what: str, source: str, destination: str
) -> None:
    for name in ("a/sub/deeper", "seen"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/sub/file").write_bytes(b"x")
    mine.account.owns(tmp_path)
    with mounted("--bind", tmp_path / what, tmp_path / "seen"):
        before = snapshot(tmp_path)
        ended = go(mine, way, tmp_path / source, tmp_path / destination)
        assert ended.status == GUARD, ended
        assert "contain each other" in ended.err
        assert snapshot(tmp_path) == before


@pytest.mark.fault("X5")
def test_places_that_nobody_means_to_empty(mine: Hosts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    build(mine, source)
    home = mine.there.home
    for root in ("box:/", "box:~", f"box:{home}", f"box:{home}/", f"box:{home.parent}", "/", mine.here.home):
        # were it not for the guard, --dry-run and --max-delete would still be in the way
        ended = mine.here.run("push", source, root, "--delete", "--dry-run", "--max-delete", "0")
        assert ended.status == GUARD, (root, ended)
        assert "would empty it" in ended.err or (str(root).endswith("/") and "contain each other" in ended.err)
    for nothing in ("", "box:"):
        ended = mine.here.run("push", source, nothing, "--delete")
        assert ended.status == 2, (nothing, ended)
    assert mine.here.run("push", "", mine.remote(tmp_path / "x"), "--delete").status == 2


@pytest.mark.fault("X5")
@pytest.mark.parametrize(("source", "destination"), [("", ""), ("/", ""), ("", "/"), ("//", "//"), ("/.", "/.")])
def test_trailing_slashes_mean_nothing(mine: Hosts, tmp_path: Path, source: str, destination: str) -> None:
    build(mine, tmp_path / "source")
    mine.here.ok("push", f"{tmp_path}/source{source}", mine.remote(tmp_path) + f"/destination{destination.rstrip('.')}")
    assert_same(tmp_path / "source", tmp_path / "destination")


@pytest.mark.fault("X6")
@pytest.mark.parametrize("way", WAYS)
def test_what_is_excluded_in_a_deleted_directory_is_kept(hosts: Hosts, place: Path, way: str) -> None:
    source, destination = mirrored(hosts, way, place, 1)
    (source / "going/inner").mkdir(parents=True)
    (source / "going/inner/file").write_bytes(b"x")
    hosts.account.owns(source)
    assert go(hosts, way, source, destination, "--exclude", "*.keep").status == 0
    (destination / "going/inner/mine.keep").write_bytes(b"precious")
    hosts.account.owns(destination)
    shutil.rmtree(source / "going")
    ended = go(hosts, way, source, destination, "--exclude", "*.keep")
    assert ended.status == 0, ended
    assert "excluded entries" in ended.err
    assert (destination / "going/inner/mine.keep").read_bytes() == b"precious"
    assert not (destination / "going/inner/file").exists()


def perturbed(path: Path, seed: int) -> None:
    """Changes of every kind in a tree of files and directories."""
    chance = random.Random(seed)
    for directory, dirs, files in os.walk(path, topdown=False):
        for name in files:
            at = os.path.join(directory, name)
            match chance.choice((0, 2, 5)) if os.path.islink(at) else chance.randrange(8):
                case 0:
                    os.unlink(at)
                case 1:
                    with open(at, "ab") as file:
                        file.write(b"more")
                case 2:
                    os.unlink(at)
                    os.mkdir(at)
                case 3:
                    os.unlink(at)
                    os.symlink("somewhere", at)
                case 4:
                    os.chmod(at, 0o600)
                case 5:
                    os.rename(at, at + "-renamed")
        for name in dirs:
            at = os.path.join(directory, name)
            if chance.randrange(6) == 0 and not os.path.islink(at):
                shutil.rmtree(at)
                if chance.randrange(2):
                    with open(at, "wb") as file:
                        file.write(b"was a directory")


@pytest.mark.fault("X7")
@pytest.mark.timeout(30 + SEEDS)
def test_a_dry_run_says_what_a_run_does_and_changes_nothing(tmp_path: Path) -> None:
    for seed in range(SEEDS):
        source, destination = tmp_path / f"s{seed}", tmp_path / f"d{seed}"
        for root in (source, destination):
            with TreeBuilder(root, seed) as tree:
                tree.populate(14, 5)
        perturbed(source, seed)
        perturbed(destination, ~seed)
        options: dict[str, Any] = {"delete": seed % 4 > 0, "filters": [b"*a"] if seed % 3 == 0 else []}
        with changes(destination) as told:
            dry = sync(str(source), str(destination), dry_run=True, **options)
            # in which step times are stored is found out by a file that never has a name
            assert not [line for line in told() if "'#" not in line], f"seed {seed}"
        real = sync(str(source), str(destination), **options)
        assert sorted(dry.items) == sorted(real.items), f"seed {seed}"
        assert dry.counters["deleted"] == real.counters["deleted"], f"seed {seed}"
        assert {p[:2] for p in dry.problems} == {p[:2] for p in real.problems}, f"seed {seed}"
        shutil.rmtree(source)
        shutil.rmtree(destination)


@pytest.mark.fault("E5")
@pytest.mark.parametrize("side", ["sender", "receiver", "both"])
def test_an_old_state_that_came_back_deletes_nothing_that_is_there(mine: Hosts, tmp_path: Path, side: str) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    with TreeBuilder(source, 3) as tree:
        tree.populate()
    victims = sorted(path for path in source.iterdir() if path.is_file() and not path.is_symlink())
    for _ in range(2):
        assert go(mine, "push", source, destination).status == 0
    ends = {"sender": [mine.here], "receiver": [mine.there], "both": [mine.here, mine.there]}[side]
    mine.stop()
    for agent in ends:
        shutil.copytree(agent.home / "state", agent.home / "kept")
    many(source / "later", 30)
    victims[0].unlink()
    for _ in range(2):
        assert go(mine, "push", source, destination).status == 0
    victims[1].write_bytes(b"later")
    (source / "later/f3").unlink()
    mine.stop()
    for agent in ends:
        shutil.rmtree(agent.home / "state")
        (agent.home / "kept").rename(agent.home / "state")
    with_it = {path for path in snapshot(destination) if path in snapshot(source)}
    told = mine.here.ok("push", "-i", "--delete", source, mine.remote(destination))
    gone = {line.split(maxsplit=1)[1] for line in told.splitlines() if line.startswith("*deleting")}
    assert gone == {"later/f3"}, told
    assert with_it <= set(snapshot(destination))
    assert_same(source, destination)
    assert go(mine, "push", source, destination).status == 0


@pytest.mark.fault("E5")
@pytest.mark.parametrize("side", ["source", "destination"])
def test_an_old_tree_that_came_back_is_seen_as_it_is(mine: Hosts, tmp_path: Path, side: str) -> None:
    source, destination = mirrored(mine, "push", tmp_path)
    root = {"source": source, "destination": destination}[side]
    subprocess.run(["cp", "-a", f"{root}/.", tmp_path / "kept"], check=True)
    many(source / "later", 30)
    assert go(mine, "push", source, destination).status == 0
    mine.stop()
    subprocess.run(["find", root, "-mindepth", "1", "-delete"], check=True)
    subprocess.run(["cp", "-a", f"{tmp_path}/kept/.", root], check=True)
    told = go(mine, "push", source, destination, "--json")
    assert told.status == 0, told
    assert result(told.out)["stats"]["deleted"] == (31 if side == "source" else 0)
    assert_same(source, destination)


@pytest.mark.fault("X1", "W5")
def test_a_watched_pair_says_what_is_held_and_goes_on_when_it_is_meant(mine: Hosts, tmp_path: Path) -> None:
    with TreeBuilder(tmp_path / "source", 3) as tree:
        tree.populate()
    with pair_of(mine.here, tmp_path, "--mirror", "--watch", name="work") as pair:
        pair.wait_state("up-to-date")
        pair.flush()
        before = set(snapshot(pair.destination))
        (tmp_path / "other").mkdir()
        (tmp_path / "other/new").write_bytes(b"new")
        with mounted("--bind", tmp_path / "other", pair.source):
            assert "sync --force work" in pair.wait_state("problems")
            assert before < set(snapshot(pair.destination))
            mine.here.ok("sync", "--force", "work")
            pair.same()
            pair.wait_state("up-to-date")
            (pair.source / "more").write_bytes(b"more")
            pair.flush()
            pair.same()
