"""An honest model of the crate's two engines over trees in memory: same calls, same credits, payloads of its own.

A tree is a dict from names to contents.  Everything happens when it is called; the wake descriptor is written as the
crate would.  Looks are the names as JSON; an empty one is the root with everything below it.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from agentd._core import EngineClosed, PeerViolation

if TYPE_CHECKING:
    from collections.abc import Iterable

Tree = dict[bytes, bytes]
Event = tuple[str, int, Any]

_CHUNK = struct.Struct("<HHI")
_ACK = struct.Struct("<QQQQI")


class _Fake:
    def __init__(self, wake_fd: int) -> None:
        self._wake_fd = wake_fd
        self.closed = False
        self.failed: tuple[str, bytes, int, str] | None = None
        self.count = dict.fromkeys(("listed", "files", "bytes", "data_bytes", "wanted_files", "wanted_bytes"), 0)

    def wake(self) -> None:
        if self._wake_fd >= 0 and not self.closed:
            os.write(self._wake_fd, (1).to_bytes(8, "little"))

    def fail(self, code: str, path: bytes, number: int, doing: str) -> None:
        self.failed = code, path, number, doing
        self.wake()

    def alive(self) -> None:
        if self.closed or self.failed is not None:
            raise EngineClosed("closed")

    def failure(self) -> tuple[str, bytes, int, str] | None:
        return self.failed

    def counters(self) -> dict[str, int]:
        return dict(self.count)

    def profile(self) -> dict[str, tuple[int, int, int]]:
        return {}

    def close(self) -> None:
        self.closed = True


def hash_of(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def looks_of(names: Iterable[bytes]) -> bytes:
    return json.dumps([name.hex() for name in names]).encode()


class FakeSender(_Fake):
    """Lists ``tree``, or what ``looks`` are about, in chunks of ``per_chunk`` entries, and sends of it in batches of
    ``batch`` bytes."""

    def __init__(
        self,
        tree: Tree,
        *,
        list_window: int,
        data_window: int,
        wake_fd: int,
        per_chunk: int = 3,
        batch: int = 64,
        looks: bytes | None = None,
    ) -> None:
        super().__init__(wake_fd)
        self.tree = tree
        self._batch = batch
        self._per_chunk = per_chunk
        self._chunks: list[list[bytes]] = []
        self._ends: deque[int] = deque()
        self._list(looks_of([b""]) if looks is None else looks)
        self._list_grant, self._data_grant = list_window, data_window
        self._list_used = self._data_used = 0
        self._next = 0
        self._started = False
        self._all = False
        self._hash = blake2b(digest_size=32)
        self._wanted: deque[tuple[int, int, int]] = deque()
        self._waiting: set[tuple[int, int]] = set()

    def start(self) -> None:
        self._started = True
        self.wake()

    def _list(self, looks: bytes) -> None:
        names = [bytes.fromhex(name) for name in json.loads(looks)]
        whole = b"" in names
        if whole:
            names = sorted(self.tree)
        chunks = [names[at : at + self._per_chunk] for at in range(0, len(names), self._per_chunk)]
        if whole:
            chunks[:1] = [[b"", *(chunks[0] if chunks else [])]]
        self._chunks += chunks
        self._ends.append(len(self._chunks))

    def _row(self, name: bytes) -> tuple[str, int, str]:
        if not name:
            return "", 0, "all"
        content = self.tree.get(name)
        return name.hex(), 0 if content is None else len(content), "gone" if content is None else hash_of(content)

    def look_untrusted(self, payload: Any) -> None:
        self.alive()
        self._list(bytes(payload))
        self.wake()

    def next_control(self) -> Event | None:
        self.alive()
        if not self._started or not self._ends:
            return None
        if self._next == self._ends[0]:
            self._ends.popleft()
            self.count["list_done"] = int(not self._ends)
            return "list-end", 0, None
        if self._list_used >= self._list_grant:
            return None
        n, names = self._next, self._chunks[self._next]
        rows = [self._row(name) for name in names]
        payload = _CHUNK.pack(1, 0, len(rows)) + json.dumps(rows).encode()
        self._next += 1
        self._list_used += len(payload)
        self._hash.update(payload)
        self.count["listed"] += len(rows)
        if self._all:
            self._want_chunk(n)
        return "list", n, payload

    def _want_chunk(self, n: int) -> None:
        self._wanted += [(n, i, 0) for i, name in enumerate(self._chunks[n]) if name]
        self.count["wanted_bytes"] += sum(len(self.tree[name]) for name in self._chunks[n] if name)
        self.wake()

    def next_data(self) -> Event | None:
        self.alive()
        if not self._wanted or self._data_used >= self._data_grant:
            return None
        records = []
        room = self._batch
        while self._wanted and room > 0:
            n, i, at = self._wanted.popleft()
            content = self.tree[self._chunks[n][i]]
            part = content[at : at + room]
            room -= len(part) + 1
            records.append([n, i, at, part.hex()])
            if at + len(part) < len(content):
                self._wanted.appendleft((n, i, at + len(part)))
        payload = json.dumps(records).encode()
        self._data_used += len(payload)
        self.count["data_bytes"] += len(payload)
        return "data", 0, payload

    def list_total(self) -> tuple[int, int, bytes]:
        return self._next, sum(map(len, self._chunks[: self._next])), self._hash.digest()

    def want_all(self) -> None:
        self._all = True
        for n in range(self._next):
            self._want_chunk(n)

    def want_untrusted(self, n: int, payload: Any) -> None:
        self.alive()
        for i, has_basis in json.loads(bytes(payload)):
            if i >= len(self._chunks[n]) or not self._chunks[n][i]:
                raise PeerViolation("wants what is not there")
            self.count["wanted_files"] += 1
            self.count["wanted_bytes"] += len(self.tree[self._chunks[n][i]])
            if has_basis:
                self._waiting.add((n, i))
            else:
                self._wanted.append((n, i, 0))
        self.wake()

    def basis_untrusted(self, payload: Any) -> None:
        self.alive()
        n, i = json.loads(bytes(payload))
        if (n, i) not in self._waiting:
            raise PeerViolation("a basis that nothing waits for")
        self._waiting.remove((n, i))
        self._wanted.append((n, i, 0))
        self.wake()

    def again_untrusted(self, payload: Any) -> None:
        self.alive()
        n, i = json.loads(bytes(payload))
        if i >= len(self._chunks[n]) or not self._chunks[n][i]:
            raise PeerViolation("wants again what is not there")
        self._wanted.append((n, i, 0))
        self.wake()

    def ack_untrusted(self, payload: Any) -> None:
        self.alive()
        raw = bytes(payload)
        self._list_grant, self._data_grant, files, size, forget = _ACK.unpack_from(raw)
        if len(raw) != _ACK.size + 4 * forget:
            raise PeerViolation("an ack of the wrong size")
        self.count["acked_files"], self.count["acked_bytes"] = files, size
        self.wake()

    def grant(self, list_window: int, data_window: int) -> None:
        self._list_grant = max(self._list_grant, list_window)
        self._data_grant = max(self._data_grant, data_window)
        self.wake()


class FakeReceiver(_Fake):
    """Makes ``tree`` equal to what is listed; every second wanted file that is there has a basis,
    and every third one is asked for once more."""

    def __init__(
        self,
        tree: Tree | None,
        into: Tree,
        *,
        delete: bool,
        list_window: int,
        data_window: int,
        wake_fd: int,
        partial: bool = False,
        skip_first: bool = False,
    ) -> None:
        super().__init__(wake_fd)
        self.state = "directory" if tree or partial else "missing" if tree is None else "empty"
        self._partial, self._skipping = partial, skip_first
        self._ends_due = 1
        self.tree = into
        self.tree.update(tree or {})
        self._delete = delete
        self._list_grant, self._data_grant = list_window, data_window
        self._events: deque[Event] = deque()
        self._hash = blake2b(digest_size=32)
        self._rows: list[list[tuple[bytes, int, str]]] = []
        self._listed_rows = 0
        self._left: list[set[int]] = []
        self._sizes: list[int] = []
        self._forget: list[int] = []
        self._due = False
        self._done = False
        self._parts: dict[tuple[int, int], dict[int, bytes]] = {}
        self._again: set[tuple[int, int]] = set()

    def look(self, payload: bytes) -> None:
        self._events.append(("look", 0, payload))
        self._ends_due += 1
        self.wake()

    def list_untrusted(self, n: int, payload: Any) -> None:
        self.alive()
        raw = bytes(payload)
        self._hash.update(raw)
        try:
            rows = [(bytes.fromhex(name), size, digest) for name, size, digest in json.loads(raw[_CHUNK.size :])]
        except ValueError as e:
            raise PeerViolation("a chunk that cannot be read") from e
        self._rows.append([] if self._skipping else rows)
        self._listed_rows += len(rows)
        self._sizes.append(len(raw))
        want = [] if self._skipping else [i for i, row in enumerate(rows) if self._differs(*row)]
        if self.state in ("missing", "empty"):
            want = [i for i, (name, _, _) in enumerate(rows) if name]
        else:
            basis = {i for k, i in enumerate(want) if k % 2 and rows[i][0] in self.tree}
            self._events.append(("want", n, json.dumps([[i, i in basis] for i in want]).encode()))
            self._events += [("basis", 0, json.dumps([n, i]).encode()) for i in sorted(basis)]
        self.count["listed"] += len(rows)
        self.count["wanted_files"] += len(want)
        self.count["wanted_bytes"] += sum(rows[i][1] for i in want)
        self._left.append(set(want))
        self._resolve(n)
        self.wake()

    def _differs(self, name: bytes, _size: int, digest: str) -> bool:
        here = self.tree.get(name)
        return bool(name) and digest != "gone" and (here is None or hash_of(here) != digest)

    def list_end_untrusted(self, chunks: int, entries: int, hash: bytes) -> None:  # noqa: A002
        self.alive()
        if (chunks, entries, hash) != (len(self._rows), self._listed_rows, self._hash.digest()):
            raise PeerViolation("the list is not the one that was sent")
        self._skipping = False
        self._ends_due -= 1
        self.count["list_done"] = int(not self._ends_due)
        self.wake()

    def hold(self) -> None:
        self.alive()

    def data_untrusted(self, payload: Any) -> None:
        self.alive()
        self.count["data_bytes"] += len(payload)
        for n, i, at, data in json.loads(bytes(payload)):
            if n >= len(self._left) or i not in self._left[n]:
                raise PeerViolation("data that was not wanted")
            parts = self._parts.setdefault((n, i), {})
            parts[at] = bytes.fromhex(data)
            name, size, digest = self._rows[n][i]
            if sum(map(len, parts.values())) == size:
                content = b"".join(parts[k] for k in sorted(parts))
                if hash_of(content) != digest:
                    raise PeerViolation("data that does not verify")
                if (n + i) % 3 == 0 and (n, i) not in self._again:
                    self._again.add((n, i))
                    del self._parts[n, i]
                    self._events.append(("again", 0, json.dumps([n, i]).encode()))
                    continue
                self.tree[name] = content
                self.count["files"] += 1
                self.count["bytes"] += size
                del self._parts[n, i]
                self._left[n].discard(i)
                self._resolve(n)
        self._data_grant += len(payload)
        self._due = True
        self.wake()

    def _resolve(self, n: int) -> None:
        if not self._left[n]:
            self._list_grant += self._sizes[n]
            self._forget.append(n)
            self._due = True

    def next_control(self) -> Event | None:
        self.alive()
        if self._events:
            return self._events.popleft()
        if self._due:
            self._due = False
            head = _ACK.pack(
                self._list_grant, self._data_grant, self.count["files"], self.count["bytes"], len(self._forget)
            )
            payload = head + struct.pack(f"<{len(self._forget)}I", *self._forget)
            self._forget.clear()
            return "ack", 0, payload
        if not self._ends_due and not self._done and not any(self._left):
            if self._delete:
                listed = {name: digest for rows in self._rows for name, _, digest in rows}
                whole = b"" in listed
                for name in list(self.tree):
                    if listed.get(name, "gone" if whole else "") == "gone":
                        del self.tree[name]
            self._done = True
            return "done", 0, None
        return None
