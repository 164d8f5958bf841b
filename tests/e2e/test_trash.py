"""What a destination keeps of what is deleted and overwritten in it, and how it comes back."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentd import _core
from tests.helpers.joined import sync
from tests.helpers.oracle import Seen, snapshot
from tests.helpers.pairs import pair_of
from tests.helpers.pushes import push, result, try_push
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from tests.helpers.hosts import Hosts

TRASH = ".syncctl-trash"


def without_trash(root: Path) -> dict[bytes, Seen]:
    """A destination, as users see it."""
    return {path: seen for path, seen in snapshot(root).items() if path.split(b"/")[0] != TRASH.encode()}


def kept(root: Path) -> dict[str, bytes]:
    """Files in its trash, by their paths below the batch."""
    found = {}
    for batch in sorted((root / TRASH).iterdir()) if (root / TRASH).exists() else []:
        for directory, _, files in os.walk(batch):
            for name in files:
                path = os.path.join(directory, name)
                found[os.path.relpath(path, batch)] = b"" if os.path.islink(path) else Path(path).read_bytes()
    return found


def trees(hosts: Hosts, place: Path) -> tuple[Path, Path]:
    """A destination in which things are to be deleted and overwritten in every way."""
    source, destination = place / "source", place / "destination"
    with TreeBuilder(source, 1) as tree:
        tree.file(b"changed", b"old content")
        tree.file(b"big", tree.noise(300_000))
        tree.file(b"dir/gone", b"gone")
        tree.file(b"whole/deep/gone", b"whole", mode=0o600)
        tree.dir(b"whole/closed", mode=0o555)
        tree.file(b"closed/one", b"of a closed directory")
        tree.dir(b"closed", mode=0o555)
        tree.symlink(b"link", b"nowhere")
        tree.file(b"was a file", b"was a file")
        tree.file(b"was a directory/inside", b"inside")
        tree.file(b"same", b"same")
    hosts.account.owns(source)
    push(hosts, source, destination)
    (source / "changed").write_bytes(b"new content")
    with (source / "big").open("r+b") as file:
        file.write(b"changed by delta")
    (source / "dir/gone").unlink()
    (source / "whole/closed").chmod(0o755)
    shutil.rmtree(source / "whole")
    (source / "closed").chmod(0o755)
    shutil.rmtree(source / "closed")
    (source / "link").unlink()
    (source / "link").symlink_to("elsewhere")
    (source / "was a file").unlink()
    (source / "was a file").mkdir()
    shutil.rmtree(source / "was a directory")
    (source / "was a directory").write_bytes(b"a file now")
    hosts.account.owns(source)
    return source, destination


@pytest.mark.parametrize("way", ["push", "pull"])
def test_everything_that_goes_is_kept(hosts: Hosts, place: Path, way: str) -> None:
    source, destination = trees(hosts, place)
    old = {path: (destination / path).read_bytes() for path in ("changed", "big")}
    dry = try_push(hosts, source, destination, "--delete", "--trash", "30d", "--dry-run")
    assert dry.status == 0, dry
    assert not (destination / TRASH).exists()
    if way == "push":
        ended = try_push(hosts, source, destination, "--delete", "--trash", "30d", "--json")
    else:
        ended = hosts.here.run("pull", hosts.remote(source), destination, "--delete", "--trash", "30d", "--json")
    assert ended.status == 0, ended
    assert kept(destination) == old | {
        "dir/gone": b"gone", "whole/deep/gone": b"whole", "closed/one": b"of a closed directory", "link": b"",
        "was a file": b"was a file", "was a directory/inside": b"inside",
    }  # fmt: skip
    assert stat.S_IMODE((destination / TRASH).stat().st_mode) == 0o700
    [batch] = (destination / TRASH).iterdir()
    assert stat.S_IMODE((batch / "closed").stat().st_mode) == 0o555
    assert stat.S_IMODE((batch / "dir").stat().st_mode) == 0o700
    assert without_trash(destination) == snapshot(source)
    assert result(push(hosts, source, destination, "--delete", "--json"))["stats"]["deleted"] == 0
    assert kept(destination)


def test_the_trash_is_nobodys_to_sync(hosts: Hosts, place: Path) -> None:
    source, destination = trees(hosts, place)
    push(hosts, source, destination, "--delete", "--trash", "1d")
    before = kept(destination)
    push(hosts, source, destination, "--delete", "--force")
    push(hosts, source, destination, "--delete", "--checksum")
    assert kept(destination) == before
    push(hosts, destination, place / "copy", "--delete")
    assert not (place / "copy" / TRASH).exists()
    (source / TRASH).mkdir()
    (source / TRASH / "x").write_bytes(b"of the source")
    hosts.account.owns(source)
    for _ in range(2):
        push(hosts, source, destination, "--delete", "--exclude", "- nothing")
    assert kept(destination) == before
    shutil.rmtree(source / TRASH)
    # one in a directory that goes stays with it: it is somebody's
    (destination / "going" / TRASH).mkdir(parents=True)
    (destination / "going" / TRASH / "x").write_bytes(b"x")
    hosts.account.owns(destination)
    ended = try_push(hosts, source, destination, "--delete")
    assert ended.status == 0, ended
    assert (destination / "going" / TRASH / "x").exists()


def test_what_is_planted_in_its_place_is_not_followed(hosts: Hosts, place: Path) -> None:
    source, destination = trees(hosts, place)
    (place / "outside").mkdir()
    (destination / TRASH).symlink_to(place / "outside")
    hosts.account.owns(place)
    before = without_trash(destination)
    ended = try_push(hosts, source, destination, "--delete", "--trash", "1d")
    assert ended.status == 6, ended
    assert TRASH in ended.err
    assert not list((place / "outside").iterdir())
    assert without_trash(destination) == before


def test_list_restore_and_empty(hosts: Hosts, place: Path) -> None:
    source, destination = trees(hosts, place)
    hosts.here.ok("push", source, destination, "--delete", "--trash", "30d")
    here = hosts.here
    rows = [json.loads(line) for line in here.ok("trash", "list", destination, "--json").splitlines()]
    assert {row["path"]: row["size"] for row in rows if not row["directory"]} == {
        path: len(content) if path != "link" else len("nowhere") for path, content in kept(destination).items()
    }
    [batch] = {row["batch"] for row in rows}
    assert "  whole/deep/gone\n" in here.ok("trash", "list", destination)
    assert "3 entries" in here.ok("trash", "restore", destination, "dir/gone", "whole", destination / "closed/one")
    assert (destination / "dir/gone").read_bytes() == b"gone"
    assert (destination / "whole/deep/gone").read_bytes() == b"whole"
    assert (destination / "closed/one").exists()
    ended = here.run("trash", "restore", destination, "changed", "nothing", "--batch", batch)
    assert ended.status == 1, ended
    assert "something else is there now" in ended.err
    assert "not in the trash" in ended.err
    assert (destination / "changed").read_bytes() == b"new content"
    for bad in ("../x", "/etc/passwd", "a/../../x"):
        assert here.run("trash", "restore", destination, bad).status in (1, 2)
    here.ok("trash", "empty", destination)
    assert not (destination / TRASH).exists()
    assert here.ok("trash", "list", destination) == ""
    assert here.run("trash", "list", hosts.remote(destination)).status == 2


def test_a_pair_has_a_trash(hosts: Hosts, place: Path) -> None:
    with pair_of(hosts.here, place, "--mirror", "--trash", "2w", host="") as pair:
        (pair.source / "file\x1b[2J").write_bytes(b"1")
        hosts.account.owns(pair.source)
        hosts.here.ok("sync", "pair")
        (pair.source / "file\x1b[2J").write_bytes(b"22")
        hosts.here.ok("sync", "pair")
        assert kept(pair.destination) == {"file\x1b[2J": b"1"}
        listed = hosts.here.ok("trash", "list", "pair")
        assert "\x1b" not in listed
        assert "file" in listed
        (pair.source / "file\x1b[2J").unlink()
        (pair.source / "other").write_bytes(b"")
        hosts.here.ok("sync", "pair", "--no-trash")
        assert len(kept(pair.destination)) == 1
    ended = hosts.here.run("add", "x", place / "source", place / "destination", "--trash", "30 days")
    assert ended.status == 2
    assert "12h, 30d, 4w" in ended.err


def test_what_is_old_goes(tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    with TreeBuilder(source) as tree:
        tree.populate(20, 4)
    batches = [b"20260101-000000-00000001", b"20260201-000000-00000002"]
    for batch in batches:
        sync(str(source), str(destination), delete=True)
        with TreeBuilder(destination / "extra") as tree:
            tree.populate(20, 4).awkward()
            tree.dir(b"closed", mode=0)
        sync(str(source), str(destination), delete=True, trash=batch)
        shutil.rmtree(destination / "extra", ignore_errors=True)
    assert {batch for batch, *_ in _core.trash_list(os.fsencode(destination), 1000)} == set(batches)
    assert _core.trash_list(os.fsencode(destination), 3) == _core.trash_list(os.fsencode(destination), 1000)[:3]
    removed, done = _core.trash_empty(os.fsencode(destination), b"20260115-000000", 5)
    assert 5 <= removed < 10
    assert not done
    removed, done = _core.trash_empty(os.fsencode(destination), b"20260115-000000", 1000)
    assert done
    assert removed > 5
    assert {batch for batch, *_ in _core.trash_list(os.fsencode(destination), 1000)} == set(batches[1:])
    (destination / TRASH / "of the user").mkdir()
    _core.trash_empty(os.fsencode(destination), b"", 1000)
    assert os.listdir(destination / TRASH) == ["of the user"]
    assert without_trash(destination).keys() == snapshot(source).keys()


def test_the_same_path_twice_in_a_session(tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.mkdir()
    batch = b"20260101-000000-00000001"
    for content in (b"1", b"22", b"333"):
        (source / "file").write_bytes(content)
        sync(str(source), str(destination), trash=batch)
    assert kept(destination) == {"file": b"1", "file.~1~": b"22"}
