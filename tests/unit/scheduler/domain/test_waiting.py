"""What binds, in words and numbers, and the smallest change that would end it."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from paceline_common import ids
from paceline_scheduler.domain.caps import DayCount
from paceline_scheduler.domain.eligibility import compile_stretch
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.reason import REASONS
from paceline_scheduler.domain.rules import Rules, State
from paceline_scheduler.domain.waiting import (
    Answer,
    Candidate,
    Eta,
    Fleet,
    Group,
    Queue,
    Route,
    answer,
    final,
    of_fleet,
    of_gone,
)

from .test_outlook import NOW, PARIS, RULES

ROUTE = Route(5, (1,), ZoneInfo("UTC"))
FULL = State(day=DayCount(date(2026, 3, 2), 120))
CAPPED = replace(RULES, daily_cap=120)


def candidate(number: int, rules: Rules = RULES, state: State | None = None) -> Candidate:
    known = State() if state is None else state
    return Candidate(number, rules, known, compile_stretch(rules, known, NOW))


def ask(*candidates: Candidate, queue: Queue | None = None, route: Route = ROUTE) -> Answer:
    groups = [Group("open", len(candidates))]
    fleet = Fleet(candidates, groups, len(candidates), queue or Queue())
    return of_fleet(fleet, route, NOW, NOW)


def test_a_full_day_is_told_with_its_numbers_and_zone() -> None:
    told = ask(candidate(1, CAPPED, FULL))
    assert told.reason == "daily_cap"
    assert told.message == (
        "The mailbox has sent as much today as its own daily cap allows:"
        " daily cap 120 of 120 until 00:00 Europe/Paris; it is next of its campaign."
    )
    assert told.action == "raise_daily_cap"
    assert told.detail == f"raise the daily cap of mailbox {ids.encode('mbx', 1)} above 120"
    assert told.eta is not None
    # It opens at nine.
    assert told.eta.earliest == datetime(2026, 3, 3, 9, tzinfo=PARIS)


def test_the_mailbox_that_can_take_it_first_binds() -> None:
    late = candidate(1, state=State(next_at=NOW + timedelta(seconds=60)))
    soon = candidate(2, state=State(next_at=NOW + timedelta(seconds=30)))
    told = ask(late, soon)
    assert told.reason == "cadence"
    assert told.constraint is not None
    assert told.constraint.ref == ids.encode("mbx", 2)
    assert told.constraint.hold.until == NOW + timedelta(seconds=30)


def test_one_open_mailbox_hides_what_closes_the_others() -> None:
    told = ask(candidate(1, CAPPED, FULL), candidate(2))
    assert told.reason == "waiting_in_queue"


def test_others_before_it_are_told_and_counted_into_the_interval() -> None:
    alone = ask(candidate(1)).eta
    behind = ask(candidate(1), queue=Queue(before=10))
    assert behind.reason == "waiting_in_queue"
    assert "10 of its campaign before it" in behind.message
    assert alone is not None
    assert behind.eta is not None
    assert behind.eta.earliest is not None
    assert alone.earliest is not None
    least = timedelta(seconds=95) * 10
    assert abs(behind.eta.earliest - alone.earliest - least) < timedelta(seconds=1)


def test_a_sampled_place_is_told_as_about() -> None:
    queue = Queue(before=123_456, is_exact=False)
    assert queue.told() == "about 120,000 of its campaign before it"
    exact, sampled = (
        ask(candidate(1), queue=Queue(before=1000, is_exact=known)).eta for known in (True, False)
    )
    assert exact is not None
    assert sampled is not None
    assert sampled.earliest is not None
    assert exact.earliest is not None
    assert sampled.latest is not None
    assert exact.latest is not None
    assert sampled.earliest < exact.earliest
    assert sampled.latest > exact.latest


def test_busy_mailboxes_are_outstanding() -> None:
    told = ask(replace(candidate(1), is_busy=True))
    assert told.reason == "outstanding"


def test_backups_do_not_hasten_the_latest() -> None:
    queue = Queue(before=100)
    primary, backup = candidate(1), replace(candidate(2), is_backup=True)
    both, alone = ask(primary, backup, queue=queue).eta, ask(primary, queue=queue).eta
    assert both is not None
    assert alone is not None
    assert both.latest is not None
    assert alone.latest is not None
    assert alone.earliest is not None
    assert both.earliest is not None
    assert both.earliest < alone.earliest
    assert both.latest >= alone.latest - timedelta(seconds=1)


def test_a_shared_domain_budget_leaves_the_latest_open() -> None:
    told = ask(candidate(1, state=State(domain_cap=100)))
    assert told.eta is not None
    assert told.eta.latest is None


def test_of_mailboxes_that_never_serve_the_commonest_reason_is_told() -> None:
    groups = [Group("type_restricted", 1), Group("stage_below", 4)]
    refusing = Candidate(7, RULES, State(), Hold("stage_below", None, 1, 3))
    told = of_fleet(Fleet([refusing], groups, 0), ROUTE, NOW, NOW)
    assert told.reason == "stage_below"
    assert told.constraint is not None
    assert (told.constraint.hold.used, told.constraint.hold.limit) == (1, 3)
    assert told.eta is None
    assert "of 5 mailboxes 4 stage below, 1 type restricted" in told.message


def test_a_suspension_that_ends_is_told_before_those_that_do_not() -> None:
    until = NOW + timedelta(hours=4)
    groups = [Group("mailbox_inactive", 9), Group("cooldown", 1, until)]
    told = of_fleet(Fleet([], groups, 0), ROUTE, NOW, NOW)
    assert told.reason == "cooldown"
    assert told.eta == Eta(until, None)


def test_without_any_mailbox_one_is_to_be_added() -> None:
    told = of_fleet(Fleet([], [], 0), ROUTE, NOW, NOW)
    assert (told.reason, told.eta) == ("no_mailbox", None)
    assert told.detail == f"add a mailbox to pool {ids.encode('pool', 1)}"


def test_the_next_tier_may_be_earlier_than_the_mailboxes_of_this_one() -> None:
    tier_at = NOW + timedelta(hours=1)
    told = ask(candidate(1, CAPPED, FULL), route=replace(ROUTE, next_tier_at=tier_at))
    assert told.eta is not None
    assert told.eta.earliest == tier_at


def test_a_gone_sender_is_waited_for_until_the_follow_up_may_leave() -> None:
    back_at = NOW + timedelta(days=2)
    told = of_gone(candidate(3), 3, ROUTE, back_at, NOW)
    assert told.reason == "waiting_for_sender"
    assert told.eta == Eta(back_at, None)
    assert of_gone(None, 3, ROUTE, None, NOW).eta is None


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_can_be_told(reason: str) -> None:
    told = answer(reason, ROUTE, scope="campaign", ref=ids.encode("cmp", 5), now=NOW)
    assert told.message.endswith(".")
    assert told.detail is None or "{" not in told.detail


@pytest.mark.parametrize(
    "state",
    ["finished", "replied", "bounced", "unsubscribed", "suppressed", "stopped", "failed"],
)
def test_what_is_over_needs_no_release(state: str) -> None:
    told = final(state, "by_hand")
    assert told.reason == state
    assert "(by hand)" in told.message
    assert told.action is None
