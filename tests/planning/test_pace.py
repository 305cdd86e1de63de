"""What a stage waits for."""

from __future__ import annotations

import pytest

from pipeline.planning.machine_pace import FEED_S, ClipPace


def test_the_slower_of_decoding_and_device() -> None:
    pace = ClipPace.of(decode_s=0.02, device_s=0.001, cores=10, devices=1, shared=False)
    assert (pace.seconds, pace.bound_by) == (pytest.approx(0.002), "decoding")
    assert pace.cores_a_device == pytest.approx(20)
    more = ClipPace.of(0.02, 0.001, cores=40, devices=1, shared=False)
    assert (more.seconds, more.bound_by) == (pytest.approx(0.001), "the device")
    assert ClipPace.of(0.02, 0.01, cores=2, devices=1, shared=True).seconds == pytest.approx(0.02)


def test_what_hands_clips_over_is_a_limit_too() -> None:
    fast = ClipPace.of(1e-5, 1e-6, cores=1000, devices=100, shared=False)
    assert fast.fed("learn", 4).bound_by == "feeding"
    assert fast.fed("learn", 4).seconds == FEED_S["learn"] / 4
