"""The agent that writes is killed at each step of a commit: all is old or new, and the next run completes it."""

from __future__ import annotations

import subprocess
from errno import EIO
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.helpers.hosts import Agent, Hosts, short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.sshd import SSHD
from tests.helpers.trouble import STATUSES, TwoVersions, agent_pid, healthy, run_job, within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(120)]

POINTS = ("after-write:30", "after-sync:1", "after-rename:15", "after-dirsync:1")


class Scene(NamedTuple):
    hosts: Hosts
    tree: TwoVersions


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with short_directory() as directory, two_hosts(this_account(), directory, ssh="dead_after_s = 4") as hosts:
        kind = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=True).stdout
        if kind.strip() in ("tmpfs", "ramfs"):
            pytest.skip(f"{directory} has no disk, so nothing is synced there")
        yield Scene(hosts, TwoVersions(directory, small=60, large_mib=2))


def start(agent: Agent, point: str) -> int:
    """A new agent that dies at ``point``, once: whoever starts it again does so without."""
    agent.stop()
    agent.environ["SYNCCTL_FAILPOINT"] = point
    try:
        agent.ok("start")
    finally:
        del agent.environ["SYNCCTL_FAILPOINT"]
    return agent_pid(agent)


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def words(scene: Scene, verb: str) -> tuple[str | Path, ...]:
    source, destination = scene.tree.v2, scene.tree.destination
    if verb == "push":
        return (verb, source, scene.hosts.remote(destination), "--delete")
    return (verb, scene.hosts.remote(source), destination, "--delete")


@pytest.mark.fault("E2")
@pytest.mark.parametrize("verb", ["push", "pull"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_step_of_a_commit(scene: Scene, point: str, verb: str) -> None:
    hosts, tree = scene.hosts, scene.tree
    tree.reset()
    hosts.here.ok("start")
    pid = start(hosts.there if verb == "push" else hosts.here, point)
    first = run_job(hosts.here, *words(scene, verb))
    within(5, lambda: gone(pid), lambda: f"{point} was not reached: {first}")
    assert first.status in STATUSES, first
    tree.check()
    if verb == "pull":
        assert first.status != 0, first
        hosts.here.ok("start")
    again = run_job(hosts.here, *words(scene, verb))
    assert again.status == 0, again
    assert_same(tree.v2, tree.destination)
    assert not tree.leftovers()
    healthy(hosts.here, hosts.there)


@pytest.mark.fault("E2")
def test_killed_when_what_is_known_was_saved(scene: Scene) -> None:
    hosts, tree = scene.hosts, scene.tree
    tree.reset()
    pid = start(hosts.here, "after-index")
    assert run_job(hosts.here, *words(scene, "pull")).status == 0
    hosts.here.run("stop")
    within(10, lambda: gone(pid), lambda: "the agent lives on")
    hosts.here.ok("start")
    assert run_job(hosts.here, *words(scene, "pull")).status == 0
    assert_same(tree.v2, tree.destination)
    assert not tree.leftovers()


@pytest.mark.fault("C5")
def test_a_sync_to_disk_that_fails_once_has_all_sent_again(scene: Scene) -> None:
    hosts, tree = scene.hosts, scene.tree
    tree.reset()
    hosts.here.ok("start")
    start(hosts.there, "sync-fails:1")
    ended = run_job(hosts.here, *words(scene, "push"))
    assert ended.status == 0, ended
    assert_same(tree.v2, tree.destination)
    assert not tree.leftovers()


@pytest.mark.fault("C5")
def test_a_sync_to_disk_that_fails_again_is_a_problem_of_each_path(scene: Scene) -> None:
    hosts, tree = scene.hosts, scene.tree
    tree.reset()
    hosts.here.ok("start")
    start(hosts.there, "sync-fails:1-1000")
    ended = run_job(hosts.here, *words(scene, "push"))
    assert ended.status == 1, ended
    assert {(problem["code"], problem["errno"]) for problem in ended.problems} == {("write", EIO)}, ended.problems
    tree.check()
    assert int(ended.result["stats"]["files"]) == 0, ended
    assert not tree.leftovers()
    hosts.there.stop()
    hosts.there.ok("start")
    again = run_job(hosts.here, *words(scene, "push"))
    assert again.status == 0, again
    assert_same(tree.v2, tree.destination)
