"""``python -m bench``: measure, check every tree that comes out, print the tables, write the JSON.

The exit status: 0 when every bound is held; 1 when one is missed, a tree came out wrong, or the gate does not let it
pass; 2 when the machine lacks something.
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
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bench import gate, report
from bench.cases import CASES, selected
from bench.contenders import PEERS
from bench.disk import place
from bench.hosts import find_syncctl
from bench.run import Bench, Options, Result
from tests.helpers.oracle import RSYNC
from tests.helpers.sshd import SSHD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DISK = HERE.parent / "build"
TREES = sorted({case.tree.name for case in CASES.values() if case.tree})
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run what the command line asks for."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{case.name:<14} {'quick' if case.quick else '':<7}{case.what}" for case in CASES.values()))
        return 0
    cases = selected(arguments.case, full=arguments.full)
    lacking = _lacking(arguments)
    if lacking:
        sys.stderr.write("".join(f"bench: {line}\n" for line in lacking))
        return 2
    for number in _ENDS:
        signal.signal(number, _end)
    begun = time.monotonic()
    results: list[Result] = []
    ended: SystemExit | None = None
    with _alone(arguments.where), place(arguments.where) as memory, place(arguments.disk) as disk:
        installed = find_syncctl()
        facts = report.machine(installed, memory)
        options = Options(arguments.runs, arguments.patience, tuple(PEERS[name] for name in arguments.peer or ()))
        bench = Bench(memory, disk, installed, options)
        try:
            for result in bench.measure(cases):
                results.append(result)
                for line in result.wrong:
                    sys.stderr.write(f"bench: {result.case.name}: {line}\n")
        except SystemExit as e:  # a signal: what was measured until then is not lost
            ended = e
    results.sort(key=lambda result: cases.index(result.case))
    document = report.document(results, bench.pss_kib, facts)
    print(report.tables(document))
    print(f"{time.monotonic() - begun:.0f} s")
    path = arguments.json or RESULTS / (facts["begun"].replace(":", "") + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {os.path.relpath(path)}")
    if ended is not None:
        raise ended
    if arguments.gate:
        return gate.check(document)
    return 0 if all(case["verdict"] in ("ok", "skipped") for case in document["cases"]) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="syncctl beside rsync, over one private sshd.")
    parser.add_argument(
        "--case", action="append", choices=[*CASES, *TREES], metavar="NAME",
        help="only this case, or all of this tree; may be repeated",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="every case, not only the short set")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument(
        "--runs", type=_count, metavar="N", help="runs after the warm-up (each case has its own number)"
    )
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="one more program; may be repeated")
    parser.add_argument("--where", default="/dev/shm", metavar="DIR", help="where the trees are (%(default)s)")
    parser.add_argument(
        "--disk", default=str(DISK), metavar="DIR",
        help="where the trees of the case on a disk are (the build directory)",
    )  # fmt: skip
    parser.add_argument(
        "--patience", type=float, default=2.0, metavar="S",
        help="wait up to S seconds before each run for the rest of the machine to be idle (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there (default: bench/results/)")
    parser.add_argument("--gate", action="store_true", help="compare with bench/baseline.json, fail on a regression")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _lacking(arguments: argparse.Namespace) -> list[str]:
    """What this machine does not have, a line each."""
    found = {"sshd (Debian: apt install openssh-server)": SSHD, "rsync": RSYNC}
    found |= {name: shutil.which(name) for name in ("ssh", "ssh-keygen")}
    lines = [f"{name} is not installed" for name, path in found.items() if path is None]
    lines += [f"{name}: {lacks}" for name in arguments.peer or () if (lacks := PEERS[name].lacks())]
    if not os.path.exists("/proc/self/clear_refs"):
        lines.append("this reads Linux's /proc")
    if not os.path.isdir(arguments.where):
        lines.append(f"{arguments.where} is not a directory; name another with --where")
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
