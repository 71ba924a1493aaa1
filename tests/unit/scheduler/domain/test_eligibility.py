"""All rules together: a mailbox driven through days never breaks a limit, and says why it waits."""

import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.scheduler.domain.mailboxes import ZONES, Mailbox, bare, rules

from paceline_scheduler.domain.blackout import Blackouts
from paceline_scheduler.domain.caps import DayCount, HourCount, RollingCount, day_of, hour_of
from paceline_scheduler.domain.eligibility import (
    Release,
    Stretch,
    admits,
    compile_stretch,
    earliest_slot,
    types_mask,
)
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.ramp import Ramp
from paceline_scheduler.domain.reason import REASONS
from paceline_scheduler.domain.rules import (
    ALL_TYPES,
    COLD,
    NURTURE,
    TRANSACTIONAL,
    CampaignRules,
    Rules,
    State,
    day_cap,
)
from paceline_scheduler.domain.window import Interval, SendWindow, instant

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
FRIDAY = datetime(2026, 11, 20, tzinfo=UTC)

zones = st.sampled_from(ZONES).map(ZoneInfo)
# 2020 to 2030.
instants = st.integers(1_577_836_800, 1_893_456_000).map(lambda s: datetime.fromtimestamp(s, UTC))
times = st.times(max_value=time(23, 59)).map(lambda t: t.replace(second=0, microsecond=0))
intervals = st.builds(
    Interval, st.frozensets(st.integers(0, 6), min_size=1), start=times, end=times
)
caps = st.none() | st.integers(1, 9)


@st.composite
def policies(draw: st.DrawFn, around: date, tz: ZoneInfo) -> Rules:
    """Rules with any window, blackouts around a date, and small caps."""
    window = draw(st.none() | st.lists(intervals, min_size=1, max_size=3).map(tuple))
    dates = draw(st.frozensets(st.integers(-2, 6).map(lambda n: around + n * DAY)))
    points = draw(st.dictionaries(st.integers(1, 9), st.integers(0, 9), max_size=3))
    ramp = Ramp(((0, draw(st.integers(0, 5))), *sorted(points.items()), (10, 9)))
    return replace(
        bare(
            daily_cap=draw(caps),
            hourly_cap=draw(caps),
            ceiling_24h=draw(caps),
            cadence_s=draw(st.sampled_from([1, 90, 2000])),
        ),
        window=SendWindow(tz, window, Blackouts(dates)),
        ramp=draw(st.none() | st.just(ramp)),
        ramp_from=around + draw(st.integers(-12, 3)) * DAY,
        health_floor=draw(st.booleans()),
    )


@st.composite
def mailboxes(draw: st.DrawFn) -> Mailbox:
    tz, now = draw(zones), draw(instants)
    domain = draw(zones)
    return Mailbox(
        draw(policies(now.astimezone(tz).date(), tz)),
        now,
        draw(st.integers(0, 99)),
        State(
            health=draw(st.none() | st.integers(0, 100)),
            throttled=draw(st.booleans()),
            domain_cap=draw(caps),
            domain_tz=draw(st.none() | st.just(domain)),
        ),
    )


def open_by_settings(window: SendWindow, at: datetime) -> bool:
    """Whether the window is open, told from the settings alone."""
    day = at.astimezone(window.tz).date()
    if day in window.blackouts.dates or day in window.blackouts.holidays:
        return False
    return window.intervals is None or any(
        opens.weekday() in one.days
        and instant(opens, one.start, window.tz)
        <= at
        < instant(opens + DAY * (one.end <= one.start), one.end, window.tz)
        for one in window.intervals
        for opens in (day - 2 * DAY, day - DAY, day, day + DAY)
    )


def allowed_on(rules: Rules, state: State, day: date) -> int | None:
    """The day's cap, told another way: as the least of fractions."""
    found = [] if rules.daily_cap is None else [rules.daily_cap]
    if rules.ramp is not None:
        index, points = max(0, (day - rules.ramp_from).days), rules.ramp.points
        for (a, low), (b, high) in itertools.pairwise(points):
            if a <= index < b:
                found.append(int(low + (high - low) * ((index - a) / (b - a)) + 1e-9))
        if index >= points[-1][0]:
            found.append(points[-1][1])
    if rules.health_floor and state.health is None:
        found.append(max(1, rules.ramp.points[0][1] if rules.ramp else 50))
    if state.throttled and (found or rules.ceiling is not None):
        least = min(found) if found else rules.ceiling or 0
        found.append(max(least // 2, min(1, least)))
    return min(found, default=None)


def check(mailbox: Mailbox, since: int = 0, used: Counter[date] | None = None) -> None:
    """Assert every limit over the slots from `since` on; `used`: over a cap already, by day."""
    rules, state, slots = mailbox.rules, mailbox.state, mailbox.slots
    for earlier, later in itertools.pairwise(slots):
        # Between real submissions: the earlier one at the end of its grace.
        assert later.slot_at - earlier.not_after >= rules.cadence.every
    for day, count in Counter(day_of(one.slot_at, rules.tz) for one in slots).items():
        cap = allowed_on(rules, state, day)
        assert cap is None or count <= max(cap, (used or Counter())[day])
    for number, one in enumerate(slots[since:], since):
        at = one.slot_at
        assert open_by_settings(rules.window, at)
        assert at <= one.not_after <= at + rules.cadence.grace
        last = max(at, one.not_after - TICK)
        assert open_by_settings(rules.window, last)
        assert day_of(at, rules.tz) == day_of(last, rules.tz)
        if rules.ceiling is not None:
            before = [s for s in slots[:number] if s.slot_at > at - DAY]
            assert len(before) < rules.ceiling
    if rules.hourly_cap is not None:
        hours = Counter(hour_of(one.slot_at) for one in slots[since:])
        assert max(hours.values(), default=0) <= rules.hourly_cap
    if state.domain_cap is not None:
        days = Counter(day_of(one.slot_at, state.domain_tz or rules.tz) for one in slots[since:])
        assert max(days.values(), default=0) <= state.domain_cap


def may_send(mailbox: Mailbox) -> bool:
    return isinstance(compile_stretch(mailbox.rules, mailbox.state, mailbox.now), Stretch)


@given(mailboxes())
@settings(max_examples=400, deadline=None)
def test_no_mailbox_exceeds_any_limit_in_any_zone(mailbox: Mailbox) -> None:
    if not may_send(mailbox):
        return
    mailbox.send(25)
    check(mailbox)


@given(mailboxes(), st.data())
@settings(max_examples=200, deadline=None)
def test_policy_changed_in_mid_day_holds_from_then_on(
    mailbox: Mailbox, data: st.DataObject
) -> None:
    if not may_send(mailbox):
        return
    mailbox.send(data.draw(st.integers(1, 9)))
    tz = mailbox.rules.tz
    before = Counter(day_of(one.slot_at, tz) for one in mailbox.slots)
    pace = mailbox.rules.cadence
    mailbox.rules = replace(
        data.draw(policies(mailbox.now.astimezone(tz).date(), tz)), cadence=pace, hourly_cap=None
    )
    if not may_send(mailbox):
        return
    since = len(mailbox.slots)
    mailbox.send(12)
    check(mailbox, since, before)


@given(mailboxes(), st.integers(0, 4000))
@settings(max_examples=500, deadline=None)
def test_stretch_lies_within_one_day_one_opening_and_one_hour(mailbox: Mailbox, sent: int) -> None:
    rules = mailbox.rules
    mailbox.state = replace(
        mailbox.state,
        day=DayCount(day_of(mailbox.now, rules.tz), sent % 7),
        hour=HourCount(hour_of(mailbox.now), sent % 5),
        rolling=RollingCount(hour_of(mailbox.now), (sent % 4, *(0,) * 20, sent % 3, 1, 0, 0)),
    )
    found = compile_stretch(rules, mailbox.state, mailbox.now)
    if isinstance(found, Hold):
        assert found.until is None or found.until > mailbox.now
        assert found.reason in REASONS
        return
    assert found.end > mailbox.now
    assert found.start < found.end
    assert found.left == -1 or found.left > 0
    assert (found.left == -1) == (found.left_by is None)
    assert {found.left_by or "open", found.ends_by} <= REASONS.keys()
    last = found.end - TICK
    assert day_of(found.start, rules.tz) == day_of(last, rules.tz)
    for at in (found.start, found.start + (last - found.start) / 2, last):
        assert open_by_settings(rules.window, at)
    if rules.hourly_cap is not None:
        assert hour_of(found.start) == hour_of(last)
    if found.closed_by is None:
        assert found.start <= mailbox.now + rules.cadence.lead < found.end
    else:
        assert found.closed_by.until is not None
        assert mailbox.now < found.closed_by.until <= found.start
        assert found.fresh


@given(mailboxes())
@settings(max_examples=150, deadline=None)
def test_nothing_open_is_passed_over(mailbox: Mailbox) -> None:
    """What lies before the stretch is closed by the settings, or its day's cap is 0."""
    rules, state, now = mailbox.rules, mailbox.state, mailbox.now
    found = compile_stretch(rules, state, now)
    if isinstance(found, Hold):
        return
    at = now + rules.cadence.lead
    step = timedelta(minutes=37)
    for n in range(min(400, max(0, (found.start - at) // step))):
        passed = at + n * step
        nothing = allowed_on(rules, state, day_of(passed, rules.tz)) == 0
        assert nothing or not open_by_settings(rules.window, passed)


# --- what binds, and until when


def office(**settings: Any) -> Rules:
    """A mailbox in Paris, Monday to Friday 09–17, with nothing else but `settings`."""
    window = {"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}
    return bare("Europe/Paris", windows=[window], **settings)


def paris(day: int, hour: int, minute: int = 0) -> datetime:
    """An instant of November 2026 on the clocks of Paris."""
    return datetime(2026, 11, day, hour, minute, tzinfo=ZoneInfo("Europe/Paris")).astimezone(UTC)


def compiled(rules: Rules, state: State, now: datetime) -> Stretch:
    found = compile_stretch(rules, state, now)
    assert isinstance(found, Stretch), found
    return found


def test_full_day_holds_until_local_midnight_and_opens_with_the_window() -> None:
    state = State(day=DayCount(date(2026, 11, 19), 5))
    found = compiled(office(daily_cap=5), state, paris(19, 14))
    assert found.closed_by == Hold("daily_cap", paris(20, 0), 5, 5)
    assert (found.start, found.end) == (paris(20, 9), paris(20, 17))
    assert (found.left, found.left_by, found.day_cap) == (5, "daily_cap", 5)
    assert found.ends_by == "outside_window"
    assert found.fresh


def test_cap_lowered_below_what_is_used_leaves_nothing_and_is_never_negative() -> None:
    state = State(day=DayCount(date(2026, 11, 19), 7))
    found = compiled(office(daily_cap=3), state, paris(19, 14))
    assert found.closed_by == Hold("daily_cap", paris(20, 0), 7, 3)
    assert found.left == 3


def test_full_hour_holds_until_the_next_utc_hour() -> None:
    kolkata = bare("Asia/Kolkata", hourly_cap=4)  # UTC+05:30: its hours are not the clock's
    now = FRIDAY + timedelta(hours=10, minutes=20)
    state = State(hour=HourCount(FRIDAY + 10 * HOUR, 4))
    found = compiled(kolkata, state, now)
    assert found.closed_by == Hold("hourly_cap", FRIDAY + 11 * HOUR, 4, 4)
    assert (found.start, found.end) == (FRIDAY + 11 * HOUR, FRIDAY + 12 * HOUR)
    assert (found.left, found.left_by, found.ends_by) == (4, "hourly_cap", "hour_ends")
    assert found.fresh


def test_hour_that_was_not_full_goes_over_into_the_next_without_an_opening() -> None:
    state = State(hour=HourCount(FRIDAY + 10 * HOUR, 3))
    found = compiled(bare(hourly_cap=4), state, FRIDAY + 11 * HOUR)
    assert (found.start, found.fresh) == (FRIDAY + 11 * HOUR, False)


def test_ceiling_holds_until_enough_hours_drop_out() -> None:
    # 3 sent an hour ago, 4 sent 20 hours ago, 2 sent 23 hours ago.
    hours = [0] * 25
    hours[1], hours[20], hours[23] = 3, 4, 2
    state = State(rolling=RollingCount(FRIDAY + 10 * HOUR, tuple(hours)))
    now = FRIDAY + 10 * HOUR + timedelta(minutes=5)
    found = compiled(bare(ceiling_24h=9), state, now)
    assert found.closed_by == Hold("provider_ceiling", FRIDAY + 12 * HOUR, 9, 9)
    assert (found.start, found.left, found.left_by) == (FRIDAY + 12 * HOUR, 2, "provider_ceiling")
    assert found.fresh
    # Lowered to 5: the 4 of 20 hours ago have to drop out as well.
    lower = compiled(bare(ceiling_24h=5), state, now)
    assert lower.closed_by == Hold("provider_ceiling", FRIDAY + 15 * HOUR, 9, 5)
    assert lower.left == 2


def test_reopening_under_a_ceiling_is_fresh_also_when_looked_at_late() -> None:
    hours = (0, 5, *(0,) * 23)
    newest = FRIDAY + 10 * HOUR
    state = State(next_at=FRIDAY + DAY, rolling=RollingCount(newest, hours))
    freed = newest + 24 * HOUR
    found = compiled(bare(ceiling_24h=5), state, freed + timedelta(minutes=3))
    assert (found.start, found.fresh) == (freed, True)


def test_budget_of_the_sending_domain_has_its_own_days() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    state = State(
        domain_cap=3, domain_day=DayCount(date(2026, 11, 20), 3), domain_tz=tokyo, health=90
    )
    found = compiled(bare(), state, FRIDAY + 10 * HOUR)
    assert found.closed_by == Hold("domain_budget", FRIDAY + 15 * HOUR, 3, 3)
    assert (found.start, found.left, found.left_by) == (FRIDAY + 15 * HOUR, 3, "domain_budget")
    assert found.end == FRIDAY + DAY
    assert found.fresh


def test_least_of_several_limits_binds() -> None:
    rolling = RollingCount(paris(19, 14), (4, *(0,) * 24))
    state = State(
        day=DayCount(date(2026, 11, 19), 6), hour=HourCount(paris(19, 14), 4), rolling=rolling
    )
    now = paris(19, 14, 30)
    assert compiled(office(daily_cap=9, hourly_cap=8), state, now).left_by == "daily_cap"
    assert compiled(office(daily_cap=11, hourly_cap=8), state, now).left_by == "hourly_cap"
    by_ceiling = compiled(office(daily_cap=11, hourly_cap=8, ceiling_24h=6), state, now)
    assert (by_ceiling.left, by_ceiling.left_by) == (2, "provider_ceiling")
    by_domain = compiled(
        office(daily_cap=11, hourly_cap=8, ceiling_24h=6), replace(state, domain_cap=1), now
    )
    assert (by_domain.left, by_domain.left_by) == (1, "domain_budget")


def test_weekend_holds_until_monday() -> None:
    found = compiled(office(), State(), paris(21, 12))
    assert found.closed_by == Hold("outside_window", paris(23, 9))
    assert found.start == paris(23, 9)


def test_holiday_and_blackout_are_told_apart() -> None:
    closed = replace(
        office(),
        window=replace(
            office().window,
            blackouts=Blackouts(frozenset({date(2026, 11, 19)}), frozenset({date(2026, 11, 20)})),
        ),
    )
    by_blackout = compiled(closed, State(), paris(19, 12)).closed_by
    by_holiday = compiled(closed, State(), paris(20, 12)).closed_by
    assert by_blackout == Hold("blackout", paris(23, 9))
    assert by_holiday == Hold("holiday", paris(23, 9))
    always = replace(closed, window=replace(closed.window, intervals=None))
    assert compiled(always, State(), paris(18, 12)).ends_by == "blackout"
    assert compiled(always, State(), paris(21, 12)).ends_by == "day_ends"


def test_midnight_of_an_open_window_is_no_opening_unless_the_day_was_full() -> None:
    always = bare(daily_cap=5)
    yesterday = date(2026, 11, 19)
    assert not compiled(always, State(day=DayCount(yesterday, 4)), FRIDAY).fresh
    assert compiled(always, State(day=DayCount(yesterday, 5)), FRIDAY).fresh
    assert compiled(always, State(day=DayCount(yesterday, 5)), FRIDAY - HOUR).fresh


def test_opening_is_not_fresh_once_something_was_sent_in_it() -> None:
    now = paris(19, 9, 10)
    sent = State(next_at=paris(19, 9, 5), day=DayCount(date(2026, 11, 19), 1))
    assert compiled(office(), State(), now).fresh
    assert not compiled(office(), sent, now).fresh


def test_what_no_time_mends_holds_for_ever() -> None:
    never = replace(bare(), window=SendWindow(ZoneInfo("UTC"), ()))
    assert compile_stretch(never, State(), FRIDAY) == Hold("window_never_opens", None)
    for zero, state, reason in (
        (bare(daily_cap=0), State(), "daily_cap_zero"),
        (bare(hourly_cap=0), State(), "hourly_cap"),
        (bare(ceiling_24h=0), State(), "provider_ceiling"),
        (bare(), State(domain_cap=0), "domain_budget"),
    ):
        assert compile_stretch(zero, state, FRIDAY) == Hold(reason, None, 0, 0)


def test_ramp_that_begins_at_zero_opens_on_its_first_day_with_something() -> None:
    rules = replace(bare(), ramp=Ramp(((0, 0), (2, 0), (3, 4))), ramp_from=date(2026, 11, 20))
    found = compiled(rules, State(health=80), FRIDAY + HOUR)
    assert found.closed_by == Hold("ramp_cap", FRIDAY + DAY, 0, 0)
    assert (found.start, found.left, found.fresh) == (FRIDAY + 3 * DAY, 4, True)


def test_lead_and_cadence_move_the_look_past_the_closing() -> None:
    now = paris(20, 16, 59)
    assert compiled(office(), State(), now).start == paris(20, 9)
    late = State(next_at=paris(20, 17))
    assert compiled(office(), late, now).start == paris(23, 9)
    assert compiled(office(), State(), paris(20, 17) - timedelta(seconds=2)).start == paris(23, 9)


def test_days_of_a_dst_change_are_counted_by_their_midnights() -> None:
    berlin = bare("Europe/Berlin", daily_cap=2)
    for day, hours in ((date(2026, 3, 29), 23), (date(2026, 10, 25), 25)):
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        found = compiled(berlin, State(), noon)
        assert found.end - found.start == hours * HOUR
        full = compiled(berlin, State(day=DayCount(day, 2)), noon)
        assert full.start == found.end


def test_leap_day_is_a_day_like_others() -> None:
    found = compiled(bare(daily_cap=1), State(), datetime(2028, 2, 29, 12, tzinfo=UTC))
    assert (found.start, found.end) == (
        datetime(2028, 2, 29, tzinfo=UTC),
        datetime(2028, 3, 1, tzinfo=UTC),
    )
    ramp = replace(bare(), ramp=Ramp(((0, 10), (2, 30))), ramp_from=date(2028, 2, 28))
    assert day_cap(ramp, State(), date(2028, 3, 1)).limit == 30


# --- slots


def test_first_slots_after_an_opening_are_spread_over_one_cadence() -> None:
    opening = paris(23, 9)
    offsets = []
    for seed in range(300):
        mailbox = Mailbox(office(), paris(21, 12), seed)
        mailbox.send(1)
        offsets.append((mailbox.slots[0].slot_at - opening).total_seconds())
    assert 0 <= min(offsets) < 5
    assert 85 < max(offsets) <= 90
    quarters = Counter(int(offset // 22.5) for offset in offsets)
    assert all(45 <= quarters[n] <= 105 for n in range(4))


@pytest.mark.parametrize(
    "limits",
    [{"daily_cap": 3}, {"hourly_cap": 3}, {"ceiling_24h": 3}],
    ids=lambda limits: next(iter(limits)),
)
def test_reopening_after_a_full_limit_is_spread_as_well(limits: dict[str, Any]) -> None:
    firsts = []
    for seed in range(120):
        mailbox = Mailbox(bare(**limits), FRIDAY + timedelta(minutes=1), seed)
        mailbox.send(4)
        firsts.append(mailbox.slots[3].slot_at)
    opening = min(firsts).replace(second=0, microsecond=0)
    offsets = [(one - opening).total_seconds() for one in firsts]
    assert max(offsets) <= 90
    assert len(set(offsets)) > 100
    assert sum(offset > 45 for offset in offsets) > 30


def test_submission_may_not_begin_after_the_window_closes() -> None:
    stretch = Stretch(FRIDAY, paris(20, 17), -1, False)
    cadence = office().cadence
    next_at = paris(20, 17) - timedelta(seconds=1)
    found = earliest_slot(stretch, cadence, next_at, next_at - timedelta(minutes=5))
    assert found == Release(next_at, stretch.end)
    assert earliest_slot(stretch, cadence, stretch.end, stretch.end - HOUR) == Hold(
        "outside_window", stretch.end
    ), "the end itself is closed"


def test_slot_is_never_before_lead_cadence_or_opening() -> None:
    stretch = Stretch(paris(20, 9), paris(20, 17), 2, False, 2, "daily_cap")
    cadence = office().cadence
    now = paris(20, 10)
    assert earliest_slot(stretch, cadence, paris(20, 8), now) == Release(
        now + cadence.lead, now + cadence.lead + cadence.grace
    )
    for next_at, asked, at in (
        (paris(20, 11), now, paris(20, 11)),
        (paris(20, 8), paris(20, 7), paris(20, 9)),
    ):
        assert earliest_slot(stretch, cadence, next_at, asked) == Release(at, at + cadence.grace)


def test_used_up_stretch_says_by_what() -> None:
    stretch = Stretch(FRIDAY, FRIDAY + HOUR, 0, False, 50, "hourly_cap", "hour_ends")
    assert earliest_slot(stretch, office().cadence, FRIDAY, FRIDAY) == Hold(
        "hourly_cap", FRIDAY + HOUR
    )


# --- which campaigns


def test_restriction_holds_what_the_owner_did_not_allow() -> None:
    nurture_only = rules({"campaign_types": ["nurture"]})
    state = State(health=95, stage=5)
    assert admits(nurture_only, state, CampaignRules(COLD, 0)) == Hold("type_restricted", None)
    assert admits(nurture_only, state, CampaignRules(NURTURE, 0)) is None
    assert types_mask(nurture_only, state) == NURTURE


def test_stage_gate_asks_more_of_cold_than_of_nurture() -> None:
    fresh = rules({"attested": False})
    for stage, mask in ((0, 4), (1, 4), (2, 6), (3, 7), (5, 7)):
        assert types_mask(fresh, State(stage=stage)) == mask
    assert admits(fresh, State(stage=2), CampaignRules(COLD, 70)) == Hold("stage_below", None, 2, 3)


def test_until_its_stage_is_measured_an_attested_mailbox_is_at_stage_three_any_other_at_none() -> (
    None
):
    assert types_mask(rules(), State(stage=None)) == ALL_TYPES
    strict = rules({"stage_gate": {"cold": 4}})
    assert admits(strict, State(), CampaignRules(COLD, 70)) == Hold("stage_below", None, 3, 4)
    fresh = rules({"attested": False})
    assert admits(fresh, State(), CampaignRules(NURTURE, 70)) == Hold("stage_below", None, 0, 2)


def test_measured_stage_holds_for_an_attested_mailbox_too() -> None:
    assert admits(rules(), State(stage=2), CampaignRules(COLD, 70)) == Hold(
        "stage_below", None, 2, 3
    )
    assert types_mask(rules(), State(stage=2)) == NURTURE | TRANSACTIONAL
    assert types_mask(rules(), State(stage=0)) == TRANSACTIONAL
    assert types_mask(rules({"stage_gate": {"cold": 4}}), State(stage=4)) == ALL_TYPES


def test_health_below_the_campaigns_floor_holds_and_unknown_health_passes() -> None:
    campaign = CampaignRules(COLD, 70)
    assert admits(rules(), State(health=69), campaign) == Hold("health_below_floor", None, 69, 70)
    assert admits(rules(), State(health=70), campaign) is None
    assert admits(rules(), State(health=None), campaign) is None
    assert admits(rules({"health_floor": False}), State(health=0), campaign) is None


@given(
    st.sets(st.sampled_from(["cold", "nurture", "transactional"]), min_size=1),
    st.none() | st.dictionaries(st.sampled_from(["cold", "nurture"]), st.integers(0, 5)),
    st.booleans(),
    st.none() | st.integers(0, 5),
)
@example({"cold"}, {"cold": 3}, False, 2)
@example({"cold"}, {"cold": 3}, True, 2)
def test_mask_holds_exactly_the_types_that_are_admitted(
    types: set[str], gate: dict[str, int] | None, attested: bool, stage: int | None
) -> None:
    mailbox = rules({"campaign_types": sorted(types), "stage_gate": gate, "attested": attested})
    state = State(stage=stage)
    admitted = [
        bit
        for bit in (COLD, NURTURE, TRANSACTIONAL)
        if admits(mailbox, state, CampaignRules(bit, 0)) is None
    ]
    assert types_mask(mailbox, state) == sum(admitted)
