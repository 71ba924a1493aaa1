"""Submissions in doubt as people see and settle them: over the API, and from a shell."""

import asyncio
import getpass
import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from paceline_common import ids
from paceline_common.admin import build as build_admin
from paceline_local.stack import Stack

from .conftest import Peers, Tenant

AT = "2026-11-20T15:00:00+00:00"
EVIDENCE = [
    {"at": AT, "source": "attempt", "finding": "no_outcome", "text": None},
    {"at": AT, "source": "sent_mail", "finding": "not_seen", "text": None},
]


def doubt(tenant: Tenant, job: int, fence: int = 1, **settled: Any) -> str:
    """Put a doubt where the sender would have put it."""
    members = {"settled_at": AT, "settled_by": "sender", **settled} if settled else {}
    columns = "".join(f", {name}" for name in members)
    values = ", %s" * len(members)
    tenant.rows(
        "INSERT INTO sender.doubt (workspace_id, job_id, fence_no, mailbox_id, campaign_id,"
        f" provider, message_id, has_draft, since, looks, evidence{columns})"
        " VALUES (%s, %s, %s, 5, %s, 'gmail', '<m@x.test>', true, now() - interval '3 h', 4,"
        f" %s::jsonb[]{values})",
        tenant.number, job, fence, job % 2, [json.dumps(one) for one in EVIDENCE],
        *members.values(),
    )  # fmt: skip
    return ids.encode("job", job)


def jobs(tenant: Tenant, count: int) -> list[int]:
    """Numbers of jobs that nobody else has: the admin sees every workspace's."""
    return [tenant.number * 1000 + n for n in range(count)]


async def test_open_doubts_are_listed_by_page_and_a_settled_one_is_not(tenant: Tenant) -> None:
    first, second, third, over = jobs(tenant, 4)
    named = [doubt(tenant, one) for one in (first, second, third)]
    doubt(tenant, over, settled_as="sent")
    page = await tenant.call("GET", "/v1/jobs/in-doubt", params={"limit": "2"})
    rest = await tenant.call(
        "GET", "/v1/jobs/in-doubt", params={"limit": "2", "cursor": page["next_cursor"]}
    )
    items = [*page["items"], *rest["items"]]
    assert [one["job_id"] for one in items] == named
    assert rest["next_cursor"] is None
    one = items[0]
    assert (one["provider"], one["has_draft"], one["looks"]) == ("gmail", True, 4)
    assert (one["settled_as"], "evidence" in one) == (None, False)
    chosen = await tenant.call(
        "GET", "/v1/jobs/in-doubt", params={"campaign_id": ids.encode("cmp", second % 2)}
    )
    assert ids.encode("job", second) in [one["job_id"] for one in chosen["items"]]
    assert all(one["campaign_id"] == ids.encode("cmp", second % 2) for one in chosen["items"])
    await tenant.call("GET", "/v1/jobs/in-doubt", 422, params={"cursor": "!"})


async def test_a_doubt_shows_its_evidence_and_the_newest_of_a_job_speaks(tenant: Tenant) -> None:
    (job,) = jobs(tenant, 1)
    name = doubt(tenant, job, 1, settled_as="unsent")
    doubt(tenant, job, 2)
    shown = await tenant.call("GET", f"/v1/jobs/{name}/doubt")
    assert (shown["job_id"], shown["settled_as"]) == (name, None)
    assert [one["finding"] for one in shown["evidence"]] == ["no_outcome", "not_seen"]


async def test_what_is_not_this_workspaces_is_not_there(
    tenant: Tenant, tenants: Callable[[], Tenant]
) -> None:
    (job,) = jobs(tenant, 1)
    name = doubt(tenant, job)
    other_tenant = await asyncio.to_thread(tenants)
    answer = await other_tenant.call("GET", f"/v1/jobs/{name}/doubt", 404)
    assert answer["code"] == "not_in_doubt"
    assert (await other_tenant.call("GET", "/v1/jobs/in-doubt"))["items"] == []


async def test_a_persons_word_goes_to_the_sender_with_who_and_why(
    tenant: Tenant, peers: Peers
) -> None:
    (job,) = jobs(tenant, 1)
    name = doubt(tenant, job)
    peers.scheduler = {"settle": (200, {"job_id": name, "settled_as": "sent", "settled_at": AT})}
    shown = await tenant.call(
        "POST", f"/v1/jobs/{name}/settle", json={"as": "sent", "why": " It is in Sent. "}
    )
    assert shown["job_id"] == name
    ((path, asked),) = peers.questions
    assert path == "/internal/settle"
    key = asked.pop("by")
    assert key.startswith("key_")
    assert asked.pop("source_ip")
    assert asked == {
        "workspace_id": tenant.id, "job_id": name, "as": "sent", "why": "It is in Sent.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ((404, {"code": "unknown_doubt"}), 404, "not_in_doubt"),
        ((409, {"code": "doubt_settled", "settled_as": "sent", "settled_by": "sender"}), 409,
         "doubt_settled"),
        ((404, {"code": "not_found"}), 503, "settling_unavailable"),
        ((500, {}), 503, "settling_unavailable"),
        ((200, {}), 503, "settling_unavailable"),
    ],
)  # fmt: skip
async def test_a_refusal_keeps_its_stable_code(
    tenant: Tenant, peers: Peers, told: tuple[int, Any], status: int, code: str
) -> None:
    peers.scheduler = {"settle": told}
    name = ids.encode("job", jobs(tenant, 1)[0])
    answer = await tenant.call(
        "POST", f"/v1/jobs/{name}/settle", status, json={"as": "failed", "why": "gone"}
    )
    assert answer["code"] == code
    if code == "doubt_settled":
        assert (answer["settled_as"], answer["settled_by"]) == ("sent", "sender")


async def test_settling_says_so_when_the_sender_is_away(tenant: Tenant, peers: Peers) -> None:
    peers.scheduler = None
    name = ids.encode("job", jobs(tenant, 1)[0])
    answer = await tenant.call(
        "POST", f"/v1/jobs/{name}/settle", 503, json={"as": "sent", "why": "x"}
    )
    assert answer["code"] == "settling_unavailable"


@pytest.mark.parametrize(
    "body",
    [{"as": "sent"}, {"as": "sent", "why": " "}, {"as": "retry", "why": "x"}, {"why": "x"},
     {"as": "sent", "why": "x", "by": "somebody else"}],
)  # fmt: skip
async def test_a_word_without_a_reason_or_of_another_kind_is_refused(
    tenant: Tenant, peers: Peers, body: dict[str, str]
) -> None:
    name = ids.encode("job", jobs(tenant, 1)[0])
    await tenant.call("POST", f"/v1/jobs/{name}/settle", 422, json=body)
    assert peers.questions == []


def test_the_shell_lists_every_workspaces_doubts(tenant: Tenant, admin: Callable[..., Any]) -> None:
    (job,) = jobs(tenant, 1)
    name = doubt(tenant, job)
    (found,) = [one for one in admin("in-doubt", "list") if one["job_id"] == name]
    assert (found["workspace_id"], found["age"], found["settled_as"]) == (tenant.id, "3 h", None)
    assert found["found"] == "sent_mail: not_seen"


def test_the_shell_settles_by_name(tenant: Tenant, stack: Stack, peers: Peers) -> None:
    (job,) = jobs(tenant, 1)
    name = doubt(tenant, job)
    peers.scheduler = {"settle": (200, {"job_id": name, "settled_as": "unsent", "settled_at": AT})}

    def settle(*arguments: str) -> Result:
        return CliRunner().invoke(
            build_admin(),
            ["in-doubt", "settle", *arguments, "--json"],
            env=stack.env("admin") | {"PACELINE_SENDER_URL": peers.url},
        )

    told = json.loads(settle(name, "--as", "unsent", "--why", "seen in Drafts").stdout)
    assert (told["job_id"], told["settled_as"]) == (name, "unsent")
    ((_, asked),) = peers.questions
    assert asked["by"] == f"admin:{getpass.getuser()}"
    assert (asked["as"], asked["why"], asked["source_ip"]) == ("unsent", "seen in Drafts", None)
    settle(name, "--as", "sent", "--why", "x", "--by", "Ann")
    assert peers.questions[-1][1]["by"] == "admin:Ann"
    for arguments, reason in (
        ((name, "--as", "retry", "--why", "x"), "sent, unsent or failed"),
        ((name, "--as", "sent", "--why", " "), "say why"),
        ((ids.encode("job", job + 999), "--as", "sent", "--why", "x"), "never in doubt"),
        (("job_x", "--as", "sent", "--why", "x"), "job_x"),
    ):
        refused = settle(*arguments)
        assert (refused.exit_code, reason in refused.output) == (1, True), refused.output
    assert len(peers.questions) == 2
    peers.scheduler = None
    assert settle(name, "--as", "sent", "--why", "x").exit_code == 1
