"""The measuring: every contender in turn, each run checked."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from typing import TYPE_CHECKING, NamedTuple

from bench.case import Lacking
from bench.cases import AGAIN, CHANGED, FIRST, IDLE_CASE, STATUS_CASE, Case
from bench.contenders import OURS, Job
from bench.figures import Run
from bench.hosts import two_hosts
from bench.room import lacking
from bench.verify import differences
from tests.helpers.hosts import ordinary_account
from tests.helpers.trees import remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.case import Measure
    from bench.contenders import Contender
    from bench.hosts import Hosts, Installed
    from bench.trees import Tree

STATUS_RUNS = 4
"""Runs of `status` for each run of the others: it is short, and has the widest spread."""


class Result(NamedTuple):
    """All runs of a case, in their order."""

    case: Case
    contenders: tuple[Contender, ...]
    runs: list[Run]
    wrong: list[str]
    """What was not as it has to be, a line each.  Any of it voids the case."""
    load: float
    """The machine's load average over the last minute, before."""
    skipped: str | None = None
    """Why it was not measured."""


class Options(NamedTuple):
    """How to measure."""

    runs: int | None
    """Instead of each case's own number."""
    patience_s: float
    peers: tuple[Contender, ...]


class Bench:
    """Measures cases below ``memory``, or ``disk`` for those that want one; both stay as they were.

    Cases of one tree and network share agents and a server.
    """

    def __init__(self, memory: Path, disk: Path, installed: Installed, options: Options) -> None:
        self.memory = memory
        self.disk = disk
        self.installed = installed
        self.options = options
        self.pss_kib: dict[str, dict[str, int]] = {}
        """PSS of the near agent and its children, by process, after what the key says."""

    def measure(self, cases: list[Case]) -> Iterator[Result]:
        """The cases' results, as they come."""
        groups: dict[tuple[object, ...], list[Case]] = {}
        for case in cases:
            groups.setdefault((case.tree and case.tree.name, case.wan, case.disk), []).append(case)
        for group in groups.values():
            tree = group[0].tree
            if tree is not None:
                yield from self._tree(tree, group)
                continue
            yield from self._own([case for case in group if case.live is None])
            for case in group:
                if case.live is not None:
                    yield self._live(case, case.live)

    def _tree(self, tree: Tree, cases: list[Case]) -> Iterator[Result]:
        place = self.disk if cases[0].disk else self.memory
        reason = lacking(tree, cases, place)
        if reason is None:
            _say(f"{tree.what}: building")
            try:
                reason = tree.build(place / "source")
                if reason is None:
                    os.sync()
                    with two_hosts(self.installed, cases[0].wan) as hosts:
                        race = _Race(hosts, tree, place, self.options)
                        for case in cases:
                            yield race.run(case)
                        hosts.settle()
                        self.pss_kib[cases[-1].name] = hosts.agent_pss_kib()
            finally:
                for left in list(place.iterdir()):
                    remove(left)
        if reason is not None:
            for case in cases:
                yield Result(case, (), [], [], 0.0, reason)

    def _own(self, cases: list[Case]) -> Iterator[Result]:
        """What is syncctl's alone: with one link, after one push of one file."""
        if not cases:
            return
        source, destination = self.memory / "source", self.memory / "destination"
        try:
            source.mkdir()
            (source / "file").write_bytes(b"x")
            with two_hosts(self.installed) as hosts:
                job = Job(source, destination, pull=False, delete=True, stats=False, rsync=())
                ran = hosts.run(OURS.argv(hosts, job), cases[0].limit_s)
                wrong = [ran.said] if ran.status else differences(source, destination, None)
                for case in cases:
                    load = os.getloadavg()[0]
                    if case == IDLE_CASE:
                        memory = self.pss_kib[case.name] = hosts.agent_pss_kib()
                        runs = [Run(OURS.name, 1, {"pss_mb": sum(memory.values()) * 1024 / 1e6})]
                    else:
                        runs = self._status(hosts, case, wrong)
                    yield Result(case, case.contenders, runs, wrong, load)
        finally:
            remove(source)
            remove(destination)

    def _live(self, case: Case, measure: Measure) -> Result:
        _say(case.what)
        result = Result(case, case.contenders, [], [], os.getloadavg()[0])
        try:
            with contextlib.ExitStack() as stack:
                other = stack.enter_context(ordinary_account()) if case.ordinary else None
                if case.ordinary:
                    if other is None:
                        raise Lacking("no account with a Python that it may run can be made here")
                    self.memory.chmod(0o711)
                hosts = stack.enter_context(two_hosts(self.installed, case.wan, other))
                result.runs.extend(measure(hosts, self.memory))
        except Lacking as e:
            return result._replace(skipped=str(e))
        except (RuntimeError, AssertionError, OSError) as e:
            result.wrong.append(str(e))
        finally:
            for left in list(self.memory.iterdir()):
                remove(left)
        return result

    def _status(self, hosts: Hosts, case: Case, wrong: list[str]) -> list[Run]:
        runs = []
        argv = [*map(os.fsdecode, hosts.here.argv), "status"]
        for number in range(STATUS_RUNS * (self.options.runs or case.runs) + 1):
            hosts.wait_idle(self.options.patience_s / STATUS_RUNS)
            ran = hosts.run(argv, case.limit_s)
            if ran.status:
                wrong.append(f"status: status {ran.status}: {ran.said}")
            runs.append(Run(STATUS_CASE.contenders[0].name, number, ran.cost))
        return runs


class _Race:
    """The contenders at one tree, by turns.  Each has a destination of its own."""

    def __init__(self, hosts: Hosts, tree: Tree, place: Path, options: Options) -> None:
        self.hosts = hosts
        self.tree = tree
        self.place = place
        self.options = options
        self.random = random.Random(tree.name)

    def run(self, case: Case) -> Result:
        """The warm-up and the rounds.  The first thing that goes wrong ends it."""
        self.hosts.settle()
        able = [contender for contender in (*case.contenders, *self.options.peers) if contender.lacks() is None]
        result = Result(case, tuple(able), [], [], os.getloadavg()[0])
        for contender in case.contenders:
            if contender not in able:
                _say(f"{case.name}: without {contender.name}: {contender.lacks()}")
        if case.step == AGAIN or (case.step == CHANGED and case.before is None):
            _say(f"{case.what}: before that, once")
            self._all(able, case, 0, result, timed=False)
        if case.extras is not None:
            for contender in able:
                case.extras(self._destination(contender))
        rounds = self.options.runs or case.runs
        for number in range(rounds + 1):
            if result.wrong:
                break
            _say(f"{case.what}: {f'{number} of {rounds}' if number else 'warm-up'}")
            if case.before is not None:
                case.before(self.place / "source", self.random)
                self._all(able, case, number, result, timed=False)
            if case.change is not None:
                case.change(self.place / "source", self.random)
            if case.restart:
                self.hosts.restart()
            turn = number % len(able)  # whoever goes first finds other caches than who goes last
            self._all(able[turn:] + able[:turn], case, number, result, timed=True)
        return result

    def _all(self, contenders: list[Contender], case: Case, number: int, result: Result, *, timed: bool) -> None:
        for contender in contenders:
            if result.wrong:
                break
            destination = self._destination(contender)
            if case.step == FIRST:
                remove(destination)
            run = self._sync(contender, case, destination, number, result)
            if timed:
                result.runs.append(run)
            if case.step == FIRST:
                remove(destination)

    def _destination(self, contender: Contender) -> Path:
        return self.place / f"destination of {contender.name}".replace(" ", "-").replace(":", "")

    def _sync(self, contender: Contender, case: Case, destination: Path, number: int, result: Result) -> Run:
        source = self.place / "source"
        if self.tree.twins:
            source /= contender.part
        stats = any(bound.metric == "literal" for bound in case.bounds)
        job = Job(source, destination, case.pull, case.delete, stats, case.rsync, case.syncctl)
        appears = destination if any(bound.metric == "first_file_s" for bound in case.bounds) else None
        with contender.command(self.hosts, job) as command:
            self.hosts.wait_idle(self.options.patience_s)
            ran = self.hosts.run(command.argv, case.limit_s, stdin=command.stdin, appears=appears)
        if stats:
            literal = contender.literal(ran.said)
            ran.cost.update({} if literal is None else {"literal": literal})
        where = f"{contender.name}, round {number}"
        if ran.status != 0:
            result.wrong.append(f"{where}: {'' if ran.status is None else f'status {ran.status}: '}{ran.said}")
        elif contender.checks is not None:
            found = differences(source, destination, self.tree, contender.checks, delete=case.delete)
            if found:
                result.wrong.append(f"{where}: {len(found)} differences, such as {found[0]}")
        return Run(contender.name, number, ran.cost)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
