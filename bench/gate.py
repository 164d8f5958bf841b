"""The regression gate: a run against the committed baseline, in figures that mean the same on another machine.

    python -m bench.gate [RESULT.json]...            the newest result, or these together, against the baseline
    python -m bench.gate --write RESULT.json...      make them the baseline

Only ratios and memory are in the baseline: times are this machine's alone.  A figure passes up to a quarter above its
baseline (medians of five move by a tenth on a quiet machine, and by a fifth on one that others use), plus 0.02, which
is a millisecond or two of the shortest commands.  One that held its bound in the baseline has to hold it still.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

BASELINE = Path(__file__).with_name("baseline.json")
RESULTS = Path(__file__).with_name("results")
TOLERANCE, SLACK = 1.25, 0.02
_ABSOLUTE = ("rss_mb", "pss_mb")
_RATIOS = ("seconds", "literal", "wire")
"""Kept without a bound too; CPU time is counted in hundredths of a second, too coarse for short commands."""

Document = dict[str, Any]
Baseline = dict[str, dict[str, float]]


class Regression(NamedTuple):
    """A figure that is worse than it may be."""

    case: str
    figure: str
    value: float | None
    baseline: float
    allowed: float

    def __str__(self) -> str:
        now = "not measured" if self.value is None else f"{self.value:.3f}"
        return f"{self.case}: {self.figure}: {now}, baseline {self.baseline:.3f}, at most {self.allowed:.3f}"


def baseline(document: Document) -> Baseline:
    """What of a result is kept, by case and figure."""
    return {
        case["name"]: {
            row["name"]: round(row["value"], 4)
            for row in case["figures"]
            if row["value"] is not None and _comparable(row)
        }
        for case in document["cases"]
        if case["verdict"] in ("ok", "over")
    }


def regressions(document: Document, base: Baseline) -> list[Regression]:
    """Figures of the cases that were measured and are worse than the baseline lets them be.

    A case that is void is one, whatever it was measured by; a case that was skipped is none.
    """
    found = []
    for case in document["cases"]:
        rows = {row["name"]: row for row in case["figures"]}
        for name, was in base.get(case["name"], {}).items():
            if case["verdict"] == "skipped":
                continue
            row = rows.get(name, {"value": None, "bound": None})
            most = allowed(was, row["bound"])
            if (row["value"] is None and row["bound"] is not None) or (row["value"] or 0) > most:
                found.append(Regression(case["name"], name, row["value"], was, most))
        if case["verdict"] == "void" and not any(one.case == case["name"] for one in found):
            found.append(Regression(case["name"], "; ".join(case["wrong"]), None, 0.0, 0.0))
    return found


def allowed(was: float, bound: float | None) -> float:
    """The most that a figure may be."""
    most = was * TOLERANCE + SLACK
    return min(most, bound) if bound is not None and was <= bound else most


def check(document: Document) -> int:
    """Print the verdict; the exit status."""
    base: Baseline = json.loads(BASELINE.read_text())
    found = regressions(document, base)
    for one in found:
        print(f"worse: {one}")
    compared = sum(case["name"] in base and case["verdict"] != "skipped" for case in document["cases"])
    print(f"gate: {compared} cases against the baseline, {len(found)} worse")
    return 1 if found or not compared else 0


def merged(paths: Iterable[Path]) -> Document:
    """Several results as one; of a case that is in more than one, the last."""
    documents = [json.loads(path.read_text()) for path in paths]
    cases = {case["name"]: case for document in documents for case in document["cases"]}
    return {**documents[-1], "cases": list(cases.values())}


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Document]:
    """The command line, and the results that it names: by default that of the last run.  Without any, the end."""
    parser.add_argument("results", type=Path, nargs="*", help="default: the newest of bench/results/")
    arguments = parser.parse_args()
    paths = arguments.results or sorted(RESULTS.glob("*.json"))[-1:]
    if not paths:
        parser.exit(2, "bench: no result; run `make bench`\n")
    return arguments, merged(paths)


def _comparable(row: Document) -> bool:
    """Whether it means the same on another machine, and is more than a look."""
    if row["against"] is None:
        return row["metric"] in _ABSOLUTE
    return row["bound"] is not None or row["metric"] in _RATIOS


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description="A result against the baseline.")
    parser.add_argument("--write", action="store_true", help="make them the baseline")
    arguments, document = parse(parser)
    if not arguments.write:
        return check(document)
    kept = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    BASELINE.write_text(json.dumps({**kept, **baseline(document)}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
