"""Leads by JSON, what became of them, and what is read of them afterwards."""

import email_validator
import pytest

from paceline_common import ids
from paceline_common.address import AddressHasher
from paceline_gateway import idempotency
from paceline_gateway.app import build
from paceline_gateway.parts import Parts

from .conftest import Tenant, enroll


async def test_good_leads_are_published_and_bad_ones_listed(
    tenant: Tenant, hasher: AddressHasher
) -> None:
    campaign = await tenant.campaign()
    leads = [
        {"email": "Ann@Lead.test", "first_name": "Ann", "fields": {"plan": "team"}},
        {"email": "not an address"},
        {"email": "bob@lead.test"},
    ]
    answer = await tenant.call(
        "POST", f"/v1/campaigns/{campaign}/leads", 202, json={"leads": leads}
    )
    assert [one["index"] for one in answer["accepted"]] == [0, 2]
    (error,) = answer["errors"]
    assert (error["index"], error["field"], error["code"]) == (1, "email", "email_invalid")
    ann, bob = tenant.outbox("lead-enrolled")
    assert ann["email"] == "Ann@Lead.test"
    assert (ann["first_name"], ann["fields"]) == ("Ann", {"plan": "team"})
    assert (ann["campaign_id"], ann["workspace_id"]) == (campaign, tenant.id)
    assert [one["event_id"] for one in answer["accepted"]] == [ann["event_id"], bob["event_id"]]
    (row, _) = tenant.rows("SELECT key FROM gateway.outbox WHERE topic = 'lead-enrolled'"
                           " AND workspace_id = %s ORDER BY id", tenant.number)  # fmt: skip
    # One order per lead, however its address is spelt; the key shows none of it.
    assert row["key"] == hasher.address("ann@lead.test").hex()


async def test_special_use_domains_are_refused_where_the_setting_does_not_allow_them(
    tenant: Tenant, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = await tenant.campaign()
    leads = {"leads": [{"email": "ann@lead.test"}, {"email": "bob@example.com"}]}
    path = f"/v1/campaigns/{campaign}/leads"
    # Back to what this stack says once the test is over.
    monkeypatch.setattr(email_validator, "TEST_ENVIRONMENT", True)
    strict = build(parts.settings.model_copy(update={"accept_test_domains": False}))
    answer = await tenant.call("POST", path, 202, json=leads)
    assert [one["index"] for one in answer["accepted"]] == [1]
    assert [(one["index"], one["code"]) for one in answer["errors"]] == [(0, "email_invalid")]
    await strict.db.close()
    strict.keys.close()
    await strict.http.state.parts.prober.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/pools", {"name": "a\0b"}),
        ("POST", "/v1/campaigns", {"name": "a", "steps": [{"subject": "a\0b", "text": "x"}]}),
        ("POST", "/v1/campaigns/{}/leads", {"leads": [{"email": "a@b.test", "company": "a\0"}]}),
        (
            "POST",
            "/v1/campaigns/{}/leads",
            {"leads": [{"email": "a@b.test", "fields": {"a": "\0"}}]},
        ),
        ("GET", "/v1/enrollments?email=a%00", None),
        ("GET", "/v1/receipts/a%00b", None),
    ],
)
async def test_text_that_cannot_be_stored_is_refused(
    tenant: Tenant, method: str, path: str, body: object
) -> None:
    campaign = await tenant.campaign()
    refused = await tenant.call(method, path.format(campaign), 422, json=body)
    assert refused["code"] == "request_invalid"


async def test_only_bad_leads_are_an_error(tenant: Tenant) -> None:
    path = f"/v1/campaigns/{await tenant.campaign()}/leads"
    refused = await tenant.call("POST", path, 422, json={"leads": [{"email": "x"}]})
    assert (refused["code"], len(refused["errors"])) == ("leads_invalid", 1)
    await tenant.call("POST", path, 422, json={"leads": []})
    await tenant.call("POST", path, 422, json={"leads": [{"email": "a@b.test"}] * 1001})


async def test_an_idempotency_key_makes_a_repeat_harmless(tenant: Tenant) -> None:
    path = f"/v1/campaigns/{await tenant.campaign()}/leads"
    request = {"json": {"leads": [{"email": "a@lead.test"}]}, "headers": {"Idempotency-Key": "k1"}}
    first = await tenant.call("POST", path, 202, **request)
    assert await tenant.call("POST", path, 202, **request) == first
    assert len(tenant.outbox("lead-enrolled")) == 1
    other = request | {"json": {"leads": [{"email": "b@lead.test"}]}}
    assert (await tenant.call("POST", path, 422, **other))["code"] == "idempotency_key_reused"
    await tenant.call("POST", path, 202, json=request["json"])
    assert len(tenant.outbox("lead-enrolled")) == 2


async def test_old_keys_are_forgotten_and_their_repeats_still_enroll_nobody_again(
    tenant: Tenant, parts: Parts
) -> None:
    path = f"/v1/campaigns/{await tenant.campaign()}/leads"

    async def enrolled(key: str, email: str) -> str:
        told = await tenant.call(
            "POST", path, 202, json={"leads": [{"email": email}]}, headers={"Idempotency-Key": key}
        )
        return str(told["accepted"][0]["event_id"])

    first, taken = await enrolled("repeated", "a@lead.test"), await enrolled("taken", "b@lead.test")
    tenant.rows("UPDATE gateway.idempotency_key SET created_at = created_at - interval '31 days'"
                " WHERE workspace_id = %s", tenant.number)  # fmt: skip
    await enrolled("new", "c@lead.test")
    assert await idempotency.trim(parts) >= 2
    assert tenant.rows(
        "SELECT key FROM gateway.idempotency_key WHERE workspace_id = %s", tenant.number
    ) == [{"key": "new"}]
    # The scheduler takes an event once, by its id: the first time it comes.
    assert await enrolled("repeated", "a@lead.test") == first
    assert await enrolled("taken", "d@lead.test") != taken


async def test_a_stopped_campaign_takes_no_leads(tenant: Tenant) -> None:
    campaign = await tenant.ready_campaign()
    await tenant.call("POST", f"/v1/campaigns/{campaign}/start")
    await tenant.call("POST", f"/v1/campaigns/{campaign}/stop")
    leads = {"leads": [{"email": "a@lead.test"}]}
    refused = await tenant.call("POST", f"/v1/campaigns/{campaign}/leads", 409, json=leads)
    assert refused["code"] == "campaign_state"
    assert tenant.outbox("lead-enrolled") == []


async def test_a_receipt_tells_what_became_of_an_event(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    leads = {"leads": [{"email": "a@lead.test"}]}
    answer = await tenant.call("POST", f"/v1/campaigns/{campaign}/leads", 202, json=leads)
    event = answer["accepted"][0]["event_id"]
    assert (await tenant.call("GET", f"/v1/receipts/{event}", 404))["code"] == "receipt_pending"
    tenant.rows(
        "INSERT INTO scheduler.receipt (workspace_id, source, event_id, outcome, reason)"
        " VALUES (%s, 'paceline/gateway', %s, 'suppressed', 'unsubscribed')",
        tenant.number, event,
    )  # fmt: skip
    receipt = await tenant.call("GET", f"/v1/receipts/{event}")
    assert (receipt["outcome"], receipt["reason"]) == ("suppressed", "unsubscribed")


async def test_enrollments_are_filtered_and_stopped(tenant: Tenant, hasher: AddressHasher) -> None:
    campaign, other = await tenant.campaign(), await tenant.campaign(name="other")
    ann = enroll(tenant, hasher, campaign, "ann@lead.test")
    enroll(tenant, hasher, other, "bob@lead.test")
    (found,) = (await tenant.call("GET", f"/v1/enrollments?campaign_id={campaign}"))["items"]
    assert (found["id"], found["email"], found["state"]) == (ann.id, "ann@lead.test", "active")
    assert found["reason"] == "campaign_not_started"
    assert found["job"]["state"] == "queued"
    (by_email,) = (await tenant.call("GET", "/v1/enrollments?email=BOB@lead.test"))["items"]
    assert by_email["campaign_id"] == other
    stopped = await tenant.call("POST", f"/v1/enrollments/{ann.id}/stop")
    assert (stopped["state"], stopped["reason"]) == ("stopped", "stopped_by_operator")
    assert (await tenant.call("POST", f"/v1/enrollments/{ann.id}/stop"))["state"] == "stopped"
    assert tenant.audited().count("enrollment.stopped") == 1
    (left,) = (await tenant.call("GET", "/v1/enrollments?state=active"))["items"]
    assert left["email"] == "bob@lead.test"


async def test_a_lead_is_edited_but_keeps_its_address(
    tenant: Tenant, hasher: AddressHasher
) -> None:
    lead = enroll(tenant, hasher, await tenant.campaign(), "ann@lead.test").lead_id
    path = f"/v1/leads/{ids.encode('lead', lead)}"
    changed = await tenant.call(
        "PATCH", path, json={"first_name": "Ann", "fields": {"plan": "team"}}
    )
    assert (changed["first_name"], changed["fields"]) == ("Ann", {"plan": "team"})
    changed = await tenant.call("PATCH", path, json={"fields": {"plan": None}})
    assert (changed["first_name"], changed["fields"]) == ("Ann", {})
    await tenant.call("PATCH", path, 422, json={"email": "other@lead.test"})
    assert [one["email"] for one in (await tenant.call("GET", "/v1/leads"))["items"]] == [
        "ann@lead.test"
    ]


async def test_missing_variables_are_counted_over_the_leads(
    tenant: Tenant, hasher: AddressHasher
) -> None:
    campaign = await tenant.ready_campaign(
        steps=[{"subject": "Hi {{ first_name }}", "text": "your {{ plan }}"}]
    )
    ann = enroll(tenant, hasher, campaign, "ann@lead.test")
    enroll(tenant, hasher, campaign, "bob@lead.test")
    path = f"/v1/leads/{ids.encode('lead', ann.lead_id)}"
    await tenant.call("PATCH", path, json={"first_name": "Ann", "fields": {"plan": "team"}})
    checked = await tenant.call("POST", f"/v1/campaigns/{campaign}/check")
    messages = {one["where"]: one["message"] for one in checked["findings"]}
    assert messages["steps[1].subject"].startswith("1 of 2 leads have no first_name")
    assert messages["steps[1].text"].startswith("1 of 2 leads have no plan")


async def test_a_suppression_ends_what_was_open_and_can_be_lifted(
    tenant: Tenant, hasher: AddressHasher
) -> None:
    ann = enroll(tenant, hasher, await tenant.campaign(), "ann@lead.test")
    made = await tenant.call("POST", "/v1/suppressions", 201, json={"email": "ANN@lead.test"})
    ended = await tenant.call("GET", f"/v1/enrollments/{ann.id}")
    assert (ended["state"], ended["job"]["state"]) == ("suppressed", "cancelled")
    again = await tenant.call("POST", "/v1/suppressions", 201, json={"email": "ann@lead.test"})
    assert again == made
    domain = await tenant.call("POST", "/v1/suppressions", 201, json={"domain": "Other.test"})
    found = (await tenant.call("GET", "/v1/suppressions"))["items"]
    assert {one["id"]: one["email"] for one in found} == {
        made["id"]: "ann@lead.test",
        domain["id"]: None,
    }
    assert {one["reason"] for one in found} == {"manual"}
    await tenant.call("DELETE", f"/v1/suppressions/{made['id']}", 204)
    await tenant.call("DELETE", f"/v1/suppressions/{made['id']}", 404)
    assert (await tenant.call("GET", f"/v1/enrollments/{ann.id}"))["state"] == "suppressed"
    recorded = [action for action in tenant.audited() if action.startswith("suppression")]
    assert recorded == ["suppression.added"] * 3 + ["suppression.lifted"]
    for wrong in ({}, {"email": "x"}, {"email": "a@b.test", "domain": "b.test"}):
        await tenant.call("POST", "/v1/suppressions", 422, json=wrong)


async def test_send_log_and_report(tenant: Tenant, hasher: AddressHasher) -> None:
    mailbox = (await tenant.mailbox())["id"]
    campaign = await tenant.campaign(tiers=[[await tenant.pool(mailbox)]])
    ann = enroll(tenant, hasher, campaign, "ann@lead.test")
    bob = enroll(tenant, hasher, campaign, "bob@lead.test")
    for one, outcome, code in ((ann, "unsent", None), (bob, "failed", 550)):
        tenant.rows(
            "INSERT INTO sender.attempt (workspace_id, job_id, fence, attempt_no, enrollment_id,"
            " campaign_id, step, mailbox_id, provider, outcome, outcome_class, code, text,"
            " started_at, finished_at) VALUES (%s, %s, 1, 1, %s, %s, 1, %s, 'smtp', %s, 'config',"
            " %s, 'its own words', now(), now())",
            tenant.number, one.job_id, one.enrollment_id, ids.decode("cmp", campaign),
            ids.decode("mbx", mailbox), outcome, code,
        )  # fmt: skip
    log = (await tenant.call("GET", f"/v1/sends?campaign_id={campaign}"))["items"]
    assert [(one["outcome"], one["code"]) for one in log] == [("failed", 550), ("unsent", None)]
    assert log[0]["text"] == "its own words"
    first = await tenant.call("GET", "/v1/sends?limit=1")
    second = await tenant.call("GET", f"/v1/sends?limit=1&cursor={first['next_cursor']}")
    assert [*first["items"], *second["items"]] == log
    await tenant.call("POST", f"/v1/enrollments/{ann.id}/stop")
    report = await tenant.call("GET", f"/v1/campaigns/{campaign}/report")
    assert report["enrollments"] == 2
    assert report["states"]["active"] == 1
    assert report["states"]["stopped"] == 1
    assert report["complete"] is False
    assert report["waiting"] == [{"step": 1, "reason": "campaign_not_started", "count": 1}]
    (by_mailbox,) = report["mailboxes"]
    assert (by_mailbox["mailbox_id"], by_mailbox["failed"]) == (mailbox, 1)
    assert [(one["step"], one["failed"]) for one in report["steps"]] == [(1, 1)]
