"""The chain: what its digests cover, and where a change shows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_audit.domain.record import GENESIS, Break, Chain, Record, canonical, digest, statement

AT = datetime(2026, 11, 20, 9, 0, 0, 123456, tzinfo=UTC)


def record(seq: int = 1, **changes: Any) -> Record:
    plain = Record(
        workspace_id=5, seq=seq, event_id=f"e{seq}", source="/paceline/gateway", at=AT,
        action="mailbox.connected", actor="key_1", subject="mbx_1", source_ip="192.0.2.1",
        before_digest=None, after_digest="ab", detail={"b": "2", "a": "ü"},
    )  # fmt: skip
    return replace(plain, **changes)


def chain_of(count: int) -> list[tuple[Record, bytes]]:
    links: list[tuple[Record, bytes]] = []
    previous = GENESIS
    for seq in range(1, count + 1):
        one = record(seq)
        previous = digest(previous, one)
        links.append((one, previous))
    return links


def first_break(links: list[tuple[Record, bytes]]) -> Break | None:
    chain = Chain(5)
    return next(filter(None, (chain.follow(*link) for link in links)), None)


def test_the_canonical_form_is_fixed() -> None:
    assert canonical(record()) == (
        b'{"action":"mailbox.connected","actor":"key_1","after_digest":"ab",'
        b'"at":"2026-11-20T09:00:00.123456+00:00","before_digest":null,'
        b'"detail":{"a":"\\u00fc","b":"2"},"event_id":"e1","seq":1,"source":"/paceline/gateway",'
        b'"source_ip":"192.0.2.1","subject":"mbx_1","v":1,"workspace_id":5}'
    )


def test_one_instant_in_two_zones_is_one_record() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert canonical(record(at=elsewhere)) == canonical(record())


def test_an_untouched_chain_holds() -> None:
    assert first_break(chain_of(5)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"workspace_id": 6}, {"event_id": "x"}, {"source": "x"},
        {"at": AT + timedelta(microseconds=1)}, {"action": "x"}, {"actor": "x"},
        {"subject": "x"}, {"source_ip": None}, {"before_digest": "x"}, {"after_digest": None},
        {"detail": {}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_change_of_any_column_shows_at_its_row(change: dict[str, Any]) -> None:
    links = chain_of(4)
    links[1] = (replace(links[1][0], **change), links[1][1])

    assert first_break(links) == Break(5, 2, "altered")


def test_a_recomputed_digest_shows_at_the_next_row() -> None:
    links = chain_of(4)
    forged = replace(links[1][0], actor="x")
    links[1] = (forged, digest(links[0][1], forged))

    assert first_break(links) == Break(5, 3, "altered")


def test_a_removed_row_shows_where_it_was() -> None:
    links = chain_of(4)
    del links[2]

    assert first_break(links) == Break(5, 3, "missing")


def test_swapped_rows_show() -> None:
    links = chain_of(4)
    links[1], links[2] = links[2], links[1]

    assert first_break(links) == Break(5, 2, "missing")


def test_a_checkpoint_says_which_head_of_which_chain_and_when() -> None:
    said = {
        statement(5, 3, b"d" * 32, AT),
        statement(6, 3, b"d" * 32, AT),
        statement(5, 4, b"d" * 32, AT),
        statement(5, 3, b"e" * 32, AT),
        statement(5, 3, b"d" * 32, AT + timedelta(seconds=1)),
    }

    assert len(said) == 5


@given(
    st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=4), st.text(max_size=50)
)
def test_different_records_have_different_digests(detail: dict[str, str], actor: str) -> None:
    one = record(detail=detail, actor=actor)

    assert digest(GENESIS, one) == digest(GENESIS, record(detail=dict(detail), actor=actor))
    if (detail, actor) != (record().detail, record().actor):
        assert digest(GENESIS, one) != digest(GENESIS, record())
