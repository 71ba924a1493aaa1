"""One loaded job → the message it sends: templates, conversation, headers, content."""

from dataclasses import dataclass
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Row

from paceline_sender.domain import conversation, message, render
from paceline_sender.domain.conversation import SentMessage
from paceline_sender.domain.message import InvalidMessage, Parts
from paceline_sender.domain.outcome import History
from paceline_sender.domain.render import Sources, TemplateError
from paceline_sender.job import Job


@dataclass(frozen=True, slots=True)
class Built:
    """A message ready to be submitted, and what was known when it was made."""

    job: Job
    row: Row[Any]
    message_id: str
    subject: str
    references: tuple[str, ...]
    data: bytes
    history: History


def compose(job: Job, row: Row[Any], job_mac: str, unsubscribe_mac: str, public_url: str) -> Built:
    """Render and build the message of one loaded job (a row of `load_jobs.sql`).

    Raises `MissingVariable`, `TemplateError` and `InvalidMessage`.
    """
    workspace, public_id = job.workspace, job.public_id
    https, mailto = message.unsubscribe_links(
        public_url, row.from_email, workspace, public_id, unsubscribe_mac
    )
    if row.to_email is None:
        raise InvalidMessage("address_invalid", "the job has no recipient")
    if row.text_template is None and row.html_template is None:
        raise TemplateError("the campaign has no such step any more")
    rendered = render.render(
        Sources(row.subject, row.text_template, row.html_template),
        render.variables(
            {name: getattr(row, name) for name in ("first_name", "last_name", "company")}
            | {"email": row.to_email},
            row.fields or {},
            sender_name=row.display_name,
            sender_email=row.from_email,
            unsubscribe_url=https,
        ),
    )
    sent = [SentMessage(message_id, subject) for message_id, subject in row.sent]
    thread = conversation.thread(sent)
    subject = message.clean_header_text(conversation.subject(rendered.subject, sent))
    message_id = row.message_id or conversation.message_id(public_id, workspace, row.domain)
    zone = ZoneInfo(row.timezone) if row.timezone else UTC
    data = message.build(
        Parts(
            from_name=row.display_name,
            from_email=row.from_email,
            reply_to=row.reply_to,
            to_email=row.to_email,
            subject=subject,
            text=rendered.text,
            html=rendered.html,
            message_id=message_id,
            date=job.slot_at.astimezone(zone),
            thread=thread,
            job_token=message.job_token(workspace, public_id, job_mac),
            unsubscribe_url=https,
            unsubscribe_mailto=mailto,
        )
    )
    return Built(
        job=job,
        row=row,
        message_id=message_id,
        subject=subject,
        references=thread.references,
        data=data,
        history=History(row.deferrals, row.first_deferred_at),
    )
