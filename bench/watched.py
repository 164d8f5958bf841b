"""Much that happens at once in a root that is watched: a first push into it, and a git checkout in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any

from bench import trees
from bench.case import AGAIN, Case, Lacking
from bench.case import time as seconds
from bench.contenders import OURS, Job, Syncctl
from bench.figures import Bound, Run
from bench.lines import Lines
from bench.verify import differences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.hosts import Hosts

UNWATCHED = Syncctl("floor: unwatched root")
ROUNDS = 5

PACKAGE, VERSIONS = "homeassistant", ("2023.12.0", "2024.1.0")
"""A package of Python with many files, two releases of which are two versions of a real repository."""
FEWEST_DIFFER = 2000
DOWNLOAD_S = 120.0
BATCH_S = 60.0
STILL_S = 2.0
"""So long after a batch it is looked whether there is another one."""


def push_watched(hosts: Hosts, place: Path) -> Iterator[Run]:
    """100,000 files pushed into a root that is not empty and watched; the same into one that the agent never saw."""
    source, seeds = place / "source", place / "seeds"
    trees.small_files(source, directories=100, each=1000)
    for directory in source.iterdir():
        (directory / "seed").write_bytes(b"seed")
        (seeds / directory.name).mkdir(parents=True)
        shutil.copy2(directory / "seed", seeds / directory.name / "seed")
    for number in range(ROUNDS + 1):
        into = {OURS: place / f"watched {number}", UNWATCHED: place / f"unwatched {number}"}
        hosts.here.ok("push", seeds, f"box:{into[OURS]}")
        shutil.copytree(into[OURS], into[UNWATCHED], symlinks=True)
        hosts.settle()
        for contender in (OURS, UNWATCHED) if number % 2 else (UNWATCHED, OURS):
            job = Job(source, into[contender], pull=False, delete=True, stats=False, rsync=())
            ran = hosts.run(contender.argv(hosts, job), 900.0)
            if ran.status:
                raise RuntimeError(f"{contender.name}: status {ran.status}: {ran.said}")
            lost = json.loads(hosts.there.ok("status", "--json"))["agent"]["overflows"]
            yield Run(contender.name, number, {**ran.cost, "overflows": lost})
        for root in into.values():
            if found := differences(source, root, None):
                raise RuntimeError(f"{root.name}: {len(found)} differences, such as {found[0]}")
            shutil.rmtree(root)


def checkout(hosts: Hosts, place: Path) -> Iterator[Run]:
    """``git checkout`` of one release and the other, in a watched work tree: until the batch has arrived."""
    source, destination = place / "source", place / "destination"
    _repository(source, place / "releases")
    hosts.here.ok("add", "live", source, f"box:{destination}", "--mirror", "--watch")
    hosts.here.ok("flush", "live")
    hosts.settle()
    with Lines(hosts) as lines:
        lines.send({"t": "events", "id": 1})
        for number in range(ROUNDS + 1):
            begun = time.perf_counter()
            _git(source, "checkout", "-q", VERSIONS[number % 2])
            done = time.perf_counter()
            batches = [_synced(lines, BATCH_S)]
            arrived = time.perf_counter()
            while (more := _synced(lines, STILL_S)) is not None:
                batches.append(more)
            if batches[0] is None:
                raise RuntimeError(f"nothing was synced within {BATCH_S:.0f} s")
            if found := differences(source, destination, None):
                raise RuntimeError(f"{len(found)} differences, such as {found[0]}")
            yield Run(OURS.name, number, {"batches": len(batches), "seconds": arrived - done, "change_s": done - begun})


def _synced(lines: Lines, within_s: float) -> dict[str, Any] | None:
    """The next batch that arrives."""
    give_up_at = time.monotonic() + within_s
    while (left := give_up_at - time.monotonic()) > 0:
        event = lines.next(left)
        if event is not None and event["t"] == "event" and event["kind"] == "synced":
            return event
    return None


def _repository(root: Path, releases: Path) -> None:
    """Two commits, each with its tag.  Raises Lacking."""
    releases.mkdir()
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(releases)]
    if shutil.which("git") is None:
        raise Lacking("git is not installed")
    root.mkdir()
    _git(root, "init", "-q")
    for version in VERSIONS:
        try:
            subprocess.run([*download, f"{PACKAGE}=={version}"], capture_output=True, check=True, timeout=DOWNLOAD_S)
        except (OSError, subprocess.SubprocessError) as e:
            raise Lacking(f"no two releases of {PACKAGE} to be had: {_said(e)}") from e
        for name in root.iterdir():
            if name.name != ".git":
                shutil.rmtree(name)
        [wheel] = releases.glob(f"{PACKAGE}-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
        wheel.unlink()
        _git(root, "add", "-A")
        _git(root, "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", version)
        _git(root, "tag", version)
    differ = _git(root, "diff", "--name-only", *VERSIONS).count(b"\n")
    if differ < FEWEST_DIFFER:
        raise Lacking(f"the releases of {PACKAGE} differ in {differ:,} files; {FEWEST_DIFFER:,} are wanted")


def _said(error: Exception) -> str:
    said = os.fsdecode(getattr(error, "stderr", None) or b"").strip().splitlines()
    return said[-1] if said else type(error).__name__


def _git(root: Path, *words: str) -> bytes:
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    quiet = ("-c", "gc.auto=0", "-c", "core.fsync=none", "-c", "advice.detachedHead=false")
    return subprocess.run(["git", *quiet, *words], cwd=root, env=environ, check=True, stdout=subprocess.PIPE).stdout


CASES: tuple[Case, ...] = (
    Case(
        "watched-push",
        "100,000x4 KiB into a root that is watched and not empty, beside one that is not watched",
        None,
        AGAIN,
        (seconds(1.10, UNWATCHED), Bound("overflows", None, 0)),
        (OURS, UNWATCHED),
        live=push_watched,
    ),
    Case(
        "watched-git",
        "git checkout of another release in a watched work tree, until it has arrived",
        None,
        AGAIN,
        (Bound("batches", None, 1), Bound("seconds", None, None)),
        (OURS,),
        live=checkout,
    ),
)
