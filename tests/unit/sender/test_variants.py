"""What a job draws: always the same, and over many jobs what the weights say."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline_common import ids
from paceline_sender.domain.variants import Draw, Variant

WORKSPACE = ids.encode("ws", 7)


def variant(name: str, weight: int = 1) -> Variant:
    return Variant(name, weight, None, "text", None)


def draw(job: int, step: int = 1) -> Draw:
    return Draw(WORKSPACE, ids.encode("job", job), step)


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (5, 3, 2), (99, 1), (0, 1, 1)])
def test_weights_are_kept_over_many_jobs(weights: tuple[int, ...]) -> None:
    jobs = 20_000
    variants = [variant(str(n), weight) for n, weight in enumerate(weights)]
    drawn = Counter(one.name for job in range(jobs) if (one := draw(job).variant(variants)))
    for n, weight in enumerate(weights):
        share = weight / sum(weights)
        # Six standard deviations of a binomial.
        slack = 6 * (jobs * share * (1 - share)) ** 0.5
        assert abs(drawn[str(n)] - jobs * share) <= slack
        if not weight:
            assert drawn[str(n)] == 0


@pytest.mark.parametrize("ways", [2, 3, 7])
def test_ways_of_a_group_are_spread_over_jobs(ways: int) -> None:
    jobs = 20_000
    taken = Counter(draw(job).ways("body")(4, ways)[0] for job in range(jobs))
    slack = 6 * (jobs / ways * (1 - 1 / ways)) ** 0.5
    assert all(abs(taken[way] - jobs / ways) <= slack for way in range(ways))


@settings(deadline=None)
@given(st.integers(0, 2**62), st.integers(1, 50), st.integers(0, 100), st.integers(1, 20))
def test_a_job_draws_the_same_each_time(job: int, step: int, group: int, ways: int) -> None:
    once, again = draw(job, step), draw(job, step)
    variants = [variant("a"), variant("b"), variant("c", 5)]
    assert once.variant(variants) == again.variant(variants)
    assert once.ways("body")(group, ways) == again.ways("body")(group, ways)
    assert 0 <= once.ways("subject")(group, ways)[0] < ways


def test_groups_parts_steps_and_jobs_draw_apart() -> None:
    jobs = range(500)
    first = [draw(job).ways("body")(0, 2) for job in jobs]
    for other in (
        [draw(job).ways("body")(1, 2) for job in jobs],
        [draw(job).ways("subject")(0, 2) for job in jobs],
        [draw(job, step=2).ways("body")(0, 2) for job in jobs],
        [draw(job + 500).ways("body")(0, 2) for job in jobs],
    ):
        alike = sum(one == another for one, another in zip(first, other, strict=True))
        assert 180 <= alike <= 320


def test_what_an_earlier_try_drew_stays_while_it_exists() -> None:
    assert draw(1).variant([variant("a", 0), variant("b", 9)], kept="a") == variant("a", 0)
    assert draw(1).variant([variant("b")], kept="a") == variant("b")


def test_without_variants_there_is_none_to_draw() -> None:
    assert draw(1).variant([]) is None


def test_a_known_job_draws_what_it_always_drew() -> None:
    # The draw is a promise to messages that are under way: it may never change.
    assert [draw(job).ways("body")(0, 10)[0] for job in range(12)] == KNOWN


KNOWN = [5, 4, 9, 1, 6, 5, 0, 6, 6, 8, 0, 1]
