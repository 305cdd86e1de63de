"""How long is left, from the recent rate."""

from __future__ import annotations

import itertools

import pytest

from pipeline.telemetry.progress import Rate


def followed(*stretches: tuple[int, float], start_s: int = 0) -> Rate:
    """A rate that saw, once a second, so many seconds at so many units per second each."""
    rate, done = Rate(), 0.0
    seconds = itertools.count(1)
    for _ in range(start_s):
        rate.add(next(seconds), 0)
    for length, speed in stretches:
        for _ in range(length):
            done += speed
            rate.add(next(seconds), done)
    return rate


def test_start_up_does_not_count() -> None:
    rate = followed((5, 10.0), start_s=300)
    assert rate.per_second == pytest.approx(10)
    assert rate.left_s(100) == pytest.approx(5)


def test_nothing_is_said_before_there_is_a_rate() -> None:
    rate = Rate()
    assert rate.per_second is None
    assert rate.left_s(10) is None
    for second, done in ((1, 0), (2, 4), (3, 4)):
        rate.add(second, done)
        assert rate.per_second is None
        assert rate.left_s(10) is None
    rate.add(4, 8)
    assert rate.left_s(10) == pytest.approx(1)


@pytest.mark.parametrize(("before", "now"), [(1.0, 20.0), (20.0, 1.0)])
def test_the_last_minute_counts(before: float, now: float) -> None:
    rate = followed((1800, before), (60, now))
    assert rate.per_second == pytest.approx(now)
    done = 1800 * before + 60 * now
    assert rate.left_s(done + 180 * now) == pytest.approx(180), "3 min, whatever came before"


def test_batches_that_are_rarer_than_the_window() -> None:
    rate = Rate()
    for second in range(1, 1000):
        rate.add(second, second // 100 * 64)
        if second >= 300:
            assert 0.64 / 2 <= (rate.per_second or 0) <= 0.64
    assert rate.left_s(9 * 64 + 64) == pytest.approx(100, rel=1)


def test_a_stage_that_stands_still_takes_longer_and_longer() -> None:
    rate = followed((100, 2.0))
    left = [rate.left_s(1000)]
    for second in range(101, 1000, 50):
        rate.add(second, 200)
        left.append(rate.left_s(1000))
    assert left == sorted(left)  # type: ignore[type-var]
    assert (left[-1] or 0) > 1000


@pytest.mark.parametrize("total", [24, 72])
def test_nothing_is_left_at_the_end_and_beyond_it(total: int) -> None:
    assert followed((36, 2.0)).left_s(total) == 0
    once = Rate()
    once.add(1, 72)
    assert once.left_s(total) == 0, "also without a rate"
