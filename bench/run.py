"""The measuring: every contender in turn, each run checked."""

from __future__ import annotations

import os
import random
import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple

from bench.cases import CHANGED, FIRST, IDLE, Case, OwnCase, SyncCase
from bench.hosts import CONTENDERS, OURS, RSYNC, two_hosts
from tests.helpers.oracle import rsync_finds
from tests.helpers.trees import remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.hosts import Hosts, Installed
    from bench.trees import Tree

STATUS_RUNS = 4
"""Runs of `status` for each run of the others: it is short, and has the widest spread."""


class Run(NamedTuple):
    """One run."""

    contender: str
    round: int
    """0 is the warm-up, which is discarded."""
    value: float
    """Seconds, or the case's own unit."""
    machine_cpu_s: float
    """CPU time of everything on the machine meanwhile: ours, theirs, and whatever disturbed them."""
    after_cpu_s: float
    """CPU time that the agents took after the command's end, until all was quiet."""


class Result(NamedTuple):
    """All runs of a case, in their order."""

    case: Case
    runs: list[Run]
    wrong: list[str]
    """What was not as it has to be, a line each.  Any of it voids the case."""
    load: float
    """The machine's load average over the last minute, before."""

    def values(self, contender: str) -> list[float]:
        """Its values without the warm-up; empty when the case is void."""
        return [] if self.wrong else [run.value for run in self.runs if run.contender == contender and run.round]

    def median(self, contender: str) -> float | None:
        """None when there is none."""
        values = self.values(contender)
        return statistics.median(values) if values else None

    def ratio(self, contender: str) -> float | None:
        """Of syncctl's median to this contender's."""
        ours, theirs = self.median(OURS), self.median(contender)
        return ours / theirs if ours and theirs else None

    @property
    def held(self) -> bool:
        """Whether there is a figure, and it is within the bound."""
        figure = self.ratio(RSYNC) if isinstance(self.case, SyncCase) else self.median(OURS)
        return figure is not None and figure <= self.case.bound


class Bench:
    """Measures cases below ``place``, which is empty and stays so.  Every tree has agents and a server of its own."""

    def __init__(self, place: Path, installed: Installed, runs: int, patience_s: float) -> None:
        self.place = place
        self.installed = installed
        self.runs = runs
        self.patience_s = patience_s
        self.memory_kib: dict[str, dict[str, int]] = {}
        """PSS of the near agent and its children, by process, after what the key says."""

    def measure(self, cases: list[Case]) -> Iterator[Result]:
        """The cases' results, as they come."""
        own = [case for case in cases if isinstance(case, OwnCase)]
        if own:
            yield from self._measure_own(own)
        for tree in dict.fromkeys(case.tree for case in cases if isinstance(case, SyncCase)):
            yield from self._measure_tree(tree, [c for c in cases if isinstance(c, SyncCase) and c.tree == tree])

    def _measure_tree(self, tree: Tree, cases: list[SyncCase]) -> Iterator[Result]:
        source = self.place / "source"
        destinations = {name: self.place / f"destination{number}" for number, name in enumerate(CONTENDERS)}
        try:
            _say(f"{tree.what}: building")
            tree.build(source)
            with two_hosts(self.installed) as hosts:
                race = _Race(hosts, tree, source, destinations, self.patience_s)
                for case in cases:
                    yield race.run(case, self.runs)
                hosts.settle()
                self.memory_kib[tree.name] = hosts.agent_pss_kib()
        finally:
            for path in (source, *destinations.values()):
                remove(path)

    def _measure_own(self, cases: list[OwnCase]) -> Iterator[Result]:
        source, destination = self.place / "source", self.place / "destination"
        try:
            source.mkdir()
            (source / "file").write_bytes(b"x")
            with two_hosts(self.installed) as hosts:
                ran = hosts.sync(OURS, source, destination)
                wrong = [ran.said] if ran.status else rsync_finds(source, destination)
                hosts.settle()
                for case in cases:
                    load = os.getloadavg()[0]
                    if case is IDLE:
                        memory = self.memory_kib[IDLE.name] = hosts.agent_pss_kib()
                        runs = [Run(OURS, 1, sum(memory.values()) / 1000, 0.0, 0.0)]
                    else:
                        runs = _time_status(hosts, STATUS_RUNS * self.runs, self.patience_s, wrong)
                    yield Result(case, runs, wrong, load)
        finally:
            remove(source)
            remove(destination)


class _Race:
    """The contenders at one tree, by turns.  Each has a destination of its own."""

    def __init__(
        self, hosts: Hosts, tree: Tree, source: Path, destinations: dict[str, Path], patience_s: float
    ) -> None:
        self.hosts = hosts
        self.tree = tree
        self.source = source
        self.destinations = destinations
        self.patience_s = patience_s
        self.random = random.Random(tree.name)

    def run(self, case: SyncCase, rounds: int) -> Result:
        """The warm-up and the rounds.  The first thing that goes wrong ends it."""
        result = Result(case, [], [], os.getloadavg()[0])
        if case.step != FIRST:
            for name in CONTENDERS:  # what is there may be an older case's, or nothing
                self._sync(name, 0, result)
        for number in range(rounds + 1):
            if result.wrong:
                break
            _say(f"{case.what}: {f'{number} of {rounds}' if number else 'warm-up'}")
            if case.step == CHANGED:
                self.tree.change(self.source, self.random)
            # whoever goes first finds other caches than who goes last
            turn = number % len(CONTENDERS)
            for name in CONTENDERS[turn:] + CONTENDERS[:turn]:
                if case.step == FIRST:
                    remove(self.destinations[name])
                result.runs.append(self._sync(name, number, result))
        return result

    def _sync(self, name: str, number: int, result: Result) -> Run:
        self.hosts.settle()
        self.hosts.wait_idle(self.patience_s)
        ran = self.hosts.sync(name, self.source, self.destinations[name])
        after = self.hosts.settle()
        if ran.status:
            result.wrong.append(f"{name}, round {number}: status {ran.status}: {ran.said}")
        else:
            found = rsync_finds(self.source, self.destinations[name])
            if found:
                result.wrong.append(f"{name}, round {number}: {len(found)} differences, such as {found[0]}")
        return Run(name, number, ran.seconds, ran.machine_cpu_s, after)


def _time_status(hosts: Hosts, times: int, patience_s: float, wrong: list[str]) -> list[Run]:
    """`syncctl status` in ms."""
    runs = []
    for number in range(times + 1):
        hosts.wait_idle(patience_s / STATUS_RUNS)
        ran = hosts.syncctl("status")
        if ran.status:
            wrong.append(f"status: status {ran.status}: {ran.said}")
        runs.append(Run(OURS, number, ran.seconds * 1000, ran.machine_cpu_s, 0.0))
    return runs


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
