"""The crate's receiver when things go wrong: records out of order, lies, a destination that changes or refuses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import blake3
import pytest

from agentd import _core
from tests.helpers.by_user import by_user, open_place
from tests.helpers.joined import sync
from tests.helpers.payloads import (
    DIRECTORY,
    END,
    OWNERS,
    PIECE,
    PIECE_RECORD,
    PROBLEM,
    SAME,
    SYMLINK,
    Entry,
    Group,
    pack_list,
    pack_record,
)
from tests.helpers.receiving import ROOT, TAG, Driver, buffer, cv, leftovers, receiving, whole

if TYPE_CHECKING:
    from pathlib import Path

BIG = [Group(b"", [ROOT, Entry(b"big", size=2 * PIECE + 9)])]


def records(content: bytes, same: int = 0) -> list[bytes]:
    """A large file as entry (0, 1): its pieces, the first ``same`` of them known to be there, and its END."""
    size = len(content)
    made = []
    for number in range(-(-size // PIECE)):
        data = content[number * PIECE : (number + 1) * PIECE]
        held = number < same
        made.append(
            pack_record(PIECE_RECORD, 0, 1, b"" if held else data, size=size, encoding=SAME if held else 0,
                        piece=number, hash_=cv(data, number, size))
        )  # fmt: skip
    return [*made, pack_record(END, 0, 1, size=size, hash_=blake3.blake3(content).digest())]


def temp_name(name: str, kind: str = "sync") -> str:
    return f".{name}.{TAG}00000001.{kind}~"


def test_a_problem_that_overtakes_pieces_waits_for_them(tmp_path: Path) -> None:
    first, second, third, _ = records(os.urandom(2 * PIECE + 9))
    with receiving(tmp_path / "dst") as driver:
        driver.send_list([Group(b"", [*BIG[0].entries, Entry(b"f", size=1)])])
        driver.end_list()
        driver.data(first)
        driver.data(pack_record(PROBLEM, 0, 1, code=3, errno=5, piece=3))
        driver.run(lambda: bool(driver.problems))
        driver.data(third)
        driver.data(second)
        driver.data(whole(0, 2, b"x"))
        driver.run()
        assert driver.done, driver.engine.failure()
        assert driver.problems == [(b"big", "unreadable", 5)]
    assert os.listdir(tmp_path / "dst") == ["f"]


@pytest.mark.parametrize("again", ["whole", "end", "problem"])
def test_a_file_that_comes_twice_is_a_violation(tmp_path: Path, again: str) -> None:
    content = os.urandom(2 * PIECE + 9)
    *pieces, end = records(content)
    with receiving(tmp_path / "dst") as driver:
        driver.send_list([Group(b"", [*BIG[0].entries, Entry(b"f", size=1)])])
        match again:
            case "whole":
                driver.data(whole(0, 2, b"x"), whole(0, 2, b"x"))
            case "end":
                driver.data(end, end, *pieces)
            case _:
                driver.data(end, pack_record(PROBLEM, 0, 1, code=2, piece=3))
        assert driver.failed == "protocol"


def test_a_partial_that_is_longer_than_what_its_file_became_is_cut(tmp_path: Path) -> None:
    content = os.urandom(3 * PIECE)
    (tmp_path / temp_name("big")).write_bytes(content)
    became = content[: 2 * PIECE + 99]
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"big", size=4 * PIECE)])])
        driver.end_list()
        driver.run(lambda: bool(driver.bases))
        driver.data(*records(became, same=2))
        driver.run()
        assert driver.done
    assert (tmp_path / "big").read_bytes() == became
    assert not leftovers(tmp_path)


def test_a_partial_with_another_name_is_not_written_to(tmp_path: Path) -> None:
    content = os.urandom(3 * PIECE)
    (tmp_path / "dst").mkdir()
    (tmp_path / "precious").write_bytes(content[:PIECE] + bytes(PIECE))
    os.link(tmp_path / "precious", tmp_path / "dst" / temp_name("big"))
    with receiving(tmp_path / "dst") as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"big", size=3 * PIECE)])])
        driver.end_list()
        driver.run(lambda: bool(driver.bases))
        driver.data(*records(content))
        driver.run()
        assert driver.done
    assert (tmp_path / "dst" / "big").read_bytes() == content
    assert (tmp_path / "precious").read_bytes() == content[:PIECE] + bytes(PIECE)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("kind", ["aside", "sync"])
def test_what_a_killed_session_left_aside_comes_back_and_leaves_no_trace_in_times(tmp_path: Path, kind: str) -> None:
    aside = tmp_path / temp_name("d", kind)
    aside.mkdir(mode=0o755)
    (aside / "f").write_text("x")
    os.utime(aside / "f", ns=(0, 5 * 10**9))
    os.utime(aside, ns=(0, 7 * 10**9))
    os.utime(tmp_path, ns=(0, ROOT.mtime_ns))
    tmp_path.chmod(ROOT.mode)
    with receiving(tmp_path, delete=True) as driver:
        driver.send_list([
            Group(b"", [ROOT, Entry(b"d", DIRECTORY, 0o755, mtime_ns=7 * 10**9)]),
            Group(b"d", [Entry(b"f", size=1, mtime_ns=5 * 10**9)]),
        ])  # fmt: skip
        driver.end_list()
        driver.run()
        assert driver.done
        assert not driver.items
    assert (tmp_path / "d" / "f").read_text() == "x"
    assert tmp_path.stat().st_mtime_ns == ROOT.mtime_ns


def test_a_file_that_fails_leaves_no_trace_in_times(tmp_path: Path) -> None:
    os.utime(tmp_path, ns=(0, ROOT.mtime_ns))
    (tmp_path / temp_name("f")).touch()  # not empty: a WANT is awaited
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"f", size=1)])])
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        (tmp_path / "f").mkdir()
        driver.data(whole(0, 1, b"x"))
        driver.run()
        assert driver.done
        assert [code for _, code, _ in driver.problems] == ["changed-here"]
    assert tmp_path.stat().st_mtime_ns == ROOT.mtime_ns
    assert os.listdir(tmp_path) == ["f"]


def test_what_is_inside_a_replaced_directory_counts_as_deleted(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for n in range(10):
        (tmp_path / "d" / str(n)).touch()
    with receiving(tmp_path, delete=True, max_delete=5) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"d", size=1)])])
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        driver.data(whole(0, 1, b"x"))
        assert driver.failed == "max-delete"
    assert len(os.listdir(tmp_path / "d")) == 10
    assert os.listdir(tmp_path) == ["d"]


def test_a_directory_that_is_not_empty_any_more_stays(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with receiving(tmp_path) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"d", size=1)])])
        driver.end_list()
        driver.run(lambda: 0 in driver.wants)
        (tmp_path / "d" / "new").write_text("just saved")
        driver.data(whole(0, 1, b"x"))
        driver.run()
        assert driver.done
        assert [code for _, code, _ in driver.problems] == ["changed-here"]
    assert (tmp_path / "d" / "new").read_text() == "just saved"
    assert os.listdir(tmp_path) == ["d"]


def test_a_filter_protects_what_comes_into_a_directory_that_makes_room(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    with receiving(tmp_path, delete=True, filters=[b"/d/keep"]) as driver:
        driver.send_list([Group(b"", [ROOT, Entry(b"d", size=1)])])
        driver.run(lambda: 0 in driver.wants)
        (tmp_path / "d" / "keep").write_text("kept")
        driver.data(whole(0, 1, b"x"))
        driver.end_list()
        driver.run()
        assert driver.done
        assert [(path, code) for path, code, _ in driver.problems] == [(b"d", "not-deleted")]
    assert [path.read_text() for path in tmp_path.glob(".d.*/keep")] == ["kept"]


def flagless(driver: Driver) -> None:
    driver.send_list([Group(b"", [ROOT])])


def excluded(driver: Driver) -> None:
    driver.send_list([Group(b"", [ROOT, Entry(b"secret", SYMLINK, target=b"x")])], flags=OWNERS)


def ours(driver: Driver) -> None:
    driver.send_list([Group(b"", [ROOT, Entry(temp_name("secret", "aside").encode())])], flags=OWNERS)


def after_the_end(driver: Driver) -> None:
    driver.send_list([Group(b"", [ROOT, Entry(b"f", size=1)])], flags=OWNERS)
    driver.end_list()
    driver.engine.list_untrusted(1, buffer(pack_list([], OWNERS)))


@pytest.mark.parametrize("lie", [flagless, excluded, ours, after_the_end])
def test_lists_that_were_not_agreed_on_are_violations(tmp_path: Path, lie: Any) -> None:
    with receiving(tmp_path, owner=True, filters=[b"secret"]) as driver:
        lie(driver)
        assert driver.failed == "protocol"
    assert os.listdir(tmp_path) == []


def test_data_that_nothing_can_be_waited_for_is_a_violation(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    for payload in (b"", whole(1, 0, b"x")):
        with receiving(tmp_path) as driver:
            driver.send_list([Group(b"", [ROOT, Entry(b"f", size=1)])])
            driver.end_list()
            driver.run(lambda d=driver: d.engine.counters()["list_done"] == 1)  # type: ignore[misc]
            with pytest.raises(_core.PeerViolation):
                driver.engine.data_untrusted(buffer(payload))


def test_no_more_bases_are_open_at_once_than_a_process_has_handles(tmp_path: Path) -> None:
    """Each basis is an open file until its data came, and a thousand changed files are nothing special."""
    names = [str(n).encode() for n in range(900)]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(bytes(4096))
    before = len(os.listdir("/dev/fd"))
    answered = 0
    with receiving(tmp_path, delta_min=4096) as driver:
        driver.send_list([Group(b"", [ROOT, *(Entry(name, size=5000) for name in names)])])
        driver.end_list()
        while answered < len(names):
            driver.run(lambda n=answered: len(driver.bases) > n)  # type: ignore[misc]
            assert len(os.listdir("/dev/fd")) - before < 300
            if answered == 0:
                driver.run(lambda: len(driver.bases) >= 256)
            told, answered = driver.bases[answered:], len(driver.bases)
            indexes = [int.from_bytes(basis[4:8], "little") for basis in told]
            driver.data(*(whole(0, index, b"new") for index in indexes))
        driver.run()
        assert driver.done
        assert not driver.problems
    assert all((tmp_path / os.fsdecode(name)).read_bytes() == b"new" for name in names)


def test_a_destination_that_refuses_everything_is_problems_and_no_violation() -> None:
    """The sender of everything to an empty root hears of no refusal until it has sent."""
    with open_place() as base:
        (base / "src" / "d").mkdir(parents=True)
        (base / "src" / "d" / "f").write_text("x")
        (base / "src" / "d" / "big").write_bytes(bytes(2 * PIECE))
        (base / "src" / "g").write_text("x")
        (base / "dst").mkdir(mode=0o755)

        def work() -> None:
            outcome = sync(str(base / "src"), str(base / "dst"))
            assert outcome.failure is None
            assert {path for path, code, _ in outcome.problems if code == "write"} == {b"d", b"g"}

        if os.geteuid() == 0:
            by_user(work)  # who does not own it


def test_an_ordinary_user_writes_to_read_only_directories_of_theirs() -> None:
    with open_place() as base:

        def work() -> None:
            for name in ("src", "dst"):
                (base / name / "shut" / "in").mkdir(parents=True)
                (base / name / "shut" / "same").write_text("x")
                os.utime(base / name / "shut" / "same", ns=(0, 10**18))
                (base / name / "unsearchable").mkdir()
                (base / name / "unsearchable" / "f").write_text("x")
                os.utime(base / name / "unsearchable" / "f", ns=(0, 10**18))
            (base / "src/shut/new").mkdir()
            (base / "src/shut/new/f").write_bytes(bytes(2 * PIECE))
            (base / "src/shut/link").symlink_to("x")
            (base / "src/shut/file").write_text("file")
            (base / "dst/shut/file").mkdir()
            (base / "dst/shut/extra").mkdir()
            (base / "dst/shut/extra/f").touch()
            (base / "dst/shut/extra").chmod(0o555)
            for name in ("src", "dst"):
                (base / name / "shut").chmod(0o555)
                (base / name).chmod(0o555)
            (base / "dst/unsearchable").chmod(0o600)
            outcome = sync(str(base / "src"), str(base / "dst"), delete=True)
            assert (outcome.problems, outcome.failure) == ([], None)
            assert sorted(os.listdir(base / "dst/shut")) == ["file", "in", "link", "new", "same"]
            for path in (".", "shut", "unsearchable"):
                there, here = (base / "src" / path).stat(), (base / "dst" / path).stat()
                assert (here.st_mode, here.st_mtime_ns) == (there.st_mode, there.st_mtime_ns)
            again = sync(str(base / "src"), str(base / "dst"), delete=True)
            assert (again.items, again.problems) == ([], [])

        by_user(work)
