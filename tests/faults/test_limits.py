"""Agents with few descriptors or little memory, trees of many entries, and many sessions at once.

SYNCCTL_FILES is how many files a large tree has (6,000 unless it is set; the benchmark has one of a million).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.fault_case import FaultCase
from tests.helpers.hosts import Agent, Held, Hosts, our_files, short_directory, this_account, two_hosts, write_launcher
from tests.helpers.oracle import assert_same
from tests.helpers.sshd import SSHD
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import MIB, agent_pid, contents, healthy, read_result, run_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(SSHD is None, reason="sshd is not installed"), pytest.mark.timeout(300)]

FILES = int(os.environ.get("SYNCCTL_FILES", "6000"))
RSS_MAX_KIB = 300 << 10

HOSTS, SESSIONS, SEED = 10, 50, 7


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as made:
        yield made


@contextlib.contextmanager
def limited(*limits: str) -> Iterator[Hosts]:
    """Two hosts whose agents run within limits of prlimit(1)."""
    if not shutil.which("prlimit"):
        pytest.skip("there is no prlimit")
    with short_directory() as directory, two_hosts(this_account(), directory) as made:
        for agent in (made.here, made.there):
            plain, agent.argv = agent.argv, ["prlimit", *limits, *agent.argv]
            agent.ok("start")
            agent.argv = plain
        yield made


@pytest.mark.fault("C7")
def test_few_descriptors(place: Path) -> None:
    """It takes longer, and arrives."""
    with limited("--nofile=64:64") as hosts:
        case = FaultCase(hosts, place)
        with TreeBuilder(case.source, 1) as tree:
            tree.populate(400, 80)
            for number in range(6):
                tree.file(b"large%d" % number, tree.noise(3 * MIB))
        case.converges()
        with TreeBuilder(case.source, 2) as tree:
            for number in range(6):
                tree.file(b"large%d" % number, tree.noise(3 * MIB + number))
        pushes = [threading.Thread(target=case.push, args=("--delete",)) for _ in range(3)]
        for push in pushes:
            push.start()
        for push in pushes:
            push.join()
        case.converges("--delete")
        case.finish()


def many(root: Path) -> None:
    """A third of the files in one directory, a third in as many as there are tens, the rest far down."""
    wide, deep = root / "wide", root
    wide.mkdir(parents=True)
    for number in range(FILES // 3):
        (wide / f"file{number}").touch()
    for number in range(FILES // 30):
        below = root / f"some/dir{number}"
        below.mkdir(parents=True)
        for inner in range(10):
            (below / f"{inner}").touch()
    for _ in range(200):
        deep /= "d"
        deep.mkdir()
        for inner in range(FILES // 600):
            (deep / f"{inner}").touch()


@pytest.mark.fault("C8")
def test_little_memory(place: Path) -> None:
    """A list is never held whole."""
    with limited("--as=402653184") as hosts:
        case = FaultCase(hosts, place)
        many(case.source)
        case.converges()
        case.finish()


@pytest.mark.fault("S1")
def test_a_large_tree(place: Path) -> None:
    with short_directory() as directory, two_hosts(this_account(), directory) as hosts:
        source, destination = place / "source", place / "destination"
        many(source)
        most, over = [0], threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                with contextlib.suppress(OSError, ValueError):
                    most[0] = max(most[0], *(Held(agent_pid(agent)).rss_kib for agent in (hosts.here, hosts.there)))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            for _ in range(2):
                ended = run_job(hosts.here, "push", source, f"box:{destination}", "--delete", timeout=250)
                assert ended.status == 0, ended
        finally:
            over.set()
            watching.join()
        print(f"{FILES} files, RSS at most {most[0] / 1024:.0f} MiB")
        assert 0 < most[0] < RSS_MAX_KIB
        assert ended.result["stats"]["files"] == 0
        assert_same(source, destination)
        healthy(hosts.here, hosts.there)


@pytest.mark.fault("S2")
def test_many_sessions_with_many_hosts(place: Path) -> None:
    """Half of them are interrupted at random; the others do not notice, and nothing reaches a wrong place."""
    print(f"seed {SEED}")
    chosen = random.Random(SEED)
    with short_directory() as directory, two_hosts(this_account(), directory) as hosts:
        there = [hosts.there, *(Agent(hosts.account, directory / f"there{number}") for number in range(1, HOSTS))]
        try:
            with hosts.sshd.client_config.open("a") as ssh, (hosts.here.home / "config.toml").open("a") as config:
                box = hosts.sshd.client_config.read_text()
                for number, agent in enumerate(there[1:], 1):
                    launcher = write_launcher(agent, directory / f"syncctl{number}")
                    ssh.write(box.replace("Host box", f"Host box{number}"))
                    config.write(f'[host.box{number}]\nremote_command = "{launcher}"\n')
            roots = []
            for number in range(SESSIONS):
                with TreeBuilder(place / f"source{number}", number) as tree:
                    tree.file(b"whose", b"%d" % number)
                    tree.populate(20, 4)
                    tree.file(b"large", tree.noise(MIB))
                roots.append((place / f"source{number}", place / f"destination{number}"))
            hosts.here.ok("start")
            names = ["box" if number % HOSTS == 0 else f"box{number % HOSTS}" for number in range(SESSIONS)]
            processes = [
                hosts.here.popen("push", source, f"{name}:{destination}", "--json")
                for name, (source, destination) in zip(names, roots, strict=True)
            ]
            struck = set(chosen.sample(range(SESSIONS), SESSIONS // 2))
            for number in sorted(struck, key=lambda _: chosen.random()):
                processes[number].send_signal(signal.SIGINT)
                time.sleep(chosen.random() / 20)
            for number, (process, (source, destination)) in enumerate(zip(processes, roots, strict=True)):
                out, err = process.communicate(timeout=120)
                if number not in struck:
                    ended = read_result(process.returncode, out, err)
                    assert ended.status == 0, ended
                    assert_same(source, destination)
                elif destination.exists():
                    assert contents(destination).items() <= contents(source).items()
            for number in sorted(struck)[:5]:
                source, destination = roots[number]
                ended = run_job(hosts.here, "push", source, f"{names[number]}:{destination}")
                assert ended.status == 0, ended
                assert_same(source, destination)
                assert not our_files(destination)
            healthy(hosts.here, *there)
            for agent in there[1:]:
                agent.stop()
        finally:
            for agent in there[1:]:
                agent.kill()
