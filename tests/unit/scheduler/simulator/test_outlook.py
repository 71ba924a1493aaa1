"""Forecasts agree with what a hand computes, and move the right way with what is changed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from paceline_scheduler.domain.caps import DayCount
from paceline_scheduler.domain.rules import State
from paceline_scheduler.forecast import told
from paceline_scheduler.simulator import outlook
from paceline_scheduler.simulator.outlook import Outlook, foretell, quantile
from paceline_scheduler.simulator.pacer import Campaign
from paceline_scheduler.simulator.snapshot import (
    CampaignNow,
    MailboxNow,
    Snapshot,
    Waiting,
    WhatIf,
    change,
)

# A Thursday noon.
NOW = datetime(2026, 11, 19, 12, 0, tzinfo=UTC)
TODAY = NOW.date()
CAMPAIGN, POOL = 5, 1
EVERY_MINUTE: Mapping[str, Any] = {
    "cadence_s": 60, "jitter_s": [0, 0], "grace_s": 0, "ramp": None, "windows": None,
    "holidays": False,
}  # fmt: skip


def mailbox(number: int, state: State | None = None, **settings: Any) -> MailboxNow:
    return MailboxNow(
        number,
        {
            "policy": {**EVERY_MINUTE, **settings},
            "timezone": "UTC",
            "provider": "smtp",
            "country": None,
            "region": None,
            "connected_at": NOW - timedelta(days=60),
        },
        state or State(health=90, stage=4),
        number,
        {POOL: (number, 1, 0)},
    )


def campaign(
    *waiting: Waiting, number: int = CAMPAIGN, delays: Sequence[timedelta] = (timedelta(),)
) -> CampaignNow:
    return CampaignNow(
        Campaign(number, 1, 70, "off", [{"pools": [POOL], "after_s": None}]),
        {n + 1: delay for n, delay in enumerate(delays)},
        waiting,
    )


def snapshot(mailboxes: Sequence[MailboxNow], *campaigns: CampaignNow) -> Snapshot:
    return Snapshot(1, NOW, {POOL: "next_in_line"}, mailboxes, campaigns)


def queued(count: int, **more: Any) -> Waiting:
    return Waiting(1, NOW, count, **more)


def per_day(found: Outlook) -> dict[date, float]:
    days: Counter[date] = Counter()
    for (day, _), count in found.days.items():
        days[day] += count  # type: ignore[assignment]
    return dict(days)


def test_ten_messages_of_two_mailboxes_a_minute_apart_take_four_minutes() -> None:
    found = foretell(snapshot([mailbox(1), mailbox(2)], campaign(queued(10))), CAMPAIGN, 5)
    # The first slots lie a lead of two seconds ahead; the loop may be late by a quarter of one.
    earliest = NOW + timedelta(seconds=2 + 4 * 60)
    assert all(earliest <= one <= earliest + timedelta(seconds=2) for one in found.finishes)
    assert found.days == {(TODAY, 1): 5, (TODAY, 2): 5}
    assert found.bottleneck == "cadence"
    assert found.seeds == 5


def test_a_daily_cap_spreads_it_over_days_and_is_the_bottleneck() -> None:
    state = State(health=90, stage=4, day=DayCount(TODAY, 2))
    found = foretell(snapshot([mailbox(1, state, daily_cap=3)], campaign(queued(9))), CAMPAIGN, 3)
    days = [1, 3, 3, 2]
    assert per_day(found) == {TODAY + timedelta(days=n): count for n, count in enumerate(days)}
    assert found.bottleneck == "daily_cap"
    assert {one.date() for one in found.finishes} == {TODAY + timedelta(days=3)}


def test_office_hours_leave_the_weekend_out() -> None:
    office = [{"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}]
    box = mailbox(1, daily_cap=4, windows=office)
    found = foretell(snapshot([box], campaign(queued(12))), CAMPAIGN, 3)
    # Thursday, Friday, Monday.
    assert per_day(found) == {TODAY + timedelta(days=n): 4 for n in (0, 1, 4)}


def test_follow_ups_go_from_the_same_mailbox_after_their_delay() -> None:
    steps = (timedelta(), timedelta(days=2))
    found = foretell(
        snapshot([mailbox(1), mailbox(2)], campaign(queued(4), delays=steps)), CAMPAIGN, 2
    )
    later = TODAY + timedelta(days=2)
    assert found.days == {(TODAY, 1): 2, (TODAY, 2): 2, (later, 1): 2, (later, 2): 2}


def test_what_is_just_being_sent_still_has_its_follow_up() -> None:
    steps = (timedelta(), timedelta(days=1))
    leaving = queued(1, mailbox_id=2, is_sent=True)
    found = foretell(
        snapshot([mailbox(1), mailbox(2)], campaign(leaving, delays=steps)), CAMPAIGN, 1
    )
    assert found.days == {(TODAY + timedelta(days=1), 2): 1}


def test_another_campaign_takes_its_share() -> None:
    alone = foretell(snapshot([mailbox(1)], campaign(queued(20))), CAMPAIGN, 1)
    other = campaign(queued(20), number=6)
    shared = foretell(snapshot([mailbox(1)], campaign(queued(20)), other), CAMPAIGN, 1)
    took = alone.finishes[0] - NOW
    assert 1.8 * took < shared.finishes[0] - NOW < 2.1 * took
    assert sum(shared.days.values()) == 20


def test_what_waits_in_a_scheduled_campaign_waits_for_its_start() -> None:
    starts_at = NOW + timedelta(hours=3)
    scheduled = replace(campaign(queued(3)), starts_at=starts_at)
    found = foretell(snapshot([mailbox(1)], scheduled), CAMPAIGN, 9)
    # Its lead, two more messages, and a little for the start and the loop.
    first = starts_at + timedelta(seconds=2 + 2 * 60)
    assert all(first <= one < first + timedelta(seconds=2) for one in found.finishes)
    running = campaign(queued(10), number=6)
    scheduled = replace(running, starts_at=starts_at)
    for other, sooner in ((scheduled, True), (running, False)):
        found = foretell(snapshot([mailbox(1)], campaign(queued(5)), other), CAMPAIGN, 1)
        assert (found.finishes[0] - NOW < timedelta(minutes=5)) is sooner


def test_the_band_reaches_from_a_machine_at_rest_to_a_busy_one() -> None:
    box = mailbox(1, cadence_s=1)
    found = foretell(snapshot([box], campaign(queued(200))), CAMPAIGN, 100)
    on_time = NOW + timedelta(milliseconds=500 + 199 * 1000)
    late_ms = [
        (quantile(found.finishes, share) - on_time) / timedelta(milliseconds=200)
        for share in (0.1, 0.5, 0.9)
    ]
    assert 0 <= late_ms[0] < 3
    assert 5 < late_ms[1] < 15
    assert 65 < late_ms[2] < 200


def test_more_mailboxes_finish_sooner_and_their_ramps_begin_now() -> None:
    now = snapshot([mailbox(1, daily_cap=10, ramp={"curve": [[0, 4], [30, 500]]})],
                   campaign(queued(40)))  # fmt: skip
    changed = change(now, CAMPAIGN, WhatIf(add_mailboxes=2), NOW)
    before, after = foretell(now, CAMPAIGN, 1), foretell(changed, CAMPAIGN, 1)
    assert after.finishes[0] < before.finishes[0]
    assert [after.days[TODAY, number] for number in (-2, -1, 1)] == [4, 4, 10]


def test_raised_caps_finish_sooner() -> None:
    now = snapshot([mailbox(1, daily_cap=5), mailbox(2, daily_cap=5)], campaign(queued(40)))
    days = [
        len(per_day(foretell(change(now, CAMPAIGN, what_if, NOW), CAMPAIGN, 1)))
        for what_if in (
            WhatIf(),
            WhatIf(caps={1: {"daily_cap": 15}}),
            WhatIf(caps={0: {"daily_cap": 20}}),
        )
    ]
    assert days == [4, 2, 1]


def test_a_dry_run_takes_leads_instead_of_jobs() -> None:
    due = NOW + timedelta(days=3)
    changed = change(snapshot([mailbox(1)], campaign()), CAMPAIGN, WhatIf(leads=7), due)
    found = foretell(changed, CAMPAIGN, 1)
    assert per_day(found) == {due.date(): 7}


@pytest.mark.parametrize(
    ("box", "bottleneck"),
    [
        (mailbox(1, State(health=50, stage=4)), "health_below_floor"),
        (mailbox(1, State(health=90, stage=1), attested=False), "stage_below"),
        (mailbox(1, campaign_types=["nurture"]), "type_restricted"),
        (mailbox(1, windows=[]), "window_never_opens"),
        (mailbox(1, daily_cap=0), "daily_cap_zero"),
    ],
)
def test_what_cannot_be_sent_never_finishes_and_says_why(box: MailboxNow, bottleneck: str) -> None:
    found = foretell(snapshot([box], campaign(queued(3))), CAMPAIGN, 2)
    assert (found.finishes, dict(found.days), found.bottleneck) == ((), {}, bottleneck)


def test_without_a_mailbox_it_never_finishes() -> None:
    found = foretell(snapshot([], campaign(queued(3))), CAMPAIGN, 2)
    assert (found.finishes, found.bottleneck) == ((), "no_mailbox")


def held(until: datetime | None) -> MailboxNow:
    one = mailbox(1)
    return MailboxNow(
        1, one.settings, one.state, 1, one.members, held_by="cooldown", held_until=until
    )


def test_a_suspension_with_an_end_is_waited_for_and_one_without_is_not() -> None:
    until = NOW + timedelta(hours=5)
    found = foretell(snapshot([held(until)], campaign(queued(3))), CAMPAIGN, 1)
    assert until < found.finishes[0] < until + timedelta(minutes=5)
    found = foretell(snapshot([held(None)], campaign(queued(3))), CAMPAIGN, 1)
    assert (found.finishes, found.bottleneck) == ((), "cooldown")


def test_mailboxes_of_one_sending_domain_share_its_budget() -> None:
    state = State(health=90, stage=4, domain_cap=5)
    found = foretell(
        snapshot([mailbox(1, state), mailbox(2, state)], campaign(queued(12))), CAMPAIGN, 1
    )
    assert per_day(found) == {TODAY + timedelta(days=n): count for n, count in enumerate((5, 5, 2))}


def test_decisions_in_bundles_count_the_same_days(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [mailbox(n, daily_cap=40 + n, hourly_cap=20) for n in range(1, 6)]
    now = snapshot(boxes, campaign(queued(600), delays=(timedelta(), timedelta(days=3))))
    exact = foretell(now, CAMPAIGN, 1)
    monkeypatch.setattr(outlook, "_DECISIONS", 60)
    bundled = foretell(now, CAMPAIGN, 1)
    assert sum(bundled.days.values()) == sum(exact.days.values()) == 1200
    for day, count in per_day(exact).items():
        assert per_day(bundled)[day] == pytest.approx(count, rel=0.05)
    assert abs(bundled.finishes[0] - exact.finishes[0]) < timedelta(hours=1)


def test_when_its_time_is_over_the_rest_goes_by_capacity() -> None:
    boxes = [mailbox(n, daily_cap=10) for n in range(1, 21)]
    now = snapshot(boxes, campaign(queued(20_000)))
    found = foretell(now, CAMPAIGN, 20, allowed_s=0)
    assert found.is_cut
    # 100 days; what has been seen of them is fewer.
    assert NOW + timedelta(days=80) < found.finishes[0] < NOW + timedelta(days=120)
    assert "capacity" in told(found, 20).message


def test_quantiles_lie_between_the_runs() -> None:
    finishes = [NOW + timedelta(minutes=n) for n in range(11)]
    assert quantile(finishes, 0.1) == finishes[1]
    assert quantile(finishes, 0.5) == finishes[5]
    assert quantile(finishes[:2], 0.5) == NOW + timedelta(seconds=30)
    assert quantile(finishes[:1], 0.9) == NOW


def test_the_answer_names_mailboxes_and_says_what_binds() -> None:
    found = Outlook((NOW, NOW), {(TODAY, -1): 2.0, (TODAY, 1): 1.5}, "ramp_cap", 2, False)
    answer = told(found, 20)
    assert [one.mailbox_id for one in answer.days] == ["new_1", "mbx_5851f42d4c957f2d"]
    assert answer.finish is not None
    assert answer.finish.p10 == NOW
    assert "2 runs instead of 20" in answer.message
    never = told(Outlook((), {}, "cooldown", 2, False), 2)
    assert never.finish is None
    assert "never finishes" in never.message
