"""Where a list says that something was is a hint: whatever it says, nothing is moved that must not be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import snapshot
from tests.helpers.payloads import DIRECTORY, ORIGINS, REGULAR, Entry, Group, bits
from tests.helpers.receiving import ROOT, TAG, named, receiving, whole

if TYPE_CHECKING:
    from pathlib import Path

TEMP = f".x.{TAG}01234567.sync~".encode()
FILE = Entry(b"f", size=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for path in ("root/d/f", "root/no/f", f"root/{TEMP.decode()}/f", "out/f", "root/here/f"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        os.utime(file, ns=(0, 0))
    (root / "link").symlink_to(tmp_path / "out")
    return root


def receive(root: Path, kind: int, origin: bytes) -> bool:
    """Whether what is listed as moved from ``origin`` was asked for."""
    new = Entry(b"new", kind, 0o755, size=1, target=origin)
    here = Entry(b"here", DIRECTORY, 0o755, size=1, mtime_ns=10**18)
    groups = [named(b"", ROOT, here, new), Group(b"here", [FILE])]
    if kind == DIRECTORY:
        groups.append(Group(b"new", [FILE]))
    with receiving(root, partial=True, delete=True, filters=[b"/no"]) as driver:
        driver.send_list(groups, flags=ORIGINS).end_list()
        driver.run(lambda: 0 in driver.wants)
        wanted = bits(driver.wants[0], sum(len(group.entries) for group in groups))
        for i in wanted:
            driver.data(whole(0, i, b"y"))
        driver.run()
        assert (driver.done, driver.problems) == (True, [])
        assert wanted in ([], [4 if kind == DIRECTORY else 2])
        return bool(wanted)


@pytest.mark.parametrize(
    ("kind", "origin"),
    [
        *((DIRECTORY, path) for path in (b"here", b"link", b"link/f", b"no", b"d/f", b"never", b"d/f/g", TEMP)),
        *((REGULAR, path) for path in (b"d", b"link", b"link/f", b"no/f", b"never", b"d/f/g", TEMP + b"/f")),
    ],
)
def test_what_must_stay_stays(root: Path, kind: int, origin: bytes) -> None:
    before = snapshot(root.parent)
    assert receive(root, kind, origin)
    after = snapshot(root.parent)
    new = (b"root", b"root/here", b"root/new")
    assert {path: seen for path, seen in before.items() if path not in new} == {
        path: seen for path, seen in after.items() if path not in (*new, b"root/new/f")
    }


@pytest.mark.parametrize(("kind", "origin"), [(DIRECTORY, b"d"), (REGULAR, b"d/f")])
def test_what_may_be_moved_is(root: Path, kind: int, origin: bytes) -> None:
    assert not receive(root, kind, origin)
    assert not os.path.lexists(os.path.join(os.fsencode(root), origin))


def test_where_everything_is_listed_nothing_was_moved(root: Path) -> None:
    with receiving(root) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"new", size=1, target=b"d/f")])], flags=ORIGINS).run()
        failure = driver.engine.failure()
    assert failure is not None
    assert failure[0] == "protocol"
