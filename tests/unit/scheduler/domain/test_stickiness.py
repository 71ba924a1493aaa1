"""What becomes of follow-ups whose mailbox is gone."""

from datetime import UTC, datetime, timedelta

import pytest

from paceline_scheduler.domain.stickiness import Mode, Reassign, Stop, Wait, decide

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
AFTER = timedelta(hours=48)


@pytest.mark.parametrize("mode", ["wait", "reassign", "stop"])
def test_a_mailbox_that_is_there_keeps_its_follow_ups(mode: Mode) -> None:
    assert decide(mode, AFTER, None, NOW) == Wait(None)


@pytest.mark.parametrize(("mode", "then"), [("reassign", Reassign()), ("stop", Stop())])
def test_a_mailbox_that_may_come_back_is_waited_for(mode: Mode, then: object) -> None:
    assert decide(mode, AFTER, NOW - AFTER, NOW) == then
    almost = NOW - AFTER + timedelta(microseconds=1)
    assert decide(mode, AFTER, almost, NOW) == Wait(almost + AFTER)
    assert decide(mode, timedelta(0), NOW, NOW) == then


def test_wait_waits_for_ever() -> None:
    assert decide("wait", AFTER, NOW - timedelta(days=999), NOW) == Wait(None)
