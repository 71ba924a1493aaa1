"""The body of every event, as msgspec structs: the schema, the decoder and the document.

The envelope is CloudEvents 1.0 in Kafka's binary mode: headers `ce_id`,
`ce_type`, `ce_source`, `ce_time`, `ce_subject`, `ce_workspaceid`, `traceparent`
and `content-type: application/json`; the value is one of these structs as JSON.
Ids are public ids (`paceline_common.ids`), instants RFC 3339 in UTC. Unknown
fields are ignored, so that a producer may add some; `lead-enrolled`, which
strangers write, refuses them. No event but `lead-enrolled` carries personal data.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from paceline_common import topics
from paceline_common.topics import Topic

Text = Annotated[str, Meta(min_length=1, max_length=200)]
FieldName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
FieldValue = Annotated[str, Meta(max_length=10_000)]
BounceClass = Literal["hard", "soft", "block", "limit", "auth", "config"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all bodies; `workspace_id` repeats the envelope's `ce_workspaceid`."""

    workspace_id: str


class LeadEnrolled(Event, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody asks that a lead enters a campaign.

    `fields` are the lead's own variables for templates. `import_id` and `row`
    (1-based, header excluded) come with a CSV import; `replay_of` names the
    quarantine entry that this event repairs.
    """

    campaign_id: str
    email: Annotated[str, Meta(min_length=3, max_length=320)]
    first_name: Annotated[str, Meta(max_length=200)] | None = None
    last_name: Annotated[str, Meta(max_length=200)] | None = None
    company: Annotated[str, Meta(max_length=200)] | None = None
    timezone: Annotated[str, Meta(max_length=64)] | None = None
    fields: Annotated[
        dict[FieldName, Annotated[str, Meta(max_length=10_000)]], Meta(max_length=100)
    ] = {}
    import_id: str | None = None
    row: int | None = None
    replay_of: str | None = None


class _Job(Event, frozen=True, kw_only=True):
    """What every event about one send job names. `enrollment_id` is absent for test sends."""

    job_id: str
    mailbox_id: str
    enrollment_id: str | None = None
    campaign_id: str | None = None
    step: int | None = None


class SendScheduled(_Job, frozen=True, kw_only=True):
    """A slot is leased: the job may be submitted at `slot_at`, not after `not_after`."""

    kind: Literal["campaign", "test", "warmup", "reply"]
    fence: int
    slot_at: datetime
    not_after: datetime


class Sent(_Job, frozen=True, kw_only=True):
    """The provider accepted the message. `message_id` is what the recipient sees (RFC 5322)."""

    message_id: str
    provider: str
    sent_at: datetime
    provider_message_id: str | None = None


class SendDeferred(_Job, frozen=True, kw_only=True):
    """The job goes back to the queue until `retry_at`.

    `submitted` tells whether MAIL FROM or the send request had left. `app_wide`: the refusal
    speaks of the OAuth app, not of the mailbox.
    """

    outcome_class: Literal["soft", "limit", "auth", "config", "block", "unsent"]
    submitted: bool
    retry_at: datetime | None = None
    status: str | None = None
    app_wide: bool = False


class SendRejected(_Job, frozen=True, kw_only=True):
    """The provider refused the message for good, within the submission."""

    outcome_class: BounceClass
    rejected_at: datetime
    code: int | None = None
    status: str | None = None


class SendInDoubt(_Job, frozen=True, kw_only=True):
    """Nobody knows whether the provider accepted; it is never retried blindly."""

    message_id: str
    since: datetime


class Bounced(_Job, frozen=True, kw_only=True):
    """The message did not reach its recipient. `status` is the enhanced code (RFC 3463)."""

    bounce_class: BounceClass
    source: Literal["smtp", "dsn"]
    occurred_at: datetime
    status: str | None = None


class Replied(_Job, frozen=True, kw_only=True):
    """A human answered."""

    inbound_id: str
    received_at: datetime


class InboundReceived(Event, frozen=True, kw_only=True):
    """A message arrived in a mailbox; its content stays with reply."""

    inbound_id: str
    mailbox_id: str
    kind: Literal["human", "auto_reply", "dsn", "own", "other"]
    received_at: datetime
    job_id: str | None = None
    enrollment_id: str | None = None


class EnrollmentFinished(Event, frozen=True, kw_only=True):
    """An enrollment reached a final state."""

    enrollment_id: str
    campaign_id: str
    state: Literal[
        "finished", "replied", "bounced", "unsubscribed", "suppressed", "stopped", "failed"
    ]
    reason: str
    finished_at: datetime


class AddressSuppressed(Event, frozen=True, kw_only=True):
    """An address or a recipient domain is never contacted again in this workspace."""

    address_id: str
    kind: Literal["address", "domain"]
    reason: str
    suppressed_at: datetime
    lifted: bool = False


class MailboxChanged(Event, frozen=True, kw_only=True):
    """A mailbox's row has a new `version`; its owner's view holds the rest."""

    mailbox_id: str
    version: int
    deleted: bool = False


class CampaignChanged(Event, frozen=True, kw_only=True):
    """A campaign, its steps, tiers or pools have a new `version`."""

    campaign_id: str
    version: int
    status: str


class MailboxProbed(Event, frozen=True, kw_only=True):
    """One leg of a saved mailbox was tested.

    `detail` is the server's own words, free of secrets and of addresses.
    """

    mailbox_id: str
    leg: Literal["send", "read"]
    ok: bool
    probed_at: datetime
    code: str | None = None
    detail: str | None = None


class MailboxHealthChanged(Event, frozen=True, kw_only=True):
    """What bounce knows of a mailbox has a new `version`.

    `score` is 0..100, None while too little is known; `stage` is the measured one, 0..5.
    """

    mailbox_id: str
    version: int
    score: Annotated[int, Meta(ge=0, le=100)] | None
    stage: Annotated[int, Meta(ge=0, le=5)]
    changed_at: datetime


class WorkspaceChanged(Event, frozen=True, kw_only=True):
    """A workspace's own settings, shaping rules or domain budgets have a new `version`."""

    version: int


class IssueRaised(Event, frozen=True, kw_only=True):
    """Something needs a person. `code` is stable; `detail` is the provider's own words,
    free of secrets and of addresses."""

    subject: str
    code: str
    severity: Literal["info", "warning", "error"]
    detail: str
    raised_at: datetime


class AuditRecorded(Event, frozen=True, kw_only=True):
    """A sensitive action. `workspace_id` is empty for actions on the installation."""

    action: str
    actor: str
    subject: str
    at: datetime
    source_ip: str | None = None
    before_digest: str | None = None
    after_digest: str | None = None
    detail: dict[str, str] = {}


BODIES: Final[Mapping[str, type[Event]]] = {
    topics.LEAD_ENROLLED.name: LeadEnrolled,
    topics.LEAD_ENROLLED_BY_PUBLISHER.name: LeadEnrolled,
    topics.SEND_SCHEDULED.name: SendScheduled,
    topics.SENT.name: Sent,
    topics.BOUNCED.name: Bounced,
    topics.REPLIED.name: Replied,
    topics.SEND_DEFERRED.name: SendDeferred,
    topics.SEND_REJECTED.name: SendRejected,
    topics.SEND_IN_DOUBT.name: SendInDoubt,
    topics.INBOUND_RECEIVED.name: InboundReceived,
    topics.ENROLLMENT_FINISHED.name: EnrollmentFinished,
    topics.ADDRESS_SUPPRESSED.name: AddressSuppressed,
    topics.MAILBOX_CHANGED.name: MailboxChanged,
    topics.CAMPAIGN_CHANGED.name: CampaignChanged,
    topics.MAILBOX_PROBED.name: MailboxProbed,
    topics.MAILBOX_HEALTH_CHANGED.name: MailboxHealthChanged,
    topics.WORKSPACE_CHANGED.name: WorkspaceChanged,
    topics.ISSUE_RAISED.name: IssueRaised,
    topics.AUDIT_RECORDED.name: AuditRecorded,
}


def event_type(topic: Topic) -> str:
    """Return the CloudEvents type, version included: `paceline.sent.v1`."""
    return f"paceline.{topic.name.rstrip('.')}.v1"


def json_schema(topic: Topic) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the topic's body."""
    return msgspec.json.schema(BODIES[topic.name])
