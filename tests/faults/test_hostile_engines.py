"""What a peer says to the engines, spoilt at random but told well: nothing outside, whole files, an end in time."""

from __future__ import annotations

import os
import random
import select
import shutil
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from blake3 import blake3

from agentd import _core
from tests.helpers.hosts import our_files, short_directory
from tests.helpers.trouble import contents, seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

END_S = 20.0
QUIET_S = 0.01
"""An engine that has said nothing for so long waits for its peer."""
ODD = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, (1 << 31) - 1, (1 << 32) - 1)
NAMES = (b"..", b".", b"/x", b"\0\0", b"a/", b"f1", b"d1", b"ln")
WINDOWS: dict[str, Any] = {"list_window": 1 << 20, "data_window": 1 << 24}


class Said(NamedTuple):
    """One message to an engine."""

    kind: str
    n: int
    payload: bytes


class Talk(NamedTuple):
    """A session as it was."""

    by_sender: list[Said]
    by_receiver: list[Said]


class Scene:
    """A source, a destination in an older state, and a canary beside them."""

    def __init__(self, top: Path) -> None:
        self.source, self.destination, self.canary = top / "source", top / "destination", top / "canary"
        self.kept = top / "kept"
        for root, version in ((self.source, 2), (self.kept, 1)):
            for n in range(6):
                path = root / f"d{n % 2}" / f"f{n}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"%d %d" % (version, n) * 30)
            (root / "large").write_bytes(random.Random(1).randbytes(1 << 20) + b"%d" % version * 100_000)
            (root / "ln").symlink_to("../canary")
            os.link(root / "d0/f0", root / "d1/hard")
        (self.source / "aa").write_bytes(b"new")
        (self.kept / "zz").write_bytes(b"extra")
        self.canary.mkdir()
        (self.canary / "file").write_bytes(b"untouched")
        self.outside = contents(self.canary)
        both = (contents(root) for root in (self.source, self.kept))
        self.whole = {hashed for root in both for kind, hashed in root.values() if kind == "file"}
        self.talk = self._recorded()

    def receiver(self, wake: int) -> _core.Receiver:
        """Over the older state."""
        shutil.rmtree(self.destination, ignore_errors=True)
        shutil.copytree(self.kept, self.destination, symlinks=True)
        return _core.Receiver(
            os.fsencode(self.destination), filters=[], delete=True, hashes=False, owner=False, group=False,
            hard_links=True, dry_run=False, itemize=True, force=True, max_delete=None, arrow=">", threads=2,
            delta_min=1 << 16, partial_min=1 << 20, temp_tag="00c0ffee", wake_fd=wake, confine=False, **WINDOWS,
        )  # fmt: skip

    def sender(self, wake: int) -> _core.Sender:
        """Of the newer one."""
        return _core.Sender(
            os.fsencode(self.source), filters=[], hashes=False, owners=False, hard_links=True, threads=2,
            batch_max=1 << 20, compress="never", far=False, wake_fd=wake, confine=False, **WINDOWS,
        )  # fmt: skip

    def _recorded(self) -> Talk:
        with waking() as (wake, wait):
            receiver, sender = self.receiver(wake), self.sender(wake)
            sender.start()
            talk = Talk([], [])
            while True:
                event, data = sender.next_control(), sender.next_data()
                for one in (event, data):
                    if one is None:
                        continue
                    said = of_sender(sender, one)
                    talk.by_sender.append(said)
                    tell_receiver(receiver, said)
                while (heard := receiver.next_control()) is not None:
                    if heard[0] == "done":
                        receiver.close()
                        sender.close()
                        assert contents(self.destination) == contents(self.source)
                        return talk
                    said = Said(heard[0], heard[1], b"" if heard[2] is None else bytes(memoryview(heard[2])))
                    talk.by_receiver.append(said)
                    tell_sender(sender, said)
                wait()


def of_sender(sender: _core.Sender, event: _core.Event) -> Said:
    tag, n, payload = event
    if payload is not None:
        return Said(tag, n, bytes(memoryview(payload)))
    chunks, entries, hashed = sender.list_total()
    return Said("list-end", chunks, struct.pack("<Q", entries) + hashed)


def buffer(data: bytes) -> _core.Buffer:
    made = _core.Buffer(len(data))
    memoryview(made)[:] = data
    return made


def tell_receiver(receiver: _core.Receiver, said: Said) -> None:
    match said.kind:
        case "list":
            receiver.list_untrusted(said.n, buffer(said.payload))
        case "data":
            receiver.data_untrusted(buffer(said.payload))
        case _:
            entries, hashed = struct.unpack("<Q32s", said.payload[:40].ljust(40, b"\0"))
            receiver.list_end_untrusted(said.n, entries, hashed)


def tell_sender(sender: _core.Sender, said: Said) -> None:
    match said.kind:
        case "want":
            sender.want_untrusted(said.n, buffer(said.payload))
        case "basis":
            sender.basis_untrusted(buffer(said.payload))
        case "again":
            sender.again_untrusted(buffer(said.payload))
        case "ack":
            sender.ack_untrusted(buffer(said.payload))


class waking:  # noqa: N801 - a context manager
    """A descriptor for engines to write to, and what waits for it; whether it was written to."""

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s

    def __enter__(self) -> tuple[int, Callable[[], bool]]:
        self._ends = os.pipe()
        os.set_blocking(self._ends[0], False)
        return self._ends[1], self._wait

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            os.close(end)

    def _wait(self) -> bool:
        if not select.select([self._ends[0]], [], [], self._quiet_s)[0]:
            return False
        with suppress(BlockingIOError):
            os.read(self._ends[0], 4096)
        return True


def spoilt(said: list[Said], rng: random.Random) -> list[Said]:
    """The same with a few things changed."""
    said = list(said)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(said))
        one, data = said[at], bytearray(said[at].payload)
        match rng.randrange(9):
            case 0 | 1 if data:
                for _ in range(rng.choice((1, 1, 8))):
                    bit = rng.randrange(len(data) * 8)
                    data[bit // 8] ^= 1 << bit % 8
            case 2 | 3 if len(data) >= 4:
                where = min(rng.randrange(len(data)), rng.randrange(len(data))) & ~3
                data[where : where + 4] = struct.pack("<I", rng.choice(ODD))[: len(data) - where]
            case 4:
                known = [name for name in (b"f0", b"f3", b"d0", b"d1", b"ln", b"aa") if name in data]
                if known:
                    data = bytearray(bytes(data).replace(rng.choice(known), rng.choice(NAMES), rng.choice((1, -1))))
            case 5 if data:
                del data[rng.randrange(len(data)) :]
            case 6:
                data += rng.randbytes(rng.choice((1, 4, 100)))
            case 7:
                said.insert(rng.randrange(len(said) + 1), one)
                continue
            case _:
                said.insert(rng.randrange(len(said)), said.pop(at))
                continue
        said[at] = one._replace(payload=bytes(data), n=one.n if rng.random() < 0.95 else rng.choice(ODD))
    return said


def made_to_fit(said: list[Said]) -> list[Said]:
    """With a LIST-END that is right about what is told, as a liar's would be."""
    lists = [one.payload for one in said if one.kind == "list"]
    entries = sum(struct.unpack_from("<I", one, 8)[0] for one in lists if len(one) >= 12) & ((1 << 64) - 1)
    end = Said("list-end", len(lists), struct.pack("<Q", entries) + blake3(b"".join(lists)).digest())
    return [end if one.kind == "list-end" else one for one in said]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with short_directory() as top:
        yield Scene(top)


def drive(engine: Any, said: list[Said], tell: Callable[[Any, Said], None], wait: Callable[[], bool]) -> str:
    """Say it all, each when the engine has gone quiet; how it ended."""
    begun = time.monotonic()
    try:
        for one in (*said, None):
            while engine.failure() is None and (drain(engine) or wait()):
                assert time.monotonic() < begun + END_S, "it does not come to rest"
            if one is not None:
                tell(engine, one)
    except _core.PeerViolation:
        return "violation"
    except _core.EngineClosed:
        pass
    failure = engine.failure()
    return "rest" if failure is None else str(failure[0])


def drain(engine: Any) -> bool:
    """Take what it says; whether there was anything."""
    said = 0
    takes = [engine.next_control, engine.next_data] if isinstance(engine, _core.Sender) else [engine.next_control]
    for take in takes:
        while take() is not None:
            said += 1
    return said > 0


def test_what_was_recorded_is_a_session(scene: Scene) -> None:
    """Or the tests below would try the first message alone."""
    for quiet_s in (QUIET_S, 0.1, 1.0):  # where much else runs, an engine is quiet for longer
        with waking(quiet_s) as (wake, wait):
            receiver = scene.receiver(wake)
            ended = drive(receiver, scene.talk.by_sender, tell_receiver, wait)
            receiver.close()
        if ended == "rest":
            break
    assert ended == "rest"
    assert contents(scene.destination) == contents(scene.source)


@pytest.mark.fault("G6", "G7")
def test_a_receiver_that_is_lied_to(scene: Scene) -> None:
    ended: dict[str, int] = {}
    for seed in seeds(40):
        rng = random.Random(seed)
        said = spoilt(scene.talk.by_sender, rng)
        if rng.random() < 0.7:
            said = made_to_fit(said)
        with waking() as (wake, wait):
            receiver = scene.receiver(wake)
            try:
                how = drive(receiver, said, tell_receiver, wait)
            finally:
                receiver.close()
        ended[how] = ended.get(how, 0) + 1
        assert contents(scene.canary) == scene.outside, seed
        assert sorted(os.listdir(scene.canary.parent)) == ["canary", "destination", "kept", "source"], seed
        for path, (kind, hashed) in contents(scene.destination).items():
            assert kind != "file" or hashed in scene.whole or b".sync~" in path, (seed, path)
        assert len(our_files(scene.destination)) <= 1, seed  # the large file's partial, by whatever name
    print(ended)
    assert ended.keys() <= {"violation", "protocol", "rest"}
    assert len(ended) > 1


@pytest.mark.fault("G6", "G7")
def test_a_sender_that_is_lied_to(scene: Scene) -> None:
    ended: dict[str, int] = {}
    before = contents(scene.source)
    for seed in seeds(40):
        rng = random.Random(seed)
        said = [one for one in scene.talk.by_receiver if one.kind in ("want", "basis", "again", "ack")]
        with waking() as (wake, wait):
            sender = scene.sender(wake)
            sender.start()
            try:
                how = drive(sender, spoilt(said, rng), tell_sender, wait)
            finally:
                sender.close()
        ended[how] = ended.get(how, 0) + 1
    print(ended)
    assert contents(scene.source) == before
    assert ended.keys() <= {"violation", "protocol", "rest"}
    assert len(ended) > 1
