"""Killed in the middle: each file at the destination is old or new, and the job resumes or says why not.

SYNCCTL_SEEDS sets how many moments are tried (6 unless it is set).
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.helpers.hosts import Hosts, our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.sshd import SSHD, command_of
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import (
    MIB,
    STATUSES,
    Result,
    TwoVersions,
    agent_pid,
    healthy,
    read_result,
    run_job,
    seeds,
    ssh_children,
    strike,
    victims,
    within,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(180)]

ROLES = ("ssh", "sshd", "there", "here")
DEAD_AFTER_S = 4
JOB_S = 60
SSH_GONE_S = 2.0
STOP_S = 5.0
"""An agent that is told to end has this long (agentd.app)."""

PARTIAL_MIN = MIB
"""Smaller ones are not worth keeping."""

EXCESS = 1.10
"""How many times the bytes that the destination did not hold at the moment of the kill may be sent after it.  What a
clean run sends besides the new content comes on top: lists, signatures, the delta.
"""


class Scene(NamedTuple):
    """Two hosts, a tree, and what an undisturbed sync of it takes in each direction."""

    hosts: Hosts
    tree: TwoVersions
    seconds: dict[str, float]
    besides: dict[str, int]
    """Bytes of lists, signatures, the delta and frames."""
    tally: list[str]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    account = this_account()
    with (
        short_directory() as directory,
        two_hosts(account, directory, ssh=f"dead_after_s = {DEAD_AFTER_S}") as hosts,
    ):
        made = Scene(hosts, TwoVersions(directory), {}, {}, [])
        for verb in ("push", "pull"):
            for _ in range(2):  # the first one makes the link
                made.tree.reset()
                content = made.tree.remaining()
                begun = time.monotonic()
                clean = run_job(hosts.here, *words(made, verb))
                made.seconds[verb] = time.monotonic() - begun
                assert clean.status == 0, clean
                assert_same(made.tree.v2, made.tree.destination)
            made.besides[verb] = wire(clean) - content
        yield made
        print(f"\nclean: {made.seconds} s, {content} bytes and {made.besides} besides")
        print("\n".join(made.tally))


def words(scene: Scene, verb: str) -> tuple[str, ...]:
    """The command."""
    source, destination = str(scene.tree.v2), str(scene.tree.destination)
    pair = (source, f"box:{destination}") if verb == "push" else (f"box:{source}", destination)
    return (verb, *pair, "--delete")


def wire(result: Result) -> int:
    """Bytes on the wire, both ways."""
    return int(result.result.get("wire_sent", 0)) + int(result.result.get("wire_received", 0))


def strike_and_count(hosts: Hosts, tree: TwoVersions, *roles: str) -> int:
    """Kill ``roles``; the bytes that the destination does not hold then.  Both agents stand still for as long as that
    takes to count: what is on its way between them is not held.
    """
    agents = [agent_pid(hosts.here), agent_pid(hosts.there)]
    strike(agents, signal.SIGSTOP)
    within(5, lambda: all(map(stopped, agents)), lambda: "an agent goes on")
    remaining = tree.remaining()
    strike([pid for role in roles for pid in victims(hosts, role)])
    strike(agents, signal.SIGCONT)
    return remaining


def stopped(pid: int) -> bool:
    """Each of its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] in "TZ" for task in tasks)


def sent_before(log: str) -> int:
    """Bytes on the wire, both ways, of the epoch that was killed, as the agent that goes on logs them."""
    found = re.search(r"going on .* epoch=0 sent=(\d+) received=(\d+)", log)
    assert found, log
    return int(found[1]) + int(found[2])


def small_leftovers(tree: TwoVersions) -> list[bytes]:
    """Those that are not worth continuing; some may go meanwhile."""
    found = []
    for path in tree.leftovers():
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(path) < PARTIAL_MIN:
                found.append(path)
    return found


class killed_after_all:  # noqa: N801
    """A command that hangs is ended with the test."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@pytest.mark.fault("E1", "F1")
@pytest.mark.parametrize("seed", seeds(6))
def test_killed_at_a_random_moment(scene: Scene, seed: int) -> None:
    hosts, tree = scene.hosts, scene.tree
    role = ROLES[seed % len(ROLES)]
    verb = ("push", "pull")[(seed + seed // len(ROLES)) % 2]
    moment = random.Random(seed).uniform(0.03, 0.9 * scene.seconds[verb])
    print(f"seed {seed}: {verb}, kill {role} after {moment:.3f} s")
    tree.reset()
    hosts.here.ok("start")
    logged = hosts.here.log_size()
    process = hosts.here.popen(*words(scene, verb), "--json")
    with killed_after_all(process):
        threading.Event().wait(moment)
        old_ssh = ssh_children(hosts.here)
        under_way = process.poll() is None
        remaining = strike_and_count(hosts, tree, role)
        struck = time.monotonic()
        if role == "here":
            within(SSH_GONE_S, lambda: not any(map(command_of, old_ssh)), lambda: "an ssh outlives its agent")
        tree.check()
        out, err = process.communicate(timeout=JOB_S)
        took = time.monotonic() - struck
    tree.check()
    ended = read_result(process.returncode, out, err)
    assert ended.status in STATUSES, ended
    assert "Traceback" not in ended.err, ended
    epochs = int(ended.result.get("epochs", 0))
    resent = None
    if ended.status == 0:
        assert_same(tree.v2, tree.destination)
        assert not tree.leftovers(), f"left after a resumed session: {tree.leftovers()}"
        outcome = f"{'resumed' if epochs > 1 else 'done'}, {epochs} epochs"
        if epochs > 1:
            resent = wire(ended) - sent_before(hosts.here.log_since(logged))
    else:
        assert ended.code, f"status {ended.status} without an error: {ended}"
        outcome = f"reported {ended.code} ({ended.status})"
    again = run_job(hosts.here, *words(scene, verb))
    assert again.status == 0, again
    tree.check()
    assert_same(tree.v2, tree.destination)
    assert not tree.leftovers(), f"left after the next run: {tree.leftovers()}"
    if ended.status != 0:
        resent = wire(again)
    elif epochs:
        assert wire(again) < 100_000, f"nothing was left to do, yet {wire(again)} bytes went"
    if resent is not None:
        besides = scene.besides[verb]
        outcome += f", {resent} bytes for {remaining} that remained: {(resent - besides) / max(1, remaining):.3f}"
        assert resent <= EXCESS * remaining + besides, outcome
    healthy(hosts.here, hosts.there)
    line = f"seed {seed:3} {verb} {role:5} {moment:.3f} s {'' if under_way else '(had ended)'} {outcome}, {took:.2f} s"
    print(line)
    scene.tally.append(line)
    assert agent_pid(hosts.here)


@pytest.mark.fault("E1")
@pytest.mark.parametrize("seed", seeds(2))
def test_both_agents_killed_and_only_the_one_there_comes_back(scene: Scene, seed: int) -> None:
    """It clears up by itself; what is worth continuing stays, and is continued by the next run."""
    hosts, tree = scene.hosts, scene.tree
    moment = random.Random(1000 + seed).uniform(0.05, 0.9 * scene.seconds["push"])
    print(f"seed {seed}: both after {moment:.3f} s")
    tree.reset()
    hosts.here.ok("start")
    process = hosts.here.popen(*words(scene, "push"), "--json")
    with killed_after_all(process):
        threading.Event().wait(moment)
        remaining = strike_and_count(hosts, tree, "here", "there")
        process.communicate(timeout=JOB_S)
    tree.check()
    left = tree.leftovers()
    hosts.there.ok("start")
    within(10, lambda: not small_leftovers(tree), tree.leftovers)
    assert set(tree.leftovers()) <= set(left)
    kept = len(tree.leftovers())
    again = run_job(hosts.here, *words(scene, "push"))
    assert again.status == 0, again
    tree.check()
    assert_same(tree.v2, tree.destination)
    assert not tree.leftovers()
    assert wire(again) <= EXCESS * remaining + scene.besides["push"], f"{wire(again)} bytes for {remaining}"
    healthy(hosts.here, hosts.there)
    scene.tally.append(
        f"seed {seed:3} push both  {moment:.3f} s {len(left)} left, {kept} kept, {wire(again)} bytes for {remaining}"
    )


@pytest.mark.fault("E1")
@pytest.mark.parametrize("seed", seeds(2))
def test_killed_while_only_what_changed_is_listed(scene: Scene, seed: int) -> None:
    """Both know what they agreed on, so that no directory is read that would show what is left in it."""
    hosts, top = scene.hosts, scene.tree.v1.parent / "agreed"
    source, destination = top / "source", top / "destination"
    random_ = random.Random(2000 + seed)
    pair = ("push", source, f"box:{destination}")
    if not source.exists():
        with TreeBuilder(source, 1) as tree:
            for number in range(1000):
                tree.file(b"d%d/f%d" % (number % 20, number), random_.randbytes(3000))
    for _ in range(2):
        assert run_job(hosts.here, *pair).status == 0
    for number in range(200):
        (source / f"d{number % 20}/f{number}").write_bytes(random_.randbytes(3000))
    process = hosts.here.popen(*pair, "--json")
    with killed_after_all(process):
        within(20, lambda: bool(our_files(destination)) or process.poll() is not None, lambda: "it never began")
        strike(victims(hosts, ROLES[2 + seed % 2]))
        ended = read_result(*output(process))
    assert ended.status in STATUSES, ended
    again = run_job(hosts.here, *pair)
    assert again.status == 0, again
    assert_same(source, destination)
    assert not our_files(destination)
    healthy(hosts.here, hosts.there)
    listed = [result.result.get("stats", {}).get("listed") for result in (ended, again)]
    scene.tally.append(f"seed {seed:3} push {ROLES[2 + seed % 2]:5} agreed: {ended.code or 'resumed'}, listed {listed}")


def in_the_middle(scene: Scene, process: subprocess.Popen[bytes]) -> None:
    """Something is being written at the destination."""
    within(20, lambda: bool(scene.tree.leftovers()) or process.poll() is not None, lambda: "it never began")
    assert process.poll() is None, "it had ended before"


@pytest.mark.fault("E8")
@pytest.mark.parametrize("role", ["here", "there"])
def test_an_agent_is_told_to_end_in_the_middle(scene: Scene, role: str) -> None:
    """It lets go within a few seconds; files are old or new, and only what is worth continuing is left."""
    hosts, tree = scene.hosts, scene.tree
    tree.reset()
    hosts.here.ok("start")
    process = hosts.here.popen(*words(scene, "push"), "--json")
    with killed_after_all(process):
        in_the_middle(scene, process)
        pids = victims(hosts, role)
        strike(pids, signal.SIGTERM)
        took = within(STOP_S, lambda: not any(map(command_of, pids)), lambda: f"{role} goes on")
        ended = read_result(*output(process))
    tree.check()
    print(f"{role} ended after {took:.2f} s: status {ended.status} {ended.code}")
    assert ended.status in STATUSES, ended
    assert "Traceback" not in ended.err, ended
    if ended.status:
        assert ended.error["message"], ended
        assert ended.error["hint"], ended
    hosts.here.ok("start")
    hosts.there.ok("start")
    again = run_job(hosts.here, *words(scene, "push"))
    assert again.status == 0, again
    assert_same(tree.v2, tree.destination)
    assert not tree.leftovers()
    healthy(hosts.here, hosts.there)


@pytest.mark.fault("E8")
def test_a_hangup_of_the_agents_disturbs_no_job(scene: Scene) -> None:
    """It asks them to read their configuration again."""
    hosts, tree = scene.hosts, scene.tree
    tree.reset()
    hosts.here.ok("start")
    process = hosts.here.popen(*words(scene, "push"), "--json")
    with killed_after_all(process):
        in_the_middle(scene, process)
        strike([agent_pid(hosts.here), agent_pid(hosts.there)], signal.SIGHUP)
        ended = read_result(*output(process))
    assert (ended.status, ended.result["epochs"]) == (0, 1), ended
    assert_same(tree.v2, tree.destination)
    healthy(hosts.here, hosts.there)


def output(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=JOB_S)
    return process.returncode, out, err
