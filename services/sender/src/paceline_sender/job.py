"""What travels through the sender: a slot, the message made for it, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from paceline_common import events, ids
from paceline_providers.base import Fence, ThreadHint
from paceline_sender.domain.outcome import Answer, App, History, HoldReason, OutcomeClass

# Everything `sender.attempt` knows; the scheduler knows them all but `refused`.
Verb = Literal["accepted", "deferred", "rejected", "failed", "in_doubt", "unsent", "refused"]


@dataclass(frozen=True, slots=True)
class Job:
    """A leased slot as `send-scheduled` told it. Instants are the Postgres clock's."""

    workspace_id: int
    job_id: int
    fence: int
    mailbox_id: int
    kind: str
    slot_at: datetime
    not_after: datetime
    enrollment_id: int | None = None
    campaign_id: int | None = None
    step: int | None = None
    traceparent: str | None = None

    @property
    def key(self) -> tuple[int, int, int]:
        """Workspace, job and fence: one lease."""
        return self.workspace_id, self.job_id, self.fence

    @property
    def workspace(self) -> str:
        """The workspace's public id."""
        return ids.encode("ws", self.workspace_id)

    @property
    def public_id(self) -> str:
        """The job's public id."""
        return ids.encode("job", self.job_id)

    @property
    def mailbox(self) -> str:
        """The mailbox's public id."""
        return ids.encode("mbx", self.mailbox_id)

    @property
    def enrollment(self) -> str | None:
        """The enrollment's public id; None for a test send."""
        return None if self.enrollment_id is None else ids.encode("enr", self.enrollment_id)

    @property
    def campaign(self) -> str | None:
        """The campaign's public id; None for a test send outside one."""
        return None if self.campaign_id is None else ids.encode("cmp", self.campaign_id)

    @classmethod
    def of(
        cls, workspace_id: int, body: events.SendScheduled, traceparent: str | None = None
    ) -> "Job":
        """Read an event; raise `ids.InvalidIdError` if it names something that is no id of ours."""
        return cls(
            workspace_id=workspace_id,
            job_id=ids.decode("job", body.job_id),
            fence=body.fence,
            mailbox_id=ids.decode("mbx", body.mailbox_id),
            kind=body.kind,
            slot_at=body.slot_at,
            not_after=body.not_after,
            enrollment_id=(body.enrollment_id and ids.decode("enr", body.enrollment_id)) or None,
            campaign_id=(body.campaign_id and ids.decode("cmp", body.campaign_id)) or None,
            step=body.step,
            traceparent=traceparent,
        )


class Session(Protocol):
    """A mailbox that is signed in and may carry messages."""

    async def prepare(self, data: bytes, thread: ThreadHint | None) -> Fence | Answer | None:
        """Leave the message with the provider as a draft, ahead of the claim; sends nothing.

        None where there are no drafts; an answer (`unsent`, `rejected`) says why there is
        none this time.
        """
        ...

    async def submit(
        self,
        envelope_from: str,
        recipient: str,
        data: bytes,
        *,
        before_mail_from: Callable[[], bool],
        thread: ThreadHint | None = None,
        fence: Fence | None = None,
    ) -> Answer:
        """Submit one message: the draft of `fence`, where `prepare` gave one.

        `before_mail_from` is called right before the first byte of MAIL FROM or of the
        send request; if it returns False nothing is sent and the answer is `unsent`.
        Never raises for what a server does.
        """
        ...

    @property
    def makes_drafts(self) -> bool:
        """Whether `prepare` leaves a draft with the provider."""
        ...

    async def discard(self, fence: Fence) -> bool:
        """Destroy a draft that will not be sent; return whether it is gone. Never raises."""
        ...

    async def close(self) -> None:
        """Take leave; never raises, never waits long."""
        ...


@dataclass(frozen=True, slots=True)
class Ready:
    """A message that only waits for its time, and the connection it will take."""

    job: Job
    session: Session
    provider: str
    envelope_from: str
    recipient: str
    message_id: str
    subject: str
    references: tuple[str, ...]
    data: bytes
    history: History
    variant: str | None = None
    thread: ThreadHint | None = None
    fence: Fence | None = None


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """A mailbox to be suspended, with the server's own words.

    With `credential_version` it holds for that connect only: a mailbox that was connected
    anew meanwhile stays open. With `app` the issue is about the OAuth app.
    """

    reason: HoldReason
    until: datetime | None
    detail: str
    credential_version: int | None = None
    app: App | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one try. `claimed`: an attempt row was written with its claim.

    `message_id` is ours; `sent_message_id` what recipients see, where it was read back.
    `fence` is the draft that the try had.
    """

    job: Job
    outcome: Verb
    reason: str
    claimed: bool
    provider: str
    message_id: str | None = None
    outcome_class: OutcomeClass | None = None
    retry_at: datetime | None = None
    code: int | None = None
    status: str | None = None
    text: str | None = None
    provider_message_id: str | None = None
    at: datetime | None = None
    hold: HoldRequest | None = None
    sent_message_id: str | None = None
    thread_id: str | None = None
    fence: Fence | None = None

    @property
    def leaves_draft(self) -> bool:
        """Whether its draft, once this is recorded, is nobody's and to be destroyed."""
        return self.fence is not None and self.outcome not in ("accepted", "in_doubt")
