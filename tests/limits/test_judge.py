"""The judge itself: it must see each kind of breach, and nothing in what is right."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.limits.judge import Begun, Box, breaches, next_change

NOON = datetime(2027, 3, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def begun(*after_s: float) -> list[Begun]:
    """Return submissions so many seconds after noon."""
    return [Begun(NOON + timedelta(seconds=one), NOON + timedelta(seconds=one)) for one in after_s]


@pytest.mark.parametrize(
    ("box", "sent", "found"),
    [
        (Box(), begun(0, 1.5, 3.0), []),
        (Box(), begun(0, 1.499), ["1.499 s after the last at 27.03. 12:00:01.499"]),
        (Box(node=True), begun(0, 0.1), []),
        (Box(daily_cap=2), begun(0, 2, 43_200), []),
        (Box(daily_cap=2), begun(0, 2, 43_199), ["3 in 2027-03-27, not 2"]),
        # The same instants, where midnight is an hour sooner.
        (Box(daily_cap=2, zone="Europe/Paris"), begun(0, 2, 43_199), []),
        (Box(hourly_cap=1), begun(0, 3600), []),
        (Box(hourly_cap=1), begun(0, 3599), ["2 in 2027-03-27 12:00:00+00:00, not 1"]),
        (Box(ceiling=1), begun(0, 86_400), []),
        (Box(ceiling=1), begun(0, 86_399), ["2 within 24 h at 28.03. 11:59:59.000, not 1"]),
        (Box(open=[(NOON, NOON + MINUTE)]), begun(0, 59), []),
        (
            Box(open=[(NOON, NOON + MINUTE)]), begun(-1, 60),
            [f"outside its window at 27.03. {at}.000" for at in ("11:59:59", "12:01:00")],
        ),
    ],
)  # fmt: skip
def test_the_judge_sees_each_breach_and_nothing_else(
    box: Box, sent: Sequence[Begun], found: list[str]
) -> None:
    assert list(breaches(box, sent)) == found


def test_a_slot_counts_to_its_end() -> None:
    slots = [Begun(NOON, NOON + MINUTE), Begun(NOON + MINUTE, NOON + 2 * MINUTE)]
    assert list(breaches(Box(), slots)) == ["0.000 s after the last at 27.03. 12:01:00.000"]


def test_the_next_changes_of_both_hemispheres() -> None:
    spring = next_change("Europe/Paris", NOON, forward=True)
    assert spring == datetime(2027, 3, 28, 1, tzinfo=UTC)
    back = datetime(2027, 4, 3, 16, tzinfo=UTC)
    assert next_change("Australia/Sydney", spring, forward=False) == back
