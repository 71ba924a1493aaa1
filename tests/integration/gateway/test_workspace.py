"""The workspace's settings, and what follows from them."""

import asyncio
from collections.abc import Callable

import pytest

from .conftest import Tenant

PATH = "/v1/workspace"


async def test_a_workspace_begins_gently(tenant: Tenant) -> None:
    found = await tenant.call("GET", PATH)
    assert (found["id"], found["timezone"], found["country"]) == (tenant.id, "UTC", None)
    contact = {"parallel_campaigns": False, "min_days_between": 0, "company_stop": False}
    assert found["contact"] == contact
    (row,) = tenant.seen_by("scheduler", "SELECT * FROM gateway.v_workspace")
    assert (row["contact"], row["region"]) == (contact, None)


async def test_changes_reach_the_scheduler_and_are_announced(tenant: Tenant) -> None:
    body = {
        "timezone": "Europe/Berlin", "country": "DE", "region": "BY",
        "contact": {"min_days_between": 14, "company_stop": True},
    }  # fmt: skip
    found = await tenant.call("PATCH", PATH, json=body)
    contact = {"parallel_campaigns": False, "min_days_between": 14, "company_stop": True}
    assert (found["region"], found["contact"], found["version"]) == ("BY", contact, 2)
    (row,) = tenant.seen_by("scheduler", "SELECT * FROM gateway.v_workspace")
    assert (row["timezone"], row["country"], row["region"]) == ("Europe/Berlin", "DE", "BY")
    assert row["contact"] == contact
    (event,) = tenant.outbox("workspace-changed")
    assert (event["workspace_id"], event["version"]) == (tenant.id, 2)
    assert tenant.audited()[-1] == "workspace.changed"
    # The same again changes nothing.
    assert (await tenant.call("PATCH", PATH, json=body))["version"] == 2
    assert len(tenant.outbox("workspace-changed")) == 1
    found = await tenant.call("PATCH", PATH, json={"country": None, "region": None})
    assert (found["country"], found["region"], found["timezone"]) == (None, None, "Europe/Berlin")


async def test_only_mailboxes_without_their_own_follow(tenant: Tenant) -> None:
    follower = await tenant.mailbox("follower@sender.test")
    zoned = await tenant.mailbox("zoned@sender.test", timezone="America/Lima")
    placed = await tenant.mailbox("placed@sender.test", policy={"country": "FR", "region": "57"})
    gone = await tenant.mailbox("gone@sender.test")
    await tenant.call("DELETE", f"/v1/mailboxes/{gone['id']}", 204)

    def told() -> list[tuple[str, int]]:
        return [(one["mailbox_id"], one["version"]) for one in tenant.outbox("mailbox-changed")]

    before = told()
    await tenant.call("PATCH", PATH, json={"timezone": "Europe/Berlin"})
    assert told() == [*before, (follower["id"], 2), (placed["id"], 2)]
    before = told()
    await tenant.call("PATCH", PATH, json={"country": "DE", "region": "BE"})
    assert told() == [*before, (follower["id"], 3), (zoned["id"], 2)]
    before = told()
    await tenant.call("PATCH", PATH, json={"name": "another", "contact": {"company_stop": True}})
    assert told() == before
    rows = tenant.seen_by(
        "scheduler",
        "SELECT email, timezone, country, region FROM gateway.v_mailbox"
        " WHERE is_active ORDER BY mailbox_id",
    )
    assert [tuple(row.values())[1:] for row in rows] == [
        ("Europe/Berlin", "DE", "BE"), ("America/Lima", "DE", "BE"), ("Europe/Berlin", "FR", "57"),
    ]  # fmt: skip
    shown = (await tenant.call("GET", f"/v1/mailboxes/{follower['id']}"))["effective_policy"]
    assert (shown["country"], shown["region"]) == ("DE", "BE")


async def test_a_region_is_no_mailboxs_in_another_country(tenant: Tenant) -> None:
    await tenant.call("PATCH", PATH, json={"country": "DE", "region": "BY"})
    made = await tenant.mailbox(policy={"country": "FR"})
    shown = made["effective_policy"]
    assert (shown["country"], shown["region"]) == ("FR", None)
    (row,) = tenant.seen_by("scheduler", "SELECT country, region FROM gateway.v_mailbox")
    assert (row["country"], row["region"]) == ("FR", None)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"country": "DEU"}, "country"),
        ({"country": "ZZ"}, "country"),
        ({"region": "BY"}, "region"),
        ({"country": "FR", "region": "BY"}, "region"),
    ],
)
async def test_a_place_must_be_known(tenant: Tenant, body: dict[str, str], where: str) -> None:
    refused = await tenant.call("PATCH", PATH, 422, json=body)
    assert (refused["code"], refused["where"]) == ("place_unknown", where)


async def test_a_country_is_not_taken_from_under_its_region(tenant: Tenant) -> None:
    await tenant.call("PATCH", PATH, json={"country": "DE", "region": "BY"})
    refused = await tenant.call("PATCH", PATH, 422, json={"country": None})
    assert refused["where"] == "region"
    for body in ({"timezone": "Mars/Olympus"}, {"contact": {"min_days_between": -1}}, {"id": "x"}):
        await tenant.call("PATCH", PATH, 422, json=body)


async def test_shaping_rules_and_budgets_are_set_shown_and_taken_away(tenant: Tenant) -> None:
    rules = "/v1/shaping-rules"
    made = await tenant.call("PUT", f"{rules}/Example.COM.", json={"spacing_s": 0.5})
    assert (made["pattern"], made["spacing_s"], made["daily_max"]) == ("example.com", 0.5, None)
    await tenant.call("PUT", f"{rules}/*", json={"spacing_s": 30, "daily_max": 100})
    await tenant.call("PUT", f"{rules}/host:google", json={"daily_max": 2000})
    replaced = await tenant.call("PUT", f"{rules}/example.com", json={"daily_max": 5})
    assert (replaced["spacing_s"], replaced["daily_max"]) == (None, 5)
    rows = tenant.seen_by("scheduler", "SELECT * FROM gateway.v_shaping_rule ORDER BY pattern")
    seen = [(row["pattern"], row["spacing_s"], row["daily_max"]) for row in rows]
    assert sorted(seen) == [("*", 30, 100), ("example.com", None, 5), ("host:google", None, 2000)]
    listed = (await tenant.call("GET", rules))["items"]
    assert {one["pattern"] for one in listed} == {"*", "example.com", "host:google"}
    assert (await tenant.call("GET", f"{rules}/*"))["daily_max"] == 100
    await tenant.call("DELETE", f"{rules}/*", 204)
    await tenant.call("DELETE", f"{rules}/*", 204)
    await tenant.call("GET", f"{rules}/*", 404)

    budgets = "/v1/domain-budgets"
    made = await tenant.call("PUT", f"{budgets}/Bücher.test", json={"daily_max": 300})
    assert (made["domain"], made["daily_max"]) == ("xn--bcher-kva.test", 300)
    (row,) = tenant.seen_by("scheduler", "SELECT domain, daily_max FROM gateway.v_domain_budget")
    assert tuple(row.values()) == ("xn--bcher-kva.test", 300)
    assert (await tenant.call("GET", f"{budgets}/bücher.test"))["daily_max"] == 300
    assert len((await tenant.call("GET", budgets))["items"]) == 1
    await tenant.call("DELETE", f"{budgets}/bücher.test", 204)
    await tenant.call("GET", f"{budgets}/bücher.test", 404)

    # Every change, and nothing else, is a new version of the workspace.
    versions = [one["version"] for one in tenant.outbox("workspace-changed")]
    assert versions == [2, 3, 4, 5, 6, 7, 8]
    assert tenant.audited().count("shaping_rule.set") == 4
    assert [one for one in tenant.audited() if "removed" in one or "budget" in one] == [
        "shaping_rule.removed", "budget.set", "budget.removed"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("shaping-rules/host:yahoo", {"daily_max": 1}, "pattern_invalid"),
        ("shaping-rules/a..b", {"daily_max": 1}, "pattern_invalid"),
        ("shaping-rules/example.com", {}, "request_invalid"),
        ("shaping-rules/example.com", {"spacing_s": 0}, "request_invalid"),
        ("shaping-rules/example.com", {"daily_max": -1}, "request_invalid"),
        ("domain-budgets/*", {"daily_max": 1}, "domain_invalid"),
        ("domain-budgets/example.com", {"daily_max": None}, "request_invalid"),
    ],
)
async def test_what_can_be_no_rule_is_refused(
    tenant: Tenant, path: str, body: dict[str, object], code: str
) -> None:
    assert (await tenant.call("PUT", f"/v1/{path}", 422, json=body))["code"] == code


async def test_rules_are_a_workspaces_own(tenants: Callable[[], Tenant]) -> None:
    one, other = await asyncio.to_thread(lambda: (tenants(), tenants()))
    for path in ("/v1/shaping-rules/*", "/v1/domain-budgets/sender.test"):
        await one.call("PUT", path, json={"daily_max": 1})
        await other.call("GET", path, 404)
        await other.call("DELETE", path, 204)
        await one.call("GET", path)
    assert other.outbox("workspace-changed") == []
