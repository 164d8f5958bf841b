"""``python -m bench``: measure, check every tree that comes out, print the table, write the JSON."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from typing import TYPE_CHECKING

from bench.cases import CASES, Source
from bench.contenders import contenders, pss_kib, syncctl_argv, timed
from bench.report import Figures, table, write
from tests.helpers.hosts import short_directory, this_account, two_hosts
from tests.helpers.oracle import RSYNC, rsync_finds
from tests.helpers.sshd import SSHD, descendants
from tests.helpers.trees import remove

if TYPE_CHECKING:
    from bench.cases import Case
    from bench.contenders import Contender
    from tests.helpers.hosts import Hosts

STATUS_BOUND_S = 0.035
PSS_BOUND_KIB = 60_000
_STATUS_RUNS = 41


def main() -> int:
    """The exit status: 1 when a tree came out wrong or a bound was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="syncctl beside rsync over one private sshd.")
    parser.add_argument("--case", action="append", choices=[*CASES, "status"], help="only this one; may be repeated")
    parser.add_argument(
        "--runs", type=int, default=5, help="measured runs of each step, after one discarded (%(default)s)"
    )
    parser.add_argument("--no-gcm", action="store_true", help="leave rsync with aes128-gcm out")
    arguments = parser.parse_args()
    if RSYNC is None or SSHD is None:
        sys.stderr.write("bench: rsync and sshd (OpenSSH's server) are needed\n")
        return 2
    wanted = arguments.case or [*CASES, "status"]
    figures: list[Figures] = []
    extra: dict[str, float] = {}
    account = this_account()
    held = True
    with short_directory() as directory, two_hosts(account, directory) as hosts:
        taking_part = contenders(hosts)[: 2 if arguments.no_gcm else 3]
        for name in wanted:
            if name in CASES:
                figures += run_case(CASES[name], taking_part, arguments.runs)
        if "status" in wanted:
            extra = resident(hosts, directory.joinpath("tree"))
    if figures:
        print(table(figures))
        held = all(one.held() for one in figures)
    if extra:
        print(
            f"syncctl status: {extra['status_s'] * 1000:.1f} ms median (bound {STATUS_BOUND_S * 1000:.0f});  "
            f"idle agent with a warm link: {extra['pss_kib'] / 1000:.1f} MB (bound {PSS_BOUND_KIB / 1000:.0f})"
        )
        held = held and extra["status_s"] <= STATUS_BOUND_S and extra["pss_kib"] <= PSS_BOUND_KIB
    print(f"written: {os.path.relpath(write(figures, extra))}")
    return 0 if held else 1


def run_case(case: Case, taking_part: list[Contender], runs: int) -> list[Figures]:
    """Build the tree, then every step: the contenders by turns, each at a destination of its own."""
    with tempfile.TemporaryDirectory(prefix="syncbench", dir=roomy(case.tree_mib * (2 + len(taking_part)))) as place:
        source = Source(f"{place}/source")
        say(f"{case.title}: building")
        case.build(source)
        destinations = {one.name: f"{place}/{number}" for number, one in enumerate(taking_part)}
        figures = []
        for step in case.steps:
            seconds: dict[str, list[float] | None] = {one.name: [] for one in taking_part}
            for run in range(runs + 1):
                if step.change is not None:
                    step.change(source)
                # whoever begins finds the source's pages colder than who comes last
                first = run % len(taking_part)
                for one in taking_part[first:] + taking_part[:first]:
                    destination = destinations[one.name]
                    if step.fresh:
                        remove(destination)
                    took = timed(one.command(source.root, destination), one.environ)
                    wrong = rsync_finds(source.root, destination)
                    if wrong:
                        say(f"{one.name}: {len(wrong)} differences, such as {wrong[0]}")
                        seconds[one.name] = None
                    found = seconds[one.name]
                    if run and found is not None:
                        found.append(took)
                say(f"{case.title}: {step.name}: {'warm-up' if run == 0 else f'{run} of {runs}'}")
            figures.append(Figures(case.title, step.name, step.bound, seconds))
        return figures


def resident(hosts: Hosts, tree: os.PathLike[str]) -> dict[str, float]:
    """What the agent costs while nothing is to be done."""
    os.makedirs(tree)
    hosts.here.ok("push", os.fspath(tree), f"box:{os.fspath(tree)}.copy")
    runs = [timed([*syncctl_argv(), "status"], hosts.here.environ) for _ in range(_STATUS_RUNS)]
    pid = hosts.here.pid
    return {"status_s": statistics.median(runs[1:]), "pss_kib": pss_kib([pid, *descendants(pid)])}


def roomy(mib: int) -> str | None:
    """A directory in memory with that much room, or None for the usual one on disk, with a word about it."""
    if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free >= mib << 20:
        return "/dev/shm"
    say(f"/dev/shm has no {mib} MiB left: on disk instead")
    return None


def say(text: str) -> None:
    """Progress."""
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
