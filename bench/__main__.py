"""``python -m bench``: measure, check every tree that comes out, print the table, write the JSON.

The exit status: 0 when every bound is held; 1 when one is missed or a tree came out wrong; 2 when the machine lacks
something.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bench.cases import CASES, Case, SyncCase
from bench.hosts import find_syncctl
from bench.report import document, machine, table
from bench.run import Bench, Result
from tests.helpers.oracle import RSYNC
from tests.helpers.sshd import SSHD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

RESULTS = Path(__file__).parent / "results"
TREES = sorted({case.tree.name for case in CASES.values() if isinstance(case, SyncCase)})
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run what the command line asks for."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{case.name:<14} {case.what}" for case in CASES.values()))
        return 0
    cases = [case for case in CASES.values() if not arguments.case or {case.name, _tree_of(case)} & set(arguments.case)]
    lacking = _lacking(cases, arguments.where)
    if lacking:
        sys.stderr.write("".join(f"bench: {line}\n" for line in lacking))
        return 2
    for number in _ENDS:
        signal.signal(number, _end)
    results: list[Result] = []
    with _alone(arguments.where), tempfile.TemporaryDirectory(prefix="syncctl-bench-", dir=arguments.where) as place:
        installed = find_syncctl()
        facts = {
            "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **machine(installed, place, arguments.runs),
        }
        bench = Bench(Path(place), installed, arguments.runs, arguments.patience)
        for result in bench.measure(cases):
            results.append(result)
            for line in result.wrong:
                sys.stderr.write(f"bench: {result.case.name}: {line}\n")
    results.sort(key=lambda result: cases.index(result.case))
    print(table(results))
    for after, processes in bench.memory_kib.items():
        print(f"memory of the near agent and its children, after {after}: {sum(processes.values()) / 1000:.1f} MB PSS")
    path = arguments.json or RESULTS / (facts["begun"].replace(":", "") + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(results, bench.memory_kib, facts), indent=1) + "\n")
    print(f"written: {os.path.relpath(path)}")
    return 0 if all(result.held for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="syncctl beside rsync, over one private sshd.")
    parser.add_argument(
        "--case", action="append", choices=[*CASES, *TREES], metavar="NAME",
        help="only this case, or all of this tree; may be repeated",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--runs", type=_count, default=5, metavar="N", help="runs after the warm-up (%(default)s)")
    parser.add_argument("--where", default="/dev/shm", metavar="DIR", help="where the trees are (%(default)s)")
    parser.add_argument(
        "--patience", type=float, default=2.0, metavar="S",
        help="wait up to S seconds before each run for the rest of the machine to be idle (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there (default: bench/results/)")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _tree_of(case: Case) -> str | None:
    return case.tree.name if isinstance(case, SyncCase) else None


def _lacking(cases: list[Case], where: str) -> list[str]:
    """What this machine does not have, a line each."""
    found = {"sshd (Debian: apt install openssh-server)": SSHD, "rsync": RSYNC}
    found |= {name: shutil.which(name) for name in ("ssh", "ssh-keygen")}
    lines = [f"{name} is not installed" for name, path in found.items() if path is None]
    if not os.path.exists("/proc/self/smaps_rollup"):
        lines.append("this reads Linux's /proc")
    if not os.path.isdir(where):
        return [*lines, f"{where} is not a directory; name another with --where"]
    room = max((case.tree.room_bytes for case in cases if isinstance(case, SyncCase)), default=0)
    free = shutil.disk_usage(where).free
    if free < room:
        lines.append(f"{where} has {free / 1e9:.1f} GB free of {room / 1e9:.1f}; name another with --where")
    return lines


@contextlib.contextmanager
def _alone(where: str) -> Iterator[None]:
    """Two benches at once measure each other: wait for the one that has its trees there, by a lock on the directory."""
    directory = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"bench: another one is running in {where}; waiting for its end\n")
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Clean up once, whatever else comes."""
    for other in _ENDS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
