"""Contents of messages: variants, files, a mailbox's own defaults, tracking, previews, reports."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import pytest

from paceline_common import ids, tracking
from paceline_common.address import AddressHasher
from paceline_common.keys import KeyService
from paceline_common.storage import ObjectMissing, ObjectStore
from paceline_gateway import attachments
from paceline_gateway.parts import Parts

from .conftest import Peers, Tenant, enroll

PDF = b"%PDF-1.7 in confidence " + bytes(range(256)) * 20


async def upload(
    tenant: Tenant, name: str = "offer.pdf", content: bytes = PDF, **query: str
) -> Any:
    return await tenant.call(
        "POST", "/v1/attachments", 201, content=content, params={"filename": name, **query},
        headers={"content-type": "application/octet-stream"},
    )  # fmt: skip


# ---- steps


async def test_a_step_has_variants_and_keeps_them_as_they_were_set(tenant: Tenant) -> None:
    variants = [
        {"name": "A", "weight": 1, "subject": None, "text": "{Hi|Hello} {{ first_name }}",
         "html": None},
        {"name": "B", "weight": 0, "subject": "Other", "text": "B", "html": "<p>B</p>"},
    ]  # fmt: skip
    campaign = await tenant.campaign(steps=[{"subject": "One", "variants": variants}])
    (step,) = (await tenant.call("GET", f"/v1/campaigns/{campaign}"))["steps"]
    assert (step["variants"], step["text"], step["html"]) == (variants, "", None)
    assert step["version"] == 1
    (seen,) = tenant.seen_by("sender", "SELECT subject, variants, attachments FROM gateway.v_step")
    assert seen == {"subject": "One", "variants": variants, "attachments": []}
    body = {"steps": [{"subject": "One", "variants": variants}]}
    same = await tenant.call("PATCH", f"/v1/campaigns/{campaign}", json=body)
    assert same["steps"][0]["version"] == 1
    variants[1]["weight"] = 4
    body = {"steps": [{"subject": "One", "variants": variants}]}
    changed = await tenant.call("PATCH", f"/v1/campaigns/{campaign}", json=body)
    assert changed["steps"][0]["version"] == 2


async def test_every_fault_of_every_template_is_told_with_its_place(tenant: Tenant) -> None:
    steps = [
        {"subject": "Hi {{ x", "text": "fine"},
        {"variants": [
            {"name": "A", "text": "fine"},
            {"name": "B", "text": "a\nb {one|two", "html": "<p>{{ x | nofilter }}</p>"},
        ]},
    ]  # fmt: skip
    body = {"name": "x", "steps": steps}
    refused = await tenant.call("POST", "/v1/campaigns", 422, json=body)
    assert refused["code"] == "template_invalid"
    assert [(one["where"], one["line"], one["column"]) for one in refused["errors"]] == [
        ("steps[1].subject", 1, 4),
        ("steps[2].variants[2].text", 2, 3),
        ("steps[2].variants[2].html", 1, 11),
    ]
    assert refused["where"] == "steps[1].subject"


@pytest.mark.parametrize(
    ("step", "where"),
    [
        ({"variants": [{"name": "A", "text": "a"}, {"name": "A", "text": "b"}]},
         "steps[1].variants[2].name"),
        ({"variants": [{"name": "A", "text": "a", "weight": 0}]}, "steps[1].variants"),
        ({"text": "a", "attachments": [ids.encode("att", 2**40)]}, "steps[1].attachments[1]"),
        ({"text": "a", "html": '<img src="cid:logo">'}, "steps[1].html"),
    ],
)  # fmt: skip
async def test_a_step_that_cannot_be_sent_is_refused(
    tenant: Tenant, step: dict[str, Any], where: str
) -> None:
    body = {"name": "x", "steps": [{"subject": "s", **step}]}
    refused = await tenant.call("POST", "/v1/campaigns", 422, json=body)
    assert (refused["code"], refused["where"]) == ("steps_invalid", where)


@pytest.mark.parametrize(
    "step", [{"subject": "s"}, {"text": "a", "variants": [{"name": "A", "text": "b"}]}]
)
async def test_a_step_has_one_kind_of_content(tenant: Tenant, step: dict[str, Any]) -> None:
    refused = await tenant.call("POST", "/v1/campaigns", 422, json={"name": "x", "steps": [step]})
    assert refused["code"] == "request_invalid"


# ---- attachments


async def test_a_file_is_stored_sealed_and_goes_when_no_step_needs_it(
    tenant: Tenant, parts: Parts
) -> None:
    made = await upload(tenant, "Angebot für Bøb.pdf")
    assert made["content_type"] == "application/pdf"
    assert (made["size"], made["sha256"]) == (len(PDF), hashlib.sha256(PDF).hexdigest())
    assert (await tenant.call("GET", "/v1/attachments"))["items"] == [made]
    assert await tenant.call("GET", f"/v1/attachments/{made['id']}") == made
    (row,) = tenant.seen_by("sender", "SELECT * FROM gateway.v_attachment")
    store = ObjectStore.of(parts.settings)
    sealed = await store.get(row["storage_key"])
    assert b"in confidence" not in sealed

    step = {"subject": "s", "text": "t", "attachments": [made["id"]]}
    campaign = await tenant.campaign(steps=[step])
    shown = await tenant.call("GET", f"/v1/campaigns/{campaign}")
    assert shown["steps"][0]["attachments"] == [made["id"]]
    used = await tenant.call("DELETE", f"/v1/attachments/{made['id']}", 409)
    assert used["code"] == "attachment_in_use"
    assert used["steps"] == [{"campaign_id": campaign, "position": 1}]
    step["attachments"] = []
    changed = await tenant.call("PATCH", f"/v1/campaigns/{campaign}", json={"steps": [step]})
    assert changed["steps"][0]["version"] == 2
    await tenant.call("DELETE", f"/v1/attachments/{made['id']}", 204)
    await tenant.call("DELETE", f"/v1/attachments/{made['id']}", 404)
    with pytest.raises(ObjectMissing):
        await store.get(row["storage_key"])
    assert (
        tenant.rows("SELECT * FROM gateway.attachment WHERE workspace_id = %s", tenant.number) == []
    )
    assert tenant.audited()[-1] == "attachment.deleted"


async def test_a_form_may_carry_the_file(tenant: Tenant) -> None:
    made = await tenant.call(
        "POST", "/v1/attachments", 201, files={"file": ("logo.png", b"\x89PNG....", "image/png")},
        params={"content_id": "logo"},
    )  # fmt: skip
    assert (made["filename"], made["content_type"], made["content_id"]) == (
        "logo.png", "image/png", "logo",
    )  # fmt: skip
    step = {
        "subject": "s",
        "text": "t",
        "html": '<img src="cid:logo">',
        "attachments": [made["id"]],
    }
    await tenant.campaign(steps=[step])


@pytest.mark.parametrize(
    ("name", "content", "query", "code"),
    [
        ("virus.exe", b"MZ", {}, "attachment_refused"),
        ("page.js", b"x", {}, "attachment_refused"),
        ("mail.eml", b"x", {}, "attachment_refused"),
        ("empty.pdf", b"", {}, "attachment_refused"),
        ("offer.pdf", b"x", {"content_id": "logo"}, "attachment_refused"),
        ("logo.png", b"x", {"content_id": "a b"}, "attachment_refused"),
        ("..", b"x", {}, "attachment_refused"),
    ],
)
async def test_what_receivers_refuse_is_refused_at_upload(
    tenant: Tenant, name: str, content: bytes, query: dict[str, str], code: str
) -> None:
    refused = await tenant.call(
        "POST", "/v1/attachments", 422, content=content, params={"filename": name, **query}
    )
    assert refused["code"] == code


async def test_limits_hold_for_a_file_and_for_the_workspace(tenant: Tenant, parts: Parts) -> None:
    parts.settings = parts.settings.model_copy(
        update={"attachment_max_bytes": 2000, "attachments_max_bytes": 5000}
    )

    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 100

    for body in ({"content": b"x" * 2001}, {"content": endless()},
                 {"files": {"file": ("a.bin", b"x" * 2001)}}):  # fmt: skip
        large = await tenant.call(
            "POST", "/v1/attachments", 413, params={"filename": "a.zip"}, **body
        )
        assert (large["code"], large["max_bytes"]) == ("attachment_too_large", 2000)
    # At once, they keep to the limit together.
    answers = await asyncio.gather(
        *(
            tenant.http.post("/v1/attachments", params={"filename": "a.zip"}, content=b"y" * 2000)
            for _ in range(4)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 201, 409, 409]
    assert {a.json().get("code") for a in answers if a.status_code == 409} == {"attachments_full"}


async def test_without_a_storage_nothing_is_taken(tenant: Tenant, parts: Parts) -> None:
    parts.files._store = ObjectStore(None)
    away = await tenant.call(
        "POST", "/v1/attachments", 503, content=b"x", params={"filename": "a.zip"}
    )
    assert away["code"] == "storage_unavailable"
    assert (await tenant.call("GET", "/v1/attachments"))["items"] == []


async def test_what_was_begun_or_deleted_is_swept(tenant: Tenant, parts: Parts) -> None:
    store = ObjectStore.of(parts.settings)
    kept = await upload(tenant, "kept.zip")
    for state, age in (("uploading", timedelta(hours=2)), ("deleted", timedelta())):
        key = f"attachments/{tenant.number}/left-{state}"
        await store.put(key, b"sealed")
        tenant.rows(
            "INSERT INTO gateway.attachment (workspace_id, filename, content_type, size, digest,"
            " storage_key, state, created_at) VALUES (%s, 'a', 'a/b', 1, sha256('x'), %s, %s,"
            " now() - %s)",
            tenant.number, key, state, age,
        )  # fmt: skip
    await attachments.sweep(parts)
    rows = tenant.rows("SELECT * FROM gateway.attachment WHERE workspace_id = %s", tenant.number)
    assert [row["filename"] for row in rows] == ["kept.zip"]
    for state in ("uploading", "deleted"):
        with pytest.raises(ObjectMissing):
            await store.get(f"attachments/{tenant.number}/left-{state}")
    assert (await tenant.call("GET", "/v1/attachments"))["items"] == [kept]


# ---- what a mailbox and a workspace put into messages


async def test_a_mailbox_has_defaults_for_its_messages(tenant: Tenant) -> None:
    message = {
        "signature_text": "Ann\n{{ sender.email }}", "signature_html": "<b>{{ sender.name }}</b>",
        "headers": [{"name": "X-Team", "value": "Nörd"}], "return_path": "bounces@sender.test",
        "encoding": "base64", "tracking_domain": "t.sender.test",
    }  # fmt: skip
    made = await tenant.mailbox(message=message)
    assert made["message"] == message
    path = f"/v1/mailboxes/{made['id']}"
    patch = {"message": {"signature_html": None, "tracking_domain": None}}
    changed = await tenant.call("PATCH", path, json=patch)
    assert changed["message"] == {**message, "signature_html": None, "tracking_domain": None}
    assert changed["version"] == made["version"] + 1
    (seen,) = tenant.seen_by(
        "sender",
        "SELECT signature_text, headers, return_path, encoding, tracking_domain"
        " FROM gateway.v_mailbox",
    )
    assert seen["headers"] == [["X-Team", "Nörd"]]
    assert (seen["encoding"], seen["tracking_domain"]) == ("base64", None)
    plain = await tenant.mailbox("bob@sender.test")
    assert plain["message"] == {
        "signature_text": None, "signature_html": None, "headers": [], "return_path": None,
        "encoding": "quoted-printable", "tracking_domain": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"headers": [{"name": "Bcc", "value": "eve@x.test"}]}, "header_refused"),
        ({"headers": [{"name": "X-A", "value": "a\r\nBcc: b"}]}, "header_refused"),
        ({"headers": [{"name": "X-Paceline-Job", "value": "x"}]}, "header_refused"),
        ({"signature_text": "{{ oops"}, "template_invalid"),
        ({"signature_html": "Hi {{ first_name }}"}, "template_invalid"),
        ({"tracking_domain": "not a domain"}, "request_invalid"),
        ({"encoding": "8bit"}, "request_invalid"),
    ],
)
async def test_defaults_that_no_message_could_have_are_refused(
    tenant: Tenant, message: dict[str, Any], code: str
) -> None:
    made = await tenant.mailbox()
    refused = await tenant.call(
        "PATCH", f"/v1/mailboxes/{made['id']}", 422, json={"message": message}
    )
    assert refused["code"] == code


async def test_a_workspace_has_headers_for_all_its_messages(tenant: Tenant) -> None:
    headers = [{"name": "X-Company", "value": "One"}]
    changed = await tenant.call("PATCH", "/v1/workspace", json={"headers": headers})
    assert changed["headers"] == headers
    (seen,) = tenant.seen_by("sender", "SELECT headers FROM gateway.v_workspace")
    assert seen["headers"] == [["X-Company", "One"]]
    refused = await tenant.call(
        "PATCH", "/v1/workspace", 422, json={"headers": [{"name": "Subject", "value": "x"}]}
    )
    assert (refused["code"], refused["reason"]) == ("header_refused", "header_identity")


# ---- before the start


async def test_tracking_needs_a_domain_at_every_mailbox(tenant: Tenant) -> None:
    mailboxes = [(await tenant.mailbox(f"{name}@sender.test"))["id"] for name in ("ann", "bob")]
    campaign = await tenant.campaign(tiers=[[await tenant.pool(*mailboxes)]], track_clicks=True)
    path = f"/v1/campaigns/{campaign}"
    shown = await tenant.call("GET", path)
    assert (shown["track_opens"], shown["track_clicks"]) == (False, True)
    refused = await tenant.call("POST", f"{path}/start", 422)
    (finding,) = refused["findings"]
    assert (finding["code"], finding["count"]) == ("tracking_domain_missing", 2)
    for number, mailbox in enumerate(mailboxes):
        body = {"message": {"tracking_domain": f"t{number}.sender.test"}}
        await tenant.call("PATCH", f"/v1/mailboxes/{mailbox}", json=body)
    assert (await tenant.call("POST", f"{path}/start"))["campaign"]["status"] == "running"
    (seen,) = tenant.seen_by("sender", "SELECT track_opens, track_clicks FROM gateway.v_campaign")
    assert seen == {"track_opens": False, "track_clicks": True}


async def test_what_leads_lack_is_told_with_counts_and_examples(
    tenant: Tenant, hasher: AddressHasher
) -> None:
    variants = [
        {"name": "A", "text": "{Hi {{ first_name }}|Hello}"},
        {"name": "B", "text": "{% if email %}at {{ company }}{% endif %}"},
    ]
    campaign = await tenant.ready_campaign(steps=[{"subject": "s", "variants": variants}])
    for n in range(5):
        lead = enroll(tenant, hasher, campaign, f"lead{n}@lead.test")
        if n == 0:
            await tenant.call(
                "PATCH", f"/v1/leads/{ids.encode('lead', lead.lead_id)}",
                json={"first_name": "Ann", "company": "One"},
            )  # fmt: skip
    checked = await tenant.call("POST", f"/v1/campaigns/{campaign}/check")
    assert checked["ok"] is True
    found = {one["where"]: one for one in checked["findings"]}
    first = found["steps[1].variants[1].text"]
    assert first["message"].startswith("4 of 5 leads have no first_name")
    assert first["count"] == 4
    assert first["examples"] == ["lead1@lead.test", "lead2@lead.test", "lead3@lead.test"]
    second = found["steps[1].variants[2].text"]
    assert (second["code"], second["count"]) == ("missing_variable", 4)


async def test_files_that_a_provider_does_not_take_forbid_the_start(
    tenant: Tenant, parts: Parts
) -> None:
    made = await upload(tenant, "a.zip", b"z" * 2_500_000)
    step = {"subject": "s", "text": "t", "attachments": [made["id"]]}
    campaign = await tenant.ready_campaign(steps=[step])
    assert (await tenant.call("POST", f"/v1/campaigns/{campaign}/check"))["findings"] == []
    tenant.rows(
        "UPDATE gateway.mailbox SET kind = 'graph', smtp = NULL, imap = NULL, send_oauth = '{}',"
        " read_oauth = '{}' WHERE workspace_id = %s",
        tenant.number,
    )
    (finding,) = (await tenant.call("POST", f"/v1/campaigns/{campaign}/check"))["findings"]
    assert (finding["code"], finding["where"]) == ("message_too_large", "steps[1].attachments")
    parts.settings = parts.settings.model_copy(update={"message_max_bytes": 3_000_000})
    refused = await tenant.call("PATCH", f"/v1/campaigns/{campaign}", 422, json={"steps": [step]})
    assert (refused["code"], refused["where"]) == ("steps_invalid", "steps[1].attachments")


# ---- tracking


async def test_opens_and_clicks_are_counted_and_lead_to_what_was_signed_only(
    tenant: Tenant, hasher: AddressHasher, sender_keys: KeyService
) -> None:
    campaign = await tenant.ready_campaign(track_opens=True, track_clicks=True)
    lead = enroll(tenant, hasher, campaign, "ann@lead.test")
    job = ids.encode("job", lead.job_id)
    target = "https://acme.com/offer?a=1&b=2#top"
    opened = tracking.open_token(tenant.id, job)
    clicked = tracking.click_token(tenant.id, job, 1, target)
    evil = tracking.click_token(tenant.id, job, 1, "https://evil.com/")
    open_mac, click_mac = await sender_keys.mac(
        [tracking.open_mac_input(opened), tracking.click_mac_input(clicked)]
    )
    web = tenant.http
    for _ in range(2):
        pixel = await web.get(f"/t/o/{opened}.{open_mac}")
        assert (pixel.status_code, pixel.headers["content-type"]) == (200, "image/gif")
        assert "no-store" in pixel.headers["cache-control"]
    led = await web.get(f"/t/c/{clicked}.{click_mac}")
    assert (led.status_code, led.headers["location"]) == (302, target)
    assert (await web.head(f"/t/c/{clicked}.{click_mac}")).status_code == 302
    for wrong in (
        f"/t/c/{evil}.{click_mac}",
        f"/t/c/{clicked}.{open_mac}",
        f"/t/c/{clicked}.{click_mac[:-1]}",
        f"/t/c/{clicked}",
        f"/t/o/{opened}.{click_mac}",
        f"/t/c/{clicked}.{click_mac}?url=https://evil.com".replace(".1.", ".2.", 1),
        "/t/c/x", "/t/o/x",
    ):  # fmt: skip
        answer = await web.get(wrong)
        assert answer.status_code == 404, wrong
        assert "location" not in answer.headers

    items = (await tenant.call("GET", f"/v1/tracking?campaign_id={campaign}"))["items"]
    assert [(one["kind"], one["times"], one["url"], one["reliable"]) for one in items] == [
        ("click", 1, target, True), ("open", 2, None, False),
    ]  # fmt: skip
    assert {one["enrollment_id"] for one in items} == {lead.id}
    only = await tenant.call("GET", f"/v1/tracking?enrollment_id={lead.id}&kind=open")
    assert [one["kind"] for one in only["items"]] == ["open"]


async def test_a_valid_link_of_a_job_that_is_gone_still_leads_on(
    tenant: Tenant, sender_keys: KeyService
) -> None:
    token = tracking.click_token(tenant.id, ids.encode("job", 2**40), 1, "https://acme.com/")
    (mac,) = await sender_keys.mac([tracking.click_mac_input(token)])
    led = await tenant.http.get(f"/t/c/{token}.{mac}")
    assert (led.status_code, led.headers["location"]) == (302, "https://acme.com/")
    assert (await tenant.call("GET", "/v1/tracking"))["items"] == []


# ---- previews and reports

SHOWN = {
    "from_email": "ann@sender.test", "to_email": "x@lead.test", "envelope_from": "ann@sender.test",
    "subject": "Hi", "text": "Hello\n", "html": None, "headers": [{"name": "To", "value": "x"}],
    "attachments": [], "size": 1000, "variant": None, "missing": ["company"], "message": None,
}  # fmt: skip


async def test_an_enrollment_is_previewed_by_the_sender(
    tenant: Tenant, hasher: AddressHasher, peers: Peers
) -> None:
    assert peers.scheduler is not None
    peers.scheduler["preview"] = (200, SHOWN)
    mailbox = await tenant.mailbox()
    campaign = await tenant.campaign(tiers=[[await tenant.pool(mailbox["id"])]])
    lead = enroll(tenant, hasher, campaign, "x@lead.test")
    shown = await tenant.call("GET", f"/v1/enrollments/{lead.id}/preview?raw=true")
    assert shown == {**SHOWN, "mailbox_id": mailbox["id"], "mailbox_is": "example"}
    path, asked = peers.questions[-1]
    assert path == "/internal/preview/job"
    assert asked == {
        "workspace_id": tenant.id, "job_id": ids.encode("job", lead.job_id),
        "mailbox_id": mailbox["id"], "at": None, "variant": None, "raw": True,
    }  # fmt: skip
    tenant.rows(
        "UPDATE scheduler.send_job SET mailbox_id = %s WHERE job_id = %s",
        ids.decode("mbx", mailbox["id"]), lead.job_id,
    )  # fmt: skip
    shown = await tenant.call("GET", f"/v1/enrollments/{lead.id}/preview")
    assert shown["mailbox_is"] == "assigned"
    await tenant.call("GET", f"/v1/enrollments/{ids.encode('enr', 2**40)}/preview", 404)


async def test_a_step_is_previewed_for_given_values_or_a_lead(
    tenant: Tenant, hasher: AddressHasher, peers: Peers
) -> None:
    assert peers.scheduler is not None
    peers.scheduler["preview"] = (200, SHOWN)
    campaign = await tenant.ready_campaign()
    lead = enroll(tenant, hasher, campaign, "ann@lead.test")
    lead_id = ids.encode("lead", lead.lead_id)
    await tenant.call("PATCH", f"/v1/leads/{lead_id}", json={"fields": {"plan": "team"}})
    body = {"lead_id": lead_id, "lead": {"company": "One"}, "variant": "A", "draw": 3}
    shown = await tenant.call("POST", f"/v1/campaigns/{campaign}/preview", json=body)
    assert shown["subject"] == "Hi"
    path, asked = peers.questions[-1]
    assert path == "/internal/preview"
    assert (asked["campaign_id"], asked["step"], asked["variant"], asked["draw"]) == (
        campaign, 1, "A", 3,
    )  # fmt: skip
    assert asked["lead"] == {
        "plan": "team", "email": "ann@lead.test", "first_name": None, "last_name": None,
        "company": "One",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ((404, {"code": "step_not_found", "detail": "none"}), 404, "not_found"),
        ((422, {"code": "template_error", "detail": "line 1"}), 422, "preview_failed"),
        ((500, {"code": "internal_error", "detail": "x"}), 503, "preview_unavailable"),
        ((200, {"subject": "only"}), 503, "preview_unavailable"),
        (None, 503, "preview_unavailable"),
    ],
)
async def test_a_preview_that_fails_says_why(
    tenant: Tenant, peers: Peers, answer: tuple[int, Any] | None, status: int, code: str
) -> None:
    campaign = await tenant.ready_campaign()
    if answer is None:
        peers.scheduler = None
    else:
        assert peers.scheduler is not None
        peers.scheduler["preview"] = answer
    refused = await tenant.call(
        "POST", f"/v1/campaigns/{campaign}/preview", status, json={"step": 1}
    )
    assert refused["code"] == code


async def test_a_report_tells_variants_apart(tenant: Tenant, hasher: AddressHasher) -> None:
    mailbox = await tenant.mailbox(message={"tracking_domain": "t.sender.test"})
    campaign = await tenant.campaign(tiers=[[await tenant.pool(mailbox["id"])]], track_opens=True)
    number, mbx = ids.decode("cmp", campaign), ids.decode("mbx", mailbox["id"])
    for n, variant in enumerate(("A", "A", "B")):
        lead = enroll(tenant, hasher, campaign, f"lead{n}@lead.test")
        about = (tenant.number, lead.job_id, lead.enrollment_id, number, mbx)
        tenant.rows(
            "INSERT INTO sender.message (workspace_id, job_id, enrollment_id, campaign_id,"
            " mailbox_id, step, message_id, subject, references_, submitted_at, variant)"
            " VALUES (%s, %s, %s, %s, %s, 1, %s, 's', '{}', now(), %s)",
            *about, f"<{n}.{tenant.number}@x>", variant,
        )  # fmt: skip
        tenant.rows(
            "INSERT INTO sender.attempt (workspace_id, job_id, enrollment_id, campaign_id,"
            " mailbox_id, step, fence, attempt_no, provider, outcome, claimed_at, not_after,"
            " instance_id, message_id, started_at, finished_at) VALUES (%s, %s, %s, %s, %s, 1, 1,"
            " 1, 'smtp', 'accepted', now(), now(), gen_random_uuid(), 'x', now(), now())",
            *about,
        )  # fmt: skip
        if n == 0:
            tenant.rows(
                "INSERT INTO gateway.tracked (workspace_id, job_id, enrollment_id, campaign_id,"
                " step, kind, link, first_at, last_at)"
                " VALUES (%s, %s, %s, %s, 1, 'open', 0, now(), now())",
                *about[:4],
            )
    report = await tenant.call("GET", f"/v1/campaigns/{campaign}/report")
    assert report["variants"] == [
        {"step": 1, "variant": "A", "sent": 2, "bounced": 0, "replied": 0, "clicked": 0,
         "opened": 1},
        {"step": 1, "variant": "B", "sent": 1, "bounced": 0, "replied": 0, "clicked": 0,
         "opened": 0},
    ]  # fmt: skip
    assert (report["opened"], report["clicked"], report["opens_reliable"]) == (1, None, False)
    log = (await tenant.call("GET", f"/v1/sends?campaign_id={campaign}"))["items"]
    assert sorted(one["variant"] for one in log) == ["A", "A", "B"]
