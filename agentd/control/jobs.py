"""Jobs: the ones under way, and the last ones that ended."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from proto.errors import SyncError
from proto.job import Items, Job, Notice, Outcome, Problems, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd.control.events import EventLog
    from agentd.watch.turns import Runner, Turns
    from proto.job import JobEvent

ENDED_KEPT = 16
"""Ended jobs that status still shows: who detaches a job looks for it later."""

_log = logging.getLogger(__name__)


class Record:
    """One job and how far it is."""

    __slots__ = ("counters", "detached", "ended", "error", "job", "number", "phase", "problem_count", "scope",
                 "started", "state")  # fmt: skip

    def __init__(self, number: int, job: Job, *, detached: bool) -> None:
        self.number = number
        self.job = job
        self.detached = detached
        self.started = trio.current_time()
        self.ended: float | None = None
        self.state = "waiting"
        self.phase = ""
        self.counters: dict[str, int] = {}
        self.problem_count = 0
        self.error: str | None = None
        self.scope = trio.CancelScope()


class Jobs:
    """The register of jobs; runs each one on behalf of whoever asked, of a whole pair when it is its turn."""

    def __init__(
        self, runner: Runner, events: EventLog, turns: Turns, in_order: Callable[[str], None] = lambda _: None
    ) -> None:
        """``in_order`` is told of pairs that a job has brought up to date."""
        self._in_order = in_order
        self._runner = runner
        self._turns = turns
        self._events = events
        self._last = 0
        self._running: dict[int, Record] = {}
        self._ended: deque[Record] = deque(maxlen=ENDED_KEPT)

    def add(self, job: Job, *, detached: bool) -> Record:
        """A job that waits to be run."""
        self._last += 1
        record = self._running[self._last] = Record(self._last, job, detached=detached)
        return record

    def records(self) -> list[Record]:
        """Those that ended, oldest first, then those under way."""
        return [*self._ended, *self._running.values()]

    def cancel(self, number: int) -> bool:
        """Stop a job; False when there is none of that number under way."""
        record = self._running.get(number)
        if record is None:
            return False
        record.scope.cancel()
        return True

    def drop(self, record: Record) -> None:
        """A job that will not be run after all."""
        if self._running.pop(record.number, None) is not None:
            record.state, record.ended = "cancelled", trio.current_time()
            self._ended.append(record)

    async def run(
        self, record: Record, environ: Mapping[str, str], timeout_s: float | None, report: Callable[[JobEvent], None]
    ) -> Outcome:
        """Carry out a job.  Raises SyncError, and that only: also for a timeout, a Cancel, and defects of ours."""
        job = record.job
        publish = partial(self._events.publish, job=record.number, pair=job.pair)

        def begin() -> None:
            publish("job-started", f"{job.source} to {job.destination}")
            record.state = "running"

        def note(event: JobEvent) -> None:
            if isinstance(event, Progress):
                if event.phase != record.phase:
                    publish("job-phase", event.phase, counters=event.counters)
                record.phase, record.counters = event.phase, event.counters
            elif isinstance(event, Problems):
                record.problem_count += len(event.problems)
            elif isinstance(event, Notice):
                publish("job-notice", event.text)
            report(event)

        try:
            outcome = await self._run(record, environ, timeout_s, note, begin)
        except SyncError as e:
            record.state, record.error = "cancelled" if e.code == "cancelled" else "failed", e.message
            publish("job-failed", e.message, code=e.code)
            raise
        except trio.Cancelled:
            record.state = "cancelled"
            publish("job-failed", "its command went away", code="cancelled")
            raise
        else:
            record.state, record.problem_count = "done", outcome.problem_count
            done = f"done with {outcome.problem_count} problems" if outcome.problem_count else "done"
            publish("job-done", done, counters=outcome.stats)
            if job.pair is not None and job.scope is None and not (job.options.dry_run or outcome.problem_count):
                self._in_order(job.pair)
            return outcome
        finally:
            del self._running[record.number]
            record.ended = trio.current_time()
            self._ended.append(record)

    async def _run(
        self,
        record: Record,
        environ: Mapping[str, str],
        timeout_s: float | None,
        report: Callable[[JobEvent], None],
        begin: Callable[[], None],
    ) -> Outcome:
        try:
            with record.scope, trio.CancelScope() as limit:
                if timeout_s is not None:
                    limit.deadline = trio.current_time() + timeout_s
                return await self._turns.run(self._runner, record.job, environ, report, begin)
        except SyncError:
            raise
        except Exception as e:
            found = _sync_error(e)
            if found is not None:
                raise found from e
            _log.exception("job %d failed by a defect", record.number)
            raise SyncError("internal", f"{type(e).__name__}: {e}") from e
        if limit.cancelled_caught:
            raise SyncError("timeout", f"{record.job.destination}: not done within {timeout_s:g} s")
        raise SyncError("cancelled", f"{record.job.destination}: cancelled")


def batches(event: Items | Problems, limit: int) -> list[Items | Problems]:
    """``event`` in parts that stay below ``limit`` bytes each when packed."""
    if isinstance(event, Items):
        return [*_split_items(event.payload, limit)]
    parts: list[Items | Problems] = []
    part: list[tuple[bytes, str, int]] = []
    size = 0
    for problem in event.problems:
        cost = len(problem[0]) + len(problem[1]) + 9
        if part and size + cost > limit:
            parts.append(Problems(part))
            part, size = [], 0
        part.append(problem)
        size += cost
    return [*parts, Problems(part)] if part else parts


def _split_items(payload: bytes, limit: int) -> list[Items]:
    parts: list[Items] = []
    at = 0
    while len(payload) - at > limit:
        end = payload.rfind(b"\0", at, at + limit) + 1
        if end <= at:  # one line beyond the limit: no name is that long
            break
        parts.append(Items(payload[at:end]))
        at = end
    return [*parts, Items(payload[at : at + limit])] if at < len(payload) else parts


def _sync_error(error: BaseException) -> SyncError | None:
    """The first SyncError inside an exception group."""
    if isinstance(error, SyncError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found = _sync_error(inner)
            if found is not None:
                return found
    return None
