"""What is under way over a long link stays bounded by what the link needs."""

from __future__ import annotations

import trio
import trio.testing

from agentd.sync.pace import FLOOR, GAIN, GOT_EVERY, START, STEP, TELL_S, Arrivals, Pace

RTT_S = 0.05


async def drive(rate: float, seconds: float) -> tuple[float, int]:
    """A sender that always has more, on a link of ``rate`` bytes/s: what arrived per second, and the most under way."""
    pace, arrivals = Pace(RTT_S), Arrivals(trio.current_time(), far=True)
    deepest = 0
    send, receive = trio.open_memory_channel[float](10_000)

    async def sender() -> None:
        nonlocal deepest
        while True:
            await pace.wait(STEP)
            if trio.current_time() > 2:  # the rate is known
                deepest = max(deepest, pace.under_way)
            await send.send(trio.current_time())

    async def tell(total: int) -> None:
        await trio.sleep(RTT_S / 2)
        pace.got(total, trio.current_time())

    async def link(nursery: trio.Nursery) -> None:
        free = 0.0
        async for at in receive:
            free = max(free, at + RTT_S / 2) + STEP / rate
            await trio.sleep_until(free)
            now = trio.current_time()
            if arrivals.add(STEP, now) and (total := arrivals.take(now)) is not None:
                nursery.start_soon(tell, total)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender)
            nursery.start_soon(link, nursery)
    return arrivals.count / seconds, deepest


async def test_a_slow_link_is_kept_busy_with_little_under_way(autojump_clock: trio.testing.MockClock) -> None:
    rate, deepest = await drive(1.25e6, 20)
    assert rate > 0.95 * 1.25e6
    assert deepest <= FLOOR + 2 * STEP


async def test_a_fast_link_is_kept_busy_too(autojump_clock: trio.testing.MockClock) -> None:
    rate, deepest = await drive(60e6, 5)
    assert rate > 0.85 * 60e6
    assert deepest <= 1.2 * GAIN * RTT_S * 60e6 + FLOOR


async def test_a_session_that_is_over_waits_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(RTT_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pace.wait, 2 * START)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pace.wait, STEP)
        await trio.testing.wait_all_tasks_blocked()
        assert pace.under_way == 2 * START
        pace.stop()
    assert pace.under_way == 2 * START + STEP


def test_what_never_was_sent_has_not_arrived() -> None:
    pace = Pace(RTT_S)
    pace.got(1 << 40, 0.0)
    assert pace.under_way == 0


def test_what_arrives_is_told_by_its_amount_over_a_long_link_and_by_time_over_any() -> None:
    far, near = Arrivals(0.0, far=True), Arrivals(0.0, far=False)
    for arrivals in (far, near):
        assert not arrivals.add(GOT_EVERY - 1, 0.5)
        assert arrivals.take(0.5) is None
    assert far.add(1, 0.5)
    assert far.take(0.5) == GOT_EVERY
    assert far.take(0.5) is None
    assert not near.add(1, 0.5)
    assert near.take(TELL_S) == GOT_EVERY
    assert near.take(5.0) is None
    assert not near.add(1, 1.5)
    assert near.add(1, 2.0)
    assert near.take(2.0) == GOT_EVERY + 2


async def test_all_connections_that_wait_hear_of_what_arrived() -> None:
    pace = Pace(RTT_S)
    await pace.wait(START + 1)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(pace.wait, STEP)
        await trio.testing.wait_all_tasks_blocked()
        assert pace.under_way == START + 1
        pace.got(START + 1, 0.0)
        await trio.testing.wait_all_tasks_blocked()
        assert pace.under_way == 3 * STEP
        pace.stop()
