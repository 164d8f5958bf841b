"""Two endpoints joined in memory: whatever the credits and the splits, they never stall and end in equal trees."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from agentd import _core
from agentd.sync.endpoints import ReceiverEndpoint, SenderEndpoint
from proto import limits
from proto.frame import FrameReader, encode_frame
from proto.peer import PEER_MESSAGES, Open, Opened, PeerMessage
from proto.schema import from_head_untrusted, to_head
from proto.session import ReceiverSession, SenderSession
from tests.helpers.effort import examples
from tests.helpers.fake_engine import FakeReceiver, FakeSender, Tree, looks_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.sync.endpoints import Endpoint, ReceiverEngine, SenderEngine

names = st.binary(min_size=1, max_size=6)
trees = st.dictionaries(names, st.binary(max_size=80), max_size=10)
tiny = st.one_of(st.integers(1, 8), st.integers(20, 2000))


class Pipe:
    """One direction: it holds ``capacity`` bytes; a writer that finds it full has to wait, as on a socket."""

    def __init__(self, capacity: int, allocate: Callable[[int], Any] = bytearray) -> None:
        self.capacity = capacity
        self.waiting = bytearray()
        self.held = bytearray()
        self.reader = FrameReader(limits.PAYLOAD_MAX, allocate)

    @property
    def blocked(self) -> bool:
        return bool(self.waiting)

    def write(self, message: PeerMessage, payload: Any) -> None:
        assert not self.blocked
        raw = b"" if payload is None else bytes(payload)
        self.waiting += encode_frame(to_head(message), len(raw)) + raw

    def move(self, rng: Random) -> bool:
        count = min(len(self.waiting), self.capacity - len(self.held))
        self.held += self.waiting[:count]
        del self.waiting[:count]
        if not self.held:
            return count > 0
        buffer = self.reader.get_buffer()
        count = min(len(buffer), rng.randint(1, len(self.held)))
        buffer[:count] = self.held[:count]
        del self.held[:count]
        self.reader.buffer_updated(count)
        return True


class End:
    """One pump without trio: its reader always reads, its writer waits for the pipe."""

    def __init__(self, endpoint: Endpoint, outward: Pipe, inward: Pipe) -> None:
        self.endpoint = endpoint
        self.outward = outward
        self.inward = inward

    def read(self, rng: Random) -> bool:
        moved = self.inward.move(rng)
        while (frame := self.inward.reader.next_frame_untrusted()) is not None:
            message, payload = from_head_untrusted(PEER_MESSAGES, frame.head), frame.payload
            del frame  # an engine takes a Buffer's memory
            self.endpoint.receive_untrusted(message, payload)
        return moved

    def write(self) -> bool:
        if self.outward.blocked or self.endpoint.session.over:
            return False
        outgoing = self.endpoint.take_control() or self.endpoint.take_data()
        if outgoing is not None:
            self.outward.write(*outgoing)
        return outgoing is not None


def never() -> bool:
    return False


def run(ends: list[End], rng: Random, wait: Callable[[], bool] = never) -> None:
    """Until both are closed; whoever may go next is drawn.

    When nobody can, ``wait()`` for an engine's thread; fails when there is nothing to wait for.
    """
    while not all(end.endpoint.session.closed for end in ends):
        steps = [step for end in ends for step in (partial(end.read, rng), end.write)]
        rng.shuffle(steps)
        if not any(step() for step in steps):
            for end in ends:
                end.endpoint.check()
            assert wait(), f"stalled: {[end.endpoint.session.state for end in ends]}"


def join(
    sender: SenderEngine,
    receiver: ReceiverEngine,
    *,
    pushing: bool,
    windows: tuple[int, int],
    capacities: tuple[int, int],
    delete: bool = False,
    guarded: bool = False,
    allocate: Callable[[int], Any] = bytearray,
    baselines: tuple[bytes, ...] = (),
    baseline: bytes | None = None,
) -> list[End]:
    """Two endpoints over two pipes, OPEN said and OPENED on its way."""
    first = {"first_list_window": windows[0], "first_data_window": windows[1]}
    sending_session, receiving_session = SenderSession(**first), ReceiverSession(**first)
    there, back = (Pipe(capacity, allocate) for capacity in capacities)
    sending = SenderEndpoint(sending_session, sender, guarded=guarded)
    receiving = ReceiverEndpoint(receiving_session, receiver)
    sender.start()
    if pushing:
        opening = Open(bytes(16), 0, "receiver", b"/r", 0, 0, delete=delete, baselines=list(baselines))
        opened = Opened(bytes(16), 0, *windows, receiver.state, baseline)
        sending_session.send(opening)
        receiving_session.receive_untrusted(opening)
        receiving_session.send(opened)
        back.write(opened, None)
    else:
        opening = Open(
            bytes(16), 0, "sender", b"/r", *windows, delete=delete, state=receiver.state, baselines=list(baselines)
        )
        opened = Opened(bytes(16), 0, 0, 0, None, baseline)
        receiving_session.send(opening)
        sending_session.receive_untrusted(opening)
        sending.begin(want_all=receiver.state in ("missing", "empty"), list_window=windows[0], data_window=windows[1])
        sending_session.send(opened)
        there.write(opened, None)
    return [End(sending, there, back), End(receiving, back, there)]


@settings(max_examples=examples(200), deadline=None)
@given(
    source=trees,
    destination=st.none() | trees,
    pushing=st.booleans(),
    delete=st.booleans(),
    list_window=tiny,
    data_window=tiny,
    capacities=st.tuples(tiny, tiny),
    per_chunk=st.integers(1, 5),
    batch=st.integers(1, 300),
    seed=st.integers(0, 1 << 32),
)
def test_sessions_never_stall_and_end_in_equal_trees(
    source: Tree,
    destination: Tree | None,
    pushing: bool,
    delete: bool,
    list_window: int,
    data_window: int,
    capacities: tuple[int, int],
    per_chunk: int,
    batch: int,
    seed: int,
) -> None:
    into: Tree = {}
    windows = list_window, data_window
    sender = FakeSender(
        source, list_window=list_window, data_window=0 if pushing else data_window, wake_fd=-1,
        per_chunk=per_chunk, batch=batch,
    )  # fmt: skip
    receiver = FakeReceiver(
        destination, into, delete=delete, list_window=list_window, data_window=data_window, wake_fd=-1
    )
    run(join(sender, receiver, pushing=pushing, windows=windows, capacities=capacities), Random(seed))
    expected = source if delete else {**(destination or {}), **source}
    assert into == expected


changes = st.dictionaries(names, st.none() | st.binary(max_size=80), max_size=6)


@settings(max_examples=examples(150), deadline=None)
@given(
    agreed=trees,
    there_since=changes,
    here_since=st.lists(changes, max_size=3),
    held=st.booleans(),
    pushing=st.booleans(),
    delete=st.booleans(),
    list_window=tiny,
    data_window=tiny,
    capacities=st.tuples(tiny, tiny),
    per_chunk=st.integers(1, 5),
    seed=st.integers(0, 1 << 32),
)
def test_sessions_about_changes_end_in_the_trees_of_whole_ones(
    agreed: Tree,
    there_since: dict[bytes, bytes | None],
    here_since: list[dict[bytes, bytes | None]],
    held: bool,
    pushing: bool,
    delete: bool,
    list_window: int,
    data_window: int,
    capacities: tuple[int, int],
    per_chunk: int,
    seed: int,
) -> None:
    """Both ends' trees went their ways since they agreed; a baseline that is not held leads to the whole list."""
    id_ = bytes(16)

    def changed(tree: Tree, *since: dict[bytes, bytes | None]) -> Tree:
        after: dict[bytes, bytes | None] = dict(tree)
        for each in since:
            after.update(each)
        return {name: content for name, content in after.items() if content is not None}

    source, destination = changed(agreed, there_since), changed(agreed, *here_since)
    into: Tree = {}
    windows = list_window, data_window
    whole = not held and not pushing
    sender = FakeSender(
        source, list_window=list_window, data_window=0 if pushing else data_window, wake_fd=-1,
        per_chunk=per_chunk, looks=None if whole else looks_of(there_since),
    )  # fmt: skip
    receiver = FakeReceiver(
        destination, into, delete=delete, list_window=list_window, data_window=data_window, wake_fd=-1,
        partial=True, skip_first=not held and pushing,
    )  # fmt: skip
    if held:
        for each in here_since:
            receiver.look(looks_of(each))
    elif pushing:
        receiver.look(looks_of([b""]))
    ends = join(
        sender, receiver, pushing=pushing, windows=windows, capacities=capacities, baselines=(id_,),
        baseline=id_ if held else None,
    )  # fmt: skip
    run(ends, Random(seed))
    assert into == (source if delete else {**destination, **source})


STALLED_S = 10.0

parts = st.sampled_from([b"a", b"b", b"\xff\xfe", b"name with a space", b"c" * 40])
paths = st.lists(parts, min_size=1, max_size=4).map(b"/".join)
contents = st.one_of(
    st.none(),  # a directory
    st.binary(max_size=300),
    st.integers(0, 3_000_000).map(lambda size: b"\0\1\2\3" * (size // 4)),
)
disk_trees = st.dictionaries(paths, contents, max_size=14)


def plant(root: bytes, tree: dict[bytes, bytes | None]) -> None:
    """Make ``tree`` below ``root``; of names in each other's way the first wins."""
    os.makedirs(root)
    for path, content in tree.items():
        full = os.path.join(root, path)
        try:
            os.makedirs(full if content is None else os.path.dirname(full), exist_ok=True)
            if content is not None:
                with open(full, "xb") as file:
                    file.write(content)
        except (FileExistsError, NotADirectoryError):
            continue


def picture(root: bytes) -> dict[bytes, tuple[int, int, bytes | None]]:
    """Everything below ``root``: mode, mtime_ns and content by path."""
    seen: dict[bytes, tuple[int, int, bytes | None]] = {}
    for where, directories, files in os.walk(root):
        for name in [*directories, *files, b"."]:
            path = os.path.join(where, name)
            status = os.stat(path)
            content = None
            if name in files:
                with open(path, "rb") as file:
                    content = file.read()
            seen[os.path.relpath(path, root)] = status.st_mode, status.st_mtime_ns, content
    return seen


@settings(max_examples=examples(100), deadline=None)
@given(
    source=disk_trees,
    destination=st.none() | disk_trees,
    pushing=st.booleans(),
    compress=st.sampled_from(["never", "always"]),
    list_window=tiny,
    data_window=tiny,
    capacities=st.tuples(st.integers(500, 100_000), st.integers(500, 100_000)),
    seed=st.integers(0, 1 << 32),
)
def test_the_engines_never_stall_and_end_in_equal_trees(
    source: dict[bytes, bytes | None],
    destination: dict[bytes, bytes | None] | None,
    pushing: bool,
    compress: str,
    list_window: int,
    data_window: int,
    capacities: tuple[int, int],
    seed: int,
) -> None:
    top = os.fsencode(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    wake = os.eventfd(0, os.EFD_NONBLOCK) if hasattr(os, "eventfd") else None
    reading, writing = (wake, wake) if wake is not None else os.pipe()
    opened: list[_core.Sender | _core.Receiver] = []
    try:
        plant(top + b"/src", source)
        if destination is not None:
            plant(top + b"/dst", destination)
        sender = _core.Sender(
            top + b"/src", filters=[], hashes=False, owners=False, hard_links=True, threads=2, batch_max=1 << 20,
            list_window=list_window, data_window=0 if pushing else data_window, compress=compress, far=False,
            wake_fd=writing,
        )  # fmt: skip
        opened.append(sender)
        receiver = _core.Receiver(
            top + b"/dst", filters=[], delete=True, hashes=False, owner=False, group=False, hard_links=True,
            dry_run=False,
            itemize=False, force=True, max_delete=None, arrow="<", threads=2, delta_min=1000, partial_min=1 << 20,
            list_window=list_window, data_window=data_window, temp_tag="01234567", wake_fd=writing,
        )  # fmt: skip
        opened.append(receiver)

        def wait() -> bool:
            if not select.select([reading], [], [], STALLED_S)[0]:
                return False
            os.read(reading, 512)
            return True

        ends = join(
            cast("SenderEngine", sender),
            cast("ReceiverEngine", receiver),
            pushing=pushing,
            windows=(list_window, data_window),
            capacities=capacities,
            allocate=_core.Buffer,
        )
        run(ends, Random(seed), wait)
        assert picture(top + b"/dst") == picture(top + b"/src")
    finally:
        for engine in opened:
            engine.close()
        for fd in {reading, writing}:
            os.close(fd)
        shutil.rmtree(top)
