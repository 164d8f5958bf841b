"""Memory is given back when no session has run for a while, and never while one does."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from agentd import _core
from agentd.sync.rest import REST_S, Rest

THREAD_S = 0.05
"""The clock is not to jump while the thread runs that releases."""


@pytest.fixture
def released() -> list[float]:
    """When it was, on trio's clock."""
    return []


async def test_once_behind_the_last_session(released: list[float], autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = THREAD_S
    rest = Rest(lambda: released.append(autojump_clock.current_time()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rest.run)
        await trio.sleep(1000)
        assert not released
        for _ in range(10):
            with rest.session():
                await trio.sleep(REST_S / 2)
            await trio.sleep(REST_S / 4)
        assert not released
        ended = trio.current_time()
        await trio.sleep(1000)
        assert len(released) == 1
        assert released[0] == pytest.approx(ended - REST_S / 4 + REST_S)
        nursery.cancel_scope.cancel()


async def test_not_beside_a_session_that_goes_on(released: list[float], autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = THREAD_S
    rest = Rest(lambda: released.append(autojump_clock.current_time()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rest.run)
        with rest.session():
            with rest.session():
                await trio.sleep(1)
            await trio.sleep(1000)
            assert not released
        await trio.sleep(2 * REST_S)
        assert len(released) == 1
        nursery.cancel_scope.cancel()


def test_what_is_in_use_stays() -> None:
    kept = _core.Buffer(1 << 20)
    with memoryview(kept) as view:
        view[:] = b"x" * len(view)
    for _ in range(8):
        _core.Buffer(1 << 20)
    _core.release_memory()
    with memoryview(kept) as view:
        assert view == b"x" * len(view)
    assert len(_core.Buffer(1 << 20)) == 1 << 20
