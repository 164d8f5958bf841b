"""When changes leave."""

from __future__ import annotations

import math

import pytest

from agentd.watch.settle import (
    BURST_MAX_S,
    FEW,
    GAP_MAX_S,
    GONE_S,
    PATTERN_S,
    REST_MAX_S,
    TOKEN_S,
    TOKENS,
    Found,
    Settle,
)

MANY = Found(None, gone=False)


def save(*paths: bytes, gone: bool = False) -> Found:
    return Found(frozenset(paths), gone)


def test_a_single_save_leaves_at_once() -> None:
    settle = Settle()
    assert settle.due == math.inf
    assert settle.first_look(10.0) == 10.0 + PATTERN_S
    settle.looked(save(b"a"), 10.002)
    assert settle.due == 10.002
    settle.left(10.002)
    assert settle.due == math.inf


def test_saves_that_follow_each_other_leave_at_once_too() -> None:
    settle = Settle()
    for number in range(100):
        now = number * 0.05
        settle.looked(save(b"%d" % number), now)
        assert settle.due == now
        settle.left(now)
        settle.looked(None, now + 0.01)


def test_a_name_that_went_may_come_back() -> None:
    settle = Settle()
    settle.looked(save(b"a", b"a~", gone=True), 1.0)
    assert settle.due == 1.0 + GONE_S
    settle.looked(save(b"a"), 1.01)
    assert settle.due == 1.0 + GONE_S, "it is back, and leaves no later"


def test_a_burst_waits_until_it_is_quiet_and_longer_the_longer_it_is() -> None:
    settle = Settle()
    now, gaps = 0.0, []
    for _ in range(8):
        settle.looked(MANY, now)
        assert settle.bursting
        gaps.append(round(settle.due - now, 6))
        now = settle.due - 0.001
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.02
    assert gaps[-1] == pytest.approx(GAP_MAX_S)
    settle.looked(None, now)
    assert settle.due < now + GAP_MAX_S


def test_a_burst_that_does_not_end_leaves_all_the_same() -> None:
    settle = Settle()
    now = 0.0
    while now < settle.due:
        settle.looked(MANY, now)
        now += 0.01
    assert now <= BURST_MAX_S + 0.02


def test_what_follows_a_burst_during_its_batch_belongs_to_it() -> None:
    settle = Settle()
    settle.looked(save(b"a"), 0.0)
    settle.left(0.0)
    settle.looked(save(b"b"), 0.02)
    assert settle.due > 0.02
    settle.left(settle.due)
    settle.looked(None, 0.06)
    settle.looked(save(b"c"), 0.1)
    assert settle.due == 0.1


def test_a_file_rewritten_in_a_loop_leaves_now_and_then() -> None:
    settle = Settle()
    left, now = [], 0.0
    while now < 30.0:
        settle.looked(save(b"log"), now)
        if settle.due <= now:
            settle.left(now)
            settle.arrived(now)
            left.append(now)
        now += 0.01
    assert 30 <= len(left) <= 30 / TOKEN_S + TOKENS + 1


def test_what_takes_long_to_send_waits_as_long() -> None:
    settle = Settle()
    busy, now = 0.0, 0.0
    while now < 60.0:
        settle.looked(save(b"large"), now)
        if settle.due <= now:
            settle.left(now)
            now += 2.0
            settle.arrived(now)
            busy += 2.0
        now += 0.01
    assert 20 <= busy <= 36


def test_a_file_rewritten_in_a_loop_does_not_starve_a_save() -> None:
    settle = Settle()
    now = 0.0
    for _ in range(500):
        settle.looked(save(b"log"), now)
        if settle.due <= now:
            settle.left(now)
            settle.arrived(now)
        now += 0.01
    assert settle.due > now - 0.01
    assert settle.first_look(now) <= now + REST_MAX_S
    settle.looked(save(b"log", b"page"), now)
    assert settle.due == now


def test_looks_that_find_nothing_become_rarer_and_calm_makes_them_quick_again() -> None:
    settle = Settle()
    for number in range(20):
        settle.looked(None, number * 0.01)
    assert settle.first_look(0.2) == 0.2 + REST_MAX_S
    assert settle.first_look(5.0) == 5.0 + PATTERN_S


def test_few_is_few() -> None:
    assert FEW >= 4  # what an editor's save of one file touches: the file, its directory, a backup, a swap file
