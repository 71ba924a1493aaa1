"""Who waits for another campaign, and for how long."""

from datetime import UTC, datetime, timedelta

import pytest

from paceline_scheduler.domain.contact import Pressure, Sibling, must_wait, not_before

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ALONE = Pressure(parallel=False, gap=timedelta(0))
OTHER = Sibling(1, 5, active=True, alone=True, waits=False)


def test_a_lead_of_an_active_campaign_waits_unless_that_is_allowed() -> None:
    assert must_wait(6, ALONE, [OTHER])
    assert not must_wait(6, Pressure(parallel=True, gap=timedelta(0)), [OTHER])
    assert not must_wait(6, ALONE, [])


@pytest.mark.parametrize(
    "sibling",
    [
        Sibling(1, 6, active=True, alone=True, waits=False),
        Sibling(1, 5, active=False, alone=True, waits=False),
        Sibling(1, 5, active=True, alone=False, waits=False),
    ],
    ids=["itself", "over", "beside others"],
)
def test_who_does_not_count(sibling: Sibling) -> None:
    assert not must_wait(6, ALONE, [sibling])


def test_those_who_wait_go_in_their_order() -> None:
    first = Sibling(1, 5, active=True, alone=True, waits=True)
    second = Sibling(2, 6, active=True, alone=True, waits=True)
    everybody = [first, second]
    assert not must_wait(5, ALONE, everybody, 1)
    assert must_wait(6, ALONE, everybody, 2)
    assert must_wait(7, ALONE, everybody), "a new one is behind all"


def test_days_between_two_campaigns() -> None:
    rules = Pressure(parallel=False, gap=timedelta(days=3))
    assert not_before(6, rules, NOW, 5) == NOW + timedelta(days=3)
    assert not_before(5, rules, NOW, 5) is None, "its own messages do not count"
    assert not_before(6, rules, None, None) is None
    assert not_before(6, ALONE, NOW, 5) is None
