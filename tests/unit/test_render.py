"""What people read."""

from typing import Any

import pytest

from ctl import render


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1549, "1.5 kB"), (9960, "10 kB"), (999_499, "999 kB"),
     (999_600, "1.0 MB"), (64_000_000, "64 MB"), (2**64, "18 EB"), (10**22, "10000 EB")],
)  # fmt: skip
def test_size(count: int, text: str) -> None:
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 ms"), (0.0034, "3.4 ms"), (0.45, "0.45 s"), (9.99, "9.99 s"), (12.34, "12.3 s"), (59.97, "1:00"),
     (125, "2:05"), (3723, "1:02:03")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_rate_is_of_the_last_seconds() -> None:
    rate = render.Rate()
    assert rate.value() == 0
    rate.add(0, 0)
    assert rate.value() == 0
    for tick in range(1, 101):
        rate.add(tick / 10, 1000 * tick if tick <= 50 else 50_000)
    assert rate.value() == 0
    rate.add(10.01, 10**9)  # too soon after the last to count
    assert rate.value() == 0


def test_progress() -> None:
    counters = {"listed": 5000, "files": 1234, "wanted_files": 5678, "bytes": 12_300_000, "wanted_bytes": 64_000_000}
    assert render.progress("listing", {"listed": 5000}, 0) == "listing  5,000 listed"
    assert render.progress("syncing", counters, 0) == "syncing  1,234/5,678 files  12 MB/64 MB"
    assert render.progress("syncing", {**counters, "list_done": 1}, 10e6).endswith("  10 MB/s  ETA 5.17 s")
    assert "ETA" not in render.progress("syncing", counters, 10e6)
    assert render.progress("", {}, 0) == "working"
    one = {"wanted_files": 1, "wanted_bytes": 64_000_000, "files": 0, "bytes": 0, "literal": 1_000_000}
    assert render.progress("syncing", {**one, "matched": 31_000_000}, 0) == "syncing  0/1 files  32 MB/64 MB"
    assert render.progress("syncing", {**one, "matched": 90_000_000}, 0) == "syncing  0/1 files  64 MB/64 MB"


def test_problem() -> None:
    assert render.problem(b"a\x1bb", "vanished", 2) == (
        "a\\#033b: vanished before it could be read: No such file or directory"
    )
    assert render.problem(b"", "special", 0) == ".: special file, skipped"
    assert render.problem(b"x", "new\x1bcode", 0) == "x: new\\#033code"


def test_item() -> None:
    assert render.item(b">f+++++++++ caf\xe9\n") == ">f+++++++++ caf\\#351\\#012"


@pytest.mark.parametrize(
    ("stats", "problems", "dry_run", "text"),
    [
        ({}, 0, False, "up to date, in 3.4 ms (sent 1.0 kB, received 20 B)"),
        ({}, 2, False, "nothing to do, 2 problems, in 3.4 ms (sent 1.0 kB, received 20 B)"),
        ({"files": 1, "bytes": 5}, 0, False, "1 file, 5 B, in 3.4 ms (sent 1.0 kB, received 20 B)"),
        (
            {"files": 2000, "bytes": 5000, "dirs": 1, "deleted": 3}, 1, False,
            "2,000 files, 5.0 kB, 1 other change, 3 deleted, 1 problem, in 3.4 ms (sent 1.0 kB, received 20 B)",
        ),
        (
            {"wanted_files": 2, "wanted_bytes": 5, "deleted": 3}, 0, True,
            "dry run: 2 files, 5 B, 3 deleted, in 3.4 ms (sent 1.0 kB, received 20 B)",
        ),
    ],
)  # fmt: skip
def test_summary(stats: dict[str, int], problems: int, dry_run: bool, text: str) -> None:
    assert render.summary(stats, problems, 0.0034, (1000, 20), dry_run=dry_run) == text


def test_statistics() -> None:
    block = render.statistics({"listed_bytes": 10_000, "literal": 1234}, 1, 0.5, (90, 10))
    rows = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in block.splitlines())}
    assert rows["literal data"] == "1,234"
    assert rows["total file size"] == "10,000"
    assert rows["total bytes sent"] == "90"
    assert rows["bytes/sec"] == "200"
    assert rows["speedup"] == "100.00"
    assert rows["time"] == "0.50 s"
    empty = render.statistics({}, 1, 0, (0, 0))
    rows = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in empty.splitlines())}
    assert (rows["speedup"], rows["bytes/sec"]) == ("0.00", "-")


def test_profile() -> None:
    def end(**stages: tuple[int, int, int]) -> dict[str, Any]:
        figures = {
            name: dict(zip(("spent_us", "first_us", "last_us"), three, strict=True)) for name, three in stages.items()
        }
        return {"wall_us": 2_500_000, "cpu_us": 800_000, "stages": figures}

    here, there = end(read=(400_000, 100, 1_200_000), walk=(23_100, 0, 25_000)), end(write=(1_500_000, 3000, 2_400_000))
    there["stages"]["new\x1b"] = {"spent_us": 1, "first_us": 2, "last_us": 3}
    assert (
        render.profile({"here": here, "there": there})
        == """\
  stage             here  from - to                   there  from - to
  walk           23.1 ms     0.0 ms - 25.0 ms             -
  read            0.40 s     0.1 ms - 1.20 s              -
  write                -                             1.50 s     3.0 ms - 2.40 s
  new\\#033             -                             0.0 ms     0.0 ms - 0.0 ms
  CPU             0.80 s                             0.80 s
  in all          2.50 s                             2.50 s"""
    )
