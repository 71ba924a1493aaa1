"""What a run left behind: provider-side truth, and the ledger. Everything the checker looks at.

Nothing here asks a service of Paceline.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from psycopg.rows import dict_row

from paceline_common import ids
from paceline_demo.truth import files, read_log
from tests.chaos.diary import Diary

_JOB_HEADER: Final = "X-Paceline-Job"


@dataclass(frozen=True, slots=True)
class Submission:
    """One MAIL FROM or send request that a provider saw. `at` in POSIX seconds.

    `accepted`: the provider took the message. `job_id` is None where nothing tells whose it was.
    """

    provider: str
    mailbox: str
    at: float
    job_id: int | None
    recipients: tuple[str, ...]
    accepted: bool
    name: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try of a job; `claimed_at` in POSIX seconds, None when it never got that far."""

    job_id: int
    fence: int
    claimed_at: float | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the ledger."""

    job_id: int
    enrollment_id: int
    step: int
    state: str
    reason: str | None
    mailbox: str | None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An enrollment of the ledger."""

    enrollment_id: int
    email: str
    campaign: str
    state: str
    reason: str | None
    job_id: int | None


@dataclass(slots=True)
class Evidence:
    """All of it. `copies` counts the messages in recipients' maildirs by job."""

    submissions: list[Submission] = field(default_factory=list)
    copies: dict[int, int] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    enrollments: list[Enrolled] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)
    outbox: int = 0


def gather(
    diary: Diary, *, dsn: str, postfix_log: Path, maildirs: Path, twins: dict[str, str]
) -> Evidence:
    """Read everything. `twins` maps a provider to its twin's base URL."""
    found = Evidence()
    workspace = ids.decode("ws", diary.workspace)
    with psycopg.connect(dsn, row_factory=dict_row) as db:
        _read_ledger(found, db, workspace)
        by_message_id = {
            row["message_id"].strip("<>"): int(row["job_id"])
            for row in db.execute(
                "SELECT message_id, job_id FROM sender.message WHERE workspace_id = %s", [workspace]
            )
        }
    _read_postfix(found, diary, postfix_log, by_message_id)
    _read_maildirs(found, maildirs)
    asyncio.run(_read_twins(found, diary, twins))
    found.submissions.sort(key=lambda one: one.at)
    return found


def _read_ledger(found: Evidence, db: "psycopg.Connection[dict[str, Any]]", workspace: int) -> None:
    key = [workspace]
    for row in db.execute(
        "SELECT j.job_id, j.enrollment_id, j.step, j.state, j.reason, m.email"
        " FROM scheduler.send_job AS j"
        " LEFT JOIN gateway.mailbox AS m USING (workspace_id, mailbox_id)"
        " WHERE j.workspace_id = %s",
        key,
    ):
        found.jobs[row["job_id"]] = Job(
            row["job_id"], row["enrollment_id"], row["step"], row["state"], row["reason"],
            row["email"],
        )  # fmt: skip
    found.enrollments = [
        Enrolled(row["enrollment_id"], row["email"].lower(), row["campaign"], row["state"],
                 row["reason"], row["job_id"])
        for row in db.execute(
            "SELECT e.enrollment_id, l.email, split_part(c.name, ' ', 1) AS campaign, e.state,"
            " e.reason, e.job_id"
            " FROM scheduler.enrollment AS e JOIN scheduler.lead AS l USING (workspace_id, lead_id)"
            " JOIN gateway.campaign AS c USING (workspace_id, campaign_id)"
            " WHERE e.workspace_id = %s",
            key,
        )
    ]  # fmt: skip
    found.attempts = [
        Attempt(row["job_id"], row["fence"], row["claimed"], row["outcome"])
        for row in db.execute(
            "SELECT job_id, fence, extract(epoch FROM claimed_at)::float8 AS claimed, outcome"
            " FROM sender.attempt WHERE workspace_id = %s",
            key,
        )
    ]
    for schema in ("gateway", "scheduler", "sender", "bounce", "reply"):
        # Health goes on being measured: what was written just now leaves in a moment.
        waiting = db.execute(
            f"SELECT count(*) AS n FROM {schema}.outbox WHERE at < now() - interval '5 s'"
        ).fetchone()
        found.outbox += int(waiting["n"]) if waiting else 0


def _read_postfix(found: Evidence, diary: Diary, log: Path, by_message_id: dict[str, int]) -> None:
    ours = {one.email for one in diary.mailboxes}
    since = datetime.fromtimestamp(diary.since, UTC)
    with log.open(errors="replace") as lines:
        told = read_log(lines, since)
    for one in told.submissions:
        # A mailbox that writes to itself is tested, not sending.
        if one.mailbox not in ours or one.recipients == (one.mailbox,):
            continue
        message_id = (one.message_id or "").strip("<>")
        found.submissions.append(
            Submission(
                "smtp", one.mailbox, one.at.timestamp(), by_message_id.get(message_id),
                one.recipients, bool(one.fate), f"queue id {one.queue_id}",
            )
        )  # fmt: skip


def _read_maildirs(found: Evidence, root: Path) -> None:
    """Count the copies of each job's message in the maildirs of `example.test`."""
    copies: dict[int, int] = defaultdict(int)
    for box in (root / "example.test").glob("*"):
        for path in files(box):
            message = message_from_bytes(path.read_bytes(), policy=policy.default)
            if job := _job_of(message.get(_JOB_HEADER)):
                copies[job] += 1
    found.copies = dict(copies)


async def _read_twins(found: Evidence, diary: Diary, twins: dict[str, str]) -> None:
    ours, since = {one.email for one in diary.mailboxes}, diary.since
    async with httpx.AsyncClient(timeout=30) as http:
        for provider, url in twins.items():
            told = (await http.get(f"{url}/control/truth?raw=0")).raise_for_status().json()
            for one in told["submissions"]:
                if one["mailbox"] not in ours or one["recipients"] == [one["mailbox"]]:
                    continue
                # Where the provider acts later than it is asked, the asking counts.
                at = datetime.fromisoformat(one.get("asked_at") or one["at"]).timestamp()
                if at < since:
                    continue
                found.submissions.append(
                    Submission(
                        provider, one["mailbox"], at, _job_of(one["job"]),
                        tuple(one["recipients"]), True,
                        f"{provider} {one.get('id') or one.get('item_id')}",
                    )
                )  # fmt: skip


def _job_of(header: str | None) -> int | None:
    """Return the job that an `X-Paceline-Job` header names."""
    if not header:
        return None
    try:
        return ids.decode("job", str(header).strip().partition(".")[0])
    except ids.InvalidIdError:
        return None


def by_job(submissions: Iterable[Submission]) -> dict[int, list[Submission]]:
    """Return the accepted submissions of each job."""
    found: dict[int, list[Submission]] = defaultdict(list)
    for one in submissions:
        if one.accepted and one.job_id is not None:
            found[one.job_id].append(one)
    return dict(found)
