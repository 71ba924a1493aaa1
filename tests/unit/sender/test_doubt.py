"""When to look for proof: early looks, then hourly, then daily, each a fifth more or less."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_sender.domain.doubt import next_look

SINCE = datetime(2026, 11, 20, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("looks", "age_min", "wait_min"),
    [(1, 1, 4), (2, 5, 10), (3, 15, 60), (9, 600, 60), (40, 1439, 60), (41, 1440, 1440),
     (99, 90_000, 1440)],
)  # fmt: skip
def test_looks_become_rarer(looks: int, age_min: int, wait_min: int) -> None:
    now = SINCE + age_min * MINUTE
    for seed in range(50):
        at = next_look(SINCE, looks, now, MINUTE, random.Random(seed))
        assert 0.8 * wait_min <= (at - now) / MINUTE <= 1.2 * wait_min


def test_looks_missed_in_an_outage_are_not_made_up_for_all_at_once() -> None:
    now = SINCE + timedelta(hours=3)
    at = next_look(SINCE, 1, now, MINUTE, random.Random(1))
    assert at - now >= 0.8 * MINUTE


@given(
    looks=st.integers(0, 60),
    age_s=st.floats(0, 1e6),
    destroy_s=st.floats(-1e6, 1e6),
    wish_s=st.none() | st.floats(-1e6, 1e6),
    seed=st.integers(0, 9),
)
def test_a_look_is_to_come_not_later_than_the_draft_may_go_and_not_before_a_wish(
    looks: int, age_s: float, destroy_s: float, wish_s: float | None, seed: int
) -> None:
    now = SINCE + timedelta(seconds=age_s)
    destroy_from = now + timedelta(seconds=destroy_s)
    wish = None if wish_s is None else now + timedelta(seconds=wish_s)
    at = next_look(
        SINCE, looks, now, MINUTE, random.Random(seed), destroy_from=destroy_from, not_before=wish
    )
    assert at > now
    if wish is not None:
        assert at >= wish
    if now < destroy_from and (wish is None or wish <= destroy_from):
        assert at <= destroy_from
