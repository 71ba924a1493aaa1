"""Every Kafka topic: who writes it, who reads it, how it is keyed, how long it lives.

Kafka ACLs, the AsyncAPI document and the local stack's topics all come from
this table; `tests/contract` demands a consumer for each topic and one producer
(`UNREAD` and `SHARED` name the exceptions).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

SERVICES: Final = ("gateway", "scheduler", "sender", "bounce", "reply", "audit")


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the house.

    `key` says what the record key is made of: order holds among records of one
    key. `personal_data` topics are trimmed behind the committed offset of their
    one consumer (`paceline_common.kafka.trim`).
    `public` topics are the contract with other services: they change only
    compatibly. `pattern` marks a family, one topic per name: `<name>.<suffix>`.
    """

    name: str
    key: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    retention: timedelta
    personal_data: bool = False
    public: bool = False
    pattern: bool = False
    partitions: int = 6

    @property
    def dead_letter(self) -> str:
        """Name of the topic that takes this topic's quarantined records."""
        return f"{self.name.rstrip('.')}.dlq"


_ID_ONLY: Final = timedelta(days=45)  # outlives the backup window
_PERSONAL: Final = timedelta(days=2)

LEAD_ENROLLED = Topic(
    "lead-enrolled",
    "lead",
    ("gateway",),
    ("scheduler",),
    _PERSONAL,
    personal_data=True,
    public=True,
)
LEAD_ENROLLED_BY_PUBLISHER = Topic(
    "lead-enrolled.", "lead", ("publisher",), ("scheduler",), _PERSONAL,
    personal_data=True, public=True, pattern=True, partitions=3,
)  # fmt: skip
SEND_SCHEDULED = Topic(
    "send-scheduled", "mailbox", ("scheduler",), ("sender",), _ID_ONLY, public=True
)
SENT = Topic("sent", "enrollment", ("sender",), ("scheduler", "bounce"), _ID_ONLY, public=True)
BOUNCED = Topic("bounced", "enrollment", ("bounce",), ("scheduler",), _ID_ONLY, public=True)
REPLIED = Topic("replied", "enrollment", ("reply",), ("scheduler",), _ID_ONLY, public=True)
SEND_DEFERRED = Topic("send-deferred", "enrollment", ("sender",), ("scheduler",), _ID_ONLY)
SEND_REJECTED = Topic("send-rejected", "enrollment", ("sender",), ("bounce",), _ID_ONLY)
SEND_IN_DOUBT = Topic("send-in-doubt", "enrollment", ("sender",), ("scheduler",), _ID_ONLY)
INBOUND_RECEIVED = Topic("inbound-received", "mailbox", ("reply",), ("bounce",), _ID_ONLY)
ENROLLMENT_FINISHED = Topic("enrollment-finished", "enrollment", ("scheduler",), (), _ID_ONLY)
ADDRESS_SUPPRESSED = Topic("address-suppressed", "address", ("scheduler",), (), _ID_ONLY)
MAILBOX_CHANGED = Topic(
    "mailbox-changed", "mailbox", ("gateway",), ("scheduler", "reply", "bounce"), _ID_ONLY
)
CAMPAIGN_CHANGED = Topic("campaign-changed", "campaign", ("gateway",), ("scheduler",), _ID_ONLY)
MAILBOX_PROBED = Topic(
    "mailbox-probed", "mailbox", ("sender", "reply"), ("gateway", "scheduler"), _ID_ONLY
)
MAILBOX_HEALTH_CHANGED = Topic(
    "mailbox-health-changed", "mailbox", ("bounce",), ("scheduler",), _ID_ONLY
)
WORKSPACE_CHANGED = Topic("workspace-changed", "workspace", ("gateway",), ("scheduler",), _ID_ONLY)
ISSUE_RAISED = Topic(
    "issue-raised", "subject", ("scheduler", "sender", "bounce", "reply"), ("gateway",), _ID_ONLY
)
AUDIT_RECORDED = Topic(
    "audit-recorded", "workspace",
    ("gateway", "scheduler", "sender", "bounce", "reply", "admin"), ("audit",), _ID_ONLY,
)  # fmt: skip

ALL: Final[tuple[Topic, ...]] = (
    LEAD_ENROLLED, LEAD_ENROLLED_BY_PUBLISHER, SEND_SCHEDULED, SENT, BOUNCED, REPLIED,
    SEND_DEFERRED, SEND_REJECTED, SEND_IN_DOUBT, INBOUND_RECEIVED, ENROLLMENT_FINISHED,
    ADDRESS_SUPPRESSED, MAILBOX_CHANGED, CAMPAIGN_CHANGED, MAILBOX_PROBED,
    MAILBOX_HEALTH_CHANGED, WORKSPACE_CHANGED, ISSUE_RAISED, AUDIT_RECORDED,
)  # fmt: skip
BY_NAME: Final[Mapping[str, Topic]] = {topic.name: topic for topic in ALL}

# Topics that several services may write, each about its own work.
SHARED: Final = frozenset({"lead-enrolled.", "mailbox-probed", "issue-raised", "audit-recorded"})

# Topics that nobody inside reads yet: they are what outgoing webhooks will tell.
UNREAD: Final = frozenset({"enrollment-finished", "address-suppressed"})


def publisher_topic(publisher: str) -> str:
    """Return the topic on which the external publisher `publisher` enrolls leads."""
    return f"{LEAD_ENROLLED_BY_PUBLISHER.name}{publisher}"


def family_pattern(topic: Topic) -> str:
    """Return the regular expression of a family's topics; it never matches dead letters."""
    return rf"^{re.escape(topic.name)}(?!(?:.*\.)?dlq$).+$"


def group(service: str, topic: Topic) -> str:
    """Return the consumer group in which `service` reads `topic`."""
    return f"{service}.{topic.name.rstrip('.')}"
