"""What is done to a destination by hand between syncs of its pair: the next one notices."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.helpers.hosts import Hosts, short_directory, this_account, two_hosts
from tests.helpers.oracle import differences
from tests.helpers.pairs import Pair, pair_of
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.trouble import Result

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")

FILES = 200
FEW = 30
"""Entries that a sync of a few changes may list."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    """A source of many files, and one at the destination that has a name outside of it, too."""
    with short_directory() as made:
        with TreeBuilder(made / "source", 3) as tree:
            tree.populate(FILES)
            for name in (
                b"edited",
                b"edited at both",
                b"deleted",
                b"linked",
                b"linked later",
                b"unlike",
                b"way",
                b"d/kept",
                b"d/edited",
            ):
                tree.file(name, b"agreed: " + name)
        (made / "destination").mkdir()
        shutil.copy2(made / "source/linked", made / "destination/linked")
        os.link(made / "destination/linked", made / "elsewhere")
        yield made


def agree(pair: Pair) -> None:
    """Sync until nothing is left to tell; what the first one wrote is looked at behind it."""
    for _ in range(5):
        ended = pair.sync()
        assert ended.status == 0, ended
        if ended.result["stats"]["listed"] == 0:
            return
    raise AssertionError(ended)


def by_hand(place: Path) -> None:
    """Whatever somebody does to a destination."""
    source, destination = place / "source", place / "destination"
    (destination / "edited").write_bytes(b"by hand")
    (destination / "edited at both").write_bytes(b"by hand, here")
    (source / "edited at both").write_bytes(b"by hand, at the source")
    (destination / "deleted").unlink()
    (destination / "created").write_bytes(b"by hand")
    (place / "elsewhere").write_bytes(b"by hand, through another name")
    os.link(destination / "linked later", place / "elsewhere later")
    (place / "elsewhere later").write_bytes(b"by hand, through a later name")
    (destination / "unlike").chmod(0o600)
    (destination / "way").unlink()
    (destination / "way").mkdir()
    (destination / "way/inside").write_bytes(b"by hand")
    (destination / "d/edited").write_bytes(b"by hand, and the source deletes it")
    (source / "d/edited").unlink()


def content(root: Path) -> dict[str, bytes]:
    """Files at the top of a root, and in ``d`` and ``way``."""
    found = [path for top in (root, root / "d", root / "way") if top.is_dir() for path in top.iterdir()]
    return {
        os.path.relpath(path, root): path.read_bytes() for path in found if path.is_file() and not path.is_symlink()
    }


def synced(hosts: Hosts, pair: Pair, *, stopped: bool) -> Result:
    """The next sync; ``stopped``: the agent there did not run while it was done."""
    if stopped:
        hosts.there.stop()
    by_hand(pair.source.parent)
    ended = pair.sync()
    assert ended.result, ended
    assert ended.result["stats"]["listed"] < FEW, ended
    return ended


@pytest.mark.parametrize("stopped", [False, True], ids=["", "while the agent was stopped"])
def test_it_is_repaired(hosts: Hosts, place: Path, stopped: bool) -> None:
    with pair_of(hosts.here, place, "--mirror") as pair:
        agree(pair)
        ended = synced(hosts, pair, stopped=stopped)
        assert ended.status == 0, ended
        assert ended.result["stats"]["conflicts"] > 0
        pair.same()
        assert (place / "elsewhere").read_bytes() == b"by hand, through another name"
        agree(pair)


@pytest.mark.parametrize("stopped", [False, True], ids=["", "while the agent was stopped"])
def test_it_stops_what_it_is_about(hosts: Hosts, place: Path, stopped: bool) -> None:
    with pair_of(hosts.here, place, "--mirror", "--on-conflict", "stop") as pair:
        agree(pair)
        ended = synced(hosts, pair, stopped=stopped)
        for _ in range(3):  # each says it again, and costs little
            assert ended.status == 1, ended
            assert ended.result["stats"]["listed"] < FEW, ended
            there = content(pair.destination)
            assert there["edited"] == b"by hand"
            assert there["edited at both"] == b"by hand, here"
            assert there["linked"] == b"by hand, through another name"
            assert there["linked later"] == b"by hand, through a later name"
            assert there["created"] == b"by hand"
            assert there["d/edited"] == b"by hand, and the source deletes it"
            assert there["way/inside"] == b"by hand"
            assert there["deleted"] == b"agreed: deleted"
            assert (pair.destination / "unlike").stat().st_mode & 0o777 == 0o600
            ended = pair.sync()
        theirs = ("edited", "edited at both", "linked", "linked later", "created", "d/edited", "unlike")
        assert ended.result["problem_count"] == len((*theirs, "way"))
        for name in theirs:
            (pair.destination / name).unlink()
        shutil.rmtree(pair.destination / "way")
        agree(pair)
        pair.same()


@pytest.mark.parametrize("stopped", [False, True], ids=["", "while the agent was stopped"])
def test_both_are_kept(hosts: Hosts, place: Path, stopped: bool) -> None:
    with pair_of(hosts.here, place, "--mirror", "--on-conflict", "keep-both") as pair:
        agree(pair)
        ended = synced(hosts, pair, stopped=stopped)
        for _ in range(3):
            ours, there = content(pair.source), content(pair.destination)
            kept = {name.partition(".conflict-")[0]: there[name] for name in there if ".conflict-" in name}
            assert {name: kept[name] for name in ("edited", "edited at both", "linked")} == {
                "edited": b"by hand",
                "edited at both": b"by hand, here",
                "linked": b"by hand, through another name",
            }
            assert there["created"] == there["way/inside"] == b"by hand"
            assert there["d/edited"] == b"by hand, and the source deletes it"
            assert {name: there.get(name) for name in ours if name != "way"} == {
                name: ours[name] for name in ours if name != "way"
            }
            ended = pair.sync()
            assert ended.result["stats"]["listed"] < FEW, ended


def test_a_repository_is_cloned_over_the_destination(hosts: Hosts, place: Path) -> None:
    """The same names, of another time and in part of another content; and a name that is gone for a moment."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    environ = {"HOME": str(place), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}

    def run(*words: str, cwd: Path) -> None:
        subprocess.run(
            [git, "-c", "user.name=n", "-c", "user.email=e", *words],
            cwd=cwd,
            env=environ,
            check=True,
            capture_output=True,
        )

    with pair_of(hosts.here, place, "--mirror", "--exclude", ".git/") as pair:
        agree(pair)
        shutil.copytree(pair.source, place / "origin", symlinks=True)
        (place / "origin/edited").write_bytes(b"committed")
        (place / "origin/created").write_bytes(b"committed")
        run("init", "-q", cwd=place / "origin")
        run("add", "-A", cwd=place / "origin")
        run("commit", "-qm", "all of it", cwd=place / "origin")
        shutil.rmtree(pair.destination)
        run("clone", "-q", str(place / "origin"), str(pair.destination), cwd=place)
        assert pair.sync().status == 0
        assert [line for line in differences(pair.source, pair.destination) if "'.git" not in line] == []
        assert (pair.destination / ".git/HEAD").exists()
        agree(pair)
