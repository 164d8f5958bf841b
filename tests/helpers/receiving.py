"""A receiver driven by hand: what it is told, everything it says, and what it leaves behind."""

from __future__ import annotations

import os
import select
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import blake3

from agentd import _core
from tests.helpers.payloads import DIRECTORY, FIRST, LAST, PARTIAL, WHOLE, Entry, Group, pack_list, pack_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TAG = "00c0ffee"
ROOT = Entry(b"", DIRECTORY, 0o755, mtime_ns=10**18)


class Driver:
    """A receiver and everything it said."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.read_fd, self.write_fd = os.pipe()
        defaults: dict[str, Any] = {
            "filters": [], "delete": False, "hashes": False, "owner": False, "group": False, "hard_links": True,
            "dry_run": False,
            "itemize": True, "force": False, "max_delete": None, "arrow": ">", "threads": 2, "delta_min": 1 << 17,
            "partial_min": 1 << 20, "list_window": 1 << 20, "data_window": 1 << 24, "temp_tag": TAG,
        }  # fmt: skip
        self.engine = _core.Receiver(os.fsencode(root), wake_fd=self.write_fd, **(defaults | options))
        self.state = self.engine.state
        self.items: list[bytes] = []
        self.problems: list[tuple[bytes, str, int]] = []
        self.wants: dict[int, bytes] = {}
        self.bases: list[bytes] = []
        self.again: list[tuple[int, int]] = []
        self.looks: list[bytes] = []
        self.payloads: list[bytes] = []
        self.entries = 0
        self.done = False

    def send_list(self, *chunks: list[Group], flags: int = 0) -> Driver:
        """Chunks behind those that were sent before."""
        for groups in chunks:
            payload = pack_list(groups, flags)
            self.engine.list_untrusted(len(self.payloads), buffer(payload))
            self.payloads.append(payload)
            self.entries += sum(len(g.entries) for g in groups)
        return self

    def end_list(self) -> Driver:
        digest = blake3.blake3(b"".join(self.payloads)).digest()
        self.engine.list_end_untrusted(len(self.payloads), self.entries, digest)
        return self

    def data(self, *records: bytes) -> Driver:
        self.engine.data_untrusted(buffer(b"".join(records)))
        return self

    def run(self, until: Callable[[], bool] | None = None) -> Driver:
        """Take events until DONE, a failure, or ``until()``."""
        give_up = time.monotonic() + 20
        while not (self.done or self.engine.failure() or (until is not None and until())):
            assert time.monotonic() < give_up, "the receiver stalled"
            if select.select([self.read_fd], [], [], 0.2)[0]:
                os.read(self.read_fd, 4096)
            while (event := self.engine.next_control()) is not None:
                self.take(*event)
        return self

    def take(self, tag: str, n: int, payload: _core.Buffer | None) -> None:
        raw = bytes(memoryview(payload)) if payload is not None else b""
        match tag:
            case "items":
                self.items += raw.split(b"\0")[:-1]
            case "problems":
                self.problems += _core.unpack_problems_untrusted(raw)
            case "want":
                self.wants[n] = raw
            case "basis":
                self.bases.append(raw)
            case "look":
                self.looks.append(raw)
            case "again":
                self.again.extend(struct.iter_unpack("<II", raw))
            case "done":
                self.done = True
            case _:
                assert tag == "ack"

    @property
    def failed(self) -> str:
        failure = self.run().engine.failure()
        return failure[0] if failure else "no failure"


def named(path: bytes, *entries: Entry) -> Group:
    """A group of single names."""
    return Group(path, list(entries), FIRST | LAST | PARTIAL)


def buffer(data: bytes) -> _core.Buffer:
    made = _core.Buffer(len(data))
    memoryview(made)[:] = data
    return made


@contextmanager
def receiving(root: Path, **options: Any) -> Iterator[Driver]:
    driver = Driver(root, **options)
    try:
        yield driver
    finally:
        driver.engine.close()
        os.close(driver.read_fd)
        os.close(driver.write_fd)


def whole(chunk: int, index: int, content: bytes, **fields: Any) -> bytes:
    return pack_record(WHOLE, chunk, index, content, size=len(content), hash_=blake3.blake3(content).digest(), **fields)


def leftovers(root: Path) -> list[str]:
    return [name for _, dirs, files in os.walk(root) for name in dirs + files if name.endswith("~")]


def cv(data: bytes, piece: int, size: int) -> bytes:
    """The chaining value of piece ``piece`` of a file of ``size`` bytes."""
    value = _core._selftest("chaining-value", data, {"piece": piece, "size": size})
    assert isinstance(value, bytes)
    return value
