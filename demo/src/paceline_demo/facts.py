"""The facts of one run, as the promises read them: the mail host's, the recipients', the API's."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from paceline_demo import scenario as cast
from paceline_demo.scenario import Kind, Lead, Scenario
from paceline_demo.truth import Held, Submission, Truth

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: what a run must show, what it showed, and where to look."""

    name: str
    expected: int
    seen: int
    held: bool
    evidence: str


@dataclass(slots=True)
class Diary:
    """What the recipients did, by address: the instant at which each act was done."""

    unsubscribed: dict[str, datetime] = field(default_factory=dict)
    replied: dict[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One enrollment as the API tells it; `step` is the current or last one, from 1."""

    email: str
    state: str
    reason: str | None
    job_state: str | None
    step: int


@dataclass(frozen=True, slots=True)
class RowError:
    """One bad CSV row as the API tells it; `row` is 1-based, header excluded."""

    row: int
    column: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One quarantine entry as the API or the admin command tells it."""

    entry_id: str
    reason: str
    settled: bool


@dataclass(frozen=True, slots=True)
class Audited:
    """What `paceline-admin audit verify` says of the workspace's chain, if it has one."""

    records: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Claims:
    """What Paceline says of the run.

    `totals` is the campaign report's count per state; `receipts` counts the
    import's rows per outcome; `quarantine` are the workspace's own entries,
    `installation` those that no workspace may see. `trespassed` counts what the
    forbidden workspace holds. `parts` says of each part whether it is
    ready at the end. `wrong_password` is the answer to connecting a mailbox
    with a wrong password, `unticked` to a consent that lacks a scope;
    `in_doubt_allowed` is how many jobs the run itself cut off,
    `begun` are the leads of whom the send log shows a submission begun and not ended.
    """

    wrong_password: str
    unticked: str
    enrollments: Sequence[Enrolled]
    totals: Mapping[str, int]
    row_errors: Sequence[RowError]
    receipts: Mapping[str, int]
    quarantine: Sequence[Quarantined]
    installation: Sequence[Quarantined]
    trespassed: int
    audit: Audited
    parts: Mapping[str, bool]
    in_doubt_allowed: int = 0
    begun: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LogText:
    """One log of the run and the things that must not stand in it, by what they are."""

    path: Path
    text: str


class Run:
    """The facts of one run, indexed by lead; what each rule takes."""

    def __init__(self, scenario: Scenario, truth: Truth, diary: Diary, claims: Claims) -> None:
        self.scenario, self.truth, self.diary, self.claims = scenario, truth, diary, claims
        self.mailboxes = [sender.email for sender in scenario.senders]
        self.leads = {lead.email: lead for lead in scenario.expected}
        self.in_doubt = {
            row.email: row for row in claims.enrollments if row.job_state == "in_doubt"
        }
        self.submitted: dict[str, list[Submission]] = defaultdict(list)
        for submission in truth.log.submissions:
            if submission.mailbox in self.mailboxes:
                for recipient in submission.recipients:
                    self.submitted[recipient].append(submission)
        self.held: dict[str, dict[int, list[Held]]] = defaultdict(lambda: defaultdict(list))
        for owner, messages in truth.delivered.items():
            for message in messages:
                if message.sender in self.mailboxes:
                    self.held[owner][step_of(message)].append(message)
        self.inbound = [m for owner in self.mailboxes for m in truth.inbound.get(owner, [])]

    def campaign(self, mailbox: str) -> list[Submission]:
        """Return a mailbox's submissions to anybody but itself (those are probes)."""
        return [s for s in self.truth.log.of(mailbox) if s.recipients != (mailbox,)]

    def reached(self, lead: Lead) -> int:
        """Return how many submissions the mail host holds as proof for `lead`."""
        if lead.kind in (Kind.UNKNOWN, Kind.LATE):
            return len(self.submitted[lead.email]) + self.unqueued(lead)
        return sum(len(messages) for messages in self.held[lead.email].values())

    def unqueued(self, lead: Lead) -> int:
        """Return how often `lead` was refused before the mail host made a queue id."""
        return sum(recipient == lead.email for _, recipient in self.truth.log.unqueued)

    def wanted(self, lead: Lead) -> range:
        """Return how many messages `lead` may hold; a job in doubt may have left or not."""
        full = cast.STEPS_OF[lead.kind]
        doubt = self.in_doubt.get(lead.email)
        if doubt is None:
            return range(full, full + 1)
        return range(doubt.step - 1, doubt.step + 1)

    def stopped_at(self, lead: Lead) -> datetime | None:
        """Return when the mail host (or the unsubscribe's 200) says that `lead` is over."""
        match lead.kind:
            case Kind.UNSUBSCRIBE:
                return self.diary.unsubscribed.get(lead.email)
            case Kind.REPLY:
                return min(
                    (m.at for m in self.inbound if m.sender == lead.email and not m.automatic),
                    default=None,
                )
            case Kind.LATE:
                return min(self._reported(lead), default=None)
            case Kind.UNKNOWN:
                refused = [s.at for s in self.submitted[lead.email] if lead.email in s.refused]
                # A provider takes the message first, and reports.
                return min((*refused, *self._reported(lead)), default=None)
            case _:
                return None

    def _reported(self, lead: Lead) -> list[datetime]:
        return [m.at for m in self.inbound if m.report_on == lead.email]

    def of_kind(self, *kinds: Kind) -> list[Lead]:
        return [lead for lead in self.scenario.expected if lead.kind in kinds]


def step_of(message: Held) -> int:
    """Return the step whose marker the body bears; 0 for none."""
    return next((n for n in range(1, cast.STEPS + 1) if cast.marker(n) in message.text), 0)


def absence(name: str, faults: Sequence[str], where: str) -> Promise:
    """Return a promise of absence: `seen` counts what should not be."""
    return Promise(name, 0, len(faults), not faults, tell(faults, where))


def tell(faults: Sequence[str], where: str) -> str:
    if not faults:
        return where
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "; ".join(faults[:_SHOWN]) + more
