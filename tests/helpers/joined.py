"""A Sender and a Receiver joined in one process, and rsync beside them: the same pair of trees, synced by both.

As a program it serves tasks, one JSON object a line, so that a test run by root can have them done by an ordinary user.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agentd import _core

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 60.0
_ITEM = re.compile(rb"^(?:[<>ch.][fdLDS][^ ]{9}|\*deleting  ) ")


class Outcome(NamedTuple):
    """What a session said."""

    items: list[bytes]
    problems: list[tuple[bytes, str, int]]
    failure: tuple[str, bytes, int, str] | None
    counters: dict[str, int]
    bases: list[int]
    """Bytes of each BASIS."""


def sync(
    source: str,
    destination: str,
    *,
    owners: bool = False,
    passing: Callable[[int], None] | None = None,
    compress: str = "auto",
    tree: _core.Tree | None = None,
    hearing: Callable[[str, int, memoryview], None] | None = None,
    confine: bool = True,
    **options: Any,
) -> Outcome:
    """One session to its end, in this process.  ``passing`` is called before each payload of data, with its number;
    ``hearing`` of each LIST on its way to the receiver, and of each event on its way back."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    settings: dict[str, Any] = {
        "filters": [], "delete": False, "hashes": False, "owner": owners, "group": owners, "hard_links": True,
            "dry_run": False,
        "itemize": True, "force": True, "max_delete": None, "arrow": ">", "threads": 2, "delta_min": 1 << 16,
        "partial_min": 1 << 20, "list_window": 1 << 20, "data_window": 1 << 24, "temp_tag": "00c0ffee",
    }  # fmt: skip
    settings |= options
    receiver = sender = None
    try:
        receiver = _core.Receiver(os.fsencode(destination), wake_fd=write_fd, confine=confine, **settings)
        sender = _core.Sender(
            os.fsencode(source), filters=settings["filters"], hashes=settings["hashes"], owners=owners,
            hard_links=settings["hard_links"], threads=2, batch_max=1 << 20, list_window=1 << 20, data_window=1 << 24,
            compress=compress, far=False, wake_fd=write_fd, tree=tree, confine=confine,
        )  # fmt: skip
        return _pump(sender, receiver, read_fd, passing, hearing)
    finally:
        for engine in (sender, receiver):
            if engine is not None:
                engine.close()
        os.close(read_fd)
        os.close(write_fd)


def _pump(
    sender: _core.Sender,
    receiver: _core.Receiver,
    read_fd: int,
    passing: Callable[[int], None] | None,
    hearing: Callable[[str, int, memoryview], None] | None,
) -> Outcome:
    passed = 0
    said = Outcome([], [], None, {}, [])
    if receiver.state in ("missing", "empty"):
        sender.want_all()
    sender.start()
    give_up = time.monotonic() + DEADLINE_S
    while True:
        event, data = sender.next_control(), sender.next_data()
        if data is not None and passing is not None:
            passing(passed)
            passed += 1
        if hearing is not None and event is not None and event[2] is not None:
            hearing(event[0], event[1], memoryview(event[2]))
        moved = _forward(sender, receiver, event, data)
        while (event := receiver.next_control()) is not None:
            moved = True
            if hearing is not None:
                hearing(event[0], event[1], memoryview(event[2] or b""))
            if event[0] == "done":
                return said._replace(counters=receiver.counters())
            _answer(sender, event, said)
        failure = sender.failure() or receiver.failure()
        if failure is not None:
            return said._replace(failure=failure, counters=receiver.counters())
        if not moved:
            assert time.monotonic() < give_up, "stalled"
            select.select([read_fd], [], [], 1)
            with suppress(BlockingIOError):
                os.read(read_fd, 4096)


def _forward(
    sender: _core.Sender, receiver: _core.Receiver, event: _core.Event | None, data: _core.Event | None
) -> bool:
    if event is not None and event[2] is not None:
        receiver.list_untrusted(event[1], event[2])
    elif event is not None:
        receiver.list_end_untrusted(*sender.list_total())
    if data is not None and data[2] is not None:
        receiver.data_untrusted(data[2])
    return event is not None or data is not None


def _answer(sender: _core.Sender, event: tuple[str, int, _core.Buffer | None], said: Outcome) -> None:
    tag, n, payload = event
    assert payload is not None
    match tag:
        case "want":
            sender.want_untrusted(n, payload)
        case "basis":
            said.bases.append(len(payload))
            sender.basis_untrusted(payload)
        case "again":
            sender.again_untrusted(payload)
        case "ack":
            sender.ack_untrusted(payload)
        case "items":
            said.items.extend(bytes(memoryview(payload)).split(b"\0")[:-1])
        case _:
            said.problems.extend(_core.unpack_problems_untrusted(payload))


def build(root: Path, tree: dict[str, Any]) -> None:
    """Makes ``tree``: name -> [kind, content or target or tree, mode, mtime_ns]; "" is the root's own entry."""
    _kind, inside, mode, mtime_ns = tree[""]
    root.mkdir()
    _fill(root, inside)
    os.chmod(root, mode)
    os.utime(root, ns=(0, mtime_ns))


def _fill(directory: Path, tree: dict[str, Any]) -> None:
    for name, (kind, content, mode, mtime_ns) in tree.items():
        path = directory / name
        match kind:
            case "d":
                path.mkdir()
                _fill(path, content)
            case "l":
                path.symlink_to(content)
            case "p":
                os.mkfifo(path)
            case _:
                path.write_text(content)
        if kind != "l":
            os.chmod(path, mode)
        os.utime(path, ns=(0, mtime_ns), follow_symlinks=False)


def look(root: Path) -> dict[str, list[Any]]:
    """Everything below ``root`` as it is; unreadable things are made readable for it."""
    found: dict[str, list[Any]] = {}

    def visit(path: Path, name: str) -> None:
        st = path.lstat()
        row: list[Any] = [stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_mtime_ns]
        if stat.S_ISLNK(st.st_mode):
            row = [*row, os.readlink(path)]
        elif stat.S_ISREG(st.st_mode):
            path.chmod(0o600)
            row = [*row, path.read_bytes().hex()]
        found[name] = row
        if stat.S_ISDIR(st.st_mode):
            path.chmod(0o700)
            for inner in sorted(os.listdir(path)):
                visit(path / inner, f"{name}/{inner}")

    visit(root, "")
    return found


def compare(task: dict[str, Any]) -> dict[str, Any]:
    """Both syncs of one pair of trees: what is there then, what they said, whether they had trouble."""
    base = Path(task["base"])
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    try:
        build(base / "src", task["source"])
        for name in ("ours", "theirs"):
            build(base / name, task["destination"])
        ours = sync(
            str(base / "src"), str(base / "ours"), filters=[os.fsencode(f) for f in task["filters"]],
            delete=task["delete"], hashes=task["checksum"], dry_run=task["dry_run"],
        )  # fmt: skip
        switches = [name for name, on in (("--delete", task["delete"]), ("-c", task["checksum"]),
                                          ("-n", task["dry_run"])) if on]  # fmt: skip
        switches += [f"--exclude={pattern}" for pattern in task["filters"]]
        theirs = subprocess.run(
            ["rsync", "-rlpti", *switches, f"{base}/src/", f"{base}/theirs/"],
            capture_output=True, check=False, timeout=30,
        )  # fmt: skip
        lines = [line for line in theirs.stdout.split(b"\n") if _ITEM.match(line)]
        again = sync(
            str(base / "src"), str(base / "ours"), filters=[os.fsencode(f) for f in task["filters"]],
            delete=task["delete"], hashes=task["checksum"],
        ) if task["again"] else None  # fmt: skip
        return {
            "ours": look(base / "ours"),
            "theirs": look(base / "theirs"),
            "our_items": sorted(item.decode() for item in ours.items),
            "their_items": sorted(line.decode() for line in lines),
            "failure": str(ours.failure) if ours.failure else "",
            "problems": sorted(f"{code} {path.decode()} {errno}" for path, code, errno in ours.problems),
            "trouble": theirs.stderr.decode() if theirs.returncode else "",
            "again": [item.decode() for item in again.items] if again else [],
        }
    finally:
        _open_up(base)
        shutil.rmtree(base)


def _open_up(base: Path) -> None:
    for path, _dirs, _files in os.walk(base):
        for name in _dirs:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        # Only now: the interpreter and its packages may be where that user cannot look.
        os.setgroups([])
        os.setgid(int(sys.argv[1]))
        os.setuid(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(compare(json.loads(line))), flush=True)
