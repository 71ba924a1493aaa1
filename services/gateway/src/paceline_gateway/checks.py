"""What stands against starting a campaign, and what will go wrong if it is started."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Integer, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import headers, ids, templates
from paceline_gateway.domain.campaign import Finding
from paceline_gateway.store.tables import (
    Attachment,
    Campaign,
    CampaignTier,
    Mailbox,
    PoolMember,
    Step,
    StepAttachment,
)
from paceline_providers import gmail, graph

_PROVIDER_MAX_BYTES: Final = {
    gmail.KIND: gmail.MESSAGE_MAX_BYTES,
    graph.KIND: graph.MESSAGE_MAX_BYTES,
}
# Leads whose messages are tried out whole, for what is printed under a condition only.
_TRIED: Final = 200
_RENDERS: Final = 5_000
_EXAMPLES: Final = 3

_LACKING: Final = text(
    "SELECT count(*) AS leads, count(*) FILTER (WHERE lacks) AS lacking,"
    " (array_agg(email ORDER BY enrollment_id) FILTER (WHERE lacks))[1:3] AS examples"
    " FROM (SELECT e.enrollment_id, l.email, coalesce(btrim("
    " CASE CAST(:name AS text)"
    " WHEN 'first_name' THEN l.first_name WHEN 'last_name' THEN l.last_name"
    " WHEN 'company' THEN l.company ELSE l.fields ->> CAST(:name AS text) END"
    "), '') = '' AS lacks"
    " FROM scheduler.v_enrollment AS e"
    " JOIN scheduler.v_lead AS l USING (workspace_id, lead_id)"
    " WHERE e.campaign_id = :campaign AND e.state = 'active') AS held"
)
_SAMPLE: Final = text(
    "SELECT l.email, l.first_name, l.last_name, l.company, l.fields"
    " FROM scheduler.v_enrollment AS e"
    " JOIN scheduler.v_lead AS l USING (workspace_id, lead_id)"
    " WHERE e.campaign_id = :campaign AND e.state = 'active'"
    " ORDER BY e.enrollment_id LIMIT :leads"
)


async def check(tx: AsyncConnection, workspace_id: int, campaign_id: int) -> list[Finding]:
    """Return what stands against starting a campaign; only errors forbid it."""
    steps = (
        await tx.execute(
            select(
                Step.position, Step.subject, Step.text_template, Step.html_template, Step.variants
            )
            .where(Step.workspace_id == workspace_id, Step.campaign_id == campaign_id)
            .order_by(Step.position)
        )
    ).all()
    found: list[Finding] = []
    if not steps:
        found.append(Finding("error", "no_steps", "steps", "add at least one step"))
    found += await _check_mailboxes(tx, workspace_id, campaign_id)
    found += await _check_tracking(tx, workspace_id, campaign_id)
    found += await _check_sizes(tx, workspace_id, campaign_id)
    needs: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    for where, source in _sources(steps):
        if fault := templates.fault(source):
            found.append(Finding("error", "template_invalid", where, str(fault)))
            continue
        sources[where] = source
        for name in templates.required(source):
            needs.setdefault(name, []).append(where)
    for where, subject in _subjects(steps[:1]):
        if not subject.strip():
            found.append(
                Finding("error", "subject_missing", where, "the first step needs a subject")
            )
    for name, places in needs.items():
        found += await _check_variable(tx, campaign_id, name, places)
    found += await _try_leads(tx, campaign_id, sources, needs)
    return found


def _sources(steps: Sequence[Row[Any]]) -> Iterator[tuple[str, str]]:
    """Yield each template that may be sent, and where it stands."""
    for step in steps:
        here = f"steps[{step.position}]"
        contents = [(here, step.subject, step.text_template, step.html_template)]
        if step.variants:
            contents = [(here, step.subject, "", None)] + [
                (f"{here}.variants[{n}]", one["subject"], one["text"], one["html"])
                for n, one in enumerate(step.variants, 1)
                if one["weight"]
            ]
        for where, *parts in contents:
            for name, source in zip(("subject", "text", "html"), parts, strict=True):
                if source:
                    yield f"{where}.{name}", source


def _subjects(steps: Sequence[Row[Any]]) -> Iterator[tuple[str, str]]:
    for step in steps:
        where = f"steps[{step.position}]"
        if not step.variants:
            yield f"{where}.subject", step.subject
        for n, one in enumerate(step.variants, 1):
            own = one["subject"]
            yield f"{where}.variants[{n}].subject", step.subject if own is None else own


async def _check_mailboxes(
    tx: AsyncConnection, workspace_id: int, campaign_id: int
) -> list[Finding]:
    counts = (
        await tx.execute(
            _mailboxes(
                workspace_id,
                campaign_id,
                func.count(Mailbox.mailbox_id).label("members"),
                func.count(Mailbox.mailbox_id).filter(Mailbox.is_active).label("active"),
            )
        )
    ).one()
    if not counts.members:
        message = "no pool of the campaign's tiers has a mailbox: add a pool, or a mailbox to one"
        return [Finding("error", "no_mailboxes", "tiers", message)]
    if not counts.active:
        message = "every mailbox in the campaign's tiers is deactivated: activate one"
        return [Finding("error", "no_active_mailbox", "tiers", message)]
    return []


async def _check_tracking(
    tx: AsyncConnection, workspace_id: int, campaign_id: int
) -> list[Finding]:
    tracks = (
        await tx.execute(
            select(Campaign.track_opens, Campaign.track_clicks).where(
                Campaign.workspace_id == workspace_id, Campaign.campaign_id == campaign_id
            )
        )
    ).one()
    if not any(tracks):
        return []
    without = (
        await tx.execute(
            _mailboxes(workspace_id, campaign_id, Mailbox.mailbox_id, Mailbox.email)
            .where(Mailbox.tracking_domain.is_(None), Mailbox.is_active)
            .distinct()
            .order_by(Mailbox.mailbox_id)
        )
    ).all()
    if not without:
        return []
    message = (
        f"{len(without)} mailboxes have no tracking domain of their own: give each one"
        " (message.tracking_domain), or switch track_opens and track_clicks off"
    )
    return [
        Finding(
            "error",
            "tracking_domain_missing",
            "track_opens" if tracks.track_opens else "track_clicks",
            message,
            len(without),
            [f"{ids.encode('mbx', row.mailbox_id)} ({row.email})" for row in without[:_EXAMPLES]],
        )
    ]


async def _check_sizes(tx: AsyncConnection, workspace_id: int, campaign_id: int) -> list[Finding]:
    """Return the steps whose files alone are more than a mailbox's provider takes."""
    files = (
        await tx.execute(
            select(Step.position, func.array_agg(Attachment.size, type_=ARRAY(Integer)))
            .join(
                StepAttachment,
                (StepAttachment.workspace_id == Step.workspace_id)
                & (StepAttachment.step_id == Step.step_id),
            )
            .join(
                Attachment,
                (Attachment.workspace_id == StepAttachment.workspace_id)
                & (Attachment.attachment_id == StepAttachment.attachment_id),
            )
            .where(Step.workspace_id == workspace_id, Step.campaign_id == campaign_id)
            .group_by(Step.position)
            .order_by(Step.position)
        )
    ).all()
    if not files:
        return []
    kinds = (
        await tx.execute(
            _mailboxes(
                workspace_id, campaign_id, Mailbox.kind, func.count().label("mailboxes")
            ).group_by(Mailbox.kind)
        )
    ).all()
    found = []
    for kind, mailboxes in kinds:
        limit = _PROVIDER_MAX_BYTES.get(kind)
        for position, sizes in files:
            size = sum(map(headers.encoded_size, sizes))
            if limit is not None and size > limit:
                message = (
                    f"its attachments take {size} bytes as MIME, and {kind} takes {limit} in all:"
                    f" the {mailboxes} {kind} mailboxes cannot send it"
                )
                where = f"steps[{position}].attachments"
                found.append(Finding("error", "message_too_large", where, message, mailboxes))
    return found


def _mailboxes(workspace_id: int, campaign_id: int, *columns: Any) -> Any:
    """Return a SELECT of `columns` over the mailboxes of a campaign's tiers."""
    return (
        select(*columns)
        .select_from(CampaignTier)
        .join(
            PoolMember,
            (PoolMember.workspace_id == CampaignTier.workspace_id)
            & (PoolMember.pool_id == CampaignTier.pool_id),
        )
        .join(
            Mailbox,
            (Mailbox.workspace_id == PoolMember.workspace_id)
            & (Mailbox.mailbox_id == PoolMember.mailbox_id),
        )
        .where(CampaignTier.workspace_id == workspace_id, CampaignTier.campaign_id == campaign_id)
    )


async def _check_variable(
    tx: AsyncConnection, campaign_id: int, name: str, places: Sequence[str]
) -> list[Finding]:
    counts = (await tx.execute(_LACKING, {"name": name, "campaign": campaign_id})).one()
    if counts.leads and not counts.lacking:
        return []
    who = (
        f"{counts.lacking} of {counts.leads} leads have no {name}"
        if counts.leads
        else f"every lead will need {name}"
    )
    return [_missing(name, places, who, counts.lacking, counts.examples or [])]


async def _try_leads(
    tx: AsyncConnection,
    campaign_id: int,
    sources: Mapping[str, str],
    known: Mapping[str, Sequence[str]],
) -> list[Finding]:
    """Render the templates for the first leads: what a condition hides shows only so."""
    under_condition = {where: source for where, source in sources.items() if "{%" in source}
    if not under_condition:
        return []
    leads = (
        await tx.execute(
            _SAMPLE,
            {
                "campaign": campaign_id,
                "leads": min(_TRIED, _RENDERS // len(under_condition) + 1),
            },
        )
    ).all()
    lacking: dict[tuple[str, str], list[str]] = {}
    for lead in leads:
        values = templates.variables(
            {name: getattr(lead, name) for name in templates.STANDARD_FIELDS},
            lead.fields or {},
            sender_name="x",
            sender_email="x@example.com",
            unsubscribe_url="https://example.com/u/x",
        )
        for where, source in under_condition.items():
            try:
                templates.fill(source, values, templates.ALL_WAYS)
            except templates.MissingVariable as gap:
                if gap.name not in known:
                    lacking.setdefault((gap.name, where), []).append(lead.email)
            except templates.TemplateError:
                # What a value does to a filter is the sender's to tell, job by job.
                continue
        # Others' requests go on meanwhile.
        await asyncio.sleep(0)
    return [
        _missing(
            name,
            [where],
            f"{len(emails)} of the first {len(leads)} leads have no {name}, where it is printed",
            len(emails),
            emails,
        )
        for (name, where), emails in lacking.items()
    ]


def _missing(
    name: str, places: Sequence[str], who: str, count: int, examples: Sequence[str]
) -> Finding:
    advice = (
        f'a message without it fails (missing_variable); or write {{{{ {name} | default: "…" }}}}'
    )
    where = ", ".join(places)
    message = f"{who}: {advice}"
    return Finding("warning", "missing_variable", where, message, count, [*examples[:_EXAMPLES]])
