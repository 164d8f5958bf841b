"""The keepalive machine, without a clock."""

import pytest

from proto.errors import RemoteProtocolError
from proto.keepalive import SAMPLES, WAKE_GRACE_S, Dead, Keepalive, SendPing, Wait


def test_pings_at_once_and_then_three_times_within_the_limit() -> None:
    keepalive = Keepalive(15, now=100)
    assert keepalive.next_action(100) == SendPing(1)
    assert keepalive.next_action(100) == Wait(5)
    keepalive.pong_untrusted(1, 100.25)
    assert keepalive.rtt_s == pytest.approx(0.25)
    assert keepalive.next_action(105) == SendPing(2)


def test_dead_when_nothing_at_all_came() -> None:
    keepalive = Keepalive(15, now=0)
    for now in (0, 5, 10):
        assert isinstance(keepalive.next_action(now), SendPing)
        assert isinstance(keepalive.next_action(now), Wait)
    assert keepalive.next_action(15) == Dead(15)


def test_any_byte_proves_life() -> None:
    keepalive = Keepalive(15, now=0)
    keepalive.heard(14)
    assert not isinstance(keepalive.next_action(28), Dead)
    assert keepalive.next_action(29) == Dead(15)


def test_the_round_trip_is_a_minimum_over_a_window() -> None:
    keepalive = Keepalive(15, now=0)
    for n, rtt in enumerate([0.010, *[0.050] * SAMPLES], start=1):
        now = 5.0 * (n - 1)
        assert keepalive.next_action(now) == SendPing(n)
        keepalive.pong_untrusted(n, now + rtt)
        if n == SAMPLES:
            assert keepalive.rtt_s == pytest.approx(0.010)
    assert keepalive.rtt_s == pytest.approx(0.050)


def test_a_sleep_asks_at_once_and_gives_little_time() -> None:
    keepalive = Keepalive(15, now=0)
    assert keepalive.next_action(0) == SendPing(1)
    keepalive.pong_untrusted(1, 0.01)
    keepalive.slept(1)
    assert keepalive.next_action(1) == SendPing(2)
    assert isinstance(keepalive.next_action(1), Wait)
    assert isinstance(keepalive.next_action(1 + WAKE_GRACE_S), Dead)


def test_a_sleep_that_the_link_survived() -> None:
    keepalive = Keepalive(15, now=0)
    keepalive.slept(1)
    assert keepalive.next_action(1) == SendPing(1)
    keepalive.pong_untrusted(1, 1.5)
    assert not isinstance(keepalive.next_action(1 + WAKE_GRACE_S), Dead)


@pytest.mark.parametrize("n", [0, 2])
def test_a_pong_nobody_asked_for(n: int) -> None:
    keepalive = Keepalive(15, now=0)
    assert keepalive.next_action(0) == SendPing(1)
    with pytest.raises(RemoteProtocolError):
        keepalive.pong_untrusted(n, 1)
    keepalive.pong_untrusted(1, 1)
    with pytest.raises(RemoteProtocolError):
        keepalive.pong_untrusted(1, 2)
