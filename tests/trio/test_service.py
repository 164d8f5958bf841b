"""Jobs between two agents: real services and pumps, fake engines."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
import trio
import trio.testing

from agentd.sync import initiator
from agentd.sync.engines import Tuning
from agentd.wire import Connection, ConnectionLost, greet
from proto.errors import SyncError
from proto.job import Job, Location, Notice, Options, Outcome, Progress
from proto.peer import Closed, Done, List, ListEnd, Open, Opened, Ping, Pong
from tests.helpers.fake_agents import FakeEngines, Joined, open_joined
from tests.helpers.fake_engine import FakeSender, Tree

TREE: Tree = {b"file%d" % n: b"%d" % n * (n * 20) for n in range(40)}


def push(roots: tuple[bytes, bytes], **options: bool) -> Job:
    return Job(Location(None, roots[0]), Location("box", roots[1]), Options(**options))  # type: ignore[arg-type]


def pull(roots: tuple[bytes, bytes], **options: bool) -> Job:
    return Job(Location("box", roots[0]), Location(None, roots[1]), Options(**options))  # type: ignore[arg-type]


def here(roots: tuple[bytes, bytes], **options: bool) -> Job:
    return Job(Location(None, roots[0]), Location(None, roots[1]), Options(**options))  # type: ignore[arg-type]


def place(joined: Joined, job: Job, source: Tree, destination: Tree | None = None) -> dict[bytes, Tree]:
    """Put the trees where the job looks for them; the destination's."""
    near, far = joined.here.engines.trees, joined.there.engines.trees
    source_at = near if job.source.host is None else far
    destination_at = near if job.destination.host is None and job.source.host is not None else far
    if job.source.host is None and job.destination.host is None:
        destination_at = near
    source_at[job.source.path] = source
    destination_at[job.destination.path] = destination if destination is not None else {}
    return destination_at


async def rejected(joined: Joined, job: Job) -> SyncError:
    with pytest.raises(SyncError) as caught:
        await joined.run_job(job)
    return caught.value


async def check_clean(joined: Joined) -> None:
    with trio.fail_after(5):
        while joined.there.sessions._served or joined.here.sessions._served:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert all(engine.closed for engine in joined.engines)
    assert not joined.here.journal.open
    assert not joined.there.journal.open


directions = pytest.mark.parametrize("make", [push, pull, here])


@directions
@pytest.mark.parametrize("windows", [1, 100, 1 << 20])
async def test_a_tree_arrives(roots: tuple[bytes, bytes], make: type, windows: int) -> None:
    tiny = Tuning(list_window=windows, first_list_window=windows, data_window=windows, first_data_window=windows)
    async with open_joined(tiny) as joined:
        job = make(roots, delete=True)
        trees = place(joined, job, TREE, {b"old": b"x", b"file3": b"other"})
        outcome = await joined.run_job(job)
        assert isinstance(outcome, Outcome)
        assert trees[job.destination.path] == TREE
        assert outcome.stats["files"] == len(TREE)
        assert outcome.epochs == 1
        assert outcome.problem_count == 0
        assert outcome.wire_sent > 0 < outcome.wire_received
        await check_clean(joined)


@pytest.mark.parametrize("make", [push, pull])
async def test_the_connection_is_a_spare_again(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make(roots)
    place(joined, job, TREE, {b"x": b"y"})
    for _ in range(5):
        await joined.run_job(job)
        await trio.testing.wait_all_tasks_blocked()  # after a pull CLOSED comes later than the result
    assert len(joined.link.made) == 1
    assert len(joined.link.spares) == 1


async def test_a_push_that_finds_nothing_is_one_round_trip(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    """What comes back comes after everything that went out, but CLOSED."""
    job = push(roots)
    place(joined, job, TREE, dict(TREE))
    turns: list[str] = []
    connection = await joined.link.connection()
    send, receive = connection.send, connection.receive

    async def noting_send(message: Any, payload: Any = None) -> None:
        turns.append(f">{type(message).__name__}")
        await send(message, payload)

    async def noting_receive() -> tuple[Any, Any]:
        message, payload = await receive()
        turns.append(f"<{type(message).__name__}")
        return message, payload

    connection.send, connection.receive = noting_send, noting_receive  # type: ignore[method-assign,assignment]
    joined.link.give_back(connection)
    await joined.run_job(job)
    sent = [turn for turn in turns if turn[0] == ">"]
    assert sent[0] == ">Open"
    assert sent[-2:] == [">ListEnd", ">Closed"]
    assert turns[-1] == ">Closed"


async def test_a_pull_does_not_wait_for_closed(roots: tuple[bytes, bytes]) -> None:
    async with open_joined() as joined:
        job = pull(roots)
        held = trio.Event()
        answered = trio.Event()

        async def answer(connection: Connection) -> None:
            await greet(connection, joined.there.hello)
            opening, _ = await connection.receive()
            assert isinstance(opening, Open)
            await connection.send(Opened(opening.session, opening.epoch, 0, 0))
            sender = FakeSender({b"a": b"b"}, list_window=9999, data_window=9999, wake_fd=-1)
            sender.start()
            event = sender.next_control()
            assert event is not None
            await connection.send(List(0), event[2])
            await connection.send(ListEnd(*sender.list_total()))
            while not isinstance((await connection.receive())[0], Done):
                pass
            answered.set()
            await held.wait()
            await connection.send(Closed({}))
            await trio.sleep_forever()

        joined.link._answer = answer
        joined.here.engines.trees[roots[1]] = {b"a": b"b"}
        await joined.run_job(job)
        await answered.wait()
        assert not joined.link.spares
        held.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(joined.link.spares) == 1


async def test_progress_is_told_by_the_clock(
    joined: Joined, roots: tuple[bytes, bytes], autojump_clock: trio.testing.MockClock
) -> None:
    """Not by what was done: a frame takes 10 ms here, and there are many."""
    job = push(roots)
    place(joined, job, {b"file%d" % n: b"%d" % n * 100 for n in range(200)})
    connection = await joined.link.connection()
    send, sent = connection.send, 0

    async def slow_send(message: Any, payload: Any = None) -> None:
        nonlocal sent
        sent += 1
        await trio.sleep(0.01)
        await send(message, payload)

    connection.send = slow_send  # type: ignore[method-assign]
    joined.link.give_back(connection)
    begun = trio.current_time()
    await joined.run_job(job)
    told = [event for event in joined.events if isinstance(event, Progress)]
    intervals = (trio.current_time() - begun) / initiator.PROGRESS_S
    assert sent > 200
    assert intervals - 2 <= len(told) <= intervals + 2
    assert len({event.counters["files"] for event in told[1:]}) > 10


@directions
async def test_a_profile_tells_of_both_ends(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make(roots, profile=True)
    place(joined, job, TREE, {b"x": b"y"})
    for _ in range(2):
        outcome = await joined.run_job(job)
        assert outcome.profile is not None
        assert set(outcome.profile) == {"here", "there"}
        for end in outcome.profile.values():
            assert "socket" in end["stages"]  # nobody waits where the other end is always ahead
            for stage in end["stages"].values():
                assert stage["first_us"] + stage["spent_us"] <= stage["last_us"] <= end["wall_us"]
    await check_clean(joined)
    job = make(roots)
    assert (await joined.run_job(job)).profile is None
    assert all(spare.timed is None for spare in joined.link.spares)


@directions
async def test_an_empty_source_is_refused_with_delete(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make(roots, delete=True)
    trees = place(joined, job, {}, {b"precious": b"x"})
    assert (await rejected(joined, job)).code == "source-empty"
    assert trees[job.destination.path] == {b"precious": b"x"}
    await check_clean(joined)
    forced = job._replace(options=job.options._replace(force=True))
    await joined.run_job(forced)
    assert trees[job.destination.path] == {}


@directions
async def test_a_missing_source(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make((roots[0] + b"/none", roots[1]))
    error = await rejected(joined, job)
    assert error.code == "source-missing"
    assert "src/none" in error.message
    await check_clean(joined)


@directions
async def test_a_destination_without_a_parent(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make((roots[0], roots[1] + b"/a/b"))
    place(joined, job, TREE)
    assert (await rejected(joined, job)).code == "destination-missing"
    await check_clean(joined)


@directions
async def test_a_source_that_is_no_file(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    os.mkfifo(roots[0] + b"/fifo")
    assert (await rejected(joined, make((roots[0] + b"/fifo", roots[1])))).code == "source-type"


@pytest.mark.parametrize("make", [push, pull])
async def test_an_engine_that_cannot_open_its_root(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    for agent in (joined.here, joined.there):
        agent.engines.refuse = PermissionError(errno.EACCES, "no")
    error = await rejected(joined, make(roots))
    assert error.code == "source-unreadable"
    await check_clean(joined)


@pytest.mark.parametrize("inner", [b"", b"/in", b"/new"])
@pytest.mark.parametrize("make", [push, pull, here])
@pytest.mark.parametrize("swap", [False, True])
async def test_roots_that_contain_each_other(roots: tuple[bytes, bytes], make: type, inner: bytes, swap: bool) -> None:
    os.mkdir(roots[0] + b"/in")
    os.symlink(roots[0], roots[1] + b"/link")
    pair = (roots[0], roots[1] + b"/link" + inner)
    if swap:
        if inner == b"/new":
            return  # a source that does not exist
        pair = pair[1], pair[0]
    async with open_joined(machine=b"m" * 16) as joined:
        job = make(pair)
        place(joined, job, TREE)
        assert (await rejected(joined, job)).code == "overlap"


async def test_inodes_of_another_machine_mean_nothing(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    job = push((roots[0], roots[0]))
    joined.here.engines.trees[roots[0]] = TREE
    joined.there.engines.trees[roots[0]] = {}
    await joined.run_job(job)
    assert joined.there.engines.trees[roots[0]] == TREE


async def test_one_writer_per_root(
    joined: Joined, roots: tuple[bytes, bytes], autojump_clock: trio.testing.MockClock
) -> None:
    os.mkdir(roots[1] + b"/nested")
    inner = push((roots[0], roots[1] + b"/nested"))
    place(joined, inner, TREE)
    connection = await joined.link.connection()
    await connection.send(Open(b"s" * 16, 0, "receiver", roots[1], 0, 0))
    await connection.receive()
    error = await rejected(joined, inner)
    assert error.code == "root-busy"
    assert "agent 01010101 (session 73737373)" in error.message
    await connection.aclose()


async def test_a_writer_that_ends_soon_is_waited_for(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    job = push(roots)
    place(joined, job, TREE)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(joined.run_job, job)
    assert joined.there.engines.trees[roots[1]] == TREE
    await check_clean(joined)


async def test_home_relative_paths(joined: Joined, roots: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.fsdecode(os.path.dirname(roots[1])))
    for path in (b"dst", b"~/dst"):
        job = push((roots[0], path))
        joined.here.engines.trees[roots[0]] = TREE
        joined.there.engines.trees[roots[1]] = {}
        await joined.run_job(job)
        assert joined.there.engines.trees[roots[1]] == TREE
    assert (await rejected(joined, push((roots[0], b"~nobody-of-this-name/x")))).code == "usage"


@pytest.mark.parametrize("make", [push, pull])
async def test_a_lost_connection_is_taken_up_again(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make(roots)
    trees = place(joined, job, TREE)
    link = joined.link
    real = link.connection
    cuts = 3

    async def connection() -> Connection:
        nonlocal cuts
        made = await real()
        if cuts:
            cuts -= 1
            _cut_after(made, 8000)
        return made

    link.connection = connection  # type: ignore[method-assign]
    outcome = await joined.run_job(job)
    assert trees[job.destination.path] == TREE
    assert outcome.epochs == 4
    assert outcome.stats["files"] == len(TREE)
    assert outcome.stats["bytes"] == sum(map(len, TREE.values()))
    assert sum(isinstance(event, Notice) for event in joined.events) == 3
    await check_clean(joined)


def _cut_after(connection: Connection, count: int) -> None:
    """The connection breaks when so much went either way."""
    send, receive = connection.send, connection.receive

    async def check() -> None:
        if connection.sent + connection.received > count:
            await connection.aclose()
            raise ConnectionLost("cut")

    async def cutting_send(message: Any, payload: Any = None) -> None:
        await check()
        await send(message, payload)

    async def cutting_receive() -> tuple[Any, Any]:
        await check()
        return await receive()

    connection.send, connection.receive = cutting_send, cutting_receive  # type: ignore[method-assign,assignment]


async def test_fruitless_epochs_end(
    joined: Joined, roots: tuple[bytes, bytes], autojump_clock: trio.testing.MockClock
) -> None:
    job = push(roots)
    place(joined, job, TREE)

    async def answer(connection: Connection) -> None:
        await greet(connection, joined.there.hello)
        await connection.receive()
        await connection.aclose()

    joined.link._answer = answer
    assert (await rejected(joined, job)).code == "link-lost"
    assert len(joined.link.made) == 3
    await check_clean(joined)


@pytest.mark.parametrize(("code", "attempts"), [("host-key-changed", 2), ("auth-refused", 2), ("unreachable", 3)])
async def test_a_link_that_does_not_come_back(
    joined: Joined, roots: tuple[bytes, bytes], autojump_clock: trio.testing.MockClock, code: str, attempts: int
) -> None:
    job = push(roots)
    place(joined, job, TREE)
    real = joined.link.connection

    async def connection() -> Connection:
        made = await real()
        _cut_after(made, 8000)
        joined.links.errors += [SyncError(code, "no")] * 9
        return made

    joined.link.connection = connection  # type: ignore[method-assign]
    assert (await rejected(joined, job)).code == code
    assert joined.links.asked == (2 if attempts == 2 else 4)
    await check_clean(joined)


async def test_the_first_connect_is_not_repeated(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    joined.links.errors = [SyncError("unreachable", "no")] * 3
    place(joined, push(roots), TREE)
    assert (await rejected(joined, push(roots))).code == "unreachable"
    assert joined.links.asked == 1


@pytest.mark.parametrize("make", [push, pull])
async def test_cancelling_ends_both_sides(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make(roots)
    place(joined, job, TREE)
    stuck = trio.Event()
    for agent in (joined.here, joined.there):
        _never_lists(agent.engines, stuck)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.run_job, job)
        await stuck.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert len(joined.engines) == 2
    await check_clean(joined)
    assert not joined.there.sessions._served


def _never_lists(engines: FakeEngines, stuck: trio.Event) -> None:
    real = engines.sender

    def sender(*args: Any, **more: Any) -> FakeSender:
        engine = real(*args, **more)
        engine.start = lambda: None  # type: ignore[method-assign]
        trio.from_thread.run_sync(stuck.set)
        return engine

    engines.sender = sender  # type: ignore[method-assign]


async def test_an_initiator_that_vanishes(joined: Joined, roots: tuple[bytes, bytes]) -> None:
    connection = await joined.link.connection()
    await connection.send(Open(b"s" * 16, 0, "receiver", roots[1], 0, 0))
    message, _ = await connection.receive()
    assert isinstance(message, Opened)
    assert joined.there.journal.open
    await connection.aclose()
    await check_clean(joined)


@pytest.mark.parametrize("how", ["cancelled", "given up"])
async def test_a_way_that_was_cut_in_silence_leaves_no_root_busy(
    joined: Joined, roots: tuple[bytes, bytes], autojump_clock: trio.testing.MockClock, how: str
) -> None:
    """The far end of it stays open; the next job there ends what is left, before it wants the same root."""
    os.mkdir(roots[1] + b"/nested")
    place(joined, push(roots), TREE)
    place(joined, push((roots[0], roots[1] + b"/nested")), TREE)
    real = joined.link.connection
    closers: list[Any] = []

    async def connection() -> Connection:
        made = await real()
        closers.append(made.aclose)
        _goes_silent_after_open(made, lost=how == "given up")
        return made

    joined.link.connection = connection  # type: ignore[method-assign]
    try:
        if how == "cancelled":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(joined.run_job, push(roots))
                while not joined.there.journal.open:
                    await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.cancel_scope.cancel()
        else:
            assert (await rejected(joined, push(roots))).code == "link-lost"
        while not joined.there.journal.open:  # the last epoch may still be joining the one before
            await trio.testing.wait_all_tasks_blocked(0.001)
        joined.link.connection = real  # type: ignore[method-assign]
        await joined.run_job(push((roots[0], roots[1] + b"/nested")))
        await check_clean(joined)
    finally:
        for aclose in closers:
            await aclose()


def _goes_silent_after_open(connection: Connection, *, lost: bool) -> None:
    """Nothing gets through any more, and the far end does not hear of that; here it is noticed when ``lost``."""
    send = connection.send

    async def silent_send(message: Any, payload: Any = None) -> None:
        if isinstance(message, Open):
            await send(message, payload)

    async def silent_receive() -> tuple[Any, Any]:
        await trio.sleep(5 if lost else 1e6)
        raise ConnectionLost("nothing was heard")

    async def silent_aclose() -> None:
        await trio.lowlevel.checkpoint()

    connection.send, connection.receive = silent_send, silent_receive  # type: ignore[method-assign,assignment]
    connection.aclose = silent_aclose  # type: ignore[method-assign]


@pytest.mark.parametrize("make", [push, pull])
async def test_an_engine_that_fails_at_the_far_side(joined: Joined, roots: tuple[bytes, bytes], make: type) -> None:
    job = make(roots)
    place(joined, job, TREE)
    engines = joined.there.engines
    for name in ("sender", "receiver"):
        real = getattr(engines, name)

        def make_failing(*args: Any, real: Any = real, **more: Any) -> Any:
            engine = real(*args, **more)
            engine.fail("destination-full", b"/some/file", errno.ENOSPC, "writing")
            return engine

        setattr(engines, name, make_failing)
    error = await rejected(joined, job)
    assert error.code == "destination-full"
    assert "/some/file" in error.message
    assert "No space left" in error.message
    await check_clean(joined)


async def test_a_spare_answers_pings(joined: Joined) -> None:
    connection = await joined.link.connection()
    for n in range(3):
        await connection.send(Ping(n))
        assert await connection.receive() == (Pong(n), None)
    await connection.aclose()


async def test_striping_over_a_long_link(roots: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initiator, "PROGRESS_S", 0.001)
    async with open_joined(Tuning(stripe_min=1, stripes=3, data_window=300, first_data_window=300)) as joined:
        joined.link.rtt_s = 0.05
        for job in (push(roots), pull(roots)):
            trees = place(joined, job, {b"%d" % n: os.urandom(4000) for n in range(60)})
            joined.link.made.clear()
            joined.link.spares.clear()
            outcome = await joined.run_job(job)
            assert outcome.epochs == 1
            assert len(trees[roots[1]]) == 60
            assert len(joined.link.made) == 3
