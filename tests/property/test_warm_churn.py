"""Two trees that only look at what changed, at both ends, stay equal under random changes at both ends."""

from __future__ import annotations

import os
import random
import select
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from agentd import _core
from tests.helpers.oracle import differences

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = b"\x01\0" + bytes(4)
PLENTY = 1 << 20
DEADLINE_S = 30.0


class Pair:
    """A source, a destination, their trees, and the baseline of the last session."""

    def __init__(self, source: Path, destination: Path, wake_fd: int) -> None:
        self.source, self.destination = source, destination
        self.trees = [
            _core.Tree(os.fsencode(root), filters=[], index=None, threads=2, watches_max=1000, wake_fd=-1)
            for root in (source, destination)
        ]
        self.wake_fd = wake_fd
        self.baseline: tuple[int, int] | None = None

    def sync(self, read_fd: int, forgotten: bool) -> dict[str, int]:
        """One session; a baseline that is ``forgotten`` is the sender's alone."""
        for tree in self.trees:
            while not tree.refresh():
                pass
        mine, theirs = self.baseline or (0, 0)
        tick = self.trees[0].tick()
        agreed = self.baseline is not None and not forgotten
        settings: dict[str, Any] = {
            "filters": [], "hashes": False, "hard_links": True, "threads": 2, "list_window": 1 << 20,
            "data_window": 1 << 24, "wake_fd": self.wake_fd,
        }  # fmt: skip
        receiver = _core.Receiver(
            os.fsencode(self.destination), delete=True, owner=False, group=False, dry_run=False, itemize=False,
            force=True, max_delete=None, arrow=">", delta_min=1 << 16, partial_min=1 << 20, temp_tag="00c0ffee",
            tree=self.trees[1], since=theirs if agreed else None, partial=True, skip_first=not agreed, **settings,
        )  # fmt: skip
        sender = _core.Sender(
            os.fsencode(self.source), owners=False, batch_max=1 << 20, compress="never", far=False,
            looks=self.trees[0].changes(mine, PLENTY), **settings,
        )  # fmt: skip
        try:
            looks = self.trees[1].changes(theirs, PLENTY) if agreed else EVERYTHING
            assert looks is not None
            if len(looks):
                receiver.look(looks)
            sender.start()
            pump(sender, receiver, read_fd)
            self.baseline = (tick, self.trees[1].tick())
            return receiver.counters()
        finally:
            sender.close()
            receiver.close()


def pump(sender: _core.Sender, receiver: _core.Receiver, read_fd: int) -> None:
    """Hand what each says to the other, until DONE."""
    give_up = time.monotonic() + DEADLINE_S
    while True:
        assert (sender.failure(), receiver.failure()) == (None, None)
        event, data = sender.next_control(), sender.next_data()
        if event is not None and event[2] is not None:
            receiver.list_untrusted(event[1], event[2])
        elif event is not None:
            receiver.list_end_untrusted(*sender.list_total())
        if data is not None and data[2] is not None:
            receiver.data_untrusted(data[2])
        answer = receiver.next_control()
        match answer:
            case ("done", _, _):
                return
            case ("want", n, payload) if payload is not None:
                sender.want_untrusted(n, payload)
            case (tag, _, payload) if payload is not None:
                assert tag != "problems", _core.unpack_problems_untrusted(payload)
                getattr(sender, f"{tag}_untrusted")(payload)
        if event is None and data is None and answer is None:
            assert time.monotonic() < give_up, "stalled"
            select.select([read_fd], [], [], 1)
            with suppress(BlockingIOError):
                os.read(read_fd, 4096)


def change(root: Path, chance: random.Random) -> None:
    """One change somewhere below ``root``."""
    directories = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    here = chance.choice(directories) / chance.choice("abcd")
    there = chance.choice(directories) / chance.choice("abcd")
    with suppress(OSError):
        match chance.randrange(9):
            case 0 | 1 | 2:
                here.write_bytes(chance.randbytes(chance.choice([0, 9, 5000])))
            case 3:
                here.mkdir()
            case 4:
                os.replace(here, there)
            case 5:
                here.symlink_to(chance.choice(["x", "longer/target"]))
            case 6:
                os.link(here, there)
            case 7:
                here.chmod(chance.choice([0o755, 0o700]))
            case _:
                shutil.rmtree(here) if here.is_dir() and not here.is_symlink() else here.unlink()


@pytest.mark.parametrize("seed", range(12))
def test_both_ends_look_only_at_what_changed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    source, destination = tmp_path / "src", tmp_path / "dst"
    for root in (source, destination):
        root.mkdir()
        for _ in range(30):
            change(root, chance)
    pair = Pair(source, destination, write_fd)
    try:
        for turn in range(12):
            pair.sync(read_fd, forgotten=chance.random() < 0.1)
            assert differences(source, destination) == [], turn
            # What a session has done is no change to the next one, but to a file that has lost another name by it.
            counters = pair.sync(read_fd, forgotten=False)
            assert (counters["wanted_files"], counters["deleted"]) == (0, 0), turn
            assert pair.sync(read_fd, forgotten=False)["listed"] == 0, turn
            for root, most in ((source, 8), (destination, 4)):
                for _ in range(chance.randrange(most)):
                    change(root, chance)
    finally:
        for tree in pair.trees:
            tree.close()
        os.close(read_fd)
        os.close(write_fd)
