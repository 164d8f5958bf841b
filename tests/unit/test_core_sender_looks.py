"""Partial lists: what a sender tells of single paths, first and after LOOKs."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from agentd._core import PeerViolation
from tests.helpers import sending
from tests.helpers.sending import Sending, buffer, looks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PARTIAL = sending.FIRST | sending.LAST | sending.PARTIAL
WHOLE = sending.FIRST | sending.LAST


def told(groups: Iterable[sending.Group]) -> list[tuple[bytes, int, list[tuple[bytes, int]]]]:
    """(path, flags, (name, type) of every entry) of every group; a directory that follows whole has type -1."""
    return [
        (g.path, g.flags, [(os.path.basename(e.path), -1 if e.kind == 0 and e.size else e.kind) for e in g.entries])
        for g in groups
    ]


def make_tree(root: Path) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"content")
    (root / "a" / "b" / "c" / "deep").write_bytes(b"")
    (root / "a" / "link").symlink_to("b")
    (root / "top").write_bytes(b"top")


def test_a_path_is_listed_with_the_directories_on_the_way(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with Sending(tmp_path, looks=looks(b"a/b/file", b"top"), hashes=True, owners=True) as running:
        groups = running.list_all()
        assert told(groups) == [
            (b"", PARTIAL, [(b"", sending.DIRECTORY), (b"a", sending.DIRECTORY), (b"top", sending.REGULAR)]),
            (b"a", PARTIAL, [(b"b", sending.DIRECTORY)]),
            (b"a/b", PARTIAL, [(b"file", sending.REGULAR)]),
        ]
        st = os.lstat(tmp_path / "a" / "b" / "file")
        entry = groups[2].entries[0]
        assert (entry.mtime_ns, entry.size, entry.uid) == (st.st_mtime_ns, 7, st.st_uid)
        assert entry.hash == blake3(b"content").digest()
        assert running.sender.list_total() == (1, 5, blake3(running.chunks[0]).digest())
        running.want(b"a/b/file")
        running.until_resolved(1)
        assert running.records[0].data == b"content"


def test_without_looks_that_count_nothing_is_listed(tmp_path: Path) -> None:
    make_tree(tmp_path)
    ours = b".x.0123456789abcdef.sync~"
    for payload in (b"", looks(b"a/b/file", ours, ours + b"/x", b"top", b"a/link/x/y", deep=(b"a/b",))):
        with Sending(tmp_path, filters=(b"/a/", b"top"), looks=payload) as running:
            assert told(running.list_all()) in ([], [(b"", PARTIAL, [(b"", sending.DIRECTORY)])])
            assert bool(running.chunks) == bool(payload)


def test_the_root_itself(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with Sending(tmp_path, looks=looks(b"")) as running:
        assert told(running.list_all()) == [(b"", PARTIAL, [(b"", sending.DIRECTORY)])]
    with Sending(tmp_path, looks=looks(b"top", deep=(b"",))) as running, Sending(tmp_path) as whole:
        assert running.list_all() == whole.list_all()


def test_what_is_gone_is_told_of_once_at_the_top(tmp_path: Path) -> None:
    make_tree(tmp_path)
    paths = (b"gone", b"new/er/file", b"new/er/other", b"new/x", b"a/b/none", b"top/below/it", b"a/link/file")
    with Sending(tmp_path, looks=looks(*paths)) as running:
        groups = running.list_all()
        assert told(groups) == [
            (b"", PARTIAL, [(b"", sending.DIRECTORY), (b"a", sending.DIRECTORY), (b"gone", sending.GONE),
                            (b"new", sending.GONE), (b"top", sending.REGULAR)]),
            (b"a", PARTIAL, [(b"b", sending.DIRECTORY), (b"link", sending.SYMLINK)]),
            (b"a/b", PARTIAL, [(b"none", sending.GONE)]),
        ]  # fmt: skip
        gone = groups[0].entries[2]
        assert (gone.mode, gone.size, gone.mtime_ns, gone.target) == (0, 0, 0, b"")


def test_a_deep_look_is_a_walk_from_there(tmp_path: Path) -> None:
    make_tree(tmp_path)
    (tmp_path / "a" / "b" / "skip.o").touch()
    payload = looks(b"a/b/file", b"a/b/c/deep", deep=(b"a/b", b"top", b"no"))
    with Sending(tmp_path, filters=(b"*.o",), looks=payload) as running:
        groups = told(running.list_all())
        assert groups[:2] == [
            (b"", PARTIAL, [(b"", sending.DIRECTORY), (b"a", sending.DIRECTORY), (b"no", sending.GONE),
                            (b"top", sending.REGULAR)]),
            (b"a", PARTIAL, [(b"b", -1)]),
        ]  # fmt: skip
        assert [(path, flags, sorted(entries)) for path, flags, entries in groups[2:]] == [
            (b"a/b", WHOLE, [(b"c", sending.DIRECTORY), (b"file", sending.REGULAR)]),
            (b"a/b/c", WHOLE, [(b"deep", sending.REGULAR)]),
        ]


def test_several_deep_looks_share_one_walk(tmp_path: Path) -> None:
    names = [f"d{i}".encode() for i in range(300)]
    for name in names:
        (tmp_path / name.decode() / "sub").mkdir(parents=True)
        (tmp_path / name.decode() / "sub" / "file").touch()
    with Sending(tmp_path, threads=4, looks=looks(deep=tuple(names))) as running:
        groups = running.list_all()
        assert len(groups) == 1 + 2 * len(names)
        assert {g.path for g in groups if g.flags == WHOLE} == {n + s for n in names for s in (b"", b"/sub")}
        assert sum(len(g.entries) for g in groups) == 1 + 3 * len(names)


def test_a_look_lists_more_but_nothing_twice(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with Sending(tmp_path, looks=looks(b"a/b/file", deep=(b"a/b/c",))) as running:
        running.list_all()
        first = running.sender.list_total()
        assert told(running.look(looks(b"a/b/file", b"a/b", b"a/b/c/deep", b"a/b/c", deep=(b"a/b/c",)))) == []
        assert running.sender.list_total() == first
        assert told(running.look(looks(b"a/b/none", b"top"))) == [
            (b"", PARTIAL, [(b"top", sending.REGULAR)]),
            (b"a/b", PARTIAL, [(b"none", sending.GONE)]),
        ]
        # What was listed by name is listed again with what is below it.
        assert told(running.look(looks(deep=(b"a/b",))))[:1] == [(b"a", PARTIAL, [(b"b", -1)])]
        assert told(running.look(looks(b"a/b/none", b"a/b/c/deep"))) == []
        entries = sum(len(group.entries) for group in running.groups())
        assert running.sender.list_total() == (
            len(running.chunks), entries, blake3(b"".join(running.chunks)).digest()
        )  # fmt: skip
        assert running.sender.counters()["list_done"] == 1


def test_looks_may_come_while_the_list_waits(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with Sending(tmp_path, looks=looks(b"top"), list_window=0) as running:
        running.sender.start()
        for payload in (looks(b"a/link"), looks(b"a/b/file")):
            running.sender.look_untrusted(buffer(payload))
        assert running.sender.counters()["list_done"] == 0
        running.sender.grant(sending.NO_LIMIT, sending.NO_LIMIT)
        running.until(lambda: running.ends == 3)
        assert [[e.path for e in running.entries(n)] for n in range(3)] == [
            [b"", b"top"], [b"a", b"a/link"], [b"a/b", b"a/b/file"]
        ]  # fmt: skip


def test_everything_is_listed_after_all(tmp_path: Path) -> None:
    make_tree(tmp_path)
    os.link(tmp_path / "top", tmp_path / "a" / "other")
    with Sending(tmp_path, looks=looks(b"top", b"a/b")) as running, Sending(tmp_path) as whole:
        running.list_all()
        assert running.look(looks(deep=(b"",))) == whole.list_all()
        total = running.sender.list_total()
        assert running.look(looks(b"top")) == []
        assert running.sender.list_total() == total


def test_names_of_one_file_are_of_one_group_in_all_jobs(tmp_path: Path) -> None:
    make_tree(tmp_path)
    for name in ("a/one", "a/two", "a/three"):
        os.link(tmp_path / "top", tmp_path / name)
    os.link(tmp_path / "a" / "b" / "file", tmp_path / "second")
    with Sending(tmp_path, looks=looks(b"top", b"a/one")) as running:
        running.list_all()
        running.look(looks(b"a/two", b"second"))
        running.look(looks(deep=(b"a",)))
        numbers: dict[bytes, set[int]] = {}
        for n, chunk in enumerate(running.chunks):
            flags, _ = sending.parse_chunk(chunk)
            assert flags & sending.LINKS
            for i, group in links_of(chunk):
                numbers.setdefault(running.entries(n)[i].path, set()).add(group)
        same = {b"top", b"a/one", b"a/two", b"a/three"}
        assert numbers == {path: {0} for path in same} | {b"second": {1}, b"a/b/file": {1}}


def links_of(chunk: bytes) -> list[tuple[int, int]]:
    """(entry, group) of the LINKS of a chunk without owners and hashes."""
    groups, entries, *lengths = struct.unpack_from("<IIIII", chunk, 4)
    return list(struct.iter_unpack("<II", chunk[24 + 12 * groups + 27 * entries + sum(lengths) :]))


def test_a_source_that_is_one_file_is_listed_whatever_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with Sending(tmp_path / "file", looks=looks(b"a/b")) as running:
        assert told(running.list_all()) == [(b"", WHOLE, [(b"file", sending.REGULAR)])]
        assert running.look(looks(deep=(b"",))) == []


def test_many_names_flow_in_chunks_and_want_them_by_number(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for i in range(5000):
        (tmp_path / "d" / f"{i:05}").touch()
    paths = [b"d/%05d" % i for i in range(5500)]
    with Sending(tmp_path, looks=buffer(looks(*paths))) as running:
        groups = running.list_all()
        entries = [entry for group in groups for entry in group.entries]
        assert [e.path for e in entries] == [b"", b"d", *paths]
        assert {e.kind for e in entries[5002:]} == {sending.GONE}
        assert len(running.chunks) > 2
        running.want(b"d/00000", b"d/04999")
        running.until_resolved(2)


@pytest.mark.parametrize(
    "payload",
    [
        b"\0",
        b"",
        looks(b"../x"),
        looks(b"/etc"),
        looks(b"a//b"),
        looks(b"a\0"),
        b"\2" + looks(b"a")[1:],
        looks(b"a")[:-1],
        looks(*[b"a" * 200] * 6000),  # above a megabyte
    ],
)
def test_a_look_that_is_not_proper_ends_the_session(tmp_path: Path, payload: bytes) -> None:
    with Sending(tmp_path) as running:
        running.list_all()
        with pytest.raises(PeerViolation):
            running.sender.look_untrusted(buffer(payload))
        assert running.sender.failure() is not None


def test_a_session_has_sixteen_looks(tmp_path: Path) -> None:
    with Sending(tmp_path, looks=b"") as running:
        running.list_all()
        for _ in range(16):
            running.sender.look_untrusted(buffer(looks(b"a")))
        with pytest.raises(PeerViolation):
            running.sender.look_untrusted(buffer(looks(b"a")))
    with pytest.raises(ValueError, match="cut short"), Sending(tmp_path, looks=b"\0"):
        pass


def test_more_names_than_a_sender_remembers_are_a_list_of_everything(tmp_path: Path) -> None:
    make_tree(tmp_path)
    names = [b"/".join([b"%05x" % i] + [b"x"] * 500) for i in range(900)]
    with Sending(tmp_path, looks=b"") as running, Sending(tmp_path) as whole:
        running.list_all()
        assert running.look(looks(*names)) == whole.list_all()


AHEAD = 64


def is_ahead(chunk: bytes) -> bool:
    return bool(struct.unpack_from("<H", chunk, 2)[0] & AHEAD)


def test_a_few_small_files_come_with_the_list(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with Sending(tmp_path, looks=looks(b"a/b/file", b"top", b"a/link"), ahead=True, data_window=1 << 16) as running:
        running.list_all()
        assert is_ahead(running.chunks[0])
        running.until_resolved(2)  # no WANT was said
        assert sorted(record.data for record in running.records) == [b"content", b"top"]
        running.want()
        later = looks(b"a/b/c/deep")
        running.look(later)
        assert not is_ahead(running.chunks[1])


def test_what_came_with_the_list_is_not_asked_for(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with Sending(tmp_path, looks=looks(b"top"), ahead=True) as running:
        running.list_all()
        with pytest.raises(PeerViolation, match="without one"):
            running.want(b"top")


@pytest.mark.parametrize("what", ["nothing", "whole", "large", "linked", "link"])
def test_all_else_waits_until_it_is_wanted(tmp_path: Path, what: str) -> None:
    make_tree(tmp_path)
    (tmp_path / "large").write_bytes(bytes(1 << 16))
    (tmp_path / "large2").write_bytes(b"x")
    os.link(tmp_path / "top", tmp_path / "a" / "other")
    asked = {
        "nothing": looks(b"a/gone"),
        "whole": looks(b"large2", deep=(b"a/b",)),
        "large": looks(b"large", b"large2"),
        "linked": looks(b"large2", b"top"),
        "link": looks(b"a/link"),
    }[what]
    with Sending(tmp_path, looks=asked, ahead=True) as running:
        running.list_all()
        assert not any(map(is_ahead, running.chunks))
        assert not running.records
