"""What a job has come to, over all epochs of its session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.job import Problems
from proto.limits import PROBLEMS_KEPT

if TYPE_CHECKING:
    from proto.job import JobEvent

Problem = tuple[bytes, str, int]

_ADDED = (
    "files", "bytes", "literal", "matched", "created", "updated", "dirs", "symlinks", "linked", "meta", "deleted",
    "moved",
)  # fmt: skip
"""Counters of a lost epoch's work that no later one does again; the others tell of the last epoch."""


class Totals:
    """Counters and problems.  Every epoch looks at every path, so the last one's problems are the job's."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.problem_count = 0
        self._before: dict[str, int] = {}
        self._lost = 0
        self._shown: set[tuple[bytes, str]] = set()

    def begin_epoch(self) -> None:
        """Forget what the next epoch finds out again."""
        self.problems = []
        self.problem_count = 0

    def lose_epoch(self, applied: dict[str, int]) -> None:
        """The epoch was lost; ``applied`` counts what is known to be applied of it."""
        self._lost += 1
        for name in _ADDED:
            if applied.get(name):
                self._before[name] = self._before.get(name, 0) + applied[name]

    def add_problems(self, problems: list[Problem]) -> JobEvent | None:
        """Count them; what of them is new to the person."""
        self.problem_count += len(problems)
        self.problems += problems[: PROBLEMS_KEPT - len(self.problems)]
        new = [problem for problem in problems if problem[:2] not in self._shown]
        new = new[: max(0, PROBLEMS_KEPT - len(self._shown))]
        self._shown.update(problem[:2] for problem in new)
        return Problems(new) if new else None

    def final(self, counters: dict[str, int], epochs: int) -> dict[str, int]:
        """``counters`` of DONE, which tell of all epochs when the receiver lived through them all."""
        return counters if counters.get("epochs") == epochs else self.with_earlier(counters)

    def with_earlier(self, counters: dict[str, int]) -> dict[str, int]:
        """``counters`` of the present epoch and what earlier ones applied."""
        return {**counters, **{name: counters.get(name, 0) + n for name, n in self._before.items()}}

    def of_all_epochs(self, counters: dict[str, int]) -> dict[str, int]:
        """``counters`` for DONE: with what earlier epochs applied, and how many epochs that tells of."""
        return {**self.with_earlier(counters), "epochs": self._lost + 1}
