"""One case of the fault matrix: two roots, a canary beside them, and the oracles that hold in every case.

O1  each destination path holds exactly old or new bytes, never a torn file
O2  the canary outside both roots is unchanged
O3  an error or a problem names path, reason and next step; never a traceback
O4  the agents live, below 300 MiB, with no more descriptors than before
O5  with the fault removed one plain run converges
O6  no temporary files are left
O7  everything ends in time
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tests.helpers.hosts import Held, Hosts, our_files
from tests.helpers.oracle import assert_same
from tests.helpers.trees import TreeBuilder
from tests.helpers.trouble import Baseline, Content, Result, agent_pid, contents, healthy, run_job

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RSS_MAX_KIB = 300 << 10
JOB_S = 60.0
"""O7."""

SPARES = 6
"""Connections that are kept between sessions come and go."""


class FaultCase:
    """A source and a destination below ``place``, or where they are given.  The source is the account's when made.

    On a file system with faults ``source_behind`` and ``destination_behind`` are where they are seen without them.
    """

    def __init__(
        self, hosts: Hosts, place: Path, *, source: Path | None = None, destination: Path | None = None
    ) -> None:
        self.hosts, self.agents = hosts, (hosts.here, hosts.there)
        self.source, self.destination = source or place / "source", destination or place / "destination"
        self.source_behind, self.destination_behind = self.source, self.destination
        self._canary = place / "canary"
        with TreeBuilder(self._canary) as tree:
            tree.populate(8, 2)
        hosts.account.owns(self._canary)
        self._canary_was = _looks(self._canary)
        self.source.mkdir(exist_ok=True)
        hosts.account.owns(self.source)
        self.agents_are_new()
        self._versions: list[Content] = [{}]
        self._before: Content = {}
        self._converged = False
        self._builds = 0
        """The seed of times: what is built again is newer or older, never the same."""

    def agents_are_new(self) -> None:
        """What they hold is counted from here."""
        _warm(self.hosts)
        self._baselines = [Baseline(agent) for agent in self.agents]

    def build(self, files: Mapping[str, bytes] | Mapping[bytes, bytes]) -> None:
        """Write these files, with the directories above them, and let them be the account's."""
        self._builds += 1
        with TreeBuilder(self.source, self._builds) as tree:
            for path, content in files.items():
                tree.file(os.fsencode(path), content)
        self.hosts.account.owns(self.source)

    def version(self) -> Content:
        """From now on the destination may hold what the source holds now."""
        self._versions.append(contents(self.source_behind))
        return self._versions[-1]

    def push(self, *options: str, verb: str = "push") -> Result:
        """Bring it there (or get it, with ``pull``), however it ends, and hold what it said to O1 and O3."""
        self.version()
        self._before = contents(self.destination_behind)
        pair = (self.source, f"box:{self.destination}") if verb == "push" else (f"box:{self.source}", self.destination)
        ended = run_job(self.hosts.here, verb, *pair, *options, timeout=JOB_S)
        self.version()
        self.whole()
        assert "Traceback" not in ended.err, ended.err
        if ended.error:
            assert ended.error["message"], ended
            assert ended.error["hint"], ended
        elif ended.status:
            assert ended.status == 1, ended
            assert ended.problems, ended
        unnamed = [problem for problem in ended.problems if "path" not in problem and "path_b64" not in problem]
        assert not unnamed, unnamed
        return ended

    def whole(self) -> None:
        """O1."""
        if os.path.isdir(self.destination_behind):
            now = contents(self.destination_behind)
            wrong = [
                path
                for path, seen in now.items()
                if seen[0] != "special" and all(had.get(path) != seen for had in self._versions)
            ]
            assert not wrong, wrong[:20]

    def kept(self, *names: str) -> None:
        """These are there, and what they were before the last push."""
        now = contents(self.destination_behind)
        for name in map(os.fsencode, names):
            assert now[name] == self._before[name], name

    def converges(self, *options: str, verb: str = "push", same: bool = True) -> None:
        """O5, O6: a plain run ends well, and both ends are equal."""
        ended = self.push(*options, verb=verb)
        assert ended.status == 0, f"{ended}\n{self.hosts.here.log_tail()}\n{self.hosts.there.log_tail()}"
        if same:
            assert_same(self.source, self.destination)
        assert not our_files(self.destination)
        self._converged = True

    def finish(self) -> None:
        """O2, O4, at the end of the test."""
        assert self._converged or len(self._versions) == 1, "the test never let it converge"
        assert _looks(self._canary) == self._canary_was
        healthy(*self.agents)
        for agent, baseline in zip(self.agents, self._baselines, strict=True):
            baseline.wait_back(fds=SPARES)
            assert Held(agent_pid(agent)).rss_kib < RSS_MAX_KIB


def _warm(hosts: Hosts) -> None:
    """The link is up."""
    if '"state":"up"' not in hosts.here.run("status", "--json").out.replace(" ", ""):
        hosts.here.run("push", "--dry-run", hosts.here.home / "state", f"box:{hosts.there.home / 'nothing'}")


def _looks(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for directory, dirs, files in os.walk(root):
        for name in (".", *dirs, *files):
            path = os.path.join(directory, name)
            seen = os.lstat(path)
            content = b""
            if stat.S_ISREG(seen.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            found.append((path, seen.st_mode, seen.st_uid, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_nlink, content))
    return sorted(found, key=str)
