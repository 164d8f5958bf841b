"""What an editor feels: saves that travel by themselves, or on request; and what it costs to wait for them."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from typing import TYPE_CHECKING

from bench import proc, trees
from bench.case import AGAIN, Case
from bench.contenders import OURS
from bench.figures import Bound, Run
from bench.lines import Lines
from bench.wan import Wan
from tests.helpers.oracle import differences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.case import Measure
    from bench.hosts import Hosts

SAVES = 500
GIVE_UP_S = 30.0
LOOK_S = 0.0002
"""How often it is looked whether a save has arrived."""
IDLE_S = 30.0
BULK_SAVES = 40

_SLOW = Wan(50, 10)


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def watch_saves(hosts: Hosts, place: Path) -> Iterator[Run]:
    """Single saves in a watched pair of 100,000 files, each until the far side shows it."""
    source, destination = _watched(hosts, place)
    rng = random.Random(1)
    directories = sorted(path.name for path in source.iterdir())
    took = []
    for number in range(SAVES):
        where = f"{rng.choice(directories)}/f{rng.randrange(1000):05}"
        content = f"save {number} {rng.random()}\n".encode()
        time.sleep(rng.uniform(0.02, 0.08))
        begun = time.perf_counter()
        (source / where).write_bytes(content)
        _wait_shown(destination / where, content)
        took.append(time.perf_counter() - begun)
    yield Run(OURS.name, 1, {"p50_s": statistics.median(took), "p99_s": percentile(took, 0.99)})
    _equal(hosts, source, destination)


def asked_saves(hosts: Hosts, place: Path) -> Iterator[Run]:
    """Saves that an editor asks for by JSON lines, each until the agent says that it is applied."""
    source, destination = _pair(hosts, place)
    rng = random.Random(2)
    directories = sorted(path.name for path in source.iterdir())
    took = []
    with Lines(hosts) as lines:
        for number in range(200):
            path = source / rng.choice(directories) / f"f{rng.randrange(1000):05}"
            path.write_bytes(f"asked {number} {rng.random()}\n".encode())
            begun = time.perf_counter()
            lines.ask({"t": "sync", "id": number + 1, "targets": [str(path)]})
            took.append(time.perf_counter() - begun)
            if (destination / path.relative_to(source)).read_bytes() != path.read_bytes():
                raise RuntimeError(f"{path}: said to be applied, and is not")
    yield Run(OURS.name, 1, {"p50_s": statistics.median(took), "p99_s": percentile(took, 0.99)})


def idle_watching(hosts: Hosts, place: Path) -> Iterator[Run]:
    """Watching 100,000 files that nobody touches."""
    yield _idle(hosts, place, directories=100)


def idle_million(hosts: Hosts, place: Path) -> Iterator[Run]:
    """Watching 1,000,000 files that nobody touches."""
    yield _idle(hosts, place, directories=1000, size=16)


def saves_beside_bulk(hosts: Hosts, place: Path) -> Iterator[Run]:
    """Saves, each asked for by its path, while a first push of large files fills the same slow link."""
    source, destination = _pair(hosts, place, directories=2, each=100)
    bulk = place / "bulk"
    for number in range(4):
        trees.large_file(bulk / f"large{number}", 32)
    command = [*map(os.fsdecode, hosts.here.argv), "push", str(bulk), f"box:{place / 'bulk there'}"]
    took = []
    with (
        subprocess.Popen(command, env=hosts.here.environ, cwd="/", stdout=subprocess.DEVNULL) as pushing,
        Lines(hosts) as lines,
    ):
        time.sleep(3.0)  # until buffers on the way are as full as they get
        for number in range(BULK_SAVES):
            path = source / "d000" / f"f{number:05}"
            path.write_bytes(os.urandom(2048))
            begun = time.perf_counter()
            lines.ask({"t": "sync", "id": number + 1, "targets": [str(path)]})
            took.append(time.perf_counter() - begun)
            if (destination / path.relative_to(source)).read_bytes() != path.read_bytes():
                raise RuntimeError(f"{path}: said to be applied, and is not")
        if pushing.poll() is not None:
            raise RuntimeError("the bulk push had ended before the saves did")
        pushing.terminate()
    yield Run(OURS.name, 1, {"p50_s": statistics.median(took), "p95_s": percentile(took, 0.95)})


def _pair(
    hosts: Hosts, place: Path, *, directories: int = 100, each: int = 1000, size: int = 4096, watch: bool = False
) -> tuple[Path, Path]:
    source, destination = place / "source", place / "destination"
    trees.small_files(source, directories=directories, each=each, size=size)
    hosts.here.ok("add", "live", source, f"box:{destination}", "--mirror", *(("--watch",) if watch else ()))
    hosts.here.ok("sync", "live")
    hosts.here.ok("sync", "live")
    return source, destination


def _watched(hosts: Hosts, place: Path, **tree: int) -> tuple[Path, Path]:
    source, destination = _pair(hosts, place, watch=True, **tree)
    hosts.here.ok("flush", "live")
    hosts.settle()
    return source, destination


def _wait_shown(path: Path, content: bytes) -> None:
    give_up_at = time.monotonic() + GIVE_UP_S
    while path.read_bytes() != content:
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{path} did not get what was saved")
        time.sleep(LOOK_S)


def _idle(hosts: Hosts, place: Path, **tree: int) -> Run:
    _watched(hosts, place, **tree)
    pids = hosts.pids()
    before = proc.cpu_s(pids)
    time.sleep(IDLE_S)
    share = (proc.cpu_s(pids) - before) / IDLE_S
    return Run(OURS.name, 1, {"pss_mb": sum(hosts.agent_pss_kib().values()) * 1024 / 1e6, "core_share": share})


def _equal(hosts: Hosts, source: Path, destination: Path) -> None:
    hosts.here.ok("flush", "live")
    found = differences(source, destination)
    if found:
        raise RuntimeError(f"{len(found)} differences, such as {found[0]}")


def _live(name: str, what: str, measure: Measure, *bounds: Bound, wan: Wan | None = None) -> Case:
    return Case(name, what, None, AGAIN, bounds, (OURS,), wan=wan, live=measure)


CASES: tuple[Case, ...] = (
    _live(
        "watch-saves",
        f"{SAVES} saves in a watched pair of 100,000 files, until visible there",
        watch_saves,
        Bound("p50_s", None, 0.008),
        Bound("p99_s", None, 0.040),
    ),
    _live(
        "json-saves", "a saved file asked for by JSON lines, until applied", asked_saves, Bound("p50_s", None, 0.005)
    ),
    _live(
        "idle-watching",
        "idle, watching 100,000 files",
        idle_watching,
        Bound("pss_mb", None, 60),
        Bound("core_share", None, 0.002),
    ),
    _live(
        "idle-million",
        "idle, watching 1,000,000 files",
        idle_million,
        Bound("pss_mb", None, 180),
        Bound("core_share", None, 0.002),
    ),
    _live(
        "bulk-saves",
        f"{BULK_SAVES} saves while a bulk push runs, {_SLOW.what}",
        saves_beside_bulk,
        Bound("p95_s", None, 1.0),
        wan=_SLOW,
    ),
)
