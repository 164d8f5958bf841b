"""The jobs of one request, and its answers: what is reported, what became of each path, how each job ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentd.control.jobs import batches
from agentd.control.targets import Asked, fates
from proto import control, job, limits
from proto.control_jobs import PATHS_TIMEOUT_MS
from proto.errors import SyncError
from proto.job import format_location

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentd.control.jobs import Jobs, Record
    from agentd.control.outbox import Outbox
    from proto.job import JobEvent, Outcome


class Answers:
    """Jobs for some paths run at once and side by side, and are answered by their deadline, whatever it takes to end
    them; whole pairs follow, one after the other.  The last answer of all has ``remaining`` 0.
    """

    def __init__(
        self,
        jobs: Jobs,
        outbox: Outbox,
        request: int,
        asked: Sequence[Asked],
        refused: Sequence[SyncError],
        notice: str | None,
    ) -> None:
        self.jobs = jobs
        self.outbox = outbox
        self.request = request
        self._notice = notice
        self._refused = refused
        self._todo = [(one, jobs.add(one.job, detached=False)) for one in asked]
        self._left = len(self._todo) + len(refused)

    async def run(self, environ: Mapping[str, str], timeout_s: float | None) -> None:
        """Until each has ended.  When it is cancelled, they are."""
        try:
            async with trio.open_nursery() as nursery:
                for one, record in self._todo:
                    if one.paths:
                        self._accept(record)
                        within_s = PATHS_TIMEOUT_MS / 1000 if timeout_s is None else timeout_s
                        nursery.start_soon(self._in_time, one, record, environ, within_s)
            for one, record in self._todo:
                if not one.paths:
                    self._accept(record)
                    await _Answer(self, one, record).run(environ, timeout_s)
            for error in self._refused:
                self.outbox.post(control.Error(self.request, error.code, error.message, error.hint, None, self.last()))
        finally:
            for _, record in self._todo:
                self.jobs.drop(record)

    def last(self) -> int:
        """How many last words are still to come behind this one."""
        self._left -= 1
        return self._left

    def _accept(self, record: Record) -> None:
        post, number = self.outbox.post, record.number
        post(accepted(self.request, record, self._left - 1))
        if self._notice is not None:
            post(control.Notice(self.request, number, self._notice))

    async def _in_time(self, one: Asked, record: Record, environ: Mapping[str, str], timeout_s: float) -> None:
        answer = _Answer(self, one, record)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer.give_up, timeout_s)
            await answer.run(environ, timeout_s)
            nursery.cancel_scope.cancel()


class _Answer:
    """One job's part."""

    def __init__(self, answers: Answers, asked: Asked, record: Record) -> None:
        self._answers = answers
        self._asked = asked
        self._record = record
        self._reported = 0
        self._given = False

    async def run(self, environ: Mapping[str, str], timeout_s: float | None) -> None:
        """Carry it out and answer."""
        answers = self._answers
        try:
            outcome = await answers.jobs.run(self._record, environ, timeout_s, self._report)
        except SyncError as e:
            self._end(None, e)
        else:
            # an outcome holds the problems in the order of the reports; what was not reported comes now
            self._report(job.Problems(outcome.problems[self._reported :]))
            self._end(outcome, None)

    async def give_up(self, timeout_s: float) -> None:
        """Answer when the time is up: the job is cancelled then, which takes the far end's consent."""
        await trio.sleep(timeout_s)
        self._end(None, SyncError("timeout", f"{self._record.job.destination}: not done within {timeout_s:g} s"))

    def _end(self, outcome: Outcome | None, error: SyncError | None) -> None:
        if self._given:
            return
        self._given = True
        answers, number = self._answers, self._record.number
        request, post = answers.request, answers.outbox.post
        answers.outbox.close_job(request, number)
        for fate, paths in fates(self._asked, outcome).items():
            for part in _parts(paths):
                post(control.Paths(request, number, fate, part))
        if error is not None:
            post(control.Error(request, error.code, error.message, error.hint, number, answers.last()))
        elif outcome is not None:
            post(_result(request, number, outcome, answers.last()))

    def _report(self, event: JobEvent) -> None:
        if self._given:
            return
        request, number = self._answers.request, self._record.number
        outbox = self._answers.outbox
        if isinstance(event, job.Progress):
            outbox.post(control.Progress(request, number, event.phase, event.counters))
        elif isinstance(event, job.Notice):
            outbox.post(control.Notice(request, number, event.text[: limits.TEXT_MAX]))
        else:
            for part in batches(event, limits.CONTROL_PAYLOAD_MAX):
                if isinstance(part, job.Items):
                    outbox.post(control.Items(request, number), part.payload)
                else:
                    self._reported += len(part.problems)
                    outbox.post(control.Problems(request, number), control.pack_problems(part.problems))


_PATHS_BYTES = 32 << 10
"""Of names in one PATHS: a head has twice the room."""


def _parts(paths: list[bytes]) -> list[list[bytes]]:
    parts: list[list[bytes]] = [[]]
    size = 0
    for path in paths:
        if parts[-1] and size + len(path) > _PATHS_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(path)
        size += len(path)
    return parts


def accepted(request: int, record: Record, left: int) -> control.Accepted:
    """What is said of a job first."""
    wanted = record.job
    return control.Accepted(
        request, record.number, format_location(wanted.source), format_location(wanted.destination), wanted.pair, left
    )


def _result(request: int, number: int, outcome: Outcome, left: int) -> control.Result:
    return control.Result(
        request, number, outcome.stats, outcome.problem_count, outcome.epochs, outcome.wire_sent,
        outcome.wire_received, int(outcome.seconds * 1e6), left, outcome.profile,
    )  # fmt: skip
