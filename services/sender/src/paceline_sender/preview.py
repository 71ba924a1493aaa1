"""`/internal/preview`: a step as one lead would get it, with what is missing."""

from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.http import Problem, ProblemType, public_id
from paceline_sender.domain import conversation, render
from paceline_sender.domain.conversation import SentMessage
from paceline_sender.domain.message import clean_header_text
from paceline_sender.domain.render import Rendered, Sources, TemplateError

STEP_NOT_FOUND: Final = ProblemType(
    "step_not_found",
    404,
    "There is no such step, or no such mailbox",
    "Check campaign, step and mailbox.",
)
TEMPLATE_ERROR: Final = ProblemType(
    "template_error",
    422,
    "The template cannot be rendered",
    "Correct the template; `detail` says what is wrong.",
)


class PreviewRequest(BaseModel):
    """A step, the mailbox it would go from, and a lead: standard and own fields by name."""

    workspace_id: Annotated[int, *public_id("ws")]
    campaign_id: Annotated[int, *public_id("cmp")]
    step: int = Field(ge=1)
    mailbox_id: Annotated[int, *public_id("mbx")]
    lead: dict[str, Any] = Field(default_factory=dict)


class Preview(BaseModel):
    """The rendered step; a missing variable stands there as `[name]` and in `missing`."""

    subject: str
    text: str | None
    html: str | None
    missing: list[str]


def router(db: Database, public_url: str) -> APIRouter:
    """Return the route."""
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
                },
            )
            row = result.one_or_none()
        if row is None:
            raise Problem(STEP_NOT_FOUND)
        lead = dict(asked.lead)
        fields = lead.pop("fields", None) or {}
        values = render.variables(
            {name: _text(lead.get(name)) for name in render.STANDARD_FIELDS},
            {name: _text(value) for name, value in {**lead, **fields}.items()},
            sender_name=row.display_name,
            sender_email=row.from_email,
            unsubscribe_url=f"{public_url.rstrip('/')}/u/preview",
        )
        try:
            rendered, missing = render.render_with_gaps(
                Sources(row.subject, row.text_template, row.html_template), values
            )
            subject = _subject(rendered, row.first_subject, values)
        except TemplateError as error:
            raise Problem(TEMPLATE_ERROR, str(error)) from None
        return Preview(
            subject=subject, text=rendered.text, html=rendered.html, missing=list(missing)
        )

    return routes


def _subject(rendered: Rendered, first: str | None, values: dict[str, object]) -> str:
    sent: list[SentMessage] = []
    if not rendered.subject.strip() and first:
        shown, _ = render.render_with_gaps(Sources(first, "-", None), values)
        sent = [SentMessage("", shown.subject)]
    return clean_header_text(conversation.subject(rendered.subject, sent))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
