"""Windows and days, in every IANA zone."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import example, given, settings
from hypothesis import strategies as st

from paceline_scheduler.domain.blackout import Blackouts
from paceline_scheduler.domain.window import (
    Interval,
    SendWindow,
    Span,
    day_span,
    instant,
    local_day,
)

ZONES = sorted(available_timezones())
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVERY_DAY = frozenset(range(7))
TICK = timedelta(microseconds=1)


def opening(window: SendWindow, at: datetime) -> Span:
    """The first opening that ends after `at`."""
    found = window.next_opening(at)
    assert found is not None
    return Span(found.start, found.end)


zones = st.sampled_from(ZONES).map(ZoneInfo)
# 2000 to 2037, to the microsecond.
instants = st.integers(946_684_800_000_000, 2_143_238_400_000_000).map(
    lambda micros: EPOCH + timedelta(microseconds=micros)
)
times = st.times(max_value=time(23, 59)).map(lambda t: t.replace(second=0, microsecond=0))
intervals = st.builds(
    Interval, st.frozensets(st.integers(0, 6), min_size=1), start=times, end=times
)


@given(zones, st.dates(date(2000, 1, 1), date(2037, 1, 1)), times)
@settings(max_examples=1500)
@example(ZoneInfo("Europe/Berlin"), date(2026, 3, 29), time(2, 30))
@example(ZoneInfo("Pacific/Apia"), date(2011, 12, 30), time(12))
def test_instant_shows_the_wall_time_or_is_the_change_that_skips_it(
    tz: ZoneInfo, day: date, at: time
) -> None:
    found = instant(day, at, tz)
    wall = datetime.combine(day, at)
    shown = found.astimezone(tz).replace(tzinfo=None)
    if shown != wall:
        before = (found - timedelta(seconds=1)).astimezone(tz)
        assert shown > wall, "a skipped time moves forward"
        assert before.replace(tzinfo=None) < wall, "and no further than the change"
        assert before.utcoffset() != found.astimezone(tz).utcoffset()


def test_opening_skipped_by_dst_moves_to_the_change() -> None:
    window = SendWindow(ZoneInfo("Europe/Berlin"), (Interval(EVERY_DAY, time(2, 30), time(4)),))
    span = opening(window, datetime(2026, 3, 29, 0, tzinfo=UTC))
    assert span == Span(datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 29, 2, tzinfo=UTC))


def test_window_inside_the_skipped_hour_does_not_open() -> None:
    window = SendWindow(ZoneInfo("Europe/Berlin"), (Interval(EVERY_DAY, time(2, 10), time(2, 50)),))
    span = opening(window, datetime(2026, 3, 28, 23, tzinfo=UTC))
    assert span.start == datetime(2026, 3, 30, 0, 10, tzinfo=UTC)


def test_closing_in_the_repeated_hour_is_its_first_pass() -> None:
    window = SendWindow(ZoneInfo("Europe/Berlin"), (Interval(EVERY_DAY, time(1), time(2, 30)),))
    span = opening(window, datetime(2026, 10, 24, 20, tzinfo=UTC))
    assert span == Span(
        datetime(2026, 10, 24, 23, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    )
    following = opening(window, span.end)
    assert following.start == datetime(2026, 10, 26, 0, tzinfo=UTC), "not again an hour later"


def test_interval_across_midnight_stays_open() -> None:
    window = SendWindow(ZoneInfo("UTC"), (Interval(frozenset({4}), time(22), time(6)),))
    friday_night = datetime(2026, 11, 20, 23, tzinfo=UTC)
    assert window.is_open(friday_night)
    assert window.is_open(datetime(2026, 11, 21, 5, 59, tzinfo=UTC))
    assert not window.is_open(datetime(2026, 11, 21, 6, tzinfo=UTC))
    assert not window.is_open(datetime(2026, 11, 21, 23, tzinfo=UTC))


def test_several_intervals_a_day_leave_the_pause_closed() -> None:
    window = SendWindow(
        ZoneInfo("UTC"),
        (
            Interval(EVERY_DAY, time(13), time(17)),
            Interval(EVERY_DAY, time(9), time(12)),
        ),
    )
    assert opening(window, datetime(2026, 11, 20, 12, tzinfo=UTC)) == Span(
        datetime(2026, 11, 20, 13, tzinfo=UTC), datetime(2026, 11, 20, 17, tzinfo=UTC)
    )


def test_weekend_is_skipped() -> None:
    window = SendWindow(
        ZoneInfo("America/Denver"), (Interval(frozenset(range(5)), time(9), time(17)),)
    )
    friday_evening = datetime(2026, 11, 21, 1, tzinfo=UTC)
    span = opening(window, friday_evening)
    assert span.start == datetime(2026, 11, 23, 16, tzinfo=UTC)


blackouts = st.builds(
    Blackouts,
    st.frozensets(st.integers(0, 5).map(lambda n: date(2026, 3, 27) + timedelta(days=n))),
    st.frozensets(st.integers(0, 5).map(lambda n: date(2026, 10, 23) + timedelta(days=n))),
)
# Around the days of the northern DST changes and of the southern ones.
around_changes = st.one_of(
    st.integers(0, 8 * 86_400 * 1000).map(
        lambda ms: datetime(2026, 3, 26, tzinfo=UTC) + timedelta(milliseconds=ms)
    ),
    st.integers(0, 8 * 86_400 * 1000).map(
        lambda ms: datetime(2026, 10, 22, tzinfo=UTC) + timedelta(milliseconds=ms)
    ),
)


def raw_spans(window: SendWindow, at: datetime, days: int) -> list[Span]:
    """The intervals of the days around `at`, neither merged nor cut."""
    return [
        Span(
            instant(day, one.start, window.tz),
            instant(day + timedelta(days=one.end <= one.start), one.end, window.tz),
        )
        for n in range(-2, days)
        if (day := (at.astimezone(window.tz) + timedelta(days=n)).date())
        for one in window.intervals or ()
        if day.weekday() in one.days
    ]


@given(zones, instants | around_changes, st.lists(intervals, min_size=1, max_size=3), blackouts)
@settings(max_examples=800, deadline=None)
def test_next_opening_is_the_first_open_time(
    tz: ZoneInfo, after: datetime, chosen: list[Interval], closed: Blackouts
) -> None:
    window = SendWindow(tz, tuple(chosen), closed)
    span = opening(window, after)
    assert span.end > after
    assert span.start < span.end
    # Compared with the raw intervals: at no edge of one, nor in its middle, is
    # anything open before; and within, everything is.
    spans = raw_spans(window, after, 24)

    def is_open(at: datetime) -> bool:
        day, _ = local_day(at, tz)
        return closed.cause(day) is None and any(one.start <= at < one.end for one in spans)

    looks = {after, span.start, span.end - TICK}
    looks |= {one.start for one in spans} | {one.end for one in spans}
    looks |= {
        day_span(span.start.astimezone(tz).date() - timedelta(days=n), tz).start for n in range(9)
    }
    for at in looks:
        if after <= at < span.start:
            assert not is_open(at)
        elif span.start <= at < span.end:
            assert is_open(at)
    assert local_day(span.start, tz) == local_day(span.end - TICK, tz), "one day alone"
    assert not is_open(span.end) or local_day(span.end, tz)[1].start == span.end


@given(zones, around_changes, st.none() | st.lists(intervals, max_size=3).map(tuple), blackouts)
@settings(max_examples=500, deadline=None)
def test_opening_knows_what_is_before_and_after_it(
    tz: ZoneInfo, at: datetime, chosen: tuple[Interval, ...] | None, closed: Blackouts
) -> None:
    window = SendWindow(tz, chosen, closed)
    found = window.next_opening(at)
    if found is None:
        assert not chosen, "never open"
        return
    assert found.fresh == (not window.is_open(found.start - TICK))
    assert (found.ends_by == "day_ends") == window.is_open(found.end)
    if found.ends_by not in ("day_ends", "outside_window"):
        assert closed.cause(local_day(found.end, tz)[0]) == found.ends_by
    if not window.is_open(at):
        day, _ = local_day(at, tz)
        assert window.closed_by(at) == (closed.cause(day) or "outside_window")
    assert found.day == local_day(found.start, tz)[0]


def test_window_across_midnight_into_a_blackout_is_cut_at_midnight() -> None:
    night = (Interval(EVERY_DAY, time(22), time(6)),)
    paris = ZoneInfo("Europe/Paris")
    window = SendWindow(paris, night, Blackouts(frozenset({date(2026, 11, 21)})))
    evening = opening(window, datetime(2026, 11, 20, 20, tzinfo=UTC))
    assert evening == Span(
        datetime(2026, 11, 20, 21, tzinfo=UTC), datetime(2026, 11, 20, 23, tzinfo=UTC)
    )
    # The blacked-out evening does not open; the morning after belongs to the next date.
    assert opening(window, evening.end) == Span(
        datetime(2026, 11, 21, 23, tzinfo=UTC), datetime(2026, 11, 22, 5, tzinfo=UTC)
    )


def test_always_open_window_is_closed_on_a_blackout_alone() -> None:
    window = SendWindow(
        ZoneInfo("UTC"), None, Blackouts(frozenset(), frozenset({date(2026, 3, 1)}))
    )
    assert not window.is_open(datetime(2026, 3, 1, tzinfo=UTC))
    assert window.is_open(datetime(2026, 2, 28, 23, 59, tzinfo=UTC))
    assert window.is_open(datetime(2026, 3, 2, tzinfo=UTC))
    assert window.closed_by(datetime(2026, 3, 1, 23, tzinfo=UTC)) == "holiday"


def test_blackout_longer_than_the_horizon_is_looked_past() -> None:
    closed = frozenset(date(2026, 1, 1) + timedelta(days=n) for n in range(365))
    window = SendWindow(
        ZoneInfo("UTC"), (Interval(EVERY_DAY, time(9), time(10)),), Blackouts(closed)
    )
    span = opening(window, datetime(2026, 1, 1, tzinfo=UTC))
    assert span.start == datetime(2027, 1, 1, 9, tzinfo=UTC)


@given(zones, instants)
@settings(max_examples=1500)
@example(ZoneInfo("America/St_Johns"), datetime(2008, 11, 2, 2, 45, tzinfo=UTC))
@example(ZoneInfo("Pacific/Apia"), datetime(2011, 12, 30, 10, 30, tzinfo=UTC))
def test_local_day_is_around_the_instant_and_has_23_to_25_hours(tz: ZoneInfo, at: datetime) -> None:
    date_, day = local_day(at, tz)
    assert day.start <= at < day.end
    assert day == day_span(date_, tz)
    # Zones that crossed the date line have had one longer or shorter day.
    assert timedelta(0) < day.end - day.start <= timedelta(hours=49)
    assert local_day(day.start, tz) == (date_, day)
    assert local_day(day.end, tz)[1].start == day.end


def test_days_of_a_dst_change_have_23_and_25_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    spring = day_span(date(2026, 3, 29), berlin)
    autumn = day_span(date(2026, 10, 25), berlin)
    assert spring.end - spring.start == timedelta(hours=23)
    assert autumn.end - autumn.start == timedelta(hours=25)


def test_every_zone_rolls_over_at_its_own_midnight() -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    for name in ZONES:
        tz = ZoneInfo(name)
        local = local_day(noon, tz)[1].end.astimezone(tz)
        assert (local.hour, local.minute) == (0, 0), name
