"""The subscribe wrapper on a real broker and a real Postgres."""

import asyncio
import dataclasses
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.integration.common.conftest import (
    WS,
    Parts,
    body,
    consuming,
    new_topic,
    produce,
    record,
)
from tests.waiting import until

from paceline_common import events, ids
from paceline_common.db import Database
from paceline_common.kafka.subscribe import Delivery, EventFault, Subscription
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic

COUNT = text(
    "INSERT INTO scratch.effect (workspace_id, job_id, n)"
    " SELECT w, j, count(*) FROM unnest(CAST(:workspaces AS bigint[]), CAST(:jobs AS text[]))"
    " AS e(w, j) GROUP BY w, j"
    " ON CONFLICT (workspace_id, job_id) DO UPDATE SET n = effect.n + EXCLUDED.n"
)


async def count(tx: AsyncConnection, deliveries: Sequence[Delivery[events.SendInDoubt]]) -> None:
    """The effect: not idempotent by itself, so that a second time shows."""
    await tx.execute(
        COUNT,
        {
            "workspaces": [one.workspace_id for one in deliveries],
            "jobs": [one.body.job_id for one in deliveries],
        },
    )


async def count_but_poison(
    tx: AsyncConnection, deliveries: Sequence[Delivery[events.SendInDoubt]]
) -> None:
    await count(tx, deliveries)
    for one in deliveries:
        if one.body.job_id.startswith("job-poison"):
            raise EventFault("unknown_job", "there is no such job")


def subscription(
    topic: Topic, handler: object = count, **more: object
) -> Subscription[events.Event]:
    return Subscription(
        topic=topic,
        handler=handler,  # type: ignore[arg-type]
        body=events.SendInDoubt,
        **more,  # type: ignore[arg-type]
    )


def effects(parts: Parts) -> dict[str, int]:
    return dict(parts.admin_sql("SELECT job_id, n FROM scratch.effect"))


def quarantined(parts: Parts, columns: str = "event_id, reason_code") -> list[tuple[object, ...]]:
    return parts.admin_sql(f"SELECT {columns} FROM scratch.quarantine ORDER BY offset_")


async def test_each_event_has_its_effect_once_and_offsets_follow(
    clean: Parts, db: Database, topic: Topic
) -> None:
    await produce(clean, topic.name, [record(topic, job) for job in range(100)])
    # Events published twice, by a relay that died: other records, the same ids.
    await produce(clean, topic.name, [record(topic, job) for job in range(100)])
    async with consuming(clean.settings, db, subscription(topic)):
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == 200, "all committed"
        )
    assert effects(clean) == {f"job-{job}": 1 for job in range(100)}
    assert not quarantined(clean)


async def test_without_dedupe_the_handler_sees_every_record(
    clean: Parts, db: Database, topic: Topic
) -> None:
    await produce(clean, topic.name, [record(topic, 1), record(topic, 1)])
    async with consuming(clean.settings, db, subscription(topic, dedupe=False)):
        await until(lambda: effects(clean) == {"job-1": 2}, "both seen")
    assert clean.admin_sql("SELECT count(*) FROM scratch.inbox") == [(0,)]


async def test_an_event_id_with_another_body_is_quarantined_not_dropped(
    clean: Parts, db: Database, topic: Topic
) -> None:
    forged = record(topic, 2, ce_id=b"id-1")
    await produce(clean, topic.name, [record(topic, 1)])
    async with consuming(clean.settings, db, subscription(topic)):
        await until(lambda: effects(clean) == {"job-1": 1}, "the first applied")
        # Against the inbox, and within one batch.
        await produce(
            clean, topic.name, [forged, record(topic, 3), record(topic, 4, ce_id=b"id-3")]
        )
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == 4, "all committed"
        )
    assert effects(clean) == {"job-1": 1, "job-3": 1}
    assert quarantined(clean) == [("id-1", "digest_mismatch"), ("id-3", "digest_mismatch")]


async def test_a_poison_record_is_tried_thrice_and_put_away_alone(
    clean: Parts, db: Database, topic: Topic
) -> None:
    records = [record(topic, job) for job in range(200)]
    records.insert(77, record(topic, "poison"))
    await produce(clean, topic.name, records)
    tries: list[int] = []

    async def handler(tx: AsyncConnection, deliveries: Sequence[Delivery[events.Event]]) -> None:
        if [one.event_id for one in deliveries] == ["id-poison"]:
            tries.append(1)
        await count_but_poison(tx, deliveries)  # type: ignore[arg-type]

    metrics = Metrics()
    async with consuming(clean.settings, db, subscription(topic, handler), metrics):
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == 201, "all committed"
        )
    assert effects(clean) == {f"job-{job}": 1 for job in range(200)}
    assert len(tries) == 3
    columns = (
        "workspace_id, topic, partition, offset_, event_id, source, attempts, reason_code, reason,"
        " settled_at"
    )
    why = ("unknown_job", "there is no such job", None)
    assert quarantined(clean, columns) == [(WS, topic.name, 0, 77, "id-poison", "tests", 3, *why)]
    assert (
        metrics.registry.get_sample_value(
            "paceline_quarantined_total", {"topic": topic.name, "reason_code": "unknown_job"}
        )
        == 1
    )
    # Its inbox row keeps a second copy from being tried, and quarantined, again.
    await produce(clean, topic.name, [record(topic, "poison")])
    async with consuming(clean.settings, db, subscription(topic, handler)):
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == 202, "all committed"
        )
    assert len(tries) == 3
    assert len(quarantined(clean)) == 1


async def test_a_dead_letter_waits_in_the_outbox_as_it_came(
    clean: Parts, db: Database, topic: Topic
) -> None:
    await produce(clean, topic.name, [record(topic, "poison", x=b"\xff\x00")])
    async with consuming(clean.settings, db, subscription(topic, count_but_poison)):
        await until(lambda: len(quarantined(clean)) == 1, "quarantined")
    ((name, key, letter, headers),) = clean.admin_sql(
        "SELECT topic, key, body, headers FROM scratch.outbox"
    )
    assert (name, key) == (topic.dead_letter, "enr-1")
    assert letter == record(topic, "poison")["value"]
    told = dict(headers)
    assert told["ce_id"] == "id-poison"
    assert told["x"] == {"base64": "/wA="}
    assert told["paceline-reason-code"] == "unknown_job"
    assert (told["paceline-topic"], told["paceline-offset"]) == (topic.name, "0")


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x")])
async def test_a_handlers_own_exceptions_count_as_the_events_fault(
    clean: Parts, db: Database, topic: Topic, error: Exception
) -> None:
    async def handler(_tx: AsyncConnection, _deliveries: object) -> None:
        raise error

    await produce(clean, topic.name, [record(topic, 1)])
    async with consuming(clean.settings, db, subscription(topic, handler)):
        await until(lambda: len(quarantined(clean)) == 1, "quarantined")
    ((reason,),) = quarantined(clean, "reason")
    assert reason == f"the handler failed with {type(error).__name__}"


async def test_what_the_database_refuses_is_quarantined_with_the_constraint(
    clean: Parts, db: Database, topic: Topic
) -> None:
    async def handler(tx: AsyncConnection, deliveries: Sequence[Delivery[events.Event]]) -> None:
        insert = text("INSERT INTO scratch.effect VALUES (:w, 'the same', 1)")
        for one in deliveries:
            await tx.execute(insert, {"w": one.workspace_id})

    await produce(clean, topic.name, [record(topic, 1), record(topic, 2)])
    async with consuming(clean.settings, db, subscription(topic, handler)):
        await until(lambda: len(quarantined(clean)) == 1, "quarantined")
    assert quarantined(clean, "event_id, reason_code, reason") == [
        (
            "id-2",
            "refused_by_database",
            "Postgres refused it with SQLSTATE 23505 (effect_pkey)",
        )
    ]


async def test_another_tenants_row_cannot_be_written(
    clean: Parts, db: Database, topic: Topic
) -> None:
    async def handler(tx: AsyncConnection, _deliveries: object) -> None:
        await tx.execute(text("INSERT INTO scratch.effect VALUES (99, 'stolen', 1)"))

    await produce(clean, topic.name, [record(topic, 1)])
    async with consuming(clean.settings, db, subscription(topic, handler)):
        await until(lambda: len(quarantined(clean)) == 1, "quarantined")
    assert effects(clean) == {}


MALFORMED: dict[str, tuple[dict[str, Any], str, str]] = {
    "null header": ({"ce_id": ...}, "malformed_envelope", "header ce_id is null or not UTF-8"),
    "not UTF-8": ({"ce_source": b"\xff"}, "malformed_envelope", "header ce_source is null or not"),
    "NUL": ({"ce_source": b"a\0b"}, "malformed_envelope", "header ce_source is null or not UTF-8"),
    "missing": ({"ce_type": None}, "malformed_envelope", "header ce_type is missing"),
    "version": ({"ce_specversion": b"0.3"}, "malformed_envelope", "ce_specversion is not 1.0"),
    "type": ({"ce_type": b"paceline.sent.v9"}, "malformed_envelope", "header ce_type is not"),
    "media": ({"content_type": b"text/csv"}, "malformed_envelope", "header content-type is not"),
    "time": ({"ce_time": b"yesterday"}, "malformed_envelope", "ce_time is not an RFC 3339"),
    "no zone": ({"ce_time": b"2026-11-20T09:00:00"}, "malformed_envelope", "no offset from UTC"),
    "workspace": ({"ce_workspaceid": b"ws_1"}, "malformed_envelope", "is not a workspace id"),
    "no workspace": ({"ce_workspaceid": None}, "malformed_envelope", "ce_workspaceid is missing"),
    "no key": ({"key": None}, "malformed_envelope", "the record has no key"),
    "not JSON": ({"value": b"{"}, "malformed_body", "truncated"),
    "not UTF-8 body": ({"value": b'{"workspace_id":"\xff"}'}, "malformed_body", "utf-8"),
    "field": (
        {"value": b'{"workspace_id":"ws","job_id":1}'}, "malformed_body", "at `$.job_id`",
    ),
    "other workspace": (
        {"ce_workspaceid": ids.encode("ws", 8).encode()},
        "workspace_mismatch", "workspace_id of the body is not ce_workspaceid",
    ),
}  # fmt: skip


async def test_malformed_records_are_quarantined_readably_among_good_ones(
    clean: Parts, db: Database, topic: Topic
) -> None:
    records = []
    for number, (change, _, _) in enumerate(MALFORMED.values()):
        one = record(topic, f"bad-{number}", **change)
        # aiokafka writes a null header for None, which `record` leaves out.
        one["headers"] = [(name, None if v is ... else v) for name, v in one["headers"]]
        records += [record(topic, f"good-{number}"), one]
    await produce(clean, topic.name, records)
    async with consuming(clean.settings, db, subscription(topic)):
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == len(records),
            "all committed",
        )
    assert effects(clean) == {f"job-good-{number}": 1 for number in range(len(MALFORMED))}
    rows = quarantined(clean, "reason_code, reason, attempts")
    assert len(rows) == len(MALFORMED)
    for (code, reason, attempts), (name, (_, expected, words)) in zip(
        rows, MALFORMED.items(), strict=True
    ):
        assert (code, attempts) == (expected, 1), name
        assert words in str(reason), name


async def test_only_rows_of_a_known_workspace_are_shown_to_it(
    clean: Parts, db: Database, topic: Topic
) -> None:
    await produce(
        clean,
        topic.name,
        [
            record(topic, "poison"),
            record(topic, 2, ce_workspaceid=None),
            record(topic, 3, value=b""),
        ],
    )
    async with consuming(clean.settings, db, subscription(topic, count_but_poison)):
        await until(lambda: len(quarantined(clean)) == 3, "quarantined")
    assert quarantined(clean, "workspace_id") == [(WS,), (None,), (WS,)]
    async with db.transaction([WS]) as tx:
        seen = (await tx.execute(text("SELECT event_id FROM scratch.v_quarantine"))).scalars()
        assert sorted(seen) == ["id-3", "id-poison"]
    async with db.transaction([8]) as tx:
        assert not (await tx.execute(text("SELECT 1 FROM scratch.v_quarantine"))).all()
    async with db.transaction() as tx:
        everything = await tx.execute(text("SELECT count(*) FROM scratch.v_quarantine_all"))
        assert everything.scalar_one() == 3


async def test_a_fault_that_is_the_installations_is_not_shown_to_the_workspace(
    clean: Parts, db: Database, topic: Topic
) -> None:
    async def handler(_tx: AsyncConnection, _deliveries: object) -> None:
        raise EventFault("publisher_not_allowed", "may not enroll here", installation=True)

    await produce(clean, topic.name, [record(topic, 1)])
    async with consuming(clean.settings, db, subscription(topic, handler)):
        await until(lambda: len(quarantined(clean)) == 1, "quarantined")
    assert quarantined(clean, "workspace_id, reason_code") == [(None, "publisher_not_allowed")]


async def test_past_the_limit_it_halts_and_passes_nothing(
    clean: Parts, db: Database, topic: Topic
) -> None:
    settings = clean.settings.model_copy(update={"quarantine_limit": 3, "event_attempts": 1})
    records = [record(topic, f"poison-{number}") for number in range(10)]
    await produce(clean, topic.name, [record(topic, "first"), *records, record(topic, "last")])
    metrics = Metrics()
    made = subscription(topic, count_but_poison, max_records=1)
    async with consuming(settings, db, made, metrics) as subscriber:
        await until(lambda: subscriber.state == "halted", "halted")
        # Others may have its partitions, at once: sooner than its session would end.
        await until(lambda: clean.members(f"scratch.{topic.name}") == 0, "it has left", within_s=6)
    assert len(quarantined(clean)) == 3
    assert effects(clean) == {"job-first": 1}
    assert clean.committed(f"scratch.{topic.name}", topic.name) == 4
    assert (
        metrics.registry.get_sample_value("paceline_subscription_halted", {"topic": topic.name})
        == 1
    )
    # The next version of the service can handle them: none was lost.
    async with consuming(settings, db, subscription(topic, count)):
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == 12, "all committed"
        )
    assert len(effects(clean)) == 9


async def test_a_halted_member_leaves_its_group(clean: Parts, db: Database, topic: Topic) -> None:
    settings = clean.settings.model_copy(update={"quarantine_limit": 1, "event_attempts": 1})
    await produce(clean, topic.name, [record(topic, "poison-1"), record(topic, "poison-2")])
    async with consuming(settings, db, subscription(topic, count_but_poison)) as halted:
        await until(lambda: halted.state == "halted", "halted")
        async with consuming(clean.settings, db, subscription(topic, count)):
            await until(
                lambda: effects(clean) == {"job-poison-2": 1}, "the other goes on", within_s=20
            )


async def test_a_stop_that_cannot_be_handled_suspends_in_the_same_transaction(
    clean: Parts, db: Database, topic: Topic
) -> None:
    stopped: list[tuple[str, bool]] = []

    async def suspend(tx: AsyncConnection, delivery: Delivery[events.Event | None]) -> None:
        stopped.append((delivery.key, delivery.body is None))
        await tx.execute(
            text("INSERT INTO scratch.effect VALUES (:w, :k, 1)"),
            {"w": delivery.workspace_id, "k": f"suspended {delivery.event_id}"},
        )

    await produce(clean, topic.name, [record(topic, "poison"), record(topic, 2, value=b"{}")])
    made = subscription(topic, count_but_poison, on_quarantine=suspend)
    async with consuming(clean.settings, db, made):
        await until(lambda: len(quarantined(clean)) == 2, "quarantined")
    assert stopped == [("enr-1", False), ("enr-1", True)]
    assert effects(clean) == {"suspended id-poison": 1, "suspended id-2": 1}


async def test_a_stop_of_nothing_known_is_quarantined_all_the_same(
    clean: Parts, db: Database, topic: Topic
) -> None:
    async def suspend(tx: AsyncConnection, delivery: Delivery[events.Event | None]) -> None:
        await tx.execute(text("INSERT INTO scratch.effect VALUES (:w, 'half', 1)"), {"w": WS})
        ids.decode("enr", delivery.key)

    await produce(clean, topic.name, [record(topic, "poison")])
    made = subscription(topic, count_but_poison, on_quarantine=suspend)
    async with consuming(clean.settings, db, made):
        await until(lambda: len(quarantined(clean)) == 1, "quarantined")
    assert effects(clean) == {}


async def test_a_stop_that_cannot_be_kept_halts(clean: Parts, db: Database, topic: Topic) -> None:
    async def suspend(_tx: AsyncConnection, _delivery: object) -> None:
        raise RuntimeError("a bug")

    await produce(clean, topic.name, [record(topic, "poison"), record(topic, 2)])
    made = subscription(topic, count_but_poison, on_quarantine=suspend, max_records=1)
    async with consuming(clean.settings, db, made) as subscriber:
        await until(lambda: subscriber.state == "halted", "halted")
    assert not quarantined(clean)
    assert clean.committed(f"scratch.{topic.name}", topic.name) < 1
    assert effects(clean) == {}


async def test_audit_events_may_be_about_the_installation(clean: Parts, db: Database) -> None:
    from paceline_common import topics

    clean.create_topic(topics.AUDIT_RECORDED) if not _exists(clean, "audit-recorded") else None
    seen: list[int] = []

    async def handler(_tx: AsyncConnection, deliveries: Sequence[Delivery[events.Event]]) -> None:
        seen.extend(one.workspace_id for one in deliveries)

    value = (
        b'{"workspace_id":"","action":"a","actor":"b","subject":"c","at":"2026-11-20T09:00:00Z"}'
    )
    await produce(
        clean,
        "audit-recorded",
        [record(topics.AUDIT_RECORDED, 1, ce_workspaceid=None, value=value)],
    )
    made: Subscription[events.Event] = Subscription(topic=topics.AUDIT_RECORDED, handler=handler)
    async with consuming(clean.settings, db, made):
        await until(lambda: seen == [0], "seen")


def _exists(parts: Parts, name: str) -> bool:
    return name in parts.stack.kafka.admin().list_topics(timeout=10).topics


async def test_a_family_is_read_with_its_publishers_and_without_its_dead_letters(
    clean: Parts, db: Database
) -> None:
    from paceline_common import topics

    family = topics.LEAD_ENROLLED_BY_PUBLISHER
    lead = body(1)
    seen: set[tuple[str | None, str]] = set()

    async def handler(_tx: AsyncConnection, deliveries: Sequence[Delivery[events.Event]]) -> None:
        for one in deliveries:
            if one.event_id == "id-bad":
                raise EventFault("unknown_campaign", "there is no such campaign")
            seen.add((one.publisher, one.event_id))

    async def belongs(_tx: AsyncConnection, delivery: Delivery[events.Event | None]) -> bool:
        return delivery.publisher == "crm"

    for suffix in ("crm", "shop"):
        clean.create_topic(family, topics.publisher_topic(suffix), partitions=1)
    made = Subscription(
        topic=family, handler=handler, body=type(lead), belongs=belongs, dedupe=True
    )
    async with consuming(clean.settings, db, made):
        await produce(clean, "lead-enrolled.crm", [record(family, 1), record(family, "bad")])
        await until(lambda: seen == {("crm", "id-1")}, "the known publisher is read")
        # One that comes while it runs, and dead letters that look like a publisher's.
        for late in ("late", "dlq", "crm.dlq"):
            if not _exists(clean, f"lead-enrolled.{late}"):
                clean.create_topic(family, f"lead-enrolled.{late}", partitions=1)
            await produce(clean, f"lead-enrolled.{late}", [record(family, late)])
        await until(lambda: ("late", "id-late") in seen, "a new publisher is found")
        await produce(clean, "lead-enrolled.shop", [record(family, "bad")])
        await until(lambda: len(quarantined(clean)) == 2, "quarantined")
    assert seen == {("crm", "id-1"), ("late", "id-late")}
    assert sorted(
        clean.admin_sql("SELECT q.topic, workspace_id, o.topic FROM scratch.quarantine q,"
                        " (SELECT DISTINCT topic FROM scratch.outbox) o"),
        key=str,
    ) == [
        ("lead-enrolled.crm", WS, "lead-enrolled.dlq"),
        ("lead-enrolled.shop", None, "lead-enrolled.dlq"),
    ]  # fmt: skip


async def test_one_publisher_past_the_limit_halts_nobody_and_loses_nothing(
    clean: Parts, db: Database
) -> None:
    from paceline_common import topics

    suffix = secrets.token_hex(3)
    family = dataclasses.replace(topics.LEAD_ENROLLED_BY_PUBLISHER, name=f"flood{suffix}.")
    bad, good = f"{family.name}bad", f"{family.name}good"
    for name in (bad, good):
        clean.create_topic(family, name, partitions=1)
    tries: Counter[str] = Counter()

    async def handler(
        tx: AsyncConnection, deliveries: Sequence[Delivery[events.SendInDoubt]]
    ) -> None:
        if len(deliveries) == 1:
            tries[deliveries[0].event_id] += 1
        await count_but_poison(tx, deliveries)

    settings = clean.settings.model_copy(update={"quarantine_limit": 3, "event_attempts": 2})
    poison = [record(family, f"poison-{n}") for n in range(10)]
    await produce(clean, bad, [record(family, "first"), *poison, record(family, "last")])
    metrics = Metrics()
    made = subscription(family, handler, max_records=1)

    def past_limit() -> float | None:
        return metrics.registry.get_sample_value(
            "paceline_quarantined_past_limit_total", {"topic": bad}
        )

    async with consuming(settings, db, made, metrics) as subscriber:
        await until(lambda: "job-last" in effects(clean), "the bad one's good records are applied")
        assert past_limit() == 7
        # Its share of the limit is its own: another's bad record has all its tries.
        await produce(clean, good, [record(family, "poison-good"), record(family, "good")])
        await until(lambda: "job-good" in effects(clean), "the others go on")
        assert subscriber.state == "running"
    assert effects(clean) == {"job-first": 1, "job-last": 1, "job-good": 1}
    assert clean.admin_sql(
        "SELECT topic, count(*) FROM scratch.quarantine GROUP BY 1 ORDER BY 1"
    ) == [
        (bad, 10),
        (good, 1),
    ]
    assert [tries[f"id-poison-{n}"] for n in range(10)] == [2, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert tries["id-poison-good"] == 2


async def test_offsets_follow_their_effects_and_hold_up_no_other(
    clean: Parts, db: Database, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = asyncio.Event()
    told: list[tuple[int, int]] = []
    commit = AIOKafkaConsumer.commit

    async def commit_slowly(consumer: AIOKafkaConsumer, offsets: dict[Any, int]) -> None:
        told.append((max(offsets.values()), len(effects(clean))))
        await slow.wait()
        await commit(consumer, offsets)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", commit_slowly)
    await produce(clean, topic.name, [record(topic, job) for job in range(3)])
    async with consuming(clean.settings, db, subscription(topic, max_records=1)):
        await until(lambda: len(effects(clean)) == 2, "the second goes on meanwhile")
        assert told == [(1, 1)]
        slow.set()
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == 3, "all committed"
        )
    # One commit at a time, each of what has had its effect.
    assert [offset for offset, _ in told] == [1, 2, 3]
    assert all(done >= offset for offset, done in told)


async def test_an_idle_subscription_waits_to_be_told(
    clean: Parts, db: Database, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    getmany = AIOKafkaConsumer.getmany

    async def count_and_get(consumer: AIOKafkaConsumer, **how: Any) -> Any:
        asked.append(1)
        return await getmany(consumer, **how)

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", count_and_get)
    async with consuming(clean.settings, db, subscription(topic)):
        for job in range(5):
            # Connecting a producer takes longer than any polling would.
            await produce(clean, topic.name, [record(topic, job)])
            await until(lambda n=job: len(effects(clean)) == n + 1, "delivered")  # type: ignore[misc]
        assert len(asked) <= 6


async def test_two_partitions_in_one_batch_are_committed_each(clean: Parts, db: Database) -> None:
    topic = new_topic(clean, partitions=2)
    for partition in (0, 1):
        await produce(
            clean, topic.name, [record(topic, f"{partition}-{n}") for n in range(10)], partition
        )
    async with consuming(clean.settings, db, subscription(topic)):
        await until(lambda: len(effects(clean)) == 20, "all applied")
        group = f"scratch.{topic.name}"
        await until(lambda: clean.committed(group, topic.name, 0) == 10, "the first committed")
        await until(lambda: clean.committed(group, topic.name, 1) == 10, "the second committed")
