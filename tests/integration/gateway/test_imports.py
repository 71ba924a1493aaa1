"""CSV imports: every row is taken or listed, and no retry enrolls anybody twice."""

import json
from typing import Any

import pytest

from paceline_common import ids
from paceline_gateway.parts import Parts

from .conftest import Tenant

CSV = (
    "E-Mail;First Name;Plan\r\n"
    "ann@lead.test;Ann;team\r\n"
    "not-an-address;Bob;team\r\n"
    "\r\n"
    "cid@lead.test;Cid;team;extra\r\n"
    ";Dan;team\r\n"
    "eve@lead.test;Ève;\r\n"
)


async def upload(
    tenant: Tenant, campaign: str, content: bytes, expect: int = 201, **request: Any
) -> Any:
    return await tenant.call(
        "POST", f"/v1/campaigns/{campaign}/imports", expect, content=content, **request
    )


async def errors(tenant: Tenant, made: dict[str, Any]) -> list[dict[str, Any]]:
    page = await tenant.call("GET", f"/v1/imports/{made['id']}/errors")
    return list(page["items"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
async def test_good_rows_are_published_and_each_bad_one_is_listed(
    tenant: Tenant, encoding: str
) -> None:
    campaign = await tenant.campaign()
    made = await upload(tenant, campaign, CSV.encode(encoding))
    assert (made["status"], made["delimiter"]) == ("done", ";")
    assert made["mapping"] == {"E-Mail": "email", "First Name": "first_name", "Plan": "plan"}
    counts = made["counts"]
    assert (counts["rows"], counts["errors"], counts["pending"]) == (5, 3, 2)
    found = await errors(tenant, made)
    assert [(one["row"], one["line"], one["column"], one["code"]) for one in found] == [
        (2, 3, "E-Mail", "email_invalid"),
        (3, 5, None, "too_many_cells"),
        (4, 6, "E-Mail", "email_missing"),
    ]
    ann, eve = tenant.outbox("lead-enrolled")
    assert (ann["email"], ann["fields"], ann["row"]) == ("ann@lead.test", {"plan": "team"}, 1)
    assert (eve["first_name"], eve["fields"], eve["row"]) == ("Ève", {}, 5)
    assert {one["import_id"] for one in (ann, eve)} == {made["id"]}
    assert "leads.imported" in tenant.audited()


async def test_a_form_works_as_well_with_a_mapping(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    made = await tenant.call(
        "POST", f"/v1/campaigns/{campaign}/imports", 201,
        files={"file": ("leads.csv", b"Kontakt,Notiz\na@lead.test,secret\n", "text/csv")},
        data={"mapping": json.dumps({"Kontakt": "email", "Notiz": None})},
    )  # fmt: skip
    assert made["filename"] == "leads.csv"
    assert made["mapping"] == {"Kontakt": "email", "Notiz": None}
    (lead,) = tenant.outbox("lead-enrolled")
    assert (lead["email"], lead["fields"]) == ("a@lead.test", {})
    missing = await tenant.call(
        "POST", f"/v1/campaigns/{campaign}/imports", 422, files={"other": b"x"}
    )
    assert missing["code"] == "request_invalid"


@pytest.mark.parametrize(
    ("content", "query", "code"),
    [
        (b"", "", "import_empty"),
        (b"name\nAnn\n", "", "import_email_missing"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "", "import_not_csv"),
        (b"PK\x03\x04xlsx", "", "import_not_csv"),
        ("email,n\na@b.test,\xe9\n".encode("cp1252"), "encoding=utf-8", "import_encoding_wrong"),
        (b"email\na@b.test\n", "encoding=klingon", "import_encoding_unknown"),
        (b"email," + b",".join(b"c%d" % i for i in range(200)), "", "import_too_many_columns"),
        (b"email,mail\n", "", "import_duplicate_column"),
        (b"email\n", 'mapping={"phone":"phone"}', "import_mapping_unknown"),
        (b"email\n", "mapping=[1]", "import_mapping_invalid"),
        (b"email\n", "mapping=x", "import_mapping_invalid"),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_and_nothing_of_it_taken(
    tenant: Tenant, content: bytes, query: str, code: str
) -> None:
    campaign = await tenant.campaign()
    refused = await tenant.call(
        "POST", f"/v1/campaigns/{campaign}/imports?{query}", 422, content=content
    )
    assert refused["code"] == code
    assert refused["detail"]
    assert tenant.outbox("lead-enrolled") == []
    assert (await tenant.call("GET", "/v1/imports"))["items"] == []


async def test_a_line_of_a_megabyte_is_one_bad_row(tenant: Tenant) -> None:
    content = b"email,n\na@lead.test,1\nb@lead.test," + b"x" * 1_000_000 + b"\nc@lead.test,3\n"
    made = await upload(tenant, await tenant.campaign(), content)
    (error,) = await errors(tenant, made)
    assert (error["row"], error["code"]) == (2, "line_too_long")
    assert [one["email"] for one in tenant.outbox("lead-enrolled")] == [
        "a@lead.test",
        "c@lead.test",
    ]


async def test_a_file_past_the_limit_is_refused(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = await tenant.campaign()
    limit = 100 * 1024 * 1024

    async def endless() -> Any:
        yield b"email\n"
        while True:
            yield b"a@lead.test\n" * 100_000

    answer = await tenant.http.post(f"/v1/campaigns/{campaign}/imports", content=endless())
    assert answer.status_code == 413
    assert answer.json()["max_bytes"] == limit
    early = await tenant.http.post(
        f"/v1/campaigns/{campaign}/imports", content=b"", headers={"content-length": str(limit + 1)}
    )
    assert early.status_code == 413


async def test_a_repeat_under_the_same_key_is_the_same_import(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    key = {"Idempotency-Key": "upload-1"}
    first = await upload(tenant, campaign, CSV.encode(), headers=key)
    assert await upload(tenant, campaign, CSV.encode(), headers=key) == first
    assert len(tenant.outbox("lead-enrolled")) == 2
    other = await upload(tenant, campaign, CSV.replace("ann", "amy").encode(), 422, headers=key)
    assert other["code"] == "idempotency_key_reused"


async def test_an_import_that_was_cut_off_goes_on_with_the_same_events(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    rows = "".join(f"p{i}@lead.test,x{i}\n" for i in range(20))
    key = {"Idempotency-Key": "cut"}
    content = f"email,n\n{rows}bad,x\n".encode()
    made = await upload(tenant, campaign, content, headers=key)
    before = [one["event_id"] for one in tenant.outbox("lead-enrolled")]
    # As after a crash within the third batch: some rows are out, the end was never written.
    tenant.rows(
        "UPDATE gateway.lead_import SET status = 'reading', row_count = 14, finished_at = NULL"
        " WHERE workspace_id = %s",
        tenant.number,
    )
    again = await upload(tenant, campaign, content, headers=key)
    assert (again["id"], again["status"]) == (made["id"], "done")
    assert again["counts"] == made["counts"]
    assert len(await errors(tenant, again)) == 1
    after = [one["event_id"] for one in tenant.outbox("lead-enrolled")]
    assert len(before) == 20
    assert set(after) == set(before)


async def test_receipts_say_what_became_of_each_row(tenant: Tenant) -> None:
    rows = "".join(f"p{i}@lead.test\n" for i in range(5))
    made = await upload(tenant, await tenant.campaign(), f"email\n{rows}bad\n".encode())
    number = ids.decode("imp", made["id"])
    events = {one["row"]: one["event_id"] for one in tenant.outbox("lead-enrolled")}
    for row, outcome, reason in (
        (1, "enrolled", None),
        (2, "duplicate", "in_file"),
        (3, "suppressed", "hard_bounce"),
        (4, "refused", "campaign_stopped"),
    ):
        tenant.rows(
            "INSERT INTO scheduler.receipt (workspace_id, source, event_id, import_id, row_number,"
            " outcome, reason) VALUES (%s, 'paceline/gateway', %s, %s, %s, %s, %s)",
            tenant.number, events[row], number, row, outcome, reason,
        )  # fmt: skip
    counts = (await tenant.call("GET", f"/v1/imports/{made['id']}"))["counts"]
    assert counts == {
        "rows": 6, "errors": 1, "enrolled": 1, "duplicate": 1, "suppressed": 1, "refused": 1,
        "pending": 1,
    }  # fmt: skip
    page = await tenant.call("GET", f"/v1/imports/{made['id']}/rows?limit=4")
    rest = await tenant.call(
        "GET", f"/v1/imports/{made['id']}/rows?limit=4&cursor={page['next_cursor']}"
    )
    outcomes = [one["outcome"] for one in (*page["items"], *rest["items"])]
    assert outcomes == ["enrolled", "duplicate", "suppressed", "refused", "pending", "error"]
    (refused,) = (await tenant.call("GET", f"/v1/imports/{made['id']}/rows?outcome=refused"))[
        "items"
    ]
    assert (refused["row"], refused["reason"]) == (4, "campaign_stopped")


@pytest.mark.parametrize("as_form", [False, True])
async def test_a_file_past_the_limit_is_refused_and_one_at_it_is_taken(
    tenant: Tenant, parts: Parts, as_form: bool
) -> None:
    parts.settings = parts.settings.model_copy(update={"import_max_bytes": 2000})
    path = f"/v1/campaigns/{await tenant.campaign()}/imports"
    whole = b"email,note\na@lead.test," + b"x" * 1976 + b"\n"
    for content, status in ((whole, 201), (whole + b"\n", 413)):
        sent = {"files": {"file": ("leads.csv", content)}} if as_form else {"content": content}
        answer = await tenant.call("POST", path, status, **sent)
    assert (answer["code"], answer["max_bytes"]) == ("import_too_large", 2000)
