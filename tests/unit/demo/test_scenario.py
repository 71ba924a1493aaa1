"""The demo's cast is what the issue names, and the same each time."""

import csv
import io
import json
from collections import Counter

from paceline_demo import scenario as cast
from paceline_demo.scenario import Kind


def test_same_each_time() -> None:
    assert cast.build() == cast.build()


def test_csv_has_a_hundred_rows_with_the_named_faults() -> None:
    scenario = cast.build()
    rows = list(csv.DictReader(io.StringIO(scenario.csv.decode("utf-8-sig")), delimiter=";"))
    assert len(rows) == 100
    assert len(scenario.bad_rows) == 5
    assert len(scenario.duplicate_rows) == 3
    for lead in scenario.imported:
        assert lead.row is not None
        assert rows[lead.row - 1]["E-mail"] == lead.email
    counts = Counter(row["E-mail"].strip().lower() for row in rows)
    for number in scenario.duplicate_rows:
        assert counts[rows[number - 1]["E-mail"].strip().lower()] == 2


def test_everybody_is_somebody_else() -> None:
    scenario = cast.build()
    emails = [lead.email for lead in scenario.expected]
    assert len(emails) == len(set(emails)) == 109
    assert not scenario.untouchable & set(emails)
    assert {lead.kind for lead in scenario.expected} == set(Kind) - {Kind.SUPPRESSED}


def test_publisher_says_twenty_things() -> None:
    scenario = cast.build()
    events = cast.events(scenario, "ws_1", "cmp_1", ("ws_2", "cmp_2"))
    assert len(events) == 20
    assert Counter(workspace for workspace, _ in events) == {"ws_1": 19, "ws_2": 1}
    broken = 0
    for _, body in events:
        try:
            json.loads(body)
        except ValueError:
            broken += 1
    assert broken == 1
    mended = cast.enrollment(scenario.repaired, "ws_1", "cmp_1")
    assert sum(mended["first_name"].encode() in b and b" at " in b for _, b in events) == 1
