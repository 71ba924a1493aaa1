"""One loaded job → the message it sends: variant, templates, conversation, files, headers, links.

There is one way, for what is sent and for what a preview shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Row

from paceline_common import headers, tracking
from paceline_common.keys import KeyService
from paceline_common.templates import Occasion
from paceline_providers import gmail, graph
from paceline_sender.attachments import AttachmentFault, AttachmentLoader, Filed
from paceline_sender.domain import conversation, links, message, render, signature
from paceline_sender.domain.conversation import SentMessage
from paceline_sender.domain.message import InvalidMessage, Parts
from paceline_sender.domain.mime import Encoding
from paceline_sender.domain.outcome import History
from paceline_sender.domain.render import MissingVariable, Rendered, Sources, TemplateError
from paceline_sender.domain.variants import Draw, Variant
from paceline_sender.job import Job

# What a provider takes at most, octets of the whole message; an SMTP server says it itself (SIZE).
PROVIDER_MAX_BYTES: Final[Mapping[str, int]] = {
    gmail.KIND: gmail.MESSAGE_MAX_BYTES,
    graph.KIND: graph.MESSAGE_MAX_BYTES,
}


class Unbuildable(Exception):
    """No message can be made, and trying again changes nothing; `reason` is stable.

    reason: `missing_variable`, `template_error`, `attachment_missing`,
    `attachment_unreadable`, and those of `InvalidMessage`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Macs:
    """The MACs of a job's token and of its unsubscribe link."""

    job: str
    unsubscribe: str


@dataclass(frozen=True, slots=True)
class Material:
    """All that a message is made of: `load_jobs.sql`'s row, or a preview's instead."""

    provider: str
    to_email: str | None
    lead: Mapping[str, str | None]
    fields: Mapping[str, str | None]
    from_email: str
    domain: str
    display_name: str | None
    reply_to: str | None
    return_path: str | None
    timezone: str | None
    encoding: Encoding
    workspace_headers: Sequence[Sequence[str]]
    mailbox_headers: Sequence[Sequence[str]]
    signature_text: str | None
    signature_html: str | None
    tracking_domain: str | None
    track_opens: bool
    track_clicks: bool
    subject: str | None
    text_template: str | None
    html_template: str | None
    variants: tuple[Variant, ...]
    attachments: tuple[Filed, ...]
    message_id: str | None
    variant: str | None
    sent: tuple[SentMessage, ...]

    @classmethod
    def of(cls, row: Row[Any]) -> "Material":
        """Read a row of `load_jobs.sql` or `load_step.sql`."""
        return cls(
            provider=row.provider,
            to_email=row.to_email,
            lead={name: getattr(row, name) for name in ("first_name", "last_name", "company")}
            | {"email": row.to_email},
            fields=row.fields or {},
            from_email=row.from_email,
            domain=row.domain,
            display_name=row.display_name,
            reply_to=row.reply_to,
            return_path=row.return_path,
            timezone=row.timezone,
            encoding=row.encoding,
            workspace_headers=row.workspace_headers or (),
            mailbox_headers=row.mailbox_headers or (),
            signature_text=row.signature_text,
            signature_html=row.signature_html,
            tracking_domain=row.tracking_domain,
            track_opens=bool(row.track_opens),
            track_clicks=bool(row.track_clicks),
            subject=row.subject,
            text_template=row.text_template,
            html_template=row.html_template,
            variants=tuple(Variant.of(stored) for stored in row.variants or ()),
            attachments=tuple(Filed.of(stored) for stored in row.attachments or ()),
            message_id=row.message_id,
            variant=row.variant,
            sent=tuple(SentMessage(message_id, subject) for message_id, subject in row.sent),
        )


@dataclass(frozen=True, slots=True)
class Made:
    """A message as it leaves, and what it was made of; `missing` is a preview's."""

    parts: Parts
    variant: str | None
    data: bytes
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A message ready to be submitted, and what was known when it was made."""

    job: Job
    row: Row[Any]
    message_id: str
    variant: str | None
    envelope_from: str
    subject: str
    references: tuple[str, ...]
    data: bytes
    history: History


class Composer:
    """Makes messages. Raises `Unbuildable`; `KeyServiceError` and `StorageUnavailable` pass."""

    def __init__(
        self,
        keys: KeyService,
        attachments: AttachmentLoader,
        *,
        public_url: str,
        message_max_bytes: int,
    ) -> None:
        self._keys = keys
        self._attachments = attachments
        self._public_url = public_url
        self._message_max_bytes = message_max_bytes

    async def compose(self, job: Job, row: Row[Any], macs: Macs) -> Built:
        """Make the message of one loaded job (a row of `load_jobs.sql`)."""
        made = await self.make(job, Material.of(row), macs)
        return Built(
            job=job,
            row=row,
            message_id=made.parts.message_id,
            variant=made.variant,
            envelope_from=made.parts.envelope_from,
            subject=made.parts.subject,
            references=made.parts.thread.references,
            data=made.data,
            history=History(row.deferrals, row.first_deferred_at),
        )

    async def make(
        self,
        job: Job,
        material: Material,
        macs: Macs,
        *,
        variant: str | None = None,
        draw: int = 0,
        show_gaps: bool = False,
    ) -> Made:
        """Make one message, dated at its slot.

        A preview may name the `variant` or draw another time, and with
        `show_gaps` sees missing variables as `[name]`.
        """
        wish = _Wish(variant, draw, show_gaps)
        try:
            return await self._make(job, material, macs, wish)
        except MissingVariable as gap:
            raise Unbuildable("missing_variable", f"missing variable: {gap.name}") from gap
        except TemplateError as error:
            raise Unbuildable("template_error", str(error)) from error
        except (InvalidMessage, AttachmentFault) as error:
            raise Unbuildable(error.reason, str(error)) from error

    async def _make(
        self,
        job: Job,
        material: Material,
        macs: Macs,
        wish: "_Wish",
    ) -> Made:
        if material.to_email is None:
            raise InvalidMessage("address_invalid", "the job has no recipient")
        https, mailto = message.unsubscribe_links(
            self._public_url, material.from_email, job.workspace, job.public_id, macs.unsubscribe
        )
        drawn, sources, rendered = _render(job, material, https, wish)
        text, html = signature.placed(
            rendered.text,
            rendered.html,
            rendered.signature_text,
            rendered.signature_html,
            named=(signature.is_named(sources.text), signature.is_named(sources.html)),
            unsubscribe_url=https,
        )
        if html is not None:
            html = await self._tracked(job, material, html, https)
        subject = conversation.subject(message.clean_header_text(rendered.subject), material.sent)
        parts = Parts(
            from_name=material.display_name,
            from_email=material.from_email,
            reply_to=material.reply_to,
            to_email=material.to_email,
            subject=subject,
            text=text,
            html=html,
            message_id=material.message_id
            or conversation.message_id(job.public_id, job.workspace, material.domain),
            date=_local(job, material),
            thread=conversation.thread(subject, material.sent),
            job_token=message.job_token(job.workspace, job.public_id, macs.job),
            unsubscribe_url=https,
            unsubscribe_mailto=mailto,
            headers=headers.merged(
                [(name, value) for name, value in material.workspace_headers],
                [(name, value) for name, value in material.mailbox_headers],
            ),
            attachments=await self._attachments.load(job.workspace_id, material.attachments),
            encoding=material.encoding,
            # An API takes no envelope: the account is the sender.
            return_path=material.return_path if material.provider == "smtp" else None,
        )
        at_most = min(
            self._message_max_bytes,
            PROVIDER_MAX_BYTES.get(material.provider, self._message_max_bytes),
        )
        data = message.build(parts, at_most=at_most)
        return Made(parts, drawn.name if drawn else None, data, rendered.missing)

    async def _tracked(self, job: Job, material: Material, html: str, unsubscribe: str) -> str:
        """Return the HTML with pixel and links on the mailbox's own domain, where that is wanted.

        Without a domain of its own nothing is tracked: another's is never used.
        """
        domain = material.tracking_domain
        if domain is None or not (material.track_opens or material.track_clicks):
            return html
        urls = links.trackable(html, unsubscribe) if material.track_clicks else ()
        clicks = [
            tracking.click_token(job.workspace, job.public_id, number, url)
            for number, url in enumerate(urls, 1)
        ]
        opens = [tracking.open_token(job.workspace, job.public_id)] * material.track_opens
        macs = await self._keys.mac(
            [tracking.click_mac_input(token) for token in clicks]
            + [tracking.open_mac_input(token) for token in opens]
        )
        targets = {
            url: tracking.click_url(domain, token, mac)
            for url, token, mac in zip(urls, clicks, macs[: len(clicks)], strict=True)
        }
        pixel = tracking.open_url(domain, opens[0], macs[-1]) if opens else None
        return links.redirected(html, targets, pixel)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What only a preview asks for."""

    variant: str | None = None
    draw: int = 0
    show_gaps: bool = False


def first_subject(
    job: Job, material: Material, subject: str | None, variants: Sequence[Mapping[str, Any]]
) -> str:
    """Return the subject that a conversation's first step would have had, for a preview.

    Raises `Unbuildable` for a wrong template.
    """
    drawn = _draw(job, _Wish(), step=1).variant([Variant.of(stored) for stored in variants])
    source = subject if drawn is None or drawn.subject is None else drawn.subject
    try:
        ways = Occasion(_local(job, material), _draw(job, _Wish(), step=1).ways("subject"))
        return render.render(
            Sources(source, "-", None), _values(material, ""), ways, ways, show_gaps=True
        ).subject
    except TemplateError as error:
        raise Unbuildable("template_error", str(error)) from error


def _render(
    job: Job, material: Material, unsubscribe_url: str, wish: _Wish
) -> tuple[Variant | None, Sources, Rendered]:
    draw = _draw(job, wish)
    drawn = draw.variant(material.variants, kept=wish.variant or material.variant)
    if drawn is None:
        if material.text_template is None and material.html_template is None:
            raise TemplateError("the campaign has no such step any more")
        sources = Sources(material.subject, material.text_template, material.html_template)
    else:
        subject = material.subject if drawn.subject is None else drawn.subject
        sources = Sources(subject, drawn.text, drawn.html)
    local = _local(job, material)
    rendered = render.render(
        replace(
            sources,
            signature_text=material.signature_text,
            signature_html=material.signature_html,
        ),
        _values(material, unsubscribe_url),
        Occasion(local, draw.ways("subject")),
        Occasion(local, draw.ways("body")),
        show_gaps=wish.show_gaps,
    )
    return drawn, sources, rendered


def _draw(job: Job, wish: _Wish, *, step: int | None = None) -> Draw:
    name = f"{job.public_id}#{wish.draw}" if wish.draw else job.public_id
    return Draw(job.workspace, name, step or job.step or 0)


def _values(material: Material, unsubscribe_url: str) -> dict[str, object]:
    return render.variables(
        material.lead,
        material.fields,
        sender_name=material.display_name,
        sender_email=material.from_email,
        unsubscribe_url=unsubscribe_url,
    )


def _local(job: Job, material: Material) -> datetime:
    return job.slot_at.astimezone(ZoneInfo(material.timezone) if material.timezone else UTC)
