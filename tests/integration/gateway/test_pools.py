"""Pools: how they rotate, and among whom."""

from paceline_common import ids

from .conftest import Tenant


async def test_a_plain_list_of_mailboxes_is_enough(tenant: Tenant) -> None:
    ann = (await tenant.mailbox("ann@sender.test"))["id"]
    bob = (await tenant.mailbox("bob@sender.test"))["id"]
    pool = await tenant.pool(bob, ann)
    found = await tenant.call("GET", f"/v1/pools/{pool}")
    assert (found["rotation"], found["mailboxes"]) == ("next_in_line", [bob, ann])
    assert found["members"] == [
        {"mailbox_id": bob, "weight": 1, "rank": 0}, {"mailbox_id": ann, "weight": 1, "rank": 0}
    ]  # fmt: skip


async def test_weights_and_ranks_reach_the_scheduler(tenant: Tenant) -> None:
    ann = (await tenant.mailbox("ann@sender.test"))["id"]
    bob = (await tenant.mailbox("bob@sender.test"))["id"]
    members = [
        {"mailbox_id": ann, "weight": 3, "rank": 0},
        {"mailbox_id": bob, "weight": 1, "rank": 2},
    ]
    body = {"name": "both", "rotation": "priority", "members": members}
    made = await tenant.call("POST", "/v1/pools", 201, json=body)
    assert (made["rotation"], made["members"]) == ("priority", members)
    (pool,) = tenant.seen_by("scheduler", "SELECT * FROM gateway.v_pool")
    assert (pool["name"], pool["rotation"]) == ("both", "priority")
    rows = tenant.seen_by("scheduler", "SELECT * FROM gateway.v_pool_member ORDER BY position")
    assert [(row["mailbox_id"], row["weight"], row["rank"]) for row in rows] == [
        (ids.decode("mbx", ann), 3, 0), (ids.decode("mbx", bob), 1, 2)
    ]  # fmt: skip


async def test_an_old_clients_list_keeps_weights_and_ranks(tenant: Tenant) -> None:
    ann = (await tenant.mailbox("ann@sender.test"))["id"]
    bob = (await tenant.mailbox("bob@sender.test"))["id"]
    body = {"name": "both", "members": [{"mailbox_id": ann, "weight": 7, "rank": 1}]}
    pool = (await tenant.call("POST", "/v1/pools", 201, json=body))["id"]
    found = await tenant.call("PATCH", f"/v1/pools/{pool}", json={"mailboxes": [bob, ann]})
    assert found["members"] == [
        {"mailbox_id": bob, "weight": 1, "rank": 0}, {"mailbox_id": ann, "weight": 7, "rank": 1}
    ]  # fmt: skip


async def test_a_changed_rotation_is_announced_with_its_campaigns(tenant: Tenant) -> None:
    pool = await tenant.pool()
    campaign = await tenant.campaign(tiers=[[pool]])
    before = len(tenant.outbox("campaign-changed"))
    path = f"/v1/pools/{pool}"
    await tenant.call("PATCH", path, json={"name": "renamed"})
    assert len(tenant.outbox("campaign-changed")) == before
    found = await tenant.call("PATCH", path, json={"rotation": "weighted"})
    assert (found["name"], found["rotation"]) == ("renamed", "weighted")
    told = tenant.outbox("campaign-changed")
    assert (len(told), told[-1]["campaign_id"]) == (before + 1, campaign)


async def test_what_cannot_be_a_pool_is_refused(tenant: Tenant) -> None:
    ann = (await tenant.mailbox())["id"]
    for wrong in (
        {"rotation": "luck"},
        {"mailboxes": [ann], "members": [{"mailbox_id": ann}]},
        {"members": [{"mailbox_id": ann}, {"mailbox_id": ann}]},
        {"members": [{"mailbox_id": ann, "weight": 0}]},
        {"members": [{"mailbox_id": ann, "weight": 1001}]},
        {"members": [{"mailbox_id": ann, "rank": -1}]},
    ):
        await tenant.call("POST", "/v1/pools", 422, json={"name": "wrong", **wrong})
    body = {"name": "wrong", "members": [{"mailbox_id": ids.encode("mbx", 2**40)}]}
    refused = await tenant.call("POST", "/v1/pools", 404, json=body)
    assert refused["mailboxes"] == [body["members"][0]["mailbox_id"]]
    assert (await tenant.call("GET", "/v1/pools"))["items"] == []
