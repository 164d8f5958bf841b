"""From here to here with the crate's own engines: the whole of a session but the link."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentd.sync.service import Sessions
from proto.errors import SyncError
from proto.hello import Hello
from proto.job import Items, Job, Location, Options, Outcome, Problems, parse_location
from tests.helpers.fake_agents import FakeJournal

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.sync.routes import Links

ME = Hello("agent", 1, 1, "0.1.0", agent=bytes(range(16)))


class NoLinks:
    async def link(self, host: str, environ: object) -> Any:
        raise SyncError("unreachable", f"no way to {host}")


class Here:
    def __init__(self, top: Path) -> None:
        links: Links = NoLinks()
        self.journal = FakeJournal()
        self.sessions = Sessions(identity=lambda: ME, links=links, journal=self.journal)
        self.top = top
        self.events: list[Any] = []

    async def sync(self, source: str = "src", destination: str = "dst", **options: Any) -> Outcome:
        job = Job(parse_location(os.fsencode(source)), parse_location(os.fsencode(destination)), Options(**options))
        self.events.clear()
        return await self.sessions.run_job(job, {"PWD": str(self.top)}, self.events.append)

    async def refused(self, source: str = "src", destination: str = "dst", **options: Any) -> str:
        with pytest.raises(SyncError) as caught:
            await self.sync(source, destination, **options)
        return caught.value.code


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "sub" / "file").write_bytes(b"content")
    (tmp_path / "src" / "large").write_bytes(os.urandom(3 << 20))
    (tmp_path / "src" / "link").symlink_to("sub/file")
    (tmp_path / "src" / "empty").mkdir()
    return Here(tmp_path)


def content(top: Path) -> dict[str, bytes | str | None]:
    seen: dict[str, bytes | str | None] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        seen[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return seen


async def test_first_again_and_changed(here: Here) -> None:
    first = await here.sync(delete=True)
    assert content(here.top / "dst") == content(here.top / "src")
    assert first.stats["files"] == 2
    again = await here.sync(delete=True)
    assert again.stats["files"] == 0
    (here.top / "src" / "sub" / "file").write_bytes(b"changed")
    (here.top / "dst" / "extra").write_bytes(b"extra")
    changed = await here.sync(delete=True)
    assert content(here.top / "dst") == content(here.top / "src")
    assert (changed.stats["files"], changed.stats["deleted"]) == (1, 1)
    assert not here.journal.open


async def test_a_profile_names_the_stages_of_both_ends(here: Here) -> None:
    first = await here.sync(profile=True)
    assert first.profile is not None
    ours, theirs = (set(first.profile[end]["stages"]) for end in ("here", "there"))
    assert {"walk", "read", "hash", "socket", "wait"} <= ours
    assert {"compare", "hash", "write", "metadata", "rename", "finish", "socket", "wait"} <= theirs
    assert not {"compare", "write", "rename"} & ours
    assert not {"walk", "read"} & theirs
    (here.top / "src" / "large").write_bytes(b"front" + (here.top / "src" / "large").read_bytes())
    changed = await here.sync(profile=True)
    assert changed.profile is not None
    ours, theirs = (set(changed.profile[end]["stages"]) for end in ("here", "there"))
    assert "delta" in ours & theirs
    assert {"sign", "read"} <= theirs
    for end in changed.profile.values():
        assert all(stage["last_us"] <= end["wall_us"] for stage in end["stages"].values())


async def test_one_file(here: Here) -> None:
    await here.sync("src/large", "copy", delete=True)
    assert (here.top / "copy").read_bytes() == (here.top / "src" / "large").read_bytes()


async def test_a_dry_run_changes_nothing_and_leaves_no_record(here: Here) -> None:
    outcome = await here.sync(dry_run=True, itemize=True)
    assert not (here.top / "dst").exists()
    items = b"".join(event.payload for event in here.events if isinstance(event, Items))
    assert b">f+++++++++ sub/file\0" in items
    assert outcome.problem_count == 0
    assert here.journal.begun == 0


async def test_excluded_names_stay_away(here: Here) -> None:
    await here.sync(excludes=(b"large", b"sub/"))
    assert set(content(here.top / "dst")) == {"link", "empty"}


async def test_a_problem_is_reported_and_the_rest_goes_on(here: Here) -> None:
    (here.top / "dst" / "sub" / "file" / "within").mkdir(parents=True)
    outcome = await here.sync()
    reported = [problem for event in here.events if isinstance(event, Problems) for problem in event.problems]
    assert outcome.problem_count == len(outcome.problems) == len(reported) == 1
    assert outcome.problems[0][:2] == (b"sub/file", "in-the-way")
    assert (here.top / "dst" / "large").exists()


async def test_guards(here: Here) -> None:
    (here.top / "none").mkdir()
    (here.top / "back").symlink_to(here.top / "src")
    assert await here.refused("none", "src", delete=True) == "source-empty"
    assert await here.refused("nothing", "dst") == "source-missing"
    assert await here.refused("src", "src/sub") == "overlap"
    assert await here.refused("src/sub", "src") == "overlap"
    assert await here.refused("src", "back/new") == "overlap"
    assert await here.refused("src", "a/b") == "destination-missing"
    assert await here.refused("src", "box:x") == "unreachable"
    assert (here.top / "src" / "large").exists()
    assert not here.journal.open


async def test_the_destination_of_a_tree_is_no_file(here: Here) -> None:
    (here.top / "dst").write_bytes(b"a file")
    assert await here.refused() == "destination-type"
    assert (here.top / "dst").read_bytes() == b"a file"


async def test_two_hundred_in_a_row_leave_nothing_behind(here: Here) -> None:
    await here.sync()
    before = len(os.listdir("/dev/fd"))
    for _ in range(200):
        await here.sync()
    assert len(os.listdir("/dev/fd")) <= before


async def test_many_at_once_on_one_root(here: Here) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(partial(here.sync, delete=True))
    assert content(here.top / "dst") == content(here.top / "src")


async def test_cancelled_at_any_moment(here: Here) -> None:
    """Each file is absent or whole; no temporary name stays; the next run completes."""
    for n in range(40):
        with trio.move_on_after(n * 0.0005):
            await here.sync()
        for path in (here.top / "dst").rglob("*"):
            if path.is_file() and not path.name.endswith(".sync~"):  # a partial is kept for the next run
                assert path.read_bytes() == (here.top / "src" / path.relative_to(here.top / "dst")).read_bytes()
        if n % 4 == 0:
            shutil.rmtree(here.top / "dst", ignore_errors=True)
    await here.sync()
    assert content(here.top / "dst") == content(here.top / "src")
    assert not here.journal.open


def test_locations_are_what_the_job_says() -> None:
    assert parse_location(b"a/b") == Location(None, b"a/b")
