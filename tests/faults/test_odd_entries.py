"""Entries that are odd in name, kind, time or place: what can be synced is, byte for byte, and the rest is named."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import snapshot
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.fault_case import FaultCase

SECOND = 10**9

ODDITIES = [
    *("-", "--", "-rf", "--delete", "~", "~root", "$HOME", "$(touch x)", "`touch x`", "; touch x", "| cat", "a && b"),
    *("*", "?", "[a-z]", "{a,b}", "!!", "%s%n", "%00", "..\\..\\x", "C:\\", "a:b", "box:x", "rsync:", "NUL", "con"),
    *(" ", "  lead", "trail ", "...", ". .", "'", '"', "\\", "\\n", "a\tb", "a\nb", "a\r\nb", "\x1b[31mred\x1b[0m"),
    *("\x1b]0;title\x07", "\u202etxt.exe", "\u2066a\u2069", "\u200b", "\ufeff", "\u00a0", "\u2028", "\u0085", "\ufffd"),
    *("\u0301", "e\u0301\u0301\u0301", "\u1e9e", "ß", "İ", "田中さん", "مرحبا", "שלום", "ไทย", "👾", "\U0001d4b3" * 60),
    *("true", "null", "NaN", "0x10", "1e309", "<script>", "' OR 1=1--", "../x".replace("/", "\\"), ".git", ".syncctl"),
]  # fmt: skip


@pytest.mark.fault("B1", "B2")
def test_naughty_names(case: FaultCase) -> None:
    """Every byte that a name may hold, alone and within a name, and strings that programs have stumbled over."""
    single = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    names = [*single, *(b"a" + byte + b"z" for byte in single), *map(os.fsencode, ODDITIES)]
    names += [b"caf\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf8\x88\x80\x80\x80"]
    assert len(set(names)) >= 515
    case.build({name: b"content of " + name for name in names})
    said = case.hosts.here.run("push", "--itemize", case.source, f"box:{case.destination}")
    assert said.status == 0, said
    printed = os.fsencode(said.out + said.err)
    assert not set(printed) & (set(range(32)) - {10} | {127}), "a control character reached the terminal"
    assert not any(0x80 <= ord(sign) <= 0x9F or sign in "\u202e\u2066" for sign in said.out + said.err)
    case.converges("--delete")
    assert {name: (case.destination / os.fsdecode(name)).read_bytes() for name in names} == {
        name: b"content of " + name for name in names
    }


@pytest.mark.fault("B3")
def test_twins_of_other_normal_forms(case: FaultCase) -> None:
    case.build({b"caf\xc3\xa9": b"composed", b"cafe\xcc\x81": b"decomposed"})
    case.converges()
    assert (case.destination / os.fsdecode(b"caf\xc3\xa9")).read_bytes() == b"composed"


@pytest.mark.fault("B7")
def test_the_longest_names(case: FaultCase) -> None:
    """There is room for no suffix."""
    names = [b"n" * 255, b"\xe2\x82\xac" * 85, b"." + b"x" * 254, b"m" * 254]
    case.build({name: name for name in names} | {b"d" * 255 + b"/" + b"f" * 255: b"inner"})
    case.converges()
    with TreeBuilder(case.source, 1) as tree:
        for name in names:
            tree.file(name, tree.noise(200_000))
    case.hosts.account.owns(case.source)
    case.converges()


@pytest.mark.fault("A8")
def test_one_name_of_a_file_is_outside(case: FaultCase, place: Path) -> None:
    case.build({"one": b"linked", "d/two": b""})
    os.unlink(case.source / "d/two")
    os.link(case.source / "one", case.source / "d/two")
    os.link(case.source / "one", place / "outside")
    case.converges()
    there = os.stat(case.destination / "one")
    assert there.st_nlink == 2
    assert os.path.samefile(case.destination / "one", case.destination / "d/two")
    assert not os.path.samefile(case.destination / "one", place / "outside")


@pytest.mark.fault("A11")
def test_devices_are_left_out_and_never_opened(case: FaultCase) -> None:
    if case.hosts.account.uid != 0:
        pytest.skip("only root makes devices")
    case.build({"fine": b"1"})
    os.mkfifo(case.source / "fifo")
    os.mknod(case.source / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    try:
        os.mknod(case.source / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    case.converges()
    assert os.listdir(case.destination) == ["fine"]


@pytest.mark.fault("A12")
def test_times_at_the_edges(case: FaultCase) -> None:
    times = {
        "before": -SECOND, "epoch": 0, "31 bits": 2**31 * SECOND, "33 bits": 2**33 * SECOND, "fraction": 999_999_999,
        "first": -1, "2500": 16_725_225_600 * SECOND + 123_456_789,
    }  # fmt: skip
    case.build({name: name.encode() for name in times})
    for name, when in times.items():
        os.utime(case.source / name, ns=(when, when))
    case.converges()
    again = case.push()
    assert again.result["stats"]["files"] == 0, again


@pytest.mark.fault("A13", "A14", "A15")
def test_changes_that_size_and_time_hide(case: FaultCase) -> None:
    """Written within a file system's tick, or with the time set back, or by a new file that has the old one's inode:
    as with rsync, a list with hashes tells.
    """
    case.build({"rewritten": b"old!", "made anew": b"old!", "steady": b"same"})
    case.converges()
    for name in ("rewritten", "made anew"):
        path = case.source / name
        when = os.stat(path).st_mtime_ns
        if name == "made anew":
            path.unlink()
        path.write_bytes(b"new!")
        os.utime(path, ns=(when, when))
    case.hosts.account.owns(case.source)
    case.converges("--checksum")
    assert (case.destination / "rewritten").read_bytes() == (case.destination / "made anew").read_bytes() == b"new!"


MAPPED = """
import mmap, os, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as stored:
    stored[:4] = b"one."
    stored.flush()
    seen = os.fstat(file.fileno())
    os.utime(file.fileno(), ns=(seen.st_atime_ns, int(sys.argv[2])))
    print(flush=True)
    sys.stdin.readline()
    stored[:4] = b"two."
    print(flush=True)
    sys.stdin.readline()
"""


@pytest.mark.fault("A16")
def test_stores_through_a_mapping(case: FaultCase) -> None:
    """No event tells of them, and no time before they are written back: --checksum finds them."""
    case.build({"mapped": b"old content"})
    path = case.source / "mapped"
    when = os.stat(path).st_mtime_ns
    with case.hosts.account.popen(
        [case.hosts.account.python, "-c", MAPPED, str(path), str(when)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        try:
            writer.stdout.readline()
            case.converges()
            writer.stdin.write(b"\n")
            writer.stdin.flush()
            writer.stdout.readline()
            case.converges("--checksum")
            assert (case.destination / "mapped").read_bytes() == b"two.content"
        finally:
            writer.communicate(b"\n", timeout=10)
    case.converges("--checksum")


@pytest.mark.fault("A5", "C6")
def test_what_may_not_be_read_or_written(case: FaultCase) -> None:
    if case.hosts.account.uid == 0:
        pytest.skip("root may read and write everything")
    case.build({"secret": b"1", "closed/in": b"1", "open/in": b"1", "fine": b"1"})
    case.converges()
    case.build({"secret": b"22", "closed/in": b"22", "open/in": b"22", "fine": b"22"})
    os.chmod(case.source / "secret", 0)
    os.chmod(case.source / "closed", 0)
    ended = case.push("--delete")
    os.chmod(case.source / "closed", 0o755)
    assert {problem["path"] for problem in ended.problems} == {"secret", "closed"}
    assert {problem["errno"] for problem in ended.problems} == {13}
    case.kept("secret", "closed/in")
    assert (case.destination / "fine").read_bytes() == b"22"
    os.chmod(case.source / "secret", 0o644)
    case.converges("--delete")


@pytest.mark.fault("C6")
def test_a_file_that_may_not_be_replaced(case: FaultCase) -> None:
    case.build({"held": b"old", "d/held": b"old", "gone": b"old", "fine": b"old"})
    case.converges()
    case.build({"held": b"newer", "d/held": b"newer", "fine": b"newer"})
    (case.source / "gone").unlink()
    held = [case.destination / name for name in ("held", "d/held", "gone")]
    if (
        not shutil.which("chattr")
        or subprocess.run(["chattr", "+i", *held], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file can be made immutable here")
    try:
        ended = case.push("--delete")
    finally:
        subprocess.run(["chattr", "-i", *held], check=True)
    assert {problem["path"] for problem in ended.problems} == {"held", "d/held", "gone"}, ended
    case.kept("held", "d/held", "gone")
    assert (case.destination / "fine").read_bytes() == b"newer"
    case.converges("--delete")


@pytest.mark.fault("C9")
@pytest.mark.parametrize("kind", ["a file", "a directory"])
def test_another_kind_is_in_the_way(case: FaultCase, kind: str) -> None:
    way = {"way/inside": b"theirs", "way/below/deep": b"theirs"} if kind == "a directory" else {"way": b"theirs"}
    case.build(way)
    case.converges()
    shutil.rmtree(case.source)
    case.source.mkdir()
    case.build({"way": b"ours"} if kind == "a directory" else {"way/inside": b"ours"})
    ended = case.push()
    if kind == "a directory":
        assert [problem["path"] for problem in ended.problems] == ["way"]
        case.kept("way/inside", "way/below/deep")
    case.converges("--delete")
    assert snapshot(case.destination).keys() == snapshot(case.source).keys()


@pytest.mark.fault("C12")
def test_a_program_that_runs(case: FaultCase) -> None:
    """It goes on with what it was started from: files are replaced, never written in place."""
    case.build({})
    shutil.copy(shutil.which("sleep") or "/bin/sleep", case.source / "program")
    case.hosts.account.owns(case.source)
    case.converges()
    with subprocess.Popen([case.destination / "program", "60"]) as running:
        try:
            with (case.source / "program").open("ab") as file:
                file.write(b"more")
            case.converges()
            assert running.poll() is None
        finally:
            running.kill()


@pytest.mark.fault("A17")
def test_clocks_that_jump(case: FaultCase) -> None:
    """Times of another day are data like all times: nothing is sent twice, nothing is missed."""
    hour, now = 3600 * SECOND, time.time_ns()
    case.build({name: name.encode() for name in ("past", "future", "steady")})
    for name, when in (("past", now - hour), ("future", now + hour)):
        os.utime(case.source / name, ns=(when, when))
    case.converges()
    assert case.push().result["stats"]["files"] == 0
    for name, when in (("past", now + hour), ("future", now - hour)):
        (case.source / name).write_bytes(b"edited")
        os.utime(case.source / name, ns=(when, when))
    case.hosts.account.owns(case.source)
    case.converges()
    assert case.push().result["stats"]["files"] == 0
