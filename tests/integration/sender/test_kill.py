"""A kill -9 of the sender: in doubt is what was between claim and outcome, and nothing else."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from tests.twins.gmail.oauth import CLIENT_ID, CLIENT_SECRET, PREFIX
from tests.twins.gmail.server import running as gmail_running
from tests.twins.smtp.twin import running as smtp_running
from tests.waiting import until

from paceline_common import ids
from paceline_common.keys import KeyService
from paceline_local.parts.base import PartFailed
from paceline_local.stack import Stack
from paceline_sender.job import Job

from .conftest import PASSWORD, World
from .test_process import QUICK, publish, running

MAILBOXES, SLOTS = 8, 10
SCOPES = (f"{PREFIX}gmail.modify",)


@pytest.fixture
def ended(house: Stack) -> Iterator[None]:
    yield
    house.stop("sender")


async def mailbox(
    world: World, keys: KeyService, email: str, kind: str, credential: dict[str, Any], **way: Any
) -> World:
    """Connect one more mailbox to the workspace; return the world as it sees it."""
    number = world.one("SELECT nextval('gateway.mailbox_mailbox_id_seq') AS n")["n"]
    sealed = await keys.seal(
        "send", world.workspace_id, json.dumps(credential).encode(), table="mailbox", row=number
    )
    servers = kind == "smtp"
    world.rows(
        "INSERT INTO gateway.mailbox (workspace_id, mailbox_id, email, domain, kind, smtp, imap,"
        " send_oauth, read_oauth, send_credential, read_credential)"
        " VALUES (%s, %s, %s, 'north.test', %s, %s, %s, %s, %s, %s, 'x')",
        world.workspace_id, number, email, kind, Jsonb(way) if servers else None,
        Jsonb({}) if servers else None, None if servers else Jsonb(way),
        None if servers else Jsonb(way), sealed,
    )  # fmt: skip
    world.rows(
        "INSERT INTO scheduler.mailbox_budget (workspace_id, mailbox_id, domain, domain_ref,"
        " version, is_active, tz, cadence_ms, jitter_min_ms, jitter_max_ms, grace_ms,"
        " max_outstanding)"
        " SELECT workspace_id, %s, domain, domain_ref, version, is_active, tz, cadence_ms,"
        " jitter_min_ms, jitter_max_ms, grace_ms, max_outstanding"
        " FROM scheduler.mailbox_budget WHERE workspace_id = %s AND mailbox_id = %s",
        number, world.workspace_id, world.mailbox_id,
    )  # fmt: skip
    world.rows(
        "INSERT INTO scheduler.gate (workspace_id, scope, ref) VALUES (%s, 'mailbox', %s)",
        world.workspace_id, number,
    )  # fmt: skip
    return replace(world, mailbox_id=number, email=email)


def states(world: World) -> dict[int, str]:
    rows = world.rows(
        "SELECT job_id, state FROM scheduler.send_job WHERE workspace_id = %s", world.workspace_id
    )
    return {row["job_id"]: row["state"] for row in rows}


def open_attempts(world: World) -> dict[int, int]:
    """Jobs between claim and outcome, by their mailbox."""
    rows = world.rows(
        "SELECT job_id, mailbox_id FROM sender.attempt WHERE workspace_id = %s"
        " AND claimed_at IS NOT NULL AND outcome IS NULL",
        world.workspace_id,
    )
    return {row["job_id"]: row["mailbox_id"] for row in rows}


@pytest.mark.usefixtures("ended")
async def test_a_kill_at_full_load_leaves_in_doubt_only_what_was_between_claim_and_outcome(
    house: Stack, world: World, keys: KeyService
) -> None:
    """Every mailbox sends once a second and the server takes 0.4 s: at any moment about four in
    ten are between claim and outcome, and each holds leases for the seconds to come."""
    async with smtp_running() as (twin, port, _):
        twin.fail("dot", "slow", times=10**6, delay_s=0.4)
        seen = []
        for n in range(MAILBOXES):
            email = f"s{n}-{world.workspace_id}@north.test"
            twin.add_account(email, PASSWORD)
            seen.append(
                await mailbox(
                    world, keys, email, "smtp", {"password": PASSWORD},
                    host="127.0.0.1", port=port, tls="none", username=email, auth="plain",
                )
            )  # fmt: skip
        house.restart("sender", QUICK)
        jobs: list[Job] = [
            one.job(
                one.lead(f"b{n}-{slot}@example.test"),
                in_ms=4000 + 1000 * slot + 125 * n, grace_ms=800,
            )
            for slot in range(SLOTS)
            for n, one in enumerate(seen)
        ]  # fmt: skip
        publish(house, *jobs)
        await until(lambda: len(twin.submissions) >= 3 * MAILBOXES, "full load", within_s=30)
        # A moment in which several are under way: killed there, not at a lucky one.
        await until(
            lambda: len(open_attempts(world)) >= 2, "some between claim and outcome", within_s=10
        )
        house.kill("sender", signal.SIGKILL)
        await until(lambda: not running(house), "killed")
        under_way, at_kill = open_attempts(world), states(world)
        held = {job for job, state in at_kill.items() if state == "reserved"}
        assert under_way, "nobody was between claim and outcome"
        assert max(Counter(under_way.values()).values()) == 1, "at most one per mailbox"
        assert len(held) >= 2 * MAILBOXES, "leases it merely held"

        house.restart("sender", QUICK)
        await until(lambda: not open_attempts(world), "all named", within_s=30)
        await until(
            lambda: (
                {job for job, state in states(world).items() if state == "in_doubt"}
                == set(under_way)
            ),
            "in doubt is what was under way",
        )
        # Not one of the leases that were merely held: their successor sends them or lets them run
        # out, and those that are over were over before.
        final = states(world)
        assert all(final[job] in ("reserved", "sending", "sent") for job in held)
        doubts = world.rows(
            "SELECT job_id FROM sender.doubt WHERE workspace_id = %s", world.workspace_id
        )
        assert {row["job_id"] for row in doubts} == set(under_way)
        taken = Counter(one.job for one in twin.submissions)
        assert max(taken.values()) == 1, "never twice"
        over = {job for job, state in at_kill.items() if state == "sent"}
        sent = {ids.decode("job", str(one).partition(".")[0]) for one in taken}
        assert over <= sent


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize(
    "failpoint", ["before_destroy", "after_destroy", "before_settle_commit", "after_settle"]
)
async def test_a_kill_anywhere_in_a_proof_leads_to_one_end(
    house: Stack, world: World, keys: KeyService, failpoint: str
) -> None:
    """A draft whose send request never left: destroyed by one process or the next, and queued."""
    async with gmail_running() as (twin, url):
        email = f"g-{world.workspace_id}@gmail.test"
        twin.add_mailbox(email)
        granted = twin.identity.grant(email, SCOPES)
        oauth = {
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "refresh_token": granted["refresh_token"], "scopes": list(SCOPES),
        }  # fmt: skip
        one = await mailbox(
            world, keys, email, "gmail", {"oauth": oauth}, provider="google",
            scopes=list(SCOPES), tenant=None, account="1", app="installation", client_id=CLIENT_ID,
        )  # fmt: skip
        there = QUICK | {
            "PACELINE_GMAIL_API_URL": url,
            "PACELINE_GOOGLE_TOKEN_URL": f"{url}/token",
            "PACELINE_FIRST_LOOK_S": "0.5",
            "PACELINE_GMAIL_DESTROY_AFTER_S": "1",
            "PACELINE_TIDY_DRAFTS_S": "0.5",
        }
        recipient = f"bob-{world.workspace_id}@example.test"
        # It dies once its claim is committed: the draft stands, and nothing has left.
        house.restart("sender", there | {"PACELINE_FAILPOINTS": "sender.after_claim=kill"})
        job = one.job(one.lead(recipient), in_ms=3000, grace_ms=1500)
        publish(house, job)
        await until(lambda: not running(house), "killed after its claim", within_s=30)
        assert len(twin.mailboxes[email].drafts) == 1

        with suppress(PartFailed):  # it may die before anybody has seen it ready
            house.restart("sender", there | {"PACELINE_FAILPOINTS": f"sender.{failpoint}=kill"})
        await until(lambda: not running(house), "killed in its proof", within_s=30)
        house.restart("sender", there)
        await until(lambda: world.job_row(job)["state"] == "queued", "proven unsent", within_s=30)
        row = world.job_row(job)
        assert (row["fence"], row["reason"]) == (job.fence + 1, "proven_unsent")
        await until(lambda: not twin.mailboxes[email].drafts, "what was left is tidied away")
        assert twin.submissions == []
        doubt = world.one(
            "SELECT settled_as, settled_by FROM sender.doubt WHERE workspace_id = %s",
            world.workspace_id,
        )
        assert doubt == {"settled_as": "unsent", "settled_by": "sender"}
        # And then it is sent, once.
        world.rows(
            "UPDATE scheduler.send_job SET state = 'reserved', mailbox_id = %s, pool_id = %s,"
            " slot_at = clock_timestamp() + interval '2 s',"
            " not_after = clock_timestamp() + interval '90 s' WHERE job_id = %s",
            one.mailbox_id, one.pool_id, job.job_id,
        )  # fmt: skip
        row = world.job_row(job)
        publish(
            house,
            replace(job, fence=row["fence"], slot_at=row["slot_at"], not_after=row["not_after"]),
        )
        # Kafka hands its partitions on only when it has given up on the member that was killed.
        await until(lambda: world.job_row(job)["state"] == "sent", "sent", within_s=80)
        assert len(twin.submissions) == 1
