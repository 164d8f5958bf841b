"""``make demo``: two agents, a real SSH connection, a real tree.  Ends non-zero when anything differs.

Both agents run on this machine, with homes of their own; between them is an SSH server by asyncssh on loopback, so
that nothing has to be installed or configured.  Everything happens in one temporary folder, which goes at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.helpers.embedded_ssh import EmbeddedSshd
from tests.helpers.oracle import RSYNC, unequal
from tests.helpers.trees import remove

if TYPE_CHECKING:
    from collections.abc import Callable

SYNCCTL = [sys.executable, "-P", "-m", "ctl"]
STEP_S = 300
KILL_TRIES = 8
LARGE = 64 << 20
LINE = b"and a line that was not there before\n"


class Figures(NamedTuple):
    """What one sync took; ``wire`` and ``files`` are None for rsync, which does not count in the same way."""

    seconds: float
    files: int | None = None
    wire: int | None = None
    epochs: int = 1


class Demo:
    """Two homes, a server between them, and the table of what was done."""

    def __init__(self, folder: Path, server: EmbeddedSshd, far_home: Path) -> None:
        self.folder = folder
        self.server = server
        self.failed = False
        self.homes = (folder / "near", far_home)
        far = folder / "far-syncctl"
        far.write_text(f'#!/bin/sh\nexec {_quoted(SYNCCTL)} "$@"\n')
        far.chmod(0o755)
        self.homes[0].mkdir()
        config = f"[ssh]\nconfig_file = {json.dumps(str(server.client_config))}\n"
        config += f"[host.box]\nremote_command = {json.dumps(str(far))}\n"
        (self.homes[0] / "config.toml").write_text(config)

    def syncctl(self, *words: str, while_running: Callable[[], object] | None = None) -> Figures:
        """Run it here; ``while_running()`` is called when it reports progress for the first time."""
        begun = time.perf_counter()
        command = subprocess.Popen(
            [*SYNCCTL, *words, "--json"], env=_environ(self.homes[0]), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        result = {}
        with command:
            assert command.stdout is not None
            assert command.stderr is not None
            for line in command.stdout:
                said = json.loads(line)
                if said["t"] == "progress" and said["counters"].get("bytes") and while_running:
                    while_running()
                    while_running = None
                elif said["t"] == "result":
                    result = said
            error = command.stderr.read().decode()
        seconds = time.perf_counter() - begun
        if command.returncode or not result:
            raise SystemExit(f"demo: syncctl {words[0]} ended with status {command.returncode}\n{error}")
        wire = result["wire_sent"] + result["wire_received"]
        return Figures(seconds, result["stats"]["files"], wire, result["epochs"])

    def rsync(self, *words: str) -> Figures | None:
        """The same by rsync over the same SSH; None where that cannot be."""
        if RSYNC is None or shutil.which("ssh") is None:
            return None
        shell = f"ssh -F {_quoted([str(self.server.client_config)])}"
        begun = time.perf_counter()
        ended = subprocess.run([RSYNC, "-a", "--delete", "-e", shell, *words], capture_output=True, timeout=STEP_S)
        return Figures(time.perf_counter() - begun) if ended.returncode == 0 else None

    def step(self, what: str, ours: Figures, theirs: Figures | None, source: Path, destination: Path) -> None:
        """Compare the trees, and print a row."""
        found = unequal(source, destination)
        verdict = "equal" if not found else f"{len(found)} DIFFERENCES"
        print(
            f"{what:<38}{ours.files or 0:>7,}{_bytes(ours.wire or 0):>10}{_time(ours.seconds):>10}"
            f"{_time(theirs.seconds) if theirs else '-':>10}  {verdict}",
            flush=True,
        )
        for line in found[:10]:
            print("   ", line)
        self.failed |= bool(found)

    def push(self, what: str, source: Path, there: Path, reference: Path) -> None:
        """Push ``source`` to the other agent's ``there``, rsync's to ``reference``."""
        ours = self.syncctl("push", str(source), f"box:{there}", "--delete")
        theirs = self.rsync(f"{source}/", f"box:{reference}/")
        self.step(what, ours, theirs, source, there)

    def stop(self) -> None:
        """End both agents."""
        for home in self.homes:
            subprocess.run([*SYNCCTL, "stop"], env=_environ(home), capture_output=True, timeout=60, check=False)


def run(demo: Demo, folder: Path) -> None:
    """All steps."""
    tree, there, reference = folder / "library", folder / "there", folder / "by-rsync"
    library = sysconfig.get_path("stdlib")
    shutil.copytree(library, tree, symlinks=True, ignore=shutil.ignore_patterns("site-packages", "dist-packages"))
    count = sum(len(files) for _, _, files in os.walk(tree))
    print(f"\nPython's standard library, {count:,} files, between two agents over SSH on loopback\n")
    print(f"{'step':<38}{'files':>7}{'wire':>10}{'syncctl':>10}{'rsync':>10}")
    started = demo.syncctl("push", str(_tiny(folder)), f"box:{folder / 'tiny-there'}")
    demo.step("first contact: agents, SSH, one file", started, None, folder / "tiny", folder / "tiny-there")

    demo.push("push the tree", tree, there, reference)
    demo.push("again, unchanged", tree, there, reference)
    sources = sorted(path for path in tree.rglob("*.py") if path.is_file() and not path.is_symlink())
    _append(sources[:1])
    demo.push("one file edited", tree, there, reference)
    _append(sources[:100])
    demo.push("100 files edited", tree, there, reference)
    large = tree / "large.bin"
    large.write_bytes(os.urandom(LARGE))
    demo.push("a new file of 64 MB", tree, there, reference)
    content = large.read_bytes()
    large.write_bytes(content[: LARGE // 2] + LINE + content[LARGE // 2 :])
    demo.push("one line put into its middle", tree, there, reference)

    back = folder / "back"
    ours = demo.syncctl("pull", f"box:{there}", str(back))
    demo.step("pull it back", ours, demo.rsync(f"box:{there}/", f"{folder / 'back-by-rsync'}/"), there, back)
    recover(demo, tree, folder)
    here = folder / "here"
    demo.step("here to here, no SSH", demo.syncctl("push", str(tree), str(here)), None, tree, here)


def recover(demo: Demo, tree: Path, folder: Path) -> None:
    """Cut the SSH connection in the middle of a sync.  A machine that is done before the cut gets another try."""
    for attempt in range(KILL_TRIES):
        there = folder / f"cut-{attempt}"
        ours = demo.syncctl("push", str(tree), f"box:{there}", while_running=demo.server.kill_sessions)
        if ours.epochs > 1:
            demo.step("push, the link killed in the middle", ours, None, tree, there)
            return
        remove(there)
        (tree / f"more-{attempt}.bin").write_bytes(os.urandom(2 * LARGE))
    print("the link could not be cut before the sync was done")
    demo.failed = True


def main() -> int:
    """Run the demo; the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="syncctl-demo-"))
    far_home = folder / "far"
    far_home.mkdir()
    failed = True
    try:
        with EmbeddedSshd(folder / "ssh", environ={"SYNCCTL_HOME": str(far_home)}) as server:
            demo = Demo(folder, server, far_home)
            try:
                run(demo, folder)
            finally:
                demo.stop()
            failed = demo.failed
    finally:
        remove(folder)
    print("\nsomething differs" if failed else "\nall trees are equal; nothing is left behind")
    return int(failed)


def _tiny(folder: Path) -> Path:
    tiny = folder / "tiny"
    tiny.mkdir()
    (tiny / "hello").write_text("hello\n")
    return tiny


def _append(files: list[Path]) -> None:
    for file in files:
        mode = file.stat().st_mode
        file.chmod(mode | 0o200)
        with file.open("ab") as out:
            out.write(b"# edited\n")
        file.chmod(mode)


def _environ(home: Path) -> dict[str, str]:
    return os.environ | {"SYNCCTL_HOME": str(home)}


def _quoted(words: list[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
