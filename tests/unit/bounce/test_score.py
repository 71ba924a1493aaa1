"""The score: what each fault costs, and what is not known."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_bounce.domain.score import (
    Penalty,
    Placements,
    Posture,
    Prior,
    ScoreRules,
    Volumes,
    score,
)

RULES = ScoreRules()
counts = st.integers(0, 5_000)
volumes = st.builds(Volumes, sends=counts, hard=counts, blocked=counts, complaints=counts)
placements = st.none() | counts.flatmap(
    lambda seen: st.builds(Placements, seen=st.just(seen), spam=st.integers(0, seen))
)
postures = st.none() | st.builds(
    Posture, missing_records=st.none() | st.integers(0, 3), listed=st.none() | st.booleans()
)


def test_twenty_clean_sends_score_about_85() -> None:
    assert score(Volumes(sends=20), RULES) == 85


def test_many_clean_sends_come_near_100_and_never_start_there() -> None:
    assert score(Volumes(sends=5_000), RULES) == 100
    assert score(Volumes(sends=100), RULES) == 91


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Volumes(sends=1_000, hard=50), 53),
        (Volumes(sends=1_000, hard=500), 49),
        (Volumes(sends=1_000, blocked=50), 71),
        (Volumes(sends=1_000, blocked=900), 69),
        (Volumes(sends=1_000, complaints=1), 80),
        (Volumes(sends=1_000, complaints=500), 39),
        (Volumes(sends=1_000, hard=900, blocked=900, complaints=900), 0),
    ],
)
def test_what_faults_cost(seen: Volumes, expected: int) -> None:
    assert score(seen, RULES) == expected


def test_unknown_until_20_sends_or_10_placements_and_never_0_or_100_before() -> None:
    assert score(Volumes(), RULES) is None
    assert score(Volumes(sends=19, hard=19, complaints=19), RULES) is None
    assert score(Volumes(sends=19), RULES, Placements(seen=9, spam=0)) is None
    assert score(Volumes(sends=20), RULES, Placements(seen=0, spam=0)) == 85
    assert score(Volumes(), RULES, Placements(seen=10, spam=0)) == 82


def test_spam_placement_costs_40_from_half_of_it_on_and_counts_from_ten() -> None:
    clean = Volumes(sends=20)

    assert score(clean, RULES, Placements(seen=9, spam=9)) == 85
    assert score(clean, RULES, Placements(seen=20, spam=5)) == 65
    assert score(clean, RULES, Placements(seen=20, spam=10)) == 45
    assert score(clean, RULES, Placements(seen=20, spam=20)) == 45


def test_what_dns_is_not_known_to_lack_costs_nothing() -> None:
    clean = Volumes(sends=20)

    assert score(clean, RULES, posture=Posture()) == 85
    assert score(clean, RULES, posture=Posture(missing_records=2)) == 65
    assert score(clean, RULES, posture=Posture(missing_records=0, listed=True)) == 55
    assert score(clean, RULES, posture=Posture(missing_records=3, listed=True)) == 25


@given(volumes, placements, postures)
def test_a_score_is_unknown_or_within_0_and_100(
    seen: Volumes, placed: Placements | None, posture: Posture | None
) -> None:
    got = score(seen, RULES, placed, posture)

    assert got is None or 0 <= got <= 100
    assert (got is None) == (seen.sends < 20 and (placed is None or placed.seen < 10))


@given(volumes, st.sampled_from(["hard", "blocked", "complaints"]), st.integers(1, 1_000))
def test_more_faults_never_score_higher(seen: Volumes, fault: str, more: int) -> None:
    worse = replace(seen, **{fault: getattr(seen, fault) + more})

    before, after = score(seen, RULES), score(worse, RULES)

    assert (before is None) == (after is None)
    assert before is None or (after is not None and after <= before)


@given(volumes.filter(lambda seen: seen.sends >= 20), st.integers(1, 1_000))
def test_more_clean_sends_never_score_lower(seen: Volumes, more: int) -> None:
    before = score(seen, RULES)
    after = score(replace(seen, sends=seen.sends + more), RULES)

    assert before is not None
    assert after is not None
    assert after >= before


@given(
    volumes.filter(lambda seen: seen.sends >= 20),
    st.integers(10, 1_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.integers(0, 2),
)
def test_more_spam_fewer_records_or_a_listing_never_score_higher(
    seen: Volumes, placed: tuple[int, int], missing: int
) -> None:
    def at(spam: int, missing: int, listed: bool) -> int:
        got = score(seen, RULES, Placements(seen=placed[0], spam=spam), Posture(
            missing_records=missing, listed=listed
        ))  # fmt: skip
        assert got is not None
        return got

    start = at(placed[1], missing, False)
    assert at(placed[1] + 1, missing, False) <= start
    assert at(placed[1], missing + 1, False) <= start
    assert at(placed[1], missing, True) <= start


@given(counts, counts)
def test_a_rate_is_a_share_whatever_left_the_window(events: int, sends: int) -> None:
    assert 0 < Prior(events=0.5, others=99.5).rate(events, sends) < 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Penalty(most=-1, at=0.5),
        lambda: Penalty(most=1, at=0),
        lambda: Prior(events=0, others=1),
        lambda: ScoreRules(window_days=0),
        lambda: ScoreRules(known_sends=0),
        lambda: ScoreRules(listed=-1),
        lambda: Volumes(sends=-1),
    ],
)
def test_numbers_that_mean_nothing_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError):
        wrong()
