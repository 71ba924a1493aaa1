"""Windows and days, in every IANA zone."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import example, given, settings
from hypothesis import strategies as st

from paceline_scheduler.domain.window import Interval, SendWindow, Span, instant, local_day

ZONES = sorted(available_timezones())
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVERY_DAY = frozenset(range(7))

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
    span = window.next_span(datetime(2026, 3, 29, 0, tzinfo=UTC))
    assert span == Span(datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 29, 2, tzinfo=UTC))


def test_window_inside_the_skipped_hour_does_not_open() -> None:
    window = SendWindow(ZoneInfo("Europe/Berlin"), (Interval(EVERY_DAY, time(2, 10), time(2, 50)),))
    span = window.next_span(datetime(2026, 3, 28, 23, tzinfo=UTC))
    assert span is not None
    assert span.start == datetime(2026, 3, 30, 0, 10, tzinfo=UTC)


def test_closing_in_the_repeated_hour_is_its_first_pass() -> None:
    window = SendWindow(ZoneInfo("Europe/Berlin"), (Interval(EVERY_DAY, time(1), time(2, 30)),))
    span = window.next_span(datetime(2026, 10, 24, 20, tzinfo=UTC))
    assert span == Span(
        datetime(2026, 10, 24, 23, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    )
    following = window.next_span(span.end)
    assert following is not None
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
    assert window.next_span(datetime(2026, 11, 20, 12, tzinfo=UTC)) == Span(
        datetime(2026, 11, 20, 13, tzinfo=UTC), datetime(2026, 11, 20, 17, tzinfo=UTC)
    )


def test_weekend_is_skipped() -> None:
    window = SendWindow(
        ZoneInfo("America/Denver"), (Interval(frozenset(range(5)), time(9), time(17)),)
    )
    friday_evening = datetime(2026, 11, 21, 1, tzinfo=UTC)
    span = window.next_span(friday_evening)
    assert span is not None
    assert span.start == datetime(2026, 11, 23, 16, tzinfo=UTC)


@given(zones, instants, st.lists(intervals, min_size=1, max_size=3))
@settings(max_examples=800, deadline=None)
def test_next_span_is_the_first_open_time(
    tz: ZoneInfo, after: datetime, chosen: list[Interval]
) -> None:
    window = SendWindow(tz, tuple(chosen))
    span = window.next_span(after)
    assert span is not None
    assert span.end > after
    assert span.start < span.end
    # Nothing is open between `after` and the start: compared with the raw intervals.
    opens = [
        Span(
            instant(day, one.start, tz),
            instant(day + timedelta(days=one.end <= one.start), one.end, tz),
        )
        for n in range(-2, 12)
        if (day := (after.astimezone(tz) + timedelta(days=n)).date())
        for one in chosen
        if day.weekday() in one.days
    ]
    if span.start > after:
        assert any(one.start == span.start for one in opens)
        for one in opens:
            assert one.start >= one.end or one.end <= after or one.start >= span.start
    else:
        assert any(one.start <= after < one.end for one in opens)


@given(zones, instants)
@settings(max_examples=1500)
@example(ZoneInfo("America/St_Johns"), datetime(2008, 11, 2, 2, 45, tzinfo=UTC))
@example(ZoneInfo("Pacific/Apia"), datetime(2011, 12, 30, 10, 30, tzinfo=UTC))
def test_local_day_is_around_the_instant_and_has_23_to_25_hours(tz: ZoneInfo, at: datetime) -> None:
    day = local_day(at, tz)
    assert day.start <= at < day.end
    # Zones that crossed the date line have had one longer or shorter day.
    assert timedelta(0) < day.end - day.start <= timedelta(hours=49)
    assert local_day(day.start, tz) == day
    assert local_day(day.end, tz).start == day.end


def test_days_of_a_dst_change_have_23_and_25_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    spring = local_day(datetime(2026, 3, 29, 12, tzinfo=UTC), berlin)
    autumn = local_day(datetime(2026, 10, 25, 12, tzinfo=UTC), berlin)
    assert spring.end - spring.start == timedelta(hours=23)
    assert autumn.end - autumn.start == timedelta(hours=25)


def test_every_zone_rolls_over_at_its_own_midnight() -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    for name in ZONES:
        tz = ZoneInfo(name)
        local = local_day(noon, tz).end.astimezone(tz)
        assert (local.hour, local.minute) == (0, 0), name
