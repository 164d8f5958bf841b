"""A watched pair, with a tree, a clock and jobs that the test makes up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentd.config import parse
from agentd.watch.settle import BURST_MAX_S, FEW
from agentd.watch.turns import Turns
from agentd.watch.watcher import POLL_MIN_S, PROBLEMS_RETRY_S, ROOT_LOOK_S, Watcher
from agentd.watch.watchers import Watchers
from proto.errors import SyncError
from proto.job import JobEvent, Outcome, Problems
from proto.looks import pack_looks, unpack_looks
from tests.helpers.fake_trees import FakeTree, FakeTrees

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from proto.job import Job

DONE = Outcome({"files": 1}, [], 0, 1, 100, 200, 0.5)


class Runs:
    """Jobs that take a moment, and are counted."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.jobs: list[Job] = []
        self.outcomes: list[Outcome | Exception] = []
        self.takes_s = 0.005
        self.during: Callable[[], None] = lambda: None
        self.cancelled = 0

    async def run_job(self, job: Job, environ: Mapping[str, str], report: Callable[[JobEvent], None]) -> Outcome:
        self.at.append(trio.current_time())
        self.jobs.append(job)
        self.during()
        try:
            await trio.sleep(self.takes_s)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        outcome = self.outcomes.pop(0) if self.outcomes else DONE
        if isinstance(outcome, Exception):
            raise outcome
        report(Problems(outcome.problems))
        return outcome


class Bench:
    def __init__(self, watchers: Watchers, tree: FakeTree, runs: Runs, root: Path) -> None:
        self.watchers = watchers
        self.tree = tree
        self.runs = runs
        self.root = root
        self.events: list[tuple[str, str]] = []

    @property
    def state(self) -> str | None:
        condition = self.watchers.condition("site")
        return None if condition is None else condition.state

    def save(self, *names: str) -> None:
        for name in names:
            (self.root / name).write_text("x")
        self.tree.change(*(name.encode() for name in names))


def config(root: Path, more: str = "watch = true") -> Any:
    text = f"[pair.site]\nsource = '{root}'\ndestination = 'box:there'\nmirror = true\nexclude = ['*.o']\n{more}\n"
    return parse("c.toml", text)


@asynccontextmanager
async def open_bench(root: Path, runs: Runs | None = None, more: str = "watch = true") -> AsyncIterator[Bench]:
    runs, trees = runs or Runs(), FakeTrees()
    watchers = Watchers(trees=trees, runner=runs, config=config(root, more), environ={"PATH": "/bin"})
    bench = Bench(watchers, trees.tree(bytes(root)), runs, root)
    watchers.publish = lambda kind, text, **_: bench.events.append((kind, text))
    async with trio.open_nursery() as nursery:
        await nursery.start(watchers.run)
        yield bench
        nursery.cancel_scope.cancel()
    assert not trees.open


async def test_the_first_sync_comes_by_itself(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        assert len(bench.runs.at) == 1
        job = bench.runs.jobs[0]
        assert (job.pair, job.scope, job.options.delete, job.options.excludes) == ("site", None, True, (b"*.o",))
        assert bench.state == "up-to-date"
        assert ("synced", "1 file") in bench.events
        await trio.sleep(3600)
        assert len(bench.runs.at) == 1
        assert bench.tree.refreshes == 2, "nothing is looked at while nothing changes"


async def test_a_save_leaves_at_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path) as bench:
        for number in range(20):
            await trio.sleep(1)
            bench.save(f"f{number}")
            saved = trio.current_time()
            await trio.sleep(0.5)
            assert len(bench.runs.at) == 2 + number
            assert bench.runs.at[-1] - saved < 0.005


async def test_a_save_that_is_complete_waits_for_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        bench.tree.rests = True
        bench.save("f")
        saved = trio.current_time()
        await trio.sleep(1)
        assert bench.runs.at[1:] == [saved]


async def test_a_burst_is_one_batch(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        for number in range(0, 400, FEW + 2):
            bench.save(*(f"f{n}" for n in range(number, number + FEW + 2)))
            await trio.sleep(0.004)
        ended = trio.current_time()
        await trio.sleep(2)
        assert len(bench.runs.at) == 2
        assert ended < bench.runs.at[1] < ended + 0.6


async def test_an_endless_burst_leaves_now_and_then(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        for number in range(1500):
            bench.tree.change(*(b"%d/%d" % (number, n) for n in range(FEW + 1)))
            await trio.sleep(0.01)
        assert 2 <= len(bench.runs.at) - 1 <= 15 / BURST_MAX_S + 1


@pytest.mark.fault("W9")
async def test_a_file_rewritten_in_a_loop(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        looks = bench.tree.refreshes
        async with trio.open_nursery() as nursery:

            async def loop() -> None:
                while True:
                    bench.save("log")
                    await trio.sleep(0.005)

            nursery.start_soon(loop)
            await trio.sleep(20)
            assert len(bench.runs.at) - 1 < 120, "not each time"
            assert bench.tree.refreshes - looks < 20 / 0.03, "nor is it looked at each time"
            for number in range(10):
                bench.save(f"page{number}")
                saved = trio.current_time()
                await trio.sleep(0.3)
                after = [at for at in bench.runs.at if at > saved]
                assert after, "and it does not keep others waiting"
                assert after[0] - saved < 0.1
            nursery.cancel_scope.cancel()


async def test_what_changes_during_a_batch_is_the_next_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        bench.runs.takes_s = 2.0
        bench.save("a")
        await trio.sleep(1)
        assert bench.state == "syncing"
        bench.save("b")
        await trio.sleep(5)
        assert len(bench.runs.at) == 3
        assert bench.runs.at[2] >= bench.runs.at[1] + 2.0
        assert bench.state == "up-to-date"


async def test_git_holds_and_then_everything_is_one_batch(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    (tmp_path / ".git").mkdir()
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        lock = tmp_path / ".git/index.lock"
        lock.touch()
        for number in range(30):
            bench.save(*(f"f{number}-{n}" for n in range(20)))
            await trio.sleep(0.1)
        assert bench.state == "held"
        assert any(kind == "watch" and "index.lock" in text for kind, text in bench.events)
        lock.unlink()
        await trio.sleep(2)
        assert len(bench.runs.at) == 2
        assert bench.state == "up-to-date"


async def test_a_file_that_is_being_written_is_looked_at_when_it_is_due(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        bench.tree.held_s = 2.0
        bench.tree.stir()
        await trio.sleep(0.1)
        looks = bench.tree.refreshes
        await trio.sleep(1.5)
        assert bench.tree.refreshes == looks
        bench.tree.change(b"written")
        bench.tree.held_s = None
        bench.tree.wakes -= 1  # no event tells that it is quiet now
        await trio.sleep(1)
        assert len(bench.runs.at) == 2


async def test_what_cannot_be_watched_is_polled(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path) as bench:
        bench.tree.unwatched = 3
        await trio.sleep(1)
        bench.tree._coming.append((b"unseen", False))
        await trio.sleep(POLL_MIN_S + 0.1)
        assert len(bench.runs.at) == 2
        looks = bench.tree.refreshes
        await trio.sleep(60)
        assert bench.tree.refreshes - looks <= 60 / POLL_MIN_S + 1


async def test_a_lost_link_is_waited_for(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    runs = Runs()
    runs.outcomes = [SyncError("unreachable", "box: no route to host") for _ in range(10)]
    async with open_bench(tmp_path, runs) as bench:
        await trio.sleep(30)
        assert bench.state == "waiting"
        assert [text for kind, text in bench.events if "no route" in text] == ["waiting: box: no route to host"]
        assert 4 <= len(runs.at) <= 9
        gaps = [b - a for a, b in zip(runs.at, runs.at[1:], strict=False)]
        assert gaps[-1] > 3 * gaps[0]
        bench.watchers.resume("site")
        count = len(runs.at)
        await trio.sleep(0.1)
        assert len(runs.at) == count + 1, "a person who asks does not wait"
        await trio.sleep(600)
        assert bench.state == "up-to-date"


async def test_a_guard_pauses_until_somebody_resumes(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    runs = Runs()
    runs.outcomes = [DONE, SyncError("max-delete", "would delete 900 entries")]
    async with open_bench(tmp_path, runs) as bench:
        await trio.sleep(1)
        bench.save("a")
        await trio.sleep(3600)
        condition = bench.watchers.condition("site")
        assert condition is not None
        assert (condition.state, condition.why) == ("paused", "would delete 900 entries")
        assert len(runs.at) == 2
        assert bench.watchers.to_flush([])[1][0].code == "paused"
        bench.watchers.resume("site")
        await trio.sleep(1)
        assert bench.state == "up-to-date"


@pytest.mark.parametrize("error", [SyncError("root-changed", "another root"), FileNotFoundError(2, "gone")])
async def test_a_root_that_is_gone_pauses(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, error: SyncError | OSError
) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        bench.tree.error = error
        bench.tree.stir()
        await trio.sleep(1)
        assert bench.state == "paused"
        bench.tree.error = None
        bench.watchers.resume("site")
        await trio.sleep(1)
        assert bench.state == "up-to-date"


async def test_a_root_that_no_event_tells_of_pauses(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    root = tmp_path / "above/root"
    root.mkdir(parents=True)
    async with open_bench(root) as bench:
        await trio.sleep(60)
        looks = bench.tree.refreshes
        root.parent.rename(tmp_path / "elsewhere")
        bench.tree.error = FileNotFoundError(2, "gone")
        await trio.sleep(ROOT_LOOK_S + 0.1)
        assert bench.state == "paused"
        assert bench.tree.refreshes == looks


async def test_problems_are_told_and_tried_again(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    runs = Runs()
    runs.outcomes = [DONE._replace(problems=[(b"a\n", "unreadable", 13)], problem_count=1)]
    async with open_bench(tmp_path, runs) as bench:
        await trio.sleep(1)
        assert bench.state == "problems"
        assert ("problem", "a\\#012: unreadable") in bench.events
        await trio.sleep(PROBLEMS_RETRY_S)
        assert len(runs.at) == 2
        assert bench.state == "up-to-date"


async def test_pause_cancels_what_is_under_way_and_resume_catches_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        bench.runs.takes_s = 60
        bench.save("a")
        await trio.sleep(1)
        bench.watchers.pause("site")
        await trio.sleep(0.1)
        assert (bench.state, bench.runs.cancelled) == ("paused", 1)
        bench.save("b")
        await trio.sleep(3600)
        assert len(bench.runs.at) == 2
        bench.runs.takes_s = 0.1
        bench.watchers.resume("site")
        await trio.sleep(1)
        assert len(bench.runs.at) == 3
        bench.watchers.pause("site")
        bench.watchers.resume("site")
        await trio.sleep(1)
        assert bench.state == "up-to-date"


async def test_the_configuration_starts_and_stops(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path, more="") as bench:
        await trio.sleep(1)
        assert (bench.state, bench.runs.at) == (None, [])
        with pytest.raises(SyncError, match="not watched"):
            bench.watchers.pause("site")
        with pytest.raises(SyncError, match="no pair other"):
            bench.watchers.resume("other")
        with bench.watchers.watching("site", {}):
            await trio.sleep(1)
            assert (bench.state, len(bench.runs.at)) == ("up-to-date", 1)
            bench.watchers.reconfigure(config(tmp_path))
        await trio.sleep(1)
        assert (bench.state, len(bench.runs.at)) == ("up-to-date", 1)
        bench.watchers.reconfigure(config(tmp_path, "watch = true\ncompress = 'never'"))
        await trio.sleep(1)
        assert (bench.state, len(bench.runs.at)) == ("up-to-date", 2), "the pair changed"
        bench.watchers.pause("site")
        bench.watchers.reconfigure(config(tmp_path))
        await trio.sleep(1)
        assert (bench.state, len(bench.runs.at)) == ("paused", 2), "a changed pair stays paused"
        bench.watchers.reconfigure(config(tmp_path, ""))
        await trio.sleep(1)
        assert bench.state is None


async def test_a_job_of_the_same_pair_has_its_turn(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_bench(tmp_path) as bench:
        async with bench.watchers.turns.turn("site"):
            await trio.sleep(10)
            assert bench.runs.at == []
        await trio.sleep(1)
        assert len(bench.runs.at) == 1


async def test_single_paths_do_not_wait_and_are_looked_at_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_bench(tmp_path) as bench:
        await trio.sleep(1)
        runs, turns = bench.runs, bench.watchers.turns
        runs.takes_s = 60
        bench.save("large")
        await trio.sleep(1)
        runs.takes_s = 0.1
        pair = config(tmp_path).pairs["site"]
        for name in (b"a", b"b"):
            await turns.run(runs, pair.job(scope=pack_looks([(name, False)])), {}, lambda _: None)
        assert trio.current_time() < 3
        await trio.sleep(120)
        assert [job.scope and unpack_looks(job.scope) for job in runs.jobs[1:]] == [
            None, [(b"a", False)], [(b"b", False)], [(b"a", False), (b"b", False)],
        ]  # fmt: skip
        await turns.run(runs, pair.job(scope=pack_looks([(b"x", False)])), {}, lambda _: None)
        bench.save("small")
        await trio.sleep(1)
        assert runs.jobs[-1].scope is None


async def test_what_single_paths_put_in_the_way_of_their_pair_is_no_problem(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    runs, turns = Runs(), Turns()
    runs.takes_s = 10
    problems = [
        (b"a", "changed-here", 17),
        (b"b", "changed-here", 17),
        (b"d/x", "changed-here", 17),
        (b"a", "write", 5),
    ]
    runs.outcomes = [DONE, DONE._replace(problems=problems, problem_count=5)]
    pair, told = config(tmp_path).pairs["site"], list[JobEvent]()
    ended: list[Outcome] = []

    async def whole() -> None:
        ended.append(await turns.run(runs, pair.job(), {}, told.append))

    async def paths() -> None:
        await turns.run(runs, pair.job(scope=pack_looks([(b"a", False), (b"d", True)])), {}, lambda _: None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole)
        await trio.sleep(1)
        runs.takes_s = 1
        nursery.start_soon(paths)
    assert ended[0].problems == [(b"b", "changed-here", 17), (b"a", "write", 5)]
    assert ended[0].problem_count == 3
    assert [event.problems for event in told if isinstance(event, Problems) and event.problems] == [ended[0].problems]


async def test_a_tree_that_cannot_be_had_pauses(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    trees = FakeTrees()
    trees.missing = True
    watcher = Watcher(
        config(tmp_path).pairs["site"], trees, Runs(), Watchers(trees=trees, runner=Runs(), config=config(tmp_path),
        environ={}).turns, lambda *_, **__: None, {},
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run)
        await trio.sleep(1)
        assert watcher.condition.state == "paused"
        assert "cannot be watched" in (watcher.condition.why or "")
        nursery.cancel_scope.cancel()
