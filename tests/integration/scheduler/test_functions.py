"""The functions other services commit with, under their own logins."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import psycopg
import pytest

from paceline_common import ids
from paceline_scheduler.domain import enrollment, job

from .conftest import WS, World


class Caller:
    """A service's connection, with the functions as methods."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def rows(self, statement: str, *args: Any) -> list[Any]:
        return self._connection.execute(statement.encode(), args).fetchall()

    def claim(self, jobs: list[int], fence: int = 1) -> dict[int, str | None]:
        found = self.rows(
            "SELECT job_id, claimed, reason FROM scheduler.claim_send(%s, %s, %s)",
            [WS] * len(jobs), jobs, [fence] * len(jobs),
        )  # fmt: skip
        assert all(claimed is (reason is None) for _, claimed, reason in found)
        return {job_id: reason for job_id, _, reason in found}

    def finish(
        self,
        number: int,
        outcome: str,
        reason: str | None = None,
        fence: int = 1,
        retry_at: datetime | None = None,
    ) -> bool:
        ((applied,),) = self.rows(
            "SELECT applied FROM scheduler.finish_send(%s, %s, %s, %s, %s, %s)",
            [WS], [number], [fence], [outcome], [reason], [retry_at],
        )  # fmt: skip
        return bool(applied)

    def call(self, statement: str, *args: Any) -> Any:
        ((value,),) = self.rows(statement, *args)
        return value

    def suppress(self, number: int, reason: str, cause: int | None = None) -> int:
        found = self.call(
            "SELECT scheduler.suppress(%s, 'address', sha256(%s::text::bytea), %s, 'tests', %s)",
            WS, number, reason, cause,
        )  # fmt: skip
        return int(found)

    def suspend(
        self, scope: str, ref: int, reason: str = "paused", until: datetime | None = None
    ) -> int:
        found = self.call(
            "SELECT scheduler.suspend(%s, %s, %s, %s, %s, 'tests', NULL)",
            WS, scope, ref, reason, until,
        )  # fmt: skip
        return int(found)

    def resume(self, scope: str, ref: int, reason: str | None = "paused") -> int:
        found = self.call(
            "SELECT scheduler.resume(%s, %s, %s, %s, 'tests')", WS, scope, ref, reason
        )
        return int(found)


@pytest.fixture
def sender(world: World) -> Iterator[Caller]:
    with world.login("sender") as connection:
        yield Caller(connection)


@pytest.fixture
def gateway(world: World) -> Iterator[Caller]:
    with world.login("gateway") as connection:
        yield Caller(connection)


def state(world: World, number: int = 1) -> Any:
    return world.one("SELECT state, fence, reason FROM send_job WHERE job_id = %s", number)


def budget(world: World, mailbox: int = 1) -> Any:
    return world.one(
        "SELECT outstanding, day_used, hour_used FROM mailbox_budget WHERE mailbox_id = %s",
        mailbox,
    )


def test_public_ids_are_the_same_in_sql(world: World) -> None:
    for kind in ("ws", "enr", "job"):
        for n in (0, 1, 7, 123_456_789, 2**62 + 11, 2**63 - 1):
            assert world.one("SELECT public_id(%s, %s)", kind, n) == ids.encode(kind, n)


def test_database_and_domain_agree_on_every_transition(world: World) -> None:
    world.reserved(1)
    for old in job.STATES:
        for new in job.STATES:
            with psycopg.connect(world.stack.dsn()) as connection:
                # Set without the trigger, tried with it, never committed.
                connection.execute("SET session_replication_role = replica")
                connection.execute(
                    "UPDATE scheduler.send_job SET state = %s, slot_at = CASE WHEN %s = 'queued'"
                    " THEN NULL ELSE slot_at END, not_after = CASE WHEN %s = 'queued' THEN NULL"
                    " ELSE not_after END",
                    (old, old, old),
                )
                connection.execute("SET session_replication_role = origin")
                allowed = True
                try:
                    connection.execute(
                        "UPDATE scheduler.send_job SET fence = fence + 1, state = %s, slot_at ="
                        " CASE WHEN %s = 'queued' THEN NULL ELSE clock_timestamp() END, not_after ="
                        " CASE WHEN %s = 'queued' THEN NULL ELSE clock_timestamp() END",
                        (new, new, new),
                    )
                except psycopg.errors.CheckViolation as error:
                    allowed = error.diag.constraint_name != "send_job_transition"
                assert allowed == (old == new or job.may_follow(old, new)), (old, new)
                connection.rollback()


def test_database_and_domain_agree_on_how_enrollments_end(world: World) -> None:
    for old in enrollment.STATES:
        for new in enrollment.STATES:
            if new == "active":
                continue
            world.clean()
            world.workspace()
            world.reserved(1)
            if old != "active":
                world.sql(
                    "UPDATE enrollment SET state = %s, reason = 'x', finished_at = now()", old
                )
            changed = world.sql(
                "SELECT * FROM finish_enrollments(ARRAY[%s::bigint], ARRAY[1::bigint],"
                " ARRAY[%s], ARRAY['y'])",
                WS,
                new,
            )
            assert bool(changed) == enrollment.may_follow(old, new), (old, new)


def test_slot_is_append_only_and_returned_once(world: World) -> None:
    world.reserved(1)
    for change in ("fence = 2", "slot_at = slot_at + interval '1 s'", "mailbox_id = 9"):
        with pytest.raises(psycopg.errors.CheckViolation):
            world.sql(f"UPDATE slot SET {change}")
    world.sql("UPDATE slot SET returned_at = now()")
    with pytest.raises(psycopg.errors.CheckViolation):
        world.sql("UPDATE slot SET returned_at = now() + interval '1 s'")


def test_claim_answers_each_refusal_by_name(world: World, sender: Caller) -> None:
    world.reserved(9)
    world.sql("UPDATE send_job SET slot_at = clock_timestamp() + interval '1 s' WHERE job_id = 2")
    world.sql(
        "UPDATE send_job SET slot_at = slot_at - interval '9 s',"
        " not_after = clock_timestamp() - interval '1 s' WHERE job_id = 3"
    )
    world.sql("UPDATE send_job SET state = 'sending' WHERE job_id = 4")
    world.sql(
        "UPDATE enrollment SET state = 'stopped', reason = 'x', finished_at = now()"
        " WHERE enrollment_id = 5"
    )
    world.sql("DELETE FROM gate WHERE scope = 'mailbox' AND ref = 6")
    world.sql(
        "UPDATE address SET suppressed_at = now(), reason = 'x', source = 'x' WHERE address_id = 7"
    )
    world.sql("UPDATE mailbox_budget SET is_active = false WHERE mailbox_id = 8")
    assert sender.claim([1, 2, 3, 4, 5, 6, 7, 8, 77]) == {
        1: None,
        2: "too_early",
        3: "too_late",
        4: "not_reserved",
        5: "not_running",
        6: "unknown",
        7: "suppressed",
        8: "not_running",
        77: "unknown",
    }
    assert sender.claim([9], fence=2) == {9: "stale_fence"}
    assert [state(world, n)[0] for n in (1, 2, 9)] == ["sending", "reserved", "reserved"]


def test_claim_of_a_lease_made_by_older_settings_is_refused(world: World, sender: Caller) -> None:
    world.reserved(5)
    world.sql(
        "INSERT INTO campaign_policy (workspace_id, campaign_id, version, type, min_health)"
        " VALUES (%s, 5, 1, 1, 70) ON CONFLICT (workspace_id, campaign_id)"
        " DO UPDATE SET type = 1, min_health = 70",
        WS,
    )
    world.sql("UPDATE mailbox_budget SET types = 6 WHERE mailbox_id = 1")
    world.sql("UPDATE mailbox_budget SET health = 69 WHERE mailbox_id = 2")
    world.sql("UPDATE mailbox_budget SET health = 70 WHERE mailbox_id = 3")
    world.sql("UPDATE mailbox_budget SET health = 10, health_floor = false WHERE mailbox_id = 4")
    assert sender.claim([1, 2, 3, 4, 5]) == {
        1: "not_admitted",
        2: "not_admitted",
        3: None,
        4: None,
        5: None,
    }


def test_claim_begins_at_most_50_ms_early(world: World, sender: Caller) -> None:
    world.reserved(1, slot="clock_timestamp() + interval '2 s'", grace="1 s")
    while sender.claim([1])[1] == "too_early":
        pass
    ahead = world.one("SELECT slot_at - updated_at FROM send_job")
    assert timedelta(0) <= ahead <= timedelta(milliseconds=50)


def test_one_job_is_claimed_once_even_if_asked_twice_in_a_call(
    world: World, sender: Caller
) -> None:
    world.reserved(1)
    rows = sender.rows(
        "SELECT claimed, reason FROM scheduler.claim_send(%s, %s, %s)", [WS, WS], [1, 1], [1, 1]
    )
    assert sorted(rows, key=str) == [(False, "not_reserved"), (True, None)]


def test_domain_of_the_recipient_is_a_gate(world: World, sender: Caller, gateway: Caller) -> None:
    world.reserved(2)
    gateway.call(
        "SELECT scheduler.suppress(%s, 'domain', sha256('x.test'), 'manual', 'tests', NULL)", WS
    )
    assert set(sender.claim([1, 2]).values()) == {"not_reserved"}
    assert state(world) == ("cancelled", 1, "manual")


@pytest.mark.parametrize(
    ("scope", "ref"),
    [
        ("workspace", WS), ("campaign", 5), ("pool", 1), ("mailbox", 1), ("enrollment", 1),
        ("domain", None),
    ],
)  # fmt: skip
def test_suspension_of_each_scope_stops_claims_and_returns_leases(
    world: World, sender: Caller, scope: str, ref: int | None
) -> None:
    world.reserved(2)
    number = world.one("SELECT hashtextextended('send.test', 0)") if ref is None else ref
    alone = scope in ("mailbox", "enrollment")
    sender.suspend(scope, number)
    assert state(world) == ("queued", 2, "suspended")
    assert budget(world) == (0, 0, 0)
    assert state(world, 2)[0] == ("reserved" if alone else "queued")
    world.sql(
        "UPDATE send_job SET state = 'reserved', mailbox_id = 1, pool_id = 1, slot_at ="
        " clock_timestamp(), not_after = clock_timestamp() + interval '9 s' WHERE job_id = 1"
    )
    assert sender.claim([1], fence=2) == {1: f"suspended:{scope}"}
    assert sender.resume(scope, number, "another reason") == 0
    assert sender.resume(scope, number) == 1
    assert sender.claim([1], fence=2) == {1: None}
    actions = [one.action for one in world.outbox("audit-recorded")]
    assert actions == ["suspension.opened", "suspension.closed"]


def test_suspension_ends_by_itself_and_is_one_per_reason(world: World, sender: Caller) -> None:
    world.reserved(1)
    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    first = sender.suspend("mailbox", 1, "cooldown", soon)
    assert sender.suspend("mailbox", 1, "cooldown", soon - timedelta(seconds=1)) == first
    assert sender.suspend("mailbox", 1, "failed", soon) != first
    world.sql(
        "UPDATE send_job SET state = 'reserved', mailbox_id = 1, pool_id = 1, slot_at ="
        " clock_timestamp(), not_after = clock_timestamp() + interval '9 s'"
    )
    answers = []
    while (found := sender.claim([1], fence=2)[1]) is not None:
        answers.append(found)
    assert set(answers) == {"suspended:mailbox"}
    assert datetime.now(UTC) >= soon
    assert sender.suspend("mailbox", 1, "cooldown") != first, "the expired one is closed"


def test_outcomes_move_the_job_and_the_budget_once(world: World, sender: Caller) -> None:
    world.reserved(6)
    sender.claim([1, 2, 3, 4, 5])
    later = datetime.now(UTC) + timedelta(minutes=5)
    for number, outcome, reason in (
        (1, "accepted", None), (2, "deferred", "soft"), (3, "rejected", "hard"),
        (4, "in_doubt", "crash"), (5, "unsent", "too_late"), (6, "failed", "missing_variable"),
    ):  # fmt: skip
        assert sender.finish(number, outcome, reason, retry_at=later)
        assert not sender.finish(number, outcome, reason), "again changes nothing"
    assert [state(world, n) for n in range(1, 7)] == [
        ("sent", 1, None), ("queued", 2, "soft"), ("bounced", 1, "hard"),
        ("in_doubt", 1, "crash"), ("queued", 2, "too_late"), ("failed", 1, "missing_variable"),
    ]  # fmt: skip
    # Only what never left is given back: the unsent one, and the one that could not be built.
    assert [budget(world, n) for n in range(1, 7)] == [
        (0, 1, 1), (0, 1, 1), (0, 1, 1), (0, 1, 1), (0, 0, 0), (0, 0, 0),
    ]  # fmt: skip
    assert world.sql("SELECT job_id FROM slot WHERE returned_at IS NOT NULL ORDER BY 1") == [
        (5,), (6,),
    ]  # fmt: skip
    sticky, mailbox, attempts, due = world.one(
        "SELECT sticky, mailbox_id, attempts, due_at FROM send_job WHERE job_id = 2"
    )
    assert (sticky, mailbox, attempts, due) == (True, 2, 1, later)
    assert world.one("SELECT sticky, mailbox_id, attempts FROM send_job WHERE job_id = 5") == (
        False, None, 0,
    )  # fmt: skip
    assert world.one("SELECT state, reason FROM enrollment WHERE enrollment_id = 6") == (
        "failed", "missing_variable",
    )  # fmt: skip
    (finished,) = world.outbox("enrollment-finished")
    assert (finished.state, finished.enrollment_id) == ("failed", ids.encode("enr", 6))
    told = [job for (job,) in world.sql("SELECT unnest(jobs) FROM pace_change")]
    assert sorted(told) == [2, 5]


def test_job_in_doubt_is_settled_but_never_simply_retried(world: World, sender: Caller) -> None:
    world.reserved(4)
    sender.claim([1, 2, 3, 4])
    for number in (1, 2, 3):
        assert sender.finish(number, "in_doubt")
    assert not sender.finish(1, "unsent")
    assert not sender.finish(1, "deferred")
    assert not sender.finish(4, "proven_unsent"), "its submission is still under way"
    assert sender.finish(1, "accepted")
    assert sender.finish(2, "failed", "settled")
    assert sender.finish(3, "rejected", "hard"), "its own answer, late"
    assert [state(world, n)[0] for n in range(1, 5)] == ["sent", "failed", "bounced", "sending"]
    assert [budget(world, n)[0] for n in (1, 2, 3)] == [0, 0, 0]
    for number, outcome in product((1, 2, 3), ("proven_unsent", "accepted", "failed")):
        assert not sender.finish(number, outcome), "what is settled stays so"


def test_job_proven_unsent_gets_its_place_back_and_its_capacity_stays_spent(
    world: World, sender: Caller
) -> None:
    world.reserved(3)
    world.sql("UPDATE send_job SET due_at = '2026-01-01' WHERE job_id = 1")
    world.sql("UPDATE send_job SET sticky = true WHERE job_id = 2")
    sender.claim([1, 2, 3])
    for number in (1, 2, 3):
        assert sender.finish(number, "in_doubt", "no_outcome")
    world.sql("DELETE FROM pace_change")
    assert sender.finish(1, "proven_unsent", "proven_unsent")
    assert sender.finish(2, "proven_unsent", "proven_unsent")
    later = datetime.now(UTC) + timedelta(minutes=5)
    assert sender.finish(3, "proven_unsent", "soft", retry_at=later)
    assert not sender.finish(1, "proven_unsent"), "again changes nothing"
    assert world.sql(
        "SELECT state, fence, reason, attempts, slot_at, not_after FROM send_job ORDER BY job_id"
    ) == [
        ("queued", 2, "proven_unsent", 1, None, None),
        ("queued", 2, "proven_unsent", 1, None, None),
        ("queued", 2, "soft", 1, None, None),
    ]  # fmt: skip
    assert world.sql("SELECT sticky, mailbox_id FROM send_job ORDER BY job_id") == [
        (False, None), (True, 2), (False, None),
    ]  # fmt: skip
    assert world.one("SELECT due_at FROM send_job WHERE job_id = 1") == datetime(
        2026, 1, 1, tzinfo=UTC
    )
    assert world.one("SELECT due_at FROM send_job WHERE job_id = 3") == later
    # The request may have left: the day's count keeps it, and the slot is not returned.
    assert [budget(world, n) for n in (1, 2, 3)] == [(0, 1, 1)] * 3
    assert world.sql("SELECT 1 FROM slot WHERE returned_at IS NOT NULL") == []
    told = [job for (job,) in world.sql("SELECT unnest(jobs) FROM pace_change")]
    assert sorted(told) == [1, 2, 3]


def test_nothing_is_queued_again_for_an_enrollment_that_ended(
    world: World, sender: Caller, gateway: Caller
) -> None:
    world.reserved(3)
    sender.claim([1, 2, 3])
    assert sender.finish(1, "in_doubt")
    stop = "SELECT scheduler.stop_enrollment(%s, %s, 'stopped', 'by_operator')"
    for number in (1, 2, 3):
        assert gateway.call(stop, WS, number) is True
    assert sender.finish(1, "proven_unsent")
    assert sender.finish(2, "deferred", "soft")
    assert sender.finish(3, "unsent", "too_late")
    assert [state(world, n) for n in (1, 2, 3)] == [("cancelled", 2, "by_operator")] * 3
    assert [budget(world, n)[0] for n in (1, 2, 3)] == [0, 0, 0]
    assert world.sql("SELECT job_id FROM slot WHERE returned_at IS NOT NULL") == [(3,)]


def test_a_job_in_doubt_is_queued_again_under_a_new_fence_only(
    world: World, sender: Caller
) -> None:
    world.reserved(1)
    sender.claim([1])
    sender.finish(1, "in_doubt")
    with pytest.raises(psycopg.errors.CheckViolation, match="may not go from in_doubt to queued"):
        world.sql("UPDATE send_job SET state = 'queued', slot_at = NULL, not_after = NULL")


def test_capacity_goes_back_to_its_own_day_and_hour_only(world: World, sender: Caller) -> None:
    world.reserved(3)
    world.sql("UPDATE mailbox_budget SET day = day + 1, day_used = 4 WHERE mailbox_id = 2")
    world.sql(
        "UPDATE mailbox_budget SET hour = hour + interval '1 h', hour_used = 3 WHERE mailbox_id = 3"
    )
    for number in (1, 2, 3):
        assert sender.finish(number, "unsent")
    assert [budget(world, n) for n in (1, 2, 3)] == [(0, 0, 0), (0, 4, 0), (0, 0, 3)]


def test_outcome_nobody_knows_is_refused(world: World, sender: Caller) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="unknown outcome maybe"):
        sender.finish(1, "maybe")


def test_suppression_ends_all_of_the_address_and_cancels_what_waits(
    world: World, gateway: Caller, sender: Caller
) -> None:
    world.reserved(3)
    # The same person in two more campaigns; one submission is under way.
    world.sql("UPDATE enrollment SET lead_id = 1, address_id = 1, campaign_id = 4 + enrollment_id")
    sender.claim([3])
    address = gateway.suppress(1, "unsubscribed", cause=2)
    assert address == 1
    assert world.sql("SELECT state FROM enrollment ORDER BY enrollment_id") == [
        ("suppressed",), ("unsubscribed",), ("suppressed",),
    ]  # fmt: skip
    assert [state(world, n)[0] for n in (1, 2, 3)] == ["cancelled", "cancelled", "sending"]
    assert [budget(world, n) for n in (1, 2, 3)] == [(0, 0, 0), (0, 0, 0), (1, 1, 1)]
    assert sender.finish(3, "accepted"), "what had begun ends as it ends"
    (told,) = world.outbox("address-suppressed")
    assert (told.reason, told.lifted) == ("unsubscribed", False)
    assert len(world.outbox("enrollment-finished")) == 3
    assert gateway.suppress(1, "manual") == 1
    assert world.one("SELECT reason FROM address WHERE address_id = 1") == "unsubscribed"
    assert len(world.outbox("address-suppressed")) == 1


def test_hard_bounce_after_the_last_step_still_counts(world: World, gateway: Caller) -> None:
    world.reserved(1)
    world.sql("UPDATE enrollment SET state = 'finished', reason = 'x', finished_at = now()")
    gateway.suppress(1, "hard_bounce", cause=1)
    assert world.one("SELECT state FROM enrollment") == "bounced"


def test_address_never_seen_is_suppressed_before_it_comes(world: World, gateway: Caller) -> None:
    address = gateway.suppress(9, "manual")
    assert gateway.rows("SELECT address_id, kind, email, reason FROM scheduler.v_suppression") == [
        (address, "address", None, "manual")
    ]
    assert gateway.call("SELECT scheduler.lift_suppression(%s, %s, 'user')", WS, address) is True
    assert gateway.call("SELECT scheduler.lift_suppression(%s, %s, 'user')", WS, address) is False
    assert gateway.rows("SELECT 1 FROM scheduler.v_suppression") == []
    assert [one.lifted for one in world.outbox("address-suppressed")] == [False, True]


def test_operator_stops_one_enrollment_and_edits_a_lead(world: World, gateway: Caller) -> None:
    world.reserved(1)
    assert gateway.call(
        "SELECT scheduler.edit_lead(%s, 1, %s)", WS,
        '{"first_name": "Ann", "fields": {"a": "1", "b": null}}',
    )  # fmt: skip
    assert gateway.rows("SELECT first_name, fields FROM scheduler.v_lead") == [("Ann", {"a": "1"})]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="email"):
        gateway.call("SELECT scheduler.edit_lead(%s, 1, %s)", WS, '{"email": "x"}')
    stop = "SELECT scheduler.stop_enrollment(%s, 1, 'stopped', 'by_operator')"
    assert gateway.call(stop, WS) is True
    assert gateway.call(stop, WS) is False
    assert state(world) == ("cancelled", 1, "by_operator")
    assert budget(world) == (0, 0, 0)


def test_view_names_one_reason_for_each_enrollment(
    world: World, gateway: Caller, sender: Caller
) -> None:
    world.reserved(6)
    sender.claim([2])
    sender.finish(3, "unsent")
    sender.finish(4, "unsent", retry_at=datetime.now(UTC) + timedelta(days=1))
    sender.claim([5])
    sender.finish(5, "in_doubt")
    sender.suspend("mailbox", 6, "failed")
    world.sql("UPDATE enrollment SET job_id = NULL WHERE enrollment_id = 6")

    def reasons() -> list[str]:
        rows = gateway.rows("SELECT reason FROM scheduler.v_enrollment ORDER BY enrollment_id")
        return [reason for (reason,) in rows]

    assert reasons() == [
        "slot_reserved", "sending", "waiting_in_queue", "waiting_for_due", "in_doubt", "no_steps",
    ]  # fmt: skip
    sender.suspend("campaign", 5, "paused")
    assert reasons() == [
        "campaign_paused", "sending", "campaign_paused", "campaign_paused", "in_doubt", "no_steps",
    ]  # fmt: skip


def test_another_workspace_is_out_of_reach(world: World) -> None:
    world.reserved(1)
    with world.login("sender") as connection:
        connection.execute("SET app.workspace_ids = '8'")
        other = Caller(connection)
        assert other.claim([1]) == {1: "unknown"}
        assert not other.finish(1, "accepted")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.suspend("campaign", 5)
        assert other.rows("SELECT * FROM scheduler.v_job_content") == []
    with world.login("gateway") as connection:
        connection.execute("SET app.workspace_ids = ''")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            Caller(connection).suppress(1, "manual")
    assert state(world)[0] == "reserved"


def test_claim_needs_a_fresh_snapshot(world: World) -> None:
    world.reserved(1)
    with world.login("sender") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.errors.InvalidTransactionState), connection.transaction():
            Caller(connection).claim([1])
