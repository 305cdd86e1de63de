"""When a stage has lost too many clips to go on."""

from __future__ import annotations

import pytest

from pipeline.clips.outage import Outage, check_losses, may_lose


@pytest.mark.parametrize(("clips", "may"), [(1, 1), (24, 1), (40, 2), (1000, 50)])
def test_a_twentieth_may_be_lost_and_always_one(clips: int, may: int) -> None:
    assert may_lose(clips, 0.05) == may
    check_losses("embed", {"missing": may}, clips, 0.05)
    with pytest.raises(Outage, match=r"the same command tries these clips again"):
        check_losses("embed", {"missing": may + 1}, clips, 0.05)


def test_what_was_lost_before_is_no_outage() -> None:
    check_losses("embed", {"corrupt": 240, "missing": 5}, 1000, 0.05, before=0.24)
    with pytest.raises(Outage, match=r"300 of 1,000 .* \(corrupt 240, missing 60\), 24.0% in"):
        check_losses("embed", {"corrupt": 240, "missing": 60}, 1000, 0.05, before=0.24)


def test_the_share_that_the_message_names_is_enough() -> None:
    with pytest.raises(Outage) as raised:
        check_losses("embed", {"missing": 137}, 1000, 0.05)
    named = float(str(raised.value).rpartition("max_rejected=")[2])
    check_losses("embed", {"missing": 137}, 1000, named)
