"""The events that outcomes are: ids and codes, never addresses or a server's words."""

from datetime import datetime

from paceline_common import events, topics
from paceline_common.address import without_addresses
from paceline_common.db.outbox import Outgoing
from paceline_common.tokens import app_subject
from paceline_sender.domain.outcome import REMEDIES
from paceline_sender.job import HoldRequest, Report


def issue(
    workspace: str, mailbox: str, hold: HoldRequest, now: datetime, traceparent: str | None = None
) -> Outgoing:
    """Return the issue that a hold is: about the mailbox, or about the OAuth app.

    The server's words, whole, stay in the suspension: they may quote an address.
    """
    subject, detail = mailbox, without_addresses(hold.detail)
    if hold.app is not None:
        subject = app_subject(hold.app.provider, hold.app.client_id)
        detail = f"{REMEDIES[hold.reason]} {detail}"
    passes = hold.until is not None and hold.reason != "app_refused"
    return Outgoing(
        topic=topics.ISSUE_RAISED,
        key=subject,
        subject=subject,
        body=events.IssueRaised(
            workspace_id=workspace,
            subject=subject,
            code=hold.reason,
            severity="warning" if passes else "error",
            detail=detail,
            raised_at=now,
        ),
        traceparent=traceparent,
    )


def facts(report: Report, now: datetime) -> list[Outgoing]:
    """Return the events that an applied report is: ids and codes only."""
    job = report.job
    about = {
        "workspace_id": job.workspace,
        "job_id": job.public_id,
        "mailbox_id": job.mailbox,
        "enrollment_id": job.enrollment,
        "campaign_id": job.campaign,
        "step": job.step,
    }
    at = report.at or now
    topic: topics.Topic
    body: events.Event
    match report.outcome:
        case "accepted":
            topic = topics.SENT
            body = events.Sent(
                **about,  # type: ignore[arg-type]
                message_id=report.sent_message_id or report.message_id or "",
                provider=report.provider,
                sent_at=at,
                provider_message_id=report.provider_message_id,
            )
        case "deferred" | "unsent" | "refused":
            known = report.outcome_class in ("soft", "limit", "auth", "config", "block")
            topic = topics.SEND_DEFERRED
            body = events.SendDeferred(
                **about,  # type: ignore[arg-type]
                outcome_class=report.outcome_class if known else "unsent",  # type: ignore[arg-type]
                submitted=report.outcome == "deferred",
                retry_at=report.retry_at,
                status=report.status,
                app_wide=report.hold is not None and report.hold.app is not None,
            )
        case "rejected":
            topic = topics.SEND_REJECTED
            body = events.SendRejected(
                **about,  # type: ignore[arg-type]
                outcome_class=report.outcome_class or "soft",  # type: ignore[arg-type]
                rejected_at=at,
                code=report.code,
                status=report.status,
            )
        case "in_doubt":
            topic = topics.SEND_IN_DOUBT
            body = events.SendInDoubt(
                **about,  # type: ignore[arg-type]
                message_id=report.message_id or "",
                since=at,
            )
        case "failed":
            # The scheduler ends the enrollment and says so itself.
            return []
    outgoing = [
        Outgoing(
            topic=topic,
            key=job.enrollment or job.public_id,
            subject=job.public_id,
            body=body,
            traceparent=job.traceparent,
        )
    ]
    if report.outcome == "in_doubt":
        outgoing.append(
            Outgoing(
                topic=topics.ISSUE_RAISED,
                key=job.public_id,
                subject=job.public_id,
                body=events.IssueRaised(
                    workspace_id=job.workspace,
                    subject=job.public_id,
                    code="send_in_doubt",
                    severity="error",
                    detail="Nobody knows whether the server took the message;"
                    " it is not tried again until a person settles it.",
                    raised_at=now,
                ),
                traceparent=job.traceparent,
            )
        )
    return outgoing
