"""Turns: one job of a whole pair at a time, whoever asked for it; and some of its paths beside it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from proto.job import JobEvent, Problems
from proto.looks import unpack_looks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from proto.job import Job, Outcome

E = TypeVar("E", bound=JobEvent)


class Runner(Protocol):
    """What does a job: the sessions."""

    async def run_job(self, job: Job, environ: Mapping[str, str], report: Callable[[JobEvent], None]) -> Outcome:
        """Carry it out.  Raises SyncError; cancellation ends it cleanly."""


class _Turn:
    """One pair's.  ``passed``: the scopes of jobs that began while a whole one was under way."""

    def __init__(self) -> None:
        self.lock = trio.StrictFIFOLock()
        self.passed: list[bytes] = []

    def without_passed(self, event: E) -> E:
        """A whole job's event without what another job put in its way: that is looked at again."""
        if not self.passed or not isinstance(event, Problems):
            return event
        looks = [look for scope in self.passed for look in unpack_looks(scope)]
        kept = [
            problem for problem in event.problems if problem[1] != "changed-here" or not _covered(problem[0], looks)
        ]
        return event._replace(problems=kept)


class Turns:
    """By pair, whose turn it is: a second job would find the destination's root leased, and fail."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    async def run(
        self,
        runner: Runner,
        job: Job,
        environ: Mapping[str, str],
        report: Callable[[JobEvent], None],
        begin: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Carry a job out when it is its turn; ``begin`` is called then.  Raises SyncError.

        Jobs about some paths, and those that change nothing, do not wait.  What such a job is about is looked at once
        more behind the whole pair's that was under way: that one may have read these paths before they changed.
        """
        if job.pair is None or job.options.dry_run:
            begin()
            return await runner.run_job(job, environ, report)
        if job.scope is not None:
            begin()
            if job.pair in self._turns:
                self._turns[job.pair].passed.append(job.scope)
            return await runner.run_job(job, environ, report)
        async with self.turn(job.pair) as turn:
            begin()
            outcome = await runner.run_job(job, environ, lambda event: report(turn.without_passed(event)))
            kept = turn.without_passed(Problems(outcome.problems)).problems
            outcome = outcome._replace(
                problems=kept, problem_count=outcome.problem_count - len(outcome.problems) + len(kept)
            )
            while turn.passed:
                scope, turn.passed = b"".join(turn.passed), []
                plain = job.options._replace(itemize=False, profile=False)
                again = await runner.run_job(job._replace(scope=scope, options=plain), environ, report)
                outcome = _both(outcome, again)
            return outcome

    @asynccontextmanager
    async def turn(self, pair: str) -> AsyncIterator[_Turn]:
        """Wait for one's turn, and have it."""
        turn = self._turns.setdefault(pair, _Turn())
        try:
            async with turn.lock:
                turn.passed.clear()
                yield turn
        finally:
            statistics = turn.lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._turns.pop(pair, None)


def _covered(path: bytes, looks: list[tuple[bytes, bool]]) -> bool:
    """Whether ``path`` is one of these, below one, or a directory that one is in."""
    return any(
        path == look or look.startswith(path + b"/") or (deep and path.startswith(look + b"/")) for look, deep in looks
    )


def _both(first: Outcome, second: Outcome) -> Outcome:
    """A job's outcome with that of what was looked at once more."""
    return first._replace(
        problems=[*first.problems, *second.problems],
        problem_count=first.problem_count + second.problem_count,
        wire_sent=first.wire_sent + second.wire_sent,
        wire_received=first.wire_received + second.wire_received,
        seconds=first.seconds + second.seconds,
    )
