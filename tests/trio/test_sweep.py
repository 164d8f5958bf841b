"""What a killed predecessor left is cleared up, and never what somebody is writing now."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentd.sync.roots import destination_root
from agentd.sync.service import Sessions
from proto.errors import SyncError
from proto.hello import Hello
from proto.job import Job, Options, parse_location
from tests.helpers.fake_agents import FakeJournal

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.sync.routes import Links

ME = Hello("agent", 1, 1, "0.1.0", agent=bytes(range(16)))
KILLED = b"a killed session"


class NoLinks:
    async def link(self, host: str, environ: object) -> Any:
        raise SyncError("unreachable", f"no way to {host}")


class Swept:
    def __init__(self, root: Path) -> None:
        links: Links = NoLinks()
        self.journal = FakeJournal()
        self.sessions = Sessions(identity=lambda: ME, links=links, journal=self.journal)
        self.root = os.fsencode(root)
        self.cleared: list[bytes] = []
        self.journal.begin(KILLED, self.root)

    def clear(self, root: bytes) -> int:
        self.cleared.append(root)
        return 1

    async def sweep(self) -> None:
        await self.sessions.sweep(self.clear)


async def test_once(tmp_path: Path) -> None:
    swept = Swept(tmp_path)
    await swept.sweep()
    await swept.sweep()
    assert swept.cleared == [os.fsencode(tmp_path)]
    assert not swept.journal.open


async def test_a_root_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    swept = Swept(tmp_path / "gone" / "dst")
    await swept.sweep()
    assert swept.cleared == []
    assert not swept.journal.open


@pytest.mark.usefixtures("autojump_clock")
async def test_a_root_in_use_is_left_to_its_session(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    swept = Swept(tmp_path / "inner")
    async with swept.sessions._shop.leases.lease(destination_root(os.fsencode(tmp_path)), "a session"):
        await swept.sweep()
    assert swept.cleared == []
    assert swept.journal.open == {KILLED: swept.root}


async def test_a_session_that_ended_meanwhile_has_cleared_up(tmp_path: Path) -> None:
    swept = Swept(tmp_path)
    lease = swept.sessions._shop.leases.lease(destination_root(swept.root), "the same session, resumed")
    async with trio.open_nursery() as nursery, lease:
        nursery.start_soon(swept.sweep)
        await trio.testing.wait_all_tasks_blocked(0.05)
        swept.journal.end(KILLED)
    assert swept.cleared == []


async def test_a_session_waits_for_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_bytes(b"content")
    swept = Swept(tmp_path / "dst")
    go_on, clearing = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()
    order: list[str] = []

    def slow(root: bytes) -> int:
        token.run_sync_soon(clearing.set)
        assert go_on.wait(20)
        order.append("swept")
        return swept.clear(root)

    async def sync() -> None:
        source, destination = (parse_location(os.fsencode(tmp_path / name)) for name in ("src", "dst"))
        await swept.sessions.run_job(Job(source, destination, Options()), {}, lambda _: None)
        order.append("synced")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swept.sessions.sweep, slow)
            await clearing.wait()
            nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert order == []
            go_on.set()
    assert order == ["swept", "synced"]
    assert (tmp_path / "dst" / "file").read_bytes() == b"content"
    assert not swept.journal.open


async def test_what_cannot_be_swept_is_kept_for_the_next_time(tmp_path: Path) -> None:
    swept = Swept(tmp_path)

    def refused(root: bytes) -> int:
        raise PermissionError(13, "no", root)

    await swept.sessions.sweep(refused)
    assert swept.journal.open == {KILLED: swept.root}
