"""A day of an agent in a few minutes: syncs, links that are lost and made again, sleeps; and nothing that grows.

SYNCCTL_DAY_SYNCS sets how many syncs a day has (150 unless it is set; 10,000 for a whole one).
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest
import trio

from agentd.sync.rest import REST_S
from tests.e2e.test_links import ENVIRON, running_links
from tests.helpers.editor import Editor
from tests.helpers.hosts import Agent, Held, Hosts, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.pairs import pair_of
from tests.helpers.sshd import SSHD, Sshd, descendants
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import agent_pid, healthy, run_job, strike, victims, within

if TYPE_CHECKING:
    from pathlib import Path

SYNCS = int(os.environ.get("SYNCCTL_DAY_SYNCS", "150"))
WARM_UP = max(50, SYNCS // 10)
"""Counted from here; the second half of them has its cuts already."""

pytestmark = [
    pytest.mark.fault("F14"),
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed"),
    pytest.mark.timeout(300 + SYNCS),
]

DEAD_AFTER_S = 3
"""A fifth of what it is in earnest, and so are the pings."""

BREAK_EVERY, COMMAND_EVERY = 10, 25
SPARES = 4
"""So many connections may be kept for those who come next, or fewer."""

RSS_MARGIN_KIB = 4096
"""Over what an agent held after the warm-up: a leak of 40 KiB a sync shows, and of half a one in a whole day."""


class Watched:
    """An agent, and the most it should hold."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.pid = agent_pid(agent)
        self.before = Held(self.pid)

    def settled(self) -> bool:
        now = Held(self.pid)
        return bool(now.fds <= self.before.fds and now.threads <= self.before.threads)

    def check(self, name: str) -> None:
        within(20, self.settled, lambda: f"{name} grew: {vars(Held(self.pid))} from {vars(self.before)}")
        now = Held(self.pid)
        print(f"{name}: {vars(self.before)} after {WARM_UP} syncs, {vars(now)} after {SYNCS}")
        assert agent_pid(self.agent) == self.pid
        assert now.rss_kib <= self.before.rss_kib + RSS_MARGIN_KIB


def test_syncs_and_reconnects() -> None:
    """The first syncs share one login; later every tenth finds its way there cut, in some manner."""
    with (
        short_directory() as directory,
        two_hosts(this_account(), directory, ssh=f"dead_after_s = {DEAD_AFTER_S}") as hosts,
        pair_of(hosts.here, directory, "--mirror") as pair,
        Editor(hosts.here) as editor,
    ):
        assert isinstance(hosts.sshd, Sshd)
        with TreeBuilder(pair.source, 7) as tree:
            tree.populate(files=300, dirs=30)
            tree.file(b"large", tree.noise(3 << 20))
            tree.file(b"log", b"")
        chosen, seconds, watched = random.Random(24), [], []
        for number in range(SYNCS):
            if number == WARM_UP // 2:
                assert hosts.sshd.authentications() == 1
            if number == WARM_UP:
                quiet(hosts.here, hosts.there)
                watched = [Watched(hosts.here), Watched(hosts.there)]
            change(pair.source, number)
            if number >= WARM_UP // 2 and number % BREAK_EVERY == 0:
                cut(hosts, chosen)
            begun = time.monotonic()
            answer = editor.sync(pair.name)
            seconds.append(time.monotonic() - begun)
            assert answer.ok, f"sync {number}: {answer}"
            if watched and number % WARM_UP == 0:
                print(number, *(vars(Held(one.pid)) for one in watched))
            if number % COMMAND_EVERY == 0:
                ended = run_job(hosts.here, "pull", f"box:{pair.destination}", directory / "back", "--delete")
                assert ended.status == 0, f"sync {number}: {ended}"
        pair.same()
        assert run_job(hosts.here, "pull", f"box:{pair.destination}", directory / "back", "--delete").status == 0
        assert_same(pair.destination, directory / "back")
        quiet(hosts.here, hosts.there)
        logins = hosts.sshd.authentications()
        print(f"\n{SYNCS} syncs, median {sorted(seconds)[SYNCS // 2] * 1000:.0f} ms, {logins} logins")
        assert logins > (SYNCS - WARM_UP // 2) // BREAK_EVERY // 2
        for one, name in zip(watched, ("here", "there"), strict=True):
            one.check(name)
        healthy(hosts.here, hosts.there)


def cut(hosts: Hosts, chosen: random.Random) -> None:
    """End what the link goes through; whoever syncs next has to notice."""
    strike(victims(hosts, chosen.choice(("ssh", "sshd"))), chosen.choice((signal.SIGKILL, signal.SIGTERM)))


def quiet(*agents: Agent) -> None:
    """Threads that idle go after a while, and so does memory; what is counted then is what is kept."""
    seen: list[tuple[int, ...]] = [()]
    since = time.monotonic()

    def same() -> bool:
        nonlocal since
        now = tuple(n for held in (Held(agent_pid(agent)) for agent in agents) for n in (held.threads, held.rss_kib))
        if now != seen[0]:
            seen[0], since = now, time.monotonic()
        return time.monotonic() > since + REST_S + 1

    within(60, same, lambda: f"it does not come to rest: {seen}")


def change(source: Path, number: int) -> None:
    """One file grows, another comes, an older one goes."""
    with (source / "log").open("ab") as file:
        file.write(b"line %d\n" % number)
    (source / f"came{number}").write_bytes(os.urandom(100))
    if number >= 5:
        (source / f"came{number - 5}").unlink()


async def test_sleeps_and_reconnects(tmp_path: Path) -> None:
    """A link is proved after each sleep; one in three was lost in it.  No more is held in the end than after a few."""
    with Sshd(tmp_path / "server") as server:
        async with running_links(tmp_path, server) as links:
            before = (0, 0)
            for number in range(SYNCS // 8):
                link = await links.link("box", ENVIRON)
                link._asleep_s -= 3600
                if number % 3 == 0:
                    server.kill_sessions()
                    with trio.fail_after(10):
                        await link.wait_lost()
                    link = await links.link("box", ENVIRON)
                connection = await link.connection()
                assert not link._has_slept()
                link.give_back(connection)
                if number == 10:
                    before = ours_held()
            assert server.authentications() >= SYNCS // 24
            with trio.fail_after(20):
                while ours_held()[0] > before[0] + SPARES or ours_held()[1] > before[1]:  # noqa: ASYNC110
                    await trio.sleep(0.05)


def ours_held() -> tuple[int, int]:
    """Descriptors and child processes of this process."""
    return len(os.listdir("/proc/self/fd")), len(descendants(os.getpid()))
