"""The sender's walk and file list, against a naive reading of the tree."""

from __future__ import annotations

import os
import socket
import stat
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from agentd._core import PeerViolation, Sender
from tests.helpers import sending
from tests.helpers.sending import Entry, Sending, ack

if TYPE_CHECKING:
    from pathlib import Path


def naive(root: bytes) -> dict[bytes, tuple[int, int, int, int, bytes]]:
    """path -> (kind, mode, size, mtime_ns, target) by os.walk."""
    found = {b"": root}
    for parent, dirs, files in os.walk(root):
        for name in dirs + files:
            full = os.path.join(parent, name)
            found[os.path.relpath(full, root)] = full
    result = {}
    for path, full in found.items():
        st = os.lstat(full)
        kind = sending.OTHER
        if stat.S_ISDIR(st.st_mode):
            kind = sending.DIRECTORY
        elif stat.S_ISREG(st.st_mode):
            kind = sending.REGULAR
        elif stat.S_ISLNK(st.st_mode):
            kind = sending.SYMLINK
        target = os.readlink(full) if kind == sending.SYMLINK else b""
        size = st.st_size if kind == sending.REGULAR else 0
        result[path] = (kind, stat.S_IMODE(st.st_mode), size, st.st_mtime_ns, target)
    return result


def listed(sending_: Sending) -> dict[bytes, Entry]:
    """All entries by path; checks the order that the protocol promises."""
    found: dict[bytes, Entry] = {}
    parts: dict[bytes, int] = {}
    for group in sending_.groups():
        if group.path:
            assert found[group.path].kind == sending.DIRECTORY, "a group before its directory's entry"
        seen = parts.get(group.path, 0)
        assert bool(group.flags & sending.FIRST) == (seen == 0)
        assert not seen & sending.LAST
        parts[group.path] = sending.FIRST | group.flags & sending.LAST
        for entry in group.entries:
            assert entry.path not in found
            found[entry.path] = entry
    assert all(flags & sending.LAST for flags in parts.values())
    dirs = {path for path, entry in found.items() if entry.kind == sending.DIRECTORY}
    assert dirs == parts.keys() or (len(found) == 1 and not dirs)
    payloads = b"".join(sending_.chunks)
    assert sending_.sender.list_total() == (len(sending_.chunks), len(found), blake3(payloads).digest())
    return found


def plain(entries: dict[bytes, Entry]) -> dict[bytes, tuple[int, int, int, int, bytes]]:
    return {path: (e.kind, e.mode, e.size, e.mtime_ns, e.target) for path, e in entries.items()}


def make_tree(root: Path) -> None:
    for path in ("a/b/c", "a/empty", "z"):
        (root / path).mkdir(parents=True)
    for i in range(300):
        (root / "z" / f"file{i}").write_bytes(b"x" * i)
    (root / "a" / "odd").write_bytes(b"")
    (root / "a" / "odd").chmod(0o4711)
    (root / "a" / "b").chmod(0o2750)
    (root / "link").symlink_to("../outside/nowhere")
    (root / "to-dir").symlink_to("a")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fsencode(root / "socket"))
    os.mkdir(os.fsencode(root) + b"/caf\xe9\xff")
    with open(os.fsencode(root) + b"/caf\xe9\xff/\n\x1b[2J", "wb"):
        pass
    os.utime(root / "a" / "odd", ns=(0, -1_000_000_001))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_list_is_what_os_walk_finds(tmp_path: Path, threads: int) -> None:
    make_tree(tmp_path)
    with Sending(tmp_path, threads=threads) as running:
        running.list_all()
        assert plain(listed(running)) == naive(os.fsencode(tmp_path))
        counters = running.sender.counters()
        assert counters["listed"] == len(naive(os.fsencode(tmp_path)))
        assert counters["entries_bytes"] == sum(map(len, running.chunks))
        assert counters["list_done"] == 1


def test_a_root_that_is_a_symlink_is_followed_and_nothing_below_it(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "back").symlink_to("..")
    (tmp_path / "link").symlink_to("real")
    with Sending(tmp_path / "link") as running:
        running.list_all()
        assert listed(running).keys() == {b"", b"sub", b"back"}


def test_owners_and_hashes_are_columns_of_their_own(tmp_path: Path) -> None:
    make_tree(tmp_path)
    large = os.urandom(5 * sending.MIB + 3)
    (tmp_path / "large").write_bytes(large)
    if os.geteuid() == 0:
        os.chown(tmp_path / "a" / "odd", 12345, 54321)
    with Sending(tmp_path, owners=True, hashes=True) as running:
        running.list_all()
        assert sending.parse_chunk(running.chunks[0])[0] == sending.OWNERS | sending.HASHES
        found = listed(running)
        assert plain(found) == naive(os.fsencode(tmp_path))
        assert found[b"large"].hash == blake3(large).digest()
        assert found[b"z/file7"].hash == blake3(b"x" * 7).digest()
        assert found[b"a"].hash == found[b"fifo"].hash == bytes(32)
        for path, entry in found.items():
            st = os.lstat(os.path.join(os.fsencode(tmp_path), path))
            assert (entry.uid, entry.gid) == (st.st_uid, st.st_gid)


def test_excluded_and_temporary_names_are_not_listed(tmp_path: Path) -> None:
    make_tree(tmp_path)
    (tmp_path / "a" / ".git" / "objects").mkdir(parents=True)
    (tmp_path / "a" / "keep.o").mkdir()
    (tmp_path / "a" / "b" / "drop.o").write_bytes(b"")
    (tmp_path / ".odd.0123456789abcdef.sync~").write_bytes(b"partial")
    (tmp_path / ".odd.0123456789ABCDEF.sync~").write_bytes(b"not ours")
    (tmp_path / ".0123456789abcdef.sync~").write_bytes(b"not ours")
    with Sending(tmp_path, filters=(b".git/", b"/a/b/*.o", b"file*")) as running:
        running.list_all()
        found = listed(running).keys()
    everything = naive(os.fsencode(tmp_path)).keys()
    gone = {p for p in everything if p.startswith((b"a/.git", b"z/file"))} | {b"a/b/drop.o"}
    assert everything - found == gone | {b".odd.0123456789abcdef.sync~"}


def test_one_file_is_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "named").symlink_to("file")
    with Sending(tmp_path / "named", hashes=True) as running:
        running.list_all()
        flags, [group] = sending.parse_chunk(running.chunks[0])
        assert flags == sending.SINGLE | sending.HASHES
        [entry] = group.entries
        assert (group.path, group.flags) == (b"", sending.FIRST | sending.LAST)
        assert (entry.path, entry.kind, entry.size) == (b"named", sending.REGULAR, 7)
        assert entry.hash == blake3(b"content").digest()
        running.want(b"named")
        running.until_resolved(1)
        assert running.records[0].data == b"content"


def test_a_root_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileNotFoundError), Sending(tmp_path / "missing"):
        pass
    with pytest.raises(OSError, match="Invalid argument"), Sending(tmp_path / "fifo"):
        pass


def test_a_tree_deeper_than_any_path_may_be(tmp_path: Path) -> None:
    depth, name = 2000, b"deep"
    here = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    top = os.dup(here)
    try:
        for level in range(depth):
            # A second child at every level: its parent's handle cannot be held that often.
            os.mkdir(b"sibling", dir_fd=here)
            os.mkdir(name, dir_fd=here)
            deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            if level == depth - 1:
                os.close(os.open(b"leaf", os.O_CREAT | os.O_WRONLY, dir_fd=deeper))
            os.close(here)
            here = deeper
        with Sending(tmp_path) as running:
            running.list_all()
            found = {entry.path for group in running.groups() for entry in group.entries}
            leaf = b"/".join([name] * depth) + b"/leaf"
            assert leaf in found
            assert len(found) == 2 * depth + 2
            running.want(leaf)
            running.until_resolved(1)
            assert running.records[0].kind == sending.WHOLE
    finally:
        os.close(here)
        remove_deep(top, name)
        os.close(top)


def remove_deep(top: int, name: bytes) -> None:
    """rmtree would recurse: flatten instead, always two levels below ``top``."""
    while True:
        try:
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
        except FileNotFoundError:
            break
        for inner in os.listdir(child):
            if os.fsencode(inner) == name:
                os.rename(inner, b"next", src_dir_fd=child, dst_dir_fd=top)
            elif inner == "sibling":
                os.rmdir(inner, dir_fd=child)
            else:
                os.unlink(inner, dir_fd=child)
        os.close(child)
        os.rmdir(name, dir_fd=top)
        try:
            os.rename(b"next", name, src_dir_fd=top, dst_dir_fd=top)
        except FileNotFoundError:
            break
    os.rmdir(b"sibling", dir_fd=top)


def test_a_huge_directory_flows_in_parts(tmp_path: Path) -> None:
    count = 50_000
    for i in range(count):
        os.link(tmp_path / "0", tmp_path / str(i)) if i else (tmp_path / "0").touch()
    with Sending(tmp_path) as running:
        running.list_all()
        assert len(listed(running)) == count + 1
        assert len(running.chunks) > 10
        assert max(map(len, running.chunks)) < 512 << 10


def test_the_walk_waits_for_the_list_window(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"dir{i}").mkdir()
        for j in range(1100):
            (tmp_path / f"dir{i}" / str(j)).touch()
    with Sending(tmp_path, list_window=0) as running:
        running.sender.start()
        assert running.sender.next_control() is None
        granted = 1
        while not running.ended:
            more = partial(lambda n: len(running.chunks) > n or running.ended, len(running.chunks))
            running.sender.grant(granted, 0)
            running.until(more)
            sizes = [len(chunk) for chunk in running.chunks]
            assert sum(sizes[:-1]) < granted, "a chunk was begun above the grant"
            granted = sum(sizes) + 1
        assert len(listed(running)) == 20 * 1101 + 1


def test_a_sender_without_a_wake_fd_or_a_walk_closes(tmp_path: Path) -> None:
    make_tree(tmp_path)
    for start in (False, True):
        sender = Sender(
            os.fsencode(tmp_path), filters=[], hashes=False, owners=False, hard_links=True, threads=2,
            batch_max=1 << 20, list_window=0, data_window=0, compress="never", far=False, wake_fd=-1,
        )  # fmt: skip
        if start:
            sender.start()
        sender.close()
        sender.close()
        assert sender.failure() is None
        with pytest.raises(RuntimeError):
            sender.list_total()


def unreadable(root: Path) -> dict[bytes, tuple[int, int, int]]:
    with Sending(root) as running:
        running.list_all()
        groups = {group.path: group for group in running.groups()}
        running.want(b"secret")
        running.until_resolved(1)
        found = {path: (group.flags, group.errno, len(group.entries)) for path, group in groups.items()}
        found[b"record"] = (running.records[0].kind, running.records[0].code, running.records[0].errno)
        return found


def test_what_an_ordinary_user_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "inside").touch()
    (tmp_path / "no-search").mkdir()
    (tmp_path / "no-search" / "inside").touch()
    (tmp_path / "secret").write_bytes(b"secret")
    for path, mode in (("secret", 0), ("closed", 0), ("no-search", 0o444)):
        (tmp_path / path).chmod(mode)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                for parent in tmp_path.parents:
                    os.chmod(parent, os.stat(parent).st_mode | 0o001) if parent.owner() == "root" else None
                os.chown(tmp_path, 65534, 65534)
                for path in ("secret", "closed", "no-search"):
                    os.chown(tmp_path / path, 65534, 65534)
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            os.write(write_end, repr(unreadable(tmp_path)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as report:
        found = report.read()
    os.waitpid(child, 0)
    for path in ("closed", "no-search"):
        (tmp_path / path).chmod(0o700)
    whole = sending.FIRST | sending.LAST
    expected = {
        b"": (whole, 0, 4),
        b"closed": (whole | sending.INCOMPLETE, 13, 0),
        b"no-search": (whole, 0, 1),
        b"record": (sending.PROBLEM, sending.UNREADABLE_FILE, 13),
    }
    assert {**expected, **eval(found)} == expected


def test_an_ack_must_fit_what_was_listed(tmp_path: Path) -> None:
    make_tree(tmp_path)
    hostile = [
        b"", b"\0" * 35, struct.pack("<QQQQII", 0, 0, 0, 0, 2, 0), struct.pack("<QQQQIB", 0, 0, 0, 0, 0, 0),
        struct.pack("<QQQQI", 0, 0, 0, 0, 1 << 31), bytes(ack(forget=(0,))), bytes(ack(forget=(1 << 31,))),
    ]  # fmt: skip
    for payload in hostile:
        with Sending(tmp_path) as running:
            running.list_all()
            with pytest.raises(PeerViolation):
                running.sender.ack_untrusted(sending.buffer(payload))
            assert running.sender.failure() is not None
