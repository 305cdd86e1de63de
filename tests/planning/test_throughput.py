"""What a stage waits for."""

from __future__ import annotations

import pytest

from pipeline.planning.throughput import FEED_S, Throughput


def test_the_slower_of_decoding_and_device() -> None:
    throughput = Throughput.of(decode_s=0.02, device_s=0.001, cores=10, devices=1, shared=False)
    assert (throughput.seconds, throughput.bound_by) == (pytest.approx(0.002), "decoding")
    assert throughput.cores_a_device == pytest.approx(20)
    more = Throughput.of(0.02, 0.001, cores=40, devices=1, shared=False)
    assert (more.seconds, more.bound_by) == (pytest.approx(0.001), "the device")
    assert Throughput.of(0.02, 0.01, cores=2, devices=1, shared=True).seconds == pytest.approx(0.02)


def test_what_hands_clips_over_is_a_limit_too() -> None:
    fast = Throughput.of(1e-5, 1e-6, cores=1000, devices=100, shared=False)
    assert fast.fed("learn", 4).bound_by == "feeding"
    assert fast.fed("learn", 4).seconds == FEED_S["learn"] / 4
