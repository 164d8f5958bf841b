"""More connections are made when those that there are carry what their windows allow, and only then."""

from __future__ import annotations

import pytest

from agentd.sync.engines import Tuning
from agentd.sync.stripes import CHANNEL_WINDOW, Stripes
from proto import limits

GIB = 1 << 30


def run(rtt_s: float, link_rate: float, *, left: int = GIB, seconds: float = 5.0) -> int:
    """The number after so long over a link of that many bytes per second."""
    stripes = Stripes(Tuning())
    now, moved = 0.0, 0.0
    while now < seconds:
        assert stripes.more(now, int(moved), left, rtt_s) >= 0
        now += 0.1
        moved += 0.1 * min(link_rate, stripes.count * CHANNEL_WINDOW / rtt_s * 0.9)
    return stripes.count


@pytest.mark.parametrize(
    ("rtt_s", "link_rate", "count"),
    [
        (0.001, 1e9, 1),  # short: one window is enough
        (0.05, 25e6, Tuning().stripes),  # long and thin: these carry it
        (0.1, 125e6, limits.STRIPES_MAX),  # long and fat
        (0.3, 1e9, limits.STRIPES_MAX),
    ],
)
def test_the_number_follows_the_link(rtt_s: float, link_rate: float, count: int) -> None:
    assert run(rtt_s, link_rate) == count


def test_a_little_is_not_worth_a_connection() -> None:
    assert run(0.1, 1e9, left=Tuning().stripe_min - 1) == 1


def test_without_a_round_trip_time_nothing_is_assumed() -> None:
    assert Stripes(Tuning()).more(1.0, 1, GIB, None) == 0
