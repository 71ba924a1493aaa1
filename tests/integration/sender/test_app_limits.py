"""A limit of the whole OAuth app holds all its mailboxes at once, in every workspace."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from psycopg.types.json import Jsonb
from tests.waiting import until

from paceline_common import events, ids
from paceline_common.keys import KeyService
from paceline_sender.settings import SenderSettings

from .api_mailbox import DRAFTS, SENDS, Api, ApiKind, api
from .conftest import Sender, World

Run = Callable[[], Awaitable[Sender]]
WAIT_S = 1800
TENANT = "0785ef7c"
PROJECT = (
    "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service"
    " 'gmail.googleapis.com' for consumer 'project_number:1'."
)


@pytest.fixture
async def box(
    kind: ApiKind, world: World, keys: KeyService, own_keys: KeyService, settings: SenderSettings
) -> AsyncIterator[Api]:
    async with api(kind, world, keys, own_keys, settings) as one:
        await one.connect()
        yield one


@pytest.fixture
def run(box: Api, make_sender: Callable[[Any], Sender]) -> Run:
    async def started() -> Sender:
        made = make_sender(box.mail)
        await made.reconciler.beat_once()
        made.start()
        return made

    return started


def another(box: Api, workspace_id: int, **oauth: Any) -> int:
    """Connect one more mailbox, like the world's but for `oauth`; return its number."""
    world = box.world
    told = box.oauth(()) | oauth
    row = world.one(
        "INSERT INTO gateway.mailbox (workspace_id, email, domain, kind, send_oauth, read_oauth,"
        " send_credential, read_credential) VALUES (%s, %s, 'north.test', %s, %s, %s, 'x', 'x')"
        " RETURNING mailbox_id",
        workspace_id, f"m{datetime.now(UTC).timestamp()}@north.test", box.kind, Jsonb(told),
        Jsonb(told),
    )  # fmt: skip
    number: int = row["mailbox_id"]
    world.rows(
        "INSERT INTO sender.oauth_token (workspace_id, mailbox_id, credential_version, version,"
        " sealed, expires_at) VALUES (%s, %s, 1, 1, 'x', now())",
        workspace_id, number,
    )  # fmt: skip
    return number


def workspace(world: World) -> int:
    row = world.one("INSERT INTO gateway.workspace (name) VALUES ('w') RETURNING workspace_id")
    number: int = row["workspace_id"]
    return number


def held(world: World) -> dict[int, tuple[str, datetime]]:
    """Who is held, why and until when, of all workspaces of this provider's test."""
    rows = world.rows(
        "SELECT ref, reason, until FROM scheduler.suspension WHERE scope = 'mailbox'"
        " AND closed_at IS NULL AND opened_by = 'sender' AND reason = 'app_limited'"
    )
    return {row["ref"]: (row["reason"], row["until"]) for row in rows}


def issues(world: World, workspace_id: int) -> list[Any]:
    rows = world.rows(
        "SELECT body FROM sender.outbox WHERE workspace_id = %s AND topic = 'issue-raised'",
        workspace_id,
    )
    return [msgspec.json.decode(row["body"], type=events.IssueRaised) for row in rows]


def limit(box: Api, scope: str = "Application") -> None:
    """Let the next send request find the app at its limit."""
    answer: dict[str, Any] = {"status": 403, "code": "rateLimitExceeded", "message": PROJECT}
    if box.kind == "graph":
        headers = {"x-ms-throttle-scope": f"{scope}/ReadWrite/9a"}
        answer = {"status": 429, "code": "ApplicationThrottled", "headers": headers}
    box.fail(SENDS[box.kind], "status", retry_after_s=WAIT_S, **answer)


@pytest.mark.parametrize("kind", ["gmail", "graph"])
async def test_every_mailbox_of_the_app_waits_from_the_first_refusal_on(
    world: World, box: Api, run: Run
) -> None:
    elsewhere = workspace(world)
    same = another(box, world.workspace_id)
    far = another(box, elsewhere)
    other_app = another(box, world.workspace_id, client_id="another-app")
    limit(box)
    sender = await run()
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "deferred")
    await until(lambda: len(held(world)) >= 3, "all are held")
    found = held(world)
    assert found.keys() >= {world.mailbox_id, same, far}
    assert other_app not in found
    for _, end in (found[one] for one in (world.mailbox_id, same, far)):
        assert abs(end - datetime.now(UTC) - timedelta(seconds=WAIT_S)) < timedelta(seconds=30)
    for number in (world.workspace_id, elsewhere):
        (issue,) = issues(world, number)
        assert (issue.code, issue.severity) == ("app_limited", "warning")
        assert issue.subject.endswith(box.client_id)
        assert issue.workspace_id == ids.encode("ws", number)
    (told,) = world.events("send-deferred")
    # Nothing of this is the mailbox's own limit.
    assert (told.outcome_class, told.app_wide) == ("limit", True)
    world.rows("UPDATE scheduler.suspension SET closed_at = now(), closed_by = 'test'"
               " WHERE reason = 'app_limited' AND closed_at IS NULL")  # fmt: skip


@pytest.mark.parametrize("kind", ["graph"])
async def test_a_limit_within_an_organization_holds_its_mailboxes_alone(
    world: World, box: Api, run: Run
) -> None:
    world.rows(
        "UPDATE gateway.mailbox SET send_oauth = send_oauth || %s WHERE mailbox_id = %s",
        Jsonb({"tenant": TENANT}), world.mailbox_id,
    )  # fmt: skip
    inside = another(box, world.workspace_id, tenant=TENANT)
    outside = another(box, world.workspace_id, tenant="another")
    limit(box, "Tenant_Application")
    sender = await run()
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: inside in held(world), "held")
    assert world.mailbox_id in held(world)
    assert outside not in held(world)
    world.rows("UPDATE scheduler.suspension SET closed_at = now(), closed_by = 'test'"
               " WHERE reason = 'app_limited' AND closed_at IS NULL")  # fmt: skip


@pytest.mark.parametrize("kind", ["graph"])
async def test_a_moments_wish_keeps_the_apps_mailboxes_from_asking_without_gates(
    world: World, box: Api, run: Run
) -> None:
    box.fail(SENDS["graph"], "status", status=429, code="ApplicationThrottled", retry_after_s=30,
             headers={"x-ms-throttle-scope": "Application/ReadWrite/9a"})  # fmt: skip
    sender = await run()
    first = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([first])
    await until(lambda: world.job_row(first)["state"] == "queued", "deferred")
    assert held(world) == {}
    # A connect of its own, so the mailbox itself has no wish to keep.
    await box.connect()
    asked = [box.calls(one) for one in (DRAFTS["graph"], SENDS["graph"])]
    second = world.job(world.lead("c@example.test"), grace_ms=8000)
    sender.preparer.hold([second])
    await until(lambda: world.job_row(second)["state"] == "queued", "given back")
    assert [box.calls(one) for one in (DRAFTS["graph"], SENDS["graph"])] == asked
