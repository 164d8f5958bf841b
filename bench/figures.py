"""From runs to figures: medians, ratios, bounds.  Pure."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

METRICS = {
    "seconds": "s",
    "cpu_s": "s",
    "after_cpu_s": "s",
    "machine_cpu_s": "s",
    "first_file_s": "s",
    "rss_mb": "MB",
    "rss_here_mb": "MB",
    "rss_there_mb": "MB",
    "pss_mb": "MB",
    "literal": "B",
    "wire": "B",
    "wire_up": "B",
    "wire_down": "B",
    "p50_s": "s",
    "p95_s": "s",
    "p99_s": "s",
    "core_share": "",
    "overflows": "",
    "batches": "",
    "change_s": "s",
}
"""What a run may be measured by, and the unit.

``seconds``: the whole command.  ``cpu_s``: CPU time of the command, both agents, sshd and all of their children, until
all is quiet again; of that, ``after_cpu_s`` came after the command's end.  ``machine_cpu_s``: everything on the machine
while the command ran.  ``first_file_s``: from before the start until the first file was seen at the destination.
``rss_mb``: the peak of an agent's resident memory, the larger of both; ``rss_here_mb``, ``rss_there_mb``: the near
agent's, the far one's.  ``pss_mb``: the near agent and its children, shared pages divided.  ``literal``: bytes that no
basis had.  ``wire``: bytes that the slow network carried.  ``p50_s``, ``p95_s``, ``p99_s``: percentiles of what was
done many times in one run.  ``core_share``: processor time of both agents and the server, of one core's.
``overflows``: how often the kernel lost events of the far agent's trees.  ``batches``: how many it took to bring over
what one command changed, which itself took ``change_s``.
"""
COMPARED = ("seconds", "cpu_s", "literal", "wire")
"""Ratios of these are taken against every other contender."""


class Bound(NamedTuple):
    """The most that a figure may be: ``metric`` of syncctl, divided by that of ``against`` where one is named."""

    metric: str
    against: str | None
    most: float | None
    """None: a figure without a bound."""

    @property
    def name(self) -> str:
        """As the files have it."""
        return f"{self.metric} / {self.against}" if self.against else self.metric


class Run(NamedTuple):
    """One run."""

    contender: str
    round: int
    """0 is the warm-up, which is discarded."""
    cost: dict[str, float]
    """By METRICS."""


class Figure(NamedTuple):
    """A bound, and what came out; without a value nothing was measured."""

    name: str
    metric: str
    against: str | None
    value: float | None
    bound: float | None

    @property
    def held(self) -> bool:
        """Whether there is a value within the bound."""
        return self.bound is None or (self.value is not None and self.value <= self.bound)


def medians(runs: Iterable[Run]) -> dict[str, dict[str, dict[str, float]]]:
    """By contender and metric: ``median``, ``least`` and ``most`` of the runs after the warm-up."""
    values: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        if run.round:
            for metric, value in run.cost.items():
                values.setdefault(run.contender, {}).setdefault(metric, []).append(value)
    return {
        contender: {
            metric: {"median": statistics.median(found), "least": min(found), "most": max(found)}
            for metric, found in metrics.items()
        }
        for contender, metrics in values.items()
    }


def figures(ours: str, measured: dict[str, Any], bounds: Sequence[Bound]) -> list[Figure]:
    """Every bound's figure; then all ratios that have none, for a look."""
    others = [name for name in measured if name != ours]
    free = [
        Bound(metric, other, None)
        for other in others
        for metric in COMPARED
        if not (metric == "cpu_s" and other.startswith("floor"))
    ]
    bound_names = {bound.name for bound in bounds}
    found = [_figure(ours, measured, bound) for bound in bounds]
    more = [_figure(ours, measured, bound) for bound in free if bound.name not in bound_names]
    return found + [figure for figure in more if figure.value is not None]


def _figure(ours: str, measured: dict[str, Any], bound: Bound) -> Figure:
    value = _median(measured, ours, bound.metric)
    if bound.against is not None:
        theirs = _median(measured, bound.against, bound.metric)
        value = None if value is None or not theirs else value / theirs
    return Figure(bound.name, bound.metric, bound.against, value, bound.most)


def _median(measured: dict[str, Any], contender: str, metric: str) -> float | None:
    found = measured.get(contender, {}).get(metric)
    return None if found is None else found["median"]
