"""What the sender reads and sends: whole files, pieces, problems, and the windows that hold it back."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from agentd._core import EngineClosed
from tests.helpers import sending
from tests.helpers.sending import MIB, Record, Sending, ack

if TYPE_CHECKING:
    from pathlib import Path


def content(records: list[Record]) -> bytes:
    """The content that the raw records of one file make; checks its hash."""
    *pieces, end = records
    if end.kind == sending.WHOLE:
        assert not pieces
        data = end.data
    else:
        assert end.kind == sending.END
        assert all((r.kind, r.encoding) == (sending.PIECE, sending.RAW) for r in pieces)
        pieces.sort(key=lambda record: record.piece)
        assert [record.piece for record in pieces] == list(range(len(pieces)))
        data = b"".join(record.data for record in pieces)
    assert len(data) == end.size
    assert end.hash == blake3(data).digest()
    return data


def by_entry(running: Sending) -> dict[tuple[int, int], list[Record]]:
    found: dict[tuple[int, int], list[Record]] = {}
    for record in running.records:
        found.setdefault((record.chunk, record.entry), []).append(record)
    return found


def make_files(root: Path) -> dict[bytes, bytes]:
    files = {}
    sizes = [0, 1, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 17, *range(2, 400)]
    for i, size in enumerate(sizes):
        path = root / f"dir{i % 7}" / f"file{i}"
        path.parent.mkdir(exist_ok=True)
        files[os.fsencode(path.relative_to(root))] = data = os.urandom(size)
        path.write_bytes(data)
    return files


@pytest.mark.parametrize("threads", [1, 4])
def test_an_empty_destination_gets_everything_without_asking(tmp_path: Path, threads: int) -> None:
    files = make_files(tmp_path)
    with Sending(tmp_path, threads=threads) as running:
        running.sender.want_all()
        running.list_all()
        running.until_resolved(len(files))
        records = by_entry(running)
        assert {path: content(records[running.find(path)]) for path in files} == files
        counters = running.sender.counters()
        assert counters["files_sent"] == counters["wanted_files"] == len(files)
        assert counters["literal"] == counters["wanted_bytes"] == sum(map(len, files.values()))
        assert counters["data_bytes"] == sum(map(len, running.batches))
        assert counters["matched"] == 0


def test_only_what_is_wanted_comes(tmp_path: Path) -> None:
    files = make_files(tmp_path)
    wanted = sorted(files)[::3]
    with Sending(tmp_path) as running:
        running.list_all()
        running.want(*wanted)
        running.until_resolved(len(wanted))
        records = by_entry(running)
        assert {path: content(records.pop(running.find(path))) for path in wanted} == {p: files[p] for p in wanted}
        assert not records
        running.sender.ack_untrusted(ack(forget=tuple(range(len(running.chunks)))))


def test_a_record_carries_the_attributes_of_the_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"listed")
    with Sending(tmp_path) as running:
        running.list_all()
        file.write_bytes(b"changed since")
        file.chmod(0o4751)
        os.utime(file, ns=(0, -1))
        running.want(b"file")
        running.until_resolved(1)
        [record] = running.records
        assert (record.data, record.mode, record.size) == (b"changed since", 0o4751, 13)
        assert (record.mtime_s, record.mtime_ns) == (-1, 999_999_999)


def test_a_file_that_was_just_emptied_is_waited_for(tmp_path: Path) -> None:
    files = {name: tmp_path / os.fsdecode(name) for name in (b"saved", b"emptied", b"cleared")}
    for path in files.values():
        path.write_bytes(b"listed")
    with Sending(tmp_path) as running:
        running.list_all()
        for path in files.values():
            os.truncate(path, 0)
        os.utime(files[b"emptied"], ns=(0, 0))
        writer = threading.Timer(0.02, files[b"saved"].write_bytes, (b"saved",))
        writer.start()
        running.want(*files)
        running.until_resolved(3)
        writer.join()
        records = by_entry(running)
        sent = {name: content(records[running.find(name)]) for name in files}
        assert sent == {b"saved": b"saved", b"emptied": b"", b"cleared": b""}


def test_files_that_outgrew_or_fell_below_a_piece(tmp_path: Path) -> None:
    (tmp_path / "grown").write_bytes(b"small")
    (tmp_path / "shrunk").write_bytes(bytes(3 * MIB))
    with Sending(tmp_path) as running:
        running.list_all()
        grown = os.urandom(2 * MIB + 1)
        (tmp_path / "grown").write_bytes(grown)
        (tmp_path / "shrunk").write_bytes(b"less")
        running.want(b"grown", b"shrunk")
        running.until_resolved(2)
        records = by_entry(running)
        assert content(records[running.find(b"grown")]) == grown
        assert content(records[running.find(b"shrunk")]) == b"less"


@pytest.mark.fault("A4")
def test_what_is_not_there_any_more_is_a_problem(tmp_path: Path) -> None:
    names = ("gone", "dir-now", "link-now", "fifo-now", "sub")
    for name in names:
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"secret")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "file").write_bytes(b"x")
    (tmp_path / "swapped").mkdir()
    (tmp_path / "swapped" / "sub").write_bytes(b"x")
    with Sending(tmp_path) as running:
        running.list_all()
        for name in names[:4]:
            (tmp_path / "d" / name).unlink()
        (tmp_path / "d" / "dir-now").mkdir()
        (tmp_path / "d" / "link-now").symlink_to("sub")
        os.mkfifo(tmp_path / "d" / "fifo-now")
        (tmp_path / "moved").rename(tmp_path / "elsewhere")
        (tmp_path / "swapped").rename(tmp_path / "away")
        (tmp_path / "swapped").symlink_to("d")
        expected = {
            b"d/gone": sending.VANISHED,
            b"d/dir-now": sending.CHANGED,
            b"d/link-now": sending.CHANGED,
            b"d/fifo-now": sending.CHANGED,
            b"moved/file": sending.VANISHED,
        }
        running.want(*expected, b"swapped/sub", b"d/sub")
        running.until_resolved(len(expected) + 2)
        records = {entry: record for entry, [record] in by_entry(running).items()}
        for path, code in expected.items():
            assert (records[running.find(path)].kind, records[running.find(path)].code) == (sending.PROBLEM, code)
        assert records[running.find(b"swapped/sub")].kind == sending.PROBLEM
        assert records[running.find(b"d/sub")].data == b"secret"


def test_a_large_file_that_changes_meanwhile_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(64 * MIB))
    with Sending(tmp_path, data_window=1) as running:
        running.list_all()
        running.want(b"file")
        # Readers wait with 8 MiB or so in hand: most of the file is still to be read.
        running.until(lambda: len(running.records) == 1)
        with file.open("r+b") as handle:
            handle.truncate(40 * MIB)
        running.sender.grant(0, sending.NO_LIMIT)
        running.until_resolved(1)
        assert (running.records[-1].kind, running.records[-1].code) == (sending.PROBLEM, sending.CHANGED)
        # How many pieces went before it: on several connections it may overtake them.
        assert running.records[-1].piece == len(running.records) - 1
        running.sender.ack_untrusted(ack(forget=(0,)))


def test_a_file_that_keeps_changing_comes_with_its_hash_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(MIB))
    stop = threading.Event()

    def churn() -> None:
        n = 0
        with file.open("r+b", buffering=0) as handle:
            while not stop.is_set():
                n = (n + 1) % 256
                os.pwrite(handle.fileno(), bytes([n]) * MIB, 0)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            with Sending(tmp_path) as running:
                running.list_all()
                running.want(b"file")
                running.until_resolved(1)
                [record] = running.records
                if record.kind == sending.WHOLE:
                    assert record.hash == blake3(record.data).digest()
                else:
                    assert (record.kind, record.code) == (sending.PROBLEM, sending.CHANGED)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("batch_max", [1, 100_000, MIB + 4096])
def test_batches_stay_below_their_bound_unless_one_record_is_larger(tmp_path: Path, batch_max: int) -> None:
    files = make_files(tmp_path)
    with Sending(tmp_path, batch_max=batch_max) as running:
        running.list_all()
        running.want(*files)
        running.until_resolved(len(files))
        for batch in running.batches:
            assert len(batch) <= batch_max or len(list(sending.parse_records(batch))) == 1
        assert len(running.batches) < len(running.records) or batch_max == 1


def state(running: Sending) -> tuple[int, int, bool]:
    return len(running.chunks), len(running.batches), running.ended


def test_tiny_windows_never_stall(tmp_path: Path) -> None:
    files = make_files(tmp_path)
    with Sending(tmp_path, list_window=1, data_window=0) as running:
        sender = running.sender
        sender.start()
        forgotten, wanted, data_window = 0, 0, 0
        open_files: dict[int, int] = {}
        resolved = 0
        while not (running.ended and resolved == len(files)):
            running.take()
            for n in range(wanted, len(running.chunks)):
                entries = running.entries(n)
                regular = {i for i, entry in enumerate(entries) if entry.kind == sending.REGULAR}
                open_files[n] = len(regular)
                sender.want_untrusted(
                    n, sending.buffer(sending.bitmap(len(entries), regular) + bytes((len(entries) + 7) // 8))
                )
            wanted = len(running.chunks)
            for record in running.records:
                open_files[record.chunk] -= record.kind != sending.PIECE
            resolved += running.resolved()
            running.records.clear()
            forget = []
            while open_files.get(forgotten) == 0:
                forget.append(forgotten)
                forgotten += 1
            sent = sum(map(len, running.batches))
            assert sent - (len(running.batches[-1]) if running.batches else 0) <= data_window
            data_window = sent + 1
            listed = sum(map(len, running.chunks)) + 1
            sender.ack_untrusted(ack(listed, data_window, tuple(forget)))
            running.until(
                partial(lambda before, all_: all_ or state(running) != before, state(running), resolved == len(files))
            )
        assert resolved == len(files)


def test_closing_in_the_middle_of_everything(tmp_path: Path) -> None:
    make_files(tmp_path)
    for moment in (0, 1, 100):
        with Sending(tmp_path, threads=3, data_window=1) as running:
            running.sender.want_all()
            running.sender.start()
            running.until(partial(lambda n: len(running.chunks) >= n or running.ended, moment))
        with pytest.raises(EngineClosed):
            running.sender.next_data()
        with pytest.raises(EngineClosed):
            running.sender.want_all()
        assert running.sender.failure() is None
