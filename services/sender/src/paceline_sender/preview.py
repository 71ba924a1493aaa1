"""`/internal/preview`: the message as it would leave, by the very code that makes what leaves.

For a real job it is the job's own message: same variant, same ways of its spintax,
same tokens, same octets. For given values it is what a lead like that would get.
"""

import base64
import json
from dataclasses import replace
from datetime import datetime
from email import message_from_bytes, policy
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import Row

from paceline_common.clock import Clock
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.http import DEPENDENCY_AWAY, Problem, ProblemType, public_id
from paceline_common.keys import KeyService
from paceline_common.preview import AttachmentShown, HeaderShown, Preview
from paceline_common.storage import StorageUnavailable
from paceline_sender.compose import Composer, Macs, Made, Material, Unbuildable, first_subject
from paceline_sender.domain import conversation, message, render
from paceline_sender.domain.conversation import SentMessage
from paceline_sender.job import Job

STEP_NOT_FOUND: Final = ProblemType(
    "step_not_found",
    404,
    "There is no such step, or no such mailbox",
    "Check campaign, step and mailbox.",
)
JOB_NOT_FOUND: Final = ProblemType(
    "job_not_found",
    404,
    "There is no such job, or it has no step or no mailbox",
    "Check the job; name a mailbox.",
)
VARIANT_NOT_FOUND: Final = ProblemType(
    "variant_not_found", 404, "The step has no such variant", "Check its name."
)
TEMPLATE_ERROR: Final = ProblemType(
    "template_error",
    422,
    "The template cannot be rendered",
    "Correct the template; `detail` says what is wrong.",
)
MESSAGE_INVALID: Final = ProblemType(
    "message_unbuildable",
    422,
    "No message can be made of the step",
    "`reason` and `detail` say what to correct.",
)
# Nobody's: its tokens lead to nothing.
_NO_JOB: Final = 0
_NOBODY: Final = "lead@example.com"


class PreviewRequest(BaseModel):
    """A step, the mailbox it would go from, and a lead: standard and own fields by name.

    `draw` stands for the job: another one may draw another variant and other
    ways of the spintax. `variant` names one instead.
    """

    workspace_id: Annotated[int, *public_id("ws")]
    campaign_id: Annotated[int, *public_id("cmp")]
    step: int = Field(ge=1)
    mailbox_id: Annotated[int, *public_id("mbx")]
    lead: dict[str, Any] = Field(default_factory=dict)
    variant: str | None = None
    draw: int = 0
    raw: bool = False


class JobPreviewRequest(BaseModel):
    """A job in any state; `mailbox_id` for one that has no mailbox yet, `at` its slot."""

    workspace_id: Annotated[int, *public_id("ws")]
    job_id: Annotated[int, *public_id("job")]
    mailbox_id: Annotated[int, *public_id("mbx")] | None = None
    at: datetime | None = None
    variant: str | None = None
    raw: bool = False


def router(db: Database, keys: KeyService, composer: Composer, clock: Clock) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    queries = Queries("paceline_sender")

    @routes.post("/preview")
    async def preview(asked: PreviewRequest) -> Preview:
        async with db.transaction([asked.workspace_id]) as tx:
            result = await tx.execute(
                queries["load_step"],
                {
                    "workspace": asked.workspace_id,
                    "campaign": asked.campaign_id,
                    "step": asked.step,
                    "mailbox": asked.mailbox_id,
                    **_lead(asked.lead),
                },
            )
            row = result.one_or_none()
        if row is None:
            raise Problem(STEP_NOT_FOUND)
        job = _job(asked.workspace_id, _NO_JOB, asked.mailbox_id, asked.step, clock.now())
        material = Material.of(row)
        if asked.step > 1:
            try:
                material = replace(material, sent=_earlier(job, material, row))
            except Unbuildable as fault:
                raise Problem(TEMPLATE_ERROR, str(fault)) from None
        return await show(job, material, asked.variant, asked.raw, draw=asked.draw)

    @routes.post("/preview/job")
    async def preview_job(asked: JobPreviewRequest) -> Preview:
        async with db.transaction([asked.workspace_id]) as tx:
            result = await tx.execute(
                queries["load_jobs"],
                {
                    "workspaces": [asked.workspace_id],
                    "jobs": [asked.job_id],
                    "fences": [0],
                    "as_mailbox": asked.mailbox_id,
                    "preview": True,
                },
            )
            row = result.one_or_none()
        if row is None or row.from_email is None:
            raise Problem(JOB_NOT_FOUND)
        at = asked.at or clock.now()
        job = _job(asked.workspace_id, asked.job_id, row.mailbox_id, row.step, at)
        return await show(job, Material.of(row), asked.variant, asked.raw)

    async def show(
        job: Job, material: Material, variant: str | None, raw: bool, *, draw: int = 0
    ) -> Preview:
        if variant is not None and variant not in {one.name for one in material.variants}:
            raise Problem(VARIANT_NOT_FOUND)
        macs = Macs(
            *await keys.mac(
                [
                    message.job_mac_input(job.workspace, job.public_id),
                    message.unsubscribe_mac_input(job.workspace, job.public_id),
                ]
            )
        )
        try:
            made = await composer.make(
                job, material, macs, variant=variant, draw=draw, show_gaps=True
            )
        except Unbuildable as fault:
            if fault.reason == "template_error":
                raise Problem(TEMPLATE_ERROR, str(fault)) from None
            raise Problem(MESSAGE_INVALID, str(fault), reason=fault.reason) from None
        except StorageUnavailable:
            raise Problem(DEPENDENCY_AWAY, "the object storage does not answer") from None
        return _shown(made, raw)

    return routes


def _job(workspace_id: int, job_id: int, mailbox_id: int, step: int | None, at: datetime) -> Job:
    return Job(
        workspace_id=workspace_id,
        job_id=job_id,
        fence=0,
        mailbox_id=mailbox_id,
        kind="campaign",
        slot_at=at,
        not_after=at,
        step=step,
    )


def _lead(given: dict[str, Any]) -> dict[str, str | None]:
    lead = dict(given)
    fields = lead.pop("fields", None) or {}
    standard = {name: _text(lead.pop(name, None)) for name in render.STANDARD_FIELDS}
    own = {name: _text(value) for name, value in {**lead, **fields}.items()}
    return {**standard, "email": standard["email"] or _NOBODY, "fields": json.dumps(own)}


def _earlier(job: Job, material: Material, row: Row[Any]) -> tuple[SentMessage, ...]:
    """Return the first step's message, as if this lead had got it."""
    subject = first_subject(job, material, row.first_subject, row.first_variants or ())
    message_id = conversation.message_id(f"{job.public_id}-1", job.workspace, material.domain)
    return (SentMessage(message_id, subject),) if subject else ()


def _shown(made: Made, raw: bool) -> Preview:
    parts = made.parts
    # compat32 gives fields as they are written.
    fields = message_from_bytes(made.data, policy=policy.compat32).items()
    return Preview(
        from_email=parts.from_email,
        to_email=parts.to_email,
        envelope_from=parts.envelope_from,
        subject=parts.subject,
        text=None if parts.text is None else message.clean_body(parts.text),
        html=None if parts.html is None else message.clean_body(parts.html),
        headers=[
            HeaderShown(name=name, value="".join(str(value).splitlines())) for name, value in fields
        ],
        attachments=[
            AttachmentShown(
                filename=one.filename,
                content_type=one.content_type,
                size=len(one.content),
                content_id=one.content_id,
            )
            for one in parts.attachments
        ],
        size=len(made.data),
        variant=made.variant,
        missing=list(made.missing),
        message=base64.b64encode(made.data).decode() if raw else None,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
