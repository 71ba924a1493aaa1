"""The steps of a campaign: contents with variants, files that go along, and their faults."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.engine import Result, Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import headers, ids, templates
from paceline_common.http import Problem, ProblemType
from paceline_gateway import problems
from paceline_gateway.api.types import AttachmentId
from paceline_gateway.auth import Caller
from paceline_gateway.domain.content import cids
from paceline_gateway.parts import Parts
from paceline_gateway.store.tables import Attachment, Step, StepAttachment

Template = Annotated[str, StringConstraints(max_length=200_000)]
Subject = Annotated[str, StringConstraints(max_length=998)]
VariantName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
MAX_DELAY_S: Final = 366 * 86_400
MAX_WEIGHT: Final = 1000


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VariantIn(_In):
    """One content of a step; a subject that is left out is the step's.

    `weight` is its share among the step's variants; with 0 it is not drawn any more.
    """

    name: VariantName
    weight: int = Field(default=1, ge=0, le=MAX_WEIGHT)
    subject: Subject | None = None
    text: Annotated[Template, StringConstraints(min_length=1)]
    html: Template | None = None


class StepIn(_In):
    """A message. `delay_s` counts from the step before it was sent; for step 1, from enrollment.

    Contents are Liquid with spintax: `{Hi|Hello} {{ first_name }}`. An empty
    subject continues the conversation (`Re: …`); step 1 needs one. With
    `variants`, each lead gets one of them, drawn by weight, and text and html of
    the step itself are left out. `attachments` go along in their order.
    """

    delay_s: int = Field(default=0, ge=0, le=MAX_DELAY_S)
    subject: Subject = ""
    text: Template = ""
    html: Template | None = None
    variants: list[VariantIn] = Field(default_factory=list, max_length=26)
    attachments: list[AttachmentId] = Field(default_factory=list, max_length=20)

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.variants and (self.text or self.html):
            raise ValueError("text and html: leave them out, for the variants have their own")
        if not self.variants and not self.text:
            raise ValueError("text: needed where there are no variants")
        return self

    def contents(self) -> Iterator[tuple[str, VariantIn]]:
        """Yield each content that may be sent and where it stands in the step."""
        if not self.variants:
            yield "", VariantIn(name="-", subject=self.subject, text=self.text, html=self.html)
        for number, variant in enumerate(self.variants, 1):
            yield f".variants[{number}]", variant


Steps = Annotated[list[StepIn], Field(max_length=50)]


class VariantOut(BaseModel):
    """A content of a step, as it was set."""

    name: str
    weight: int
    subject: str | None
    text: str
    html: str | None


class StepOut(BaseModel):
    """A message of a campaign; positions count from 1."""

    id: str
    position: int
    delay_s: int
    subject: str
    text: str
    html: str | None
    variants: list[VariantOut]
    attachments: list[str]
    version: int


@dataclass(frozen=True, slots=True)
class _Fault:
    where: str
    why: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return f"{self.where}: {templates.Fault(self.why, self.line, self.column)}"


async def set_steps(
    parts: Parts,
    tx: AsyncConnection,
    caller: Caller,
    campaign_id: int,
    steps: Sequence[StepIn],
    *,
    may_shrink: bool,
) -> None:
    """Replace a locked campaign's steps.

    Raises `template_invalid` or `steps_invalid` with every fault that was found,
    `steps_in_use` when a started campaign would lose steps.
    """
    _demand(problems.TEMPLATE_INVALID, list(_template_faults(steps)))
    files = await _held_files(tx, caller, steps)
    _demand(problems.STEPS_INVALID, list(_faults(steps, files, parts.settings.message_max_bytes)))
    mine = (Step.workspace_id == caller.workspace_id, Step.campaign_id == campaign_id)
    dropped = (
        await tx.execute(
            delete(Step).where(*mine, Step.position > len(steps)).returning(Step.position)
        )
    ).all()
    if dropped and not may_shrink:
        raise Problem(problems.STEPS_IN_USE)
    if not steps:
        return
    before = set((await tx.execute(select(Step.position).where(*mine))).scalars())
    statement = upsert(Step)
    new = statement.excluded
    changed = (
        (Step.delay_s != new.delay_s)
        | (Step.subject != new.subject)
        | (Step.text_template != new.text_template)
        | Step.html_template.is_distinct_from(new.html_template)
        | (Step.variants != new.variants)
    )
    await tx.execute(
        statement.on_conflict_do_update(
            index_elements=[Step.workspace_id, Step.campaign_id, Step.position],
            set_={
                "delay_s": new.delay_s,
                "subject": new.subject,
                "text_template": new.text_template,
                "html_template": new.html_template,
                "variants": new.variants,
                "version": Step.version + 1,
            },
            where=changed,
        ),
        [
            {
                "workspace_id": caller.workspace_id,
                "campaign_id": campaign_id,
                "position": position,
                "delay_s": step.delay_s,
                "subject": step.subject,
                "text_template": step.text,
                "html_template": step.html,
                "variants": [variant.model_dump() for variant in step.variants],
            }
            for position, step in enumerate(steps, 1)
        ],
    )
    await _set_files(tx, caller, campaign_id, steps, before)


async def read_steps(
    tx: AsyncConnection, workspace_id: int, campaigns: Sequence[int]
) -> dict[int, list[StepOut]]:
    """Return the steps of campaigns (by number), in order."""
    files: dict[int, list[str]] = {}
    for named in await tx.execute(
        select(StepAttachment.step_id, StepAttachment.attachment_id)
        .join(
            Step,
            (Step.workspace_id == StepAttachment.workspace_id)
            & (Step.step_id == StepAttachment.step_id),
        )
        .where(StepAttachment.workspace_id == workspace_id, Step.campaign_id.in_(campaigns))
        .order_by(StepAttachment.step_id, StepAttachment.position)
    ):
        files.setdefault(named.step_id, []).append(ids.encode("att", named.attachment_id))
    steps: dict[int, list[StepOut]] = {}
    rows: Sequence[Row[Any]] = (
        await tx.execute(
            select(Step.__table__)
            .where(Step.workspace_id == workspace_id, Step.campaign_id.in_(campaigns))
            .order_by(Step.campaign_id, Step.position)
        )
    ).all()
    for row in rows:
        steps.setdefault(row.campaign_id, []).append(_out(row, files.get(row.step_id, [])))
    return steps


def _out(row: Row[Any], files: list[str]) -> StepOut:
    return StepOut(
        id=ids.encode("stp", row.step_id),
        position=row.position,
        delay_s=row.delay_s,
        subject=row.subject,
        text=row.text_template,
        html=row.html_template,
        variants=[VariantOut(**stored) for stored in row.variants],
        attachments=files,
        version=row.version,
    )


def _demand(kind: ProblemType, faults: Sequence[_Fault]) -> None:
    if faults:
        raise Problem(
            kind,
            "; ".join(map(str, faults[:5])),
            where=faults[0].where,
            errors=[
                {"where": one.where, "why": one.why, "line": one.line, "column": one.column}
                for one in faults
            ],
        )


def _template_faults(steps: Sequence[StepIn]) -> Iterator[_Fault]:
    for position, step in enumerate(steps, 1):
        sources = [("subject", step.subject)] if step.variants else []
        for place, content in step.contents():
            inner = place.removeprefix(".") and f"{place.removeprefix('.')}."
            sources += [
                (f"{inner}{name}", getattr(content, name)) for name in ("subject", "text", "html")
            ]
        for name, source in sources:
            if source and (fault := templates.fault(source)):
                yield _Fault(f"steps[{position}].{name}", fault.why, fault.line, fault.column)


def _faults(
    steps: Sequence[StepIn], files: dict[int, Row[Any]], message_max_bytes: int
) -> Iterator[_Fault]:
    for position, step in enumerate(steps, 1):
        where = f"steps[{position}]"
        names: set[str] = set()
        for number, variant in enumerate(step.variants, 1):
            if variant.name in names:
                yield _Fault(f"{where}.variants[{number}].name", "is there twice")
            names.add(variant.name)
        if step.variants and not any(variant.weight for variant in step.variants):
            yield _Fault(f"{where}.variants", "at least one needs a weight above 0")
        yield from _file_faults(where, step, files, message_max_bytes)


def _file_faults(
    where: str, step: StepIn, files: dict[int, Row[Any]], message_max_bytes: int
) -> Iterator[_Fault]:
    inline: set[str] = set()
    known = []
    for number, attachment in enumerate(step.attachments, 1):
        place = f"{where}.attachments[{number}]"
        held = files.get(attachment)
        if held is None:
            yield _Fault(place, "there is no such attachment in this workspace")
            continue
        if step.attachments.index(attachment) < number - 1:
            yield _Fault(place, "is there twice")
            continue
        if held.content_id is not None and held.content_id in inline:
            yield _Fault(place, f"another attachment has the content_id {held.content_id} too")
        inline |= {held.content_id} - {None}
        known.append(held.size)
    if (size := sum(map(headers.encoded_size, known))) > message_max_bytes:
        yield _Fault(
            f"{where}.attachments",
            f"as MIME they take {size} bytes; a message may have {message_max_bytes}",
        )
    for place, content in step.contents():
        for name in sorted(cids(content.html or "") - inline):
            yield _Fault(
                f"{where}{place}.html",
                f"it shows cid:{name}, which no attachment has as content_id",
            )


async def _held_files(
    tx: AsyncConnection, caller: Caller, steps: Sequence[StepIn]
) -> dict[int, Row[Any]]:
    """Return the stored attachments that the steps name, held until they are named in rows."""
    wanted = sorted({attachment for step in steps for attachment in step.attachments})
    if not wanted:
        return {}
    rows: Result[Any] = await tx.execute(
        select(Attachment.attachment_id, Attachment.size, Attachment.content_id)
        .where(
            Attachment.workspace_id == caller.workspace_id,
            Attachment.attachment_id.in_(wanted),
            Attachment.state == "stored",
        )
        .order_by(Attachment.attachment_id)
        # Shared with whoever deletes one: it then finds this step.
        .with_for_update(read=True)
    )
    return {row.attachment_id: row for row in rows.all()}


async def _set_files(
    tx: AsyncConnection,
    caller: Caller,
    campaign_id: int,
    steps: Sequence[StepIn],
    before: Set[int],
) -> None:
    """Have the steps name their files; those that were there before get a new version."""
    mine = (Step.workspace_id == caller.workspace_id, Step.campaign_id == campaign_id)
    by_position = {
        row.position: row.step_id
        for row in await tx.execute(select(Step.position, Step.step_id).where(*mine))
    }
    former: dict[int, list[int]] = {}
    of_mine = (
        StepAttachment.workspace_id == caller.workspace_id,
        StepAttachment.step_id.in_(by_position.values()),
    )
    for row in await tx.execute(
        select(StepAttachment.step_id, StepAttachment.attachment_id)
        .where(*of_mine)
        .order_by(StepAttachment.step_id, StepAttachment.position)
    ):
        former.setdefault(row.step_id, []).append(row.attachment_id)
    changed = {
        by_position[position]: step.attachments
        for position, step in enumerate(steps, 1)
        if step.attachments != former.get(by_position[position], [])
    }
    if not changed:
        return
    await tx.execute(delete(StepAttachment).where(*of_mine, StepAttachment.step_id.in_(changed)))
    await tx.execute(
        update(Step)
        .where(*mine, Step.step_id.in_(changed), Step.position.in_(before))
        .values(version=Step.version + 1)
    )
    rows = [
        {
            "workspace_id": caller.workspace_id,
            "step_id": step_id,
            "attachment_id": attachment,
            "position": place,
        }
        for step_id, attachments in changed.items()
        for place, attachment in enumerate(attachments, 1)
    ]
    if rows:
        await tx.execute(insert(StepAttachment), rows)
