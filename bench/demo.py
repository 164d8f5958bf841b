"""``make demo``: two agents, a real SSH link between them, and a real tree that goes over it again and again.

Everything happens on this machine and below one temporary directory: two homes, and an SSH server of its own on a
loopback port.  After each step the trees are compared; the exit status is 1 when anything differs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.helpers.hosts import our_files, short_directory, this_account, two_hosts
from tests.helpers.oracle import RSYNC, unequal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Hosts

_BIG = 64_000_000
_LIMIT_S = 300
_ATTEMPTS = 5


class Took(NamedTuple):
    """What one run cost."""

    seconds: float
    wire: int
    files: int
    epochs: int = 1


class Row(NamedTuple):
    """One step's line."""

    step: str
    ours: Took
    rsync: Took | None
    differences: list[str]


class Demo:
    """The trees, and the two programs that sync them."""

    def __init__(self, hosts: Hosts, place: Path) -> None:
        self.hosts = hosts
        self.source = place / "source"
        self.far = place / "far"
        self.far_rsync = place / "far-rsync"
        self.back = place / "back"
        self.back_rsync = place / "back-rsync"
        self.resumed = place / "resumed"
        self.here = place / "here too"
        self.tiny = place / "tiny"
        self._python = sorted(self.source.rglob("*.py"))

    def build(self) -> int:
        """Python's own standard library as it is installed, and a log of 64 MB; how many entries there are."""
        shutil.copytree(
            sysconfig.get_path("stdlib"),
            self.source,
            symlinks=True,
            ignore=shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__"),
        )
        line = "2026-01-01T00:00:00 line {:09} of a log that is written to all day\n"
        size = len(line.format(0))
        with open(self.source / "big.log", "w") as file:
            file.writelines(line.format(number) for number in range(_BIG // size))
        self._python = sorted(path for path in self.source.rglob("*.py") if os.access(path, os.W_OK))
        return sum(1 for _ in self.source.rglob("*"))

    def steps(self) -> Iterator[Row]:
        """Every step, done and compared."""
        yield self._first_contact()
        yield self._push("push the tree")
        yield self._push("again, unchanged")
        self._python[7].write_text(self._python[7].read_text("latin-1") + "# edited\n", "latin-1")
        yield self._push("one file edited")
        for path in self._python[100:200]:
            with path.open("a") as file:
                file.write("# edited\n")
        yield self._push("100 files edited")
        with open(self.source / "big.log", "r+") as log:
            text = log.read()
            middle = text.index("\n", len(text) // 2) + 1
            log.seek(middle)
            log.write("a new line in the middle\n" + text[middle:])
        yield self._push("a line within 64 MB")
        yield self._pull("pull it all back")
        yield self._interrupted("link cut in the middle")
        took = self._syncctl("push", str(self.source), str(self.here))
        yield Row("here to here, no SSH", took, None, unequal(self.source, self.here))

    def _first_contact(self) -> Row:
        """What the first command to a host costs: two agents start, and SSH connects."""
        self.tiny.mkdir()
        (self.tiny / "hello").write_text("hello\n")
        far = self.tiny.with_name("tiny-far")
        took = self._syncctl("push", str(self.tiny), f"box:{far}")
        return Row("first contact, one file", took, None, unequal(self.tiny, far))

    def _push(self, step: str) -> Row:
        took = self._syncctl("push", str(self.source), f"box:{self.far}")
        theirs = self._rsync(f"{self.source}/", f"box:{self.far_rsync}/")
        return Row(step, took, theirs, unequal(self.source, self.far))

    def _pull(self, step: str) -> Row:
        took = self._syncctl("pull", f"box:{self.far}", str(self.back))
        theirs = self._rsync(f"box:{self.far}/", f"{self.back_rsync}/")
        return Row(step, took, theirs, unequal(self.far, self.back))

    def _interrupted(self, step: str) -> Row:
        """Cut every SSH connection as soon as something has arrived; the session goes on over a new one."""
        for _ in range(_ATTEMPTS):
            shutil.rmtree(self.resumed, ignore_errors=True)
            took = self._syncctl("push", str(self.source), f"box:{self.resumed}", cut=True)
            if took.epochs > 1:
                return Row(step, took, None, unequal(self.source, self.resumed))
        return Row(step, took, None, ["the sync was over each time before the link was cut"])

    def _syncctl(self, *words: str, cut: bool = False) -> Took:
        began = time.perf_counter()
        process = self.hosts.here.popen(*words, "--delete", "--json")
        if cut:
            while process.poll() is None and not self._some_arrived():
                time.sleep(0.001)
            self.hosts.sshd.kill_sessions()
        out, err = process.communicate(timeout=_LIMIT_S)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise RuntimeError(f"syncctl {shlex.join(words)}: {os.fsdecode(out + err)}")
        row = next(row for row in map(json.loads, out.splitlines()) if row["t"] == "result")
        return Took(seconds, row["wire_sent"] + row["wire_received"], row["stats"].get("files", 0), row["epochs"])

    def _some_arrived(self) -> bool:
        try:
            return len(os.listdir(self.resumed)) > 20
        except OSError:
            return False

    def _rsync(self, source: str, destination: str) -> Took | None:
        if RSYNC is None or shutil.which("ssh") is None:
            return None
        ssh = shlex.join(["ssh", "-F", str(self.hosts.sshd.client_config)])
        began = time.perf_counter()
        ended = subprocess.run(
            [RSYNC, "-a", "--delete", "--stats", "--no-human-readable", "-e", ssh, source, destination],
            capture_output=True,
            text=True,
            check=True,
            timeout=_LIMIT_S,
        )
        seconds = time.perf_counter() - began
        figures = [
            int(number.replace(",", ""))
            for name in ("Total bytes sent", "Total bytes received", "Number of regular files transferred")
            for number in re.findall(rf"^{name}: ([\d,.]+)$", ended.stdout, re.MULTILINE)
        ]
        return Took(seconds, figures[0] + figures[1], figures[2])


def main() -> int:
    """The exit status: 0 when every tree came out equal and nothing was left behind."""
    wrong = 0
    with short_directory() as directory:
        with two_hosts(this_account(), directory, embedded=True) as hosts:
            demo = Demo(hosts, directory)
            print(f"two agents, an SSH link on port {hosts.sshd.port}, {demo.build():,} entries to sync")
            print(f"\n{'':<24}{'files':>7}{'on the wire':>13}{'time':>10}   {'rsync: wire':>12}{'time':>10}")
            for row in demo.steps():
                print(_line(row), flush=True)
                wrong += len(row.differences)
                for text in row.differences[:5]:
                    print(f"    {text}")
        left = our_files(directory)
    wrong += len(left)
    print("\nevery tree is equal, nothing is left behind" if not wrong else f"\n{wrong} differences")
    return 1 if wrong else 0


def _line(row: Row) -> str:
    rsync = f"   {_bytes(row.rsync.wire):>12}{_time(row.rsync.seconds):>10}" if row.rsync else f"   {'-':>12}{'-':>10}"
    note = f"   went on over link {row.ours.epochs}" if row.ours.epochs > 1 else ""
    mark = "   DIFFERS" if row.differences else ""
    return (
        f"{row.step:<24}{row.ours.files:>7,}{_bytes(row.ours.wire):>13}{_time(row.ours.seconds):>10}{rsync}{note}{mark}"
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
