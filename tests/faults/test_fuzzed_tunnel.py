"""Two agents, and between them a wire that flips, cuts, repeats: nothing but whole files is ever there.

SSH's own checksums make such a wire impossible outside of tests.  What the agents prove by themselves is each file's
content, by its hash, and each list as a whole: a record that a flip sends to another name is not found out by them.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentd.sync.service import Sessions
from agentd.wire import Connection, ConnectionLost, greet
from proto import limits
from proto.errors import ProtocolError, SyncError
from proto.hello import Hello
from proto.job import Job, Options, parse_location
from tests.helpers.fake_agents import FakeJournal
from tests.helpers.hosts import our_files
from tests.helpers.trouble import seeds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEADLINE_S = 60
STALLED_S = 6
HERE = Hello("agent", 1, 1, "0.1.0", b"h" * 16)
THERE = Hello("agent", 1, 1, "0.1.0", b"t" * 16)
FAULTS = ("flip", "cut", "twice", "again")


class Wire:
    """Frames of one direction, one of which is not passed on as it came."""

    def __init__(self, rng: random.Random, fault: str) -> None:
        self.waiting = bytearray()
        self.passed: list[bytes] = []
        self.cut = False
        self._rng = rng
        self._fault = fault
        self._victim = rng.randrange(2, 14)
        """Behind HELLO and OPEN, or the whole session would be another one."""

    def pass_on(self, data: bytes) -> bytes:
        """What comes out for what goes in."""
        self.waiting += data
        out = b""
        while len(self.waiting) >= 4 and not self.cut:
            (length,) = struct.unpack_from(">I", self.waiting)
            if len(self.waiting) < 4 + length:
                break
            frame = bytes(self.waiting[: 4 + length])
            del self.waiting[: 4 + length]
            out += self._spoilt(frame) if len(self.passed) == self._victim else frame
            self.passed.append(frame)
        return out

    def _spoilt(self, frame: bytes) -> bytes:
        if self._fault == "flip":
            spoilt = bytearray(frame)
            for _ in range(self._rng.choice((1, 1, 8))):
                at = self._rng.randrange(len(spoilt) * 8)
                spoilt[at // 8] ^= 1 << at % 8
            return bytes(spoilt)
        if self._fault == "cut":
            self.cut = True
            return frame[: self._rng.randrange(len(frame))]
        if self._fault == "twice":
            return frame + frame
        if self._fault == "again":
            return frame + self._rng.choice(self.passed[1:])
        return frame


class FuzzedLink:
    """Connections through such a wire; only the first one is bad."""

    rtt_s = None

    def __init__(self, nursery: trio.Nursery) -> None:
        self.wires: tuple[Wire, Wire] | None = None
        self._there = Sessions(identity=lambda: THERE, links=self, journal=FakeJournal())
        self._nursery = nursery

    async def link(self, host: str, environ: Mapping[str, str]) -> Any:
        del host, environ
        return self

    async def connection(self) -> Connection:
        pairs = [
            [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair()] for _ in range(2)
        ]
        (mine, near), (far, theirs) = pairs
        wires, self.wires = self.wires, None
        there, back = wires or (None, None)
        self._nursery.start_soon(self._carry, near, far, there)
        self._nursery.start_soon(self._carry, far, near, back)
        self._nursery.start_soon(self._answer, Connection(theirs))
        ours = Connection(mine)
        await greet(ours, HERE)
        return ours

    async def _answer(self, connection: Connection) -> None:
        try:
            await greet(connection, THERE)
            await self._there.serve(connection)
        except (ConnectionLost, ProtocolError, SyncError, trio.ClosedResourceError):
            pass
        finally:
            await connection.aclose()

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, wire: Wire | None) -> None:
        try:
            while (data := await source.receive_some()) and not (wire and wire.cut):
                await sink.send_all(wire.pass_on(bytes(data)) if wire else data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            for stream in (source, sink):
                await trio.aclose_forcefully(stream)

    def give_back(self, connection: Connection) -> None:
        self._nursery.start_soon(connection.aclose)

    async def wait_lost(self) -> SyncError:
        return await trio.sleep_forever()


def fill(root: Path, rng: random.Random, version: int) -> set[bytes]:
    """A tree; its contents."""
    contents = set()
    for n in range(12):
        path = root / f"d{n % 3}" / f"f{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shared = b"%d" % n * 60_000
        content = shared + rng.randbytes(rng.choice((1, 4000))) if n % 2 else b"%d %d" % (version, n) * 100
        path.write_bytes(content)
        os.utime(path, (version, version))
        contents.add(content)
    (root / "large").write_bytes(rng.randbytes(1 << 20) + b"%d" % version * 900_000)
    contents.add((root / "large").read_bytes())
    return contents


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.fault("F8")
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_spoilt_on_its_way_is_never_committed(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_DEADLINE_S", 1.0)
    ended: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        link = FuzzedLink(nursery)
        here = Sessions(identity=lambda: HERE, links=link, journal=FakeJournal())
        for seed in seeds(3):
            print(f"{fault}: seed {seed}")
            rng = random.Random(f"{fault} {seed}")
            top = tmp_path / f"{seed}"
            source, destination = top / "source", top / "destination"
            whole = fill(destination, rng, 1) | fill(source, rng, 2)
            names = set(files(destination))
            ends = [os.fsencode(source), os.fsencode(destination)]
            ends[seed % 2] = b"box:" + ends[seed % 2]
            job = Job(parse_location(ends[0]), parse_location(ends[1]), Options())
            link.wires = Wire(rng, fault if seed % 3 else "none"), Wire(rng, fault)
            code = "stalled"  # a word that was changed into another one may be waited for
            with trio.move_on_after(STALLED_S):
                try:
                    await here.run_job(job, {}, lambda _: None)
                    code = "done"
                except SyncError as e:
                    code = e.code
            ended[code] = ended.get(code, 0) + 1
            now = {name: content for name, content in files(destination).items() if not name.endswith(".sync~")}
            assert names <= set(now), "something was deleted"
            assert set(now.values()) <= whole, [name for name in now if now[name] not in whole]
            with trio.fail_after(DEADLINE_S):
                await here.run_job(job._replace(options=Options(checksum=True, delete=True)), {}, lambda _: None)
            assert files(destination) == files(source)
            assert not our_files(destination)
            shutil.rmtree(top)
        nursery.cancel_scope.cancel()
    print(ended)
    assert set(ended) <= {"done", "protocol", "link-lost", "internal", "root-busy", "usage", "stalled"}
