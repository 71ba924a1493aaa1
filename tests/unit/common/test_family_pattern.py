"""Which topics a family's subscription takes."""

import re

import pytest

from paceline_common import topics

PATTERN = re.compile(topics.family_pattern(topics.LEAD_ENROLLED_BY_PUBLISHER))


@pytest.mark.parametrize("publisher", ["crm", "a-b_c", "eu.crm", "dlq2", "x.dlqs"])
def test_publishers_are_taken(publisher: str) -> None:
    assert PATTERN.match(topics.publisher_topic(publisher))


@pytest.mark.parametrize(
    "name",
    [
        topics.LEAD_ENROLLED.name,
        topics.LEAD_ENROLLED.dead_letter,
        topics.LEAD_ENROLLED_BY_PUBLISHER.dead_letter,
        "lead-enrolled.crm.dlq",
        "lead-enrolled.",
        "lead-enrolledx",
        "x.lead-enrolled.crm",
    ],
)
def test_dead_letters_and_others_are_not(name: str) -> None:
    assert not PATTERN.match(name)


def test_the_family_and_its_root_share_one_dead_letter_topic() -> None:
    assert topics.LEAD_ENROLLED_BY_PUBLISHER.dead_letter == topics.LEAD_ENROLLED.dead_letter
