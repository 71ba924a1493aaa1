"""Leads come in: receipts, addresses, enrollments, first jobs."""

import pytest

from paceline_common import ids
from paceline_common.address import AddressHasher
from paceline_common.kafka.subscribe import EventFault
from paceline_scheduler.enroll import Enroller

from .conftest import HASHER, WS, House, World


def receipts(world: World) -> list[tuple[str, str | None]]:
    return [
        (outcome, reason)
        for outcome, reason in world.sql(
            "SELECT outcome, reason FROM receipt ORDER BY at, event_id"
        )
    ]


async def test_lead_becomes_address_enrollment_job_and_receipt(world: World, house: House) -> None:
    world.mailbox(1)
    world.campaign()
    await house.enroll(world.lead("Ann@Example.COM", first_name="Ann", fields={"plan": "a"}, row=3))
    assert world.one("SELECT email, first_name, fields FROM lead") == (
        "ann@example.com", "Ann", {"plan": "a"},
    )  # fmt: skip
    assert world.one("SELECT hash FROM address WHERE kind = 'address'") == HASHER.address(
        "ann@example.com"
    )
    job, step, state = world.one("SELECT job_id, step, state FROM send_job")
    assert (step, state) == (1, "queued")
    assert world.one("SELECT job_id, state FROM enrollment") == (job, "active")
    assert world.one("SELECT outcome, row_number FROM receipt") == ("enrolled", 3)
    assert world.one("SELECT jobs FROM pace_change WHERE jobs IS NOT NULL") == [job]
    assert {scope for (scope,) in world.sql("SELECT scope FROM gate")} == {
        "workspace", "campaign", "pool",
    }  # fmt: skip


async def test_second_enrollment_of_a_lead_is_a_duplicate_and_updates_the_lead(
    world: World, house: House
) -> None:
    world.mailbox(1)
    world.campaign()
    await house.enroll(world.lead("a@x.test", first_name="Old", fields={"a": "1", "b": "1"}))
    await house.enroll(world.lead("A@X.test", first_name="New", fields={"b": "2"}))
    assert receipts(world) == [("enrolled", None), ("duplicate", "already_enrolled")]
    assert world.one("SELECT first_name, fields FROM lead") == ("New", {"a": "1", "b": "2"})
    first, second = world.sql("SELECT enrollment_id FROM receipt")
    assert first == second
    assert world.one("SELECT count(*) FROM send_job") == 1


async def test_one_batch_may_repeat_a_lead(world: World, house: House) -> None:
    world.mailbox(1)
    world.campaign(5)
    world.campaign(6)
    await house.enroll(
        world.lead("a@x.test"),
        world.lead("a@x.test"),
        world.lead("a@x.test", campaign=6),
        world.lead("b@x.test"),
    )
    outcomes = sorted(outcome for outcome, _ in receipts(world))
    assert outcomes == ["duplicate", "enrolled", "enrolled", "enrolled"]
    assert world.one("SELECT count(*) FROM lead") == 2
    # The second campaign waits for the first to be done with the lead.
    assert world.one("SELECT count(*) FROM send_job") == 2
    assert world.one("SELECT campaign_id FROM enrollment WHERE contact_hold") == 6


@pytest.mark.parametrize("apart", [True, False])
async def test_newest_values_of_a_lead_win_in_one_batch_or_in_several(
    world: World, house: House, apart: bool
) -> None:
    world.mailbox(1)
    world.campaign()
    leads = [
        world.lead("b@x.test", fields={"a": "1", "b": "1"}, first_name="Old", last_name="L"),
        world.lead("c@x.test", company="C"),
        world.lead("B@X.test", fields={"b": "2"}, first_name="New"),
        world.lead("b@x.test", timezone="Europe/Paris"),
    ]
    for batch in [[one] for one in leads] if apart else [leads]:
        await house.enroll(*batch)
    await house.enroll(world.lead("c@x.test", first_name="C"), world.lead("b@x.test", company="B"))
    assert world.sql(
        "SELECT email, first_name, last_name, company, timezone, fields FROM lead ORDER BY email"
    ) == [
        ("b@x.test", "New", "L", "B", "Europe/Paris", {"a": "1", "b": "2"}),
        ("c@x.test", "C", None, "C", None, {}),
    ]
    assert sorted(
        world.sql("SELECT outcome, count(*), count(DISTINCT enrollment_id) FROM receipt GROUP BY 1")
    ) == [("duplicate", 4, 2), ("enrolled", 2, 2)]


async def test_new_campaign_of_a_known_lead_makes_no_second_lead(
    world: World, house: House
) -> None:
    world.mailbox(1)
    world.campaign(5)
    world.campaign(6)
    await house.enroll(world.lead("a@x.test"), world.lead("c@x.test", campaign=6))
    await house.enroll(
        world.lead("b@x.test", campaign=6),
        world.lead("a@x.test", campaign=6),
        world.lead("a@x.test"),
        world.lead("c@x.test"),
        world.lead("a@x.test", campaign=6),
    )
    assert world.one("SELECT count(*) FROM lead") == 3
    assert world.sql(
        "SELECT l.email, e.campaign_id, e.contact_hold, e.job_id = j.job_id"
        " FROM enrollment e JOIN lead l USING (workspace_id, lead_id)"
        " LEFT JOIN send_job j USING (workspace_id, enrollment_id) ORDER BY 1, 2"
    ) == [
        ("a@x.test", 5, False, True), ("a@x.test", 6, True, None), ("b@x.test", 6, False, True),
        ("c@x.test", 5, True, None), ("c@x.test", 6, False, True),
    ]  # fmt: skip
    assert world.one(
        "SELECT count(*) FROM receipt r JOIN enrollment e USING (workspace_id, enrollment_id)"
    ) == 7  # fmt: skip


@pytest.mark.parametrize("kind", ["address", "domain"])
async def test_suppressed_address_or_domain_is_not_enrolled(
    world: World, house: House, kind: str
) -> None:
    world.mailbox(1)
    world.campaign()
    digest = HASHER.address("a@x.test") if kind == "address" else HASHER.domain("x.test")
    async with house.db.transaction([WS]) as tx:
        await tx.exec_driver_sql(
            "SELECT scheduler.suppress(%s, %s, %s, 'manual', 'user', NULL)", (WS, kind, digest)
        )
    await house.enroll(world.lead("a@x.test"), world.lead("b@y.test"))
    assert set(receipts(world)) == {("suppressed", "manual"), ("enrolled", None)}
    assert world.one("SELECT count(*) FROM lead") == 1


async def test_address_that_is_none_is_refused_on_a_receipt_or_as_the_publishers_fault(
    world: World, house: House
) -> None:
    world.mailbox(1)
    world.campaign()
    await house.enroll(world.lead("jane-doe.example.org"), world.lead("ok@x.test"))
    assert set(receipts(world)) == {("refused", "invalid_email"), ("enrolled", None)}
    world.sql("INSERT INTO gateway.publisher (publisher) VALUES ('crm')")
    world.sql("INSERT INTO gateway.publisher_workspace VALUES (%s, 'crm')", WS)
    with pytest.raises(EventFault) as fault:
        await house.enroll(world.lead("jane-doe.example.org", publisher="crm"))
    assert fault.value.code == "invalid_email"
    assert "jane" not in fault.value.message


async def test_special_use_domains_are_enrolled_only_where_the_setting_says_so(
    world: World, house: House
) -> None:
    async def hasher() -> AddressHasher:
        return HASHER

    world.mailbox(1)
    world.campaign()
    strict = Enroller(house.queries, hasher, lambda: None, house.campaigns, house.shaper)
    leads = [world.lead("a@x.test"), world.lead("b@example.com")]
    async with house.db.transaction([WS]) as tx:
        await strict.enroll(tx, leads)
    assert sorted(receipts(world)) == [("enrolled", None), ("refused", "invalid_email")]
    await house.enroll(world.lead("c@x.test"))
    assert receipts(world).count(("enrolled", None)) == 2


async def test_publisher_enrolls_only_where_it_may(world: World, house: House) -> None:
    world.mailbox(1)
    world.campaign()
    world.sql("INSERT INTO gateway.publisher (publisher) VALUES ('crm'), ('erp')")
    world.sql("INSERT INTO gateway.publisher_workspace VALUES (%s, 'crm')", WS)
    await house.enroll(world.lead("a@x.test", publisher="crm"))
    assert receipts(world) == [("enrolled", None)]
    with pytest.raises(EventFault) as fault:
        await house.enroll(world.lead("b@x.test", publisher="erp"))
    assert (fault.value.code, fault.value.installation) == ("workspace_not_allowed", True)
    async with house.db.transaction([WS]) as tx:
        assert await house.enroller.belongs(tx, world.lead("b@x.test", publisher="crm"))
        assert not await house.enroller.belongs(tx, world.lead("b@x.test", publisher="erp"))


async def test_unknown_campaign_and_invalid_ids_are_the_events_fault(
    world: World, house: House
) -> None:
    world.workspace(8)
    world.mailbox(1)
    world.mailbox(2, workspace=8, pool=2)
    world.campaign(6, workspace=8, pool=2)
    for lead, code in (
        (world.lead("a@x.test", campaign=99), "unknown_campaign"),
        (world.lead("a@x.test", campaign=6), "unknown_campaign"),
        (world.lead("a@x.test", campaign_id="cmp_1"), "invalid_id"),
    ):
        with pytest.raises(EventFault) as fault:
            await house.enroll(lead)
        assert fault.value.code == code


async def test_repaired_lead_settles_its_quarantine_entry(world: World, house: House) -> None:
    world.mailbox(1)
    world.campaign()
    entry = world.one(
        "INSERT INTO quarantine (workspace_id, topic, partition, offset_, headers, digest,"
        " reason_code, reason, attempts) VALUES (%s, 't', 0, 1, '[]', '', 'x', 'x', 1)"
        " RETURNING quarantine_id",
        WS,
    )
    await house.enroll(world.lead("a@x.test", replay_of=ids.encode("qua", entry)))
    settled_by, at = world.one("SELECT settled_by, settled_at FROM quarantine")
    assert settled_by == "replay"
    assert at is not None


async def test_campaign_that_is_over_refuses_and_one_without_steps_waits(
    world: World, house: House
) -> None:
    world.mailbox(1)
    world.campaign(5, status="stopped")
    world.campaign(6, delays_s=())
    await house.enroll(world.lead("a@x.test"), world.lead("a@x.test", campaign=6))
    assert set(receipts(world)) == {("refused", "campaign_over"), ("enrolled", None)}
    assert world.one("SELECT count(*) FROM send_job") == 0
    world.step(6, 1, 0)
    await house.settler.settle(WS, 6)
    assert world.one("SELECT state FROM send_job") == "queued"
    assert world.one("SELECT e.job_id = j.job_id FROM enrollment e, send_job j") is True


async def test_start_in_the_future_is_when_the_first_step_is_due(
    world: World, house: House
) -> None:
    world.mailbox(1)
    world.campaign()
    world.sql("UPDATE gateway.campaign SET start_at = now() + interval '1 day'")
    await house.enroll(world.lead("a@x.test"))
    assert world.one("SELECT due_at = start_at FROM send_job, gateway.campaign") is True


async def test_repeated_event_changes_nothing(world: World, house: House) -> None:
    world.mailbox(1)
    world.campaign()
    lead = world.lead("a@x.test")
    await house.enroll(lead)
    await house.enroll(lead)
    assert receipts(world) == [("enrolled", None)]
    assert world.one("SELECT count(*) FROM enrollment") == 1


async def test_enrollment_looks_up_by_key_whatever_the_statistics_say(
    world: World, house: House
) -> None:
    """Plans made while the tables are nearly empty must not read them whole once they are full."""
    world.mailbox(1)
    world.campaign()
    async with house.db.transaction([WS]) as tx:
        await house.enroller.enroll(tx, [world.lead("a@x.test")])
        assert (await tx.exec_driver_sql("SHOW enable_seqscan")).scalar_one() == "off"
    async with house.db.transaction([WS]) as tx:
        assert (await tx.exec_driver_sql("SHOW enable_seqscan")).scalar_one() == "on"
